//! GGUF, the model file: reading (memory-mapped, checked once at the door), writing, and the reference decode of its
//! block formats.
//!
//! Everything that comes from the file is untrusted: a [`GgufFile`] exists only when every count, string, type and byte
//! range in it has been checked, so that its users never need to.

mod dequantize;
mod error;
mod file;
mod parse;
mod types;
mod value;
mod writer;

pub use dequantize::dequantize;
pub use error::{GgufError, GgufErrorKind};
pub use file::{GgufFile, TensorInfo};
pub use types::GgmlType;
pub use value::{FromMetadata, StrArray, ValueKind};
pub use writer::GgufWriter;
