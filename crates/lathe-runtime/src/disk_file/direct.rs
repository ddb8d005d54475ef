//! Copies between a file and memory past the page cache, several at once.

use crate::View;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes of one request, a multiple of a block: of a short copy, as many that all requests have some.
const REQUEST: usize = 4 << 20;
const LEAST: usize = 512 << 10;
/// Requests at once.
const DEPTH: usize = 8;

/// The direction of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Read,
    Write,
}

/// A file that is read and written past the page cache.
#[derive(Debug)]
pub(crate) struct Queue {
    file: File,
    #[cfg(target_os = "linux")]
    ring: Option<Mutex<Ring>>,
}

#[cfg(target_os = "linux")]
struct Ring(io_uring::IoUring);

#[cfg(target_os = "linux")]
impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ring")
    }
}

/// XXH3 of memory that no kernel writes meanwhile.
pub(crate) fn checksum(view: &View) -> u64 {
    // SAFETY: the view's memory is alive and initialised; the caller has just moved it and nothing else writes it, so for the
    // length of this call it is plain bytes.
    xxhash_rust::xxh3::xxh3_64(unsafe { std::slice::from_raw_parts(view.ptr(), view.len()) })
}

/// A piece of a copy: offset in the file, address, bytes.
#[derive(Clone, Copy)]
struct Request {
    offset: u64,
    start: *mut u8,
    len: usize,
}

// SAFETY: it is an address and two numbers; who uses it answers for the memory.
unsafe impl Sync for Request {}
// SAFETY: as above.
unsafe impl Send for Request {}

impl Queue {
    /// Opens a file past the page cache; none where the file system has no such thing.
    pub fn open(path: &Path, write: bool) -> Option<Queue> {
        #[cfg(target_os = "linux")]
        {
            use std::os::unix::fs::OpenOptionsExt;
            let mut options = std::fs::OpenOptions::new();
            let file = options.read(true).write(write).custom_flags(libc::O_DIRECT).open(path).ok()?;
            let ring = io_uring::IoUring::new(DEPTH as u32).ok().map(|ring| Mutex::new(Ring(ring)));
            Some(Queue { file, ring })
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (path, write);
            None
        }
    }

    /// Moves pieces (offset in the file, offset in memory, bytes) that are aligned to sectors and inside of `memory`. Each
    /// that was read is looked at by `verify` as soon as it is there; the first thing that it says.
    pub fn transfer(
        &self,
        way: Way,
        pieces: &[(u64, usize, usize)],
        memory: &View,
        verify: &(dyn Fn(&(u64, usize, usize)) -> Option<u64> + Sync),
    ) -> io::Result<Option<u64>> {
        // Cut at multiples of a request in the file, so that each has whole blocks.
        let all: usize = pieces.iter().map(|(_, _, len)| len).sum();
        let request = (all / DEPTH).next_multiple_of(LEAST).clamp(LEAST, REQUEST);
        let mut cut = vec![];
        for (offset, at, len) in pieces {
            let mut done = 0;
            while done < *len {
                let from = offset + done as u64;
                let n = (request - from as usize % request).min(len - done);
                cut.push((from, at + done, n));
                done += n;
            }
        }
        #[cfg(target_os = "linux")]
        if let Some(ring) = self.ring.as_ref().filter(|_| cut.len() > 1) {
            let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
            return self.by_ring(&mut ring.0, way, &cut, memory, verify);
        }
        self.by_threads(way, &cut, memory, verify)
    }

