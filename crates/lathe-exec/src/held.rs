//! The room for pages that programs hold (`Step::Hold`): what is there stays until others need its place, and those whose segments
//! had least in them go first, what was long ago counting less. So a router's history says which experts stay in memory: the
//! popular ones (Fiddler, arXiv 2402.07033, places them by a profile that was taken before).

use crate::ExecError;
use lathe_ir::step::occupied;
use lathe_runtime::View;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// After how much in the segments of all its pages a page's uses count half.
const HALF_LIFE: f64 = 2048.0;

/// The smallest piece of memory that is given back to the system, bytes: what a page may take more than it has.
const UNIT: usize = 4096;

/// Room for held pages, shared by all programs that hold the same.
#[derive(Debug)]
pub struct HeldRoom {
    bytes: usize,
    state: Mutex<State>,
}

/// How often pages were needed, and how often they were there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldCounts {
    /// Pages that were needed; those of one segment together are one.
    pub needed: u64,
    /// Those of them that had to be brought.
    pub brought: u64,
    /// Bytes that were brought.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    /// By the first address of their places.
    groups: HashMap<usize, Group>,
    counts: HeldCounts,
}

/// Pages that a step holds together.
#[derive(Debug)]
struct Group {
    /// Where they are, with the bytes of a page each.
    places: Vec<(View, usize)>,
    /// What was in their segments in all.
    time: f64,
    pages: Vec<Page>,
}

#[derive(Clone, Debug, Default)]
struct Page {
    there: bool,
    /// What was in its segment until a time.
    uses: f64,
    time: f64,
}

impl Group {
    /// Real memory of one page of each.
    fn bytes(&self) -> usize {
        held_bytes(self.places.iter().map(|(_, page)| *page))
    }

    fn worth(&self, page: usize) -> f64 {
        let p = &self.pages[page];
        p.uses * ((p.time - self.time) / HALF_LIFE).exp2()
    }
}

/// Real memory, bytes, of pages of these sizes that lie anywhere.
pub fn held_bytes(pages: impl Iterator<Item = usize>) -> usize {
    pages.map(|page| page.next_multiple_of(UNIT) + if page.is_multiple_of(UNIT) { 0 } else { UNIT }).sum()
}

impl HeldRoom {
    /// Room for so many bytes.
    pub fn new(bytes: usize) -> HeldRoom {
        HeldRoom { bytes, state: Mutex::default() }
    }

    /// How many bytes that is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What happened so far.
    pub fn counts(&self) -> HeldCounts {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).counts
    }

    /// Holds the pages of segments with something in them; `bring` is told which are not there. Fails when the offsets do not
    /// rise, or these pages alone need more room than there is.
    pub(crate) fn hold(
        &self,
        program: &str,
        places: &[(View, usize)],
        offsets: &[u32],
        bring: &mut dyn FnMut(&[u32]) -> Result<(), ExecError>,
    ) -> Result<(), ExecError> {
        let wrong = |message: String| ExecError::Pages { program: program.into(), message };
        let needed = occupied(offsets).map_err(wrong)?;
        let Some((first, _)) = places.first() else { return Ok(()) };
        let key = first.ptr().addr();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let group = state.groups.entry(key).or_insert_with(|| Group {
            places: places.to_vec(),
            time: 0.0,
            pages: vec![Page::default(); offsets.len().saturating_sub(1)],
        });
        let all = offsets.last().zip(offsets.first()).map_or(0, |(end, start)| end - start);
        group.time += f64::from(all);
        for p in needed.iter().map(|p| *p as usize) {
            let uses = group.worth(p) + f64::from(offsets[p + 1] - offsets[p]);
            (group.pages[p].uses, group.pages[p].time) = (uses, group.time);
        }
        let missing: Vec<u32> = needed.iter().copied().filter(|p| !group.pages[*p as usize].there).collect();
        let wanted = missing.len() * group.bytes();
        state.counts.needed += needed.len() as u64;
        state.counts.brought += missing.len() as u64;
        if missing.is_empty() {
            return Ok(());
        }
        if !state.make_room(self.bytes, wanted, key, &needed)? {
            return Err(wrong(format!("need {wanted} bytes in one step, there is room for {}", self.bytes)));
        }
        let brought = bring(&missing);
        let group = state.groups.get_mut(&key).expect("it was put there above");
        // What came in part is there for the account, and comes again.
        if brought.is_ok() {
            missing.iter().for_each(|p| group.pages[*p as usize].there = true);
            state.counts.bytes += (missing.len() * places.iter().map(|(_, page)| page).sum::<usize>()) as u64;
        } else {
            state.used -= wanted;
        }
        brought
    }
}

