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
    long: f64,
    state: Mutex<State>,
}

/// How often pages were needed, and how often they were there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldCounts {
    /// Pages that were needed; those of one segment together are one.
    pub needed: u64,
    /// Those of them that were not there, nor had come because they were expected.
    pub brought: u64,
    /// Bytes that came, expected or needed.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    /// By the first address of their places.
    groups: HashMap<usize, Group>,
    /// The group that was held last, and what was in its segments then.
    last: usize,
    slots: u32,
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
    /// Room for so many bytes. Pages are brought before they are needed where at least `long` is expected in their segments.
    pub fn new(bytes: usize, long: u32) -> HeldRoom {
        HeldRoom { bytes, long: f64::from(long), state: Mutex::default() }
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
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((key, group)) = state.group(places) else { return Ok(()) };
        let all = offsets.last().zip(offsets.first()).map_or(0, |(end, start)| end - start);
        group.time += f64::from(all);
        for p in needed.iter().map(|p| *p as usize) {
            let uses = group.worth(p) + f64::from(offsets[p + 1] - offsets[p]);
            (group.pages[p].uses, group.pages[p].time) = (uses, group.time);
        }
        let missing: Vec<u32> = needed.iter().copied().filter(|p| !group.pages[*p as usize].there).collect();
        let wanted = missing.len() * group.bytes();
        (state.last, state.slots) = (key, all);
        state.counts.needed += needed.len() as u64;
        state.counts.brought += missing.len() as u64;
        let kept = |of: usize, p: usize| of == key && needed.binary_search(&(p as u32)).is_ok();
        if !state.make_room(self.bytes, wanted, &kept)? {
            return Err(wrong(format!("need {wanted} bytes in one step, there is room for {}", self.bytes)));
        }
        state.bring(key, &missing, bring)
    }

    /// Brings pages that the next holding of their group will need, if it is of as much as the last one of another: those of so
    /// long segments that work on them hides what bringing takes. What was held last stays.
    pub(crate) fn expect(
        &self,
        places: &[(View, usize)],
        bring: &mut dyn FnMut(&[u32]) -> Result<(), ExecError>,
    ) -> Result<(), ExecError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, slots) = (state.last, f64::from(state.slots));
        let Some((key, group)) = state.group(places) else { return Ok(()) };
        // Each page has one use that nobody saw: at first all are as likely.
        let worth: Vec<f64> = (0..group.pages.len()).map(|p| group.worth(p) + 1.0).collect();
        let all: f64 = worth.iter().sum();
        let likely = |p: &usize| !group.pages[*p].there && slots * worth[*p] / all >= self.long;
        let mut likely: Vec<usize> = (0..worth.len()).filter(likely).collect();
        likely.sort_by(|a, b| worth[*b].total_cmp(&worth[*a]));
        let each = group.bytes();
        // Nor do pages of the same group go.
        let kept = |of: usize, _| of == last || of == key;
        likely.truncate(state.free(self.bytes, &kept) / each.max(1));
        let mut chosen: Vec<u32> = likely.into_iter().map(|p| p as u32).collect();
        chosen.sort_unstable();
        state.make_room(self.bytes, chosen.len() * each, &kept)?;
        state.bring(key, &chosen, bring)
    }
}

impl State {
    /// The group of these places, which is made when it is new.
    fn group(&mut self, places: &[(View, usize)]) -> Option<(usize, &mut Group)> {
        let (first, page) = places.first()?;
        let key = first.ptr().addr();
        let pages = || vec![Page::default(); first.len() / page];
        let new = || Group { places: places.to_vec(), time: 0.0, pages: pages() };
        Some((key, self.groups.entry(key).or_insert_with(new)))
    }

    /// Bytes of `room` that are free, or would be if all that is not `kept` were forgotten.
    fn free(&self, room: usize, kept: &dyn Fn(usize, usize) -> bool) -> usize {
        let forgettable = |(of, g): (&usize, &Group)| {
            (0..g.pages.len()).filter(|p| g.pages[*p].there && !kept(*of, *p)).count() * g.bytes()
        };
        room - self.used + self.groups.iter().map(forgettable).sum::<usize>()
    }

