//! Where fuzzing starts: the schedules of the file tests, and the operators' samples with schedules by rule.

use crate::case::{Case, Move};
use lathe_ir::graph::{Graph, Source, Type};
use lathe_ir::tensor::{check, parse};
use lathe_ir::{Int, Tensor};
use lathe_machine::Target;
use lathe_schedule::{Decisions, schedule};
use std::collections::{HashMap, HashSet};

/// Largest text of a program by rule.
const TEXT: usize = 3_000;

/// The cases of the text of a file test.
pub fn of_file(text: &str) -> Vec<Case> {
    let mut out = vec![];
    for case in format!("\n{text}").split("\n# test: ").skip(1) {
        let (header, body) = case.split_once('\n').unwrap_or((case, ""));
        let parts: Vec<&str> = body.split("\n----\n").collect();
        let Ok(program) = parse(parts[0]) else { continue };
        if check(&program).is_err() {
            continue;
        }
        let mut c = Case::new(program);
        if header.trim() == "schedule" {
            let steps = parts.get(1).map_or("", |p| p);
            let steps = steps.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#'));
            c.moves = steps.map(|l| Move::Step(l.trim().into())).collect();
        }
        out.push(c);
    }
    out
}

/// A few samples of each operator, as rules schedule them for some targets.
pub fn of_operators(samples: u64) -> Vec<Case> {
    let table = lathe_ops::table();
    let targets =
        ["portable", "avx2", "avx512vnni"].map(|d| Target { dialect: d.into(), ..Target::portable() });
    let (mut out, mut known) = (vec![], HashSet::new());
    for row in table.rows() {
        for seed in 0..samples {
            let (args, attrs) = (row.sample)(seed);
            let mut g = Graph::new(row.name, &[]);
            let ins: Vec<_> = args
                .iter()
                .enumerate()
                .map(|(i, t)| g.add_value(&format!("a{i}"), type_of(t), Source::Input))
                .collect();
            let attrs: Vec<_> = attrs.iter().map(|(n, a)| (&**n, a.clone())).collect();
            let Ok(outputs) = g.apply(&table, row.name, &ins, &attrs) else { continue };
            g.outputs = outputs;
            let k = lathe_ops::lower_group(&g, &table, &[0], &|_| true, &HashMap::new());
            if k.kernel.to_string().len() > TEXT {
                continue;
            }
            for (i, target) in targets.iter().enumerate() {
                let rows = [None, Some(4), Some(16)][(seed as usize + i) % 3];
                let s = schedule(k.kernel.clone(), &k.parts, target, rows, &Decisions::new());
                let Ok(s) = s else { continue };
                let mut c = Case::new(k.kernel.clone());
                c.moves = s.steps().iter().map(|s| Move::Step(s.step.clone())).collect();
                if s.kernel().to_string().len() < 2 * TEXT && known.insert(c.to_string()) {
                    out.push(c);
                }
            }
        }
    }
    out
}

fn type_of(t: &Tensor) -> Type {
    let shape: Vec<Int> = t.shape.iter().map(|d| Int::from(*d as i64)).collect();
    Type { shape, dtype: t.dtype, encoding: t.encoding.as_ref().map(|e| e.name.clone()) }
}
