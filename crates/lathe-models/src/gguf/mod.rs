//! GGUF, the model file: reading (checked once at the door), split sets, writing, and the reference decode of its block
//! formats.

mod dequantize;
mod error;
mod file;
mod parse;
mod types;
mod value;
mod writer;

pub use dequantize::dequantize;
pub use error::{GgufError, GgufErrorKind};
pub(crate) use file::{Metadata, from_bytes, open};
pub use types::GgmlType;
pub use value::{FromMetadata, StrArray, ValueKind};
pub use writer::GgufWriter;
pub(crate) use writer::temporary;
