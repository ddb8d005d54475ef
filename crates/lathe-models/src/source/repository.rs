//! A Hugging Face repository as users name it, and what its files are called in the cache.

use std::path::{Path, PathBuf};

use super::cache;
use super::error::SourceError;

pub(super) const MAIN: &str = "main";
/// Which file a repository's name alone stands for: the first of these that it has.
const PREFERENCE: [&str; 5] = ["q4_0", "q4_1", "q8_0", "bf16", "f16"];

/// `org/name[@revision]`, perhaps with a file or the type in a file's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repository {
    org: String,
    name: String,
    pub revision: String,
    pub file: Option<Choice>,
}

/// Which of a repository's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The one with this path.
    Path(String),
    /// The one with this type in its name, as `Q4_K_M`.
    Type(String),
}

/// A word that may be part of a path: "--" separates the parts in the cache, and the site allows it in no name.
fn plain(s: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !s.is_empty() && !s.starts_with('.') && !s.contains("--") && s.chars().all(allowed)
}

/// A file's path inside a repository that may become part of a path here.
pub(super) fn usable(file: &str) -> bool {
    file.split('/').all(plain)
}

impl Repository {
    /// Reads `org/name[@revision]`, alone, with `:TYPE`, or with a file as `:path/to/file.gguf` or `/path/to/file.gguf`.
    pub(super) fn parse(text: &str) -> Option<Repository> {
        let (repository, file) = match text.split_once(':') {
            Some((repository, file)) => (repository, Some(file)),
            None => match text.match_indices('/').nth(1) {
                Some((at, _)) if text.ends_with(".gguf") => (&text[..at], Some(&text[at + 1..])),
                _ => (text, None),
            },
        };
        let (org, name) = repository.split_once('/')?;
        let (name, revision) = name.split_once('@').unwrap_or((name, MAIN));
        let is_path = file.is_none() && name.ends_with(".gguf");
        if !plain(org) || !plain(name) || !plain(revision) || is_path {
            return None;
        }
        let file = match file {
            None => None,
            Some(f) if f.ends_with(".gguf") && usable(f) => Some(Choice::Path(f.to_owned())),
            Some(f) if plain(f) && f.starts_with(|c: char| c.is_ascii_uppercase()) => {
                Some(Choice::Type(f.to_owned()))
            }
            Some(_) => return None,
        };
        Some(Repository { org: org.into(), name: name.into(), revision: revision.into(), file })
    }

    /// Another revision of it.
    pub(super) fn at(self, revision: &str) -> Repository {
        Repository { revision: revision.to_owned(), ..self }
    }

    /// `org/name`.
    pub(super) fn id(&self) -> String {
        format!("{}/{}", self.org, self.name)
    }

    /// The folder's name in the Hugging Face cache.
    pub(super) fn hub_name(&self) -> String {
        format!("models--{}--{}", self.org, self.name)
    }

    /// The name in the cache of the whole folder; that of a file goes on behind it.
    pub(super) fn cache_name(&self) -> String {
        match self.revision.as_str() {
            MAIN => format!("{}--{}", self.org, self.name),
            revision => format!("{}--{}@{revision}", self.org, self.name),
        }
    }

    pub(super) fn cache_file(&self, file: &str) -> String {
        format!("{}--{}", self.cache_name(), file.replace('/', "--"))
    }

    /// The cached file or folder that this stands for.
    pub(super) fn cached(&self, models: &Path) -> Result<Option<PathBuf>, SourceError> {
        if let Some(Choice::Path(file)) = &self.file {
            return Ok(Some(models.join(self.cache_file(file))).filter(|p| p.is_file()));
        }
        let prefix = self.cache_file("");
        let files = cache::models(models)?;
        let ours: Vec<&str> =
            files.iter().map(|(f, ..)| f.as_str()).filter(|f| f.starts_with(&prefix)).collect();
        let folder = || Some(models.join(self.cache_name())).filter(|p| p.is_dir() && self.file.is_none());
        Ok(self.choose(&ours).map(|f| models.join(f)).or_else(folder))
    }

    /// The file that this stands for, of all GGUF files there are; of a split set, the first part.
    pub(super) fn choose<'a>(&self, files: &[&'a str]) -> Option<&'a str> {
        // A part stands for its set, where it is the first of one that is all there.
        let whole = |f: &&&str| {
            let parts = parts(f);
            (!f.contains("-of-") || parts.len() > 1) && parts.iter().all(|p| files.contains(&p.as_str()))
        };
        // `Q4_K` is not the type of a file that has `Q4_K_M` in its name.
        let of_type = |ty: &str| {
            let ty = ty.to_ascii_lowercase();
            let has = |f: &&&str| {
                let name = f.to_ascii_lowercase();
                let word = |(at, _): (usize, &str)| {
                    let inside = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
                    let before = at.checked_sub(1).and_then(|i| name.as_bytes().get(i));
                    !inside(before) && !inside(name.as_bytes().get(at + ty.len()))
                };
                name.match_indices(&*ty).any(word)
            };
            files.iter().filter(whole).find(has).copied()
        };
        match &self.file {
            Some(Choice::Path(path)) => files.iter().copied().find(|f| f == path),
            Some(Choice::Type(ty)) => of_type(ty),
            None => PREFERENCE.into_iter().find_map(of_type),
        }
    }
}

/// What to call a file or folder of the cache.
pub(super) fn name_of(cached: &str) -> Option<String> {
    let (org, rest) = cached.split_once("--")?;
    Some(match rest.split_once("--") {
        Some((package, file)) if org == "pypi" && package.contains("==") => {
            format!("pypi:{package}/{}", file.replace("--", "/"))
        }
        Some((name, file)) => format!("{org}/{name}:{}", file.replace("--", "/")),
        None => format!("{org}/{rest}"),
    })
}

/// All parts of the split set whose first part is `file`, or the file alone.
pub(super) fn parts(file: &str) -> Vec<String> {
    let count = file.strip_suffix(".gguf").and_then(|f| f.rsplit_once("-00001-of-"));
    match count.and_then(|(stem, n)| Some((stem, n, n.parse::<u32>().ok().filter(|_| n.len() == 5)?))) {
        Some((stem, n, count)) => (1..=count).map(|i| format!("{stem}-{i:05}-of-{n}.gguf")).collect(),
        None => vec![file.to_owned()],
    }
}
