//! Every operator's kernels as C with arguments and expected results: what tests of dialects have in common.

#![allow(dead_code, reason = "each test uses a part of it")]

use lathe_codegen::{Dialect, emit, prelude};
use lathe_ir::graph::{Form, Graph, Type};
use lathe_ir::tensor::{Stmt, for_each};
use lathe_ir::{DType, Tensor};
use lathe_machine::Target;
use lathe_ops::{GroupKernel, lower_group, table};
use lathe_runtime::CTX_DECLARATION;
use lathe_schedule::{Decisions, schedule};
use std::collections::HashMap;

/// Products and copies have samples of every encoding.
fn seeds(form: Form, few: bool) -> u64 {
    match (matches!(form, Form::Contraction | Form::Copy), few) {
        (true, false) => 160,
        (false, false) => 20,
        (true, true) => 60,
        (false, true) => 8,
    }
}

/// One operator on the arguments of one seed.
pub struct Case {
    pub symbol: String,
    graph: Graph,
    pub group: GroupKernel,
    args: Vec<Tensor>,
    want: Vec<Tensor>,
    pub source: String,
    pub grid: i64,
    pub workspace: usize,
}

/// Every operator with every sample, scheduled and written for `target`; with fewer samples where `few`.
pub fn cases(target: &Target, few: bool) -> Vec<Case> {
    let dialect = Dialect::named(&target.dialect).unwrap();
    let table = table();
    let mut out: Vec<Case> = vec![];
    for row in table.rows() {
        for seed in 0..seeds(row.sample_form(), few) {
            let (g, args) = row.sample_graph(&table, seed).unwrap();
            let types: Vec<Type> = g.outputs.iter().map(|v| g.ty(*v).clone()).collect();
            let want = (row.reference)(&args, &g.nodes[0].attrs, &types);
            let group = lower_group(&g, &table, &[0], &|_| true, &HashMap::new());
            let mut s = schedule(
                group.kernel.clone(),
                &group.parts,
                target,
                [None, Some(4), Some(16)][seed as usize / 3 % 3],
                &Decisions::new(),
            )
            .unwrap_or_else(|e| panic!("{} seed {seed}: {e}\n{}", row.name, group.kernel));
            // Results of samples are small, and go past the caches here all the same.
            let mut blocks = vec![];
            for_each(&s.kernel().body, &mut |s| {
                if let Stmt::Store(b) = s {
                    blocks.push(b.name.clone());
                }
            });
            for b in blocks.iter().filter(|_| seed % 2 == 1) {
                let _ = s.step(&format!("nontemporal {b}"));
            }
            let symbol = format!("{}_{seed}", row.name);
            let e = emit(s.kernel(), &symbol, dialect).unwrap_or_else(|e| panic!("{e}\n{}", s.kernel()));
            out.push(Case {
                symbol,
                graph: g,
                group,
                args,
                want,
                source: e.source,
                grid: e.grid.as_const().unwrap(),
                workspace: e.workspace_bytes.as_const().unwrap() as usize,
            });
        }
    }
    out
}

/// Two units of C with all cases, each with `around` before and behind the prelude.
pub fn units(cases: &[Case], target: &Target, around: [&str; 2]) -> Vec<String> {
    let dialect = Dialect::named(&target.dialect).unwrap();
    let unit = |c: &[Case]| {
        let text: String = c.iter().map(|c| c.source.as_str()).collect();
        format!("{}{}{}{text}", around[0], prelude(dialect, CTX_DECLARATION), around[1])
    };
    let half = cases.len() / 2;
    vec![unit(&cases[..half]), unit(&cases[half..])]
}

impl Case {
    /// Bytes of each argument, without padding.
    pub fn required(&self) -> Vec<usize> {
        let bytes = |v| self.graph.ty(v).bits().as_const().unwrap() as usize / 8;
        self.group.args.iter().map(|v| bytes(*v)).collect()
    }

    /// What the arguments hold before the call, with room behind for the padding that schedules declare.
    pub fn buffers(&self) -> Vec<Vec<u8>> {
        let of = |(v, bytes): (&lathe_ir::graph::ValueId, usize)| {
            let mut content = self.args.get(v.0 as usize).map_or(vec![], |t| t.bytes.clone());
            content.resize(bytes + 16384, 0);
            content
        };
        self.group.args.iter().zip(self.required()).map(of).collect()
    }

    /// Compares the arguments after the call with the reference.
    pub fn compare(&self, buffers: &[Vec<u8>], dialect: &str) {
        let table = table();
        let row = table.get(&self.graph.name).unwrap();
        for (j, (v, want)) in self.graph.outputs.iter().zip(&self.want).enumerate() {
            let donated = row.donates.iter().find(|(_, r)| *r == j);
            let donated = donated.map(|(a, _)| self.graph.nodes[0].inputs[*a]);
            let at = self.group.args.iter().position(|a| *a == donated.unwrap_or(*v)).unwrap();
            let got = Tensor { bytes: buffers[at][..want.bytes.len()].to_vec(), ..want.clone() };
            let (x, y) = (got.values(), want.values());
            let scale = y.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
            let loose = match want.dtype {
                DType::F16 => 2e-3,
                DType::BF16 => 1e-2,
                _ if want.encoding.as_ref().is_some_and(|e| e.name.starts_with("a8")) => 0.01,
                // Exponentials are rounded to halves, each with the maximum so far.
                _ if matches!(row.name, "attention" | "attention_part")
                    && self.args[0].dtype == DType::BF16 =>
                {
                    1e-2
                }
                _ => 1e-5,
            };
            if want.dtype.is_int() {
                assert_eq!(got.elements(), want.elements(), "{} {dialect}: result {j}", self.symbol);
            }
            for (i, (x, y)) in x.iter().zip(&y).enumerate() {
                assert!(
                    x == y || (x - y).abs() <= loose * scale,
                    "{} {dialect}: element {i} of result {j} is {x}, not {y}\n{}",
                    self.symbol,
                    self.source
                );
            }
        }
    }
}
