//! A vocabulary of each kind on two megabytes of mixed text: ids are those of the reference, which is llama.cpp for GGUF and the
//! `tokenizers` package for `tokenizer.json` (tests/scripts/make_kinds.py), and they decode to the text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lathe_models::{GgufWriter, ModelFile, StrArray, StreamDecoder, Tokenizer};
use proptest::prelude::*;
use serde::Deserialize;
use sha2::{Digest, Sha256};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizer/kinds").join(name)
}

#[derive(Deserialize)]
struct Expected {
    text: String,
    short: Vec<String>,
    kinds: BTreeMap<String, Kind>,
}

#[derive(Deserialize)]
struct Kind {
    count: usize,
    sha256: String,
    short: Vec<Vec<u32>>,
    with_specials: Vec<u32>,
}

fn expected() -> Expected {
    let text = std::fs::read_to_string(data("expected.json")).expect("it is committed");
    serde_json::from_str(&text).expect("it is JSON")
}

/// The generator of `make_kinds.py`: its words and ranges are read from the script.
struct Generator {
    state: u64,
    words: Vec<String>,
    ranges: Vec<(u32, u32)>,
    rare: Vec<u32>,
}

impl Generator {
    fn new(seed: u64) -> Generator {
        let script = include_str!("scripts/make_kinds.py");
        let between = |begin: &str, end: &str| {
            let rest = &script[script.find(begin).expect("it is in the script") + begin.len()..];
            &rest[..rest.find(end).expect("it ends")]
        };
        let number = |t: &str| match t.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).expect("a number"),
            None => t.parse().expect("a number"),
        };
        let numbers = |text: &str| -> Vec<u32> {
            let parts = text.split(|c: char| !c.is_ascii_alphanumeric());
            parts.filter(|t| !t.is_empty()).map(number).collect()
        };
        let words = between("WORDS = \"\"\"", "\"\"\".split()").replace(r"\\", r"\");
        let ranges = numbers(between("RANGES = [", "]\n"));
        Generator {
            state: seed,
            words: words.split_whitespace().map(str::to_owned).collect(),
            ranges: ranges.chunks(2).map(|r| (r[0], r[1])).collect(),
            rare: numbers(between("RARE = [", "]")),
        }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) % n
    }

    fn word(&mut self) -> String {
        let at = self.below(self.words.len() as u64);
        self.words[at as usize].clone()
    }

    fn text(mut self, size: usize) -> String {
        let mut out = String::new();
        let char_of = |c: u64| char::from_u32(c as u32).expect("a character");
        while out.len() < size {
            let part = match self.below(32) {
                0..16 => {
                    let word = self.word();
                    word + if self.below(8) > 0 { " " } else { "" }
                }
                16..20 => {
                    let at = self.below(self.ranges.len() as u64);
                    let (low, high) = self.ranges[at as usize];
                    let (low, high) = (u64::from(low), u64::from(high));
                    let count = 1 + self.below(9);
                    (0..count).map(|_| char_of(low + self.below(high - low + 1))).collect()
                }
                20..23 => {
                    let digits = 1 + self.below(12);
                    self.below(10u64.pow(digits as u32)).to_string()
                }
                23..26 => {
                    let sign = [" ", "\n", "\t", "."][self.below(4) as usize];
                    sign.repeat(1 + self.below(5) as usize)
                }
                26 => {
                    let at = self.below(self.rare.len() as u64);
                    char_of(self.rare[at as usize].into()).to_string()
                }
                27 => self.word().to_uppercase() + ", ",
                28 => {
                    let all = ["\r\n", "\n\n  ", ". ", "!? ", " \t ", "'S ", "...", "--", "_", "\n"];
                    all[self.below(10) as usize].to_owned()
                }
                29 if self.below(40) == 0 => {
                    let sign = ["a", "=", "é", "日", " "][self.below(5) as usize];
                    sign.repeat(1 + self.below(400) as usize)
                }
                30 if self.below(40) == 0 => {
                    let count = self.below(800);
                    (0..count).map(|_| char_of(97 + self.below(26))).collect()
                }
                _ => {
                    let word = self.word();
                    word + &self.word() + " "
                }
            };
            out += &part;
        }
        out
    }
}

