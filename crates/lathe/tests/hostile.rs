//! Files made to do harm: GGUF files and sets, safetensors folders with their headers, indices and settings. Each gives one
//! clear line and exit code 2, in less than two seconds and 200 MB.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lathe_models::{GgmlType, GgufWriter};
use tempfile::TempDir;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-models/tests/data").join(name)
}

/// Runs the model at `path`, which is to fail with this code and these words.
fn fails(code: &str, words: &str, path: &Path) {
    let start = Instant::now();
    let output = Command::new("sh")
        .args(["-c", "ulimit -v 204800; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_lathe")])
        .args(["run", "--raw", "--max-tokens", "1", "the band", "--model"])
        .arg(path)
        .env("LATHE_CACHE", std::env::temp_dir().join("lathe-hostile"))
        .stdin(Stdio::null())
        .output()
        .expect("lathe runs");
    let took = start.elapsed();
    let text = String::from_utf8_lossy(&output.stderr);
    let case = format!("{code}, {words}: {text}");
    assert_eq!(output.status.code(), Some(2), "{case}");
    assert!(output.stdout.is_empty() && text.lines().count() == 1, "{case}");
    assert!(text.starts_with(&format!("error[{code}]: ")) && text.contains(words), "{case}");
    assert!(text.len() < 1000 && !text.contains("defect in lathe"), "{case}");
    assert!(took < Duration::from_secs(2), "{took:?} for {case}");
}

/// A copy of a folder of the test data.
fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(data(name)).expect("it is committed") {
        let from = entry.expect("an entry").path();
        fs::copy(&from, folder.path().join(from.file_name().expect("a name"))).expect("writable");
    }
    folder
}

/// A sound folder with one file replaced.
fn with(code: &str, words: &str, base: &str, file: &str, bytes: impl AsRef<[u8]>) {
    let folder = copy(base);
    fs::write(folder.path().join(file), bytes).expect("writable");
    fails(code, words, folder.path());
}

const ONE: &str = "safetensors/llama-f32";
const SHARDS: &str = "safetensors/qwen2-f32";
const INDEX: &str = "model.safetensors.index.json";

/// A safetensors file with this header and so many bytes behind it.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn tensor(name: &str, dtype: &str, shape: &str, from: i64, to: i64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
}

#[test]
fn headers_of_safetensors() {
    let bytes =
        |words: &str, bytes: Vec<u8>| with("safetensors-header", words, ONE, "model.safetensors", bytes);
    let header = |words: &str, header: &str| bytes(words, safetensors(header, 16));
    bytes("has 0 bytes", vec![]);
    bytes("has 7 bytes", vec![0; 7]);
    bytes("claims 18446744073709551615 bytes", vec![0xff; 64]);
    bytes("claims 1000 bytes", [&1000u64.to_le_bytes()[..], b"{}"].concat());
    bytes("more than the", safetensors(&" ".repeat(17 << 20), 0));
    header("cannot be read", "no JSON");
    header("cannot be read", "[1, 2]");
    header("cannot be read", "{\"a\":\u{0}}");
    header("cannot be read", &format!("{{\"a\":{}", "[".repeat(1 << 20)));
    header("cannot be read", &format!("{{\"__metadata__\":{}", "[".repeat(1 << 20)));
    // A shape of millions of extents.
    header("cannot be read", &format!("{{\"a\":{{\"shape\":[{}", "1,".repeat(7 << 20)));
    header("appears twice", &format!("{{{0},{0}}}", tensor("a", "F32", "[2]", 0, 8)));
    header(
        "overlaps",
        &format!("{{{},{}}}", tensor("a", "F32", "[3]", 0, 12), tensor("b", "F32", "[2]", 8, 16)),
    );
    header("a hole before", &format!("{{{}}}", tensor("a", "F32", "[2]", 8, 16)));
    header("belong to none", &format!("{{{}}}", tensor("a", "F32", "[2]", 0, 8)));
    header("lies at bytes 0 to 32 of 16", &format!("{{{}}}", tensor("a", "F32", "[8]", 0, 32)));
    header("lies at bytes 16 to 0", &format!("{{{}}}", tensor("a", "F32", "[4]", 16, 0)));
    header("cannot have 16 bytes", &format!("{{{}}}", tensor("a", "F32", "[5]", 0, 16)));
    header("cannot have 16 bytes", &format!("{{{}}}", tensor("a", "F32", "[4611686018427387905,4]", 0, 16)));
    header("cannot be read", &format!("{{{}}}", tensor("a", "F32", "[-4]", 0, 16)));
    header("cannot be read", &format!("{{{}}}", tensor("a", "F32", "[4]", -16, 16)));
    header("cannot be read", &format!("{{{}}}", tensor("a", "F32", "[4.5]", 0, 16)));
    header("5 dimensions", &format!("{{{}}}", tensor("a", "F32", "[1,1,1,1,4]", 0, 16)));
    header("unknown type 'F33'", &format!("{{{}}}", tensor("a", "F33", "[4]", 0, 16)));
    header("a name of 5000 bytes", &format!("{{{}}}", tensor(&"n".repeat(5000), "F32", "[4]", 0, 16)));
}

