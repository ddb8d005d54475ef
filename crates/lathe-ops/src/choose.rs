//! Elements chosen, converted and counted: conversions of type, choices, positions, elements by index, places in an order.

use crate::norm::scalar;
use crate::require;
use crate::sample::{Rng, attrs, extents};
use crate::typed::{
    NUMBERS, axis_of, broadcast, constant, holds, indices, moved, nest, number, plain, ravel, read, spread,
    spread_place, write,
};
use lathe_ir::graph::{Attr, Attrs, Edge, Form, Lowering, OpRow, Type, int_attr, str_attr};
use lathe_ir::tensor::{Binary, Expr, Iter, Stmt};
use lathe_ir::{DType, Elements, Int, Tensor};

/// The type that the attribute `to` names.
fn target(a: &Attrs) -> Result<DType, String> {
    let t = str_attr(a, "to")
        .and_then(DType::parse)
        .filter(|t| t.bits() % 8 == 0 && !matches!(t, DType::Fixed { .. }));
    t.ok_or_else(|| "`to` is no type of whole bytes".into())
}

fn to(t: DType) -> (&'static str, Attr) {
    ("to", Attr::Str(t.to_string().into()))
}

fn infer_cast(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1, "expects one tensor")?;
    Ok(vec![Type::dense(target(a)?, &t[0].shape)])
}

fn infer_bitcast(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    let to = target(a)?;
    require(
        t.len() == 1 && plain(&t[0]) && t[0].dtype.bits() == to.bits(),
        "expects one dense tensor of as many bits",
    )?;
    Ok(vec![Type::dense(to, &t[0].shape)])
}

/// The least and the greatest integer of a type.
fn range(t: DType) -> (i128, i128) {
    let bits = t.bits() as u32;
    match t {
        DType::Int { signed: true, .. } => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
        _ => (0, (1 << bits) - 1),
    }
}

/// Integers wrap; floats to integers are cut and saturate, what is no number is 0.
fn cast(a: &[Tensor], _: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let (lo, hi) = if t[0].dtype.is_int() { range(t[0].dtype) } else { (0, 0) };
    let y = match a[0].elements() {
        Elements::Floats(x) if t[0].dtype.is_int() => {
            Elements::Ints(x.into_iter().map(|v| (v as i128).clamp(lo, hi)).collect())
        }
        x => x,
    };
    vec![Tensor::of(t[0].dtype, &a[0].shape, &y)]
}

fn cast_expr(x: &Expr, from: DType, to: DType) -> Expr {
    if from == to {
        return x.clone();
    }
    if !from.is_float() || !to.is_int() {
        return x.cast(to);
    }
    // What is not below the greatest integer of the type saturates, before C's conversion could be undefined.
    let (lo, hi) = range(to);
    let bound = |v: i128| number(v as f64, from);
    let int = |v: i128| Expr::int(v as i64, to);
    let small = x.max_with(&bound(lo)).min_with(&bound(hi));
    let over = bound(hi).bin(Binary::Le, x);
    let inside = Expr::select(&over, &bound(0), &small);
    let number = Expr::select(&x.bin(Binary::Eq, x), &inside, &bound(0));
    Expr::select(&over, &int(hi), &number.cast(to))
}

fn infer_select(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(
        t.len() == 3 && t[0].dtype == DType::U8 && t[1].dtype == t[2].dtype,
        "expects u8 and two of one type",
    )?;
    require(t[1..].iter().all(plain), "expects dense tensors")?;
    Ok(vec![Type::dense(t[1].dtype, &broadcast(&[&t[0].shape, &t[1].shape, &t[2].shape])?)])
}

