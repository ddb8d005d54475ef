//! Models from safetensors folders against `transformers`: the tiny models of the GGUF tests as `save_pretrained` writes them
//! (one file, shards, BF16, experts), and a random model of each kind in BF16.

use lathe_engine::{Batch, Forward, PAGE, Precision, Runner, RunnerOptions};
use lathe_models::ModelFile;
use std::path::{Path, PathBuf};

const PROMPT: [u32; 12] = [1, 17, 42, 5, 60, 33, 33, 8, 51, 20, 3, 44];

const NAMES: [&str; 16] = [
    "llama-f32",
    "llama-bf16",
    "qwen2-f32",
    "mixtral-f32",
    "rope-llama3",
    "rope-linear",
    "mistral",
    "qwen2-moe",
    "qwen3",
    "qwen3-moe",
    "gemma2",
    "gemma3",
    "phi3",
    "olmo2",
    "gpt2",
    "opt",
];

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-models/tests/data")
}

fn logits(folder: &Path, cache: &Path) -> Vec<f32> {
    let file = ModelFile::open(folder).unwrap_or_else(|e| panic!("{e}"));
    let options = RunnerOptions {
        precision: Precision::Exact,
        threads: 2,
        context: 48,
        pages: 4,
        max_tokens: 16,
        max_sequences: 1,
        max_rows: 16,
        kv_type: None,
        adapters: None,
        cache: cache.into(),
        budget: None,
    };
    let mut runner = Runner::load(&file, &options, &mut |_, _, _| {})
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let n = PROMPT.len() as u32;
    let batch = Batch {
        tokens: PROMPT.to_vec(),
        sequence: vec![0; PROMPT.len()],
        position: (0..n).collect(),
        slot: (0..n).map(|p| PAGE as u32 + p).collect(),
        rows: (0..n).collect(),
        pages: vec![vec![1]],
        adapters: vec![0],
    };
    let mut logits = vec![];
    runner.forward(&batch, &mut logits).unwrap();
    logits
}

#[test]
fn folders_give_the_logits_of_transformers() {
    let cache = tempfile::tempdir().unwrap();
    for name in NAMES {
        let folder = data().join("safetensors").join(name);
        let own = folder.join("logits.bin");
        let expected = if own.exists() { own } else { data().join(format!("tiny/{name}.logits.bin")) };
        let bytes = std::fs::read(expected).unwrap();
        let want: Vec<f32> =
            bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        let got = logits(&folder, cache.path());
        assert_eq!(got.len(), want.len(), "{name}");
        let scale = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        let worst = got.iter().zip(&want).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / scale;
        assert!(worst <= 1e-4, "{name}: relative difference {worst}");
    }
}
