//! Whatever is decided of a graph as a whole, its compiled program computes what the graph means.

use lathe_compile::{Finding, Findings, Options, Session, Sizes, draft};
use lathe_ir::graph::{interpret, parse};
use lathe_ir::{Name, Tensor};
use std::collections::{HashMap, HashSet};

/// A choice of each kind, and both of two convolutions of the same sizes at once.
const TEXT: &str = "graph f() {
  x: f32[1, 16, 9, 9] = input
  q: f32[2, 32, 16] = input
  u: f32[2, 32, 16] = input
  n: f32[2, 32, 16] = input
  w: f32[16, 16, 3, 3] = const \"w\"
  v: f32[32, 16, 1, 1] = const \"v\"
  d: f32[32, 1, 3, 3] = const \"d\"
  b: f32[16, 1, 1] = const \"b\"
  p: f32[1, 16, 11, 11] = pad(x) {high = [0, 0, 1, 1], low = [0, 0, 1, 1]}
  c: f32[1, 16, 9, 9] = conv(p, w)
  e: f32[1, 16, 9, 9] = add(c, b)
  r: f32[1, 16, 9, 9] = relu(e)
  s: f32[1, 16, 11, 11] = pad(r) {high = [0, 0, 1, 1], low = [0, 0, 1, 1]}
  t: f32[1, 16, 9, 9] = conv(s, w)
  y: f32[1, 32, 9, 9] = conv(t, v)
  z: f32[1, 32, 9, 9] = sigmoid(y)
  l: f32[1, 32, 11, 11] = pad(z) {high = [0, 0, 1, 1], low = [0, 0, 1, 1]}
  m: f32[1, 32, 9, 9] = conv(l, d) {groups = 32}
  k: f32[2, 16, 32] = permute(u) {axes = [0, 2, 1]}
  a: f32[2, 32, 32] = dot(q, k) {batch_x = [0], batch_y = [0], sum_x = [2], sum_y = [1]}
  h: f32[64, 32] = reshape(a) {shape = [64, 32]}
  i: f32[64, 32] = softmax(h)
  j: f32[2, 32, 32] = reshape(i) {shape = [2, 32, 32]}
  o: f32[2, 32, 16] = dot(j, n) {batch_x = [0], batch_y = [0], sum_x = [2], sum_y = [1]}
  return m, o
}";

const PASSES: &[&str] = &["winograd", "attention", "pack", "filters"];

fn random(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed;
    let mut one = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    let n: usize = shape.iter().product();
    Tensor::f32(shape, &(0..n).map(|_| one()).collect::<Vec<_>>())
}

#[test]
fn whatever_is_decided_computes_the_same() {
    let (graph, table) = (parse(TEXT).unwrap_or_else(|e| panic!("{e}")), lathe_ops::table());
    lathe_ir::graph::check(&graph, &table).unwrap_or_else(|e| panic!("{e}"));
    let constants: HashMap<Name, Tensor> = [
        ("w".into(), random(&[16, 16, 3, 3], 1)),
        ("v".into(), random(&[32, 16, 1, 1], 2)),
        ("d".into(), random(&[32, 1, 3, 3], 3)),
        ("b".into(), random(&[16, 1, 1], 4)),
    ]
    .into();
    let inputs = [
        ("x", random(&[1, 16, 9, 9], 5)),
        ("q", random(&[2, 32, 16], 6)),
        ("u", random(&[2, 32, 16], 7)),
        ("n", random(&[2, 32, 16], 8)),
    ];
    let mut named = constants.clone();
    named.extend(inputs.iter().map(|(n, t)| ((*n).into(), t.clone())));
    let meant = interpret(&graph, &table, &HashMap::new(), &named).unwrap_or_else(|e| panic!("{e}"));
    let target = lathe_runtime::detect_target().unwrap_or_else(|e| panic!("{e}"));
    let run = |decisions: &[(String, i64)]| {
        let folder = tempfile::tempdir().unwrap();
        let found = Finding {
            key: Findings::graph_key(&graph, PASSES),
            threads: 2,
            seconds: 1.0,
            rule: Some(2.0),
            decisions: decisions.iter().cloned().collect(),
        };
        let path = Findings::path(folder.path(), &target);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, found.line() + "\n").unwrap();
        let classes = [Sizes { name: "all", ..Sizes::default() }];
        let options = Options { target: &target, cache: folder.path(), passes: PASSES, classes: &classes };
        let draft = draft(&graph, &options).unwrap_or_else(|e| panic!("{decisions:?}: {e}"));
        for (name, value) in decisions {
            let taken = draft.choices.iter().find(|c| c.name == *name).map(|c| c.taken);
            assert_eq!(taken, Some(*value), "{name}");
        }
        let mut f = Session::new(&graph, PASSES, &constants, &target, folder.path(), 2).unwrap();
        let passed: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (*n, t)).collect();
        for (got, meant) in f.run(&passed).unwrap().iter().zip(&meant) {
            let (got, meant) = (got.to_f32(), meant.to_f32());
            let far = got.iter().zip(&meant).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 1e-4, "{decisions:?}: {far}");
        }
        let kernels: Vec<String> = draft.kernels.iter().map(|m| m.key.clone()).collect();
        (draft.choices, kernels)
    };
    let (choices, by_rule) = run(&[]);
    let kinds: HashSet<&str> = choices.iter().filter_map(|c| c.name.split('.').next()).collect();
    for kind in ["winograd", "attention", "filters", "behind", "padded"] {
        assert!(kinds.contains(kind), "no choice of {kind} in {choices:?}");
    }
    for c in &choices {
        for option in c.options.iter().filter(|o| **o != c.taken) {
            let (_, kernels) = run(&[(c.name.clone(), *option)]);
            assert_ne!(kernels, by_rule, "{} = {option} changes nothing", c.name);
        }
    }
    // What names no choice, and what is no option, decides nothing.
    assert_eq!(run(&[]).1, by_rule);
}

/// Keys are copied in an order of their own: where they are the queries or the values too, nothing is.
#[test]
fn attention_over_one_array_compiles() {
    let text = "graph f() {\n  x: f32[2, 32, 16] = input\n  y: f32[2, 32, 16] = dense_attention(x, x, x)\n  return y\n}";
    let (graph, table) = (parse(text).unwrap_or_else(|e| panic!("{e}")), lathe_ops::table());
    let x = random(&[2, 32, 16], 9);
    let meant = interpret(&graph, &table, &HashMap::new(), &[("x".into(), x.clone())].into()).unwrap();
    let (folder, target) = (tempfile::tempdir().unwrap(), lathe_runtime::detect_target().unwrap());
    let mut f = Session::new(&graph, &[], &HashMap::new(), &target, folder.path(), 1).unwrap();
    let got = f.run(&[("x", &x)]).unwrap().remove(0).to_f32();
    let far = got.iter().zip(meant[0].to_f32()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(far < 1e-5, "{far}");
}
