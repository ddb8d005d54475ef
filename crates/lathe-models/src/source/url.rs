//! A GGUF file at an address.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::Store;
use super::cache::{self, Lock};
use super::download::{self, Client};
use super::error::SourceError;
use super::progress::Progress;
use super::repository::usable;

/// Whether a name is an address.
pub(super) fn is(name: &str) -> bool {
    name.starts_with("https://") || name.starts_with("http://")
}

/// The file at an address, fetched where it is not there, and with `verify` in any case.
pub(super) fn fetch(
    store: &Store,
    url: &str,
    verify: bool,
    progress: &mut dyn Progress,
) -> Result<PathBuf, SourceError> {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let file = path.rsplit('/').next().unwrap_or("");
    if !file.ends_with(".gguf") || !usable(file) {
        return Err(SourceError::Address(url.to_owned()));
    }
    // Files of the same name at other addresses are other files.
    let digest: String = Sha256::digest(url).iter().take(6).map(|b| format!("{b:02x}")).collect();
    let target = store.models.join(format!("{digest}-{file}"));
    cache::make_dir(&store.models)?;
    let _lock = Lock::on(&target, progress)?;
    if verify {
        cache::remove(&target)?;
    }
    // The user's token is for Hugging Face alone.
    download::fetch(&Client::new(None), url, &target, None, verify, progress)?;
    Ok(target)
}
