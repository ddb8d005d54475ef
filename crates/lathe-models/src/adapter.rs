//! Low-rank adapters (Hu et al. 2021): for some of a model's products `y = x W'`, two small matrices whose product is added to
//! W.
//!
//! They are read as PEFT saves them (a folder of safetensors) and as llama.cpp does (a GGUF file), and held as the model's own
//! file needs them: where it has rotating pairs as neighbours, so have they.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use thiserror::Error;

use crate::families::{FamilyErrorKind, family, in_layer, neighbours, row_in_halves};
use crate::file::{FileError, Format, ModelFile};
use crate::gguf::{GgufError, dequantize};
use crate::safetensors::{SafetensorsError, Side, read_adapter};

/// What an adapter adds to each product that it changes.
#[derive(Clone, Debug, Default)]
pub struct Adapter {
    parts: BTreeMap<String, AdapterPart>,
}

/// What is added to a product: `x A' B'`.
#[derive(Clone, Debug)]
pub struct AdapterPart {
    /// Rows of `a` and columns of `b`.
    pub rank: usize,
    /// Columns of `a`: what the product multiplies.
    pub width: usize,
    /// Rows of `b`: what it gives.
    pub rows: usize,
    /// [rank, width].
    pub a: Vec<f32>,
    /// [rows, rank], with the adapter's scale.
    pub b: Vec<f32>,
}

/// An adapter that cannot be used with a model.
#[derive(Debug, Error)]
#[error("{}: {kind}", path.display())]
pub struct AdapterError {
    /// The adapter.
    pub path: PathBuf,
    /// What is wrong with it.
    pub kind: AdapterErrorKind,
}

/// What is wrong with an adapter.
#[derive(Debug, Error)]
pub enum AdapterErrorKind {
    /// Its file cannot be opened.
    #[error(transparent)]
    File(#[from] FileError),
    /// The model's file cannot have adapters.
    #[error("{0}")]
    Model(Box<FamilyErrorKind>),
    /// It is a model, or something else that is no adapter.
    #[error("this is no LoRA adapter: {0}")]
    Kind(String),
    /// It does not fit the model.
    #[error("it does not fit the model: {0}")]
    Fit(String),
}

impl From<FamilyErrorKind> for AdapterErrorKind {
    fn from(error: FamilyErrorKind) -> Self {
        AdapterErrorKind::Model(Box::new(error))
    }
}

impl From<SafetensorsError> for AdapterErrorKind {
    fn from(error: SafetensorsError) -> Self {
        AdapterErrorKind::File(error.into())
    }
}

impl From<GgufError> for AdapterErrorKind {
    fn from(error: GgufError) -> Self {
        AdapterErrorKind::File(error.into())
    }
}

impl Diagnose for AdapterError {
    fn diagnostic(&self) -> Diagnostic {
        let (code, fix) = match &self.kind {
            AdapterErrorKind::File(error) => return error.diagnostic(),
            AdapterErrorKind::Model(_) => ("adapter-model", "use a model of a supported family"),
            AdapterErrorKind::Kind(_) => (
                "adapter-kind",
                "give a folder of PEFT with adapter_config.json, or a GGUF file of an adapter",
            ),
            AdapterErrorKind::Fit(_) => ("adapter-fit", "use the model that the adapter was trained for"),
        };
        Diagnostic::new(code, Fault::User, self.kind.to_string()).at(self.path.display().to_string()).fix(fix)
    }
}

impl Adapter {
    /// Reads the adapter at `path`, a folder or a GGUF file, for the model in `base`; each part must fit one of its products.
    pub fn open(path: impl AsRef<Path>, base: &ModelFile) -> Result<Adapter, AdapterError> {
        let path = path.as_ref();
        read(path, base).map_err(|kind| AdapterError { path: path.to_owned(), kind })
    }

    /// Its parts, by the names of the products' weights without `.weight`.
    pub fn parts(&self) -> &BTreeMap<String, AdapterPart> {
        &self.parts
    }

    /// The largest rank of its parts.
    pub fn rank(&self) -> usize {
        self.parts.values().map(|part| part.rank).max().unwrap_or(0)
    }

