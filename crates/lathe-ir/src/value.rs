//! Concrete tensors for the interpreters and for constants: bytes with a shape, a type and perhaps an encoding.

use crate::encoding::{Coded, Decode};
use crate::{DType, Encoding};
use std::sync::Arc;

/// Reads `bits` (1 to 64) at a bit address, little endian.
pub fn read_bits(bytes: &[u8], address: i64, bits: i64) -> Option<u64> {
    let (start, shift) = (usize::try_from(address >> 3).ok()?, (address & 7) as u32);
    let mask = u64::MAX >> (64 - bits);
    // Nearly always a word from there on has them all.
    if bits + i64::from(shift) <= 64
        && let Some(word) = bytes.get(start..).and_then(|rest| rest.first_chunk())
    {
        return Some(u64::from_le_bytes(*word) >> shift & mask);
    }
    let n = (bits as usize + shift as usize).div_ceil(8);
    let mut v: u128 = 0;
    for (i, b) in bytes.get(start..start.checked_add(n)?)?.iter().enumerate() {
        v |= u128::from(*b) << (8 * i);
    }
    Some((v >> shift) as u64 & mask)
}

/// Writes the low `bits` of `v` at a bit address, little endian; `None` when it is outside.
pub fn write_bits(bytes: &mut [u8], address: i64, bits: i64, v: u64) -> Option<()> {
    let (start, shift) = (usize::try_from(address >> 3).ok()?, (address & 7) as u32);
    if bits + i64::from(shift) <= 64
        && let Some(word) = bytes.get_mut(start..).and_then(|rest| rest.first_chunk_mut())
    {
        let mask = (u64::MAX >> (64 - bits)) << shift;
        *word = ((u64::from_le_bytes(*word) & !mask) | ((v << shift) & mask)).to_le_bytes();
        return Some(());
    }
    let n = (bits as usize + shift as usize).div_ceil(8);
    let mask = u128::from(u64::MAX >> (64 - bits)) << shift;
    let v = (u128::from(v) << shift) & mask;
    for (i, b) in bytes.get_mut(start..start.checked_add(n)?)?.iter_mut().enumerate() {
        *b = (*b & !((mask >> (8 * i)) as u8)) | (v >> (8 * i)) as u8;
    }
    Some(())
}

/// A tensor with its bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// The (logical) element type.
    pub dtype: DType,
    /// Storage other than dense row-major.
    pub encoding: Option<Arc<Encoding>>,
    /// The storage, little endian.
    pub bytes: Vec<u8>,
}

impl AsRef<[u8]> for Tensor {
    /// The storage.
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Tensor {
    /// A dense f32 tensor.
    pub fn f32(shape: &[usize], data: &[f32]) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "shape and data differ");
        let bytes = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor { shape: shape.to_vec(), dtype: DType::F32, encoding: None, bytes }
    }

    /// A dense i32 tensor.
    pub fn i32(shape: &[usize], data: &[i32]) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "shape and data differ");
        let bytes = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor { shape: shape.to_vec(), dtype: DType::I32, encoding: None, bytes }
    }

    /// A dense f64 tensor.
    pub fn f64(shape: &[usize], data: &[f64]) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "shape and data differ");
        let bytes = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor { shape: shape.to_vec(), dtype: DType::F64, encoding: None, bytes }
    }

    /// A dense tensor of unsigned words.
    pub fn u32(shape: &[usize], data: &[u32]) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "shape and data differ");
        let bytes = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor { shape: shape.to_vec(), dtype: DType::U32, encoding: None, bytes }
    }

    /// Number of logical elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size of the last axis (1 for a scalar).
    pub fn row(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The logical values, decoded, as f64.
    pub fn values(&self) -> Vec<f64> {
        let Some(e) = &self.encoding else {
            let bits = self.dtype.bits();
            return (0..self.len())
                .map(|i| decode_bits(self.dtype, read_bits(&self.bytes, i as i64 * bits, bits).unwrap_or(0)))
                .collect();
        };
        let mut index = vec![0i64; self.shape.len()];
        let fields: Vec<_> =
            e.fields.iter().map(|f| (f, f.layout.resolve(&|_| None).expect("constant layout"))).collect();
        (0..self.len())
            .map(|mut i| {
                for d in (0..self.shape.len()).rev() {
                    index[d] = (i % self.shape[d]) as i64;
                    i /= self.shape[d];
                }
                let find = |name: &str| fields.iter().find(|(f, _)| &*f.name == name);
                let get = |name: &str| {
                    let (f, l) = find(name)?;
                    let mut idx = index.clone();
                    if let Some(last) = idx.last_mut() {
                        *last /= f.group;
                    }
                    let bits = read_bits(&self.bytes, l.address(&idx), f.dtype.bits());
                    Some((decode_bits(f.dtype, bits.unwrap_or(0)), f.dtype.bits()))
                };
                let v = match e.decode {
                    Decode::Plain => get("q").expect("a plain encoding's field").0,
                    Decode::Coded(c) => f64::from(decoded(&c, &|name| get(name))),
                };
                self.dtype.round(v)
            })
            .collect()
    }

    /// The logical values as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        self.values().into_iter().map(|v| v as f32).collect()
    }

    /// The logical values as integers.
    pub fn to_i64(&self) -> Vec<i64> {
        self.values().into_iter().map(|v| v as i64).collect()
    }
}