fn select(a: &[Tensor], _: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let (Elements::Ints(c), shape) = (a[0].elements(), extents(&t[0])) else { return vec![] };
    let chosen = |i: &Vec<usize>| usize::from(c[spread_place(&a[0].shape, i)] == 0) + 1;
    let place = |i: &Vec<usize>, of: usize| spread_place(&a[of].shape, i);
    let all = indices(&shape);
    let y = match (a[1].elements(), a[2].elements()) {
        (Elements::Ints(x), Elements::Ints(y)) => Elements::Ints(
            all.map(|i| if chosen(&i) == 1 { x[place(&i, 1)] } else { y[place(&i, 2)] }).collect(),
        ),
        (x, y) => {
            let (x, y) = (x.floats(), y.floats());
            Elements::Floats(
                all.map(|i| if chosen(&i) == 1 { x[place(&i, 1)] } else { y[place(&i, 2)] }).collect(),
            )
        }
    };
    vec![Tensor::of(t[0].dtype, &shape, &y)]
}

fn infer_iota(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    let n = int_attr(a, "extent").filter(|n| *n > 0).ok_or("`extent` is no positive number")?;
    require(t.is_empty(), "expects no argument")?;
    Ok(vec![Type::dense(target(a)?, &[n.into()])])
}

/// Whether it holds indices, and along which axis of the first argument.
fn indexed(t: &[Type], a: &Attrs) -> Option<usize> {
    let axis = axis_of(a, t[0].shape.len())?;
    (t[1].dtype.is_int() && plain(&t[1]) && constant(&t[0].shape[axis])? > 0).then_some(axis)
}

fn infer_gather(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 2, "expects a tensor and indices")?;
    let axis = indexed(t, a).ok_or("there is no such axis, or the indices are no integers")?;
    let shape = [&t[0].shape[..axis], &t[1].shape, &t[0].shape[axis + 1..]].concat();
    Ok(vec![Type::dense(t[0].dtype, &shape)])
}

/// An index of an axis: counted from the end where it is negative, and never outside.
fn wrapped(index: &Expr, n: &Int) -> Expr {
    index.cast(DType::INDEX) % Expr::from(n)
}

fn ints(t: &Tensor) -> Vec<i128> {
    if let Elements::Ints(v) = t.elements() { v } else { vec![] }
}

fn reducer(a: &Attrs) -> Result<&str, String> {
    match str_attr(a, "by").unwrap_or("last") {
        by @ ("last" | "sum" | "product" | "max" | "min") => Ok(by),
        _ => Err("`by` is not one of last, sum, product, max, min".into()),
    }
}

fn infer_scatter(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 3 && t.iter().all(plain), "expects a dense tensor, places and rows")?;
    require(
        t[0].dtype == t[2].dtype && t[1].dtype.is_int() && t[1].shape.len() == 1,
        "the types do not fit",
    )?;
    let fits = t[0].shape.len() == 2 && t[2].shape[..] == [t[1].shape[0].clone(), t[0].shape[1].clone()];
    require(fits, "expects a matrix and one row for each place")?;
    reducer(a)?;
    Ok(vec![t[0].clone()])
}

fn scatter(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let (by, n, rows) = (reducer(at).unwrap_or("last"), a[0].shape[1], a[0].shape[0] as i128);
    let places: Vec<usize> = ints(&a[1]).into_iter().map(|i| i.rem_euclid(rows) as usize).collect();
    let each = places.iter().enumerate().flat_map(|(r, p)| (0..n).map(move |j| (p * n + j, r * n + j)));
    let wrap = |v: i128| if t[0].dtype == DType::U64 { v } else { i128::from(t[0].dtype.wrap(v as i64)) };
    let y = match (a[0].elements(), a[2].elements()) {
        (Elements::Ints(mut y), Elements::Ints(u)) => {
            for (to, from) in each {
                y[to] = wrap(match by {
                    "sum" => y[to] + u[from],
                    "product" => y[to].wrapping_mul(u[from]),
                    "max" => y[to].max(u[from]),
                    "min" => y[to].min(u[from]),
                    _ => u[from],
                });
            }
            Elements::Ints(y)
        }
        (y, u) => {
            let (mut y, u) = (y.floats(), u.floats());
            for (to, from) in each {
                y[to] = t[0].dtype.round(match by {
                    "sum" => y[to] + u[from],
                    "product" => y[to] * u[from],
                    "max" => y[to].max(u[from]),
                    "min" => y[to].min(u[from]),
                    _ => u[from],
                });
            }
            Elements::Floats(y)
        }
    };
    vec![Tensor::of(t[0].dtype, &a[0].shape, &y)]
}

