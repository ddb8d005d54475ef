//! Convolutions whose constant filters lie 16 or 8 channels side by side: channels in lanes, and a tile of neighbouring positions,
//! each an element of the input repeated in all lanes. Nothing is copied, and filters are read in a row. Products with matrices that lie
//! so, in blocks of columns, are the same.

use super::product::{Product, extent, fuse_to, move_to};
use super::{LANES, shared_evenly, sweep};
use crate::{Schedule, ScheduleError};
use lathe_ir::Int;
use lathe_ir::tensor::{For, Stmt, find_loop};
use lathe_machine::Target;
use std::sync::Arc;

/// Channels of the input that a window's place is summed over at a time.
const INSIDE: i64 = 16;

/// A tile of accumulators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelTile {
    /// Channels that lie side by side: 16, or 8 where that is a register.
    pub lanes: i64,
    /// Channels, whole vectors of so many lanes.
    pub channels: i64,
    /// Whether all axes of positions are one.
    pub fused: bool,
    /// The axis of the positions.
    pub axis: usize,
    /// Neighbours along it; where they do not divide the axis, the last tile has fewer.
    pub positions: i64,
}

/// What a processor's registers hold of a tile.
struct Registers {
    /// Registers of a vector of the channels.
    each: i64,
    /// Those for accumulators, for vectors of filters, and for the element in all lanes where no instruction repeats it itself.
    all: i64,
    /// Most accumulators.
    most: i64,
    /// Time to load a register from the second cache, in products of registers.
    far: i64,
    /// Loads of single elements that take as long as one of a register.
    singles: i64,
}

impl Registers {
    fn of(lanes: i64, target: &Target) -> Registers {
        match target.vector_bits {
            512.. => Registers { each: lanes / 16, all: 32, most: 28, far: 4, singles: 2 },
            _ => Registers { each: lanes / 8, all: 15, most: 12, far: 2, singles: 1 },
        }
    }

    /// Most positions of a tile of so many vectors.
    fn positions(&self, vectors: i64) -> i64 {
        let registers = vectors * self.each;
        (self.most / registers).min(self.all / registers - 1)
    }

    /// Time of a step of a tile's sums, in products of registers.
    fn time(&self, vectors: i64, positions: i64) -> i64 {
        let registers = vectors * self.each;
        // A chain of sums waits for each of its parts.
        let loads = (positions + self.singles - 1) / self.singles;
        (registers * positions).max(8).max(self.far * registers + (positions + 1) / 2).max(registers + loads)
    }
}

/// Most positions of a tile of so many vectors.
pub(super) fn most_positions(vectors: i64, lanes: i64, target: &Target) -> i64 {
    Registers::of(lanes, target).positions(vectors)
}

/// What whole tiles alone are worth, in thousandths of the time.
const WHOLE: i64 = 10;
/// Elements of filters that are read in the time of one of a plane that another core made.
const NEAR: i64 = 2;

/// Lanes of the vectors that so many channels are whole numbers of.
pub(super) fn lanes_of(channels: i64, target: &Target) -> Option<i64> {
    let half = (target.vector_bits < 512).then_some(LANES / 2);
    [Some(LANES), half].into_iter().flatten().find(|l| channels > 0 && channels % l == 0)
}

/// Parts that all cores have something to do with.
const PARTS: i64 = 8;

/// The tile for so many channels and positions along each axis, when one keeps the arithmetic busy: channels are a whole number
/// of tiles, accumulators fit the registers, and loads do not outnumber products. `fusable` says that positions of all axes
/// follow each other in memory.
pub fn channel_tile(channels: i64, extents: &[i64], fusable: bool, target: &Target) -> Option<ChannelTile> {
    let lanes = lanes_of(channels, target)?;
    let all: i64 = extents.iter().product();
    let axis = extents.iter().rposition(|n| *n > 1).or(extents.len().checked_sub(1))?;
    let registers = Registers::of(lanes, target);
    let mut best = None;
    let apart = [(false, axis, extents[axis]), (true, 0, all)];
    for (fused, axis, n) in apart {
        if fused && (!fusable || extents.len() < 2) {
            continue;
        }
        for vectors in (1..=8).filter(|v| channels / lanes % v == 0) {
            let products = vectors * registers.each;
            for positions in 1..=registers.positions(vectors).min(n) {
                let left = n % positions;
                // Tiles of several sizes stand in one iteration of the cores' loop.
                if fused && left > 0 && channels / lanes / vectors < PARTS {
                    continue;
                }
                let rest = if left > 0 { registers.time(vectors, left) } else { 0 };
                let whole = n / positions * registers.time(vectors, positions);
                let busy = 1000 * products * n / (whole + rest);
                // Cores can share the positions of planes where there are whole tiles alone.
                let whole = if fusable && extents.len() > 1 && left == 0 { WHOLE } else { 0 };
                let rank = (busy + whole, products * positions);
                if best.is_none_or(|(b, _)| rank > b) {
                    best = Some((
                        rank,
                        ChannelTile { lanes, channels: vectors * lanes, fused, axis, positions },
                    ));
                }
            }
        }
    }
    let ((busy, _), tile) = best?;
    // Where there are few positions in all, nothing else is faster either.
    (busy >= 850 || all < LANES).then_some(tile)
}

