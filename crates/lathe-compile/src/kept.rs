//! Compiled plans on disk, found by what they are made from: a graph that was compiled before is read, and nothing is lowered,
//! scheduled or written as C again. A kept plan is what [`Draft::text`](crate::Draft::text) says, behind a line with a stamp, the key of
//! its library and a checksum.
//!
//! The file's name hashes graph, passes, classes and processor; the stamp what may change while these stay: this program itself,
//! known by its file's length and date, the compiler, and what tuning found. A file with another stamp is written anew, so there is
//! one of each graph, not one of each version.

use crate::{CompileError, Compiled, Findings, Options, load_stored};
use lathe_ir::graph::Graph;
use lathe_runtime::{BuildRequest, KernelCache, write_whole};
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

/// Where the plan of a graph is kept, and what it must have been made by.
pub(crate) struct Kept {
    path: PathBuf,
    cache: PathBuf,
    /// None where this program cannot be told from others: then nothing is kept.
    stamp: Option<String>,
}

/// Digits of hashes.
const DIGITS: usize = 32;

fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.finalize().to_hex()[..DIGITS].to_string()
}

/// This program's file: its length and date.
fn this_program() -> Option<String> {
    let data = std::env::current_exe().and_then(std::fs::metadata).ok()?;
    let date = data.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{} {}", data.len(), date.as_nanos()))
}

impl Kept {
    /// The place of the plan of a graph that is compiled so.
    pub fn of(graph: &Graph, options: &Options<'_>) -> Result<Kept, CompileError> {
        let Options { target, cache, passes, classes } = *options;
        let compiler = KernelCache::new(cache).key(&BuildRequest::new(vec![], target))?;
        let found = std::fs::read(Findings::path(cache, target)).unwrap_or_default();
        let stamp = this_program().map(|p| hash(&[p.as_bytes(), compiler.as_bytes(), &found]));
        let how = format!("{passes:?} {classes:?} {target:?}");
        let name = hash(&[graph.to_string().as_bytes(), how.as_bytes()]);
        let path = cache.join("plans").join(format!("{name}.plan"));
        Ok(Kept { path, cache: cache.to_path_buf(), stamp })
    }

    /// The plan with its code loaded, where both are there and whole.
    pub fn read(&self, names: &[&'static str]) -> Option<Compiled> {
        let stamp = self.stamp.as_ref()?;
        let text = std::fs::read_to_string(&self.path).ok()?;
        let (head, text) = text.split_once('\n')?;
        let [of, library, checksum] = head.splitn(3, ' ').collect::<Vec<_>>().try_into().ok()?;
        if of != stamp || checksum != hash(&[text.as_bytes()]) {
            return None;
        }
        let library = KernelCache::new(&self.cache).load_known(library)?;
        load_stored(text, library, names).ok()
    }

    /// Keeps a plan whose code has this key. Where it cannot be written, it is made again next time.
    pub fn write(&self, library: &str, text: &str) {
        let Some(stamp) = &self.stamp else { return };
        let head = format!("{stamp} {library} {}\n", hash(&[text.as_bytes()]));
        let _ = write_whole(&self.path, (head + text).as_bytes());
    }
}
