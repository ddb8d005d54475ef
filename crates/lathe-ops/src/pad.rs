//! Tensors with more around and between their elements, or with less.

use crate::require;
use crate::sample::{Rng, attrs, extents};
use crate::typed::{NUMBERS, constant, indices, moved, nest, nest_named, number, plain, ravel};
use lathe_ir::graph::{
    Adjoint, Attr, Attrs, Edge, Form, Lowering, OpRow, Type, ValueId, float_attr, ints_attr, str_attr,
};
use lathe_ir::tensor::{Binary, Expr, Stmt};
use lathe_ir::{Int, IrError, Tensor};

/// What stands in front, behind and between the elements of each axis.
struct Padding<'a> {
    low: &'a [i64],
    high: &'a [i64],
    interior: &'a [i64],
    mode: &'a str,
}

impl Padding<'_> {
    fn of(a: &Attrs) -> Padding<'_> {
        let ints = |name| ints_attr(a, name);
        let mode = str_attr(a, "mode").unwrap_or("constant");
        Padding { low: ints("low"), high: ints("high"), interior: ints("interior"), mode }
    }

    fn step(&self, d: usize) -> i64 {
        self.interior.get(d).copied().unwrap_or(0) + 1
    }

    fn moves(&self, d: usize) -> bool {
        self.low[d] != 0 || self.high[d] != 0 || self.step(d) != 1
    }

    fn shape(&self, x: &[Int]) -> Option<Vec<Int>> {
        let whole = self.low.len() == x.len() && self.high.len() == x.len() && self.interior.len() <= x.len();
        whole.then_some(())?;
        let mut out = vec![];
        for (d, n) in x.iter().enumerate() {
            let step = self.step(d);
            if !self.moves(d) {
                out.push(n.clone());
                continue;
            }
            let n = constant(n)?;
            let between = n.checked_sub(1)?.checked_mul(step)?;
            let all = between.checked_add(1)?.checked_add(self.low[d])?.checked_add(self.high[d])?;
            (all > 0 && all < 1 << 40 && step > 0).then_some(())?;
            out.push(all.into());
        }
        let known = matches!(self.mode, "constant" | "edge" | "reflect" | "wrap");
        let dense = (0..x.len()).all(|d| self.step(d) == 1);
        (known && (dense || self.mode == "constant")).then_some(out)
    }

    /// The position in an axis of `n` elements that position `i` of the result is copied from.
    fn place(&self, d: usize, i: i64, n: i64) -> Option<i64> {
        let (p, step) = (i - self.low[d], self.step(d));
        match self.mode {
            "edge" => Some(p.clamp(0, n - 1)),
            "wrap" => Some(p.rem_euclid(n)),
            "reflect" => {
                let period = (2 * (n - 1)).max(1);
                let m = p.rem_euclid(period);
                Some(m.min(period - m).min(n - 1))
            }
            _ => (p >= 0 && p % step == 0 && p / step < n).then_some(p / step),
        }
    }

    /// The same as an expression, and the condition under which it is copied.
    fn expr(&self, d: usize, i: &Expr, n: i64) -> (Expr, Option<Expr>) {
        if !self.moves(d) {
            return (i.clone(), None);
        }
        let (p, step) = (i.clone() - self.low[d], self.step(d));
        let (zero, last): (Expr, Expr) = (0.into(), (n - 1).into());
        let at = match self.mode {
            "edge" => p.max_with(&zero).min_with(&last),
            "wrap" => p % n,
            "reflect" => {
                let period = (2 * (n - 1)).max(1);
                let m = p % period;
                m.min_with(&(Expr::from(period) - m.clone())).min_with(&last)
            }
            _ => {
                let inside =
                    zero.bin(Binary::Le, &p).bin(Binary::And, &p.bin(Binary::Le, &((n - 1) * step).into()));
                let whole = (p.clone() % step).bin(Binary::Eq, &zero);
                let all = if step == 1 { inside } else { inside.bin(Binary::And, &whole) };
                let at = if step == 1 { p } else { p / step };
                return (at.max_with(&zero).min_with(&last), Some(all));
            }
        };
        (at, None)
    }
}

fn infer_pad(t: &[Type], a: &Attrs) -> Result<Vec<Type>, String> {
    require(t.len() == 1 && plain(&t[0]), "expects one dense tensor")?;
    let shape = Padding::of(a).shape(&t[0].shape).ok_or("the padding does not fit the shape")?;
    Ok(vec![Type::dense(t[0].dtype, &shape)])
}

fn pad_value(a: &Attrs) -> f64 {
    float_attr(a, "value").unwrap_or(0.0)
}

