//! Rounding for the inputs that a matrix meets: what rounding a column changes in the products with them, the columns after it take
//! back as far as they can (GPTQ, Frantar et al. 2023).
//!
//! Of the sum over inputs of `(w x - q x)^2` all that counts of the inputs is their correlation, the sum of `x x^T`. With the
//! upper triangular `R` of which its inverse is `R^T R`, an error `e` in column `j` costs `(e / R[j][j])^2`, once each later column `k`
//! has been changed by `-e * R[j][k] / R[j][j]`. Blocks are fitted one by one, from left to right, to what has become of the values, each
//! column with the weight `1 / R[j][j]^2`; every encoding's blocks, so that this is one algorithm for all of them.

use std::ops::Range;

/// Of the mean of the diagonal, what is added to it: inputs that were not seen may come.
const DAMPING: f64 = 0.01;
/// Rows that are rounded together, while a part of the factor is near.
const ROWS: usize = 32;

/// Sums of `x[i] * x[j]` over the inputs `x` that a matrix met.
#[derive(Clone, Debug, PartialEq)]
pub struct Correlation {
    width: usize,
    sums: Vec<f32>,
}

impl Correlation {
    /// That of no inputs of so many features.
    pub fn new(width: usize) -> Correlation {
        Correlation { width, sums: vec![0.0; width * width] }
    }

    /// Adds the sums of other inputs, row by row.
    ///
    /// # Panics
    /// Where these are of another number of features.
    pub fn add(&mut self, sums: &[f32]) {
        assert_eq!(sums.len(), self.sums.len(), "one sum for each two features");
        self.sums.iter_mut().zip(sums).for_each(|(s, more)| *s += more);
    }

    /// The sums, row by row.
    pub fn sums(&self) -> &[f32] {
        &self.sums
    }

    /// What rounding needs of it.
    pub fn factor(&self) -> Factor {
        let n = self.width;
        let mut m: Vec<f64> = self.sums.iter().map(|s| f64::from(*s)).collect();
        let mean = (0..n).map(|i| m[i * n + i]).sum::<f64>() / n.max(1) as f64;
        // Of no inputs at all, everything is as likely.
        let more = if mean > 0.0 { DAMPING * mean } else { 1.0 };
        (0..n).for_each(|i| m[i * n + i] += more);
        // First the upper triangular M of which the correlation is M M^T, from its last column on; R is its inverse.
        for j in (0..n).rev() {
            let (before, after) = m.split_at_mut(j * n);
            let last = &mut after[..n];
            let square = last[j] - dot(&last[j + 1..], &last[j + 1..]);
            // Below the damping there is only what rounding left.
            let pivot = square.max(more).sqrt();
            last[j] = pivot;
            for row in before.chunks_exact_mut(n) {
                row[j] = (row[j] - dot(&row[j + 1..], &last[j + 1..])) / pivot;
            }
        }
        for i in (0..n).rev() {
            let (before, after) = m.split_at_mut((i + 1) * n);
            let row = &mut before[i * n..];
            let pivot = row[i];
            let line: Vec<f64> = row[i + 1..].to_vec();
            row[..i].fill(0.0);
            row[i] = 1.0;
            row[i + 1..].fill(0.0);
            for (k, factor) in line.iter().enumerate() {
                let of = &after[k * n + i + 1 + k..(k + 1) * n];
                row[i + 1 + k..].iter_mut().zip(of).for_each(|(r, x)| *r -= factor * x);
            }
            row[i..].iter_mut().for_each(|r| *r /= pivot);
        }
        let pivot = |j: usize| m[j * n + j];
        let weights = (0..n).map(|j| (1.0 / pivot(j).powi(2)) as f32).collect();
        let share = |(i, r): (usize, &f64)| (r / pivot(i / n.max(1))) as f32;
        Factor { width: n, weights, shares: m.iter().enumerate().map(share).collect() }
    }
}

