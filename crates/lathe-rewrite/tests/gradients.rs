//! Every row that has a gradient: the gradients of its own sample, in f64, are the differences of its reference. Rows
//! without one refuse by name.

use lathe_ir::graph::{Attr, Graph, OpTable, Source, Type, ValueId, interpret_wide, parse};
use lathe_ir::{DType, Name, Tensor};
use lathe_ops::table;
use lathe_rewrite::differentiate;
use std::collections::HashMap;

fn wide(t: &Tensor) -> Tensor {
    if t.dtype == DType::F32 && t.encoding.is_none() { Tensor::f64(&t.shape, &t.values()) } else { t.clone() }
}

/// Adds a loss to a graph: the sum of some values times fixed weights.
fn weigh(table: &OpTable, g: &mut Graph, values: &[ValueId], named: &mut HashMap<Name, Tensor>) {
    let mut terms = vec![];
    for v in values {
        let ty = g.ty(*v).clone();
        let name = format!("weights{}", named.len());
        let weights = g.input(&name, ty.clone());
        let shape: Vec<usize> = ty.shape.iter().map(|d| d.as_const().unwrap() as usize).collect();
        let numbers = (0..shape.iter().product()).map(|i| ((i * 37 + 11) % 23) as f64 / 11.0 - 1.0);
        named.insert(name.as_str().into(), Tensor::f64(&shape, &numbers.collect::<Vec<_>>()));
        let mut sum = g.apply(table, "mul", &[*v, weights], &[]).unwrap()[0];
        while !g.ty(sum).shape.is_empty() {
            let last = Attr::Ints(vec![g.ty(sum).shape.len() as i64 - 1]);
            sum = g.apply(table, "sum", &[sum], &[("axes", last)]).unwrap()[0];
        }
        terms.push(sum);
    }
    let add = |a, b: &ValueId| g.apply(table, "add", &[a, *b], &[]).unwrap()[0];
    g.outputs = vec![terms[1..].iter().fold(terms[0], add)];
}

/// The operator on its sample with a loss; names of arguments to differentiate by.
fn loss(table: &OpTable, op: &str, seed: u64) -> (Graph, Vec<String>, HashMap<Name, Tensor>) {
    let row = table.get(op).unwrap();
    let (mut args, attrs) = (row.sample)(seed);
    // Numbers stored one by one are as well dense.
    for t in args.iter_mut().filter(|t| t.encoding.as_ref().is_some_and(|e| &*e.name == "f32")) {
        *t = Tensor::f32(&t.shape, &t.to_f32());
    }
    let mut g = Graph::new(op, &[]);
    let mut named: HashMap<Name, Tensor> = HashMap::new();
    let mut by = vec![];
    let mut ins = vec![];
    for (i, t) in args.iter().enumerate() {
        let name = format!("a{i}");
        ins.push(g.add_value(&name, Type::of(t), Source::Input));
        if t.dtype == DType::F32 && t.encoding.is_none() {
            by.push(name.clone());
        }
        named.insert(name.as_str().into(), wide(t));
    }
    let attrs: Vec<(&str, Attr)> = attrs.iter().map(|(n, a)| (&**n, a.clone())).collect();
    let y = g.apply(table, op, &ins, &attrs).unwrap();
    weigh(table, &mut g, &y, &mut named);
    // An argument that the row says it has no gradient by (the table of a rotation) is refused alone.
    by.retain(|n| differentiate(&g, table, &[n]).is_ok());
    (g, by, named)
}

/// Compares gradients with differences at about `most` elements of each value; returns their number.
fn compare(table: &OpTable, g: &Graph, by: &[&str], named: &HashMap<Name, Tensor>, most: usize) -> usize {
    const STEP: f64 = 1e-6;
    let d = differentiate(g, table, by).unwrap();
    assert_eq!(parse(&d.to_string()).unwrap().to_string(), d.to_string());
    let run =
        |g: &Graph, named: &HashMap<Name, Tensor>| interpret_wide(g, table, &HashMap::new(), named).unwrap();
    let (got, mut named, mut compared) = (run(&d, named), named.clone(), 0);
    for (name, gradient) in by.iter().zip(&got[1..]) {
        let (x, gradient) = (named[*name].clone(), gradient.values());
        let mut values = x.values();
        for i in (0..values.len()).step_by(1 + values.len() / most) {
            let mut at = |v: f64| {
                let old = std::mem::replace(&mut values[i], v);
                named.insert((*name).into(), Tensor::f64(&x.shape, &values));
                values[i] = old;
                run(g, &named)[0].values()[0]
            };
            let v = x.values()[i];
            let want = (at(v + STEP) - at(v - STEP)) / (2.0 * STEP);
            let near = (gradient[i] - want).abs() < 1e-6 * (1.0 + want.abs());
            assert!(near, "{}: the gradient by {name}[{i}] is {}, not {want}\n{d}", g.name, gradient[i]);
            compared += 1;
        }
        named.insert((*name).into(), x);
    }
    compared
}

