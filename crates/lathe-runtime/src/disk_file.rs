//! A file as a tier: bytes that kernels reach only after they are copied to memory.
//!
//! A store ([`StoreWriter`], [`DiskFile::open_store`]) is a file of blocks, each with a checksum that every reading compares, and
//! a note of whoever wrote it. Stores and scratch files are read and written past the page cache where the file system
//! allows it, several pieces at once: through `io_uring` where the kernel has it, else by threads.

mod direct;
mod store;

use crate::{Arena, Buffer, RuntimeError, View};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub use store::{BLOCK, StoreWriter};

/// What a direct copy's place in file and memory must be a multiple of, bytes: the largest sector in common use.
pub const SECTOR: usize = 4096;

/// Parts of blocks that are read at once.
const PARTS: usize = 64;

/// An open file of fixed length.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    /// The same file past the page cache, where the file system has that.
    direct: Option<direct::Queue>,
    path: PathBuf,
    len: u64,
    /// The checksum of each block; none for files that are not stores.
    sums: Vec<u64>,
}

impl DiskFile {
    /// Opens a file to be read.
    pub fn open(path: &Path) -> Result<DiskFile, RuntimeError> {
        let open = || {
            let file = File::open(path)?;
            let len = file.metadata()?.len();
            Ok(DiskFile { file, direct: None, path: path.into(), len, sums: vec![] })
        };
        open().map_err(|e| RuntimeError::io("open the file", path, &e))
    }

    /// A file of `len` zero bytes in a folder, to be read and written, which is gone when it is dropped or the process ends. Its
    /// room on the disk is taken at once, so that a later write does not meet a full one.
    pub fn scratch(folder: &Path, len: u64) -> Result<DiskFile, RuntimeError> {
        let make = || {
            std::fs::create_dir_all(folder)?;
            let named = tempfile::NamedTempFile::new_in(folder)?;
            let direct = direct::Queue::open(named.path(), true);
            let (file, path) = named.into_parts();
            drop(path);
            allocate(&file, len)?;
            Ok(DiskFile { file, direct, path: folder.into(), len, sums: vec![] })
        };
        make().map_err(|e| RuntimeError::io("make a scratch file", folder, &e))
    }

    /// Where it is; of a scratch file, its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of what may be read, bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `target` with the file's bytes from `offset` on. Of a store, whole blocks are read, and compared with their
    /// checksums.
    pub fn read(&self, offset: u64, target: &View) -> Result<(), RuntimeError> {
        self.read_pieces(&[(offset, 0, target.len())], target)
    }

    /// Several readings at once: (offset in the file, offset in `target`, bytes).
    pub fn read_pieces(&self, pieces: &[(u64, usize, usize)], target: &View) -> Result<(), RuntimeError> {
        if !target.is_writable() {
            return Err(bad(target, "the memory is read-only"));
        }
        self.pieces(pieces, target)?;
        let (whole, parts) = if self.sums.is_empty() { (pieces.to_vec(), vec![]) } else { by_blocks(pieces) };
        self.read_checked(&whole, target)?;
        // Blocks of which a part is wanted come beside it, as a whole too.
        for parts in parts.chunks(PARTS) {
            let memory = Arena::new("host", usize::MAX).alloc(parts.len() * BLOCK).map(Buffer::into_view)?;
            let block = |(i, (offset, ..)): (usize, &(u64, usize, usize))| {
                (offset / BLOCK as u64 * BLOCK as u64, i * BLOCK, BLOCK)
            };
            self.read_checked(&parts.iter().enumerate().map(block).collect::<Vec<_>>(), &memory)?;
            for (i, (offset, at, len)) in parts.iter().enumerate() {
                target.copy(*at, &memory.part(i * BLOCK + *offset as usize % BLOCK, *len)?)?;
            }
        }
        Ok(())
    }

