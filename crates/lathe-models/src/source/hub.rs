//! A GGUF file of a Hugging Face repository, over HTTP: what has arrived is kept and resumed, within a run and across
//! runs, wherever the server publishes the file's SHA-256 to check the result by.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::Store;
use super::cache::{self, Lock};
use super::error::SourceError;
use super::progress::Progress;

pub(super) const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// How often a broken connection is taken up again without a byte arriving.
const RETRIES: u32 = 4;
/// Which file a repository's name alone stands for: the first of these that it has.
const PREFERENCE: [&str; 5] = ["q4_0", "q4_1", "q8_0", "bf16", "f16"];

/// `org/name`, perhaps with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repository {
    org: String,
    name: String,
    file: Option<String>,
}

impl Repository {
    /// Reads `org/name[:path/to/file.gguf]`.
    pub(super) fn parse(text: &str) -> Option<Repository> {
        let (repository, file) = match text.split_once(':') {
            Some((repository, file)) => (repository, Some(file)),
            None => (text, None),
        };
        let (org, name) = repository.split_once('/')?;
        // "--" separates the parts in the cache, and the site allows it in no name.
        let plain = |s: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !s.is_empty() && !s.starts_with('.') && !s.contains("--") && s.chars().all(allowed)
        };
        let is_file = |f: &str| f.ends_with(".gguf") && f.split('/').all(plain);
        let is_path = file.is_none() && name.ends_with(".gguf");
        let good = plain(org) && plain(name) && file.is_none_or(is_file) && !is_path;
        good.then(|| Repository { org: org.into(), name: name.into(), file: file.map(str::to_owned) })
    }

    fn id(&self) -> String {
        format!("{}/{}", self.org, self.name)
    }

    fn cache_name(&self, file: &str) -> String {
        format!("{}--{}--{}", self.org, self.name, file.replace('/', "--"))
    }

    /// The cached file that this stands for.
    fn cached(&self, models: &Path) -> Result<Option<PathBuf>, SourceError> {
        if let Some(file) = &self.file {
            return Ok(Some(models.join(self.cache_name(file))).filter(|p| p.is_file()));
        }
        let prefix = self.cache_name("");
        let files = cache::model_files(models)?;
        let ours: Vec<&str> =
            files.iter().map(|(f, ..)| f.as_str()).filter(|f| f.starts_with(&prefix)).collect();
        Ok(preferred(&ours).map(|f| models.join(f)))
    }
}

/// What to call a file of the cache.
pub(super) fn name_of(cached: &str) -> Option<String> {
    let (org, rest) = cached.split_once("--")?;
    let (name, file) = rest.split_once("--")?;
    Some(format!("{org}/{name}:{}", file.replace("--", "/")))
}

/// The file to take of several, by the type in its name.
fn preferred<'a>(files: &[&'a str]) -> Option<&'a str> {
    let of_type = |ty: &str| files.iter().find(|f| f.to_ascii_lowercase().contains(ty)).copied();
    PREFERENCE.into_iter().find_map(of_type)
}

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

/// The file of a repository, fetched where it is not there; with `verify`, also where it differs from the server's.
pub(super) fn fetch(
    store: &Store,
    repository: &Repository,
    verify: bool,
    progress: &mut dyn Progress,
) -> Result<PathBuf, SourceError> {
    if !verify && let Some(path) = repository.cached(&store.models)? {
        return Ok(path);
    }
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .user_agent(concat!("lathe/", env!("CARGO_PKG_VERSION")))
        .build()
        .into();
    let (file, sha256) = choose(&agent, store, repository)?;
    let target = store.models.join(repository.cache_name(&file));
    cache::make_dir(&store.models)?;
    let _lock = Lock::on(&target, progress)?;
    if target.is_file() {
        match &sha256 {
            Some(expected) if verify && cache::sha256(&target, progress)? != *expected => {
                cache::remove(&target)?
            }
            _ => return Ok(target),
        }
    }
    let url = format!("{}/{}/resolve/main/{file}", store.endpoint.trim_end_matches('/'), repository.id());
    let part = cache::with_suffix(&target, ".part");
    if sha256.is_none() {
        cache::remove(&part)?;
    }
    progress.begin(&format!("downloading {file}"), None);
    let downloaded = download(&agent, &url, &part, sha256.is_some(), &file, progress);
    progress.end();
    downloaded?;
    if let Some(expected) = sha256 {
        let found = cache::sha256(&part, progress)?;
        if found != expected {
            cache::remove(&part)?;
            return Err(SourceError::Checksum { what: url, expected, found });
        }
    }
    cache::publish(&part, &target)?;
    Ok(target)
}

