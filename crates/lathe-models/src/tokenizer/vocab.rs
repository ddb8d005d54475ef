//! The vocabulary: the bytes of each token in one buffer, and the way back by hash.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

/// Tokens by id and by bytes.
#[derive(Debug)]
pub(super) struct Vocab {
    bytes: Vec<u8>,
    /// Token `i` is `bytes[ends[i]..ends[i + 1]]`.
    ends: Vec<u32>,
    by_bytes: HashTable<u32>,
}

impl Vocab {
    pub(super) fn with_capacity(tokens: usize) -> Vocab {
        let mut ends = Vec::with_capacity(tokens + 1);
        ends.push(0);
        Vocab { bytes: Vec::with_capacity(tokens * 8), ends, by_bytes: HashTable::with_capacity(tokens) }
    }

    /// Adds the next token, whose bytes `append` writes; where two tokens have the same bytes, the first is found, and one
    /// that is not `found` never is. `None` when the vocabulary is full.
    pub(super) fn push(&mut self, found: bool, append: impl FnOnce(&mut Vec<u8>)) -> Option<()> {
        let id = u32::try_from(self.len()).ok()?;
        let start = self.bytes.len();
        append(&mut self.bytes);
        self.ends.push(u32::try_from(self.bytes.len()).ok()?);
        if !found {
            return Some(());
        }
        let Vocab { bytes, ends, by_bytes } = self;
        let new = &bytes[start..];
        let of = |id: u32| &bytes[ends[id as usize] as usize..ends[id as usize + 1] as usize];
        by_bytes
            .entry(FxBuildHasher.hash_one(new), |&id| of(id) == new, |&id| FxBuildHasher.hash_one(of(id)))
            .or_insert(id);
        Some(())
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len() - 1
    }

    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        match (self.ends.get(id), self.ends.get(id.wrapping_add(1))) {
            (Some(&start), Some(&end)) => &self.bytes[start as usize..end as usize],
            _ => &[],
        }
    }

    pub(super) fn find(&self, bytes: &[u8]) -> Option<u32> {
        self.by_bytes.find(FxBuildHasher.hash_one(bytes), |&id| self.bytes(id) == bytes).copied()
    }
}
