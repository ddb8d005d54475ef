//! Compiled kernels on disk, found by the content that made them.
//!
//! The key hashes everything that decides the machine code: sources, flags, compiler version, processor features, ABI.
//! A file is the shared object followed by a checksum of it, so a damaged one is seen before it is loaded, and rebuilt.
//! Files appear by renaming, and one process builds a key at a time while the others wait for it.

use crate::build::Build;
use crate::compiler::{Compiler, kernel_flags};
use crate::{ABI_VERSION, Library, RuntimeError};
use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use lathe_machine::Target;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

/// Ends every cached file, after the checksum.
const SEAL: &[u8; 8] = b"LATHEso1";
const SEAL_LEN: usize = 32 + SEAL.len();
/// How the names of the folders that builds run in begin.
const BUILD_PREFIX: &str = "build-";

/// What to compile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildRequest {
    /// C translation units, complete in themselves (no headers).
    pub units: Vec<String>,
    /// Compiler flags.
    pub flags: Vec<String>,
    /// What the generated code assumes of the processor; part of the key.
    pub features: String,
    /// A compiler to use instead of the machine's usual one: a name, a path, or a command with arguments.
    pub compiler: Option<String>,
}

impl BuildRequest {
    /// A request to compile `units` for `target` with the usual flags.
    pub fn new(units: Vec<String>, target: &Target) -> BuildRequest {
        let names: Vec<&str> = target.features.iter().map(String::as_str).collect();
        let features = format!("{} {} {}", target.dialect, target.vector_bits, names.join(" "));
        BuildRequest { units, flags: kernel_flags(target), features, compiler: None }
    }

    fn key(&self, compiler: &Compiler) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut add = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        add(&format!("{ABI_VERSION} {} {}", self.units.len(), self.flags.len()));
        add(&compiler.version);
        add(&self.features);
        self.flags.iter().chain(&self.units).for_each(|text| add(text));
        hasher.finalize().to_hex()[..32].to_string()
    }
}

/// A folder of compiled kernels.
#[derive(Debug)]
pub struct KernelCache {
    dir: PathBuf,
    /// A folder for this process alone, made when the cache folder cannot be written.
    private: Mutex<Option<TempDir>>,
}

impl KernelCache {
    /// The cache in the folder `dir`, which is made when first needed.
    pub fn new(dir: impl Into<PathBuf>) -> KernelCache {
        let dir = dir.into();
        // Compilers run in a folder of their own, so a path relative to ours would mislead them.
        let dir = std::path::absolute(&dir).unwrap_or(dir);
        KernelCache { dir, private: Mutex::new(None) }
    }

    /// `target`, or the next best that the compiler here has flags for, with a warning that says so. `compiler` as in a
    /// [`BuildRequest`].
    pub fn compilable(
        &self,
        target: Target,
        compiler: Option<&str>,
    ) -> Result<(Target, Option<Diagnostic>), RuntimeError> {
        let memo = self.dir.join("compilers");
        let compiler = Compiler::find(compiler, &memo)?;
        let mut tried = target.clone();
        while !compiler.accepts(&kernel_flags(&tried), &memo) {
            match tried.lesser() {
                Some(lesser) => tried = lesser,
                None => return Ok((target, None)), // the build says what is wrong with this compiler
            }
        }
        let lesser = tried != target;
        let warning = lesser.then(|| {
            let what = format!(
                "the compiler cannot make code for '{}'; kernels are for '{}', which is slower",
                target.dialect, tried.dialect
            );
            Diagnostic::new("old-compiler", Fault::Environment, what)
                .at(compiler.version.clone())
                .fix("install a newer one, or name one with LATHE_CC")
        });
        Ok((tried, warning))
    }

