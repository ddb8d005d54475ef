//! Every row: the naive loops, run by the tensor interpreter, compute what the reference computes.

use lathe_ir::graph::{Form, Type, check};
use lathe_ir::tensor::{Memory, interpret};
use lathe_ir::{DType, Tensor};
use lathe_ops::{lower_group, table};
use std::collections::HashMap;

/// Products and copies have samples of every encoding.
fn seeds(form: Form) -> u64 {
    if matches!(form, Form::Contraction | Form::Copy) { 160 } else { 20 }
}

#[test]
fn naive_loops_compute_the_reference() {
    let table = table();
    for row in table.rows() {
        for seed in 0..seeds(row.sample_form()) {
            let (g, args) = row.sample_graph(&table, seed).unwrap();
            check(&g, &table).unwrap();
            assert_eq!(lathe_ir::graph::parse(&g.to_string()).unwrap(), g, "graph text of {}", row.name);
            let types: Vec<Type> = g.outputs.iter().map(|v| g.ty(*v).clone()).collect();
            let want = (row.reference)(&args, &g.nodes[0].attrs, &types);

            let k = lower_group(&g, &table, &[0], &|_| true, &HashMap::new());
            lathe_ir::tensor::check(&k.kernel).unwrap_or_else(|e| panic!("{e}\n{}", k.kernel));
            lathe_ir::tensor::inside(&k.kernel).unwrap_or_else(|e| panic!("{e}\n{}", k.kernel));
            let again = lathe_ir::tensor::parse(&k.kernel.to_string())
                .unwrap_or_else(|e| panic!("{e}\n{}", k.kernel));
            assert_eq!(again.to_string(), k.kernel.to_string());
            let mut m = Memory::new(&[]);
            for (p, v) in k.kernel.params.iter().zip(&k.args) {
                let bytes = match args.get(v.0 as usize) {
                    Some(a) => a.bytes.clone(),
                    None => vec![0x5a; g.ty(*v).bits().as_const().unwrap() as usize / 8],
                };
                m.set(&p.name, &bytes);
            }
            interpret(&k.kernel, &mut m).unwrap_or_else(|e| panic!("{e}\n{}", k.kernel));
            for (j, (v, want)) in g.outputs.iter().zip(&want).enumerate() {
                let param = k.args.iter().position(|a| a == v).or_else(|| {
                    let (a, _) = row.donates.iter().find(|(_, r)| *r == j).expect("a donated argument");
                    k.args.iter().position(|p| p.0 as usize == *a)
                });
                let bytes = m.params[&k.kernel.params[param.unwrap()].name].clone();
                let got = Tensor { bytes, ..want.clone() };
                // Exponentials that are rounded to halves may round to the other neighbour.
                let halves =
                    matches!(row.name, "attention" | "attention_part") && args[0].dtype == DType::BF16;
                close(row.name, seed, &got, want, if halves { 1e-2 } else { loose(&got) });
            }
        }
    }
}

/// What a type's elements may differ by, of the largest one.
fn loose(t: &Tensor) -> f64 {
    match t.dtype {
        DType::F16 => 2e-3,
        DType::BF16 => 1e-2,
        _ if t.encoding.as_ref().is_some_and(|e| e.name.starts_with("a8")) => 0.01,
        _ => 1e-5,
    }
}

fn close(name: &str, seed: u64, got: &Tensor, want: &Tensor, loose: f64) {
    let (a, b) = (got.values(), want.values());
    let scale = b.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (i, (x, y)) in a.iter().zip(&b).enumerate() {
        assert!(x == y || (x - y).abs() <= loose * scale, "{name} seed {seed}: element {i} is {x}, not {y}");
    }
    if got.dtype.is_int() {
        assert_eq!(got.elements(), want.elements(), "{name} seed {seed}");
    }
}
