//! A model's file in other types: tensor by tensor, in pieces that the threads share, so that a model larger than memory passes
//! through.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{self, Write};
use std::ops::AddAssign;
use std::path::Path;
use std::sync::Arc;

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use thiserror::Error;

use super::int8::Int8;
use super::quantize;
use super::rounded::{Rounded, Stored};
use super::types::file_type;
use crate::families::{FamilyError, in_layer, neighbours_in_gguf, row_in_halves};
use crate::file::{Format, ModelFile, TensorInfo};
use crate::gguf::{GgmlType, GgufError, GgufWriter, dequantize};

/// Values of a piece, about.
const PIECE: usize = 1 << 17;
/// Values are cut at multiples of this, the longest block.
const UNIT: usize = 256;

/// A model that cannot be quantized.
#[derive(Debug, Error)]
pub enum QuantizeError {
    /// The new file cannot be written.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The order of its rows is not known.
    #[error(transparent)]
    Family(#[from] FamilyError),
    /// A weight that no type of blocks can hold.
    #[error("tensor '{tensor}' holds {value}, which is no weight")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// The value.
        value: f32,
    },
    /// A weight beyond the type's range.
    #[error("tensor '{tensor}' holds {value}, which is too large for {ty}")]
    TooLarge {
        /// The tensor.
        tensor: String,
        /// The value.
        value: f32,
        /// The type.
        ty: GgmlType,
    },
    /// A tensor that is scaled by another.
    #[error("tensor '{tensor}' holds integers, whose scales lie apart")]
    Integers {
        /// The tensor.
        tensor: String,
    },
    /// The model is compiled.
    #[error("a compiled model has no tensors to quantize")]
    Compiled,
    /// It was stopped.
    #[error("stopped")]
    Stopped,
}

impl Diagnose for QuantizeError {
    fn diagnostic(&self) -> Diagnostic {
        let d = |code, fault| Diagnostic::new(code, fault, self.to_string());
        match self {
            QuantizeError::Gguf(e) => e.diagnostic(),
            QuantizeError::Family(e) => e.diagnostic(),
            QuantizeError::NotFinite { .. } => d("quantize-weight", Fault::File)
                .fix("get the model again, or convert it again with a current converter"),
            QuantizeError::TooLarge { tensor, .. } => {
                d("quantize-range", Fault::User).fix(format!("keep it wider: --keep '{tensor}=bf16'"))
            }
            QuantizeError::Integers { .. } => {
                d("quantize-integers", Fault::User).fix("quantize the model that this one was made from")
            }
            QuantizeError::Compiled => {
                d("quantize-compiled", Fault::User).fix("give the GGUF file or the folder it was made from")
            }
            QuantizeError::Stopped => d("quantize-stopped", Fault::User),
        }
    }
}

/// What a tensor lost: sums over its values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// How many values.
    pub values: usize,
    /// Of the values.
    pub sum: f64,
    /// Of their squares.
    pub squares: f64,
    /// Of the squares of their errors.
    pub error: f64,
}

impl Loss {
    /// What is lost where values become others.
    pub(crate) fn of(values: &[f32], others: &[f32]) -> Loss {
        let mut loss = Loss { values: values.len(), ..Loss::default() };
        for (x, y) in values.iter().zip(others) {
            let (x, error) = (f64::from(*x), f64::from(y - x));
            loss.sum += x;
            loss.squares += x * x;
            loss.error += error * error;
        }
        loss
    }

    /// The mean squared error relative to the variance of the values; 0 where nothing is lost.
    pub fn relative(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { self.error / self.variance() }
    }

    /// The variance of the values, times their number.
    pub fn variance(&self) -> f64 {
        (self.squares - self.sum * self.sum / self.values as f64).max(f64::MIN_POSITIVE)
    }
}

impl Written {
    /// The type of its blocks, or of its bytes.
    pub fn ty(&self) -> GgmlType {
        match self {
            Written::As(ty) => *ty,
            Written::Rounded(rounded) => rounded.ty(),
            Written::Int8(_) => GgmlType::I8,
        }
    }
}

impl AddAssign for Loss {
    fn add_assign(&mut self, other: Loss) {
        self.values += other.values;
        self.sum += other.sum;
        self.squares += other.squares;
        self.error += other.error;
    }
}