/// The elements of a tensor as numbers: integers exactly, all others as f64.
#[derive(Clone, Debug, PartialEq)]
pub enum Elements {
    /// Of an integer type.
    Ints(Vec<i128>),
    /// Of any other type.
    Floats(Vec<f64>),
}

impl Elements {
    /// As f64, rounded.
    pub fn floats(self) -> Vec<f64> {
        match self {
            Elements::Ints(v) => v.into_iter().map(|v| v as f64).collect(),
            Elements::Floats(v) => v,
        }
    }
}

impl Tensor {
    /// Its elements, decoded.
    pub fn elements(&self) -> Elements {
        let DType::Int { signed, .. } = self.dtype else { return Elements::Floats(self.values()) };
        let bits = self.dtype.bits();
        let read = |i: usize| read_bits(&self.bytes, i as i64 * bits, bits).unwrap_or(0);
        let int = |v: u64| if signed { i128::from(self.dtype.wrap(v as i64)) } else { i128::from(v) };
        Elements::Ints((0..self.len()).map(|i| int(read(i))).collect())
    }

    /// A dense tensor of elements: integers wrap to their type, other numbers are rounded.
    pub fn of(dtype: DType, shape: &[usize], elements: &Elements) -> Tensor {
        let bits = dtype.bits();
        let n: usize = shape.iter().product();
        let mut bytes = vec![0; (n * bits as usize).div_ceil(8)];
        let code = |i: usize| match elements {
            Elements::Ints(v) if dtype.is_int() => v[i] as u64,
            Elements::Ints(v) => encode_bits(dtype, v[i] as f64),
            Elements::Floats(v) => encode_bits(dtype, v[i]),
        };
        let mask = u64::MAX >> (64 - bits);
        for i in 0..n {
            write_bits(&mut bytes, i as i64 * bits, bits, code(i) & mask).expect("inside");
        }
        Tensor { shape: shape.to_vec(), dtype, encoding: None, bytes }
    }
}

/// The value that the fields of an element stand for; `get` gives a field's value and bits.
fn decoded(c: &Coded, get: &dyn Fn(&str) -> Option<(f64, i64)>) -> f32 {
    let float = |name| get(name).map(|(v, _)| v as f32);
    let joined = |low, high| {
        let (v, bits) = get(low)?;
        Some(v as i64 + ((get(high).map_or(0, |(v, _)| v as i64)) << bits))
    };
    let code = joined("q", "h").expect("codes");
    let code = c.levels.map_or(code, |l| l[code as usize]) - c.zero;
    let factor = joined("s", "t").map(|s| (s - c.scale_zero) as f32);
    let d = float("d").unwrap_or(1.0);
    let v = factor.map_or(d, |f| d * f) * code as f32;
    match (float("m"), float("e"), joined("n", "o")) {
        (Some(m), ..) => v + m,
        (_, Some(e), Some(n)) => v - e * n as f32,
        _ => v,
    }
}

/// The value of stored bits as f64.
pub fn decode_bits(t: DType, bits: u64) -> f64 {
    match t {
        DType::F32 => f64::from(f32::from_bits(bits as u32)),
        DType::F64 => f64::from_bits(bits),
        DType::F16 => half::f16::from_bits(bits as u16).to_f64(),
        DType::BF16 => half::bf16::from_bits(bits as u16).to_f64(),
        DType::Fixed { fraction, .. } => {
            DType::int(t.bits() as u8).wrap(bits as i64) as f64 / f64::from(fraction).exp2()
        }
        DType::Float { exponent, mantissa } => {
            let m = bits & ((1 << mantissa) - 1);
            let e = (bits >> mantissa) & ((1 << exponent) - 1);
            let sign = if bits >> (exponent + mantissa) & 1 == 1 { -1.0 } else { 1.0 };
            let bias = (1 << (exponent - 1)) - 1;
            let frac = m as f64 / (1u64 << mantissa) as f64;
            let v = if e == 0 {
                frac * f64::from(1 - bias).exp2()
            } else {
                (1.0 + frac) * f64::from(e as i32 - bias).exp2()
            };
            sign * v
        }
        DType::U64 => bits as f64,
        DType::Int { .. } => t.wrap(bits as i64) as f64,
    }
}

/// The stored bits of a value.
pub fn encode_bits(t: DType, v: f64) -> u64 {
    match t {
        DType::F32 => u64::from((v as f32).to_bits()),
        DType::F64 => v.to_bits(),
        DType::F16 => u64::from(half::f16::from_f64(v).to_bits()),
        DType::BF16 => u64::from(half::bf16::from_f64(v).to_bits()),
        DType::Fixed { fraction, .. } => {
            // Wraps as wide as a word; the remainder is exact.
            ((v * f64::from(fraction).exp2()).floor() % 64f64.exp2()) as i128 as u64
        }
        DType::Float { .. } => nearest_code(t, v),
        DType::Int { .. } => t.wrap(v as i128 as i64) as u64,
    }
}

/// The code of the float of a small type nearest to `v` (the larger magnitude among equals), saturating.
fn nearest_code(t: DType, v: f64) -> u64 {
    let magnitudes = 1u64 << (t.bits() - 1).min(20);
    let finite = |c: &u64| decode_bits(t, *c) <= v.abs();
    let below = (0..magnitudes).take_while(finite).last().unwrap_or(0);
    let above = (below + 1).min(magnitudes - 1);
    let code = if decode_bits(t, above) - v.abs() <= v.abs() - decode_bits(t, below) { above } else { below };
    if v.is_sign_negative() { code | magnitudes } else { code }
}
