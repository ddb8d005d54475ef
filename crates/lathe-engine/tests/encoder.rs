//! A compiled encoder against `transformers` and `tokenizers`: from texts to embeddings, alone and several in a step.

use lathe_engine::{Batch, Encoder, EngineError, Forward, Precision, Runner, RunnerOptions};
use lathe_models::{ModelFile, Tokenizer};
use std::path::{Path, PathBuf};

struct Expected {
    name: String,
    texts: Vec<String>,
    tokens: Vec<Vec<u32>>,
    vectors: Vec<Vec<f32>>,
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-models/tests/data/tiny")
}

fn expected() -> Vec<Expected> {
    let text = std::fs::read_to_string(data().join("encoders.json")).unwrap();
    let all: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let one = |v: serde_json::Value| Expected {
        name: v["name"].as_str().unwrap().to_owned(),
        texts: serde_json::from_value(v["texts"].clone()).unwrap(),
        tokens: serde_json::from_value(v["tokens"].clone()).unwrap(),
        vectors: serde_json::from_value(v["vectors"].clone()).unwrap(),
    };
    all.into_iter().map(one).collect()
}

fn options(cache: &Path, max_tokens: usize) -> RunnerOptions {
    RunnerOptions {
        precision: Precision::Exact,
        threads: 2,
        context: 48,
        pages: 6,
        max_tokens,
        max_sequences: 4,
        max_rows: 4,
        kv_type: None,
        adapters: None,
        cache: cache.into(),
        budget: None,
    }
}

#[test]
fn texts_become_the_tokens_of_tokenizers() {
    for e in expected() {
        let file = ModelFile::open(data().join(format!("{}.gguf", e.name))).unwrap();
        let t = Tokenizer::from_file(&file).unwrap();
        for (text, tokens) in e.texts.iter().zip(&e.tokens) {
            let ids = t.with_specials(t.encode(text, false));
            assert_eq!(&ids, tokens, "{text}");
        }
    }
}

#[test]
fn embeddings_are_those_of_transformers() {
    let cache = tempfile::tempdir().unwrap();
    for e in expected() {
        let file = ModelFile::open(data().join(format!("{}.gguf", e.name))).unwrap();
        // All in one step, and where a step holds the longest only, in several.
        for max_tokens in [64, 36] {
            let mut encoder =
                Encoder::load(&file, &options(cache.path(), max_tokens), &mut |_, _, _| {}).unwrap();
            let order = [2, 0, 1, 0];
            let texts: Vec<Vec<u32>> = order.iter().map(|i| e.tokens[*i].clone()).collect();
            let vectors = encoder.embed(&texts).unwrap();
            assert_eq!(vectors.len(), order.len());
            for (i, v) in order.iter().zip(&vectors) {
                let worst = v.iter().zip(&e.vectors[*i]).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
                assert!(
                    v.len() == e.vectors[*i].len() && worst < 1e-5,
                    "{}: text {i} differs by {worst}",
                    e.name
                );
            }
            let long = vec![5; max_tokens + 1];
            assert!(matches!(encoder.embed(&[long]), Err(EngineError::PromptTooLong { .. })));
            assert_eq!(encoder.embed(&[vec![]]), Err(EngineError::EmptyPrompt));
        }
    }
}

/// A file of GGUF with one more number in its metadata; what is behind stays aligned.
fn with_number(bytes: &[u8], key: &str, value: u32) -> Vec<u8> {
    let pair = |key: &str, value: u32| {
        let length = (key.len() as u64).to_le_bytes();
        [&length[..], key.as_bytes(), &4u32.to_le_bytes(), &value.to_le_bytes()].concat()
    };
    let mut added = pair(key, value);
    let left = (added.len() + 16 + 1).next_multiple_of(32) - added.len() - 16;
    added.extend(pair(&"x".repeat(left), 0));
    let pairs = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) + 2;
    [&bytes[..16], &pairs.to_le_bytes(), &added, &bytes[24..]].concat()
}

#[test]
fn the_last_token_is_what_logits_are_made_of() {
    let cache = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(data().join("qwen3-f16.gguf")).unwrap();
    let (plain, last) = (
        ModelFile::from_bytes(bytes.clone()).unwrap(),
        ModelFile::from_bytes(with_number(&bytes, "qwen3.pooling_type", 3)).unwrap(),
    );
    let mut encoder = Encoder::load(&last, &options(cache.path(), 48), &mut |_, _, _| {}).unwrap();
    let texts = [vec![5, 9, 11], (1..30).collect(), vec![40]];
    let vectors = encoder.embed(&texts).unwrap();
    let info = plain.tensor("token_embd.weight").unwrap();
    let table: Vec<f32> =
        plain.data(info).chunks(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
    let mut runner = Runner::load(&plain, &options(cache.path(), 48), &mut |_, _, _| {}).unwrap();
    for (text, vector) in texts.iter().zip(&vectors) {
        let (mut batch, mut logits) = (Batch::default(), vec![]);
        let count = text.len() as u32;
        batch.tokens.clone_from(text);
        batch.sequence = vec![0; text.len()];
        batch.position = (0..count).collect();
        batch.slot = (0..count).collect();
        batch.pages = vec![(0..count.div_ceil(16)).collect()];
        batch.adapters = vec![0];
        batch.rows = vec![count - 1];
        runner.forward(&batch, &mut logits).unwrap();
        let own: Vec<f32> =
            table.chunks(vector.len()).map(|row| row.iter().zip(vector).map(|(a, b)| a * b).sum()).collect();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let cosine = dot(&own, &logits) / (dot(&own, &own) * dot(&logits, &logits)).sqrt();
        assert!((cosine - 1.0).abs() < 1e-6, "{cosine}");
    }
}

#[test]
fn a_model_is_used_for_what_it_can_do() {
    let cache = tempfile::tempdir().unwrap();
    let open = |name: &str| ModelFile::open(data().join(name)).unwrap();
    let options = options(cache.path(), 48);
    let error = Runner::load(&open("bert-f16.gguf"), &options, &mut |_, _, _| {}).err();
    assert_eq!(error, Some(EngineError::Purpose { encoder: true }));
    let error = Encoder::load(&open("gpt2-f16.gguf"), &options, &mut |_, _, _| {}).err();
    assert_eq!(error, Some(EngineError::Purpose { encoder: false }));
}
