//! One build: C translation units compiled side by side, then linked into one shared object.

use crate::RuntimeError;
use crate::compiler::{Compiler, first_lines};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;

/// What a build needs.
pub(crate) struct Build<'a> {
    pub compiler: &'a Compiler,
    pub units: &'a [String],
    pub flags: &'a [String],
    /// An empty folder for everything the build writes.
    pub folder: &'a Path,
    /// A folder where a source that was refused is kept.
    pub failed: &'a Path,
    /// Compilers that may run at once.
    pub jobs: usize,
}

impl Build<'_> {
    /// Builds and returns the shared object, calling `progress(done, total)` after each step (every unit, and the link).
    pub fn run(&self, progress: &mut dyn FnMut(usize, usize)) -> Result<PathBuf, RuntimeError> {
        let count = self.units.len();
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (sender, results) = mpsc::channel();
        progress(0, count + 1);
        std::thread::scope(|scope| -> Result<(), RuntimeError> {
            for _ in 0..self.jobs.clamp(1, count.max(1)) {
                let (sender, next, stop) = (sender.clone(), &next, &stop);
                scope.spawn(move || {
                    while !stop.load(Relaxed) {
                        let index = next.fetch_add(1, Relaxed);
                        if index >= count || sender.send(self.compile(index)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            for (done, result) in results.iter().enumerate() {
                if result.is_err() {
                    stop.store(true, Relaxed);
                    return result;
                }
                progress(done + 1, count + 1);
            }
            Ok(())
        })?;
        let library = self.link()?;
        progress(count + 1, count + 1);
        Ok(library)
    }

    fn compile(&self, index: usize) -> Result<(), RuntimeError> {
        let (source, object) = (format!("{index}.c"), format!("{index}.o"));
        let path = self.folder.join(&source);
        fs::write(&path, &self.units[index]).map_err(|error| RuntimeError::io("write", &path, &error))?;
        let flags = self.flags.iter().map(String::as_str);
        let arguments = flags.chain(["-c", &source, "-o", &object]);
        let mut output = self.compiler.run(self.folder, arguments.clone())?;
        if crashed(&output) {
            // An optimiser that fails on itself is asked for less: gcc 12 does, on some large kernels.
            output = self.compiler.run(self.folder, arguments.chain(["-O1"]))?;
        }
        match output.status.success() {
            true => Ok(()),
            false => Err(self.refusal(&path, &output)),
        }
    }

    fn link(&self) -> Result<PathBuf, RuntimeError> {
        let objects: Vec<String> = (0..self.units.len()).map(|index| format!("{index}.o")).collect();
        let arguments = ["-shared", "-o", "kernels.so"].into_iter().chain(objects.iter().map(String::as_str));
        let output = self.compiler.run(self.folder, arguments.chain(["-lm"]))?;
        match output.status.success() {
            true => Ok(self.folder.join("kernels.so")),
            // Two units that define one symbol, and nothing else that a unit can do, end up here.
            false => Err(self.refusal(&self.folder.join("0.c"), &output)),
        }
    }

    /// Why the compiler failed: a full disk, a compiler that cannot compile anything, or a source that is wrong.
    fn refusal(&self, source: &Path, output: &Output) -> RuntimeError {
        let message = &String::from_utf8_lossy(&output.stderr);
        if message.contains("No space left on device") {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return RuntimeError::io("write", self.folder, &full);
        }
        if output.status.code().is_none() || message.contains("Killed signal") {
            return self.compiler.broken(&format!("it was killed (out of memory?): {message}"));
        }
        if let Err(error) = self.try_empty_program() {
            return error;
        }
        let name = source.file_name().unwrap_or_default().to_string_lossy();
        let kept = self.failed.join(&*name);
        let copy = fs::read(source).and_then(|text| crate::files::write_whole(&kept, &text));
        let source_path = if copy.is_ok() { kept } else { source.to_path_buf() };
        RuntimeError::CompileFailed { message: first_lines(message, 8), source_path }
    }

    fn try_empty_program(&self) -> Result<(), RuntimeError> {
        let path = self.folder.join("empty.c");
        fs::write(&path, "int lathe_empty;\n").map_err(|error| RuntimeError::io("write", &path, &error))?;
        let flags = self.flags.iter().map(String::as_str);
        let output = self.compiler.run(self.folder, flags.chain(["-shared", "empty.c", "-o", "empty.so"]))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(self.compiler.broken(&String::from_utf8_lossy(&output.stderr))),
        }
    }
}

/// Whether the compiler stopped over a fault of its own.
fn crashed(output: &Output) -> bool {
    let message = String::from_utf8_lossy(&output.stderr);
    !output.status.success()
        && ["internal compiler error", "PLEASE submit a bug report"].iter().any(|text| message.contains(text))
}
