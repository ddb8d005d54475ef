//! How fast memory is read: each thread streams over its own part of a buffer that is much larger than the caches.

use super::time_passes;
use crate::{Arena, Pool, RuntimeError, View};
use lathe_machine::Rate;

/// Bytes per second that `threads` threads read together from a buffer of `bytes` bytes (512 MiB is well over any cache).
/// Runs on `pool`, of which `threads` threads read and the others wait. `None` when the buffer is too small to time.
pub fn read_bandwidth(threads: usize, bytes: usize, pool: &Pool) -> Result<Option<Rate>, RuntimeError> {
    measure(threads, bytes, 9, pool)
}

pub(super) fn measure(
    threads: usize,
    bytes: usize,
    passes: usize,
    pool: &Pool,
) -> Result<Option<Rate>, RuntimeError> {
    let threads = threads.clamp(1, pool.threads());
    let share = bytes / threads / CHUNK * CHUNK;
    if share == 0 {
        return Ok(None);
    }
    let memory = Arena::new("probe", usize::MAX).alloc(share * threads)?.into_view();
    let parts: Vec<View> = (0..threads).map(|i| memory.part(i * share, share)).collect::<Result<_, _>>()?;
    let read = reader();
    // Written once by those who read it, so that every page is real and near its reader.
    pool.run(&|thread, _| {
        if let Some(part) = parts.get(thread) {
            // SAFETY: the part is memory of this function alone, alive, and each thread writes its own.
            unsafe { std::ptr::write_bytes(part.ptr(), 1, part.len()) };
        }
    });
    let amount = (share * threads) as f64;
    Ok(time_passes(pool, passes, amount, &|thread| {
        if let Some(part) = parts.get(thread) {
            // SAFETY: the part is alive, initialised, of a length that is a multiple of CHUNK, aligned to 64 (the block is, and
            // so is every share of it), and nobody writes it now. `reader` has checked what the processor can do.
            std::hint::black_box(unsafe { read(part.ptr(), part.len()) });
        }
    }))
}

/// Lengths that a reader takes are multiples of it, bytes.
const CHUNK: usize = 4096;

type Reader = unsafe fn(*const u8, usize) -> u64;

fn reader() -> Reader {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        return read_avx512;
    }
    read_portable
}

/// # Safety
/// `len` bytes from `start` on are readable, `start` is aligned to 8 and `len` is a multiple of [`CHUNK`].
unsafe fn read_portable(start: *const u8, len: usize) -> u64 {
    // SAFETY: as promised by the caller.
    let words = unsafe { std::slice::from_raw_parts(start.cast::<u64>(), len / 8) };
    let mut sums = [0u64; 32];
    for chunk in words.chunks_exact(32) {
        sums.iter_mut().zip(chunk).for_each(|(sum, word)| *sum |= word);
    }
    sums.iter().fold(0, |all, sum| all | sum)
}

/// Plain loads in one stream: on the processors tried, faster than several streams or software prefetches.
///
/// # Safety
/// The processor has AVX-512F; `len` bytes from `start` on are readable, `start` is aligned to 64 and `len` is a multiple of
/// [`CHUNK`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn read_avx512(start: *const u8, len: usize) -> u64 {
    use std::arch::x86_64::{
        _mm512_load_si512, _mm512_or_si512, _mm512_reduce_or_epi64, _mm512_setzero_si512,
    };
    let (mut a, mut b, mut c, mut d) =
        (_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512());
    for offset in (0..len).step_by(256) {
        let at = start.wrapping_add(offset);
        // SAFETY: `len` is a multiple of 256, so the four lines from `offset` on are inside the range.
        unsafe {
            a = _mm512_or_si512(a, _mm512_load_si512(at.cast()));
            b = _mm512_or_si512(b, _mm512_load_si512(at.wrapping_add(64).cast()));
            c = _mm512_or_si512(c, _mm512_load_si512(at.wrapping_add(128).cast()));
            d = _mm512_or_si512(d, _mm512_load_si512(at.wrapping_add(192).cast()));
        }
    }
    _mm512_reduce_or_epi64(_mm512_or_si512(_mm512_or_si512(a, b), _mm512_or_si512(c, d))) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_see_every_line() {
        let arena = Arena::new("dram", 1 << 20);
        let view = arena.alloc(4 * CHUNK).unwrap().into_view();
        for at in (0..view.len()).step_by(64) {
            view.zero().unwrap();
            view.write(at, &[0x5au8]).unwrap();
            for read in [reader(), read_portable] {
                // SAFETY: the view is alive, aligned to 64, a multiple of CHUNK long, and nobody writes it now.
                let seen = unsafe { read(view.ptr(), view.len()) };
                assert_eq!(seen, 0x5a, "line at {at}");
            }
        }
    }

    #[test]
    fn tiny_buffers_are_not_timed() {
        let pool = Pool::new(2).unwrap();
        assert_eq!(read_bandwidth(2, 100, &pool).unwrap(), None);
        assert!(read_bandwidth(9, 4 << 20, &pool).unwrap().is_some());
    }
}
