//! Reductions over axes, over windows and along an axis, by the reducers of the tensor IR.

use crate::norm::scalar;
use crate::require;
use crate::sample::{Rng, attrs, extents};
use crate::typed::{NUMBERS, axis_of, computed, constant, indices, moved, nest, plain, ravel, read, write};
use lathe_ir::graph::{
    Adjoint, Attr, Attrs, Edge, Form, Lowering, OpRow, Type, ValueId, ints_attr, str_attr,
};
use lathe_ir::tensor::{Expr, Iter, Reducer, Stmt};
use lathe_ir::{DType, Elements, Int, IrError, Tensor};

/// Combines elements of a type one by one; `None` is no element yet.
fn combine(by: &str, elements: &Elements, places: impl Iterator<Item = usize>, dtype: DType) -> Elements {
    match elements {
        Elements::Ints(x) => {
            let all = places.map(|p| x[p]);
            let wrap = |v: i128| i128::from(dtype.wrap(v as i64));
            let y = match by {
                "product" => all.fold(1i128, |a, b| wrap(a.wrapping_mul(b))),
                "max" => all.max().unwrap_or(0),
                "min" => all.min().unwrap_or(0),
                _ => all.sum(),
            };
            Elements::Ints(vec![y])
        }
        Elements::Floats(x) => {
            let all = places.map(|p| x[p]);
            let y = match by {
                "product" => all.product(),
                "max" => all.fold(f64::NEG_INFINITY, f64::max),
                "min" => all.fold(f64::INFINITY, f64::min),
                _ => all.sum(),
            };
            Elements::Floats(vec![y])
        }
    }
}

/// One tensor of single results.
pub(crate) fn joined(parts: Vec<Elements>, ty: &Type) -> Tensor {
    let elements = if ty.dtype.is_int() {
        let one = |e: Elements| if let Elements::Ints(v) = e { v[0] } else { 0 };
        Elements::Ints(parts.into_iter().map(one).collect())
    } else {
        Elements::Floats(parts.into_iter().flat_map(Elements::floats).collect())
    };
    Tensor::of(ty.dtype, &extents(ty), &elements)
}

/// An accumulator that holds the reducer's identity, loops over `extents` that combine `value` into it, and its value.
pub(crate) fn accumulated(
    l: &Lowering,
    by: &str,
    dtype: DType,
    extents: &[Int],
    value: impl Fn(&[Expr]) -> Expr,
) -> (Vec<Stmt>, Expr) {
    let acc = l.name("acc");
    let identity = Reducer::named(by).expect("inferred before").identity(&[dtype]).remove(0);
    let index: Vec<Expr> = (0..extents.len()).map(|d| l.var(&format!("k{d}"))).collect();
    let mut body = vec![Stmt::reduce(&l.name("s"), &acc, &[], by, value(&index))];
    for d in (0..extents.len()).rev() {
        body = vec![Stmt::for_(&l.name(&format!("k{d}")), (&extents[d]).into(), Iter::Reduce, body)];
    }
    let mut out = vec![scalar(&acc, dtype), Stmt::store(&l.name("z"), &acc, &[], identity)];
    out.extend(body);
    (out, Expr::load(&acc, &[]))
}

// over axes

fn axes(a: &Attrs, rank: usize) -> Option<Vec<usize>> {
    let axes: Option<Vec<usize>> = ints_attr(a, "axes").iter().map(|v| usize::try_from(*v).ok()).collect();
    axes.filter(|all| all.windows(2).all(|w| w[0] < w[1]) && all.iter().all(|d| *d < rank))
}

fn infer(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && plain(&t[0]), "expects one dense tensor")?;
    let gone = axes(a, t[0].shape.len()).ok_or("`axes` are not in order or not there")?;
    let kept = t[0].shape.iter().enumerate().filter(|(d, _)| !gone.contains(d));
    Ok(vec![Type::dense(t[0].dtype, &kept.map(|(_, n)| n.clone()).collect::<Vec<_>>())])
}

/// An index of the argument from those of what is kept and what is gone.
fn merged<T: Clone>(rank: usize, gone: &[usize], kept: &[T], over: &[T]) -> Vec<T> {
    let (mut kept, mut over) = (kept.iter(), over.iter());
    let next = |d: usize| if gone.contains(&d) { over.next() } else { kept.next() };
    (0..rank).filter_map(next).cloned().collect()
}

