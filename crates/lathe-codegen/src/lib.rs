//! One emitter for the C family, with a dialect table for each target.
//!
//! A kernel becomes one C function of the kernel ABI. In a scalar dialect every loop is a loop; in a vector dialect lane
//! loops become vector-extension arithmetic and tensorized nests one builtin each. Every builtin in the text is a row of
//! the dialect's table.
//!
//! ```
//! use lathe_ir::tensor::parse;
//! let k = parse("kernel f() {
//!   in x: f32[64]
//!   out y: f32[64]
//!   for i in 64 spatial core {
//!     S: y[i] = x[i] + 1f32
//!   }
//! }").unwrap();
//! let c = lathe_codegen::emit(&k, "f", lathe_codegen::Dialect::named("portable").unwrap()).unwrap();
//! assert!(c.source.contains("int f("));
//! assert_eq!(c.grid.as_const(), Some(64));
//! ```

mod dialect;
mod emit;
mod hls;
mod instruction;
mod legalize;
mod registers;
mod scalar;
mod squares;
mod vector;

pub use dialect::{Compiler, Dialect, Row};
pub use emit::{CodegenError, Emitted, emit, prelude};
