//! Recurrent layers, one position after the other.

use super::{Row, row};
use crate::build::filled;
use crate::elem::Elem;
use crate::error::Fault;
use crate::model::Reader;
use crate::node::{Item, Node};
use crate::ops::elementwise::activation;
use crate::trace::{Read, Trace, Val};

/// An activation with its parameters.
#[derive(Clone)]
struct Act(String, Option<f64>, Option<f64>);

/// What all recurrent layers share: one direction's weights and how it runs.
struct Layer<'a> {
    /// Weights of the input [gates * h, in] and of the state [gates * h, h].
    w: Val,
    r: Val,
    /// Biases of the two, [gates * h].
    bias: Option<(Val, Val)>,
    acts: Vec<Act>,
    clip: Option<f64>,
    hidden: usize,
    node: &'a Node<'a>,
    /// Weights from the cell to the gates, [3 * h].
    peepholes: Option<Val>,
}

impl Layer<'_> {
    fn act(&self, t: &mut Trace<'_>, i: usize, x: &Val) -> Read<Val> {
        let Act(name, alpha, beta) = &self.acts[i];
        let x = match self.clip {
            Some(c) => t.clamp(x, -c, c)?,
            None => x.clone(),
        };
        activation(t, name, &x, *alpha, *beta)
    }

    /// Rows of a weight that belong to a gate.
    fn gate(&self, t: &mut Trace<'_>, v: &Val, i: usize) -> Read<Val> {
        t.cut(v, 0, (i * self.hidden) as i64, self.hidden, 1)
    }

    /// x w' + bias for one gate, of the input (`true`) or of the state.
    fn product(&self, t: &mut Trace<'_>, x: &Val, i: usize, input: bool) -> Read<Val> {
        let w = self.gate(t, if input { &self.w } else { &self.r }, i)?;
        let y = t.dot(x, &w, &[], &[(1, 1)])?;
        let Some((a, b)) = &self.bias else { return Ok(y) };
        let b = self.gate(t, if input { a } else { b }, i)?;
        t.add(&y, &b)
    }

    fn both(&self, t: &mut Trace<'_>, x: &Val, h: &Val, i: usize) -> Read<Val> {
        let (a, b) = (self.product(t, x, i, true)?, self.product(t, h, i, false)?);
        t.add(&a, &b)
    }

    fn peep(&self, t: &mut Trace<'_>, y: Val, c: &Val, i: usize) -> Read<Val> {
        let Some(p) = &self.peepholes else { return Ok(y) };
        let p = self.gate(t, p, i)?;
        let p = t.mul(&p, c)?;
        t.add(&y, &p)
    }
}

/// The next state (and cell) from a position's input.
type Step = fn(&mut Trace<'_>, &Layer<'_>, &Val, &Val, &Val) -> Read<(Val, Val)>;

fn rnn_step(t: &mut Trace<'_>, l: &Layer<'_>, x: &Val, h: &Val, c: &Val) -> Read<(Val, Val)> {
    let y = l.both(t, x, h, 0)?;
    Ok((l.act(t, 0, &y)?, c.clone()))
}

fn gru_step(t: &mut Trace<'_>, l: &Layer<'_>, x: &Val, h: &Val, c: &Val) -> Read<(Val, Val)> {
    let (z, r) = (l.both(t, x, h, 0)?, l.both(t, x, h, 1)?);
    let (z, r) = (l.act(t, 0, &z)?, l.act(t, 0, &r)?);
    let input = l.product(t, x, 2, true)?;
    let past = if l.node.int("linear_before_reset", 0) != 0 {
        let past = l.product(t, h, 2, false)?;
        t.mul(&r, &past)?
    } else {
        let kept = t.mul(&r, h)?;
        l.product(t, &kept, 2, false)?
    };
    let new = t.add(&input, &past)?;
    let new = l.act(t, 1, &new)?;
    let rest = t.of("sub", 1.0, &z)?;
    let (a, b) = (t.mul(&rest, &new)?, t.mul(&z, h)?);
    Ok((t.add(&a, &b)?, c.clone()))
}

fn lstm_step(t: &mut Trace<'_>, l: &Layer<'_>, x: &Val, h: &Val, c: &Val) -> Read<(Val, Val)> {
    // Gates stand as input, output, forget, cell; peepholes as input, output, forget.
    let i = l.both(t, x, h, 0)?;
    let i = l.peep(t, i, c, 0)?;
    let i = l.act(t, 0, &i)?;
    let f = if l.node.int("input_forget", 0) != 0 {
        t.of("sub", 1.0, &i)?
    } else {
        let f = l.both(t, x, h, 2)?;
        let f = l.peep(t, f, c, 2)?;
        l.act(t, 0, &f)?
    };
    let new = l.both(t, x, h, 3)?;
    let new = l.act(t, 1, &new)?;
    let (a, b) = (t.mul(&f, c)?, t.mul(&i, &new)?);
    let cell = t.add(&a, &b)?;
    let o = l.both(t, x, h, 1)?;
    let o = l.peep(t, o, &cell, 1)?;
    let o = l.act(t, 0, &o)?;
    let seen = l.act(t, 2, &cell)?;
    Ok((t.mul(&o, &seen)?, cell))
}