    /// Forgets pages, the least worth first and none that is `kept`, until there is room for `wanted` more of `room` bytes, which
    /// are then taken; or says that there is none.
    fn make_room(
        &mut self,
        room: usize,
        wanted: usize,
        kept: &dyn Fn(usize, usize) -> bool,
    ) -> Result<bool, ExecError> {
        if self.used + wanted > room {
            let mut others: Vec<(f64, usize, usize)> = vec![];
            for (of, group) in &self.groups {
                let there = (0..group.pages.len()).filter(|p| group.pages[*p].there && !kept(*of, *p));
                others.extend(there.map(|p| (group.worth(p), *of, p)));
            }
            others.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
            let mut others = others.into_iter();
            let group_bytes = |of: &usize| self.groups[of].bytes();
            let most: usize = others.as_slice().iter().map(|(_, of, _)| group_bytes(of)).sum();
            if self.used + wanted > room + most {
                return Ok(false);
            }
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

    /// Brings pages of a group, whose room is taken.
    fn bring(
        &mut self,
        key: usize,
        pages: &[u32],
        bring: &mut dyn FnMut(&[u32]) -> Result<(), ExecError>,
    ) -> Result<(), ExecError> {
        if pages.is_empty() {
            return Ok(());
        }
        let brought = bring(pages);
        let group = self.groups.get_mut(&key).expect("room was made for it");
        // What came in part comes again.
        match &brought {
            Ok(()) => {
                pages.iter().for_each(|p| group.pages[*p as usize].there = true);
                let each: usize = group.places.iter().map(|(_, page)| page).sum();
                self.counts.bytes += (pages.len() * each) as u64;
            }
            Err(_) => self.used -= pages.len() * group.bytes(),
        }
        brought
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lathe_runtime::{Arena, Buffer};
    use proptest::prelude::*;

    const PAGE: usize = 2 * UNIT;
    const PAGES: usize = 8;
    const LONG: u32 = 16;

    fn view() -> View {
        Arena::new("host", usize::MAX).alloc_sparse(PAGES * PAGE).map(Buffer::into_view).unwrap()
    }

    /// Offsets of segments that have something in them where `full` says.
    fn offsets(full: &[bool]) -> Vec<u32> {
        let ends = full.iter().scan(0, |end, full| {
            *end += 32 * u32::from(*full);
            Some(*end)
        });
        std::iter::once(0).chain(ends).collect()
    }

    /// Holds pages of a group of one weight; each is filled with its number when it comes.
    fn hold(room: &HeldRoom, view: &View, full: &[bool]) -> Result<(), ExecError> {
        room.hold("test", &[(view.clone(), PAGE)], &offsets(full), &mut |missing| fill(view, missing))
    }

    fn fill(view: &View, pages: &[u32]) -> Result<(), ExecError> {
        let one = |p: &u32| view.write(*p as usize * PAGE, &[*p as u8 + 1; PAGE]);
        pages.iter().try_for_each(one).map_err(Into::into)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is held and expected when, the pages that are needed are there, those that were needed last stay while others
        /// come, and no more memory is real than there is room for.
        #[test]
        fn needed_pages_are_there(
            steps in prop::collection::vec((0usize..3, prop::collection::vec(any::<bool>(), PAGES)), 1..40),
            pages in PAGES..3 * PAGES,
        ) {
            let (room, views) = (HeldRoom::new(pages * PAGE, LONG), [view(), view(), view()]);
            let there = |group: usize, full: &[bool]| {
                (0..PAGES).filter(|p| full[*p]).all(|p| {
                    let mut bytes = [0u8; PAGE];
                    views[group].read(p * PAGE, &mut bytes).unwrap();
                    bytes == [p as u8 + 1; PAGE]
                })
            };
            for (group, full) in steps {
                hold(&room, &views[group], &full).unwrap();
                prop_assert!(there(group, &full));
                let next = &views[(group + 1) % 3];
                room.expect(&[(next.clone(), PAGE)], &mut |missing| fill(next, missing)).unwrap();
                prop_assert!(there(group, &full));
                let state = room.state.lock().unwrap();
                let real = |g: &Group| g.pages.iter().filter(|p| p.there).count();
                prop_assert_eq!(state.used, state.groups.values().map(real).sum::<usize>() * PAGE);
                prop_assert!(state.used <= room.bytes());
            }
        }
    }

    #[test]
    fn what_is_likely_comes_before_it_is_needed() {
        let (room, views) = (HeldRoom::new(20 * PAGE, LONG), [view(), view()]);
        let full = |n: usize| (0..PAGES).map(|p| p < n).collect::<Vec<_>>();
        // The second group's first two pages have all that there is.
        (0..30).for_each(|_| hold(&room, &views[1], &full(2)).unwrap());
        hold(&room, &views[0], &full(8)).unwrap();
        let before = room.counts();
        {
            let mut state = room.state.lock().unwrap();
            let group = state.groups.get_mut(&views[1].ptr().addr()).unwrap();
            group.pages.iter_mut().for_each(|p| p.there = false);
            state.used -= 2 * PAGE;
        }
        let mut came = vec![];
        let places = [(views[1].clone(), PAGE)];
        let mut bring = |missing: &[u32]| {
            came.extend_from_slice(missing);
            fill(&views[1], missing)
        };
        room.expect(&places, &mut bring).unwrap();
        hold(&room, &views[1], &full(2)).unwrap();
        assert_eq!((came, room.counts().brought), (vec![0, 1], before.brought));
    }

    #[test]
    fn pages_that_are_needed_often_stay() {
        let (room, views) = (HeldRoom::new(6 * PAGE, LONG), [view(), view()]);
        // The first two of each group in every step, another one in turns: those make place for each other.
        let one = |turn: usize| (0..PAGES).map(|p| p < 2 || p == 2 + turn % 6).collect::<Vec<_>>();
        (0..60).for_each(|turn| views.iter().for_each(|v| hold(&room, v, &one(turn)).unwrap()));
        let counts = room.counts();
        assert_eq!((counts.needed, counts.brought), (60 * 6, 4 + 60 * 2));
        assert_eq!(counts.bytes, counts.brought * PAGE as u64);
    }

    #[test]
    fn a_step_that_needs_too_much_and_a_copy_that_fails_are_told() {
        let (room, view) = (HeldRoom::new(3 * PAGE, LONG), view());
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
