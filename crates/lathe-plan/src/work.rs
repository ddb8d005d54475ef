//! What a model asks of a machine, as plain data: bytes and operations, layer by layer.

use crate::{Measured, PlanError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A model as a planner sees it. Numbers are of one token, position or sequence, so that any load can be made of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// What people call it.
    pub name: String,
    /// Bytes of one token between two layers.
    pub hidden_bytes: u64,
    /// Bytes of the table of embeddings, of which only rows are read; 0 where it is the head's.
    pub embedding_bytes: u64,
    /// The data type that attention is computed in, a name of the machine's rates.
    pub attention_type: String,
    /// Its layers, in order; equal neighbours are one entry.
    pub layers: Vec<Layers>,
    /// What makes logits of the last layer's result.
    pub head: Head,
    /// How long its kernels take on the machine that plans are for; without it the machine's peaks say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
}

/// Some equal layers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layers {
    /// How many.
    pub count: u64,
    /// Bytes of the weights of one, as they are.
    pub weight_bytes: u64,
    /// Bytes of the same weights in groups of 4-bit codes.
    pub four_bit_bytes: u64,
    /// Bytes of its largest weight, as it is.
    pub largest_bytes: u64,
    /// Bytes of those of its weights that are experts, as they are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub expert_bytes: u64,
    /// Experts that a token is sent to, as a share of all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub experts_used: f64,
    /// Operations of its products for one token by data type; a multiply and an add are two.
    pub operations: BTreeMap<String, u64>,
    /// Operations of attention between one token and one position.
    pub attention_operations: u64,
    /// Bytes of the keys and values of one position, by how they can be stored.
    pub kv_bytes: BTreeMap<String, u64>,
    /// Bytes of temporaries for each token while the layer is computed.
    pub workspace_bytes: u64,
}

/// The product that makes logits: once a sequence in each step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Bytes of its weights, as they are.
    pub weight_bytes: u64,
    /// Bytes of the same weights in groups of 4-bit codes.
    pub four_bit_bytes: u64,
    /// Operations for one sequence by data type.
    pub operations: BTreeMap<String, u64>,
    /// Bytes of one sequence's logits.
    pub logits_bytes: u64,
}

impl Layers {
    /// The part of its weights that so many tokens do not meet in: experts that none of them is sent to.
    pub(crate) fn unread(&self, tokens: f64) -> f64 {
        self.expert_bytes as f64 / self.weight_bytes as f64 * (1.0 - self.experts_used).powf(tokens)
    }
}

fn is_zero<T: Default + PartialEq>(n: &T) -> bool {
    *n == T::default()
}

