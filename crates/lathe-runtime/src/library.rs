//! A loaded shared object of kernels. Whoever holds one of its kernels keeps it loaded.

use crate::RuntimeError;
use crate::kernel::RawKernel;
use lathe_diagnostic::Diagnostic;
use std::path::Path;
use std::sync::Arc;

/// Compiled kernels, loaded into this process.
#[derive(Clone, Debug)]
pub struct Library {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    handle: libloading::Library,
    from_cache: bool,
    warning: Option<Diagnostic>,
}

/// One kernel's address, with the library it lives in.
#[derive(Clone, Debug)]
pub struct KernelFn {
    raw: RawKernel,
    _library: Library,
}

impl Library {
    pub(crate) fn open(
        path: &Path,
        from_cache: bool,
        warning: Option<Diagnostic>,
    ) -> Result<Library, RuntimeError> {
        // SAFETY: the file was built by this machine's compiler from Lathe's sources and its checksum was verified; it has no
        // constructors or destructors, so loading it runs no code.
        let handle = unsafe { libloading::Library::new(path) };
        let handle = handle
            .map_err(|error| RuntimeError::Load { path: path.to_path_buf(), message: error.to_string() })?;
        Ok(Library { inner: Arc::new(Inner { handle, from_cache, warning }) })
    }

    /// The kernel called `name`.
    pub fn kernel(&self, name: &str) -> Result<KernelFn, RuntimeError> {
        // SAFETY: every exported function of a kernel library has the one kernel signature; the emitter writes no other.
        let symbol = unsafe { self.inner.handle.get::<RawKernel>(name.as_bytes()) };
        match symbol {
            Ok(symbol) => Ok(KernelFn { raw: *symbol, _library: self.clone() }),
            Err(_) => Err(RuntimeError::NoKernel { name: name.into() }),
        }
    }

    /// Whether the library was already there and nothing was compiled.
    pub fn is_from_cache(&self) -> bool {
        self.inner.from_cache
    }

    /// What the user should know about how the library was made: that the cache folder could not be written.
    pub fn warning(&self) -> Option<&Diagnostic> {
        self.inner.warning.as_ref()
    }
}

impl KernelFn {
    pub(crate) fn raw(&self) -> RawKernel {
        self.raw
    }
}
