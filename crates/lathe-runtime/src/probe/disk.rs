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
