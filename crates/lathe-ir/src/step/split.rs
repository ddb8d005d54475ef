//! Segments whose pages two tiers compute with: those that are held, more that come, and those that are computed where their
//! pages lie. Kernels know nothing of it. Each of the three has offsets and an index of its own, in which the segments of the
//! other two are empty, and so a product over all segments becomes three of its kind.

/// Where segments begin, and what is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments<P> {
    /// Words of 32 bits, rising: where each segment begins, and where the last one ends.
    pub offsets: P,
    /// Words of 32 bits: what is in the segments, one behind the other; all numbers below their count, each once.
    pub index: P,
}

/// Segments, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Division<P> {
    /// All of them.
    pub of: Segments<P>,
    /// Those whose pages are at their places.
    pub here: Segments<P>,
    /// Those whose pages are yet to be held.
    pub come: Segments<P>,
    /// Those that are computed where their pages lie.
    pub away: Segments<P>,
    /// Lists of what is computed there: of each number in its index, divided by the second, each once.
    pub rows: Vec<(P, i64)>,
}

/// Where a segment is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where its page is held.
    Here,
    /// The same, once it came.
    Come,
    /// Where its page lies.
    Away,
}

impl<P> Division<P> {
    /// What it is made of.
    pub fn reads(&self) -> [&P; 2] {
        [&self.of.offsets, &self.of.index]
    }

    /// What it says: offsets and index of those here, of those that come, of those away, then the lists.
    pub fn writes(&self) -> impl Iterator<Item = &P> {
        let sides = [&self.here, &self.come, &self.away];
        sides.into_iter().flat_map(|s| [&s.offsets, &s.index]).chain(self.rows.iter().map(|(list, _)| list))
    }

    /// All parts, to be changed.
    pub fn parts_mut(&mut self) -> impl Iterator<Item = &mut P> {
        let sides = [&mut self.of, &mut self.here, &mut self.come, &mut self.away];
        let lists = self.rows.iter_mut().map(|(list, _)| list);
        sides.into_iter().flat_map(|s| [&mut s.offsets, &mut s.index]).chain(lists)
    }

    /// The same with other parts.
    pub fn map<Q, E>(&self, f: &mut dyn FnMut(&P) -> Result<Q, E>) -> Result<Division<Q>, E> {
        let mut both = |s: &Segments<P>| Ok(Segments { offsets: f(&s.offsets)?, index: f(&s.index)? });
        let (of, here, come, away) =
            (both(&self.of)?, both(&self.here)?, both(&self.come)?, both(&self.away)?);
        let rows = self.rows.iter().map(|(list, by)| Ok((f(list)?, *by))).collect::<Result<_, E>>()?;
        Ok(Division { of, here, come, away, rows })
    }
}

/// The words of what a division [writes](Division::writes), where each segment is computed as `sides` says; `by` has the divisors
/// of its lists.
pub fn divide(offsets: &[u32], index: &[u32], sides: &[Side], by: &[i64]) -> Result<Vec<Vec<u32>>, String> {
    let slots = offsets.last().map_or(0, |end| *end as usize);
    let index = index.get(..slots).ok_or("segments end behind their index")?;
    if !offsets.is_sorted() || offsets.first() != Some(&0) || sides.len() + 1 != offsets.len() {
        return Err("the offsets of segments do not rise from 0".into());
    }
    let segment = |s: usize| &index[offsets[s] as usize..offsets[s + 1] as usize];
    let mut words = vec![];
    for side in [Side::Here, Side::Come, Side::Away] {
        let (own, others): (Vec<usize>, Vec<usize>) = (0..sides.len()).partition(|s| sides[*s] == side);
        let mut end = 0;
        let ends = (0..sides.len()).map(|s| {
            end += if sides[s] == side { segment(s).len() as u32 } else { 0 };
            end
        });
        words.push(std::iter::once(0).chain(ends).collect());
        words.push(own.into_iter().chain(others).flat_map(segment).copied().collect());
    }
    for by in by {
        let away = (0..sides.len()).filter(|s| sides[*s] == Side::Away).flat_map(segment);
        let mut rows: Vec<u32> = away.map(|i| (i64::from(*i) / (*by).max(1)) as u32).collect();
        rows.sort_unstable();
        rows.dedup();
        words.push(std::iter::once(rows.len() as u32).chain(rows).collect());
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_has_its_segments_and_the_others_are_empty() {
        let sides = [Side::Away, Side::Here, Side::Come, Side::Away];
        let words = divide(&[0, 2, 3, 3, 5], &[4, 1, 0, 3, 2, 99], &sides, &[1, 2]).unwrap();
        let want: [&[u32]; 8] = [
            &[0, 0, 1, 1, 1],
            &[0, 4, 1, 3, 2],
            &[0; 5],
            &[4, 1, 0, 3, 2],
            &[0, 2, 2, 2, 4],
            &[4, 1, 3, 2, 0],
            &[4, 1, 2, 3, 4],
            &[3, 0, 1, 2],
        ];
        assert_eq!(words, want);
        for wrong in [&[0, 2, 1, 3, 5][..], &[1, 2, 3, 3, 5], &[0, 2, 3, 3, 7], &[0, 1]] {
            assert!(divide(wrong, &[4, 1, 0, 3, 2, 99], &sides, &[]).is_err());
        }
    }
}
