//! Changes of shape and place: axes permuted, split, merged, repeated, cut and joined. Each moves elements of any type
//! and computes nothing; the gradient of each is another of them.

use crate::require;
use crate::sample::{Rng, attrs, extents};
use crate::typed::{
    NUMBERS, axis_of, broadcast, constant, indices, linear, moved, nest, nest_named, plain, ravel, spread,
    spread_place,
};
use lathe_ir::graph::{
    Adjoint, Attr, Attrs, Edge, Form, Lowering, OpRow, Type, ValueId, int_attr, ints_attr,
};
use lathe_ir::tensor::{Expr, Stmt};
use lathe_ir::{Bounds, DType, Int, IrError, Tensor};

/// Whether it is a dense tensor of f32 with at least so many axes.
pub(crate) fn dense(t: &Type, rank: usize) -> bool {
    t.dtype == DType::F32 && t.encoding.is_none() && t.shape.len() >= rank
}

type Gradients = Result<Vec<Option<ValueId>>, IrError>;

fn product(dims: &[Int]) -> Int {
    dims.iter().fold(Int::from(1), |p, d| p * d.clone()).simplify(&Bounds::new())
}

/// The attribute `shape` of a `reshape` to these extents, one of which may be no constant.
pub(crate) fn shape_attr(to: &[Int]) -> (&'static str, Attr) {
    ("shape", Attr::Ints(to.iter().map(|d| constant(d).unwrap_or(-1)).collect()))
}

/// Extents that a type's shape names, in order; `None` where an axis is not there or named twice.
fn axes_of(a: &Attrs, name: &str, rank: usize) -> Option<Vec<usize>> {
    let mut axes = vec![];
    for v in ints_attr(a, name) {
        let d = usize::try_from(*v).ok().filter(|d| *d < rank && !axes.contains(d))?;
        axes.push(d);
    }
    Some(axes)
}

// permute

fn permutation(a: &Attrs, rank: usize) -> Option<Vec<usize>> {
    axes_of(a, "axes", rank).filter(|axes| axes.len() == rank)
}

fn infer_permute(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1, "expects one tensor")?;
    let axes = permutation(a, t[0].shape.len()).ok_or("`axes` does not name each axis once")?;
    let shape: Vec<Int> = axes.iter().map(|d| t[0].shape[*d].clone()).collect();
    Ok(vec![Type::dense(t[0].dtype, &shape)])
}

fn permute(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let axes = permutation(at, a[0].shape.len()).unwrap_or_default();
    let from = |to: Vec<usize>| {
        let mut from = vec![0; to.len()];
        axes.iter().zip(to).for_each(|(d, i)| from[*d] = i);
        Some(ravel(&from, &a[0].shape))
    };
    vec![moved(&a[0].elements(), &t[0], 0.0, indices(&extents(&t[0])).map(from))]
}

fn lower_permute(l: &Lowering) -> Vec<Stmt> {
    let (x, y) = (&l.ins[0], &l.outs[0]);
    let axes = permutation(&l.attrs, y.ty.shape.len()).expect("inferred before");
    nest(l, &y.ty.shape, |index| {
        let mut from = index.to_vec();
        axes.iter().zip(index).for_each(|(d, i)| from[*d] = i.clone());
        vec![y.write(&l.name("y"), index, x.read(&from))]
    })
}

// reshape

/// The shape that `spec` asks for: 0 keeps the extent at its place, -1 is what is left.
fn reshaped(x: &[Int], spec: &[i64]) -> Option<Vec<Int>> {
    let b = Bounds::new();
    let kept = |i: usize| spec.get(i) == Some(&0);
    let left: Vec<Int> = (0..x.len()).filter(|i| !kept(*i)).map(|i| x[i].clone()).collect();
    let (left, mut others, mut rest) = (product(&left), 1i64, None);
    for (i, s) in spec.iter().enumerate() {
        match s {
            0 => drop(x.get(i)?),
            -1 if rest.is_none() => rest = Some(i),
            s if *s > 0 => others = others.checked_mul(*s)?,
            _ => return None,
        }
    }
    let whole = left.rem(others, &b).simplify(&b).as_const() == Some(0);
    let what_is_left = left.div(others, &b);
    (whole && (rest.is_some() || what_is_left.as_const() == Some(1))).then(|| {
        let extent = |(i, s): (usize, &i64)| match s {
            0 => x[i].clone(),
            -1 => what_is_left.clone(),
            s => Int::from(*s),
        };
        spec.iter().enumerate().map(extent).collect()
    })
}

