//! A tensor of a model file, and how its bytes come from those that are stored.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::bytes::Bytes;
use super::quantized::{Nf4, Quantized};
use crate::gguf::{GgmlType, dequantize};

/// A tensor's entry in a model file.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    pub(crate) name: String,
    pub(crate) dims: Vec<usize>,
    pub(crate) ty: GgmlType,
    pub(crate) view: View,
}

impl TensorInfo {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Dimensions in GGUF's order, innermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// The row-major shape: outermost first.
    pub fn shape(&self) -> Vec<usize> {
        self.dims.iter().rev().copied().collect()
    }

    /// The element type.
    pub fn ty(&self) -> GgmlType {
        self.ty
    }

    /// How many elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// How many bytes its values take in this type.
    pub fn byte_len(&self) -> usize {
        // Whoever made the entry has checked that it is whole blocks.
        self.ty.bytes_for(self.elements()).unwrap_or(0)
    }

    /// Whether its bytes lie in a file as they are, and need not be made.
    pub fn is_stored(&self) -> bool {
        matches!(self.view, View::Stored { .. })
    }
}

/// How the bytes of a tensor come from those in the files.
#[derive(Clone, Debug)]
pub(crate) enum View {
    /// A range of a file's bytes.
    Stored { file: usize, range: Range<usize> },
    /// Computed when the model was opened.
    Given(Arc<[u8]>),
    /// One behind the other.
    Joined(Vec<View>),
    /// A matrix of elements of `width` bytes, stored with its `rows` and `columns` in each other's place.
    Transposed { view: Box<View>, rows: usize, columns: usize, width: usize },
    /// Values of another type as f32, each plus `add`.
    Widened { view: Box<View>, from: GgmlType, add: f32 },
    /// 4-bit codes of AWQ or GPTQ, in an encoding that holds their values exactly.
    Quantized { matrix: Box<Quantized>, ty: GgmlType },
    /// Codes of bitsandbytes.
    Nf4(Nf4),
}

impl View {
    /// The bytes.
    pub(crate) fn bytes<'a>(&'a self, files: &'a [Bytes]) -> Cow<'a, [u8]> {
        match self {
            View::Stored { file, range } => {
                Cow::Borrowed(files.get(*file).and_then(|f| f.get(range.clone())).unwrap_or_default())
            }
            View::Given(bytes) => Cow::Borrowed(bytes),
            View::Joined(views) => {
                let mut all = vec![];
                views.iter().for_each(|v| all.extend_from_slice(&v.bytes(files)));
                Cow::Owned(all)
            }
            View::Transposed { view, rows, columns, width } => {
                let stored = view.bytes(files);
                let mut out = Vec::with_capacity(stored.len());
                for row in 0..*rows {
                    for column in 0..*columns {
                        let at = (column * rows + row) * width;
                        out.extend_from_slice(&stored[at..at + width]);
                    }
                }
                Cow::Owned(out)
            }
            View::Widened { view, from, add } => {
                let stored = view.bytes(files);
                let mut values = vec![0.0; stored.len() / from.block_bytes() * from.block_len()];
                dequantize(*from, &stored, &mut values);
                Cow::Owned(values.into_iter().flat_map(|x| (x + add).to_le_bytes()).collect())
            }
            View::Quantized { matrix, ty } => Cow::Owned(matrix.bytes(*ty, files)),
            View::Nf4(matrix) => Cow::Owned(matrix.bytes(files)),
        }
    }

    /// Calls `on` with each range of a file that it is made of.
    pub(crate) fn ranges(&self, on: &mut dyn FnMut(usize, &Range<usize>)) {
        match self {
            View::Stored { file, range } => on(*file, range),
            View::Given(_) => {}
            View::Joined(views) => views.iter().for_each(|v| v.ranges(on)),
            View::Transposed { view, .. } | View::Widened { view, .. } => view.ranges(on),
            View::Quantized { matrix, .. } => matrix.places().for_each(|p| on(p.file, &p.range)),
            View::Nf4(Nf4 { codes, largest }) => {
                [codes, largest].into_iter().for_each(|p| on(p.file, &p.range));
            }
        }
    }
}
