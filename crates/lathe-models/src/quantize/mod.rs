//! From f32 to the types of a GGUF file.
//!
//! An encoding is what its row of the table (`lathe_ir::encodings`) says and no more: [`Codec`] reads and writes a block's numbers by
//! it, `search` finds the numbers that lose the least, `exact` those that lose nothing where there are such. A type that the
//! table gains is quantized to without a line in any of them.
//!
//! Where it is known what inputs a matrix meets, `calibrate` rounds it for these; `rounded` is such a matrix until it is written.
//!
//! `int8` is apart: bytes whose scales are tensors of their own.
//!
//! `types` says which type each tensor of a model gets, `budget` chooses under a budget, `file` writes the model.

mod budget;
mod calibrate;
mod codec;
mod exact;
mod file;
mod groups;
mod int8;
mod levels;
mod rounded;
mod search;
mod types;

use half::{bf16, f16};

pub use budget::{Way, within_budget};
pub use calibrate::{Correlation, Factor};
pub(crate) use codec::Codec;
pub use file::{Loss, QuantizeError, Written, estimate_losses, quantize_file, with_quantized};
pub(crate) use groups::{Group, MIDDLE};
pub use int8::{Int8, is_product};
pub(crate) use rounded::Stored;
pub use rounded::{Rounded, Rounding};
use search::Search;
pub use types::{Chosen, suitable_type};

use crate::gguf::GgmlType;

/// Encodes values, whole blocks of finite ones, behind what is in `out`: to the nearest f16 or bf16, or in blocks with about
/// the least squared error, in which large values count more. Values that the type can represent come back the same when they
/// are decoded (zeros of either sign being equal).
///
/// ```
/// use lathe_models::{GgmlType, dequantize, quantize};
/// let values: Vec<f32> = (0..64).map(|i| (i as f32).sin()).collect();
/// let mut bytes = vec![];
/// quantize(GgmlType::Q4_1, &values, &mut bytes);
/// let mut decoded = vec![0.0; 64];
/// dequantize(GgmlType::Q4_1, &bytes, &mut decoded);
/// assert!(values.iter().zip(&decoded).all(|(a, b)| (a - b).abs() < 0.1));
/// ```
pub fn quantize(ty: GgmlType, values: &[f32], out: &mut Vec<u8>) {
    match ty {
        GgmlType::F32 => out.extend(values.iter().flat_map(|x| x.to_le_bytes())),
        GgmlType::F16 => out.extend(values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes())),
        GgmlType::BF16 => out.extend(values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes())),
        _ => {
            let codec = Codec::of(ty).expect("every other type is one of blocks");
            let search = Search::new(&codec);
            let mut weights = vec![1.0; codec.block];
            for x in values.chunks_exact(codec.block) {
                weigh(x, &mut weights);
                codec.write(&search.block(x, &weights), out);
            }
        }
    }
}

/// How much the errors of values count: more, the larger a value is beside the others of its block. Equal weights lose less in
/// squares and more in a model's predictions.
fn weigh(x: &[f32], weights: &mut [f32]) {
    let power = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
    let rms = power.sqrt() as f32;
    for (w, x) in weights.iter_mut().zip(x) {
        *w = if rms > 0.0 { 1.0 + x.abs() / rms } else { 1.0 };
    }
}
