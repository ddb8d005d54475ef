//! Pieces of memory that kernels work on.
//!
//! A [`Buffer`] has one owner, who may look at it as a slice. Turned into a [`View`] it becomes device memory: shared by
//! everyone who holds it, cut into parts by the memory planner, written by kernels, and reached from Rust by copying only, so
//! that no reference ever exists to bytes that a kernel may change. Bytes that Rust owns become a view that is read only
//! ([`View::shared`]), or one that takes them until nobody else has it ([`View::of_bytes`]).

use crate::RuntimeError;
use crate::arena::{Block, in_huge_pages};
use crate::kernel::Parts;
use bytemuck::{AnyBitPattern, NoUninit};
use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// Memory with one owner, from an [`Arena`](crate::Arena).
#[derive(Debug)]
pub struct Buffer {
    block: Block,
    len: usize,
}

impl Buffer {
    pub(crate) fn new(block: Block, len: usize) -> Buffer {
        Buffer { block, len }
    }

    /// Length, bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// First byte.
    pub fn ptr(&self) -> *mut u8 {
        self.block.start().as_ptr()
    }

    /// The content as values of `T`; the length must be a whole number of them.
    pub fn slice<T: AnyBitPattern>(&self) -> Result<&[T], RuntimeError> {
        // SAFETY: the block has at least `len` bytes, initialised (zeroed at first), and only this value's owner reaches them:
        // they are borrowed as long as the slice lives.
        let bytes = unsafe { std::slice::from_raw_parts(self.ptr(), self.len) };
        bytemuck::try_cast_slice(bytes).map_err(|error| bad::<T>(self.len, error))
    }

    /// The content as values of `T`, to be changed; the length must be a whole number of them.
    pub fn slice_mut<T: AnyBitPattern + NoUninit>(&mut self) -> Result<&mut [T], RuntimeError> {
        // SAFETY: as in `slice`; the borrow is exclusive.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.ptr(), self.len) };
        let len = bytes.len();
        bytemuck::try_cast_slice_mut(bytes).map_err(|error| bad::<T>(len, error))
    }

    /// Gives the memory over to kernels.
    pub fn into_view(self) -> View {
        let (ptr, len) = (self.ptr(), self.len);
        View { ptr, len, writable: true, owner: Arc::new(self.block) }
    }
}

fn bad<T>(len: usize, reason: impl fmt::Display) -> RuntimeError {
    RuntimeError::BadBuffer {
        len,
        reason: format!("not a slice of {}: {reason}", std::any::type_name::<T>()),
    }
}

/// A part of some memory that kernels share; cheap to clone, and keeps the memory alive.
///
/// Who writes what and when is the plan's business, as with any device: two threads that touch the same bytes at once,
/// through kernels or copies, get unspecified values.
#[derive(Clone)]
pub struct View {
    ptr: *mut u8,
    len: usize,
    writable: bool,
    owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: a view is an address of memory that `owner` keeps alive; the memory belongs to no thread, holds plain bytes of which
// every pattern is valid, and Rust references to it exist only where no view may write it.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "View({:p}, {} bytes{})",
            self.ptr,
            self.len,
            if self.writable { "" } else { ", read-only" }
        )
    }
}