/// The tokenizer of a kind: a file, a description in a folder, or the byte-level vocabulary under a pre-tokenizer.
fn load(name: &str) -> Tokenizer {
    let file = if name.ends_with(".gguf") {
        ModelFile::open(data(name)).expect("it is committed")
    } else if name.ends_with(".json") {
        let folder = tempfile::tempdir().expect("a folder");
        let from = data("../../safetensors/llama-f32");
        for part in ["config.json", "model.safetensors"] {
            std::fs::copy(from.join(part), folder.path().join(part)).expect("copied");
        }
        std::fs::copy(data(name), folder.path().join("tokenizer.json")).expect("copied");
        let config = match name {
            "byte-level.json" => r#"{"bos_token": "<|endoftext|>"}"#,
            _ => r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "cls_token": "[CLS]"}"#,
        };
        std::fs::write(folder.path().join("tokenizer_config.json"), config).expect("written");
        ModelFile::open(folder.path()).expect("it is a model")
    } else {
        let bpe = ModelFile::open(data("bpe.gguf")).expect("it is committed");
        let strings = |key| -> Vec<String> {
            let array: StrArray<'_> = bpe.get(key).expect("the key is there");
            array.iter().map(|s| String::from_utf8(s.to_vec()).expect("it is UTF-8")).collect()
        };
        let mut w = GgufWriter::new();
        w.str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", name);
        w.strs("tokenizer.ggml.tokens", &strings("tokenizer.ggml.tokens"));
        w.strs("tokenizer.ggml.merges", &strings("tokenizer.ggml.merges"));
        let types: Vec<i32> = bpe.get("tokenizer.ggml.token_type").expect("it is there");
        w.i32s("tokenizer.ggml.token_type", &types);
        w.u32("tokenizer.ggml.bos_token_id", 0).u32("tokenizer.ggml.eos_token_id", 2);
        ModelFile::from_bytes(w.to_bytes().expect("writable")).expect("readable")
    };
    Tokenizer::from_file(&file).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Whether a kind keeps all of a text: WordPiece, words and normalized unigrams do not.
fn keeps_text(name: &str) -> bool {
    !["wordpiece.gguf", "wordpiece.json", "words.json", "unigram.json", "unigram.gguf"].contains(&name)
}

fn whole(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let text = tokenizer.decode(ids);
    if tokenizer.adds_space() { text[text.len().min(1)..].to_owned() } else { text }
}

/// Where two lists of ids part, with what is there.
fn differ(a: &[u32], b: &[u32], tokenizer: &Tokenizer) -> Option<String> {
    let at = (0..a.len().max(b.len())).find(|&i| a.get(i) != b.get(i))?;
    let show = |ids: &[u32]| {
        let near = &ids[at.saturating_sub(3)..ids.len().min(at + 4)];
        format!("{near:?} {:?}", tokenizer.decode(near))
    };
    Some(format!("at {at}: {} and not {}", show(a), show(b)))
}