#[test]
fn gradients_are_differences() {
    let table = table();
    for row in table.rows().iter().filter(|r| r.gradient.is_some()) {
        let mut compared = 0;
        for seed in 0..20 {
            let (g, by, named) = loss(&table, row.name, seed);
            let by: Vec<&str> = by.iter().map(String::as_str).collect();
            // Samples of other types than f32 have no gradient.
            if by.is_empty() {
                continue;
            }
            compared += compare(&table, &g, &by, &named, 12);
        }
        assert!(compared >= 12, "only {compared} differences of '{}'", row.name);
    }
}

/// Gradients are operators of the same table, so they have gradients too.
#[test]
fn gradients_have_gradients() {
    let table = table();
    for row in table.rows().iter().filter(|r| r.gradient.is_some()) {
        for seed in [0, 1, 10] {
            let (g, by, mut named) = loss(&table, row.name, seed);
            let by: Vec<&str> = by.iter().map(String::as_str).collect();
            if by.is_empty() {
                continue;
            }
            let mut d = differentiate(&g, &table, &by).unwrap();
            let gradients = d.outputs.split_off(1);
            weigh(&table, &mut d, &gradients, &mut named);
            compare(&table, &d, &by, &named, 4);
        }
    }
}

/// What must be refused, by which words.
#[test]
fn refusals_name_what_lacks() {
    let table = table();
    let refuse = |text: &str, by: &[&str], words: &str| {
        let e = differentiate(&parse(text).unwrap(), &table, by).unwrap_err().to_string();
        assert!(e.contains(words), "{e}");
    };
    let sums = "y: f32[] = sum(x) {axes = [0]}\n return y }";
    refuse(&format!("graph f() {{ x: f32[4] = input\n {sums}"), &["z"], "there is no such value");
    refuse("graph f() { x: f32[4] = input\n return x }", &["x"], "not a single f32");
    refuse(
        "graph f() { x: f32[4, 8] = input\n n: i32[4] = argmax(x)\n return n }",
        &["x"],
        "not a single f32",
    );
    let by = "graph f() { x: f32[4, 8] = input\n n: i32[4] = input\n p: f32[4] = pick(x, n)\n \
              y: f32[] = sum(p) {axes = [0]}\n return y }";
    refuse(by, &["n"], "not a dense tensor of f32");
    let experts = "graph f() { x: f32[1, 64] = input\n w: f32[8, 64] = input\n e: f32[1, 64]{a8} = encode(x)\n \
                   y: f32[1, 8] = matmul(e, w)\n s: f32[1] = sum(y) {axes = [1]}\n return s }";
    refuse(experts, &["x"], "'encode' has no gradient");
    let table_of_angles = "graph f() { x: f32[1, 8] = input\n t: f32[1, 8] = input\n \
                           y: f32[1, 8] = rope(x, t) { head_dim = 8 }\n s: f32[1] = sum(y) {axes = [1]}\n return s }";
    refuse(table_of_angles, &["t"], "'rope' has no gradient by its argument 1, 't'");
    let updated = "graph f() { w: f32[2] = state\n w1: f32[2] = adam_weights(w)\n \
                   y: f32[] = sum(w1) {axes = [0]}\n return y }";
    refuse(updated, &["w"], "updated in place");
}

/// Only what is asked for is computed, and a value without influence has a gradient of zeros.
#[test]
fn nothing_is_computed_that_nobody_asked_for() {
    let table = table();
    let g = parse(
        "graph f() { x: f32[4, 8] = input\n w: f32[3, 8] = input\n u: f32[5] = input\n \
         y: f32[4, 3] = matmul(x, w)\n s: f32[4] = sum(y) {axes = [1]}\n l: f32[] = sum(s) {axes = [0]}\n return l }",
    )
    .unwrap();
    let products = |by: &[&str]| {
        let d = differentiate(&g, &table, by).unwrap();
        d.nodes.iter().filter(|n| &*n.op == "matmul").count()
    };
    assert_eq!((products(&["x"]), products(&["w"]), products(&["x", "w"]), products(&["u"])), (2, 2, 3, 1));
    let d = differentiate(&g, &table, &["u"]).unwrap();
    assert_eq!(d.ty(d.outputs[1]), d.ty(ValueId(2)));
}
