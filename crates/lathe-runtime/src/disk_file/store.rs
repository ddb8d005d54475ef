//! Stores: files of blocks with a checksum each.
//!
//! The parts, each at a multiple of [`BLOCK`] with zeros behind; the checksum (XXH3 of 64 bits, little-endian like all numbers) of
//! each block; the writer's note; and a tail of 40 bytes: `LATHEsto`, the version (u64), the count of blocks (u64), the
//! note's length (u64), the checksum of checksums, note and the tail so far.

use super::direct::{Queue, Way, checksum};
use super::{DiskFile, SECTOR};
use crate::{Arena, Buffer, RuntimeError, View};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// What a store has a checksum for, bytes: parts begin at multiples of it.
pub const BLOCK: usize = 16 << 10;

/// Bytes that are written at once.
const PIECE: usize = 4 << 20;

/// How the names of unfinished stores begin.
const PART: &str = ".store-part-";

const MAGIC: &[u8; 8] = b"LATHEsto";
const VERSION: u64 = 3;
const TAIL: usize = 40;

/// Writes a store, which appears under its name when it is finished and not before.
#[derive(Debug)]
pub struct StoreWriter {
    path: PathBuf,
    file: tempfile::NamedTempFile,
    direct: Option<Queue>,
    /// Where blocks wait to be written.
    buffer: View,
    sums: Vec<u64>,
}

/// Removes the unfinished stores of processes that are gone.
fn remove_abandoned(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PART)
            && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
        {
            // Somebody else may have been faster.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

impl StoreWriter {
    /// Begins a store that will be `path`.
    pub fn create(path: &Path) -> Result<StoreWriter, RuntimeError> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let make = || {
            std::fs::create_dir_all(folder)?;
            remove_abandoned(folder)?;
            let mut builder = tempfile::Builder::new();
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
            let file = builder.prefix(PART).tempfile_in(folder)?;
            // Who has it open holds the lock: one without was left by a process that was killed.
            file.as_file().lock()?;
            Ok::<_, io::Error>(file)
        };
        let file = make().map_err(|e| RuntimeError::io("make the file", path, &e))?;
        let direct = Queue::open(file.path(), true);
        let buffer = Arena::new("host", PIECE).alloc(PIECE).map(Buffer::into_view)?;
        Ok(StoreWriter { path: path.into(), file, direct, buffer, sums: vec![] })
    }

    /// Puts a part, pieces one after the other, behind those that are there; its first byte in the store.
    pub fn add(&mut self, pieces: &[View]) -> Result<u64, RuntimeError> {
        let start = (self.sums.len() * BLOCK) as u64;
        let mut held = 0;
        for piece in pieces {
            let mut done = 0;
            while done < piece.len() {
                let n = (piece.len() - done).min(PIECE - held);
                self.buffer.copy(held, &piece.part(done, n)?)?;
                (done, held) = (done + n, held + n);
                if held == PIECE {
                    self.flush(held)?;
                    held = 0;
                }
            }
        }
        let whole = held.next_multiple_of(BLOCK);
        self.buffer.part(held, whole - held)?.zero()?;
        self.flush(whole)?;
        Ok(start)
    }

    /// Writes the first `len` bytes of the buffer, whole blocks.
    fn flush(&mut self, len: usize) -> Result<(), RuntimeError> {
        if len == 0 {
            return Ok(());
        }
        let offset = (self.sums.len() * BLOCK) as u64;
        for at in (0..len).step_by(BLOCK) {
            self.sums.push(checksum(&self.buffer.part(at, BLOCK)?));
        }
        let write = || match &self.direct {
            Some(queue) => {
                queue.transfer(Way::Write, &[(offset, 0, len)], &self.buffer, &|_| None).map(|_| ())
            }
            None => {
                let mut bytes = vec![0u8; len];
                self.buffer.read(0, &mut bytes).map_err(io::Error::other)?;
                self.file.as_file().write_all_at(&bytes, offset)
            }
        };
        write().map_err(|e| RuntimeError::io("write the file", &self.path, &e))
    }

    /// Writes what is left and gives the store its name.
    pub fn finish(mut self, note: &[u8]) -> Result<(), RuntimeError> {
        let mut end: Vec<u8> = self.sums.iter().flat_map(|s| s.to_le_bytes()).collect();
        end.extend(note);
        end.extend(MAGIC);
        for number in [VERSION, self.sums.len() as u64, note.len() as u64] {
            end.extend(number.to_le_bytes());
        }
        end.extend(xxh3_64(&end).to_le_bytes());
        let at = (self.sums.len() * BLOCK) as u64;
        let write = |file: &mut File| {
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&end)?;
            // What is renamed is on the disk: a store is taken for whole ever after.
            file.sync_all()
        };
        let failed = |e: &io::Error| RuntimeError::io("write the file", &self.path, e);
        write(self.file.as_file_mut()).map_err(|e| failed(&e))?;
        self.file
            .persist(&self.path)
            .map_err(|e| RuntimeError::io("write the file", &self.path, &e.error))?;
        Ok(())
    }
}

