//! Training: gradients of two small networks, from the operators' own and compiled as any graph is, against differences of
//! the interpreter in f64 and against PyTorch (`bench/peers/training_expectations.py`); Adam in place; dropout that draws
//! its mask again instead of keeping it.

use crate::{Random, cache};
use lathe_compile::Session;
use lathe_ir::graph::{Attr, Graph, Source, Type, ValueId, interpret_wide, parse};
use lathe_ir::step::Storage;
use lathe_ir::{DType, Name, Tensor};
use lathe_rewrite::{Bounds, differentiate, plan};
use lathe_runtime::detect_target;
use serde_json::Value;
use std::collections::HashMap;

/// Two layers over any number of rows.
const LAYERS: &str = "graph layers(T <= 16) {
  w1: f32[32, 16] = state
  b1: f32[32] = state
  w2: f32[10, 32] = state
  b2: f32[10] = state
  x: f32[T, 16] = input
  targets: i32[T] = input
  h0: f32[T, 32] = matmul(x, w1)
  h1: f32[T, 32] = add(h0, b1)
  h: f32[T, 32] = tanh(h1)
  z0: f32[T, 10] = matmul(h, w2)
  z: f32[T, 10] = add(z0, b2)
  p: f32[T, 10] = log_softmax(z)
  t: f32[T] = pick(p, targets)
  s: f32[] = sum(t) {axes = [0]}
  loss: f32[] = neg(s)
  return loss
}";

/// A block of a transformer between an embedding and logits.
const BLOCK: &str = "graph block() {
  embed: f32[11, 16] = state
  n1: f32[16] = state
  wq: f32[16, 16] = state
  wk: f32[16, 16] = state
  wv: f32[16, 16] = state
  wo: f32[16, 16] = state
  n2: f32[16] = state
  wg: f32[32, 16] = state
  wu: f32[32, 16] = state
  wd: f32[16, 32] = state
  n3: f32[16] = state
  head: f32[11, 16] = state
  tokens: i32[6] = input
  targets: i32[6] = input
  key: u32[2] = input
  x: f32[6, 16] = take(embed, tokens)
  a: f32[6, 16] = rms_norm(x, n1) { eps = 0.00001f64 }
  q0: f32[6, 16] = matmul(a, wq)
  q1: f32[6, 2, 8] = reshape(q0) {shape = [0, 2, -1]}
  q: f32[2, 6, 8] = permute(q1) {axes = [1, 0, 2]}
  k0: f32[6, 16] = matmul(a, wk)
  k1: f32[6, 2, 8] = reshape(k0) {shape = [0, 2, -1]}
  k: f32[2, 6, 8] = permute(k1) {axes = [1, 0, 2]}
  u0: f32[6, 16] = matmul(a, wv)
  u1: f32[6, 2, 8] = reshape(u0) {shape = [0, 2, -1]}
  u2: f32[2, 6, 8] = permute(u1) {axes = [1, 0, 2]}
  u: f32[2, 8, 6] = permute(u2) {axes = [0, 2, 1]}
  s0: f32[2, 6, 6] = batch_matmul(q, k)
  s1: f32[2, 6, 6] = affine(s0) { by = 0.3535533905932738f64 }
  s2: f32[2, 6, 6] = causal(s1) { future = -1e30f64 }
  s3: f32[12, 6] = reshape(s2) {shape = [12, 6]}
  s4: f32[12, 6] = softmax(s3)
  s: f32[2, 6, 6] = reshape(s4) {shape = [2, 6, 6]}
  y0: f32[2, 6, 8] = batch_matmul(s, u)
  y1: f32[6, 2, 8] = permute(y0) {axes = [1, 0, 2]}
  y2: f32[6, 16] = reshape(y1) {shape = [6, 16]}
  y: f32[6, 16] = matmul(y2, wo)
  x1: f32[6, 16] = add(x, y)
  a1: f32[6, 16] = rms_norm(x1, n2) { eps = 0.00001f64 }
  g: f32[6, 32] = matmul(a1, wg)
  m: f32[6, 32] = matmul(a1, wu)
  f0: f32[6, 32] = swiglu(g, m)
  f1: f32[6, 16] = matmul(f0, wd)
  f: f32[6, 16] = dropout(f1, key) { p = 0.25f64, stream = 1 }
  x2: f32[6, 16] = add(x1, f)
  a2: f32[6, 16] = rms_norm(x2, n3) { eps = 0.00001f64 }
  z: f32[6, 11] = matmul(a2, head)
  p: f32[6, 11] = log_softmax(z)
  t: f32[6] = pick(p, targets)
  sum: f32[] = sum(t) {axes = [0]}
  loss: f32[] = affine(sum) { by = -0.16666666666666666f64 }
  return loss
}";

/// A network with parameters and inputs drawn as the script for PyTorch draws them.
struct Network {
    graph: Graph,
    parameters: Vec<(String, Tensor)>,
    inputs: Vec<(String, Tensor)>,
    want: Value,
}

impl Network {
    fn names(&self) -> Vec<&str> {
        self.parameters.iter().map(|(n, _)| n.as_str()).collect()
    }

