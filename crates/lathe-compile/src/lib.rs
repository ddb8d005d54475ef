//! The driver: from graphs to compiled, loaded step programs.
//!
//! [`compile`] rewrites a graph, plans it for each class of sizes, schedules, emits and builds its kernels. [`Session`] is a
//! graph that runs on tensors, [`Program`] a module of functions, [`Function`] one kernel; the language-model engine keeps memory of its own and uses [`compile`] alone.
//!
//! A [`Draft`] is a compiled graph before its code is loaded; its text and its library make it again ([`load_stored`]).
//!
//! ```
//! use lathe_ir::{Tensor, graph::parse};
//! use std::collections::HashMap;
//! let g = parse("graph f(T <= 4) {
//!   x: f32[T, 8] = input
//!   y: f32[T, 8] = silu(x)
//!   return y
//! }").unwrap();
//! let folder = tempfile::tempdir().unwrap();
//! let target = lathe_machine::Target::portable();
//! let mut f = lathe_compile::Session::new(&g, &[], &HashMap::new(), &target, folder.path(), 1).unwrap();
//! let y = f.run(&[("x", &Tensor::f32(&[1, 8], &[0.0; 8]))]).unwrap();
//! assert_eq!(y[0].to_f32(), [0.0; 8]);
//! ```

mod compile;
mod error;
mod findings;
mod function;
mod kept;
mod overview;
mod picture;
mod program;
mod session;
mod stored;

pub use compile::{Class, Compiled, Draft, Made, Options, Recipe, Sizes, compile, draft, scheduled};
pub use error::CompileError;
pub use findings::{Finding, Findings, Shipped, shipped};
pub use function::{Bound, Function};
pub use lathe_rewrite::ROW_PADDING;
pub use lathe_schedule::multiplies_bytes;
pub use overview::{Overview, Show};
pub use program::Program;
pub use session::Session;
pub use stored::load_stored;