/// Reads a tensor's values in the order in which GGUF files have its rows.
pub(super) struct Rows<'a> {
    file: &'a ModelFile,
    info: &'a TensorInfo,
    /// Rows of half a head, where a head's rows must become neighbours.
    half: Option<usize>,
}

impl<'a> Rows<'a> {
    /// In the order in which they are stored.
    pub(super) fn stored(file: &'a ModelFile, info: &'a TensorInfo) -> Result<Rows<'a>, QuantizeError> {
        match GgmlType::INTEGERS.contains(&info.ty()) {
            true => Err(QuantizeError::Integers { tensor: info.name().to_owned() }),
            false => Ok(Rows { file, info, half: None }),
        }
    }

    pub(super) fn of(file: &'a ModelFile, info: &'a TensorInfo) -> Result<Rows<'a>, QuantizeError> {
        let Rows { mut half, .. } = Rows::stored(file, info)?;
        if file.format() == Format::Safetensors {
            let heads = neighbours_in_gguf(file)
                .map_err(|kind| FamilyError { path: file.path().map(Into::into), kind })?;
            let name = info.name();
            let product = name.strip_suffix(".weight").or(name.strip_suffix(".bias")).unwrap_or(name);
            let heads = match (heads, in_layer(product)) {
                (Some([queries, _]), "attn_q") => queries,
                (Some([_, keys]), "attn_k") => keys,
                _ => 0,
            };
            let rows = info.dims().last().copied().unwrap_or(1);
            half = (rows / 2).checked_div(heads).filter(|half| *half > 0);
        }
        Ok(Rows { file, info, half })
    }

    /// Values that lie side by side in the file, a multiple of which is a piece.
    fn unit(&self) -> usize {
        match self.half {
            Some(_) => self.info.elements() / self.info.dims().last().copied().unwrap_or(1),
            None => UNIT,
        }
    }

    /// The bytes of `len` values from one on, of the tensor's in this type.
    fn bytes<'b>(&self, ty: GgmlType, data: &'b [u8], start: usize, len: usize) -> Cow<'b, [u8]> {
        let bytes = |start: usize, len: usize| {
            let at = start / ty.block_len() * ty.block_bytes();
            &data[at..at + len / ty.block_len() * ty.block_bytes()]
        };
        let Some(half) = self.half else { return Cow::Borrowed(bytes(start, len)) };
        let width = self.unit();
        let rows = start / width..(start + len) / width;
        let row = |row: usize| bytes(row_in_halves(row, half) * width, width);
        Cow::Owned(rows.flat_map(row).copied().collect())
    }

    /// All values, which must be finite.
    pub(super) fn values(&self) -> Result<Vec<f32>, QuantizeError> {
        let (data, total) = (self.file.data(self.info), self.info.elements());
        let mut values = vec![0.0; total];
        dequantize(self.info.ty(), &self.bytes(self.info.ty(), &data, 0, total), &mut values);
        self.finite(&values)?;
        Ok(values)
    }

    fn finite(&self, values: &[f32]) -> Result<(), QuantizeError> {
        match values.iter().copied().find(|x| !x.is_finite()) {
            Some(value) => Err(QuantizeError::NotFinite { tensor: self.info.name().to_owned(), value }),
            None => Ok(()),
        }
    }

    /// Quantizes a piece: its bytes and what it lost.
    fn piece(
        &self,
        data: &[u8],
        start: usize,
        len: usize,
        ty: GgmlType,
    ) -> Result<(Vec<u8>, Loss), QuantizeError> {
        let stored = self.bytes(self.info.ty(), data, start, len);
        let mut values = vec![0.0; len];
        dequantize(self.info.ty(), &stored, &mut values);
        self.finite(&values)?;
        let (mut bytes, mut decoded) = (vec![], vec![0.0; len]);
        match ty == self.info.ty() {
            true => bytes.extend_from_slice(&stored),
            false => quantize(ty, &values, &mut bytes),
        }
        dequantize(ty, &bytes, &mut decoded);
        if let Some((x, _)) = values.iter().zip(&decoded).find(|(_, y)| !y.is_finite()) {
            return Err(QuantizeError::TooLarge { tensor: self.info.name().to_owned(), value: *x, ty });
        }
        Ok((bytes, Loss::of(&values, &decoded)))
    }

    /// Quantizes the tensor, several pieces at a time, and gives `out` the bytes of each; `progress` is told how many values
    /// there are so far, and says whether to go on.
    fn all(
        &self,
        ty: GgmlType,
        threads: usize,
        out: &mut dyn FnMut(&[u8]) -> Result<(), QuantizeError>,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Loss, QuantizeError> {
        let data = self.file.data(self.info);
        let total = self.info.elements();
        let size = self.unit() * PIECE.div_ceil(self.unit());
        let starts: Vec<usize> = (0..total).step_by(size).collect();
        let mut loss = Loss::default();
        for starts in starts.chunks(threads) {
            let piece = |start: usize| self.piece(&data, start, size.min(total - start), ty);
            let pieces: Vec<Result<(Vec<u8>, Loss), QuantizeError>> = std::thread::scope(|scope| {
                let others: Vec<_> = starts[1..].iter().map(|s| scope.spawn(move || piece(*s))).collect();
                let first = piece(starts[0]);
                let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                };
                std::iter::once(first).chain(others.into_iter().map(join)).collect()
            });
            for piece in pieces {
                let (bytes, lost) = piece?;
                out(&bytes)?;
                loss += lost;
            }
            if !progress(loss.values) {
                return Err(QuantizeError::Stopped);
            }
        }
        self.file.drop_pages(self.info);
        Ok(loss)
    }
}

