//! One file over HTTP: what has arrived is kept and resumed, within a run and across runs, wherever the server publishes the
//! file's SHA-256 to check the result by.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use super::cache;
use super::error::SourceError;
use super::progress::Progress;

/// How often a broken connection is taken up again without a byte arriving.
const RETRIES: u32 = 4;

/// Asks servers, with the user's token where there is one.
pub(super) struct Client {
    agent: ureq::Agent,
    token: Option<String>,
}

impl Client {
    /// A client that shows `token` to the servers it asks, but to none they send it on to.
    pub(super) fn new(token: Option<&str>) -> Client {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::Never)
            .user_agent(concat!("lathe/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Client { agent, token: token.map(str::to_owned) }
    }

    pub(super) fn get(&self, url: &str) -> ureq::RequestBuilder<ureq::typestate::WithoutBody> {
        let request = self.agent.get(url);
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }
}

/// Makes `target` the file at `url`, unless it is there; with `verify`, also where it differs from `sha256`.
pub(super) fn fetch(
    client: &Client,
    url: &str,
    target: &Path,
    sha256: Option<&str>,
    verify: bool,
    progress: &mut dyn Progress,
) -> Result<(), SourceError> {
    if target.is_file() {
        match sha256 {
            Some(expected) if verify && cache::sha256(target, progress)? != expected => {
                cache::remove(target)?
            }
            _ => return Ok(()),
        }
    }
    let what = url.rsplit('/').next().unwrap_or(url);
    let part = cache::with_suffix(target, ".part");
    if sha256.is_none() {
        cache::remove(&part)?;
    }
    progress.begin(&format!("downloading {what}"), None);
    let downloaded = download(client, url, &part, sha256.is_some(), what, progress);
    progress.end();
    let said = downloaded?;
    if let Some(expected) = sha256.map(str::to_owned).or(said) {
        let found = cache::sha256(&part, progress)?;
        if found != expected {
            cache::remove(&part)?;
            return Err(SourceError::Checksum { what: url.to_owned(), expected, found });
        }
    }
    cache::publish(&part, target)
}

/// Fetches `url` into `part`; with `resume`, from where the file ends, and again after each break while bytes arrive. The
/// result is the SHA-256 that the server gave with it, if it gave one.
fn download(
    client: &Client,
    url: &str,
    part: &Path,
    resume: bool,
    what: &str,
    progress: &mut dyn Progress,
) -> Result<Option<String>, SourceError> {
    let mut failures = 0;
    loop {
        let had = part.metadata().map_or(0, |m| m.len());
        match attempt(client, url, part, if resume { had } else { 0 }, what, progress) {
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
    client: &Client,
    url: &str,
    part: &Path,
    have: u64,
    what: &str,
    progress: &mut dyn Progress,
) -> Result<Option<String>, SourceError> {
    let network = |message: String| SourceError::Network { url: url.to_owned(), message };
    let mut request = client.get(url).header("Accept-Encoding", "identity");
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    let answer = request.call().map_err(|e| network(e.to_string()))?;
    let header = |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok());
    let length: Option<u64> = header("content-length").and_then(|v| v.parse().ok());
    let sha256 = ["x-linked-etag", "etag"].into_iter().find_map(|name| sha256_of(header(name)?));
    let start = match answer.status().as_u16() {
        200 => 0,
        206 if header("content-range").is_some_and(|r| r.starts_with(&format!("bytes {have}-"))) => have,
        // All of it was there already, or more than there is: the checksum tells.
        416 if have > 0 && header("content-range") == Some(&format!("bytes */{have}")) => return Ok(None),
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
        _ => Ok(sha256),
    }
}

/// The entity tag of a large file is its SHA-256.
fn sha256_of(tag: &str) -> Option<String> {
    let tag = tag.trim_start_matches("W/").trim_matches('"');
    let is = tag.len() == 64 && tag.bytes().all(|b| b.is_ascii_hexdigit());
    is.then(|| tag.to_ascii_lowercase())
}
