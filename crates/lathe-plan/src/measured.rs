//! How long a model's own kernels take, measured where they run: what a plan for this machine is made from in place of peaks.

use crate::PlanError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a step of a model takes while all of it is in memory. Of each list the first numbers rise; between two rows time is a
/// line, before the first it is constant, and behind the last it grows as the number does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// For so many tokens of one prompt: seconds of all layers' products and of one row of logits.
    pub prompt: Vec<(u64, f64)>,
    /// For one token of each of so many sequences: seconds of the same, and of a row of logits for each.
    pub token: Vec<(u64, f64)>,
    /// Seconds of attention between one token and one position, in all layers, by how keys and values are stored.
    pub attention: BTreeMap<String, Pairs>,
    /// Bytes that a step holds besides weights, keys and values.
    pub held: StepBytes,
    /// Bytes of all weights as kernels read them and a store holds them, with what lies between.
    pub stored_bytes: u64,
    /// Keys and values are held by so many positions.
    pub page: u64,
}

/// Seconds for a pair of a token and a position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pairs {
    /// In a prompt, whose tokens share what is read.
    pub prompt: f64,
    /// In a step of one token of each sequence.
    pub token: f64,
}

/// Bytes as a line over the size of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepBytes {
    /// Always.
    pub constant: u64,
    /// For each token that a step may have.
    pub token: u64,
    /// For each sequence that it may have.
    pub sequence: u64,
}

impl Measured {
    /// As TOML; [`Measured::from_toml`] reads it back unchanged.
    ///
    /// # Panics
    /// When a number is above 2^63 - 1, which TOML cannot write.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("numbers below 2^63 have a TOML form")
    }

    /// Reads what was measured, and checks it.
    pub fn from_toml(text: &str) -> Result<Measured, PlanError> {
        let measured: Measured =
            toml::from_str(text).map_err(|e| PlanError::Syntax { message: e.to_string() })?;
        measured.check()?;
        Ok(measured)
    }

    /// Seconds of the products of so many tokens of prompts, and of one row of logits.
    pub fn prompt_seconds(&self, tokens: f64) -> f64 {
        on_line(&self.prompt, tokens)
    }

    /// Seconds of a token of each of so many sequences, but for attention.
    pub fn token_seconds(&self, sequences: f64) -> f64 {
        on_line(&self.token, sequences)
    }

    /// Seconds of so many rows of logits after a prompt.
    pub fn logits_seconds(&self, rows: f64) -> f64 {
        (self.token_seconds(rows) - self.prompt_seconds(rows)).max(0.0)
    }

    pub(crate) fn check(&self) -> Result<(), PlanError> {
        let rises = |list: &[(u64, f64)]| {
            let sound = |(n, s): &(u64, f64)| (1..=1 << 30).contains(n) && s.is_finite() && *s > 0.0;
            !list.is_empty() && list.iter().all(sound) && list.windows(2).all(|w| w[0].0 < w[1].0)
        };
        let pairs = self.attention.values().flat_map(|p| [p.prompt, p.token]);
        let held = [self.held.constant, self.held.token, self.held.sequence, self.stored_bytes];
        if rises(&self.prompt)
            && rises(&self.token)
            && pairs.into_iter().all(|s| (0.0..1.0).contains(&s))
            && held.iter().all(|n| *n < 1 << 44)
            && (1..=1 << 20).contains(&self.page)
        {
            return Ok(());
        }
        let what = "what was measured are times above 0 s for rising sizes of steps, and bytes below 2^44";
        Err(PlanError::Work { what: what.into() })
    }
}

/// How many bytes a copy of weights from a disk brings, of a model that has so many for its weights: large enough for the disk, small
/// beside what is kept. With two of them in a window one is read while the other is used.
pub fn load_bytes(room: u64) -> u64 {
    (room / 64).clamp(64 << 10, 16 << 20)
}

/// Memory of so many bytes begins at a multiple of a sector, so that a disk is copied to and from it past the page cache: keys and values
/// that pass have a window and a piece beside it of at least so many bytes each.
pub const DIRECT_BYTES: u64 = 2 << 20;

/// From so many rows of an expert on the engine brings it before its router asks for it: as many as let work on them take a good part
/// of the time that it takes to come. For fewer, what is brought on a guess only takes the place of what is there.
pub const EXPECTED_ROWS: u32 = 16;

fn on_line(rows: &[(u64, f64)], at: f64) -> f64 {
    let (first, last) = (rows[0], rows[rows.len() - 1]);
    if at <= first.0 as f64 {
        return first.1;
    }
    if at >= last.0 as f64 {
        return last.1 * at / last.0 as f64;
    }
    let high = rows.partition_point(|row| (row.0 as f64) < at);
    let ((x0, y0), (x1, y1)) = (rows[high - 1], rows[high]);
    y0 + (y1 - y0) * (at - x0 as f64) / (x1 - x0) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_rows_time_is_a_line_and_behind_them_it_grows() {
        let rows = [(2, 1.0), (4, 3.0), (8, 3.0)];
        for (at, seconds) in
            [(1.0, 1.0), (2.0, 1.0), (3.0, 2.0), (4.0, 3.0), (6.0, 3.0), (8.0, 3.0), (16.0, 6.0)]
        {
            assert_eq!(on_line(&rows, at), seconds, "{at}");
        }
    }

    #[test]
    fn what_falls_or_is_nothing_is_refused() {
        let sound = Measured {
            prompt: vec![(1, 1.0), (2, 1.0)],
            token: vec![(1, 1.0)],
            page: 16,
            ..Measured::default()
        };
        assert!(sound.check().is_ok());
        let wrong: [&dyn Fn(&mut Measured); 6] = [
            &|m| m.prompt.clear(),
            &|m| m.token = vec![(1, f64::NAN)],
            &|m| m.prompt = vec![(2, 1.0), (2, 2.0)],
            &|m| m.held.token = u64::MAX,
            &|m| m.page = 0,
            &|m| m.attention = [("f16".into(), Pairs { prompt: -1.0, token: 0.0 })].into(),
        ];
        for change in wrong {
            let mut m = sound.clone();
            change(&mut m);
            assert!(m.check().is_err(), "{m:?}");
        }
    }
}
