//! A model that was read once for arguments of some shapes, and is one region for all of them.

use crate::elem::{Array, Elem};
use crate::error::OnnxError;
use crate::model::Value;
use crate::node::Item;
use crate::trace::Runner;
use lathe_ir::{Name, Tensor};
use std::sync::Arc;

/// An argument that the reading hung on: its name, its type and shape, and its elements where it is a few integers.
struct Expected {
    name: String,
    elem: Elem,
    shape: Vec<usize>,
    elements: Option<Vec<u8>>,
}

/// A model as one prepared region.
pub struct Prepared {
    region: usize,
    expected: Vec<Expected>,
    /// Inputs of the region: an argument of the model by its place, or a tensor that follows from the few integers.
    inputs: Vec<(Name, Result<usize, Arc<Tensor>>)>,
    /// Type and place in the region's results of each result.
    outputs: Vec<(Elem, usize)>,
}

impl Prepared {
    pub(crate) fn new(
        region: usize,
        taken: Vec<(Name, Arc<Tensor>)>,
        (elems, places): (Vec<Elem>, Vec<usize>),
        given: &[(String, Value)],
        passed: &[Item],
    ) -> Result<Option<Prepared>, OnnxError> {
        let mut expected = vec![];
        for ((name, v), item) in given.iter().zip(passed) {
            let (Value::Array(a), Ok(v)) = (v, item.tensor()) else { return Ok(None) };
            let elements = v.steers().then(|| a.tensor.bytes.clone());
            expected.push(Expected {
                name: name.clone(),
                elem: a.elem,
                shape: a.tensor.shape.clone(),
                elements,
            });
        }
        let place = |t: &Arc<Tensor>| passed.iter().position(|i| i.tensor().is_ok_and(|v| v.holds(t)));
        let inputs = taken.into_iter().map(|(n, t)| (n, place(&t).ok_or(t))).collect();
        let outputs = elems.into_iter().zip(places).collect();
        Ok(Some(Prepared { region, expected, inputs, outputs }))
    }

    /// Runs it on arguments of the same names, types and shapes, in the same order, whose few integers are the same.
    pub fn run(&self, inputs: &[(String, Value)], runner: &mut dyn Runner) -> Result<Vec<Value>, OnnxError> {
        let mut given = vec![];
        for (i, e) in self.expected.iter().enumerate() {
            let fits = |a: &Array| {
                let elements = e.elements.as_ref().is_none_or(|b| *b == a.tensor.bytes);
                a.elem == e.elem && a.tensor.shape == e.shape && elements
            };
            match inputs.get(i) {
                Some((n, Value::Array(a))) if *n == e.name && fits(a) => given.push(a),
                _ => {
                    let what = format!("'{}' is not as it was when the program was prepared", e.name);
                    return Err(OnnxError::user(what));
                }
            }
        }
        let tensors: Vec<(Name, Arc<Tensor>)> = (self.inputs.iter())
            .map(|(n, from)| {
                let t = match from {
                    Ok(i) => Arc::new(given[*i].tensor.clone()),
                    Err(t) => t.clone(),
                };
                (n.clone(), t)
            })
            .collect();
        let results = runner.call(self.region, &tensors).map_err(|e| e.at(""))?;
        Ok(self.outputs.iter().map(|(e, at)| Value::Array(Array::new(*e, results[*at].clone()))).collect())
    }
}
