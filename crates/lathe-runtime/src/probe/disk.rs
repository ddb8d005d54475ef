//! How fast the disk is read: a file is written, dropped from the page cache as well as the system allows, and read back.

use lathe_machine::{Disk, Rate};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Instant;

/// Bytes of one read.
const BLOCK: usize = 4 << 20;

/// Reads a new file of `bytes` bytes in `folder`; `None` where none can be made.
pub(super) fn measure(folder: &Path, bytes: usize) -> Option<Disk> {
    std::fs::create_dir_all(folder).ok()?;
    let mut file = tempfile::tempfile_in(folder).ok()?;
    let mut block = vec![0u8; BLOCK];
    let mut state = 1u64;
    for word in block.chunks_exact_mut(8) {
        // Bytes that no disk can compress (xorshift).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    for _ in 0..bytes / BLOCK {
        file.write_all(&block).ok()?;
    }
    file.sync_data().ok()?;
    drop_from_page_cache(&file);
    file.seek(SeekFrom::Start(0)).ok()?;
    let mut rates = Vec::new();
    for _ in 0..bytes / BLOCK {
        let start = Instant::now();
        file.read_exact(&mut block).ok()?;
        rates.push(BLOCK as f64 / start.elapsed().as_secs_f64());
    }
    let total: f64 = rates.iter().map(|rate| BLOCK as f64 / rate).sum();
    // Single blocks may come from a read-ahead, so the best is that of all blocks together.
    let best = (bytes / BLOCK * BLOCK) as f64 / total;
    let median = Rate::of_passes(&rates)?.median.min(best);
    let read_bandwidth = Rate { best, median };
    (best.is_finite() && best > 0.0).then_some(Disk {
        read_bandwidth,
        write_bandwidth: None,
        capacity_bytes: None,
    })
}

/// Bytes a second at which a file is read past the page cache, up to `bytes` of it by several threads with large reads: what a disk
/// gives that does nothing else. `None` where the file system has no such reading.
pub fn direct_read_bandwidth(path: &Path, bytes: u64) -> Option<f64> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::{FileExt, OpenOptionsExt};
        const PIECE: usize = 1 << 20;
        let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).ok()?;
        let pieces = file.metadata().ok()?.len().min(bytes) / PIECE as u64;
        let next = std::sync::atomic::AtomicU64::new(0);
        let read = || {
            // A place in it is aligned to a page.
            let mut memory = vec![0u8; PIECE + 4096];
            let start = memory.as_ptr().align_offset(4096);
            let mut done = 0u64;
            loop {
                let piece = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if piece >= pieces {
                    return Some(done);
                }
                let target = &mut memory[start..start + PIECE];
                file.read_exact_at(target, piece * PIECE as u64).ok()?;
                done += PIECE as u64;
            }
        };
        let begin = Instant::now();
        let done: Option<Vec<u64>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(read)).collect();
            threads.into_iter().map(|t| t.join().ok().flatten()).collect()
        });
        let rate = done?.iter().sum::<u64>() as f64 / begin.elapsed().as_secs_f64();
        (rate > 0.0).then_some(rate)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (path, bytes);
        None
    }
}

fn drop_from_page_cache(file: &File) {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open; the advice changes no content, and a refusal only makes the result too good.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = file;
}
