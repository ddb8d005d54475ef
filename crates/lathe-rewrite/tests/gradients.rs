//! Every row that has a gradient: the gradients of its own sample, in f64, are the differences of its reference. Rows
//! without one refuse by name.

use lathe_ir::graph::{Attr, Graph, OpTable, Source, Type, ValueId, interpret_wide, parse};
use lathe_ir::{DType, Int, Name, Tensor};
use lathe_ops::table;
use lathe_rewrite::differentiate;
use std::collections::HashMap;

fn type_of(t: &Tensor) -> Type {
    let shape: Vec<Int> = t.shape.iter().map(|d| Int::from(*d as i64)).collect();
    Type { shape, dtype: t.dtype, encoding: t.encoding.as_ref().map(|e| e.name.clone()) }
}

fn wide(t: &Tensor) -> Tensor {
    if t.dtype == DType::F32 && t.encoding.is_none() { Tensor::f64(&t.shape, &t.values()) } else { t.clone() }
}

/// The operator on its sample, and the sum of its result times fixed weights as the loss; names of arguments to
/// differentiate by.
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
        ins.push(g.add_value(&name, type_of(t), Source::Input));
        if t.dtype == DType::F32 && t.encoding.is_none() {
            by.push(name.clone());
        }
        named.insert(name.as_str().into(), wide(t));
    }
    let attrs: Vec<(&str, Attr)> = attrs.iter().map(|(n, a)| (&**n, a.clone())).collect();
    let y = g.apply(table, op, &ins, &attrs).unwrap()[0];
    let weights = g.input("weights", g.ty(y).clone());
    let shape: Vec<usize> = g.ty(y).shape.iter().map(|d| d.as_const().unwrap() as usize).collect();
    let n: usize = shape.iter().product();
    let values: Vec<f64> = (0..n).map(|i| ((i * 37 + 11) % 23) as f64 / 11.0 - 1.0).collect();
    named.insert("weights".into(), Tensor::f64(&shape, &values));
    let mut sum = g.apply(table, "mul", &[y, weights], &[]).unwrap()[0];
    while !g.ty(sum).shape.is_empty() {
        sum = g.apply(table, "sum_last", &[sum], &[]).unwrap()[0];
    }
    g.outputs = vec![sum];
    (g, by, named)
}

#[test]
fn gradients_are_differences() {
    const STEP: f64 = 1e-6;
    let table = table();
    let mut checked = 0;
    for row in table.rows().iter().filter(|r| r.gradient.is_some()) {
        let mut reached = 0;
        for seed in 0..12 {
            let (g, all, mut named) = loss(&table, row.name, seed);
            // An argument that the row says it has no gradient by (the table of a rotation) is refused alone.
            let by: Vec<&str> =
                all.iter().map(String::as_str).filter(|n| differentiate(&g, &table, &[n]).is_ok()).collect();
            if by.is_empty() {
                continue;
            }
            let d = differentiate(&g, &table, &by).unwrap();
            assert_eq!(parse(&d.to_string()).unwrap().nodes.len(), d.nodes.len());
            let run = |g: &Graph, named: &HashMap<Name, Tensor>| {
                interpret_wide(g, &table, &HashMap::new(), named).unwrap()
            };
            let got = run(&d, &named);
            for (name, gradient) in by.iter().zip(&got[1..]) {
                let (x, gradient) = (named[*name].clone(), gradient.values());
                let mut values = x.values();
                for i in (0..values.len()).step_by(1 + values.len() / 12) {
                    let mut at = |v: f64| {
                        let old = std::mem::replace(&mut values[i], v);
                        named.insert((*name).into(), Tensor::f64(&x.shape, &values));
                        values[i] = old;
                        run(&g, &named)[0].values()[0]
                    };
                    let v = x.values()[i];
                    let want = (at(v + STEP) - at(v - STEP)) / (2.0 * STEP);
                    assert!(
                        (gradient[i] - want).abs() < 1e-6 * (1.0 + want.abs()),
                        "{} seed {seed}: the gradient by {name}[{i}] is {}, not {want}",
                        row.name,
                        gradient[i]
                    );
                    checked += 1;
                }
                named.insert((*name).into(), x);
                reached += 1;
            }
        }
        assert!(reached > 0, "no argument of '{}' was reached", row.name);
    }
    assert!(checked > 1000, "{checked} differences are few");
}

/// What must be refused, by which words.
#[test]
fn refusals_name_what_lacks() {
    let table = table();
    let refuse = |text: &str, by: &[&str], words: &str| {
        let e = differentiate(&parse(text).unwrap(), &table, by).unwrap_err().to_string();
        assert!(e.contains(words), "{e}");
    };
    let sums = "y: f32[] = sum_last(x)\n return y }";
    refuse(&format!("graph f() {{ x: f32[4] = input\n {sums}"), &["z"], "there is no such value");
    refuse("graph f() { x: f32[4] = input\n return x }", &["x"], "not a single f32");
    refuse(
        "graph f() { x: f32[4, 8] = input\n n: i32[4] = argmax(x)\n return n }",
        &["x"],
        "not a single f32",
    );
    let by = "graph f() { x: f32[4, 8] = input\n n: i32[4] = input\n p: f32[4] = pick(x, n)\n \
              y: f32[] = sum_last(p)\n return y }";
    refuse(by, &["n"], "not a dense tensor of f32");
    let experts = "graph f() { x: f32[1, 64] = input\n w: f32[8, 64] = input\n e: f32[1, 64]{a8} = encode(x)\n \
                   y: f32[1, 8] = matmul(e, w)\n s: f32[1] = sum_last(y)\n return s }";
    refuse(experts, &["x"], "'encode' has no gradient");
    let table_of_angles = "graph f() { x: f32[1, 8] = input\n t: f32[1, 8] = input\n \
                           y: f32[1, 8] = rope(x, t) { head_dim = 8 }\n s: f32[1] = sum_last(y)\n return s }";
    refuse(table_of_angles, &["t"], "'rope' has no gradient by its argument 1, 't'");
    let updated = "graph f() { w: f32[2] = state\n w1: f32[2] = adam_weights(w)\n \
                   y: f32[] = sum_last(w1)\n return y }";
    refuse(updated, &["w"], "updated in place");
}

/// Only what is asked for is computed, and a value without influence has a gradient of zeros.
#[test]
fn nothing_is_computed_that_nobody_asked_for() {
    let table = table();
    let g = parse(
        "graph f() { x: f32[4, 8] = input\n w: f32[3, 8] = input\n u: f32[5] = input\n \
         y: f32[4, 3] = matmul(x, w)\n s: f32[4] = sum_last(y)\n l: f32[] = sum_last(s)\n return l }",
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
