//! Files that appear whole or not at all: written under a temporary name in the same folder, then renamed.

use std::io::{self, Write};
use std::path::Path;

/// Writes `bytes` as the file `path`, making its folder when needed; it has the permissions of any new file.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn others_may_read_it_as_any_file() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let [ours, any] = ["ours", "any"].map(|name| folder.path().join(name));
        write_whole(&ours, b"12").expect("it is written");
        std::fs::write(&any, b"12").expect("it is written");
        let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode();
        assert_eq!(mode(&ours), mode(&any));
        assert_eq!(std::fs::read(&ours).expect("it is there"), b"12");
    }
}
