//! Products with packed weights of so many rows as the graph says, which nothing is stored behind: against sums in integers.

use lathe_compile::Session;
use lathe_ir::graph::parse;
use lathe_ir::{DType, Elements, Tensor};
use lathe_machine::Target;
use std::collections::HashMap;

const COLUMNS: usize = 64;
const OUTS: usize = 32;

/// Integers of at most 127, which each row has once, so that bytes hold them.
fn integers(seed: u64, rows: usize) -> Vec<i64> {
    let mut state = seed;
    let mut one = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as i64 % 255 - 127
    };
    (0..rows * COLUMNS).map(|i| if i % COLUMNS == 5 { 127 } else { one() }).collect()
}

#[test]
fn products_of_any_number_of_rows() {
    let (folder, target) = (tempfile::tempdir().unwrap(), Target::of_cpu(&lathe_runtime::detect_cpu()));
    for (dtype, passes) in [(DType::F32, &["pack"][..]), (DType::I8, &["pack", "quantize"])] {
        for rows in [1, 5, 7, 12, 16, 26] {
            let graph = format!(
                "graph f() {{
  x: f32[{rows}, {COLUMNS}] = input
  w: {dtype}[{OUTS}, {COLUMNS}] = const \"w\"
  y: f32[{rows}, {OUTS}] = matmul(x, w)
  return y
}}"
            );
            let (x, w) = (integers(1, rows), integers(2, OUTS));
            let weights = match dtype {
                DType::F32 => Elements::Floats(w.iter().map(|v| *v as f64).collect()),
                _ => Elements::Ints(w.iter().map(|v| i128::from(*v)).collect()),
            };
            let constants = HashMap::from([("w".into(), Tensor::of(dtype, &[OUTS, COLUMNS], &weights))]);
            let arguments = Tensor::f32(&[rows, COLUMNS], &x.iter().map(|v| *v as f32).collect::<Vec<_>>());
            let mut f =
                Session::new(&parse(&graph).unwrap(), passes, &constants, &target, folder.path(), 2).unwrap();
            let y = f.run(&[("x", &arguments)]).unwrap().remove(0).to_f32();
            let row = |all: &[i64], i: usize| all[i * COLUMNS..][..COLUMNS].to_vec();
            let sum = |i: usize| -> i64 {
                row(&x, i / OUTS).iter().zip(row(&w, i % OUTS)).map(|(a, b)| a * b).sum()
            };
            let want: Vec<f32> = (0..rows * OUTS).map(|i| sum(i) as f32).collect();
            assert_eq!(y, want, "{rows} rows, {dtype}");
        }
    }
}