impl View {
    /// Bytes that somebody else may read, too (a mapped file, an argument where it lies), read-only.
    pub fn shared<T: AsRef<[u8]> + Send + Sync + 'static>(owner: Arc<T>) -> View {
        let bytes = (*owner).as_ref();
        View { ptr: bytes.as_ptr().cast_mut(), len: bytes.len(), writable: false, owner }
    }

    /// Bytes that are kernels' until [`View::into_bytes`] takes them back.
    pub fn of_bytes(mut bytes: Vec<u8>) -> View {
        View { ptr: bytes.as_mut_ptr(), len: bytes.len(), writable: true, owner: Arc::new(bytes) }
    }

    /// The bytes that [`View::of_bytes`] took, once no other view of them is left.
    pub fn into_bytes(self) -> Option<Vec<u8>> {
        Arc::try_unwrap(self.owner.downcast::<Vec<u8>>().ok()?).ok()
    }

    /// The `len` bytes from `offset` on.
    pub fn part(&self, offset: usize, len: usize) -> Result<View, RuntimeError> {
        self.range(offset, len)?;
        Ok(View { ptr: self.ptr.wrapping_add(offset), len, ..self.clone() })
    }

    /// The same bytes, which no kernel may then write through this view (packed weights).
    pub fn read_only(&self) -> View {
        View { writable: false, ..self.clone() }
    }

    /// Length, bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether kernels and copies may write it.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// First byte.
    pub fn ptr(&self) -> *mut u8 {
        self.ptr
    }

    /// Copies from `offset` (bytes) on into `target`.
    pub fn read<T: AnyBitPattern + NoUninit>(
        &self,
        offset: usize,
        target: &mut [T],
    ) -> Result<(), RuntimeError> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(target);
        let from = self.range(offset, bytes.len())?;
        // SAFETY: the range is inside the view, whose memory `owner` keeps alive; `bytes` is a Rust slice of that length that
        // nobody else may read, and so lies elsewhere (references to a view's memory are shared ones).
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies `source` to `offset` (bytes).
    pub fn write<T: NoUninit>(&self, offset: usize, source: &[T]) -> Result<(), RuntimeError> {
        let bytes: &[u8] = bytemuck::cast_slice(source);
        let to = self.writable_range(offset, bytes.len())?;
        // SAFETY: as in `read`; the memory is writable.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// Copies all of `source` to `offset` (bytes); the two may overlap.
    pub fn copy(&self, offset: usize, source: &View) -> Result<(), RuntimeError> {
        let to = self.writable_range(offset, source.len)?;
        // SAFETY: both ranges are inside views whose memory is kept alive; `copy` allows overlap; the target is writable.
        unsafe { std::ptr::copy(source.ptr, to, source.len) };
        Ok(())
    }

    /// Sets every byte to 0.
    pub fn zero(&self) -> Result<(), RuntimeError> {
        let start = self.writable_range(0, self.len)?;
        // SAFETY: the range is the view itself, alive and writable.
        unsafe { std::ptr::write_bytes(start, 0, self.len) };
        Ok(())
    }

    /// Gives the memory back to the system as far as it lies in whole pages of it; what the bytes are then is not said.
    pub fn forget(&self) {
        #[cfg(target_os = "linux")]
        if self.writable {
            // SAFETY: it asks for a number.
            let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(usize::MAX);
            let start = self.ptr.addr().checked_next_multiple_of(page).unwrap_or(usize::MAX);
            let end = (self.ptr.addr() + self.len) / page * page;
            if start < end {
                let first = self.ptr.wrapping_add(start - self.ptr.addr());
                // SAFETY: whole pages inside the view, which are private memory (only that of a file is not writable): the
                // system puts zeros in their place when they are touched again.
                unsafe { libc::madvise(first.cast(), end - start, libc::MADV_DONTNEED) };
            }
        }
    }

    /// Asks for huge pages under what nobody has touched yet, as far as it is whole ones; content stays.
    pub fn prefer_huge_pages(&self) {
        self.in_huge_pages(false);
    }

    /// Moves the view into huge pages as far as it is whole ones, where the system has them: Linux 6.1 and newer at once, in half a
    /// millisecond each, older ones when they find the time. Bytes and addresses stay; what nobody has touched becomes real memory
    /// with the rest of its page.
    pub fn collapse(&self) {
        self.in_huge_pages(true);
    }

    fn in_huge_pages(&self, now: bool) {
        if self.writable {
            // SAFETY: the range is the view itself, alive, and no file's, which is not writable.
            unsafe { in_huge_pages(self.ptr, self.len, now) };
        }
    }

    /// Gives the memory to another view of as many bytes, whose own is given back to the system; whether it could: both are whole pages
    /// of the system, of blocks that an arena mapped. What the bytes of either are then is not said. It costs much less than forgetting
    /// one and touching the other.
    pub fn give(&self, to: &View) -> bool {
        #[cfg(target_os = "linux")]
        {
            // SAFETY: it asks for a number.
            let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(usize::MAX);
            let (from, at) = (self.ptr.addr(), to.ptr.addr());
            let mapped =
                |v: &View| v.owner.downcast_ref::<Block>().is_some_and(Block::is_mapped) && v.writable;
            let whole = [from, at, self.len].iter().all(|n| n.is_multiple_of(page));
            let apart = from.abs_diff(at) >= self.len;
            if self.len == 0 || self.len != to.len || !whole || !apart || !mapped(self) || !mapped(to) {
                return false;
            }
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
            // SAFETY: both ranges are whole pages inside of private anonymous mappings that `owner`s keep alive and unmap as a
            // whole, page by page as they are then. The source stays mapped, to zeros.
            let moved = unsafe {
                libc::mremap(self.ptr.cast(), self.len, self.len, flags, to.ptr.cast::<libc::c_void>())
            };
            if moved != libc::MAP_FAILED {
                return true;
            }
            let (protection, flags) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            );
            // SAFETY: the target may be unmapped now; new zeros take its place, as if it had been forgotten.
            let again = unsafe { libc::mmap(to.ptr.cast(), to.len, protection, flags, -1, 0) };
            assert!(again != libc::MAP_FAILED, "the system takes memory away and gives none");
        }
        #[cfg(not(target_os = "linux"))]
        let _ = to;
        false
    }

    /// The view as an argument of one call.
    #[inline]
    pub fn arg(&self) -> BufferArg<'_> {
        BufferArg {
            parts: Parts { ptr: self.ptr, len: self.len, writable: self.writable },
            life: PhantomData,
        }
    }

    fn range(&self, offset: usize, len: usize) -> Result<*mut u8, RuntimeError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(self.ptr.wrapping_add(offset)),
            _ => Err(RuntimeError::BadBuffer {
                len: self.len,
                reason: format!("{len} bytes from {offset} on are not inside"),
            }),
        }
    }

    fn writable_range(&self, offset: usize, len: usize) -> Result<*mut u8, RuntimeError> {
        match self.writable {
            true => self.range(offset, len),
            false => Err(RuntimeError::BadBuffer { len: self.len, reason: "the memory is read-only".into() }),
        }
    }
}

/// A buffer for one call of a kernel: memory that stays valid for `'a`.
#[derive(Clone, Copy)]
pub struct BufferArg<'a> {
    parts: Parts,
    life: PhantomData<&'a ()>,
}

impl<'a> BufferArg<'a> {
    /// A slice that the kernel only reads.
    pub fn read<T: NoUninit>(slice: &'a [T]) -> BufferArg<'a> {
        let bytes: &[u8] = bytemuck::cast_slice(slice);
        let parts = Parts { ptr: bytes.as_ptr().cast_mut(), len: bytes.len(), writable: false };
        BufferArg { parts, life: PhantomData }
    }

    /// A slice that the kernel may write.
    pub fn write<T: AnyBitPattern + NoUninit>(slice: &'a mut [T]) -> BufferArg<'a> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(slice);
        let parts = Parts { ptr: bytes.as_mut_ptr(), len: bytes.len(), writable: true };
        BufferArg { parts, life: PhantomData }
    }

    #[inline]
    pub(crate) fn parts(&self) -> Parts {
        self.parts
    }
}
