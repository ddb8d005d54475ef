//! Attention as programs say it, two products with a softmax between, compiled to one kernel: against its formula in f64.

use lathe_compile::Session;
use lathe_ir::graph::parse;
use lathe_ir::{DType, Elements, Tensor};
use std::collections::HashMap;

struct Case {
    of: DType,
    heads: usize,
    queries: usize,
    keys: usize,
    /// Components of keys, and of values.
    widths: [usize; 2],
    /// A mask is added to scores; infinite ones bar keys behind a query's place.
    causal: bool,
}

impl Case {
    fn text(&self) -> String {
        let Case { of, heads: h, queries: q, keys: n, widths: [d, c], .. } = *self;
        let rows = h * q;
        let (scores, mask) = match self.causal {
            true => {
                (format!("s: {of}[1, {h}, {q}, {n}] = add(p, mask)"), format!("mask: {of}[{q}, {n}] = input"))
            }
            false => ("".into(), "".into()),
        };
        let from = if self.causal { "s" } else { "p" };
        // Halves are widened around the softmax, as reading a program does it.
        let (widen, softmax, narrow) = match of {
            DType::BF16 => (
                "w: f32[R] = cast(r) {to = \"f32\"}",
                "x: f32[R] = softmax(w)",
                "e: bf16[R] = cast(x) {to = \"bf16\"}",
            ),
            _ => ("", "e: f32[R] = softmax(r)", ""),
        };
        let matrix = format!("{rows}, {n}");
        let inner = [widen, softmax, narrow].map(|l| l.replace('R', &matrix)).join("\n");
        format!(
            "graph f() {{
  q: {of}[1, {h}, {q}, {d}] = input
  k: {of}[1, {h}, {n}, {d}] = input
  v: {of}[1, {h}, {n}, {c}] = input
  by: {of}[] = input
  {mask}
  t: {of}[1, {h}, {d}, {n}] = permute(k) {{axes = [0, 1, 3, 2]}}
  a: {of}[1, {h}, {q}, {d}] = mul(q, by)
  p: {of}[1, {h}, {q}, {n}] = dot(a, t) {{batch_x = [0, 1], batch_y = [0, 1], sum_x = [3], sum_y = [2]}}
  {scores}
  r: {of}[{rows}, {n}] = reshape({from}) {{shape = [{rows}, {n}]}}
  {inner}
  m: {of}[1, {h}, {q}, {n}] = reshape(e) {{shape = [1, {h}, {q}, {n}]}}
  y: {of}[1, {h}, {q}, {c}] = dot(m, v) {{batch_x = [0, 1], batch_y = [0, 1], sum_x = [3], sum_y = [2]}}
  return y
}}"
        )
    }

    /// The largest difference to the formula, of the largest value.
    fn difference(&self) -> f64 {
        let Case { of, heads: h, queries: n, keys, widths: [d, c], .. } = *self;
        let mut state = 11u64;
        let mut random = |shape: &[usize]| {
            let mut one = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f64 / f64::from(1 << 23) - 1.0
            };
            Tensor::of(of, shape, &Elements::Floats((0..shape.iter().product()).map(|_| one()).collect()))
        };
        let (q, k, v) = (random(&[1, h, n, d]), random(&[1, h, keys, d]), random(&[1, h, keys, c]));
        let scale = 0.5;
        let by = Tensor::of(of, &[], &Elements::Floats(vec![scale]));
        let barred = |i: usize, j: usize| if self.causal && j > i { f64::NEG_INFINITY } else { 0.0 };
        let mask = (0..n * keys).map(|at| barred(at / keys, at % keys)).collect();
        let mask = Tensor::of(of, &[n, keys], &Elements::Floats(mask));
        let mut named = vec![("q", &q), ("k", &k), ("v", &v), ("by", &by)];
        if self.causal {
            named.push(("mask", &mask));
        }
        let target = lathe_runtime::detect_target().unwrap();
        let cache = tempfile::tempdir().unwrap();
        let g = parse(&self.text()).unwrap();
        let mut s = Session::new(&g, &["attention"], &HashMap::new(), &target, cache.path(), 2).unwrap();
        let words = lathe_schedule::word_product(&target, [DType::BF16; 2]).is_some();
        if of == DType::F32 || words {
            assert_eq!(s.graph().nodes.len(), 1, "{}", s.graph());
        }
        let got = s.run(&named).unwrap().remove(0).values();
        let (qs, ks, vs) = (q.values(), k.values(), v.values());
        let mut worst = 0f64;
        for row in 0..h * n {
            let (head, i) = (row / n, row % n);
            let score = |j: usize| {
                let dot: f64 = (0..d).map(|x| scale * qs[row * d + x] * ks[(head * keys + j) * d + x]).sum();
                dot + barred(i, j)
            };
            let e: Vec<f64> = (0..keys).map(|j| score(j).exp()).collect();
            let sum: f64 = e.iter().sum();
            for x in 0..c {
                let want = (0..keys).map(|j| e[j] * vs[(head * keys + j) * c + x]).sum::<f64>() / sum;
                worst = worst.max((got[row * c + x] - want).abs());
            }
        }
        worst
    }
}

#[test]
fn one_kernel_computes_attention() {
    // Whole tiles; numbers that no tile divides; values narrower than a vector; many keys.
    let shapes =
        [(3, 64, 64, [32, 64]), (2, 53, 75, [20, 40]), (1, 37, 33, [9, 12]), (2, 40, 1056, [64, 64])];
    for (heads, queries, keys, widths) in shapes {
        for (of, bound) in [(DType::F32, 2e-6), (DType::BF16, 1.5e-2)] {
            for causal in [false, true] {
                let case = Case { of, heads, queries, keys, widths, causal };
                let worst = case.difference();
                assert!(worst <= bound, "{of} {heads} {queries} {keys} {widths:?} {causal}: {worst}");
            }
        }
    }
}
