//! Arrays of numpy: `.npy` files, and `.npz` archives of them.

use crate::elem::{Array, Elem};
use crate::error::OnnxError;
use lathe_ir::{Elements, Tensor};
use npyz::{NpyHeader, Order, WriteOptions, WriterBuilder};
use std::io::{Cursor, Read, Write};

/// Types that both have, by numpy's name. It has no bf16: the package `ml_dtypes` writes these as two bytes of no meaning.
const TYPES: [(&str, Elem); 13] = [
    ("<f4", Elem::F32),
    ("<f8", Elem::F64),
    ("<f2", Elem::F16),
    ("<V2", Elem::BF16),
    ("|i1", Elem::I8),
    ("<i2", Elem::I16),
    ("<i4", Elem::I32),
    ("<i8", Elem::I64),
    ("|u1", Elem::U8),
    ("<u2", Elem::U16),
    ("<u4", Elem::U32),
    ("<u8", Elem::U64),
    ("|b1", Elem::Bool),
];

/// Most elements of an array that is read.
const MOST: u64 = 1 << 36;

fn bad(what: impl std::fmt::Display) -> OnnxError {
    OnnxError::user(format!("this is no array of numpy: {what}"))
}

/// Reads the array of a `.npy` file.
pub fn read_npy(bytes: &[u8]) -> Result<Array, OnnxError> {
    let mut rest = bytes;
    let header = NpyHeader::from_reader(&mut rest).map_err(bad)?;
    let descr = header.dtype().descr();
    let name = descr.trim_matches('\'');
    let row = TYPES.iter().find(|(n, _)| *n == name);
    let elem = row.ok_or_else(|| bad(format!("elements of type {name} are not read")))?.1;
    let n = header.shape().iter().try_fold(1u64, |n, d| n.checked_mul(*d)).filter(|n| *n < MOST);
    let n = n.ok_or_else(|| bad("it is too large"))? as usize;
    let size = elem.dtype().bits() as usize / 8;
    let data = rest.get(..n * size).ok_or_else(|| bad("it ends before its last element"))?;
    let shape: Vec<usize> = header.shape().iter().map(|d| *d as usize).collect();
    let bytes = match header.order() {
        Order::C => data.to_vec(),
        Order::Fortran => {
            let mut out = Vec::with_capacity(data.len());
            for i in 0..n {
                let (mut i, mut place) = (i, 0);
                let mut steps: Vec<usize> = vec![1; shape.len()];
                (1..shape.len()).for_each(|d| steps[d] = steps[d - 1] * shape[d - 1]);
                for d in (0..shape.len()).rev() {
                    place += i % shape[d] * steps[d];
                    i /= shape[d];
                }
                out.extend_from_slice(&data[place * size..][..size]);
            }
            out
        }
    };
    Ok(Array::new(elem, Tensor { shape, dtype: elem.dtype(), encoding: None, bytes }))
}

/// The arrays of a `.npz` file, with their names.
pub fn read_npz(bytes: &[u8]) -> Result<Vec<(String, Array)>, OnnxError> {
    let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).map_err(bad)?;
    let mut out = vec![];
    for i in 0..zip.len() {
        let file = zip.by_index(i).map_err(bad)?;
        let name = file.name().strip_suffix(".npy").unwrap_or(file.name()).to_string();
        let mut data = vec![];
        file.take(MOST).read_to_end(&mut data).map_err(bad)?;
        out.push((name, read_npy(&data)?));
    }
    Ok(out)
}

