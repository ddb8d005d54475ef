//! The cache folder: where it is, the lock around a file in it, and checksums.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::SourceError;
use super::progress::Progress;

/// Lathe's cache folder: `LATHE_CACHE`, else `lathe` in `XDG_CACHE_HOME`, else `.cache/lathe` in the home folder.
pub fn cache_dir() -> Result<PathBuf, SourceError> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var("LATHE_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|c| c.join("lathe")))
        .or_else(|| var("HOME").map(|h| h.join(".cache/lathe")))
        .ok_or(SourceError::NoCache)
}

/// Turns a system error into ours.
pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SourceError {
    let path = path.to_owned();
    move |error| SourceError::Io { action, path, error }
}

/// Makes a folder and those above it.
pub(super) fn make_dir(path: &Path) -> Result<(), SourceError> {
    fs::create_dir_all(path).map_err(io("make the folder", path))
}

/// Removes a file or folder that may not be there.
pub(super) fn remove(path: &Path) -> Result<(), SourceError> {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// `path` with `suffix` after its whole name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The right to make the file at a path; the system takes it back when the process ends, however it ends.
pub(super) struct Lock(#[allow(dead_code, reason = "held for its drop")] File);

impl Lock {
    /// Waits until no other process makes the file at `target`.
    pub(super) fn on(target: &Path, progress: &mut dyn Progress) -> Result<Lock, SourceError> {
        let path = with_suffix(target, ".lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(io("open the lock", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.begin("waiting for another process to fetch the same model", None);
                let locked = file.lock();
                progress.end();
                locked.map_err(io("lock", &path))?;
            }
            Err(TryLockError::Error(e)) => return Err(io("lock", &path)(e)),
        }
        Ok(Lock(file))
    }
}

/// Puts a finished file in its place.
pub(super) fn publish(part: &Path, target: &Path) -> Result<(), SourceError> {
    File::open(part).and_then(|f| f.sync_all()).map_err(io("write", part))?;
    fs::rename(part, target).map_err(io("write", target))
}

/// The SHA-256 of a file in hexadecimal.
pub(super) fn sha256(path: &Path, progress: &mut dyn Progress) -> Result<String, SourceError> {
    let mut file = File::open(path).map_err(io("read", path))?;
    let total = file.metadata().map_err(io("read", path))?.len();
    progress.begin("checking", Some(total));
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    let result = loop {
        match file.read(&mut buffer) {
            Ok(0) => break Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            Ok(n) => {
                hash.update(&buffer[..n]);
                done += n as u64;
                progress.advance(done);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => break Err(io("read", path)(e)),
        }
    };
    progress.end();
    result
}

/// The finished models of a folder, files and folders: name, path, bytes; sorted.
pub(super) fn models(models: &Path) -> Result<Vec<(String, PathBuf, u64)>, SourceError> {
    let entries = match fs::read_dir(models) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io("read", models)(e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io("read", models))?;
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if name.ends_with(".gguf")
            && let Ok(meta) = fs::metadata(&path)
            && meta.is_file()
        {
            files.push((name, path, meta.len()));
        } else if !name.ends_with(".part") && path.join("config.json").is_file() {
            let inside = fs::read_dir(&path).map_err(io("read", &path))?;
            let bytes = inside.flatten().filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum();
            files.push((name, path, bytes));
        }
    }
    files.sort();
    Ok(files)
}
