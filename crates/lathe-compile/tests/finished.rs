//! One row of a product is rotated, stored and encoded where it is made: against what the graph means.

use lathe_compile::Session;
use lathe_ir::encodings::encoding;
use lathe_ir::graph::{interpret, parse};
use lathe_ir::{DType, Elements, Int, Name, Tensor};
use lathe_machine::Target;
use std::collections::HashMap;

fn text(head: i64, halves: bool) -> String {
    let n = 2 * head;
    format!(
        "graph f() {{
  x: f32[1, 64] = input
  t: f32[1, {head}] = input
  slots: i32[1] = input
  k: f32[16, 2, {head}]{{keys16}} = state
  w: f32[{n}, 64] = const \"w\"
  u: f32[{n}, 64] = const \"u\"
  p: f32[1, {n}] = matmul(x, w)
  r: f32[1, {n}] = rope(p, t) {{halves = {}, head_dim = {head}}}
  k1: f32[16, 2, {head}]{{keys16}} = put(k, r, slots)
  o: f32[1, {n}] = matmul(x, u)
  q: f32[1, {n}] = rope(o, t) {{halves = {}, head_dim = {head}}}
  g: f32[1, {n}] = matmul(x, w)
  h: f32[1, {n}] = matmul(x, u)
  s: f32[1, {n}] = swiglu(g, h)
  e: f32[1, {n}]{{a8.z8}} = encode(s) {{to = \"a8.z8\"}}
  return q, e, k1
}}",
        i64::from(halves),
        i64::from(halves)
    )
}

#[test]
fn one_row_is_finished_as_it_is_meant() {
    let table = lathe_ops::table();
    let (folder, cpu) = (tempfile::tempdir().unwrap(), Target::of_cpu(&lathe_runtime::detect_cpu()));
    for target in [cpu, Target::portable()] {
        // 96 is no multiple of 64, which pieces of several heads would be of.
        for (head, halves) in [(32, false), (32, true), (64, true), (96, false), (128, true)] {
            let graph = parse(&text(head, halves)).unwrap();
            // Integers: sums are exact in any order.
            let some = |seed: i64, shape: &[usize]| {
                let n = shape.iter().product::<usize>() as i64;
                let of = |i: i64| ((i * 37 + seed) % 41 - 20) as f64;
                Tensor::of(DType::F32, shape, &Elements::Floats((0..n).map(of).collect()))
            };
            let h = head as usize;
            let (x, t, w, u) =
                (some(1, &[1, 64]), some(2, &[1, h]), some(3, &[2 * h, 64]), some(4, &[2 * h, 64]));
            let slots = Tensor::i32(&[1], &[5]);
            let constants: HashMap<Name, Tensor> = [("w".into(), w.clone()), ("u".into(), u.clone())].into();
            let mut s = Session::new(&graph, &["pack"], &constants, &target, folder.path(), 2).unwrap();
            let got = s.run(&[("x", &x), ("t", &t), ("slots", &slots)]).unwrap();

            let pages = encoding("keys16", &[16, 2, head].map(Int::from)).unwrap().into();
            let empty = Tensor { encoding: Some(pages), ..some(0, &[16, 2, h]) };
            let empty = Tensor { bytes: vec![0; empty.bytes.len()], ..empty };
            let named = [("x", x), ("t", t), ("slots", slots), ("w", w), ("u", u), ("k", empty)];
            let named = named.into_iter().map(|(n, t)| (n.into(), t)).collect();
            let meant = interpret(&graph, &table, &HashMap::new(), &named).unwrap();
            for (i, (got, meant)) in got.iter().zip(meant).enumerate() {
                let (got, meant) = (got.values(), meant.values());
                // An exponential may differ in its last bit, and so a code by one.
                let largest = meant.iter().fold(0f64, |m, v| m.max(v.abs()));
                let within = if i == 1 { largest / 127.0 } else { 0.0 };
                let near = got.iter().zip(&meant).all(|(g, m)| (g - m).abs() <= within);
                assert!(near && got.len() == meant.len(), "result {i}, heads of {head}, halves: {halves}");
            }
        }
    }
}
