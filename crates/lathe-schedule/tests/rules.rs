//! Schedules by rule keep the meaning: every operator's scheduled kernel, run by the interpreter, equals its naive one,
//! and replays from it by its trace.

use lathe_ir::graph::Form;
use lathe_ir::tensor::{CORE, Memory, Stmt, interpret};
use lathe_ir::{DType, Tensor};
use lathe_machine::Target;
use lathe_ops::{lower_group, table};
use lathe_schedule::{Decisions, Schedule, schedule, word_product};
use std::collections::HashMap;

/// Products and copies have samples of every encoding.
fn seeds(form: Form) -> u64 {
    if matches!(form, Form::Contraction | Form::Copy) { 160 } else { 20 }
}

#[test]
fn scheduled_kernels_keep_the_meaning() {
    keep_the_meaning(0);
}

/// A test of its own, so that both run at once.
#[test]
fn kernels_of_odd_samples_keep_the_meaning() {
    keep_the_meaning(1);
}

/// Of every other sample from this one on.
fn keep_the_meaning(first: u64) {
    let table = table();
    let [wide, half] = ["avx512bf16", "avx2"].map(|d| Target { dialect: d.into(), ..Target::portable() });
    for row in table.rows() {
        for seed in (first..seeds(row.sample_form())).step_by(2) {
            let (g, args) = row.sample_graph(&table, seed).unwrap();
            let k = lower_group(&g, &table, &[0], &|_| true, &HashMap::new());
            for (i, target) in [&wide, &half, &Target::portable()].into_iter().enumerate() {
                // Many samples take turns.
                if seed >= 20 && i as u64 != seed % 3 {
                    continue;
                }
                let few = [None, Some(4), Some(16)][seed as usize % 3];
                let make = |decisions: &Decisions| {
                    schedule(k.kernel.clone(), &k.parts, target, few, decisions).unwrap_or_else(|e| {
                        panic!("{} seed {seed}, {decisions:?}: {e}\n{}", row.name, k.kernel)
                    })
                };
                let mut s = make(&Decisions::new());
                // What rules choose among is correct whatever is chosen.
                if seed % 3 != 0 {
                    let (mut chosen, mut rest) = (Decisions::new(), seed as usize / 3);
                    for c in s.choices() {
                        chosen.insert(c.name.clone(), c.options[rest % c.options.len()]);
                        rest = rest / 2 + 1;
                    }
                    s = make(&chosen);
                }
                let again = Schedule::replay(k.kernel.clone(), &s.trace()).unwrap();
                assert_eq!(again.kernel(), s.kernel());
                let run = |kernel| {
                    let mut m = Memory::new(&[]);
                    for (p, v) in k.kernel.params.iter().zip(&k.args) {
                        // Room for padding behind each argument.
                        let mut bytes = match args.get(v.0 as usize) {
                            Some(a) => a.bytes.clone(),
                            None => vec![0; g.ty(*v).bits().as_const().unwrap() as usize / 8],
                        };
                        bytes.resize(bytes.len() + 16384, 0);
                        m.set(&p.name, &bytes);
                    }
                    let mut padded: lathe_ir::tensor::Kernel = kernel;
                    for v in padded.params.iter_mut().flat_map(|p| &mut p.views) {
                        for d in 0..v.shape.len() {
                            let (n, m) = (v.shape[d].as_const().unwrap(), v.padding(d));
                            v.shape[d] = ((n + m - 1) / m * m).into();
                        }
                    }
                    interpret(&padded, &mut m).unwrap_or_else(|e| panic!("{e}\n{padded}"));
                    m
                };
                let (a, b) = (run(k.kernel.clone()), run(s.kernel().clone()));
                for (p, v) in k.kernel.params.iter().zip(&k.args) {
                    let n = g.ty(*v).bits().as_const().unwrap() as usize / 8;
                    let shape: Vec<usize> =
                        g.ty(*v).shape.iter().map(|d| d.as_const().unwrap() as usize).collect();
                    let read = |m: &Memory| Tensor {
                        shape: shape.clone(),
                        dtype: g.ty(*v).dtype,
                        encoding: g.ty(*v).storage().map(std::sync::Arc::new),
                        bytes: m.params[&p.name][..n].to_vec(),
                    };
                    let (x, y) = (read(&a).values(), read(&b).values());
                    let loose = match g.ty(*v).dtype {
                        DType::F16 => 2e-3,
                        DType::BF16 => 1e-2,
                        // Exponentials are rounded to halves, each with the maximum so far.
                        _ if matches!(row.name, "attention" | "attention_part")
                            && args[0].dtype == DType::BF16 =>
                        {
                            1e-2
                        }
                        _ => 1e-5,
                    };
                    let scale = x.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
                    for (x, y) in x.iter().zip(&y) {
                        assert!(
                            x == y || (x - y).abs() <= loose * scale,
                            "{} seed {seed}: {x} {y}\n{}\n{}",
                            row.name,
                            s.trace(),
                            s.kernel()
                        );
                    }
                }
            }
        }
    }
}

/// An instruction that is wrong for a number of its types is for codes of activations, which leave that number out.
#[test]
fn words_that_hold_anything_go_to_no_instruction_that_excludes_some() {
    for name in Target::names() {
        let target = Target::named(name).expect("it is named");
        for lanes in [DType::I8, DType::U8] {
            for repeated in [DType::I8, DType::U8] {
                let row = word_product(&target, [lanes, repeated]);
                assert!(row.is_none_or(|r| r.assumes.is_none()), "{name}");
            }
        }
    }
}

/// Of few rows the blocks are what cores share: one loop over all of them.
#[test]
fn cores_share_the_blocks_of_few_rows() {
    let (table, mut seen) = (table(), 0);
    let row = table.rows().iter().find(|row| row.name == "encode").unwrap();
    for seed in 0..40 {
        let (g, _) = row.sample_graph(&table, seed).unwrap();
        let k = lower_group(&g, &table, &[0], &|_| true, &HashMap::new());
        let [Stmt::For(rows)] = k.kernel.body.as_slice() else { panic!("{}", k.kernel) };
        let blocks =
            rows.body.iter().find_map(|s| if let Stmt::For(l) = s { l.extent.as_int() } else { None });
        let (Some(n @ 1..16), Some(blocks @ 2..)) = (rows.extent.as_int(), blocks) else { continue };
        let none = Decisions::new();
        let s = schedule(k.kernel.clone(), &k.parts, &Target::portable(), None, &none).unwrap();
        let [Stmt::For(all)] = s.kernel().body.as_slice() else { panic!("{}", s.kernel()) };
        let extent = all.extent.simplify_index(&lathe_ir::Bounds::default()).as_int();
        assert_eq!((&*all.level, extent), (CORE, Some(n * blocks)), "{}", s.kernel());
        seen += 1;
    }
    assert!(seen > 0);
}
