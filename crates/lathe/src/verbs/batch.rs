//! `lathe batch`: answers to a file of requests.

use std::collections::HashSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_engine::{Footprint, Runner, SCORE_TOKENS};
use lathe_serve::{BatchRequest, EmbeddingModel, Settings, TextModel, batch};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::interrupt::Listening;
use crate::model::Model;
use crate::options::{CacheOptions, ComputeOptions, ModelOption};
use crate::output;
use crate::planner::{ExpectOptions, Sizes, planned};
use crate::progress::Status;

const EXAMPLES: &str = "\
A line of IN is a request: a body as the endpoints of `lathe serve` take it, with \"messages\", \"prompt\" or \"input\"; or one of OpenAI's
batches, with \"custom_id\", \"url\" and \"body\". A line of OUT is an answer as these batches have it, with the custom_id, which is
`line-N` where a request has none. Answers come in the order in which they are done.

Stopped or killed, the same command goes on: requests whose answers are in OUT are not asked again.
With --memory a plan says how many requests are computed at once: a model larger than the memory is read from the disk once for a
token of each.

Examples:
  lathe batch questions.jsonl answers.jsonl
  lathe batch --model ./large.gguf --memory 2GiB --kv-type f16 questions.jsonl answers.jsonl
  echo '{\"prompt\": \"The capital of France is\", \"max_tokens\": 5}' > questions.jsonl";

/// Requests at once, where no plan says fewer.
const SEQUENCES: usize = 256;

/// Tokens of a step, without a plan.
const STEP_TOKENS: usize = 512;

/// Tokens of an answer where a request does not say.
const ANSWER: u64 = 256;

/// Tokens that a template puts around what somebody says, and of what it says itself.
const AROUND: usize = 8;
const TEMPLATE: usize = 32;

/// Answer a file of requests
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Batch {
    /// The requests, JSON objects, one a line.
    #[arg(value_name = "IN.jsonl")]
    input: PathBuf,
    /// Where answers are written, one a line.
    #[arg(value_name = "OUT.jsonl")]
    output: PathBuf,
    #[command(flatten)]
    model: ModelOption,
    #[command(flatten)]
    compute: ComputeOptions,
    #[command(flatten)]
    cache: CacheOptions,
    #[command(flatten)]
    expect: ExpectOptions,
    /// The most tokens of a sequence, the prompt's and the answer's [default: what the longest request seems to need].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// The most requests at once; a plan may take fewer.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    max_sequences: Option<u16>,
    /// Print one JSON object when all is done.
    #[arg(long)]
    json: bool,
}

/// What a file of requests is like.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Requests, and those that need an answer.
    all: usize,
    open: usize,
    /// Tokens, more or less, of the open ones' prompts and answers in all, and of the longest one.
    prompts: u64,
    answers: u64,
    longest: u64,
}

