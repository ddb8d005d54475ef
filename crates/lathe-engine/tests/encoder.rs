//! A compiled encoder against `transformers` and `tokenizers`: from texts to embeddings, alone and several in a step.

use lathe_engine::{Encoder, EngineError, Precision, Runner, RunnerOptions};
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
        cache: cache.into(),
    }
}

#[test]
fn texts_become_the_tokens_of_tokenizers() {
    for e in expected() {
        let file = ModelFile::open(data().join(format!("{}.gguf", e.name))).unwrap();
        let t = Tokenizer::from_file(&file).unwrap();
        for (text, tokens) in e.texts.iter().zip(&e.tokens) {
            let ids = [t.bos().into_iter().collect(), t.encode(text, false), t.eos().into_iter().collect()]
                .concat();
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
