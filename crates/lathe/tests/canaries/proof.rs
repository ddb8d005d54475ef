//! Proof: every step of the proved primitives on every schedule of the default model has a certificate that the checker accepts,
//! and dozens of wrong steps have none.

mod mutants;

use lathe_check::Proof;
use lathe_ir::graph::{Form, Graph, Source, Type};
use lathe_ir::tensor::{
    Access, CORE, Expr, For, Kernel, LANE, Memory, Stmt, interpret, map_stmts, parse, rename_vars,
};
use lathe_ir::{Int, Name, Tensor, write_bits};
use lathe_machine::Target;
use lathe_models::{CacheShape, GgmlType, GgufWriter, KvType, ModelFile, build};
use lathe_ops::lower_group;
use lathe_rewrite::{Bounds, pass, plan};
use lathe_schedule::{Decisions, INTRINSICS, Schedule, Witness, schedule, witness};
use lathe_verify::{Certificate, Named, Order, PROVED, Prover, Refusal, certify, check, claim, report};
use mutants::{MUTANTS, Mutant, Seen};
use std::collections::{BTreeMap, HashMap, HashSet};

/// A file of SmolLM2-135M's shape with two of its thirty layers, which are alike, and weights that are all 0.
fn smollm2() -> ModelFile {
    let (hidden, ffn, heads, kv_heads, vocab) = (576, 1536, 9, 3, 49152);
    let mut w = GgufWriter::new();
    w.str("general.architecture", "llama");
    for (key, value) in [
        ("context_length", 8192),
        ("block_count", 2),
        ("embedding_length", hidden),
        ("feed_forward_length", ffn),
        ("attention.head_count", heads),
        ("attention.head_count_kv", kv_heads),
    ] {
        w.u32(&format!("llama.{key}"), value as u32);
    }
    w.f32("llama.rope.freq_base", 100_000.0).f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
    let key = hidden / heads * kv_heads;
    let mut add = |name: &str, shape: &[usize], ty: GgmlType| {
        let bytes = ty.bytes_for(shape.iter().product()).expect("whole blocks");
        w.tensor(name, shape, ty, vec![0; bytes]);
    };
    add("token_embd.weight", &[vocab, hidden], GgmlType::Q8_0);
    add("output_norm.weight", &[hidden], GgmlType::F32);
    for n in 0..2 {
        let mut weight = |part: &str, shape: &[usize], ty| add(&format!("blk.{n}.{part}.weight"), shape, ty);
        weight("attn_norm", &[hidden], GgmlType::F32);
        weight("ffn_norm", &[hidden], GgmlType::F32);
        for (part, out, into) in [
            ("attn_q", hidden, hidden),
            ("attn_k", key, hidden),
            ("attn_v", key, hidden),
            ("attn_output", hidden, hidden),
            ("ffn_gate", ffn, hidden),
            ("ffn_up", ffn, hidden),
            ("ffn_down", hidden, ffn),
        ] {
            weight(part, &[out, into], GgmlType::Q4_1);
        }
    }
    ModelFile::from_bytes(w.to_bytes().expect("a file")).expect("a sound file")
}

/// The engine's classes of sizes: dimensions with one value, and the most rows when few.
const CLASSES: [(&[(&str, i64)], Option<i64>); 5] =
    [(&[("T", 1), ("R", 1)], None), (&[("R", 1)], None), (&[], Some(4)), (&[], Some(16)), (&[], None)];

