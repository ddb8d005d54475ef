//! Metadata values: kept as byte ranges of the file and read on demand, so that a vocabulary of 100,000 strings costs
//! nothing until somebody walks it.

use std::ops::Range;

use super::error::GgufErrorKind;

/// The type of a metadata value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the types")]
pub enum ValueKind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Str,
    Array,
    U64,
    I64,
    F64,
}

impl ValueKind {
    const BY_ID: [ValueKind; 13] = {
        use ValueKind::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, Str, Array, U64, I64, F64]
    };

    pub(super) fn from_id(id: u32) -> Option<ValueKind> {
        Self::BY_ID.get(usize::try_from(id).ok()?).copied()
    }

    pub(super) fn id(self) -> u32 {
        self as u32
    }

    /// Bytes of a value with a fixed size.
    pub(super) fn size(self) -> Option<usize> {
        use ValueKind::*;
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            Str | Array => None,
        }
    }
}

/// A checked metadata value, as a range of the file's bytes.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A number or a bool: its bytes.
    Scalar(ValueKind, Range<usize>),
    /// A string: its bytes, which are UTF-8.
    Str(Range<usize>),
    /// An array: element kind, length, and the bytes of all elements.
    Array(ValueKind, usize, Range<usize>),
}

impl Value {
    /// How an error message names this value.
    fn describe(&self) -> String {
        match self {
            Value::Scalar(kind, _) => format!("a value of type {kind:?}"),
            Value::Str(_) => "a string".to_owned(),
            Value::Array(kind, len, _) => format!("an array of {len} {kind:?}"),
        }
    }
}

/// A type that a metadata value can be read as; see [`ModelFile::get`](crate::ModelFile::get).
pub trait FromMetadata<'a>: Sized {
    /// What an error message says is needed.
    const WANTED: &'static str;

    #[doc(hidden)]
    fn read(value: RawValue<'a>) -> Option<Self>;
}

/// A value together with the file it lies in.
#[derive(Clone, Copy)]
pub struct RawValue<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) value: &'a Value,
}

impl<'a> RawValue<'a> {
    pub(super) fn read_as<T: FromMetadata<'a>>(self, key: &str) -> Result<T, GgufErrorKind> {
        T::read(self).ok_or_else(|| GgufErrorKind::WrongType {
            key: key.to_owned(),
            found: self.value.describe(),
            wanted: T::WANTED,
        })
    }

    fn scalar(self) -> Option<Number> {
        match self.value {
            Value::Scalar(kind, range) => Number::read(*kind, &self.bytes[range.clone()]),
            _ => None,
        }
    }

    fn numbers(self) -> Option<impl Iterator<Item = Option<Number>> + 'a> {
        let Value::Array(kind, _, range) = self.value else { return None };
        let (kind, size) = (*kind, kind.size()?);
        Some(self.bytes[range.clone()].chunks_exact(size).map(move |b| Number::read(kind, b)))
    }
}

/// Any number or bool, widened without loss.
#[derive(Clone, Copy)]
enum Number {
    Int(i128),
    Float(f64),
    Bool(bool),
}

impl Number {
    fn read(kind: ValueKind, b: &[u8]) -> Option<Number> {
        macro_rules! int {
            ($t:ty) => {
                Number::Int(<$t>::from_le_bytes(b.try_into().ok()?) as i128)
            };
        }
        Some(match kind {
            ValueKind::U8 => int!(u8),
            ValueKind::I8 => int!(i8),
            ValueKind::U16 => int!(u16),
            ValueKind::I16 => int!(i16),
            ValueKind::U32 => int!(u32),
            ValueKind::I32 => int!(i32),
            ValueKind::U64 => int!(u64),
            ValueKind::I64 => int!(i64),
            ValueKind::F32 => Number::Float(f32::from_le_bytes(b.try_into().ok()?).into()),
            ValueKind::F64 => Number::Float(f64::from_le_bytes(b.try_into().ok()?)),
            ValueKind::Bool => Number::Bool(*b.first()? != 0),
            ValueKind::Str | ValueKind::Array => return None,
        })
    }

    fn int<T: TryFrom<i128>>(self) -> Option<T> {
        match self {
            Number::Int(i) => T::try_from(i).ok(),
            _ => None,
        }
    }

    fn float(self) -> Option<f32> {
        match self {
            Number::Float(f) => Some(f as f32),
            _ => None,
        }
    }
}

macro_rules! from_metadata {
    ($($t:ty, $wanted:literal, $many:literal, $convert:expr;)*) => {$(
        impl FromMetadata<'_> for $t {
            const WANTED: &'static str = $wanted;
            fn read(value: RawValue<'_>) -> Option<Self> {
                value.scalar().and_then($convert)
            }
        }
        impl FromMetadata<'_> for Vec<$t> {
            const WANTED: &'static str = $many;
            fn read(value: RawValue<'_>) -> Option<Self> {
                value.numbers()?.map(|n| n.and_then($convert)).collect()
            }
        }
    )*};
}

from_metadata! {
    u32, "an integer from 0 to 4294967295", "an array of integers from 0 to 4294967295", Number::int;
    u64, "an integer of at least 0", "an array of integers of at least 0", Number::int;
    i32, "a 32-bit integer", "an array of 32-bit integers", Number::int;
    f32, "a floating-point number", "an array of floating-point numbers", Number::float;
    bool, "a boolean", "an array of booleans", |n| match n { Number::Bool(b) => Some(b), _ => None };
}

impl<'a> FromMetadata<'a> for &'a str {
    const WANTED: &'static str = "a string";
    fn read(value: RawValue<'a>) -> Option<Self> {
        match value.value {
            Value::Str(range) => std::str::from_utf8(&value.bytes[range.clone()]).ok(),
            _ => None,
        }
    }
}

impl<'a> FromMetadata<'a> for StrArray<'a> {
    const WANTED: &'static str = "an array of strings";
    fn read(value: RawValue<'a>) -> Option<Self> {
        match value.value {
            Value::Array(ValueKind::Str, len, range) => {
                Some(StrArray { len: *len, bytes: &value.bytes[range.clone()] })
            }
            _ => None,
        }
    }
}

/// An array of strings, read in place; the strings are bytes, since some tokenizers hold pieces of characters.
#[derive(Clone, Copy, Debug)]
pub struct StrArray<'a> {
    len: usize,
    bytes: &'a [u8],
}

impl<'a> StrArray<'a> {
    /// How many strings.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The strings in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || {
            let (len, tail) = rest.split_first_chunk::<8>()?;
            let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
            let (string, tail) = tail.split_at_checked(len)?;
            rest = tail;
            Some(string)
        })
    }
}