impl State {
    /// Forgets pages, the least worth first, until there is room for `wanted` more of `room` bytes, which are then taken; or says
    /// that there is none.
    fn make_room(
        &mut self,
        room: usize,
        wanted: usize,
        key: usize,
        needed: &[u32],
    ) -> Result<bool, ExecError> {
        if self.used + wanted > room {
            let mut others: Vec<(f64, usize, usize)> = vec![];
            for (of, group) in &self.groups {
                let kept = |p: usize| *of == key && needed.binary_search(&(p as u32)).is_ok();
                let there = (0..group.pages.len()).filter(|p| group.pages[*p].there && !kept(*p));
                others.extend(there.map(|p| (group.worth(p), *of, p)));
            }
            others.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
            let mut others = others.into_iter();
            while self.used + wanted > room {
                let Some((_, of, p)) = others.next() else { return Ok(false) };
                let group = self.groups.get_mut(&of).expect("it is one of them");
                for (view, page) in &group.places {
                    view.part(p * page, *page)?.forget();
                }
                group.pages[p].there = false;
                self.used -= group.bytes();
            }
        }
        self.used += wanted;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lathe_runtime::{Arena, Buffer};
    use proptest::prelude::*;

    const PAGE: usize = 2 * UNIT;
    const PAGES: usize = 8;

    fn view() -> View {
        Arena::new("host", usize::MAX).alloc_sparse(PAGES * PAGE).map(Buffer::into_view).unwrap()
    }

    /// Offsets of segments that have something in them where `full` says.
    fn offsets(full: &[bool]) -> Vec<u32> {
        let ends = full.iter().scan(0, |end, full| {
            *end += 2 * u32::from(*full);
            Some(*end)
        });
        std::iter::once(0).chain(ends).collect()
    }

    /// Holds pages of a group of one weight; each is filled with its number when it comes.
    fn hold(room: &HeldRoom, view: &View, full: &[bool]) -> Result<(), ExecError> {
        room.hold("test", &[(view.clone(), PAGE)], &offsets(full), &mut |missing| {
            let fill = |p: &u32| view.write(*p as usize * PAGE, &[*p as u8 + 1; PAGE]);
            missing.iter().try_for_each(fill).map_err(Into::into)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is held when, the pages that are needed are there, and no more memory is real than there is room for.
        #[test]
        fn needed_pages_are_there(
            steps in prop::collection::vec((0usize..3, prop::collection::vec(any::<bool>(), PAGES)), 1..40),
            pages in PAGES..3 * PAGES,
        ) {
            let (room, views) = (HeldRoom::new(pages * PAGE), [view(), view(), view()]);
            for (group, full) in steps {
                hold(&room, &views[group], &full).unwrap();
                for p in (0..PAGES).filter(|p| full[*p]) {
                    let mut bytes = [0u8; PAGE];
                    views[group].read(p * PAGE, &mut bytes).unwrap();
                    prop_assert_eq!(bytes, [p as u8 + 1; PAGE]);
                }
                let state = room.state.lock().unwrap();
                let there: usize = state.groups.values().map(|g| g.pages.iter().filter(|p| p.there).count()).sum();
                prop_assert_eq!(state.used, there * PAGE);
                prop_assert!(state.used <= room.bytes());
            }
        }
    }

    #[test]
    fn pages_that_are_needed_often_stay() {
        let (room, views) = (HeldRoom::new(6 * PAGE), [view(), view()]);
        // The first two of each group in every step, another one in turns: those make place for each other.
        let one = |turn: usize| (0..PAGES).map(|p| p < 2 || p == 2 + turn % 6).collect::<Vec<_>>();
        (0..60).for_each(|turn| views.iter().for_each(|v| hold(&room, v, &one(turn)).unwrap()));
        let counts = room.counts();
        assert_eq!((counts.needed, counts.brought), (60 * 6, 4 + 60 * 2));
        assert_eq!(counts.bytes, counts.brought * PAGE as u64);
    }

    #[test]
    fn a_step_that_needs_too_much_and_a_copy_that_fails_are_told() {
        let (room, view) = (HeldRoom::new(3 * PAGE), view());
        let full = |n: usize| (0..PAGES).map(|p| p < n).collect::<Vec<_>>();
        let refused = hold(&room, &view, &full(4)).unwrap_err().to_string();
        assert!(refused.contains("there is room for"), "{refused}");
        let places = [(view.clone(), PAGE)];
        let mut fails = |_: &[u32]| Err(ExecError::Pages { program: "test".into(), message: "no".into() });
        assert!(room.hold("test", &places, &offsets(&full(2)), &mut fails).is_err());
        hold(&room, &view, &full(3)).unwrap();
        assert!(room.hold("test", &places, &[0, 2, 1], &mut |_| Ok(())).is_err());
    }
}
