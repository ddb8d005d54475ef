//! A file as a tier: bytes that kernels reach only after they are copied to memory.

use crate::{RuntimeError, View};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// An open file of fixed length.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    path: PathBuf,
    len: u64,
}

impl DiskFile {
    /// Opens a file to be read.
    pub fn open(path: &Path) -> Result<DiskFile, RuntimeError> {
        let open = || {
            let file = File::open(path)?;
            let len = file.metadata()?.len();
            Ok(DiskFile { file, path: path.into(), len })
        };
        open().map_err(|e| RuntimeError::io("open the file", path, &e))
    }

    /// Length, bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `target` with the file's bytes from `offset` on.
    pub fn read(&self, offset: u64, target: &View) -> Result<(), RuntimeError> {
        let fail = |e: &io::Error| RuntimeError::io("read the file", &self.path, e);
        if !target.is_writable() {
            return Err(RuntimeError::BadBuffer {
                len: target.len(),
                reason: "the memory is read-only".into(),
            });
        }
        let mut done = 0;
        while done < target.len() {
            let at =
                i64::try_from(offset + done as u64).map_err(|_| fail(&io::ErrorKind::InvalidInput.into()))?;
            let (start, left) = (target.ptr().wrapping_add(done), target.len() - done);
            // SAFETY: `start` and the `left` bytes after it are inside the view, whose memory is alive and writable, and to which
            // no Rust reference exists; the descriptor is open as long as `file` is.
            let n = unsafe { libc::pread(self.file.as_raw_fd(), start.cast(), left, at) };
            match n {
                0 => return Err(fail(&io::ErrorKind::UnexpectedEof.into())),
                n if n > 0 => done += n as usize,
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(fail(&error));
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arena, Buffer};

    #[test]
    fn parts_are_read_and_what_is_not_there_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), (0..100u8).collect::<Vec<_>>()).unwrap();
        let disk = DiskFile::open(file.path()).unwrap();
        let view = Arena::new("host", 64).alloc(10).map(Buffer::into_view).unwrap();
        disk.read(30, &view).unwrap();
        let mut got = [0u8; 10];
        view.read(0, &mut got).unwrap();
        assert_eq!((disk.len(), got), (100, [30, 31, 32, 33, 34, 35, 36, 37, 38, 39]));
        assert!(disk.read(91, &view).unwrap_err().to_string().contains("read the file"));
        assert!(disk.read(0, &view.read_only()).is_err());
        assert!(DiskFile::open(Path::new("/nowhere/at/all")).is_err());
    }
}