impl Batch {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let (mut out, done) = self.answers()?;
        let model = Model::open(self.model.name())?;
        let seen = self.look(&model, &done)?;
        let mut told = Told { all: seen.all, done: seen.all - seen.open, ..Told::default() };
        if seen.open == 0 {
            return told.tell(0.0, self.json);
        }
        let name = self.model.name().to_owned();
        let most = self.max_sequences.map_or(SEQUENCES, usize::from).min(seen.open);
        let (mut text, mut embedding, mut at_once) = (None, None, most);
        if model.is_encoder()? {
            let encoder = model.load_encoder(&self.compute, self.cache.budget()?)?;
            told.memory = Some(encoder.footprint());
            embedding = Some(EmbeddingModel { name, tokenizer: model.tokenizer.clone(), encoder });
        } else {
            let (made, sequences) = self.text(name, &model, &seen, most)?;
            told.memory = Some(made.engine.model().footprint());
            text = Some(made);
            // Some wait, so that none of the engine's places is empty.
            at_once = sequences + sequences.div_ceil(4);
        }
        let interrupt = Listening::begin();
        let start = Instant::now();
        let mut status = Status::new();
        let open = requests(&self.input)?;
        let mut open = open.filter(|r| !r.as_ref().is_ok_and(|r| done.contains(&r.custom_id)));
        // A request may take as long as the batch.
        let settings = Settings { timeout: Duration::from_secs(u32::MAX.into()), ..Settings::default() };
        let whole = batch(
            text,
            embedding,
            settings,
            at_once,
            &mut open,
            &|| !interrupt.pressed(),
            &mut |line: Value| {
                told.see(&line);
                let text = format!("{line}\n");
                out.write_all(text.as_bytes()).map_err(|error| unwritten(&self.output, &error))?;
                status.count("answering", told.done, told.all);
                Ok::<(), Failure>(())
            },
        )?;
        drop(status);
        told.tell(start.elapsed().as_secs_f64(), self.json && whole)?;
        if whole { Ok(()) } else { Err(Failure::Interrupted) }
    }

    /// Opens the answers that are there, without the end of a line that was cut off, and says whose they are.
    fn answers(&self) -> Result<(File, HashSet<String>), Failure> {
        let cannot = |error: std::io::Error| unwritten(&self.output, &error);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&self.output).map_err(cannot)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            let d =
                Diagnostic::new("batch-output", Fault::User, "another batch is writing its answers there");
            return Err(d
                .at(self.output.display().to_string())
                .fix("wait for it, or give another file")
                .into());
        }
        let (mut done, mut whole, mut line) = (HashSet::new(), 0, vec![]);
        let mut reader = BufReader::new(&mut file);
        loop {
            line.clear();
            let n = reader.read_until(b'\n', &mut line).map_err(cannot)?;
            if !line.ends_with(b"\n") {
                break;
            }
            let answer: Option<Value> = serde_json::from_slice(&line).ok();
            let id = answer.as_ref().and_then(|a| a["custom_id"].as_str());
            let id = id.ok_or_else(|| {
                let what = format!("byte {whole} begins a line that is no answer of a batch");
                let d = Diagnostic::new("batch-output", Fault::User, what);
                d.at(self.output.display().to_string()).fix("give another file for the answers")
            })?;
            done.insert(id.to_owned());
            whole += n as u64;
        }
        file.set_len(whole).and_then(|()| file.seek(SeekFrom::Start(whole))).map_err(cannot)?;
        Ok((file, done))
    }

    /// Reads all requests once, so that what is wrong with one is said before anything is computed.
    fn look(&self, model: &Model, done: &HashSet<String>) -> Result<Seen, Failure> {
        let (mut seen, mut ids) = (Seen::default(), HashSet::new());
        let mut status = Status::new();
        for request in requests(&self.input)? {
            let request = request?;
            seen.all += 1;
            status.count("reading requests", seen.all, seen.all);
            if !done.contains(&request.custom_id) {
                let (prompt, answer) =
                    tokens(&request.body, &|text| model.tokenizer.encode(text, false).len());
                seen.open += 1;
                seen.prompts += prompt;
                seen.answers += answer;
                seen.longest = seen.longest.max(prompt + answer);
            }
            if let Some(twice) = ids.replace(request.custom_id) {
                let what = format!("two requests have the custom_id '{twice}'");
                return Err(wrong(&self.input, seen.all, &what));
            }
        }
        Ok(seen)
    }

    /// The model for such requests, and how many sequences it computes at once.
    fn text(
        &self,
        name: String,
        model: &Model,
        seen: &Seen,
        most: usize,
    ) -> Result<(TextModel<Runner>, usize), Failure> {
        let mean = |tokens: u64| u32::try_from(tokens.div_ceil(seen.open as u64).max(1)).unwrap_or(1 << 20);
        let load = self.expect.load((mean(seen.prompts), mean(seen.answers)), most);
        let context = model.context_for(usize::try_from(seen.longest).unwrap_or(usize::MAX), self.context)?;
        let compute = self.cache.with(&self.compute)?;
        let (sizes, compute) = match model.is_compiled() || compute.budget.is_none() {
            true => {
                let cache_tokens = (most * (load.prompt + load.generate) as usize).max(context);
                let (rows, step_tokens) = (most + SCORE_TOKENS, STEP_TOKENS);
                (Sizes { context, sequences: most, cache_tokens, step_tokens, rows }, compute)
            }
            false => {
                planned(model, compute, &load, self.cache.machine()?, self.context.map(|_| context), context)?
            }
        };
        if compute.budget.is_some() {
            output::message(&sizes.describe());
        }
        let engine = model.load_server(compute, sizes, (Path::new(""), 0))?;
        let (template, ends) = (model.template()?, model.ends());
        let (tokenizer, adapters) = (model.tokenizer.clone(), vec![]);
        Ok((TextModel { name, tokenizer, template, ends, engine, adapters, file: None }, sizes.sequences))
    }
}

