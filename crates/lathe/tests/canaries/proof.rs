//! Proof: every step of six primitives on every schedule of the default model has a certificate that the checker accepts,
//! and thirty wrong steps have none.

use lathe_ir::Name;
use lathe_ir::graph::Form;
use lathe_machine::Target;
use lathe_models::{CacheShape, GgmlType, GgufFile, GgufWriter, build};
use lathe_rewrite::{Bounds, pass, plan};
use lathe_schedule::{Schedule, schedule};
use lathe_verify::{PROVED, Prover, Refusal, report};
use std::collections::{BTreeMap, HashSet};

/// A file of SmolLM2-135M's shape with two of its thirty layers, which are alike, and weights that are all 0.
fn smollm2() -> GgufFile {
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
    GgufFile::from_bytes(w.to_bytes().expect("a file")).expect("a sound file")
}

/// The engine's classes of sizes: dimensions with one value, and the most rows when few.
const CLASSES: [(&[(&str, i64)], Option<i64>); 5] =
    [(&[("T", 1), ("R", 1)], None), (&[("R", 1)], None), (&[], Some(4)), (&[], Some(16)), (&[], None)];

/// The schedules of all distinct kernels of the model, in both precisions, with and without the machine's instruction.
fn schedules() -> Vec<Schedule> {
    let file = smollm2();
    let shape = CacheShape { pages: 64, context: 512, max_tokens: 64, max_sequences: 8 };
    let model = build(&file, &shape).expect("a model");
    let table = lathe_ops::table();
    let mut native = Target::portable();
    native.features.insert("avx512vnni".into());
    let (mut known, mut out) = (HashSet::new(), vec![]);
    for passes in [&["quantize", "pack"][..], &["pack"]] {
        let mut graph = model.graph.clone();
        for name in passes {
            graph = pass(name).expect("a pass").run(&graph, &table).expect("it applies");
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
                    let s = schedule(k.kernel.clone(), &k.parts, target, rows).expect("it schedules");
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
    for name in ["split", "fuse", "interchange", "vectorize", "tensorize"] {
        assert!(counts.get(name).is_some_and(|c| c.0 > 0), "the model has no '{name}'");
    }
}
