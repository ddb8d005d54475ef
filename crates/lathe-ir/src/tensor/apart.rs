//! Whether two views of one allocation share a bit, told from their layouts.

use super::Buffer;
use crate::{Bounds, Int};

/// Where elements lie: at `first`, and for each addend some times its stride further, at most as often as it says.
#[derive(Clone)]
struct Places {
    first: Int,
    addends: Vec<(Int, Int)>,
    bits: i64,
}

/// Whether no element of one view shares a bit with one of the other, as far as that follows from the strides: one view ends before
/// the other begins, or they do so in each period of a stride.
pub fn apart(a: &Buffer, b: &Buffer, bounds: &Bounds) -> bool {
    let (a, b) = (places(a, bounds), places(b, bounds));
    let forward = |p: &Places| p.addends.iter().all(|(_, s)| bounds.range(s).lo.is_some_and(|n| n >= 0));
    forward(&a) && forward(&b) && are_apart(&a, &b, bounds)
}

fn places(v: &Buffer, bounds: &Bounds) -> Places {
    let addends = v.layout.terms.iter().map(|t| {
        // The padding has elements, too.
        let padding = v.padding(t.dim);
        let last = (v.shape[t.dim].ceil_div(padding, bounds) * padding - 1).div(t.div, bounds);
        let times = match (t.modulo, last.as_const()) {
            (Some(m), Some(n)) => (m - 1).min(n).into(),
            (Some(m), None) => (m - 1).into(),
            (None, _) => last,
        };
        (times, t.stride.clone())
    });
    Places { first: v.layout.offset.clone(), addends: addends.collect(), bits: v.dtype.bits() }
}

fn are_apart(a: &Places, b: &Places, bounds: &Bounds) -> bool {
    let after = |a: &Places, b: &Places| {
        let end = a.addends.iter().fold(a.first.clone() + a.bits, |e, (n, s)| e + n.clone() * s.clone());
        bounds.range(&(b.first.clone() - end)).lo.is_some_and(|n| n >= 0)
    };
    if after(a, b) || after(b, a) {
        return true;
    }
    // Counted from where one of them begins, so that the other's part of a period may go over into the next.
    let in_periods = |a: &Places, b: &Places, period: i64| {
        let distance = b.first.clone() - a.first.clone();
        let (x, y) = (in_period(&0.into(), a, period, bounds)?, in_period(&distance, b, period, bounds)?);
        let less = x.addends.len() + y.addends.len() < a.addends.len() + b.addends.len();
        less.then(|| are_apart(&x, &y, bounds))
    };
    let strides = [a, b].into_iter().flat_map(|p| &p.addends);
    let mut periods: Vec<i64> = strides.filter_map(|(_, s)| s.as_const()).collect();
    periods.sort_unstable_by(|x, y| y.cmp(x));
    periods.dedup();
    let found = periods.into_iter().find_map(|n| match (in_periods(a, b, n), in_periods(b, a, n)) {
        (None, None) => None,
        (x, y) => Some(x == Some(true) || y == Some(true)),
    });
    found == Some(true)
}

/// Where elements from `first` on lie in a period, where none of them crosses its end.
fn in_period(first: &Int, p: &Places, period: i64, bounds: &Bounds) -> Option<Places> {
    if period <= 0 {
        return None;
    }
    let first = first.rem(period, bounds).as_const()?;
    let (mut end, mut addends) = (first + p.bits, vec![]);
    for (times, stride) in &p.addends {
        if stride.rem(period, bounds).as_const() != Some(0) {
            end = end.checked_add(times.as_const()?.max(0).checked_mul(stride.as_const()?)?)?;
            addends.push((times.clone(), stride.clone()));
        }
    }
    (end <= period).then_some(Places { first: first.into(), addends, bits: p.bits })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Layout};
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn view(bits: u8, offset: i64, dims: &[(i64, i64, i64, i64)]) -> Buffer {
        let rows: Vec<_> =
            dims.iter().enumerate().map(|(d, &(_, div, modulo, s))| (d, div, modulo, s)).collect();
        let shape: Vec<Int> = dims.iter().map(|(n, ..)| (*n).into()).collect();
        let dtype = DType::parse(if bits == 4 { "u4" } else { "u8" }).unwrap();
        Buffer { layout: Layout::rows(offset, &rows), ..Buffer::dense("v", dtype, &shape, "m") }
    }

    /// All bits of a view.
    fn bits(v: &Buffer) -> HashSet<i64> {
        let extents: Vec<i64> = v.shape.iter().map(|n| n.as_const().unwrap()).collect();
        let layout = v.layout.resolve(&|_| None).unwrap();
        let mut all = HashSet::new();
        for i in 0..extents.iter().product() {
            let (mut rest, mut index) = (i, vec![0; extents.len()]);
            for d in (0..extents.len()).rev() {
                (index[d], rest) = (rest % extents[d], rest / extents[d]);
            }
            let at = layout.address(&index);
            all.extend(at..at + v.dtype.bits());
        }
        all
    }

    fn any_view() -> impl Strategy<Value = Buffer> {
        let stride = prop::sample::select(vec![4i64, 8, 16, 24, 32, 64, 96, 128]);
        let modulo = prop::sample::select(vec![0i64, 0, 2, 3]);
        let dim = (1..4i64, 1..3i64, modulo, stride);
        (prop::sample::select(vec![4u8, 8]), 0..40i64, prop::collection::vec(dim, 1..4))
            .prop_map(|(bits, offset, dims)| view(bits, offset * 4, &dims))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn views_that_are_told_apart_share_no_bit(a in any_view(), b in any_view()) {
            let shared = !bits(&a).is_disjoint(&bits(&b));
            prop_assert!(!(shared && apart(&a, &b, &Bounds::new())));
        }
    }

    #[test]
    fn parts_of_blocks_lie_apart() {
        let none = Bounds::new();
        // Low and high halves of bytes; parts of a block, of which the first goes over into the next period.
        let low = view(4, 0, &[(100, 1, 0, 8)]);
        let high = view(4, 4, &[(100, 1, 0, 8)]);
        assert!(apart(&low, &high, &none) && !apart(&low, &low, &none));
        let codes = view(8, 64, &[(3, 1, 0, 1000), (4, 1, 0, 100), (6, 1, 0, 8)]);
        let scales = view(8, 12, &[(3, 1, 0, 1000), (4, 1, 0, 100), (6, 1, 0, 8)]);
        assert!(apart(&codes, &scales, &none));
        // As many blocks as a size says, at any distance of whole blocks.
        let blocks = |offset: i64| {
            let mut v = view(8, offset, &[(1, 1, 0, 1000), (6, 1, 0, 8)]);
            v.shape[0] = Int::var("n");
            v
        };
        assert!(apart(&blocks(64), &blocks(2000), &none));
        assert!(!apart(&blocks(64), &blocks(1096), &none));
    }
}
