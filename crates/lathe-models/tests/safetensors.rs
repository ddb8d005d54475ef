//! Folders as `transformers` saves them (tests/scripts/make_safetensors.py) against the same models as GGUF files, against the
//! names of the `gguf` package, and 4-bit matrices against their values.

use std::fs;
use std::path::{Path, PathBuf};

use lathe_models::{ChatTemplate, GgmlType, Message, ModelFile, TensorInfo, Tokenizer, dequantize};
use serde_json::Value;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn open(path: &Path) -> ModelFile {
    ModelFile::open(path).unwrap_or_else(|e| panic!("{e}"))
}

fn values(file: &ModelFile, t: &TensorInfo) -> Vec<f32> {
    let mut out = vec![0.0; t.elements()];
    assert_eq!(dequantize(t.ty(), &file.data(t), &mut out), out.len(), "{}", t.name());
    out
}

/// From halves to neighbours: row `i` of a head's first half becomes row `2i`.
fn interleaved(rows: &[f32], width: usize, head: usize) -> Vec<f32> {
    let row = |i: usize| &rows[i * width..(i + 1) * width];
    let source = |i: usize| i / head * head + i % head / 2 + i % 2 * (head / 2);
    (0..rows.len() / width).flat_map(|i| row(source(i)).iter().copied()).collect()
}

#[test]
fn folders_are_as_their_gguf_files() {
    for name in ["llama-f32", "llama-bf16", "qwen2-f32", "mixtral-f32"] {
        let gguf = open(&data(&format!("tiny/{name}.gguf")));
        let folder = open(&data(&format!("safetensors/{name}")));
        let family = gguf.get_str("general.architecture").expect("it has one");
        assert_eq!(folder.get_str("general.architecture").expect("it has one"), family);
        for key in ["block_count", "context_length", "embedding_length", "feed_forward_length"]
            .into_iter()
            .chain(["attention.head_count", "attention.head_count_kv", "vocab_size", "rope.dimension_count"])
            .chain(["expert_count", "expert_used_count"])
        {
            let number = |file: &ModelFile| file.find::<u32>(&format!("{family}.{key}")).expect("a number");
            assert_eq!(number(&folder), number(&gguf), "{name}: {key}");
        }
        for key in ["attention.layer_norm_rms_epsilon", "rope.freq_base"] {
            let number = |file: &ModelFile| file.get_f32(&format!("{family}.{key}")).expect("a number");
            assert_eq!(number(&folder), number(&gguf), "{name}: {key}");
        }
        assert_eq!(folder.tensors().len(), gguf.tensors().len(), "{name}");
        for t in gguf.tensors() {
            let found = folder.tensor(t.name()).unwrap_or_else(|| panic!("{name} has no {}", t.name()));
            assert_eq!((found.shape(), found.ty()), (t.shape(), t.ty()), "{name}: {}", t.name());
            let mut got = values(&folder, found);
            let rotates = t.name().ends_with("attn_q.weight") || t.name().ends_with("attn_k.weight");
            if rotates && family == "llama" {
                let head = gguf.get_u32("llama.rope.dimension_count").expect("it is there") as usize;
                got = interleaved(&got, t.dims()[0], head);
            }
            assert!(got == values(&gguf, t), "{name}: {}", t.name());
            folder.drop_pages(found);
        }
        let tokenizer = |file: &ModelFile| Tokenizer::from_file(file).unwrap_or_else(|e| panic!("{e}"));
        let template = |file: &ModelFile| {
            let template = ChatTemplate::from_file(file).unwrap_or_else(|e| panic!("{e}"));
            template.render(&[Message::new("user", "the band")], true, "", "").expect("it renders")
        };
        let text = template(&gguf);
        assert_eq!(template(&folder), text, "{name}");
        for text in [&*text, "in the and  99 (words)\n", "<|im_end|>over there"] {
            assert_eq!(tokenizer(&folder).encode(text, true), tokenizer(&gguf).encode(text, true), "{name}");
        }
        let ends = |file| tokenizer(file).is_end(2) && !tokenizer(file).is_end(5);
        assert!(ends(&folder) && ends(&gguf), "{name}");
    }
}