    /// Reads pieces; of a store, whole blocks, which are compared with their checksums.
    fn read_checked(&self, pieces: &[(u64, usize, usize)], target: &View) -> Result<(), RuntimeError> {
        let verify = |(offset, at, len): &(u64, usize, usize)| self.verify(*offset, *at, *len, target);
        match self.transfer(direct::Way::Read, pieces, target, &verify) {
            Err(e) => Err(RuntimeError::io("read the file", &self.path, &e)),
            Ok(damaged) => damaged
                .map_or(Ok(()), |at| Err(RuntimeError::Damaged { path: self.path.clone(), offset: at })),
        }
    }

    /// Several writings at once to a scratch file: (offset in the file, offset in `source`, bytes).
    pub fn write_pieces(&self, pieces: &[(u64, usize, usize)], source: &View) -> Result<(), RuntimeError> {
        if !self.sums.is_empty() {
            return Err(bad(source, "a store is not written to"));
        }
        self.pieces(pieces, source)?;
        let written = self.transfer(direct::Way::Write, pieces, source, &|_| None);
        written.map(|_| ()).map_err(|e| RuntimeError::io("write the file", &self.path, &e))
    }

    /// Whether all pieces are inside of the file and of memory.
    fn pieces(&self, pieces: &[(u64, usize, usize)], memory: &View) -> Result<(), RuntimeError> {
        for (offset, at, len) in pieces {
            let inside = |start: u64, all: u64| start.checked_add(*len as u64).is_some_and(|end| end <= all);
            if !inside(*at as u64, memory.len() as u64) {
                return Err(bad(memory, "a piece of a file does not fit"));
            }
            if !inside(*offset, self.len) {
                let error = io::ErrorKind::UnexpectedEof.into();
                return Err(RuntimeError::io("read the file", &self.path, &error));
            }
        }
        Ok(())
    }

    /// Moves pieces; the place of the first block that is not what it was.
    fn transfer(
        &self,
        way: direct::Way,
        pieces: &[(u64, usize, usize)],
        memory: &View,
        verify: &(dyn Fn(&(u64, usize, usize)) -> Option<u64> + Sync),
    ) -> io::Result<Option<u64>> {
        let even = |n: usize| n.is_multiple_of(SECTOR);
        let aligned = |(offset, at, len): &(u64, usize, usize)| {
            even(*offset as usize) && even(memory.ptr().addr() + at) && even(*len)
        };
        let (direct, others): (Vec<_>, Vec<_>) =
            pieces.iter().partition(|p| self.direct.is_some() && aligned(p));
        let mut damaged = match &self.direct {
            Some(queue) if !direct.is_empty() => queue.transfer(way, &direct, memory, verify)?,
            _ => None,
        };
        for (offset, at, len) in &others {
            let mut bytes = vec![0u8; (*len).min(BLOCK)];
            for done in (0..*len).step_by(BLOCK) {
                let bytes = &mut bytes[..BLOCK.min(len - done)];
                let (in_file, in_memory) = (offset + done as u64, at + done);
                match way {
                    direct::Way::Read => {
                        self.file.read_exact_at(bytes, in_file)?;
                        memory.write(in_memory, bytes).map_err(io::Error::other)?;
                    }
                    direct::Way::Write => {
                        memory.read(in_memory, bytes).map_err(io::Error::other)?;
                        self.file.write_all_at(bytes, in_file)?;
                    }
                }
            }
            damaged = damaged.or_else(|| verify(&(*offset, *at, *len)));
        }
        Ok(damaged)
    }

    /// The place of the first whole block of a piece that is not what it was.
    fn verify(&self, offset: u64, at: usize, len: usize, memory: &View) -> Option<u64> {
        let first = (offset as usize).div_ceil(BLOCK);
        (first..(offset as usize + len) / BLOCK).find_map(|block| {
            let sum = *self.sums.get(block)?;
            let place = at + (block * BLOCK - offset as usize);
            let now = memory.part(place, BLOCK).map(|part| direct::checksum(&part));
            (now != Ok(sum)).then_some((block * BLOCK) as u64)
        })
    }
}