#[test]
fn tensors_of_safetensors() {
    let model = |words: &str, parts: &[String], data: usize| {
        let bytes = safetensors(&format!("{{{}}}", parts.join(",")), data);
        with("safetensors-tensor", words, ONE, "model.safetensors", bytes);
    };
    let embedding =
        |dtype: &str, shape: &str, to: i64| tensor("model.embed_tokens.weight", dtype, shape, 0, to);
    model("is in I64", &[embedding("I64", "[2]", 16)], 16);
    model("empty dimension", &[embedding("F32", "[0,4]", 0)], 0);
    // As many tensors as a header holds, and then more.
    let many =
        |n: usize| -> Vec<String> { (0..n).map(|i| tensor(&format!("{i}"), "U8", "[0]", 0, 0)).collect() };
    model("is in U8", &many(260_000), 0);
    let million = safetensors(&format!("{{{}}}", many(1_000_000).join(",")), 0);
    with("safetensors-header", "more than the", ONE, "model.safetensors", million);
    // Two names for one tensor, a stack with a hole, and experts that differ.
    let twice = [
        tensor("model.embed_tokens.weight", "F32", "[1]", 0, 4),
        tensor("embed_tokens.weight", "F32", "[1]", 4, 8),
    ];
    model("is one of two for 'token_embd.weight'", &twice, 8);
    let expert = |n: &str, shape: &str, at: i64| {
        tensor(&format!("model.layers.0.mlp.experts.{n}.up_proj.weight"), "F32", shape, at, at + 16)
    };
    model("has no expert 1", &[expert("0", "[2,2]", 0), expert("2", "[2,2]", 16)], 32);
    model("the expert before it", &[expert("0", "[2,2]", 0), expert("1", "[4,1]", 16)], 32);
    model("has no expert 0", &[expert("18446744073709551615", "[2,2]", 0)], 16);
    // Sound tensors that are not those of the model.
    let alone = safetensors(&format!("{{{}}}", embedding("F32", "[128,32]", 16384)), 16384);
    with("family-tensor", "is missing", ONE, "model.safetensors", alone);
    let small = safetensors(&format!("{{{}}}", embedding("F32", "[128,31]", 15872)), 15872);
    with("family-shape", "[128, 31]", ONE, "model.safetensors", small);
}

