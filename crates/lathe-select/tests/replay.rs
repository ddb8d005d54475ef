//! Proofs are replayed without the search, and changed ones are refused.

use lathe_ir::graph::{Attr, Graph, ValueId, interpret, parse};
use lathe_ir::{DType, Elements, Tensor};
use lathe_select::replay::{Checker, Proof, Step};
use lathe_select::rule::{Applied, KINDS, Kind};
use lathe_select::search::DEFINITION;
use lathe_select::term::{Head, Ops, Tree};
use lathe_select::{Limits, TARGETS, Target, select};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

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

/// What a graph says of a value, with the conversions of its arguments, and the steps of the proof that lead there.
fn defined(g: &Graph, value: ValueId) -> (Rc<Tree>, Vec<Step>) {
    let of = |v: ValueId| Rc::new(Tree { head: Head::value(&g.value(v).name), args: vec![] });
    let node = |v: ValueId| g.nodes.iter().find(|n| n.outputs[0] == v);
    let tree = |v: ValueId| {
        let n = node(v).expect("it is made");
        let args = n.inputs.iter().map(|v| of(*v)).collect();
        Rc::new(Tree { head: Head::new(&n.op, n.attrs.clone(), 0), args })
    };
    let step = |place, after: &Rc<Tree>| Step {
        rule: DEFINITION.into(),
        forward: true,
        place,
        after: after.clone(),
    };
    let mut term = tree(value);
    let mut steps = vec![step(vec![], &term)];
    for (i, v) in node(value).expect("it is made").inputs.iter().enumerate() {
        if node(*v).is_some() {
            let mut args = term.args.clone();
            args[i] = tree(*v);
            term = Rc::new(Tree { head: term.head.clone(), args });
            steps.push(step(vec![i], &term));
        }
    }
    (term, steps)
}

/// What a rule makes of a product of values, or of converted values.
fn right_side(rule: &Applied<'_>, ops: &Ops, checker: &Checker<'_>, left: &Rc<Tree>) -> Option<Rc<Tree>> {
    let (mut heads, mut vars) = (vec![left.head.clone()], vec![]);
    for a in &left.args {
        match a.head.named() {
            Some(_) => vars.push(a.clone()),
            None => {
                heads.push(a.head.clone());
                vars.push(a.args[0].clone());
            }
        }
    }
    let converts = rule.rule.left[0].contains("cast");
    (converts == (heads.len() > 1)).then_some(())?;
    let facts = vars.iter().map(|v| checker.facts(v)).collect::<Option<_>>()?;
    let (right, root) = rule.right(ops, &heads, facts)?;
    Some(right.term(root, &vars))
}

/// The same term with something else: its factors exchanged or one in the place of both, other steps, a conversion to another type, or
/// one that is left out.
fn wrong_terms(t: &Rc<Tree>) -> Vec<(&'static str, Rc<Tree>)> {
    let with = |head: &Arc<Head>, args: Vec<Rc<Tree>>| Rc::new(Tree { head: head.clone(), args });
    let mut out = vec![];
    if &*t.head.op == "dot" {
        let [x, y] = [&t.args[0], &t.args[1]];
        out.push(("the factors are exchanged", with(&t.head, vec![y.clone(), x.clone()])));
        out.push(("one factor is both", with(&t.head, vec![x.clone(), x.clone()])));
        let mut attrs = t.head.attrs.clone();
        attrs.insert("sum_x".into(), attrs["batch_x"].clone());
        out.push(("other axes are summed", with(&Head::new("dot", attrs, 0), t.args.clone())));
    }
    if &*t.head.op == "cast" && t.args[0].head.named().is_some() {
        let mut attrs = t.head.attrs.clone();
        attrs.insert("to".into(), Attr::Str("i8".into()));
        out.push(("a conversion to another type", with(&Head::new("cast", attrs, 0), t.args.clone())));
        out.push(("a conversion is left out", t.args[0].clone()));
    }
    for (i, a) in t.args.iter().enumerate() {
        for (what, other) in wrong_terms(a) {
            let mut args = t.args.clone();
            args[i] = other;
            out.push((what, with(&t.head, args)));
        }
    }
    out
}

/// A graph whose result is a term over another one's values; nothing where it is none.
fn graph_of(g: &Graph, t: &Tree) -> Option<Graph> {
    fn made(g: &mut Graph, t: &Tree) -> Option<ValueId> {
        if let Some(name) = t.head.named() {
            return g.values.iter().position(|v| &*v.name == name).map(|i| ValueId(i as u32));
        }
        let args = t.args.iter().map(|a| made(g, a)).collect::<Option<Vec<_>>>()?;
        let attrs: Vec<(&str, Attr)> = t.head.attrs.iter().map(|(n, a)| (&**n, a.clone())).collect();
        Some(g.apply(&lathe_ops::table(), &t.head.op, &args, &attrs).ok()?[0])
    }
    let mut out = g.clone();
    out.outputs = vec![made(&mut out, t)?];
    Some(out)
}

/// Floats that halves do not hold.
fn unrounded(t: Tensor) -> Tensor {
    match t.dtype {
        DType::F32 => {
            let thirds = t.values().iter().map(|v| v / 3.0).collect();
            Tensor::of(t.dtype, &t.shape, &Elements::Floats(thirds))
        }
        _ => t,
    }
}

/// Wrong right sides of the rules that put an instruction in the place of a product and that round: each computes something else, and
/// none is taken.
#[test]
fn wrong_products_of_instructions_are_refused() {
    let (table, kinds) = (lathe_ops::table(), KINDS.map(|k| k.0));
    let ops = Ops::new(&table);
    let mut seen: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (name, _) in TARGETS {
        let target = Target::named(name).expect("it is named");
        let rules = Applied::all(&target, &kinds);
        for rule in
            rules.iter().filter(|r| ["place", "place-converted", "dot-rounded"].contains(&r.rule.name))
        {
            for seed in 0..8 {
                let mut s = (rule.rule.sample)(seed);
                let g = s.graph.clone();
                let checker = Checker::new(&g, &table, &s.constants, &rules);
                let (left, steps) = defined(&g, g.outputs[0]);
                let Some(right) = right_side(rule, &ops, &checker, &left) else { continue };
                let values = s.values().into_iter().map(|(n, t)| (n, unrounded(t))).collect();
                let proof = |after: &Rc<Tree>| {
                    let last = Step { rule: rule.name(), forward: true, place: vec![], after: after.clone() };
                    let steps = [steps.clone(), vec![last]].concat();
                    Proof { value: g.value(g.outputs[0]).name.clone(), steps }
                };
                let run = |t: &Tree| {
                    let made = graph_of(&g, t)?;
                    Some(interpret(&made, &table, &HashMap::new(), &values).ok()?.remove(0))
                };
                checker.check(&proof(&right)).expect("the right one is proved");
                let result = run(&right).expect("the right one runs");
                for (what, wrong) in wrong_terms(&right) {
                    let differs =
                        run(&wrong).is_none_or(|t| t.shape != result.shape || t.bytes != result.bytes);
                    assert!(checker.check(&proof(&wrong)).is_err(), "{}: {what}: {wrong}", rule.name());
                    *seen.entry((rule.rule.name, what)).or_default() += usize::from(differs);
                }
            }
        }
    }
    println!("{seen:?}");
    for name in ["place", "place-converted", "dot-rounded"] {
        let kinds = seen.iter().filter(|((n, _), count)| *n == name && **count > 0).count();
        assert!(kinds >= 3, "{name}: {seen:?}");
    }
    assert!(seen.values().all(|n| *n > 0), "a change that is none of the meaning: {seen:?}");
}