/// Blocks of channels and the channels of a block, as the last two axes of a matrix, as one axis in front of the positions: the product
/// is then one with packed filters.
fn blocks_of_channels(s: &Schedule, p: &Product) -> Option<(Schedule, Product)> {
    let [.., rows, blocks, lanes] = p.loops.as_slice() else { return None };
    let f = (0..2).find(|f| p.picks(*f, &lanes.var))?;
    let of = |l: &For, f: usize| p.picks(f, &l.var) && !p.picks(1 - f, &l.var);
    let apart = p.stride(s.kernel(), f, &blocks.var)? != 32 * extent(lanes)?;
    let packed =
        p.stride(s.kernel(), f, &lanes.var) == Some(32) && [LANES, LANES / 2].contains(&extent(lanes)?);
    (packed && apart && of(lanes, f) && of(blocks, f) && of(rows, 1 - f)).then_some(())?;
    let mut t = s.clone();
    t.step(&format!("fuse {} {}", blocks.var, lanes.var)).ok()?;
    t.step(&format!("interchange {}", rows.var)).ok()?;
    let p = Product::of(t.kernel())?;
    Some((t, p))
}

/// Schedules a convolution whose filters lie so; `false` where it is another product.
pub(super) fn apply(s: &mut Schedule, p: &Product, target: &Target) -> Result<bool, ScheduleError> {
    if let Some((mut t, p)) = blocks_of_channels(s, p)
        && apply(&mut t, &p, target)?
    {
        *s = t;
        return Ok(true);
    }
    let side_by_side = |f: usize, l: &For, lanes: i64| -> bool {
        let (mut t, m) = (s.clone(), &l.var);
        if t.step(&format!("split {m} {lanes}")).is_err() {
            return false;
        }
        let Some(p) = Product::of(t.kernel()) else { return false };
        p.stride(t.kernel(), f, &format!("{m}.i")) == Some(32)
            && p.picks(f, &format!("{m}.o"))
            && !p.picks(1 - f, &format!("{m}.i"))
    };
    let channel = p.loops.iter().position(|l| {
        extent(l).and_then(|n| lanes_of(n, target)).is_some_and(|lanes| {
            (0..2).any(|f| p.stride(s.kernel(), f, &l.var).is_none() && side_by_side(f, l, lanes))
        })
    });
    let Some((m, mut rest)) = channel.and_then(|at| p.loops[at..].split_first()) else { return Ok(false) };
    let extents: Option<Vec<i64>> = rest.iter().map(|l| extent(l)).collect();
    let (Some(channels), Some(extents)) = (extent(m), extents) else { return Ok(false) };
    let one = fused(s, rest);
    let Some(tile) = channel_tile(channels, &extents, one.is_some(), target) else { return Ok(false) };
    let last;
    let mut along = extents[tile.axis];
    if let (true, Some((t, l))) = (tile.fused, one) {
        (*s, last) = (t, [l]);
        (rest, along) = (&last, extents.iter().product());
    }
    let width = tile.lanes;
    let registers = Registers::of(width, target);
    let vectors = (1..=8).filter(|v| channels / width % v == 0 && registers.positions(*v) > 0);
    let vectors = s.choose("vectors", vectors, tile.channels / width);
    let fit = 1..=registers.positions(vectors).min(along).max(1);
    let positions = s.choose("positions", fit.clone(), tile.positions.min(*fit.end()));
    let (m, n) = (m.var.to_string(), rest[tile.axis].var.to_string());
    s.step(&format!("split {m} {width}"))?;
    s.step(&format!("split {m}.o {vectors}"))?;
    let (lanes, vector) = (format!("{m}.i"), format!("{m}.o.i"));
    // The tile's loops become the innermost ones: positions, vectors, lanes.
    for l in [&n, &vector, &lanes] {
        let nest = spatial(&s.kernel().body);
        if let Some(last) = nest.last().filter(|last| *last != l) {
            move_to(s, l, last)?;
            s.step(&format!("interchange {l}"))?;
        }
    }
    // Neighbours share elements of the input from one place of a window to the next, and the C compiler would keep these, in
    // registers that are not there: a few channels run inside the window's loops.
    if let ([channel, window @ ..], true) =
        (p.sums.as_slice(), p.sums[1..].iter().any(|l| extent(l) != Some(1)))
    {
        let inside = s.choose("inside", [4, 8, 16, 32, 64], INSIDE);
        s.step(&format!("split {} {inside}", channel.var))?;
        for _ in window {
            s.step(&format!("reorder {}.i", channel.var))?;
        }
    }
    in_registers(s, &n, positions, along, [&vector, &lanes])?;
    let near = near(s, p, channels, extents.iter().product());
    let near = s.choose("near", [0, 1], near.into()) == 1;
    let nest = spatial(&s.kernel().body);
    let tiles = format!("{m}.o.o");
    match nest.last() {
        Some(last) if near && *last != tiles && parts(s, &nest, &tiles).is_some_and(shared_evenly) => {
            sweep(s, &tiles, last)?;
        }
        Some(last) => fuse_to(s, last)?,
        None => {}
    }
    Ok(true)
}

