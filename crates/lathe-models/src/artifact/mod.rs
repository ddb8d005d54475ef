//! The container of a compiled model: one file of named sections, each with a checksum, behind a table with one of its own.
//!
//! All numbers are little-endian. A head of 32 bytes: `LATHEmdl`, the version (u32), the count of sections (u32), 16 zeros.
//! A row of 64 bytes for each section: its name (16 bytes, padded with zeros), offset (u64), length (u64), checksum (32
//! bytes). The BLAKE3 hash of head and rows. The sections, each at a multiple of 4096.
//!
//! The section `settings` is a GGUF file without tensors: the model's metadata under GGUF's keys, and what the engine says of
//! the compiled model under keys that begin with `lathe.`. What the other sections hold is the engine's business.

mod error;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::Path;

pub use error::{ArtifactError, ArtifactErrorKind};

use crate::file::{Bytes, Content, Format};
use crate::gguf::{self, GgufWriter};

/// The version of the container and of what the sections hold; another one is not read.
pub const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"LATHEmdl";
const HEAD: usize = 32;
const ROW: usize = 64;
const NAME: usize = 16;
const ALIGN: usize = 4096;
/// More sections than any version has.
const MOST_SECTIONS: usize = 64;
/// Bytes that are hashed on their own, so that threads share a long section.
const CHUNK: usize = 16 << 20;

const SETTINGS: &str = "settings";

/// Whether a file begins as what `lathe compile` writes does.
pub fn is_artifact(path: &Path) -> bool {
    let mut head = [0; MAGIC.len()];
    let read = |mut file: File| io::Read::read_exact(&mut file, &mut head);
    File::open(path).and_then(read).is_ok() && head == *MAGIC
}

