//! A low-rank adapter as PEFT saves it: a folder with `adapter_config.json` and `adapter_model.safetensors`.

use std::path::Path;

use serde_json::{Map, Value};

use super::config::{Config, read_json};
use super::error::{SafetensorsError, SafetensorsErrorKind as Kind};
use super::names::Form;
use super::schemes::Scheme;
use super::{MAX_CONFIG, read_shard};
use crate::file::View;
use crate::gguf::{GgmlType, dequantize};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

/// What an adapter multiplies first, [rank, width], and second, [rows, rank].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

/// What a folder holds.
pub(crate) struct Peft {
    /// For each tensor, its product (`blk.0.attn_q`), its side, rows, columns and values.
    pub matrices: Vec<(String, Side, [usize; 2], Vec<f32>)>,
    alpha: f32,
    /// Divided by the rank's root, not by the rank (Kalajdzievski 2023).
    by_root: bool,
}

impl Peft {
    /// What the product of both sides of this rank is multiplied by.
    pub fn scale(&self, rank: usize) -> f32 {
        let rank = rank as f32;
        self.alpha / if self.by_root { rank.sqrt() } else { rank }
    }
}

/// Reads the folder of an adapter of a model of this family.
pub(crate) fn read_adapter(folder: &Path, family: &str) -> Result<Peft, SafetensorsError> {
    let path = folder.join(CONFIG);
    let values: Map<String, Value> =
        read_json(&path, MAX_CONFIG)?.ok_or_else(|| Kind::Missing(CONFIG).at(folder))?;
    let config = Config::new(&path, values);
    plain(&config)?;
    let alpha = config.f32("lora_alpha")?.ok_or_else(|| config.error("lora_alpha", "missing", "a number"))?;
    let by_root = config.bool("use_rslora")?.unwrap_or(false);
    let names = Scheme::of_family(family).map(Scheme::names).unwrap_or_default();
    if !folder.join(TENSORS).exists() {
        return Err(Kind::Missing(TENSORS).at(folder));
    }
    let (bytes, stored) = read_shard(folder, TENSORS, 0)?;
    let files = [bytes];
    let mut matrices = vec![];
    for s in stored {
        let fail = |what: &str| Err(Kind::tensor(&s.name, what).at(&folder.join(TENSORS)));
        let Some((module, side)) = side(&s.name) else {
            return fail("is no part of a LoRA adapter of a product");
        };
        let targets = names.targets(&format!("{module}.weight"));
        let [target] = targets.as_slice() else {
            return fail("changes what is no one product here");
        };
        if target.expert.is_some() || !matches!(target.form, Form::Plain | Form::Transposed) {
            return fail("changes an expert, which is not supported yet");
        }
        let product = target.name.strip_suffix(".weight").unwrap_or(&target.name).to_owned();
        let [rows, columns] = s.shape[..] else { return fail("is no matrix") };
        let part = s.part().map_err(|kind| kind.at(&folder.join(TENSORS)))?;
        let values = numbers(&part.view, part.ty, rows * columns, &files);
        matrices.push((product, side, [rows, columns], values));
    }
    Ok(Peft { matrices, alpha, by_root })
}

fn numbers(view: &View, ty: GgmlType, count: usize, files: &[crate::file::Bytes]) -> Vec<f32> {
    let mut values = vec![0.0; count];
    dequantize(ty, &view.bytes(files), &mut values);
    values
}

/// Refuses what is more than two factors for each product.
fn plain(config: &Config) -> Result<(), SafetensorsError> {
    let kind = config.str("peft_type")?.unwrap_or("LORA");
    if kind != "LORA" {
        return Err(config.error("peft_type", kind, "LORA"));
    }
    for key in ["use_dora", "lora_bias"] {
        if config.bool(key)? == Some(true) {
            return Err(config.error(key, "true", "false"));
        }
    }
    if let Some(bias) = config.str("bias")?.filter(|bias| *bias != "none") {
        return Err(config.error("bias", bias, "none"));
    }
    let empty =
        |v: &Value| v.as_object().is_some_and(Map::is_empty) || v.as_array().is_some_and(Vec::is_empty);
    for key in ["alpha_pattern", "modules_to_save", "trainable_token_indices"] {
        if let Some(found) = config.value(key).filter(|v| !empty(v)) {
            return Err(config.error(key, &found.to_string(), "nothing"));
        }
    }
    Ok(())
}

/// The module that a tensor is for, as `transformers` names it, and which side it is.
fn side(name: &str) -> Option<(&str, Side)> {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name).strip_suffix(".weight")?;
    let name = name.strip_suffix(".default").unwrap_or(name);
    let (module, side) = name.rsplit_once('.')?;
    match side {
        "lora_A" => Some((module, Side::A)),
        "lora_B" => Some((module, Side::B)),
        _ => None,
    }
}
