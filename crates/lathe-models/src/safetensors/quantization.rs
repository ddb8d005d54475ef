//! `quantization_config`: which matrices are kept in the 4 bits of AWQ, GPTQ or bitsandbytes, and finding their parts.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use super::assemble::{Part, Stored};
use super::config::Config;
use super::error::{SafetensorsError, SafetensorsErrorKind as Kind};
use crate::file::{Bytes, Nf4, Packing, Quantized, View};
use crate::gguf::GgmlType;

/// How the matrices of a folder are quantized.
#[derive(Debug)]
pub(super) enum Quantization {
    /// As AWQ or GPTQ do.
    Groups(Groups),
    /// NF4 of bitsandbytes.
    Nf4,
}

/// Codes with a scale and a zero point for each group.
#[derive(Debug)]
pub(super) struct Groups {
    packing: Packing,
    /// Inputs that share a scale; all of them where it is absent.
    group: Option<usize>,
}

/// How the name of the tensor ends that says what a matrix in NF4 is, behind the matrix' name.
pub(super) const STATE: &str = ".quant_state.bitsandbytes__nf4";
/// The same of its scales.
pub(super) const LARGEST: &str = ".absmax";
/// And of its levels.
pub(super) const LEVELS: &str = ".quant_map";

/// What such a tensor says.
#[derive(Deserialize)]
struct State {
    blocksize: usize,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
}

/// The tensors of one matrix, by the last words of their names.
#[derive(Default)]
struct Tensors<'a>(HashMap<&'static str, &'a Stored>);

/// Values of a block of NF4.
pub(super) const NF4_BLOCK: usize = 64;

const PARTS: [&str; 4] = ["qweight", "qzeros", "scales", "g_idx"];

impl Quantization {
    /// Reads the settings; `None` where the model is not quantized.
    pub(super) fn read(c: &Config) -> Result<Option<Quantization>, SafetensorsError> {
        let Some(q) = c.object("quantization_config")? else { return Ok(None) };
        let method = q.str("quant_method")?.unwrap_or("no method");
        if method == "bitsandbytes" {
            let kind = q.str("bnb_4bit_quant_type")?.unwrap_or("fp4");
            let four = q.bool("load_in_4bit")?.unwrap_or(false);
            return match kind {
                "nf4" if four => Ok(Some(Quantization::Nf4)),
                other => Err(q.error("bnb_4bit_quant_type", &format!("'{other}'"), "'nf4' in 4 bits")),
            };
        }
        let bits = q.u32_of(&["bits", "w_bit"])?.unwrap_or(4);
        if bits != 4 {
            return Err(q.error("bits", &bits.to_string(), "4"));
        }
        let packing = match method {
            "gptq" => match q.str("checkpoint_format")?.unwrap_or("gptq") {
                "gptq" => Packing::Gptq { less: 1 },
                "gptq_v2" => Packing::Gptq { less: 0 },
                other => {
                    return Err(q.error("checkpoint_format", &format!("'{other}'"), "'gptq' or 'gptq_v2'"));
                }
            },
            "awq" => match q.str("version")?.unwrap_or("gemm").to_ascii_lowercase().as_str() {
                "gemm" => Packing::Awq,
                other => return Err(q.error("version", &format!("'{other}'"), "'gemm'")),
            },
            other => {
                return Err(q.error(
                    "quant_method",
                    &format!("'{other}'"),
                    "'awq', 'gptq' or 'bitsandbytes'",
                ));
            }
        };
        let group = match q.value("group_size").or(q.value("q_group_size")).map(|v| v.as_i64()) {
            None => Some(128),
            Some(Some(-1)) => None,
            Some(Some(n)) if (8..1 << 20).contains(&n) => usize::try_from(n).ok(),
            Some(n) => {
                let found = n.map_or("something else".to_owned(), |n| n.to_string());
                return Err(q.error("group_size", &found, "-1 or a number from 8 on"));
            }
        };
        Ok(Some(Quantization::Groups(Groups { packing, group })))
    }

    /// Adds the quantized matrices to `parts`, named as if they were not; returns the tensors that are of none.
    pub(super) fn take<'a>(
        &self,
        stored: &'a [Stored],
        files: &[Bytes],
        parts: &mut Vec<Part>,
    ) -> Result<Vec<&'a Stored>, Kind> {
        match self {
            Quantization::Groups(groups) => groups.take(stored, files, parts),
            Quantization::Nf4 => take_nf4(stored, files, parts),
        }
    }
}

