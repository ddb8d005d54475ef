//! Gives damaged requests and grammars to what reads them, for as long as it is told:
//! `cargo run --release -p lathe-serve --example fuzz_requests -- TARGET --time SECONDS`, where the target is `request` (over loopback, to
//! every endpoint that reads JSON) or `grammar`. A panic, or a request without an answer, ends it, with the input beside it on
//! disk.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use lathe_engine::{Batch, Engine, EngineError, Forward, Grammar, Grammars};
use lathe_models::{ChatTemplate, ModelFile, Tokenizer};
use lathe_serve::{Settings, TextModel, serve};

#[path = "../../lathe-models/examples/damage/mod.rs"]
mod damage;

/// Every token may follow every other.
struct Flat(usize);

impl Forward for Flat {
    fn vocabulary(&self) -> usize {
        self.0
    }

    fn context(&self) -> usize {
        128
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
        32
    }

    fn copy_page(&mut self, _: u32, _: u32) -> Result<(), EngineError> {
        Ok(())
    }

    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<(), EngineError> {
        logits.clear();
        logits.resize(batch.rows.len() * self.0, 1.0);
        Ok(())
    }
}

/// Path and body.
const REQUESTS: &[&str] = &[
    r#"/v1/completions {"prompt": ["the band", "b"], "max_tokens": 4, "n": 2, "echo": true, "logprobs": 2, "stop": ["x"], "logit_bias": {"5": -1}, "seed": 3}"#,
    r#"/v1/completions {"prompt": [[5, 6], [7]], "max_tokens": 4, "stream": true, "guided_regex": "[a-c]{2,3}(x|y)*", "speculate": 4}"#,
    r#"/v1/completions {"prompt": "the", "max_tokens": 9, "structured_outputs": {"choice": ["left", "right"]}, "top_p": 0.5, "top_k": 4}"#,
    r#"/v1/chat/completions {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "max_tokens": 20, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}}}"#,
    r#"/v1/chat/completions {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 20, "tools": [{"type": "function", "function": {"name": "go", "parameters": {"type": "object"}, "strict": true}}], "tool_choice": "required", "stream": true}"#,
    r#"/v1/messages {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "go", "input": {}}]}], "max_tokens": 5, "system": "x", "tools": [{"name": "go", "input_schema": {"type": "object"}}]}"#,
    r#"/tokenize {"prompt": "the band", "add_special_tokens": false}"#,
    r#"/detokenize {"tokens": [1, 2, 3]}"#,
    r#"/v1/embeddings {"input": ["a"], "dimensions": 3}"#,
];

/// Grammars behind a letter that says their kind.
const GRAMMARS: &[&str] = &[
    r##"j{"$defs": {"n": {"type": "object", "properties": {"v": {"type": "integer", "minimum": -3}, "c": {"type": "array", "items": {"$ref": "#/$defs/n"}, "maxItems": 2}}}}, "$ref": "#/$defs/n"}"##,
    r#"j{"anyOf": [{"enum": ["a", 1, null]}, {"type": "string", "pattern": "^[a-z]{2,5}$", "maxLength": 4}, {"type": "number", "multipleOf": 0.5}], "allOf": [{"minimum": 3}]}"#,
    r"r(a|b|ab)*c{2,5}[^x-z]+\d(?i:q)$",
    "lstart: item (\",\" item)*\nitem: NUMBER | \"(\" start \")\"\nNUMBER: /[0-9]+/ & ~/0.*/\n%ignore /[ ]+/\n",
    r#"lstart: "a"{2,4} call
call: %json {"type": "object", "required": ["a"]}
"#,
];

fn tokenizer() -> (Arc<Tokenizer>, ChatTemplate) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../lathe-models/tests/data/tiny/llama-q4_1.gguf");
    let file = ModelFile::open(path).expect("the tiny model is whole");
    let tokenizer = Tokenizer::from_file(&file).expect("it has a tokenizer");
    (Arc::new(tokenizer), ChatTemplate::from_file(&file).expect("it has a template"))
}

fn start() -> SocketAddr {
    let (send, receive) = mpsc::channel();
    let settings = Settings { address: SocketAddr::from(([127, 0, 0, 1], 0)), ..Settings::default() };
    std::thread::spawn(move || {
        let (tokenizer, template) = tokenizer();
        let engine = Engine::new(Flat(tokenizer.vocab_size()));
        let model = TextModel {
            name: "flat".into(),
            tokenizer,
            template: Some(template),
            ends: vec![],
            engine,
            adapters: vec![],
            file: None,
        };
        serve(Some(model), None, settings, |address| send.send(address).expect("it waits"))
    });
    receive.recv().expect("the server starts")
}

fn request(address: SocketAddr, bytes: &[u8]) {
    let end = bytes.iter().position(|&b| b == b' ').unwrap_or(bytes.len());
    let path = String::from_utf8_lossy(&bytes[..end]);
    // Damage to the path is another target's.
    let path =
        REQUESTS.iter().filter_map(|r| r.split(' ').next()).find(|p| *p == path).unwrap_or("/v1/completions");
    let body = bytes.get(end + 1..).unwrap_or_default();
    let mut socket = TcpStream::connect(address).expect("it listens");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a time can be set");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body)).expect("it is read");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("an answer ends");
    assert!(answer.starts_with(b"HTTP/1.1 "), "no answer");
    assert!(!answer.starts_with(b"HTTP/1.1 5"), "{}", String::from_utf8_lossy(&answer));
}

fn grammar(grammars: &Grammars, bytes: &[u8]) {
    let Some((kind, text)) = bytes.split_first() else { return };
    let text = String::from_utf8_lossy(text).into_owned();
    let grammar = match kind {
        b'r' => Grammar::Regex(text),
        b'l' => Grammar::Lark(text),
        _ => Grammar::Json(text),
    };
    let Ok(mut constraint) = grammars.compile(&grammar) else { return };
    for step in 0..30 {
        let Ok(allowed) = constraint.allowed() else { return };
        let ids = (0..allowed.bits().len() * 32).filter(|id| allowed.bits()[id / 32] >> (id % 32) & 1 == 1);
        let all: Vec<u32> = ids.map(|id| id as u32).collect();
        if !matches!(constraint.take(all[step * 7 % all.len()]), Ok(None)) {
            return;
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let seeds = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["request", "--time", time] => {
            let address = start();
            damage::fuzz("request", &seeds(REQUESTS), time.parse()?, |bytes| request(address, bytes))
        }
        ["grammar", "--time", time] => {
            let grammars = Grammars::new(&tokenizer().0, &[])?;
            damage::fuzz("grammar", &seeds(GRAMMARS), time.parse()?, |bytes| grammar(&grammars, bytes))
        }
        _ => Err("give a target of request, grammar and --time SECONDS".into()),
    }
}
