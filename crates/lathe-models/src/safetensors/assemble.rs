//! From stored tensors to those that families know: renamed, stacked, transposed and widened as GGUF has them.

use std::collections::{BTreeMap, HashMap};

use super::error::SafetensorsErrorKind as Kind;
use super::names::{Form, Names, Target};
use super::quantization::Quantization;
use crate::file::{Bytes, Place, TensorInfo, View};
use crate::gguf::GgmlType;

/// A tensor as it lies in a file; ranges are checked.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub name: String,
    pub dtype: String,
    /// Outermost first.
    pub shape: Vec<usize>,
    pub place: Place,
}

/// A tensor on its way: its shape outermost first.
pub(super) struct Part {
    pub name: String,
    pub shape: Vec<usize>,
    pub ty: GgmlType,
    pub view: View,
}

/// What the folder's settings say of its tensors.
pub(super) struct Rules {
    pub names: Names,
    /// Norms are stored as what is added to one.
    pub norms_less_one: bool,
    /// The output matrix is the embedding's, whatever is stored for it.
    pub tied: bool,
    pub quantization: Option<Quantization>,
}

impl Stored {
    pub(super) fn part(&self) -> Result<Part, Kind> {
        let ty = match &*self.dtype {
            "F32" => GgmlType::F32,
            "F16" => GgmlType::F16,
            "BF16" => GgmlType::BF16,
            other => {
                let what = format!("is in {other}, which is not supported yet (F32, F16 and BF16 are)");
                return Err(Kind::tensor(&self.name, what));
            }
        };
        if self.shape.contains(&0) {
            return Err(Kind::tensor(&self.name, format!("has an empty dimension: {:?}", self.shape)));
        }
        let Place { file, range } = self.place.clone();
        Ok(Part {
            name: self.name.clone(),
            shape: self.shape.clone(),
            ty,
            view: View::Stored { file, range },
        })
    }
}

/// All tensors under GGUF's names, in the order of their names there.
pub(super) fn assemble(stored: &[Stored], rules: &Rules, files: &[Bytes]) -> Result<Vec<TensorInfo>, Kind> {
    let mut parts = vec![];
    let rest: Vec<&Stored> = match &rules.quantization {
        Some(q) => q.take(stored, files, &mut parts)?,
        None => stored.iter().collect(),
    };
    for s in rest {
        // What a family leaves out may be in any type.
        if !rules.names.targets(&s.name).is_empty() {
            parts.push(s.part()?);
        }
    }
    let mut stacks: BTreeMap<String, BTreeMap<usize, Part>> = BTreeMap::new();
    let mut done: HashMap<String, TensorInfo> = HashMap::new();
    let mut order = vec![];
    let mut finish = |name: String, part: Part| {
        let source = part.name.clone();
        let info = info(name, part, rules.norms_less_one);
        order.push(info.name.clone());
        match done.insert(info.name.clone(), info) {
            Some(twice) => Err(Kind::tensor(&source, format!("is one of two for '{}'", twice.name))),
            None => Ok(()),
        }
    };
    for part in parts {
        for Target { name, expert, form } in rules.names.targets(&part.name) {
            if rules.tied && name == "output.weight" {
                continue;
            }
            let part = shaped(&part, form)?;
            match expert {
                None => finish(name, part)?,
                Some(expert) => {
                    let source = part.name.clone();
                    if stacks.entry(name).or_default().insert(expert, part).is_some() {
                        return Err(Kind::tensor(&source, format!("is one of two for expert {expert}")));
                    }
                }
            }
        }
    }
    for (name, experts) in stacks {
        let part = stack(&name, experts)?;
        finish(name, part)?;
    }
    Ok(order.into_iter().filter_map(|name| done.remove(&name)).collect())
}

/// A part in the form that its row asks for.
fn shaped(part: &Part, form: Form) -> Result<Part, Kind> {
    let Part { name, shape, ty, view } = part;
    let make = |shape: Vec<usize>, view: View| Part { name: name.clone(), shape, ty: *ty, view };
    let wrong = |what: &str| Err(Kind::tensor(name, format!("has shape {shape:?}, where {what} is needed")));
    match (form, &shape[..], view) {
        (Form::Plain | Form::Left, ..) => Ok(make(shape.clone(), view.clone())),
        // Biases stay.
        (Form::Transposed, [_], _) => Ok(make(shape.clone(), view.clone())),
        (Form::Transposed, [rows, columns], View::Stored { .. }) => {
            let (width, view) = (ty.block_bytes(), Box::new(view.clone()));
            let view = View::Transposed { view, rows: *columns, columns: *rows, width };
            Ok(make(vec![*columns, *rows], view))
        }
        (Form::Row, [1, columns], _) => Ok(make(vec![*columns], view.clone())),
        (Form::Half(which), [experts, rows, columns], View::Stored { file, range })
            if rows.is_multiple_of(2) =>
        {
            let half = rows / 2 * columns * ty.block_bytes();
            let one = |e: usize| {
                let start = range.start + (2 * e + which) * half;
                View::Stored { file: *file, range: start..start + half }
            };
            Ok(make(vec![*experts, rows / 2, *columns], View::Joined((0..*experts).map(one).collect())))
        }
        (Form::Half(_), ..) => wrong("one of experts, an even number of rows, and columns"),
        (Form::Row, ..) => wrong("one row"),
        _ => wrong("a matrix"),
    }
}

/// Experts, one behind the other.
fn stack(name: &str, experts: BTreeMap<usize, Part>) -> Result<Part, Kind> {
    let count = experts.len();
    let mut parts = experts.into_iter();
    let Some((0, first)) = parts.next() else {
        return Err(Kind::tensor(name, "has no expert 0"));
    };
    let mut views = vec![first.view];
    for (number, part) in parts {
        if number != views.len() {
            return Err(Kind::tensor(name, format!("has no expert {} (of {count} or more)", views.len())));
        }
        if (&part.shape, part.ty) != (&first.shape, first.ty) {
            let what = format!(
                "is {} {:?}, the expert before it {} {:?}",
                part.ty, part.shape, first.ty, first.shape
            );
            return Err(Kind::tensor(&part.name, what));
        }
        views.push(part.view);
    }
    let shape = [vec![count], first.shape].concat();
    Ok(Part { name: first.name, shape, ty: first.ty, view: View::Joined(views) })
}

/// The finished entry: vectors are f32 as in every GGUF file, and norms are whole.
fn info(name: String, part: Part, norms_less_one: bool) -> TensorInfo {
    let Part { shape, mut ty, mut view, .. } = part;
    let add = if norms_less_one && name.ends_with("norm.weight") { 1.0 } else { 0.0 };
    if shape.len() < 2 && (ty != GgmlType::F32 || add != 0.0) {
        view = View::Widened { view: Box::new(view), from: ty, add };
        ty = GgmlType::F32;
    }
    TensorInfo { name, dims: shape.into_iter().rev().collect(), ty, view }
}