    fn inputs(&self) -> Vec<(&str, &Tensor)> {
        self.inputs.iter().map(|(n, t)| (n.as_str(), t)).collect()
    }

    /// The numbers PyTorch has for a parameter.
    fn expected(&self, what: &str, name: &str) -> Vec<f64> {
        let list = self.want[what][name].as_array().unwrap();
        list.iter().map(|v| v.as_f64().unwrap()).collect()
    }

    fn session(&self, graph: &Graph) -> Session {
        let mut s = Session::new(graph, &[], &HashMap::new(), &detect_target().unwrap(), cache(), 2).unwrap();
        self.parameters.iter().for_each(|(n, t)| s.set(n, t).unwrap());
        s
    }
}

fn network(text: &str, seed: u64, inputs: impl Fn(&mut Random) -> Vec<(&'static str, Tensor)>) -> Network {
    let graph = parse(text).unwrap();
    let mut random = Random(seed);
    let mut parameters = vec![];
    for v in graph.values.iter().filter(|v| v.source == Source::State) {
        let shape: Vec<usize> = v.ty.shape.iter().map(|d| d.as_const().unwrap() as usize).collect();
        let near = |x: f32| if v.name.starts_with('n') { 1.0 + x / 4.0 } else { x / 2.0 };
        let data: Vec<f32> = random.floats(shape.iter().product()).into_iter().map(near).collect();
        parameters.push((v.name.to_string(), Tensor::f32(&shape, &data)));
    }
    let inputs = inputs(&mut random).into_iter().map(|(n, t)| (n.to_string(), t)).collect();
    let want: Value = serde_json::from_str(include_str!("training.json")).unwrap();
    let want = want[&graph.name].clone();
    Network { graph, parameters, inputs, want }
}

fn ints(random: &mut Random, n: usize, below: u64) -> Tensor {
    Tensor::i32(&[n], &(0..n).map(|_| (random.next() % below) as i32).collect::<Vec<_>>())
}

fn networks() -> [Network; 2] {
    let layers = network(LAYERS, 41, |r| {
        let x = Tensor::f32(&[12, 16], &r.floats(12 * 16));
        vec![("x", x), ("targets", ints(r, 12, 10))]
    });
    let block = network(BLOCK, 42, |r| {
        let key = Tensor::u32(&[2], &[0x00c0_ffee, 0x00de_cade]);
        vec![("tokens", ints(r, 6, 11)), ("targets", ints(r, 6, 11)), ("key", key)]
    });
    [layers, block]
}

/// Largest difference, as a part of the largest number.
fn apart(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(0f64, |m, v| m.max(v.abs()));
    // What is no number stays.
    let larger = |m: f64, d: f64| if d > m || d.is_nan() { d } else { m };
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, larger) / scale
}

#[test]
fn gradients_are_those_of_differences_and_of_pytorch() {
    const STEP: f64 = 1e-6;
    let table = lathe_ops::table();
    for n in networks() {
        let names = n.names();
        let graph = differentiate(&n.graph, &table, &names).unwrap();
        let got = n.session(&graph).run(&n.inputs()).unwrap();
        let loss = n.want["loss"].as_f64().unwrap();
        assert!((got[0].values()[0] - loss).abs() < 1e-5 * loss, "{:?}, not {loss}", got[0].values());

        let dims: HashMap<Name, i64> = HashMap::from([("T".into(), 12)]);
        let wide =
            |t: &Tensor| if t.dtype == DType::F32 { Tensor::f64(&t.shape, &t.values()) } else { t.clone() };
        let all = n.parameters.iter().chain(&n.inputs);
        let mut named: HashMap<Name, Tensor> = all.map(|(n, t)| (n.as_str().into(), wide(t))).collect();
        for ((name, x), gradient) in n.parameters.iter().zip(&got[1..]) {
            let gradient = gradient.values();
            let want = n.expected("gradients", name);
            let error = apart(&gradient, &want);
            assert!(error < 1e-5, "{}: the gradient by '{name}' is {error} from PyTorch's", n.graph.name);
            // A few elements each; the script's are all.
            let (picks, mut values) = (x.len() / 8 + 1, x.values());
            let mut differences = vec![];
            let elements: Vec<usize> = (0..x.len()).step_by(picks).collect();
            for i in &elements {
                let mut at = |v: f64| {
                    let old = std::mem::replace(&mut values[*i], v);
                    named.insert(name.as_str().into(), Tensor::f64(&x.shape, &values));
                    values[*i] = old;
                    interpret_wide(&n.graph, &table, &dims, &named).unwrap()[0].values()[0]
                };
                let v = x.values()[*i];
                differences.push((at(v + STEP) - at(v - STEP)) / (2.0 * STEP));
            }
            named.insert(name.as_str().into(), wide(x));
            let scale = want.iter().fold(0f64, |m, v| m.max(v.abs()));
            for (i, d) in elements.into_iter().zip(differences) {
                assert!((gradient[i] - d).abs() < 1e-5 * scale, "{name}[{i}] is {}, not {d}", gradient[i]);
            }
        }
    }
}