impl Work {
    /// As TOML; [`Work::from_toml`] reads it back unchanged.
    ///
    /// # Panics
    /// When a number is above 2^63 - 1, which TOML cannot write.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("numbers below 2^63 have a TOML form")
    }

    /// Reads work from TOML and checks it.
    pub fn from_toml(text: &str) -> Result<Work, PlanError> {
        let work: Work = toml::from_str(text).map_err(|e| PlanError::Syntax { message: e.to_string() })?;
        work.check()?;
        Ok(work)
    }

    /// Layers in order, each once, with equal neighbours as one entry.
    pub fn joined(layers: impl IntoIterator<Item = Layers>) -> Vec<Layers> {
        let mut out: Vec<Layers> = vec![];
        for layer in layers {
            let layer = Layers { count: 1, ..layer };
            match out.last_mut() {
                Some(last) if Layers { count: 1, ..last.clone() } == layer => last.count += 1,
                _ => out.push(layer),
            }
        }
        out
    }

    /// Refuses what no model asks: no layers, sizes of 0, or more than a machine could ever hold.
    pub fn check(&self) -> Result<(), PlanError> {
        let wrong = |what: &str| Err(PlanError::Work { what: what.into() });
        let count: u64 = self.layers.iter().map(|l| l.count.min(1 << 20)).sum();
        if count == 0 || count > 1 << 16 {
            return wrong("it has between 1 and 65536 layers");
        }
        for l in &self.layers {
            if l.weight_bytes == 0 || l.largest_bytes == 0 || l.largest_bytes > l.weight_bytes {
                return wrong(
                    "weight_bytes and largest_bytes of a layer are above 0, and one weight is no larger than all",
                );
            }
            if l.expert_bytes > l.weight_bytes || !(0.0..=1.0).contains(&l.experts_used) {
                return wrong("experts are a part of a layer's weights, and those used a share of them");
            }
            if l.kv_bytes.is_empty() || !l.kv_bytes.keys().eq(self.layers[0].kv_bytes.keys()) {
                return wrong(
                    "kv_bytes of each layer names the same ways to store keys and values, at least one",
                );
            }
        }
        let layers = self.layers.iter().flat_map(|l| {
            [l.weight_bytes, l.four_bit_bytes, l.attention_operations, l.workspace_bytes]
                .into_iter()
                .chain(l.operations.values().copied())
                .chain(l.kv_bytes.values().copied())
        });
        let head = [self.head.weight_bytes, self.head.four_bit_bytes, self.head.logits_bytes];
        let outside = head.into_iter().chain([self.hidden_bytes, self.embedding_bytes]);
        if layers.chain(outside).chain(self.head.operations.values().copied()).any(|n| n > 1 << 44) {
            return wrong("no number is above 2^44");
        }
        self.measured.as_ref().map_or(Ok(()), Measured::check)
    }

    /// How keys and values can be stored.
    pub fn kv_types(&self) -> impl Iterator<Item = &str> {
        self.layers.iter().take(1).flat_map(|l| l.kv_bytes.keys().map(String::as_str))
    }

    /// Bytes of all weights that products read, as they are or in 4 bits.
    pub fn weight_bytes(&self, four_bit: bool) -> u64 {
        let of = |whole: u64, codes: u64| if four_bit { codes } else { whole };
        let layers = self.layers.iter().map(|l| l.count * of(l.weight_bytes, l.four_bit_bytes));
        layers.sum::<u64>() + self.head_bytes(four_bit)
    }

    /// Bytes of the largest weight of the layers, as it is or in 4 bits.
    pub fn largest_bytes(&self, four_bit: bool) -> u64 {
        let of = |part: u64, whole: u64, codes: u64| match four_bit {
            true => (part as f64 * codes as f64 / whole as f64).ceil() as u64,
            false => part,
        };
        let layers = self.layers.iter().map(|l| of(l.largest_bytes, l.weight_bytes, l.four_bit_bytes));
        layers.max().unwrap_or(0)
    }

    /// Bytes of the layer with most weights.
    pub(crate) fn largest_layer_bytes(&self, four_bit: bool) -> u64 {
        let layers = self.layers.iter();
        layers.map(|l| if four_bit { l.four_bit_bytes } else { l.weight_bytes }).max().unwrap_or(0)
    }

    /// The part of weights below the memory that computes which a step of so many tokens reads: all, or of experts, which are what
    /// lies there first, those that tokens are sent to. As if each were as likely.
    pub fn read_share(&self, tokens: f64) -> f64 {
        let sum =
            |of: &dyn Fn(&Layers) -> f64| self.layers.iter().map(|l| l.count as f64 * of(l)).sum::<f64>();
        let all = sum(&|l| l.expert_bytes as f64);
        let unread = sum(&|l| l.weight_bytes as f64 * l.unread(tokens));
        if all > 0.0 { 1.0 - unread / all } else { 1.0 }
    }

    /// Bytes of the layer with most experts, all of which a step may need at once.
    pub(crate) fn layer_expert_bytes(&self, four_bit: bool) -> u64 {
        let scaled = |l: &Layers| match four_bit {
            true => (l.expert_bytes as f64 * l.four_bit_bytes as f64 / l.weight_bytes as f64) as u64,
            false => l.expert_bytes,
        };
        self.layers.iter().map(scaled).max().unwrap_or(0)
    }

    /// Bytes of the head's weights, as they are or in 4 bits.
    pub fn head_bytes(&self, four_bit: bool) -> u64 {
        if four_bit { self.head.four_bit_bytes } else { self.head.weight_bytes }
    }

    /// How many layers there are.
    pub fn layer_count(&self) -> u64 {
        self.layers.iter().map(|l| l.count).sum()
    }

    /// Bytes of the keys and values of one position in all layers, stored so.
    pub fn kv_bytes(&self, kv_type: &str) -> Option<u64> {
        self.layers.iter().map(|l| Some(l.count * l.kv_bytes.get(kv_type)?)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_meet_in_experts() {
        let layer = |expert_bytes, experts_used| Layers {
            count: 2,
            weight_bytes: 100,
            expert_bytes,
            experts_used,
            ..Layers::default()
        };
        let share = |layers: Vec<Layers>, tokens| Work { layers, ..Work::default() }.read_share(tokens);
        // Half of the experts, then of what is left half again.
        assert_eq!(share(vec![layer(80, 0.5)], 1.0), 0.5);
        assert_eq!(share(vec![layer(80, 0.5)], 2.0), 0.75);
        // What is no expert is kept, so it does not count.
        assert_eq!(share(vec![layer(80, 0.5), layer(0, 0.0)], 1.0), 0.5);
        assert_eq!(share(vec![layer(0, 0.0)], 1.0), 1.0);
    }
}
