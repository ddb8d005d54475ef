//! A large cache is mapped in the system's small pages, so that pages of the cache that nobody uses cost nothing. A step that reads many
//! of them then waits for address translations. So a piece of the cache as large as a huge page gets one once half of it has been used, and
//! the piece behind it before it is touched: pages are given out in ascending order, so it is used next, and at most about as much memory
//! becomes real that was never used as was.

use lathe_runtime::{HUGE, View};

/// Pieces that a step moves at most, and for how many tokens one more: they fill together, one for each state, and half a millisecond each
/// should not make a step long.
const PIECES: usize = 2;
const TOKENS: usize = 8;

/// Which pages of a cache have been used, and how much of each piece of its memory.
pub(crate) struct HugePages {
    cache: View,
    /// For each state, its first byte in the cache and the bytes of a page.
    states: Vec<(usize, usize)>,
    used: Vec<bool>,
    /// Bytes of each piece that have been used.
    pieces: Vec<usize>,
    /// Pieces that have a huge page, or get one when they are touched.
    huge: Vec<bool>,
    /// Pieces that are half full and not moved yet.
    waiting: Vec<usize>,
}

impl HugePages {
    /// Of a cache with these states in it, with the bytes of a page of each, of so many pages.
    pub fn new(cache: View, states: &[(View, usize)], pages: usize) -> HugePages {
        let place = |(view, page): &(View, usize)| (view.ptr().addr() - cache.ptr().addr(), *page);
        let states = states.iter().map(place).collect();
        let count = cache.len() / HUGE;
        let (used, pieces, huge) = (vec![false; pages], vec![0; count], vec![false; count]);
        HugePages { cache, states, used, pieces, huge, waiting: vec![] }
    }

    /// Before a step of so many tokens that uses these pages.
    pub fn uses<'a>(&mut self, pages: impl Iterator<Item = &'a u32>, tokens: usize) {
        pages.for_each(|page| self.touch(*page as usize));
        for piece in self.waiting.drain(..self.waiting.len().min(PIECES + tokens / TOKENS)) {
            part(&self.cache, piece).iter().for_each(View::collapse);
        }
    }

    /// Counts a page's bytes where they lie, once.
    fn touch(&mut self, page: usize) {
        match self.used.get_mut(page) {
            Some(used) if !*used => *used = true,
            _ => return,
        }
        for (first, bytes) in &self.states {
            let (mut at, end) = (first + page * bytes, first + (page + 1) * bytes);
            while at < end {
                let (piece, next) = (at / HUGE, end.min((at / HUGE + 1) * HUGE));
                // The last piece may be no whole one.
                if let Some(used) = self.pieces.get_mut(piece) {
                    let before = std::mem::replace(used, *used + next - at);
                    if before < HUGE / 2 && *used >= HUGE / 2 {
                        if !std::mem::replace(&mut self.huge[piece], true) {
                            self.waiting.push(piece);
                        }
                        if self.pieces.get(piece + 1) == Some(&0) {
                            self.huge[piece + 1] = true;
                            part(&self.cache, piece + 1).iter().for_each(View::prefer_huge_pages);
                        }
                    }
                }
                at = next;
            }
        }
    }
}

/// A piece's memory.
fn part(cache: &View, piece: usize) -> Option<View> {
    cache.part(piece * HUGE, HUGE).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lathe_runtime::Arena;

    /// Three states of one and a half pieces, of pages of an eighth of a piece: a piece waits once half of it has been used, and only
    /// once, unless it was asked for in time, and the cache keeps what is in it when it is moved.
    #[test]
    fn pieces_that_are_half_full_are_moved() {
        let page = HUGE / 8;
        let cache = Arena::new("host", usize::MAX).alloc_sparse(3 * 12 * page).unwrap().into_view();
        let states: Vec<(View, usize)> =
            (0..3).map(|s| (cache.part(s * 12 * page, 12 * page).unwrap(), page)).collect();
        let mut huge = HugePages::new(cache.clone(), &states, 12);
        cache.write(0, &(0..cache.len() / 4).map(|i| i as u32).collect::<Vec<_>>()).unwrap();
        let mut waiting = |pages: &[usize]| {
            pages.iter().for_each(|page| huge.touch(*page));
            let all = huge.waiting.clone();
            huge.uses([].iter(), 512);
            assert!(huge.waiting.is_empty());
            all
        };
        // The first state's piece 0; 1 is shared with the second state's first four pages, and 2 is behind it and not touched; piece 3 is
        // the third state's.
        assert!(waiting(&[0, 1, 2]).is_empty());
        assert_eq!(waiting(&[2, 3]), [0, 1, 3]);
        assert!(waiting(&[4, 5, 6, 7]).is_empty());
        assert!(waiting(&[0, 3, 8, 9, 10, 11, 12, 99]).is_empty());
        assert_eq!(huge.huge, [true; 4]);
        let mut words = vec![0u32; cache.len() / 4];
        cache.read(0, &mut words).unwrap();
        assert!(words.iter().enumerate().all(|(i, w)| i as u32 == *w));
    }
}
