//! A model file, whatever its format: metadata by GGUF's keys, tensors by GGUF's names, bytes straight from the memory map
//! wherever they are stored as they are used.
//!
//! Everything that comes from files is untrusted: a [`ModelFile`] exists only when every count, string, type and byte range
//! in it has been checked, so that its users never need to.

mod bytes;
mod error;
mod quantized;
mod tensor;

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use bytes::Bytes;
pub use error::FileError;
pub(crate) use quantized::{Nf4, Packing, Place, Quantized};
pub use tensor::TensorInfo;
pub(crate) use tensor::View;

use crate::artifact;
use crate::gguf::{self, FromMetadata, GgufError, GgufErrorKind};
use crate::safetensors;

/// An open model, checked from end to end; a clone is another handle to the same mappings.
#[derive(Clone, Debug)]
pub struct ModelFile(Arc<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    path: Option<PathBuf>,
    format: Format,
    metadata: gguf::Metadata,
    files: Vec<Bytes>,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    sections: HashMap<String, Range<usize>>,
}

/// The format of a model file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// GGUF, of this version.
    Gguf(u32),
    /// A folder with `config.json` and `.safetensors` files. Queries and keys are as `transformers` has them: they rotate by
    /// halves, also where the GGUF files of the family have neighbours rotate.
    Safetensors,
    /// What `lathe compile` writes: metadata, and sections in place of tensors.
    Compiled,
}

/// What a format's reader found.
pub(crate) struct Content {
    pub format: Format,
    pub metadata: gguf::Metadata,
    /// The files that views refer to, by index.
    pub files: Vec<Bytes>,
    /// All tensors; names differ.
    pub tensors: Vec<TensorInfo>,
    /// Other parts of the first file; names differ.
    pub sections: Vec<(String, Range<usize>)>,
}

impl ModelFile {
    /// Maps and checks the model at `path`: a GGUF file, any part of a split one, or a folder of safetensors (or the
    /// `.safetensors` file or index in it), or a compiled model.
    ///
    /// The files must not be shortened while they are open: the system then ends the process at the first access.
    pub fn open(path: impl AsRef<Path>) -> Result<ModelFile, FileError> {
        let path = path.as_ref();
        let content = match safetensors::folder(path) {
            Some(folder) => safetensors::open(&folder)?,
            None if artifact::is_artifact(path) => artifact::open(path)?,
            None => gguf::open(path)?,
        };
        Ok(ModelFile::new(Some(path), content))
    }

