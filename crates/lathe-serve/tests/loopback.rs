//! The server over loopback, with a model that counts: the token after `t` is `t + 1`, always, so that every answer is known.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use lathe_engine::{Batch, Engine, EngineError, Forward};
use lathe_models::{ChatTemplate, ModelFile, Tokenizer};
use lathe_serve::{Settings, TextModel, serve};
use serde_json::{Value, json};

/// Counts on, modulo the vocabulary, at one step in so long.
struct Counting {
    vocabulary: usize,
    step: Duration,
}

impl Forward for Counting {
    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn context(&self) -> usize {
        256
    }

    fn pages(&self) -> usize {
        64
    }

    fn max_tokens(&self) -> usize {
        64
    }

    fn max_sequences(&self) -> usize {
        4
    }

    fn max_rows(&self) -> usize {
        16
    }

    fn copy_page(&mut self, _: u32, _: u32) -> Result<(), EngineError> {
        Ok(())
    }

    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<(), EngineError> {
        thread::sleep(self.step);
        logits.clear();
        for &row in &batch.rows {
            let next = (batch.tokens[row as usize] as usize + 1) % self.vocabulary;
            logits.extend((0..self.vocabulary).map(|id| if id == next { 30.0 } else { 0.0 }));
        }
        Ok(())
    }
}

fn tokenizer() -> (Arc<Tokenizer>, ChatTemplate) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../lathe-models/tests/data/tiny/llama-q4_1.gguf");
    let file = ModelFile::open(path).expect("the tiny model is whole");
    let tokenizer = Tokenizer::from_file(&file).expect("it has a tokenizer");
    (Arc::new(tokenizer), ChatTemplate::from_file(&file).expect("it has a template"))
}

/// A server that runs until the test ends.
struct Server(SocketAddr);

impl Server {
    fn start(step_ms: u64, settings: Settings) -> Server {
        let (send, receive) = mpsc::channel();
        let settings = Settings { address: SocketAddr::from(([127, 0, 0, 1], 0)), ..settings };
        thread::spawn(move || {
            let (tokenizer, template) = tokenizer();
            let vocabulary = tokenizer.vocab_size();
            let engine = Engine::new(Counting { vocabulary, step: Duration::from_millis(step_ms) });
            let name = "counting".to_owned();
            let model = TextModel {
                name,
                tokenizer,
                template: Some(template),
                ends: vec![],
                engine,
                adapters: vec![],
                file: None,
            };
            serve(Some(model), None, settings, |address| send.send(address).expect("the test waits"))
        });
        Server(receive.recv_timeout(Duration::from_secs(20)).expect("the server starts"))
    }