impl DiskFile {
    /// Whether a file is there, which is no store of another version: such a one is to be made again.
    pub fn has_store(path: &Path) -> bool {
        let Ok(file) = File::open(path) else { return false };
        let mut start = [0u8; 16];
        let at = file.metadata().map_or(0, |data| data.len().saturating_sub(TAIL as u64));
        let read = file.read_exact_at(&mut start, at).is_ok();
        !(read && start[..8] == *MAGIC && start[8..] != VERSION.to_le_bytes())
    }

    /// Opens a store, with the note of who wrote it.
    pub fn open_store(path: &Path) -> Result<(DiskFile, Vec<u8>), RuntimeError> {
        let fail = |e: &io::Error| RuntimeError::io("open the file", path, e);
        let file = File::open(path).map_err(|e| fail(&e))?;
        let size = file.metadata().map_err(|e| fail(&e))?.len();
        let damaged = |offset: u64| RuntimeError::Damaged { path: path.into(), offset };
        let mut tail = [0u8; TAIL];
        let at = size.checked_sub(TAIL as u64).ok_or_else(|| damaged(0))?;
        file.read_exact_at(&mut tail, at).map_err(|e| fail(&e))?;
        let number = |i: usize| u64::from_le_bytes(tail[i * 8..i * 8 + 8].try_into().expect("eight bytes"));
        let (blocks, note) = (number(2), number(3));
        // Both lengths follow from the file's, so neither can ask for more memory than the file has bytes.
        let data = blocks.checked_mul(BLOCK as u64);
        let whole = data
            .and_then(|d| d.checked_add(blocks * 8)?.checked_add(note)?.checked_add(TAIL as u64))
            .filter(|n| *n == size);
        let known = tail[..8] == *MAGIC && number(1) == VERSION && whole.is_some();
        let data = data.filter(|_| known).ok_or_else(|| damaged(at))?;
        let mut end = vec![0u8; (size - data) as usize];
        file.read_exact_at(&mut end, data).map_err(|e| fail(&e))?;
        let (said, sum) = end.split_at(end.len() - 8);
        if xxh3_64(said).to_le_bytes() != sum {
            return Err(damaged(data));
        }
        let sums = end[..blocks as usize * 8].chunks_exact(8);
        let sums = sums.map(|s| u64::from_le_bytes(s.try_into().expect("eight bytes"))).collect();
        let note = end[blocks as usize * 8..][..note as usize].to_vec();
        let direct = Queue::open(path, false);
        Ok((DiskFile { file, direct, path: path.into(), len: data, sums }, note))
    }
}

const _: () = assert!(BLOCK.is_multiple_of(SECTOR) && PIECE.is_multiple_of(BLOCK));
