//! Instruction selection by equality saturation: a graph becomes classes of equal terms ([`search`]), which a closed table of
//! rules ([`rules`]) makes larger, until products stand in the sizes and layouts that an instruction of the target computes.
//! The cheapest terms are the chosen graph, and each has a proof that is checked without the search ([`replay`]).
//!
//! An instruction is described by its meaning, a tensor program ([`target`]). What is placed on an accelerator runs on an
//! emulator of its instructions ([`accelerator`]).
//!
//! ```
//! use lathe_select::{Limits, Target, rule::Kind, select};
//! let g = lathe_ir::graph::parse("graph f() {
//!   x: f32[512, 64] = input
//!   w: f32[512, 64] = const \"w\"
//!   y: f32[512, 512] = matmul(x, w)
//!   return y
//! }").unwrap();
//! let (table, target) = (lathe_ops::table(), Target::named("gemm16").unwrap());
//! let of = |kinds: &[Kind]| select(&g, &table, &Default::default(), &target, kinds, Limits::default()).unwrap();
//! assert_eq!(of(&[Kind::Exact]).share(), 0.0);
//! assert_eq!(of(&[Kind::Exact, Kind::Layout]).share(), 1.0);
//! ```

pub mod accelerator;
mod cost;
mod error;
mod extract;
pub mod host;
pub mod replay;
pub mod rule;
pub mod rules;
pub mod sample;
pub mod search;
mod select;
pub mod target;
pub mod term;

pub use error::SelectError;
pub use search::Limits;
pub use select::{Operator, Selection, select};
pub use target::{TARGETS, Target};
