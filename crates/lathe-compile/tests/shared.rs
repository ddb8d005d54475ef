//! Arguments are read where they lie and results written where the caller wants them: what is computed stays the same, and nothing
//! of the caller's changes.

use lathe_compile::Session;
use lathe_ir::graph::{Graph, interpret, parse};
use lathe_ir::{DType, Elements, Name, Tensor};
use lathe_machine::Target;
use std::collections::HashMap;
use std::sync::Arc;

/// One result is returned twice, one is an argument, and one is used again.
fn graph(rows: &str) -> Graph {
    let text = "graph f(n <= 40) {
  x: f32[n, 1024] = input
  b: f32[1024] = input
  a: f32[n, 1024] = add(x, b)
  y: f32[n, 1024] = relu(a)
  return a, y, x, y
}";
    let text = match rows {
        "n" => text.to_string(),
        _ => text.replace("(n <= 40)", "()").replace("[n,", &format!("[{rows},")),
    };
    parse(&text).unwrap()
}

fn tensor(rows: usize, seed: usize) -> Arc<Tensor> {
    let data: Vec<f32> = (0..rows * 1024).map(|i| ((i + seed) * 37 % 41) as f32 - 20.0).collect();
    let shape = [rows, 1024];
    Tensor::f32(if rows == 1 { &shape[1..] } else { &shape }, &data).into()
}

/// Runs with shared arguments, with copied ones, and again with those that are still there.
fn runs(graph: &Graph, sizes: &[usize]) {
    let table = lathe_ops::table();
    let (folder, target) = (tempfile::tempdir().unwrap(), Target::of_cpu(&lathe_runtime::detect_cpu()));
    let mut f = Session::new(graph, &[], &HashMap::new(), &target, folder.path(), 2).unwrap();
    let b = tensor(1, 5);
    let meant = |x: &Tensor| {
        let given: HashMap<Name, Tensor> = [("x".into(), x.clone()), ("b".into(), (*b).clone())].into();
        interpret(graph, &table, &[("n".into(), x.shape[0] as i64)].into(), &given).unwrap()
    };
    let mut spent: Vec<Tensor> = vec![];
    for (seed, rows) in sizes.iter().copied().enumerate() {
        let (x, kept): (_, Vec<_>) = (tensor(rows, seed), spent.iter().map(|t| t.bytes.as_ptr()).collect());
        let before = (*x).clone();
        let again = graph.dims.is_empty() && !spent.is_empty();
        let got = f.run_shared(&[("x", &x), ("b", &b)], std::mem::take(&mut spent)).unwrap();
        let wrong = got.iter().zip(meant(&x)).position(|(got, meant)| *got != meant);
        assert_eq!(wrong, None, "{rows} rows");
        assert!(*x == before);
        if again {
            assert!(kept.contains(&got[0].bytes.as_ptr()) && kept.contains(&got[1].bytes.as_ptr()));
        }
        assert!(f.run(&[("x", &x), ("b", &b)]).unwrap() == got);
        let other = tensor(rows, seed + 9);
        f.run_shared(&[("x", &other), ("b", &b)], vec![]).unwrap();
        spent = f.run(&[("x", &x)]).unwrap();
        assert!(spent == got);
    }
    // A shape that is none of the graph's is refused, and the next run is as before.
    let wide: Arc<Tensor> = Tensor::f32(&[20, 1], &[0.0; 20]).into();
    assert!(f.run_shared(&[("x", &wide), ("b", &b)], vec![]).is_err());
    let x = tensor(20, 1);
    assert!(f.run_shared(&[("x", &x), ("b", &b)], vec![]).unwrap() == meant(&x));
}

#[test]
fn what_is_shared_is_as_what_is_copied() {
    runs(&graph("20"), &[20, 20, 20]);
    // Sizes grow and shrink: kernels may use room that only the session's memory has behind them.
    runs(&graph("n"), &[20, 20, 40, 2, 33, 20]);
}

