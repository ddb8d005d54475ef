//! The values of a file's tensors, decoded as the table of encodings says.

use std::sync::Arc;

use lathe_ir::encodings::encoding;
use lathe_ir::{DType, Tensor};

use super::types::GgmlType;

/// Decodes as many whole blocks as both `bytes` and `out` have room for, and returns how many values it wrote.
pub fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> usize {
    let blocks = (bytes.len() / ty.block_bytes()).min(out.len() / ty.block_len());
    let len = blocks * ty.block_len();
    let Some(e) = encoding(&ty.encoding(), &[(len as i64).into()]) else { return 0 };
    let bytes = bytes[..blocks * ty.block_bytes()].to_vec();
    let values = Tensor { shape: vec![len], dtype: DType::F32, encoding: Some(Arc::new(e)), bytes }.to_f32();
    out[..len].copy_from_slice(&values);
    len
}