#[test]
fn two_megabytes_of_each_kind() {
    let expected = expected();
    let text = Generator::new(1).text(2_000_000);
    let digest =
        |bytes: &[u8]| -> String { Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect() };
    assert_eq!(digest(text.as_bytes()), expected.text, "the generators differ");
    let mut faults = vec![];
    for (name, kind) in &expected.kinds {
        let tokenizer = load(name);
        for (text, ids) in expected.short.iter().zip(&kind.short) {
            if let Some(what) = differ(&tokenizer.encode(text, true), ids, &tokenizer) {
                faults.push(format!("{name}: {text:?}: {what}"));
            }
        }
        let ids = tokenizer.with_specials(tokenizer.encode("Hello world", true));
        if let Some(what) = differ(&ids, &kind.with_specials, &tokenizer) {
            faults.push(format!("{name}: with specials: {what}"));
        }
        let ids = tokenizer.encode(&text, true);
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        if (ids.len(), digest(&bytes)) != (kind.count, kind.sha256.clone()) {
            faults.push(format!("{name}: {} ids and not {}, or others", ids.len(), kind.count));
            if let Some(folder) = std::env::var_os("LATHE_TEST_IDS") {
                std::fs::write(Path::new(&folder).join(format!("{name}.ids")), &bytes).expect("written");
            }
        }
        if keeps_text(name) {
            let same = match tokenizer.adds_space() {
                true => text.replace('\u{2581}', " "),
                false => text.clone(),
            };
            if whole(&tokenizer, &ids) != same {
                faults.push(format!("{name}: it decodes to another text"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// `cargo test --release -p lathe-models --test tokenizer_kinds -- --ignored --nocapture` prints the speeds.
#[test]
#[ignore = "measures: it prints speeds and checks nothing"]
fn speed_of_each_kind() {
    let text = Generator::new(1).text(2_000_000);
    for name in expected().kinds.keys() {
        // The second time, words are remembered.
        let tokenizer = load(name);
        let speed = || {
            let start = Instant::now();
            let ids = tokenizer.encode(&text, true);
            (text.len() as f64 / 1e6 / start.elapsed().as_secs_f64(), ids.len())
        };
        let ((first, tokens), (second, _)) = (speed(), speed());
        println!("{name:20} {tokens:8} tokens, {first:6.1} MB/s, then {second:6.1}");
    }
}

#[test]
fn one_letter_a_million_times_takes_no_quadratic_time() {
    for name in ["spm.gguf", "unigram.gguf", "wordpiece.gguf", "tekken", "deepseek-llm"] {
        let tokenizer = load(name);
        for unit in ["a", " ", "日", "x ", "\n"] {
            let text = unit.repeat(1_000_000 / unit.len());
            let start = std::time::Instant::now();
            tokenizer.encode(&text, true);
            let time = start.elapsed();
            assert!(time.as_secs() < 30, "{name}: {unit:?}: {time:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn texts_come_back_and_stream(text in "([ \t\r\n'’0-9a-zA-Z½Ⅷ９é日😀$:_]|<s>|<mask>|<\\|im_end\\||\\PC){0,40}") {
        thread_local! {
            static KINDS: Vec<(&'static str, Tokenizer)> =
                ["spm.gguf", "tekken", "deepseek-v3", "bpe.gguf", "byte-level.json", "metaspace.json"].map(|n| (n, load(n))).into();
        }
        KINDS.with(|kinds| -> Result<(), TestCaseError> {
            for (name, tokenizer) in kinds {
                for special in [true, false] {
                    let ids = tokenizer.encode(&text, special);
                    let mut stream = StreamDecoder::new();
                    let mut streamed: String = ids.iter().map(|&id| stream.push(tokenizer, id)).collect();
                    streamed += &stream.finish();
                    prop_assert_eq!(&streamed, &tokenizer.decode(&ids), "{}", name);
                    // A vocabulary that puts a space before a text does so after each special token.
                    if !tokenizer.adds_space() {
                        prop_assert_eq!(&streamed, &text, "{}", name);
                    } else if !text.contains('<') && !text.contains('\u{2581}') {
                        prop_assert_eq!(&whole(tokenizer, &ids), &text, "{}", name);
                    }
                }
            }
            Ok(())
        })?;
    }

    /// Where our own loops stand for what a `tokenizer.json` describes, the crate of that format makes the same ids.
    #[test]
    fn descriptions_are_read_as_their_own_crate_does(
        text in "([ \t\r\n'’0-9a-zA-Z½Ⅷ９é日😀$:_\u{2581}\u{301}]|  |<s>|<mask>|\\[SEP\\]|<pad>|\\PC){0,40}"
    ) {
        thread_local! {
            static KINDS: Vec<(&'static str, Tokenizer, [tokenizers::Tokenizer; 2])> =
                ["metaspace.json", "unigram.json", "wordpiece.json"].map(|n| {
                    let theirs = tokenizers::Tokenizer::from_file(data(n)).expect("it is committed");
                    let mut plain = theirs.clone();
                    plain.set_encode_special_tokens(true);
                    (n, load(n), [theirs, plain])
                }).into();
        }
        KINDS.with(|kinds| -> Result<(), TestCaseError> {
            for (name, ours, theirs) in kinds {
                for (special, theirs) in [true, false].into_iter().zip(theirs) {
                    let ids = theirs.encode_fast(text.as_str(), false).expect("it has an unknown token");
                    prop_assert_eq!(&ours.encode(&text, special), ids.get_ids(), "{} {}", name, special);
                }
            }
            Ok(())
        })?;
    }
}