fn pad(a: &[Tensor], at: &Attrs, t: &[Type]) -> Vec<Tensor> {
    let p = Padding::of(at);
    let from = |to: Vec<usize>| {
        let place = |d: usize| p.place(d, to[d] as i64, a[0].shape[d] as i64).map(|i| i as usize);
        Some(ravel(&(0..to.len()).map(place).collect::<Option<Vec<_>>>()?, &a[0].shape))
    };
    let places: Vec<_> = indices(&extents(&t[0])).map(from).collect();
    if let Some(Attr::Int(v)) = at.get("value")
        && let lathe_ir::Elements::Ints(x) = a[0].elements()
    {
        let y = places.into_iter().map(|p| p.map_or(i128::from(*v), |p| x[p])).collect();
        return vec![Tensor::of(t[0].dtype, &extents(&t[0]), &lathe_ir::Elements::Ints(y))];
    }
    vec![moved(&a[0].elements(), &t[0], pad_value(at), places.into_iter())]
}

fn lower_pad(l: &Lowering) -> Vec<Stmt> {
    let (x, y, p) = (&l.ins[0], &l.outs[0], Padding::of(&l.attrs));
    let t = y.ty.dtype;
    let value = match l.attrs.get("value") {
        Some(Attr::Int(v)) if t.is_int() => Expr::int(t.wrap(*v), t),
        _ => number(pad_value(&l.attrs), t),
    };
    let around = |d: usize| p.low[d] >= 0 && p.high[d] >= 0;
    if p.mode == "constant" && (0..x.ty.shape.len()).all(around) {
        // All of the value, then x in its place: both run along memory, where a choice at each element would not.
        let mut body = nest_named(l, "f", &y.ty.shape, |i| vec![y.write(&l.name("z"), i, value.clone())]);
        body.extend(nest(l, &x.ty.shape, |i| {
            let to = |(d, i): (usize, &Expr)| i.clone() * p.step(d) + p.low[d];
            let to: Vec<Expr> = i.iter().enumerate().map(to).collect();
            vec![y.write(&l.name("y"), &to, x.read(i))]
        }));
        return body;
    }
    nest(l, &y.ty.shape, |index| {
        let (mut from, mut inside) = (vec![], None::<Expr>);
        for (d, i) in index.iter().enumerate() {
            let (at, when) = p.expr(d, i, constant(&x.ty.shape[d]).unwrap_or(1));
            from.push(at);
            inside = match (inside, when) {
                (Some(a), Some(b)) => Some(a.bin(Binary::And, &b)),
                (a, b) => a.or(b),
            };
        }
        let read = x.read(&from);
        let v = inside.map_or(read.clone(), |c| Expr::select(&c, &read, &value));
        vec![y.write(&l.name("y"), index, v)]
    })
}

fn pad_gradient(d: &mut Adjoint<'_>) -> Result<Vec<Option<ValueId>>, IrError> {
    let (x, dy, at) = (d.ty(d.arg(0)).clone(), d.dy(), d.attrs().clone());
    let p = Padding::of(&at);
    let moved: Vec<usize> = (0..x.shape.len()).filter(|i| p.moves(*i)).collect();
    if p.mode != "constant" || moved.iter().any(|i| p.low[*i] < 0 || p.high[*i] < 0) {
        return d.refuse("no gradient but where constants are put around all elements");
    }
    let ints = |f: &dyn Fn(usize) -> i64| Attr::Ints(moved.iter().map(|i| f(*i)).collect());
    let attrs = [
        ("axes", ints(&|i| i as i64)),
        ("starts", ints(&|i| p.low[i])),
        ("sizes", ints(&|i| constant(&x.shape[i]).unwrap_or(1))),
        ("steps", ints(&|i| p.step(i))),
    ];
    Ok(vec![Some(d.op_with("slice", &[dy], &attrs)?)])
}

fn list(v: &[i64]) -> Attr {
    Attr::Ints(v.to_vec())
}

fn sample_pad(seed: u64) -> (Vec<Tensor>, Attrs) {
    let (low, high) = (("low", list(&[1, 0, 2])), ("high", list(&[0, 0, 3])));
    let mode = |m: &str| ("mode", Attr::Str(m.into()));
    let at = match seed % 6 {
        0 => attrs(&[low, high, ("value", Attr::Float(0.5))]),
        1 => attrs(&[low, high, ("interior", list(&[0, 2, 1]))]),
        2 => attrs(&[("low", list(&[-1, 0, 2])), ("high", list(&[1, 0, -3])), ("value", Attr::Int(-7))]),
        3 => attrs(&[low, high, mode("edge")]),
        4 => attrs(&[low, high, mode("reflect")]),
        _ => attrs(&[low, high, mode("wrap")]),
    };
    (vec![Rng(seed).typed(Rng::turn(seed / 6, &NUMBERS), &[2, 3, 5])], at)
}

pub(crate) const ROWS: &[OpRow] = &[OpRow {
    name: "pad",
    doc: "x with `low`, `high` and `interior` positions around and between those of each axis: of `value`, or by `mode` of \
              x's own (edge, reflect, wrap); fewer than 0 cut off",
    form: Form::NEST,
    gradient: Some(pad_gradient),
    donates: &[],
    infer: infer_pad,
    reference: pad,
    lower: lower_pad,
    edge: Edge::none,
    sample: sample_pad,
}];