/// Values of a tensor that an estimate looks at, about, and in how many places.
const SAMPLE: usize = 1 << 15;
const PLACES: usize = 8;

/// About what a tensor would lose in each of these types, from a sample of its values spread over it.
pub fn estimate_losses(
    file: &ModelFile,
    info: &TensorInfo,
    types: &[GgmlType],
    threads: usize,
) -> Result<Vec<Loss>, QuantizeError> {
    let (rows, data, total) = (Rows { file, info, half: None }, file.data(info), info.elements());
    let size = (SAMPLE / PLACES).min(total);
    let places = if total > SAMPLE { PLACES } else { total.div_ceil(size) };
    let sampled = |ty: GgmlType| {
        let mut loss = Loss::default();
        for place in 0..places {
            // Pieces that meet may have some values in common; the last is cut off at the end.
            let start = (total - size) * place / (places - 1).max(1) / UNIT * UNIT;
            loss += rows.piece(&data, start, size.min(total - start), ty)?.1;
        }
        let all = total as f64 / loss.values as f64;
        let (sum, squares, error) = (loss.sum * all, loss.squares * all, loss.error * all);
        Ok(Loss { values: total, sum, squares, error })
    };
    let mut losses = vec![];
    for types in types.chunks(threads) {
        std::thread::scope(|scope| {
            let each: Vec<_> = types.iter().map(|ty| scope.spawn(|| sampled(*ty))).collect();
            losses.extend(
                each.into_iter()
                    .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))),
            );
        });
    }
    file.drop_pages(info);
    losses.into_iter().collect()
}

/// The model with one tensor, of a plain type, holding the values that another type would leave of it, and what that loses.
pub fn with_quantized(
    file: &ModelFile,
    index: usize,
    ty: GgmlType,
    threads: usize,
) -> Result<(ModelFile, Loss), QuantizeError> {
    let info = &file.tensors()[index];
    let mut bytes = Vec::with_capacity(info.byte_len());
    let mut push = |piece: &[u8]| {
        let mut values = vec![0.0; piece.len() / ty.block_bytes() * ty.block_len()];
        dequantize(ty, piece, &mut values);
        quantize(info.ty(), &values, &mut bytes);
        Ok(())
    };
    let loss = Rows { file, info, half: None }.all(ty, threads, &mut push, &mut |_| true)?;
    Ok((file.with_data(index, bytes), loss))
}

/// What a tensor is written as.
#[derive(Clone, Debug, PartialEq)]
pub enum Written {
    /// A tensor of this type.
    As(GgmlType),
    /// Blocks of a type that were found before.
    Rounded(Arc<Rounded>),
    /// Bytes, with their scales and perhaps outliers in tensors beside it.
    Int8(Int8),
}

