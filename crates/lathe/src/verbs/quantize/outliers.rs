//! Which columns of a model's matrices stay floats when the others become bytes: those that meet a large activation on a text.

use std::collections::HashMap;
use std::path::Path;

use lathe_diagnostic::{Diagnostic, Fault};
use lathe_engine::{EngineError, Precision, Score};
use lathe_models::{GgmlType, Int8, ModelFile, Written, is_product, quantize_file};
use serde_json::{Value, json};

use super::calibrate::read_text;
use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::model::{Compute, Model};
use crate::progress::Status;

/// The most tokens of a text, and those of one context.
const TOKENS: usize = 1024;
const CONTEXT: usize = 256;

/// Outlier columns come in whole vectors.
const VECTOR: usize = 16;

/// The thresholds that are tried, the one that leaves the fewest columns first, and by how much the perplexity may grow.
const THRESHOLDS: [f32; 6] = [12.0, 8.0, 6.0, 4.0, 3.0, 2.0];
const GROWTH: f64 = 1.004;

/// A threshold of the command line.
pub fn threshold(text: &str) -> Result<f32, String> {
    let number = text.parse::<f32>().ok().filter(|t| t.is_finite() && *t > 0.0);
    number.ok_or_else(|| "it is a positive number".into())
}

/// The columns that stay floats, by the matrix' name.
pub type Columns = HashMap<String, Vec<u32>>;

/// What is quantized.
pub struct Search<'a> {
    /// The model's file.
    pub file: &'a ModelFile,
    /// Its name.
    pub model: &'a str,
    /// Types that are asked for.
    pub kept: &'a [Option<GgmlType>],
    /// Threads that compute.
    pub threads: usize,
}

/// The threshold that was used, and what it meant.
pub struct Found {
    threshold: f32,
    /// Of all columns of the matrices, those that stay floats.
    share: f64,
    /// What each threshold that was tried made of the perplexity, relative to that of the model.
    tried: Vec<(f32, f64)>,
}

impl Found {
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (threshold, growth) in &self.tried {
            out.push_str(&format!(
                "threshold {threshold}: perplexity of the text {:+.2}%\n",
                100.0 * (growth - 1.0)
            ));
        }
        out + &format!(
            "threshold {}: {:.2}% of the columns stay 16-bit floats\n",
            self.threshold,
            100.0 * self.share
        )
    }

    pub fn json(&self) -> Value {
        let tried =
            |(threshold, growth): &(f32, f64)| json!({ "threshold": threshold, "perplexity_ratio": growth });
        json!({ "threshold": self.threshold, "share": self.share, "tried": self.tried.iter().map(tried).collect::<Vec<_>>() })
    }
}

impl Search<'_> {
    /// What each tensor becomes with these columns left out.
    pub fn written(&self, whole: bool, columns: &Columns) -> Vec<(Written, Option<&'static str>)> {
        let of = |(info, kept): (&lathe_models::TensorInfo, &Option<GgmlType>)| match kept {
            Some(ty) => {
                let chosen = lathe_models::suitable_type(info, *ty);
                (Written::As(chosen.ty), chosen.why)
            }
            None if is_product(info) => {
                let columns = columns.get(info.name()).cloned().unwrap_or_default();
                (Written::Int8(Int8 { whole, columns }), None)
            }
            None => (Written::As(info.ty()), Some("no product of a layer")),
        };
        self.file.tensors().iter().zip(self.kept).map(of).collect()
    }

    /// The columns for a threshold, given or found, on a text; trials are written beside `out`.
    pub fn run(
        &self,
        text: &Path,
        threshold: Option<f32>,
        out: &Path,
        interrupt: &Listening,
    ) -> Result<(Columns, Found), Failure> {
        let text = read_text(text)?;
        let model = Model::open(self.model)?;
        let mut ids = lathe_models::prompt_tokens(&model.tokenizer, &text);
        ids.truncate(TOKENS);
        let longest = CONTEXT.min(model.context);
        let texts: Vec<&[u32]> = ids.chunks(longest).filter(|text| text.len() > 1).collect();
        if texts.is_empty() {
            return Err(EngineError::TooShortToScore { tokens: ids.len() }.into());
        }
        let mut status = Status::new();
        status.count("measuring activations", 0, 1);
        let maxima = model.feature_maxima(&texts, longest, self.threads, &|| !interrupt.pressed())?;
        let found = |columns: Columns, threshold, tried| {
            let share = self.share(&columns);
            (columns, Found { threshold, share, tried })
        };
        if let Some(threshold) = threshold {
            return Ok(found(self.columns(&maxima, threshold), threshold, vec![]));
        }
        let score = |file: ModelFile, precision| -> Result<f64, Failure> {
            let compute = Compute { precision, threads: self.threads, ..Compute::usual() };
            let mut engine = model.with_file(file).load_quietly(compute, longest)?;
            let mut all = Score::default();
            for text in &texts {
                all += engine.score(text, &|| !interrupt.pressed())?;
            }
            Ok(all.perplexity())
        };
        let base = score(self.file.clone(), Precision::Exact)?;
        let folder = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let scratch = tempfile::Builder::new().prefix(".lathe-").tempdir_in(folder).map_err(|error| {
            let d = Diagnostic::new(
                "quantize-scratch",
                Fault::Environment,
                format!("cannot write there: {error}"),
            );
            d.at(folder.display().to_string()).fix("give a path in a folder that can be written to")
        })?;
        let mut tried: Vec<(f32, f64)> = vec![];
        for (i, threshold) in THRESHOLDS.into_iter().enumerate() {
            status.count("trying thresholds", i, THRESHOLDS.len());
            let written = self.written(false, &self.columns(&maxima, threshold));
            let written: Vec<Written> = written.into_iter().map(|(written, _)| written).collect();
            let path = scratch.path().join("trial.gguf");
            quantize_file(self.file, &written, self.threads, &path, &mut |_, _| !interrupt.pressed())?;
            tried.push((threshold, score(ModelFile::open(&path)?, Precision::Fast)? / base));
            if tried[i].1 <= GROWTH {
                break;
            }
        }
        let within = tried.iter().find(|(_, growth)| *growth <= GROWTH);
        let least = tried.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        let threshold = within.or(least).map_or(THRESHOLDS[0], |(threshold, _)| *threshold);
        Ok(found(self.columns(&maxima, threshold), threshold, tried))
    }

    /// The columns of each matrix that meet an activation over the threshold; the next largest with them, up to whole vectors.
    fn columns(&self, maxima: &HashMap<String, Vec<f32>>, threshold: f32) -> Columns {
        let of = |(name, maxima): (&String, &Vec<f32>)| {
            let count = maxima.iter().filter(|m| **m > threshold).count();
            let mut order: Vec<u32> = (0..maxima.len() as u32).collect();
            order.sort_by(|a, b| maxima[*b as usize].total_cmp(&maxima[*a as usize]));
            order.truncate(count.next_multiple_of(VECTOR));
            order.sort_unstable();
            (name.clone(), order)
        };
        maxima.iter().map(of).collect()
    }

    fn share(&self, columns: &Columns) -> f64 {
        let products =
            self.file.tensors().iter().zip(self.kept).filter(|(t, kept)| kept.is_none() && is_product(t));
        let (mut apart, mut all) = (0, 0);
        for (info, _) in products {
            apart += columns.get(info.name()).map_or(0, Vec::len);
            all += info.shape()[1];
        }
        apart as f64 / (all.max(1)) as f64
    }
}