/// Writes a folder with these tensors, all zero.
fn zeros(folder: &Path, config: &Value, tensors: &[Value]) {
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for t in tensors {
        let shape: Vec<u64> = t[2].as_array().expect("a shape").iter().filter_map(Value::as_u64).collect();
        let width = match t[1].as_str() {
            Some("F32") => 4,
            Some("I64") => 8,
            _ => 1,
        };
        let bytes = shape.iter().product::<u64>() * width;
        let entry = serde_json::json!({ "dtype": t[1], "shape": shape, "data_offsets": [at, at + bytes] });
        header.insert(t[0].as_str().expect("a name").to_owned(), entry);
        at += bytes;
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + at as usize, 0);
    fs::write(folder.join("model.safetensors"), bytes).expect("it can be written");
    fs::write(folder.join("config.json"), config.to_string()).expect("it can be written");
}

#[test]
fn tensors_have_the_names_of_gguf() {
    let text = fs::read_to_string(data("safetensors/names.json")).expect("it is committed");
    let kinds: Vec<Value> = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!(kinds.len(), 13);
    for kind in kinds {
        let folder = tempfile::tempdir().expect("a folder");
        let tensors = kind["tensors"].as_array().expect("a list");
        zeros(folder.path(), &kind["config"], tensors);
        let file = open(folder.path());
        let model = kind["config"]["model_type"].as_str().expect("a name");
        assert_eq!(file.get_str("general.architecture").expect("it has one"), kind["family"], "{model}");
        let mut wanted: Vec<&str> = tensors.iter().filter_map(|t| t[3].as_str()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut found: Vec<&str> = file.tensors().iter().map(TensorInfo::name).collect();
        found.sort_unstable();
        assert_eq!(found, wanted, "{model}");
        for t in file.tensors() {
            let values = values(&file, t);
            // Gemma keeps its norms less one.
            let one = model.starts_with("gemma") && t.name().ends_with("norm.weight");
            assert!(values.iter().all(|x| *x == if one { 1.0 } else { 0.0 }), "{model}: {}", t.name());
            assert!(t.dims().len() > 1 || t.ty() == GgmlType::F32);
        }
        // Conv1D of GPT-2 keeps its matrices by input; experts are stacked.
        let shape = |name: &str| file.tensor(name).map(TensorInfo::shape);
        if model == "gpt2" {
            assert_eq!(shape("blk.0.attn_qkv.weight"), Some(vec![96, 32]));
        }
        if model == "qwen3_moe" {
            assert_eq!(shape("blk.1.ffn_down_exps.weight"), Some(vec![4, 32, 24]));
        }
    }
}

#[test]
fn four_bit_matrices_have_their_values_exactly() {
    let cases = [
        ("gptq-32", GgmlType::Q8_0),
        ("gptq-64-symmetric", GgmlType::Q4_0),
        ("gptq-128-order", GgmlType::F32),
        ("gptq-v2", GgmlType::Q8_0),
        ("awq-64", GgmlType::Q8_0),
        ("awq-128-f32", GgmlType::F32),
    ];
    for (name, ty) in cases {
        let folder = data(&format!("safetensors/quantized/{name}"));
        let file = open(&folder);
        let [t] = file.tensors() else { panic!("{name} has one tensor") };
        assert_eq!((t.name(), t.ty()), ("blk.0.ffn_down.weight", ty), "{name}");
        assert_eq!(file.data(t).len(), t.byte_len(), "{name}");
        let bytes = fs::read(folder.join("values.bin")).expect("it is committed");
        let want: Vec<f32> =
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert!(values(&file, t) == want, "{name}");
    }
}