/// The schedules of all distinct kernels of the model, in both precisions, with and without the machine's instruction.
fn schedules() -> Vec<Schedule> {
    let file = smollm2();
    let shape = CacheShape {
        elements: KvType::F32,
        pages: 64,
        context: 512,
        max_tokens: 64,
        max_sequences: 8,
        adapters: None,
    };
    let model = build(&file, &shape).expect("a model");
    let table = lathe_ops::table();
    let mut native = Target::portable();
    native.dialect = "avx512vnni".into();
    let (mut known, mut out) = (HashSet::new(), vec![]);
    for passes in [&["pack", "quantize"][..], &["pack"]] {
        let mut graph = model.graph.clone();
        for name in passes {
            graph = pass(name).expect("a pass").run(&graph, &table, &native).expect("it applies");
        }
        let most: std::collections::HashMap<Name, i64> = graph.dims.iter().cloned().collect();
        for (fixed, rows) in CLASSES {
            let fixed = fixed.iter().map(|(n, v)| ((*n).into(), *v)).collect();
            for k in &plan(&graph, &table, &Bounds { fixed, most: most.clone() }).kernels {
                let rows = rows.filter(|_| matches!(k.parts.first(), Some((Form::Contraction, _))));
                if !known.insert(format!("{rows:?} {}", k.kernel)) {
                    continue;
                }
                for target in [&native, &Target::portable()] {
                    let s = schedule(k.kernel.clone(), &k.parts, target, rows, &Decisions::new())
                        .expect("it schedules");
                    if !out.iter().any(|o: &Schedule| o.original() == s.original() && o.trace() == s.trace())
                    {
                        out.push(s);
                    }
                }
            }
        }
    }
    out
}

/// What the default model's schedules have no use for.
const LACKED: [&str; 9] =
    ["align", "cache_read", "cache_write", "overrun", "partials", "peel", "reorder", "skew", "stage"];

#[test]
fn every_step_of_the_default_model_is_certified() {
    let (mut prover, mut counts, mut refused) = (Prover::default(), BTreeMap::new(), String::new());
    let (mut kernels, mut proofs) = (0, 0);
    for s in schedules() {
        kernels += 1;
        for (step, result) in report(&s, &mut prover) {
            let name = step.split_whitespace().next().expect("a name").to_string();
            let (certified, unproved) = counts.entry(name.clone()).or_insert((0, 0));
            match result {
                Ok(c) => (*certified, proofs) = (*certified + 1, proofs + c.proofs.len()),
                Err(Refusal::Unproved(_)) => *unproved += 1,
                Err(e) => refused += &format!("{} {step}: {e}\n", s.original().name),
            }
        }
    }
    println!("{kernels} schedules, {proofs} proofs; certified and unproved steps: {counts:?}");
    assert!(refused.is_empty(), "{refused}");
    for (name, (certified, unproved)) in &counts {
        assert_eq!(*unproved == 0, PROVED.contains(&&**name), "{name}: {certified} certified");
    }
    for name in PROVED.iter().filter(|name| !LACKED.contains(name)) {
        assert!(counts.get(*name).is_some_and(|c| c.0 > 0), "the model has no '{name}'");
    }
}

/// What is not certified of the operators' samples: where keys and values are codes, no proof is found that one row's scales lie
/// apart from another row's codes.
const UNSAID: [&str; 1] = ["put parallel"];

/// Samples of each operator.
const SAMPLES: u64 = 24;

/// Every operator's samples, as their rules schedule them.
#[test]
fn every_step_of_all_operators_is_certified() {
    let table = lathe_ops::table();
    let [wide, half] = ["avx512vnni", "avx2"].map(|d| Target { dialect: d.into(), ..Target::portable() });
    let (mut prover, mut counts, mut refused) = (Prover::default(), BTreeMap::new(), BTreeMap::new());
    for row in table.rows() {
        for seed in 0..SAMPLES {
            let (args, attrs) = (row.sample)(seed);
            let mut g = Graph::new(row.name, &[]);
            let ins: Vec<_> = args
                .iter()
                .enumerate()
                .map(|(i, t)| g.add_value(&format!("a{i}"), type_of(t), Source::Input))
                .collect();
            let attrs: Vec<_> = attrs.iter().map(|(n, a)| (&**n, a.clone())).collect();
            g.outputs = g.apply(&table, row.name, &ins, &attrs).expect("a sample is sound");
            let k = lower_group(&g, &table, &[0], &|_| true, &HashMap::new());
            for target in [&wide, &half, &Target::portable()] {
                let few = [None, Some(4), Some(16)][seed as usize % 3];
                let make = |decisions: &Decisions| {
                    schedule(k.kernel.clone(), &k.parts, target, few, decisions).expect("it schedules")
                };
                // Whatever is chosen where rules leave something open.
                let (mut s, mut chosen, mut rest) =
                    (make(&Decisions::new()), Decisions::new(), seed as usize);
                for c in s.choices().iter().filter(|_| seed > 0) {
                    chosen.insert(c.name.clone(), c.options[rest % c.options.len()]);
                    rest = rest / 2 + 1;
                }
                if !chosen.is_empty() {
                    s = make(&chosen);
                }
                for (step, result) in report(&s, &mut prover) {
                    let name = step.split_whitespace().next().expect("a name").to_string();
                    match result {
                        Ok(_) => *counts.entry(name).or_insert(0) += 1,
                        Err(Refusal::Unproved(_)) => assert!(!PROVED.contains(&&*name)),
                        Err(e) => {
                            refused.insert(format!("{} {name}", row.name), e.to_string());
                        }
                    }
                }
            }
        }
    }
    println!("certified steps of samples: {counts:?}");
    assert!(refused.keys().eq(UNSAID.iter()), "{refused:#?}");
}

