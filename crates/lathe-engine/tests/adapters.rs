//! Adapters over compiled models against PEFT over `transformers`: alone, beside others and beside the model alone in one
//! step, in chunks and token by token, from folders and from GGUF files.

use lathe_diagnostic::Diagnose;
use lathe_engine::{
    Batch, Engine, EngineError, Event, Forward, PAGE, Precision, Request, Runner, RunnerOptions,
};
use lathe_models::{Adapter, AdapterRoom, ModelFile};
use std::path::{Path, PathBuf};

const PROMPT: [u32; 12] = [1, 17, 42, 5, 60, 33, 33, 8, 51, 20, 3, 44];
const ALL: [(&str, &str); 6] = [
    ("llama-all", "safetensors/llama-f32"),
    ("llama-heads", "safetensors/llama-f32"),
    ("qwen2-all", "safetensors/qwen2-f32"),
    ("phi3-fused", "safetensors/phi3"),
    ("gpt2-all", "safetensors/gpt2"),
    ("llama-all", "tiny/llama-f32.gguf"),
];

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-models/tests/data")
}

fn runner(file: &ModelFile, room: Option<AdapterRoom>, cache: &Path) -> Runner {
    let options = RunnerOptions {
        precision: Precision::Exact,
        threads: 2,
        context: 48,
        pages: 16,
        max_tokens: 64,
        max_sequences: 4,
        max_rows: 64,
        kv_type: None,
        adapters: room,
        cache: cache.into(),
        budget: None,
    };
    Runner::load(file, &options, &mut |_, _, _| {}).unwrap_or_else(|e| panic!("{e}"))
}

fn open(name: &str, base: &ModelFile) -> Adapter {
    Adapter::open(data().join("adapters").join(name), base).unwrap_or_else(|e| panic!("{e}"))
}

fn expected(path: &str) -> Vec<f32> {
    let bytes = std::fs::read(data().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}

/// The logits of the model of a folder alone.
fn plain(base: &str) -> Vec<f32> {
    let own = format!("{base}/logits.bin");
    let name = base.rsplit('/').next().unwrap().trim_end_matches(".gguf");
    expected(&if data().join(&own).exists() { own } else { format!("tiny/{name}.logits.bin") })
}

/// Adds tokens `from..to` of the prompt with the adapter of a place, over pages from `page` on.
fn add(b: &mut Batch, from: usize, to: usize, place: u32, page: u32) {
    let row = b.pages.len() as u32;
    for p in from..to {
        b.rows.push(b.tokens.len() as u32);
        b.tokens.push(PROMPT[p]);
        b.sequence.push(row);
        b.position.push(p as u32);
        b.slot.push(page * PAGE as u32 + p as u32);
    }
    b.pages.push(vec![page]);
    b.adapters.push(place);
}

fn close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    let worst = got.iter().zip(want).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / scale;
    assert!(worst <= 1e-4, "{what}: relative difference {worst}");
}

#[test]
fn logits_with_adapters_are_those_of_peft() {
    let cache = tempfile::tempdir().unwrap();
    for (name, base) in ALL {
        let file = ModelFile::open(data().join(base)).unwrap();
        let adapter = open(name, &file);
        let room = AdapterRoom::new(2, adapter.rank(), adapter.products());
        let mut r = runner(&file, Some(room), cache.path());
        r.set_adapter(2, &adapter).unwrap();
        let (with, without) = (expected(&format!("adapters/{name}.logits.bin")), plain(base));
        let vocabulary = r.vocabulary();
        // With it and without, in one step and beside an empty place.
        let (mut b, mut logits) = (Batch::default(), vec![]);
        add(&mut b, 0, 12, 0, 3);
        add(&mut b, 0, 12, 2, 5);
        add(&mut b, 0, 5, 1, 7);
        r.forward(&b, &mut logits).unwrap();
        let rows = |n: usize, of: &[f32]| of[..n * vocabulary].to_vec();
        close(name, &logits, &[without.clone(), with.clone(), rows(5, &without)].concat());
        // Token by token.
        for p in 0..12 {
            let mut b = Batch::default();
            add(&mut b, p, p + 1, 2, 9);
            r.forward(&b, &mut logits).unwrap();
            close(name, &logits, &with[p * vocabulary..(p + 1) * vocabulary]);
        }
    }
}

/// Two adapters of different ranks and products, and none, in one step.
#[test]
fn adapters_share_a_step() {
    let cache = tempfile::tempdir().unwrap();
    let file = ModelFile::open(data().join("tiny/llama-f32.gguf")).unwrap();
    let (all, heads, gguf) =
        (open("llama-all", &file), open("llama-heads", &file), open("llama-all.gguf", &file));
    let mut r = runner(&file, Some(AdapterRoom::new(3, 20, all.products())), cache.path());
    r.set_adapter(1, &heads).unwrap();
    r.set_adapter(2, &all).unwrap();
    r.set_adapter(3, &gguf).unwrap();
    let (mut b, mut logits) = (Batch::default(), vec![]);
    for (place, page) in [(1, 4), (2, 2), (0, 3), (3, 6)] {
        add(&mut b, 0, 12, place, page);
    }
    r.forward(&b, &mut logits).unwrap();
    let of = |name: &str| expected(&format!("adapters/{name}.logits.bin"));
    let want = [of("llama-heads"), of("llama-all"), plain("tiny/llama-f32.gguf"), of("llama-all")].concat();
    close("all", &logits, &want);
    // Another one in the same place.
    r.set_adapter(2, &heads).unwrap();
    let mut b = Batch::default();
    add(&mut b, 0, 12, 2, 8);
    r.forward(&b, &mut logits).unwrap();
    close("heads", &logits, &of("llama-heads"));
}

