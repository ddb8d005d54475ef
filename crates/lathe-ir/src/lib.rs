//! The graph, tensor and step IRs: text form, checker, interpreter, and the shape of an operator's row.
//!
//! - [`graph`]: models as functions of tensor operators with symbolic shapes;
//! - [`tensor`]: one kernel as loops over scalar statements, the level that is scheduled and emitted;
//! - [`step`]: what the executor runs: calls of kernels over planned memory;
//! - [`DType`], [`Encoding`], [`Tensor`]: element types, quantized storage and values, shared by all three.
//!
//! ```
//! use lathe_ir::tensor::{interpret, parse, Memory};
//! let text = "kernel twice(n) {
//!   in x: f32[n]
//!   out y: f32[n]
//!   for i in n spatial serial {
//!     S: y[i] = x[i] * 2f32
//!   }
//! }
//! ";
//! let k = parse(text).unwrap();
//! assert_eq!(k.to_string(), text);
//! let mut m = Memory::new(&[("n", 3)]);
//! m.set_f32("x", &[1.0, 2.0, 3.0]);
//! m.set_f32("y", &[0.0; 3]);
//! interpret(&k, &mut m).unwrap();
//! assert_eq!(m.f32("y"), [2.0, 4.0, 6.0]);
//! ```

mod blocks;
mod dtype;
mod encoding;
pub mod encodings;
mod error;
pub mod graph;
mod lexer;
pub mod notation;
pub mod step;
pub mod tensor;
mod value;

pub use dtype::DType;
pub use encoding::{Coded, Decode, Encoding, Field, Layout, Term, row_major};
pub use error::IrError;
pub use lathe_symbolic::{Bounds, Int, Name};
pub use lexer::parse_int;
pub use value::{Elements, Tensor, decode_bits, encode_bits, read_bits, write_bits};
