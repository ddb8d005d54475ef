//! The adapters that a model has beside it: which of its places each one is in, and which places are free.

use crate::EngineError;

/// An adapter that was loaded, or none. It names one load: a later one in the same place is another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterId {
    /// Its place in the model; 0 is none.
    pub(crate) place: u32,
    /// Counts the loads.
    pub(crate) serial: u64,
}

impl AdapterId {
    /// The model alone.
    pub const NONE: AdapterId = AdapterId { place: 0, serial: 0 };
}

/// Who is in which place.
#[derive(Debug)]
pub(crate) struct Places {
    /// The adapters that requests may name, by place from 1 on.
    loaded: Vec<Option<AdapterId>>,
    serial: u64,
}

impl Places {
    /// So many free places.
    pub(crate) fn new(count: usize) -> Places {
        Places { loaded: vec![None; count], serial: 0 }
    }

    /// A free place for another adapter. One that was taken out is free once none of the running requests uses it.
    pub(crate) fn take(&mut self, used: impl Fn(u32) -> bool) -> Result<AdapterId, EngineError> {
        if self.loaded.is_empty() {
            return Err(EngineError::NoAdapters);
        }
        let places = self.loaded.len();
        let (place, free) = (1..)
            .zip(&mut self.loaded)
            .find(|(place, loaded)| loaded.is_none() && !used(*place))
            .ok_or(EngineError::AdaptersFull { places })?;
        self.serial += 1;
        let id = AdapterId { place, serial: self.serial };
        *free = Some(id);
        Ok(id)
    }

    /// Takes an adapter out. Says whether it was there.
    pub(crate) fn free(&mut self, id: AdapterId) -> bool {
        let found = self.loaded.iter_mut().find(|loaded| **loaded == Some(id));
        found.map(Option::take).is_some()
    }

    /// Whether a request may name it.
    pub(crate) fn has(&self, id: AdapterId) -> bool {
        id == AdapterId::NONE || self.loaded.contains(&Some(id))
    }
}
