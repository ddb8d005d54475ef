//! Attention and what stands beside it: rotations, gates, states.

use super::{Row, all, one, row};
use crate::build::{constant, filled, number};
use crate::elem::Elem;
use crate::error::Fault;
use crate::model::Reader;
use crate::node::{Item, Node};
use crate::trace::{Read, Trace, Val};
use lathe_ir::Elements;

/// [b, t, h * d] to [b, h, t, d].
fn heads(t: &mut Trace<'_>, x: &Val, heads: usize) -> Read<Val> {
    let [b, steps, width] = x.shape()[..] else { return Err(Fault::invalid("expects three axes")) };
    if heads == 0 || width % heads != 0 {
        return Err(Fault::invalid(format!("{width} columns are no {heads} heads")));
    }
    let y = t.reshape(x, &[b, steps, heads, width / heads])?;
    t.permute(&y, &[0, 2, 1, 3])
}

/// [b, h, t, d] to [b, t, h * d].
fn joined(t: &mut Trace<'_>, x: &Val) -> Read<Val> {
    let y = t.permute(x, &[0, 2, 1, 3])?;
    let [b, steps, h, d] = y.shape()[..] else { return Err(Fault::invalid("expects four axes")) };
    t.reshape(&y, &[b, steps, h * d])
}

/// Each head `times` times.
fn repeated(t: &mut Trace<'_>, x: &Val, times: usize) -> Read<Val> {
    if times <= 1 {
        return Ok(x.clone());
    }
    let [b, h, s, d] = x.shape()[..] else { return Err(Fault::invalid("expects four axes")) };
    let y = t.reshape(x, &[b, h, 1, s, d])?;
    let y = t.spread(&y, &[b, h, times, s, d])?;
    t.reshape(&y, &[b, h * times, s, d])
}

const NEVER: f64 = f64::NEG_INFINITY;

/// 0 where allowed, else minus infinity.
fn barred(t: &mut Trace<'_>, allowed: &Val, elem: Elem) -> Read<Val> {
    t.select(allowed, &number(0.0, elem), &number(NEVER, elem))
}

/// A softmax over the last axis that is 0 in rows where nothing is allowed.
fn softmax(t: &mut Trace<'_>, x: &Val) -> Read<Val> {
    let last = x.rank() - 1;
    let most = t.reduce("maximum", x, &[last], true)?;
    let none = t.with("eq", &most, NEVER)?;
    let most = t.select(&none, &number(0.0, x.elem()), &most)?;
    // Minus infinity is 0 exactly, where an approximate exponential may be slightly above.
    let gone = t.with("eq", x, NEVER)?;
    let e = t.sub(x, &most)?;
    let e = t.un("exp", &e)?;
    let e = t.select(&gone, &number(0.0, x.elem()), &e)?;
    let sum = t.reduce("sum", &e, &[last], true)?;
    let empty = t.with("eq", &sum, 0.0)?;
    let sum = t.select(&empty, &number(1.0, x.elem()), &sum)?;
    t.div(&e, &sum)
}

/// Where the queries of a block stand among the keys: one number, or one for each sequence.
fn offset(t: &mut Trace<'_>, past: Option<&Val>, lengths: Option<&Val>, queries: usize) -> Read<Val> {
    match (past, lengths) {
        (None, Some(l)) => {
            let l = t.cast(l, Elem::I64)?;
            let l = t.with("sub", &l, queries as f64)?;
            t.reshape(&l, &[l.len(), 1, 1, 1])
        }
        (past, _) => {
            let n = past.map_or(0, |p| p.shape()[2]) as i128;
            Ok(constant(Elem::I64, &[], &Elements::Ints(vec![n])))
        }
    }
}