/// The sum of products.
fn dot(x: &[f64], y: &[f64]) -> f64 {
    const LANES: usize = 8;
    let (mut sums, (x, y)) = ([0f64; LANES], (x.chunks_exact(LANES), y.chunks_exact(LANES)));
    let rest: f64 = x.remainder().iter().zip(y.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in x.zip(y) {
        sums.iter_mut().zip(x.iter().zip(y)).for_each(|(s, (x, y))| *s += x * y);
    }
    rest + sums.iter().sum::<f64>()
}

/// What rounding needs of a [`Correlation`]: the factor of its inverse.
#[derive(Debug)]
pub struct Factor {
    width: usize,
    /// How much the error of a column counts.
    weights: Vec<f32>,
    /// `R[j][k] / R[j][j]`: what of the error of column `j` each later column `k` takes back.
    shares: Vec<f32>,
}

impl Factor {
    /// The number of features.
    pub(super) fn width(&self) -> usize {
        self.width
    }
}

/// Blocks of an encoding.
pub(super) trait Grid: Sync {
    /// A block's numbers.
    type Block: Send;
    /// Columns of a block.
    fn block(&self) -> usize;
    /// The block that loses the least of these values, with these weights; its codes do not count.
    fn fit(&self, values: &[f32], weights: &[f32]) -> Self::Block;
    /// Gives column `i` the code nearest to a value: what that stands for.
    fn round(&self, block: &mut Self::Block, i: usize, value: f32) -> f32;
}

/// The blocks of a matrix, row by row, and what they stand for.
pub(super) fn round<G: Grid>(
    grid: &G,
    values: &[f32],
    inputs: &Factor,
    threads: usize,
) -> (Vec<G::Block>, Vec<f32>) {
    let (n, block) = (inputs.width, grid.block());
    let rows = values.len() / n;
    let part = |part: Range<usize>| {
        let (mut blocks, mut decoded) = (vec![], values[part.start * n..part.end * n].to_vec());
        for rows in decoded.chunks_mut(ROWS * n) {
            blocks.extend(rounded(grid, rows, inputs));
        }
        (blocks, decoded)
    };
    let each = rows.div_ceil(threads.max(1)).max(1);
    let parts: Vec<_> = std::thread::scope(|scope| {
        let part = &part;
        let start = |at: usize| scope.spawn(move || part(at..(at + each).min(rows)));
        let started: Vec<_> = (0..rows).step_by(each).map(start).collect();
        started
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let (mut blocks, mut decoded) =
        (Vec::with_capacity(values.len() / block), Vec::with_capacity(values.len()));
    for part in parts {
        blocks.extend(part.0);
        decoded.extend(part.1);
    }
    (blocks, decoded)
}

/// Rounds rows in their place and gives their blocks, row by row.
fn rounded<G: Grid>(grid: &G, rows: &mut [f32], inputs: &Factor) -> Vec<G::Block> {
    let (n, size) = (inputs.width, grid.block());
    let mut blocks: Vec<Vec<G::Block>> = rows.chunks(n).map(|_| Vec::with_capacity(n / size)).collect();
    let mut errors = vec![0.0; size];
    for start in (0..n).step_by(size) {
        for (row, blocks) in rows.chunks_mut(n).zip(&mut blocks) {
            let (inside, after) = row[start..].split_at_mut(size);
            let mut b = grid.fit(inside, &inputs.weights[start..][..size]);
            for i in 0..size {
                let value = grid.round(&mut b, i, inside[i]);
                errors[i] = inside[i] - value;
                inside[i] = value;
                let shares = &inputs.shares[(start + i) * n + start..][i + 1..size];
                inside[i + 1..].iter_mut().zip(shares).for_each(|(x, share)| *x -= errors[i] * share);
            }
            blocks.push(b);
            for (i, error) in errors.iter().enumerate() {
                let shares = &inputs.shares[(start + i) * n + start + size..][..after.len()];
                after.iter_mut().zip(shares).for_each(|(x, share)| *x -= error * share);
            }
        }
    }
    blocks.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::codec::Codec;
    use super::super::groups::Groups;
    use super::super::search::Search;
    use super::*;
    use crate::gguf::GgmlType;

    const WIDTH: usize = 64;

    /// Numbers between -1 and 1.
    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    /// Inputs whose features go together in the same way for one `seed`, and their correlation.
    fn inputs(count: usize, seed: u64, which: u64) -> (Vec<f32>, Correlation) {
        let (few, mixed) = (numbers(count * 8, seed ^ which), numbers(WIDTH * 8, seed ^ 5));
        let own = numbers(count * WIDTH, seed ^ which << 9);
        let x: Vec<f32> = (0..count * WIDTH)
            .map(|at| {
                let (i, j) = (at / WIDTH, at % WIDTH);
                (0..8).map(|k| few[i * 8 + k] * mixed[j * 8 + k]).sum::<f32>() + 0.2 * own[at]
            })
            .collect();
        let mut all = Correlation::new(WIDTH);
        for x in x.chunks(WIDTH) {
            all.add(&x.iter().flat_map(|a| x.iter().map(move |b| a * b)).collect::<Vec<f32>>());
        }
        (x, all)
    }

    /// By how much the products of inputs with two matrices differ, in squares.
    fn differ(x: &[f32], a: &[f32], b: &[f32]) -> f64 {
        let of = |x: &[f32], (a, b): (&[f32], &[f32])| {
            x.iter().zip(a.iter().zip(b)).map(|(x, (a, b))| f64::from(x * (a - b))).sum::<f64>().powi(2)
        };
        let rows = || a.chunks(WIDTH).zip(b.chunks(WIDTH));
        x.chunks(WIDTH).map(|x| rows().map(|rows| of(x, rows)).sum::<f64>()).sum()
    }

    /// The rows rounded block by block, each for itself.
    fn alone<G: Grid>(grid: &G, values: &[f32]) -> Vec<f32> {
        let block = |x: &[f32]| {
            let mut b = grid.fit(x, &vec![1.0; x.len()]);
            x.iter().enumerate().map(|(i, x)| grid.round(&mut b, i, *x)).collect::<Vec<f32>>()
        };
        values.chunks(grid.block()).flat_map(block).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn it_is_the_factor_of_the_inverse(seed in any::<u64>(), count in 1usize..200) {
            let (_, c) = inputs(count, seed, 77);
            let factor = c.factor();
            let r = |j: usize, k: usize| {
                f64::from(factor.shares[j * WIDTH + k]) / f64::from(factor.weights[j]).sqrt()
            };
            let mean = (0..WIDTH).map(|i| f64::from(c.sums[i * WIDTH + i])).sum::<f64>() / WIDTH as f64;
            for i in 0..WIDTH {
                // A row of R^T R times the damped correlation is one of the identity.
                let inverse: Vec<f64> =
                    (0..WIDTH).map(|k| (0..=i.min(k)).map(|j| r(j, i) * r(j, k)).sum()).collect();
                for j in 0..WIDTH {
                    let damped = |k: usize| {
                        f64::from(c.sums[k * WIDTH + j]) + if k == j { DAMPING * mean } else { 0.0 }
                    };
                    let one: f64 = (0..WIDTH).map(|k| inverse[k] * damped(k)).sum();
                    prop_assert!((one - f64::from(u8::from(i == j))).abs() < 1e-2, "{i} {j}: {one}");
                }
            }
        }

        #[test]
        fn products_change_less(seed in any::<u64>()) {
            let (x, c) = inputs(300, seed, 77);
            let (unseen, values) = (inputs(300, seed, 991).0, numbers(40 * WIDTH, seed + 7));
            let factor = c.factor();
            let codec = Codec::of(GgmlType::Q4_0).expect("a type of blocks");
            let search = Search::new(&codec);
            let groups = Groups { columns: WIDTH, zeros: true };
            for (plain, rounded) in [
                (alone(&search, &values), round(&search, &values, &factor, 3).1),
                (alone(&groups, &values), round(&groups, &values, &factor, 1).1),
            ] {
                let (before, after) = (differ(&x, &values, &plain), differ(&x, &values, &rounded));
                prop_assert!(after < 0.6 * before, "{after} of {before}");
                prop_assert!(differ(&unseen, &values, &rounded) < differ(&unseen, &values, &plain));
            }
        }
    }

    #[test]
    fn where_features_are_apart_each_block_is_rounded_for_itself() {
        let mut c = Correlation::new(WIDTH);
        let same: Vec<f32> =
            (0..WIDTH * WIDTH).map(|at| if at % (WIDTH + 1) == 0 { 2.0 } else { 0.0 }).collect();
        c.add(&same);
        let values = numbers(9 * WIDTH, 5);
        for ty in [GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::NF4, GgmlType::IQ4_NL] {
            let codec = Codec::of(ty).expect("a type of blocks");
            let search = Search::new(&codec);
            assert_eq!(round(&search, &values, &c.factor(), 2).1, alone(&search, &values), "{ty}");
        }
    }

    #[test]
    fn what_a_type_represents_comes_back() {
        let (_, c) = inputs(50, 3, 77);
        for ty in [GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q5_0, GgmlType::Q8_0] {
            let codec = Codec::of(ty).expect("a type of blocks");
            let search = Search::new(&codec);
            let values = alone(&search, &numbers(4 * WIDTH, 11));
            assert_eq!(round(&search, &values, &c.factor(), 2).1, values, "{ty}");
        }
    }
}
