//! Which type each tensor of a file gets, when one is asked for all.

use crate::file::TensorInfo;
use crate::gguf::GgmlType;

/// Matrices whose elements are few and matter much, or that are looked up and not multiplied: kept as they are, by the last parts of
/// their names.
pub(super) const KEPT: &[&str] = &["ffn_gate_inp.weight", "position_embd.weight", "token_types.weight"];

/// What a tensor becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The type.
    pub ty: GgmlType,
    /// Why it is another than the one asked for.
    pub why: Option<&'static str>,
}

/// The type for a tensor where `asked` is asked for: itself where it has whole blocks for each row, else the least of those with
/// shorter blocks that has about as many bits; vectors, routers of experts and tables of positions stay unquantized.
pub fn suitable_type(info: &TensorInfo, asked: GgmlType) -> Chosen {
    let row = info.dims().first().copied().unwrap_or(1);
    let plain = |ty: GgmlType| ty.block_len() == 1;
    if asked == GgmlType::F32 {
        return Chosen { ty: asked, why: None };
    }
    let kept = match info.dims().len() {
        0 | 1 => Some("a vector"),
        _ if KEPT.iter().any(|k| info.name().ends_with(k)) => Some("a router or a table of positions"),
        _ => None,
    };
    if kept.is_some() {
        let ty = if plain(info.ty()) { info.ty() } else { GgmlType::F32 };
        return Chosen { ty, why: kept };
    }
    let mut ty = asked;
    while !row.is_multiple_of(ty.block_len()) {
        ty = shorter(ty);
    }
    Chosen { ty, why: (ty != asked).then_some("rows of no whole blocks") }
}

/// The type with shorter blocks to take in the place of one whose blocks do not fit.
fn shorter(ty: GgmlType) -> GgmlType {
    match ty {
        GgmlType::Q2_K | GgmlType::Q3_K | GgmlType::IQ4_XS => GgmlType::IQ4_NL,
        GgmlType::Q4_K => GgmlType::Q5_0,
        GgmlType::Q5_K => GgmlType::Q5_1,
        GgmlType::Q6_K => GgmlType::Q8_0,
        _ => GgmlType::F16,
    }
}

/// The number that stands in a file's settings for "mostly of this type".
pub(super) fn file_type(ty: GgmlType) -> u32 {
    match ty {
        GgmlType::F32 => 0,
        GgmlType::F16 => 1,
        GgmlType::Q4_0 => 2,
        GgmlType::Q4_1 => 3,
        GgmlType::Q8_0 => 7,
        GgmlType::Q5_0 => 8,
        GgmlType::Q5_1 => 9,
        GgmlType::Q2_K => 10,
        GgmlType::Q3_K => 12,
        GgmlType::Q4_K => 14,
        GgmlType::Q5_K => 16,
        GgmlType::Q6_K => 18,
        GgmlType::IQ4_NL => 25,
        GgmlType::IQ4_XS => 30,
        GgmlType::BF16 => 32,
        // There is no number for these.
        GgmlType::I8 | GgmlType::I32 | GgmlType::NF4 => 1,
    }
}