fn infer_reshape(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && plain(&t[0]), "expects one dense tensor")?;
    let shape = reshaped(&t[0].shape, ints_attr(a, "shape")).ok_or("`shape` has not as many elements")?;
    let inner = |dims: &[Int]| dims.iter().skip(1).all(|d| constant(d).is_some());
    let sound = parts(&t[0].shape, &shape).iter().all(|(x, y)| x == y || (inner(x) && inner(y)));
    require(sound, "an inner axis that is split or merged is no constant")?;
    Ok(vec![Type::dense(t[0].dtype, &shape)])
}

/// Runs of axes of both sides that hold the same elements, as short as can be told.
fn parts<'a>(mut x: &'a [Int], mut y: &'a [Int]) -> Vec<(&'a [Int], &'a [Int])> {
    let mut out = vec![];
    while !x.is_empty() && !y.is_empty() {
        let (mut i, mut j) = (1, 1);
        while i < x.len() || j < y.len() {
            let (a, b) = (product(&x[..i]), product(&y[..j]));
            if a == b {
                break;
            }
            match (a.as_const(), b.as_const()) {
                (Some(a), Some(b)) if a < b && i < x.len() => i += 1,
                (Some(a), Some(b)) if a > b && j < y.len() => j += 1,
                _ => (i, j) = (x.len(), y.len()),
            }
        }
        out.push((&x[..i], &y[..j]));
        (x, y) = (&x[i..], &y[j..]);
    }
    if !x.is_empty() || !y.is_empty() {
        out.push((x, y));
    }
    out
}

fn lower_reshape(l: &Lowering) -> Vec<Stmt> {
    let (x, y) = (&l.ins[0], &l.outs[0]);
    let (mut loops, mut from, mut to) = (vec![], vec![], vec![]);
    for (px, py) in parts(&x.ty.shape, &y.ty.shape) {
        let over = if py.len() <= 1 && px.len() > 1 { px } else { py };
        let at = loops.len();
        let index: Vec<Expr> = (0..over.len()).map(|d| l.var(&(at + d).to_string())).collect();
        loops.extend(over.iter().cloned());
        let place = linear(&index, over);
        let side = |dims: &[Int]| match dims {
            dims if dims == over => index.clone(),
            [_] => vec![place.clone()],
            dims => digits(&place, dims),
        };
        from.extend(side(px));
        to.extend(side(py));
    }
    nest(l, &loops, |_| vec![y.write(&l.name("y"), &to, x.read(&from))])
}

/// The index that a row-major number stands for.
pub(crate) fn digits(place: &Expr, shape: &[Int]) -> Vec<Expr> {
    let mut out: Vec<Expr> = vec![];
    let mut step = Int::from(1);
    for (d, n) in shape.iter().enumerate().rev() {
        let over = if step.as_const() == Some(1) { place.clone() } else { place.clone() / Expr::from(&step) };
        out.push(if d == 0 { over } else { over % Expr::from(n) });
        step = step * n.clone();
    }
    out.reverse();
    out
}

// spread

/// The result's shape, and the argument's with 1 for each new axis.
fn spread_shapes(t: &[Type], a: &Attrs) -> Option<(Vec<Int>, Vec<Int>)> {
    let given: Vec<Int> = ints_attr(a, "shape").iter().map(|d| Int::from(*d)).collect();
    let shape = t.get(1).map_or(given, |like| like.shape.clone());
    let (mut own, mut kept) = (vec![], t[0].shape.iter());
    let new = axes_of(a, "axes", shape.len())?;
    let lacking = shape.len().checked_sub(new.len() + t[0].shape.len())?;
    for d in 0..shape.len() {
        own.push(if d < lacking || new.contains(&d) { Int::from(1) } else { kept.next()?.clone() });
    }
    (broadcast(&[&own, &shape]).ok()? == shape).then_some((shape, own))
}

