//! Writes GGUF version 3. Tensors are produced one at a time, so a model larger than memory can be written.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::error::{GgufError, GgufErrorKind};
use super::types::GgmlType;
use super::value::{RawValue, Value, ValueKind};

const ALIGNMENT: usize = 32;

/// Collects metadata and tensors, then writes them.
///
/// ```
/// use lathe_models::{GgmlType, GgufWriter, ModelFile};
/// let mut w = GgufWriter::new();
/// w.str("general.architecture", "llama").u32("llama.block_count", 2);
/// w.tensor("x", &[2, 1], GgmlType::F32, vec![0; 8]);
/// let file = ModelFile::from_bytes(w.to_bytes()?)?;
/// assert_eq!(file.get_u32("llama.block_count")?, 2);
/// assert_eq!(file.tensor("x").map(|t| t.shape()), Some(vec![2, 1]));
/// # Ok::<(), lathe_models::GgufError>(())
/// ```
#[derive(Default)]
pub struct GgufWriter<'a> {
    metadata_count: u64,
    metadata: Vec<u8>,
    tensors: Vec<Tensor<'a>>,
}

type Produce<'a> = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + 'a>;

struct Tensor<'a> {
    name: String,
    shape: Vec<usize>,
    ty: GgmlType,
    produce: Produce<'a>,
}

macro_rules! scalars {
    ($($name:ident, $many:ident, $t:ty, $kind:ident;)*) => {$(
        #[doc = concat!("Adds a `", stringify!($t), "`.")]
        pub fn $name(&mut self, key: &str, value: $t) -> &mut Self {
            self.entry(key, ValueKind::$kind);
            self.metadata.extend_from_slice(&value.to_le_bytes());
            self
        }

        #[doc = concat!("Adds an array of `", stringify!($t), "`.")]
        pub fn $many(&mut self, key: &str, values: &[$t]) -> &mut Self {
            self.array(key, ValueKind::$kind, values.len());
            for value in values {
                self.metadata.extend_from_slice(&value.to_le_bytes());
            }
            self
        }
    )*};
}

impl<'a> GgufWriter<'a> {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    scalars! {
        u32, u32s, u32, U32;
        u64, u64s, u64, U64;
        i32, i32s, i32, I32;
        f32, f32s, f32, F32;
    }

