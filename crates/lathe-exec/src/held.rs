//! The room for pages that programs hold (`Step::Hold`): what is there stays until others need its place, and those whose segments
//! had least in them go first, what was long ago counting less. So a router's history says which experts stay in memory: the
//! popular ones (Fiddler, arXiv 2402.07033, places them by a profile that was taken before).
//!
//! Where pages may be computed with where they lie ([`Step::Split`](lathe_ir::step::Step)), somebody who knows what that takes says
//! for each step which are ([`Chooser`]). Those count as used as well, and come while the link has nothing else to do: piece by
//! piece, until there is no room for more or they are used no more than those that are there.

use crate::ExecError;
use lathe_ir::step::{Side, occupied};
use lathe_runtime::View;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// After how much in the segments of all its pages a page's uses count half.
const HALF_LIFE: f64 = 2048.0;

/// The smallest piece of memory that is given back to the system, bytes: what a page may take more than it has.
const UNIT: usize = 4096;

/// Bytes of a piece of a page that comes while the link is idle: so long something that is needed waits at most.
const PIECE: usize = 256 << 10;

/// How many pieces of memory may change their addresses, at most: each is a mapping of its own then, of which a process has some
/// 65,000.
const MOVED: usize = 8192;

/// How many pages that are there are for those that only pass: worth so little that they go first, and nothing comes ahead of its use
/// for them.
const PASSING: usize = 2;

/// How many pages may have come in part where others must go for them.
const PARTIAL: usize = 2;

/// By how much a page must have been used more than one that goes for it, while nothing waits for either.
const MARGIN: (f64, f64) = (1.25, 8.0);

/// A segment with something in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// How much is in it.
    pub slots: u32,
    /// Whether its pages are held.
    pub here: bool,
}

/// Who says which segments are computed where their pages lie.
pub trait Chooser: std::fmt::Debug + Send + Sync {
    /// For each segment, whether it is; pages of the others are held, and come where they are not.
    fn away(&self, segments: &[Segment]) -> Vec<bool>;
}

/// Room for held pages, shared by all programs that hold the same.
#[derive(Debug)]
pub struct HeldRoom {
    bytes: usize,
    long: f64,
    chooser: Option<Arc<dyn Chooser>>,
    state: Mutex<State>,
}

/// How often pages were needed, and how often they were there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldCounts {
    /// Pages that were needed; those of one segment together are one.
    pub needed: u64,
    /// Those of them that were not there, nor had come because they were expected.
    pub brought: u64,
    /// Those of them that were computed with where they lie, whether they were there or not.
    pub away: u64,
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
    /// Pages that have come in part, for which there is room.
    partial: Vec<Partial>,
    /// The memory of pages that went, for those that come in their place.
    spare: Vec<Vec<View>>,
    counts: HeldCounts,
}

/// A page that has come in part.
#[derive(Debug)]
struct Partial {
    group: usize,
    page: usize,
    /// Bytes that are there, of its pages one behind the other.
    done: usize,
}

