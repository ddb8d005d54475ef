//! The tokenizer against the `tokenizers` package (tests/scripts/make_tokenizer.py), and against damaged files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lathe_diagnostic::Diagnose;
use lathe_models::{ChatTemplate, GgufWriter, Message, ModelFile, StrArray, StreamDecoder, Tokenizer};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizer").join(name)
}

#[derive(serde::Deserialize)]
struct Expected<I> {
    texts: Vec<String>,
    ids: I,
}

fn expected<I: serde::de::DeserializeOwned>(name: &str) -> Expected<I> {
    let text = std::fs::read_to_string(data(name)).expect("the expectations are committed");
    serde_json::from_str(&text).expect("they are JSON")
}

/// The small vocabulary under another pre-tokenizer, with further changes.
fn small(pre: &str, change: impl FnOnce(&mut GgufWriter)) -> Vec<u8> {
    let file = ModelFile::open(data("vocab.gguf")).expect("the vocabulary is committed");
    let strings = |key| -> Vec<String> {
        let array: StrArray<'_> = file.get(key).expect("the key is there");
        array.iter().map(|s| String::from_utf8(s.to_vec()).expect("it is UTF-8")).collect()
    };
    let mut w = GgufWriter::new();
    w.str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", pre);
    w.strs("tokenizer.ggml.tokens", &strings("tokenizer.ggml.tokens"));
    w.strs("tokenizer.ggml.merges", &strings("tokenizer.ggml.merges"));
    w.i32s(
        "tokenizer.ggml.token_type",
        &file.get::<Vec<i32>>("tokenizer.ggml.token_type").expect("it is there"),
    );
    change(&mut w);
    w.to_bytes().expect("writable")
}

fn load(bytes: Vec<u8>) -> Result<Tokenizer, String> {
    let file = ModelFile::from_bytes(bytes).map_err(|e| e.to_string())?;
    Tokenizer::from_file(&file).map_err(|e| e.diagnostic().to_string())
}

fn check(tokenizer: &Tokenizer, texts: &[String], ids: &[Vec<u32>], what: &str) {
    assert_eq!(texts.len(), ids.len());
    for (text, ids) in texts.iter().zip(ids) {
        assert_eq!(&tokenizer.encode(text, true), ids, "{what}: {text:?}");
        let mut stream = StreamDecoder::new();
        let mut streamed: String = ids.iter().map(|&id| stream.push(tokenizer, id)).collect();
        streamed += &stream.finish();
        assert_eq!(streamed, tokenizer.decode(ids), "{what}: {text:?}");
    }
}

#[test]
fn every_split_matches_the_reference() {
    let expected: Expected<BTreeMap<String, Vec<Vec<u32>>>> = expected("expected.json");
    assert_eq!(expected.ids.len(), 5);
    for (pre, ids) in &expected.ids {
        let tokenizer = load(small(pre, |_| ())).expect("the small vocabulary loads");
        check(&tokenizer, &expected.texts, ids, pre);
        for text in &expected.texts {
            assert_eq!(&tokenizer.decode(&tokenizer.encode(text, true)), text);
            assert_eq!(&tokenizer.decode(&tokenizer.encode(text, false)), text);
        }
    }
}

/// Needs the default model: the file named by LATHE_TEST_MODEL.
#[test]
#[ignore = "needs the default model, as LATHE_TEST_MODEL"]
fn smollm2_matches_the_reference() {
    let path = std::env::var_os("LATHE_TEST_MODEL").expect("LATHE_TEST_MODEL is set");
    let file = ModelFile::open(path).expect("LATHE_TEST_MODEL names a GGUF file");
    let tokenizer = Tokenizer::from_file(&file).expect("it has a tokenizer");
    let expected: Expected<Vec<Vec<u32>>> = expected("smollm2.json");
    check(&tokenizer, &expected.texts, &expected.ids, "smollm2");
    assert_eq!(tokenizer.vocab_size(), 49152);
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.eot()), (Some(1), Some(2), None));
    assert!(tokenizer.is_end(2) && tokenizer.is_end(0) && !tokenizer.is_end(1) && !tokenizer.add_bos());
}

