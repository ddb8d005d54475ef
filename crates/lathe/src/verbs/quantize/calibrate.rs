//! Matrices rounded for the inputs that they meet on a text: layer by layer, with the layers before as they are rounded.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use lathe_diagnostic::{Diagnostic, Fault};
use lathe_engine::EngineError;
use lathe_models::{ModelFile, Rounded, Rounding, is_product};

use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::model::Model;
use crate::progress::Status;

/// The most tokens of a text, and those of one context.
const TOKENS: usize = 8192;
const CONTEXT: usize = 256;

/// A text to measure on.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        let what = format!("cannot read it: {error}");
        let d = Diagnostic::new("quantize-text", Fault::User, what).at(path.display().to_string());
        d.fix("give the path of a text in UTF-8").into()
    })
}

/// The contexts of a text, of at most `longest` tokens each and `most` together: an encoder reads each line as a text of its own.
fn contexts(model: &Model, text: &str, longest: usize, most: usize) -> Result<Vec<Vec<u32>>, Failure> {
    let tokens = |text: &str| lathe_models::prompt_tokens(&model.tokenizer, text);
    let (mut all, mut count) = (vec![], 0);
    if model.is_encoder()? {
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let mut ids = tokens(line);
            ids.truncate(longest);
            count += ids.len();
            all.push(ids);
            if count >= most {
                break;
            }
        }
    } else {
        let mut ids = tokens(text);
        ids.truncate(most);
        count = ids.len();
        all.extend(ids.chunks(longest).map(<[u32]>::to_vec));
    }
    if count < 2 { Err(EngineError::TooShortToScore { tokens: count }.into()) } else { Ok(all) }
}

/// What is rounded.
pub struct Search<'a> {
    /// The model's file.
    pub file: &'a ModelFile,
    /// Its name.
    pub model: &'a str,
    /// Threads that compute.
    pub threads: usize,
    /// Whether it is to stop.
    pub interrupt: &'a Listening,
}

impl Search<'_> {
    /// The matrices of the layers' products, each rounded as is asked for the tensor of its number, by their names.
    pub fn run(
        &self,
        text: &Path,
        to: &dyn Fn(usize) -> Option<Rounding>,
    ) -> Result<HashMap<String, Arc<Rounded>>, Failure> {
        let text = read_text(text)?;
        let model = Model::open(self.model)?;
        let longest = CONTEXT.min(model.context);
        let contexts = contexts(&model, &text, longest, TOKENS)?;
        let texts: Vec<&[u32]> = contexts.iter().map(Vec::as_slice).collect();
        let tensors = self.file.tensors();
        let index = |name: &str| tensors.iter().position(|info| info.name() == name && is_product(info));
        let rounding = |name: &str| index(name).and_then(|i| Some((i, to(i)?)));
        let (mut found, mut status) = (HashMap::new(), Status::new());
        let wanted = |name: &str| rounding(name).is_some();
        let goes_on = || !self.interrupt.pressed();
        model.layer_by_layer(&texts, longest, self.threads, &wanted, &goes_on, &mut |met| {
            status.count("calibrating layers", met.layer, met.layers);
            let mut file = self.file.clone();
            for (names, inputs) in met.inputs {
                let factor = inputs.factor();
                for (i, to) in names.iter().filter_map(|name| rounding(name)) {
                    if !goes_on() {
                        return Err(Failure::Interrupted);
                    }
                    if let Some((rounded, values)) =
                        Rounded::new(self.file, &tensors[i], to, &factor, self.threads)?
                    {
                        file = file.with_values(i, &values);
                        found.insert(tensors[i].name().to_owned(), Arc::new(rounded));
                    }
                }
            }
            Ok(file)
        })?;
        Ok(found)
    }
}