fn type_of(t: &Tensor) -> Type {
    let shape: Vec<Int> = t.shape.iter().map(|d| Int::from(*d as i64)).collect();
    Type { shape, dtype: t.dtype, encoding: t.encoding.as_ref().map(|e| e.name.clone()) }
}

/// An index expression over these names.
fn index(text: &str, names: &[&str]) -> Expr {
    let k = parse(&format!("kernel e({}) {{\n  out y: f32[1]\n  E: y[{text}] = 0f32\n}}", names.join(", ")));
    let k = k.expect("an index");
    let Stmt::Store(s) = &k.body[0] else { panic!("a block") };
    s.targets[0].1[0].clone()
}

struct Case {
    before: Kernel,
    after: Kernel,
    /// The right program after the step, with its certificate, where there is one.
    right: Option<(Kernel, Certificate)>,
    /// Every hint there is for the search.
    hints: Vec<Option<Witness>>,
}

fn case(m: &Mutant, prover: &mut Prover) -> Case {
    let mut s = Schedule::new(parse(m.before).expect("a kernel"));
    for step in m.step.lines() {
        s.step(step).expect("it applies");
    }
    let mut text = s.kernel().to_string();
    for (from, to) in m.changes {
        assert!(text.contains(from), "{}: no '{from}' in\n{text}", m.what);
        text = text.replace(from, to);
    }
    let last = s.steps().last();
    let mut before = last.map_or(s.original(), |l| &l.before).clone();
    let after = parse(&text).expect("a kernel");
    if m.seen == Seen::Instruction {
        // Both programs are changed: what is wrapped is what stood there, but not what the instruction is.
        let changed = m.changes.iter().fold(before.to_string(), |t, (from, to)| t.replace(from, to));
        before = parse(&changed).expect("a kernel");
    }
    let mut hints = vec![None];
    if let Some(l) = last {
        hints.push(witness(&l.before, &l.step));
    }
    if let Some((old, new)) = m.hint {
        let names: Vec<&str> =
            old.iter().chain(new).map(|(n, _)| *n).chain(before.dims.iter().map(|d| &**d)).collect();
        let list = |l: &[(&str, &str)]| l.iter().map(|(_, e)| index(e, &names)).collect();
        let vars = |l: &[(&str, &str)]| l.iter().map(|(n, _)| (*n).into()).collect();
        let (to_before, to_after) = (list(old), list(new));
        hints.push(Some(Witness { before: vars(old), after: vars(new), to_before, to_after }));
    }
    let right =
        last.and_then(|l| Some((l.after.clone(), prover.certify(&l.before, &l.after, &l.step).ok()?)));
    Case { before, after, right, hints }
}

