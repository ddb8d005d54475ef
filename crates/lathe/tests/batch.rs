//! `lathe batch`: answers are those of `lathe run`, each once, whatever happened before; what is wrong is said in a line.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

fn tiny(name: &str) -> String {
    format!("{}/../lathe-models/tests/data/tiny/{name}.gguf", env!("CARGO_MANIFEST_DIR"))
}

fn lathe(arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
    command.current_dir(folder).args(arguments).env("LATHE_CACHE", env!("CARGO_TARGET_TMPDIR"));
    command.output().expect("lathe runs")
}

/// Answers by custom_id; each there once.
fn answers(path: &Path) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let id = line["custom_id"].as_str().unwrap().to_owned();
        assert!(all.insert(id, line["response"].clone()).is_none(), "{line}");
    }
    all
}

const PROMPTS: [&str; 4] = ["the band", "and the other one", "is in the harbour", "of this town"];

#[test]
fn answers_are_those_of_run_and_each_is_there_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut lines: Vec<String> =
        PROMPTS.iter().map(|p| json!({"prompt": p, "max_tokens": 6, "temperature": 0}).to_string()).collect();
    // One as OpenAI's batches have it, and two that are refused.
    let body = json!({"prompt": PROMPTS[0], "max_tokens": 6, "temperature": 0});
    lines.push(
        json!({"custom_id": "own", "method": "POST", "url": "/v1/completions", "body": body}).to_string(),
    );
    lines.push(json!({"custom_id": "streamed", "prompt": "x", "stream": true}).to_string());
    lines.push(json!({"custom_id": "nowhere", "url": "/v1/nothing", "body": {}}).to_string());
    std::fs::write(at.join("in.jsonl"), lines.join("\n")).unwrap();
    let model = tiny("llama-f16");
    let batch = |more: &[&str]| {
        let arguments =
            ["batch", "--model", &model, "--precision", "exact", "in.jsonl", "out.jsonl", "--json"];
        let output = lathe(&[&arguments, more].concat(), at);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let said = batch(&[]);
    assert_eq!((&said["answered"], &said["refused_now"]), (&json!(7), &json!(2)), "{said}");
    let got = answers(&at.join("out.jsonl"));
    for (i, prompt) in PROMPTS.iter().enumerate() {
        let run = [
            "run",
            "--model",
            &model,
            "--precision",
            "exact",
            "--raw",
            "--max-tokens",
            "6",
            "--json",
            prompt,
        ];
        let run: Value = serde_json::from_slice(&lathe(&run, at).stdout).unwrap();
        let response = &got[&format!("line-{}", i + 1)];
        assert_eq!(response["status_code"], 200, "{response}");
        assert_eq!(response["body"]["choices"][0]["text"], run["text"], "{prompt}");
    }
    assert_eq!(got["own"]["body"]["choices"][0]["text"], got["line-1"]["body"]["choices"][0]["text"]);
    assert_eq!((&got["streamed"]["status_code"], &got["nowhere"]["status_code"]), (&json!(400), &json!(404)));

    // Killed in the middle of a line, it goes on; here in little memory.
    let whole = std::fs::read_to_string(at.join("out.jsonl")).unwrap();
    let cut = whole.match_indices('\n').nth(1).unwrap().0 + 20;
    std::fs::write(at.join("out.jsonl"), &whole[..cut]).unwrap();
    let said = batch(&["--memory", "1GiB", "--kv-type", "f32"]);
    assert_eq!((&said["answered"], &said["answered_now"]), (&json!(7), &json!(5)), "{said}");
    let texts = |all: &BTreeMap<String, Value>| -> Vec<Value> {
        all.values().map(|response| response["body"]["choices"][0]["text"].clone()).collect()
    };
    assert_eq!(texts(&answers(&at.join("out.jsonl"))), texts(&got));
    let said = batch(&[]);
    assert_eq!((&said["answered"], &said["answered_now"]), (&json!(7), &json!(0)), "{said}");
}

#[test]
fn what_is_wrong_is_said_before_anything_is_computed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let model = tiny("llama-f16");
    let refused = |lines: &str, part: &str| {
        std::fs::write(at.join("in.jsonl"), lines).unwrap();
        let output = lathe(&["batch", "--model", &model, "in.jsonl", "out.jsonl"], at);
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(part) && text.trim().lines().count() == 1, "{part}: {text}");
    };
    refused("{\"prompt\": \"x\"}\nnonsense\n", "in.jsonl:2");
    refused(
        "{\"prompt\": \"x\"}\n{\"custom_id\": \"line-1\", \"prompt\": \"y\"}",
        "two requests have the custom_id 'line-1'",
    );
    refused("{\"text\": \"x\"}", "it has no \"messages\", \"prompt\" or \"input\"");
    std::fs::write(at.join("out.jsonl"), "precious\n").unwrap();
    refused("{\"prompt\": \"x\"}", "that is no answer of a batch");
    assert_eq!(std::fs::read_to_string(at.join("out.jsonl")).unwrap(), "precious\n");
    let output = lathe(&["batch", "--model", &model, "none.jsonl", "new.jsonl"], at);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot read it"));
}
