//! Compiled models against `transformers`: tiny random ones of every family, `exact`, all logits of a prompt, in one step
//! and in several, alone and in a ragged batch over scattered pages.

use lathe_diagnostic::Diagnose;
use lathe_engine::{
    Batch, Beams, EarlyStopping, Engine, EngineError, Event, Forward, PAGE, Precision, Request, Runner,
    RunnerOptions, Sampling,
};
use lathe_models::{KvType, ModelFile};
use std::path::{Path, PathBuf};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-models/tests/data/tiny")
}

fn entry(name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(data().join("expected.json")).unwrap();
    let all: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    all.into_iter().find(|m| m["name"] == name).unwrap()
}

/// The tokens that continue the prompt, and how sure each is.
fn greedy(name: &str) -> Vec<(u32, f64)> {
    let of = |key: &str| serde_json::from_value::<Vec<f64>>(entry(name)[key].clone()).unwrap();
    of("greedy").into_iter().map(|t| t as u32).zip(of("gaps")).collect()
}

fn expected(name: &str) -> (Vec<u32>, Vec<f32>) {
    let prompt = serde_json::from_value(entry(name)["prompt"].clone()).unwrap();
    let bytes = std::fs::read(data().join(format!("{name}.logits.bin"))).unwrap();
    (prompt, bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
}

fn close(what: &str, got: &[f32], want: &[f32], loose: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    let worst = got.iter().zip(want).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / scale;
    assert!(worst <= loose, "{what}: relative difference {worst}");
}

fn runner(name: &str, precision: Precision, threads: usize, cache: &Path) -> Runner {
    let options = RunnerOptions { precision, threads, ..options(cache) };
    load(name, &options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn load(name: &str, options: &RunnerOptions) -> Result<Runner, EngineError> {
    let file = ModelFile::open(data().join(format!("{name}.gguf"))).unwrap();
    Runner::load(&file, options, &mut |_, _, _| {})
}

fn options(cache: &Path) -> RunnerOptions {
    RunnerOptions {
        precision: Precision::Exact,
        threads: 1,
        context: 48,
        pages: 8,
        max_tokens: 32,
        max_sequences: 16,
        max_rows: 32,
        kv_type: None,
        adapters: None,
        cache: cache.into(),
        budget: None,
    }
}

/// Tokens `from..to` of a sequence in row `row`, on the given pages.
fn add(b: &mut Batch, tokens: &[u32], from: usize, to: usize, pages: &[u32], all_rows: bool) {
    let row = b.pages.len() as u32;
    for p in from..to {
        if all_rows || p + 1 == to {
            b.rows.push(b.tokens.len() as u32);
        }
        b.tokens.push(tokens[p]);
        b.sequence.push(row);
        b.position.push(p as u32);
        b.slot.push(pages[p / PAGE] * PAGE as u32 + (p % PAGE) as u32);
    }
    b.pages.push(pages.to_vec());
    b.adapters.push(0);
}

/// Beam searches through the whole engine, with pages for about two of the beams: the answers of `transformers`, in its order and
/// with its scores.
#[test]
fn beams_are_those_of_transformers() {
    let cache = tempfile::tempdir().unwrap();
    let mut engine = Engine::new(runner("llama-f32", Precision::Exact, 2, cache.path()));
    let text = std::fs::read_to_string(data().join("beams.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let (mut early, mut answers) = (0, 0);
    for case in &cases {
        let tokens = |of: &serde_json::Value| serde_json::from_value::<Vec<u32>>(of.clone()).unwrap();
        let number = |of: &str| case[of].as_f64().unwrap();
        let width = number("width") as usize;
        let early_stopping = match case["early_stopping"].as_bool() {
            Some(true) => EarlyStopping::AtWidth,
            Some(false) => EarlyStopping::WhenUnlikely,
            None => EarlyStopping::Never,
        };
        let beams = Beams { width, length_penalty: number("length_penalty"), early_stopping };
        let sampling =
            Sampling { repetition_penalty: number("repetition_penalty") as f32, ..Sampling::default() };
        let max_tokens = number("max_tokens") as usize;
        let request = Request {
            prompt: tokens(&case["prompt"]),
            max_tokens,
            samples: width,
            beams: Some(beams),
            sampling,
            ends: tokens(&case["ends"]),
            ..Request::default()
        };
        engine.add(request).unwrap();
        let mut found: Vec<(Vec<u32>, f64)> = vec![];
        while !engine.is_idle() {
            for event in engine.step().unwrap() {
                match event {
                    Event::Found { score, .. } => found.push((vec![], score)),
                    Event::Token { token, .. } => found.last_mut().unwrap().0.push(token),
                    _ => {}
                }
            }
        }
        let wanted = case["answers"].as_array().unwrap();
        assert_eq!(found.len(), wanted.len());
        for ((got, score), want) in found.iter().zip(wanted) {
            assert_eq!(*got, tokens(&want[0]), "{case}");
            assert!((score - want[1].as_f64().unwrap()).abs() < 1e-4, "{score} in {case}");
            early += usize::from(got.len() < max_tokens);
            answers += 1;
        }
    }
    assert!(cases.len() > 30 && early * 4 > answers, "{} cases, {early} of {answers} end early", cases.len());
    assert!(engine.load().preemptions > 0 && engine.load().pages.held == 0, "{:?}", engine.load());
}

const NAMES: [&str; 22] = [
    "qwen2-f32",
    "llama-f32",
    "llama-f16",
    "llama-bf16",
    "llama-q4_0",
    "llama-q4_1",
    "llama-q8_0",
    "mixtral-f32",
    "linear-f16",
    "yarn-f16",
    "mistral-f16",
    "qwen3-f16",
    "qwen2moe-f16",
    "qwen3moe-f16",
    "gemma2-f16",
    "gemma3-q8_0",
    "phi3-f16",
    "phi3long-f16",
    "olmo2-f16",
    "gpt2-f16",
    "opt-f16",
    "heads32-f16",
];

#[test]
fn exact_logits_are_those_of_transformers() {
    let cache = tempfile::tempdir().unwrap();
    for name in NAMES {
        let (prompt, want) = expected(name);
        let vocabulary = want.len() / prompt.len();
        let mut logits = vec![];
        let n = prompt.len();

        let mut r = runner(name, Precision::Exact, 2, cache.path());
        let mut b = Batch::default();
        add(&mut b, &prompt, 0, n, &[5, 1], true);
        r.forward(&b, &mut logits).unwrap();
        close(name, &logits, &want, 1e-4);

        // Token by token: the decode kernels.
        for p in 0..n {
            let mut b = Batch::default();
            add(&mut b, &prompt, p, p + 1, &[2, 4], false);
            r.forward(&b, &mut logits).unwrap();
            close(name, &logits, &want[p * vocabulary..(p + 1) * vocabulary], 1e-4);
        }
        let mut tokens = prompt.clone();
        for (next, gap) in greedy(name) {
            let best = (0..vocabulary).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
            assert!(best as u32 == next || gap < 1e-3, "{name}: token {} is {best}", tokens.len());
            tokens.push(next);
            let mut b = Batch::default();
            add(&mut b, &tokens, tokens.len() - 1, tokens.len(), &[2, 4, 6], false);
            r.forward(&b, &mut logits).unwrap();
        }

        // Two sequences of different length in one step, then both go on.
        let mut b = Batch::default();
        add(&mut b, &prompt, 0, 5, &[7, 3], false);
        add(&mut b, &prompt, 0, 3, &[0, 6], false);
        r.forward(&b, &mut logits).unwrap();
        close(name, &logits[..vocabulary], &want[4 * vocabulary..5 * vocabulary], 1e-4);
        close(name, &logits[vocabulary..], &want[2 * vocabulary..3 * vocabulary], 1e-4);
        let mut b = Batch::default();
        add(&mut b, &prompt, 5, 6, &[7, 3], false);
        add(&mut b, &prompt, 3, n, &[0, 6], false);
        r.forward(&b, &mut logits).unwrap();
        close(name, &logits[..vocabulary], &want[5 * vocabulary..6 * vocabulary], 1e-4);
        close(name, &logits[vocabulary..], &want[(n - 1) * vocabulary..], 1e-4);
    }
}

#[test]
fn keys_and_values_of_16_bits_change_little() {
    let cache = tempfile::tempdir().unwrap();
    for name in ["llama-f32", "gemma2-f16", "opt-f16"] {
        let (prompt, want) = expected(name);
        // Numbers of bf16 have three bits fewer; fast, queries and exponentials are of it too.
        for (kv, precision, bound) in [
            (KvType::F16, Precision::Exact, 2e-3),
            (KvType::Bf16, Precision::Exact, 1.6e-2),
            (KvType::Bf16, Precision::Fast, 2.4e-2),
        ] {
            let options = RunnerOptions { kv_type: Some(kv), precision, ..options(cache.path()) };
            let mut r = load(name, &options).unwrap();
            let mut b = Batch::default();
            add(&mut b, &prompt, 0, prompt.len(), &[5, 1], true);
            let mut logits = vec![];
            r.forward(&b, &mut logits).unwrap();
            close(name, &logits, &want, bound);
        }
    }
    // Their heads are shorter than what shares a scale.
    let coded = RunnerOptions { kv_type: Some(KvType::Q8), ..options(cache.path()) };
    let refused = load("llama-f32", &coded).err().unwrap().diagnostic();
    assert!(refused.code == "family-kv-type" && refused.to_string().contains("--kv-type f16"), "{refused}");
}

/// Keys and values in codes give what PyTorch gives where it rounds them so, in one step and token by token.
#[test]
fn keys_and_values_in_codes_are_rounded_as_said() {
    let cache = tempfile::tempdir().unwrap();
    let (prompt, _) = expected("heads32-f16");
    let n = prompt.len();
    for kv in [KvType::Q8, KvType::Q4] {
        let bytes = std::fs::read(data().join(format!("heads32-f16.{}.logits.bin", kv.as_str()))).unwrap();
        let want: Vec<f32> =
            bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        let options = RunnerOptions { kv_type: Some(kv), ..options(cache.path()) };
        let mut r = load("heads32-f16", &options).unwrap();
        let (mut b, mut logits) = (Batch::default(), vec![]);
        add(&mut b, &prompt, 0, n, &[5, 1], true);
        r.forward(&b, &mut logits).unwrap();
        close(kv.as_str(), &logits, &want, 1e-3);
        for p in 0..n {
            let mut b = Batch::default();
            add(&mut b, &prompt, p, p + 1, &[2, 4], false);
            r.forward(&b, &mut logits).unwrap();
            close(kv.as_str(), &logits, &want[p * logits.len()..][..logits.len()], 1e-3);
        }
    }
}

#[test]
fn fast_logits_stay_near() {
    let cache = tempfile::tempdir().unwrap();
    // It differs from `exact` where weights are codes.
    for name in NAMES.into_iter().filter(|n| n.contains("-q")) {
        let (prompt, want) = expected(name);
        let mut logits = vec![];
        let mut r = runner(name, Precision::Fast, 1, cache.path());
        let mut b = Batch::default();
        add(&mut b, &prompt, 0, prompt.len(), &[5, 1], true);
        r.forward(&b, &mut logits).unwrap();
        close(name, &logits, &want, 0.1);
    }
}

/// Against `transformers`' routers: which experts each token of the prompt is sent to.
#[test]
fn routers_choose_as_those_of_transformers() {
    let cache = tempfile::tempdir().unwrap();
    for name in ["mixtral-f32", "qwen2moe-f16"] {
        let want: Vec<Vec<Vec<u16>>> = serde_json::from_value(entry(name)["routes"].clone()).unwrap();
        let (prompt, _) = expected(name);
        let file = ModelFile::open(data().join(format!("{name}.gguf"))).unwrap();
        let options = RunnerOptions { max_sequences: 1, max_rows: 1, ..options(cache.path()) };
        let routing = lathe_engine::router_choices(&file, &options, &[&prompt], &|| true).unwrap();
        assert_eq!((routing.experts, routing.used, routing.steps.len()), (4, 2, 1), "{name}");
        for (layer, want) in routing.steps[0].iter().zip(&want) {
            let mut got: Vec<Vec<u16>> = layer.chunks(2).map(<[u16]>::to_vec).collect();
            got.iter_mut().for_each(|token| token.sort_unstable());
            assert_eq!(&got, want, "{name}");
        }
        let popularity = routing.popularity(name);
        popularity.check().unwrap();
        let zero = want[1].iter().flatten().filter(|e| **e == 0).count() as u64;
        assert_eq!((popularity.tokens, popularity.counts[1][0]), (prompt.len() as u64, zero));
    }
    let file = ModelFile::open(data().join("llama-f32.gguf")).unwrap();
    let refused = lathe_engine::router_choices(&file, &options(cache.path()), &[&[1]], &|| true).unwrap_err();
    assert!(refused.diagnostic().to_string().contains("the model has no experts"));
}
