//! The pass `halves`: attention over keys and values of bf16 gets queries of bf16 where the processor multiplies words of them, and
//! its results stay within the bound that follows from the roundings.

use lathe_ir::graph::{float_attr, interpret};
use lathe_ir::{DType, Name, Tensor};
use lathe_machine::Target;
use lathe_rewrite::pass;
use std::collections::HashMap;

/// The step between neighbouring numbers of bf16, halved: how far rounding goes, of a number.
const ROUNDED: f64 = 1.0 / 256.0;

#[test]
fn results_are_within_the_bound() {
    let table = lathe_ops::table();
    let words = Target { dialect: "avx512bf16".into(), ..Target::portable() };
    let (halves, row) = (pass("halves").unwrap(), table.get("attention").unwrap());
    let (mut applied, mut left) = (0, 0);
    for seed in 0..40 {
        let (g, args) = row.sample_graph(&table, seed).unwrap();
        let after = halves.run(&g, &table, &words).unwrap();
        assert_eq!(halves.run(&after, &table, &words).unwrap(), after, "a second run changes nothing");
        assert_eq!(halves.run(&g, &table, &Target::portable()).unwrap(), g, "no instruction, no change");
        let stored = args[1].encoding.as_ref().map(|e| e.fields[0].dtype);
        if stored != Some(DType::BF16) || args[0].dtype == DType::BF16 {
            assert_eq!(after, g);
            left += 1;
            continue;
        }
        applied += 1;
        let named: HashMap<Name, Tensor> =
            (0..).zip(&args).map(|(i, a)| (format!("a{i}").as_str().into(), a.clone())).collect();
        let run = |g| interpret(g, &table, &HashMap::new(), &named).unwrap().remove(0).values();
        let (before, after) = (run(&g), run(&after));
        // A score changes by what rounded queries change of a sum of products, a share of the softmax by the exponential of twice
        // that and by its own rounding and that of all together.
        let largest = |t: &Tensor| t.values().iter().fold(0f64, |m, v| m.max(v.abs()));
        let dim = args[1].shape[2];
        let scale = float_attr(&g.nodes[0].attrs, "scale").unwrap_or(1.0 / (dim as f64).sqrt());
        let heads = args[0].values();
        let long = heads.chunks(dim).map(|q| q.iter().map(|v| v.abs()).sum::<f64>()).fold(0.0, f64::max);
        let score = ROUNDED * scale * long * largest(&args[1]);
        let share = (2.0 * score).exp() * (1.0 + ROUNDED) / (1.0 - ROUNDED) - 1.0;
        for (x, y) in before.iter().zip(&after) {
            assert!((x - y).abs() <= share * largest(&args[2]) + 1e-6, "seed {seed}: {x} {y}");
        }
        assert!(before.iter().zip(&after).any(|(x, y)| x != y), "seed {seed}: nothing was rounded");
    }
    assert!(applied > 3 && left > 20, "{applied} {left}");
}