/// What was done.
#[derive(Default)]
struct Told {
    all: usize,
    done: usize,
    now: usize,
    refused: usize,
    tokens: u64,
    /// Of the model, where one was loaded.
    memory: Option<Footprint>,
}

impl Told {
    fn see(&mut self, line: &Value) {
        self.done += 1;
        self.now += 1;
        let response = &line["response"];
        self.refused += usize::from(response["status_code"] != 200);
        let usage = &response["body"]["usage"];
        let made = usage["completion_tokens"].as_u64().or(usage["output_tokens"].as_u64());
        self.tokens += made.unwrap_or(0);
    }

    fn tell(&self, seconds: f64, as_json: bool) -> Result<(), Failure> {
        let Told { all, done, now, refused, tokens, memory } = *self;
        let speed = if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 };
        if as_json {
            return output::json(&json!({
                "requests": all,
                "answered": done,
                "answered_now": now,
                "refused_now": refused,
                "output_tokens": tokens,
                "seconds": seconds,
                "tokens_per_s": speed,
                "memory": memory.map(output::memory),
                "peak_rss_bytes": lathe_runtime::peak_rss_bytes(),
            }));
        }
        let refused = if refused == 0 { String::new() } else { format!(", {refused} of them refused") };
        output::message(&format!(
            "{done} of {all} requests are answered, {now} now{refused}: {tokens} tokens in {seconds:.1} s, {speed:.1} tokens/s"
        ));
        Ok(())
    }
}

/// The requests of a file, as they come.
fn requests(path: &Path) -> Result<Box<dyn Iterator<Item = Result<BatchRequest, Failure>> + '_>, Failure> {
    let unread = |error: &std::io::Error| {
        let d = Diagnostic::new("batch-input", Fault::User, format!("cannot read it: {error}"));
        Failure::from(d.at(path.display().to_string()).fix("give a file of JSON objects, one a line"))
    };
    let file = File::open(path).map_err(|error| unread(&error))?;
    let lines = BufReader::new(file).lines().enumerate();
    let request = move |(at, line): (usize, std::io::Result<String>)| {
        let line = match line {
            Ok(line) => line,
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                return Some(Err(wrong(path, at + 1, "it is not UTF-8")));
            }
            Err(error) => return Some(Err(unread(&error))),
        };
        let text = line.trim();
        (!text.is_empty()).then(|| parse(text, at + 1).map_err(|what| wrong(path, at + 1, &what)))
    };
    Ok(Box::new(lines.filter_map(request)))
}