/// Iterations of the loops of a nest behind one.
fn parts(s: &Schedule, nest: &[String], behind: &str) -> Option<i64> {
    let of = |l: &String| find_loop(&s.kernel().body, l).and_then(|l| extent(&l));
    nest.iter().skip_while(|l| *l != behind).skip(1).map(of).product()
}

/// Whether cores share the positions, and each sweeps through all channels: then each finds of a plane what it made of it, and cores may be
/// far from each other. Each reads all filters, from where nobody writes.
fn near(s: &Schedule, p: &Product, channels: i64, positions: i64) -> bool {
    let all = |loops: &[Arc<For>]| loops.iter().map(|l| extent(l)).product::<Option<i64>>();
    let (Some(every), Some(terms)) = (all(&p.loops), all(&p.sums)) else { return false };
    let filters = channels * terms;
    let input = (0..2).filter_map(|f| {
        let shape = s.kernel().buffer(&p.factors[f].0)?.shape;
        shape.iter().map(Int::as_const).product::<Option<i64>>().filter(|n| *n != filters)
    });
    let (input, results) = (input.max().unwrap_or(0), channels * positions);
    every == results && results <= input && filters <= NEAR * input
}

/// Tiles of so many positions of the loop `n`, which are `along` it, around loops of vectors and their lanes: accumulators in registers. The
/// last positions, where they make no whole tile, have loops of their own.
pub(super) fn in_registers(
    s: &mut Schedule,
    n: &str,
    positions: i64,
    along: i64,
    [vector, lanes]: [&str; 2],
) -> Result<(), ScheduleError> {
    let mut tiles = vec![(format!("{n}.i"), vector.to_string(), lanes.to_string())];
    if along % positions != 0 {
        s.step(&format!("peel {n} {positions}"))?;
        let left = find_loop(&s.kernel().body, &format!("{n}.p")).map(|l| spatial(&[Stmt::For(l)]));
        if let Some([position, vector, lanes]) = left.and_then(|names| <[String; 3]>::try_from(names).ok()) {
            tiles.push((position, vector, lanes));
        }
    }
    s.step(&format!("split {n} {positions}"))?;
    for (position, vectors, channels) in &tiles {
        s.step(&format!("sink {channels}"))?;
        s.step(&format!("sink {vectors} {lanes}"))?;
        s.step(&format!("sink {position} {vector}"))?;
    }
    s.step(&format!("vectorize {lanes}"))?;
    s.step(&format!("unroll {vector}"))?;
    for (position, ..) in &tiles {
        s.step(&format!("unroll {position}"))?;
    }
    Ok(())
}

/// The schedule with these loops as one, and that loop, where its positions follow each other in memory.
fn fused(s: &Schedule, loops: &[Arc<For>]) -> Option<(Schedule, Arc<For>)> {
    let (mut t, mut names) = (s.clone(), loops.iter().map(|l| l.var.to_string()));
    let mut all = names.next()?;
    for n in names {
        t.step(&format!("fuse {all} {n}")).ok()?;
        all += ".f";
    }
    let p = Product::of(t.kernel())?;
    let one = p.loops.last().filter(|l| *l.var == *all)?;
    let reads = (0..2).find(|f| p.picks(*f, &all))?;
    (p.stride(t.kernel(), reads, &all) == Some(32)).then(|| (t.clone(), one.clone()))
}

/// The loops that are the whole body of one another, outermost first.
pub(super) fn spatial(body: &[Stmt]) -> Vec<String> {
    let (mut all, mut body) = (vec![], body);
    while let [Stmt::For(l)] = body {
        all.push(l.var.to_string());
        body = &l.body;
    }
    all
}
