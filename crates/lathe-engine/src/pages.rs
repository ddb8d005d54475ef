//! The block manager: who holds which page of the cache, and what the pages that nobody holds still know.
//!
//! A page has as many holders as tables name it. A table may be forked, which shares its pages; a shared page is never written:
//! whoever wants to write gets a copy first. A table must go back through [`Pages::release`].
//!
//! A page that is full and computed is *published* under its content, a hash of all tokens up to its end and of the kind of
//! computation. A table may
//! [`adopt`](Pages::adopt) the published pages that its tokens begin with. When nobody holds a published page it stays for
//! whoever comes, until its place is needed; the page that was left longest ago goes first.

use std::collections::{BTreeSet, HashMap};

use crate::EngineError;
use crate::forward::PAGE;

/// What a full page holds: a hash of all tokens from the sequence's first to the page's last. It is a cryptographic one, so that
/// nobody can make two texts share a page that they should not.
type Content = [u8; 16];

/// The most pages that forget what they know at once.
const RUN: usize = 16;

/// Every page of a cache: the free ones, and the holders of the others.
#[derive(Clone, Debug)]
pub struct Pages {
    /// Free pages that know nothing.
    blank: Vec<u32>,
    /// Free pages that are published, by the time they were left.
    idle: BTreeSet<(u64, u32)>,
    published: HashMap<Content, u32>,
    each: Vec<Page>,
    /// Pages of more than one holder.
    shared: usize,
    /// Counts pages as they are left.
    clock: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Page {
    holders: u32,
    content: Option<Content>,
    left: u64,
}

/// The pages of one sequence: position `p` is in page `p / PAGE` of it.
#[derive(Debug, Default)]
pub struct PageTable {
    pages: Vec<u32>,
    /// The contents of its first pages, as far as they are published or were adopted.
    contents: Vec<Content>,
    /// What its tokens are computed with.
    kind: u64,
}

/// A page whose content must be copied before the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCopy {
    /// The page to read.
    pub from: u32,
    /// The page to write.
    pub to: u32,
}

/// How the pages of a cache are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageUse {
    /// All pages.
    pub total: usize,
    /// Pages that somebody holds.
    pub held: usize,
    /// Of these, pages that several hold.
    pub shared: usize,
    /// Pages that nobody holds and that are kept for who may want them.
    pub kept: usize,
}

impl PageTable {
    /// An empty table. The same tokens are the same content in tables of one kind only: kinds compute them differently.
    pub fn new(kind: u64) -> PageTable {
        PageTable { kind, ..PageTable::default() }
    }

    /// The pages in order.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }
}

impl Pages {
    /// A cache of `count` free pages.
    pub fn new(count: usize) -> Pages {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Pages {
            blank: (0..count).rev().collect(),
            idle: BTreeSet::new(),
            published: HashMap::new(),
            each: vec![Page::default(); count as usize],
            shared: 0,
            clock: 0,
        }
    }

    /// All pages.
    pub fn total(&self) -> usize {
        self.each.len()
    }

    /// Pages that nobody holds.
    pub fn free(&self) -> usize {
        self.blank.len() + self.idle.len()
    }

    /// How they are used.
    pub fn usage(&self) -> PageUse {
        PageUse {
            total: self.total(),
            held: self.total() - self.free(),
            shared: self.shared,
            kept: self.idle.len(),
        }
    }

    /// Gives an empty table the published pages that `tokens` begin with. Says how many tokens these hold.
    pub fn adopt(&mut self, table: &mut PageTable, tokens: &[u32]) -> usize {
        for tokens in tokens.chunks_exact(PAGE) {
            let content = content(table, tokens);
            let Some(&page) = self.published.get(&content) else { break };
            self.hold(page);
            table.pages.push(page);
            table.contents.push(content);
        }
        table.pages.len() * PAGE
    }

    /// Publishes the full pages of `table`, whose positions hold `tokens`. Of two pages that hold the same one is kept, and the
    /// table has that.
    pub fn publish(&mut self, table: &mut PageTable, tokens: &[u32]) {
        let known = table.contents.len();
        for (index, tokens) in tokens.chunks_exact(PAGE).enumerate().skip(known) {
            let content = content(table, tokens);
            table.contents.push(content);
            let own = table.pages[index];
            match self.published.get(&content) {
                Some(&page) if page != own => {
                    self.hold(page);
                    self.leave(own);
                    table.pages[index] = page;
                }
                Some(_) => {}
                None => {
                    self.published.insert(content, own);
                    self.each[own as usize].content = Some(content);
                }
            }
        }
    }