    #[cfg(target_os = "linux")]
    fn by_ring(
        &self,
        ring: &mut io_uring::IoUring,
        way: Way,
        pieces: &[(u64, usize, usize)],
        memory: &View,
        verify: &dyn Fn(&(u64, usize, usize)) -> Option<u64>,
    ) -> io::Result<Option<u64>> {
        use io_uring::{opcode, types};
        let fd = types::Fd(self.file.as_raw_fd());
        let (mut next, mut flying) = (0, 0);
        let mut done = vec![0usize; pieces.len()];
        let (mut damaged, mut failed): (Option<u64>, Option<io::Error>) = (None, None);
        let mut again: Vec<usize> = vec![];
        loop {
            while flying < DEPTH && failed.is_none() {
                let i = match again.pop() {
                    Some(i) => i,
                    None if next < pieces.len() => {
                        next += 1;
                        next - 1
                    }
                    None => break,
                };
                let (offset, at, len) = pieces[i];
                let start = memory.ptr().wrapping_add(at + done[i]);
                let (left, offset) = ((len - done[i]) as u32, offset + done[i] as u64);
                let entry = match way {
                    Way::Read => opcode::Read::new(fd, start, left).offset(offset).build(),
                    Way::Write => opcode::Write::new(fd, start, left).offset(offset).build(),
                };
                // SAFETY: the `left` bytes from `start` on are inside `memory`, which is alive until this function returns, and it
                // returns only when nothing is under way any more; the file is open as long as `self` lives.
                let pushed = unsafe { ring.submission().push(&entry.user_data(i as u64)) };
                pushed.map_err(io::Error::other)?;
                flying += 1;
            }
            if flying == 0 {
                break;
            }
            // An interrupted wait is none: what is under way must end before the memory may be used again.
            while let Err(e) = ring.submit_and_wait(1) {
                if !matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM))
                {
                    // Nothing says what the kernel still writes to.
                    std::process::abort();
                }
            }
            let completed: Vec<_> = ring.completion().map(|c| (c.user_data() as usize, c.result())).collect();
            for (i, result) in completed {
                flying -= 1;
                match result {
                    n if n > 0 => {
                        done[i] += n as usize;
                        if done[i] < pieces[i].2 {
                            again.push(i);
                        } else if damaged.is_none() {
                            damaged = verify(&pieces[i]);
                        }
                    }
                    0 => failed = Some(short(way)),
                    code if matches!(-code, libc::EINTR | libc::EAGAIN) => again.push(i),
                    code => failed = Some(io::Error::from_raw_os_error(-code)),
                }
            }
        }
        failed.map_or(Ok(damaged), Err)
    }

    fn by_threads(
        &self,
        way: Way,
        pieces: &[(u64, usize, usize)],
        memory: &View,
        verify: &(dyn Fn(&(u64, usize, usize)) -> Option<u64> + Sync),
    ) -> io::Result<Option<u64>> {
        let next = AtomicUsize::new(0);
        let result: Mutex<io::Result<Option<u64>>> = Mutex::new(Ok(None));
        let work = || {
            while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                let start = memory.ptr().wrapping_add(piece.1);
                let moved = self.one(way, Request { offset: piece.0, start, len: piece.2 });
                let now = moved.map(|()| verify(piece));
                if !matches!(now, Ok(None)) {
                    let mut result = result.lock().unwrap_or_else(PoisonError::into_inner);
                    if matches!(*result, Ok(None)) {
                        *result = now;
                    }
                    next.store(pieces.len(), Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..pieces.len().min(DEPTH) {
                // One that does not start leaves its share to the others.
                let _ = std::thread::Builder::new().name("lathe-disk".into()).spawn_scoped(scope, work);
            }
            work();
        });
        result.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn one(&self, way: Way, request: Request) -> io::Result<()> {
        let fd = self.file.as_raw_fd();
        let mut done = 0;
        while done < request.len {
            let (start, left) = (request.start.wrapping_add(done), request.len - done);
            let at = i64::try_from(request.offset + done as u64)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            // SAFETY: the `left` bytes from `start` on are inside of memory that the caller of `transfer` keeps alive, writable
            // where it is read into; the descriptor is open as long as `self` lives.
            let n = unsafe {
                match way {
                    Way::Read => libc::pread(fd, start.cast(), left, at),
                    Way::Write => libc::pwrite(fd, start.cast(), left, at),
                }
            };
            match n {
                0 => return Err(short(way)),
                n if n > 0 => done += n as usize,
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }
}

fn short(way: Way) -> io::Error {
    match way {
        Way::Read => io::ErrorKind::UnexpectedEof.into(),
        Way::Write => io::ErrorKind::WriteZero.into(),
    }
}
