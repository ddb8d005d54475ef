//! The families' graphs against `transformers` (tests/data/tiny), and against files that do not fit them.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use lathe_diagnostic::{Diagnose, Fault};
use lathe_ir::graph::{Source, check, interpret, parse};
use lathe_ir::{DType, Name, Tensor};
use lathe_models::{CacheShape, GgmlType, GgufWriter, KvType, Model, ModelFile, build};

const CACHE: CacheShape = CacheShape {
    elements: KvType::F32,
    pages: 8,
    context: 48,
    max_tokens: 96,
    max_sequences: 96,
    adapters: None,
};

#[derive(serde::Deserialize)]
struct Expected {
    name: String,
    prompt: Vec<i32>,
    vocab: usize,
    greedy: Vec<i32>,
    gaps: Vec<f32>,
}

/// A tiny model, what is expected of it, and the values of its constants and state.
struct Tiny {
    model: Model,
    /// The prompt, then its greedy continuation.
    tokens: Vec<i32>,
    /// Tokens of the prompt.
    prompt: usize,
    gaps: Vec<f32>,
    logits: Vec<f32>,
    values: HashMap<Name, Tensor>,
}

/// One token of a step: (sequence, position).
type Place = (usize, usize);

impl Tiny {
    fn all() -> Result<Vec<(String, Tiny)>, Box<dyn Error>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny");
        let expected: Vec<Expected> =
            serde_json::from_str(&std::fs::read_to_string(folder.join("expected.json"))?)?;
        expected.into_iter().map(|e| Ok((e.name.clone(), Tiny::load(&folder, &e)?))).collect()
    }

    fn load(folder: &Path, e: &Expected) -> Result<Tiny, Box<dyn Error>> {
        let file = ModelFile::open(folder.join(format!("{}.gguf", e.name)))?;
        let model = build(&file, &CACHE)?;
        assert_eq!(model.config.vocab, e.vocab as i64);
        let bytes = std::fs::read(folder.join(format!("{}.logits.bin", e.name)))?;
        let logits = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let mut values = model.made.clone();
        for v in &model.graph.values {
            let shape: Vec<usize> =
                v.ty.shape.iter().filter_map(|d| d.as_const()).map(|d| d as usize).collect();
            let encoding = v.ty.storage().map(Arc::new);
            let bytes = match (&v.source, &encoding) {
                (Source::State, Some(e)) => vec![0; e.bits.as_const().ok_or("a size")? as usize / 8],
                (Source::Const(n), _) if file.tensor(n).is_some() => {
                    file.tensor(n).map(|t| file.data(t).to_vec()).unwrap_or_default()
                }
                _ => continue,
            };
            values.insert(v.name.clone(), Tensor { shape, dtype: DType::F32, encoding, bytes });
        }
        let tokens = [&e.prompt[..], &e.greedy].concat();
        Ok(Tiny { model, tokens, prompt: e.prompt.len(), gaps: e.gaps.clone(), logits, values })
    }

    /// Runs a step of these tokens and keeps the state; `tables` are the pages of each sequence. Returns the largest
    /// difference to the prompt's logits, relative to the largest of them; after the prompt, the greedy token is checked.
    fn step(&mut self, places: &[Place], tables: &[[i32; 3]]) -> Result<f32, Box<dyn Error>> {
        let g = &self.model.graph;
        let column = |f: &dyn Fn(&Place) -> i32| -> Tensor {
            Tensor::i32(&[places.len()], &places.iter().map(f).collect::<Vec<_>>())
        };
        let slot = |(s, p): &Place| tables[*s][p / 16] * 16 + (p % 16) as i32;
        // The rows of the logits are asked for in reverse order, to see that they follow `rows`.
        let rows: Vec<i32> = (0..places.len() as i32).rev().collect();
        let inputs = [
            ("tokens", column(&|(_, p)| self.tokens[*p])),
            ("positions", column(&|(_, p)| *p as i32)),
            ("sequences", column(&|(s, _)| *s as i32)),
            ("slots", column(&slot)),
            ("rows", Tensor::i32(&[rows.len()], &rows)),
            ("pages", Tensor::i32(&[tables.len(), 3], tables.as_flattened())),
        ];
        let mut named = self.values.clone();
        named.extend(inputs.into_iter().map(|(n, t)| (Name::from(n), t)));
        let dims = [("T", places.len()), ("R", rows.len()), ("B", tables.len())];
        let dims = dims.into_iter().map(|(n, v)| (Name::from(n), v as i64)).collect();
        let mut results = interpret(g, &lathe_ops::table(), &dims, &named)?.into_iter();
        let logits = results.next().ok_or("no logits")?.to_f32();
        let states = g.values.iter().filter(|v| v.source == Source::State).map(|v| v.name.clone());
        self.values.extend(states.zip(results));
        let vocab = self.model.config.vocab as usize;
        let largest = self.logits.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let mut wrong = 0.0f32;
        for (row, found) in rows.iter().zip(logits.chunks(vocab)) {
            let (_, position) = places[*row as usize];
            if let Some(expected) = self.logits.chunks(vocab).nth(position) {
                wrong = found.iter().zip(expected).fold(wrong, |m, (a, b)| m.max((a - b).abs()));
            } else if self.gaps.get(position + 1 - self.prompt).is_some_and(|gap| *gap > 1e-3) {
                let best = (0..vocab).max_by(|a, b| found[*a].total_cmp(&found[*b]));
                assert_eq!(
                    best,
                    Some(self.tokens[position + 1] as usize),
                    "the token after position {position}"
                );
            }
        }
        Ok(wrong / largest)
    }
}