/// Writes a compiled model under a temporary name and renames it, so that `path` never holds half a file. Names of sections
/// are at most 16 bytes long.
pub fn write_artifact(
    path: &Path,
    settings: GgufWriter,
    sections: &[(&str, &[u8])],
) -> Result<(), ArtifactError> {
    let fail = |kind| ArtifactError { path: path.to_owned(), kind };
    let settings = settings.to_bytes().map_err(|e| fail(ArtifactErrorKind::Settings(e.kind)))?;
    let all: Vec<(&str, &[u8])> = [(SETTINGS, &settings[..])].into_iter().chain(sections.to_vec()).collect();
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> io::Result<()> {
        let mut temporary = crate::gguf::temporary(folder)?;
        let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
        write_to(&mut out, &all)?;
        out.flush()?;
        drop(out);
        temporary.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    write().map_err(|error| fail(ArtifactErrorKind::Io { action: "write", error }))
}

fn write_to(out: &mut dyn Write, sections: &[(&str, &[u8])]) -> io::Result<()> {
    let mut table = MAGIC.to_vec();
    table.extend(VERSION.to_le_bytes());
    table.extend((sections.len() as u32).to_le_bytes());
    table.resize(HEAD, 0);
    let mut at = (HEAD + sections.len() * ROW + 32).next_multiple_of(ALIGN);
    for (name, bytes) in sections {
        let row = table.len();
        table.extend(name.as_bytes());
        table.resize(row + NAME, 0);
        table.extend((at as u64).to_le_bytes());
        table.extend((bytes.len() as u64).to_le_bytes());
        table.extend(checksum(bytes));
        at = (at + bytes.len()).next_multiple_of(ALIGN);
    }
    let hash = blake3::hash(&table);
    table.extend(hash.as_bytes());
    table.resize(table.len().next_multiple_of(ALIGN), 0);
    out.write_all(&table)?;
    for (_, bytes) in sections {
        out.write_all(bytes)?;
        out.write_all(&vec![0; bytes.len().next_multiple_of(ALIGN) - bytes.len()])?;
    }
    Ok(())
}

/// Maps the file at `path` and checks all of it.
pub(crate) fn open(path: &Path) -> Result<Content, ArtifactError> {
    let fail = |kind| ArtifactError { path: path.to_owned(), kind };
    let file = Bytes::map(path).map_err(|(action, error)| fail(ArtifactErrorKind::Io { action, error }))?;
    let mut sections = table(&file).map_err(fail)?;
    let at = sections.iter().position(|(name, _)| name == SETTINGS);
    let at = at.ok_or_else(|| fail(ArtifactErrorKind::Missing(SETTINGS.into())))?;
    let (_, range) = sections.swap_remove(at);
    let settings =
        gguf::from_bytes(file[range].to_vec()).map_err(|e| fail(ArtifactErrorKind::Settings(e.kind)))?;
    Ok(Content { format: Format::Compiled, files: vec![file], tensors: vec![], sections, ..settings })
}

/// The sections of a file, which are whole.
fn table(bytes: &[u8]) -> Result<Vec<(String, Range<usize>)>, ArtifactErrorKind> {
    let ends = || ArtifactErrorKind::Truncated { len: bytes.len() };
    let head = bytes.get(..HEAD).ok_or_else(ends)?;
    let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    if number(8) != VERSION {
        return Err(ArtifactErrorKind::Version(number(8)));
    }
    let count = number(12) as usize;
    if count > MOST_SECTIONS {
        return Err(ArtifactErrorKind::Damaged("the table of sections".into()));
    }
    let end = HEAD + count * ROW;
    let (rows, hash) = (bytes.get(..end).ok_or_else(ends)?, bytes.get(end..end + 32).ok_or_else(ends)?);
    if blake3::hash(rows).as_bytes() != hash {
        return Err(ArtifactErrorKind::Damaged("the table of sections".into()));
    }
    let mut sections = vec![];
    for row in rows[HEAD..].chunks_exact(ROW) {
        let name = String::from_utf8_lossy(&row[..NAME]).trim_end_matches('\0').to_owned();
        let number = |at: usize| {
            let value = u64::from_le_bytes(row[at..at + 8].try_into().expect("eight bytes"));
            usize::try_from(value).unwrap_or(usize::MAX)
        };
        let (at, len) = (number(NAME), number(NAME + 8));
        let range = at..at.checked_add(len).ok_or_else(ends)?;
        let section = bytes.get(range.clone()).ok_or_else(ends)?;
        if checksum(section) != row[NAME + 16..] {
            return Err(ArtifactErrorKind::Damaged(format!("the section '{name}'")));
        }
        sections.push((name, range));
    }
    Ok(sections)
}

/// The BLAKE3 hash of the hashes of a section's chunks, made by all cores.
fn checksum(bytes: &[u8]) -> [u8; 32] {
    let chunks: Vec<&[u8]> = bytes.chunks(CHUNK).collect();
    let mut hashes = vec![[0; 32]; chunks.len()];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let each = chunks.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (chunks, hashes) in chunks.chunks(each).zip(hashes.chunks_mut(each)) {
            let work = move || {
                for (chunk, hash) in chunks.iter().zip(hashes) {
                    *hash = *blake3::hash(chunk).as_bytes();
                }
            };
            match bytes.len() > CHUNK {
                true => drop(scope.spawn(work)),
                false => work(),
            }
        }
    });
    *blake3::hash(&hashes.concat()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelFile;

    fn written() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let mut settings = GgufWriter::new();
        settings.str("general.architecture", "llama");
        write_artifact(&path, settings, &[("first", b"one"), ("second", &[7; 5000])]).unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    #[cfg(unix)]
    fn others_may_read_it_as_any_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let [ours, any] = ["ours", "any"].map(|name| folder.path().join(name));
        write_artifact(&ours, GgufWriter::new(), &[]).unwrap();
        std::fs::write(&any, b"12").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&any));
    }

    fn opened(bytes: &[u8]) -> Result<ModelFile, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        std::fs::write(&path, bytes).unwrap();
        ModelFile::open(&path).map_err(|e| e.to_string().replace(&format!("{}: ", path.display()), ""))
    }

    #[test]
    fn sections_come_back() {
        let file = opened(&written()).unwrap();
        assert_eq!(
            (file.format(), file.get_str("general.architecture").unwrap()),
            (Format::Compiled, "llama")
        );
        let (map, range) = file.section("second").unwrap();
        assert_eq!((map[range.clone()].to_vec(), range.start % ALIGN), (vec![7; 5000], 0));
        assert!(file.section("third").is_none() && file.section(SETTINGS).is_none());
    }

    #[test]
    fn a_changed_byte_is_found_and_its_place_named() {
        let bytes = written();
        let with = |at: usize| {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            opened(&changed).unwrap_err()
        };
        assert_eq!(with(9), "it has version 257, this program reads version 1");
        for at in [16, 40, HEAD + 3 * ROW] {
            assert_eq!(with(at), "the table of sections is damaged");
        }
        assert_eq!(with(ALIGN + 9), "the section 'settings' is damaged");
        assert_eq!(with(2 * ALIGN + 1), "the section 'first' is damaged");
        assert_eq!(with(3 * ALIGN + 4999), "the section 'second' is damaged");
        for len in [8, 31, 100, ALIGN, 3 * ALIGN, 3 * ALIGN + 4999] {
            let error = opened(&bytes[..len]).unwrap_err();
            assert_eq!(error, format!("the file ends before its content does (it has {len} bytes)"));
        }
    }
}