    fn connect(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> TcpStream {
        let mut socket = TcpStream::connect(self.0).expect("it listens");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a time can be set");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        // A server that refuses early does not read on.
        let _ = socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body));
        socket
    }

    /// Status, headers and body.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String, String) {
        let mut reader = BufReader::new(self.connect(method, path, headers, body));
        let mut head = String::new();
        while reader.read_line(&mut head).expect("a head comes") > 2 {}
        let status = head.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("there is a status");
        let mut bytes = Vec::new();
        if head.to_lowercase().contains("transfer-encoding: chunked") {
            let mut size = String::new();
            while reader.read_line(&mut size).expect("a chunk comes") > 0 {
                let length = usize::from_str_radix(size.trim(), 16).expect("it has a size");
                let start = bytes.len();
                bytes.resize(start + length + 2, 0);
                reader.read_exact(&mut bytes[start..]).expect("it is whole");
                bytes.truncate(start + length);
                size.clear();
            }
        } else {
            let _ = reader.read_to_end(&mut bytes);
        }
        (status, head, String::from_utf8(bytes).expect("it is UTF-8"))
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let (status, _, text) = self.ask("POST", path, "Content-Type: application/json\r\n", body.as_bytes());
        (status, serde_json::from_str(&text).expect("it is JSON"))
    }

    fn ok(&self, path: &str, body: &Value) -> Value {
        let (status, value) = self.post(path, body);
        assert_eq!(status, 200, "{value}");
        value
    }

    /// The events of a stream.
    fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let body = body.to_string();
        let (status, _, text) = self.ask("POST", path, "Content-Type: application/json\r\n", body.as_bytes());
        assert_eq!(status, 200, "{text}");
        let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
        events.filter(|e| *e != "[DONE]").map(|e| serde_json::from_str(e).expect("it is JSON")).collect()
    }

    fn engine(&self) -> Value {
        serde_json::from_str(&self.ask("GET", "/engine", "", b"").2).expect("it is JSON")
    }

    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        let start = Instant::now();
        while !holds(&self.engine()) {
            assert!(start.elapsed() < Duration::from_secs(10), "{what}: {}", self.engine());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The text of tokens `from..to`, as an answer has it.
fn counted(from: u32, to: u32) -> String {
    let (tokenizer, _) = tokenizer();
    let ids: Vec<u32> = (from..to).filter(|&id| !tokenizer.is_control(id)).collect();
    tokenizer.decode(&ids)
}

#[test]
fn completions_of_all_kinds() {
    let server = Server::start(0, Settings::default());
    let answer = server.ok("/v1/completions", &json!({ "prompt": [30, 31], "max_tokens": 4, "n": 2 }));
    assert_eq!(answer["choices"][1]["text"], counted(32, 36));
    assert_eq!(answer["choices"][1]["finish_reason"], "length");
    let details = json!({ "cached_tokens": 0 });
    let usage = json!({ "prompt_tokens": 2, "prompt_tokens_details": details, "completion_tokens": 8, "total_tokens": 10 });
    assert_eq!(answer["usage"], usage);

    let body =
        json!({ "prompt": [[30], [50, 51]], "max_tokens": 1, "echo": true, "logprobs": 2, "temperature": 0 });
    let answer = server.ok("/v1/completions", &body);
    let second = &answer["choices"][1];
    assert_eq!((second["index"].clone(), second["text"].clone()), (json!(1), json!(counted(50, 53))));
    let logprobs = &second["logprobs"];
    assert_eq!(logprobs["token_logprobs"][0], Value::Null);
    assert!(logprobs["token_logprobs"][1].as_f64() > Some(-0.1), "{logprobs}");
    assert_eq!(logprobs["top_logprobs"][2].as_object().map(serde_json::Map::len), Some(2));
    assert_eq!(logprobs["text_offset"].as_array().map(Vec::len), Some(3));
    // Only the prompt is scored, as harnesses want it.
    let body = json!({ "prompt": [50, 51, 52], "max_tokens": 0, "echo": true, "logprobs": 0 });
    let answer = server.ok("/v1/completions", &body);
    assert_eq!(answer["choices"][0]["logprobs"]["tokens"].as_array().map(Vec::len), Some(3));

    let stop: String = counted(34, 36);
    let body = json!({ "prompt": [30, 31], "max_tokens": 50, "stop": stop, "best_of": 3 });
    let answer = server.ok("/v1/completions", &body);
    assert_eq!(answer["choices"][0]["text"], counted(32, 34));
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");

    let body = json!({ "prompt": [30], "max_tokens": 3, "temperature": 0, "logit_bias": { "90": 50 } });
    let (tokenizer, _) = tokenizer();
    assert_eq!(server.ok("/v1/completions", &body)["choices"][0]["text"], tokenizer.decode(&[90, 90, 90]));

    let options = json!({ "include_usage": true });
    let body =
        json!({ "prompt": [30], "max_tokens": 9, "stream": true, "stream_options": options, "echo": true });
    let events = server.stream("/v1/completions", &body);
    let text: String = events.iter().filter_map(|e| e["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, counted(30, 40));
    assert_eq!(events.last().map(|e| e["usage"]["completion_tokens"].clone()), Some(json!(9)));
    assert_eq!(server.engine()["pages_held"], 0);
}

#[test]
fn answers_keep_to_their_structure() {
    let server = Server::start(0, Settings::default());
    let messages = json!([{ "role": "user", "content": "the band" }]);
    let chat = |fields: Value| {
        let mut body = json!({ "messages": messages, "max_tokens": 100, "temperature": 1.0, "seed": 4 });
        body.as_object_mut().expect("it is one").extend(fields.as_object().expect("it is one").clone());
        server.ok("/v1/chat/completions", &body)["choices"][0].clone()
    };
    let schema = json!({ "type": "object", "properties": { "ok": { "type": "boolean" } }, "required": ["ok"],
        "additionalProperties": false });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
    // A stop string would cut it.
    for stop in [json!([]), json!(["ok", ":"])] {
        let answer = chat(json!({ "response_format": format, "stop": stop }));
        let text = answer["message"]["content"].as_str().expect("there is text");
        let value: Value = serde_json::from_str(text).expect("it is JSON");
        assert!(value["ok"].is_boolean() && answer["finish_reason"] == "stop", "{answer}");
    }
    let choice = chat(json!({ "structured_outputs": { "choice": ["left", "right"] } }));
    assert!(["left", "right"].map(Value::from).contains(&choice["message"]["content"]), "{choice}");

    let tool = |name: &str| json!({ "type": "function", "function": { "name": name, "parameters": schema } });
    let tools = json!([tool("go"), tool("stay")]);
    let named = json!({ "type": "function", "function": { "name": "stay" } });
    for (choice, names) in [(json!("required"), &["go", "stay"][..]), (named, &["stay"])] {
        let answer = chat(json!({ "tools": tools, "tool_choice": choice }));
        let call = &answer["message"]["tool_calls"][0]["function"];
        assert!(names.contains(&call["name"].as_str().unwrap_or_default()), "{answer}");
        let arguments: Value =
            serde_json::from_str(call["arguments"].as_str().unwrap_or_default()).expect("they are JSON");
        assert!(arguments["ok"].is_boolean(), "{answer}");
    }
    let tool = json!({ "name": "go", "input_schema": schema });
    let body =
        json!({ "messages": messages, "max_tokens": 100, "tools": [tool], "tool_choice": { "type": "any" } });
    let message = server.ok("/v1/messages", &body);
    assert!(message["content"][0]["input"]["ok"].is_boolean(), "{message}");

    let (deep, bomb) = ("[".repeat(70), "a: a a\n".repeat(20_000));
    for (fields, word) in [
        (json!({ "guided_json": { "type": "nonsense" } }), "grammar cannot be used"),
        (json!({ "guided_json": "{" }), "it is no JSON"),
        (json!({ "guided_regex": "(" }), "grammar cannot be used"),
        (json!({ "guided_regex": deep }), "inside of each other"),
        (json!({ "guided_grammar": bomb }), "bytes"),
        (json!({ "guided_choice": [] }), "nothing to choose"),
        (json!({ "guided_regex": "a", "guided_choice": ["a"] }), "one structure only"),
        (json!({ "response_format": { "type": "xml" } }), "json_schema"),
        (json!({ "tool_choice": "required" }), "no such tool"),
    ] {
        let mut body = json!({ "messages": messages });
        body.as_object_mut().expect("it is one").extend(fields.as_object().expect("it is one").clone());
        let (status, answer) = server.post("/v1/chat/completions", &body);
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(word), "{status} {answer} for {word}");
    }
}

/// The model counts whatever it is told, so the likeliest answer goes on counting, and the others differ from it in a token or so.
#[test]
fn beams_find_the_likeliest_answers() {
    let server = Server::start(0, Settings::default());
    let body = json!({ "prompt": [30, 31], "max_tokens": 5, "use_beam_search": true, "best_of": 6, "n": 3, "logprobs": 0 });
    let answer = server.ok("/v1/completions", &body);
    let choices = answer["choices"].as_array().expect("there are choices");
    let sum = |choice: &Value| {
        let of = choice["logprobs"]["token_logprobs"].as_array().expect("there are scores");
        of.iter().filter_map(Value::as_f64).sum::<f64>()
    };
    assert_eq!((choices.len(), &choices[0]["text"]), (3, &json!(counted(32, 37))));
    assert!(sum(&choices[0]) > -0.01 && choices.is_sorted_by(|a, b| sum(a) >= sum(b)), "{answer}");
    assert!(choices[1]["text"] != choices[0]["text"] && choices[2]["text"] != choices[1]["text"]);
    assert_eq!(answer["usage"]["completion_tokens"], 15);
    let messages = json!([{ "role": "user", "content": "the band" }]);
    let mut body = json!({ "messages": messages, "max_tokens": 3, "use_beam_search": true, "n": 2, "early_stopping": "never" });
    let answer = server.ok("/v1/chat/completions", &body);
    assert_eq!(answer["choices"].as_array().map(Vec::len), Some(2));
    // Beams keep to a grammar; the answers are its texts.
    body["structured_outputs"] = json!({ "choice": ["a", "b"] });
    let answer = server.ok("/v1/chat/completions", &body);
    for choice in answer["choices"].as_array().expect("there are choices") {
        let (text, reason) = (&choice["message"]["content"], &choice["finish_reason"]);
        assert!(["a", "b"].map(|text| json!(text)).contains(text) && reason == "stop", "{answer}");
    }
    body["structured_outputs"].take();
    for (field, value, word) in [
        ("stream", json!(true), "come whole"),
        ("early_stopping", json!("soon"), "'never'"),
        ("best_of", json!(1), "best_of"),
    ] {
        let kept = body[field].take();
        body[field] = value;
        let (status, answer) = server.post("/v1/chat/completions", &body);
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(word), "{status} {answer} for {word}");
        body[field] = kept;
    }
    assert_eq!(server.engine()["pages_held"], 0);
}

#[test]
fn guesses_change_the_steps_and_not_the_answer() {
    let server = Server::start(0, Settings::default());
    let prompt: Vec<u32> = (30..60).chain(30..34).collect();
    let mut steps = vec![];
    for speculate in [0, 8] {
        let before = server.engine()["steps"].as_u64().expect("it is a number");
        let body = json!({ "prompt": prompt, "max_tokens": 20, "temperature": 0.5, "speculate": speculate });
        assert_eq!(server.ok("/v1/completions", &body)["choices"][0]["text"], counted(34, 54));
        steps.push(server.engine()["steps"].as_u64().expect("it is a number") - before);
    }
    assert!(steps[1] * 3 < steps[0], "{steps:?}");
}

#[test]
fn conversations_of_both_interfaces() {
    let server = Server::start(0, Settings::default());
    let messages = json!([{ "role": "user", "content": [{ "type": "text", "text": "the band" }] }]);
    let body =
        json!({ "messages": messages, "max_tokens": 6, "logprobs": true, "top_logprobs": 2, "seed": 1 });
    let answer = server.ok("/v1/chat/completions", &body);
    let content = answer["choices"][0]["message"]["content"].as_str().expect("there is text");
    assert_eq!(answer["choices"][0]["logprobs"]["content"].as_array().map(Vec::len), Some(6));
    let mut body = json!({ "messages": messages, "max_tokens": 6, "stream": true, "n": 2 });
    let events = server.stream("/v1/chat/completions", &body);
    for index in 0..2 {
        let of = events.iter().map(|e| &e["choices"][0]).filter(|choice| choice["index"] == index);
        let text: String = of.filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!(text, content);
    }
    body["n"] = json!(1);
    let events = server.stream("/v1/messages", &body);
    let text: String = events.iter().filter_map(|e| e["delta"]["text"].as_str()).collect();
    assert_eq!(text, content);
    let kinds: Vec<&str> = events.iter().filter_map(|e| e["type"].as_str()).collect();
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), ("message_start", "message_stop"));
    body["stream"] = json!(false);
    let message = server.ok("/v1/messages", &body);
    assert_eq!(
        (message["content"][0]["text"].as_str(), message["stop_reason"].as_str()),
        (Some(content), Some("max_tokens"))
    );
    let count = server.ok("/v1/messages/count_tokens", &json!({ "messages": messages }));
    let of = |name: &str| message["usage"][name].as_u64().unwrap_or_default();
    assert_eq!(count["input_tokens"], of("input_tokens") + of("cache_read_input_tokens"));
}

