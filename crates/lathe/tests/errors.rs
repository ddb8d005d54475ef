//! What goes wrong before a model runs: one clear line on standard error, exit code 2, nothing on standard output, no panic.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A cache and home of its own, no network to speak of.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().expect("a temporary folder can be made"))
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).expect("the temporary folder can be written");
        path
    }

    fn lathe(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
        command.args(arguments).env("LATHE_CACHE", self.0.path().join("cache")).stdin(Stdio::null());
        command.output().expect("lathe runs")
    }

    /// Runs and expects one line with this code; returns the line.
    fn fails(&self, code: &str, arguments: &[&str]) -> String {
        let output = self.lathe(arguments);
        let text = String::from_utf8(output.stderr).expect("messages are UTF-8");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}");
        assert!(text.starts_with(&format!("error[{code}]: ")), "{arguments:?}: {text}");
        text
    }
}

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-models/tests/data/tiny/llama-q4_1.gguf")
}

#[test]
fn wrong_use() {
    let place = Place::new();
    assert!(place.fails("usage", &["run", "--nonsense", "x"]).contains("--nonsense"));
    assert!(place.fails("usage", &["run"]).contains("PROMPT"));
    place.fails("usage", &[]);
    place.fails("usage", &["frobnicate"]);
    place.fails("usage", &["run", "--chat", "--raw", "x"]);
    assert!(place.fails("usage", &["run", "--model", "m", "two", "words"]).contains("quotes"));
    place.fails("usage", &["run", "--threads", "0", "x"]);
    place.fails("usage", &["run", "--max-tokens", "0", "x"]);
    place.fails("usage", &["run", "--precision", "double", "x"]);
    place.fails("usage", &["score"]);
    place.fails("usage", &["embed", "x"]);
    place.fails("usage", &["embed", "--model", "x"]);
    place.fails("usage", &["score", "--file", "a", "--ids", "b"]);
    place.fails("usage", &["bench"]);
    place.fails("usage", &["bench", "model", "--batch", "1,x"]);
    place.fails("model-unknown", &["show", "everything"]);
    place.fails("sampling-invalid", &["run", "--temperature", "NaN", "x"]);
    place.fails("sampling-invalid", &["run", "--top-p", "0", "x"]);
    place.fails("sampling-invalid", &["chat", "--min-p", "2"]);
}

#[test]
fn wrong_prompts() {
    let place = Place::new();
    let model = tiny();
    let model = model.to_str().expect("the path is UTF-8");
    for raw in ["--raw", "--chat"] {
        place.fails("prompt-empty", &["run", "--model", model, raw, ""]);
        place.fails("prompt-empty", &["run", "--model", model, raw, "-"]);
        place.fails("prompt-too-long", &["run", "--model", model, raw, &"long ".repeat(5000)]);
        place.fails(
            "prompt-too-long",
            &["run", "--model", model, raw, "--context", "8", &"short ".repeat(20)],
        );
    }
    place.fails("context-too-long", &["run", "--model", model, "--context", "4000000000", "x"]);
}

#[test]
fn models_for_another_use() {
    let place = Place::new();
    let (decoder, encoder) = (tiny(), tiny().with_file_name("bert-f16.gguf"));
    let [decoder, encoder] = [&decoder, &encoder].map(|p| p.to_str().expect("the path is UTF-8"));
    let text = place.file("text.txt", b"Some words.");
    let text = text.to_str().expect("the path is UTF-8");
    place.fails("model-purpose", &["embed", "--model", decoder, "x"]);
    let line = place.fails("model-purpose", &["run", "--model", encoder, "x"]);
    assert!(line.contains("lathe embed"), "{line}");
    place.fails("model-purpose", &["score", "--model", encoder, "--file", text]);
    place.fails("text-too-long", &["embed", "--model", encoder, &"a ".repeat(200)]);
}

#[test]
fn wrong_models() {
    let place = Place::new();
    let whole = std::fs::read(tiny()).expect("the tiny model is there");
    let text = place.file("text.txt", b"Some words.");
    let text = text.to_str().expect("the path is UTF-8");
    let run = |code: &str, path: &Path| {
        let path = path.to_str().expect("the path is UTF-8");
        place.fails(code, &["run", "--model", path, "hello"]);
        place.fails(code, &["score", "--model", path, "--file", text]);
        place.fails(code, &["show", "graph", "--model", path]);
        place.fails(code, &["chat", "--model", path]);
        place.fails(code, &["bench", "model", "--model", path]);
    };
    run("gguf-truncated", &place.file("truncated.gguf", &whole[..whole.len() / 3]));
    run("gguf-magic", &place.file("magic.gguf", b"PK\x03\x04 this is no model"));
    run("gguf-magic", &place.file("empty.gguf", b""));
    run("model-unknown", &place.0.path().join("missing.gguf"));
    run("model-folder", place.0.path());
    let mut version = whole.clone();
    version[4] = 9;
    run("gguf-version", &place.file("version.gguf", &version));
    place.fails("model-unknown", &["run", "--model", "no-such-model", "hello"]);
    place.fails("model-unknown", &["pull", "no-such-model"]);
}

#[test]
fn wrong_texts() {
    let place = Place::new();
    let model = tiny();
    let model = model.to_str().expect("the path is UTF-8");
    let score = |code: &str, kind: &str, path: &Path| {
        place.fails(code, &["score", "--model", model, kind, path.to_str().expect("the path is UTF-8")])
    };
    score("input", "--file", &place.0.path().join("missing.txt"));
    score("input", "--file", place.0.path());
    score("input-encoding", "--file", &place.file("latin.txt", b"caf\xe9 society"));
    score("score-too-short", "--file", &place.file("empty.txt", b""));
    score("input-ids", "--ids", &place.file("text.json", b"hello"));
    score("input-ids", "--ids", &place.file("negative.json", b"[1, -2]"));
    score("score-too-short", "--ids", &place.file("one.json", b"[1]"));
    let many = format!("[1{}]", ", 2".repeat(100_000));
    score("prompt-too-long", "--ids", &place.file("many.json", many.as_bytes()));
}

#[test]
fn help_and_versions_are_results() {
    let place = Place::new();
    let verbs = ["run", "chat", "score", "pull", "models", "machine", "show", "verify"];
    let verbs = verbs.map(|verb| vec![verb, "--help"]).into_iter();
    for arguments in verbs.chain([vec!["--help"], vec!["bench", "model", "--help"]]) {
        let output = place.lathe(&arguments);
        let text = String::from_utf8(output.stdout).expect("help is UTF-8");
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{arguments:?}");
        assert!(text.contains("Examples:") && text.contains("  lathe "), "{arguments:?}: {text}");
    }
    assert!(place.lathe(&["--version"]).status.success());
    let models = place.lathe(&["models", "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&models.stdout).expect("it is JSON");
    assert_eq!(value["models"][0]["name"], "smollm2-135m");
}

#[test]
fn a_closed_pipe_is_quiet() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lathe"))
        .args(["run", "--help"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("lathe runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("lathe ends");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
