//! The numbers of a block of a file's encoding, read and written where the table of encodings (`lathe_ir`) says they lie.

use half::f16;
use lathe_ir::encodings::encoding;
use lathe_ir::{Coded, DType, Encoding, read_bits, write_bits};

use super::levels::Levels;
use crate::gguf::GgmlType;

/// The most columns of a block.
pub(super) const MOST: usize = 256;
/// The most groups of one.
pub(super) const GROUPS: usize = 16;

/// A block: the value of column `i` in group `g` is `(scale * factors[g]) * levels[i] - minimum * minima[g]`, rounded after each
/// operation. Factors that an encoding does not store are 1, minima that it does not are -1 (its minimum is added), or 0
/// where it has no minimum.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Block {
    pub scale: f16,
    pub factors: [f32; GROUPS],
    pub minimum: f16,
    pub minima: [f32; GROUPS],
    pub levels: [f32; MOST],
}

impl Block {
    pub fn zero() -> Block {
        let none = f16::ZERO;
        Block {
            scale: none,
            factors: [0.0; GROUPS],
            minimum: none,
            minima: [0.0; GROUPS],
            levels: [0.0; MOST],
        }
    }

    /// What a group's levels are multiplied by, and what is added then.
    pub fn line(&self, group: usize) -> (f32, f32) {
        let minimum = self.minimum.to_f32() * self.minima[group];
        (self.scale.to_f32() * self.factors[group], -minimum)
    }
}

/// Integers of a block: low bits, and the high ones where they lie apart.
struct Integers {
    low: (i64, Vec<i64>),
    high: Option<(i64, Vec<i64>)>,
    /// What is stored for a code differs from its number, counted from the least, in this bit.
    sign: i32,
    /// What they stand for.
    levels: Levels,
}

impl Integers {
    fn find(e: &Encoding, low: &str, high: &str, zero: i64, book: Option<&[i64]>) -> Option<Integers> {
        let (bits, at, dtype) = places(e, low)?;
        let high = places(e, high).map(|(bits, at, _)| (bits, at));
        let all = bits + high.as_ref().map_or(0, |h| h.0);
        let half = 1i64 << (all - 1);
        let signed = dtype == DType::int(bits as u8);
        let first = -zero - if signed { half } else { 0 };
        let levels = book.map_or(Levels::run(first, first + 2 * half - 1), Levels::book);
        let sign = if signed { half as i32 } else { 0 };
        Some(Integers { low: (bits, at), high, sign, levels })
    }

    fn read(&self, bytes: &[u8], i: usize) -> f32 {
        let (bits, at) = &self.low;
        let mut code = read_bits(bytes, at[i], *bits).unwrap_or(0);
        if let Some((n, at)) = &self.high {
            code |= read_bits(bytes, at[i], *n).unwrap_or(0) << bits;
        }
        self.levels.level(code as i32 ^ self.sign)
    }

    fn write(&self, bytes: &mut [u8], i: usize, level: f32) {
        let code = (self.levels.code(level) ^ self.sign) as u64;
        let (bits, at) = &self.low;
        put(bytes, at[i], *bits, code);
        if let Some((n, at)) = &self.high {
            put(bytes, at[i], *n, code >> bits);
        }
    }
}

/// The bits of a field, where each of its values lies in a block, and their type.
fn places(e: &Encoding, name: &str) -> Option<(i64, Vec<i64>, DType)> {
    let f = e.field(name)?;
    let layout = f.layout.resolve(&|_| None)?;
    let at = (0..e.block() / f.group).map(|i| layout.address(&[i])).collect();
    Some((f.dtype.bits(), at, f.dtype))
}

fn half(bytes: &[u8], at: i64) -> f16 {
    f16::from_bits(read_bits(bytes, at, 16).unwrap_or(0) as u16)
}

fn put(bytes: &mut [u8], at: i64, bits: i64, value: u64) {
    write_bits(bytes, at, bits, value).expect("a block's fields lie in the block");
}

/// How the blocks of an encoding are read and written.
pub(crate) struct Codec {
    /// Columns of a block.
    pub(super) block: usize,
    /// Columns that have the same scale and minimum.
    pub(super) group: usize,
    bytes: usize,
    codes: Integers,
    scale: i64,
    factors: Option<Integers>,
    minimum: Option<i64>,
    minima: Option<Integers>,
}

