//! The numbers of a block that lose the least of its values: the one search for all encodings, driven by what the codec says of
//! each (levels, groups, factors, minima). Least is the squared error, each value with a weight.
//!
//! A line `scale * level + offset` is fitted to each group from several starts, by turns: the nearest level of each value, then the
//! line of least squares through them. Scales of a block's groups are themselves values that a scale (the block's) and levels (the
//! factors) stand for, so the same search finds those, with the weight that each has in the error; minima likewise. Then, by
//! turns again, factors and minima next to those found are tried for each group, and both halves of the block are fitted to all of
//! its values.

use half::f16;

use super::calibrate::Grid;
use super::codec::{Block, Codec, GROUPS, MOST};
use super::exact::exact;
use super::levels::Levels;

/// By how many steps beyond the outermost level the outermost value may lie at a start; below 0, how far within.
const STARTS: &[f32] = &[-0.7, -0.4, -0.2, 0.0, 0.2, 0.4, 0.7, 1.0, 1.4, 1.9];
/// The most turns of fitting the line of the best start.
const TURNS: usize = 4;
/// The most turns of fitting a block as a whole.
const ROUNDS: usize = 3;

/// Which offsets a line may have.
#[derive(Clone, Copy, PartialEq)]
enum Offset {
    None,
    /// Any.
    Free,
    /// At most 0.
    Below,
}

/// A line, and by how much its squared error is less than that of zeros.
#[derive(Clone, Copy, Default)]
struct Line {
    scale: f32,
    offset: f32,
    gain: f64,
}

/// What a line of least squares is made of: weighted sums over values `x` and levels `l`.
#[derive(Clone, Copy, Default)]
struct Sums {
    w: f64,
    l: f64,
    ll: f64,
    x: f64,
    lx: f64,
}

/// Lanes of sums that run side by side.
const LANES: usize = 8;

impl Sums {
    fn of(x: &[f32], w: &[f32], l: &[f32]) -> Sums {
        let mut sums = [[0f32; LANES]; 5];
        for ((x, w), l) in x.chunks(LANES).zip(w.chunks(LANES)).zip(l.chunks(LANES)) {
            for (i, ((x, w), l)) in x.iter().zip(w).zip(l).enumerate() {
                let (wl, wx) = (w * l, w * x);
                for (sum, v) in sums.iter_mut().zip([*w, wl, wl * l, wx, wx * l]) {
                    sum[i] += v;
                }
            }
        }
        let [w, l, ll, x, lx] = sums.map(|s| s.iter().map(|v| f64::from(*v)).sum());
        Sums { w, l, ll, x, lx }
    }

    /// The line of least squares.
    fn line(&self, offset: Offset) -> Line {
        let Sums { w, l, ll, x, lx } = *self;
        let line = |scale: f64, offset: f64| {
            // Of the sum of (x - line)^2, all but that of x^2.
            let gain = 2.0 * (scale * lx + offset * x)
                - (scale * scale * ll + 2.0 * scale * offset * l + offset * offset * w);
            Line { scale: scale as f32, offset: offset as f32, gain }
        };
        let through_zero = line(if ll > 0.0 { lx / ll } else { 0.0 }, 0.0);
        let spread = w * ll - l * l;
        if offset == Offset::None {
            return through_zero;
        }
        let free = match spread > 1e-9 * w * ll {
            true => line((w * lx - x * l) / spread, (x * ll - l * lx) / spread),
            false => line(0.0, if w > 0.0 { x / w } else { 0.0 }),
        };
        if offset == Offset::Below && free.offset > 0.0 { through_zero } else { free }
    }
}

/// The weighted squared error of a line.
fn error(x: &[f32], w: &[f32], l: &[f32], scale: f32, offset: f32) -> f32 {
    let mut sums = [0f32; LANES];
    for ((x, w), l) in x.chunks(LANES).zip(w.chunks(LANES)).zip(l.chunks(LANES)) {
        for (sum, ((x, w), l)) in sums.iter_mut().zip(x.iter().zip(w).zip(l)) {
            let e = x - (scale * l + offset);
            *sum += w * e * e;
        }
    }
    sums.iter().sum()
}

