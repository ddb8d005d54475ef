//! The table of rules: each row applies to its samples and keeps their meaning, as its tag says.

use lathe_ir::graph::{Graph, interpret};
use lathe_ir::{DType, Tensor};
use lathe_schedule::Tag;
use lathe_select::rule::{Applied, KINDS, Kind, Made, Pattern};
use lathe_select::sample::Sample;
use lathe_select::target::{Product, Steps};
use lathe_select::term::{Facts, Head, Ops, alike};
use lathe_select::{TARGETS, Target};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The left side as it stands at a graph's result: heads, and the values of the variables.
fn matched(g: &Graph, p: &Pattern, v: u32, heads: &mut Vec<Arc<Head>>, vars: &mut Vec<u32>) -> bool {
    let Pattern::Op(name, args) = p else {
        vars.push(v);
        return true;
    };
    let Some(n) = g.nodes.iter().find(|n| n.outputs[0].0 == v && *n.op == **name) else { return false };
    heads.push(Head::new(&n.op, n.attrs.clone(), 0));
    args.len() == n.inputs.len() && args.iter().zip(&n.inputs).all(|(p, a)| matched(g, p, a.0, heads, vars))
}

/// The sample with the right side in the place of its result; `None` where the rule does not apply.
fn applied(s: &Sample, rule: &Applied<'_>) -> Option<Graph> {
    let table = lathe_ops::table();
    let ops = Ops::new(&table);
    rule.rule.left.iter().find_map(|left| {
        let (mut heads, mut vars) = (vec![], vec![]);
        let mut g = s.graph.clone();
        matched(&g, &Pattern::parse(left), g.outputs[0].0, &mut heads, &mut vars).then_some(())?;
        let facts = |v: &u32| {
            let v = &g.values[*v as usize];
            let number = s.constants.get(&v.name).and_then(|t| alike(&t.values()));
            Facts { ty: v.ty.clone(), number, constant: false }
        };
        let (right, root) = rule.right(&ops, &heads, vars.iter().map(facts).collect())?;
        let mut ids = vec![];
        for m in right.made {
            ids.push(match m {
                Made::Variable(i) => lathe_ir::graph::ValueId(vars[i]),
                Made::Op(head, args) => {
                    let args: Vec<_> = args.iter().map(|p| ids[p.0]).collect();
                    let attrs: Vec<(&str, _)> = head.attrs.iter().map(|(n, a)| (&**n, a.clone())).collect();
                    g.apply(&table, &head.op, &args, &attrs).expect("types fit")[0]
                }
            });
        }
        g.outputs = vec![ids[root.0]];
        Some(g)
    })
}

fn close(a: &Tensor, b: &Tensor, tag: Tag) -> bool {
    let largest = a.values().iter().fold(1e-30f64, |m, v| m.max(v.abs()));
    let bound = match tag {
        _ if a.dtype.is_int() => 0.0,
        Tag::Bitwise => 0.0,
        Tag::Reassociates => 1e-5,
        // Two factors, each changed by 2^-8 of itself, over sums whose terms may cancel.
        Tag::Approximates => 0.05,
    };
    a.shape == b.shape
        && a.dtype == b.dtype
        && a.values().iter().zip(b.values()).all(|(x, y)| (x - y).abs() <= bound * largest.max(1.0))
}

#[test]
fn every_rule_keeps_the_meaning() {
    let table = lathe_ops::table();
    let targets: Vec<Target> = TARGETS.iter().map(|(n, _)| Target::named(n).expect("it is named")).collect();
    let kinds: Vec<Kind> = KINDS.iter().map(|k| k.0).collect();
    let mut used: HashSet<&str> = HashSet::new();
    for target in &targets {
        for rule in Applied::all(target, &kinds) {
            for seed in 0..16 {
                let mut s = (rule.rule.sample)(seed);
                let Some(right) = applied(&s, &rule) else { continue };
                used.insert(rule.rule.name);
                let values = s.values();
                let run =
                    |g: &Graph| interpret(g, &table, &HashMap::new(), &values).expect("it runs").remove(0);
                let (before, after) = (run(&s.graph), run(&right));
                let ok = close(&before, &after, rule.rule.tag);
                assert!(ok, "{} seed {seed}:\n{}\n{right}\n{before:?}\n{after:?}", rule.name(), s.graph);
            }
        }
    }
    let lacking: Vec<&str> =
        lathe_select::rules::rules().map(|r| r.name).filter(|n| !used.contains(n)).collect();
    assert!(lacking.is_empty(), "no sample of these is a left side: {lacking:?}");
}

#[test]
fn names_of_rules_are_their_own() {
    let mut seen = HashSet::new();
    for r in lathe_select::rules::rules() {
        assert!(seen.insert(r.name), "two rules '{}'", r.name);
    }
}

#[test]
fn products_are_read_off_their_meaning() {
    let of = |name: &str| Target::named(name).expect("it is named").instructions[0].product;
    let matmul = Product {
        rows: 16,
        columns: Some(16),
        steps: Steps::UpTo(256),
        factors: [DType::F32; 2],
        sums: DType::F32,
    };
    assert_eq!(of("gemm16"), matmul);
    let bytes = [DType::U8, DType::I8];
    let dpbusd =
        Product { rows: 16, columns: None, steps: Steps::Exactly(4), factors: bytes, sums: DType::I32 };
    assert_eq!(of("vnni"), dpbusd);
    let halves = Product { steps: Steps::Exactly(2), factors: [DType::BF16; 2], sums: DType::F32, ..dpbusd };
    assert_eq!(of("bf16"), halves);
}

#[test]
fn other_meanings_are_refused() {
    let text = TARGETS[0].1;
    let cases = [
        ("* b[l, j]", "+ b[l, j]", "does not sum products"),
        ("b[l, j]", "b[l, 0]", "has an index that is no variable"),
        ("a[i, l]", "a[l, i]", "is not c[row, column]"),
        ("limits = { k = 256 }", "", "has no limit for 'k'"),
        ("65536", "1024", "more than the scratchpad"),
        ("\nns = 8.0", "\nns = 0.0", "its times"),
        ("kernel matmul(k)", "kernel matmul(", "line"),
        ("host]", "hosts]", "unknown field"),
    ];
    for (from, to, says) in cases {
        let error = Target::parse(&text.replace(from, to)).expect_err(from).to_string();
        assert!(error.contains(says), "{from} -> {to}: {error}");
    }
}