fn infer_spread(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(
        matches!(t.len(), 1 | 2) && plain(&t[0]),
        "expects a dense tensor, and perhaps one like the result",
    )?;
    let (shape, _) = spread_shapes(t, a).ok_or("the tensor does not fit the shape")?;
    Ok(vec![Type::dense(t[0].dtype, &shape)])
}

fn lower_spread(l: &Lowering) -> Vec<Stmt> {
    let types: Vec<Type> = l.ins.iter().map(|o| o.ty.clone()).collect();
    let (x, y) = (&l.ins[0], &l.outs[0]);
    let (_, own) = spread_shapes(&types, &l.attrs).expect("inferred before");
    let new = axes_of(&l.attrs, "axes", own.len()).expect("inferred before");
    let lacking = own.len() - new.len() - x.ty.shape.len();
    nest(l, &y.ty.shape, |index| {
        let at = spread(&own, &y.ty.shape, index);
        let from: Vec<Expr> =
            (lacking..own.len()).filter(|d| !new.contains(d)).map(|d| at[d].clone()).collect();
        vec![y.write(&l.name("y"), index, x.read(&from))]
    })
}

// slice

/// Of each axis: the first position, the step and the number.
fn cuts(t: &Type, a: &Attrs) -> Option<Vec<(i64, i64, Int)>> {
    let mut all: Vec<(i64, i64, Int)> = t.shape.iter().map(|d| (0, 1, d.clone())).collect();
    let (starts, counts, steps) = (ints_attr(a, "starts"), ints_attr(a, "sizes"), ints_attr(a, "steps"));
    for (i, d) in axes_of(a, "axes", all.len())?.into_iter().enumerate() {
        let (start, count) = (*starts.get(i)?, *counts.get(i)?);
        let step = steps.get(i).copied().unwrap_or(1);
        let n = constant(&t.shape[d])?;
        let last = count.checked_sub(1)?.checked_mul(step)?.checked_add(start)?;
        (count > 0 && (0..n).contains(&start) && (0..n).contains(&last)).then_some(())?;
        all[d] = (start, step, count.into());
    }
    Some(all)
}

fn infer_slice(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && plain(&t[0]), "expects one dense tensor")?;
    let cuts = cuts(&t[0], a).ok_or("an axis does not have these positions")?;
    Ok(vec![Type::dense(t[0].dtype, &cuts.into_iter().map(|(.., n)| n).collect::<Vec<_>>())])
}

fn slice_gradient(d: &mut Adjoint<'_>) -> Gradients {
    let (x, dy, at) = (d.ty(d.arg(0)).clone(), d.dy(), d.attrs().clone());
    let cuts = cuts(&x, &at).unwrap_or_default();
    let (mut low, mut high, mut inner) = (vec![], vec![], vec![]);
    for ((start, step, count), n) in cuts.iter().zip(&x.shape) {
        let ends = (constant(count), constant(n));
        if *step < 1 {
            return d.refuse("no gradient where a step goes backwards");
        }
        low.push(*start);
        inner.push(step - 1);
        high.push(if let (Some(c), Some(n)) = ends { n - 1 - (start + (c - 1) * step) } else { 0 });
    }
    let attrs = [("low", Attr::Ints(low)), ("high", Attr::Ints(high)), ("interior", Attr::Ints(inner))];
    Ok(vec![Some(d.op_with("pad", &[dy], &attrs)?)])
}

// concat

