//! Convolutions by Winograd's algorithm, compiled: against sums of products in f64, and the bound that the pass states.

use lathe_compile::Session;
use lathe_ir::Tensor;
use lathe_ir::graph::{int_attr, parse};
use lathe_machine::Target;
use std::collections::HashMap;

/// One matrix of each transform, of absolute values: `|B^T|`, `|G|`, `|A^T|`.
struct Absolute {
    input: Vec<Vec<f64>>,
    filters: Vec<Vec<f64>>,
    output: Vec<Vec<f64>>,
}

/// Written down from the paper's equations.
fn absolute(tile: i64) -> Absolute {
    let all = |rows: &[&[f64]]| rows.iter().map(|r| r.to_vec()).collect();
    let (s, t) = (1.0 / 6.0, 1.0 / 24.0);
    match tile {
        2 => Absolute {
            input: all(&[&[1., 0., 1., 0.], &[0., 1., 1., 0.], &[0., 1., 1., 0.], &[0., 1., 0., 1.]]),
            filters: all(&[&[1., 0., 0.], &[0.5, 0.5, 0.5], &[0.5, 0.5, 0.5], &[0., 0., 1.]]),
            output: all(&[&[1., 1., 1., 0.], &[0., 1., 1., 1.]]),
        },
        _ => Absolute {
            input: all(&[
                &[4., 0., 5., 0., 1., 0.],
                &[0., 4., 4., 1., 1., 0.],
                &[0., 4., 4., 1., 1., 0.],
                &[0., 2., 1., 2., 1., 0.],
                &[0., 2., 1., 2., 1., 0.],
                &[0., 4., 0., 5., 0., 1.],
            ]),
            filters: all(&[
                &[0.25, 0., 0.],
                &[s, s, s],
                &[s, s, s],
                &[t, 2. * t, s],
                &[t, 2. * t, s],
                &[0., 0., 1.],
            ]),
            output: all(&[
                &[1., 1., 1., 1., 1., 0.],
                &[0., 1., 1., 2., 2., 0.],
                &[0., 1., 1., 4., 4., 0.],
                &[0., 1., 1., 8., 8., 1.],
            ]),
        },
    }
}

/// `left * x * left^T`, an element of `x` by its place.
fn both(left: &[Vec<f64>], x: &dyn Fn(usize, usize) -> f64) -> Vec<Vec<f64>> {
    let n = left[0].len();
    let one = |a: &Vec<f64>, b: &Vec<f64>| (0..n * n).map(|k| a[k / n] * x(k / n, k % n) * b[k % n]).sum();
    left.iter().map(|a| left.iter().map(|b| one(a, b)).collect()).collect()
}

fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut state = seed;
    let mut one = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    Tensor::f32(shape, &(0..shape.iter().product()).map(|_| one()).collect::<Vec<_>>())
}

