//! Attention of one token in parts of its keys computes what it is, and other attention stays as it is.

use lathe_ir::graph::{Graph, Type, interpret};
use lathe_ir::{Name, Tensor};
use lathe_rewrite::in_parts;
use std::collections::HashMap;

/// One token of the arguments of a sample of attention, and the graph of it.
fn of_token(op: &str, seed: u64, token: usize) -> (Graph, Vec<Tensor>) {
    let table = lathe_ops::table();
    let (args, mut attrs) = (table.get("attention_part").unwrap().sample)(seed);
    attrs.remove("parts");
    let one = |(i, a): (usize, &Tensor)| {
        if matches!(i, 1..=3) {
            return a.clone();
        }
        let row = a.bytes.len() / a.shape[0];
        let shape = [&[1], &a.shape[1..]].concat();
        Tensor { shape, bytes: a.bytes[token * row..][..row].to_vec(), ..a.clone() }
    };
    let args: Vec<Tensor> = args.iter().enumerate().map(one).collect();
    let mut g = Graph::new("token", &[]);
    let ins: Vec<_> = args.iter().enumerate().map(|(i, a)| g.input(&format!("a{i}"), Type::of(a))).collect();
    let attrs: Vec<_> = attrs.iter().map(|(n, a)| (&**n, a.clone())).collect();
    g.outputs = g.apply(&table, op, &ins, &attrs).unwrap();
    (g, args)
}

#[test]
fn parts_put_together_are_the_whole() {
    let table = lathe_ops::table();
    for seed in 0..10 {
        for token in 0..3 {
            let (g, args) = of_token("attention", seed, token);
            let (cores, parts) =
                [(None, 8), (Some(1), 2), (Some(3), 3), (Some(64), 8)][(seed as usize + token) % 4];
            let after = in_parts(&g, &table, &HashMap::new(), cores);
            assert_eq!(lathe_ir::graph::int_attr(&after.nodes[0].attrs, "parts"), Some(parts));
            lathe_ir::graph::check(&after, &table).unwrap();
            let names: Vec<&str> = after.nodes.iter().map(|n| &*n.op).collect();
            assert_eq!(names, ["attention_part", "attention_join"]);
            let named: HashMap<Name, Tensor> =
                (0..).zip(&args).map(|(i, a)| (format!("a{i}").as_str().into(), a.clone())).collect();
            let run = |g| interpret(g, &table, &HashMap::new(), &named).unwrap().remove(0).values();
            let (before, after) = (run(&g), run(&after));
            // Exponentials of queries of halves are rounded, in parts with another maximum.
            let halves = args[0].dtype != lathe_ir::DType::F32;
            let loose = if halves { 1e-2 } else { 1e-5 };
            for (x, y) in before.iter().zip(&after) {
                assert!((x - y).abs() <= loose, "seed {seed} token {token}: {x} {y}");
            }
        }
    }
}

#[test]
fn other_attention_stays() {
    let table = lathe_ops::table();
    let text = |tokens: &str, more: &str| {
        format!(
            "graph f(T <= 4) {{
  q: f32[{tokens}, 64] = input
  k: f32[320, 2, 32]{{keys16}} = input
  v: f32[320, 2, 32]{{values16}} = input
  pages: i32[1, 20] = input
  sequence: i32[{tokens}] = input
  last: i32[{tokens}] = input
  y: f32[{tokens}, 64] = attention(q, k, v, pages, sequence, last) {{heads = 2{more}}}
  return y
}}"
        )
    };
    let parts = |text: &str, fixed: &[(&str, i64)]| {
        let g = lathe_ir::graph::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let fixed = fixed.iter().map(|(n, v)| ((*n).into(), *v)).collect();
        let after = in_parts(&g, &table, &fixed, None);
        (after == g, after.nodes.len())
    };
    assert_eq!(parts(&text("T", ""), &[("T", 1)]), (false, 2));
    assert_eq!(parts(&text("T", ""), &[]), (true, 1));
    assert_eq!(parts(&text("T", ""), &[("T", 2)]), (true, 1));
    assert_eq!(parts(&text("1", ""), &[]), (false, 2));
    assert_eq!(parts(&text("1", ", window = 40"), &[]), (true, 1));
    // A sequence that has room for one part only.
    assert_eq!(parts(&text("1", "").replace("[1, 20]", "[1, 8]"), &[]), (true, 1));
}