#[test]
fn indices_of_safetensors() {
    let index = |code: &str, words: &str, text: &str| with(code, words, SHARDS, INDEX, text);
    let map =
        |words: &str, map: &str| index("safetensors-index", words, &format!("{{\"weight_map\":{map}}}"));
    index("safetensors-json", "the JSON that is needed", "{");
    index("safetensors-json", "the JSON that is needed", "{\"weight_map\":[1]}");
    index("safetensors-json", "the JSON that is needed", &"[".repeat(1 << 20));
    index("safetensors-json", "more than 16777216 bytes", &" ".repeat(17 << 20));
    map("names 0 shards", "{}");
    for escape in [
        "../x.safetensors",
        "/etc/passwd",
        "/tmp/x.safetensors",
        "a\\\\b.safetensors",
        "a/b.safetensors",
        ".x.safetensors",
        "model.safetensors.index.json",
        "\\u0000.safetensors",
    ] {
        map("is no name of a shard", &format!("{{\"a\":\"{escape}\"}}"));
    }
    map("the shard x.safetensors is missing", "{\"a\":\"x.safetensors\"}");
    let many: Vec<String> = (0..5000).map(|i| format!("\"{i}\":\"{i}.safetensors\"")).collect();
    map("names 5000 shards", &format!("{{{}}}", many.join(",")));
    let sound = fs::read_to_string(data(SHARDS).join(INDEX)).expect("it is committed");
    let moved = sound.replacen("model-00002-of-00004", "model-00001-of-00004", 1);
    index("safetensors-index", "where the index does not have it", &moved);
    let more = sound.replacen(
        "\"weight_map\": {",
        "\"weight_map\": {\"a\": \"model-00001-of-00004.safetensors\",",
        1,
    );
    index("safetensors-index", "does not have tensor 'a'", &more);
    // A shard that leads to itself.
    #[cfg(unix)]
    {
        let folder = copy(SHARDS);
        let shard = folder.path().join("model-00001-of-00004.safetensors");
        fs::remove_file(&shard).expect("it is there");
        std::os::unix::fs::symlink(&shard, &shard).expect("it can be made");
        fails("safetensors-index", "model-00001-of-00004.safetensors is missing", folder.path());
    }
}

