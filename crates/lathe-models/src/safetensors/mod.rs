//! A folder of safetensors with its `config.json`, as `transformers` saves a model, presented as a GGUF file would be:
//! metadata under GGUF's keys, tensors under GGUF's names.

mod assemble;
mod config;
mod error;
mod header;
mod metadata;
mod names;
mod peft;
mod quantization;
mod schemes;
mod tokenizer;
mod write;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::file::{Bytes, Content, Format, Place, TensorInfo, View};
use crate::gguf::{self, GgmlType, GgufWriter};
use SafetensorsErrorKind as Kind;
use assemble::{Rules, Stored, assemble};
use config::{Config, read_json};
pub use error::{SafetensorsError, SafetensorsErrorKind};
pub(crate) use peft::{Side, read_adapter};
use quantization::Quantization;
use schemes::Scheme;
pub use write::{FourBits, WrittenTensor, quantize_folder};

const CONFIG: &str = "config.json";
const ONE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Larger files of settings are refused.
const MAX_CONFIG: u64 = 1 << 22;
const MAX_INDEX: u64 = 1 << 24;
/// The most shards.
const MAX_SHARDS: usize = 4096;

/// The folder of the model that `path` names: the folder itself, or a file of it.
pub(crate) fn folder(path: &Path) -> Option<PathBuf> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
    let of_folder = name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
    match path.is_dir() {
        true => Some(path.to_owned()),
        false if of_folder => {
            Some(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned())
        }
        false => None,
    }
}

/// Opens and checks a folder.
pub(crate) fn open(folder: &Path) -> Result<Content, SafetensorsError> {
    let path = folder.join(CONFIG);
    let values: Map<String, Value> =
        read_json(&path, MAX_CONFIG)?.ok_or_else(|| Kind::Missing(CONFIG).at(folder))?;
    let config = Config::new(&path, values).of_text()?;
    let Some(model_type) = config.str("model_type")? else {
        return Err(config.error("model_type", "missing", "the kind of the model"));
    };
    let scheme = Scheme::of(model_type);
    let family = scheme.map_or(model_type, |s| s.family);
    let mut writer = GgufWriter::new();
    let made = metadata::write(&config, family, &mut writer)?;
    tokenizer::write(folder, &config, &mut writer)?;

    let (files, stored) = read_shards(folder)?;
    let rules = Rules {
        names: scheme.map(Scheme::names).unwrap_or_default(),
        norms_less_one: scheme.is_some_and(|s| s.norms_less_one),
        tied: config.bool("tie_word_embeddings")?.unwrap_or(false),
        quantization: Quantization::read(&config)?,
    };
    let mut tensors = assemble(&stored, &rules, &files).map_err(|kind| kind.at(folder))?;
    for (name, values) in made {
        let view = View::Given(values.iter().flat_map(|x| x.to_le_bytes()).collect());
        tensors.push(TensorInfo { name: name.to_owned(), dims: vec![values.len()], ty: GgmlType::F32, view });
    }
    let written = writer.to_bytes().and_then(gguf::from_bytes);
    let metadata = written.map_err(|e| Kind::Json(e.kind.to_string()).at(&path))?.metadata;
    Ok(Content { format: Format::Safetensors, metadata, files, tensors, sections: vec![] })
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

/// Maps all shards; each tensor that the index names must be in the shard that it names.
fn read_shards(folder: &Path) -> Result<(Vec<Bytes>, Vec<Stored>), SafetensorsError> {
    let index = folder.join(INDEX);
    let Some(Index { weight_map }) = read_json(&index, MAX_INDEX)? else {
        if !folder.join(ONE).exists() {
            return Err(Kind::Missing("model.safetensors").at(folder));
        }
        let (bytes, stored) = read_shard(folder, ONE, 0)?;
        return Ok((vec![bytes], stored));
    };
    let shards: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
    if shards.is_empty() || shards.len() > MAX_SHARDS {
        return Err(Kind::Index(format!("it names {} shards", shards.len())).at(&index));
    }
    let (mut files, mut stored) = (vec![], vec![]);
    let mut names = HashSet::new();
    for shard in shards {
        // The name comes from a file and becomes part of a path.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !shard.ends_with(".safetensors") || shard.starts_with('.') || !shard.chars().all(plain) {
            let shard: String = shard.escape_debug().take(80).collect();
            return Err(Kind::Index(format!("'{shard}' is no name of a shard")).at(&index));
        }
        if !folder.join(shard).exists() {
            return Err(Kind::Index(format!("the shard {shard} is missing")).at(&index));
        }
        let (bytes, found) = read_shard(folder, shard, files.len())?;
        for s in &found {
            if weight_map.get(&s.name).is_none_or(|named| named != shard) {
                let what = format!("tensor '{}' is in {shard}, where the index does not have it", s.name);
                return Err(Kind::Index(what).at(&index));
            }
            names.insert(s.name.clone());
        }
        files.push(bytes);
        stored.extend(found);
    }
    match weight_map.iter().find(|(name, _)| !names.contains(*name)) {
        Some((name, shard)) => {
            Err(Kind::Index(format!("{shard} does not have tensor '{name}', which the index places there"))
                .at(&index))
        }
        None => Ok((files, stored)),
    }
}

fn read_shard(folder: &Path, name: &str, file: usize) -> Result<(Bytes, Vec<Stored>), SafetensorsError> {
    let path = folder.join(name);
    let bytes = Bytes::map(&path).map_err(|(action, error)| Kind::Io { action, error }.at(&path))?;
    let entries = header::parse(&bytes).map_err(|kind| kind.at(&path))?;
    let stored = entries.into_iter().map(|e| Stored {
        name: e.name,
        dtype: e.dtype,
        shape: e.shape,
        place: Place { file, range: e.range },
    });
    Ok((bytes, stored.collect()))
}