/// One direction: the states at all positions, and the last state and cell.
fn direction(
    t: &mut Trace<'_>,
    l: &Layer<'_>,
    x: &Val,
    (h, c): (Val, Val),
    lengths: Option<&Val>,
    backward: bool,
    step: Step,
) -> Read<(Val, Val, Val)> {
    let (steps, batch) = (x.shape()[0], x.shape()[1]);
    let (mut h, mut c) = (h, c);
    let mut out = vec![h.clone(); steps];
    for k in 0..steps {
        let i = if backward { steps - 1 - k } else { k };
        let xi = t.pick(x, 0, i)?;
        let (mut next, mut cell) = step(t, l, &xi, &h, &c)?;
        let mut shown = next.clone();
        if let Some(n) = lengths {
            // Behind a sequence's end its state stays, and what is shown is 0.
            let inside = t.of("lt", i as f64, n)?;
            let inside = t.reshape(&inside, &[batch, 1])?;
            (next, cell) = (t.select(&inside, &next, &h)?, t.select(&inside, &cell, &c)?);
            shown = t.select(&inside, &shown, &crate::build::number(0.0, x.elem()))?;
        }
        (h, c) = (next, cell);
        out[i] = shown;
    }
    Ok((t.stack(&out, 0)?, h, c))
}

/// Names of activations, `defaults` for each direction where none are said.
fn activations(n: &Node<'_>, defaults: &[&str], directions: usize) -> Vec<Act> {
    let names: Vec<String> = match n.attr("activations") {
        Some(a) if !a.strings.is_empty() => {
            a.strings.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect()
        }
        _ => (0..directions).flat_map(|_| defaults.iter().map(|s| (*s).to_string())).collect(),
    };
    let (mut alpha, mut beta) = (
        n.floats("activation_alpha").unwrap_or_default().into_iter(),
        n.floats("activation_beta").unwrap_or_default().into_iter(),
    );
    let takes = |name: &str, list: &[&str]| list.contains(&name.to_ascii_lowercase().as_str());
    names
        .into_iter()
        .map(|name| {
            let with = ["affine", "leakyrelu", "elu", "thresholdedrelu", "scaledtanh", "hardsigmoid"];
            let a = if takes(&name, &with) { alpha.next() } else { None };
            let b = if takes(&name, &["affine", "scaledtanh", "hardsigmoid"]) { beta.next() } else { None };
            Act(name, a, b)
        })
        .collect()
}

fn recurrent(
    r: &mut Reader<'_>,
    n: &Node<'_>,
    gates: usize,
    defaults: &[&str],
    step: Step,
) -> Read<Vec<Item>> {
    let t = &mut r.trace;
    let (w, rw) = (n.tensor(1)?, n.tensor(2)?);
    let hidden = rw.shape().last().copied().unwrap_or(0);
    let lstm = gates == 4;
    let batch_first = n.int("layout", 0) == 1;
    let x = if batch_first { t.swap(n.tensor(0)?, 0, 1)? } else { n.tensor(0)?.clone() };
    let [_, batch, _] = x.shape()[..] else { return Err(Fault::invalid("expects three axes")) };
    let word = n.word("direction", "forward");
    let directions = if word == "bidirectional" { 2 } else { 1 };
    if w.rank() != 3 || rw.rank() != 3 || w.shape()[0] != directions || w.shape()[1] != gates * hidden {
        return Err(Fault::invalid("the weights do not fit the layer"));
    }
    let lengths = match n.optional(4)? {
        Some(l) => Some(t.cast(l, Elem::I64)?),
        None => None,
    };
    let acts = activations(n, defaults, directions);
    if acts.len() != directions * defaults.len() {
        return Err(Fault::invalid("the activations do not fit the layer"));
    }
    let (mut ys, mut hs, mut cs) = (vec![], vec![], vec![]);
    for d in 0..directions {
        let start = |t: &mut Trace<'_>, i: usize| -> Read<Val> {
            match n.optional(i)? {
                Some(v) if lstm || i == 5 => t.pick(v, usize::from(batch_first), d),
                _ => Ok(filled(x.elem(), &[batch, hidden], 0.0)),
            }
        };
        let bias = match n.optional(3)? {
            Some(b) => {
                let b = t.pick(b, 0, d)?;
                let m = gates * hidden;
                Some((t.cut(&b, 0, 0, m, 1)?, t.cut(&b, 0, m as i64, m, 1)?))
            }
            None => None,
        };
        let peepholes = if lstm { n.optional(7)?.map(|p| t.pick(p, 0, d)).transpose()? } else { None };
        let layer = Layer {
            w: t.pick(w, 0, d)?,
            r: t.pick(rw, 0, d)?,
            bias,
            acts: acts[d * defaults.len()..][..defaults.len()].to_vec(),
            clip: n.attr("clip").map(|a| f64::from(a.f)),
            hidden,
            node: n,
            peepholes,
        };
        let (h, c) = (start(t, 5)?, start(t, 6)?);
        let backward = word == "reverse" || d == 1;
        let (y, h, c) = direction(t, &layer, &x, (h, c), lengths.as_ref(), backward, step)?;
        ys.push(y);
        hs.push(h);
        cs.push(c);
    }
    // [t, directions, b, h], or [b, t, directions, h]; the states [directions, b, h], or [b, directions, h].
    let mut out = vec![t.stack(&ys, 1)?, t.stack(&hs, 0)?];
    if lstm {
        out.push(t.stack(&cs, 0)?);
    }
    if batch_first {
        out[0] = t.permute(&out[0], &[2, 0, 1, 3])?;
        for v in &mut out[1..] {
            *v = t.swap(v, 0, 1)?;
        }
    }
    super::all(out)
}

pub(super) const ROWS: &[Row] = &[
    row("RNN", 7, |r, n| recurrent(r, n, 1, &["Tanh"], rnn_step)),
    row("GRU", 7, |r, n| recurrent(r, n, 3, &["Sigmoid", "Tanh"], gru_step)),
    row("LSTM", 7, |r, n| recurrent(r, n, 4, &["Sigmoid", "Tanh", "Tanh"], lstm_step)),
];