#[test]
fn tokens_models_and_numbers() {
    let server = Server::start(0, Settings::default());
    let tokens = server.ok("/tokenize", &json!({ "prompt": "the band", "add_special_tokens": false }));
    let text = server.ok("/detokenize", &json!({ "tokens": tokens["tokens"] }));
    assert_eq!(text["prompt"], "the band");
    for (path, word) in [
        ("/v1/models", "counting"),
        ("/v1/models/counting", "max_model_len"),
        ("/health", "ok"),
        ("/version", "version"),
        ("/metrics", "lathe_kv_pages 64"),
        ("/", "<title>"),
    ] {
        let (status, head, body) = server.ask("GET", path, "", b"");
        assert!(status == 200 && body.contains(word) && head.contains("x-request-id"), "{path}: {body}");
    }
}

#[test]
fn every_route_is_in_the_document_and_answers() {
    let server = Server::start(0, Settings::default());
    let document: Value =
        serde_json::from_str(&server.ask("GET", "/openapi.json", "", b"").2).expect("it is JSON");
    let paths = document["paths"].as_object().expect("there are paths");
    assert!(paths.len() >= 17);
    for (path, methods) in paths {
        for method in methods.as_object().expect("there are methods").keys() {
            let path = path.replace("{name}", "counting");
            let json = "Content-Type: application/json\r\nX-Request-Id: mine\r\n";
            let (status, head, body) = server.ask(&method.to_uppercase(), &path, json, b"{}");
            assert!(![404, 405].contains(&status) && status < 500, "{method} {path}: {status} {body}");
            assert!(head.contains("x-request-id: mine"), "{head}");
        }
    }
    let help = include_str!("../../lathe/src/verbs/serve.rs");
    for path in paths.keys().filter(|path| !path.contains('{')) {
        assert!(help.contains(path.as_str()), "the help of lathe serve lacks {path}");
    }
}

