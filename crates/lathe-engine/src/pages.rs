//! The block manager: who holds which page of the cache.
//!
//! A page is free or has as many holders as tables name it. A table may be forked, which shares its pages; a shared page is
//! never written: whoever wants to write gets a copy first. A table must go back through [`Pages::release`].

use crate::EngineError;
use crate::forward::PAGE;

/// Every page of a cache: the free ones, and the holders of the others.
#[derive(Clone, Debug)]
pub struct Pages {
    free: Vec<u32>,
    holders: Vec<u32>,
}

/// The pages of one sequence: position `p` is in page `p / PAGE` of it.
#[derive(Debug, Default)]
pub struct PageTable(Vec<u32>);

/// A page whose content must be copied before the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCopy {
    /// The page to read.
    pub from: u32,
    /// The page to write.
    pub to: u32,
}

impl PageTable {
    /// The pages in order.
    pub fn pages(&self) -> &[u32] {
        &self.0
    }
}

impl Pages {
    /// A cache of `count` free pages.
    pub fn new(count: usize) -> Pages {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Pages { free: (0..count).rev().collect(), holders: vec![0; count as usize] }
    }

    /// All pages.
    pub fn total(&self) -> usize {
        self.holders.len()
    }

    /// Pages that nobody holds.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Makes positions `start..end` of `table` its own to write: adds pages at its end, and replaces shared ones in the
    /// range by new ones, for which it says what to copy. On an error nothing has changed.
    pub fn reserve(
        &mut self,
        table: &mut PageTable,
        start: usize,
        end: usize,
    ) -> Result<Vec<PageCopy>, EngineError> {
        let have = table.0.len();
        let pages = end.div_ceil(PAGE);
        let shared: Vec<usize> =
            (start / PAGE..pages.min(have)).filter(|&i| self.holders[table.0[i] as usize] > 1).collect();
        let needed = shared.len() + pages.saturating_sub(have);
        if needed > self.free() {
            return Err(EngineError::OutOfPages { needed, pages: self.free() });
        }
        let copies = shared.into_iter().filter_map(|i| {
            let copy = PageCopy { from: table.0[i], to: self.take()? };
            self.holders[copy.from as usize] -= 1;
            table.0[i] = copy.to;
            Some(copy)
        });
        let copies = copies.collect();
        table.0.extend((have..pages).filter_map(|_| self.take()));
        Ok(copies)
    }

    /// A second table of the same pages.
    pub fn fork(&mut self, table: &PageTable) -> PageTable {
        for &page in &table.0 {
            self.holders[page as usize] += 1;
        }
        PageTable(table.0.clone())
    }

    /// Takes a table's pages back; `table` is empty then.
    pub fn release(&mut self, table: &mut PageTable) {
        for page in std::mem::take(&mut table.0) {
            let holders = &mut self.holders[page as usize];
            *holders -= 1;
            if *holders == 0 {
                self.free.push(page);
            }
        }
    }

    fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.holders[page as usize] = 1;
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Action {
        Start,
        Write { table: usize, back: usize, tokens: usize },
        Fork(usize),
        Release(usize),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            1 => Just(Action::Start),
            4 => (0usize..8, 0usize..20, 1usize..50)
                .prop_map(|(table, back, tokens)| Action::Write { table, back, tokens }),
            1 => (0usize..8).prop_map(Action::Fork),
            1 => (0usize..8).prop_map(Action::Release),
        ]
    }

    /// Pages are free or held by exactly as many tables as the count says.
    fn check(pages: &Pages, tables: &[(PageTable, Vec<u32>)]) {
        let mut holders = vec![0; pages.total()];
        tables.iter().flat_map(|(table, _)| table.pages()).for_each(|&page| holders[page as usize] += 1);
        assert_eq!(holders, pages.holders);
        let mut free = pages.free.clone();
        free.sort_unstable();
        free.dedup();
        assert_eq!(free.len(), pages.free());
        assert!(free.iter().all(|&page| holders[page as usize] == 0));
        assert_eq!(holders.iter().filter(|&&n| n == 0).count(), pages.free());
    }

    proptest! {
        /// Every sequence reads back what it wrote, whoever shares its pages, and no page is lost.
        #[test]
        fn sharing_is_never_seen_and_nothing_leaks(actions in prop::collection::vec(action(), 1..120)) {
            let mut pages = Pages::new(12);
            let mut cache = [0u32; 12 * PAGE];
            let mut tables: Vec<(PageTable, Vec<u32>)> = Vec::new();
            let mut stamp = 0;
            for action in actions {
                match action {
                    Action::Start if tables.len() < 8 => tables.push(Default::default()),
                    Action::Write { table, back, tokens } if table < tables.len() => {
                        let (table, known) = &mut tables[table];
                        let start = known.len().saturating_sub(back);
                        let before = (table.pages().to_vec(), pages.free());
                        match pages.reserve(table, start, start + tokens) {
                            Err(_) => prop_assert_eq!(before, (table.pages().to_vec(), pages.free())),
                            Ok(copies) => {
                                for PageCopy { from, to } in copies {
                                    let from = from as usize * PAGE;
                                    cache.copy_within(from..from + PAGE, to as usize * PAGE);
                                }
                                known.resize(known.len().max(start + tokens), 0);
                                for position in start..start + tokens {
                                    stamp += 1;
                                    known[position] = stamp;
                                    cache[table.pages()[position / PAGE] as usize * PAGE + position % PAGE] = stamp;
                                }
                            }
                        }
                    }
                    Action::Fork(table) if table < tables.len() && tables.len() < 8 => {
                        let twin = (pages.fork(&tables[table].0), tables[table].1.clone());
                        tables.push(twin);
                    }
                    Action::Release(table) if table < tables.len() => {
                        pages.release(&mut tables.swap_remove(table).0);
                    }
                    _ => {}
                }
                check(&pages, &tables);
                for (table, known) in &tables {
                    for (position, &value) in known.iter().enumerate() {
                        let slot = table.pages()[position / PAGE] as usize * PAGE + position % PAGE;
                        prop_assert_eq!(cache[slot], value);
                    }
                }
            }
            tables.iter_mut().for_each(|(table, _)| pages.release(table));
            prop_assert_eq!(pages.free(), pages.total());
        }
    }
}
