//! The constants of a graph: a file's tensors, each checked against the shape that the configuration asks for.

use std::collections::HashSet;

use lathe_ir::graph::{Graph, Type, ValueId};
use lathe_ir::{DType, Int, Tensor};

use super::error::FamilyErrorKind;
use crate::file::{ModelFile, TensorInfo};
use crate::gguf::{GgmlType, dequantize};

/// What the frequencies are divided by.
const FACTORS: &str = "rope_freqs.weight";

/// The type of a tensor in a graph: dense where it is f32, else its block format.
fn type_of(ty: GgmlType, shape: &[i64]) -> Type {
    let dims: Vec<Int> = shape.iter().map(|d| Int::from(*d)).collect();
    match ty {
        GgmlType::F32 => Type::dense(DType::F32, &dims),
        other => Type::encoded(&other.name().to_ascii_lowercase(), &dims),
    }
}

/// The tensor of this name, if the file has it; its shape must be `expected`.
fn find<'a>(
    file: &'a ModelFile,
    name: &str,
    expected: &[i64],
) -> Result<Option<&'a TensorInfo>, FamilyErrorKind> {
    let Some(info) = file.tensor(name) else { return Ok(None) };
    let found: Vec<i64> = info.shape().iter().map(|d| i64::try_from(*d).unwrap_or(i64::MAX)).collect();
    if found != expected {
        return Err(FamilyErrorKind::Shape { name: name.to_owned(), found, expected: expected.to_vec() });
    }
    Ok(Some(info))
}

/// Adds a file's tensors to a graph.
pub(super) struct Constants<'a> {
    graph: &'a mut Graph,
    file: &'a ModelFile,
    used: HashSet<String>,
}

impl<'a> Constants<'a> {
    pub(super) fn new(graph: &'a mut Graph, file: &'a ModelFile) -> Self {
        Constants { graph, file, used: HashSet::from([FACTORS.to_owned()]) }
    }

    /// Adds a tensor, if the file has it.
    pub(super) fn optional(
        &mut self,
        name: &str,
        expected: &[i64],
    ) -> Result<Option<ValueId>, FamilyErrorKind> {
        let Some(info) = find(self.file, name, expected)? else { return Ok(None) };
        self.used.insert(name.to_owned());
        Ok(Some(self.graph.constant(name, type_of(info.ty(), expected))))
    }

    /// Adds a tensor.
    pub(super) fn required(&mut self, name: &str, expected: &[i64]) -> Result<ValueId, FamilyErrorKind> {
        let missing =
            || FamilyErrorKind::Missing { name: name.to_owned(), expected: Some(expected.to_vec()) };
        self.optional(name, expected)?.ok_or_else(missing)
    }

    /// Checks that no tensor is left: a model that has more computes something else.
    pub(super) fn finish(self) -> Result<(), FamilyErrorKind> {
        match self.file.tensors().iter().find(|t| !self.used.contains(t.name())) {
            Some(t) => Err(FamilyErrorKind::Unused(t.name().to_owned())),
            None => Ok(()),
        }
    }
}

/// The frequencies of the rotations: `1 / base^(2i / dim)`, each rounded as `transformers` rounds it, divided by the
/// file's `rope_freqs` where it has them (the long-context scaling of Llama 3).
pub(super) fn inverse_frequencies(file: &ModelFile, base: f32, dim: i64) -> Result<Tensor, FamilyErrorKind> {
    let half = dim / 2;
    let mut freqs: Vec<f32> = (0..half)
        .map(|i| {
            let exponent = (2 * i) as f32 / dim as f32;
            1.0 / f64::from(base).powf(exponent.into()) as f32
        })
        .collect();
    if let Some(info) = find(file, FACTORS, &[half])? {
        let mut factors = vec![0.0; freqs.len()];
        dequantize(info.ty(), &file.data(info), &mut factors);
        if !factors.iter().all(|f| *f > 0.0 && f.is_finite()) {
            return Err(FamilyErrorKind::Values {
                name: FACTORS.to_owned(),
                what: "holds a factor that is not positive",
            });
        }
        freqs.iter_mut().zip(factors).for_each(|(f, by)| *f /= by);
    }
    Ok(Tensor::f32(&[freqs.len()], &freqs))
}