#[test]
fn responses_whole_and_in_pieces() {
    let server = Server::start(0, Settings::default());
    let input = json!([{ "role": "user", "content": [{ "type": "input_text", "text": "the band" }] }]);
    let mut body = json!({ "input": input, "max_output_tokens": 6, "instructions": "Sing." });
    let whole = server.ok("/v1/responses", &body);
    let text = whole["output"][0]["content"][0]["text"].as_str().expect("there is text");
    assert_eq!(
        (whole["status"].as_str(), whole["usage"]["output_tokens"].as_u64()),
        (Some("incomplete"), Some(6))
    );
    body["stream"] = json!(true);
    let events = server.stream("/v1/responses", &body);
    let pieces: String = events.iter().filter_map(|e| e["delta"].as_str()).collect();
    assert_eq!(pieces, text);
    let last = events.last().expect("there is one");
    assert_eq!(
        (last["type"].as_str(), &last["response"]["output"][0]["content"][0]["text"]),
        (Some("response.incomplete"), &json!(text))
    );
    assert!((0..).zip(&events).all(|(number, event)| event["sequence_number"] == number));
    let tool = json!({ "type": "function", "name": "go", "parameters": { "type": "object", "properties": {}, "additionalProperties": false } });
    let called = json!([{ "type": "message", "role": "user", "content": "the band" },
        { "type": "function_call", "call_id": "c", "name": "go", "arguments": "{}" },
        { "type": "function_call_output", "call_id": "c", "output": "went" }]);
    let body =
        json!({ "input": called, "tools": [tool], "tool_choice": "required", "max_output_tokens": 60 });
    let output = &server.ok("/v1/responses", &body)["output"][0];
    assert_eq!((output["type"].as_str(), output["name"].as_str()), (Some("function_call"), Some("go")));
    assert_eq!(server.post("/v1/responses", &json!({ "input": [{ "type": "image" }] })).0, 400);
}

