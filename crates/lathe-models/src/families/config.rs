//! The numbers that describe a model, read from the metadata and checked against each other.

use super::error::FamilyErrorKind;
use super::style::{Norm, Positions, Style};
use crate::file::ModelFile;

/// No extent is larger, so that no product of three overflows.
const LARGEST: i64 = 1 << 20;

/// The numbers of a transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The longest context it was trained for.
    pub context: i64,
    /// Layers.
    pub layers: i64,
    /// Entries of the vocabulary.
    pub vocab: i64,
    /// Types of tokens that an encoder tells apart.
    pub types: i64,
    /// Width of the residual stream.
    pub hidden: i64,
    /// Width inside the feed-forward layer that is no expert.
    pub ffn: i64,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads.
    pub kv_heads: i64,
    /// Components of a head.
    pub head_dim: i64,
    /// Components of a head that rotate; 0 where positions are learned.
    pub rope_dim: i64,
    /// Base of the rotations' frequencies.
    pub rope_base: f32,
    /// What scores are multiplied by, where it is not 1 / sqrt(head_dim).
    pub scale: Option<f32>,
    /// The bound of scores, `c * tanh(score / c)`.
    pub score_cap: Option<f32>,
    /// The bound of logits.
    pub logit_cap: Option<f32>,
    /// How many positions a token sees, its own included, in layers with a window.
    pub window: Option<i64>,
    /// Every so many layers one is without a window.
    pub global_every: Option<i64>,
    /// Added to the mean square, or to the variance.
    pub eps: f32,
    /// The mixture of experts, where it is one.
    pub experts: Option<Experts>,
    /// What becomes of a sequence's tokens where the model embeds texts.
    pub pooling: Pooling,
}

/// One vector of a sequence's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first of them.
    First,
    /// The last of them: of a model that reads forwards, the only one that knows all. Such a model generates no text then.
    Last,
}

/// The pooling of a family's file.
pub(super) fn pooling(file: &ModelFile, prefix: &str) -> Result<Pooling, FamilyErrorKind> {
    Metadata { file, prefix }.pooling()
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    /// How many there are.
    pub count: i64,
    /// How many a token uses.
    pub used: i64,
    /// Width inside each.
    pub width: i64,
    /// Width inside the one that every token uses, where there is one.
    pub shared: Option<i64>,
    /// The chosen ones are weighed by their share of all, not of those chosen.
    pub shares_of_all: bool,
}

impl Config {
    /// Reads the metadata of a family.
    pub(super) fn read(file: &ModelFile, style: &Style) -> Result<Config, FamilyErrorKind> {
        let m = Metadata { file, prefix: style.name };
        let hidden = m.extent("embedding_length")?;
        let heads = m.extent("attention.head_count")?;
        let kv_heads = m.optional("attention.head_count_kv")?.unwrap_or(heads);
        m.require(heads % kv_heads == 0, "attention.head_count_kv", kv_heads, || {
            format!("a divisor of {heads}")
        })?;
        let head_dim = match m.optional("attention.key_length")? {
            Some(d) => d,
            None => {
                let whole = hidden % heads == 0;
                m.require(whole, "attention.head_count", heads, || format!("a divisor of {hidden}"))?;
                hidden / heads
            }
        };
        let values = m.optional("attention.value_length")?.unwrap_or(head_dim);
        m.require(values == head_dim, "attention.value_length", values, || head_dim.to_string())?;
        let rope_dim = match style.positions {
            Positions::Learned(_) => 0,
            Positions::Rotary(_) => m.optional("rope.dimension_count")?.unwrap_or(head_dim),
        };
        let fits = rope_dim <= head_dim && rope_dim % 2 == 0;
        m.require(fits, "rope.dimension_count", rope_dim, || format!("an even number up to {head_dim}"))?;
        let epsilon = match style.norm {
            Norm::MeanSquare => "attention.layer_norm_rms_epsilon",
            Norm::Layer => "attention.layer_norm_epsilon",
        };
        file.get_f32(&m.key(epsilon))?;
        let layers = m.extent("block_count")?;
        // The largest of some families have heads of another width than their scores are scaled by; no key says so.
        let by_hidden = (style.widest == Some(layers)).then(|| 1.0 / ((hidden / heads) as f32).sqrt());
        Ok(Config {
            context: m.extent("context_length")?,
            layers,
            vocab: vocabulary(file)?,
            types: Metadata { file, prefix: "tokenizer.ggml" }.optional("token_type_count")?.unwrap_or(2),
            hidden,
            ffn: m.extent("feed_forward_length")?,
            heads,
            kv_heads,
            head_dim,
            rope_dim,
            rope_base: m.positive("rope.freq_base")?.unwrap_or(10000.0),
            scale: m.positive("attention.scale")?.or(by_hidden),
            score_cap: m.positive("attn_logit_softcapping")?,
            logit_cap: m.positive("final_logit_softcapping")?,
            window: m.window()?,
            global_every: m.optional("attention.sliding_window_pattern")?.or(style.global_every),
            eps: m.positive(epsilon)?.unwrap_or_default(),
            experts: m.experts(style)?,
            pooling: m.pooling()?,
        })
    }

