//! A file's tensors, each checked against the shape that the configuration asks for.

use lathe_ir::graph::Type;
use lathe_ir::{DType, Int};

use super::error::FamilyErrorKind;
use crate::file::{ModelFile, TensorInfo};
use crate::gguf::{GgmlType, dequantize};

/// The type of a tensor in a graph: dense where it is f32, else its block format.
pub(super) fn type_of(ty: GgmlType, shape: &[i64]) -> Type {
    let dims: Vec<Int> = shape.iter().map(|d| Int::from(*d)).collect();
    match ty {
        GgmlType::F32 => Type::dense(DType::F32, &dims),
        GgmlType::I32 => Type::dense(DType::I32, &dims),
        other => Type::encoded(&other.encoding(), &dims),
    }
}

/// The tensor of this name, if the file has it; its shape must be `expected`.
pub(super) fn find<'a>(
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

/// The numbers of a vector, if the file has it; all must be positive.
pub(super) fn positive_numbers(
    file: &ModelFile,
    name: &str,
    length: i64,
) -> Result<Option<Vec<f32>>, FamilyErrorKind> {
    let Some(info) = find(file, name, &[length])? else { return Ok(None) };
    let mut values = vec![0.0; info.shape().iter().product()];
    dequantize(info.ty(), &file.data(info), &mut values);
    if values.iter().all(|f| *f > 0.0 && f.is_finite()) {
        return Ok(Some(values));
    }
    Err(FamilyErrorKind::Values { name: name.to_owned(), what: "holds a factor that is not positive" })
}