/// The best line for values of one group.
fn search(x: &[f32], w: &[f32], levels: &Levels, offset: Offset) -> Line {
    let (mut least, mut most) = (f32::INFINITY, f32::NEG_INFINITY);
    for x in x {
        (least, most) = (least.min(*x), most.max(*x));
    }
    let mut levels_of = [0f32; MOST];
    let l = &mut levels_of[..x.len()];
    let mut turn = |scale: f32, at: f32| {
        levels.nearest(x, scale, at, l);
        Sums::of(x, w, l).line(offset)
    };
    let mut best = Line::default();
    let mut from = |scale: f32, at: f32| {
        let line = turn(scale, at);
        if line.gain > best.gain {
            best = line;
        }
    };
    let [lower, upper] = levels.steps();
    if offset == Offset::None {
        let peak = if -least > most { least } else { most };
        for beyond in STARTS {
            for end in [levels.first() - beyond * lower, levels.last() + beyond * upper] {
                if end != 0.0 {
                    from(peak / end, 0.0);
                }
            }
        }
    } else {
        if offset == Offset::Below {
            least = least.min(0.0);
        }
        let (first, count) = (levels.first(), levels.last() - levels.first());
        for beyond in STARTS {
            let scale = (most - least) / (count + beyond).max(0.5);
            from(scale, least - scale * first);
        }
    }
    for _ in 0..TURNS {
        let line = turn(best.scale, best.offset);
        if line.gain <= best.gain {
            break;
        }
        best = line;
    }
    best
}

impl Grid for Search<'_> {
    type Block = Block;

    fn block(&self) -> usize {
        self.codec.block
    }

    fn fit(&self, values: &[f32], weights: &[f32]) -> Block {
        self.block(values, weights)
    }

    fn round(&self, b: &mut Block, i: usize, value: f32) -> f32 {
        let (scale, offset) = b.line(i / self.codec.group);
        self.codec.levels().nearest(&[value], scale, offset, &mut b.levels[i..=i]);
        scale * b.levels[i] + offset
    }
}

/// The nearest number that a block can keep.
fn half(x: f32) -> f16 {
    f16::from_f32(x.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
}

/// Quantizes blocks of one encoding.
pub(super) struct Search<'a> {
    codec: &'a Codec,
    offset: Offset,
    factors: Levels,
    minima: Levels,
}