    /// Reads a GGUF file that is in memory already.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<ModelFile, GgufError> {
        Ok(ModelFile::new(None, gguf::from_bytes(bytes)?))
    }

    fn new(path: Option<&Path>, content: Content) -> ModelFile {
        let Content { format, metadata, files, tensors, sections } = content;
        let by_name = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        let path = path.map(Path::to_owned);
        let sections = sections.into_iter().collect();
        ModelFile(Arc::new(Inner { path, format, metadata, files, tensors, by_name, sections }))
    }

    /// Where the model lies, unless it came from memory.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.0.format
    }

    /// How many files hold its tensors.
    pub fn files(&self) -> usize {
        self.0.files.len()
    }

    /// The length of these files together, bytes.
    pub fn file_bytes(&self) -> usize {
        self.0.files.iter().map(|f| f.len()).sum()
    }

    /// The metadata value at `key` as a `T` (`u32`, `u64`, `i32`, `f32`, `bool`, a `Vec` of these, `&str` or
    /// [`StrArray`](gguf::StrArray)); an integer of any width serves where it fits.
    pub fn get<'a, T: FromMetadata<'a>>(&'a self, key: &str) -> Result<T, GgufError> {
        match self.find(key)? {
            Some(value) => Ok(value),
            None => Err(self.error(GgufErrorKind::MissingKey(key.to_owned()))),
        }
    }

    /// Like [`get`](Self::get), but `None` where the file does not have the key.
    pub fn find<'a, T: FromMetadata<'a>>(&'a self, key: &str) -> Result<Option<T>, GgufError> {
        self.0.metadata.find(key).map_err(|kind| self.error(kind))
    }

    /// The integer at `key`.
    pub fn get_u32(&self, key: &str) -> Result<u32, GgufError> {
        self.get(key)
    }

    /// The floating-point number at `key`.
    pub fn get_f32(&self, key: &str) -> Result<f32, GgufError> {
        self.get(key)
    }

    /// The string at `key`.
    pub fn get_str(&self, key: &str) -> Result<&str, GgufError> {
        self.get(key)
    }

    /// The metadata keys, sorted.
    pub fn keys(&self) -> Vec<&str> {
        self.0.metadata.keys()
    }

    /// All tensors, in the files' order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.0.tensors
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.0.by_name.get(name).map(|&i| &self.0.tensors[i])
    }

    /// A tensor's bytes, in its type's encoding; made at each call where they are not stored so.
    pub fn data<'a>(&'a self, info: &'a TensorInfo) -> Cow<'a, [u8]> {
        info.view.bytes(&self.0.files)
    }

    /// The mapping in which a tensor's bytes lie as they are, and where; `None` for any other tensor.
    pub fn mapping(&self, info: &TensorInfo) -> Option<(Arc<memmap2::Mmap>, Range<usize>)> {
        let View::Stored { file, range } = &info.view else { return None };
        match self.0.files.get(*file)? {
            Bytes::Mapped(map) if range.end <= map.len() => Some((map.clone(), range.clone())),
            _ => None,
        }
    }

    /// A section of a compiled model by its name: the mapping, and where it lies there.
    pub fn section(&self, name: &str) -> Option<(Arc<memmap2::Mmap>, Range<usize>)> {
        match (self.0.files.first()?, self.0.sections.get(name)?) {
            (Bytes::Mapped(map), range) => Some((map.clone(), range.clone())),
            (Bytes::Owned(_), _) => None,
        }
    }

    /// Copies the metadata to `writer`, but for what says how a file is laid out, and the keys in `without`.
    pub fn copy_metadata(&self, writer: &mut gguf::GgufWriter<'_>, without: &[&str]) {
        let layout = |key: &str| key == "general.alignment" || key.starts_with("split.");
        for key in self.keys().into_iter().filter(|key| !layout(key) && !without.contains(key)) {
            self.0.metadata.copy(key, writer);
        }
    }

    /// The same model with all tensors of blocks as f32, which are decoded when they are asked for.
    pub fn widened(&self) -> ModelFile {
        let mut inner = (*self.0).clone();
        for t in inner.tensors.iter_mut().filter(|t| t.ty.block_len() > 1) {
            t.view = View::Widened { view: Box::new(t.view.clone()), from: t.ty, add: 0.0 };
            t.ty = gguf::GgmlType::F32;
        }
        ModelFile(Arc::new(inner))
    }

    /// The same model with other bytes for the tensor of this number, of the same type and as many.
    pub(crate) fn with_data(&self, index: usize, bytes: Vec<u8>) -> ModelFile {
        let mut inner = (*self.0).clone();
        assert_eq!(bytes.len(), inner.tensors[index].byte_len(), "the tensor's bytes");
        inner.tensors[index].view = View::Given(bytes.into());
        ModelFile(Arc::new(inner))
    }

    /// The same model with these values for the tensor of this number, as f32.
    ///
    /// # Panics
    /// Where they are more or fewer.
    pub fn with_values(&self, index: usize, values: &[f32]) -> ModelFile {
        let mut inner = (*self.0).clone();
        inner.tensors[index].ty = gguf::GgmlType::F32;
        ModelFile(Arc::new(inner)).with_data(index, values.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    /// Gives the memory of a tensor's pages back to the system; a later read fetches them from the file again.
    pub fn drop_pages(&self, info: &TensorInfo) {
        info.view.ranges(&mut |file, range| {
            if let Some(bytes) = self.0.files.get(file) {
                bytes.drop_pages(range);
            }
        });
    }

    /// An error with this model's path, for whoever finds a fault in its content.
    pub fn error(&self, kind: GgufErrorKind) -> GgufError {
        GgufError { path: self.0.path.clone(), kind }
    }
}
