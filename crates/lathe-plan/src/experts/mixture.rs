//! The shape of a mixture of experts, as plain data.

use crate::PlanError;
use serde::{Deserialize, Serialize};

/// The most layers, and experts of a layer.
pub(super) const MOST: u64 = 1024;

/// A model whose layers have experts, all layers alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixture {
    /// What people call it.
    pub name: String,
    /// Its layers.
    pub layers: u64,
    /// Experts of a layer.
    pub experts: u64,
    /// Experts that a token uses in a layer.
    pub used: u64,
    /// The inner width of an expert: it can be cut into any number of equal parts that divides this.
    pub inner: u64,
    /// Bytes of a token between two layers.
    pub hidden_bytes: u64,
    /// Bytes of an expert's weights.
    pub expert_bytes: u64,
    /// Operations of an expert for one token; a multiply and an add are two.
    pub expert_operations: u64,
    /// The data type that experts are multiplied in, a name of the machine's rates.
    pub expert_type: String,
    /// Bytes of a layer's other weights: attention, router, norms, and an expert that every token uses.
    pub dense_bytes: u64,
    /// Operations of these for one token, in `expert_type`.
    pub dense_operations: u64,
    /// Operations of attention between one token and one position.
    pub attention_operations: u64,
    /// The data type that attention is computed in.
    pub attention_type: String,
    /// Bytes of a layer's keys and values of one position.
    pub kv_bytes: u64,
    /// Bytes of the weights that make logits.
    pub head_bytes: u64,
    /// Operations of one sequence's logits, in `expert_type`.
    pub head_operations: u64,
}

impl Mixture {
    /// As TOML; [`Mixture::from_toml`] reads it back unchanged.
    ///
    /// # Panics
    /// When a number is above 2^63 - 1, which TOML cannot write.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("numbers below 2^63 have a TOML form")
    }

    /// Reads a mixture from TOML and checks it.
    pub fn from_toml(text: &str) -> Result<Mixture, PlanError> {
        let mixture: Mixture =
            toml::from_str(text).map_err(|e| PlanError::Syntax { message: e.to_string() })?;
        mixture.check()?;
        Ok(mixture)
    }

    /// Refuses what no mixture is.
    pub fn check(&self) -> Result<(), PlanError> {
        let wrong = |what: &str| Err(PlanError::Work { what: what.into() });
        let within = |n: u64, most: u64| (1..=most).contains(&n);
        if !within(self.layers, MOST) || !within(self.experts, MOST) {
            return wrong("a mixture has between 1 and 1024 layers, and as many experts in each");
        }
        if !within(self.used, self.experts.min(64)) {
            return wrong("a token uses at least one expert, at most 64 and no more than there are");
        }
        if !within(self.inner, 1 << 30) || !within(self.expert_bytes, 1 << 44) {
            return wrong("inner and expert_bytes are above 0, and at most 2^30 and 2^44");
        }
        let others = [
            self.hidden_bytes,
            self.expert_operations,
            self.dense_bytes,
            self.dense_operations,
            self.attention_operations,
            self.kv_bytes,
            self.head_bytes,
            self.head_operations,
        ];
        if others.iter().any(|n| *n > 1 << 44) {
            return wrong("no number is above 2^44");
        }
        Ok(())
    }

    /// Into how many parts an expert is cut: the largest number up to `most` that divides its inner width.
    pub fn parts(&self, most: u32) -> u32 {
        (1..=most.max(1)).rev().find(|n| self.inner.is_multiple_of(u64::from(*n))).unwrap_or(1)
    }
}

/// A mixture by its name: `mixtral-8x7b` (Jiang et al. 2024, arXiv 2401.04088) with weights of 16 bits, with blocks of 32 bytes that
/// share a scale of 16 bits as `mixtral-8x7b-q8_0`, and with rows of bytes that share one of 32 as `mixtral-8x7b-int8`.
pub fn published_mixture(name: &str) -> Option<Mixture> {
    // Bytes of 32 weights, of a row's scale, and what they are multiplied in.
    let (of_32, of_row, dtype) = match name {
        "mixtral-8x7b" => (64, 0, "f32"),
        "mixtral-8x7b-q8_0" => (34, 0, "int8"),
        "mixtral-8x7b-int8" => (32, 4, "int8"),
        _ => return None,
    };
    let (hidden, inner, kv, experts, vocabulary) = (4096, 14336, 1024, 8, 32000);
    let expert = 3 * hidden * inner;
    let dense = 2 * hidden * hidden + 2 * hidden * kv + hidden * experts;
    let bytes = |weights: u64| weights / 32 * of_32;
    Some(Mixture {
        name: name.into(),
        layers: 32,
        experts,
        used: 2,
        inner,
        hidden_bytes: 4 * hidden,
        expert_bytes: bytes(expert) + of_row * (2 * inner + hidden),
        expert_operations: 2 * expert,
        expert_type: dtype.into(),
        dense_bytes: bytes(dense),
        dense_operations: 2 * dense,
        attention_operations: 4 * hidden,
        attention_type: "f32".into(),
        kv_bytes: 2 * 2 * kv,
        head_bytes: bytes(hidden * vocabulary),
        head_operations: 2 * hidden * vocabulary,
    })
}
