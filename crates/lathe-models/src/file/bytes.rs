//! The bytes of one file: memory-mapped, or in memory already.

use std::fs::File;
use std::io::Error;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The bytes of one file; a clone is another handle to the same.
#[derive(Clone, Debug)]
pub(crate) enum Bytes {
    /// A mapping of the file.
    Mapped(Arc<memmap2::Mmap>),
    /// A copy.
    Owned(Arc<Vec<u8>>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(vec) => vec,
        }
    }
}

impl Bytes {
    /// Maps the file at `path`; an error with what was tried, `open` or `map`.
    ///
    /// The file must not be shortened while it is open: the system then ends the process at the first access.
    pub(crate) fn map(path: &Path) -> Result<Bytes, (&'static str, Error)> {
        let open = |error| ("open", error);
        let file = File::open(path).map_err(open)?;
        let meta = file.metadata().map_err(open)?;
        if !meta.is_file() {
            let what = if meta.is_dir() { "it is a folder" } else { "it is not a plain file" };
            return Err(open(Error::other(what)));
        }
        if meta.len() == 0 {
            return Ok(Bytes::Owned(Arc::default()));
        }
        #[allow(unsafe_code, reason = "mapping a file is the only way not to copy it")]
        // SAFETY: the mapping is private and read-only, and nothing is derived from its bytes that another process's
        // write could make unsound: every later read is of plain bytes with a bounds check.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|error| ("map", error))?;
        Ok(Bytes::Mapped(Arc::new(map)))
    }

    /// Gives the memory of a range's pages back to the system; a later read fetches them from the file again.
    pub(crate) fn drop_pages(&self, range: &Range<usize>) {
        if let Bytes::Mapped(map) = self
            && range.end <= map.len()
        {
            #[allow(unsafe_code, reason = "memmap2 marks every advice that discards pages as unsafe")]
            // SAFETY: the mapping is backed by the file and never written, so discarding pages loses nothing.
            let advice = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
            // Advice: where the system refuses it, the pages merely stay.
            let _ = advice;
        }
    }
}
