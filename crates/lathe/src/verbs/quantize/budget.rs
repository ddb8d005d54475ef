//! A type for each tensor under a budget: what each costs, measured, and the cheapest choice.

use std::path::Path;

use lathe_diagnostic::{Diagnostic, Fault};
use lathe_engine::{Divergence, EngineError, Precision};
use lathe_models::{
    Chosen, GgmlType, Loss, ModelFile, Way, estimate_losses, suitable_type, with_quantized, within_budget,
};

use super::calibrate::read_text;
use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::model::{Compute, Model};
use crate::progress::Status;

/// The most tokens of a text that sensitivities are measured on.
const TOKENS: usize = 256;

/// The relative error of the type that a tensor's sensitivity is measured with, about: small enough that the effect grows with
/// the squared error, large enough to stand out of rounding.
const PROBE: f64 = 5e-3;

/// What the search knows.
pub struct Search<'a> {
    /// The model.
    pub file: &'a ModelFile,
    /// Types that are asked for.
    pub kept: &'a [Option<GgmlType>],
    /// Threads that compute.
    pub threads: usize,
    /// Whether it is to stop.
    pub interrupt: &'a Listening,
}

/// What a tensor can become, and what it loses then.
struct Tensor {
    types: Vec<Chosen>,
    losses: Vec<Loss>,
}

impl Search<'_> {
    /// The type of each tensor, so that all take at most `room` bytes; `calibrate` names the model and a text.
    pub fn run(&self, room: usize, calibrate: Option<(&str, &Path)>) -> Result<Vec<Chosen>, Failure> {
        let tensors = self.tensors()?;
        let sensitivities = match calibrate {
            Some((model, text)) => self.measured(&tensors, model, text)?,
            // The relative error of each.
            None => tensors.iter().map(|t| t.losses.first().map_or(0.0, |l| 1.0 / l.variance())).collect(),
        };
        let ways: Vec<Vec<Way>> = (0..tensors.len())
            .map(|i| {
                let (info, Tensor { types, losses }) = (&self.file.tensors()[i], &tensors[i]);
                let cost = |j: usize| losses.get(j).map_or(0.0, |loss| loss.error * sensitivities[i]);
                let bytes = |c: &Chosen| c.ty.bytes_for(info.elements()).unwrap_or(usize::MAX);
                types.iter().enumerate().map(|(j, c)| Way { bytes: bytes(c), cost: cost(j) }).collect()
            })
            .collect();
        let found = within_budget(&ways, room).map_err(|least| {
            let what = format!("{room} bytes are too few for these tensors");
            let fix = format!("give at least --size {least}, or keep fewer tensors wide");
            Failure::from(Diagnostic::new("quantize-budget", Fault::User, what).fix(fix))
        })?;
        Ok(tensors.iter().zip(found).map(|(t, j)| t.types[j]).collect())
    }

    fn go_on(&self) -> Result<(), Failure> {
        if self.interrupt.pressed() { Err(Failure::Interrupted) } else { Ok(()) }
    }

    /// The types each tensor can have, and about what they lose; nothing is lost where there is no choice.
    fn tensors(&self) -> Result<Vec<Tensor>, Failure> {
        let mut status = Status::new();
        let all = self.file.tensors();
        let mut tensors = vec![];
        for (i, (info, kept)) in all.iter().zip(self.kept).enumerate() {
            self.go_on()?;
            status.count("measuring errors", i, all.len());
            let asked: Vec<GgmlType> = match kept {
                Some(ty) => vec![*ty],
                None => GgmlType::ALL.iter().copied().filter(|t| *t != GgmlType::F32).collect(),
            };
            // A type that gives way to another is no choice of its own.
            let mut types: Vec<Chosen> = asked.iter().map(|ty| suitable_type(info, *ty)).collect();
            if kept.is_none() && types.iter().any(|c| c.why.is_none()) {
                types.retain(|c| c.why.is_none());
            }
            types.dedup();
            types.truncate(if types.iter().all(|c| c.ty == types[0].ty) { 1 } else { types.len() });
            let losses = match types.len() {
                1 => vec![],
                _ => {
                    let types: Vec<GgmlType> = types.iter().map(|c| c.ty).collect();
                    estimate_losses(self.file, info, &types, self.threads)?
                }
            };
            tensors.push(Tensor { types, losses });
        }
        Ok(tensors)
    }

    /// What a unit of each tensor's squared error adds to the relative entropy of the model's distributions over the next token,
    /// in the places of a text.
    fn measured(&self, tensors: &[Tensor], model: &str, text: &Path) -> Result<Vec<f64>, Failure> {
        let text = read_text(text)?;
        let model = Model::open(model)?;
        let mut ids = lathe_models::prompt_tokens(&model.tokenizer, &text);
        ids.truncate(TOKENS.min(model.context));
        if ids.len() < 2 {
            return Err(EngineError::TooShortToScore { tokens: ids.len() }.into());
        }
        let wide = self.file.widened();
        let score = |file: ModelFile, seen: &mut dyn FnMut(&[f32])| -> Result<(), Failure> {
            let compute = Compute { precision: Precision::Exact, threads: self.threads, ..Compute::usual() };
            let mut engine = model.with_file(file).load_quietly(compute, ids.len())?;
            engine.score_rows(&ids, &|| !self.interrupt.pressed(), seen)?;
            Ok(())
        };
        let mut status = Status::new();
        let mut base = Divergence::default();
        score(wide.clone(), &mut |row| base.push(row))?;
        let mut sensitivities = vec![];
        for (i, t) in tensors.iter().enumerate() {
            self.go_on()?;
            status.count("measuring sensitivities", i, tensors.len());
            let distance = |j: &usize| (t.losses[*j].relative() / PROBE).ln().abs();
            let lossy = (0..t.losses.len()).filter(|j| t.losses[*j].error > 0.0);
            let Some(probe) = lossy.min_by(|a, b| distance(a).total_cmp(&distance(b))) else {
                sensitivities.push(0.0);
                continue;
            };
            let (file, loss) = with_quantized(&wide, i, t.types[probe].ty, self.threads)?;
            let (mut row, mut sum) = (0, 0.0);
            score(file, &mut |logits| {
                sum += base.of(row, logits);
                row += 1;
            })?;
            sensitivities.push(if loss.error > 0.0 { sum / row.max(1) as f64 / loss.error } else { 0.0 });
        }
        Ok(sensitivities)
    }
}
