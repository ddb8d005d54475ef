//! Pseudo-random arguments for the operators' tests: small, reproducible from a seed.

use lathe_ir::encodings::encoding;
use lathe_ir::{Bounds, Int, Tensor, write_bits};
use std::sync::Arc;

/// A generator (splitmix64).
pub(crate) struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// In [-1, 1).
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn dense(&mut self, shape: &[usize]) -> Tensor {
        let n = shape.iter().product();
        Tensor::f32(shape, &(0..n).map(|_| self.unit()).collect::<Vec<_>>())
    }

    pub fn ints(&mut self, shape: &[usize], below: u64) -> Tensor {
        let n = shape.iter().product();
        Tensor::i32(shape, &(0..n).map(|_| self.below(below) as i32).collect::<Vec<_>>())
    }

    /// A tensor of random fields in an encoding: small scales, any codes.
    pub fn encoded(&mut self, name: &str, shape: &[usize]) -> Tensor {
        let dims: Vec<Int> = shape.iter().map(|d| Int::from(*d as i64)).collect();
        let e = encoding(name, &dims).expect("an encoding that suits the shape");
        let mut bytes = vec![0u8; (e.bits.as_const().expect("constant size") as usize).div_ceil(8)];
        for f in &e.fields {
            let fs: Vec<i64> = lathe_ir::Encoding::field_shape(f, &dims)
                .iter()
                .map(|d| d.simplify(&Bounds::new()).as_const().expect("constant shape"))
                .collect();
            let layout = f.layout.resolve(&|_| None).expect("constant layout");
            for i in 0..fs.iter().product::<i64>() {
                let mut index = vec![0; fs.len()];
                let mut rest = i;
                for d in (0..fs.len()).rev() {
                    index[d] = rest % fs[d];
                    rest /= fs[d];
                }
                let bits = match (f.dtype.is_float(), f.dtype.bits()) {
                    (true, 16) => u64::from(half_bits(f.dtype, self.unit() * 0.1)),
                    (true, _) => u64::from((self.unit() * 0.1).to_bits()),
                    (false, _) => self.next(),
                };
                write_bits(&mut bytes, layout.address(&index), f.dtype.bits(), bits).expect("inside");
            }
        }
        Tensor { shape: shape.to_vec(), dtype: lathe_ir::DType::F32, encoding: Some(Arc::new(e)), bytes }
    }
}

fn half_bits(t: lathe_ir::DType, v: f32) -> u16 {
    if t == lathe_ir::DType::BF16 { (v.to_bits() >> 16) as u16 } else { half::f16::from_f32(v).to_bits() }
}

/// Shorthand for tests' attributes.
pub(crate) fn attrs(rows: &[(&str, lathe_ir::graph::Attr)]) -> lathe_ir::graph::Attrs {
    rows.iter().map(|(n, a)| ((*n).into(), a.clone())).collect()
}

/// The extents of a concrete type.
pub(crate) fn extents(ty: &lathe_ir::graph::Type) -> Vec<usize> {
    ty.shape.iter().map(|d| d.as_const().unwrap_or(0) as usize).collect()
}

/// A dense result of a reference, in whatever float the caller computes.
pub(crate) fn result(ty: &lathe_ir::graph::Type, data: &[f64]) -> Tensor {
    Tensor::of(ty.dtype, &extents(ty), &lathe_ir::Elements::Floats(data.to_vec()))
}
