//! Devices, arenas, kernel build and cache, the thread pool, and measuring the machine.
#![allow(unsafe_code, reason = "the basement: memory, dynamic loading, threads and kernel calls need it")]

mod arena;
mod barrier;
mod buffer;
mod build;
mod cache;
mod compiler;
mod cpu;
mod error;
mod files;
mod gate;
mod kernel;
mod library;
mod pool;
mod probe;
mod resident;

pub use arena::Arena;
pub use barrier::Barrier;
pub use buffer::{Buffer, BufferArg, View};
pub use cache::{BuildRequest, KernelCache};
pub use compiler::kernel_flags;
pub use cpu::{detect_caches, detect_cpu, detect_target};
pub use error::RuntimeError;
pub use kernel::{ABI_VERSION, Access, CTX_DECLARATION, Ctx, Kernel, Param, Prepared, Signature};
pub use library::{KernelFn, Library};
pub use pool::{Pool, PoolOptions};
pub use probe::{machine_file, measure, peak_bf16, peak_f32, peak_int8, read_bandwidth, this_machine};
pub use resident::{current_rss_bytes, peak_rss_bytes};
