//! Cases of the `onnx` package as folders: a model, and sets of inputs with the outputs that are expected.

use crate::elem::{Array, Elem};
use crate::error::{Fault, OnnxError};
use crate::model::{Model, Value};
use crate::proto;
use crate::trace::Runner;
use lathe_ir::Elements;
use prost::Message;
use std::path::{Path, PathBuf};

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All outputs are as expected.
    Passed,
    /// Lathe says that it does not have something.
    Unsupported(String),
    /// An output differs, or the run failed.
    Failed(String),
}

fn none(_: &str, _: u64, _: Option<u64>) -> Result<Vec<u8>, String> {
    Err("a case is one file".into())
}

fn array(t: &proto::Tensor) -> Result<Value, Fault> {
    Ok(Value::Array(Array::of_message(t, &none)?))
}

fn sequence(s: &proto::Sequence) -> Result<Value, Fault> {
    let mut all: Vec<Value> = s.tensor_values.iter().map(array).collect::<Result<_, _>>()?;
    for inner in &s.sequence_values {
        all.push(sequence(inner)?);
    }
    for inner in &s.optional_values {
        all.push(optional(inner)?);
    }
    Ok(Value::Sequence(all))
}

fn optional(o: &proto::Optional) -> Result<Value, Fault> {
    let inner = match (&o.tensor_value, &o.sequence_value, &o.optional_value) {
        (Some(t), ..) => Some(array(t)?),
        (_, Some(s), _) => Some(sequence(s)?),
        (.., Some(o)) => Some(optional(o)?),
        _ => None,
    };
    Ok(Value::Optional(inner.map(Box::new)))
}

/// The value of a message, whose kind the model's type of it says.
pub fn value(bytes: &[u8], ty: Option<&proto::Type>) -> Result<Value, OnnxError> {
    let bad = |e: prost::DecodeError| Fault::invalid(format!("a value is damaged: {e}"));
    let read = || -> Result<Value, Fault> {
        if ty.is_some_and(|t| t.sequence_type.is_some()) {
            return sequence(&proto::Sequence::decode(bytes).map_err(bad)?);
        }
        if ty.is_some_and(|t| t.optional_type.is_some()) {
            return optional(&proto::Optional::decode(bytes).map_err(bad)?);
        }
        array(&proto::Tensor::decode(bytes).map_err(bad)?)
    };
    read().map_err(|e| e.at(""))
}

/// Runs a case, all its sets of data.
pub fn run(folder: &Path, runner: &mut dyn Runner) -> Outcome {
    match check(folder, runner) {
        Ok(()) => Outcome::Passed,
        Err(e) => e,
    }
}

fn check(folder: &Path, runner: &mut dyn Runner) -> Result<(), Outcome> {
    let failed = |what: String| Outcome::Failed(what);
    let read = |path: PathBuf| std::fs::read(&path).map_err(|e| failed(format!("{}: {e}", path.display())));
    let of = |e: OnnxError| {
        if e.is_unsupported() { Outcome::Unsupported(e.to_string()) } else { Outcome::Failed(e.to_string()) }
    };
    let (mut rtol, mut atol) = (1e-3, 1e-7);
    if let Ok(text) = std::fs::read_to_string(folder.join("tolerance")) {
        let mut numbers = text.split_whitespace().filter_map(|s| s.parse::<f64>().ok());
        (rtol, atol) = (numbers.next().unwrap_or(rtol), numbers.next().unwrap_or(atol));
    }
    let model = Model::parse(&read(folder.join("model.onnx"))?, &none).map_err(of)?;
    for set in 0.. {
        let data = folder.join(format!("test_data_set_{set}"));
        if !data.is_dir() {
            return if set > 0 { Ok(()) } else { Err(failed("there is no data".into())) };
        }
        let mut inputs = vec![];
        for (i, (name, ty)) in model.inputs().into_iter().enumerate() {
            let path = data.join(format!("input_{i}.pb"));
            inputs.push((name.to_string(), value(&read(path)?, ty).map_err(of)?));
        }
        let got = model.run(&inputs, runner).map_err(of)?;
        for (i, ((name, ty), got)) in model.outputs().into_iter().zip(&got).enumerate() {
            let path = data.join(format!("output_{i}.pb"));
            let want = value(&read(path)?, ty).map_err(of)?;
            differs(got, &want, rtol, atol).map_or(Ok(()), |d| Err(failed(format!("'{name}': {d}"))))?;
        }
    }
    Ok(())
}

/// How a value differs from the expected one, if it does.
fn differs(got: &Value, want: &Value, rtol: f64, atol: f64) -> Option<String> {
    match (got, want) {
        (Value::Array(a), Value::Array(b)) => arrays_differ(a, b, rtol, atol),
        (Value::Sequence(a), Value::Sequence(b)) if a.len() == b.len() => {
            a.iter().zip(b).find_map(|(a, b)| differs(a, b, rtol, atol))
        }
        (Value::Optional(Some(a)), Value::Optional(Some(b))) => differs(a, b, rtol, atol),
        (a, Value::Optional(Some(b))) => differs(a, b, rtol, atol),
        (Value::Optional(None), Value::Optional(None)) => None,
        _ => Some("another kind or length".into()),
    }
}

fn arrays_differ(a: &Array, b: &Array, rtol: f64, atol: f64) -> Option<String> {
    if a.elem != b.elem || a.tensor.shape != b.tensor.shape {
        let (x, y) = (&a.tensor.shape, &b.tensor.shape);
        return Some(format!("{} {x:?}, not {} {y:?}", a.elem.name(), b.elem.name()));
    }
    if a.elem == Elem::Str {
        return (a.text != b.text).then(|| "another text".into());
    }
    let near =
        |x: f64, y: f64| x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= atol + rtol * y.abs();
    match (a.tensor.elements(), b.tensor.elements()) {
        (Elements::Ints(x), Elements::Ints(y)) => {
            let at = (0..x.len()).find(|i| x[*i] != y[*i])?;
            let n = (0..x.len()).filter(|i| x[*i] != y[*i]).count();
            Some(format!("element {at} is {}, not {} ({n} of {} differ)", x[at], y[at], x.len()))
        }
        (x, y) => {
            let (x, y) = (x.floats(), y.floats());
            let at = (0..x.len()).find(|i| !near(x[*i], y[*i]))?;
            let n = (0..x.len()).filter(|i| !near(x[*i], y[*i])).count();
            Some(format!("element {at} is {}, not {} ({n} of {} differ)", x[at], y[at], x.len()))
        }
    }
}