#[test]
fn rows_that_are_padded_are_not_the_callers() {
    let text = "graph f(n <= 100) {
  x: f32[n, 256] = input
  w: f32[512, 256] = const \"w\"
  y: f32[n, 512] = matmul(x, w)
  return y
}";
    let (graph, table) = (parse(text).unwrap(), lathe_ops::table());
    let (folder, target) = (tempfile::tempdir().unwrap(), Target::of_cpu(&lathe_runtime::detect_cpu()));
    let ones = |shape: &[usize]| Tensor::f32(shape, &vec![1.0; shape.iter().product()]);
    let w = HashMap::from([("w".into(), ones(&[512, 256]))]);
    let mut f = Session::new(&graph, &["pack"], &w, &target, folder.path(), 2).unwrap();
    let x: Arc<Tensor> = ones(&[97, 256]).into();
    let given: HashMap<Name, Tensor> = [("x".into(), (*x).clone()), ("w".into(), ones(&[512, 256]))].into();
    let meant = interpret(&graph, &table, &[("n".into(), 97)].into(), &given).unwrap();
    let mut spent = vec![];
    for _ in 0..3 {
        // Were a tile's rows behind the last one written, what lies behind a result would be lost.
        spent = f.run_shared(&[("x", &x)], spent).unwrap();
        assert!(spent == meant && spent[0].bytes.len() == 97 * 512 * 4);
    }
}

#[test]
fn what_is_written_over_is_copied() {
    let text = "graph f(n <= 64) {
  list: i32[32768] = input
  x: i32[n] = input
  at: i32[n] = input
  y: i32[32768] = place(list, x, at)
  return y
}";
    let (folder, target) = (tempfile::tempdir().unwrap(), Target::of_cpu(&lathe_runtime::detect_cpu()));
    let graph = parse(text).unwrap();
    let mut f = Session::new(&graph, &[], &HashMap::new(), &target, folder.path(), 2).unwrap();
    let ints = |v: &[i64]| {
        Arc::new(Tensor::of(DType::I32, &[v.len()], &Elements::Ints(v.iter().map(|v| (*v).into()).collect())))
    };
    let (list, x, at) = (ints(&[5; 32768]), ints(&[3, 4]), ints(&[7, 1000]));
    let before = (*list).clone();
    for _ in 0..2 {
        let y = f.run_shared(&[("list", &list), ("x", &x), ("at", &at)], vec![]).unwrap()[0].to_i64();
        assert_eq!((y[7], y[1000], y[0], y.len()), (3, 4, 5, 32768));
        assert!(*list == before);
    }
    // An index that is outside is refused, wherever it lies.
    let (many, outside) = (ints(&[1; 64]), ints(&(0..64).map(|i| i * 600).collect::<Vec<_>>()));
    assert!(f.run_shared(&[("list", &list), ("x", &many), ("at", &outside)], vec![]).is_err());
}

/// Numbers below a bound, one after the other, from a seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// A graph of a few nodes over rows of one width, with its inputs that have rows: sizes are on both sides of what is shared, results
/// are also read, returned twice, or arguments.
fn random_graph(draw: &mut Draw) -> (Graph, Vec<String>, usize) {
    let columns = [256, 512, 1024, 2048][draw.below(4)];
    let rows = [1, 3, 16, 32, 37][draw.below(5)].to_string();
    let symbolic = draw.below(4) == 0;
    let rows = if symbolic { "n".into() } else { rows };
    let of = format!("f32[{rows}, {columns}]");
    let mut text =
        format!("graph f({}) {{\n  b: f32[{columns}] = input\n", if symbolic { "n <= 40" } else { "" });
    let inputs: Vec<String> = (0..1 + draw.below(3)).map(|i| format!("x{i}")).collect();
    inputs.iter().for_each(|x| text += &format!("  {x}: {of} = input\n"));
    let mut values = inputs.clone();
    for i in 0..1 + draw.below(5) {
        let [x, y] = [(); 2].map(|()| values[draw.below(values.len())].clone());
        let made = match draw.below(6) {
            0 => format!("add({x}, b)"),
            1 => format!("add({x}, {y})"),
            2 => format!("mul({x}, {y})"),
            3 => format!("relu({x})"),
            4 => format!("softmax({x})"),
            // What one iteration reads others have written, and rows lie elsewhere.
            _ => {
                text += &format!("  t{i}: f32[{columns}, {rows}] = permute({x}) {{axes = [1, 0]}}\n");
                text += &format!("  u{i}: f32[{columns}, {rows}] = relu(t{i})\n");
                format!("permute(u{i}) {{axes = [1, 0]}}")
            }
        };
        text += &format!("  v{i}: {of} = {made}\n");
        values.push(format!("v{i}"));
    }
    // The last value, and any others.
    let mut results = vec![values[values.len() - 1].clone()];
    (0..draw.below(4)).for_each(|_| results.push(values[draw.below(values.len())].clone()));
    text += &format!("  return {}\n}}", results.join(", "));
    (parse(&text).unwrap_or_else(|e| panic!("{e} in {text}")), inputs, columns)
}

