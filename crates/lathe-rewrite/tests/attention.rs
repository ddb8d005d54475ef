//! The pass `attention`: products with a softmax between become one operator, and its results stay within the bound that the pass states.

use lathe_ir::graph::{Graph, interpret, parse};
use lathe_ir::{DType, Elements, Name, Tensor};
use lathe_machine::Target;
use lathe_rewrite::pass;
use std::collections::HashMap;

/// As programs of ONNX have it: queries scaled, keys with their axes exchanged.
const SCALED: &str = "graph f() {
  q: f32[2, 40, 16] = input
  k: f32[2, 48, 16] = input
  v: f32[2, 48, 24] = input
  by: f32[] = input
  s: f32[2, 40, 16] = mul(q, by)
  t: f32[2, 16, 48] = permute(k) {axes = [0, 2, 1]}
  p: f32[2, 40, 48] = dot(s, t) {batch_x = [0], batch_y = [0], sum_x = [2], sum_y = [1]}
  r: f32[80, 48] = reshape(p) {shape = [80, 48]}
  e: f32[80, 48] = softmax(r)
  m: f32[2, 40, 48] = reshape(e) {shape = [2, 40, 48]}
  y: f32[2, 40, 24] = dot(m, v) {batch_x = [0], batch_y = [0], sum_x = [2], sum_y = [1]}
  return y
}";

/// Scores divided, a mask added, keys from another order of axes.
const MASKED: &str = "graph f() {
  q: f32[2, 40, 16] = input
  k: f32[48, 2, 16] = input
  v: f32[2, 48, 24] = input
  by: f32[1] = input
  mask: f32[40, 48] = input
  t: f32[2, 16, 48] = permute(k) {axes = [1, 2, 0]}
  p: f32[2, 40, 48] = dot(q, t) {batch_x = [0], batch_y = [0], sum_x = [2], sum_y = [1]}
  d: f32[2, 40, 48] = div(p, by)
  a: f32[2, 40, 48] = add(mask, d)
  r: f32[80, 48] = reshape(a) {shape = [80, 48]}
  e: f32[80, 48] = softmax(r)
  m: f32[2, 40, 48] = reshape(e) {shape = [2, 40, 48]}
  y: f32[2, 40, 24] = dot(m, v) {batch_x = [0], batch_y = [0], sum_x = [2], sum_y = [1]}
  return y
}";

/// Arguments of a graph, the same in every run.
fn arguments(g: &Graph) -> HashMap<Name, Tensor> {
    let mut state = 7u64;
    let mut all = HashMap::new();
    for v in g.values.iter().filter(|v| v.source != lathe_ir::graph::Source::Node) {
        let shape: Vec<usize> = v.ty.shape.iter().map(|d| d.as_const().unwrap() as usize).collect();
        let mut one = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / f64::from(1 << 24) - 0.25
        };
        let numbers = (0..shape.iter().product()).map(|_| one()).collect();
        all.insert(v.name.clone(), Tensor::of(v.ty.dtype, &shape, &Elements::Floats(numbers)));
    }
    all
}

fn ops(g: &Graph) -> Vec<&str> {
    g.nodes.iter().map(|n| &*n.op).collect()
}

#[test]
fn products_with_a_softmax_between_become_one_operator() {
    let (table, target) = (lathe_ops::table(), Target::portable());
    let fuse = pass("attention").unwrap();
    for (text, want) in [
        (SCALED, &["dense_attention"][..]),
        (MASKED, &["permute", "fill", "div", "dense_attention"]),
        // Keys that lie as columns are put in order.
        (
            &SCALED.replace("permute(k) {axes = [0, 2, 1]}", "neg(k)").replace("[2, 48, 16]", "[2, 16, 48]"),
            &["neg", "permute", "dense_attention"],
        ),
    ] {
        let g = parse(text).unwrap();
        let after = fuse.run(&g, &table, &target).unwrap();
        assert_eq!(ops(&after), want);
        assert_eq!(fuse.run(&after, &table, &target).unwrap(), after, "a second run changes nothing");
        let named = arguments(&g);
        let run = |g| interpret(g, &table, &HashMap::new(), &named).unwrap().remove(0).values();
        let (before, after) = (run(&g), run(&after));
        // Values are below 1, so the sum of absolute values is.
        let bound = (48.0 + 3.0) * 2f64.powi(-24);
        for (x, y) in before.iter().zip(&after) {
            assert!((x - y).abs() <= bound, "{x} {y}");
        }
    }
}

#[test]
fn others_stay_as_they_are() {
    let (table, target) = (lathe_ops::table(), Target::portable());
    let fuse = pass("attention").unwrap();
    for text in [
        // Somebody else reads the scores, or the shares.
        SCALED.replace("return y", "return y, p"),
        SCALED.replace("return y", "return y, e"),
        // Rows of the softmax are not those of the product.
        SCALED.replace("[80, 48]", "[40, 96]"),
        // Keys are the queries, or the values.
        SCALED.replace("48", "40").replace("permute(k)", "permute(s)"),
        SCALED.replace("24", "16").replace("dot(m, v)", "dot(m, k)"),
        // Few queries.
        SCALED.replace("40", "4").replace("[80, ", "[8, "),
        // Halves, and no instruction that multiplies words of them.
        SCALED
            .replace("f32", "bf16")
            .replace("e: bf16[80, 48] = softmax(r)", "w: f32[80, 48] = cast(r) {to = \"f32\"}\n  x: f32[80, 48] = softmax(w)\n  e: bf16[80, 48] = cast(x) {to = \"bf16\"}"),
    ] {
        let g = parse(&text).unwrap();
        assert_eq!(fuse.run(&g, &table, &target).unwrap(), g);
        if g.ty(g.outputs[0]).dtype == DType::BF16 {
            let words = Target { dialect: "avx512bf16".into(), ..Target::portable() };
            assert_eq!(ops(&fuse.run(&g, &table, &words).unwrap()), ["dense_attention"]);
        }
    }
}