    /// Loads the kernels of `request`, building them first when they are not in the cache, with up to `jobs` compilers at
    /// once and a call of `progress(done, total)` after each step. When the cache folder cannot be written, or nothing
    /// can be loaded from it, the kernels are built in a private temporary folder and the library carries a [`Library::warning`].
    pub fn load(
        &self,
        request: &BuildRequest,
        jobs: usize,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Library, RuntimeError> {
        let (compiler, key) = self.keyed(request)?;
        self.somewhere(&mut |dir, warning| {
            let build = &mut |folder: &Path| build_in(dir, folder, &key, request, &compiler, jobs, progress);
            let (file, known) = found(dir, &key, build)?;
            Library::open(&file, known, warning)
        })
    }

    /// The kernels of `request` as bytes for [`KernelCache::load_built`] on another machine; nothing is loaded here.
    pub fn build(
        &self,
        request: &BuildRequest,
        jobs: usize,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<u8>, RuntimeError> {
        let (compiler, key) = self.keyed(request)?;
        self.somewhere(&mut |dir, _| {
            let build = &mut |folder: &Path| build_in(dir, folder, &key, request, &compiler, jobs, progress);
            let (file, _) = found(dir, &key, build)?;
            let mut bytes = fs::read(&file).map_err(|error| RuntimeError::io("read", &file, &error))?;
            bytes.truncate(bytes.len() - SEAL_LEN);
            Ok(bytes)
        })
    }

    /// Loads kernels that [`KernelCache::build`] gave, by way of a file in the cache under their hash. No compiler is needed.
    pub fn load_built(&self, kernels: &[u8]) -> Result<Library, RuntimeError> {
        let key = blake3::hash(kernels).to_hex()[..32].to_string();
        self.somewhere(&mut |dir, warning| {
            let copy = &mut |folder: &Path| {
                let path = folder.join("kernels.so");
                fs::write(&path, kernels).map_err(|error| RuntimeError::io("write", &path, &error))?;
                Ok(path)
            };
            let (file, known) = found(dir, &key, copy)?;
            Library::open(&file, known, warning)
        })
    }

    /// The name of a request's kernels in the cache.
    pub fn key(&self, request: &BuildRequest) -> Result<String, RuntimeError> {
        Ok(self.keyed(request)?.1)
    }

    /// Loads kernels by their name, where they are in the cache folder and whole.
    pub fn load_known(&self, key: &str) -> Option<Library> {
        let file = self.dir.join("kernels").join(format!("{key}.so"));
        is_sound(&file).then(|| Library::open(&file, true, None).ok()).flatten()
    }

    fn keyed(&self, request: &BuildRequest) -> Result<(Compiler, String), RuntimeError> {
        let compiler = Compiler::find(request.compiler.as_deref(), &self.dir.join("compilers"))?;
        let key = request.key(&compiler);
        Ok((compiler, key))
    }

    /// Does `work` in the cache folder, or in a private one, with a warning, where that folder cannot be used.
    fn somewhere<T>(
        &self,
        work: &mut dyn FnMut(&Path, Option<Diagnostic>) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        match work(&self.dir, None) {
            Err(error @ (RuntimeError::Io { .. } | RuntimeError::Load { .. })) => {
                let private = self.private_folder()?;
                work(&private, Some(unwritable(&self.dir, &error)))
            }
            result => result,
        }
    }

    /// The folder that is this process's own; removed with the cache value.
    fn private_folder(&self) -> Result<PathBuf, RuntimeError> {
        let mut private = self.private.lock().unwrap_or_else(PoisonError::into_inner);
        if private.is_none() {
            let made = tempfile::Builder::new().prefix("lathe-").tempdir();
            let failed = |error| RuntimeError::io("make a temporary folder in", std::env::temp_dir(), &error);
            *private = Some(made.map_err(failed)?);
        }
        Ok(private.as_ref().map(|folder| folder.path().to_path_buf()).unwrap_or_default())
    }
}

/// The sound file of `key` below `dir`, made by `make` in an empty folder where it is not there yet, and whether it was.
fn found(
    dir: &Path,
    key: &str,
    make: &mut dyn FnMut(&Path) -> Result<PathBuf, RuntimeError>,
) -> Result<(PathBuf, bool), RuntimeError> {
    let kernels = dir.join("kernels");
    let file = kernels.join(format!("{key}.so"));
    if is_sound(&file) {
        return Ok((file, true));
    }
    fs::create_dir_all(&kernels).map_err(|error| RuntimeError::io("make the folder", &kernels, &error))?;
    let _lock = Lock::take(kernels.join(format!("{key}.lock")))?;
    if is_sound(&file) {
        return Ok((file, true)); // another process built it while this one waited
    }
    remove_abandoned(&kernels);
    let folder = tempfile::Builder::new().prefix(BUILD_PREFIX).tempdir_in(&kernels);
    let folder = folder.map_err(|error| RuntimeError::io("make a folder in", &kernels, &error))?;
    let built = make(folder.path())?;
    seal(&built).map_err(|error| RuntimeError::io("write", &built, &error))?;
    fs::rename(&built, &file).map_err(|error| RuntimeError::io("write", &file, &error))?;
    Ok((file, false))
}

fn build_in(
    dir: &Path,
    folder: &Path,
    key: &str,
    request: &BuildRequest,
    compiler: &Compiler,
    jobs: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<PathBuf, RuntimeError> {
    let failed = &dir.join("failed").join(key);
    Build { compiler, units: &request.units, flags: &request.flags, folder, failed, jobs }.run(progress)
}

fn unwritable(dir: &Path, error: &RuntimeError) -> Diagnostic {
    let what =
        format!("the cache folder cannot be used ({error}); kernels are compiled anew by every process");
    Diagnostic::new("cache-unwritable", Fault::Environment, what)
        .at(error.diagnostic().place.unwrap_or_else(|| dir.display().to_string()))
        .fix("make it writable, or name another one")
}

/// Removes build folders whose process was killed: those that are older than any build takes.
fn remove_abandoned(kernels: &Path) {
    let old = |entry: &fs::DirEntry| {
        let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
        entry.file_name().to_string_lossy().starts_with(BUILD_PREFIX)
            && age.is_ok_and(|age| age.is_ok_and(|age| age > Duration::from_secs(3600)))
    };
    for entry in fs::read_dir(kernels).into_iter().flatten().flatten().filter(old) {
        let _ = fs::remove_dir_all(entry.path()); // only housekeeping
    }
}

/// Appends the checksum.
fn seal(file: &Path) -> std::io::Result<()> {
    let hash = blake3::hash(&fs::read(file)?);
    let mut file = File::options().append(true).open(file)?;
    file.write_all(hash.as_bytes())?;
    file.write_all(SEAL)
}

/// Whether the file is there and is what was built.
fn is_sound(file: &Path) -> bool {
    let Ok(bytes) = fs::read(file) else { return false };
    let Some(at) = bytes.len().checked_sub(SEAL_LEN) else { return false };
    let (content, end) = bytes.split_at(at);
    end.ends_with(SEAL) && blake3::hash(content).as_bytes() == &end[..32]
}

/// The right to build one key, held against other threads and processes; given back when dropped or when the process ends.
struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    fn take(path: PathBuf) -> Result<Lock, RuntimeError> {
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(|error| RuntimeError::io("write", &path, &error))?;
        file.lock().map_err(|error| RuntimeError::io("lock", &path, &error))?;
        Ok(Lock { file, path })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A waiter now holds the lock of a removed file, and a newcomer may make a new one: at worst both build, and
        // renaming makes that harmless.
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}
