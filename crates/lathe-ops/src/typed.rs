//! What rows of all element types share: the type that they compute in, broadcasting, and numbers for their tests.

use crate::sample::{Rng, extents};
use lathe_ir::graph::{Attrs, Lowering, Operand, Type};
use lathe_ir::tensor::{Binary, Expr, Iter, Stmt};
use lathe_ir::{Bounds, DType, Elements, Int, Tensor};

/// The type that elements are computed in: halves as f32.
pub(crate) fn computed(t: DType) -> DType {
    if matches!(t, DType::F16 | DType::BF16) { DType::F32 } else { t }
}

/// A constant of a type.
pub(crate) fn number(v: f64, t: DType) -> Expr {
    match t {
        DType::F32 => Expr::f32(v as f32),
        t if t.is_float() => Expr::float(v, t),
        t => Expr::int(v as i64, t),
    }
}

/// An element in the type that it is computed in.
pub(crate) fn read(o: &Operand, index: &[Expr]) -> Expr {
    let (v, t) = (o.read(index), computed(o.ty.dtype));
    if t == o.ty.dtype { v } else { v.cast(t) }
}

/// A block that stores what was computed.
pub(crate) fn write(o: &Operand, block: &str, index: &[Expr], value: Expr) -> Stmt {
    let stored = if computed(o.ty.dtype) == o.ty.dtype { value } else { value.cast(o.ty.dtype) };
    o.write(block, index, stored)
}

/// A truth value as an element: 0 or 1 of u8.
pub(crate) fn truth(c: &Expr) -> Expr {
    Expr::select(c, &Expr::int(1, DType::U8), &Expr::int(0, DType::U8))
}

/// Whether an element of u8 is no 0.
pub(crate) fn holds(v: &Expr) -> Expr {
    v.bin(Binary::Ne, &Expr::int(0, DType::U8))
}

/// Whether elements of a type are whole bytes of a dense tensor.
pub(crate) fn plain(t: &Type) -> bool {
    t.encoding.is_none() && t.dtype.bits() % 8 == 0
}

/// Loops over a shape around statements at an index.
pub(crate) fn nest(l: &Lowering, shape: &[Int], body: impl Fn(&[Expr]) -> Vec<Stmt>) -> Vec<Stmt> {
    nest_named(l, "", shape, body)
}

/// The same, with loops whose names begin with a word.
pub(crate) fn nest_named(
    l: &Lowering,
    word: &str,
    shape: &[Int],
    body: impl Fn(&[Expr]) -> Vec<Stmt>,
) -> Vec<Stmt> {
    let index: Vec<Expr> = (0..shape.len()).map(|d| l.var(&format!("{word}{d}"))).collect();
    let mut body = body(&index);
    for d in (0..shape.len()).rev() {
        body = vec![Stmt::for_(&l.name(&format!("{word}{d}")), (&shape[d]).into(), Iter::Spatial, body)];
    }
    body
}

/// The shape of an elementwise result: axes are matched from the last one on, one that is missing or 1 is repeated.
pub(crate) fn broadcast(shapes: &[&[Int]]) -> Result<Vec<Int>, String> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![Int::from(1); rank];
    for s in shapes {
        for (o, d) in out[rank - s.len()..].iter_mut().zip(s.iter()) {
            if o.as_const() == Some(1) {
                *o = d.clone();
            } else if d.as_const() != Some(1) && o != d {
                return Err(format!("extents {o} and {d} do not fit each other"));
            }
        }
    }
    Ok(out)
}

/// The index of an argument's element for an index of the result, whose shape is `to`.
pub(crate) fn spread(of: &[Int], to: &[Int], index: &[Expr]) -> Vec<Expr> {
    let lacking = to.len() - of.len();
    let own = of.iter().zip(&to[lacking..]).zip(&index[lacking..]);
    own.map(|((d, n), i)| if d == n { i.clone() } else { 0.into() }).collect()
}

/// An index as one number, row-major.
pub(crate) fn linear(index: &[Expr], shape: &[Int]) -> Expr {
    let step = |n: Expr, (i, d): (&Expr, &Int)| {
        if n.as_int() == Some(0) { i.clone() } else { n * Expr::from(d) + i.clone() }
    };
    index.iter().zip(shape).fold(0.into(), step)
}

