//! The header of a `.safetensors` file: eight bytes of length, then JSON that says where each tensor lies behind it.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::error::SafetensorsErrorKind as Kind;

/// A longer header is refused: one of a hundred thousand tensors is shorter.
const MAX_HEADER: usize = 1 << 24;
/// The most dimensions of a tensor.
const MAX_DIMS: usize = 4;

/// A tensor as a header describes it.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: String,
    /// The element type's name: `F32`, `BF16`, `I32`...
    pub dtype: String,
    /// Outermost first.
    pub shape: Vec<usize>,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

#[derive(Deserialize)]
struct Raw {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// All entries, in the header's order; an object, whose keys must differ.
struct Entries(Vec<(String, Raw)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let (mut entries, mut names) = (vec![], HashSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format!("tensor '{name}' appears twice")));
                    }
                    entries.push((name, map.next_value()?));
                }
                Ok(Entries(entries))
            }
        }
        d.deserialize_map(Walk)
    }
}

/// Bytes of an element.
fn width(dtype: &str) -> Option<usize> {
    Some(match dtype {
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" => 1,
        "U16" | "I16" | "F16" | "BF16" => 2,
        "U32" | "I32" | "F32" => 4,
        "U64" | "I64" | "F64" => 8,
        _ => return None,
    })
}

/// Reads and checks the header of a whole file: every range lies in the file, and together they are all that is behind the
/// header, once.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Entry>, Kind> {
    let fail = |what: String| Kind::Header(what);
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(fail(format!("the file has {} bytes, fewer than any safetensors file", bytes.len())));
    };
    let length = u64::from_le_bytes(*length);
    let length = match usize::try_from(length) {
        Ok(n) if n <= rest.len() && n <= MAX_HEADER => n,
        Ok(n) if n <= rest.len() => {
            return Err(fail(format!("the header has {n} bytes, more than the {MAX_HEADER} that are read")));
        }
        _ => {
            let all = bytes.len();
            return Err(fail(format!("the header claims {length} bytes, the file has {all}")));
        }
    };
    let (json, data) = rest.split_at(length);
    let Entries(raw) =
        serde_json::from_slice(json).map_err(|e| fail(format!("the header cannot be read: {e}")))?;
    let mut entries = Vec::with_capacity(raw.len());
    for (name, raw) in raw {
        let [from, to] = raw.data_offsets;
        if name.len() > 1 << 12 {
            return Err(fail(format!("a tensor has a name of {} bytes", name.len())));
        }
        if raw.shape.len() > MAX_DIMS {
            let n = raw.shape.len();
            return Err(fail(format!("tensor '{name}' has {n} dimensions, more than {MAX_DIMS}")));
        }
        let Some(width) = width(&raw.dtype) else {
            return Err(fail(format!("tensor '{name}' has the unknown type '{}'", raw.dtype)));
        };
        let bytes = raw.shape.iter().try_fold(width, |n, &d| n.checked_mul(d));
        if from > to || to > data.len() {
            let all = data.len();
            return Err(fail(format!("tensor '{name}' lies at bytes {from} to {to} of {all}")));
        }
        if bytes != Some(to - from) {
            let (dtype, shape) = (&raw.dtype, &raw.shape);
            return Err(fail(format!("tensor '{name}', {dtype} {shape:?}, cannot have {} bytes", to - from)));
        }
        let base = 8 + length;
        entries.push(Entry { name, dtype: raw.dtype, shape: raw.shape, range: base + from..base + to });
    }
    covered(&entries, 8 + length, bytes.len())?;
    Ok(entries)
}

/// Checks that the tensors are all of `from..to`, without overlap.
fn covered(entries: &[Entry], from: usize, to: usize) -> Result<(), Kind> {
    let mut order: Vec<&Entry> = entries.iter().collect();
    order.sort_by_key(|e| (e.range.start, e.range.end));
    let mut at = from;
    for e in order {
        if e.range.start < at {
            return Err(Kind::Header(format!("tensor '{}' overlaps the one before it", e.name)));
        }
        if e.range.start > at {
            return Err(Kind::Header(format!("there is a hole before tensor '{}'", e.name)));
        }
        at = e.range.end;
    }
    match at == to {
        true => Ok(()),
        false => Err(Kind::Header(format!("{} bytes behind the last tensor belong to none", to - at))),
    }
}
