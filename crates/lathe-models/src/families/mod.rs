//! Model families as graph builders: from a file's metadata and tensors to the graph of one step.
//!
//! A family is one file, a [`Style`], and its name in [`FAMILIES`]; `transformer.rs` builds the graph of any. That is the whole
//! model as a function of the step's tokens and the paged cache; every tensor it names was found in the file with the shape
//! that the configuration asks for.

mod config;
mod error;
mod feed_forward;
mod nodes;
mod rope;
mod style;
mod tensors;
mod transformer;

mod bert;
mod gemma2;
mod gemma3;
mod gpt2;
mod llama;
mod olmo2;
mod opt;
mod phi3;
mod qwen2;
mod qwen2moe;
mod qwen3;
mod qwen3moe;

pub use config::{Config, Experts, Pooling};
pub use error::{FamilyError, FamilyErrorKind};

use std::collections::{BTreeSet, HashMap};

use lathe_ir::graph::{Graph, check};
use lathe_ir::{Name, Tensor};
use style::{Pairs, Positions, Style};

use crate::file::{Format, ModelFile};

/// Positions in a page of the cache.
pub const PAGE: i64 = 16;

/// How an element of the cache is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits.
    F16,
    /// The upper 16 bits of 32, which some processors multiply as they are.
    Bf16,
    /// Codes of 8 bits, with a scale of 16 bits for every 32 components of a position.
    Q8,
    /// Codes of 4 bits, with such a scale.
    Q4,
}

impl KvType {
    /// All of them, widest first.
    pub const ALL: [KvType; 5] = [KvType::F32, KvType::F16, KvType::Bf16, KvType::Q8, KvType::Q4];

    /// Its name, which is also what the encodings of pages have behind theirs.
    pub fn as_str(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Bf16 => "bf16",
            KvType::Q8 => "q8",
            KvType::Q4 => "q4",
        }
    }
}

/// How large the cache and a step may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// How keys and values are stored.
    pub elements: KvType,
    /// Pages of 16 positions, over all sequences.
    pub pages: i64,
    /// The longest sequence, in positions; rounded up to whole pages.
    pub context: i64,
    /// Tokens of one step.
    pub max_tokens: i64,
    /// Sequences of one step, and rows whose logits are wanted.
    pub max_sequences: i64,
    /// Room for adapters; without it the graph has none.
    pub adapters: Option<AdapterRoom>,
}

/// Room for low-rank adapters (Hu et al. 2021), each of which a step's tokens may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterRoom {
    /// The most adapters at once.
    pub count: usize,
    /// The largest rank, a multiple of 16.
    pub rank: usize,
    /// The products of a layer that adapters may change (`attn_q`, `ffn_up`); all, where none is named.
    pub products: BTreeSet<String>,
}

impl AdapterRoom {
    /// Room for `count` adapters up to this rank.
    pub fn new(count: usize, rank: usize, products: BTreeSet<String>) -> AdapterRoom {
        AdapterRoom { count, rank: rank.max(1).next_multiple_of(16), products }
    }

    /// Whether there is room for a change of this product, by the name of its weights without `.weight`.
    pub fn has(&self, product: &str) -> bool {
        self.products.is_empty() || self.products.contains(in_layer(product))
    }
}

/// A product's name in its layer: `attn_q` of `blk.3.attn_q`.
pub(crate) fn in_layer(product: &str) -> &str {
    product.rsplit('.').next().unwrap_or(product)
}

