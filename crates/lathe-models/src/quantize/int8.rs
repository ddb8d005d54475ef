//! Matrices as signed bytes times scales that lie apart, by the largest absolute value: one scale for each row or one for the
//! matrix, and columns that stay 16-bit floats (LLM.int8(), Dettmers et al. 2022).
//!
//! In a file the matrix `x.weight` is then I8, `x.scale` has its scales, `x.columns` the numbers of the columns that it has zeros in,
//! and `x.outliers` these columns.

use half::f16;

use super::file::Loss;
use super::types::KEPT;
use crate::file::TensorInfo;
use crate::gguf::GgmlType;

/// The greatest code.
const MOST: f32 = 127.0;

/// How a matrix becomes bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Int8 {
    /// One scale for the matrix, in the place of one for each row.
    pub whole: bool,
    /// The columns that stay 16-bit floats, rising.
    pub columns: Vec<u32>,
}

/// Whether a tensor is the matrix of a product of a layer: neither looked up, nor a head over a vocabulary, nor a router, nor experts.
pub fn is_product(info: &TensorInfo) -> bool {
    let name = info.name();
    let kept = KEPT.iter().any(|k| name.ends_with(k));
    name.starts_with("blk.") && name.ends_with(".weight") && info.dims().len() == 2 && !kept
}

impl Int8 {
    /// The names, types and shapes of the parts of a matrix of so many rows and columns.
    pub(super) fn parts(&self, rows: usize, width: usize) -> Vec<(&'static str, GgmlType, Vec<usize>)> {
        let scales = if self.whole { 1 } else { rows };
        let mut parts =
            vec![("weight", GgmlType::I8, vec![rows, width]), ("scale", GgmlType::F32, vec![scales])];
        if !self.columns.is_empty() {
            let count = self.columns.len();
            parts.push(("outliers", GgmlType::F16, vec![rows, count]));
            parts.push(("columns", GgmlType::I32, vec![count]));
        }
        parts
    }

    /// The bytes that a matrix of so many rows and columns takes.
    pub fn bytes(&self, rows: usize, width: usize) -> usize {
        let bytes =
            |(_, ty, shape): &(&str, GgmlType, Vec<usize>)| ty.bytes_for(shape.iter().product()).unwrap_or(0);
        self.parts(rows, width).iter().map(bytes).sum()
    }

    /// The bytes of the parts, in the order of [`parts`](Int8::parts), and what is lost.
    pub(super) fn quantize(&self, values: &[f32], width: usize) -> (Vec<Vec<u8>>, Loss) {
        let mut inside = vec![true; width];
        self.columns.iter().for_each(|c| inside[*c as usize] = false);
        let largest = |row: &[f32]| {
            let kept = row.iter().zip(&inside).filter(|(_, inside)| **inside);
            kept.fold(0f32, |most, (x, _)| most.max(x.abs()))
        };
        let all = largest_of(values.chunks_exact(width).map(largest));
        let (mut codes, mut scales, mut outliers) = (vec![], vec![], vec![]);
        let mut loss = Loss { values: values.len(), ..Loss::default() };
        for row in values.chunks_exact(width) {
            let scale = if self.whole { all } else { largest(row) } / MOST;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            for (x, inside) in row.iter().zip(&inside) {
                let code = if *inside { (x * inverse).round_ties_even().clamp(-MOST, MOST) } else { 0.0 };
                codes.push(code as i8 as u8);
                let decoded = if *inside { code * scale } else { f16::from_f32(*x).to_f32() };
                let (x, error) = (f64::from(*x), f64::from(decoded - x));
                loss.sum += x;
                loss.squares += x * x;
                loss.error += error * error;
            }
            outliers.extend(self.columns.iter().flat_map(|c| f16::from_f32(row[*c as usize]).to_le_bytes()));
            if !self.whole || scales.is_empty() {
                scales.extend(scale.to_le_bytes());
            }
        }
        let mut parts = vec![codes, scales];
        if !self.columns.is_empty() {
            parts.extend([outliers, self.columns.iter().flat_map(|c| c.to_le_bytes()).collect()]);
        }
        (parts, loss)
    }
}

fn largest_of(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    #[test]
    fn values_are_within_half_a_step_and_outliers_are_apart() {
        let width = 32;
        let mut values: Vec<f32> =
            (0..3 * width).map(|i| ((i * i) as f32).sin() * (1 + i / width) as f32).collect();
        for row in values.chunks_mut(width) {
            row[5] = 100.0;
        }
        for (whole, columns) in [(false, vec![]), (true, vec![]), (false, vec![5, 9]), (true, vec![5])] {
            let q = Int8 { whole, columns: columns.clone() };
            let (parts, loss) = q.quantize(&values, width);
            let sizes: Vec<usize> = parts.iter().map(Vec::len).collect();
            let named = q.parts(3, width);
            assert_eq!(sizes.iter().sum::<usize>(), q.bytes(3, width));
            assert_eq!(named.len(), parts.len());
            let scales = floats(&parts[1]);
            assert_eq!(scales.len(), if whole { 1 } else { 3 });
            for (i, (x, code)) in values.iter().zip(&parts[0]).enumerate() {
                let (row, column) = (i / width, i % width);
                let step = scales[if whole { 0 } else { row }];
                let decoded = f32::from(*code as i8) * step;
                match columns.contains(&(column as u32)) {
                    true => assert_eq!(*code, 0),
                    false => assert!((x - decoded).abs() <= step * 0.5001, "{x} became {decoded}"),
                }
            }
            if columns.contains(&5) {
                assert!(scales.iter().all(|s| *s < 4.0 / 127.0), "{scales:?}");
                assert!(loss.relative() < 1e-3);
            }
        }
    }
}