#[test]
fn control_tokens_are_text_unless_asked_for() {
    let tokenizer = load(small("smollm", |w| {
        w.u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", 2);
    }))
    .expect("it loads");
    let text = "a<|im_end|>b";
    assert_eq!(tokenizer.encode(text, true).iter().filter(|&&id| id == 2).count(), 1);
    let plain = tokenizer.encode(text, false);
    assert!(plain.iter().all(|&id| !tokenizer.is_control(id)));
    assert_eq!(tokenizer.decode(&plain), text);
    // '<|' is a user-defined token, which is one wherever it stands.
    assert_eq!(plain.iter().filter(|&&id| id == 4).count(), 1);
    assert_eq!(tokenizer.token_id("<|im_end|>"), Some(2));
    assert_eq!(tokenizer.token_bytes(2), b"<|im_end|>");
    assert_eq!(tokenizer.token_bytes(u32::MAX), b"");
    assert!(tokenizer.is_end(0) && tokenizer.is_end(2) && !tokenizer.is_end(1));
    assert!(tokenizer.encode("", true).is_empty());
}

#[test]
fn long_words_take_no_quadratic_time() {
    let tokenizer = load(small("smollm", |_| ())).expect("it loads");
    for unit in ["a", " ", "ab", "=", "日", "1"] {
        let text = unit.repeat(200_000 / unit.len());
        assert_eq!(tokenizer.decode(&tokenizer.encode(&text, true)), text);
    }
}

#[test]
fn damaged_files_never_panic() {
    let good = std::fs::read(data("../tiny/llama-q4_0.gguf")).expect("it is committed");
    let header = 4000;
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let mut made = 0;
    for _ in 0..10_000 {
        let mut bytes = good.clone();
        for _ in 0..=next() % 4 {
            bytes[next() % header] = next() as u8;
        }
        let Ok(file) = ModelFile::from_bytes(bytes) else { continue };
        let _ =
            ChatTemplate::from_file(&file).map(|t| t.render(&[Message::new("user", "the")], true, "", ""));
        if let Ok(tokenizer) = Tokenizer::from_file(&file) {
            made += 1;
            let ids = tokenizer.encode("<|im_start|>the band\n<|im_end|> été", true);
            tokenizer.decode(&ids);
        }
    }
    assert!(made > 100, "some damage should leave a tokenizer: {made}");
}

#[test]
fn each_fault_has_its_own_line() {
    let with = |make: &dyn Fn(&mut GgufWriter)| {
        let mut w = GgufWriter::new();
        make(&mut w);
        load(w.to_bytes().expect("writable")).expect_err("it is faulty")
    };
    assert_eq!(
        with(&|_| ()),
        "error[gguf-key]: metadata key 'tokenizer.ggml.model' is missing; convert the model again with a current converter"
    );
    let other = with(&|w| {
        w.str("tokenizer.ggml.model", "rwkv");
    });
    assert!(
        other.starts_with("error[tokenizer-model]: the tokenizer model 'rwkv' is not supported yet"),
        "{other}"
    );
    let scores = with(&|w| {
        w.str("tokenizer.ggml.model", "llama").strs("tokenizer.ggml.tokens", &["a", "b"]);
        w.f32s("tokenizer.ggml.scores", &[0.0]);
    });
    assert!(scores.contains("2 tokens but 1 scores"), "{scores}");
    let split = load(small("no-such", |_| ())).expect_err("an unknown split");
    assert!(split.starts_with("error[tokenizer-split]: the pre-tokenizer 'no-such'"), "{split}");
    let gpt2 = |w: &mut GgufWriter, tokens: &[&str], merges: &[&str]| {
        w.str("tokenizer.ggml.model", "gpt2").strs("tokenizer.ggml.tokens", tokens);
        w.strs("tokenizer.ggml.merges", merges);
    };
    assert!(with(&|w| gpt2(w, &[], &[])).contains("the vocabulary is empty"));
    for rule in ["a c", "a", "", "日 a", "ab a"] {
        let message = with(&|w| gpt2(w, &["a", "b", "ab"], &[rule]));
        assert!(message.contains("merge rule 0") && message.contains("not in the vocabulary"), "{message}");
    }
    let types = with(&|w| {
        gpt2(w, &["a"], &[]);
        w.i32s("tokenizer.ggml.token_type", &[1, 1]);
    });
    assert!(types.contains("1 tokens but 2 token types"), "{types}");
    let eos = with(&|w| {
        gpt2(w, &["a"], &[]);
        w.u32("tokenizer.ggml.eos_token_id", 1);
    });
    assert!(eos.contains("tokenizer.ggml.eos_token_id is 1, but the vocabulary has 1 tokens"), "{eos}");
}