/// A model as a graph.
///
/// Dimensions: `T` tokens of the step, ragged over its sequences; `R` rows whose logits are wanted; `B` rows of the page
/// table. Inputs: `tokens`, `positions`, `sequences` (a row of `pages`) and `slots` (page * 16 + place in it) for each
/// token, `rows`, and `pages` [B, context / 16]. State: `keys0`, `values0`, `keys1`... Results: the logits [R, vocabulary], then
/// the successors of the state in this order.
///
/// With room for adapters: `adapters` [T, 1], each token's adapter (0 is none), and for each product of the layers
/// `PRODUCT.lora_a` [adapters + 1, rank, width] and `PRODUCT.lora_b` [adapters + 1, rows, rank], of which the first is zero.
///
/// An encoder takes whole sequences, and `last` (the position of the last token of the sequence), `types` (0 or 1) and `shares`
/// (1 / tokens of the sequence, f32) for each token as well; `rows` are the first tokens of the sequences, and the result is
/// [R, hidden], the mean of each sequence's tokens or the first one, as the file says. Its state is scratch: nothing of it is read by another step.
#[derive(Clone, Debug)]
pub struct Model {
    /// The step; its constants have the names of the file's tensors, or of `made`.
    pub graph: Graph,
    /// What the file says of the model.
    pub config: Config,
    /// Whether it is an encoder, which embeds texts and generates none.
    pub encoder: bool,
    /// Constants that are not in the file.
    pub made: HashMap<Name, Tensor>,
}

/// The families, by the architecture's name in a file.
const FAMILIES: &[&Style] = &[
    &llama::STYLE,
    &qwen2::STYLE,
    &qwen2moe::STYLE,
    &qwen3::STYLE,
    &qwen3moe::STYLE,
    &gemma2::STYLE,
    &gemma3::STYLE,
    &phi3::STYLE,
    &olmo2::STYLE,
    &gpt2::STYLE,
    &opt::STYLE,
    &bert::STYLE,
];

fn find(file: &ModelFile) -> Result<&'static Style, FamilyErrorKind> {
    let name = file.get_str("general.architecture")?;
    FAMILIES.iter().find(|s| s.name == name).copied().ok_or_else(|| {
        let known = FAMILIES.iter().map(|s| format!("'{}'", s.name)).collect::<Vec<_>>().join(", ");
        FamilyErrorKind::Unknown { name: name.to_owned(), known }
    })
}

/// The family of the model in `file`: the first word of its settings' names.
pub fn family(file: &ModelFile) -> Result<&'static str, FamilyError> {
    find(file).map(|s| s.name).map_err(|kind| FamilyError { path: file.path().map(Into::into), kind })
}

/// What becomes of a sequence's tokens where the model in `file` embeds texts.
pub fn pooling(file: &ModelFile) -> Result<Pooling, FamilyError> {
    let read = find(file).and_then(|style| config::pooling(file, style.name));
    read.map_err(|kind| FamilyError { path: file.path().map(Into::into), kind })
}

/// The heads of queries and of keys where rotating pairs are neighbours in this file; `None` where they are halves, or none rotate.
pub(crate) fn neighbours(file: &ModelFile) -> Result<Option<[usize; 2]>, FamilyErrorKind> {
    if file.format() == Format::Safetensors { find(file).map(|_| None) } else { neighbours_in_gguf(file) }
}

/// The same in a GGUF file of this model.
pub(crate) fn neighbours_in_gguf(file: &ModelFile) -> Result<Option<[usize; 2]>, FamilyErrorKind> {
    let style = find(file)?;
    if style.positions != Positions::Rotary(Pairs::Neighbours) {
        return Ok(None);
    }
    let c = config::Config::read(file, style)?;
    Ok(Some([c.heads, c.kv_heads].map(|n| n as usize)))
}

/// Which row of halves becomes this row of neighbours: `2i + j` of a head was `i` of its half `j`, of so many rows.
pub(crate) fn row_in_halves(row: usize, half: usize) -> usize {
    let (head, place) = (row / (2 * half), row % (2 * half));
    head * 2 * half + place % 2 * half + place / 2
}

/// The graph of the model in `file`.
pub fn build(file: &ModelFile, cache: &CacheShape) -> Result<Model, FamilyError> {
    let fail = |kind| FamilyError { path: file.path().map(Into::into), kind };
    let style = find(file).map_err(fail)?;
    if [cache.pages, cache.context, cache.max_tokens, cache.max_sequences].iter().any(|n| *n < 1) {
        return Err(fail(FamilyErrorKind::Cache(Box::new(cache.clone()))));
    }
    let model = transformer::build(file, cache, style).map_err(fail)?;
    check(&model.graph, &lathe_ops::table()).map_err(|e| fail(e.into()))?;
    Ok(model)
}