impl Codec {
    /// That of a type of blocks; `None` for the plain ones.
    pub(crate) fn of(ty: GgmlType) -> Option<Codec> {
        let e = encoding(&ty.encoding(), &[(ty.block_len() as i64).into()])?;
        let Coded { zero, scale_zero, levels } = e.coded()?;
        let at = |name: &str| places(&e, name).map(|(_, at, _)| at[0]);
        Some(Codec {
            block: e.block() as usize,
            group: e.group() as usize,
            bytes: ty.block_bytes(),
            codes: Integers::find(&e, "q", "h", zero, levels)?,
            scale: at("d")?,
            factors: Integers::find(&e, "s", "t", scale_zero, None),
            minimum: at("m").or(at("e")),
            minima: Integers::find(&e, "n", "o", 0, None),
        })
    }

    /// Groups of a block.
    pub(super) fn groups(&self) -> usize {
        self.block / self.group
    }

    /// What codes stand for.
    pub(super) fn levels(&self) -> &Levels {
        &self.codes.levels
    }

    /// What factors of the scale there are; only 1 where they are not stored.
    pub(super) fn factors(&self) -> Levels {
        self.factors.as_ref().map_or(Levels::run(1, 1), |f| f.levels.clone())
    }

    /// The same of the minimum: only -1 where they are not stored, only 0 where there is no minimum.
    pub(super) fn minima(&self) -> Levels {
        let alone = if self.minimum.is_some() { Levels::run(-1, -1) } else { Levels::run(0, 0) };
        self.minima.as_ref().map_or(alone, |n| n.levels.clone())
    }

    /// The numbers of a block's bytes.
    fn read(&self, bytes: &[u8], b: &mut Block) {
        b.scale = half(bytes, self.scale);
        b.minimum = self.minimum.map_or(f16::ZERO, |at| half(bytes, at));
        for g in 0..self.groups() {
            b.factors[g] = self.factors.as_ref().map_or(1.0, |f| f.read(bytes, g));
            // A minimum that has no factors is added.
            let alone = if self.minimum.is_some() { -1.0 } else { 0.0 };
            b.minima[g] = self.minima.as_ref().map_or(alone, |n| n.read(bytes, g));
        }
        for (i, level) in b.levels[..self.block].iter_mut().enumerate() {
            *level = self.codes.read(bytes, i);
        }
    }

    /// The bytes of a block's numbers, behind those of the block before it.
    pub(super) fn write(&self, b: &Block, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + self.bytes, 0);
        let bytes = &mut out[start..];
        put(bytes, self.scale, 16, b.scale.to_bits().into());
        if let Some(at) = self.minimum {
            put(bytes, at, 16, b.minimum.to_bits().into());
        }
        for g in 0..self.groups() {
            if let Some(f) = &self.factors {
                f.write(bytes, g, b.factors[g]);
            }
            if let Some(n) = &self.minima {
                n.write(bytes, g, b.minima[g]);
            }
        }
        for (i, level) in b.levels[..self.block].iter().enumerate() {
            self.codes.write(bytes, i, *level);
        }
    }

    /// The values of a block's numbers.
    pub(super) fn values(&self, b: &Block, out: &mut [f32]) {
        let levels = b.levels[..self.block].chunks_exact(self.group);
        for (g, (levels, out)) in levels.zip(out.chunks_exact_mut(self.group)).enumerate() {
            let (scale, offset) = b.line(g);
            for (level, out) in levels.iter().zip(out) {
                *out = scale * level + offset;
            }
        }
    }

    /// Decodes whole blocks; both slices hold as many.
    pub(crate) fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        let mut b = Block::zero();
        for (bytes, out) in bytes.chunks_exact(self.bytes).zip(out.chunks_exact_mut(self.block)) {
            self.read(bytes, &mut b);
            self.values(&b, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lathe_ir::Tensor;

    use super::*;

    #[test]
    fn values_are_those_of_the_table_and_bytes_come_back() {
        for ty in GgmlType::ALL {
            let Some(codec) = Codec::of(*ty) else { continue };
            // No 16-bit float of these bytes is infinite or none.
            let bytes: Vec<u8> = (0..5 * ty.block_bytes()).map(|i| (i * i * 31 % 241 % 123) as u8).collect();
            let len = 5 * codec.block;
            let e = encoding(&ty.encoding(), &[(len as i64).into()]).expect("a type of blocks");
            let encoding = Some(Arc::new(e));
            let table = Tensor { shape: vec![len], dtype: DType::F32, encoding, bytes: bytes.clone() };
            let mut values = vec![0.0; len];
            codec.decode(&bytes, &mut values);
            assert_eq!(values, table.to_f32(), "{ty}");
            let (mut b, mut again) = (Block::zero(), vec![]);
            for bytes in bytes.chunks(codec.bytes) {
                codec.read(bytes, &mut b);
                codec.write(&b, &mut again);
            }
            assert_eq!(again, bytes, "{ty}");
        }
    }
}