fn places(sequence: usize, positions: std::ops::Range<usize>) -> Vec<Place> {
    positions.map(|p| (sequence, p)).collect()
}

#[test]
fn logits_match_transformers() -> Result<(), Box<dyn Error>> {
    for (name, mut tiny) in Tiny::all()? {
        let wrong = tiny.step(&places(0, 0..tiny.prompt), &[[0, 1, 2]])?;
        println!("{name}: {wrong:.1e}");
        assert!(wrong < 1e-4, "{name}: {wrong}");
    }
    Ok(())
}

#[test]
fn a_step_continues_from_the_state() -> Result<(), Box<dyn Error>> {
    for (name, mut tiny) in Tiny::all()? {
        for part in [0..5, 5..tiny.prompt] {
            let wrong = tiny.step(&places(0, part), &[[3, 1, 6]])?;
            assert!(wrong < 1e-4, "{name}: {wrong}");
        }
    }
    Ok(())
}

#[test]
fn sequences_of_a_ragged_batch_do_not_meet() -> Result<(), Box<dyn Error>> {
    for (name, mut tiny) in Tiny::all()? {
        let tables = [[4, 0, 6], [2, 7, 3]];
        let first = [places(1, 0..7), places(0, 0..13)].concat();
        let end = tiny.tokens.len();
        let second = [places(0, 13..end), places(1, 7..end)].concat();
        for step in [first, second] {
            let wrong = tiny.step(&step, &tables)?;
            assert!(wrong < 1e-4, "{name}: {wrong}");
        }
    }
    Ok(())
}

#[test]
fn graphs_check_and_their_text_round_trips() -> Result<(), Box<dyn Error>> {
    for (name, tiny) in Tiny::all()? {
        let g = &tiny.model.graph;
        check(g, &lathe_ops::table())?;
        assert_eq!(&parse(&g.to_string())?, g, "{name}");
        assert_eq!(g.ty(g.outputs[0]).to_string(), format!("f32[R, {}]", tiny.model.config.vocab));
        assert_eq!(g.outputs.len() as i64, 1 + 2 * tiny.model.config.layers);
    }
    Ok(())
}

#[test]
fn a_layer_runs_in_this_order() -> Result<(), Box<dyn Error>> {
    let (_, tiny) = Tiny::all()?.swap_remove(0);
    let ops: Vec<&str> = tiny.model.graph.nodes.iter().map(|n| &*n.op).collect();
    let layer = "rms_norm matmul matmul matmul rope rope put put attention matmul add \
                 rms_norm matmul matmul swiglu matmul add";
    assert_eq!(ops.join(" "), format!("take rope_table {layer} {layer} take rms_norm matmul"));
    Ok(())
}

