//! The parser: one bounded walk over the header, which allocates only for what it has already seen.

use std::ops::Range;

use std::collections::{HashMap, HashSet};

use super::error::GgufErrorKind;
use super::types::{GgmlType, unread_type_name};
use super::value::{RawValue, Value, ValueKind};

/// The most dimensions a tensor has in this format.
const MAX_DIMS: usize = 4;
/// Arrays of arrays deeper than this are refused, so that a hostile file cannot exhaust the stack.
const MAX_NESTING: usize = 4;
/// Names longer than this are refused.
const MAX_NAME: usize = 1 << 16;

/// Everything the header says.
#[derive(Debug)]
pub(super) struct Header {
    pub version: u32,
    pub metadata: HashMap<String, Value>,
    pub tensors: Vec<Entry>,
}

/// What the header says of a tensor.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: String,
    /// Innermost first.
    pub dims: Vec<usize>,
    pub ty: GgmlType,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

/// Reads and checks the header of a whole file.
pub(super) fn parse(bytes: &[u8]) -> Result<Header, GgufErrorKind> {
    let mut c = Cursor { bytes, at: 0 };
    if bytes.get(..4) != Some(b"GGUF") {
        let found = match &bytes[..bytes.len().min(4)] {
            [] => "nothing, it is empty".to_owned(),
            head => format!("\"{}\"", head.escape_ascii()),
        };
        return Err(GgufErrorKind::NotGguf { found });
    }
    c.at = 4;
    let version = c.u32("the version")?;
    match version {
        2 | 3 => {}
        v if (2..=3).contains(&v.swap_bytes()) => return Err(GgufErrorKind::BigEndian),
        v => return Err(GgufErrorKind::Version(v)),
    }
    // The smallest tensor entry has 24 bytes (name length, dimension count, type, offset), the smallest metadata
    // entry 13 (key length, type, one byte).
    let tensor_count = c.count(24, "tensors")?;
    let metadata_count = c.count(13, "metadata entries")?;

    let mut metadata = HashMap::new();
    for i in 0..metadata_count {
        let key = c.name(&format!("metadata key {i}"))?;
        let kind = c.kind(&key)?;
        let value = c.value(kind, &key, 0)?;
        if metadata.contains_key(&key) {
            return Err(malformed(format!("metadata key '{key}' appears twice")));
        }
        metadata.insert(key, value);
    }

    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(value) => RawValue { bytes, value }.read_as::<u32>("general.alignment")? as usize,
    };
    if !alignment.is_power_of_two() {
        return Err(malformed(format!("general.alignment is {alignment}, which is not a power of two")));
    }

    // The count is only a claim: room for what real files have, more as it comes.
    let mut tensors: Vec<Entry> = Vec::with_capacity(tensor_count.min(1 << 19));
    for i in 0..tensor_count {
        tensors.push(c.tensor(i, alignment)?);
    }
    let mut names = HashSet::with_capacity(tensors.len());
    if let Some(twice) = tensors.iter().find(|t| !names.insert(t.name.as_str())) {
        return Err(malformed(format!("tensor '{}' appears twice", twice.name)));
    }
    drop(names);
    place_tensors(&mut tensors, c.at, alignment, bytes.len())?;
    Ok(Header { version, metadata, tensors })
}

/// Turns offsets within the data section into byte ranges of the file.
fn place_tensors(
    tensors: &mut [Entry],
    header: usize,
    align: usize,
    len: usize,
) -> Result<(), GgufErrorKind> {
    let base = header.checked_next_multiple_of(align);
    for t in tensors {
        let range = base
            .and_then(|base| Some(base.checked_add(t.range.start)?..base.checked_add(t.range.end)?))
            .ok_or_else(|| malformed(format!("tensor '{}' lies past any possible end of file", t.name)))?;
        if range.end > len {
            return Err(GgufErrorKind::Truncated {
                inside: format!("tensor '{}', which needs bytes {} to {}", t.name, range.start, range.end),
                len,
            });
        }
        t.range = range;
    }
    Ok(())
}

fn malformed(what: String) -> GgufErrorKind {
    GgufErrorKind::Malformed(what)
}

