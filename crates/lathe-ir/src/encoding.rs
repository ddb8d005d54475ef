//! How a tensor's elements lie in memory: layouts (affine maps from split indices to bit addresses) and encodings
//! (a quantized tensor is a logical tensor plus fields, each with its own layout in one allocation).

use crate::{DType, Int, Name};
use lathe_symbolic::Bounds;

/// One addend of an address: `(index[dim] / div) % modulo * stride`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Term {
    /// Which index.
    pub dim: usize,
    /// Divisor, rounding down.
    pub div: i64,
    /// Modulus; `None` keeps the whole quotient.
    pub modulo: Option<i64>,
    /// Distance in bits.
    pub stride: Int,
}

/// The bit address of an element: an offset plus a sum of [`Term`]s.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Layout {
    /// Bits before the first element.
    pub offset: Int,
    /// The addends.
    pub terms: Vec<Term>,
}

/// Row-major strides in elements.
pub fn row_major(shape: &[Int]) -> Vec<Int> {
    let mut strides = vec![Int::from(1); shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d].clone() * shape[d].clone();
    }
    strides
}

impl Layout {
    /// Row-major, without gaps.
    pub fn dense(dtype: DType, shape: &[Int]) -> Layout {
        let terms = row_major(shape)
            .into_iter()
            .enumerate()
            .map(|(dim, s)| Term { dim, div: 1, modulo: None, stride: s * dtype.bits() })
            .collect();
        Layout { offset: 0.into(), terms }
    }

    /// A layout from an offset and constant `(dim, div, modulo, stride)` rows; a modulo of 0 means none.
    pub fn rows(offset: i64, rows: &[(usize, i64, i64, i64)]) -> Layout {
        let terms = rows
            .iter()
            .map(|&(dim, div, m, s)| Term { dim, div, modulo: (m != 0).then_some(m), stride: s.into() })
            .collect();
        Layout { offset: offset.into(), terms }
    }

    /// The bit address of an element.
    pub fn address(&self, index: &[Int], b: &Bounds) -> Int {
        let mut a = self.offset.clone();
        for t in &self.terms {
            let mut i = index[t.dim].div(t.div, b);
            if let Some(m) = t.modulo {
                i = i.rem(m, b);
            }
            a = a + i * t.stride.clone();
        }
        a.joined()
    }

    /// The same addresses with dimensions replaced by their values; `None` when one is missing.
    pub fn resolve(&self, f: &dyn Fn(&str) -> Option<i64>) -> Option<Resolved> {
        let terms = self
            .terms
            .iter()
            .map(|t| Some((t.dim, t.div, t.modulo.unwrap_or(i64::MAX), t.stride.eval(f)?)))
            .collect::<Option<_>>()?;
        Some(Resolved { offset: self.offset.eval(f)?, terms })
    }
}

/// A [`Layout`] with numbers only.
#[derive(Clone, Debug)]
pub struct Resolved {
    offset: i64,
    terms: Vec<(usize, i64, i64, i64)>,
}

impl Resolved {
    /// The bit address of an element.
    pub fn address(&self, index: &[i64]) -> i64 {
        self.offset
            + self.terms.iter().map(|&(d, div, m, s)| index[d].div_euclid(div).rem_euclid(m) * s).sum::<i64>()
    }
}

/// One stored component of an encoded tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    /// Its name, unique in the encoding; see [`Coded`].
    pub name: Name,
    /// Its element type.
    pub dtype: DType,
    /// How many elements of the last axis share one value of this field.
    pub group: i64,
    /// Where it lies; its indices are the tensor's, the last one divided by `group`.
    pub layout: Layout,
}

/// The decode expression of an encoding, over its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decode {
    /// The one field `q` is the value, converted to float.
    Plain,
    /// Integer codes with scales.
    Coded(Coded),
}

/// How values follow from integer codes: `scale * (code - zero) + minimum`, rounded to f32 after each operation.
///
/// The code is the field `q`, with `h` above its bits where there is one, or the level that these pick. The scale is `d` (1 where there is none), times
/// `s` (with `t` above its bits) less `scale_zero` where there is an `s`. The minimum is `m`, or `-e * n` (with `o` above the bits of
/// `n`), or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Coded {
    /// The code of the value 0.
    pub zero: i64,
    /// The integer factor that stands for a scale of 0.
    pub scale_zero: i64,
    /// What the codes stand for, where it is not themselves.
    pub levels: Option<&'static [i64]>,
}

impl Coded {
    /// The type of a level: bytes, signed where one is negative.
    pub fn level_type(levels: &[i64]) -> DType {
        if levels.iter().any(|l| *l < 0) { DType::I8 } else { DType::U8 }
    }
}

/// How a logical tensor of floats is stored in one allocation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Encoding {
    /// Name of the row it came from, with the layout's variant: `q4_1`, `q4_1.tile16`.
    pub name: Name,
    /// The stored components.
    pub fields: Vec<Field>,
    /// How the value of an element follows from them.
    pub decode: Decode,
    /// Size of the whole allocation in bits.
    pub bits: Int,
}

impl Encoding {
    /// A field by name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|f| &*f.name == name)
    }

    /// How its codes are read, where it has some.
    pub fn coded(&self) -> Option<Coded> {
        match self.decode {
            Decode::Plain => None,
            Decode::Coded(c) => Some(c),
        }
    }

    /// Columns that have the same scale and minimum; 0 without codes.
    pub fn group(&self) -> i64 {
        self.fields.iter().map(|f| f.group).filter(|g| *g > 1).min().unwrap_or(0)
    }

    /// Columns of a block: those that share everything but their codes; 0 without codes.
    pub fn block(&self) -> i64 {
        self.fields.iter().map(|f| f.group).filter(|g| *g > 1).max().unwrap_or(0)
    }

    /// The shape of a field of a tensor of this shape.
    pub fn field_shape(field: &Field, shape: &[Int]) -> Vec<Int> {
        let mut s = shape.to_vec();
        if let Some(last) = s.last_mut() {
            *last = last.div(field.group, &Bounds::new());
        }
        s
    }
}
