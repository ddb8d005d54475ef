//! Small integers of control: the token chosen, positions, conditions, lists of tokens. All are `i32`, truth is 0 or 1.

use crate::norm::scalar;
use crate::require;
use crate::sample::{Rng, attrs};
use crate::typed::{NUMBERS, axis_of, computed, indices, nest, plain, ravel, read};
use lathe_ir::graph::{Attr, Attrs, Edge, Form, Lowering, OpRow, Type, int_attr};
use lathe_ir::tensor::{Binary, Buffer, Expr, Fact, Iter, REGISTER, Reducer, Stmt, Store};
use lathe_ir::{DType, Elements, Tensor};
use std::slice::from_ref as one;
use std::sync::Arc;

fn ints(ty: &Type, data: Vec<i64>) -> Tensor {
    let shape: Vec<usize> = ty.shape.iter().map(|d| d.as_const().unwrap_or(0) as usize).collect();
    Tensor::i32(&shape, &data.into_iter().map(|v| v as i32).collect::<Vec<_>>())
}

fn constant(v: i64) -> Expr {
    Expr::int(v, DType::I32)
}

fn infer_argmax(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && plain(&t[0]) && !t[0].shape.is_empty(), "expects one dense tensor with an axis")?;
    let axis = argmax_axis(&t[0], a).ok_or("there is no such axis")?;
    let mut shape = t[0].shape.clone();
    let n = shape.remove(axis);
    require(n.as_const().is_some_and(|n| n > 0), "the axis's extent is not a positive constant")?;
    Ok(vec![Type::dense(DType::I32, &shape)])
}

/// The axis that is searched: the last one, if not said.
fn argmax_axis(t: &Type, a: &Attrs) -> Option<usize> {
    if a.contains_key("axis") { axis_of(a, t.shape.len()) } else { t.shape.len().checked_sub(1) }
}

fn argmax(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let (shape, rank) = (&a[0].shape, a[0].shape.len());
    let axis = if at.contains_key("axis") { axis_of(at, rank).unwrap_or(0) } else { rank - 1 };
    let all = |kept: &[usize]| {
        let place = |k: usize| ravel(&[&kept[..axis], &[k], &kept[axis..]].concat(), shape);
        (0..shape[axis]).map(place).collect::<Vec<_>>()
    };
    fn first<T: PartialOrd>(x: &[T], places: &[usize]) -> i64 {
        let larger = |best: usize, i: usize| if x[places[i]] > x[places[best]] { i } else { best };
        (0..places.len()).fold(0, larger) as i64
    }
    let kept = indices(&t[0].shape.iter().map(|d| d.as_const().unwrap_or(0) as usize).collect::<Vec<_>>());
    let y = match a[0].elements() {
        Elements::Ints(x) => kept.map(|i| first(&x, &all(&i))).collect(),
        Elements::Floats(x) => kept.map(|i| first(&x, &all(&i))).collect(),
    };
    vec![ints(&t[0], y)]
}

fn lower_argmax(l: &Lowering) -> Vec<Stmt> {
    let (x, y) = (&l.ins[0], &l.outs[0]);
    let axis = argmax_axis(&x.ty, &l.attrs).expect("inferred before");
    let (n, t) = (Expr::from(&x.ty.shape[axis]), computed(x.ty.dtype));
    let (j, best, at) = (l.var("j"), l.name("best"), l.name("at"));
    let most = i64::from(i32::MAX);
    let reducer = Reducer::named("argmax").expect("a reducer of the table");
    let least = reducer.identity(&[t, DType::I32]).remove(0);
    nest(l, &y.ty.shape, |index| {
        let range = Fact::Range(0.into(), (most + 1).into());
        let place = Buffer::dense(&at, DType::I32, &[], REGISTER).with(range);
        let from = [&index[..axis], one(&j), &index[axis..]].concat();
        let pick = Stmt::Store(Arc::new(Store {
            name: l.name("r").into(),
            targets: vec![(best.as_str().into(), vec![]), (at.as_str().into(), vec![])],
            values: vec![read(x, &from), j.cast(DType::I32)],
            reducer: Some(reducer),
        }));
        // Where nothing is a number, nothing is the largest: the last one then.
        let chosen = Expr::load(&at, &[]).cast(DType::INDEX).min_with(&(n.clone() - 1));
        vec![
            scalar(&best, t),
            Stmt::Alloc(Arc::new(place)),
            Stmt::store(&l.name("zb"), &best, &[], least.clone()),
            Stmt::store(&l.name("za"), &at, &[], constant(most)),
            Stmt::for_(&l.name("j"), n.clone(), Iter::Reduce, vec![pick]),
            y.write(&l.name("y"), index, chosen.cast(DType::I32)),
        ]
    })
}

fn infer_one(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1, "expects one vector")?;
    infer_same(t, a)
}

fn infer_two(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 2, "expects two vectors")?;
    infer_same(t, a)
}

fn infer_same(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(t.iter().all(|t| t.dtype == DType::I32 && t.shape.len() == 1), "expects vectors of i32")?;
    require(t.iter().all(|o| o.shape == t[0].shape), "the vectors differ in length")?;
    Ok(vec![t[0].clone()])
}

fn each(l: &Lowering, value: impl Fn(&[Expr]) -> Expr) -> Vec<Stmt> {
    let (t, y) = (l.var("0"), &l.outs[0]);
    let args: Vec<Expr> = l.ins.iter().map(|o| o.read(one(&t))).collect();
    let body = vec![y.write(&l.name("y"), one(&t), value(&args))];
    vec![Stmt::for_(&l.name("0"), (&y.ty.shape[0]).into(), Iter::Spatial, body)]
}

