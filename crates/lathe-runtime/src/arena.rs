//! Memory with a limit: an arena gives zeroed, aligned blocks until its tier is full.
//!
//! Blocks are aligned to 64 bytes; large ones to 2 MiB and offered to the system for huge pages, unless they are sparse, and
//! their pages take no real memory before they are first touched.

use crate::RuntimeError;
use crate::buffer::Buffer;
use lathe_machine::Memory;
use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Alignment of every block, bytes.
const ALIGN: usize = 64;
/// Size of a huge page, and from which size on a block is mapped by itself, at a multiple of it, bytes.
pub const HUGE: usize = 2 << 20;

/// A memory tier of limited size.
#[derive(Clone, Debug)]
pub struct Arena {
    account: Arc<Account>,
}

#[derive(Debug)]
struct Account {
    tier: String,
    capacity: usize,
    used: AtomicUsize,
    peak: AtomicUsize,
}

impl Arena {
    /// The arena of the tier `tier_name`, with room for `capacity` bytes.
    pub fn new(tier_name: impl Into<String>, capacity: usize) -> Arena {
        let (used, peak) = Default::default();
        Arena { account: Arc::new(Account { tier: tier_name.into(), capacity, used, peak }) }
    }

    /// The arena of a machine's memory.
    pub fn of_memory(memory: &Memory) -> Arena {
        Arena::new(&memory.name, usize::try_from(memory.capacity_bytes).unwrap_or(usize::MAX))
    }

    /// `bytes` zeroed bytes.
    pub fn alloc(&self, bytes: usize) -> Result<Buffer, RuntimeError> {
        self.alloc_in(bytes, true)
    }

    /// `bytes` zeroed bytes of which a part here and a part there will be touched, as of a cache: they lie in small pages, so
    /// that little more becomes real memory than is touched.
    pub fn alloc_sparse(&self, bytes: usize) -> Result<Buffer, RuntimeError> {
        self.alloc_in(bytes, false)
    }

    fn alloc_in(&self, bytes: usize, huge_pages: bool) -> Result<Buffer, RuntimeError> {
        let no_memory = || RuntimeError::SystemMemory { wanted: bytes };
        let size = bytes.max(1).checked_next_multiple_of(ALIGN).ok_or_else(no_memory)?;
        self.account.take(size)?;
        let memory = if size < HUGE { small(size) } else { large(size, huge_pages) };
        match memory {
            Some(start) => Ok(Buffer::new(Block { start, size, account: Arc::clone(&self.account) }, bytes)),
            None => {
                self.account.used.fetch_sub(size, Relaxed);
                Err(no_memory())
            }
        }
    }

    /// Takes room for memory that is given out elsewhere, until the result is dropped.
    pub fn reserve(&self, bytes: usize) -> Result<Reserved, RuntimeError> {
        self.account.take(bytes)?;
        Ok(Reserved { bytes, account: Arc::clone(&self.account) })
    }

    /// The tier's name.
    pub fn tier(&self) -> &str {
        &self.account.tier
    }

    /// Room in all, bytes.
    pub fn capacity(&self) -> usize {
        self.account.capacity
    }

    /// In use now, bytes.
    pub fn used(&self) -> usize {
        self.account.used.load(Relaxed)
    }

    /// Most ever in use, bytes.
    pub fn peak(&self) -> usize {
        self.account.peak.load(Relaxed)
    }
}

impl Account {
    fn take(&self, size: usize) -> Result<(), RuntimeError> {
        let fits = |used: usize| used.checked_add(size).filter(|sum| *sum <= self.capacity);
        match self.used.fetch_update(Relaxed, Relaxed, fits) {
            Ok(before) => {
                self.peak.fetch_max(before + size, Relaxed);
                Ok(())
            }
            Err(used) => Err(RuntimeError::OutOfMemory {
                tier: self.tier.clone(),
                wanted: size,
                used,
                capacity: self.capacity,
            }),
        }
    }
}

/// Room of an arena that is taken, given back when dropped.
#[derive(Debug)]
pub struct Reserved {
    bytes: usize,
    account: Arc<Account>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.account.used.fetch_sub(self.bytes, Relaxed);
    }
}

/// One piece of memory, given back when dropped.
#[derive(Debug)]
pub(crate) struct Block {
    start: NonNull<u8>,
    size: usize,
    account: Arc<Account>,
}

