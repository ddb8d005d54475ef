//! Selections of small networks: what is offloaded with and without rewrites, that it means the same, and that proofs are checked.

use lathe_ir::graph::{Graph, ValueId, interpret, parse};
use lathe_ir::tensor::{self, Memory};
use lathe_ir::{DType, Elements, Name, Tensor};
use lathe_schedule::Tag;
use lathe_select::accelerator::run;
use lathe_select::rule::{KINDS, Kind};
use lathe_select::{Limits, Selection, Target, host, select};
use std::collections::HashMap;

/// Two convolutions with a factor and an offset of each channel, a sum beside, and a dense layer.
const NETWORK: &str = "graph net() {
  x: f32[1, 3, 12, 12] = input
  w0: f32[16, 3, 3, 3] = const \"w0\"
  s0: f32[16, 1, 1] = const \"s0\"
  b0: f32[16, 1, 1] = const \"b0\"
  w1: f32[32, 16, 1, 1] = const \"w1\"
  w2: f32[32, 1, 3, 3] = const \"w2\"
  w3: f32[10, 32] = const \"w3\"
  zero: f32[] = const \"zero\"
  p: f32[1, 3, 14, 14] = pad(x) {high = [0, 0, 1, 1], low = [0, 0, 1, 1], value = 0}
  c: f32[1, 16, 6, 6] = conv(p, w0) {groups = 1, strides = [2, 2]}
  m: f32[1, 16, 6, 6] = mul(c, s0)
  a: f32[1, 16, 6, 6] = add(m, b0)
  r: f32[1, 16, 6, 6] = max(a, zero)
  d: f32[1, 32, 6, 6] = conv(r, w1) {groups = 1, strides = [1, 1]}
  q: f32[1, 32, 8, 8] = pad(d) {high = [0, 0, 1, 1], low = [0, 0, 1, 1], value = 0}
  e: f32[1, 32, 6, 6] = conv(q, w2) {groups = 32, strides = [1, 1]}
  t: f32[1, 32, 6, 6] = add(e, d)
  u: f32[1, 32] = sum(t) {axes = [2, 3]}
  y: f32[1, 10] = matmul(u, w3)
  return y
}";

/// One head of attention over 32 positions.
const ATTENTION: &str = "graph attention() {
  x: f32[1, 32, 32] = input
  wq: f32[32, 32] = const \"wq\"
  wk: f32[32, 32] = const \"wk\"
  wv: f32[32, 32] = const \"wv\"
  flat: f32[32, 32] = reshape(x) {shape = [32, 32]}
  wqt: f32[32, 32] = permute(wq) {axes = [1, 0]}
  wkt: f32[32, 32] = permute(wk) {axes = [1, 0]}
  wvt: f32[32, 32] = permute(wv) {axes = [1, 0]}
  q: f32[32, 32] = matmul(flat, wqt)
  k: f32[32, 32] = matmul(flat, wkt)
  v: f32[32, 32] = matmul(flat, wvt)
  qh: f32[32, 2, 16] = reshape(q) {shape = [32, 2, 16]}
  kh: f32[32, 2, 16] = reshape(k) {shape = [32, 2, 16]}
  vh: f32[32, 2, 16] = reshape(v) {shape = [32, 2, 16]}
  scores: f32[2, 32, 32] = dot(qh, kh) {batch_x = [1], batch_y = [1], sum_x = [2], sum_y = [2]}
  rows: f32[64, 32] = reshape(scores) {shape = [64, 32]}
  e: f32[64, 32] = softmax(rows)
  p: f32[2, 32, 32] = reshape(e) {shape = [2, 32, 32]}
  y: f32[2, 32, 16] = dot(p, vh) {batch_x = [0], batch_y = [1], sum_x = [2], sum_y = [0]}
  return y
}";