#[test]
fn usage_says_what_was_found_in_the_cache() {
    let server = Server::start(0, Settings::default());
    let prompt: Vec<u32> = (0..40).collect();
    let words = "the band ".repeat(20);
    let talk = json!([{ "role": "user", "content": words }]);
    let read = |message: &Value| {
        let usage = &message["usage"];
        usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap()
    };
    let mut found = vec![];
    for _ in 0..2 {
        let answer = server.ok("/v1/completions", &json!({ "prompt": prompt, "max_tokens": 1 }));
        let response = server.ok("/v1/responses", &json!({ "input": words, "max_output_tokens": 1 }));
        let body = json!({ "messages": talk, "max_tokens": 1 });
        let chat = server.ok("/v1/chat/completions", &body);
        let message = server.ok("/v1/messages", &body);
        assert_eq!(Some(read(&message)), chat["usage"]["prompt_tokens"].as_u64());
        found.push([
            answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64(),
            response["usage"]["input_tokens_details"]["cached_tokens"].as_u64(),
            message["usage"]["cache_read_input_tokens"].as_u64(),
        ]);
    }
    // Whole pages of 16. All three of the talk have one prompt, which the first of them brings.
    assert_eq!(found[0][..2], [Some(0), Some(0)]);
    let [answer, response, message] = found[1];
    assert_eq!((answer, response), (Some(32), message));
    assert!(message >= Some(16) && message == found[0][2], "{found:?}");
}