fn reference(by: &str, a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let (x, shape) = (a[0].elements(), &a[0].shape);
    let gone = axes(at, shape.len()).unwrap_or_default();
    let over: Vec<usize> = gone.iter().map(|d| shape[*d]).collect();
    let one = |kept: Vec<usize>| {
        let places = indices(&over).map(|o| ravel(&merged(shape.len(), &gone, &kept, &o), shape));
        combine(by, &x, places, t[0].dtype)
    };
    vec![joined(indices(&extents(&t[0])).map(one).collect(), &t[0])]
}

fn lower(by: &str, l: &Lowering) -> Vec<Stmt> {
    let (x, y) = (&l.ins[0], &l.outs[0]);
    let rank = x.ty.shape.len();
    let gone = axes(&l.attrs, rank).expect("inferred before");
    let over: Vec<Int> = gone.iter().map(|d| x.ty.shape[*d].clone()).collect();
    nest(l, &y.ty.shape, |index| {
        let (mut body, sum) =
            accumulated(l, by, computed(x.ty.dtype), &over, |k| read(x, &merged(rank, &gone, index, k)));
        body.push(write(y, &l.name("y"), index, sum));
        body
    })
}

/// The gradient of a sum: that of the result along every axis that is gone.
fn sum_gradient(d: &mut Adjoint<'_>) -> Result<Vec<Option<ValueId>>, IrError> {
    let (dy, x, axes) = (d.dy(), d.arg(0), Attr::Ints(ints_attr(d.attrs(), "axes").to_vec()));
    Ok(vec![Some(d.op_with("spread", &[dy, x], &[("axes", axes)])?)])
}

macro_rules! over_axes {
    ($name:literal, $by:literal, $doc:literal, $gradient:expr) => {
        OpRow {
            name: $name,
            doc: $doc,
            form: |t, a| match ints_attr(a, "axes") {
                [d] if *d + 1 == t[0].shape.len() as i64 => Form::Row,
                _ => Form::Nest,
            },
            gradient: $gradient,
            donates: &[],
            infer,
            reference: |a, at, t| reference($by, a, at, t),
            edge: Edge::none,
            lower: |l| lower($by, l),
            sample: |seed| {
                let of = |shape: &[usize]| Rng(seed).typed(Rng::turn(seed / 5, &NUMBERS), shape);
                let (x, axes): (Tensor, &[i64]) = match seed % 5 {
                    0 => (of(&[3, 48]), &[1]),
                    1 => (of(&[5]), &[0]),
                    2 => (of(&[2, 3, 16]), &[0, 2]),
                    3 => (of(&[4, 7]), &[0]),
                    _ => (of(&[2, 3, 4, 5]), &[1, 2]),
                };
                (vec![x], attrs(&[("axes", Attr::Ints(axes.to_vec()))]))
            },
        }
    };
}

// along an axis

fn reducer(a: &Attrs) -> Result<&str, String> {
    match str_attr(a, "by") {
        Some(by @ ("sum" | "product" | "max" | "min")) => Ok(by),
        _ => Err("`by` is not one of sum, product, max, min".into()),
    }
}

fn infer_cumulate(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && plain(&t[0]), "expects one dense tensor")?;
    axis_of(a, t[0].shape.len()).ok_or("there is no such axis")?;
    reducer(a)?;
    Ok(vec![t[0].clone()])
}

fn lower_cumulate(l: &Lowering) -> Vec<Stmt> {
    let (x, y, by) = (&l.ins[0], &l.outs[0], reducer(&l.attrs).expect("inferred before"));
    let axis = axis_of(&l.attrs, y.ty.shape.len()).expect("inferred before");
    let mut others = y.ty.shape.clone();
    let n = others.remove(axis);
    nest(l, &others, |rest| {
        let (acc, t) = (l.name("acc"), computed(y.ty.dtype));
        let mut at = rest.to_vec();
        at.insert(axis, l.var("k"));
        let identity = Reducer::named(by).expect("inferred before").identity(&[t]).remove(0);
        let body = vec![
            Stmt::reduce(&l.name("s"), &acc, &[], by, read(x, &at)),
            write(y, &l.name("y"), &at, Expr::load(&acc, &[])),
        ];
        vec![
            scalar(&acc, t),
            Stmt::store(&l.name("z"), &acc, &[], identity),
            Stmt::for_(&l.name("k"), (&n).into(), Iter::Scan, body),
        ]
    })
}

