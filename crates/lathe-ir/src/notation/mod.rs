//! Tensor-index notation with formats: what the tensor IR is before loops (Kjolstad et al. 2017; Chou et al. 2018).
//!
//! A statement `Y[i, j] = A[i, k] * B[k, j]` sums over the indices that its left side lacks. Each tensor says how each
//! dimension is stored: all coordinates (`dense`), or those of nonzeros only, sorted (`compressed`). `csr` is a dense dimension of
//! compressed ones. [`lower`] makes loops of a statement: a compressed dimension is an indirect axis, two of them that meet in
//! one index are merged, and a compressed result is assembled in two phases.
//!
//! ```
//! use lathe_ir::notation::{lower, parse};
//! let text = "notation spmv(n, m) {
//!   A: f32[n, m] csr
//!   x: f32[m]
//!   y: f32[n]
//!   y[i] = A[i, k] * x[k]
//! }
//! ";
//! let s = parse(text).unwrap();
//! assert_eq!(s.to_string(), text);
//! let kernel = lower(&s).unwrap().compute.to_string();
//! assert!(kernel.contains("for k in index(A_ptr1[i + 1]) - index(A_ptr1[i]) reduce serial"), "{kernel}");
//! ```

mod lower;
mod text;

pub use lower::{Lowered, lower};
pub use text::parse;

use crate::{DType, Int, IrError, Name};
use std::collections::HashMap;

/// How a dimension is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Every coordinate has a place.
    Dense,
    /// Only the coordinates of nonzeros, sorted: segments of `idx` between neighbours of `ptr`.
    Compressed,
}

/// A tensor with its format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Its name.
    pub name: Name,
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub shape: Vec<Int>,
    /// Storage of each dimension, outermost first.
    pub levels: Vec<Level>,
}

impl Operand {
    /// Whether a dimension is compressed.
    pub fn is_sparse(&self) -> bool {
        self.levels.contains(&Level::Compressed)
    }
}

/// A tensor at indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The tensor.
    pub tensor: Name,
    /// An index variable a dimension.
    pub index: Vec<Name>,
}

/// The right side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    /// An element.
    Access(Access),
    /// A sum.
    Add(Box<Term>, Box<Term>),
    /// A product.
    Mul(Box<Term>, Box<Term>),
}

impl Term {
    /// The elements in it, in order.
    pub fn accesses(&self) -> Vec<&Access> {
        match self {
            Term::Access(a) => vec![a],
            Term::Add(a, b) | Term::Mul(a, b) => [a.accesses(), b.accesses()].concat(),
        }
    }
}

/// One statement over declared tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notation {
    /// Its name.
    pub name: Name,
    /// Dimensions.
    pub dims: Vec<Name>,
    /// The tensors.
    pub operands: Vec<Operand>,
    /// The left side.
    pub result: Access,
    /// The right side.
    pub value: Term,
}

impl Notation {
    /// The tensor of a name.
    pub fn operand(&self, name: &str) -> Option<&Operand> {
        self.operands.iter().find(|o| &*o.name == name)
    }

    /// The extent of each index variable, those of the left side first; an error where uses of one differ.
    pub fn indices(&self) -> Result<Vec<(Name, Int)>, IrError> {
        let mut out: Vec<(Name, Int)> = vec![];
        for a in std::iter::once(&self.result).chain(self.value.accesses()) {
            let fail = |m: String| IrError::check(format!("{}/{}", self.name, a.tensor), m);
            let o = self.operand(&a.tensor).ok_or_else(|| fail("is not declared".into()))?;
            if o.shape.len() != a.index.len() {
                return Err(fail(format!("has {} dimensions, indexed by {}", o.shape.len(), a.index.len())));
            }
            for (d, (i, extent)) in a.index.iter().zip(&o.shape).enumerate() {
                if a.index[..d].contains(i) {
                    return Err(fail(format!("is indexed by '{i}' twice")));
                }
                match out.iter().find(|(n, _)| n == i) {
                    Some((_, known)) if known != extent => {
                        return Err(fail(format!(
                            "'{i}' is below {known} elsewhere, and below {extent} here"
                        )));
                    }
                    Some(_) => {}
                    None => out.push((i.clone(), extent.clone())),
                }
            }
        }
        if self.value.accesses().iter().any(|a| a.tensor == self.result.tensor) {
            return Err(IrError::check(&*self.name, "the result is read"));
        }
        let left: Vec<&Name> = self.result.index.iter().collect();
        let free = left.iter().find(|i| !self.value.accesses().iter().any(|a| a.index.contains(i)));
        match free {
            Some(i) => Err(IrError::check(&*self.name, format!("'{i}' is not on the right side"))),
            None => Ok(out),
        }
    }

    /// The meaning: every index over its whole range, in f64; tensors and result dense and row-major.
    pub fn interpret(
        &self,
        dims: &HashMap<Name, i64>,
        tensors: &HashMap<Name, Vec<f64>>,
    ) -> Result<Vec<f64>, IrError> {
        let indices = self.indices()?;
        let unbound = || IrError::run(&*self.name, "an unbound dimension");
        let get = |n: &str| dims.get(n).copied();
        let sizes: Vec<i64> =
            indices.iter().map(|(_, e)| e.eval(&get)).collect::<Option<_>>().ok_or_else(unbound)?;
        let place = |a: &Access, at: &[i64]| {
            a.index.iter().fold(0, |p, n| {
                let v = indices.iter().position(|(i, _)| i == n).expect("collected above");
                p * sizes[v] + at[v]
            }) as usize
        };
        fn value(t: &Term, read: &dyn Fn(&Access) -> Option<f64>) -> Option<f64> {
            Some(match t {
                Term::Access(a) => read(a)?,
                Term::Add(a, b) => value(a, read)? + value(b, read)?,
                Term::Mul(a, b) => value(a, read)? * value(b, read)?,
            })
        }
        let left = self.result.index.len();
        let mut out = vec![0.0; sizes[..left].iter().product::<i64>() as usize];
        for mut n in 0..sizes.iter().product::<i64>() {
            let mut at = vec![0; sizes.len()];
            for d in (0..sizes.len()).rev() {
                at[d] = n % sizes[d];
                n /= sizes[d];
            }
            let read = |a: &Access| tensors.get(&a.tensor)?.get(place(a, &at)).copied();
            let v = value(&self.value, &read)
                .ok_or_else(|| IrError::run(&*self.name, "a tensor is missing or too small"))?;
            out[place(&self.result, &at)] += v;
        }
        Ok(out)
    }
}