/// Writes the model in `file` as a GGUF file with its tensors so, in the order of `file.tensors()`, to `path`, under a
/// temporary name until it is whole. Queries and keys of a safetensors folder get the order that GGUF files have.
///
/// The memory it takes is that of the largest tensor, where it must be made from what is stored, and a few MiB for each
/// thread; of one that becomes bytes, its values in f32. `progress` is told which tensor is being done and how many of its values
/// are, and says whether to go on.
pub fn quantize_file(
    file: &ModelFile,
    written: &[Written],
    threads: usize,
    path: &Path,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Vec<Loss>, QuantizeError> {
    if file.format() == Format::Compiled {
        return Err(QuantizeError::Compiled);
    }
    // What the tensors' producers share: each is called in turn.
    struct State<'a> {
        losses: Vec<Loss>,
        progress: &'a mut dyn FnMut(usize, usize) -> bool,
        error: Option<QuantizeError>,
        /// Parts of a matrix of bytes that are still to be written, the last first.
        parts: Vec<Vec<u8>>,
    }
    let state = RefCell::new(State { losses: vec![], progress, error: None, parts: vec![] });
    let mut writer = GgufWriter::new();
    let replaced = ["general.file_type", "general.quantization_version"];
    file.copy_metadata(&mut writer, &replaced);
    let bytes_in = |ty: GgmlType| {
        let of = |(i, w): (&TensorInfo, &Written)| if w.ty() == ty { i.elements() } else { 0 };
        file.tensors().iter().zip(written).map(of).sum::<usize>()
    };
    let types = written.iter().map(Written::ty).filter(|ty| *ty != GgmlType::I8);
    let most = types.max_by_key(|ty| bytes_in(*ty)).unwrap_or(GgmlType::F32);
    writer.u32(replaced[0], file_type(most)).u32(replaced[1], 2);
    for (index, (info, written)) in file.tensors().iter().zip(written).enumerate() {
        let rows = Rows::of(file, info)?;
        let state = &state;
        let failed = |e: QuantizeError| {
            state.borrow_mut().error = Some(e);
            io::Error::other("the tensor cannot be made")
        };
        let ty = match written {
            Written::As(ty) => *ty,
            Written::Rounded(rounded) => {
                let produce = move |out: &mut dyn Write| {
                    let mut state = state.borrow_mut();
                    state.losses.push(rounded.loss);
                    let values = rounded.loss.values;
                    if let Stored::Blocks(ty, bytes) = &rounded.stored {
                        out.write_all(&rows.bytes(*ty, bytes, 0, values))?;
                    }
                    match (state.progress)(index, values) {
                        true => Ok(()),
                        false => {
                            state.error = Some(QuantizeError::Stopped);
                            Err(io::Error::other("stopped"))
                        }
                    }
                };
                writer.tensor_with(info.name(), &info.shape(), rounded.ty(), produce);
                continue;
            }
            Written::Int8(int8) => {
                let (stem, shape) = (info.name().trim_end_matches("weight"), info.shape());
                let (height, width) = (shape[0], shape[1]);
                let mut rows = Some(rows);
                for (part, ty, shape) in int8.parts(height, width) {
                    let rows = rows.take();
                    writer.tensor_with(&format!("{stem}{part}"), &shape, ty, move |out: &mut dyn Write| {
                        if let Some(rows) = rows {
                            let values = rows.values().map_err(failed)?;
                            let (mut parts, loss) = int8.quantize(&values, width);
                            file.drop_pages(info);
                            parts.reverse();
                            let mut state = state.borrow_mut();
                            state.losses.push(loss);
                            state.parts = parts;
                            if !(state.progress)(index, values.len()) {
                                state.error = Some(QuantizeError::Stopped);
                                return Err(io::Error::other("stopped"));
                            }
                        }
                        let part = state.borrow_mut().parts.pop().unwrap_or_default();
                        out.write_all(&part)
                    });
                }
                continue;
            }
        };
        let produce = move |out: &mut dyn Write| {
            let mut written: io::Result<()> = Ok(());
            let mut borrowed = state.borrow_mut();
            let State { losses, progress, .. } = &mut *borrowed;
            let mut write = |bytes: &[u8]| {
                written = out.write_all(bytes);
                // The writer says what went wrong.
                if written.is_ok() { Ok(()) } else { Err(QuantizeError::Stopped) }
            };
            match rows.all(ty, threads, &mut write, &mut |values| progress(index, values)) {
                Ok(loss) => losses.push(loss),
                Err(_) if written.is_err() => return written,
                Err(e) => {
                    drop(borrowed);
                    return Err(failed(e));
                }
            }
            Ok(())
        };
        writer.tensor_with(info.name(), &info.shape(), ty, produce);
    }
    let written = writer.write(path);
    let state = state.into_inner();
    match state.error {
        Some(error) => Err(error),
        None => written.map(|()| state.losses).map_err(Into::into),
    }
}
