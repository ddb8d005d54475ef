//! What lies below the memory that computes: a file on a disk, or, where the memory is a device's, the memory of its host.

use crate::EngineError;
use crate::error::below;
use crate::offload::{BELOW, DISK};
use lathe_exec::Places;
use lathe_runtime::{DiskFile, View};
use std::path::Path;
use std::sync::Arc;

/// Some bytes that are copied from and to.
#[derive(Clone)]
pub(crate) enum Lower {
    File(Arc<DiskFile>),
    Memory(View),
}

impl Lower {
    /// The name of its tier.
    pub fn tier(&self) -> &'static str {
        match self {
            Lower::File(_) => DISK,
            Lower::Memory(_) => BELOW,
        }
    }

    /// The file, where it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Lower::File(file) => Some(file.path()),
            Lower::Memory(_) => None,
        }
    }

    /// Lets a program know it by a name.
    pub fn give(&self, name: &str, places: &mut Places) {
        match self {
            Lower::File(file) => drop(places.files.insert(name.into(), file.clone())),
            Lower::Memory(view) => drop(places.given.insert(name.into(), view.clone())),
        }
    }

    /// Reads as many bytes as `target` has, from `offset` on.
    pub fn read(&self, offset: u64, target: &View) -> Result<(), EngineError> {
        self.read_pieces(&[(offset, 0, target.len())], target)
    }

    /// Reads pieces: from which byte, to which byte of `target`, how many.
    pub fn read_pieces(&self, pieces: &[(u64, usize, usize)], target: &View) -> Result<(), EngineError> {
        match self {
            Lower::File(file) => file.read_pieces(pieces, target).map_err(below),
            Lower::Memory(view) => pieces.iter().try_for_each(|(from, to, len)| {
                target.copy(*to, &view.part(*from as usize, *len).map_err(below)?).map_err(below)
            }),
        }
    }

    /// Writes pieces: to which byte, from which byte of `source`, how many.
    pub fn write_pieces(&self, pieces: &[(u64, usize, usize)], source: &View) -> Result<(), EngineError> {
        match self {
            Lower::File(file) => file.write_pieces(pieces, source).map_err(below),
            Lower::Memory(view) => pieces.iter().try_for_each(|(to, from, len)| {
                view.copy(*to as usize, &source.part(*from, *len).map_err(below)?).map_err(below)
            }),
        }
    }
}
