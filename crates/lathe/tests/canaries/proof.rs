//! Proof: every step of the proved primitives on every schedule of the default model has a certificate that the checker accepts.
//! That wrong steps have none is a test of `lathe-fuzz`.

use lathe_ir::Name;
use lathe_ir::graph::Form;
use lathe_machine::Target;
use lathe_models::{CacheShape, GgmlType, GgufWriter, KvType, ModelFile, build};
use lathe_ops::lower_group;
use lathe_rewrite::{Bounds, pass, plan};
use lathe_schedule::{Decisions, Schedule, schedule};
use lathe_verify::{PROVED, Prover, Refusal, report};
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
            for k in &plan(&graph, &table, &Bounds { fixed, most: most.clone(), cores: None }).kernels {
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
const LACKED: [&str; 12] = [
    "align",
    "cache_read",
    "cache_write",
    "nontemporal",
    "overrun",
    "partials",
    "peel",
    "reorder",
    "skew",
    "space_time",
    "stage",
    "stream",
];

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

/// Rows of a result that no cache has room for: it goes past the caches, and the next row is asked for.
#[test]
fn every_step_of_a_result_larger_than_the_caches_is_certified() {
    let table = lathe_ops::table();
    let (mut prover, large) = (Prover::default(), "f32[4096, 4096]");
    for (of, asks) in [("softmax(x)", true), ("layer_norm(x, w, b)", true), ("mul(x, x)", false)] {
        let row =
            |n: &str| if of.contains(n) { format!("  {n}: f32[4096] = input\n") } else { String::new() };
        let text = format!(
            "graph f() {{\n  x: {large} = input\n{}{}  y: {large} = {of}\n  return y\n}}",
            row("w"),
            row("b")
        );
        let g = lathe_ir::graph::parse(&text).expect("a graph");
        let k = lower_group(&g, &table, &[0], &|_| true, &HashMap::new());
        let s = schedule(k.kernel, &k.parts, &Target::portable(), None, &Decisions::new());
        let s = s.expect("it schedules");
        let has = |name: &str| s.trace().lines().any(|l| l.starts_with(name));
        assert_eq!((has("nontemporal "), has("prefetch ")), (true, asks), "{of}: {}", s.trace());
        for (step, result) in report(&s, &mut prover) {
            assert!(result.is_ok(), "{of}: {step}: {}", result.expect_err("it is refused"));
        }
    }
}

/// Samples of each operator.
const SAMPLES: u64 = 24;

/// Every operator's samples, as their rules schedule them.
#[test]
fn every_step_of_all_operators_is_certified() {
    let table = lathe_ops::table();
    let [wide, half] = ["avx512bf16", "avx2"].map(|d| Target { dialect: d.into(), ..Target::portable() });
    let (mut prover, mut counts, mut refused) = (Prover::default(), BTreeMap::new(), BTreeMap::new());
    for row in table.rows() {
        for seed in 0..SAMPLES {
            let (g, _) = row.sample_graph(&table, seed).expect("a sample is sound");
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
    assert!(refused.is_empty(), "{refused:#?}");
}