#[test]
fn settings_of_safetensors() {
    let config = |code: &str, words: &str, text: &str| with(code, words, ONE, "config.json", text);
    config("safetensors-json", "the JSON that is needed", "");
    config("safetensors-json", "the JSON that is needed", "[]");
    config("safetensors-json", "the JSON that is needed", &format!("{{\"a\":{}", "[".repeat(1 << 20)));
    config("safetensors-json", "more than 4194304 bytes", &" ".repeat(5 << 20));
    config("safetensors-config", "'model_type' is missing", "{}");
    config("family-unknown", "'zebra'", "{\"model_type\":\"zebra\"}");
    let sound = fs::read_to_string(data(ONE).join("config.json")).expect("it is committed");
    let changed = |code: &str, words: &str, key: &str, value: &str| {
        let lines: Vec<String> = sound
            .lines()
            .map(|line| match line.trim_start().starts_with(&format!("\"{key}\":")) {
                true => format!("\"{key}\": {value},"),
                false => line.to_owned(),
            })
            .collect();
        let text = lines.join("\n");
        assert_ne!(text, sound, "{key}");
        config(code, words, &text);
    };
    let setting = |words: &str, key: &str, value: &str| changed("safetensors-config", words, key, value);
    setting("'model_type' is 7", "model_type", "7");
    setting("'num_hidden_layers' is -3", "num_hidden_layers", "-3");
    setting("'num_hidden_layers' is 1099511627776", "num_hidden_layers", "1099511627776");
    setting("'hidden_size' is 32.5", "hidden_size", "32.5");
    setting("'rms_norm_eps' is \"NaN\"", "rms_norm_eps", "\"NaN\"");
    setting("'text_config' is [1]", "use_cache", "true, \"text_config\": [1]");
    changed("family-value", "attention.head_count", "num_attention_heads", "0");
    changed("family-value", "a divisor of 4", "num_key_value_heads", "3");
    changed("family-value", "layer_norm_rms_epsilon", "rms_norm_eps", "-1.0");
    changed("family-value", "block_count", "num_hidden_layers", "4294967295");
    changed("family-tensor", "blk.2.", "num_hidden_layers", "1000000");
    changed("family-shape", "asks for", "hidden_size", "64");
    // What follows of the sound object becomes another.
    let scaling = |words: &str, value: &str| {
        setting(words, "rope_parameters", &format!("{{\"rope_type\": {value}}}, \"x\": {{\"y\": 0"));
    };
    scaling("'rope_parameters.rope_type' is 5", "5");
    scaling("'rope_parameters.factor' is missing", "\"llama3\"");
    scaling("'rope_parameters.factor' is missing", "\"linear\", \"factor\": -2");
    scaling("'rope_parameters.long_factor' is something else", "\"longrope\", \"long_factor\": [1, -1]");
    let tokenizer = |code: &str, words: &str, text: &str| with(code, words, ONE, "tokenizer.json", text);
    let json = "safetensors-json";
    tokenizer(json, "the JSON that is needed", "{\"model\": 1}");
    let bytes = "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}";
    let ids = |words: &str, vocabulary: &str| {
        tokenizer(json, words, &format!("{{{bytes}, \"model\": {{\"vocab\": {vocabulary}}}}}"));
    };
    ids("ids up to 4294967295", "{\"a\": 4294967295}");
    ids("have the same id 3", "{\"a\": 3, \"b\": 3}");
    // Kinds that the `tokenizers` crate reads.
    let other = "tokenizer-malformed";
    tokenizer(other, "tokenizer.json cannot be read", "{\"model\": {\"vocab\": {\"a\": 3}}}");
    tokenizer(
        other,
        "tokenizer.json cannot be read",
        "{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", 1.5]], \"unk_id\": 7}}",
    );
    let template = |words: &str, single: &str| {
        let model = "\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}, \"unk_token\": \"a\"}";
        let processor =
            format!("\"TemplateProcessing\", \"single\": [{single}], \"pair\": [], \"special_tokens\": {{}}");
        tokenizer(other, words, &format!("{{{model}, \"post_processor\": {{\"type\": {processor}}}}}"));
    };
    template(
        "a token \"b\" that special_tokens does not",
        "{\"SpecialToken\": {\"id\": \"b\", \"type_id\": 0}}",
    );
    template("has a second one", "{\"Sequence\": {\"id\": \"B\", \"type_id\": 0}}");
    let folder = copy(ONE);
    fs::remove_file(folder.path().join("chat_template.jinja")).expect("it is there");
    fs::write(folder.path().join("tokenizer_config.json"), "{\"chat_template\": 1}").expect("writable");
    fails("safetensors-config", "'chat_template' is something else", folder.path());
}