fn parse(text: &str, line: usize) -> Result<BatchRequest, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
    if !value.is_object() {
        return Err("it is no JSON object".into());
    }
    let custom_id = match &value["custom_id"] {
        Value::Null => format!("line-{line}"),
        Value::String(id) => id.clone(),
        _ => return Err("its custom_id is no text".into()),
    };
    let (url, body) = match (&value["url"], &value["body"]) {
        (Value::String(url), Value::Object(body)) => (url.clone(), Value::Object(body.clone())),
        (Value::Null, Value::Null) => {
            let has = |field: &str| value.get(field).is_some();
            let url = match () {
                () if has("messages") => "/v1/chat/completions",
                () if has("prompt") => "/v1/completions",
                () if has("input") => "/v1/embeddings",
                () => return Err("it has no \"messages\", \"prompt\" or \"input\"".into()),
            };
            let mut body = value.clone();
            if let Some(body) = body.as_object_mut() {
                body.remove("custom_id");
            }
            (url.into(), body)
        }
        _ => {
            return Err("it has a \"url\" that is a text and a \"body\" that is an object, or neither".into());
        }
    };
    Ok(BatchRequest { custom_id, url, body })
}

/// Tokens of a request's prompt, nearly, and the most of its answer.
fn tokens(body: &Value, count: &dyn Fn(&str) -> usize) -> (u64, u64) {
    fn texts(value: &Value, count: &dyn Fn(&str) -> usize) -> usize {
        match value {
            Value::String(text) => count(text),
            Value::Number(_) => 1,
            Value::Array(items) => items.iter().map(|item| texts(item, count)).sum(),
            Value::Object(fields) => fields.values().map(|field| texts(field, count)).sum::<usize>() + AROUND,
            Value::Bool(_) | Value::Null => 0,
        }
    }
    let fields = ["messages", "prompt", "input", "instructions", "system", "tools"];
    let prompt: usize =
        fields.iter().filter_map(|field| body.get(field)).map(|value| texts(value, count)).sum();
    let most = ["max_completion_tokens", "max_tokens", "max_output_tokens"];
    let answer = most.iter().find_map(|field| body.get(field)?.as_u64()).unwrap_or(ANSWER);
    ((prompt + TEMPLATE).clamp(1, 1 << 20) as u64, answer.clamp(1, 1 << 20))
}

fn wrong(path: &Path, line: usize, what: &str) -> Failure {
    let d = Diagnostic::new("batch-request", Fault::User, what.to_owned());
    d.at(format!("{}:{line}", path.display())).into()
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    let d = Diagnostic::new("output", Fault::Environment, format!("cannot write the answers: {error}"));
    let fix = "free some space or give another file; the same command goes on with what is not answered";
    d.at(path.display().to_string()).fix(fix).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_body_or_a_request_of_a_batch() {
        let got = parse(r#"{"messages": [], "max_tokens": 3}"#, 7).unwrap();
        assert_eq!((&*got.custom_id, &*got.url), ("line-7", "/v1/chat/completions"));
        let got = parse(r#"{"custom_id": "a", "prompt": "x"}"#, 7).unwrap();
        assert_eq!((&*got.custom_id, &*got.url, got.body), ("a", "/v1/completions", json!({"prompt": "x"})));
        let line = r#"{"custom_id": "b", "method": "POST", "url": "/v1/rerank", "body": {"query": "q"}}"#;
        let got = parse(line, 1).unwrap();
        assert_eq!((&*got.url, got.body), ("/v1/rerank", json!({"query": "q"})));
        for bad in ["", "3", "[]", "{}", r#"{"custom_id": 3, "prompt": ""}"#, r#"{"url": "/", "prompt": ""}"#]
        {
            assert!(parse(bad, 1).is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens_of_all_texts_are_counted() {
        let words = |text: &str| text.split(' ').count();
        let chat = json!({"messages": [{"role": "user", "content": "two words"}], "max_tokens": 5});
        assert_eq!(tokens(&chat, &words), ((1 + 2 + AROUND + TEMPLATE) as u64, 5));
        assert_eq!(tokens(&json!({"prompt": [1, 2, 3]}), &words), ((3 + TEMPLATE) as u64, ANSWER));
    }
}