fn attention(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let t = &mut r.trace;
    let (mut q, mut k, mut v) = (n.tensor(0)?.clone(), n.tensor(1)?.clone(), n.tensor(2)?.clone());
    let (elem, flat) = (q.elem(), q.rank() == 3);
    if flat {
        let (hq, hk) = (n.int("q_num_heads", 0).max(0) as usize, n.int("kv_num_heads", 0).max(0) as usize);
        (q, k, v) = (heads(t, &q, hq)?, heads(t, &k, hk)?, heads(t, &v, hk)?);
    }
    if [&q, &k, &v].iter().any(|x| x.rank() != 4) {
        return Err(Fault::invalid("expects tensors of three or four axes"));
    }
    let (past_k, past_v, lengths) = (n.optional(4)?, n.optional(5)?, n.optional(6)?);
    if let (Some(pk), Some(pv)) = (past_k, past_v) {
        k = t.concat(&[pk.clone(), k], 2)?;
        v = t.concat(&[pv.clone(), v], 2)?;
    }
    let (present_k, present_v) = (k.clone(), v.clone());
    let (queries, keys) = (q.shape()[2], k.shape()[2]);

    let mut bias: Option<Val> = None;
    let mut more = |t: &mut Trace<'_>, b: Val| -> Read<()> {
        bias = Some(match bias.take() {
            Some(a) => t.add(&a, &b)?,
            None => b,
        });
        Ok(())
    };
    if let Some(mask) = n.optional(3)? {
        let mut mask = if mask.elem() == Elem::Bool { barred(t, mask, elem)? } else { mask.clone() };
        let lacking = keys.saturating_sub(mask.shape().last().copied().unwrap_or(keys));
        if lacking > 0 {
            let (low, mut high) = (vec![0; mask.rank()], vec![0; mask.rank()]);
            high[mask.rank() - 1] = lacking as i64;
            mask = t.pad(&mask, &low, &high, NEVER)?;
        }
        more(t, mask)?;
    }
    let (left, right) = (n.int("left_window_size", -1), n.int("right_window_size", -1));
    let causal = n.int("is_causal", 0) == 1;
    // Every query sees a key: all of them, or those up to its own place.
    let sees = elem == Elem::F32
        && n.optional(3)?.is_none()
        && lengths.is_none()
        && left < 0
        && right < 0
        && keys > 0;
    if causal || left >= 0 || right >= 0 {
        let first = offset(t, past_k, lengths, queries)?;
        let i = t.ramp(queries, 0, 2, Elem::I64)?;
        let at = t.add(&i, &first)?;
        let j = t.ramp(keys, 1, 2, Elem::I64)?;
        let distance = t.sub(&at, &j)?;
        let mut bars = vec![];
        if causal {
            bars.push(t.of("le", 0.0, &distance)?);
        }
        if left >= 0 {
            bars.push(t.with("le", &distance, left as f64)?);
        }
        if right >= 0 {
            bars.push(t.of("le", -(right as f64), &distance)?);
        }
        for b in bars {
            let b = barred(t, &b, elem)?;
            more(t, b)?;
        }
    }
    if let Some(l) = lengths {
        let l = t.cast(l, Elem::I64)?;
        let l = t.reshape(&l, &[l.len(), 1, 1, 1])?;
        let j = t.ramp(keys, 1, 2, Elem::I64)?;
        let inside = t.bin("lt", &j, &l)?;
        let b = barred(t, &inside, elem)?;
        more(t, b)?;
    }

    let times = q.shape()[1] / k.shape()[1].max(1);
    let (k, v) = (repeated(t, &k, times)?, repeated(t, &v, times)?);
    let scale = n.attr("scale").map_or(1.0 / (q.shape()[3] as f64).sqrt(), |a| f64::from(a.f));
    // Each rounds as it is said to: halves are scaled both by the root.
    let single = elem == Elem::F32;
    let (scaled, keyed) = match single {
        true => (t.with("mul", &q, scale)?, k),
        false => (t.with("mul", &q, scale.sqrt())?, t.with("mul", &k, scale.sqrt())?),
    };
    let columns = t.swap(&keyed, 2, 3)?;
    let mut scores = t.matmul(&scaled, &columns)?;
    let mode = n.int("qk_matmul_output_mode", 0);
    let mut seen = scores.clone();
    let cap = n.float("softcap", 0.0);
    if cap > 0.0 {
        let y = t.with("div", &scores, cap)?;
        let y = t.un("tanh", &y)?;
        scores = t.with("mul", &y, cap)?;
        seen = scores.clone();
    }
    if let Some(b) = &bias {
        scores = t.add(&scores, b)?;
    }
    if mode == 2 {
        seen = scores.clone();
    }
    let wide = n.attr("softmax_precision").map_or(Ok(elem), |a| Elem::of_code(a.i))?;
    let scores = t.cast(&scores, wide)?;
    let shares = if sees && wide == Elem::F32 {
        t.softmax(&scores, &[scores.rank() - 1], false)?
    } else {
        softmax(t, &scores)?
    };
    let shares = t.cast(&shares, elem)?;
    if mode == 3 {
        seen = shares.clone();
    }
    let y = t.matmul(&shares, &v)?;
    let y = if flat { joined(t, &y)? } else { y };
    all([y, present_k, present_v, seen])
}