    /// Adds a boolean.
    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.entry(key, ValueKind::Bool);
        self.metadata.push(value.into());
        self
    }

    /// Adds a string.
    pub fn str(&mut self, key: &str, value: &str) -> &mut Self {
        self.entry(key, ValueKind::Str);
        put_str(&mut self.metadata, value);
        self
    }

    /// Adds an array of strings.
    pub fn strs<S: AsRef<str>>(&mut self, key: &str, values: &[S]) -> &mut Self {
        self.array(key, ValueKind::Str, values.len());
        for value in values {
            put_str(&mut self.metadata, value.as_ref());
        }
        self
    }

    /// Adds a tensor with its bytes; `shape` is row-major, outermost first.
    pub fn tensor(&mut self, name: &str, shape: &[usize], ty: GgmlType, bytes: Vec<u8>) -> &mut Self {
        self.tensor_with(name, shape, ty, move |out| out.write_all(&bytes))
    }

    /// Adds a tensor whose bytes are produced when the file is written.
    pub fn tensor_with(
        &mut self,
        name: &str,
        shape: &[usize],
        ty: GgmlType,
        produce: impl FnOnce(&mut dyn Write) -> io::Result<()> + 'a,
    ) -> &mut Self {
        let (name, shape, produce) = (name.to_owned(), shape.to_vec(), Box::new(produce));
        self.tensors.push(Tensor { name, shape, ty, produce });
        self
    }

    /// Adds a value of another file.
    pub(super) fn value(&mut self, key: &str, value: RawValue<'_>) {
        let range = match value.value {
            Value::Scalar(kind, range) => {
                self.entry(key, *kind);
                range
            }
            Value::Str(range) => {
                self.entry(key, ValueKind::Str);
                self.metadata.extend_from_slice(&(range.len() as u64).to_le_bytes());
                range
            }
            Value::Array(kind, len, range) => {
                self.array(key, *kind, *len);
                range
            }
        };
        self.metadata.extend_from_slice(&value.bytes[range.clone()]);
    }

    fn entry(&mut self, key: &str, kind: ValueKind) {
        self.metadata_count += 1;
        put_str(&mut self.metadata, key);
        self.metadata.extend_from_slice(&kind.id().to_le_bytes());
    }

    fn array(&mut self, key: &str, kind: ValueKind, len: usize) {
        self.entry(key, ValueKind::Array);
        self.metadata.extend_from_slice(&kind.id().to_le_bytes());
        self.metadata.extend_from_slice(&(len as u64).to_le_bytes());
    }

    /// The file's bytes.
    pub fn to_bytes(self) -> Result<Vec<u8>, GgufError> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes).map_err(|kind| GgufError { path: None, kind })?;
        Ok(bytes)
    }

    /// Writes the file under a temporary name and renames it, so that `path` never holds half a file.
    pub fn write(self, path: impl AsRef<Path>) -> Result<(), GgufError> {
        let path = path.as_ref();
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let write = || {
            let mut temporary = temporary(folder).map_err(io_kind)?;
            let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
            self.write_to(&mut out)?;
            out.flush().map_err(io_kind)?;
            drop(out);
            temporary.persist(path).map_err(|e| io_kind(e.error))?;
            Ok(())
        };
        write().map_err(|kind| GgufError { path: Some(path.to_owned()), kind })
    }

    fn write_to(self, out: &mut dyn Write) -> Result<(), GgufErrorKind> {
        let mut header = b"GGUF".to_vec();
        header.extend_from_slice(&3u32.to_le_bytes());
        header.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&self.metadata_count.to_le_bytes());
        header.extend_from_slice(&self.metadata);
        let mut offset = 0usize;
        let mut sizes = Vec::new();
        for t in &self.tensors {
            let size =
                t.byte_len().ok_or_else(|| t.error(format!("shape {:?} does not fit {}", t.shape, t.ty)))?;
            put_str(&mut header, &t.name);
            header.extend_from_slice(&(t.shape.len() as u32).to_le_bytes());
            for &d in t.shape.iter().rev() {
                header.extend_from_slice(&(d as u64).to_le_bytes());
            }
            let id = t.ty.id().ok_or_else(|| t.error(format!("{} is no type of GGUF", t.ty)))?;
            header.extend_from_slice(&id.to_le_bytes());
            header.extend_from_slice(&(offset as u64).to_le_bytes());
            offset += size.next_multiple_of(ALIGNMENT);
            sizes.push(size);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
        out.write_all(&header).map_err(io_kind)?;
        for (t, size) in self.tensors.into_iter().zip(sizes) {
            let mut counted = Counted { out, written: 0 };
            let (name, produce) = (t.name, t.produce);
            produce(&mut counted).map_err(io_kind)?;
            let written = counted.written;
            if written != size {
                let what = format!("{written} bytes were produced, {size} are needed");
                return Err(GgufErrorKind::BadTensor { tensor: name, what });
            }
            out.write_all(&[0; ALIGNMENT][..size.next_multiple_of(ALIGNMENT) - size]).map_err(io_kind)?;
        }
        Ok(())
    }
}

impl Tensor<'_> {
    fn byte_len(&self) -> Option<usize> {
        let inner = self.shape.last().copied().unwrap_or(1);
        let elements = self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        (inner % self.ty.block_len() == 0).then(|| self.ty.bytes_for(elements)).flatten()
    }

    fn error(&self, what: String) -> GgufErrorKind {
        GgufErrorKind::BadTensor { tensor: self.name.clone(), what }
    }
}

struct Counted<'a> {
    out: &'a mut dyn Write,
    written: usize,
}

impl Write for Counted<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        self.written += n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A file that is gone unless it is renamed, with the permissions that a new file has.
pub(crate) fn temporary(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.prefix(".lathe-").suffix(".part").tempfile_in(folder)
}

fn io_kind(error: io::Error) -> GgufErrorKind {
    GgufErrorKind::Io { action: "write", error }
}

fn put_str(out: &mut Vec<u8>, s: &str) {
    out.extend_from_slice(&(s.len() as u64).to_le_bytes());
    out.extend_from_slice(s.as_bytes());
}