// over windows

/// Windows over the last axes of a tensor: how long, how far from one to the next, how far from one element to the next.
pub(crate) struct Windows {
    pub sizes: Vec<i64>,
    pub strides: Vec<i64>,
    pub dilations: Vec<i64>,
}

impl Windows {
    pub fn of(sizes: &[i64], a: &Attrs) -> Option<Windows> {
        let or_ones = |name| match ints_attr(a, name) {
            [] => Some(vec![1; sizes.len()]),
            v => (v.len() == sizes.len() && v.iter().all(|n| *n > 0 && *n < 1 << 30)).then(|| v.to_vec()),
        };
        let sound = !sizes.is_empty() && sizes.iter().all(|n| *n > 0 && *n < 1 << 30);
        let (strides, dilations) = (or_ones("strides")?, or_ones("dilations")?);
        sound.then(|| Windows { sizes: sizes.to_vec(), strides, dilations })
    }

    /// How many fit into axes of these extents.
    pub fn counts(&self, over: &[Int]) -> Option<Vec<Int>> {
        (over.len() == self.sizes.len()).then_some(())?;
        let one = |(d, n): (usize, &Int)| {
            let reach = (self.sizes[d] - 1) * self.dilations[d] + 1;
            let room = constant(n)? - reach;
            (room >= 0).then(|| Int::from(room / self.strides[d] + 1))
        };
        over.iter().enumerate().map(one).collect()
    }

    /// The position of an element of a window.
    pub fn at(&self, window: &[Expr], element: &[Expr]) -> Vec<Expr> {
        let one = |d: usize| window[d].clone() * self.strides[d] + element[d].clone() * self.dilations[d];
        (0..self.sizes.len()).map(one).collect()
    }

    pub fn place(&self, window: &[usize], element: &[usize]) -> Vec<usize> {
        let one = |d: usize| window[d] * self.strides[d] as usize + element[d] * self.dilations[d] as usize;
        (0..self.sizes.len()).map(one).collect()
    }
}

/// The windows, and the number of axes in front of those they run over.
fn pooled(t: &Type, a: &Attrs) -> Option<(Windows, usize, Vec<Int>)> {
    let w = Windows::of(ints_attr(a, "window"), a)?;
    let lead = t.shape.len().checked_sub(w.sizes.len())?;
    let counts = w.counts(&t.shape[lead..])?;
    Some((w, lead, counts))
}

fn infer_pool(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && plain(&t[0]), "expects one dense tensor")?;
    reducer(a)?;
    let (_, lead, counts) = pooled(&t[0], a).ok_or("the windows do not fit the shape")?;
    Ok(vec![Type::dense(t[0].dtype, &[&t[0].shape[..lead], &counts].concat())])
}

fn infer_windows(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && plain(&t[0]), "expects one dense tensor")?;
    let (w, lead, counts) = pooled(&t[0], a).ok_or("the windows do not fit the shape")?;
    let sizes: Vec<Int> = w.sizes.iter().map(|n| Int::from(*n)).collect();
    Ok(vec![Type::dense(t[0].dtype, &[&t[0].shape[..lead], &counts, &sizes].concat())])
}

pub(crate) fn ty_of(x: &Tensor) -> Type {
    Type::dense(x.dtype, &x.shape.iter().map(|d| (*d as i64).into()).collect::<Vec<_>>())
}

fn sample_windows(seed: u64) -> (Vec<Tensor>, Attrs) {
    let list = |v: &[i64]| Attr::Ints(v.to_vec());
    let by = ("by", Attr::Str(Rng::turn(seed, &["sum", "max", "min", "product"]).into()));
    let at = match seed % 3 {
        0 => attrs(&[by, ("window", list(&[2, 3]))]),
        1 => {
            attrs(&[by, ("window", list(&[3, 2])), ("strides", list(&[2, 1])), ("dilations", list(&[1, 3]))])
        }
        _ => attrs(&[by, ("window", list(&[4])), ("strides", list(&[3]))]),
    };
    (vec![Rng(seed).typed(Rng::turn(seed / 4, &NUMBERS), &[2, 7, 9])], at)
}