/// The bytes of a `.npy` file. Types that numpy lacks are written as f32, or as the integers that hold them.
pub fn write_npy(a: &Array) -> Result<Vec<u8>, OnnxError> {
    let shape: Vec<u64> = a.tensor.shape.iter().map(|d| *d as u64).collect();
    let failed = |e: std::io::Error| OnnxError::user(format!("an array cannot be written: {e}"));
    let mut out = vec![];
    macro_rules! typed {
        ($t:ty, $values:expr) => {{
            let options = WriteOptions::<$t>::new().default_dtype().shape(&shape).writer(&mut out);
            let mut w = options.begin_nd().map_err(failed)?;
            w.extend($values).map_err(failed)?;
            w.finish().map_err(failed)?;
        }};
    }
    macro_rules! bytes {
        ($t:ty, $n:literal) => {
            typed!(
                $t,
                a.tensor.bytes.chunks_exact($n).map(|c| {
                    let mut b = [0; $n];
                    b.copy_from_slice(c);
                    <$t>::from_le_bytes(b)
                })
            )
        };
    }
    match a.elem {
        Elem::F32 => bytes!(f32, 4),
        Elem::F64 => bytes!(f64, 8),
        Elem::F16 => bytes!(npyz::half::f16, 2),
        Elem::I16 => bytes!(i16, 2),
        Elem::I32 => bytes!(i32, 4),
        Elem::I64 => bytes!(i64, 8),
        Elem::U16 => bytes!(u16, 2),
        Elem::U32 => bytes!(u32, 4),
        Elem::U64 => bytes!(u64, 8),
        Elem::I8 | Elem::I4 | Elem::I2 => bytes!(i8, 1),
        Elem::Bool => typed!(bool, a.tensor.bytes.iter().map(|b| *b != 0)),
        Elem::BF16 => {
            let Elements::Floats(v) = a.tensor.elements() else { return Err(OnnxError::user("no floats")) };
            typed!(f32, v.into_iter().map(|v| v as f32));
        }
        Elem::Str => return Err(OnnxError::user("a tensor of text cannot be written as an array of numpy")),
        _ => bytes!(u8, 1),
    }
    Ok(out)
}

/// The bytes of a `.npz` file.
pub fn write_npz(arrays: &[(String, &Array)]) -> Result<Vec<u8>, OnnxError> {
    let failed = |e: &dyn std::fmt::Display| OnnxError::user(format!("an archive cannot be written: {e}"));
    let mut zip = zip::ZipWriter::new(Cursor::new(vec![]));
    for (name, a) in arrays {
        let options = zip::write::SimpleFileOptions::default().large_file(a.tensor.bytes.len() > 1 << 31);
        zip.start_file(format!("{name}.npy"), options).map_err(|e| failed(&e))?;
        zip.write_all(&write_npy(a)?).map_err(|e| failed(&e))?;
    }
    Ok(zip.finish().map_err(|e| failed(&e))?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lathe_ir::DType;

    #[test]
    fn arrays_of_all_types_come_back() {
        // A bf16 is written as f32, and read as two bytes of no meaning.
        let half = Array::new(Elem::F16, Tensor::of(DType::F16, &[2], &Elements::Floats(vec![1.875, 0.0])));
        let header = write_npy(&half).unwrap();
        let at = header.windows(3).position(|w| w == b"<f2").unwrap();
        let read = read_npy(&[&header[..at], b"<V2", &header[at + 3..]].concat()).unwrap();
        assert_eq!((read.elem, &read.tensor.bytes), (Elem::BF16, &half.tensor.bytes));
        for (name, elem) in TYPES.into_iter().filter(|t| t.1 != Elem::BF16) {
            let elements = match elem.dtype().is_int() {
                true => Elements::Ints(vec![0, 1, 1, 0, 1, 0]),
                false => Elements::Floats(vec![0.5, -1.0, 2.0, 0.0, 3.0, 1.5]),
            };
            let a = Array::new(elem, Tensor::of(elem.dtype(), &[2, 3], &elements));
            assert_eq!(read_npy(&write_npy(&a).unwrap()).unwrap(), a, "{name}");
            let npz = write_npz(&[("x/y".into(), &a)]).unwrap();
            assert_eq!(read_npz(&npz).unwrap(), [("x/y".to_string(), a)]);
        }
        assert!(read_npy(b"\x93NUMPY\x01\x00").is_err());
        assert!(read_npz(b"PK").is_err());
    }
}