// SAFETY: a block is plain memory that belongs to no thread.
unsafe impl Send for Block {}
// SAFETY: as above; it has no operation on its content.
unsafe impl Sync for Block {}

impl Block {
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Whether it is mapped by itself.
    pub fn is_mapped(&self) -> bool {
        self.size >= HUGE
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if !self.is_mapped() {
            // SAFETY: `small` allocated it with this layout.
            unsafe { std::alloc::dealloc(self.start.as_ptr(), layout(self.size)) };
        } else {
            // SAFETY: `large` mapped this many bytes from here on.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.size.next_multiple_of(PAGE)) };
        }
        self.account.used.fetch_sub(self.size, Relaxed);
    }
}

/// What mappings are rounded up to, bytes: the largest page size in common use.
const PAGE: usize = 64 << 10;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, ALIGN).expect("64 is a power of two and the size is small")
}

fn small(size: usize) -> Option<NonNull<u8>> {
    // SAFETY: the size is not zero.
    NonNull::new(unsafe { std::alloc::alloc_zeroed(layout(size)) })
}

/// Asks the system for huge pages under memory that nobody has touched yet: a large one is then soon there. Content stays.
pub fn prefer_huge_pages(bytes: &mut [u8]) {
    // SAFETY: the bytes are a slice.
    unsafe { in_huge_pages(bytes.as_mut_ptr(), bytes.len(), false) };
}

