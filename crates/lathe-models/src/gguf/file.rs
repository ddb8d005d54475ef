//! From bytes to an open model: one file, or a set of parts that was split (`NAME-00001-of-00003.gguf`).

use std::collections::HashMap;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{GgufError, GgufErrorKind};
use super::parse::{Entry, Header, parse};
use super::value::{FromMetadata, RawValue, Value};
use super::writer::GgufWriter;
use crate::file::{Bytes, Content, Format, TensorInfo, View};

/// The metadata of a file, read from its bytes on demand.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    bytes: Bytes,
    values: HashMap<String, Value>,
}

impl Metadata {
    /// The value at `key`, if there is one.
    pub(crate) fn find<'a, T: FromMetadata<'a>>(&'a self, key: &str) -> Result<Option<T>, GgufErrorKind> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        RawValue { bytes: &self.bytes, value }.read_as(key).map(Some)
    }

    /// Gives the value at `key` to a writer.
    pub(crate) fn copy(&self, key: &str, writer: &mut GgufWriter) {
        if let Some(value) = self.values.get(key) {
            writer.value(key, RawValue { bytes: &self.bytes, value });
        }
    }

    /// The keys, sorted.
    pub(crate) fn keys(&self) -> Vec<&str> {
        let mut keys: Vec<&str> = self.values.keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }
}

/// One file that was read.
struct Part {
    version: u32,
    metadata: Metadata,
    entries: Vec<Entry>,
}

impl Part {
    fn read(bytes: Bytes) -> Result<Part, GgufErrorKind> {
        let Header { version, metadata, tensors } = parse(&bytes)?;
        Ok(Part { version, metadata: Metadata { bytes, values: metadata }, entries: tensors })
    }

    fn open(path: &Path) -> Result<Part, GgufError> {
        let fail = |kind| GgufError { path: Some(path.to_owned()), kind };
        let bytes = Bytes::map(path).map_err(|(action, error)| fail(GgufErrorKind::Io { action, error }))?;
        Part::read(bytes).map_err(fail)
    }
}

/// Reads a file that is in memory.
pub(crate) fn from_bytes(bytes: Vec<u8>) -> Result<Content, GgufError> {
    let part = Part::read(Bytes::Owned(Arc::new(bytes))).map_err(|kind| GgufError { path: None, kind })?;
    Ok(join(vec![part]))
}

/// Opens the file at `path`, and with it the other parts of its set.
pub(crate) fn open(path: &Path) -> Result<Content, GgufError> {
    let fail = |kind| GgufError { path: Some(path.to_owned()), kind };
    let part = Part::open(path)?;
    let count = part.metadata.find::<u32>("split.count").map_err(fail)?.unwrap_or(1);
    match count {
        0 | 1 => Ok(join(vec![part])),
        _ => set(path, part, count).map(join),
    }
}

/// The parts of the set that `path` is one of, in order.
fn set(path: &Path, given: Part, count: u32) -> Result<Vec<Part>, GgufError> {
    let fail = |path: &Path, what: String| GgufError {
        path: Some(path.to_owned()),
        kind: GgufErrorKind::Split(what),
    };
    let own = number(&given, count).map_err(|what| fail(path, what))?;
    let Some(name) = SetName::of(path).filter(|n| n.count == count && n.number == own + 1) else {
        let part = own + 1;
        let what =
            format!("it is part {part} of {count}; its name must end in -{part:05}-of-{count:05}.gguf");
        return Err(fail(path, what));
    };
    let mut given = Some(given);
    let mut parts = vec![];
    let mut names = HashSet::new();
    for i in 0..count {
        let place = name.part(i + 1);
        let part = match given.take_if(|_| i == own) {
            Some(part) => part,
            None => Part::open(&place).map_err(|e| match e.kind {
                GgufErrorKind::Io { error, .. } => {
                    fail(&place, format!("part {} of {count} cannot be opened: {error}", i + 1))
                }
                _ => e,
            })?,
        };
        let theirs = part.metadata.find::<u32>("split.count");
        match theirs.map_err(|kind| GgufError { path: Some(place.clone()), kind })? {
            Some(n) if n == count => {}
            other => {
                let found = other.map_or("none".to_owned(), |n| n.to_string());
                return Err(fail(&place, format!("its split.count is {found}, that of the set is {count}")));
            }
        }
        let no = number(&part, count).map_err(|what| fail(&place, what))?;
        if no != i {
            return Err(fail(&place, format!("its split.no is {no}, by its name it is {i}")));
        }
        if let Some(twice) = part.entries.iter().find(|e| !names.insert(e.name.clone())) {
            return Err(fail(&place, format!("tensor '{}' is in an earlier part, too", twice.name)));
        }
        parts.push(part);
    }
    let total = parts[0].metadata.find::<u64>("split.tensors.count");
    match total.map_err(|kind| GgufError { path: Some(name.part(1)), kind })? {
        Some(total) if total != names.len() as u64 => {
            let what = format!("the parts have {} tensors, split.tensors.count is {total}", names.len());
            Err(fail(path, what))
        }
        _ => Ok(parts),
    }
}

/// A part's number in its set, from 0.
fn number(part: &Part, count: u32) -> Result<u32, String> {
    match part.metadata.find::<u32>("split.no").map_err(|e| e.to_string())? {
        Some(no) if no < count => Ok(no),
        Some(no) => Err(format!("its split.no is {no}, but the set has {count} parts")),
        None => Err("it has a split.count, but no split.no".to_owned()),
    }
}

/// `NAME-00001-of-00003.gguf`, taken apart.
struct SetName {
    folder: PathBuf,
    name: String,
    number: u32,
    count: u32,
}

impl SetName {
    fn of(path: &Path) -> Option<SetName> {
        let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (name, number) = rest.rsplit_once('-')?;
        let digits =
            |s: &str| s.parse().ok().filter(|_| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit()));
        Some(SetName {
            folder: path.parent()?.to_owned(),
            name: name.to_owned(),
            number: digits(number)?,
            count: digits(count)?,
        })
    }

    fn part(&self, number: u32) -> PathBuf {
        self.folder.join(format!("{}-{number:05}-of-{:05}.gguf", self.name, self.count))
    }
}

/// Metadata of the first part, tensors of all.
fn join(parts: Vec<Part>) -> Content {
    let format = Format::Gguf(parts[0].version);
    let files: Vec<Bytes> = parts.iter().map(|p| p.metadata.bytes.clone()).collect();
    let mut tensors = vec![];
    let mut metadata = None;
    for (file, part) in parts.into_iter().enumerate() {
        tensors.extend(part.entries.into_iter().map(|Entry { name, dims, ty, range }| TensorInfo {
            name,
            dims,
            ty,
            view: View::Stored { file, range },
        }));
        metadata.get_or_insert(part.metadata);
    }
    let metadata = metadata.expect("a set has a part");
    Content { format, metadata, files, tensors, sections: vec![] }
}