    /// Makes positions `start..end` of `table` its own to write: adds pages at its end, and replaces shared ones in the
    /// range by new ones, for which it says what to copy. On an error nothing has changed. No position in the range may be
    /// on a page that the table has published.
    pub fn reserve(
        &mut self,
        table: &mut PageTable,
        start: usize,
        end: usize,
    ) -> Result<Vec<PageCopy>, EngineError> {
        debug_assert!(start / PAGE >= table.contents.len(), "a published page is written");
        let have = table.pages.len();
        let pages = end.div_ceil(PAGE);
        let shared = |i: &usize| {
            let page = &self.each[table.pages[*i] as usize];
            page.holders > 1 || page.content.is_some()
        };
        let shared: Vec<usize> = (start / PAGE..pages.min(have)).filter(shared).collect();
        let needed = shared.len() + pages.saturating_sub(have);
        if needed > self.free() {
            return Err(EngineError::OutOfPages { needed, pages: self.free() });
        }
        let copies = shared.into_iter().filter_map(|i| {
            let copy = PageCopy { from: table.pages[i], to: self.take()? };
            self.leave(copy.from);
            table.pages[i] = copy.to;
            Some(copy)
        });
        let copies = copies.collect();
        // One behind the other, where they can be: a step reads a sequence's pages in their order.
        let mut new: Vec<u32> = (have..pages).filter_map(|_| self.take()).collect();
        new.sort_unstable();
        table.pages.extend(new);
        Ok(copies)
    }

    /// A second table that shares the pages of the first `tokens` positions.
    pub fn fork(&mut self, table: &PageTable, tokens: usize) -> PageTable {
        let pages = table.pages[..tokens.div_ceil(PAGE)].to_vec();
        pages.iter().for_each(|&page| self.hold(page));
        PageTable { pages, contents: table.contents.clone(), kind: table.kind }
    }

    /// Takes a table's pages back; `table` is empty then.
    pub fn release(&mut self, table: &mut PageTable) {
        // The last goes first: a page is found by way of those before it.
        table.contents.clear();
        for page in std::mem::take(&mut table.pages).into_iter().rev() {
            self.leave(page);
        }
    }

    /// Forgets what free pages know, and publishes no page that is held.
    pub fn forget(&mut self) {
        self.published.clear();
        self.each.iter_mut().for_each(|page| page.content = None);
        let idle = std::mem::take(&mut self.idle);
        self.blank.extend(idle.into_iter().map(|(_, page)| page));
    }

    fn hold(&mut self, index: u32) {
        let page = &mut self.each[index as usize];
        if page.holders == 0 {
            self.idle.remove(&(page.left, index));
        }
        page.holders += 1;
        self.shared += usize::from(page.holders == 2);
    }

    fn leave(&mut self, index: u32) {
        let page = &mut self.each[index as usize];
        page.holders -= 1;
        self.shared -= usize::from(page.holders == 1);
        if page.holders > 0 {
            return;
        }
        match page.content {
            None => self.blank.push(index),
            Some(_) => {
                self.clock += 1;
                page.left = self.clock;
                self.idle.insert((page.left, index));
            }
        }
    }

    /// A free page, which now has one holder and knows nothing.
    fn take(&mut self) -> Option<u32> {
        if self.blank.is_empty() {
            // Of those that were left together the last one goes first. A few are taken at once, for their order.
            let few = (self.each.len() / 64).clamp(1, RUN);
            let mut run: Vec<u32> =
                (0..few).map_while(|_| self.idle.pop_first()).map(|(_, index)| index).collect();
            for index in &run {
                let content = self.each[*index as usize].content.take();
                content.and_then(|content| self.published.remove(&content));
            }
            run.sort_unstable_by(|a, b| b.cmp(a));
            self.blank = run;
        }
        let index = self.blank.pop()?;
        self.each[index as usize].holders = 1;
        Some(index)
    }
}

/// The content of a page of these tokens, behind those of a table.
fn content(table: &PageTable, tokens: &[u32]) -> Content {
    let mut hasher = blake3::Hasher::new();
    let kind = table.kind.to_le_bytes();
    hasher.update(table.contents.last().map_or(&kind, |content| content.as_slice()));
    tokens.iter().for_each(|token| {
        hasher.update(&token.to_le_bytes());
    });
    let mut content = [0; 16];
    content.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    content
}

#[cfg(test)]
mod tests;