#[test]
fn what_cannot_be_served_is_refused() {
    let settings = Settings {
        body_bytes: 2000,
        queue: 0,
        keys: vec!["good".into(), "other".into()],
        ..Settings::default()
    };
    let server = Server::start(20, settings);
    let json = "Content-Type: application/json\r\nAuthorization: Bearer good\r\n";
    let ask = |path: &str, headers: &str, body: &[u8]| server.ask("POST", path, headers, body);
    let (status, _, body) = ask("/v1/completions", "Content-Type: application/json\r\n", b"{}");
    assert!(status == 401 && body.contains("authentication_error"), "{body}");
    let (status, _, body) = ask("/v1/messages", "x-api-key: bad\r\n", b"{}");
    assert!(status == 401 && body.contains("\"type\":\"error\""), "{body}");
    let deep = "[".repeat(900);
    let cases: [(u16, &str, &[u8]); 12] = [
        (413, "at most 2000", &[b' '; 3000]),
        (400, "cannot be read", b"{"),
        (400, "cannot be read", b"{\"prompt\": \"\xff\"}"),
        (400, "cannot be read", deep.as_bytes()),
        (400, "cannot be read", br#"{"prompt": 5}"#),
        (400, "the prompt is empty", br#"{"prompt": []}"#),
        (400, "there is no token", br#"{"prompt": [99999]}"#),
        (400, "temperature", br#"{"prompt": [5], "temperature": -1}"#),
        (400, "n is 0", br#"{"prompt": [5], "n": 0}"#),
        (400, "best_of", br#"{"prompt": [5], "n": 3, "best_of": 2}"#),
        (404, "no model 'x'", br#"{"prompt": [5], "model": "x"}"#),
        (400, "no token id", br#"{"prompt": [5], "logit_bias": {"a": 1}}"#),
    ];
    for (wanted, word, body) in cases {
        let (status, _, answer) = ask("/v1/completions", json, body);
        assert!(
            status == wanted && answer.contains(word),
            "{status} {answer} for {:?}",
            String::from_utf8_lossy(body)
        );
    }
    assert_eq!(ask("/v1/completions", "Authorization: Bearer good\r\n", b"{}").0, 415);
    assert_eq!(server.ask("GET", "/v1/completions", json, b"").0, 405);
    let long = json!({ "prompt": vec![5; 256] }).to_string();
    assert!(ask("/v1/completions", json, long.as_bytes()).2.contains("the context holds 256"));
    // With four running, a fifth is one too many.
    let body = br#"{"prompt": [5], "max_tokens": 100, "stream": true}"#;
    let held: Vec<TcpStream> =
        (0..4).map(|_| server.connect("POST", "/v1/completions", json, body)).collect();
    let engine = || server.ask("GET", "/engine", json, b"").2;
    let start = Instant::now();
    while !engine().contains("\"requests\":4") && start.elapsed() < Duration::from_secs(10) {}
    let (status, head, _) = ask("/v1/completions", json, body);
    assert_eq!(status, 429, "{}", engine());
    assert!(head.contains("retry-after: 1"), "{head}");
    drop(held);
}

#[test]
fn who_goes_away_is_cancelled() {
    let server = Server::start(5, Settings::default());
    let json = "Content-Type: application/json\r\n";
    for stream in ["true", "false"] {
        let body = format!(r#"{{"prompt": [5], "max_tokens": 200, "n": 3, "stream": {stream}}}"#);
        let socket = server.connect("POST", "/v1/completions", json, body.as_bytes());
        server.until("it runs", |engine| engine["running"] == 3);
        drop(socket);
        server.until("it is cancelled", |engine| engine["requests"] == 0 && engine["pages_held"] == 0);
    }
    // It had 600 tokens to make, twice.
    assert!(server.engine()["computed_tokens"].as_u64() < Some(900));
}

#[test]
fn sixteen_clients_at_once_get_what_they_asked_for() {
    let server = Server::start(1, Settings::default());
    thread::scope(|scope| {
        for client in 0..16u32 {
            let server = &server;
            scope.spawn(move || {
                for round in 0..4 {
                    let first = 30 + (client + round) % 20;
                    let body =
                        json!({ "prompt": [first], "max_tokens": 10 + client, "priority": client % 3 });
                    let answer = server.ok("/v1/completions", &body);
                    assert_eq!(answer["choices"][0]["text"], counted(first + 1, first + 11 + client));
                }
            });
        }
    });
    let engine = server.engine();
    assert_eq!((engine["requests"].clone(), engine["pages_held"].clone()), (json!(0), json!(0)));
}