/// Attention whose scores and shares go through graphs of the node.
fn flex(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (q, k, v) = (n.tensor(0)?, n.tensor(1)?, n.tensor(2)?);
    if [q, k, v].iter().any(|x| x.rank() != 4) {
        return Err(Fault::invalid("expects tensors of four axes"));
    }
    let elem = q.elem();
    let wide = match n.attr("softmax_precision") {
        Some(a) => Elem::of_code(a.i)?,
        None if elem == Elem::F64 => Elem::F64,
        None => Elem::F32,
    };
    let times = q.shape()[1] / k.shape()[1].max(1);
    let (k, v) = (repeated(&mut r.trace, k, times)?, repeated(&mut r.trace, v, times)?);
    let scale = n.attr("scale").map_or(1.0 / (q.shape()[3] as f64).sqrt(), |a| f64::from(a.f));
    let t = &mut r.trace;
    let k = t.swap(&k, 2, 3)?;
    let scores = t.matmul(q, &k)?;
    let scores = t.with("mul", &scores, scale)?;
    let mut x = t.cast(&scores, wide)?;
    if n.attr("score_mod").is_some() {
        x = r.inner(n.graph("score_mod")?, n.scope, vec![x.into()])?[0].tensor()?.clone();
    }
    x = softmax(&mut r.trace, &x)?;
    if n.attr("prob_mod").is_some() {
        x = r.inner(n.graph("prob_mod")?, n.scope, vec![x.into()])?[0].tensor()?.clone();
    }
    let x = r.trace.cast(&x, elem)?;
    one(r.trace.matmul(&x, &v)?)
}

fn rotary(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, t) = (n.tensor(0)?, &mut r.trace);
    // [b, t, h, d] for all.
    let y = match x.rank() {
        4 => t.permute(x, &[0, 2, 1, 3])?,
        3 => {
            let h = n.int("num_heads", 0).max(0) as usize;
            if h == 0 || x.shape()[2] % h != 0 {
                return Err(Fault::invalid("the columns are no whole number of heads"));
            }
            t.reshape(x, &[x.shape()[0], x.shape()[1], h, x.shape()[2] / h])?
        }
        _ => return Err(Fault::invalid("expects three or four axes")),
    };
    let [b, steps, h, d] = y.shape()[..] else { return Err(Fault::invalid("expects four axes")) };
    let turned = match n.int("rotary_embedding_dim", 0) {
        0 => d,
        v => (v.max(0) as usize).min(d),
    };
    let half = turned / 2;
    let mut angle = |i: usize| -> Read<Val> {
        let mut c = n.tensor(i)?.clone();
        if let Some(at) = n.optional(3)? {
            c = t.gather(&c, at, 0)?;
        }
        t.reshape(&c, &[b, steps, 1, half])
    };
    let (cos, sin) = (angle(1)?, angle(2)?);
    let (part, rest) = (t.cut(&y, 3, 0, turned, 1)?, t.cut(&y, 3, turned as i64, d - turned, 1)?);
    let interleaved = n.int("interleaved", 0) == 1;
    let (first, second) = if interleaved {
        (t.cut(&part, 3, 0, half, 2)?, t.cut(&part, 3, 1, half, 2)?)
    } else {
        (t.cut(&part, 3, 0, half, 1)?, t.cut(&part, 3, half as i64, half, 1)?)
    };
    let mut mix = |p: &Val, q: &Val, op: &str| -> Read<Val> {
        let (a, b) = (t.mul(p, &first)?, t.mul(q, &second)?);
        t.bin(op, &a, &b)
    };
    let (real, imaginary) = (mix(&cos, &sin, "sub")?, mix(&sin, &cos, "add")?);
    let part = if interleaved {
        let y = t.stack(&[real, imaginary], 4)?;
        t.reshape(&y, &[b, steps, h, turned])?
    } else {
        t.concat(&[real, imaginary], 3)?
    };
    let y = t.concat(&[part, rest], 3)?;
    one(if x.rank() == 4 { t.permute(&y, &[0, 2, 1, 3])? } else { t.reshape(&y, x.shape())? })
}

