//! The values of a file's tensors, decoded as the table of encodings says.

use half::{bf16, f16};

use super::types::GgmlType;
use crate::quantize::Codec;

/// Decodes as many whole blocks as both `bytes` and `out` have room for, and returns how many values it wrote.
pub fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> usize {
    let blocks = (bytes.len() / ty.block_bytes()).min(out.len() / ty.block_len());
    let len = blocks * ty.block_len();
    let (bytes, out) = (&bytes[..blocks * ty.block_bytes()], &mut out[..len]);
    let halves = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match ty {
        GgmlType::F32 => bytes
            .chunks_exact(4)
            .zip(out)
            .for_each(|(b, out)| *out = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        GgmlType::F16 => halves().zip(out).for_each(|(b, out)| *out = f16::from_bits(b).to_f32()),
        GgmlType::BF16 => halves().zip(out).for_each(|(b, out)| *out = bf16::from_bits(b).to_f32()),
        GgmlType::I8 => bytes.iter().zip(out).for_each(|(b, out)| *out = f32::from(*b as i8)),
        GgmlType::I32 => bytes
            .chunks_exact(4)
            .zip(out)
            .for_each(|(b, out)| *out = i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f32),
        _ => match Codec::of(ty) {
            Some(codec) => codec.decode(bytes, out),
            None => return 0,
        },
    }
    len
}
