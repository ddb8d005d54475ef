//! Convolutions whose constant filters lie 16 channels side by side: channels in lanes, and a tile of neighbouring positions,
//! each an element of the input repeated in all lanes. Nothing is copied, and filters are read in a row.

use super::LANES;
use super::product::{Product, extent, fuse_to, move_to};
use crate::{Schedule, ScheduleError};
use lathe_ir::tensor::{Kernel, Stmt};
use lathe_machine::Target;

/// Channels of the input that a window's place is summed over at a time.
const INSIDE: i64 = 16;

/// Time of a load from the second cache, in products of vectors.
const FAR: i64 = 4;

/// A tile of accumulators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelTile {
    /// Channels, whole vectors of 16 lanes.
    pub channels: i64,
    /// The axis of the positions.
    pub axis: usize,
    /// Neighbours along it.
    pub positions: i64,
}

/// Registers of a vector of 16 lanes, and those that accumulators may take.
fn registers(target: &Target) -> (i64, i64) {
    if target.vector_bits >= 512 { (1, 28) } else { (2, 12) }
}

/// The tile for so many channels and positions along each axis, when one keeps the arithmetic busy: channels and positions are
/// whole numbers of tiles, accumulators fit the registers, and loads do not outnumber products.
pub fn channel_tile(channels: i64, extents: &[i64], target: &Target) -> Option<ChannelTile> {
    (channels > 0 && channels % LANES == 0).then_some(())?;
    let axis = extents.iter().rposition(|n| *n > 1).or(extents.len().checked_sub(1))?;
    let (each, most) = registers(target);
    let mut best = None;
    for vectors in (1..=8).filter(|v| channels / LANES % v == 0) {
        let registers = vectors * each;
        for positions in (1..=most / registers).filter(|r| extents[axis] % r == 0) {
            let products = registers * positions;
            // A chain of sums waits for each of its parts. Vectors of filters come from the second cache, at this many products'
            // time each; two loads of single elements are as one of a vector.
            let time = products.max(8).max(FAR * registers + (positions + 1) / 2);
            let busy = (1000 * products / time, products);
            if best.is_none_or(|(b, _)| busy > b) {
                best = Some((busy, ChannelTile { channels: vectors * LANES, axis, positions }));
            }
        }
    }
    let ((busy, _), tile) = best?;
    // Where there are few positions in all, nothing else is faster either.
    (busy >= 900 || extents.iter().product::<i64>() < LANES).then_some(tile)
}

/// Schedules a convolution whose filters lie so; `false` where it is another product.
pub(super) fn apply(s: &mut Schedule, p: &Product, target: &Target) -> Result<bool, ScheduleError> {
    let side_by_side = |f: usize, m: &str| -> bool {
        let mut t = s.clone();
        if t.step(&format!("split {m} {LANES}")).is_err() {
            return false;
        }
        let Some(p) = Product::of(t.kernel()) else { return false };
        p.stride(t.kernel(), f, &format!("{m}.i")) == Some(32)
            && p.picks(f, &format!("{m}.o"))
            && !p.picks(1 - f, &format!("{m}.i"))
    };
    let channel = p.loops.iter().position(|l| {
        extent(l).is_some_and(|n| n % LANES == 0)
            && (0..2).any(|f| p.stride(s.kernel(), f, &l.var).is_none() && side_by_side(f, &l.var))
    });
    let Some((m, rest)) = channel.and_then(|at| p.loops[at..].split_first()) else { return Ok(false) };
    let extents: Option<Vec<i64>> = rest.iter().map(|l| extent(l)).collect();
    let (Some(channels), Some(extents)) = (extent(m), extents) else { return Ok(false) };
    let Some(tile) = channel_tile(channels, &extents, target) else { return Ok(false) };
    let (each, most) = registers(target);
    let vectors = (1..=8).filter(|v| channels / LANES % v == 0);
    let vectors = s.choose("vectors", vectors, tile.channels / LANES);
    let whole = (1..=most / (vectors * each)).filter(|r| extents[tile.axis] % r == 0);
    let whole: Vec<i64> = whole.collect();
    let near = whole.iter().rev().find(|r| **r <= tile.positions).copied().unwrap_or(1);
    let positions = s.choose("positions", whole, near);
    let (m, n) = (m.var.to_string(), rest[tile.axis].var.to_string());
    s.step(&format!("split {m} {LANES}"))?;
    s.step(&format!("split {m}.o {vectors}"))?;
    s.step(&format!("split {n} {positions}"))?;
    let (lanes, vector, position) = (format!("{m}.i"), format!("{m}.o.i"), format!("{n}.i"));
    // The tile's loops become the innermost ones: positions, vectors, lanes.
    for l in [&position, &vector, &lanes] {
        let nest = spatial(s.kernel());
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
    s.step(&format!("sink {lanes}"))?;
    s.step(&format!("sink {vector} {lanes}"))?;
    s.step(&format!("sink {position} {vector}"))?;
    s.step(&format!("vectorize {lanes}"))?;
    s.step(&format!("unroll {vector}"))?;
    s.step(&format!("unroll {position}"))?;
    if let Some(last) = spatial(s.kernel()).last() {
        fuse_to(s, last)?;
    }
    Ok(true)
}

/// The loops that are the whole body of one another, outermost first.
fn spatial(k: &Kernel) -> Vec<String> {
    let (mut all, mut body) = (vec![], k.body.as_slice());
    while let [Stmt::For(l)] = body {
        all.push(l.var.to_string());
        body = &l.body;
    }
    all
}