fn infer_concat(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(!t.is_empty() && t.iter().all(plain), "expects dense tensors")?;
    let axis = axis_of(a, t[0].shape.len()).ok_or("there is no such axis")?;
    let mut shape = t[0].shape.clone();
    for x in &t[1..] {
        let fits = |d: usize| d == axis || x.shape[d] == t[0].shape[d];
        require(x.dtype == t[0].dtype && x.shape.len() == shape.len(), "the types or ranks differ")?;
        require((0..shape.len()).all(fits), "the shapes differ in another axis")?;
        shape[axis] = (shape[axis].clone() + x.shape[axis].clone()).simplify(&Bounds::new());
    }
    Ok(vec![Type::dense(t[0].dtype, &shape)])
}

fn concat(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let axis = axis_of(at, a[0].shape.len()).unwrap_or(0);
    let inner: usize = a[0].shape[axis + 1..].iter().product::<usize>() * (a[0].dtype.bits() as usize / 8);
    let outer: usize = a[0].shape[..axis].iter().product();
    let mut bytes = vec![];
    for i in 0..outer {
        for x in a {
            let n = x.shape[axis] * inner;
            bytes.extend_from_slice(&x.bytes[i * n..][..n]);
        }
    }
    vec![Tensor { shape: extents(&t[0]), dtype: t[0].dtype, encoding: None, bytes }]
}

fn lower_concat(l: &Lowering) -> Vec<Stmt> {
    let y = &l.outs[0];
    let axis = axis_of(&l.attrs, y.ty.shape.len()).expect("inferred before");
    let mut first = Int::from(0);
    let mut out = vec![];
    for (n, x) in l.ins.iter().enumerate() {
        out.extend(nest_named(l, &format!("p{n}_"), &x.ty.shape, |index| {
            let mut to = index.to_vec();
            to[axis] = to[axis].clone() + Expr::from(&first);
            vec![y.write(&l.name(&format!("y{n}")), &to, x.read(index))]
        }));
        first = first + x.ty.shape[axis].clone();
    }
    out
}

fn concat_gradient(d: &mut Adjoint<'_>) -> Gradients {
    let (dy, axis) = (d.dy(), int_attr(d.attrs(), "axis").unwrap_or(0));
    let (mut first, mut out) = (0, vec![]);
    for i in 0..d.len() {
        let Some(n) = constant(&d.ty(d.arg(i)).shape[axis as usize]) else {
            return d.refuse("no gradient along an axis that is no constant");
        };
        let attrs = [
            ("axes", Attr::Ints(vec![axis])),
            ("starts", Attr::Ints(vec![first])),
            ("sizes", Attr::Ints(vec![n])),
        ];
        out.push(Some(d.op_with("slice", &[dy], &attrs)?));
        first += n;
    }
    Ok(out)
}

// samples

fn any(seed: u64, shape: &[usize]) -> Tensor {
    Rng(seed).typed(Rng::turn(seed, &NUMBERS), shape)
}

fn list(v: &[i64]) -> Attr {
    Attr::Ints(v.to_vec())
}

fn sample_spread(seed: u64) -> (Vec<Tensor>, Attrs) {
    let like = |shape: &[usize]| Rng(seed + 1).dense(shape);
    match seed % 4 {
        0 => (vec![any(seed, &[3]), like(&[3, 48])], attrs(&[("axes", list(&[1]))])),
        1 => (vec![any(seed, &[16]), like(&[2, 3, 16])], attrs(&[("axes", list(&[0, 1]))])),
        2 => (vec![any(seed, &[3, 1])], attrs(&[("shape", list(&[2, 3, 5]))])),
        _ => (vec![any(seed, &[2, 16])], attrs(&[("axes", list(&[1])), ("shape", list(&[2, 3, 16]))])),
    }
}