/// A state of keys and values, updated at each position and read by its query.
fn linear_attention(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let t = &mut r.trace;
    let elem = n.tensor(0)?.elem();
    let (hq, hk) = (n.int("q_num_heads", 0).max(0) as usize, n.int("kv_num_heads", 0).max(0) as usize);
    let mut wide = |i: usize, h: usize| -> Read<Val> {
        let x = t.cast(n.tensor(i)?, Elem::F32)?;
        heads(t, &x, h)
    };
    let (q, k, v) = (wide(0, hq)?, wide(1, hk)?, wide(2, hk)?);
    let decay = if n.has(4) { Some(wide(4, hk)?) } else { None };
    let beta = if n.has(5) { Some(wide(5, n.tensor(5)?.extent(2)?)?) } else { None };
    let [b, _, steps, dk] = q.shape()[..] else { return Err(Fault::invalid("expects four axes")) };
    let dv = v.shape()[3];
    let past = n.optional(3)?;
    let mut state = match past {
        Some(s) => t.cast(s, Elem::F32)?,
        None => filled(Elem::F32, &[b, hk, dk, dv], 0.0),
    };
    let scale = match n.float("scale", 0.0) {
        0.0 => 1.0 / (dk as f64).sqrt(),
        s => s,
    };
    let mut out = vec![];
    for i in 0..steps {
        let mut at = |x: &Val| t.pick(x, 2, i);
        let (qi, ki, vi) = (at(&q)?, at(&k)?, at(&v)?);
        let gate = decay.as_ref().map(&mut at).transpose()?;
        let rate = beta.as_ref().map(&mut at).transpose()?;
        if let Some(g) = gate {
            let g = t.un("exp", &g)?;
            let g = t.unsqueeze(&g, 3)?;
            state = t.mul(&state, &g)?;
        }
        let mut new = vi;
        if let Some(rate) = rate {
            let kept = t.dot(&state, &ki, &[(0, 0), (1, 1)], &[(2, 2)])?;
            let less = t.sub(&new, &kept)?;
            new = t.mul(&rate, &less)?;
        }
        let (column, line) = (t.unsqueeze(&ki, 3)?, t.unsqueeze(&new, 2)?);
        let product = t.mul(&column, &line)?;
        state = t.add(&state, &product)?;
        let seen = repeated(t, &state, hq / hk.max(1))?;
        let y = t.dot(&qi, &seen, &[(0, 0), (1, 1)], &[(2, 2)])?;
        out.push(t.with("mul", &y, scale)?);
    }
    let y = t.stack(&out, 2)?;
    let y = joined(t, &y)?;
    let y = t.cast(&y, elem)?;
    let state = t.cast(&state, past.map_or(elem, Val::elem))?;
    all([y, state])
}

/// Each channel with its own past, by weights of its own.
fn causal_conv(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let (x, w, t) = (n.tensor(0)?, n.tensor(1)?, &mut r.trace);
    let [b, c, steps] = x.shape()[..] else { return Err(Fault::invalid("expects three axes")) };
    let kept = w.shape().last().copied().unwrap_or(1).max(1) - 1;
    let past = match n.optional(3)? {
        Some(p) => p.clone(),
        None => filled(x.elem(), &[b, c, kept], 0.0),
    };
    let joined = t.concat(&[past, x.clone()], 2)?;
    let mut y = t.op("conv", &[&joined, w], &[("groups", lathe_ir::graph::Attr::Int(c as i64))], x.elem())?;
    if let Some(bias) = n.optional(2)? {
        let bias = t.reshape(bias, &[c, 1])?;
        y = t.add(&y, &bias)?;
    }
    if matches!(n.word("activation", "none"), "silu" | "swish") {
        y = t.un("silu", &y)?;
    }
    let state = t.cut(&joined, 2, steps as i64, kept, 1)?;
    all([y, state])
}

pub(super) const ROWS: &[Row] = &[
    row("Attention", 23, attention),
    Row { domain: "ai.onnx.preview", ..row("FlexAttention", 1, flex) },
    row("RotaryEmbedding", 23, rotary),
    row("LinearAttention", 27, linear_attention),
    row("CausalConvWithState", 27, causal_conv),
    row("SwiGLU", 28, |r, n| {
        let (a, b, t) = (n.tensor(0)?, n.tensor(1)?, &mut r.trace);
        let s = t.with("mul", a, n.float("alpha", 1.0))?;
        let s = t.un("sigmoid", &s)?;
        let s = t.mul(a, &s)?;
        one(t.mul(&s, b)?)
    }),
];
