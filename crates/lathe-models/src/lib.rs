//! Model files, tokenizers, chat templates, families as graph builders, and where models come from.

mod chat;
mod gguf;
mod source;
mod tokenizer;

pub use chat::{ChatError, ChatTemplate, Message};
pub use gguf::{
    FromMetadata, GgmlType, GgufError, GgufErrorKind, GgufFile, GgufWriter, StrArray, TensorInfo, ValueKind,
    dequantize,
};
pub use source::{
    ModelEntry, Progress, Silent, SourceError, TerminalProgress, cache_dir, list, pull, resolve,
};
pub use tokenizer::{StreamDecoder, Tokenizer, TokenizerError, TokenizerErrorKind};