/// Every index of a shape in order, for references.
pub(crate) fn indices(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> + use<> {
    let shape = shape.to_vec();
    (0..shape.iter().product()).map(move |n| unravel(n, &shape))
}

/// The index that a row-major number stands for.
pub(crate) fn unravel(mut n: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for d in (0..shape.len()).rev() {
        (index[d], n) = (n % shape[d], n / shape[d]);
    }
    index
}

/// The row-major number of an index.
pub(crate) fn ravel(index: &[usize], shape: &[usize]) -> usize {
    index.iter().zip(shape).fold(0, |n, (i, d)| n * d + i)
}

/// The number of an argument's element for an index of the result.
pub(crate) fn spread_place(of: &[usize], index: &[usize]) -> usize {
    let own = index[index.len() - of.len()..].iter();
    own.zip(of).fold(0, |n, (i, d)| n * d + if *d == 1 { 0 } else { *i })
}

/// A result whose elements are those of `x` at the given places; `None` is the element `other`.
pub(crate) fn moved(
    x: &Elements,
    ty: &Type,
    other: f64,
    places: impl Iterator<Item = Option<usize>>,
) -> Tensor {
    let elements = match x {
        Elements::Ints(v) => Elements::Ints(places.map(|p| p.map_or(other as i128, |p| v[p])).collect()),
        Elements::Floats(v) => Elements::Floats(places.map(|p| p.map_or(other, |p| v[p])).collect()),
    };
    Tensor::of(ty.dtype, &extents(ty), &elements)
}

/// An element of the result from the arguments' elements, with integers' and floats' own meaning.
pub(crate) fn map2(
    a: &[Tensor],
    t: &Type,
    ints: fn(i128, i128) -> i128,
    floats: fn(f64, f64) -> f64,
) -> Tensor {
    let places = indices(&extents(t)).map(|i| (spread_place(&a[0].shape, &i), spread_place(&a[1].shape, &i)));
    let elements = match (a[0].elements(), a[1].elements()) {
        (Elements::Ints(x), Elements::Ints(y)) => {
            Elements::Ints(places.map(|(i, j)| ints(x[i], y[j])).collect())
        }
        (x, y) => {
            let (x, y) = (x.floats(), y.floats());
            Elements::Floats(places.map(|(i, j)| floats(x[i], y[j])).collect())
        }
    };
    Tensor::of(t.dtype, &extents(t), &elements)
}

/// A size that must be a constant.
pub(crate) fn constant(d: &Int) -> Option<i64> {
    d.simplify(&Bounds::new()).as_const()
}

/// An axis of a tensor by an attribute.
pub(crate) fn axis_of(a: &Attrs, rank: usize) -> Option<usize> {
    usize::try_from(lathe_ir::graph::int_attr(a, "axis")?).ok().filter(|d| *d < rank)
}

/// The types that samples take turns with: f32 first and often, as gradients are of f32.
pub(crate) const FLOATS: [DType; 6] =
    [DType::F32, DType::F32, DType::F64, DType::F16, DType::F32, DType::BF16];

/// All kinds of numbers.
pub(crate) const NUMBERS: [DType; 12] = [
    DType::F32,
    DType::INDEX,
    DType::F32,
    DType::U8,
    DType::F64,
    DType::I32,
    DType::F16,
    DType::U64,
    DType::F32,
    DType::I8,
    DType::BF16,
    DType::U32,
];

/// All kinds of integers.
pub(crate) const INTEGERS: [DType; 6] =
    [DType::I32, DType::U8, DType::INDEX, DType::U64, DType::I8, DType::uint(16)];

impl Rng {
    /// A dense tensor of any type; integers are of all sizes.
    pub(crate) fn typed(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let n: usize = shape.iter().product();
        if dtype.is_int() {
            let mut one = || if self.below(4) == 0 { self.next() as i64 } else { self.below(9) as i64 - 3 };
            return Tensor::of(dtype, shape, &Elements::Ints((0..n).map(|_| one().into()).collect()));
        }
        Tensor::of(dtype, shape, &Elements::Floats((0..n).map(|_| self.unit().into()).collect()))
    }

    /// One of a list, in turn with the seed.
    pub(crate) fn turn<T: Copy>(seed: u64, of: &[T]) -> T {
        of[seed as usize % of.len()]
    }
}
