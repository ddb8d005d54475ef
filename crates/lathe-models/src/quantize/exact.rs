//! Numbers of a block that stand for exactly its values, where an encoding has them: so that decoding and quantizing again, to
//! the same type, loses nothing.
//!
//! The values of a group lie on a lattice. Each spacing that the levels allow is a candidate for the group's scale, each number of
//! the least level one for its minimum; what the groups of a block have in common is found the same way from their candidates.
//! Values that were never quantized fail at the first group. (Not found: a group whose values are all equal, no 16-bit float
//! and not 0, in an encoding whose minimum is stored as it is.)

use half::f16;

use super::codec::{Block, Codec};
use super::levels::Levels;

/// How far rounding may carry a value, relative to the greatest.
const EPSILON: f64 = 1.0 / (1 << 22) as f64;

/// A number that something may be, and by how much it may be off.
#[derive(Clone, Copy)]
struct Candidate {
    value: f64,
    off: f64,
    /// The factor that goes with it.
    factor: f32,
}

impl Candidate {
    /// Whether a 16-bit float is this near.
    fn is_half(&self) -> bool {
        (f16::from_f64(self.value).to_f64() - self.value).abs() <= self.off
    }

    /// The level that it is of this unit.
    fn level(&self, unit: f64, levels: &Levels) -> Option<f32> {
        let mut level = [0f32];
        let quotient = if unit == 0.0 { 0.0 } else { self.value / unit };
        levels.nearest(&[quotient as f32], 1.0, 0.0, &mut level);
        (f64::from(level[0]) * unit - self.value).abs().le(&self.off).then_some(level[0])
    }
}

/// Calls `on` with each 16-bit float of which a candidate of every group is a level, until it returns something. A group without
/// candidates may be anything.
fn units<T>(groups: &[Vec<Candidate>], levels: &Levels, on: &mut dyn FnMut(f16) -> Option<T>) -> Option<T> {
    let mut known: Vec<&Vec<Candidate>> = groups.iter().filter(|g| !g.is_empty()).collect();
    known.sort_by_key(|g| g.len());
    let fits = |unit: f16| {
        let fits = |c: &Candidate| c.level(unit.to_f64(), levels).is_some();
        unit.is_finite() && known.iter().all(|g| g.iter().any(fits))
    };
    if fits(f16::ZERO)
        && let Some(found) = on(f16::ZERO)
    {
        return Some(found);
    }
    // A group that is none of the unit does not tell it, so each is asked.
    let nonzero: Vec<f64> = levels.all().into_iter().map(f64::from).filter(|l| *l != 0.0).collect();
    for c in known.iter().copied().flatten() {
        for level in &nonzero {
            let unit = f16::from_f64(c.value / level);
            let near = (level * unit.to_f64() - c.value).abs() <= c.off;
            if near
                && fits(unit)
                && let Some(found) = on(unit)
            {
                return Some(found);
            }
        }
    }
    None
}

/// A group's values.
struct Group<'a> {
    x: &'a [f32],
    /// The value nearest to 0, which rounding has carried the least.
    smallest: f64,
    /// What its scale may be; nothing where that does not follow from the values, since all are equal (or 0).
    scales: Vec<Candidate>,
}

