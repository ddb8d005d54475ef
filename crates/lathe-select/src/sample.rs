//! Graphs for the tests of the rules: small, reproducible from a seed.

use lathe_ir::graph::{Attr, Graph, Source, Type, ValueId};
use lathe_ir::{DType, Elements, Int, Name, Tensor};
use std::collections::HashMap;

/// A graph on its way, with its constants; the value that was added last is its result.
pub struct Sample {
    /// The graph.
    pub graph: Graph,
    /// Its constants.
    pub constants: HashMap<Name, Tensor>,
    state: u64,
}

impl Sample {
    /// An empty one.
    pub fn new(seed: u64) -> Sample {
        Sample { graph: Graph::new("sample", &[]), constants: HashMap::new(), state: seed }
    }

    /// A number from `lo` to `hi` (splitmix64).
    pub fn pick(&mut self, lo: i64, hi: i64) -> i64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        lo + ((z ^ (z >> 31)) % (hi - lo + 1) as u64) as i64
    }

    /// An argument.
    pub fn input(&mut self, dtype: DType, dims: &[i64]) -> ValueId {
        let name = format!("x{}", self.graph.values.len());
        let shape: Vec<Int> = dims.iter().map(|d| Int::from(*d)).collect();
        self.graph.input(&name, Type::dense(dtype, &shape))
    }

    /// A constant whose elements are all one number.
    pub fn number(&mut self, dtype: DType, dims: &[i64], v: f64) -> ValueId {
        let name: Name = format!("n{}", self.graph.values.len()).into();
        let n = dims.iter().product::<i64>() as usize;
        let elements =
            if dtype.is_int() { Elements::Ints(vec![v as i128; n]) } else { Elements::Floats(vec![v; n]) };
        let extents: Vec<usize> = dims.iter().map(|d| *d as usize).collect();
        self.constants.insert(name.clone(), Tensor::of(dtype, &extents, &elements));
        let shape: Vec<Int> = dims.iter().map(|d| Int::from(*d)).collect();
        self.graph.constant(&name, Type::dense(dtype, &shape))
    }

    /// An operator.
    pub fn op(&mut self, op: &str, args: &[ValueId], attrs: &[(&str, Attr)]) -> ValueId {
        let table = lathe_ops::table();
        let out = self.graph.apply(&table, op, args, attrs).expect("a sample fits its operators");
        self.graph.outputs = out.clone();
        out[0]
    }

    /// A value as another element type.
    pub fn cast(&mut self, x: ValueId, to: DType) -> ValueId {
        self.op("cast", &[x], &[("to", Attr::Str(to.to_string().into()))])
    }

    /// Arguments and constants: random elements, the same for a seed.
    pub fn values(&mut self) -> HashMap<Name, Tensor> {
        let mut out = self.constants.clone();
        for v in self.graph.values.clone().iter().filter(|v| v.source == Source::Input) {
            let dims: Vec<usize> = v.ty.shape.iter().map(|d| d.as_const().unwrap_or(0) as usize).collect();
            let n = dims.iter().product();
            let t = v.ty.dtype;
            let elements = if let DType::Int { signed, bits } = t {
                let (lo, hi) = if signed {
                    (-(1i64 << (bits.min(12) - 1)), (1i64 << (bits.min(12) - 1)) - 1)
                } else {
                    (0, (1i64 << bits.min(12)) - 1)
                };
                Elements::Ints((0..n).map(|_| self.pick(lo, hi).into()).collect())
            } else {
                Elements::Floats((0..n).map(|_| self.pick(-64, 64) as f64 / 64.0).collect())
            };
            out.insert(v.name.clone(), Tensor::of(t, &dims, &elements));
        }
        out
    }
}

/// Integers as an attribute.
pub fn list(v: &[i64]) -> Attr {
    Attr::Ints(v.to_vec())
}

/// The axes of a `dot` as attributes.
pub fn dot(batch: [&[i64]; 2], sum: [&[i64]; 2]) -> [(&'static str, Attr); 4] {
    [
        ("batch_x", list(batch[0])),
        ("batch_y", list(batch[1])),
        ("sum_x", list(sum[0])),
        ("sum_y", list(sum[1])),
    ]
}
