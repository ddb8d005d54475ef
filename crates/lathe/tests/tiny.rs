//! Verbs that run a model, on a tiny one with random weights: what they print, and that it is the same every time.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-models/tests/data/tiny").join(name)
}

fn lathe(arguments: &[&str]) -> Command {
    of_model("llama-q4_1.gguf", arguments)
}

fn of_model(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
    command.args(arguments).arg("--model").arg(tiny(name)).env("LATHE_CACHE", env!("CARGO_TARGET_TMPDIR"));
    command.stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    let output = lathe(arguments).output().expect("lathe runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(arguments: &[&str]) -> String {
    String::from_utf8(output(arguments).stdout).expect("the output is UTF-8")
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&text(arguments)).expect("the output is one object")
}

#[test]
fn one_object_says_all_and_the_stream_says_the_same() {
    let answer = json(&["run", "--json", "--ignore-eos", "--max-tokens", "24", "the band"]);
    assert_eq!(answer["tokens"].as_array().map(Vec::len), Some(24));
    assert_eq!(answer["finish_reason"], "length");
    assert!(answer["prompt_tokens"].as_u64() > Some(2));
    for field in ["load_s", "compile_s", "first_token_s", "prefill_tokens_per_s", "decode_tokens_per_s"] {
        assert!(answer["timing"][field].is_number(), "{field}");
    }
    assert!(answer["peak_rss_bytes"].as_u64() > Some(1 << 20));
    let streamed = text(&["run", "--ignore-eos", "--max-tokens", "24", "the band"]);
    assert_eq!(Some(streamed.strip_suffix('\n').unwrap_or(&streamed)), answer["text"].as_str());
}

#[test]
fn seeds_and_stops() {
    let run = |more: &[&str]| {
        let all = ["run", "--raw", "--ignore-eos", "--max-tokens", "40", "--json", "the band"];
        json(&[&all, more].concat())
    };
    let warm = ["--temperature", "1.5"];
    let seeded = |seed| run(&[&warm[..], &["--seed", seed]].concat())["tokens"].clone();
    assert_eq!(seeded("5"), seeded("5"));
    assert_ne!(seeded("5"), seeded("6"));
    let whole = run(&[]);
    let whole = whole["text"].as_str().expect("there is text");
    let stop: String = whole.chars().skip(6).take(3).collect();
    let answer = run(&["--stop", &stop]);
    assert_eq!(answer["finish_reason"], "stop");
    assert_eq!(answer["text"].as_str(), whole.split_once(&stop).map(|(before, _)| before));
}

#[test]
fn scores_of_text_and_ids() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("ids.json");
    std::fs::write(&path, "[1, 5, 9, 30, 31, 32]").expect("it can be written");
    let score = json(&["score", "--json", "--ids", path.to_str().expect("the path is UTF-8")]);
    let number = |field: &str| score[field].as_f64().unwrap_or(f64::NAN);
    assert_eq!(score["tokens"], 5);
    assert!(
        (number("perplexity") - (-number("mean_log_likelihood")).exp()).abs() < 1e-9 * number("perplexity")
    );
    let text = text(&["score", "--file", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]);
    assert!(text.starts_with("perplexity ") && text.ends_with(" tokens\n"), "{text}");
}