/// The file to take, and its checksum, from the repository's listing.
fn choose(
    agent: &ureq::Agent,
    store: &Store,
    repository: &Repository,
) -> Result<(String, Option<String>), SourceError> {
    let url = format!("{}/api/models/{}?blobs=true", store.endpoint.trim_end_matches('/'), repository.id());
    let network = |message: String| SourceError::Network { url: url.clone(), message };
    let mut answer = agent.get(&url).call().map_err(|e| network(e.to_string()))?;
    if answer.status() != 200 {
        return Err(SourceError::Status { url, status: answer.status().as_u16() });
    }
    let text = answer.body_mut().read_to_string().map_err(|e| network(e.to_string()))?;
    let listing: Listing =
        serde_json::from_str(&text).map_err(|e| network(format!("its answer is unreadable: {e}")))?;
    let files: Vec<&str> =
        listing.siblings.iter().map(|s| s.rfilename.as_str()).filter(|f| f.ends_with(".gguf")).collect();
    let whole: Vec<&str> = files.iter().copied().filter(|f| !f.contains("-of-")).collect();
    let found = match &repository.file {
        Some(file) => files.iter().copied().find(|f| f == file),
        None => preferred(&whole),
    };
    let Some(file) = found else {
        let what = match (&repository.file, files.as_slice()) {
            (_, []) => "no GGUF file".to_owned(),
            (Some(file), files) => format!("no file {file}, only {}", files.join(", ")),
            (None, files) => format!("no file in Q4_0, Q4_1, Q8_0, BF16 or F16, only {}", files.join(", ")),
        };
        return Err(SourceError::NoModel { repository: repository.id(), what });
    };
    // The name comes from a server and becomes part of a path.
    if Repository::parse(&format!("{}:{file}", repository.id())).is_none() {
        let what = format!("a file with an unusable name: {}", file.escape_debug());
        return Err(SourceError::NoModel { repository: repository.id(), what });
    }
    let lfs = listing.siblings.iter().find(|s| s.rfilename == file).and_then(|s| s.lfs.as_ref());
    let sha256 = lfs.and_then(|l| l.sha256.as_ref()).map(|s| s.to_ascii_lowercase());
    Ok((file.to_owned(), sha256))
}

/// Fetches `url` into `part`; with `resume`, from where the file ends, and again after each break while bytes arrive.
fn download(
    agent: &ureq::Agent,
    url: &str,
    part: &Path,
    resume: bool,
    what: &str,
    progress: &mut dyn Progress,
) -> Result<(), SourceError> {
    let mut failures = 0;
    loop {
        let had = part.metadata().map_or(0, |m| m.len());
        match attempt(agent, url, part, if resume { had } else { 0 }, what, progress) {
            Err(SourceError::Network { .. }) if failures < RETRIES => {
                let has = part.metadata().map_or(0, |m| m.len());
                failures = if resume && has > had { 0 } else { failures + 1 };
                std::thread::sleep(Duration::from_millis(100 << failures));
            }
            result => return result,
        }
    }
}

/// One request for what follows the first `have` bytes.
fn attempt(
    agent: &ureq::Agent,
    url: &str,
    part: &Path,
    have: u64,
    what: &str,
    progress: &mut dyn Progress,
) -> Result<(), SourceError> {
    let network = |message: String| SourceError::Network { url: url.to_owned(), message };
    let mut request = agent.get(url).header("Accept-Encoding", "identity");
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    let answer = request.call().map_err(|e| network(e.to_string()))?;
    let header = |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok());
    let length: Option<u64> = header("content-length").and_then(|v| v.parse().ok());
    let start = match answer.status().as_u16() {
        200 => 0,
        206 if header("content-range").is_some_and(|r| r.starts_with(&format!("bytes {have}-"))) => have,
        // All of it was there already, or more than there is: the checksum tells.
        416 if have > 0 && header("content-range") == Some(&format!("bytes */{have}")) => return Ok(()),
        206 | 416 => {
            cache::remove(part)?;
            return Err(network("the server resumed at another place".to_owned()));
        }
        status => return Err(SourceError::Status { url: url.to_owned(), status }),
    };
    let mut file = if start > 0 { OpenOptions::new().append(true).open(part) } else { File::create(part) }
        .map_err(cache::io("write", part))?;
    progress.begin(&format!("downloading {what}"), length.map(|l| start + l));
    let mut body = answer.into_body().into_reader();
    let mut buffer = vec![0; 1 << 18];
    let mut done = start;
    loop {
        match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                file.write_all(&buffer[..n]).map_err(cache::io("write", part))?;
                done += n as u64;
                progress.advance(done);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(network(e.to_string())),
        }
    }
    match length {
        Some(length) if done - start != length => {
            Err(network(format!("the connection broke after {done} bytes")))
        }
        _ => Ok(()),
    }
}
