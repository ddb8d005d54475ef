//! What can go wrong at the edge of the machine: compiling, loading and calling kernels, memory, threads.

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use lathe_machine::Target;
use std::path::PathBuf;

/// An error of the runtime.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// No C compiler on this machine (environment: install one).
    #[error("no C compiler found (looked for {tried})")]
    NoCompiler {
        /// What was looked for, in order.
        tried: String,
    },
    /// The compiler is there and does not compile even an empty program (environment).
    #[error("the C compiler does not work: {message}")]
    CompilerBroken {
        /// The compiler.
        compiler: String,
        /// What it said.
        message: String,
    },
    /// No target has this name (the user's).
    #[error("no target is called '{name}'")]
    UnknownTarget {
        /// What was asked for.
        name: String,
    },
    /// This processor does not run the target that was asked for (the user's).
    #[error("this processor does not run '{name}': it lacks {lacking}")]
    ForeignTarget {
        /// The target.
        name: String,
        /// The extensions that are not here.
        lacking: String,
        /// The best target of this processor.
        best: String,
    },
    /// The compiler refused code that Lathe wrote (a bug).
    #[error("the C compiler refused a generated kernel: {message}")]
    CompileFailed {
        /// First lines of what the compiler said.
        message: String,
        /// The source, kept for the report.
        source_path: PathBuf,
    },
    /// A built kernel file would not load (environment: often a file system mounted `noexec`).
    #[error("cannot load compiled kernels: {message}")]
    Load {
        /// The file.
        path: PathBuf,
        /// What the loader said.
        message: String,
    },
    /// A compiled library lacks a kernel that it should have (a bug).
    #[error("no kernel '{name}' in the compiled library")]
    NoKernel {
        /// The missing symbol.
        name: String,
    },
    /// A file or folder could not be used (environment).
    #[error("cannot {action}: {message}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
    /// Bytes of a file are not those that were written (environment: the disk, or somebody else's hand).
    #[error("the file is damaged at byte {offset}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first block that is not what it was.
        offset: u64,
    },
    /// A kernel was called with arguments its signature does not allow (a bug of the caller).
    #[error("kernel '{kernel}': {reason}")]
    BadCall {
        /// The kernel's name.
        kernel: String,
        /// What does not fit.
        reason: String,
    },
    /// A kernel returned a fault code (a bug, or data that breaks a fact the kernel was compiled under).
    #[error("kernel '{kernel}' stopped with fault code {code}")]
    KernelFault {
        /// The kernel's name.
        kernel: String,
        /// What it returned; never 0.
        code: i32,
    },
    /// A memory tier is full (the user's request is too large for this machine).
    #[error("memory '{tier}' is full: {wanted} bytes wanted, {used} of {capacity} in use")]
    OutOfMemory {
        /// The tier's name.
        tier: String,
        /// Bytes asked for.
        wanted: usize,
        /// Bytes in use.
        used: usize,
        /// Bytes there are.
        capacity: usize,
    },
    /// The system gave no memory although the tier had room (environment).
    #[error("the system has no {wanted} bytes of memory left")]
    SystemMemory {
        /// Bytes asked for.
        wanted: usize,
    },
    /// A range or type does not fit a buffer (a bug of the caller).
    #[error("buffer of {len} bytes: {reason}")]
    BadBuffer {
        /// The buffer's length, bytes.
        len: usize,
        /// What does not fit.
        reason: String,
    },
    /// A thread could not be started (environment).
    #[error("cannot start {threads} threads: {message}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// What the system said.
        message: String,
    },
}

impl RuntimeError {
    /// A failure of the system: what was done, to which file.
    pub fn io(action: &'static str, path: impl Into<PathBuf>, error: &std::io::Error) -> RuntimeError {
        RuntimeError::Io { action, path: path.into(), message: error.to_string() }
    }
}

impl Diagnose for RuntimeError {
    fn diagnostic(&self) -> Diagnostic {
        use RuntimeError::*;
        let make = |code, fault| Diagnostic::new(code, fault, self.to_string());
        match self {
            NoCompiler { .. } => make("no-compiler", Fault::Environment)
                .fix("install one (for example: apt install gcc) or name one with LATHE_CC"),
            CompilerBroken { compiler, .. } => make("compiler-broken", Fault::Environment)
                .at(compiler)
                .fix("reinstall it, free some disk space, or name another one with LATHE_CC"),
            UnknownTarget { .. } => make("unknown-target", Fault::User)
                .fix(format!("use one of {}", Target::names().collect::<Vec<_>>().join(", "))),
            ForeignTarget { best, .. } => {
                make("foreign-target", Fault::User).fix(format!("use '{best}', the best it runs"))
            }
            Damaged { path, .. } => make("file-damaged", Fault::Environment)
                .at(path.display().to_string())
                .fix("remove it, it is made again; if that happens twice, look after the disk"),
            CompileFailed { source_path, .. } => {
                make("compile-failed", Fault::Bug).at(source_path.display().to_string())
            }
            Load { path, .. } => make("load-failed", Fault::Environment)
                .at(path.display().to_string())
                .fix("use a cache folder on a file system that allows programs (not mounted noexec)"),
            NoKernel { .. } => make("no-kernel", Fault::Bug),
            Io { path, .. } => make("io", Fault::Environment)
                .at(path.display().to_string())
                .fix("check that the folder exists, is writable and has space"),
            BadCall { .. } => make("bad-call", Fault::Bug),
            KernelFault { .. } => make("kernel-fault", Fault::Bug),
            OutOfMemory { .. } => make("out-of-memory", Fault::User)
                .fix("ask for a smaller context, batch or model, or raise the limit"),
            SystemMemory { .. } => make("system-memory", Fault::Environment).fix("close other programs"),
            BadBuffer { .. } => make("bad-buffer", Fault::Bug),
            Threads { .. } => make("threads", Fault::Environment).fix("ask for fewer threads"),
        }
    }
}
