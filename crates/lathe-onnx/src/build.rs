//! Primitives as functions of values, with what ONNX needs around them: types, broadcasting, tensors without elements.

use crate::elem::{Array, Elem};
use crate::error::Fault;
use crate::trace::{Read, Trace, Val, broadcast, empty};
use lathe_ir::graph::Attr;
use lathe_ir::{Elements, Tensor};

pub fn list(v: &[i64]) -> Attr {
    Attr::Ints(v.to_vec())
}

/// A tensor of the model from its elements.
pub fn constant(elem: Elem, shape: &[usize], elements: &Elements) -> Val {
    Val::constant(Array::new(elem, Tensor::of(elem.dtype(), shape, elements)))
}

/// A vector of i64.
pub fn vector(v: &[i64]) -> Val {
    constant(Elem::I64, &[v.len()], &Elements::Ints(v.iter().map(|v| (*v).into()).collect()))
}

/// One number, of any type.
pub fn number(v: f64, elem: Elem) -> Val {
    filled(elem, &[], v)
}

/// A tensor of one number.
pub fn filled(elem: Elem, shape: &[usize], v: f64) -> Val {
    let n = shape.iter().product();
    let elements = if let lathe_ir::DType::Int { signed, bits } = elem.dtype() {
        let (lo, hi) = if signed {
            (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
        } else {
            (0, (1i128 << bits) - 1)
        };
        Elements::Ints(vec![(v as i128).clamp(lo, hi); n])
    } else {
        Elements::Floats(vec![v; n])
    };
    constant(elem, shape, &elements)
}

/// An axis counted from the end where it is negative.
pub fn axis(v: i64, rank: usize) -> Read<usize> {
    let at = if v < 0 { v + rank as i64 } else { v };
    let found = usize::try_from(at).ok().filter(|d| *d < rank);
    found.ok_or_else(|| Fault::invalid(format!("there is no axis {v} of {rank}")))
}

fn to_usize(dims: &[i64]) -> Read<Vec<usize>> {
    let all: Option<Vec<usize>> = dims.iter().map(|d| usize::try_from(*d).ok()).collect();
    all.ok_or_else(|| Fault::invalid(format!("{dims:?} is no shape")))
}

impl Trace<'_> {
    /// Integers of a value; runs the region where it must.
    pub fn ints(&mut self, v: &Val) -> Read<Vec<i64>> {
        Ok(match self.tensor(v)?.elements() {
            Elements::Ints(v) => v.into_iter().map(|v| v as i64).collect(),
            Elements::Floats(v) => v.into_iter().map(|v| v as i64).collect(),
        })
    }

    /// Numbers of a value; runs the region where it must.
    pub fn floats(&mut self, v: &Val) -> Read<Vec<f64>> {
        Ok(self.tensor(v)?.values())
    }

    /// The one integer of a value.
    pub fn int(&mut self, v: &Val) -> Read<i64> {
        self.ints(v)?.first().copied().ok_or_else(|| Fault::invalid("a number that is not there"))
    }

    /// The one number of a value.
    pub fn float(&mut self, v: &Val) -> Read<f64> {
        self.floats(v)?.first().copied().ok_or_else(|| Fault::invalid("a number that is not there"))
    }

    /// A function of one tensor, of its type.
    pub fn un(&mut self, op: &str, x: &Val) -> Read<Val> {
        self.op(op, &[x], &[], x.elem())
    }

    /// A function of two tensors of one type.
    pub fn bin(&mut self, op: &str, x: &Val, y: &Val) -> Read<Val> {
        if x.elem() != y.elem() {
            let (x, y) = (x.elem().name(), y.elem().name());
            return Err(Fault::invalid(format!("'{op}' of {x} and {y}")));
        }
        let elem = if matches!(op, "lt" | "le" | "eq") { Elem::Bool } else { x.elem() };
        self.op(op, &[x, y], &[], elem)
    }

    /// `x op number`.
    pub fn with(&mut self, op: &str, x: &Val, v: f64) -> Read<Val> {
        self.bin(op, x, &number(v, x.elem()))
    }

    /// `number op x`.
    pub fn of(&mut self, op: &str, v: f64, x: &Val) -> Read<Val> {
        self.bin(op, &number(v, x.elem()), x)
    }

    /// x + y.
    pub fn add(&mut self, x: &Val, y: &Val) -> Read<Val> {
        self.bin("add", x, y)
    }

    /// x - y.
    pub fn sub(&mut self, x: &Val, y: &Val) -> Read<Val> {
        self.bin("sub", x, y)
    }

    /// x * y.
    pub fn mul(&mut self, x: &Val, y: &Val) -> Read<Val> {
        self.bin("mul", x, y)
    }

    /// x / y.
    pub fn div(&mut self, x: &Val, y: &Val) -> Read<Val> {
        self.bin("div", x, y)
    }

    /// Whether a truth value is 0.
    pub fn not(&mut self, c: &Val) -> Read<Val> {
        let zero = number(0.0, c.elem());
        self.op("eq", &[c, &zero], &[], Elem::Bool)
    }

    /// x where c, else y.
    pub fn select(&mut self, c: &Val, x: &Val, y: &Val) -> Read<Val> {
        self.op("select", &[c, x, y], &[], x.elem())
    }

    /// x as another type that is computed with.
    pub fn cast(&mut self, x: &Val, to: Elem) -> Read<Val> {
        if x.elem() == to {
            return Ok(x.clone());
        }
        if to == Elem::Bool {
            let zero = self.not(x)?;
            return self.not(&zero);
        }
        if x.elem().dtype() == to.dtype() {
            return Ok(self.rename(x, to));
        }
        self.op("cast", &[x], &[("to", Attr::Str(to.dtype().to_string().into()))], to)
    }

    /// x's elements in another shape.
    pub fn reshape(&mut self, x: &Val, shape: &[usize]) -> Read<Val> {
        if x.shape() == shape {
            return Ok(x.clone());
        }
        if x.len() != shape.iter().product::<usize>() {
            return Err(Fault::invalid(format!("{:?} cannot have the shape {shape:?}", x.shape())));
        }
        if x.is_empty() {
            return Ok(empty(x.elem(), shape));
        }
        let shape: Vec<i64> = shape.iter().map(|d| *d as i64).collect();
        self.op("reshape", &[x], &[("shape", Attr::Ints(shape))], x.elem())
    }

    /// x with its axes in another order.
    pub fn permute(&mut self, x: &Val, axes: &[usize]) -> Read<Val> {
        if axes.iter().enumerate().all(|(i, d)| i == *d) && axes.len() == x.rank() {
            return Ok(x.clone());
        }
        if axes.len() != x.rank() || axes.iter().any(|d| *d >= x.rank()) {
            return Err(Fault::invalid(format!("{axes:?} are not the axes of {:?}", x.shape())));
        }
        if x.is_empty() {
            let shape: Vec<usize> = axes.iter().map(|d| x.shape()[*d]).collect();
            return Ok(empty(x.elem(), &shape));
        }
        let axes = axes.iter().map(|d| *d as i64).collect();
        self.op("permute", &[x], &[("axes", Attr::Ints(axes))], x.elem())
    }

    /// x with two axes exchanged.
    pub fn swap(&mut self, x: &Val, a: usize, b: usize) -> Read<Val> {
        x.extent(a)?;
        x.extent(b)?;
        let mut axes: Vec<usize> = (0..x.rank()).collect();
        axes.swap(a, b);
        self.permute(x, &axes)
    }

    /// x repeated to a shape.
    pub fn spread(&mut self, x: &Val, shape: &[usize]) -> Read<Val> {
        if x.shape() == shape {
            return Ok(x.clone());
        }
        if shape.contains(&0) {
            return Ok(empty(x.elem(), shape));
        }
        let shape: Vec<i64> = shape.iter().map(|d| *d as i64).collect();
        self.op("spread", &[x], &[("shape", Attr::Ints(shape))], x.elem())
    }

    /// Of one axis, `size` positions from `start` on, `step` apart.
    pub fn cut(&mut self, x: &Val, axis: usize, start: i64, size: usize, step: i64) -> Read<Val> {
        self.cuts(x, &[(axis, start, size, step)])
    }

    /// Of several axes: (axis, start, size, step).
    pub fn cuts(&mut self, x: &Val, cuts: &[(usize, i64, usize, i64)]) -> Read<Val> {
        cuts.iter().try_for_each(|c| x.extent(c.0).map(|_| ()))?;
        let whole =
            |(d, start, n, step): &(usize, i64, usize, i64)| *start == 0 && *n == x.shape()[*d] && *step == 1;
        let cuts: Vec<_> = cuts.iter().copied().filter(|c| !whole(c)).collect();
        if cuts.is_empty() {
            return Ok(x.clone());
        }
        if cuts.iter().any(|c| c.2 == 0) || x.is_empty() {
            let mut shape = x.shape().to_vec();
            cuts.iter().for_each(|c| shape[c.0] = c.2);
            return Ok(empty(x.elem(), &shape));
        }
        let ints = |f: &dyn Fn(&(usize, i64, usize, i64)) -> i64| Attr::Ints(cuts.iter().map(f).collect());
        let attrs = [
            ("axes", ints(&|c| c.0 as i64)),
            ("starts", ints(&|c| c.1)),
            ("sizes", ints(&|c| c.2 as i64)),
            ("steps", ints(&|c| c.3)),
        ];
        self.op("slice", &[x], &attrs, x.elem())
    }

    /// x with the positions of an axis in reverse.
    pub fn flip(&mut self, x: &Val, axis: usize) -> Read<Val> {
        let n = x.extent(axis)?;
        self.cut(x, axis, n as i64 - 1, n, -1)
    }

    /// One position of an axis, which is then gone.
    pub fn pick(&mut self, x: &Val, axis: usize, at: usize) -> Read<Val> {
        let part = self.cut(x, axis, at as i64, 1, 1)?;
        let mut shape = x.shape().to_vec();
        shape.remove(axis);
        self.reshape(&part, &shape)
    }

    /// Tensors one behind the other.
    pub fn concat(&mut self, parts: &[Val], axis: usize) -> Read<Val> {
        let Some(first) = parts.first() else { return Err(Fault::invalid("nothing to join")) };
        let mut shape = first.shape().to_vec();
        if axis >= shape.len() || parts.iter().any(|p| p.rank() != shape.len() || p.elem() != first.elem()) {
            return Err(Fault::invalid("the tensors to join differ in rank or type"));
        }
        shape[axis] = parts.iter().map(|p| p.shape()[axis]).sum();
        let full: Vec<&Val> = parts.iter().filter(|p| !p.is_empty()).collect();
        match full[..] {
            [] => Ok(empty(first.elem(), &shape)),
            [one] => Ok(one.clone()),
            _ => self.op("concat", &full, &[("axis", Attr::Int(axis as i64))], first.elem()),
        }
    }

    /// Tensors of one shape along a new axis.
    pub fn stack(&mut self, parts: &[Val], axis: usize) -> Read<Val> {
        let mut all = vec![];
        for p in parts {
            all.push(self.unsqueeze(p, axis)?);
        }
        self.concat(&all, axis)
    }

    /// A new axis of one position.
    pub fn unsqueeze(&mut self, x: &Val, axis: usize) -> Read<Val> {
        let mut shape = x.shape().to_vec();
        if axis > shape.len() {
            return Err(Fault::invalid("a new axis behind the last one"));
        }
        shape.insert(axis, 1);
        self.reshape(x, &shape)
    }

    /// x with positions of a value around it, before and behind each axis; fewer than 0 are cut off.
    pub fn pad(&mut self, x: &Val, low: &[i64], high: &[i64], value: f64) -> Read<Val> {
        self.pad_by(x, low, high, &[], "constant", value)
    }

    /// The same in a mode, with positions between.
    pub fn pad_by(
        &mut self,
        x: &Val,
        low: &[i64],
        high: &[i64],
        interior: &[i64],
        mode: &str,
        value: f64,
    ) -> Read<Val> {
        if low.iter().chain(high).chain(interior).all(|p| *p == 0) {
            return Ok(x.clone());
        }
        let dims: Vec<i64> = x.dims().iter().zip(low.iter().zip(high)).map(|(n, (l, h))| n + l + h).collect();
        if x.is_empty() || (interior.is_empty() && dims.contains(&0)) {
            return Ok(filled(x.elem(), &to_usize(&dims)?, value));
        }
        let value = if x.elem().dtype().is_int() { Attr::Int(value as i64) } else { Attr::Float(value) };
        let attrs = [
            ("low", list(low)),
            ("high", list(high)),
            ("interior", list(interior)),
            ("mode", Attr::Str(mode.into())),
            ("value", value),
        ];
        self.op("pad", &[x], &attrs, x.elem())
    }

    /// A reduction (`sum`, `product`, `maximum`, `minimum`) over axes, which stay as 1 where `keep`.
    pub fn reduce(&mut self, op: &str, x: &Val, axes: &[usize], keep: bool) -> Read<Val> {
        let mut axes = axes.to_vec();
        axes.sort_unstable();
        axes.dedup();
        axes.last().map_or(Ok(0), |d| x.extent(*d))?;
        let mut kept = x.shape().to_vec();
        axes.iter().for_each(|d| kept[*d] = 1);
        let gone: Vec<usize> = (0..x.rank()).filter(|d| !axes.contains(d)).map(|d| x.shape()[d]).collect();
        let shape = if keep { kept } else { gone.clone() };
        if x.is_empty() || axes.is_empty() {
            if axes.is_empty() {
                return Ok(x.clone());
            }
            let identity = match (op, x.elem().is_float()) {
                ("product", _) => 1.0,
                ("maximum", true) => f64::NEG_INFINITY,
                ("minimum", true) => f64::INFINITY,
                ("maximum", _) => limits(x.elem()).0,
                ("minimum", _) => limits(x.elem()).1,
                _ => 0.0,
            };
            return Ok(filled(x.elem(), &shape, identity));
        }
        let axes = Attr::Ints(axes.iter().map(|d| *d as i64).collect());
        let y = self.op(op, &[x], &[("axes", axes)], x.elem())?;
        self.reshape(&y, &shape)
    }

    /// The mean over axes, which stay as 1.
    pub fn mean(&mut self, x: &Val, axes: &[usize], keep: bool) -> Read<Val> {
        let n: usize = axes.iter().map(|d| x.shape()[*d]).product();
        let s = self.reduce("sum", x, axes, keep)?;
        self.with("div", &s, n as f64)
    }

    /// 0, 1, 2, .. of a type.
    pub fn iota(&mut self, n: usize, elem: Elem) -> Read<Val> {
        if n == 0 {
            return Ok(empty(elem, &[0]));
        }
        let to = Attr::Str(elem.dtype().to_string().into());
        self.op("iota", &[], &[("extent", Attr::Int(n as i64)), ("to", to)], elem)
    }

    /// 0, 1, 2, .. along one axis of `rank` axes, the others 1.
    pub fn ramp(&mut self, n: usize, axis: usize, rank: usize, elem: Elem) -> Read<Val> {
        let i = self.iota(n, elem)?;
        let mut shape = vec![1; rank];
        shape[axis] = n;
        self.reshape(&i, &shape)
    }

    /// x along an axis by index.
    pub fn gather(&mut self, x: &Val, by: &Val, axis: usize) -> Read<Val> {
        x.extent(axis)?;
        let shape = [&x.shape()[..axis], by.shape(), &x.shape()[axis + 1..]].concat();
        if shape.contains(&0) {
            return Ok(empty(x.elem(), &shape));
        }
        self.op("gather", &[x, by], &[("axis", Attr::Int(axis as i64))], x.elem())
    }

    /// Rows of `u` put at places of the rows of `x`, both matrices.
    pub fn scatter(&mut self, x: &Val, places: &Val, u: &Val, by: &str) -> Read<Val> {
        if u.is_empty() || x.is_empty() {
            return Ok(x.clone());
        }
        self.op("scatter", &[x, places, u], &[("by", Attr::Str(by.into()))], x.elem())
    }

    /// Products summed over pairs of axes, for each position of a batch: (axis of x, axis of y).
    pub fn dot(&mut self, x: &Val, y: &Val, batch: &[(usize, usize)], sum: &[(usize, usize)]) -> Read<Val> {
        let side = |p: &[(usize, usize)], second: bool| {
            Attr::Ints(p.iter().map(|(i, j)| if second { *j as i64 } else { *i as i64 }).collect())
        };
        if x.is_empty() || y.is_empty() {
            let free = |v: &Val, second: bool| -> Vec<usize> {
                let used =
                    |d: &usize| batch.iter().chain(sum).any(|p| if second { p.1 == *d } else { p.0 == *d });
                (0..v.rank()).filter(|d| !used(d)).map(|d| v.shape()[d]).collect()
            };
            let front: Vec<usize> = batch.iter().map(|p| x.shape()[p.0]).collect();
            return Ok(filled(x.elem(), &[front, free(x, false), free(y, true)].concat(), 0.0));
        }
        let attrs = [
            ("batch_x", side(batch, false)),
            ("batch_y", side(batch, true)),
            ("sum_x", side(sum, false)),
            ("sum_y", side(sum, true)),
        ];
        let of = if (x.elem(), y.elem()) == (Elem::U8, Elem::I8) { Elem::I32 } else { x.elem() };
        self.op("dot", &[x, y], &attrs, of)
    }

    /// The product of matrices in the last two axes, the others broadcast.
    pub fn matmul(&mut self, x: &Val, y: &Val) -> Read<Val> {
        let (mut x, mut y) = (x.clone(), y.clone());
        let (row, column) = (x.rank() == 1, y.rank() == 1);
        if x.rank() == 0 || y.rank() == 0 {
            return Err(Fault::invalid("a matrix product of a single number"));
        }
        if row {
            x = self.unsqueeze(&x, 0)?;
        }
        if column {
            y = self.unsqueeze(&y, 1)?;
        }
        let (rx, ry) = (x.rank(), y.rank());
        if x.shape()[rx - 1] != y.shape()[ry - 2] {
            return Err(Fault::invalid(format!("{:?} and {:?} are no factors", x.shape(), y.shape())));
        }
        let single = x.elem() == Elem::F32 && y.elem() == Elem::F32 && !x.is_empty() && !y.is_empty();
        let half = x.elem() == Elem::BF16 && y.elem() == Elem::BF16 && y.is_constant();
        let mut out = if ry == 2
            && half
            && x.len() >= 16 * y.shape()[0]
            && y.shape()[0] % 2 == 0
            && y.shape()[1] % 16 == 0
        {
            // Weights that are packed once, in pairs as instructions take them.
            let (k, n) = (y.shape()[0], y.shape()[1]);
            let flat = self.reshape(&x, &[x.len() / k, k])?;
            let w = self.permute(&y, &[1, 0])?;
            let z = self.op("matmul", &[&flat, &w], &[], Elem::F32)?;
            let z = self.cast(&z, Elem::BF16)?;
            let shape = [&x.shape()[..rx - 1], &[n]].concat();
            self.reshape(&z, &shape)?
        } else if ry == 2 && single {
            let (k, n) = (y.shape()[0], y.shape()[1]);
            let rows = x.len() / k;
            let flat = self.reshape(&x, &[rows, k])?;
            let z = if rows >= 16 && n % 16 != 0 {
                // Columns that are not packed lie side by side as they are.
                self.dot(&flat, &y, &[], &[(1, 0)])?
            } else {
                // Weights have columns of the result as their rows: the form that is packed.
                let w = self.permute(&y, &[1, 0])?;
                self.op("matmul", &[&flat, &w], &[], Elem::F32)?
            };
            let shape = [&x.shape()[..rx - 1], &[n]].concat();
            self.reshape(&z, &shape)?
        } else {
            let lead = broadcast(&[&x.shape()[..rx - 2], &y.shape()[..ry - 2]])?;
            let x = self.spread(&x, &[&lead[..], &x.shape()[rx - 2..]].concat())?;
            let y = self.spread(&y, &[&lead[..], &y.shape()[ry - 2..]].concat())?;
            let n = lead.len();
            let batch: Vec<(usize, usize)> = (0..n).map(|d| (d, d)).collect();
            self.dot(&x, &y, &batch, &[(n + 1, n)])?
        };
        if row {
            let mut shape = out.shape().to_vec();
            shape.remove(shape.len() - 2);
            out = self.reshape(&out, &shape)?;
        }
        if column {
            let mut shape = out.shape().to_vec();
            shape.pop();
            out = self.reshape(&out, &shape)?;
        }
        Ok(out)
    }

    /// exp(x) / sum of exp(x) over axes, safely; its logarithm where `log`.
    pub fn softmax(&mut self, x: &Val, axes: &[usize], log: bool) -> Read<Val> {
        if let Some(rows) = self.rows(x, axes)? {
            // Casts over the same rows are a part of the same kernel.
            let rows = self.cast(&rows, Elem::F32)?;
            let y = self.op(if log { "log_softmax" } else { "softmax" }, &[&rows], &[], Elem::F32)?;
            let y = self.cast(&y, x.elem())?;
            return self.reshape(&y, x.shape());
        }
        let most = self.reduce("maximum", x, axes, true)?;
        let below = self.sub(x, &most)?;
        let e = self.un("exp", &below)?;
        let sum = self.reduce("sum", &e, axes, true)?;
        if !log {
            return self.div(&e, &sum);
        }
        let sum = self.un("log", &sum)?;
        self.sub(&below, &sum)
    }

    /// The last axes, where these are the ones given, as rows of a matrix; nothing of other types than f32 and bf16.
    pub fn rows(&mut self, x: &Val, axes: &[usize]) -> Read<Option<Val>> {
        let first = x.rank() - axes.len().min(x.rank());
        let last = !axes.is_empty() && axes.iter().copied().eq(first..x.rank());
        if !last || !matches!(x.elem(), Elem::F32 | Elem::BF16) || x.is_empty() {
            return Ok(None);
        }
        let length: usize = x.shape()[first..].iter().product();
        self.reshape(x, &[x.len() / length, length]).map(Some)
    }

    /// The row-major number of an element, along all axes at once: the index of each axis times its step, added up.
    pub fn places(&mut self, index: &[Val], shape: &[usize]) -> Read<Val> {
        if index.len() > shape.len() {
            return Err(Fault::invalid(format!("{} indices of {shape:?}", index.len())));
        }
        let mut all: Option<Val> = None;
        for (d, i) in index.iter().enumerate() {
            let i = self.cast(i, Elem::I64)?;
            let step: usize = shape[d + 1..].iter().product();
            let i = self.with("rem", &i, shape[d] as f64)?;
            let i = self.with("mul", &i, step as f64)?;
            all = Some(match all {
                Some(sum) => self.add(&sum, &i)?,
                None => i,
            });
        }
        Ok(all.unwrap_or_else(|| number(0.0, Elem::I64)))
    }

    /// Clamped between two numbers.
    pub fn clamp(&mut self, x: &Val, low: f64, high: f64) -> Read<Val> {
        let x = self.with("max", x, low)?;
        self.with("min", &x, high)
    }

    /// The smallest whole number that is not below x.
    pub fn ceil(&mut self, x: &Val) -> Read<Val> {
        let x = self.un("neg", x)?;
        let x = self.un("floor", &x)?;
        self.un("neg", &x)
    }

    /// The whole number next to x towards 0.
    pub fn trunc(&mut self, x: &Val) -> Read<Val> {
        let negative = self.with("lt", x, 0.0)?;
        let (up, down) = (self.ceil(x)?, self.un("floor", x)?);
        self.select(&negative, &up, &down)
    }
}

/// The least and the greatest number of a type.
pub fn limits(elem: Elem) -> (f64, f64) {
    match elem {
        Elem::U4 => (0.0, 15.0),
        Elem::I4 => (-8.0, 7.0),
        Elem::U2 => (0.0, 3.0),
        Elem::I2 => (-2.0, 1.0),
        Elem::Bool => (0.0, 1.0),
        Elem::F16 => (-65504.0, 65504.0),
        Elem::F64 => (f64::MIN, f64::MAX),
        e if e.is_float() => (f32::MIN.into(), f32::MAX.into()),
        e => match e.dtype() {
            lathe_ir::DType::Int { signed: true, bits } => {
                let half = f64::from(bits - 1).exp2();
                (-half, half - 1.0)
            }
            t => (0.0, (t.bits() as f64).exp2() - 1.0),
        },
    }
}