    /// The products of a layer that it changes (`attn_q`), each once.
    pub fn products(&self) -> BTreeSet<String> {
        self.parts.keys().map(|name| in_layer(name).to_owned()).collect()
    }
}

/// A matrix with its rows and columns.
type Matrix = ([usize; 2], Vec<f32>);

fn read(path: &Path, base: &ModelFile) -> Result<Adapter, AdapterErrorKind> {
    let family = family(base).map_err(|error| error.kind)?;
    let mut sides: BTreeMap<String, [Option<Matrix>; 2]> = BTreeMap::new();
    let mut put = |product: String, side: Side, matrix: Matrix| {
        sides.entry(product).or_default()[usize::from(side == Side::B)] = Some(matrix);
    };
    let scale: Box<dyn Fn(usize) -> f32>;
    let halves;
    if path.is_dir() {
        let mut peft = read_adapter(path, family)?;
        for (product, side, shape, values) in peft.matrices.drain(..) {
            put(product, side, (shape, values));
        }
        scale = Box::new(move |rank| peft.scale(rank));
        halves = true;
    } else {
        let file = ModelFile::open(path)?;
        if !matches!(file.format(), Format::Gguf(_)) || file.find::<&str>("adapter.type")? != Some("lora") {
            return Err(AdapterErrorKind::Kind("it is a model".into()));
        }
        let of = file.get_str("general.architecture")?;
        if of != family {
            return Err(AdapterErrorKind::Fit(format!("it is for '{of}', the model is '{family}'")));
        }
        for info in file.tensors() {
            let name = info.name();
            let side = [(".weight.lora_a", Side::A), (".weight.lora_b", Side::B)];
            let found = side.iter().find_map(|(end, side)| Some((name.strip_suffix(end)?, *side)));
            let Some((product, side)) = found else {
                return Err(AdapterErrorKind::Kind(format!("tensor '{name}' is no part of one")));
            };
            let [rows, columns] = info.shape()[..] else {
                return Err(AdapterErrorKind::Kind(format!("tensor '{name}' is no matrix")));
            };
            let mut values = vec![0.0; info.elements()];
            dequantize(info.ty(), &file.data(info), &mut values);
            put(product.to_owned(), side, ([rows, columns], values));
        }
        let alpha = file.get_f32("adapter.lora.alpha")?;
        // Without a number the product is taken as it is.
        scale = Box::new(move |rank| if alpha == 0.0 { 1.0 } else { alpha / rank as f32 });
        halves = false;
    }
    let mut adapter = Adapter::default();
    for (product, sides) in sides {
        let [Some((a, down)), Some((b, up))] = sides else {
            return Err(AdapterErrorKind::Kind(format!("'{product}' has one of its two matrices")));
        };
        let ([rank, width], [rows, same]) = (a, b);
        let found = base.tensor(&format!("{product}.weight")).map(|info| info.shape());
        let fits = found.as_deref() == Some(&[rows, width]) && rank == same && rank > 0;
        if !fits || !product.starts_with("blk.") {
            let has = found.map_or("no such product of a layer".into(), |shape| format!("{shape:?} there"));
            let what = format!("'{product}' is changed by {a:?} and {b:?}, the model has {has}");
            return Err(AdapterErrorKind::Fit(what));
        }
        let scale = scale(rank);
        if down.iter().chain(&up).any(|v| !(v * scale).is_finite()) {
            return Err(AdapterErrorKind::Kind(format!("'{product}' holds what is no number")));
        }
        let b = up.into_iter().map(|v| v * scale).collect();
        adapter.parts.insert(product, AdapterPart { rank, width, rows, a: down, b });
    }
    if adapter.parts.is_empty() {
        return Err(AdapterErrorKind::Kind("it changes nothing".into()));
    }
    order(&mut adapter, base, halves)?;
    Ok(adapter)
}

/// Puts the rows of queries and keys in the order of the model's file. A folder has them in halves, a GGUF file as the files of
/// its family have them.
fn order(adapter: &mut Adapter, base: &ModelFile, halves: bool) -> Result<(), AdapterErrorKind> {
    let heads = match (halves, base.format()) {
        (true, _) => neighbours(base)?,
        // What llama.cpp writes for a family that rotates neighbours does not fit a folder of it.
        (false, Format::Safetensors) if family(base).is_ok_and(|f| f == "llama") => {
            let what = "a GGUF adapter of this family needs the model as a GGUF file, too";
            return Err(AdapterErrorKind::Fit(what.into()));
        }
        (false, _) => None,
    };
    let Some([queries, keys]) = heads else { return Ok(()) };
    for (name, part) in &mut adapter.parts {
        let heads = match in_layer(name) {
            "attn_q" => queries,
            "attn_k" => keys,
            _ => continue,
        };
        if heads == 0 || !part.rows.is_multiple_of(2 * heads) {
            return Err(AdapterErrorKind::Fit(format!("'{name}' has {} rows for {heads} heads", part.rows)));
        }
        let half = part.rows / heads / 2;
        let row = |row: usize| part.b[row_in_halves(row, half) * part.rank..][..part.rank].to_vec();
        part.b = (0..part.rows).flat_map(row).collect();
    }
    Ok(())
}