/// The loops over lanes and cores, run from the last iteration to the first, or each statement of theirs for all iterations at
/// once.
fn other_orders(k: &Kernel) -> [Kernel; 2] {
    let backwards = map_stmts(&k.body, &mut |s| match &s {
        Stmt::For(l) if [LANE, CORE].contains(&&*l.level) => {
            let last = l.extent.clone() - 1;
            let turned = Expr::var("turned");
            let body = rename_vars(&l.body, &[(&*l.var, last - turned)].into());
            vec![Stmt::For(For { var: "turned".into(), body, ..(**l).clone() }.into())]
        }
        _ => vec![s],
    });
    let apart = map_stmts(&k.body, &mut |s| match &s {
        Stmt::For(l) if [LANE, CORE].contains(&&*l.level) => {
            l.body.iter().map(|s| Stmt::For(For { body: vec![s.clone()], ..(**l).clone() }.into())).collect()
        }
        _ => vec![s],
    });
    [Kernel { body: backwards, ..k.clone() }, Kernel { body: apart, ..k.clone() }]
}

/// The program with the instruction's meaning, on bytes as they lie, in place of what it wraps: operands are read from
/// where the first element is.
fn with_meaning(k: &Kernel) -> Kernel {
    let row = &INTRINSICS[0];
    assert_eq!(row.name, "dpbusd");
    // All operands of the cases lie in blocks of 64 or 4 bytes an iteration of `i`.
    let text = k.to_string();
    let raw = |name: &str, ty: &str, shape: &str| {
        let start = text.find(&format!("in {name}: ")).expect("a parameter");
        let end = start + text[start..].find('\n').expect("a line");
        (text[start..end].to_string(), format!("in {name}: {ty}[2, {shape}]"))
    };
    let far = if text.contains("x: i8[2, 16, 4]") { "16, 4" } else { "4" };
    let x = if far == "4" { "x[i, b]" } else { "x[i, 0, b]" };
    let (w, v) = (raw("w", "u8", "16, 4"), raw("x", "i8", far));
    let text = text.replace(&w.0, &w.1).replace(&v.0, &v.1);
    let at = text.find("sum = ").expect("a sum");
    let end = at + text[at..].find('\n').expect("a line");
    let value = format!("sum = i32(w[i, l, b]) * i32({x})");
    parse(&format!("{}{value}{}", &text[..at], &text[end..])).expect("a kernel")
}

/// What the parameters hold after a run, or that it fails.
fn run(k: &Kernel, n: i64) -> Option<Vec<Vec<u8>>> {
    let dims: Vec<(&str, i64)> = k.dims.iter().enumerate().map(|(i, d)| (&**d, n + 2 * i as i64)).collect();
    let get = |d: &str| dims.iter().find(|(m, _)| *m == d).map(|(_, v)| *v);
    let mut m = Memory::new(&dims);
    let mut seed = 1u64;
    for p in &k.params {
        let bits = p.bits.eval(&get).expect("bound");
        let mut bytes = vec![0; bits as usize / 8];
        let width = p.views[0].dtype.bits();
        for at in 0..bits / width {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let v = seed >> 33;
            let v = match width {
                32 if p.views[0].dtype.is_int() => v % n as u64,
                32 => (v as f32 / (1u64 << 30) as f32 - 1.0).to_bits().into(),
                _ => v % 256,
            };
            write_bits(&mut bytes, at * width, width, v).expect("inside");
        }
        m.set(&p.name, &bytes);
    }
    interpret(k, &mut m).ok()?;
    Some(k.params.iter().filter(|p| p.access != Access::In).map(|p| m.params[&p.name].clone()).collect())
}

fn really_wrong(m: &Mutant, c: &Case) -> bool {
    let others = match m.seen {
        Seen::Run => vec![c.after.clone()],
        Seen::Lanes => other_orders(&c.after).to_vec(),
        Seen::Instruction => vec![with_meaning(&c.after)],
    };
    [1, 5, 8].into_iter().any(|n| {
        let before = run(&c.before, n);
        assert!(before.is_some(), "{}: the program before fails", m.what);
        // A right step may round otherwise.
        let step = c.right.as_ref().filter(|_| m.seen != Seen::Instruction);
        let right = step.and_then(|(k, _)| run(k, n));
        others.iter().map(|k| run(k, n)).any(|wrong| wrong != before && (right.is_none() || wrong != right))
    })
}