/// The network's loss, its gradients, and a step of Adam for every parameter.
fn trained(n: &Network) -> Graph {
    let table = lathe_ops::table();
    let names = n.names();
    let mut g = differentiate(&n.graph, &table, &names).unwrap();
    let weights = g.state("weights", Type::dense(DType::F32, &[2.into()]));
    let weights = g.apply(&table, "adam_weights", &[weights], &[]).unwrap()[0];
    for (name, gradient) in names.iter().zip(g.outputs.split_off(1)) {
        let w = ValueId(g.values.iter().position(|v| *v.name == **name).unwrap() as u32);
        let [m, v] = ["mean", "square"].map(|what| g.state(&format!("{name}_{what}"), g.ty(w).clone()));
        g.apply(&table, "adam", &[w, m, v, gradient, weights], &[("lr", Attr::Float(0.01))]).unwrap();
    }
    lathe_ir::graph::check(&g, &table).unwrap();
    g
}

#[test]
fn adam_steps_in_place() {
    for n in networks() {
        let graph = trained(&n);
        let mut session = n.session(&graph);
        let first = session.run(&n.inputs()).unwrap()[0].values()[0];
        for name in n.names() {
            let got = session.state(name).unwrap().values();
            let error = apart(&got, &n.expected("stepped", name));
            assert!(error < 1e-5, "{}: '{name}' is {error} from PyTorch's", n.graph.name);
        }
        assert!((session.state("weights").unwrap().values()[1] - 1e-3).abs() < 1e-9);
        let last = (0..20).map(|_| session.run(&n.inputs()).unwrap()[0].values()[0]).last().unwrap();
        assert!(last < 0.7 * first, "{}: the loss went from {first} to {last} only", n.graph.name);
    }
}

/// A successor has no storage: the kernel that makes it writes to the state it succeeds.
#[test]
fn successors_lie_where_their_states_do() {
    for n in networks() {
        let (graph, table) = (trained(&n), lathe_ops::table());
        let most: HashMap<Name, i64> = graph.dims.iter().cloned().collect();
        let plan = plan(&graph, &table, &Bounds { most, ..Bounds::default() });
        let updates: Vec<_> = graph.nodes.iter().filter(|n| n.op.starts_with("adam")).collect();
        assert_eq!(updates.len(), n.parameters.len() + 1);
        for u in updates {
            for (i, successor) in u.outputs.iter().enumerate() {
                let stored = |v: ValueId| plan.run.buffers.iter().find(|b| b.name == graph.value(v).name);
                assert!(stored(*successor).is_none(), "'{}' has storage", graph.value(*successor).name);
                assert_eq!(stored(u.inputs[i]).unwrap().storage, Storage::Given);
            }
        }
    }
}

#[test]
fn dropout_draws_its_mask_again() {
    const N: usize = 4096;
    let table = lathe_ops::table();
    let text = "graph drop() {
      x: f32[64, 64] = input
      key: u32[2] = input
      w: f32[64, 64] = input
      y: f32[64, 64] = dropout(x, key) { p = 0.25f64, stream = 3 }
      z: f32[64, 64] = mul(y, w)
      s: f32[64] = sum(z) {axes = [1]}
      loss: f32[] = sum(s) {axes = [0]}
      return loss, y
    }";
    let graph = differentiate(&parse(text).unwrap(), &table, &["x"]).unwrap();
    // Nothing but the key and the weights reaches the gradient: no mask is kept.
    assert_eq!(graph.nodes.iter().filter(|n| &*n.op == "dropout").count(), 2);
    let mut session =
        Session::new(&graph, &[], &HashMap::new(), &detect_target().unwrap(), cache(), 2).unwrap();
    let ones = Tensor::f32(&[64, 64], &[1.0; N]);
    let mut run = |key: [u32; 2]| {
        let key = Tensor::u32(&[2], &key);
        let all = session.run(&[("x", &ones), ("key", &key), ("w", &ones)]).unwrap();
        assert_eq!(all[1].bytes, all[2].bytes, "the gradient of a sum is the mask, bit for bit");
        all[1].clone()
    };
    let mask = run([7, 9]);
    assert_eq!(mask.bytes, run([7, 9]).bytes, "the same key draws the same");
    let scale = f64::from((1.0 / 0.75) as f32);
    assert!(mask.values().iter().all(|v| *v == 0.0 || *v == scale));
    // The number of elements kept is within five standard deviations of what is expected, under every key; two keys agree
    // on 5/8 of the elements.
    let kept = |t: &Tensor| t.values().iter().map(|v| *v != 0.0).collect::<Vec<_>>();
    let within = |count: usize, p: f64| {
        let (mean, deviation) = (N as f64 * p, (N as f64 * p * (1.0 - p)).sqrt());
        assert!((count as f64 - mean).abs() < 5.0 * deviation, "{count} of {N} are not {p}");
    };
    for key in [[7, 10], [8, 9], [0, 0], [u32::MAX; 2]] {
        let other = run(key);
        within(kept(&other).iter().filter(|k| **k).count(), 0.75);
        within(kept(&mask).iter().zip(kept(&other)).filter(|(a, b)| **a == *b).count(), 0.625);
    }
}
