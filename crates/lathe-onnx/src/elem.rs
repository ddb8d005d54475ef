//! Element types of ONNX, how each is stored here, and tensors of files.

use crate::error::Fault;
use crate::proto;
use lathe_ir::{DType, Elements, Tensor};
use std::sync::Arc;

/// An element type of ONNX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the type of that name in ONNX")]
pub enum Elem {
    F32,
    U8,
    I8,
    U16,
    I16,
    I32,
    I64,
    Str,
    Bool,
    F16,
    F64,
    U32,
    U64,
    BF16,
    F8E4M3FN,
    F8E4M3FNUZ,
    F8E5M2,
    F8E5M2FNUZ,
    U4,
    I4,
    F4E2M1,
    F8E8M0,
    U2,
    I2,
}

/// Codes in files, names in messages, and the types that hold the elements here: truth is 0 or 1 of u8, numbers of less than
/// a byte have one each, and small floats are their codes.
const ELEMS: [(i32, Elem, &str, DType); 24] = [
    (1, Elem::F32, "float", DType::F32),
    (2, Elem::U8, "uint8", DType::U8),
    (3, Elem::I8, "int8", DType::I8),
    (4, Elem::U16, "uint16", DType::uint(16)),
    (5, Elem::I16, "int16", DType::int(16)),
    (6, Elem::I32, "int32", DType::I32),
    (7, Elem::I64, "int64", DType::INDEX),
    (8, Elem::Str, "string", DType::U8),
    (9, Elem::Bool, "bool", DType::U8),
    (10, Elem::F16, "float16", DType::F16),
    (11, Elem::F64, "double", DType::F64),
    (12, Elem::U32, "uint32", DType::U32),
    (13, Elem::U64, "uint64", DType::U64),
    (16, Elem::BF16, "bfloat16", DType::BF16),
    (17, Elem::F8E4M3FN, "float8e4m3fn", DType::U8),
    (18, Elem::F8E4M3FNUZ, "float8e4m3fnuz", DType::U8),
    (19, Elem::F8E5M2, "float8e5m2", DType::U8),
    (20, Elem::F8E5M2FNUZ, "float8e5m2fnuz", DType::U8),
    (21, Elem::U4, "uint4", DType::U8),
    (22, Elem::I4, "int4", DType::I8),
    (23, Elem::F4E2M1, "float4e2m1", DType::U8),
    (24, Elem::F8E8M0, "float8e8m0", DType::U8),
    (25, Elem::U2, "uint2", DType::U8),
    (26, Elem::I2, "int2", DType::I8),
];

impl Elem {
    /// The type of a code in a file.
    pub fn of_code(code: i64) -> Result<Elem, Fault> {
        let row = ELEMS.iter().find(|(c, ..)| i64::from(*c) == code);
        row.map(|r| r.1).ok_or_else(|| match code {
            14 | 15 => Fault::unsupported("complex numbers"),
            _ => Fault::invalid(format!("there is no element type {code}")),
        })
    }

    /// The type of a name in ONNX.
    pub fn named(name: &str) -> Option<Elem> {
        ELEMS.iter().find(|r| r.2 == name).map(|r| r.1)
    }

    fn row(self) -> &'static (i32, Elem, &'static str, DType) {
        ELEMS.iter().find(|r| r.1 == self).expect("all types are listed")
    }

    /// Its name in ONNX.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// The type that holds its elements.
    pub fn dtype(self) -> DType {
        self.row().3
    }

    /// Whether it is a float that is computed with.
    pub fn is_float(self) -> bool {
        matches!(self, Elem::F32 | Elem::F16 | Elem::F64 | Elem::BF16)
    }

    /// Whether it is an integer of whole bytes.
    pub fn is_int(self) -> bool {
        self.dtype().is_int()
            && self.bits() >= 8
            && !self.is_code()
            && !matches!(self, Elem::Bool | Elem::Str)
    }

    /// Whether it is a float that is stored as a code.
    pub fn is_code(self) -> bool {
        use Elem::{F4E2M1, F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F8E8M0};
        matches!(self, F4E2M1 | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0)
    }

    /// Bits of an element in a file.
    pub fn bits(self) -> usize {
        match self {
            Elem::U4 | Elem::I4 | Elem::F4E2M1 => 4,
            Elem::U2 | Elem::I2 => 2,
            e => e.dtype().bits() as usize,
        }
    }
}

/// A tensor of ONNX with its elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// The type of the elements.
    pub elem: Elem,
    /// The elements, in the type that holds them; none for text.
    pub tensor: Arc<Tensor>,
    /// The elements of a tensor of text.
    pub text: Vec<String>,
}

impl Array {
    /// A tensor of numbers.
    pub fn new(elem: Elem, tensor: impl Into<Arc<Tensor>>) -> Array {
        Array { elem, tensor: tensor.into(), text: vec![] }
    }