pub(crate) const ROWS: &[OpRow] = &[
    over_axes!("sum", "sum", "the sum over `axes`", Some(sum_gradient)),
    over_axes!("product", "product", "the product over `axes`", None),
    over_axes!("maximum", "max", "the largest over `axes`", None),
    over_axes!("minimum", "min", "the smallest over `axes`", None),
    OpRow {
        name: "cumulate",
        doc: "along `axis`, each element combined with all before it, `by` sum, product, max or min",
        form: Form::NEST,
        gradient: None,
        donates: &[],
        infer: infer_cumulate,
        reference: |a, at, t| {
            let (x, shape, by) = (a[0].elements(), &a[0].shape, reducer(at).unwrap_or("sum"));
            let axis = axis_of(at, shape.len()).unwrap_or(0);
            let one = |index: Vec<usize>| {
                let places = (0..=index[axis]).map(|k| {
                    let mut i = index.clone();
                    i[axis] = k;
                    ravel(&i, shape)
                });
                combine(by, &x, places, t[0].dtype)
            };
            vec![joined(indices(shape).map(one).collect(), &t[0])]
        },
        edge: Edge::none,
        lower: lower_cumulate,
        sample: |seed| {
            let by = ("by", Attr::Str(Rng::turn(seed, &["sum", "product", "max", "min"]).into()));
            let at = attrs(&[by, ("axis", Attr::Int((seed % 3) as i64))]);
            (vec![Rng(seed).typed(Rng::turn(seed / 4, &NUMBERS), &[2, 5, 3])], at)
        },
    },
    OpRow {
        name: "pool",
        doc: "each `window` of the last axes, `strides` apart and its elements `dilations` apart, combined `by` a reducer",
        form: Form::NEST,
        gradient: None,
        donates: &[],
        infer: infer_pool,
        reference: |a, at, t| {
            let (x, by) = (a[0].elements(), reducer(at).unwrap_or("sum"));
            let (w, lead, _) = pooled(&ty_of(&a[0]), at).expect("inferred before");
            let sizes: Vec<usize> = w.sizes.iter().map(|n| *n as usize).collect();
            let one = |index: Vec<usize>| {
                let (front, window) = index.split_at(lead);
                let places =
                    indices(&sizes).map(|e| ravel(&[front, &w.place(window, &e)].concat(), &a[0].shape));
                combine(by, &x, places, t[0].dtype)
            };
            vec![joined(indices(&extents(&t[0])).map(one).collect(), &t[0])]
        },
        edge: Edge::none,
        lower: |l| {
            let (x, y, by) = (&l.ins[0], &l.outs[0], reducer(&l.attrs).expect("inferred before"));
            let (w, lead, _) = pooled(&x.ty, &l.attrs).expect("inferred before");
            let sizes: Vec<Int> = w.sizes.iter().map(|n| Int::from(*n)).collect();
            nest(l, &y.ty.shape, |index| {
                let (front, window) = index.split_at(lead);
                let (mut body, sum) = accumulated(l, by, computed(x.ty.dtype), &sizes, |k| {
                    read(x, &[front, &w.at(window, k)].concat())
                });
                body.push(write(y, &l.name("y"), index, sum));
                body
            })
        },
        sample: sample_windows,
    },
    OpRow {
        name: "windows",
        doc: "each `window` of the last axes, as axes behind: `strides` apart, its elements `dilations` apart",
        form: Form::NEST,
        gradient: None,
        donates: &[],
        infer: infer_windows,
        reference: |a, at, t| {
            let (w, lead, counts) = pooled(&ty_of(&a[0]), at).expect("inferred before");
            let n = counts.len();
            let from = |i: Vec<usize>| {
                let at = w.place(&i[lead..lead + n], &i[lead + n..]);
                Some(ravel(&[&i[..lead], &at].concat(), &a[0].shape))
            };
            vec![moved(&a[0].elements(), &t[0], 0.0, indices(&extents(&t[0])).map(from))]
        },
        edge: Edge::none,
        lower: |l| {
            let (x, y) = (&l.ins[0], &l.outs[0]);
            let (w, lead, counts) = pooled(&x.ty, &l.attrs).expect("inferred before");
            let n = counts.len();
            nest(l, &y.ty.shape, |i| {
                let at = w.at(&i[lead..lead + n], &i[lead + n..]);
                vec![y.write(&l.name("y"), i, x.read(&[&i[..lead], &at].concat()))]
            })
        },
        sample: sample_windows,
    },
];