#[test]
fn matrices_of_four_bits() {
    let base = "safetensors/quantized/gptq-32";
    let sound = fs::read_to_string(data(base).join("config.json")).expect("it is committed");
    let config = |words: &str, from: &str, to: &str| {
        assert!(sound.contains(from), "{from}");
        with("safetensors-config", words, base, "config.json", sound.replace(from, to));
    };
    config("bits' is 3, where 4", "\"bits\": 4", "\"bits\": 3");
    config("quant_method' is 'zip'", "\"gptq\"", "\"zip\"");
    config("group_size' is 0", "32", "0");
    config("group_size' is -9", "32", "-9");
    config("version' is 'gemv'", "\"gptq\"", "\"awq\", \"version\": \"gemv\"");
    config("quantization_config' is [4]", "{\"quant_method\"", "[4], \"x\": {\"quant_method\"");
    let config = |words: &str, from: &str, to: &str| {
        with("safetensors-tensor", words, base, "config.json", sound.replace(from, to));
    };
    config("groups of 48 do not fit", "32", "48");
    config("names group 1 of 1", "32", "64");
    config("[4, 2] is needed", "32", "16");
    config("8 inputs and 128 outputs, which groups of 32 do not fit", "\"gptq\"", "\"awq\"");
    let file = fs::read(data(base).join("model.safetensors")).expect("it is committed");
    let text = String::from_utf8_lossy(&file).into_owned();
    let changed = |words: &str, from: &str, to: &str| {
        let at = text.find(from).expect("the header has it");
        let mut bytes = file.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        with("safetensors-tensor", words, base, "model.safetensors", bytes);
    };
    changed("qzeros' is missing", "qzeros", "qzeroz");
    changed("qweight' is missing", "qweight", "qweighs");
    changed("is F32 ", "\"I32\"", "\"F32\"");
    // The last group of `g_idx` is outside: 32-bit numbers 0 and 1 become all ones.
    let mut bytes = file.clone();
    let zero_then_one = [[0u8; 4].repeat(32), [1, 0, 0, 0].repeat(32)].concat();
    let at = bytes.windows(256).position(|w| w == zero_then_one).expect("the groups are there");
    bytes[at..at + 4].fill(0xff);
    with("safetensors-tensor", "names group -1 of 2", base, "model.safetensors", bytes);
}

/// The tiny Llama's bytes with something changed behind the first place where `mark` is.
fn gguf(mark: &str, change: &dyn Fn(&mut [u8])) -> Vec<u8> {
    let mut bytes = fs::read(data("tiny/llama-f32.gguf")).expect("it is committed");
    let at = bytes.windows(mark.len()).position(|w| w == mark.as_bytes()).expect("the file has it");
    change(&mut bytes[at + mark.len()..]);
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: impl AsRef<[u8]>) {
    bytes[at..at + value.as_ref().len()].copy_from_slice(value.as_ref());
}

#[test]
fn gguf_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |code: &str, words: &str, bytes: Vec<u8>| {
        let path = folder.path().join("m.gguf");
        fs::write(&path, bytes).expect("writable");
        fails(code, words, &path);
    };
    // Behind a key stand the type and the value.
    let value = |code: &str, words: &str, key: &str, value: &[u8]| {
        file(code, words, gguf(key, &|b| put(b, 4, value)));
    };
    value("family-value", "block_count", "llama.block_count", &u32::MAX.to_le_bytes());
    value("family-tensor", "blk.2.", "llama.block_count", &1_000_000u32.to_le_bytes());
    value("family-value", "embedding_length", "llama.embedding_length", &[0; 4]);
    value("family-value", "head_count", "llama.attention.head_count", &[0; 4]);
    value("family-value", "rms_epsilon", "llama.attention.layer_norm_rms_epsilon", &f32::NAN.to_le_bytes());
    value("family-value", "freq_base", "llama.rope.freq_base", &f32::INFINITY.to_le_bytes());
    value("tokenizer-malformed", "bos_token_id", "tokenizer.ggml.bos_token_id", &u32::MAX.to_le_bytes());
    // An array's element type, then its length.
    value(
        "gguf-malformed",
        "array elements",
        "tokenizer.ggml.tokens",
        &[8, 0, 0, 0, 255, 255, 255, 255, 255],
    );
    value("gguf-malformed", "unknown type", "tokenizer.ggml.tokens", &[99]);
    file("gguf-malformed", "unknown type", gguf("llama.block_count", &|b| put(b, 0, 77u32.to_le_bytes())));
    file("gguf-value", "where an integer", gguf("llama.block_count", &|b| put(b, 0, 6u32.to_le_bytes())));
    let length = |b: &mut [u8]| put(b, 4, u64::MAX.to_le_bytes());
    file("gguf-truncated", "general.architecture", gguf("general.architecture", &length));

    let written = |code: &str, words: &str, write: &dyn Fn(&mut GgufWriter)| {
        let mut w = GgufWriter::new();
        write(&mut w);
        file(code, words, w.to_bytes().expect("writable"));
    };
    let one = |w: &mut GgufWriter, name: &str| {
        w.tensor(name, &[1], GgmlType::F32, vec![0; 4]);
    };
    written("gguf-key", "general.architecture", &|_| ());
    written("gguf-malformed", "tensor 'a' appears twice", &|w| ["a", "a"].iter().for_each(|n| one(w, n)));
    written("gguf-malformed", "key 'k' appears twice", &|w| {
        w.u32("k", 1).u32("k", 2);
    });
    for (alignment, words) in [(0, "alignment is 0"), (24, "alignment is 24")] {
        written("gguf-malformed", words, &|w| {
            w.u32("general.alignment", alignment);
            one(w, "a");
        });
    }
    written("gguf-truncated", "needs bytes", &|w| {
        w.u32("general.alignment", 1 << 31);
        one(w, "a");
    });
    written("family-unknown", "'zebra'", &|w| {
        w.str("general.architecture", "zebra");
        (0..300_000).for_each(|i| one(w, &format!("{i}")));
    });
    let factors = Tiny::new().with("rope_freqs.weight", &[4], &f32::NAN.to_le_bytes().repeat(4));
    file("family-values", "rope_freqs.weight", factors);
}

