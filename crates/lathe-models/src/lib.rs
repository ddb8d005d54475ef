//! Model files, tokenizers, chat templates, families as graph builders, and where models come from.
//!
//! - [`resolve`], [`pull`], [`list`]: from a name to a file, through the cache in [`cache_dir`], telling a [`Progress`].
//! - [`ModelFile`]: a GGUF file, a split set or a safetensors folder, memory-mapped; metadata by [`get`](ModelFile::get) under
//!   GGUF's keys, tensors as [`TensorInfo`] of a [`GgmlType`] under GGUF's names;
//!   [`dequantize`] is what each block format means, [`quantize`] finds what loses the least in one, [`GgufWriter`] writes a file.
//! - [`quantize_file`]: a model in other types, tensor by tensor; [`quantize_folder`]: a folder with its matrices in 4 bits;
//!   [`Rounded`]: a matrix that was rounded for the inputs it meets.
//! - [`write_artifact`]: the container of a compiled model, which a [`ModelFile`] then is.
//! - [`family`], [`build`]: a file's model as a graph over a cache of some [`CacheShape`]; a family is one file in `families/`.
//! - [`Adapter`]: a low-rank adapter of a model's products, as PEFT or llama.cpp writes one.
//! - [`Tokenizer`] and [`StreamDecoder`]: text to token ids and back, whole or as it comes.
//! - [`ChatTemplate`]: a conversation of [`Message`]s to a prompt; [`chat_tokens`] and [`prompt_tokens`] are prompts as tokens.
//!
//! Whatever is in a file or comes over a wire is checked; nothing here panics on it. Each error has a
//! [`Diagnostic`](lathe_diagnostic::Diagnostic).
//!
//! ```
//! use lathe_models::{CacheShape, ChatTemplate, KvType, Message, ModelFile, StreamDecoder, Tokenizer, build};
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny/llama-q4_1.gguf");
//! let file = ModelFile::open(path)?;
//! let embedding = file.tensor("token_embd.weight").ok_or("no embedding")?;
//! assert_eq!((embedding.shape(), embedding.ty().name()), (vec![128, 64], "Q8_0"));
//! assert_eq!(file.data(embedding).len(), 128 * 64 / 32 * 34);
//!
//! let model = build(&file, &CacheShape { elements: KvType::F16, pages: 4, context: 64, max_tokens: 16, max_sequences: 1, adapters: None })?;
//! assert_eq!(model.graph.ty(model.graph.outputs[0]).to_string(), "f32[R, 128]");
//!
//! let tokenizer = Tokenizer::from_file(&file)?;
//! let prompt = ChatTemplate::from_file(&file)?.render(&[Message::new("user", "the band")], true, "", "")?;
//! let ids = tokenizer.encode(&prompt, true);
//! assert_eq!(tokenizer.decode(&ids), "<|im_start|>user\nthe band<|im_end|>\n<|im_start|>assistant\n");
//!
//! let mut stream = StreamDecoder::new();
//! let pieces: Vec<String> = ids.iter().map(|&id| stream.push(&tokenizer, id)).collect();
//! assert_eq!(pieces.concat(), prompt);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod adapter;
mod artifact;
mod chat;
mod families;
mod file;
mod gguf;
mod prompt;
mod quantize;
mod safetensors;
mod source;
mod tokenizer;

pub use adapter::{Adapter, AdapterError, AdapterErrorKind, AdapterPart};
pub use artifact::{ArtifactError, ArtifactErrorKind, is_artifact, write_artifact};
pub use chat::{ChatError, ChatTemplate, Message};
pub use families::{
    AdapterRoom, CacheShape, Config, Experts, FamilyError, FamilyErrorKind, KvType, Model, PAGE, Pooling,
    build, family, pooling,
};
pub use file::{FileError, Format, ModelFile, TensorInfo};
pub use gguf::{
    FromMetadata, GgmlType, GgufError, GgufErrorKind, GgufWriter, StrArray, ValueKind, dequantize,
};
pub use prompt::{chat_tokens, prompt_tokens};
pub use quantize::{
    Chosen, Correlation, Factor, Int8, Loss, QuantizeError, Rounded, Rounding, Way, Written, estimate_losses,
    is_product, quantize, quantize_file, suitable_type, with_quantized, within_budget,
};
pub use safetensors::{FourBits, SafetensorsError, SafetensorsErrorKind, WrittenTensor, quantize_folder};
pub use source::{
    ModelEntry, Progress, Silent, SourceError, TerminalProgress, cache_dir, list, pull, resolve,
};
pub use tokenizer::{StreamDecoder, Tokenizer, TokenizerError, TokenizerErrorKind};
