//! Steps of optimizers (the preview set).

use super::{Row, row};
use crate::elem::Elem;
use crate::error::Fault;
use crate::model::Reader;
use crate::node::{Item, Node};
use crate::trace::{Read, Trace, Val};

const SET: &str = "ai.onnx.preview.training";

/// The state of each of several tensors, grouped as the node lists them: `kinds` of state behind rate and time.
fn steps(
    r: &mut Reader<'_>,
    n: &Node<'_>,
    kinds: usize,
    step: fn(&mut Trace<'_>, &Node<'_>, &Val, f64, &[Val]) -> Read<Vec<Val>>,
) -> Read<Vec<Item>> {
    let all = n.tensors()?;
    if all.len() < 2 || (all.len() - 2) % kinds != 0 {
        return Err(Fault::invalid("the arguments are no whole number of tensors with their state"));
    }
    let (time, count) = (r.trace.float(&all[1])?, (all.len() - 2) / kinds);
    let mut out = vec![vec![]; kinds];
    for i in 0..count {
        let own: Vec<Val> = (0..kinds).map(|k| all[2 + k * count + i].clone()).collect();
        for (k, v) in step(&mut r.trace, n, &all[0], time, &own)?.into_iter().enumerate() {
            out[k].push(Item::from(v));
        }
    }
    Ok(out.concat())
}

/// The gradient, with that of the weights' size.
fn regular(t: &mut Trace<'_>, n: &Node<'_>, x: &Val, g: &Val) -> Read<Val> {
    let decay = t.with("mul", x, n.float("norm_coefficient", 0.0))?;
    t.add(&decay, g)
}

fn rate(t: &mut Trace<'_>, r: &Val, like: Elem) -> Read<Val> {
    let r = t.reshape(r, &[])?;
    t.cast(&r, like)
}

fn adagrad(t: &mut Trace<'_>, n: &Node<'_>, r: &Val, time: f64, own: &[Val]) -> Read<Vec<Val>> {
    let [x, g, h] = own else { return Ok(vec![]) };
    let r = rate(t, r, x.elem())?;
    let r = t.with("div", &r, 1.0 + time * n.float("decay_factor", 0.0))?;
    let g = regular(t, n, x, g)?;
    let square = t.mul(&g, &g)?;
    let h = t.add(h, &square)?;
    let root = t.un("sqrt", &h)?;
    let root = t.with("add", &root, n.float("epsilon", 1e-6))?;
    let step = t.mul(&r, &g)?;
    let step = t.div(&step, &root)?;
    Ok(vec![t.sub(x, &step)?, h])
}

fn momentum(t: &mut Trace<'_>, n: &Node<'_>, r: &Val, time: f64, own: &[Val]) -> Read<Vec<Val>> {
    let [x, g, v] = own else { return Ok(vec![]) };
    let r = rate(t, r, x.elem())?;
    let g = regular(t, n, x, g)?;
    let (alpha, beta) = (n.float("alpha", 0.9), n.float("beta", 1.0));
    let beta = if time > 0.0 { beta } else { 1.0 };
    let (old, new) = (t.with("mul", v, alpha)?, t.with("mul", &g, beta)?);
    let v = t.add(&old, &new)?;
    let step = if n.word("mode", "standard") == "nesterov" {
        let ahead = t.with("mul", &v, alpha)?;
        t.add(&g, &ahead)?
    } else {
        v.clone()
    };
    let step = t.mul(&r, &step)?;
    Ok(vec![t.sub(x, &step)?, v])
}

fn adam(t: &mut Trace<'_>, n: &Node<'_>, r: &Val, time: f64, own: &[Val]) -> Read<Vec<Val>> {
    let [x, g, v, h] = own else { return Ok(vec![]) };
    let r = rate(t, r, x.elem())?;
    let g = regular(t, n, x, g)?;
    let (alpha, beta) = (n.float("alpha", 0.9), n.float("beta", 0.999));
    let (a, b) = (t.with("mul", v, alpha)?, t.with("mul", &g, 1.0 - alpha)?);
    let v = t.add(&a, &b)?;
    let square = t.mul(&g, &g)?;
    let (a, b) = (t.with("mul", h, beta)?, t.with("mul", &square, 1.0 - beta)?);
    let h = t.add(&a, &b)?;
    let warm = if time > 0.0 { (1.0 - beta.powf(time)).sqrt() / (1.0 - alpha.powf(time)) } else { 1.0 };
    let r = t.with("mul", &r, warm)?;
    let root = t.un("sqrt", &h)?;
    let root = t.with("add", &root, n.float("epsilon", 1e-6))?;
    let step = t.mul(&r, &v)?;
    let step = t.div(&step, &root)?;
    let x = t.sub(x, &step)?;
    let x = t.with("mul", &x, 1.0 - n.float("norm_coefficient_post", 0.0))?;
    Ok(vec![x, v, h])
}

pub(super) const ROWS: &[Row] = &[
    Row { domain: SET, ..row("Adagrad", 1, |r, n| steps(r, n, 3, adagrad)) },
    Row { domain: SET, ..row("Momentum", 1, |r, n| steps(r, n, 3, momentum)) },
    Row { domain: SET, ..row("Adam", 1, |r, n| steps(r, n, 4, adam)) },
];
