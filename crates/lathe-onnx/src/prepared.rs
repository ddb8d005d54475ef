//! A model that was read once for arguments of some shapes, and is one region for all of them.
//!
//! Its text says one thing a line, in fields with single spaces between: `argument NAME ELEM SHAPE`, with its elements behind
//! where the reading hung on them; `input NAME PLACE`, an argument of the model, or `input NAME DTYPE SHAPE BYTES`, which follows
//! from such elements; `result NAME ELEM PLACE`. Shapes are `2x3`, bytes hexadecimal; in names `%` and what is no printable ASCII
//! is `%` and two hexadecimal digits for each byte.

use crate::elem::{Array, Elem};
use crate::error::{Fault, OnnxError};
use crate::model::Value;
use crate::node::Item;
use crate::trace::Runner;
use lathe_ir::{DType, Name, Tensor};
use std::fmt::Write;
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
    /// Name, type, and place in the region's results of each result.
    outputs: Vec<(String, Elem, usize)>,
}

impl Prepared {
    pub(crate) fn new(
        region: usize,
        taken: Vec<(Name, Arc<Tensor>)>,
        outputs: Vec<(String, Elem, usize)>,
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
        Ok(Some(Prepared { region, expected, inputs, outputs }))
    }

    /// Names of what a run takes.
    pub fn inputs(&self) -> Vec<&str> {
        self.expected.iter().map(|e| e.name.as_str()).collect()
    }

    /// Names of what a run gives.
    pub fn outputs(&self) -> Vec<&str> {
        self.outputs.iter().map(|(name, ..)| name.as_str()).collect()
    }

    /// Runs it on arguments of the same names, types and shapes, in the same order, whose few integers are the same. The memory of
    /// `spent` results, of a run before, is used again.
    pub fn run(
        &self,
        inputs: &[(String, Value)],
        spent: Vec<Value>,
        runner: &mut dyn Runner,
    ) -> Result<Vec<Value>, OnnxError> {
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
                    Ok(i) => &given[*i].tensor,
                    Err(t) => t,
                };
                (n.clone(), t.clone())
            })
            .collect();
        let unused = |v: Value| match v {
            Value::Array(a) => Arc::try_unwrap(a.tensor).ok(),
            _ => None,
        };
        let spent = spent.into_iter().filter_map(unused).collect();
        let mut results = runner.call(self.region, &tensors, spent).map_err(|e| e.at(""))?;
        // The last one that gives a result takes it.
        let mut out = vec![];
        for (i, (_, e, at)) in self.outputs.iter().enumerate() {
            let again = self.outputs[i + 1..].iter().any(|o| o.2 == *at);
            let none = Tensor { shape: vec![], dtype: results[*at].dtype, encoding: None, bytes: vec![] };
            let t = if again { results[*at].clone() } else { std::mem::replace(&mut results[*at], none) };
            out.push(Value::Array(Array::new(*e, t)));
        }
        Ok(out)
    }

    /// Its text, which [`Prepared::parse`] reads.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for e in &self.expected {
            let _ = write!(out, "argument {} {} {}", escaped(&e.name), e.elem.name(), shape(&e.shape));
            e.elements.iter().for_each(|bytes| out.push_str(&format!(" {}", hex(bytes))));
            out.push('\n');
        }
        for (name, from) in &self.inputs {
            let _ = match from {
                Ok(place) => writeln!(out, "input {name} {place}"),
                Err(t) => writeln!(out, "input {name} {} {} {}", t.dtype, shape(&t.shape), hex(&t.bytes)),
            };
        }
        for (name, elem, place) in &self.outputs {
            let _ = writeln!(out, "result {} {} {place}", escaped(name), elem.name());
        }
        out
    }

    /// The model of a text, whose region is the first of its runner's, of so many results.
    pub fn parse(text: &str, results: usize) -> Result<Prepared, OnnxError> {
        let mut p = Prepared { region: 0, expected: vec![], inputs: vec![], outputs: vec![] };
        for (i, line) in text.lines().enumerate() {
            p.line(line, results).ok_or_else(|| {
                Fault::invalid(format!("line {} of the stored program's interface is malformed", i + 1))
                    .at("")
            })?;
        }
        Ok(p)
    }

    fn line(&mut self, line: &str, results: usize) -> Option<()> {
        let fields: Vec<&str> = line.split(' ').collect();
        match *fields.as_slice() {
            ["argument", name, elem, shape, ref elements @ ..] if elements.len() < 2 => {
                let elements = match elements {
                    [bytes] => Some(unhex(bytes)?),
                    _ => None,
                };
                let (name, elem) = (unescaped(name)?, Elem::named(elem)?);
                self.expected.push(Expected { name, elem, shape: extents(shape)?, elements });
            }
            ["input", name, place] => {
                let place = place.parse().ok().filter(|i| *i < self.expected.len())?;
                self.inputs.push((name.into(), Ok(place)));
            }
            ["input", name, dtype, shape, bytes] => {
                let (shape, dtype) = (extents(shape)?, DType::parse(dtype)?);
                let t = Tensor { shape, dtype, encoding: None, bytes: unhex(bytes)? };
                self.inputs.push((name.into(), Err(Arc::new(t))));
            }
            ["result", name, elem, place] => {
                let place = place.parse().ok().filter(|i| *i < results)?;
                self.outputs.push((unescaped(name)?, Elem::named(elem)?, place));
            }
            _ => return None,
        }
        Some(())
    }
}

fn shape(extents: &[usize]) -> String {
    let all: Vec<String> = extents.iter().map(ToString::to_string).collect();
    all.join("x")
}

fn extents(shape: &str) -> Option<Vec<usize>> {
    shape.split('x').filter(|_| !shape.is_empty()).map(|n| n.parse().ok()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pair = |p: &[u8]| u8::from_str_radix(std::str::from_utf8(p).ok()?, 16).ok();
    text.len().is_multiple_of(2).then(|| text.as_bytes().chunks_exact(2).map(pair).collect()).flatten()
}

fn escaped(name: &str) -> String {
    let one = |b: u8| match b {
        b'!'..=b'~' if b != b'%' => char::from(b).to_string(),
        _ => format!("%{b:02x}"),
    };
    name.bytes().map(one).collect()
}

fn unescaped(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.extend(unhex(part.get(..2)?)?);
        bytes.extend(part.get(2..)?.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_back() {
        let t = Tensor { shape: vec![2], dtype: DType::INDEX, encoding: None, bytes: (0..16).collect() };
        let argument = |name: &str, shape: &[usize], elements| Expected {
            name: name.into(),
            elem: Elem::I64,
            shape: shape.into(),
            elements,
        };
        let p = Prepared {
            region: 0,
            expected: vec![argument("", &[], None), argument("a b%\n\u{e9}", &[2, 3], Some(vec![0, 255]))],
            inputs: vec![("x0".into(), Ok(1)), ("x1".into(), Err(Arc::new(t)))],
            outputs: vec![("y y".into(), Elem::F32, 0)],
        };
        let text = p.text();
        let read = Prepared::parse(&text, 1).expect("it is whole");
        assert_eq!((read.text(), read.inputs(), read.outputs()), (text.clone(), p.inputs(), p.outputs()));
        // Whatever is cut off or changed is refused or reads as what it says, and ends in no panic.
        for at in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
            let _ = Prepared::parse(&text[..at], 1);
            let _ = Prepared::parse(&format!("{}z{}", &text[..at], &text[at..]), 1);
        }
        assert!(Prepared::parse(&text, 0).is_err() && Prepared::parse("input x0 0\n", 1).is_err());
    }
}