/// Columns on the outside, so that no two iterations write one element; places in order, so that results are reproducible.
fn lower_scatter(l: &Lowering) -> Vec<Stmt> {
    let (x, to, u, y) = (&l.ins[0], &l.ins[1], &l.ins[2], &l.outs[0]);
    let by = reducer(&l.attrs).expect("inferred before");
    let (j, r, t) = (l.var("0"), l.var("r"), l.var("t"));
    let at = [wrapped(&to.read(std::slice::from_ref(&t)), &y.ty.shape[0]), j.clone()];
    let (old, new) = (read(y, &at), read(u, &[t, j.clone()]));
    let value = match by {
        "sum" => &old + &new,
        "product" => &old * &new,
        "max" => old.max_with(&new),
        "min" => old.min_with(&new),
        _ => new,
    };
    let body = vec![
        Stmt::for_(
            &l.name("r"),
            (&y.ty.shape[0]).into(),
            Iter::Spatial,
            vec![y.write(&l.name("c"), &[r.clone(), j.clone()], x.read(&[r, j]))],
        ),
        Stmt::for_(
            &l.name("t"),
            (&u.ty.shape[0]).into(),
            Iter::Sequential,
            vec![write(y, &l.name("y"), &at, value)],
        ),
    ];
    vec![Stmt::for_(&l.name("0"), (&y.ty.shape[1]).into(), Iter::Spatial, body)]
}

fn infer_order(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && plain(&t[0]) && !t[0].shape.is_empty(), "expects one dense tensor with an axis")?;
    Ok(vec![Type::dense(DType::INDEX, &t[0].shape)])
}

fn descends(a: &Attrs) -> bool {
    int_attr(a, "descending") == Some(1)
}

/// The place of each element is the number of those before it; what is no number may leave places empty, which are then 0.
fn lower_order(l: &Lowering) -> Vec<Stmt> {
    let (x, y) = (&l.ins[0], &l.outs[0]);
    let (outer, n) = y.ty.shape.split_at(y.ty.shape.len() - 1);
    nest(l, outer, |row| {
        let at = |i: &Expr| [row, std::slice::from_ref(i)].concat();
        let (i, j, z, rank) = (l.var("i"), l.var("j"), l.var("z"), l.name("rank"));
        let (own, other) = (read(x, &at(&i)), read(x, &at(&j)));
        let (a, b) = if descends(&l.attrs) { (&own, &other) } else { (&other, &own) };
        let tie = own.bin(Binary::Eq, &other).bin(Binary::And, &j.bin(Binary::Lt, &i));
        let before = a.bin(Binary::Lt, b).bin(Binary::Or, &tie);
        let one = Expr::select(&before, &Expr::int(1, DType::INDEX), &Expr::int(0, DType::INDEX));
        let count = vec![Stmt::reduce(&l.name("s"), &rank, &[], "sum", one)];
        let place = wrapped(&Expr::load(&rank, &[]), &n[0]);
        let body = vec![
            scalar(&rank, DType::INDEX),
            Stmt::store(&l.name("n"), &rank, &[], 0.into()),
            Stmt::for_(&l.name("j"), (&n[0]).into(), Iter::Reduce, count),
            y.write(&l.name("y"), &at(&place), i.clone()),
        ];
        vec![
            Stmt::for_(
                &l.name("z"),
                (&n[0]).into(),
                Iter::Spatial,
                vec![y.write(&l.name("c"), &at(&z), 0.into())],
            ),
            Stmt::for_(&l.name("i"), (&n[0]).into(), Iter::Sequential, body),
        ]
    })
}

