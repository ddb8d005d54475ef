//! Proofs are replayed without the search, and changed ones are refused.

use lathe_ir::graph::{Attr, Graph, parse};
use lathe_select::replay::{Checker, Proof};
use lathe_select::rule::{Applied, Kind};
use lathe_select::term::{Head, Tree};
use lathe_select::{Limits, Target, select};
use std::collections::HashMap;
use std::rc::Rc;

const GRAPH: &str = "graph net() {
  x: f32[1, 3, 9, 9] = input
  w: f32[20, 3, 3, 3] = const \"w\"
  s: f32[20, 1, 1] = const \"s\"
  v: f32[10, 980] = const \"v\"
  c: f32[1, 20, 7, 7] = conv(x, w) {groups = 1, strides = [1, 1]}
  m: f32[1, 20, 7, 7] = mul(c, s)
  f: f32[1, 980] = reshape(m) {shape = [1, 980]}
  y: f32[1, 10] = matmul(f, v)
  return y
}";

const ALL: [Kind; 5] = [Kind::Exact, Kind::Layout, Kind::Windows, Kind::Padding, Kind::Algebra];

fn proved() -> (Graph, Target, Vec<Proof>) {
    let (g, table) = (parse(GRAPH).expect("it is a graph"), lathe_ops::table());
    let mut target = Target::named("gemm16").expect("it is named");
    target.host.products_per_ns = 0.01;
    let s = select(&g, &table, &HashMap::new(), &target, &ALL, Limits::default()).expect("it is selected");
    assert_eq!(s.share(), 1.0);
    (g, target, s.proofs)
}

#[test]
fn changed_proofs_are_refused() {
    let (g, target, proofs) = proved();
    let rules = Applied::all(&target, &ALL);
    let checker = Checker::new(&g, &lathe_ops::table(), &HashMap::new(), &rules);
    let mut steps = 0;
    for p in &proofs {
        checker.check(p).expect("it is a proof");
        for i in 0..p.steps.len() {
            steps += 1;
            let mut other = p.clone();
            other.steps[i].rule = "dot-free".into();
            assert!(checker.check(&other).is_err(), "a rule that is not in the table, step {i}");
            let mut other = p.clone();
            other.steps[i].rule =
                if other.steps[i].rule == "dot-order" { "dot-swap" } else { "dot-order" }.into();
            assert!(checker.check(&other).is_err(), "another rule, step {i} of {}", p.value);
            let mut other = p.clone();
            other.steps[i].forward ^= true;
            assert!(checker.check(&other).is_err(), "the other direction, step {i} of {}", p.value);
            let mut other = p.clone();
            other.steps[i].place.push(7);
            assert!(checker.check(&other).is_err(), "a place that is not there, step {i}");
            let mut other = p.clone();
            let t = &p.steps[i].after;
            let mut attrs = t.head.attrs.clone();
            attrs.insert("more".into(), Attr::Int(1));
            let head = Head::new(&t.head.op, attrs, t.head.result);
            other.steps[i].after = Rc::new(Tree { head, args: t.args.clone() });
            assert!(checker.check(&other).is_err(), "another term, step {i}");
        }
    }
    assert!(steps > 10, "{steps} steps");
}

#[test]
fn a_smaller_table_proves_less() {
    let (g, target, proofs) = proved();
    let rules = Applied::all(&target, &[Kind::Exact, Kind::Layout]);
    let checker = Checker::new(&g, &lathe_ops::table(), &HashMap::new(), &rules);
    assert!(proofs.iter().any(|p| checker.check(p).is_err()));
}
