//! The C compiler of this machine: finding it, knowing its version without starting it, and what flags it is given.

use crate::RuntimeError;
use lathe_machine::Target;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

/// The flags for kernels of `target`. Contraction is off because every fused multiply-add is written out; nothing here
/// lets the compiler change a result.
pub fn kernel_flags(target: &Target) -> Vec<String> {
    let common = [
        "-O2",
        "-fPIC",
        "-fno-math-errno",
        "-ffp-contract=fast",
        "-fno-trapping-math",
        "-fno-semantic-interposition",
        "-w",
    ];
    let mut flags: Vec<String> = common.map(String::from).into();
    if target.dialect == "neon" {
        // Extensions of ARM are suffixes of one flag.
        let names: Vec<&str> = target.features.iter().map(String::as_str).collect();
        flags.push(format!("-march=armv8.2-a+{}", names.join("+")));
    } else {
        flags.extend(target.features.iter().map(|f| format!("-m{f}")));
    }
    if !target.features.is_empty() && cross_compiler(target).is_none() {
        // Which instructions may be used is the target's; in which order is a matter of speed only.
        flags.push("-mtune=native".into());
    }
    if target.vector_bits == 512 {
        flags.push("-mprefer-vector-width=512".into());
    }
    flags
}

/// The usual name of the compiler for a target of another architecture; `None` where this machine's own one serves.
pub fn cross_compiler(target: &Target) -> Option<String> {
    let foreign = target.architecture().filter(|architecture| *architecture != std::env::consts::ARCH);
    foreign.map(|architecture| format!("{architecture}-linux-gnu-gcc"))
}

/// A C compiler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    program: PathBuf,
    /// Arguments that come before all others (`CC="ccache gcc"`).
    arguments: Vec<String>,
    /// First line of `--version`.
    pub version: String,
}

impl Compiler {
    /// Finds the compiler: `named` when given, else the first of `LATHE_CC`, `CC`, `cc`, `gcc`, `clang`. One that was named
    /// by the caller or by `LATHE_CC` must be there. Versions are remembered in the folder `memo`, where that is writable.
    pub fn find(named: Option<&str>, memo: &Path) -> Result<Compiler, RuntimeError> {
        let from_environment = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let tried = match named.map(String::from).or_else(|| from_environment("LATHE_CC")) {
            Some(name) => vec![name],
            None => {
                from_environment("CC").into_iter().chain(["cc", "gcc", "clang"].map(String::from)).collect()
            }
        };
        let found = tried.iter().find_map(|name| resolve(name));
        let (program, arguments) =
            found.ok_or_else(|| RuntimeError::NoCompiler { tried: tried.join(", ") })?;
        let mut compiler = Compiler { program, arguments, version: String::new() };
        compiler.version = compiler.remembered_version(memo)?;
        Ok(compiler)
    }