    /// The window of a layer, where it has one.
    pub fn window_of(&self, layer: i64) -> Option<i64> {
        self.window.filter(|_| self.global_every.is_none_or(|n| layer % n != n - 1))
    }

    /// Width of the queries.
    pub fn query(&self) -> i64 {
        self.heads * self.head_dim
    }

    /// Width of the keys, and of the values.
    pub fn key(&self) -> i64 {
        self.kv_heads * self.head_dim
    }
}

/// The embedding's rows: the one place that every file has.
fn vocabulary(file: &ModelFile) -> Result<i64, FamilyErrorKind> {
    let name = "token_embd.weight";
    let missing = || FamilyErrorKind::Missing { name: name.to_owned(), expected: None };
    let rows = file.tensor(name).ok_or_else(missing)?.shape().first().copied().unwrap_or(0);
    let rows = i64::try_from(rows).unwrap_or(i64::MAX);
    let what = "has more rows or fewer than a vocabulary can have";
    let values = || FamilyErrorKind::Values { name: name.to_owned(), what };
    (1..=LARGEST).contains(&rows).then_some(rows).ok_or_else(values)
}

/// The settings of one family in a file.
pub(super) struct Metadata<'a> {
    pub file: &'a ModelFile,
    pub prefix: &'a str,
}

impl Metadata<'_> {
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    pub(super) fn require(
        &self,
        ok: bool,
        name: &str,
        found: impl ToString,
        wanted: impl Fn() -> String,
    ) -> Result<(), FamilyErrorKind> {
        if ok {
            return Ok(());
        }
        Err(FamilyErrorKind::Value { key: self.key(name), found: found.to_string(), wanted: wanted() })
    }

    pub(super) fn optional(&self, name: &str) -> Result<Option<i64>, FamilyErrorKind> {
        let Some(n) = self.file.find::<u32>(&self.key(name))?.map(i64::from) else { return Ok(None) };
        let wanted = || format!("a number from 1 to {LARGEST}");
        self.require((1..=LARGEST).contains(&n), name, n, wanted)?;
        Ok(Some(n))
    }

    fn extent(&self, name: &str) -> Result<i64, FamilyErrorKind> {
        // A missing key is an error of the file's reader; so is one of another type.
        self.file.get_u32(&self.key(name))?;
        Ok(self.optional(name)?.unwrap_or(1))
    }

    pub(super) fn positive(&self, name: &str) -> Result<Option<f32>, FamilyErrorKind> {
        let Some(v) = self.file.find::<f32>(&self.key(name))? else { return Ok(None) };
        self.require(v > 0.0 && v.is_finite(), name, v, || "a positive number".to_owned())?;
        Ok(Some(v))
    }

    /// 0 says that there is none.
    fn window(&self) -> Result<Option<i64>, FamilyErrorKind> {
        let name = "attention.sliding_window";
        match self.file.find::<u32>(&self.key(name))? {
            None | Some(0) => Ok(None),
            Some(_) => self.optional(name),
        }
    }

    fn pooling(&self) -> Result<Pooling, FamilyErrorKind> {
        let name = "pooling_type";
        match self.file.find::<u32>(&self.key(name))? {
            None | Some(1) => Ok(Pooling::Mean),
            Some(2) => Ok(Pooling::First),
            Some(3) => Ok(Pooling::Last),
            Some(n) => {
                self.require(false, name, n, || "1 (mean), 2 (first token) or 3 (last)".to_owned())?;
                Ok(Pooling::Mean)
            }
        }
    }

    fn experts(&self, style: &Style) -> Result<Option<Experts>, FamilyErrorKind> {
        if self.file.find::<u32>(&self.key("expert_count"))?.unwrap_or(0) == 0 {
            return Ok(None);
        }
        let (count, used) = (self.extent("expert_count")?, self.extent("expert_used_count")?);
        self.require(used <= count, "expert_used_count", used, || format!("a number up to {count}"))?;
        let width = match self.optional("expert_feed_forward_length")? {
            Some(width) => width,
            None => self.extent("feed_forward_length")?,
        };
        let shared = self.optional("expert_shared_feed_forward_length")?;
        Ok(Some(Experts { count, used, width, shared, shares_of_all: style.shares_of_all }))
    }
}