impl Search<'_> {
    pub fn new(codec: &Codec) -> Search<'_> {
        let minima = codec.minima();
        let offset = match (minima.first(), minima.last()) {
            (0.0, 0.0) => Offset::None,
            (first, _) if first < 0.0 => Offset::Free,
            _ => Offset::Below,
        };
        Search { codec, offset, factors: codec.factors(), minima }
    }

    /// The block for these values, all of them finite: one that stands for exactly them where there is one.
    pub fn block(&self, x: &[f32], w: &[f32]) -> Block {
        exact(x, self.codec).unwrap_or_else(|| self.nearest(x, w))
    }

    fn nearest(&self, x: &[f32], w: &[f32]) -> Block {
        let (size, groups) = (self.codec.group, self.codec.groups());
        let mut b = Block::zero();
        let mut lines = [(0f32, 0f32, 0f32, 0f32); GROUPS];
        for ((x, w), line) in x.chunks(size).zip(w.chunks(size)).zip(&mut lines) {
            let found = search(x, w, self.codec.levels(), self.offset);
            let l = &mut b.levels[..size];
            self.codec.levels().nearest(x, found.scale, found.offset, l);
            let sums = Sums::of(x, w, l);
            *line = (found.scale, -found.offset, sums.ll as f32, sums.w as f32);
        }
        let part = |of: fn(&(f32, f32, f32, f32)) -> f32| lines.each_ref().map(of);
        let (scales, minima) = (part(|l| l.0), part(|l| l.1));
        let (in_scale, in_minimum) = (part(|l| l.2), part(|l| l.3));
        b.scale = half(search(&scales[..groups], &in_scale[..groups], &self.factors, Offset::None).scale);
        self.factors.nearest(&scales[..groups], b.scale.to_f32(), 0.0, &mut b.factors[..groups]);
        if self.offset != Offset::None {
            let found = search(&minima[..groups], &in_minimum[..groups], &self.minima, Offset::None);
            b.minimum = half(found.scale);
            self.minima.nearest(&minima[..groups], b.minimum.to_f32(), 0.0, &mut b.minima[..groups]);
        }
        self.turns(x, w, b)
    }

    /// Improves a block as a whole while that gains something.
    fn turns(&self, x: &[f32], w: &[f32], first: Block) -> Block {
        let mut best = (f32::INFINITY, first.clone());
        let mut b = first;
        for _ in 0..ROUNDS {
            let error = self.groups(x, w, &mut b);
            if error >= best.0 {
                break;
            }
            best = (error, b.clone());
            self.fit(x, w, &mut b);
        }
        best.1
    }

    /// Chooses the factors and levels of each group under the block's scale and minimum; the error.
    fn groups(&self, x: &[f32], w: &[f32], b: &mut Block) -> f32 {
        let size = self.codec.group;
        let near = |levels: &Levels, at: f32| {
            let inside = move |l: f32| (levels.first()..=levels.last()).contains(&l);
            [at, at - 1.0, at + 1.0].map(|l| if inside(l) { l } else { at })
        };
        let (scale, minimum) = (b.scale.to_f32(), b.minimum.to_f32());
        let mut l = [0f32; MOST];
        let mut total = 0.0;
        for (g, (x, w)) in x.chunks(size).zip(w.chunks(size)).enumerate() {
            let mut best = (f32::INFINITY, b.factors[g], b.minima[g]);
            let (factors, minima) = (near(&self.factors, b.factors[g]), near(&self.minima, b.minima[g]));
            for (i, factor) in factors.into_iter().enumerate() {
                for (j, n) in minima.into_iter().enumerate() {
                    // What lies outside stands for the first once more.
                    if i > 0 && factor == factors[0] || j > 0 && n == minima[0] {
                        continue;
                    }
                    let (scale, offset) = (scale * factor, -(minimum * n));
                    self.codec.levels().nearest(x, scale, offset, &mut l[..size]);
                    let error = error(x, w, &l[..size], scale, offset);
                    if error < best.0 {
                        best = (error, factor, n);
                        b.levels[g * size..][..size].copy_from_slice(&l[..size]);
                    }
                }
            }
            (b.factors[g], b.minima[g]) = (best.1, best.2);
            total += best.0;
        }
        total
    }

    /// Fits the block's scale and minimum to all of its values under its factors and levels.
    fn fit(&self, x: &[f32], w: &[f32], b: &mut Block) {
        let size = self.codec.group;
        // Of the values, against `factor * level` and against `-n`.
        let (mut uu, mut uv, mut vv, mut ux, mut vx) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (g, (x, w)) in x.chunks(size).zip(w.chunks(size)).enumerate() {
            let s = Sums::of(x, w, &b.levels[g * size..][..size]);
            let (factor, n) = (f64::from(b.factors[g]), f64::from(b.minima[g]));
            uu += factor * factor * s.ll;
            uv -= factor * n * s.l;
            vv += n * n * s.w;
            ux += factor * s.lx;
            vx -= n * s.x;
        }
        let spread = uu * vv - uv * uv;
        if spread > 1e-9 * uu * vv {
            b.scale = half(((ux * vv - vx * uv) / spread) as f32);
        } else if vv == 0.0 && uu > 0.0 {
            b.scale = half((ux / uu) as f32);
        }
        if vv > 0.0 {
            b.minimum = half(((vx - b.scale.to_f64() * uv) / vv) as f32);
        }
    }
}
