//! Arguments of any types: an operator refuses them, or has naive loops for them that the checker takes. Neither ends the process.

use lathe_ir::graph::{Attr, Graph, OpRow, OpTable, Type, check};
use lathe_ir::{DType, Int};
use lathe_ops::{lower_group, table};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A generator of numbers (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// Changes one thing about the arguments or the attributes of a sample.
fn change(r: &mut Numbers, types: &mut Vec<Type>, attrs: &mut Vec<(String, Attr)>) {
    let kinds = [DType::F32, DType::F16, DType::BF16, DType::I32, DType::I8, DType::U8];
    match (r.below(8), types.len(), attrs.len()) {
        (0, n, _) if n > 0 => drop(types.remove(r.below(n))),
        (1, n, _) if n > 0 => types.push(types[r.below(n)].clone()),
        (2, _, n) if n > 0 => drop(attrs.remove(r.below(n))),
        (3, _, n) if n > 0 => {
            let values =
                [Attr::Int(0), Attr::Int(-1), Attr::Int(1 << 40), Attr::Float(-1.0), Attr::Str("x".into())];
            attrs[r.below(n)].1 = values[r.below(values.len())].clone();
        }
        (k, n, _) if n > 0 => {
            let t = &mut types[r.below(n)];
            let axes = t.shape.len();
            match k {
                4 if axes > 0 => drop(t.shape.remove(r.below(axes))),
                5 => t.shape.insert(r.below(axes + 1), Int::from(1 + r.below(3) as i64)),
                6 if axes > 0 => t.shape[r.below(axes)] = Int::from(1 + r.below(40) as i64),
                _ => *t = Type::dense(kinds[r.below(kinds.len())], &t.shape),
            }
        }
        _ => {}
    }
}

/// What becomes of an operator with such arguments: whether it took them.
fn tried(row: &OpRow, table: &OpTable, types: &[Type], attrs: &[(String, Attr)]) -> bool {
    let mut g = Graph::new(row.name, &[]);
    let ins: Vec<_> = types.iter().enumerate().map(|(i, t)| g.input(&format!("a{i}"), t.clone())).collect();
    let attrs: Vec<_> = attrs.iter().map(|(n, a)| (n.as_str(), a.clone())).collect();
    let Ok(outputs) = g.apply(table, row.name, &ins, &attrs) else { return false };
    g.outputs = outputs;
    if check(&g, table).is_err() {
        return false;
    }
    let k = lower_group(&g, table, &[0], &|_| true, &HashMap::new()).kernel;
    lathe_ir::tensor::check(&k).unwrap_or_else(|e| panic!("{e}\n{k}"));
    lathe_ir::tensor::inside(&k).unwrap_or_else(|e| panic!("{e}\n{k}"));
    true
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let table = table();
    let mut bad = vec![];
    let mut taken = 0;
    for row in table.rows() {
        for seed in 0..400 {
            let mut r = Numbers(seed);
            let (args, attrs) = (row.sample)(seed);
            let mut types: Vec<Type> = args.iter().map(Type::of).collect();
            let mut attrs: Vec<(String, Attr)> =
                attrs.iter().map(|(n, a)| (n.to_string(), a.clone())).collect();
            for _ in 0..1 + r.below(2) {
                change(&mut r, &mut types, &mut attrs);
            }
            match catch_unwind(AssertUnwindSafe(|| tried(row, &table, &types, &attrs))) {
                Ok(took) => taken += usize::from(took),
                Err(why) => {
                    let why = why.downcast_ref::<String>().cloned().unwrap_or_default();
                    let types: Vec<String> = types.iter().map(|t| t.to_string()).collect();
                    bad.push(format!("{} of {} with {attrs:?}: {why}", row.name, types.join(", ")));
                }
            }
        }
    }
    assert!(taken > 100, "only {taken} changed samples were taken");
    assert!(bad.is_empty(), "{} operators' arguments end the process:\n{}", bad.len(), bad.join("\n"));
}