/// A product of bytes as ONNX writes it: dequantized, multiplied as floats.
const BYTES: &str = "graph bytes() {
  x: u8[20, 24] = input
  w: i8[24, 40] = const \"w\"
  z: i32[] = const \"z\"
  nothing: i32[40] = const \"nothing\"
  s: f32[] = const \"s\"
  t: f32[40] = const \"t\"
  xi: i32[20, 24] = cast(x) {to = \"i32\"}
  xz: i32[20, 24] = sub(xi, z)
  xf: f32[20, 24] = cast(xz) {to = \"f32\"}
  xs: f32[20, 24] = mul(xf, s)
  wi: i32[24, 40] = cast(w) {to = \"i32\"}
  wz: i32[24, 40] = sub(wi, nothing)
  wf: f32[24, 40] = cast(wz) {to = \"f32\"}
  ws: f32[24, 40] = mul(wf, t)
  wt: f32[40, 24] = permute(ws) {axes = [1, 0]}
  y: f32[20, 40] = matmul(xs, wt)
  return y
}";

fn noise(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    ((*state >> 40) as f64) / (1u64 << 23) as f64 - 1.0
}

/// Random values for all that a graph reads; those named `z` are 7, and `zero` and `nothing` 0.
fn values(g: &Graph) -> HashMap<Name, Tensor> {
    let mut state = 11;
    let mut out = HashMap::new();
    for v in g.values.iter().filter(|v| v.source != lathe_ir::graph::Source::Node) {
        let dims: Vec<usize> = v.ty.shape.iter().map(|d| d.as_const().unwrap_or(0) as usize).collect();
        let n: usize = dims.iter().product();
        let mut one = || match &*v.name {
            "zero" | "nothing" => 0.0,
            "z" => 7.0,
            _ if v.ty.dtype == DType::U8 => (128.0 + 127.0 * noise(&mut state)).floor(),
            _ if v.ty.dtype.is_int() => (127.0 * noise(&mut state)).floor(),
            _ => noise(&mut state),
        };
        let all: Vec<f64> = (0..n).map(|_| one()).collect();
        let elements = match v.ty.dtype.is_int() {
            true => Elements::Ints(all.into_iter().map(|v| v as i128).collect()),
            false => Elements::Floats(all),
        };
        out.insert(v.name.clone(), Tensor::of(v.ty.dtype, &dims, &elements));
    }
    out
}

const ALL: [Kind; 5] = [Kind::Exact, Kind::Layout, Kind::Windows, Kind::Padding, Kind::Algebra];

/// The selection, and the largest difference of its results from the graph's, as a part of the largest result.
fn selected(text: &str, target: &Target, kinds: &[Kind]) -> (Selection, f64) {
    let table = lathe_ops::table();
    let g = parse(text).expect("it is a graph");
    let values = values(&g);
    let s = select(&g, &table, &values, target, kinds, Limits::default()).expect("something is selected");
    assert!(s.saturated, "{} rounds, {:?}", s.rounds, s.size);
    let run = |g: &Graph| interpret(g, &table, &HashMap::new(), &values).expect("it runs").remove(0).values();
    let (before, after) = (run(&g), run(&s.graph));
    assert_eq!(before.len(), after.len());
    let largest = before.iter().fold(0f64, |m, v| m.max(v.abs()));
    let worst = before.iter().zip(&after).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
    (s, worst / largest)
}

/// The chosen graph on the accelerator's emulator gives what the graph means, and every product that was placed ran there.
fn emulated(text: &str, target: &Target, s: &Selection) {
    let table = lathe_ops::table();
    let g = parse(text).expect("it is a graph");
    let values = values(&g);
    let expected = interpret(&g, &table, &HashMap::new(), &values).expect("it runs").remove(0).values();
    let (got, counts) = run(&s.graph, &table, &values, target).expect("it runs");
    let largest = expected.iter().fold(0f64, |m, v| m.max(v.abs()));
    let worst = expected.iter().zip(got[0].values()).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst < 1e-5 * largest, "{worst} of {largest}");
    // Each product has at most 16 x 256 x 16 multiply-adds.
    assert!(counts.products as f64 * 65536.0 >= s.products().0, "{counts:?}");
}

fn on(s: &Selection) -> Vec<bool> {
    s.operators.iter().map(|o| o.on.is_some()).collect()
}

#[test]
fn convolutions_are_found_behind_rewrites() {
    let mut target = Target::named("gemm16").expect("it is named");
    let (exact, same) = selected(NETWORK, &target, &[Kind::Exact]);
    assert_eq!((on(&exact), same), (vec![false; 4], 0.0));
    // So slow a host gives away whatever it can.
    target.host.products_per_ns = 0.01;
    let (all, worst) = selected(NETWORK, &target, &ALL);
    assert_eq!(on(&all), [true; 4], "{}", all.graph);
    assert!(worst < 1e-5, "{worst}");
    assert_eq!(all.share(), 1.0);
    emulated(NETWORK, &target, &all);
    // A fast one keeps what would be mostly zeros: filters of one channel.
    target.host.products_per_ns = 20.0;
    target.host.bytes_per_ns = 1e6;
    let (some, worst) = selected(NETWORK, &target, &ALL);
    assert!(!on(&some)[2] && worst < 1e-5, "{}", some.graph);
}

#[test]
fn attention_is_found_as_it_stands() {
    let mut target = Target::named("gemm16").expect("it is named");
    target.host.products_per_ns = 0.01;
    let (exact, worst) = selected(ATTENTION, &target, &[Kind::Exact]);
    assert_eq!((on(&exact), exact.tag), (vec![true, true, true, false, false], Tag::Bitwise));
    assert_eq!(worst, 0.0);
    let (all, worst) = selected(ATTENTION, &target, &[Kind::Exact, Kind::Layout]);
    assert_eq!((on(&all), all.tag, worst), (vec![true; 5], Tag::Bitwise, 0.0));
    emulated(ATTENTION, &target, &all);
    emulated(ATTENTION, &target, &exact);
}

#[test]
fn products_of_bytes_are_found_behind_scales_and_offsets() {
    let mut target = Target::named("vnni").expect("it is named");
    target.host.products_per_ns = 0.01;
    let (exact, _) = selected(BYTES, &target, &[Kind::Exact]);
    assert_eq!(on(&exact), [false]);
    let (all, worst) = selected(BYTES, &target, &ALL);
    assert_eq!((on(&all), all.tag), (vec![true], Tag::Reassociates), "{}", all.graph);
    assert!(worst < 1e-6, "{worst}");
    // Schedules take it: the instruction is put where the search placed it, and the program computes the placed product.
    let n = all.graph.nodes.iter().find(|n| &*n.op == "dot").expect("it was placed");
    let s = host::schedule(&all.graph, n, &target).expect("schedules have it").expect("it is placed");
    assert!(s.kernel().to_string().contains("intrinsic dpbusd"), "{}", s.kernel());
    let v = values(&parse(BYTES).expect("it is a graph"));
    let mut cut = all.graph.clone();
    let before = |v: &ValueId| all.graph.nodes.iter().find(|n| n.outputs[0] == *v).expect("a cast").inputs[0];
    cut.outputs = vec![before(&n.inputs[0]), before(&n.inputs[1]), n.outputs[0]];
    let table = lathe_ops::table();
    let values = interpret(&cut, &table, &HashMap::new(), &v).expect("it runs");
    let mut m = Memory::new(&[]);
    m.set("x", &values[0].bytes);
    m.set("y", &values[1].bytes);
    m.set("z", &vec![0; values[2].bytes.len()]);
    tensor::interpret(s.kernel(), &mut m).expect("it runs");
    assert_eq!(m.params["z"], values[2].bytes);
}

#[test]
fn halves_are_chosen_where_rounding_is_allowed() {
    let mut target = Target::named("bf16").expect("it is named");
    target.host.products_per_ns = 0.01;
    let (without, same) = selected(NETWORK, &target, &ALL);
    assert_eq!((without.share(), same < 1e-5), (0.0, true));
    let kinds: Vec<Kind> = KINDS.iter().map(|k| k.0).collect();
    let (with, worst) = selected(NETWORK, &target, &kinds);
    assert_eq!((on(&with), with.tag), (vec![true; 4], Tag::Approximates), "{}", with.graph);
    assert!(worst > 0.0 && worst < 0.02, "{worst}");
}
