//! `lathe serve` with a tiny compiled model: the tokens are those of `lathe run`, and it ends well when it is asked to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-models/tests/data/tiny/llama-q4_1.gguf")
}

fn lathe(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
    command.args(arguments).arg("--model").arg(tiny()).env("LATHE_CACHE", env!("CARGO_TARGET_TMPDIR"));
    command.stdin(Stdio::null());
    command
}

/// A server and its address; it ends with the test.
struct Server(Child, String);

impl Server {
    fn start() -> Server {
        let mut child = lathe(&[
            "serve",
            "--port",
            "0",
            "--context",
            "64",
            "--cache-tokens",
            "512",
            "--precision",
            "exact",
        ])
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
        let mut socket = TcpStream::connect(&self.1).expect("it listens");
        let body = body.to_string();
        let head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n";
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        socket.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("it answers");
        let (_, body) = answer.split_once("\r\n\r\n").expect("there is a body");
        serde_json::from_str(body).expect("it is JSON")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

#[test]
fn it_says_what_run_says_and_ends_when_it_is_asked_to() {
    let run =
        ["run", "--raw", "--json", "--ignore-eos", "--max-tokens", "20", "--precision", "exact", "the band"];
    let output = lathe(&run).output().expect("lathe runs");
    let alone: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let mut server = Server::start();
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