/// The tiny Llama written again with one tensor more.
struct Tiny(lathe_models::ModelFile);

impl Tiny {
    fn new() -> Self {
        Self(lathe_models::ModelFile::open(data("tiny/llama-f32.gguf")).expect("it is committed"))
    }

    fn with(self, name: &str, shape: &[usize], bytes: &[u8]) -> Vec<u8> {
        let mut w = GgufWriter::new();
        for key in self.0.keys() {
            if let Ok(Some(text)) = self.0.find::<&str>(key) {
                w.str(key, text);
            } else if let Ok(Some(n)) = self.0.find::<u32>(key) {
                w.u32(key, n);
            } else if let Ok(Some(x)) = self.0.find::<f32>(key) {
                w.f32(key, x);
            } else if let Ok(Some(all)) = self.0.find::<lathe_models::StrArray<'_>>(key) {
                let all: Vec<String> = all.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect();
                w.strs(key, &all);
            } else if let Ok(Some(all)) = self.0.find::<Vec<i32>>(key) {
                w.i32s(key, &all);
            }
        }
        for t in self.0.tensors() {
            w.tensor(t.name(), &t.shape(), t.ty(), self.0.data(t).into_owned());
        }
        w.tensor(name, shape, GgmlType::F32, bytes.to_vec());
        w.to_bytes().expect("writable")
    }
}

#[test]
fn sets_of_gguf_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let part = |name: &str, no: u32, count: u32| {
        let mut w = GgufWriter::new();
        w.str("general.architecture", "llama").u32("split.no", no).u32("split.count", count);
        let path = folder.path().join(name);
        fs::write(&path, w.to_bytes().expect("writable")).expect("writable");
        path
    };
    let first = part("m-00001-of-00002.gguf", 0, 2);
    fails("gguf-split", "part 2 of 2 cannot be opened", &first);
    fails("gguf-split", "its name must end in", &part("m.gguf", 0, 2));
    fails("gguf-split", "its name must end in", &part("n-00001-of-00002.gguf", 0, u32::MAX));
    fails("gguf-split", "part 2 of 65535 cannot be opened", &part("m-00001-of-65535.gguf", 0, 65535));
    fails("gguf-split", "its split.no is 9", &part("o-00001-of-00002.gguf", 9, 2));
    // A part that leads back to the first.
    #[cfg(unix)]
    {
        let second = folder.path().join("m-00002-of-00002.gguf");
        std::os::unix::fs::symlink(&first, &second).expect("it can be made");
        fails("gguf-split", "its split.no is 0, by its name it is 1", &first);
        fails("gguf-split", "its name must end in -00001-of-00002.gguf", &second);
    }
}
