//! Times a graph on this machine: `cargo run --release -p lathe-compile --example time_graph -- FILE THREADS [PASS...]`, where
//! `FILE` is a graph's text with constant extents. Arguments are pseudo-random; it prints the best and the median time of a
//! run without copies of arguments, and with `SHOW=1` each kernel's trace and C.

use lathe_compile::{Options, Session, Sizes, draft};
use lathe_ir::graph::{Source, parse};
use lathe_ir::{DType, Elements, Tensor};
use std::collections::HashMap;
use std::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let text = std::fs::read_to_string(&args[1]).expect("a readable file");
    let threads = args[2].parse().expect("a number of threads");
    let passes: Vec<&str> = args[3..].iter().map(String::as_str).collect();
    let graph = parse(&text).expect("a graph");
    let target = lathe_runtime::detect_target().expect("a target");
    let cache = std::env::temp_dir().join("lathe-time-graph");
    if std::env::var("SHOW").is_ok() {
        let classes = [Sizes { name: "all", ..Sizes::default() }];
        let options = Options { target: &target, cache: &cache, passes: &passes, classes: &classes };
        for k in draft(&graph, &options).expect("a plan").kernels {
            println!("{}\n{}\n{}", k.schedule.trace(), k.schedule.kernel(), k.source);
        }
    }
    let (mut constants, mut inputs) = (HashMap::new(), vec![]);
    let mut state = 1u64;
    for v in &graph.values {
        if v.source == Source::Node {
            continue;
        }
        let shape: Vec<usize> = v.ty.shape.iter().map(|d| d.as_const().expect("constant") as usize).collect();
        let mut one = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / f64::from(1 << 24) - 0.5
        };
        let count = shape.iter().product();
        // Bytes are codes; other integers number what they pick.
        let elements = match v.ty.dtype {
            DType::I8 => Elements::Ints((0..count).map(|_| (one() * 255.0) as i128).collect()),
            t if t.is_int() => Elements::Ints((0..count as i128).collect()),
            _ => Elements::Floats((0..count).map(|_| one()).collect()),
        };
        let t = Tensor::of(v.ty.dtype, &shape, &elements);
        match &v.source {
            Source::Const(n) => drop(constants.insert(n.clone(), t)),
            _ => inputs.push((v.name.clone(), t)),
        }
    }
    let mut s = Session::new(&graph, &passes, &constants, &target, &cache, threads).expect("a session");
    let named: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (&**n, t)).collect();
    s.run(&named).expect("a run");
    let (mut times, start) = (vec![], Instant::now());
    while times.len() < 5 || start.elapsed().as_secs_f64() < 1.0 {
        let t = Instant::now();
        s.step().expect("a run");
        times.push(t.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    println!("best {:.3} ms, median {:.3} ms", times[0] * 1e3, times[times.len() / 2] * 1e3);
}
