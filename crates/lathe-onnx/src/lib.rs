//! ONNX programs as graphs: protobuf, opsets, decomposition to primitives; control, sequences and optionals.
//!
//! A [`Model`] is read from bytes and run on [`Value`]s. Its nodes are read in order, each by the row of its operator in
//! [`ops`], into graphs of primitives that a [`Runner`] runs (`trace` says when).
//!
//! ```
//! use lathe_onnx::Model;
//! let none = |_: &str, _: u64, _: Option<u64>| Err("there is no other file".to_string());
//! let error = Model::parse(b"no model", &none).err().unwrap();
//! assert!(error.to_string().starts_with("this is no model of ONNX"));
//! ```

mod build;
mod elem;
mod error;
mod model;
mod node;
pub mod npy;
pub mod ops;
mod prepared;
pub mod proto;
mod runner;
pub mod suite;
mod trace;

pub use elem::{Array, Elem};
pub use error::{Fault, OnnxError};
pub use model::{External, Model, Reader, Region, Scope, Value};
pub use node::{Item, Node};
pub use prepared::Prepared;
pub use runner::{Compiled, EXACT, FAST, Interpreted, Stored};
pub use trace::{Read, Runner, Trace, Val};