/// The matrices in NF4 and what is left, as [`Quantization::take`] says.
fn take_nf4<'a>(
    stored: &'a [Stored],
    files: &[Bytes],
    parts: &mut Vec<Part>,
) -> Result<Vec<&'a Stored>, Kind> {
    let by_name: HashMap<&str, &Stored> = stored.iter().map(|s| (&*s.name, s)).collect();
    let mut taken: HashSet<String> = HashSet::new();
    for s in stored {
        let Some(name) = s.name.strip_suffix(STATE) else { continue };
        let bytes = s.place.bytes(files);
        let state: State = serde_json::from_slice(bytes)
            .map_err(|e| Kind::tensor(&s.name, format!("is not the JSON that is needed: {e}")))?;
        if state.nested_blocksize.is_some() || state.blocksize != NF4_BLOCK {
            let what = format!("is not of blocks of {NF4_BLOCK} with scales of 32 bits, which are read");
            return Err(Kind::tensor(&s.name, what));
        }
        let &[outputs, inputs] = &state.shape[..] else {
            return Err(Kind::tensor(&s.name, format!("has shape {:?}, not a matrix's", state.shape)));
        };
        let elements = outputs.checked_mul(inputs).filter(|n| *n > 0 && inputs % NF4_BLOCK == 0);
        let elements = elements.ok_or_else(|| {
            Kind::tensor(&s.name, format!("is of rows of {inputs}, not a multiple of {NF4_BLOCK}"))
        })?;
        let part = |end: &str, dtype: &str, bytes: usize| {
            let name = format!("{name}{end}");
            let missing = || Kind::tensor(&name, "is missing");
            let t = by_name.get(&*name).ok_or_else(missing)?;
            match t.dtype == dtype && t.place.range.len() == bytes {
                true => Ok(t.place.clone()),
                false => Err(Kind::tensor(
                    &name,
                    format!("is {} {:?}, not {bytes} bytes of {dtype}", t.dtype, t.shape),
                )),
            }
        };
        let codes = part("", "U8", elements / 2)?;
        let largest = part(LARGEST, "F32", elements / NF4_BLOCK * 4)?;
        taken.extend(["", STATE, LARGEST, LEVELS].map(|end| format!("{name}{end}")));
        let view = View::Nf4(Nf4 { codes, largest });
        parts.push(Part { name: name.to_owned(), shape: vec![outputs, inputs], ty: GgmlType::NF4, view });
    }
    Ok(stored.iter().filter(|s| !taken.contains(&s.name)).collect())
}

impl Groups {
    fn take<'a>(
        &self,
        stored: &'a [Stored],
        files: &[Bytes],
        parts: &mut Vec<Part>,
    ) -> Result<Vec<&'a Stored>, Kind> {
        let mut rest = vec![];
        let mut matrices: Vec<(&str, Tensors<'_>)> = vec![];
        let mut by_name: HashMap<&str, usize> = HashMap::new();
        for s in stored {
            let part = s
                .name
                .rsplit_once('.')
                .and_then(|(stem, last)| Some((stem, *PARTS.iter().find(|p| **p == last)?)));
            let Some((stem, part)) = part else {
                rest.push(s);
                continue;
            };
            let i = *by_name.entry(stem).or_insert_with(|| {
                matrices.push((stem, Tensors::default()));
                matrices.len() - 1
            });
            matrices[i].1.0.insert(part, s);
        }
        for (stem, tensors) in matrices {
            let matrix = self.matrix(stem, &tensors, files)?;
            let ty = matrix.exact_type(files);
            let (shape, name) = (vec![matrix.outputs, matrix.inputs], format!("{stem}.weight"));
            parts.push(Part { name, shape, ty, view: View::Quantized { matrix: Box::new(matrix), ty } });
        }
        Ok(rest)
    }

    /// One matrix, its parts checked against each other.
    fn matrix(&self, stem: &str, tensors: &Tensors<'_>, files: &[Bytes]) -> Result<Quantized, Kind> {
        let part = |last: &str| {
            let missing = || Kind::tensor(&format!("{stem}.{last}"), "is missing");
            tensors.0.get(last).copied().ok_or_else(missing)
        };
        let (codes, zeros, scales) = (part("qweight")?, part("qzeros")?, part("scales")?);
        let &[a, b] = &codes.shape[..] else {
            return Err(Kind::tensor(&codes.name, format!("has shape {:?}, not a matrix's", codes.shape)));
        };
        let (inputs, outputs) = match self.packing {
            Packing::Gptq { .. } => (a.saturating_mul(8), b),
            Packing::Awq => (a, b.saturating_mul(8)),
        };
        let group = self.group.unwrap_or(inputs);
        if inputs == 0 || outputs == 0 || !outputs.is_multiple_of(8) || !inputs.is_multiple_of(group) {
            let what =
                format!("is of {inputs} inputs and {outputs} outputs, which groups of {group} do not fit");
            return Err(Kind::tensor(&codes.name, what));
        }
        let groups = inputs / group;
        let shaped = |s: &Stored, dtypes: &[&str], shape: &[usize]| {
            let ok = dtypes.contains(&&*s.dtype) && s.shape == shape;
            let what = || format!("is {} {:?}, where {} {shape:?} is needed", s.dtype, s.shape, dtypes[0]);
            if ok { Ok(s.place.clone()) } else { Err(Kind::tensor(&s.name, what())) }
        };
        let integers = ["I32", "U32"];
        let scale_type = match &*scales.dtype {
            "BF16" => GgmlType::BF16,
            "F32" => GgmlType::F32,
            _ => GgmlType::F16,
        };
        let group_of = match (tensors.0.get("g_idx"), self.packing) {
            (Some(s), Packing::Gptq { .. }) => Some(shaped(s, &integers, &[inputs])?),
            (Some(s), Packing::Awq) => return Err(Kind::tensor(&s.name, "has no place in AWQ")),
            (None, _) => None,
        };
        if let Some(place) = &group_of {
            let groups_of = place.bytes(files).chunks_exact(4);
            let outside = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize >= groups;
            if let Some(b) = groups_of.clone().find(|b| outside(b)) {
                let group = i32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                let what = format!("names group {group} of {groups}");
                return Err(Kind::tensor(&format!("{stem}.g_idx"), what));
            }
        }
        Ok(Quantized {
            packing: self.packing,
            outputs,
            inputs,
            groups,
            codes: shaped(codes, &integers, &[a, b])?,
            zeros: shaped(zeros, &integers, &[groups, outputs / 8])?,
            scales: shaped(scales, &["F16", "BF16", "F32"], &[groups, outputs])?,
            scale_type,
            group_of,
        })
    }
}