/// A position in the file; every read is checked against its end.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize, inside: &str) -> Result<Range<usize>, GgufErrorKind> {
        match self.at.checked_add(len) {
            Some(end) if end <= self.bytes.len() => {
                let range = self.at..end;
                self.at = end;
                Ok(range)
            }
            _ => Err(GgufErrorKind::Truncated { inside: inside.to_owned(), len: self.bytes.len() }),
        }
    }

    fn array<const N: usize>(&mut self, inside: &str) -> Result<[u8; N], GgufErrorKind> {
        let range = self.take(N, inside)?;
        Ok(self.bytes[range].try_into().expect("the range has N bytes"))
    }

    fn u32(&mut self, inside: &str) -> Result<u32, GgufErrorKind> {
        self.array(inside).map(u32::from_le_bytes)
    }

    fn u64(&mut self, inside: &str) -> Result<u64, GgufErrorKind> {
        self.array(inside).map(u64::from_le_bytes)
    }

    /// A count of things that take at least `min_bytes` each, refused where they cannot all be in the file.
    fn count(&mut self, min_bytes: usize, what: &str) -> Result<usize, GgufErrorKind> {
        let count = self.u64(&format!("the count of {what}"))?;
        let room = (self.bytes.len() - self.at) / min_bytes;
        match usize::try_from(count) {
            Ok(n) if n <= room => Ok(n),
            _ => Err(malformed(format!(
                "it claims {count} {what}, more than a file of {} bytes holds",
                self.bytes.len()
            ))),
        }
    }

    fn string(&mut self, inside: &str) -> Result<Range<usize>, GgufErrorKind> {
        let len = usize::try_from(self.u64(inside)?).unwrap_or(usize::MAX);
        self.take(len, inside)
    }

    fn name(&mut self, inside: &str) -> Result<String, GgufErrorKind> {
        let range = self.string(inside)?;
        if range.len() > MAX_NAME {
            return Err(malformed(format!("{inside} has a name of {} bytes", range.len())));
        }
        match std::str::from_utf8(&self.bytes[range]) {
            Ok(name) => Ok(name.to_owned()),
            Err(_) => Err(malformed(format!("{inside} has a name that is not UTF-8"))),
        }
    }

    fn kind(&mut self, key: &str) -> Result<ValueKind, GgufErrorKind> {
        let id = self.u32(key)?;
        ValueKind::from_id(id)
            .ok_or_else(|| malformed(format!("metadata key '{key}' has the unknown type {id}")))
    }

    fn value(&mut self, kind: ValueKind, key: &str, depth: usize) -> Result<Value, GgufErrorKind> {
        match kind {
            ValueKind::Str => {
                let range = self.string(key)?;
                if std::str::from_utf8(&self.bytes[range.clone()]).is_err() {
                    return Err(malformed(format!("metadata key '{key}' holds a string that is not UTF-8")));
                }
                Ok(Value::Str(range))
            }
            ValueKind::Array => {
                if depth == MAX_NESTING {
                    return Err(malformed(format!(
                        "metadata key '{key}' nests arrays more than {MAX_NESTING} deep"
                    )));
                }
                let kind = self.kind(key)?;
                // The smallest string has 8 bytes (its length), the smallest array 12 (type and length).
                let min = kind.size().unwrap_or(if kind == ValueKind::Str { 8 } else { 12 });
                let len = self.count(min, "array elements")?;
                let start = self.at;
                match kind {
                    ValueKind::Str => {
                        for _ in 0..len {
                            self.string(key)?;
                        }
                    }
                    ValueKind::Array => {
                        for _ in 0..len {
                            self.value(ValueKind::Array, key, depth + 1)?;
                        }
                    }
                    _ => {
                        self.take(len * min, key)?;
                    }
                }
                Ok(Value::Array(kind, len, start..self.at))
            }
            _ => {
                let size = kind.size().expect("only strings and arrays have no fixed size");
                Ok(Value::Scalar(kind, self.take(size, key)?))
            }
        }
    }

    /// A tensor entry; its range is still relative to the data section.
    fn tensor(&mut self, index: usize, alignment: usize) -> Result<Entry, GgufErrorKind> {
        let name = self.name(&format!("the entry of tensor {index}"))?;
        let inside = format!("the entry of tensor '{name}'");
        let rank = self.u32(&inside)? as usize;
        if rank > MAX_DIMS {
            return Err(malformed(format!("tensor '{name}' has {rank} dimensions, more than {MAX_DIMS}")));
        }
        let mut dims = Vec::with_capacity(rank);
        for _ in 0..rank {
            dims.push(usize::try_from(self.u64(&inside)?).unwrap_or(usize::MAX));
        }
        let type_id = self.u32(&inside)?;
        let offset = usize::try_from(self.u64(&inside)?).unwrap_or(usize::MAX);
        let Some(ty) = GgmlType::from_id(type_id) else {
            return Err(match unread_type_name(type_id) {
                Some(type_name) => {
                    GgufErrorKind::UnsupportedType { tensor: name, name: type_name.to_owned() }
                }
                None => malformed(format!("tensor '{name}' has the unknown type {type_id}")),
            });
        };
        if dims.contains(&0) {
            return Err(malformed(format!("tensor '{name}' has an empty dimension: {dims:?}")));
        }
        let inner = dims.first().copied().unwrap_or(1);
        if inner % ty.block_len() != 0 {
            let block = ty.block_len();
            return Err(malformed(format!(
                "tensor '{name}' in {ty} has rows of {inner}, not a multiple of {block}"
            )));
        }
        if offset % alignment != 0 {
            return Err(malformed(format!(
                "tensor '{name}' lies at offset {offset}, not a multiple of {alignment}"
            )));
        }
        let end = dims
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .and_then(|elements| ty.bytes_for(elements))
            .and_then(|bytes| offset.checked_add(bytes))
            .ok_or_else(|| malformed(format!("tensor '{name}' is too large: {dims:?} at offset {offset}")))?;
        Ok(Entry { name, dims, ty, range: offset..end })
    }
}