#[test]
fn a_conversation_goes_on_after_a_mistake() {
    let mut child = lathe(&["chat", "--max-tokens", "5"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("lathe runs");
    let lines = format!("the band\n/nonsense\n{}\n/help\nagain\n/quit\n", "too long ".repeat(2000));
    child.stdin.take().expect("there is input").write_all(lines.as_bytes()).expect("lathe reads");
    let output = child.wait_with_output().expect("lathe ends");
    let (out, messages) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{messages}");
    assert!(out.contains("/help"), "{out}");
    assert!(
        messages.contains("/nonsense is no command") && messages.contains("error[prompt-too-long]"),
        "{messages}"
    );
}

#[test]
fn a_reader_that_has_enough_ends_it_quietly() {
    let mut child = lathe(&["run", "--ignore-eos", "--max-tokens", "200", "the"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("lathe runs");
    let mut out = child.stdout.take().expect("there is output");
    out.read_exact(&mut [0; 2]).expect("something is written");
    drop(out);
    let output = child.wait_with_output().expect("lathe ends");
    // Progress may have been told; nothing else is.
    let messages = String::from_utf8_lossy(&output.stderr);
    let quiet = messages.lines().all(|line| line.ends_with(" ..."));
    assert!(quiet && output.status.code() == Some(0), "{:?}: {messages}", output.status);
}

#[test]
#[cfg(unix)]
fn ctrl_c_keeps_what_was_made() {
    let mut child = lathe(&["run", "--ignore-eos", "--max-tokens", "200", "--json", "the"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("lathe runs");
    std::thread::sleep(Duration::from_millis(300));
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(
        sent.is_ok_and(|status| status.success()) || child.try_wait().is_ok_and(|status| status.is_some())
    );
    let output = child.wait_with_output().expect("lathe ends");
    match output.status.code() {
        // It was done before, or nobody was listening yet.
        Some(0) => {}
        Some(130) if output.stdout.is_empty() => {}
        Some(130) => {
            let answer: Value = serde_json::from_slice(&output.stdout).expect("the output is one object");
            // The signal may come when all is written and the program is about to end.
            let all = answer["tokens"].as_array().is_some_and(|tokens| tokens.len() == 200);
            assert_eq!(answer["finish_reason"], if all { "length" } else { "cancelled" });
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bench_has_a_row_for_each_case() {
    let arguments = ["bench", "model", "--json", "--prompt", "20", "--generate", "4", "--batch", "1,2"];
    let bench = json(&[&arguments[..], &["--threads", "1", "--samples", "1"]].concat());
    let rows = bench["rows"].as_array().expect("there are rows");
    assert_eq!(rows.iter().map(|row| row["batch"].clone()).collect::<Vec<_>>(), [1, 2]);
    for row in rows {
        for field in
            ["prefill_tokens_per_s", "decode_tokens_per_s", "prefill_floor_fraction", "decode_floor_fraction"]
        {
            assert!(row[field].as_f64() >= Some(0.0), "{field}: {row}");
        }
    }
}

#[test]
fn texts_become_vectors() {
    let embed = |arguments: &[&str], input: &str| {
        let mut command = of_model("bert-f16.gguf", &[&["embed"], arguments].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("lathe runs");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("lathe ends");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("the output is UTF-8")
    };
    let expected = std::fs::read_to_string(tiny("encoders.json")).expect("it is committed");
    let expected: Value = serde_json::from_str(&expected).expect("it is JSON");
    let texts: Vec<&str> =
        expected[0]["texts"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let object: Value =
        serde_json::from_str(&embed(&["--json", texts[1], texts[0]], "")).expect("the output is one object");
    assert_eq!(object["tokens"], serde_json::json!([10, 5]));
    let near = |found: &Value, wanted: &Value| {
        let of = |v: &Value| v.as_array().into_iter().flatten().filter_map(Value::as_f64).collect::<Vec<_>>();
        let (found, wanted) = (of(found), of(wanted));
        found.len() == wanted.len() && found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-5)
    };
    assert!(near(&object["embeddings"][0], &expected[0]["vectors"][1]));
    assert!(near(&object["embeddings"][1], &expected[0]["vectors"][0]));
    let lines = embed(&["-"], &format!("{}\n\n{}\n", texts[0], texts[1]));
    let rows: Vec<Vec<f64>> =
        lines.lines().map(|l| l.split(' ').map(|x| x.parse().expect("a number")).collect()).collect();
    assert_eq!(rows.len(), 2);
    assert!(near(&serde_json::json!(rows[0]), &expected[0]["vectors"][0]));
}
