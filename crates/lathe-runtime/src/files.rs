//! Files that appear whole or not at all: written under a temporary name in the same folder, then renamed.

use std::io::{self, Write};
use std::path::Path;

/// Writes `bytes` as the file `path`, making its folder when needed.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