/// (Offset in a file, offset in memory, bytes).
type Pieces = Vec<(u64, usize, usize)>;

/// Pieces of whole blocks, and parts of single blocks, that together are these.
fn by_blocks(pieces: &[(u64, usize, usize)]) -> (Pieces, Pieces) {
    let (mut whole, mut parts) = (vec![], vec![]);
    for (offset, at, len) in pieces {
        let end = offset + *len as u64;
        let first = offset.next_multiple_of(BLOCK as u64).min(end);
        let last = (end / BLOCK as u64 * BLOCK as u64).max(first);
        let piece = |from: u64, to: u64| {
            (from < to).then(|| (from, at + (from - offset) as usize, (to - from) as usize))
        };
        parts.extend(piece(*offset, first).into_iter().chain(piece(last, end)));
        whole.extend(piece(first, last));
    }
    (whole, parts)
}

fn bad(view: &View, reason: &str) -> RuntimeError {
    RuntimeError::BadBuffer { len: view.len(), reason: reason.into() }
}

/// Takes the room of a file on its disk.
fn allocate(file: &File, len: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let size = i64::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    if size == 0 {
        return Ok(());
    }
    // SAFETY: the descriptor is open as long as `file` is; no memory is touched.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, size) } {
        0 => Ok(()),
        libc::EOPNOTSUPP | libc::EINVAL => file.set_len(len),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lathe_diagnostic::Diagnose;

    fn view(bytes: usize) -> View {
        Arena::new("host", usize::MAX).alloc(bytes).map(Buffer::into_view).unwrap()
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..bytes).map(|_| next()).collect()
    }

    #[test]
    fn parts_are_read_and_what_is_not_there_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), (0..100u8).collect::<Vec<_>>()).unwrap();
        let disk = DiskFile::open(file.path()).unwrap();
        let view = view(10);
        disk.read(30, &view).unwrap();
        let mut got = [0u8; 10];
        view.read(0, &mut got).unwrap();
        assert_eq!((disk.len(), got), (100, [30, 31, 32, 33, 34, 35, 36, 37, 38, 39]));
        assert!(disk.read(91, &view).unwrap_err().to_string().contains("read the file"));
        assert!(disk.read(0, &view.read_only()).is_err());
        assert!(DiskFile::open(Path::new("/nowhere/at/all")).is_err());
    }

    fn store(path: &Path, parts: &[Vec<u8>]) -> Vec<u64> {
        let mut writer = StoreWriter::create(path).unwrap();
        let add = |bytes: &Vec<u8>| {
            let view = view(bytes.len());
            view.write(0, bytes).unwrap();
            writer.add(&[view]).unwrap()
        };
        let offsets = parts.iter().map(add).collect();
        writer.finish(b"a note").unwrap();
        offsets
    }

    #[test]
    fn a_store_gives_back_what_was_put_into_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let parts = [noise(5), noise(3 * BLOCK), noise(40 * BLOCK + 777)];
        let offsets = store(&path, &parts);
        let (disk, note) = DiskFile::open_store(&path).unwrap();
        assert_eq!(note, b"a note");
        for (part, offset) in parts.iter().zip(&offsets) {
            // Aligned memory goes past the page cache, other memory does not.
            for head in [0, 64] {
                let whole = part.len().next_multiple_of(BLOCK);
                let to = view(whole.max(4 << 20) + head).part(head, whole).unwrap();
                disk.read(*offset, &to).unwrap();
                let mut got = vec![0u8; part.len()];
                to.read(0, &mut got).unwrap();
                assert!(got == *part);
            }
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn damage_is_told_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        store(&path, &[noise(9 * BLOCK)]);
        let whole = std::fs::read(&path).unwrap();
        let to = view(9 * BLOCK);
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let (disk, _) = DiskFile::open_store(&path)?;
            disk.read(0, &to)
        };
        read(&whole).unwrap();
        for at in (0..whole.len()).step_by(10_007).chain([whole.len() - 1]) {
            let mut changed = whole.clone();
            changed[at] ^= 0x40;
            let error = read(&changed).unwrap_err();
            let text = error.diagnostic().to_string();
            assert!(text.contains("is damaged") && text.contains("remove it"), "{at}: {text}");
        }
        for len in [0, 1, 4096, whole.len() / 2, whole.len() - 1] {
            assert!(read(&whole[..len]).is_err(), "{len}");
            assert!(DiskFile::has_store(&path), "damage is told, not written over");
        }
        // One of another version is made again.
        let mut older = whole.clone();
        older[whole.len() - 32] = 1;
        assert!(read(&older).is_err() && !DiskFile::has_store(&path));
    }

    #[test]
    fn parts_of_blocks_are_checked_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let bytes = noise(6 * BLOCK);
        store(&path, std::slice::from_ref(&bytes));
        let (disk, _) = DiskFile::open_store(&path).unwrap();
        let to = view(6 * BLOCK);
        // Pages that share blocks, one inside of a block, and more parts than are read at once.
        let page = BLOCK + 5000;
        let mut pieces =
            vec![(0, 0, page), (3 * page as u64, 3 * page, page), (5 * BLOCK as u64 + 7, 90_000, 9)];
        pieces.extend((0..100).map(|i| (BLOCK as u64 + 100 * i, 2 * BLOCK + 7 * i as usize, 7)));
        disk.read_pieces(&pieces, &to).unwrap();
        for (offset, at, len) in &pieces {
            let mut got = vec![0; *len];
            to.read(*at, &mut got).unwrap();
            assert!(got == bytes[*offset as usize..][..*len], "{offset} {len}");
        }
        // What is damaged beside a part is damage of its block.
        let mut changed = std::fs::read(&path).unwrap();
        changed[page + 100] ^= 1;
        std::fs::write(&path, &changed).unwrap();
        let (disk, _) = DiskFile::open_store(&path).unwrap();
        assert!(disk.read_pieces(&pieces[..1], &to).unwrap_err().to_string().contains("damaged"));
        assert!(disk.read_pieces(&pieces[1..3], &to).is_ok());
    }

    #[test]
    fn a_store_that_is_not_finished_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let mut writer = StoreWriter::create(&path).unwrap();
        writer.add(&[view(BLOCK)]).unwrap();
        drop(writer);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        // What a killed process left is removed by the next one, what another one writes is not.
        std::fs::write(folder.path().join(".store-part-old"), "half").unwrap();
        let first = StoreWriter::create(&path).unwrap();
        let second = StoreWriter::create(&path).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        drop((first, second));
    }

    #[test]
    fn scratch_files_keep_pieces_where_they_were_put() {
        let folder = tempfile::tempdir().unwrap();
        let disk = DiskFile::scratch(folder.path(), 1 << 20).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nobody else sees it");
        for (unit, head) in [(SECTOR, 0), (SECTOR, 64), (100, 0)] {
            let memory = view((2 << 20) + head).part(head, 2 << 20).unwrap();
            let bytes = noise(3 * unit);
            memory.write(0, &bytes).unwrap();
            let pieces = [(7 * unit as u64, 0, unit), (0, unit, unit), (100 * unit as u64, 2 * unit, unit)];
            disk.write_pieces(&pieces, &memory).unwrap();
            memory.zero().unwrap();
            disk.read_pieces(&pieces, &memory).unwrap();
            let mut got = vec![0; bytes.len()];
            memory.read(0, &mut got).unwrap();
            assert!(got == bytes);
        }
        assert!(disk.write_pieces(&[((1 << 20) - 4, 0, 8)], &view(8)).is_err());
    }
}