fn truth(c: Expr) -> Expr {
    Expr::select(&c, &constant(1), &constant(0))
}

fn attr(a: &Attrs, name: &str) -> i64 {
    int_attr(a, name).unwrap_or(0)
}

fn map(a: &[Tensor], t: &[Type], f: impl Fn(i64) -> i64) -> Vec<Tensor> {
    vec![ints(&t[0], a[0].to_i64().into_iter().map(f).collect())]
}

fn infer_place(t: &[Type], _: &Attrs) -> Result<Vec<Type>, String> {
    require(
        t.len() == 3 && t.iter().all(|t| t.dtype == DType::I32),
        "expects a list, values and places of i32",
    )?;
    require(t.iter().all(|t| t.shape.len() == 1) && t[1].shape == t[2].shape, "expects one place a value")?;
    Ok(vec![t[0].clone()])
}

pub(crate) const ROWS: &[OpRow] = &[
    OpRow {
        name: "argmax",
        doc: "the place of the largest along `axis` (the last one, if not said), the first among equals",
        form: |t, a| match argmax_axis(&t[0], a) {
            Some(axis) if axis > 0 => Form::Row,
            _ => Form::Nest,
        },
        gradient: None,
        donates: &[],
        infer: infer_argmax,
        reference: argmax,
        edge: |l| match argmax_axis(&l.ins[0].ty, &l.attrs) {
            Some(axis) => Edge::below(1, l.ins[0].ty.shape[axis].clone()),
            None => Edge::default(),
        },
        lower: lower_argmax,
        sample: |seed| {
            let of = |shape: &[usize]| vec![Rng(seed).typed(Rng::turn(seed / 3, &NUMBERS), shape)];
            match seed % 3 {
                0 => (of(&[3, 40]), Attrs::new()),
                1 => (of(&[5, 4]), attrs(&[("axis", Attr::Int(0))])),
                _ => (of(&[2, 7, 3]), attrs(&[("axis", Attr::Int(1))])),
            }
        },
    },
    OpRow {
        name: "offset",
        doc: "x + by",
        form: Form::ROW,
        gradient: None,
        donates: &[],
        infer: infer_one,
        reference: |a, at, t| map(a, t, |v| v + attr(at, "by")),
        edge: Edge::none,
        lower: |l| each(l, |a| &a[0] + &constant(attr(&l.attrs, "by"))),
        sample: |seed| (vec![Rng(seed).ints(&[5], 9)], attrs(&[("by", Attr::Int(3))])),
    },
    OpRow {
        name: "below",
        doc: "1 where x < limit, else 0",
        form: Form::ROW,
        gradient: None,
        donates: &[],
        infer: infer_one,
        reference: |a, at, t| map(a, t, |v| i64::from(v < attr(at, "limit"))),
        edge: Edge::none,
        lower: |l| each(l, |a| truth(a[0].bin(Binary::Lt, &constant(attr(&l.attrs, "limit"))))),
        sample: |seed| (vec![Rng(seed).ints(&[5], 9)], attrs(&[("limit", Attr::Int(4))])),
    },
    OpRow {
        name: "differs",
        doc: "1 where x is not `from`, else 0",
        form: Form::ROW,
        gradient: None,
        donates: &[],
        infer: infer_one,
        reference: |a, at, t| map(a, t, |v| i64::from(v != attr(at, "from"))),
        edge: Edge::none,
        lower: |l| each(l, |a| truth(a[0].bin(Binary::Ne, &constant(attr(&l.attrs, "from"))))),
        sample: |seed| (vec![Rng(seed).ints(&[5], 3)], attrs(&[("from", Attr::Int(2))])),
    },
    OpRow {
        name: "both",
        doc: "1 where neither x nor y is 0, else 0",
        form: Form::ROW,
        gradient: None,
        donates: &[],
        infer: infer_two,
        reference: |a, _, t| {
            let pairs = a[0].to_i64().into_iter().zip(a[1].to_i64());
            vec![ints(&t[0], pairs.map(|(x, y)| i64::from(x != 0 && y != 0)).collect())]
        },
        edge: Edge::none,
        lower: |l| {
            let zero = constant(0);
            each(l, |a| truth(a[0].bin(Binary::Ne, &zero).bin(Binary::And, &a[1].bin(Binary::Ne, &zero))))
        },
        sample: |seed| {
            let mut r = Rng(seed);
            (vec![r.ints(&[5], 2), r.ints(&[5], 2)], Attrs::new())
        },
    },
    OpRow {
        name: "place",
        doc: "list[at[i]] = x[i], in place",
        form: Form::ROW,
        gradient: None,
        donates: &[(0, 0)],
        infer: infer_place,
        reference: |a, _, t| {
            let mut list = a[0].to_i64();
            a[1].to_i64().iter().zip(a[2].to_i64()).for_each(|(v, i)| list[i as usize] = *v);
            vec![ints(&t[0], list)]
        },
        edge: |l| Edge::below(2, l.ins[0].ty.shape[0].clone()).and(2, Fact::Injective),
        lower: |l| {
            let (x, at, list) = (&l.ins[1], &l.ins[2], &l.outs[0]);
            let t = l.var("0");
            let to = at.read(one(&t)).cast(DType::INDEX);
            let body = vec![list.write(&l.name("y"), &[to], x.read(one(&t)))];
            vec![Stmt::for_(&l.name("0"), (&x.ty.shape[0]).into(), Iter::Spatial, body)]
        },
        sample: |seed| {
            let mut r = Rng(seed);
            (vec![r.ints(&[9], 90), r.ints(&[3], 90), Tensor::i32(&[3], &[7, 0, 4])], Attrs::new())
        },
    },
];
