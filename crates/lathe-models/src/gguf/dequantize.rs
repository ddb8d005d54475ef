//! The meaning of each block format: a slow, obvious decode to f32 that everything faster is compared with.

use half::{bf16, f16};

use super::types::GgmlType;

/// Decodes as many whole blocks as both `bytes` and `out` have room for, and returns how many values it wrote.
pub fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> usize {
    let blocks = bytes.chunks_exact(ty.block_bytes()).zip(out.chunks_exact_mut(ty.block_len()));
    let mut written = 0;
    for (block, values) in blocks {
        decode_block(ty, block, values);
        written += values.len();
    }
    written
}

fn decode_block(ty: GgmlType, block: &[u8], out: &mut [f32]) {
    let half_at = |i: usize| f16::from_le_bytes([block[i], block[i + 1]]).to_f32();
    match ty {
        GgmlType::F32 => out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
        GgmlType::F16 => out[0] = half_at(0),
        GgmlType::BF16 => out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
        GgmlType::Q4_0 => {
            let scale = half_at(0);
            nibbles(&block[2..], out, |code| (f32::from(code) - 8.0) * scale);
        }
        GgmlType::Q4_1 => {
            let (scale, min) = (half_at(0), half_at(2));
            nibbles(&block[4..], out, |code| f32::from(code) * scale + min);
        }
        GgmlType::Q8_0 => {
            let scale = half_at(0);
            for (x, &code) in out.iter_mut().zip(&block[2..]) {
                *x = f32::from(code as i8) * scale;
            }
        }
    }
}

/// Low halves of the 16 bytes are values 0 to 15, high halves are values 16 to 31.
fn nibbles(codes: &[u8], out: &mut [f32], decode: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for ((&code, low), high) in codes.iter().zip(low).zip(high) {
        *low = decode(code & 15);
        *high = decode(code >> 4);
    }
}