/// The best next token after the prompt.
fn best(logits: &[f32], vocabulary: usize) -> u32 {
    let last = &logits[logits.len() - vocabulary..];
    (0..vocabulary).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap() as u32
}

#[test]
fn an_engine_loads_and_unloads_while_it_runs() {
    let cache = tempfile::tempdir().unwrap();
    let file = ModelFile::open(data().join("tiny/llama-f32.gguf")).unwrap();
    let (all, heads) = (open("llama-all", &file), open("llama-heads", &file));
    let room = AdapterRoom::new(1, 20, all.products());
    let mut engine = Engine::new(runner(&file, Some(room), cache.path()));
    // Twice as long as a page, so that the second request could find the first one's.
    let prompt = [PROMPT, PROMPT, PROMPT].concat();
    let ask = |adapter| Request { prompt: prompt.clone(), max_tokens: 4, adapter, ..Request::default() };
    let answer = |engine: &mut Engine<Runner>, adapter| {
        engine.add(ask(adapter)).unwrap();
        let mut tokens = vec![];
        while !engine.is_idle() {
            let events = engine.step().unwrap();
            tokens.extend(events.into_iter().filter_map(|e| match e {
                Event::Token { token, .. } => Some(token),
                _ => None,
            }));
        }
        tokens
    };
    let none = lathe_engine::AdapterId::NONE;
    let alone = answer(&mut engine, none);
    let first = engine.load_adapter(&all).unwrap();
    let hits = engine.load().prefix_hits;
    let with_all = answer(&mut engine, first);
    // What was computed with one is not found by another.
    assert_eq!(engine.load().prefix_hits, hits);
    assert_eq!(answer(&mut engine, first), with_all);
    assert!(engine.load().prefix_hits > hits);
    assert_ne!(with_all, alone);
    assert_eq!(engine.load_adapter(&heads), Err(EngineError::AdaptersFull { places: 1 }));
    // A request that runs keeps its place.
    engine.add(ask(first)).unwrap();
    engine.step().unwrap();
    assert!(engine.unload_adapter(first) && !engine.unload_adapter(first));
    assert_eq!(engine.load_adapter(&heads), Err(EngineError::AdaptersFull { places: 1 }));
    assert_eq!(engine.add(ask(first)), Err(EngineError::AdapterGone));
    while !engine.is_idle() {
        engine.step().unwrap();
    }
    let second = engine.load_adapter(&heads).unwrap();
    assert_ne!(first, second);
    assert_ne!(answer(&mut engine, second), with_all);
    assert_eq!(answer(&mut engine, none), alone);
    // The first token of the shorter prompt is PEFT's.
    engine
        .add(Request { prompt: PROMPT.to_vec(), max_tokens: 1, adapter: second, ..Request::default() })
        .unwrap();
    let want = expected("adapters/llama-heads.logits.bin");
    let token = best(&want, 128);
    let events = engine.step().unwrap();
    assert!(events.iter().any(|e| matches!(e, Event::Token { token: t, .. } if *t == token)), "{events:?}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let cache = tempfile::tempdir().unwrap();
    let file = ModelFile::open(data().join("tiny/llama-f32.gguf")).unwrap();
    let other = ModelFile::open(data().join("tiny/llama-f16.gguf")).unwrap();
    let folder = |name: &str| data().join("adapters").join(name);
    let fault = |path: &Path, base: &ModelFile| Adapter::open(path, base).unwrap_err().diagnostic();
    assert_eq!(fault(&folder("llama-all"), &other).code, "adapter-fit");
    assert_eq!(fault(&folder("gpt2-all"), &file).code, "adapter-fit");
    assert_eq!(fault(&data().join("tiny/llama-f16.gguf"), &file).code, "adapter-kind");
    assert_eq!(fault(&folder("none"), &file).code, "gguf-open");
    let heads = open("llama-heads", &file);
    let mut none = Engine::new(runner(&file, None, cache.path()));
    assert_eq!(none.load_adapter(&heads), Err(EngineError::NoAdapters));
    for (rank, products) in [(16, heads.products()), (20, ["ffn_up".to_owned()].into())] {
        let mut engine = Engine::new(runner(&file, Some(AdapterRoom::new(1, rank, products)), cache.path()));
        let refused = engine.load_adapter(&heads);
        assert!(matches!(refused, Err(EngineError::AdapterRoom { .. })), "{refused:?}");
    }
    // Settings that ask for more than two factors.
    let made = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(folder("llama-all").join("adapter_config.json")).unwrap();
    std::fs::copy(
        folder("llama-all").join("adapter_model.safetensors"),
        made.path().join("adapter_model.safetensors"),
    )
    .unwrap();
    for (from, to) in [
        ("\"use_dora\": false", "\"use_dora\": true"),
        ("\"bias\": \"none\"", "\"bias\": \"all\""),
        ("\"alpha_pattern\": {}", "\"alpha_pattern\": {\"q_proj\": 2}"),
        ("\"peft_type\": \"LORA\"", "\"peft_type\": \"IA3\""),
    ] {
        assert!(config.contains(from));
        std::fs::write(made.path().join("adapter_config.json"), config.replace(from, to)).unwrap();
        assert_eq!(fault(made.path(), &file).code, "safetensors-config", "{to}");
    }
}
