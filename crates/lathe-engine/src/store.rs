//! Packed weights in a file, in the order in which a step reads them.

use crate::EngineError;
use crate::error::below;
use crate::report::Stage;
use lathe_compile::Compiled;
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_ir::Name;
use lathe_models::ModelFile;
use lathe_rewrite::Extent;
use lathe_runtime::{Arena, DiskFile, View};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Packed weights on a disk.
pub(crate) struct Store {
    pub disk: Arc<DiskFile>,
    /// Where each is, in the order of the file; up to the next one.
    pub extents: Vec<Extent>,
    /// The length of each without what lies between.
    pub lengths: Vec<usize>,
}

impl Store {
    /// Where the store of a model is that is compiled so: named by what its bytes follow from.
    pub fn path(folder: &Path, file: &ModelFile, compiled: &Compiled) -> Result<PathBuf, EngineError> {
        let mut hash = blake3::Hasher::new();
        let mut add = |text: String| {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        add(compiled.packing.clone());
        // The model's own bytes are known by their place and date: reading them all would take longer than packing them.
        let mut stem = "model".to_string();
        if let Some(path) = file.path() {
            stem = path.file_stem().map_or(stem, |s| s.to_string_lossy().into_owned());
            let said = |e: &std::io::Error| {
                let what = format!("cannot look at the model's file: {e}");
                below(Diagnostic::new("model-file", Fault::Environment, what).at(path.display().to_string()))
            };
            let path = path.canonicalize().map_err(|e| said(&e))?;
            let data = std::fs::metadata(&path).map_err(|e| said(&e))?;
            add(format!("{} {} {} {}", path.display(), data.len(), data.mtime(), data.mtime_nsec()));
        }
        Ok(folder.join(format!("{stem}-{}.store", &hash.finalize().to_hex()[..16])))
    }

    /// Opens a store that [`crate::weights::Packing::into_store`] wrote.
    pub fn open(path: &Path) -> Result<Store, EngineError> {
        let (disk, note) = DiskFile::open_store(path).map_err(below)?;
        let note = String::from_utf8_lossy(&note);
        let line = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let offset = words.next()?.parse::<i64>().ok()?;
            let len = words.next()?.parse::<usize>().ok()?;
            Some((Name::from(words.next()?), offset, len))
        };
        let rows: Option<Vec<(Name, i64, usize)>> = note.lines().map(line).collect();
        let damaged = || {
            let d = Diagnostic::new(
                "store-malformed",
                Fault::Environment,
                "the store's list of weights is damaged",
            );
            below(d.at(path.display().to_string()).fix("remove it, it is made again"))
        };
        let rows = rows.ok_or_else(damaged)?;
        let end = |row: usize| rows.get(row + 1).map_or(disk.len() as i64, |(_, offset, _)| *offset);
        let extent = |(i, (name, offset, _)): (usize, &(Name, i64, usize))| Extent {
            name: name.clone(),
            offset: *offset,
            len: end(i) - offset,
            reader: 0,
        };
        let extents: Vec<Extent> = rows.iter().enumerate().map(extent).collect();
        let whole = |(e, (_, _, len)): (&Extent, &(Name, i64, usize))| e.offset >= 0 && e.len >= *len as i64;
        if !extents.iter().zip(&rows).all(whole) {
            return Err(damaged());
        }
        let lengths = rows.into_iter().map(|(_, _, len)| len).collect();
        Ok(Store { disk: Arc::new(disk), extents, lengths })
    }

    /// Reads weights that are kept into memory of `arena`.
    pub fn keep(
        &self,
        kept: &[Extent],
        arena: &Arena,
        given: &mut HashMap<Name, View>,
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<(), EngineError> {
        let all: i64 = kept.iter().map(|e| e.len).sum();
        // One allocation, in huge pages.
        let memory = arena.alloc(all as usize).map_err(below)?.into_view();
        let lengths: HashMap<&Name, usize> =
            self.extents.iter().map(|e| &e.name).zip(self.lengths.iter().copied()).collect();
        let mut at = 0;
        for (done, e) in kept.iter().enumerate() {
            progress(Stage::Read, done, kept.len());
            let part = memory.part(at, e.len as usize).map_err(below)?;
            self.disk.read(e.offset as u64, &part).map_err(below)?;
            given.insert(e.name.clone(), part.part(0, lengths[&e.name]).map_err(below)?);
            at += e.len as usize;
        }
        progress(Stage::Read, kept.len(), kept.len());
        Ok(())
    }
}
