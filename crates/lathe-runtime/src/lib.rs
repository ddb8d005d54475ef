//! Devices, arenas, kernel build and cache, the thread pool, and measuring the machine.
#![allow(unsafe_code, reason = "the basement: memory, dynamic loading, threads and kernel calls need it")]

mod barrier;
mod error;
mod gate;
mod pool;

pub use barrier::Barrier;
pub use error::RuntimeError;
pub use pool::{Pool, PoolOptions};