    /// The tensor of a message; `external` reads a part of another file by its name, offset and length.
    pub fn of_message(
        t: &proto::Tensor,
        external: &dyn Fn(&str, u64, Option<u64>) -> Result<Vec<u8>, String>,
    ) -> Result<Array, Fault> {
        let elem = Elem::of_code(t.data_type.into())?;
        let shape: Option<Vec<usize>> = t.dims.iter().map(|d| usize::try_from(*d).ok()).collect();
        let count =
            |s: &Vec<usize>| s.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n < 1 << 40);
        let bad = |what: &str| Fault::invalid(format!("tensor '{}' {what}", t.name));
        let shape = shape.ok_or_else(|| bad("has an extent below 0"))?;
        let n = count(&shape).ok_or_else(|| bad("is too large"))?;
        if elem == Elem::Str {
            if t.string_data.len() != n {
                return Err(bad("has not as many elements as its shape says"));
            }
            let text = t.string_data.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect();
            let tensor = Tensor { shape, dtype: DType::U8, encoding: None, bytes: vec![] };
            return Ok(Array { elem, tensor: Arc::new(tensor), text });
        }
        let raw = if t.data_location == 1 {
            let entry = |key: &str| t.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
            let number =
                |key: &str| entry(key).map(|v| v.parse::<u64>().map_err(|_| bad("has a damaged place")));
            let file = entry("location").ok_or_else(|| bad("is in a file that is not named"))?;
            let (offset, length) =
                (number("offset").transpose()?.unwrap_or(0), number("length").transpose()?);
            external(file, offset, length).map_err(|e| bad(&format!("cannot be read: {e}")))?
        } else {
            t.raw_data.clone()
        };
        let typed = Tensor { shape: shape.clone(), dtype: elem.dtype(), encoding: None, bytes: vec![] };
        let whole = elem.bits() >= 8;
        if !raw.is_empty() {
            let size = (n * elem.bits()).div_ceil(8);
            if raw.len() != size {
                return Err(bad(&format!("has {} bytes, not {size}", raw.len())));
            }
            let bytes = if whole { raw } else { unpacked(&raw, elem, n) };
            return Ok(Array::new(elem, Tensor { bytes, ..typed }));
        }
        let ints = |v: Vec<i128>| if v.len() == n { Some(Elements::Ints(v)) } else { None };
        let elements = match elem {
            Elem::F32 => (t.float_data.len() == n)
                .then(|| Elements::Floats(t.float_data.iter().map(|v| f64::from(*v)).collect())),
            Elem::F64 => (t.double_data.len() == n).then(|| Elements::Floats(t.double_data.clone())),
            Elem::I64 => ints(t.int64_data.iter().map(|v| (*v).into()).collect()),
            Elem::U64 | Elem::U32 => ints(t.uint64_data.iter().map(|v| (*v).into()).collect()),
            Elem::F16 | Elem::BF16 => {
                let bytes: Vec<u8> = t.int32_data.iter().flat_map(|v| (*v as u16).to_le_bytes()).collect();
                if t.int32_data.len() != n {
                    return Err(bad("has not as many elements as its shape says"));
                }
                return Ok(Array::new(elem, Tensor { bytes, ..typed }));
            }
            _ if !whole => {
                let size = (n * elem.bits()).div_ceil(8);
                let bytes: Vec<u8> = t.int32_data.iter().map(|v| *v as u8).collect();
                if bytes.len() != size {
                    return Err(bad("has not as many elements as its shape says"));
                }
                return Ok(Array::new(elem, Tensor { bytes: unpacked(&bytes, elem, n), ..typed }));
            }
            _ => ints(t.int32_data.iter().map(|v| (*v).into()).collect()),
        };
        let elements = elements.ok_or_else(|| bad("has not as many elements as its shape says"))?;
        Ok(Array::new(elem, Tensor::of(elem.dtype(), &shape, &elements)))
    }

    /// The dense tensor of a sparse one.
    pub fn of_sparse(s: &proto::SparseTensor) -> Result<Array, Fault> {
        let bad = || Fault::invalid("a sparse tensor is damaged");
        let none = |_: &str, _: u64, _: Option<u64>| Err("a sparse tensor in another file".to_string());
        let values = Array::of_message(s.values.as_ref().ok_or_else(bad)?, &none)?;
        let indices = Array::of_message(s.indices.as_ref().ok_or_else(bad)?, &none)?.tensor;
        let shape: Vec<usize> =
            s.dims.iter().map(|d| usize::try_from(*d)).collect::<Result<_, _>>().map_err(|_| bad())?;
        let n = shape
            .iter()
            .try_fold(1usize, |n, d| n.checked_mul(*d))
            .filter(|n| *n < 1 << 32)
            .ok_or_else(bad)?;
        let size = values.elem.dtype().bits() as usize / 8;
        let mut bytes = vec![0; n * size];
        let at = indices.to_i64();
        for (i, v) in values.tensor.bytes.chunks(size).enumerate() {
            let place = if indices.shape.len() == 2 {
                let row = at.get(i * shape.len()..(i + 1) * shape.len()).ok_or_else(bad)?;
                row.iter().zip(&shape).fold(0, |n, (i, d)| n * *d as i64 + i)
            } else {
                *at.get(i).ok_or_else(bad)?
            };
            let place = usize::try_from(place).ok().filter(|p| *p < n).ok_or_else(bad)?;
            bytes[place * size..][..size].copy_from_slice(v);
        }
        Ok(Array::new(values.elem, Tensor { shape, dtype: values.elem.dtype(), encoding: None, bytes }))
    }
}

/// Elements of less than a byte, the first in the lowest bits, as one byte each.
fn unpacked(bytes: &[u8], elem: Elem, n: usize) -> Vec<u8> {
    let (bits, per) = (elem.bits(), 8 / elem.bits());
    let one = |i: usize| {
        let v = bytes.get(i / per).copied().unwrap_or(0) >> (i % per * bits) & ((1 << bits) - 1);
        let negative = matches!(elem, Elem::I4 | Elem::I2) && v >> (bits - 1) == 1;
        if negative { v | !((1u8 << bits) - 1) } else { v }
    };
    (0..n).map(one).collect()
}
