//! Devices, arenas, kernel build and cache, the thread pool, and measuring the machine.
//!
//! The basement of the house: everything that touches the machine itself, and the only room (with the calls of kernels) where
//! code is unsafe. What it offers upstairs is safe and checked.
//!
//! Public surface:
//! - the machine: [`detect_cpu`], [`detect_caches`], [`detect_target`], [`measure`], [`this_machine`], [`machine_file`],
//!   [`read_bandwidth`], [`direct_read_bandwidth`], [`peak_f32`], [`peak_bf16`], [`peak_int8`], [`processor_times`],
//!   [`thread_processor_time`];
//! - threads: [`Pool`], [`PoolOptions`], [`Barrier`];
//! - memory: [`Arena`], [`Buffer`], [`View`], [`DiskFile`] (stores by [`StoreWriter`] in checked [`BLOCK`]s), [`peak_rss_bytes`], [`current_rss_bytes`],
//!   [`anonymous_rss_bytes`], [`release_freed_memory`];
//! - kernels: [`KernelCache`] builds a [`BuildRequest`] into a [`Library`] of [`KernelFn`]s; a [`Kernel`] is one of them with
//!   its [`Signature`], called with [`BufferArg`]s or [`Prepared`] once for many calls;
//! - [`RuntimeError`].
//!
//! ```
//! use lathe_machine::Target;
//! use lathe_runtime::*;
//! # fn main() -> Result<(), RuntimeError> {
//! # let folder = tempfile::tempdir().unwrap();
//! let source = "int twice(void *ctx, float **buffers, const long long *dims, void *workspace, long long begin, long long end) {
//!     for (long long i = begin; i < end; i++) buffers[1][i] = 2 * buffers[0][i];
//!     return 0;
//! }";
//! let request = BuildRequest::new(vec![source.into()], &Target::portable());
//! let library = KernelCache::new(folder.path()).load(&request, 2, &mut |_done, _total| ())?;
//! let param = |name: &str, access| Param { name: name.into(), access, align: 4 };
//! let kernel = Kernel::new(
//!     library.kernel("twice")?,
//!     Signature {
//!         name: "twice".into(),
//!         dims: vec!["n".into()],
//!         params: vec![param("x", Access::Read), param("y", Access::Write)],
//!         workspace_bytes: 0,
//!     },
//! );
//!
//! let arena = Arena::new("dram", 1 << 20);
//! let (x, y) = (arena.alloc(4000)?.into_view(), arena.alloc(4000)?.into_view());
//! x.write(0, &[21.0f32; 1000])?;
//! let prepared = kernel.prepare(vec![x, y.clone()], &[4000, 4000], &[1000], None)?;
//! Pool::new(2)?.try_run(&|thread, barrier| {
//!     let mut ctx = Ctx { thread: thread as u32, threads: barrier.threads() as u32 };
//!     prepared.run(&mut ctx, thread as i64 * 500, thread as i64 * 500 + 500)
//! })?;
//! let mut result = [0.0f32; 1000];
//! y.read(0, &mut result)?;
//! assert_eq!(result, [42.0; 1000]);
//! # Ok(())
//! # }
//! ```
#![allow(unsafe_code, reason = "the basement: memory, dynamic loading, threads and kernel calls need it")]

mod arena;
mod barrier;
mod buffer;
mod build;
mod cache;
mod compiler;
mod cpu;
mod disk_file;
mod error;
mod files;
mod gate;
mod kernel;
mod library;
mod pool;
mod probe;
mod processor_time;
mod resident;

pub use arena::{Arena, HUGE, Reserved, prefer_huge_pages};
pub use barrier::{Barrier, Line};
pub use buffer::{Buffer, BufferArg, View};
pub use cache::{BuildRequest, KernelCache};
pub use compiler::{cross_compiler, kernel_flags};
pub use cpu::{detect_caches, detect_cpu, detect_target};
pub use disk_file::{BLOCK, DiskFile, SECTOR, StoreWriter};
pub use error::RuntimeError;
pub use files::write_whole;
pub use kernel::{ABI_VERSION, Access, CTX_DECLARATION, Ctx, Kernel, Param, Prepared, Signature, Workspace};
pub use library::{KernelFn, Library};
pub use pool::{Pool, PoolOptions};
pub use probe::{
    direct_read_bandwidth, machine_file, measure, peak_bf16, peak_f32, peak_int8, read_bandwidth,
    this_machine,
};
pub use processor_time::{processor_times, thread_processor_time};
pub use resident::{anonymous_rss_bytes, current_rss_bytes, peak_rss_bytes, release_freed_memory};