/// Asks for huge pages under `len` bytes, as far as they are whole ones: for what is touched from now on, or `now` for all of it.
///
/// # Safety
///
/// The bytes are one mapped range.
pub(crate) unsafe fn in_huge_pages(first: *mut u8, len: usize, now: bool) {
    #[cfg(target_os = "linux")]
    {
        // Not every C library has a name for the second one.
        const COLLAPSE: libc::c_int = 25;
        let (start, end) = (first.addr().next_multiple_of(HUGE), (first.addr() + len) / HUGE * HUGE);
        if start < end {
            let whole = first.wrapping_byte_add(start - first.addr()).cast();
            for advice in [libc::MADV_HUGEPAGE, COLLAPSE].into_iter().take(1 + usize::from(now)) {
                // SAFETY: whole pages inside of the range; the advice changes no content, and does nothing where it is not known.
                unsafe { libc::madvise(whole, end - start, advice) };
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (first, len, now);
}

/// Maps `size` bytes (rounded up to whole pages) at a multiple of 2 MiB, in huge pages or surely not in them.
fn large(size: usize, huge_pages: bool) -> Option<NonNull<u8>> {
    let size = size.checked_next_multiple_of(PAGE)?;
    let mapped = size.checked_add(HUGE)?;
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new anonymous mapping at an address of the system's choice touches no existing memory.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), mapped, protection, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return None;
    }
    let head = base.addr().next_multiple_of(HUGE) - base.addr();
    let tail = mapped - head - size;
    let start = base.wrapping_byte_add(head);
    // SAFETY: head, block and tail divide the mapping just made at page boundaries; nobody uses head and tail. An empty range
    // is refused by the system without effect. The advice changes no content and stays inside of the block.
    unsafe {
        libc::munmap(base, head);
        libc::munmap(start.wrapping_byte_add(size), tail);
        #[cfg(target_os = "linux")]
        match huge_pages {
            true => libc::madvise(start, size / HUGE * HUGE, libc::MADV_HUGEPAGE),
            false => libc::madvise(start, size, libc::MADV_NOHUGEPAGE),
        };
    }
    NonNull::new(start.cast())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lathe_diagnostic::Diagnose;

    #[test]
    fn blocks_are_zeroed_aligned_and_counted() {
        let arena = Arena::new("dram", 64 << 20);
        for bytes in [0, 1, 63, 64, 1000, HUGE - 1, HUGE, HUGE + 1, 5 * HUGE + 12345] {
            let mut buffer = arena.alloc(bytes).unwrap();
            let align = if bytes < HUGE - 63 { ALIGN } else { HUGE };
            assert_eq!((buffer.len(), buffer.ptr().addr() % align), (bytes, 0));
            assert!(buffer.slice::<u8>().unwrap().iter().all(|byte| *byte == 0));
            buffer.slice_mut::<u8>().unwrap().fill(0xff);
            assert_eq!(arena.used(), bytes.max(1).next_multiple_of(ALIGN));
        }
        assert_eq!(arena.used(), 0);
        assert_eq!(arena.peak(), (5 * HUGE + 12345).next_multiple_of(ALIGN));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn little_of_a_sparse_block_is_real() {
        let mut buffer = Arena::new("dram", usize::MAX).alloc_sparse(64 * HUGE).unwrap();
        let start = buffer.ptr().addr();
        buffer.slice_mut::<u8>().unwrap().iter_mut().step_by(HUGE).for_each(|byte| *byte = 1);
        // SAFETY: it asks for a number.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
        let mut entries = vec![0u8; 64 * HUGE / page * 8];
        let map = std::fs::File::open("/proc/self/pagemap").unwrap();
        std::os::unix::fs::FileExt::read_exact_at(&map, &mut entries, (start / page * 8) as u64).unwrap();
        // The highest bit of an entry says that its page is there.
        assert_eq!(entries.chunks(8).filter(|entry| entry[7] >> 7 == 1).count(), 64);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_is_given_from_one_block_to_another() {
        let page = PAGE;
        let alloc = |bytes| Arena::new("dram", usize::MAX).alloc_sparse(bytes).unwrap().into_view();
        let (a, b) = (alloc(2 * HUGE), alloc(2 * HUGE));
        let read = |v: &crate::View, at: usize| {
            let mut bytes = vec![0u8; page];
            v.read(at, &mut bytes).unwrap();
            bytes
        };
        a.write(page, &vec![7u8; 2 * page]).unwrap();
        b.write(0, &vec![9u8; 8 * page]).unwrap();
        let (from, to) = (a.part(page, 2 * page).unwrap(), b.part(4 * page, 2 * page).unwrap());
        assert!(from.give(&to));
        assert_eq!((read(&b, 4 * page), read(&b, 5 * page)), (vec![7; page], vec![7; page]));
        assert_eq!((read(&b, 3 * page), read(&b, 6 * page)), (vec![9; page], vec![9; page]));
        // What gave is zeros, and both can be written and give again, inside one block too.
        assert_eq!(read(&a, page), vec![0; page]);
        from.write(0, &[1u8]).unwrap();
        to.write(0, &[2u8]).unwrap();
        assert!(to.give(&b.part(8 * page, 2 * page).unwrap()));
        assert_eq!((read(&a, page)[0], read(&b, 8 * page)[..2].to_vec()), (1, vec![2, 7]));
        // No whole pages, not apart, of other lengths, read-only, of a block that is not mapped by itself.
        let part = |v: &crate::View, at, len| v.part(at, len).unwrap();
        let small = alloc(4 * page);
        for (from, to) in [
            (part(&a, 64, page), part(&b, 0, page)),
            (part(&a, 0, page + 64), part(&b, 0, page + 64)),
            (part(&a, 0, 2 * page), part(&a, page, 2 * page)),
            (part(&a, 0, 2 * page), part(&b, 0, page)),
            (part(&a, 0, page), part(&b, 0, page).read_only()),
            (part(&a, 0, 0), part(&b, 0, 0)),
            (small.clone(), part(&a, 0, 4 * page)),
        ] {
            assert!(!from.give(&to), "{from:?} {to:?}");
        }
    }

    #[test]
    fn a_full_tier_says_so_and_recovers() {
        let arena = Arena::new("device", 1024);
        let first = arena.alloc(1000).unwrap();
        let error = arena.alloc(64).unwrap_err();
        let text = error.diagnostic().to_string();
        assert!(text.contains("'device' is full: 64 bytes wanted, 1024 of 1024 in use"), "{text}");
        drop(first);
        assert!(arena.alloc(1024).is_ok());
        assert!(arena.alloc(usize::MAX).is_err() && arena.alloc(usize::MAX - 64).is_err());
    }

    #[test]
    fn more_than_the_system_has_is_an_error() {
        let arena = Arena::new("dram", usize::MAX);
        assert_eq!(arena.alloc(1 << 60).unwrap_err(), RuntimeError::SystemMemory { wanted: 1 << 60 });
        assert_eq!(arena.used(), 0);
    }
}