fn sample_slice(seed: u64) -> (Vec<Tensor>, Attrs) {
    let last = |from: i64| attrs(&[("axes", list(&[1])), ("starts", list(&[from])), ("sizes", list(&[16]))]);
    let at = match seed % 5 {
        0..3 => last([0, 5, 32][seed as usize % 3]),
        3 => attrs(&[
            ("axes", list(&[1, 0])),
            ("starts", list(&[1, 1])),
            ("sizes", list(&[9, 2])),
            ("steps", list(&[5, 1])),
        ]),
        _ => attrs(&[
            ("axes", list(&[0, 1])),
            ("starts", list(&[2, 40])),
            ("sizes", list(&[3, 10])),
            ("steps", list(&[-1, -4])),
        ]),
    };
    (vec![any(seed / 5, &[3, 48])], at)
}

pub(crate) const ROWS: &[OpRow] = &[
    OpRow {
        name: "permute",
        doc: "x with its axes in the order `axes`, decoded",
        form: Form::NEST,
        gradient: Some(|d| {
            let mut back = vec![0; ints_attr(d.attrs(), "axes").len()];
            ints_attr(d.attrs(), "axes").iter().enumerate().for_each(|(i, d)| back[*d as usize] = i as i64);
            Ok(vec![Some(d.op_with("permute", &[d.dy()], &[("axes", Attr::Ints(back))])?)])
        }),
        donates: &[],
        infer: infer_permute,
        reference: permute,
        lower: lower_permute,
        edge: Edge::none,
        sample: |seed| match seed % 4 {
            0 => (vec![any(seed / 4, &[5, 32])], attrs(&[("axes", list(&[1, 0]))])),
            1 => (vec![any(seed / 4, &[2, 3, 16])], attrs(&[("axes", list(&[1, 0, 2]))])),
            2 => (vec![any(seed / 4, &[2, 3, 4, 5])], attrs(&[("axes", list(&[2, 0, 3, 1]))])),
            _ => (vec![Rng(seed).encoded("q8_0", &[3, 64])], attrs(&[("axes", list(&[1, 0]))])),
        },
    },
    OpRow {
        name: "reshape",
        doc: "x's elements in order, in `shape`: 0 is the extent at that place of x, -1 is what is left",
        form: Form::NEST,
        gradient: Some(|d| {
            let shape = shape_attr(&d.ty(d.arg(0)).shape.clone());
            Ok(vec![Some(d.op_with("reshape", &[d.dy()], &[shape])?)])
        }),
        donates: &[],
        infer: infer_reshape,
        reference: |a, _, t| vec![Tensor { shape: extents(&t[0]), ..a[0].clone() }],
        lower: lower_reshape,
        edge: Edge::none,
        sample: |seed| {
            let (from, to): (&[usize], &[i64]) = Rng::turn(
                seed,
                &[
                    (&[3, 32][..], &[0, 2, -1][..]),
                    (&[3, 2, 16], &[-1, 16]),
                    (&[3, 2, 16], &[0, -1]),
                    (&[6, 4, 5], &[4, 6, 5]),
                    (&[6, 1], &[6]),
                    (&[5], &[1, 5, 1]),
                ],
            );
            (vec![any(seed / 6, from)], attrs(&[("shape", list(to))]))
        },
    },
    OpRow {
        name: "spread",
        doc: "x repeated along the new axes `axes`, axes that lack in front and those of extent 1, in `shape` or that of `like`",
        form: |t, a| match spread_shapes(t, a) {
            Some((shape, own)) if shape.len() > 1 && shape.first() == own.first() => Form::Row,
            _ => Form::Nest,
        },
        gradient: Some(|d| {
            let (x, dy) = (d.arg(0), d.dy());
            let types: Vec<Type> = (0..d.len()).map(|i| d.ty(d.arg(i)).clone()).collect();
            let (shape, own) = spread_shapes(&types, d.attrs()).unwrap_or_default();
            let new = (0..shape.len()).filter(|i| shape[*i] != own[*i]).map(|i| i as i64).collect();
            let mut dx = d.op_with("sum", &[dy], &[("axes", Attr::Ints(new))])?;
            if d.ty(dx).shape != types[0].shape {
                dx = d.op_with("reshape", &[dx], &[shape_attr(&d.ty(x).shape.clone())])?;
            }
            let mut all = vec![Some(dx)];
            if types.len() > 1 {
                all.push(Some(d.zero(d.arg(1))?));
            }
            Ok(all)
        }),
        donates: &[],
        infer: infer_spread,
        reference: |a, at, t| {
            let ty = |x: &Tensor| {
                Type::dense(x.dtype, &x.shape.iter().map(|d| (*d as i64).into()).collect::<Vec<_>>())
            };
            let (_, own) = spread_shapes(&a.iter().map(ty).collect::<Vec<_>>(), at).unwrap_or_default();
            let own: Vec<usize> = own.iter().map(|d| d.as_const().unwrap_or(1) as usize).collect();
            vec![moved(
                &a[0].elements(),
                &t[0],
                0.0,
                indices(&extents(&t[0])).map(|i| Some(spread_place(&own, &i))),
            )]
        },
        lower: lower_spread,
        edge: Edge::none,
        sample: sample_spread,
    },
    OpRow {
        name: "slice",
        doc: "of each axis in `axes`, `sizes` positions from `starts` on, `steps` apart",
        form: |t, a| {
            let inner = t[0].shape.len() > 1 && !ints_attr(a, "axes").contains(&0);
            if inner { Form::Row } else { Form::Nest }
        },
        gradient: Some(slice_gradient),
        donates: &[],
        infer: infer_slice,
        reference: |a, at, t| {
            let ty =
                Type::dense(a[0].dtype, &a[0].shape.iter().map(|d| (*d as i64).into()).collect::<Vec<_>>());
            let cuts = cuts(&ty, at).unwrap_or_default();
            let from = |to: Vec<usize>| {
                let place =
                    |(i, (start, step, _)): (usize, &(i64, i64, Int))| (start + step * i as i64) as usize;
                Some(ravel(&to.into_iter().zip(&cuts).map(place).collect::<Vec<_>>(), &a[0].shape))
            };
            vec![moved(&a[0].elements(), &t[0], 0.0, indices(&extents(&t[0])).map(from))]
        },
        lower: |l| {
            let (x, y) = (&l.ins[0], &l.outs[0]);
            let cuts = cuts(&x.ty, &l.attrs).expect("inferred before");
            nest(l, &y.ty.shape, |index| {
                let place = |(i, (start, step, _)): (&Expr, &(i64, i64, Int))| match (start, step) {
                    (0, 1) => i.clone(),
                    (start, 1) => i.clone() + *start,
                    (start, step) => i.clone() * *step + *start,
                };
                let from: Vec<Expr> = index.iter().zip(&cuts).map(place).collect();
                vec![y.write(&l.name("y"), index, x.read(&from))]
            })
        },
        edge: Edge::none,
        sample: sample_slice,
    },
    OpRow {
        name: "concat",
        doc: "tensors one behind the other along `axis`",
        form: Form::NEST,
        gradient: Some(concat_gradient),
        donates: &[],
        infer: infer_concat,
        reference: concat,
        lower: lower_concat,
        edge: Edge::none,
        sample: |seed| {
            let (mut r, t) = (Rng(seed), Rng::turn(seed, &NUMBERS));
            let parts = [r.typed(t, &[2, 3, 16]), r.typed(t, &[2, 1, 16]), r.typed(t, &[2, 5, 16])];
            (parts.into(), attrs(&[("axis", Attr::Int(1))]))
        },
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::typed::unravel;

    #[test]
    fn shapes_are_matched_in_short_runs() {
        let dims = |v: &[i64]| v.iter().map(|d| Int::from(*d)).collect::<Vec<_>>();
        let (x, y) = (dims(&[2, 3, 4, 5]), dims(&[6, 2, 2, 5]));
        let runs: Vec<(usize, usize)> = parts(&x, &y).iter().map(|(x, y)| (x.len(), y.len())).collect();
        assert_eq!(runs, [(2, 1), (1, 2), (1, 1)]);
        assert_eq!(unravel(17, &[2, 3, 4]), [1, 1, 1]);
        assert_eq!(ravel(&[1, 1, 1], &[2, 3, 4]), 17);
    }
}
