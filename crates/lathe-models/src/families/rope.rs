//! The frequencies of the rotations, and how files stretch them to longer contexts.

use super::CacheShape;
use super::config::{Config, Metadata};
use super::error::FamilyErrorKind;
use super::tensors::positive_numbers;

/// One factor a frequency: the scaling of Llama 3, and that of Phi-3 for contexts up to the one trained for and beyond.
pub(super) const FACTORS: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"];

/// Angles a position for each pair of a head, and what cosines and sines are multiplied by.
pub(super) struct Rotations {
    pub frequencies: Vec<f32>,
    pub factor: f32,
}

impl Rotations {
    /// `1 / base^(2i / dim)`, each rounded as `transformers` rounds it.
    pub(super) fn plain(base: f32, dim: i64) -> Rotations {
        let frequency = |i| 1.0 / f64::from(base).powf(((2 * i) as f32 / dim as f32).into()) as f32;
        Rotations { frequencies: (0..dim / 2).map(frequency).collect(), factor: 1.0 }
    }

    /// As the file asks for: divided by its factors, or stretched by one (`linear`) or by Peng et al. 2023 (`yarn`).
    pub(super) fn scaled(
        m: &Metadata<'_>,
        c: &Config,
        cache: &CacheShape,
    ) -> Result<Rotations, FamilyErrorKind> {
        let mut r = Rotations::plain(c.rope_base, c.rope_dim);
        let trained = m.optional("rope.scaling.original_context_length")?.unwrap_or(c.context);
        let by = if cache.context > trained { FACTORS[2] } else { FACTORS[1] };
        for name in [FACTORS[0], by] {
            let factors = positive_numbers(m.file, name, c.rope_dim / 2)?.into_iter().flatten();
            r.frequencies.iter_mut().zip(factors).for_each(|(f, by)| *f /= by);
        }
        let factor = m.positive("rope.scaling.factor")?.unwrap_or(1.0);
        let kind = m.file.find(&m.key("rope.scaling.type"))?.unwrap_or("none");
        match kind {
            "none" | "longrope" => {}
            "linear" => r.frequencies.iter_mut().for_each(|f| *f /= factor),
            "yarn" => r.yarn(m, c, factor, trained)?,
            _ => m.require(false, "rope.scaling.type", kind, || {
                "'none', 'linear', 'longrope' or 'yarn'".to_owned()
            })?,
        }
        r.factor *= m.positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
        Ok(r)
    }

    /// Frequencies that turn often within the context trained for stay, those that turn seldom are stretched, and a ramp
    /// is between them; scores grow with the logarithm of the factor.
    fn yarn(
        &mut self,
        m: &Metadata<'_>,
        c: &Config,
        factor: f32,
        trained: i64,
    ) -> Result<(), FamilyErrorKind> {
        let dim = c.rope_dim as f64;
        let turning = |turns: f32| {
            dim * (trained as f64 / (f64::from(turns) * std::f64::consts::TAU)).ln()
                / (2.0 * f64::from(c.rope_base).ln())
        };
        let fast = m.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0);
        let slow = m.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0);
        let (low, high) = (turning(fast).floor().max(0.0), turning(slow).ceil().min(dim - 1.0));
        for (i, f) in self.frequencies.iter_mut().enumerate() {
            let stretched = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0) as f32;
            *f = *f / factor * stretched + *f * (1.0 - stretched);
        }
        self.factor = 0.1 * factor.max(1.0).ln() + 1.0;
        Ok(())
    }
}
