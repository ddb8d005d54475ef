//! 4-bit matrices of AWQ and GPTQ, presented in encodings that hold them exactly.
//!
//! Both keep a matrix by input, then output: a code `q` of 4 bits for each element, and a scale and a zero point `z` for each
//! group of inputs and output; the value is `(q - z) * scale`. Eight codes lie in a 32-bit word. GPTQ packs codes of eight
//! inputs, its zero points those of eight outputs and less one; AWQ packs both by outputs, in the order of [`AWQ_ORDER`].

use std::ops::Range;

use half::{bf16, f16};

use super::Bytes;
use crate::gguf::GgmlType;

/// The output of a word of eight that AWQ keeps in each 4 bits, lowest first.
const AWQ_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Which of the two a matrix is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// AWQ's `gemm` version.
    Awq,
    /// GPTQ; what its zero points lack: one in its first format, nothing in its second.
    Gptq { less: i32 },
}

/// The bytes of a tensor in a file.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub file: usize,
    pub range: Range<usize>,
}

impl Place {
    pub(crate) fn bytes<'a>(&self, files: &'a [Bytes]) -> &'a [u8] {
        files.get(self.file).and_then(|f| f.get(self.range.clone())).unwrap_or_default()
    }
}

/// A matrix of 4-bit codes; whoever makes one has checked the sizes of all places.
#[derive(Clone, Debug)]
pub(crate) struct Quantized {
    pub packing: Packing,
    pub outputs: usize,
    pub inputs: usize,
    /// Groups of inputs with a scale each.
    pub groups: usize,
    pub codes: Place,
    pub zeros: Place,
    pub scales: Place,
    /// `F16`, `BF16` or `F32`.
    pub scale_type: GgmlType,
    /// The group of each input, 32-bit; by blocks of equal length where it is absent.
    pub group_of: Option<Place>,
}

fn word(bytes: &[u8], index: usize) -> u32 {
    bytes.get(4 * index..4 * index + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn nibble(word: u32, index: usize) -> i32 {
    (word >> (4 * index) & 15) as i32
}

/// The place in a word where AWQ keeps the output `index` of eight.
fn awq_place(index: usize) -> usize {
    AWQ_ORDER.iter().position(|o| *o == index).unwrap_or(0)
}

/// A matrix in NF4 as bitsandbytes keeps it (Dettmers et al. 2023): codes two a byte, the first one high, and the largest absolute
/// value of every 64; whoever makes one has checked the sizes.
#[derive(Clone, Debug)]
pub(crate) struct Nf4 {
    pub codes: Place,
    pub largest: Place,
}

impl Nf4 {
    /// The same in the encoding of that name, whose levels are NF4's in parts of 127.
    pub(crate) fn bytes(&self, files: &[Bytes]) -> Vec<u8> {
        let (codes, largest) = (self.codes.bytes(files), self.largest.bytes(files));
        let mut out = Vec::with_capacity(codes.len() + codes.len() / 16);
        for (block, codes) in codes.chunks_exact(32).enumerate() {
            let scale = f32::from_bits(word(largest, block)) / 127.0;
            out.extend(f16::from_f32(scale).to_le_bytes());
            let code = |i: usize| codes[i / 2] >> (4 * (1 - i % 2)) & 15;
            out.extend((0..32).map(|i| code(i) | code(i + 32) << 4));
        }
        out
    }
}

impl Quantized {
    pub(crate) fn places(&self) -> impl Iterator<Item = &Place> {
        [&self.codes, &self.zeros, &self.scales].into_iter().chain(&self.group_of)
    }

    fn code(&self, codes: &[u8], input: usize, output: usize) -> i32 {
        match self.packing {
            Packing::Gptq { .. } => nibble(word(codes, input / 8 * self.outputs + output), input % 8),
            Packing::Awq => {
                nibble(word(codes, input * (self.outputs / 8) + output / 8), awq_place(output % 8))
            }
        }
    }

    fn zero(&self, zeros: &[u8], group: usize, output: usize) -> i32 {
        let packed = word(zeros, group * (self.outputs / 8) + output / 8);
        match self.packing {
            Packing::Gptq { less } => nibble(packed, output % 8) + less,
            Packing::Awq => nibble(packed, awq_place(output % 8)),
        }
    }

    fn scale(&self, scales: &[u8], group: usize, output: usize) -> f32 {
        let (i, width) = (group * self.outputs + output, self.scale_type.block_bytes());
        let Some(b) = scales.get(i * width..(i + 1) * width) else { return 0.0 };
        match self.scale_type {
            GgmlType::F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
            GgmlType::BF16 => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            _ => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        }
    }

    fn group(&self, group_of: &[u8], input: usize) -> usize {
        match self.group_of {
            Some(_) => word(group_of, input) as usize,
            None => input / (self.inputs / self.groups),
        }
    }

    /// The encoding that holds it exactly: `Q4_0` where groups are whole blocks and every zero point is 8, `Q8_0` where
    /// they are not all 8, `F32` where a block of 32 inputs has several scales, or one that is no f16.
    pub(crate) fn exact_type(&self, files: &[Bytes]) -> GgmlType {
        let blocks = self.inputs.is_multiple_of(32) && self.scale_type == GgmlType::F16;
        let group_of = self.group_of.as_ref().map_or(&[][..], |p| p.bytes(files));
        let same = |block: usize| {
            let first = self.group(group_of, 32 * block);
            (1..32).all(|i| self.group(group_of, 32 * block + i) == first)
        };
        if !blocks || !(0..self.inputs / 32).all(same) {
            return GgmlType::F32;
        }
        let zeros = self.zeros.bytes(files);
        let symmetric = (0..self.groups).all(|g| (0..self.outputs).all(|o| self.zero(zeros, g, o) == 8));
        if symmetric { GgmlType::Q4_0 } else { GgmlType::Q8_0 }
    }

    /// The matrix by output, then input, in the encoding `ty`, which must be [`exact_type`](Self::exact_type)'s.
    pub(crate) fn bytes(&self, ty: GgmlType, files: &[Bytes]) -> Vec<u8> {
        let (codes, zeros) = (self.codes.bytes(files), self.zeros.bytes(files));
        let scales = self.scales.bytes(files);
        let group_of = self.group_of.as_ref().map_or(&[][..], |p| p.bytes(files));
        let mut out = Vec::with_capacity(ty.bytes_for(self.outputs * self.inputs).unwrap_or(0));
        for output in 0..self.outputs {
            let value = |input: usize| {
                let group = self.group(group_of, input);
                (self.code(codes, input, output) - self.zero(zeros, group, output), group)
            };
            if ty == GgmlType::F32 {
                for (q, group) in (0..self.inputs).map(value) {
                    out.extend((q as f32 * self.scale(scales, group, output)).to_le_bytes());
                }
                continue;
            }
            for block in 0..self.inputs / 32 {
                let of = |i: usize| value(32 * block + i).0;
                let (_, group) = value(32 * block);
                out.extend(f16::from_f32(self.scale(scales, group, output)).to_le_bytes());
                match ty {
                    GgmlType::Q4_0 => {
                        out.extend((0..16).map(|i| (of(i) + 8) as u8 | ((of(i + 16) + 8) as u8) << 4))
                    }
                    _ => out.extend((0..32).map(|i| of(i) as i8 as u8)),
                }
            }
        }
        out
    }
}