    /// Runs the compiler with `arguments` and temporary files in `folder`.
    pub fn run<'a>(
        &self,
        folder: &Path,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Output, RuntimeError> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(arguments).stdin(Stdio::null());
        command.current_dir(folder).env("TMPDIR", folder).env("LC_ALL", "C");
        command.output().map_err(|error| self.broken(&error.to_string()))
    }

    /// The error that this compiler does not work.
    pub fn broken(&self, message: &str) -> RuntimeError {
        RuntimeError::CompilerBroken {
            compiler: self.program.display().to_string(),
            message: first_lines(message, 4),
        }
    }

    /// The version, from this process's memory, from the file in `memo`, or from the compiler. A compiler file that changes
    /// is asked again; one that is started through another program always is, once a process.
    fn remembered_version(&self, memo: &Path) -> Result<String, RuntimeError> {
        static KNOWN: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
        let key = self.fingerprint();
        if let Some(version) = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(version.clone());
        }
        let file = memo.join(format!("{key}.txt"));
        let remembered = match self.arguments.is_empty() {
            true => fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n')),
            false => None,
        };
        let version = match remembered {
            Some(text) => text.trim_end().to_string(),
            None => {
                let version = self.ask_version()?;
                // Only a shortcut for the next process: where it cannot be written, the next one asks again.
                let _ = crate::files::write_whole(&file, format!("{version}\n").as_bytes());
                version
            }
        };
        KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(key, version.clone());
        Ok(version)
    }

    /// Whether it knows all of `flags`, which an older one may not. Remembered as its version is.
    pub fn accepts(&self, flags: &[String], memo: &Path) -> bool {
        let hash = blake3::hash(flags.join(" ").as_bytes()).to_hex();
        let file = memo.join(format!("{}-{}.txt", self.fingerprint(), &hash[..16]));
        if fs::read_to_string(&file).is_ok_and(|text| text == "accepts\n") {
            return true;
        }
        let arguments =
            flags.iter().map(String::as_str).chain(["-E", "-x", "c", "/dev/null", "-o", "/dev/null"]);
        let accepts = self.run(Path::new("/"), arguments).is_ok_and(|output| output.status.success());
        if accepts {
            // As for the version, only a shortcut.
            let _ = crate::files::write_whole(&file, b"accepts\n");
        }
        accepts
    }

    fn ask_version(&self) -> Result<String, RuntimeError> {
        let output = self.run(Path::new("/"), ["--version"])?;
        let text = String::from_utf8_lossy(&output.stdout);
        match text.lines().next() {
            Some(line) if output.status.success() && !line.trim().is_empty() => Ok(line.trim().to_string()),
            _ => Err(self.broken(&format!("--version fails: {}", String::from_utf8_lossy(&output.stderr)))),
        }
    }

    /// A hash of the compiler's path, arguments, size and time of change.
    fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.program.as_os_str().as_encoded_bytes());
        for argument in &self.arguments {
            hasher.update(&[0]).update(argument.as_bytes());
        }
        if let Ok(metadata) = fs::metadata(&self.program) {
            let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            hasher.update(&metadata.len().to_le_bytes());
            hasher.update(&changed.unwrap_or_default().as_nanos().to_le_bytes());
        }
        hasher.finalize().to_hex()[..32].to_string()
    }
}

/// A compiler's name or path, or a command with arguments, as program and arguments; `None` when it is not there.
fn resolve(name: &str) -> Option<(PathBuf, Vec<String>)> {
    if let Some(program) = which(name) {
        return Some((program, Vec::new()));
    }
    let mut words = name.split_whitespace();
    let program = which(words.next()?)?;
    Some((program, words.map(String::from).collect()))
}

/// The program called `name`: itself when it is a path, else the first in `PATH`.
fn which(name: &str) -> Option<PathBuf> {
    let usable = |path: PathBuf| is_program(&path).then(|| std::path::absolute(&path).unwrap_or(path));
    match name.contains('/') {
        true => usable(PathBuf::from(name)),
        false => {
            std::env::split_paths(&std::env::var_os("PATH")?).find_map(|folder| usable(folder.join(name)))
        }
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The first `count` lines that say something, joined.
pub(crate) fn first_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> =
        text.lines().map(str::trim_end).filter(|line| !line.is_empty()).take(count).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lathe_diagnostic::Diagnose;

    #[test]
    fn a_missing_compiler_says_what_to_install() {
        let memo = tempfile::tempdir().unwrap();
        let error = Compiler::find(Some("/nonexistent/cc"), memo.path()).unwrap_err();
        let text = error.diagnostic().to_string();
        assert!(text.starts_with("error[no-compiler]") && text.contains("/nonexistent/cc"), "{text}");
        assert!(text.contains("apt install gcc"), "{text}");
    }

    #[test]
    fn a_command_with_arguments_is_understood() {
        assert_eq!(resolve("env cc").unwrap().1, ["cc"]);
        assert!(resolve("").is_none() && resolve("no-such-program-here -x").is_none());
    }

    #[test]
    fn portable_kernels_are_not_made_for_this_machine_alone() {
        let flags = kernel_flags(&Target::portable());
        assert!(!flags.iter().any(|flag| flag.starts_with("-m")));
    }

    #[test]
    fn flags_it_does_not_know_are_noticed() {
        let memo = tempfile::tempdir().unwrap();
        let compiler = Compiler::find(None, memo.path()).unwrap();
        for _ in 0..2 {
            assert!(compiler.accepts(&kernel_flags(&Target::portable()), memo.path()));
            assert!(!compiler.accepts(&["-mno-such-extension-here".into()], memo.path()));
        }
    }
}
