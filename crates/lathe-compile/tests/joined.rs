//! What is joined is made in its place: compiled programs compute what the graph means, wherever their parts lie.

use lathe_compile::Session;
use lathe_ir::Tensor;
use lathe_ir::graph::{interpret, parse};
use lathe_machine::Target;
use std::collections::HashMap;

/// A part is read beside the result that it lies in, while another part of that is written; one result lies in another; what two results
/// have, and what is returned, is copied.
const TEXT: &str = "graph f() {
  x: f32[1, 2, 5, 16] = input
  a: f32[1, 2, 5, 16] = neg(x)
  b: f32[1, 2, 5, 16] = mul(x, x)
  c: f32[1, 4, 5, 16] = concat(a, b) {axis = 1}
  d: f32[1, 4, 5, 16] = relu(c)
  e: f32[1, 8, 5, 16] = concat(c, d) {axis = 1}
  f: f32[1, 8, 5, 16] = add(e, e)
  g: f32[1, 4, 5, 16] = concat(b, a) {axis = 1}
  h: f32[1, 4, 5, 16] = mul(g, d)
  i: f32[1, 8, 5, 32] = concat(f, e) {axis = 3}
  y: f32[1, 8, 5, 16] = concat(h, d) {axis = 1}
  return i, y
}";

#[test]
fn what_is_joined_is_what_it_means() {
    let (graph, table) = (parse(TEXT).unwrap(), lathe_ops::table());
    let x: Vec<f32> = (0..160).map(|i| (i * 37 % 41) as f32 - 20.0).collect();
    let x = Tensor::f32(&[1, 2, 5, 16], &x);
    let meant =
        interpret(&graph, &table, &HashMap::new(), &HashMap::from([("x".into(), x.clone())])).unwrap();
    let (folder, target) = (tempfile::tempdir().unwrap(), Target::of_cpu(&lathe_runtime::detect_cpu()));
    let mut f = Session::new(&graph, &[], &HashMap::new(), &target, folder.path(), 2).unwrap();
    for (got, meant) in f.run(&[("x", &x)]).unwrap().iter().zip(meant) {
        assert_eq!(got.to_f32(), meant.to_f32());
    }
}