/// Small random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// Certificates that someone might pass off: that of the right step, with each hint and each claim of order, its proofs in
/// any number shuffled or made up, and for each obligation the proof that is found, if any.
fn forged(c: &Case, prover: &mut Prover, r: &mut Random) -> Vec<Certificate> {
    let real: Vec<Proof> = c.right.iter().flat_map(|(_, c)| c.proofs.clone()).collect();
    let mut out: Vec<Certificate> = c.right.iter().map(|(_, c)| c.clone()).collect();
    for witness in &c.hints {
        for order in [Order::Kept, Order::Apart, Order::Accumulated] {
            let mut add = |proofs| out.push(Certificate { witness: witness.clone(), order, proofs });
            add(real.clone());
            if let Ok(claimed) = claim(&c.before, &c.after, witness.as_ref(), order) {
                let mut best = |o: &Named| prover.prove(o).or_else(|| real.first().cloned());
                let proofs: Vec<_> =
                    claimed.obligations.iter().map(|o| best(o).unwrap_or(Proof::Sum(vec![]))).collect();
                add(proofs);
            }
            for n in 0..40 {
                let made = |r: &mut Random| match r.below(3) {
                    0 if !real.is_empty() => real[r.below(real.len())].clone(),
                    1 => Proof::Sum(vec![]),
                    _ => Proof::Sum((0..r.below(5)).map(|_| (r.below(12), 1 + r.below(16) as u64)).collect()),
                };
                add((0..n).map(|_| made(r)).collect());
            }
        }
    }
    out
}

#[test]
fn wrong_steps_are_refused() {
    let (mut prover, mut r, mut tried, mut holes) = (Prover::default(), Random(5), 0, String::new());
    let mut by_proof = 0;
    for m in MUTANTS {
        let c = case(m, &mut prover);
        if !really_wrong(m, &c) {
            holes += &format!("{}: nothing is wrong\n{}", m.what, c.after);
        }
        if let Some((right, good)) = c.right.as_ref().filter(|_| m.seen != Seen::Instruction) {
            assert!(check(&c.before, right, good).is_ok(), "{}: the right step", m.what);
        }
        let mut unproved = false;
        for witness in &c.hints {
            match prover.search(&c.before, &c.after, witness.clone()) {
                Ok(found) => holes += &format!("{}: certified\n{found}", m.what),
                Err(e) => unproved |= matches!(e, Refusal::NotFound(_)),
            }
        }
        by_proof += usize::from(unproved);
        for f in forged(&c, &mut prover, &mut r) {
            tried += 1;
            if check(&c.before, &c.after, &f).is_ok() {
                holes += &format!("{}: a forged certificate is accepted\n{f}", m.what);
            }
        }
    }
    println!(
        "{} wrong steps, {by_proof} of them for want of a proof; {tried} forged certificates",
        MUTANTS.len()
    );
    assert!(holes.is_empty(), "{holes}");
    assert!(MUTANTS.len() >= 30);
    // The others differ in a way that no rule covers.
    assert!(by_proof >= 20, "{by_proof}");
}

/// The other way round: a certificate of a right step is worth nothing when any of its proofs is weakened.
#[test]
fn damaged_certificates_are_refused() {
    let s = Schedule::replay(parse(MUTANTS[0].before).expect("a kernel"), "split i 4").expect("it applies");
    let step = &s.steps()[0];
    let good = certify(&step.before, &step.after, &step.step).expect("a certificate");
    assert!(check(&step.before, &step.after, &good).is_ok());
    for i in 0..good.proofs.len() {
        let mut bad = good.clone();
        bad.proofs[i] = Proof::Sum(vec![]);
        assert!(check(&step.before, &step.after, &bad).is_err());
        bad.proofs.remove(i);
        assert!(check(&step.before, &step.after, &bad).is_err());
    }
    let bad = Certificate { witness: None, ..good };
    assert!(check(&step.before, &step.after, &bad).is_err());
}
