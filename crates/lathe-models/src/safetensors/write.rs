//! A folder with the matrices of its layers in 4 bits: NF4 as bitsandbytes keeps it, or groups with zero points as GPTQ does.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::assemble::Stored;
use super::config::{Config, read_json};
use super::names::{Form, Names};
use super::quantization::{LARGEST, LEVELS, NF4_BLOCK, STATE};
use super::schemes::Scheme;
use super::{CONFIG, MAX_CONFIG, SafetensorsError, SafetensorsErrorKind as Kind, read_shards};
use crate::file::Bytes;
use crate::gguf::{GgmlType, dequantize};
use crate::quantize::{Group, Loss, MIDDLE, Rounded, Rounding, Stored as Made, quantize};

/// The values that share a scale.
const GROUP: usize = NF4_BLOCK;

/// What the matrices of a folder's layers become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FourBits {
    /// The levels of NF4 with a scale for 64 (QLoRA, Dettmers et al. 2023), in the layout of bitsandbytes.
    Nf4,
    /// Evenly spaced levels with a scale for 64, and perhaps a zero point, in GPTQ's second layout.
    Groups {
        /// Whether groups have zero points.
        zeros: bool,
    },
}

impl FourBits {
    /// What a matrix is rounded to.
    pub fn rounding(self) -> Rounding {
        match self {
            FourBits::Nf4 => Rounding::Type(GgmlType::NF4),
            FourBits::Groups { zeros } => Rounding::Groups { columns: GROUP, zeros },
        }
    }
}

/// A tensor that was written.
#[derive(Clone, Debug)]
pub struct WrittenTensor {
    /// Its name in the folder that it came from.
    pub name: String,
    /// Whether it is in 4 bits now.
    pub quantized: bool,
    /// The bytes it takes.
    pub bytes: usize,
    /// What it lost; nothing where it was copied.
    pub loss: Loss,
}

