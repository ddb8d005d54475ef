//! The tier below the cache: a scratch file that holds pages of sequences that had to give way.
//!
//! On a processor the cache is host memory already, and more of that is a larger cache; so what is below it is a disk. A page of the
//! tier has the keys and values of all layers, one behind the other.

use std::path::Path;
use std::time::Duration;

use lathe_diagnostic::{Diagnostic, Fault};
use lathe_runtime::{Arena, DiskFile, View};

use crate::EngineError;
use crate::error::below;
use crate::pages::PageCopy;

/// Pages begin at multiples of this many bytes, so that the disk moves them past the page cache.
const SECTOR: usize = 4096;
/// So many bytes are moved at once, if a page is not larger. Memory of this size begins at a sector.
const AT_ONCE: usize = 4 << 20;

/// Bytes of a page of the tier for so many of keys and values.
pub(crate) fn page_bytes(bytes: usize) -> usize {
    bytes.next_multiple_of(SECTOR)
}

/// How many pages fit into `bytes`, where one takes `page` bytes; refused where none does.
pub(crate) fn pages_in(bytes: u64, page: usize) -> Result<usize, EngineError> {
    match usize::try_from(bytes / page as u64).unwrap_or(usize::MAX).min(u32::MAX as usize) {
        0 => {
            let what = format!("{bytes} bytes to swap to hold no page: one has {page} bytes");
            let d = Diagnostic::new("swap-too-small", Fault::User, what);
            Err(below(d.fix("raise --swap to room for a few sequences, or leave it out")))
        }
        pages => Ok(pages),
    }
}

/// Pages on a disk.
pub(crate) struct SwapFile {
    disk: DiskFile,
    /// Bytes of a page of the tier.
    page: usize,
    pages: usize,
    /// What pages are moved through.
    window: View,
}

impl SwapFile {
    /// Room for so many pages of `page` bytes, whole sectors.
    pub(crate) fn new(folder: &Path, pages: usize, page: usize) -> Result<SwapFile, EngineError> {
        let disk = DiskFile::scratch(folder, (pages * page) as u64).map_err(below)?;
        let window = Arena::new("host", usize::MAX).alloc(AT_ONCE.max(page)).map_err(below)?.into_view();
        Ok(SwapFile { disk, page, pages, window })
    }

    /// How many pages it holds.
    pub(crate) fn pages(&self) -> usize {
        self.pages
    }

    /// Bytes of a page.
    pub(crate) fn page_bytes(&self) -> usize {
        self.page
    }

    /// Writes pages, each of which `gather` brings to its place in the window.
    pub(crate) fn write(
        &self,
        pages: &[PageCopy],
        gather: &dyn Fn(u32, &View, usize) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        for pages in pages.chunks((self.window.len() / self.page).max(1)) {
            for (n, copy) in pages.iter().enumerate() {
                gather(copy.from, &self.window, n * self.page)?;
            }
            let pieces: Vec<_> = pages.iter().enumerate().map(|(n, copy)| self.piece(n, copy.to)).collect();
            self.disk.write_pieces(&pieces, &self.window).map_err(below)?;
        }
        Ok(())
    }

    /// Reads pages, each of which `scatter` takes from its place in the window.
    pub(crate) fn read(
        &self,
        pages: &[PageCopy],
        scatter: &dyn Fn(u32, &View, usize) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        for pages in pages.chunks((self.window.len() / self.page).max(1)) {
            let pieces: Vec<_> = pages.iter().enumerate().map(|(n, copy)| self.piece(n, copy.from)).collect();
            self.disk.read_pieces(&pieces, &self.window).map_err(below)?;
            for (n, copy) in pages.iter().enumerate() {
                scatter(copy.to, &self.window, n * self.page)?;
            }
        }
        Ok(())
    }

    fn piece(&self, place: usize, page: u32) -> (u64, usize, usize) {
        (u64::from(page) * self.page as u64, place * self.page, self.page)
    }
}

/// What the ways to bring a sequence back cost, in seconds; 0 is what nobody has measured yet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SwapCosts {
    /// To write a page to the tier below.
    pub write_s: f64,
    /// To read a page from there.
    pub read_s: f64,
    /// To compute a token again.
    pub token_s: f64,
}

impl SwapCosts {
    /// Whether to write so many pages and to read so many costs less than to compute so many tokens.
    pub(crate) fn pays(&self, written: usize, read: usize, tokens: usize) -> bool {
        written as f64 * self.write_s + read as f64 * self.read_s < tokens as f64 * self.token_s
    }

    /// Moves a number towards what was measured of `count` things.
    pub(crate) fn see(number: &mut f64, took: Duration, count: usize) {
        let seen = took.as_secs_f64() / count.max(1) as f64;
        *number = if *number == 0.0 { seen } else { 0.75 * *number + 0.25 * seen };
    }
}
