//! `lathe inspect`: the same of a model whether it is a GGUF file or a folder, and something of models nobody knows.

use std::path::{Path, PathBuf};
use std::process::Command;

use lathe_models::{GgmlType, GgufWriter};
use serde_json::{Value, json};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-models/tests/data").join(name)
}

fn inspect(path: &Path, options: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_lathe")).arg("inspect").arg(path).args(options).output();
    let output = output.expect("lathe runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it is UTF-8")
}

fn object(path: &Path) -> Value {
    serde_json::from_str(&inspect(path, &["--json", "--tensors"])).expect("one object")
}

#[test]
fn a_folder_is_as_its_gguf_file() {
    for name in ["llama-f32", "qwen2-f32", "mixtral-f32"] {
        let mut both =
            [data(&format!("tiny/{name}.gguf")), data(&format!("safetensors/{name}"))].map(|p| object(&p));
        assert_eq!((&both[0]["format"], &both[1]["format"]), (&json!("GGUF 3"), &json!("safetensors")));
        for one in &mut both {
            let all = one.as_object_mut().expect("an object");
            for differs in ["format", "files", "bytes"] {
                all.remove(differs);
            }
            // A folder says the size of a head, also where it follows.
            all["shapes"].as_object_mut().expect("an object").remove("head_size");
            all["tensors"].as_array_mut().expect("a list").sort_by_key(|t| t["name"].to_string());
        }
        let [gguf, folder] = both;
        assert_eq!(gguf, folder, "{name}");
        assert_eq!(gguf["supported"], true);
    }
}

#[test]
fn sizes_are_those_of_the_file() {
    let one = object(&data("tiny/llama-q4_1.gguf"));
    assert_eq!(one["encodings"]["Q4_1"]["bytes"], 38400);
    assert_eq!(one["shapes"]["layers"], 2);
    let sum: u64 =
        one["tensors"].as_array().expect("a list").iter().filter_map(|t| t["bytes"].as_u64()).sum();
    let bytes = std::fs::metadata(data("tiny/llama-q4_1.gguf")).expect("it is there").len();
    assert!(sum < bytes && one["bytes"] == bytes, "{sum} of {bytes}");
    let text = inspect(&data("tiny/llama-q4_1.gguf"), &["--tensors"]);
    assert!(text.contains("token_embd.weight [128, 64]"), "{text}");
    let template = inspect(&data("tiny/llama-q4_1.gguf"), &["--template"]);
    assert_eq!(template.trim_end(), one["chat_template"].as_str().expect("a text").trim_end());
}

#[test]
fn unknown_families_are_described() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("m.gguf");
    let mut w = GgufWriter::new();
    w.str("general.architecture", "ze\u{1b}[2Jbra").u32("ze\u{1b}[2Jbra.block_count", 3);
    w.tensor("t", &[2, 32], GgmlType::Q8_0, vec![0; 68]);
    w.write(&path).expect("writable");
    let text = inspect(&path, &[]);
    assert!(text.contains("bra (not supported)") && !text.contains('\u{1b}'), "{text}");
    assert!(text.contains("layers             3") && text.contains("Q8_0       1 tensors"), "{text}");
    assert_eq!(object(&path)["supported"], false);
}
