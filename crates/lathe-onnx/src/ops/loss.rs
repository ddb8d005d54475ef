//! Losses of classes.

use super::{Row, all, one, row};
use crate::build::number;
use crate::elem::Elem;
use crate::model::Reader;
use crate::node::{Item, Node};
use crate::trace::{Read, Trace, Val};

/// The negative logarithms of the targets' probabilities, weighed and reduced as the node says.
fn likelihood(t: &mut Trace<'_>, n: &Node<'_>, log: &Val, target: &Val, weight: Option<&Val>) -> Read<Val> {
    let (rank, classes) = (log.rank(), log.extent(1)?);
    let target = t.cast(target, Elem::I64)?;
    let ignored = n.attr("ignore_index").map(|a| a.i);
    // [n, 1, ..]: classes are compared along the second axis.
    let at = t.unsqueeze(&target, 1)?;
    let k = t.ramp(classes, 1, rank, Elem::I64)?;
    let on = t.bin("eq", &at, &k)?;
    let zero = number(0.0, log.elem());
    let chosen = t.select(&on, log, &zero)?;
    let loss = t.reduce("sum", &chosen, &[1], false)?;
    let loss = t.un("neg", &loss)?;
    let mut w = match weight {
        Some(w) => {
            let mut shape = vec![1; rank];
            shape[1] = classes;
            let w = t.reshape(w, &shape)?;
            let own = t.select(&on, &w, &zero)?;
            t.reduce("sum", &own, &[1], false)?
        }
        None => t.spread(&number(1.0, log.elem()), target.shape())?,
    };
    if let Some(i) = ignored {
        let gone = t.with("eq", &target, i as f64)?;
        w = t.select(&gone, &zero, &w)?;
    }
    let loss = t.mul(&loss, &w)?;
    let axes: Vec<usize> = (0..loss.rank()).collect();
    match n.word("reduction", "mean") {
        "none" => Ok(loss),
        "sum" => t.reduce("sum", &loss, &axes, false),
        _ => {
            let (sum, total) = (t.reduce("sum", &loss, &axes, false)?, t.reduce("sum", &w, &axes, false)?);
            t.div(&sum, &total)
        }
    }
}

fn cross_entropy(r: &mut Reader<'_>, n: &Node<'_>) -> Read<Vec<Item>> {
    let t = &mut r.trace;
    let log = t.softmax(n.tensor(0)?, &[1], true)?;
    let loss = likelihood(t, n, &log, n.tensor(1)?, n.optional(2)?)?;
    all([loss, log])
}

pub(super) const ROWS: &[Row] = &[
    row("NegativeLogLikelihoodLoss", 12, |r, n| {
        one(likelihood(&mut r.trace, n, n.tensor(0)?, n.tensor(1)?, n.optional(2)?)?)
    }),
    row("SoftmaxCrossEntropyLoss", 12, cross_entropy),
];
