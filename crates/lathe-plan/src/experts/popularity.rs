//! How often each expert was chosen: what placement goes by.

use super::mixture::MOST;
use crate::PlanError;
use serde::{Deserialize, Serialize};

/// Counts of a router's choices over a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Popularity {
    /// The model.
    pub model: String,
    /// Tokens that were routed.
    pub tokens: u64,
    /// Experts that each token used in a layer.
    pub used: u64,
    /// For each layer, how many tokens each of its experts had.
    pub counts: Vec<Vec<u64>>,
}

impl Popularity {
    /// As TOML; [`Popularity::from_toml`] reads it back unchanged.
    ///
    /// # Panics
    /// When a count is above 2^63 - 1, which TOML cannot write.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("counts below 2^63 have a TOML form")
    }

    /// Reads counts from TOML and checks them.
    pub fn from_toml(text: &str) -> Result<Popularity, PlanError> {
        let popularity: Popularity =
            toml::from_str(text).map_err(|e| PlanError::Syntax { message: e.to_string() })?;
        popularity.check()?;
        Ok(popularity)
    }

    /// Refuses counts that no text gives: each token uses so many different experts of each layer.
    pub fn check(&self) -> Result<(), PlanError> {
        let wrong = |what: &str| Err(PlanError::Popularity { what: what.into() });
        if self.tokens == 0 || self.tokens > 1 << 40 || self.used == 0 || self.used > 64 {
            return wrong("tokens are between 1 and 2^40, and each uses between 1 and 64 experts");
        }
        let experts = self.counts.first().map_or(0, Vec::len);
        let most = MOST as usize;
        if experts == 0
            || experts > most
            || self.counts.len() > most
            || self.counts.iter().any(|layer| layer.len() != experts)
        {
            return wrong(
                "counts has a row for each layer, with a number for each expert, at most 1024 of both",
            );
        }
        for (at, layer) in self.counts.iter().enumerate() {
            let sum = layer.iter().try_fold(0u64, |sum, n| sum.checked_add(*n));
            let fits = sum == Some(self.tokens * self.used) && layer.iter().all(|n| *n <= self.tokens);
            if !fits {
                return wrong(&format!(
                    "the counts of layer {at} sum up to tokens times used, and none is above tokens"
                ));
            }
        }
        Ok(())
    }

    /// The share of tokens that use an expert; what nobody used was used by half a token.
    pub fn share(&self, layer: usize, expert: usize) -> f64 {
        (self.counts[layer][expert] as f64).max(0.5) / self.tokens as f64
    }

    /// The experts as (layer, expert), most popular first, equal ones in order.
    pub fn ranked(&self) -> Vec<(usize, usize)> {
        let rows = self.counts.iter().enumerate();
        let mut all: Vec<(usize, usize)> =
            rows.flat_map(|(l, row)| (0..row.len()).map(move |e| (l, e))).collect();
        all.sort_by_key(|(l, e)| std::cmp::Reverse(self.counts[*l][*e]));
        all
    }
}
