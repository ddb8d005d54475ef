//! The pass `rows`: of every operator that it takes to work row by row, rows of the result are the same bits computed of rows of the
//! arguments.

use lathe_ir::graph::{Graph, Type, interpret};
use lathe_ir::{DType, Int, Name, Tensor};
use lathe_machine::Target;
use lathe_rewrite::pass;
use std::collections::{BTreeSet, HashMap};

#[test]
fn rows_are_the_same_taken_early() {
    let (table, rows) = (lathe_ops::table(), pass("rows").unwrap());
    let (mut early, mut tried) = (BTreeSet::new(), BTreeSet::new());
    for row in table.rows() {
        for seed in 0..16 {
            let (args, attrs) = (row.sample)(seed);
            let Ok((sample, _)) = row.sample_graph(&table, seed) else { continue };
            let Some(&n) = sample.ty(sample.outputs[0]).shape.first().and_then(|n| n.as_const()).as_ref()
            else {
                continue;
            };
            // The arguments that have as many rows have `T` of them.
            let mut g = Graph::new(row.name, &[("T", n), ("R", 5)]);
            let ins: Vec<_> = (0..)
                .zip(&args)
                .map(|(i, a)| {
                    let mut ty = Type::of(a);
                    if ty.shape.len() == 2 && ty.shape[0].as_const() == Some(n) {
                        ty.shape[0] = Int::var("T");
                    }
                    g.input(&format!("a{i}"), ty)
                })
                .collect();
            let wanted = g.input("rows", Type::dense(DType::I32, &[Int::var("R")]));
            let attrs: Vec<_> = attrs.iter().map(|(n, a)| (&**n, a.clone())).collect();
            let Ok(y) = g.apply(&table, row.name, &ins, &attrs) else { continue };
            let Ok(few) = g.apply(&table, "take", &[y[0], wanted], &[]) else { continue };
            g.outputs = few;
            tried.insert(row.name);

            let after = rows.run(&g, &table, &Target::portable()).unwrap();
            assert_eq!(rows.run(&after, &table, &Target::portable()).unwrap(), after, "{}: twice", row.name);
            if after == g {
                continue;
            }
            early.insert(row.name);
            let dims = HashMap::from([("T".into(), n), ("R".into(), 3)]);
            let mut named: HashMap<Name, Tensor> =
                (0..).zip(&args).map(|(i, a)| (format!("a{i}").as_str().into(), a.clone())).collect();
            named.insert("rows".into(), Tensor::i32(&[3], &[n as i32 - 1, 0, (seed as i64 % n) as i32]));
            let run = |g: &Graph| interpret(g, &table, &dims, &named).unwrap().remove(0).values();
            let (x, y) = (run(&g), run(&after));
            let same = x.len() == y.len() && x.iter().zip(&y).all(|(x, y)| x.to_bits() == y.to_bits());
            assert!(same, "{} {seed}: {x:?} {y:?}", row.name);
        }
    }
    for name in ["add", "layer_norm", "matmul", "rms_norm", "rope", "swiglu"] {
        assert!(early.contains(name), "'{name}' is not taken early: {early:?}");
    }
    for name in ["causal", "uniform"] {
        assert!(tried.contains(name), "'{name}' was not tried: {tried:?}");
    }
}
