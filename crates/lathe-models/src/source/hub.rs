//! Models of a Hugging Face repository: a GGUF file, a split set of them, or a whole folder of safetensors.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Store;
use super::cache::{self, Lock};
use super::download::{self, Client};
use super::error::SourceError;
use super::progress::Progress;
use super::repository::{Choice, MAIN, Repository, parts, usable};

pub(super) const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// Files that are fetched with a folder's weights, where it has them.
const SETTINGS: [&str; 5] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];
const INDEX: &str = "model.safetensors.index.json";
const ONE: &str = "model.safetensors";

#[derive(Deserialize)]
struct Listing {
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
}

impl Listing {
    fn sha256(&self, file: &str) -> Option<String> {
        let lfs = self.siblings.iter().find(|s| s.rfilename == file)?.lfs.as_ref()?;
        lfs.sha256.as_ref().map(|s| s.to_ascii_lowercase())
    }
}

/// What of a repository is fetched.
enum Wanted {
    /// A GGUF file, or the parts of one; the first is the model's path.
    Files(Vec<String>),
    /// A folder of safetensors.
    Folder(Vec<String>),
}

/// The model of a repository, fetched where it is not there; with `verify`, also where it differs from the server's.
pub(super) fn fetch(
    store: &Store,
    repository: &Repository,
    verify: bool,
    progress: &mut dyn Progress,
) -> Result<PathBuf, SourceError> {
    if !verify && let Some(path) = repository.cached(&store.models)? {
        return Ok(path);
    }
    if !verify && let Some(path) = in_hub_cache(store, repository) {
        return Ok(path);
    }
    let client = Client::new(store.token.as_deref());
    let listing = list(&client, store, repository)?;
    let wanted = choose(repository, &listing)?;
    cache::make_dir(&store.models)?;
    let url = |file: &str| {
        let endpoint = store.endpoint.trim_end_matches('/');
        format!("{endpoint}/{}/resolve/{}/{file}", repository.id(), repository.revision)
    };
    let get = |file: &str, target: &Path, progress: &mut dyn Progress| {
        download::fetch(&client, &url(file), target, listing.sha256(file).as_deref(), verify, progress)
    };
    match wanted {
        Wanted::Files(files) => {
            let target = store.models.join(repository.cache_file(&files[0]));
            let _lock = Lock::on(&target, progress)?;
            for file in &files {
                get(file, &store.models.join(repository.cache_file(file)), progress)?;
            }
            Ok(target)
        }
        Wanted::Folder(files) => {
            let target = store.models.join(repository.cache_name());
            let _lock = Lock::on(&target, progress)?;
            // A folder appears under its name when all of it is there.
            let part = cache::with_suffix(&target, ".part");
            let folder = if target.is_dir() { &target } else { &part };
            cache::make_dir(folder)?;
            for file in &files {
                get(file, &folder.join(file), progress)?;
            }
            if folder == &part {
                std::fs::rename(&part, &target).map_err(cache::io("write", &target))?;
            }
            Ok(target)
        }
    }
}

fn list(client: &Client, store: &Store, repository: &Repository) -> Result<Listing, SourceError> {
    let endpoint = store.endpoint.trim_end_matches('/');
    let revision = match repository.revision.as_str() {
        MAIN => String::new(),
        revision => format!("/revision/{revision}"),
    };
    let url = format!("{endpoint}/api/models/{}{revision}?blobs=true", repository.id());
    let network = |message: String| SourceError::Network { url: url.clone(), message };
    let mut answer = client.get(&url).call().map_err(|e| network(e.to_string()))?;
    if answer.status() != 200 {
        return Err(SourceError::Status { url, status: answer.status().as_u16() });
    }
    let text = answer.body_mut().read_to_string().map_err(|e| network(e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| network(format!("its answer is unreadable: {e}")))
}

/// What to fetch of what there is: the GGUF file asked for or preferred, else the folder of safetensors.
fn choose(repository: &Repository, listing: &Listing) -> Result<Wanted, SourceError> {
    let none = |what: String| SourceError::NoModel { repository: repository.id(), what };
    let all: Vec<&str> = listing.siblings.iter().map(|s| s.rfilename.as_str()).collect();
    let files: Vec<&str> = all.iter().copied().filter(|f| f.ends_with(".gguf")).collect();
    if let Some(file) = repository.choose(&files) {
        // The name comes from a server and becomes part of a path.
        if !usable(file) {
            return Err(none(format!("a file with an unusable name: {}", file.escape_debug())));
        }
        let parts = parts(file);
        return match parts.iter().find(|p| !files.contains(&p.as_str())) {
            Some(missing) => Err(none(format!("no file {missing}, a part of the model"))),
            None => Ok(Wanted::Files(parts)),
        };
    }
    if repository.file.is_none() && all.contains(&"config.json") {
        let shard = |f: &&str| f.starts_with("model-") && f.ends_with(".safetensors") && usable(f);
        let mut folder: Vec<&str> = match (all.contains(&INDEX), all.contains(&ONE)) {
            (true, _) => all.iter().copied().filter(shard).chain([INDEX]).collect(),
            (false, true) => vec![ONE],
            (false, false) => vec![],
        };
        if !folder.is_empty() {
            folder.extend(SETTINGS.into_iter().filter(|f| all.contains(f)));
            return Ok(Wanted::Folder(folder.into_iter().map(str::to_owned).collect()));
        }
    }
    Err(none(match (&repository.file, files.as_slice()) {
        (_, []) => "no GGUF file and no folder of safetensors".to_owned(),
        (Some(Choice::Path(file)), files) => format!("no file {file}, only {}", files.join(", ")),
        (Some(Choice::Type(ty)), files) => format!("no file in {ty}, only {}", files.join(", ")),
        (None, files) => format!("no file in Q4_0, Q4_1, Q8_0, BF16 or F16, only {}", files.join(", ")),
    }))
}

/// The model in the cache that Hugging Face's own tools keep, which is only read.
fn in_hub_cache(store: &Store, repository: &Repository) -> Option<PathBuf> {
    let folder = store.hub_cache.as_ref()?.join(repository.hub_name());
    let named = std::fs::read_to_string(folder.join("refs").join(&repository.revision)).ok();
    let commit = named.map_or(repository.revision.clone(), |text| text.trim().to_owned());
    if !usable(&commit) || commit.contains('/') {
        return None;
    }
    let snapshot = folder.join("snapshots").join(commit);
    let names = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).collect()
    };
    let here = names(&snapshot);
    let mut files: Vec<&str> = here.iter().map(String::as_str).filter(|f| f.ends_with(".gguf")).collect();
    files.sort_unstable();
    if let Some(Choice::Path(file)) = &repository.file {
        // A path with folders in it.
        files.push(file);
    }
    if let Some(file) = repository.choose(&files) {
        let whole = parts(file).iter().all(|part| snapshot.join(part).is_file());
        return whole.then(|| snapshot.join(file));
    }
    let has = |file: &str| here.iter().any(|f| f == file);
    let whole = has("config.json") && (has(ONE) || has(INDEX)) && repository.file.is_none();
    // Shards may be on their way still: the folder's own check tells.
    let opens = || crate::ModelFile::open(&snapshot).is_ok();
    (whole && opens()).then_some(snapshot)
}