pub(crate) const ROWS: &[OpRow] = &[
    OpRow {
        name: "cast",
        doc: "x as the type `to`: integers wrap, floats are cut to integers and saturate",
        form: Form::ELEMENTWISE,
        gradient: Some(|d| {
            let from = d.ty(d.arg(0)).dtype;
            if !from.is_float() || !d.ty(d.result()).dtype.is_float() {
                return d.refuse("no gradient of integers");
            }
            Ok(vec![Some(d.op_with("cast", &[d.dy()], &[to(from)])?)])
        }),
        donates: &[],
        infer: infer_cast,
        reference: cast,
        edge: Edge::none,
        lower: |l| {
            let (x, y) = (&l.ins[0], &l.outs[0]);
            nest(l, &y.ty.shape, |i| {
                vec![write(y, &l.name("y"), i, {
                    let (from, to) = (crate::typed::computed(x.ty.dtype), crate::typed::computed(y.ty.dtype));
                    cast_expr(&read(x, i), from, to)
                })]
            })
        },
        sample: |seed| {
            if seed < 2 {
                return (vec![Rng(seed).dense(&[3, 48])], attrs(&[to(DType::F32)]));
            }
            let (mut r, from, into) = (Rng(seed), Rng::turn(seed, &NUMBERS), Rng::turn(seed / 3, &NUMBERS));
            // The halves' own range is small.
            let mut x = r.typed(from, &[3, 48]);
            if let Elements::Floats(v) = x.elements() {
                x = Tensor::of(from, &[3, 48], &Elements::Floats(v.iter().map(|v| v * 300.0).collect()));
            } else if into == DType::F16 {
                x = Tensor::of(from, &[3, 48], &Elements::Ints((0..144).map(|v| v % 90).collect()));
            }
            (vec![x], attrs(&[to(into)]))
        },
    },
    OpRow {
        name: "bitcast",
        doc: "the bits of x as the type `to`, as wide",
        form: Form::ELEMENTWISE,
        gradient: None,
        donates: &[],
        infer: infer_bitcast,
        reference: |a, _, t| vec![Tensor { dtype: t[0].dtype, ..a[0].clone() }],
        edge: Edge::none,
        lower: |l| {
            let (x, y) = (&l.ins[0], &l.outs[0]);
            nest(l, &y.ty.shape, |i| vec![y.write(&l.name("y"), i, x.read(i).bitcast(y.ty.dtype))])
        },
        sample: |seed| {
            let pairs = [
                (DType::F32, DType::U32),
                (DType::INDEX, DType::U64),
                (DType::I8, DType::U8),
                (DType::U32, DType::I32),
            ];
            let (from, into) = Rng::turn(seed, &pairs);
            (vec![Rng(seed).typed(from, &[3, 48])], attrs(&[to(into)]))
        },
    },
    OpRow {
        name: "select",
        doc: "x where c is not 0, else y",
        form: Form::ELEMENTWISE,
        gradient: None,
        donates: &[],
        infer: infer_select,
        reference: select,
        edge: Edge::none,
        lower: |l| {
            let y = &l.outs[0];
            nest(l, &y.ty.shape, |index| {
                let v = |i: usize| l.ins[i].read(&spread(&l.ins[i].ty.shape, &y.ty.shape, index));
                vec![y.write(&l.name("y"), index, Expr::select(&holds(&v(0)), &v(1), &v(2)))]
            })
        },
        sample: |seed| {
            let (mut r, t) = (Rng(seed), Rng::turn(seed, &NUMBERS));
            let c = Tensor::of(DType::U8, &[3, 1], &Elements::Ints(vec![0, 1, i128::from(seed % 2)]));
            (vec![c, r.typed(t, &[3, 48]), r.typed(t, &[48])], Attrs::new())
        },
    },
    OpRow {
        name: "iota",
        doc: "0, 1, 2, .. up to `extent`, of the type `to`",
        form: Form::NEST,
        gradient: None,
        donates: &[],
        infer: infer_iota,
        reference: |_, _, t| {
            let n = extents(&t[0])[0] as i128;
            vec![Tensor::of(t[0].dtype, &extents(&t[0]), &Elements::Ints((0..n).collect()))]
        },
        edge: Edge::none,
        lower: |l| {
            let y = &l.outs[0];
            nest(l, &y.ty.shape, |i| {
                let v = if y.ty.dtype == DType::INDEX { i[0].clone() } else { i[0].cast(y.ty.dtype) };
                vec![y.write(&l.name("y"), i, v)]
            })
        },
        sample: |seed| (vec![], attrs(&[("extent", Attr::Int(37)), to(Rng::turn(seed, &NUMBERS))])),
    },
    OpRow {
        name: "gather",
        doc: "x along `axis` by index: one below 0 counts from the end, and all are remainders of the extent",
        form: Form::NEST,
        gradient: None,
        donates: &[],
        infer: infer_gather,
        reference: |a, at, t| {
            let axis = axis_of(at, a[0].shape.len()).unwrap_or(0);
            let (by, n) = (ints(&a[1]), a[0].shape[axis] as i128);
            let from = |to: Vec<usize>| {
                let (front, rest) = to.split_at(axis);
                let (index, behind) = rest.split_at(a[1].shape.len());
                let at = by[ravel(index, &a[1].shape)].rem_euclid(n) as usize;
                Some(ravel(&[front, &[at], behind].concat(), &a[0].shape))
            };
            vec![moved(&a[0].elements(), &t[0], 0.0, indices(&extents(&t[0])).map(from))]
        },
        edge: Edge::none,
        lower: |l| {
            let (x, by, y) = (&l.ins[0], &l.ins[1], &l.outs[0]);
            let axis = axis_of(&l.attrs, x.ty.shape.len()).expect("inferred before");
            nest(l, &y.ty.shape, |i| {
                let (front, rest) = i.split_at(axis);
                let (index, behind) = rest.split_at(by.ty.shape.len());
                let at = wrapped(&by.read(index), &x.ty.shape[axis]);
                vec![y.write(&l.name("y"), i, x.read(&[front, &[at], behind].concat()))]
            })
        },
        sample: |seed| {
            let (mut r, t) = (Rng(seed), Rng::turn(seed, &NUMBERS));
            let ints = Rng::turn(seed, &[DType::INDEX, DType::I32, DType::INDEX]);
            let at = attrs(&[("axis", Attr::Int((seed % 3) as i64))]);
            (vec![r.typed(t, &[4, 3, 16]), r.typed(ints, Rng::turn(seed, &[&[2, 2][..], &[5], &[]]))], at)
        },
    },
    OpRow {
        name: "scatter",
        doc: "x with each row of u put at the row that `places` says, in order, or combined with it `by` a reducer",
        form: Form::NEST,
        gradient: None,
        donates: &[],
        infer: infer_scatter,
        reference: scatter,
        edge: Edge::none,
        lower: lower_scatter,
        sample: |seed| {
            let (mut r, t) = (Rng(seed), Rng::turn(seed / 5, &NUMBERS));
            let by = Rng::turn(seed, &["last", "sum", "max", "min", "product"]);
            let (x, u) = (r.typed(t, &[6, 5]), r.typed(t, &[4, 5]));
            (vec![x, r.typed(DType::INDEX, &[4]), u], attrs(&[("by", Attr::Str(by.into()))]))
        },
    },
    OpRow {
        name: "order",
        doc: "along the last axis, the places of the elements from the least to the greatest, or `descending`; equals in order",
        form: Form::NEST,
        gradient: None,
        donates: &[],
        infer: infer_order,
        reference: |a, at, t| {
            let n = a[0].row();
            let mut y = vec![];
            for r in 0..a[0].len() / n.max(1) {
                let mut places: Vec<usize> = (0..n).collect();
                match a[0].elements() {
                    Elements::Ints(x) => {
                        places.sort_by_key(|i| if descends(at) { -x[r * n + i] } else { x[r * n + i] })
                    }
                    Elements::Floats(x) => places.sort_by(|i, j| {
                        let order = x[r * n + i].total_cmp(&x[r * n + j]);
                        if descends(at) { order.reverse() } else { order }
                    }),
                }
                y.extend(places.into_iter().map(|i| i as i128));
            }
            vec![Tensor::of(DType::INDEX, &extents(&t[0]), &Elements::Ints(y))]
        },
        edge: Edge::none,
        lower: lower_order,
        sample: |seed| {
            let at = attrs(&[("descending", Attr::Int((seed % 2) as i64))]);
            (vec![Rng(seed).typed(Rng::turn(seed, &NUMBERS), &[3, 16])], at)
        },
    },
];