/// A file of one layer, as metadata and shapes of f32 tensors (all values 2) that a test may change.
struct Small {
    metadata: Vec<(&'static str, u32)>,
    shapes: Vec<(&'static str, Vec<usize>)>,
    architecture: &'static str,
}

impl Small {
    fn new() -> Small {
        let layer = [
            ("token_embd.weight", vec![10, 8]),
            ("output_norm.weight", vec![8]),
            ("blk.0.attn_norm.weight", vec![8]),
            ("blk.0.attn_q.weight", vec![8, 8]),
            ("blk.0.attn_k.weight", vec![4, 8]),
            ("blk.0.attn_v.weight", vec![4, 8]),
            ("blk.0.attn_output.weight", vec![8, 8]),
            ("blk.0.ffn_norm.weight", vec![8]),
            ("blk.0.ffn_gate.weight", vec![12, 8]),
            ("blk.0.ffn_up.weight", vec![12, 8]),
            ("blk.0.ffn_down.weight", vec![8, 12]),
        ];
        let metadata = [
            ("context_length", 64),
            ("block_count", 1),
            ("embedding_length", 8),
            ("feed_forward_length", 12),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
        ];
        Small { metadata: metadata.into(), shapes: layer.into(), architecture: "llama" }
    }

    fn set(mut self, key: &'static str, value: u32) -> Small {
        self.metadata.retain(|(k, _)| *k != key);
        self.metadata.push((key, value));
        self
    }

    fn with(mut self, name: &'static str, shape: &[usize]) -> Small {
        self = self.without(name);
        self.shapes.push((name, shape.to_vec()));
        self
    }

    fn without(mut self, name: &str) -> Small {
        self.shapes.retain(|(n, _)| *n != name);
        self
    }

    fn file(&self) -> ModelFile {
        let mut w = GgufWriter::new();
        w.str("general.architecture", self.architecture);
        w.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
        for (key, value) in &self.metadata {
            w.u32(&format!("llama.{key}"), *value);
        }
        for (name, shape) in &self.shapes {
            w.tensor(name, shape, GgmlType::F32, 2f32.to_le_bytes().repeat(shape.iter().product()));
        }
        ModelFile::from_bytes(w.to_bytes().expect("a file")).expect("a readable file")
    }

    /// The message that building this file ends with.
    fn error(&self) -> String {
        let error = build(&self.file(), &CACHE).expect_err("a file that does not fit").diagnostic();
        assert_eq!(error.fault, Fault::File, "{error}");
        error.to_string()
    }
}

#[test]
fn biases_and_frequency_factors_are_used_where_present() -> Result<(), Box<dyn Error>> {
    let plain = build(&Small::new().file(), &CACHE)?;
    assert_eq!(plain.made["rope.inv_freq"].to_f32(), [1.0, 0.01]);
    let ops = |m: &Model| m.graph.nodes.iter().map(|n| n.op.to_string()).collect::<Vec<_>>();
    let small = Small::new().with("rope_freqs.weight", &[2]).with("blk.0.attn_k.bias", &[4]);
    let model = build(&small.file(), &CACHE)?;
    assert_eq!(model.made["rope.inv_freq"].to_f32(), [0.5, 0.005]);
    let mut with_bias = ops(&plain);
    with_bias.insert(5, "add".to_owned());
    assert_eq!(ops(&model), with_bias);
    Ok(())
}

#[test]
fn a_window_is_of_the_layers_that_the_file_says() -> Result<(), Box<dyn Error>> {
    let windows = |m: &Model| -> Vec<Option<i64>> {
        m.graph.nodes.iter().filter(|n| &*n.op == "attention").map(|n| n.int("window")).collect()
    };
    let small = || Small::new().set("attention.sliding_window", 7);
    assert_eq!(windows(&build(&small().file(), &CACHE)?), [Some(7)]);
    assert_eq!(windows(&build(&small().set("attention.sliding_window_pattern", 1).file(), &CACHE)?), [None]);
    // One that holds the whole cache is none, and so is one of 0.
    assert_eq!(windows(&build(&small().set("attention.sliding_window", 48).file(), &CACHE)?), [None]);
    assert_eq!(windows(&build(&small().set("attention.sliding_window", 0).file(), &CACHE)?), [None]);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny");
    let file = |name| ModelFile::open(folder.join(name));
    assert_eq!(windows(&build(&file("gemma2-f16.gguf")?, &CACHE)?), [Some(7), None]);
    let gemma3 = windows(&build(&file("gemma3-q8_0.gguf")?, &CACHE)?);
    assert_eq!(gemma3, [Some(7), Some(7), Some(7), Some(7), Some(7), None]);
    Ok(())
}

#[test]
fn longer_contexts_have_factors_of_their_own() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny");
    let file = ModelFile::open(folder.join("phi3long-f16.gguf"))?;
    let frequencies = |context| -> Result<Vec<f32>, Box<dyn Error>> {
        Ok(build(&file, &CacheShape { context, ..CACHE })?.made["rope.inv_freq"].to_f32())
    };
    let (short, long) = (frequencies(16)?, frequencies(17)?);
    let by: Vec<f32> = short.iter().zip(&long).map(|(s, l)| s / l).collect();
    assert!(by.iter().zip([1.0, 1.5, 2.5, 4.0]).all(|(a, b)| (a - b).abs() < 1e-6), "{by:?}");
    Ok(())
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    let small = Small::new;
    let cases = [
        (
            Small { architecture: "mamba", ..small() },
            "error[family-unknown]: the model family 'mamba' is not supported yet (known: 'llama', 'qwen2', ",
        ),
        (
            small().with("blk.0.attn_k.weight", &[8, 8]),
            "error[family-shape]: tensor 'blk.0.attn_k.weight' has shape [8, 8], but the model's configuration asks \
             for [4, 8];",
        ),
        (
            small().without("blk.0.ffn_up.weight"),
            "error[family-tensor]: tensor 'blk.0.ffn_up.weight' is missing (its shape would be [12, 8]);",
        ),
        (
            small().without("token_embd.weight"),
            "error[family-tensor]: tensor 'token_embd.weight' is missing;",
        ),
        (small().with("token_embd.weight", &[10, 4]), "error[family-shape]: tensor 'token_embd.weight'"),
        (
            small().with("blk.0.attn_q_norm.weight", &[4]),
            "error[family-variant]: tensor 'blk.0.attn_q_norm.weight'",
        ),
        (
            small().set("attention.head_count", 3),
            "error[family-value]: metadata key 'llama.attention.head_count",
        ),
        (
            small().set("attention.head_count", 0),
            "error[family-value]: metadata key 'llama.attention.head_count'",
        ),
        (small().set("attention.head_count_kv", 0), "error[family-value]: metadata key"),
        (small().set("attention.value_length", 2), "error[family-value]: metadata key"),
        (
            small().set("rope.dimension_count", 3),
            "error[family-value]: metadata key 'llama.rope.dimension_count' is 3",
        ),
        (
            small().set("block_count", u32::MAX),
            "error[family-value]: metadata key 'llama.block_count' is 4294967295",
        ),
        (small().set("block_count", 2), "error[family-tensor]: tensor 'blk.1.attn_norm.weight' is missing"),
        (small().set("rope.freq_base", 1), "error[gguf-value]: metadata key 'llama.rope.freq_base'"),
        (
            small().set("attention.sliding_window", u32::MAX),
            "error[family-value]: metadata key 'llama.attention.sliding_window' is 4294967295",
        ),
        (small().set("rope.scaling.type", 1), "error[gguf-value]: metadata key 'llama.rope.scaling.type'"),
        (
            small().with("rope_freqs.weight", &[3]),
            "error[family-shape]: tensor 'rope_freqs.weight' has shape [3]",
        ),
        (
            small().with("blk.0.attn_k.bias", &[8]),
            "error[family-shape]: tensor 'blk.0.attn_k.bias' has shape [8]",
        ),
        (
            Small { architecture: "qwen3", ..small() },
            "error[gguf-key]: metadata key 'qwen3.embedding_length' is missing",
        ),
        (
            small().set("expert_count", 4),
            "error[gguf-key]: metadata key 'llama.expert_used_count' is missing",
        ),
        (small().set("expert_count", 4).set("expert_used_count", 5), "error[family-value]: metadata key"),
        (
            small().set("expert_count", 4).set("expert_used_count", 2),
            "error[family-tensor]: tensor 'blk.0.ffn_gate_inp.weight' is missing",
        ),
    ];
    for (small, message) in cases {
        let found = small.error();
        assert!(found.starts_with(message), "{found}\n{message}");
    }
}

#[test]
fn damaged_settings_never_panic() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny");
    let (mut built, mut refused) = (0, 0);
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "gguf") {
            continue;
        }
        let whole = std::fs::read(&path)?;
        // The settings are in front; their numbers become others, small ones and huge ones among them.
        for (place, value) in (24..900).step_by(3).flat_map(|p| [0, 1, 3, 255].map(|v| (p, v))) {
            let mut bytes = whole.clone();
            bytes[place] = value;
            let Ok(file) = ModelFile::from_bytes(bytes) else { continue };
            match build(&file, &CACHE) {
                Ok(_) => built += 1,
                Err(e) => {
                    assert_eq!(
                        e.diagnostic().fault,
                        Fault::File,
                        "{}: byte {place} is {value}: {e}",
                        path.display()
                    );
                    refused += 1;
                }
            }
        }
    }
    assert!(built > 100 && refused > 100, "{built} {refused}");
    Ok(())
}