/// Of `c` channels and `o` filters over a plane with one row and column of zeros around it, of which tiles of the given rows are made, bands
/// of some rows of tiles at a time, or all.
fn within_the_bound(c: usize, o: usize, n: usize, tile: i64, rows: Option<i64>) {
    let graph = parse(&format!(
        "graph f() {{
  x: f32[1, {c}, {n}, {n}] = input
  w: f32[{o}, {c}, 3, 3] = const \"w\"
  b: f32[1, {o}, 1, 1] = const \"b\"
  p: f32[1, {c}, {m}, {m}] = pad(x) {{high = [0, 0, 1, 1], low = [0, 0, 1, 1]}}
  y: f32[1, {o}, {n}, {n}] = conv(p, w) {{dilations = [1, 1], groups = 1, strides = [1, 1]}}
  z: f32[1, {o}, {n}, {n}] = mul(y, b)
  return z
}}",
        m = n + 2
    ))
    .unwrap();
    let (x, w) = (random(7, &[1, c, n, n]), random(8, &[o, c, 3, 3]));
    // A tail that rounds nothing.
    let scales: Vec<f32> = (0..o).map(|i| if i % 2 == 0 { -2.0 } else { 1.0 }).collect();
    let constants = [("w".into(), w.clone()), ("b".into(), Tensor::f32(&[1, o, 1, 1], &scales))];
    let (folder, target) = (tempfile::tempdir().unwrap(), Target::of_cpu(&lathe_runtime::detect_cpu()));
    let passes = ["winograd", "filters"];
    let mut f = Session::new(&graph, &passes, &HashMap::from(constants), &target, folder.path(), 2).unwrap();
    let taken: Vec<_> = f.graph().nodes.iter().filter_map(|n| int_attr(&n.attrs, "tile")).collect();
    assert_eq!(taken, vec![tile; if rows.is_some() { 2 } else { 3 }], "tiles of {tile}");
    assert_eq!(f.graph().nodes.iter().find_map(|n| int_attr(&n.attrs, "rows")), rows);
    let y = f.run(&[("x", &x)]).unwrap().remove(0).to_f32();

    let (x, w, m) = (x.to_f32(), w.to_f32(), absolute(tile));
    let at = |c: usize, i: i64, j: i64| {
        let inside = (1..=n as i64).contains(&i) && (1..=n as i64).contains(&j);
        if inside { f64::from(x[(c * n + i as usize - 1) * n + j as usize - 1]) } else { 0.0 }
    };
    let filter = |o: usize, i: usize, a: usize, b: usize| f64::from(w[((o * c + i) * 3 + a) * 3 + b]);
    let step = tile as usize;
    let tiles = n.div_ceil(step);
    let inputs = |t: usize, i: usize| {
        let (r, s) = ((t / tiles * step) as i64, (t % tiles * step) as i64);
        both(&m.input, &|a, b| at(i, r + a as i64, s + b as i64).abs())
    };
    let tiled: Vec<Vec<_>> = (0..tiles * tiles).map(|t| (0..c).map(|i| inputs(t, i)).collect()).collect();
    let (mut worst, mut off) = (0.0f64, 0.0f64);
    for o in (0..o).step_by(5) {
        let filters: Vec<_> = (0..c).map(|i| both(&m.filters, &|a, b| filter(o, i, a, b).abs())).collect();
        for (t, tiled) in tiled.iter().enumerate() {
            let side = m.input.len();
            let sum = |k: usize| {
                (0..c).map(|i| filters[i][k / side][k % side] * tiled[i][k / side][k % side]).sum()
            };
            let sums: Vec<f64> = (0..side * side).map(sum).collect();
            let most = both(&m.output, &|a, b| sums[a * side + b]);
            for k in 0..step * step {
                let (i, j) = (t / tiles * step + k / step, t % tiles * step + k % step);
                if i < n && j < n {
                    let window = |i: usize, j: usize, k: usize| {
                        at(k / 9, (i + k % 9 / 3) as i64, (j + k % 3) as i64)
                            * filter(o, k / 9, k % 9 / 3, k % 3)
                    };
                    let exact: f64 = (0..9 * c).map(|k| window(i, j, k)).sum();
                    let got = f64::from(y[(o * n + i) * n + j]) / f64::from(scales[o]);
                    let bound = (c + 24) as f64 * 2f64.powi(-24) * most[k / step][k % step];
                    let error = (got - exact).abs();
                    assert!(
                        error <= bound,
                        "tile {tile}, filter {o} at {i}, {j}: {error:e} is over {bound:e}"
                    );
                    (worst, off) = (worst.max(error / bound), off.max(error));
                }
            }
        }
    }
    // Rounding is there, and far below what the bound allows for.
    assert!(off > 0.0 && off < 1e-4 && worst < 0.5, "tile {tile}: {off:e}, {worst} of the bound");
}

#[test]
fn winograd_keeps_its_bound() {
    within_the_bound(128, 128, 8, 2, None);
    within_the_bound(32, 16, 18, 4, Some(3));
    // A vector and a half of filters.
    within_the_bound(32, 24, 18, 4, Some(3));
    // Rows shorter than a vector, and of several with a rest.
    within_the_bound(16, 32, 14, 4, Some(2));
    within_the_bound(16, 16, 37, 4, Some(1));
}
