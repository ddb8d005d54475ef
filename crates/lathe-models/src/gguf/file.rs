//! The open file: metadata by key, tensors by name, bytes straight from the memory map.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::error::{GgufError, GgufErrorKind};
use super::parse::{Header, parse};
use super::types::GgmlType;
use super::value::{FromMetadata, RawValue};

/// An open model file, checked from end to end; a clone is another handle to the same mapping.
#[derive(Clone, Debug)]
pub struct GgufFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: Option<std::path::PathBuf>,
    bytes: Bytes,
    header: Header,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Arc<memmap2::Mmap>),
    Owned(Vec<u8>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(vec) => vec,
        }
    }
}

/// A tensor's entry in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub(super) name: String,
    pub(super) dims: Vec<usize>,
    pub(super) ty: GgmlType,
    pub(super) range: Range<usize>,
}

impl TensorInfo {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Dimensions as the file has them, innermost first.
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

    /// How many bytes in the file.
    pub fn byte_len(&self) -> usize {
        self.range.len()
    }
}

impl GgufFile {
    /// Maps and checks the file at `path`.
    ///
    /// The file must not be shortened while it is open: the system then ends the process at the first access.
    pub fn open(path: impl AsRef<Path>) -> Result<GgufFile, GgufError> {
        let path = path.as_ref();
        let fail = |kind| GgufError { path: Some(path.to_owned()), kind };
        let io = |action| move |error| fail(GgufErrorKind::Io { action, error });
        let file = File::open(path).map_err(io("open"))?;
        let meta = file.metadata().map_err(io("open"))?;
        if !meta.is_file() {
            let what = if meta.is_dir() { "it is a folder" } else { "it is not a plain file" };
            return Err(io("open")(std::io::Error::other(what)));
        }
        if meta.len() == 0 {
            return Err(fail(GgufErrorKind::NotGguf { found: "nothing, it is empty".to_owned() }));
        }
        #[allow(unsafe_code, reason = "mapping a file is the only way not to copy it")]
        // SAFETY: the mapping is private and read-only, and nothing is derived from its bytes that another process's
        // write could make unsound: every later read is of plain bytes with a bounds check.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io("map"))?;
        GgufFile::new(Some(path), Bytes::Mapped(Arc::new(map)))
    }

    /// Reads a file that is in memory already.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<GgufFile, GgufError> {
        GgufFile::new(None, Bytes::Owned(bytes))
    }

    fn new(path: Option<&Path>, bytes: Bytes) -> Result<GgufFile, GgufError> {
        let path = path.map(Path::to_owned);
        match parse(&bytes) {
            Ok(header) => Ok(GgufFile(Arc::new(Inner { path, bytes, header }))),
            Err(kind) => Err(GgufError { path, kind }),
        }
    }

    /// Where the file lies, unless it came from memory.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The format's version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.0.header.version
    }

    /// The metadata value at `key` as a `T` (`u32`, `u64`, `i32`, `f32`, `bool`, a `Vec` of these, `&str` or
    /// [`StrArray`](super::StrArray)); an integer of any width serves where it fits.
    pub fn get<'a, T: FromMetadata<'a>>(&'a self, key: &str) -> Result<T, GgufError> {
        match self.find(key)? {
            Some(value) => Ok(value),
            None => Err(self.error(GgufErrorKind::MissingKey(key.to_owned()))),
        }
    }

    /// Like [`get`](Self::get), but `None` where the file does not have the key.
    pub fn find<'a, T: FromMetadata<'a>>(&'a self, key: &str) -> Result<Option<T>, GgufError> {
        match self.0.header.metadata.get(key) {
            None => Ok(None),
            Some(value) => {
                let raw = RawValue { bytes: &self.0.bytes, value };
                raw.read_as(key).map(Some).map_err(|kind| self.error(kind))
            }
        }
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
        let mut keys: Vec<&str> = self.0.header.metadata.keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    /// All tensors, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.0.header.tensors
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.0.header.by_name.get(name).map(|&i| &self.0.header.tensors[i])
    }

    /// A tensor's bytes; empty where `info` is of another, longer file.
    pub fn data(&self, info: &TensorInfo) -> &[u8] {
        self.0.bytes.get(info.range.clone()).unwrap_or_default()
    }

    /// The file's mapping and where a tensor lies in it; `None` for a file that came from memory.
    pub fn mapping(&self, info: &TensorInfo) -> Option<(Arc<memmap2::Mmap>, std::ops::Range<usize>)> {
        match &self.0.bytes {
            Bytes::Mapped(map) if info.range.end <= map.len() => Some((map.clone(), info.range.clone())),
            _ => None,
        }
    }

    /// Gives the memory of a tensor's pages back to the system; a later read fetches them from the file again.
    pub fn drop_pages(&self, info: &TensorInfo) {
        if let Bytes::Mapped(map) = &self.0.bytes
            && info.range.end <= map.len()
        {
            #[allow(unsafe_code, reason = "memmap2 marks every advice that discards pages as unsafe")]
            // SAFETY: the mapping is backed by the file and never written, so discarding pages loses nothing.
            let advice = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    info.range.start,
                    info.range.len(),
                )
            };
            // Advice: where the system refuses it, the pages merely stay.
            let _ = advice;
        }
    }

    /// An error with this file's path, for whoever finds a fault in its content.
    pub fn error(&self, kind: GgufErrorKind) -> GgufError {
        GgufError { path: self.0.path.clone(), kind }
    }
}