/// The block that stands for exactly these values, zeros of either sign being equal.
pub(super) fn exact(x: &[f32], codec: &Codec) -> Option<Block> {
    let (factors, minima) = (codec.factors(), codec.minima());
    let through_zero = minima == Levels::run(0, 0);
    // Without factors the scale itself is what a block keeps.
    let alone = factors == Levels::run(1, 1);
    let mut groups = vec![];
    for x in x.chunks(codec.group) {
        let bounds = x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), x| (a.min(*x), b.max(*x)));
        let (least, most) = (f64::from(bounds.0), f64::from(bounds.1));
        let peak = if -least > most { least } else { most };
        let flat = if through_zero { peak == 0.0 } else { least == most };
        let scales = match (flat, through_zero) {
            (true, _) => vec![],
            (_, true) => multiples(x, peak, codec.levels(), alone),
            (_, false) => spacings(x, least, most, peak, codec.levels(), alone),
        };
        if scales.is_empty() && !flat {
            return None;
        }
        let smallest = x.iter().copied().min_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0);
        groups.push(Group { x, smallest: smallest.into(), scales });
    }
    let scales: Vec<Vec<Candidate>> = groups.iter().map(|g| g.scales.clone()).collect();
    units(&scales, &factors, &mut |scale| {
        let offsets: Vec<Vec<Candidate>> = groups
            .iter()
            .map(|g| g.offsets(scale.to_f64(), &factors, codec.levels(), through_zero))
            .collect();
        if offsets.iter().any(Vec::is_empty) {
            return None;
        }
        units(&offsets, &minima, &mut |minimum| {
            let mut b = Block { scale, minimum, ..Block::zero() };
            for (g, (group, offsets)) in groups.iter().zip(&offsets).enumerate() {
                let levels = &mut b.levels[g * codec.group..][..codec.group];
                (b.factors[g], b.minima[g]) = offsets.iter().find_map(|c| {
                    let n = c.level(minimum.to_f64(), &minima)?;
                    let line = (scale.to_f32() * c.factor, -(minimum.to_f32() * n));
                    codec.levels().nearest(group.x, line.0, line.1, levels);
                    let same = |(x, l): (&f32, &f32)| line.0 * l + line.1 == *x;
                    group.x.iter().zip(&*levels).all(same).then_some((c.factor, n))
                })?;
            }
            Some(b)
        })
    })
}

/// The scales of which all values are levels.
fn multiples(x: &[f32], peak: f64, levels: &Levels, alone: bool) -> Vec<Candidate> {
    let off = peak.abs() * EPSILON;
    let is_scale = |scale: &f64| {
        x.iter().all(|x| Candidate { value: f64::from(*x), off, factor: 1.0 }.level(*scale, levels).is_some())
    };
    let all = levels.all().into_iter().filter(|l| *l != 0.0);
    let scale = |l: f32| {
        let value = peak / f64::from(l);
        Candidate { value, off: value.abs() * EPSILON, factor: 1.0 }
    };
    all.map(scale).filter(|c| (!alone || c.is_half()) && is_scale(&c.value)).collect()
}

/// The scales of which all values are levels, from the least value on.
fn spacings(x: &[f32], least: f64, most: f64, peak: f64, levels: &Levels, alone: bool) -> Vec<Candidate> {
    let off = peak.abs() * EPSILON;
    let is_scale = |scale: &f64| {
        let from_least = |x: &f32| Candidate { value: f64::from(*x) - least, off, factor: 1.0 };
        x.iter().all(|x| from_least(x).level(*scale, levels).is_some())
    };
    let count = (levels.last() - levels.first()) as i32;
    let scale =
        |n: i32| Candidate { value: (most - least) / f64::from(n), off: off / f64::from(n), factor: 1.0 };
    // Levels rise with the values, or fall.
    let both = |c: Candidate| [c, Candidate { value: -c.value, ..c }];
    let found = (1..=count).map(scale).filter(|c| (!alone || c.is_half()) && is_scale(&c.value));
    found.flat_map(both).collect()
}

impl Group<'_> {
    /// What its minimum may be under the block's scale, with the factor that this goes with.
    fn offsets(&self, unit: f64, factors: &Levels, levels: &Levels, through_zero: bool) -> Vec<Candidate> {
        let candidate = |factor: f32, level: f32| {
            let value = unit * f64::from(factor) * f64::from(level) - self.smallest;
            Candidate { value, off: self.smallest.abs() * EPSILON, factor }
        };
        let mut known: Vec<f32> = match self.scales.is_empty() {
            true => factors.all(),
            false => self.scales.iter().filter_map(|c| c.level(unit, factors)).collect(),
        };
        if through_zero {
            // There is no minimum; a group of zeros has a factor of 0, or the block's scale is 0.
            known.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
            return known
                .first()
                .map(|factor| Candidate { value: 0.0, off: 0.0, factor: *factor })
                .into_iter()
                .collect();
        }
        known
            .into_iter()
            .flat_map(|factor| levels.all().into_iter().map(move |l| (factor, l)))
            .map(|(f, l)| candidate(f, l))
            .collect()
    }
}
