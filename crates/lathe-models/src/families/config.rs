//! The numbers that describe a model, read from the metadata and checked against each other.

use super::error::FamilyErrorKind;
use crate::file::ModelFile;

/// No extent is larger, so that no product of three overflows.
const LARGEST: i64 = 1 << 20;

/// The numbers of a model of the Llama family.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The longest context it was trained for.
    pub context: i64,
    /// Layers.
    pub layers: i64,
    /// Entries of the vocabulary.
    pub vocab: i64,
    /// Width of the residual stream.
    pub hidden: i64,
    /// Width inside the feed-forward layer (of each expert).
    pub ffn: i64,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads.
    pub kv_heads: i64,
    /// Components of a head.
    pub head_dim: i64,
    /// Components of a head that rotate.
    pub rope_dim: i64,
    /// Base of the rotations' frequencies.
    pub rope_base: f32,
    /// Added to the mean square.
    pub eps: f32,
    /// The mixture of experts, where it is one.
    pub experts: Option<Experts>,
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    /// How many there are.
    pub count: i64,
    /// How many a token uses.
    pub used: i64,
}

impl Config {
    /// Reads the metadata whose keys begin with `prefix`.
    pub(super) fn read(file: &ModelFile, prefix: &str) -> Result<Config, FamilyErrorKind> {
        let m = Metadata { file, prefix };
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
        let rope_dim = m.optional("rope.dimension_count")?.unwrap_or(head_dim);
        let fits = rope_dim <= head_dim && rope_dim % 2 == 0;
        m.require(fits, "rope.dimension_count", rope_dim, || format!("an even number up to {head_dim}"))?;
        let rope_base = file.find(&m.key("rope.freq_base"))?.unwrap_or(10000.0);
        m.require(rope_base > 0.0 && f32::is_finite(rope_base), "rope.freq_base", rope_base, positive)?;
        let eps = file.get_f32(&m.key("attention.layer_norm_rms_epsilon"))?;
        m.require(eps > 0.0 && eps.is_finite(), "attention.layer_norm_rms_epsilon", eps, positive)?;
        let scaling = file.find(&m.key("rope.scaling.type"))?.unwrap_or("none");
        m.require(scaling == "none", "rope.scaling.type", scaling, || "'none'".to_owned())?;
        Ok(Config {
            context: m.extent("context_length")?,
            layers: m.extent("block_count")?,
            vocab: vocabulary(file)?,
            hidden,
            ffn: m.extent("feed_forward_length")?,
            heads,
            kv_heads,
            head_dim,
            rope_dim,
            rope_base,
            eps,
            experts: m.experts()?,
        })
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

fn positive() -> String {
    "a positive number".to_owned()
}

struct Metadata<'a> {
    file: &'a ModelFile,
    prefix: &'a str,
}

impl Metadata<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn require(
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

    fn optional(&self, name: &str) -> Result<Option<i64>, FamilyErrorKind> {
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

    fn experts(&self) -> Result<Option<Experts>, FamilyErrorKind> {
        if self.file.find::<u32>(&self.key("expert_count"))?.unwrap_or(0) == 0 {
            return Ok(None);
        }
        let (count, used) = (self.extent("expert_count")?, self.extent("expert_used_count")?);
        self.require(used <= count, "expert_used_count", used, || format!("a number up to {count}"))?;
        Ok(Some(Experts { count, used }))
    }
}