#[test]
fn whatever_is_lent_results_are_those_of_copies() {
    let target = Target::of_cpu(&lathe_runtime::detect_cpu());
    let folder = tempfile::tempdir().unwrap();
    let (mut draw, mut reused) = (Draw(7), 0);
    for case in 0..24 {
        let (graph, inputs, columns) = random_graph(&mut draw);
        let session = || Session::new(&graph, &[], &HashMap::new(), &target, folder.path(), 2).unwrap();
        let (mut shared, mut copied) = (session(), session());
        let numbers = |draw: &mut Draw, shape: &[usize]| -> Arc<Tensor> {
            let data: Vec<f32> =
                (0..shape.iter().product()).map(|_| draw.below(41) as f32 / 8.0 - 2.5).collect();
            Tensor::f32(shape, &data).into()
        };
        let rows = graph.values[1].ty.shape[0].as_const();
        let mut heap: Vec<Tensor> = vec![];
        // What the session has to remember of inputs that are not passed again.
        let mut held: HashMap<String, Arc<Tensor>> = HashMap::new();
        let mut last = 0;
        for _ in 0..6 {
            let n = rows.map_or_else(|| 1 + draw.below(40), |n| n as usize);
            for name in inputs.iter().map(String::as_str).chain(["b"]) {
                let whole = last != n && name != "b";
                if whole || !held.contains_key(name) || draw.below(3) > 0 {
                    let shape = [n, columns];
                    held.insert(
                        name.into(),
                        numbers(&mut draw, if name == "b" { &shape[1..] } else { &shape }),
                    );
                } else if rows.is_some() && draw.below(2) == 0 {
                    // An argument that stays lent, or is copied where it was lent before.
                    shared.set(name, &held[name]).unwrap();
                }
            }
            last = n;
            let all: Vec<(&str, &Arc<Tensor>)> = held.iter().map(|(n, t)| (n.as_str(), t)).collect();
            let some: Vec<_> = all.iter().filter(|_| rows.is_none() || draw.below(4) > 0).copied().collect();
            // Those that are not passed have been before, of the same content.
            let left: Vec<_> = all.iter().filter(|(n, _)| !some.iter().any(|(m, _)| m == n)).collect();
            left.iter().for_each(|(n, t)| shared.set(n, t).unwrap());
            let lent: Vec<Tensor> =
                (0..draw.below(heap.len() + 1)).map(|_| heap.swap_remove(draw.below(heap.len()))).collect();
            let places: Vec<*const u8> = lent.iter().map(|t| t.bytes.as_ptr()).collect();
            let before: Vec<Tensor> = all.iter().map(|(_, t)| (***t).clone()).collect();
            let got = shared.run_shared(&some, lent).unwrap();
            let plain: Vec<(&str, &Tensor)> = all.iter().map(|(n, t)| (*n, &***t)).collect();
            let meant = copied.run(&plain).unwrap();
            let wrong = got.iter().zip(&meant).position(|(g, m)| g != m);
            assert!(wrong.is_none() && got.len() == meant.len(), "case {case}, result {wrong:?} of {graph}");
            assert!(
                all.iter().zip(&before).all(|((_, t), b)| ***t == *b),
                "case {case} changes an argument of {graph}"
            );
            reused += got.iter().filter(|t| places.contains(&t.bytes.as_ptr())).count();
            heap.extend(got);
            // Memory of other sizes, and what nobody made here, is lent too.
            let other = [1 + draw.below(3), columns];
            heap.push((*numbers(&mut draw, &other)).clone());
        }
    }
    assert!(reused > 20, "{reused}");
}