/// A piece of a page that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    /// Which of the group's places.
    pub place: usize,
    /// Its first byte there.
    pub at: usize,
    /// Bytes.
    pub len: usize,
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

    /// Where a page's parts are.
    fn parts(&self, page: usize) -> Result<Vec<View>, ExecError> {
        let part = |(view, bytes): &(View, usize)| Ok(view.part(page * bytes, *bytes)?);
        self.places.iter().map(part).collect()
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
        HeldRoom { bytes, long: f64::from(long), chooser: None, state: Mutex::default() }
    }

    /// With somebody who says what is computed elsewhere.
    pub fn with_chooser(self, chooser: Arc<dyn Chooser>) -> HeldRoom {
        HeldRoom { chooser: Some(chooser), ..self }
    }

    /// Whether somebody says what is computed elsewhere.
    pub(crate) fn splits(&self) -> bool {
        self.chooser.is_some()
    }

    /// How many bytes that is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What happened so far.
    pub fn counts(&self) -> HeldCounts {
        self.lock().counts
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut state = self.lock();
        let Some((key, group)) = state.used(places, offsets, &needed) else { return Ok(()) };
        let missing: Vec<u32> = needed.iter().copied().filter(|p| !group.pages[*p as usize].there).collect();
        state.counts.brought += missing.len() as u64;
        let kept = |of: usize, p: usize| of == key && needed.binary_search(&(p as u32)).is_ok();
        state.take_room(self.bytes, key, &missing, &kept)?.map_err(wrong)?;
        state.bring(key, &missing, bring)
    }

    /// Says where each segment is computed, and takes room for the pages that are to come. Fails as [`HeldRoom::hold`] does.
    pub(crate) fn split(
        &self,
        program: &str,
        places: &[(View, usize)],
        offsets: &[u32],
    ) -> Result<Vec<Side>, ExecError> {
        let wrong = |message: String| ExecError::Pages { program: program.into(), message };
        let needed = occupied(offsets).map_err(wrong)?;
        let mut sides = vec![Side::Here; offsets.len().saturating_sub(1)];
        let mut state = self.lock();
        let Some((key, group)) = state.used(places, offsets, &needed) else { return Ok(sides) };
        let segment = |p: &u32| {
            let p = *p as usize;
            Segment { slots: offsets[p + 1] - offsets[p], here: group.pages[p].there }
        };
        let segments: Vec<Segment> = needed.iter().map(segment).collect();
        let away = self.chooser.as_ref().map_or(vec![], |chooser| chooser.away(&segments));
        let away = |i: usize| away.get(i).copied().unwrap_or(false);
        for (i, (p, segment)) in needed.iter().zip(&segments).enumerate() {
            sides[*p as usize] = match segment.here {
                _ if away(i) => Side::Away,
                true => Side::Here,
                false => Side::Come,
            };
        }
        let of = |side: Side| needed.iter().copied().filter(|p| sides[*p as usize] == side).collect();
        let (here, come, away): (Vec<u32>, Vec<u32>, Vec<u32>) =
            (of(Side::Here), of(Side::Come), of(Side::Away));
        state.counts.brought += come.len() as u64;
        state.counts.away += away.len() as u64;
        let kept = |of: usize, p: usize| of == key && here.binary_search(&(p as u32)).is_ok();
        state.take_room(self.bytes, key, &come, &kept)?.map_err(wrong)?;
        Ok(sides)
    }

    /// Brings the pages of segments that were to come.
    pub(crate) fn come(
        &self,
        program: &str,
        places: &[(View, usize)],
        offsets: &[u32],
        bring: &mut dyn FnMut(&[u32]) -> Result<(), ExecError>,
    ) -> Result<(), ExecError> {
        let wrong = |message: String| ExecError::Pages { program: program.into(), message };
        let pages = occupied(offsets).map_err(wrong)?;
        let mut state = self.lock();
        let Some((key, _)) = state.group(places) else { return Ok(()) };
        state.bring(key, &pages, bring)
    }

    /// The next piece of a page of these that is worth to come while nothing else does: the most used one that is not there, where
    /// there is room, or one that is used less. What was held last stays.
    pub(crate) fn next_piece(&self, places: &[(View, usize)]) -> Result<Option<Fetched>, ExecError> {
        let mut state = self.lock();
        let last = state.last;
        let Some((key, group)) = state.group(places) else { return Ok(None) };
        let missing = (0..group.pages.len()).filter(|p| !group.pages[*p].there);
        let best = missing.max_by(|a, b| group.worth(*a).total_cmp(&group.worth(*b)));
        let best = best.map(|p| (p, group.worth(p))).filter(|(_, worth)| *worth > 0.0);
        let bytes = group.bytes();
        if !state.partial.iter().any(|p| p.group == key) {
            let Some((page, worth)) = best else { return Ok(None) };
            let kept = |of: usize, _| of == last;
            let free = ((self.bytes - state.used) / bytes.max(1)).min(PASSING);
            let room = self.bytes - free * bytes;
            if state.used + bytes > room || free < PASSING {
                let least = state.least(PASSING - free, &kept);
                let pays = least.is_some_and(|least| worth > MARGIN.0 * least + MARGIN.1);
                if state.partial.len() >= PARTIAL || !pays || !state.make_room(room, bytes, &kept)? {
                    return Ok(None);
                }
            } else {
                state.used += bytes;
            }
            state.partial.push(Partial { group: key, page, done: 0 });
            state.reuse(key, &[page as u32])?;
        }
        let Some(Partial { page, done, .. }) = state.partial.iter().find(|p| p.group == key) else {
            return Ok(None);
        };
        let mut first = 0;
        for (place, (_, bytes)) in places.iter().enumerate() {
            if *done < first + bytes {
                let at = done - first;
                return Ok(Some(Fetched { place, at: page * bytes + at, len: PIECE.min(bytes - at) }));
            }
            first += bytes;
        }
        Ok(None)
    }

    /// Says that a piece came.
    pub(crate) fn piece_came(&self, places: &[(View, usize)], piece: Fetched) {
        let mut state = self.lock();
        let all: usize = places.iter().map(|(_, page)| page).sum();
        let Some((key, _)) = state.group(places) else { return };
        let Some(at) = state.partial.iter().position(|p| p.group == key) else { return };
        state.partial[at].done += piece.len;
        state.counts.bytes += piece.len as u64;
        if state.partial[at].done >= all {
            let page = state.partial.swap_remove(at).page;
            if let Some(group) = state.groups.get_mut(&key) {
                group.pages[page].there = true;
            }
        }
    }

    /// Brings pages that the next holding of their group will need, if it is of as much as the last one of another: those of so
    /// long segments that work on them hides what bringing takes. What was held last stays.
    pub(crate) fn expect(
        &self,
        places: &[(View, usize)],
        bring: &mut dyn FnMut(&[u32]) -> Result<(), ExecError>,
    ) -> Result<(), ExecError> {
        let mut state = self.lock();
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

    /// Notes what is in the segments of a group.
    fn used(
        &mut self,
        places: &[(View, usize)],
        offsets: &[u32],
        needed: &[u32],
    ) -> Option<(usize, &mut Group)> {
        let all = offsets.last().zip(offsets.first()).map_or(0, |(end, start)| end - start);
        let (key, group) = self.group(places)?;
        group.time += f64::from(all);
        for p in needed.iter().map(|p| *p as usize) {
            let uses = group.worth(p) + f64::from(offsets[p + 1] - offsets[p]);
            (group.pages[p].uses, group.pages[p].time) = (uses, group.time);
        }
        (self.last, self.slots) = (key, all);
        self.counts.needed += needed.len() as u64;
        self.group(places)
    }

    /// Takes room for pages of a group, of which none is there; or says that there is none.
    fn take_room(
        &mut self,
        room: usize,
        key: usize,
        pages: &[u32],
        kept: &dyn Fn(usize, usize) -> bool,
    ) -> Result<Result<(), String>, ExecError> {
        // What has come in part has its room, and comes as a whole.
        let before = self.partial.len();
        self.partial.retain(|p| p.group != key || !pages.contains(&(p.page as u32)));
        let taken = before - self.partial.len();
        let each = self.groups.get(&key).map_or(0, Group::bytes);
        let wanted = (pages.len() - taken) * each;
        // What else has come in part goes first.
        while self.used + wanted > room
            && let Some(Partial { group, page, .. }) = self.partial.pop()
        {
            self.go(group, page)?;
        }
        Ok(match self.make_room(room, wanted, kept)? {
            true => Ok(()),
            false => {
                self.used -= taken * each;
                Err(format!("need {wanted} bytes in one step, there is room for {room}"))
            }
        })
    }

    /// The least worth of pages that may be forgotten, behind so many that are worth less.
    fn least(&self, behind: usize, kept: &dyn Fn(usize, usize) -> bool) -> Option<f64> {
        let of = |(of, g): (&usize, &Group)| {
            let there = (0..g.pages.len()).filter(|p| g.pages[*p].there && !kept(*of, *p));
            there.map(|p| g.worth(p)).collect::<Vec<_>>()
        };
        let mut all: Vec<f64> = self.groups.iter().flat_map(of).collect();
        all.sort_by(f64::total_cmp);
        all.get(behind).copied()
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
                self.go(of, p)?;
            }
        }
        self.used += wanted;
        Ok(true)
    }

    /// Lets a page go that there is room for; its memory is spare.
    fn go(&mut self, of: usize, p: usize) -> Result<(), ExecError> {
        let group = self.groups.get_mut(&of).expect("it is one of them");
        let parts = group.parts(p)?;
        group.pages[p].there = false;
        self.used -= group.bytes();
        self.spare.push(parts);
        Ok(())
    }

    /// Puts spare memory under pages that are to come, and forgets what is left of it.
    fn reuse(&mut self, key: usize, pages: &[u32]) -> Result<(), ExecError> {
        let all: usize = self.groups.values().map(|g| g.pages.len() * g.places.len()).sum();
        let mut targets = pages.iter();
        for from in std::mem::take(&mut self.spare) {
            let to = targets.next().filter(|_| all <= MOVED);
            let to = to.map_or(Ok(vec![]), |p| self.groups[&key].parts(*p as usize))?;
            for (i, from) in from.iter().enumerate() {
                if !to.get(i).is_some_and(|to| from.give(to)) {
                    from.forget();
                }
            }
        }
        Ok(())
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
        self.reuse(key, pages)?;
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

    /// Computes away what has no page here, in every other step.
    #[derive(Debug)]
    struct InTurn(std::sync::atomic::AtomicUsize);

    impl Chooser for InTurn {
        fn away(&self, segments: &[Segment]) -> Vec<bool> {
            let turn = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            segments.iter().map(|s| !s.here && turn.is_multiple_of(2)).collect()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever comes in pieces between, what a split says is here is, what it says comes is there once it came, and no more
        /// memory is real than there is room for.
        #[test]
        fn pages_are_where_a_split_says(
            steps in prop::collection::vec((0usize..3, prop::collection::vec(any::<bool>(), PAGES), 0usize..4), 1..40),
            pages in PAGES..3 * PAGES,
        ) {
            let room = HeldRoom::new(pages * PAGE, LONG).with_chooser(Arc::new(InTurn(0.into())));
            let views = [view(), view(), view()];
            let (mut away, mut fetched) = (0, 0);
            for (group, full, pieces) in steps {
                let places = [(views[group].clone(), PAGE)];
                let sides = room.split("test", &places, &offsets(&full)).unwrap();
                let of = |side: Side| (0..PAGES).map(|p| full[p] && sides[p] == side).collect::<Vec<_>>();
                let there = |full: &[bool]| {
                    (0..PAGES).filter(|p| full[*p]).all(|p| {
                        let mut bytes = [0u8; PAGE];
                        views[group].read(p * PAGE, &mut bytes).unwrap();
                        bytes == [p as u8 + 1; PAGE]
                    })
                };
                prop_assert!(there(&of(Side::Here)));
                let come = offsets(&of(Side::Come));
                room.come("test", &places, &come, &mut |pages| fill(&views[group], pages)).unwrap();
                away += of(Side::Away).iter().filter(|a| **a).count() as u64;
                let next = [(views[(group + 1) % 3].clone(), PAGE)];
                for _ in 0..pieces {
                    let Some(piece) = room.next_piece(&next).unwrap() else { break };
                    let page = (piece.at / PAGE) as u8 + 1;
                    next[0].0.write(piece.at, &vec![page; piece.len]).unwrap();
                    room.piece_came(&next, piece);
                    fetched += 1;
                }
                prop_assert!(there(&of(Side::Here)) && there(&of(Side::Come)));
                let state = room.state.lock().unwrap();
                let real = |g: &Group| g.pages.iter().filter(|p| p.there).count();
                let all = state.groups.values().map(real).sum::<usize>() + state.partial.len();
                prop_assert_eq!(state.used, all * PAGE);
                prop_assert!(state.used <= room.bytes());
            }
            let counts = room.counts();
            prop_assert_eq!((counts.away, counts.bytes), (away, (counts.brought + fetched) * PAGE as u64));
        }
    }

    #[test]
    fn what_is_used_most_comes_in_pieces_while_nothing_else_does() {
        #[derive(Debug)]
        struct Away;
        impl Chooser for Away {
            fn away(&self, segments: &[Segment]) -> Vec<bool> {
                segments.iter().map(|s| !s.here).collect()
            }
        }
        let page = 2 * PIECE + UNIT;
        let big =
            || Arena::new("host", usize::MAX).alloc_sparse(PAGES * page).map(Buffer::into_view).unwrap();
        let room = HeldRoom::new((3 + PASSING) * page, LONG).with_chooser(Arc::new(Away));
        let places = [(big(), page)];
        let other = [(big(), page)];
        let full = |p: usize| offsets(&(0..PAGES).map(|i| i == p).collect::<Vec<_>>());
        let pieces = |places: &[(View, usize)]| {
            let mut came = vec![];
            while let Some(piece) = room.next_piece(places).unwrap() {
                room.piece_came(places, piece);
                came.push((piece.at / page, piece.len));
            }
            came
        };
        // Nothing was used yet.
        assert_eq!(pieces(&places), []);
        let split = |places: &[(View, usize)], p: usize| room.split("test", places, &full(p)).unwrap()[p];
        for (p, times) in [(2, 1), (5, 3), (7, 2), (1, 1)] {
            (0..times).for_each(|_| assert_eq!(split(&places, p), Side::Away));
        }
        split(&other, 0);
        // The most used first, each in three pieces, until there is no room: what was used as little stays away.
        let whole = |p: usize| [(p, PIECE), (p, PIECE), (p, UNIT)];
        let came = pieces(&places);
        assert_eq!(came[..6], [whole(5), whole(7)].concat());
        assert_eq!((came.len(), split(&places, 5)), (9, Side::Here));
        split(&other, 0);
        // What is used much more comes in place of the least.
        let last = came[8].0;
        let rare = if last == 1 { 2 } else { 1 };
        (0..3).for_each(|_| assert_eq!(split(&places, rare), Side::Away));
        split(&other, 0);
        assert_eq!(pieces(&places), whole(rare));
        split(&other, 0);
        assert_eq!((split(&places, rare), split(&places, last)), (Side::Here, Side::Away));
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
