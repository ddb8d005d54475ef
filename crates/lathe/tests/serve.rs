//! `lathe serve` with a tiny compiled model: the tokens are those of `lathe run`, and it ends well when it is asked to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use lathe_models::{GgufWriter, ModelFile};
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

/// The tiny mixture with eight layers of wide random experts: 48 MiB of them.
fn wide_mixture(folder: &Path) -> String {
    let layers = 8u32;
    let [experts, width, hidden] = [4, 4096, 32];
    let tiny = ModelFile::open(data().join("tiny/mixtral-f32.gguf")).expect("it is there");
    let mut writer = GgufWriter::new();
    tiny.copy_metadata(&mut writer, &["llama.block_count", "llama.feed_forward_length"]);
    writer.u32("llama.block_count", layers).u32("llama.feed_forward_length", width as u32);
    let mut state = 1u32;
    // Numbers between -most and most.
    let mut random = |most: f32| {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..experts * width * hidden).flat_map(|_| (most * next()).to_le_bytes()).collect::<Vec<u8>>()
    };
    for t in tiny.tensors() {
        let Some(rest) = t.name().strip_prefix("blk.0.") else {
            if !t.name().starts_with("blk.") {
                writer.tensor(t.name(), &t.shape(), t.ty(), tiny.data(t).to_vec());
            }
            continue;
        };
        for layer in 0..layers {
            let name = format!("blk.{layer}.{rest}");
            match rest {
                "ffn_gate_exps.weight" | "ffn_up_exps.weight" => {
                    writer.tensor(&name, &[experts, width, hidden], t.ty(), random(0.3))
                }
                "ffn_down_exps.weight" => {
                    writer.tensor(&name, &[experts, hidden, width], t.ty(), random(0.03))
                }
                _ => writer.tensor(&name, &t.shape(), t.ty(), tiny.data(t).to_vec()),
            };
        }
    }
    let path = folder.join("wide.gguf");
    writer.write(&path).expect("there is room");
    path.display().to_string()
}

/// Kilobytes that a process has for itself, files apart; none where it is gone.
fn own_kilobytes(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The most that a process had for itself until it ended, and what it wrote.
fn watched(mut child: Child) -> (u64, Output) {
    let mut most = 0;
    while child.try_wait().expect("it is a child").is_none() {
        most = most.max(own_kilobytes(child.id()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(1));
    }
    (most, child.wait_with_output().expect("it is a child"))
}

/// A mixture whose experts do not all fit says in `batch` and in `serve` what it says where they do; and what these hold stays within
/// the limit all the time, the first time too, when machine and model are measured.
#[test]
fn a_mixture_in_little_memory_says_the_same() {
    const LIMIT: u64 = 92 << 20;
    let folder = tempfile::tempdir().expect("there is a folder");
    let at = |name: &str| folder.path().join(name);
    let model = wide_mixture(folder.path());
    let prompts = ["the band", "a song", "is in the harbour", "of this town"];
    let body = json!({ "prompt": prompts, "max_tokens": 20, "temperature": 0, "ignore_eos": true });
    let bodies = prompts.map(|p| {
        let mut body = body.clone();
        body["prompt"] = p.into();
        body.to_string()
    });
    std::fs::write(at("in.jsonl"), bodies.join("\n")).expect("there is room");
    // Nothing is known of the machine, but kernels are not compiled again.
    std::fs::create_dir(at("cache")).expect("there is room");
    let kernels = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    std::fs::create_dir_all(&kernels).expect("there is room");
    std::os::unix::fs::symlink(kernels, at("cache/kernels")).expect("there is room");
    let batch = |out: &str, more: &[&str], cache: &Path| {
        let arguments = ["batch", "in.jsonl", out, "--precision", "exact", "--kv-type", "f32", "--json"];
        let mut command = lathe(&model, &[&arguments[..], more].concat());
        command.current_dir(folder.path()).env("LATHE_CACHE", cache);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let (most, output) = watched(child.expect("lathe runs"));
        let said: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        let lines = std::fs::read_to_string(at(out)).expect("there are answers");
        let mut texts: Vec<(String, Value)> = lines
            .lines()
            .map(|line| {
                let line: Value = serde_json::from_str(line).expect("it is JSON");
                (line["custom_id"].to_string(), line["response"]["body"]["choices"][0]["text"].clone())
            })
            .collect();
        texts.sort_by(|a, b| a.0.cmp(&b.0));
        (texts.into_iter().map(|(_, text)| text).collect::<Vec<Value>>(), said["memory"].clone(), most)
    };
    let (want, all, _) = batch("all.jsonl", &[], env!("CARGO_TARGET_TMPDIR").as_ref());
    assert_eq!(all["experts_bytes"], 0, "{all}");
    let limit = ["--memory", &LIMIT.to_string()];
    let (got, little, most) = batch("little.jsonl", &limit, &at("cache"));
    assert_eq!(got, want);
    let bytes = |what: &str| little[what].as_u64().expect("it is a number");
    assert!(bytes("weights_bytes") < bytes("experts_bytes") * 3 / 4, "{little}");
    assert!(most << 10 <= LIMIT, "{most} kB of {LIMIT} bytes, {little}");

    let server = Server::start(&model, &[&limit[..], &["--kv-type", "f32"]].concat());
    let answer = server.ask(&body);
    let texts: Vec<&Value> =
        answer["choices"].as_array().into_iter().flatten().map(|choice| &choice["text"]).collect();
    assert_eq!(texts, want.iter().collect::<Vec<_>>());
    let held = own_kilobytes(server.0.id()).expect("it runs");
    assert!(held << 10 <= LIMIT, "{held} kB of {LIMIT} bytes");
}