/// A tensor of the new file.
struct Part {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Writes the folder `from` as the new folder `to` with its matrices so; under a temporary name until it is whole. Embeddings, heads,
/// vectors and matrices whose rows are no whole groups stay as they are, and so do the other files. Matrices that were
/// [`rounded`](FourBits::rounding) before are taken so, by their names as tensors of a model. `progress` is told how many tensors are
/// done, of how many, and says whether to go on: `None` is what comes of it where it does not.
///
/// The memory it takes is that of the new file's tensors.
pub fn quantize_folder(
    from: &Path,
    to: &Path,
    bits: FourBits,
    rounded: &HashMap<String, Arc<Rounded>>,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Option<Vec<WrittenTensor>>, SafetensorsError> {
    let path = from.join(CONFIG);
    let mut values: Map<String, Value> =
        read_json(&path, MAX_CONFIG)?.ok_or_else(|| Kind::Missing(CONFIG).at(from))?;
    let config = Config::new(&path, values.clone());
    if config.object("quantization_config")?.is_some() {
        let wanted = "a model that is not quantized";
        return Err(config.error("quantization_config", "there already", wanted));
    }
    let names = Scheme::of(config.str("model_type")?.unwrap_or("")).map(Scheme::names).unwrap_or_default();
    let (files, mut stored) = read_shards(from)?;
    stored.sort_by(|a, b| a.name.cmp(&b.name));
    let (mut parts, mut written) = (vec![], vec![]);
    for (i, s) in stored.iter().enumerate() {
        if !progress(i, stored.len()) {
            return Ok(None);
        }
        let product = product(s, &names);
        let matrix = product.is_some();
        let (made, loss) = match &product {
            Some(name) => quantized(s, &files, bits, rounded.get(name)).map_err(|kind| kind.at(from))?,
            None => (vec![copy(s, &files)], Loss::default()),
        };
        let bytes = made.iter().map(|p| p.bytes.len()).sum();
        written.push(WrittenTensor { name: s.name.clone(), quantized: matrix, bytes, loss });
        parts.extend(made);
    }
    values.insert("quantization_config".to_owned(), settings(bits));
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |error| Kind::Io { action, error }.at(&path)
    };
    let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let scratch =
        tempfile::Builder::new().prefix(".lathe-").tempdir_in(parent).map_err(io("write", parent))?;
    let folder = scratch.path();
    write(&folder.join("model.safetensors"), &parts).map_err(io("write", to))?;
    let text = serde_json::to_vec_pretty(&values).expect("what was JSON is JSON");
    fs::write(folder.join(CONFIG), text).map_err(io("write", to))?;
    for entry in fs::read_dir(from).map_err(io("read", from))? {
        let entry = entry.map_err(io("read", from))?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let ours =
            text == CONFIG || text.ends_with(".safetensors") || text.ends_with(".safetensors.index.json");
        if !ours && entry.path().is_file() {
            fs::copy(entry.path(), folder.join(&name)).map_err(io("copy to", to))?;
        }
    }
    #[cfg(unix)]
    fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(io("write", to))?;
    fs::rename(folder, to).map_err(io("write", to))?;
    // It has its name now: nothing is left to remove.
    let _ = scratch.keep();
    Ok(Some(written))
}

/// The name of the matrix of a product of a layer, if it is one, in a type and of a shape that can be quantized.
fn product(s: &Stored, names: &Names) -> Option<String> {
    let fits = |shape: &[usize]| matches!(shape, [rows, columns] if rows % 8 == 0 && columns % GROUP == 0);
    let targets = names.targets(&s.name);
    let [target] = &targets[..] else { return None };
    let layer =
        target.name.starts_with("blk.") && target.name.ends_with(".weight") && target.expert.is_none();
    let router = target.name.ends_with("ffn_gate_inp.weight");
    let fits = layer && !router && target.form == Form::Plain && fits(&s.shape) && ty(s).is_some();
    fits.then(|| target.name.clone())
}

fn ty(s: &Stored) -> Option<GgmlType> {
    [GgmlType::F32, GgmlType::F16, GgmlType::BF16].into_iter().find(|ty| ty.name() == s.dtype)
}

fn copy(s: &Stored, files: &[Bytes]) -> Part {
    let bytes = s.place.bytes(files).to_vec();
    Part { name: s.name.clone(), dtype: s.dtype.clone(), shape: s.shape.clone(), bytes }
}

fn settings(bits: FourBits) -> Value {
    match bits {
        FourBits::Nf4 => json!({
            "quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": false,
            "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": false,
            "bnb_4bit_compute_dtype": "float32", "bnb_4bit_quant_storage": "uint8",
        }),
        FourBits::Groups { zeros } => json!({
            "quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": !zeros, "desc_act": false,
            "checkpoint_format": "gptq_v2",
        }),
    }
}

fn quantized(
    s: &Stored,
    files: &[Bytes],
    bits: FourBits,
    rounded: Option<&Arc<Rounded>>,
) -> Result<(Vec<Part>, Loss), Kind> {
    if let Some(rounded) = rounded {
        let parts = match &rounded.stored {
            Made::Blocks(_, blocks) => nf4(s, blocks),
            Made::Groups(of) => groups(s, of),
        };
        return Ok((parts, rounded.loss));
    }
    let mut values = vec![0.0; s.shape[0] * s.shape[1]];
    dequantize(ty(s).expect("asked before"), s.place.bytes(files), &mut values);
    if let Some(value) = values.iter().find(|x| !x.is_finite()) {
        return Err(Kind::tensor(&s.name, format!("holds {value}, which is no weight")));
    }
    let (parts, decoded) = match bits {
        FourBits::Nf4 => {
            let (mut blocks, mut decoded) = (vec![], vec![0.0; values.len()]);
            quantize(GgmlType::NF4, &values, &mut blocks);
            dequantize(GgmlType::NF4, &blocks, &mut decoded);
            (nf4(s, &blocks), decoded)
        }
        FourBits::Groups { zeros } => {
            let group = |x: &[f32]| {
                let group = Group::of(x, &[1.0; GROUP], zeros);
                (group, x.iter().map(|x| group.code(*x)).collect())
            };
            let of: Vec<(Group, Vec<u8>)> = values.chunks_exact(GROUP).map(group).collect();
            debug_assert!(zeros || of.iter().all(|(g, _)| g.zero == MIDDLE));
            let decoded = of.iter().flat_map(|(g, codes)| codes.iter().map(|code| g.value(*code))).collect();
            (groups(s, &of), decoded)
        }
    };
    Ok((parts, Loss::of(&values, &decoded)))
}

fn part(name: String, dtype: &str, shape: &[usize], bytes: Vec<u8>) -> Part {
    Part { name, dtype: dtype.to_owned(), shape: shape.to_vec(), bytes }
}

/// The levels of bitsandbytes: the quantiles of a normal distribution that the paper gives.
const QUANTILES: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The parts of a matrix of blocks of NF4.
fn nf4(s: &Stored, blocks: &[u8]) -> Vec<Part> {
    let (mut codes, mut largest) = (vec![], vec![]);
    for block in blocks.chunks_exact(GgmlType::NF4.block_bytes()) {
        let scale = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
        largest.extend((scale * 127.0).to_le_bytes());
        let code = |i: usize| block[2 + i % 32] >> (4 * (i / 32)) & 15;
        codes.extend((0..32).map(|i| code(2 * i) << 4 | code(2 * i + 1)));
    }
    let state = json!({
        "quant_type": "nf4", "blocksize": NF4_BLOCK, "dtype": "float32", "shape": [s.shape[0], s.shape[1]],
    });
    let state = state.to_string().into_bytes();
    let name = |end: &str| format!("{}{end}", s.name);
    vec![
        part(s.name.clone(), "U8", &[codes.len(), 1], codes),
        part(name(LARGEST), "F32", &[largest.len() / 4], largest),
        part(name(LEVELS), "F32", &[16], QUANTILES.iter().flat_map(|q| q.to_le_bytes()).collect()),
        part(name(STATE), "U8", &[state.len()], state),
    ]
}

/// The parts of a matrix of groups with their codes.
fn groups(s: &Stored, of: &[(Group, Vec<u8>)]) -> Vec<Part> {
    let (rows, columns) = (s.shape[0], s.shape[1]);
    let count = columns / GROUP;
    // By input, then output; eight codes of neighbouring inputs, or zero points of neighbouring outputs, in a word.
    let mut words = vec![];
    for input in (0..columns).step_by(8) {
        for output in 0..rows {
            let codes = &of[output * count + input / GROUP].1[input % GROUP..];
            let nibble = |i: usize| u32::from(codes[i]) << (4 * i);
            words.extend((0..8).map(nibble).sum::<u32>().to_le_bytes());
        }
    }
    let (mut scales, mut points) = (vec![], vec![]);
    for group in 0..count {
        scales.extend((0..rows).flat_map(|output| of[output * count + group].0.scale.to_le_bytes()));
        for output in (0..rows).step_by(8) {
            let nibble = |i: usize| u32::from(of[(output + i) * count + group].0.zero) << (4 * i);
            points.extend((0..8).map(nibble).sum::<u32>().to_le_bytes());
        }
    }
    let number = |input: usize| ((input / GROUP) as u32).to_le_bytes();
    let name = |end: &str| format!("{}{end}", s.name.trim_end_matches("weight"));
    vec![
        part(name("qweight"), "I32", &[columns / 8, rows], words),
        part(name("qzeros"), "I32", &[count, rows / 8], points),
        part(name("scales"), "F16", &[count, rows], scales),
        part(name("g_idx"), "I32", &[columns], (0..columns).flat_map(number).collect()),
    ]
}

/// Writes a file of safetensors.
fn write(path: &Path, parts: &[Part]) -> io::Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut at = 0;
    for p in parts {
        let end = at + p.bytes.len();
        header
            .insert(p.name.clone(), json!({ "dtype": p.dtype, "shape": p.shape, "data_offsets": [at, end] }));
        at = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = BufWriter::new(File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    parts.iter().try_for_each(|p| out.write_all(&p.bytes))?;
    out.flush()
}
