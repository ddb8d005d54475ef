//! `lathe serve` with a tiny compiled model: the tokens are those of `lathe run`, and it ends well when it is asked to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-models/tests/data")
}

fn lathe(model: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
    command
        .args(arguments)
        .arg("--model")
        .arg(data().join("tiny").join(model))
        .env("LATHE_CACHE", env!("CARGO_TARGET_TMPDIR"));
    command.stdin(Stdio::null());
    command
}

/// A server and its address; it ends with the test.
struct Server(Child, String);

impl Server {
    fn start(model: &str, more: &[&str]) -> Server {
        Server::with_cache("512", model, more)
    }

    /// One that keeps so many tokens.
    fn with_cache(tokens: &str, model: &str, more: &[&str]) -> Server {
        let sizes = ["--port", "0", "--context", "64", "--cache-tokens", tokens, "--precision", "exact"];
        let mut child = lathe(model, &[&["serve"], &sizes[..], more].concat())
            .stderr(Stdio::piped())
            .spawn()
            .expect("lathe runs");
        let lines = BufReader::new(child.stderr.take().expect("there are messages")).lines();
        let address = lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("listening on http://").map(str::to_owned));
        Server(child, address.expect("it listens"))
    }

    fn ask(&self, body: &Value) -> Value {
        let (_, body) = self.send("POST", "/v1/completions", body);
        serde_json::from_str(&body).expect("it is JSON")
    }

    /// The status and the body of an answer.
    fn send(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let mut socket = TcpStream::connect(&self.1).expect("it listens");
        let body = body.to_string();
        let head = "Host: x\r\nConnection: close\r\nContent-Type: application/json\r\n";
        let request =
            format!("{method} {path} HTTP/1.1\r\n{head}Content-Length: {}\r\n\r\n{body}", body.len());
        socket.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("it answers");
        let status = answer.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("there is a status");
        let (_, body) = answer.split_once("\r\n\r\n").expect("there is a body");
        (status, body.to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

/// What `lathe run` says of "the band".
fn run(model: &str, more: &[&str]) -> Value {
    let run =
        ["run", "--raw", "--json", "--ignore-eos", "--max-tokens", "20", "--precision", "exact", "the band"];
    let output = lathe(model, &[&run[..], more].concat()).output().expect("lathe runs");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn it_says_what_run_says_and_ends_when_it_is_asked_to() {
    let alone = run("llama-q4_1.gguf", &[]);
    let mut server = Server::start("llama-q4_1.gguf", &[]);
    let body = json!({ "prompt": ["the band", "a song"], "max_tokens": 20, "temperature": 0, "ignore_eos": true, "n": 2 });
    // The second time, the prompts are found in the cache.
    for _ in 0..2 {
        let answer = server.ask(&body);
        let texts: Vec<&Value> =
            answer["choices"].as_array().into_iter().flatten().map(|choice| &choice["text"]).collect();
        assert_eq!(texts.len(), 4, "{answer}");
        assert_eq!((texts[0], texts[2]), (texts[1], texts[3]));
        assert_eq!(*texts[0], alone["text"]);
    }
    let sent = Command::new("kill").args(["-TERM", &server.0.id().to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()));
    assert_eq!(server.0.wait().ok().and_then(|status| status.code()), Some(0));
}

/// Keys and values in codes: the server, whose prompts share pages, says what `lathe run` says.
#[test]
fn codes_of_keys_and_values_serve_the_same() {
    let plain = run("heads32-f16.gguf", &[]);
    for kv in ["q8", "q4"] {
        let alone = run("heads32-f16.gguf", &["--kv-type", kv]);
        let (less, more) = (&alone["memory"]["cache_bytes"], &plain["memory"]["cache_bytes"]);
        assert!(less.as_u64() < more.as_u64().map(|bytes| bytes / 3), "{kv}: {less} of {more}");
        let server = Server::start("heads32-f16.gguf", &["--kv-type", kv]);
        let body = json!({ "prompt": ["the band", "a song"], "max_tokens": 20, "temperature": 0, "ignore_eos": true, "n": 2 });
        for _ in 0..2 {
            let choices = server.ask(&body)["choices"].clone();
            assert_eq!((&choices[0]["text"], &choices[1]["text"]), (&alone["text"], &alone["text"]), "{kv}");
        }
    }
}

/// A draft model of the same tokens, another random one, changes no answer.
#[test]
fn a_draft_model_changes_no_answer() {
    let model = "llama-f32.gguf";
    let draft = data().join("tiny/llama-f16.gguf").display().to_string();
    let more = ["--speculate", "3", "--draft-model", &draft];
    let alone = run(model, &[]);
    assert_eq!(run(model, &more)["tokens"], alone["tokens"]);
    let server = Server::start(model, &more);
    let body = json!({ "prompt": ["the band", "a song"], "max_tokens": 20, "temperature": 0, "ignore_eos": true, "n": 2 });
    let answer = server.ask(&body);
    assert_eq!(
        (&answer["choices"][0]["text"], &answer["choices"][1]["text"]),
        (&alone["text"], &alone["text"])
    );
    let load: Value = serde_json::from_str(&server.send("GET", "/engine", &json!({})).1).expect("it is JSON");
    assert!(load["drafted_tokens"].as_u64() > Some(0), "{load}");
    // Nor where it is a part of what memory is planned for.
    let planned = [&more[..], &["--memory", "1GiB", "--kv-type", "f32"]].concat();
    assert_eq!(run(model, &planned)["tokens"], alone["tokens"]);
    let answer = Server::start(model, &planned).ask(&body);
    assert_eq!(answer["choices"][0]["text"], alone["text"]);
    // Nor where requests give way to each other, and pages of both models go to a disk and come back.
    let tight = Server::with_cache("64", model, &[&more[..], &["--swap", "1MiB"]].concat()).ask(&body);
    assert_eq!(tight["choices"], answer["choices"]);
    let other = data().join("tiny/gpt2-f16.gguf").display().to_string();
    let refused = ["run", "--raw", "--speculate", "2", "--draft-model", &other, "the band"];
    let output = lathe(model, &refused).output().expect("lathe runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("error[draft-model]"), "{output:?}");
}

/// The model and its adapters are models by name; one comes while the server runs, and goes.
#[test]
fn adapters_are_models_by_name() {
    let model = "llama-f32.gguf";
    let path = |name: &str| data().join("adapters").join(name).display().to_string();
    let lora = format!("all={}", path("llama-all"));
    let server = Server::start(model, &["--lora", &lora, "--max-loras", "2", "--max-lora-rank", "20"]);
    let ask = |name: Option<&str>| {
        let body = json!({ "model": name, "prompt": "the band", "max_tokens": 20, "temperature": 0, "ignore_eos": true });
        server.ask(&body)
    };
    let says = |answer: &Value, more: &[&str]| {
        assert_eq!(answer["choices"][0]["text"], run(model, more)["text"], "{answer}");
    };
    let (alone, all) = (ask(None), ask(Some("all")));
    says(&alone, &[]);
    says(&all, &["--lora", &path("llama-all")]);
    assert_ne!(alone["choices"], all["choices"]);
    assert_eq!(all["model"], "all");
    assert_eq!(ask(Some("heads"))["error"]["code"], 404);
    let load = |name: &str, from: String| {
        server.send("POST", "/v1/load_lora_adapter", &json!({ "lora_name": name, "lora_path": from }))
    };
    assert_eq!(load("heads", path("none")).0, 400);
    assert_eq!(load("all", path("llama-heads")).0, 400);
    assert_eq!(load("heads", path("llama-heads")).0, 200);
    assert_eq!(load("more", path("llama-heads")).0, 400);
    says(&ask(Some("heads")), &["--lora", &path("llama-heads")]);
    let models: Value =
        serde_json::from_str(&server.send("GET", "/v1/models", &json!({})).1).expect("it is JSON");
    let names: Vec<&Value> = models["data"].as_array().into_iter().flatten().map(|m| &m["id"]).collect();
    assert_eq!(names[1..], ["all", "heads"]);
    assert_eq!(models["data"][2]["parent"], *names[0]);
    let unload = |name: &str| server.send("POST", "/v1/unload_lora_adapter", &json!({ "lora_name": name })).0;
    assert_eq!((unload("heads"), unload("heads")), (200, 404));
    assert_eq!(ask(Some("heads"))["error"]["code"], 404);
    says(&ask(Some("all")), &["--lora", &path("llama-all")]);
    // Where nobody made room for it, no client loads one.
    let closed = Server::start(model, &["--lora", &lora]);
    let body = json!({ "lora_name": "heads", "lora_path": path("llama-heads") });
    assert_eq!(closed.send("POST", "/v1/load_lora_adapter", &body).0, 403);
}
