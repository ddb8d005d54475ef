//! `lathe inspect`: what is in a model file, without compiling or running it.

use std::collections::BTreeMap;

use clap::Args;
use lathe_models::{Format, ModelFile, StrArray, family};
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::output::{self, bytes};
use crate::progress::Status;

const EXAMPLES: &str = "\
Examples:
  lathe inspect ./model.gguf
  lathe inspect ./folder-of-safetensors --tensors
  lathe inspect smollm2-135m --json
  lathe inspect ./model.gguf --template";

/// Say what is in a model file
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Inspect {
    /// A GGUF file (any part of a split one), a folder of safetensors, or a name as `--model` takes it.
    #[arg(value_name = "F")]
    model: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// List all tensors.
    #[arg(long)]
    tensors: bool,
    /// Print the whole chat template, and nothing else.
    #[arg(long, conflicts_with_all = ["json", "tensors"])]
    template: bool,
}

/// Numbers that describe a model: what they are called, and their keys behind the family's name.
const SHAPES: &[(&str, &str)] = &[
    ("layers", "block_count"),
    ("context", "context_length"),
    ("hidden size", "embedding_length"),
    ("feed-forward size", "feed_forward_length"),
    ("heads", "attention.head_count"),
    ("key-value heads", "attention.head_count_kv"),
    ("head size", "attention.key_length"),
    ("experts", "expert_count"),
    ("experts used", "expert_used_count"),
    ("sliding window", "attention.sliding_window"),
];

/// Lines of a chat template that are shown unasked.
const TEMPLATE_LINES: usize = 3;

/// Tensors of one element type.
#[derive(Default)]
struct Encoding {
    tensors: usize,
    parameters: usize,
    bytes: usize,
}

/// What there is to say.
struct Report<'a> {
    file: &'a ModelFile,
    family: Option<&'a str>,
    shapes: Vec<(&'static str, u32)>,
    encodings: BTreeMap<&'static str, Encoding>,
    tokenizer: Option<(&'a str, &'a str, usize)>,
    template: Option<&'a str>,
}

impl Inspect {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let path = lathe_models::resolve(&self.model, &mut Status::new())?;
        let file = ModelFile::open(&path)?;
        let report = Report::of(&file);
        if self.template {
            return match report.template {
                Some(text) => output::line(text),
                None => Err(lathe_models::ChatError::Missing { path: Some(path) }.into()),
            };
        }
        match self.json {
            true => output::json(&report.json(self.tensors)),
            false => output::text(&report.text(self.tensors)),
        }
    }
}

impl<'a> Report<'a> {
    fn of(file: &'a ModelFile) -> Report<'a> {
        // A value of another type than is usual is not described; whoever needs it says what is wrong with it.
        let text = |key: &str| file.find::<&str>(key).ok().flatten();
        let family = text("general.architecture");
        let number = |key: &str| file.find::<u32>(&format!("{}.{key}", family?)).ok().flatten();
        let mut encodings: BTreeMap<&str, Encoding> = BTreeMap::new();
        for t in file.tensors() {
            let e = encodings.entry(t.ty().name()).or_default();
            e.tensors += 1;
            e.parameters += t.elements();
            e.bytes += t.byte_len();
        }
        let tokens = file.find::<StrArray<'_>>("tokenizer.ggml.tokens").ok().flatten();
        Report {
            file,
            family,
            shapes: SHAPES.iter().filter_map(|(name, key)| Some((*name, number(key)?))).collect(),
            encodings,
            tokenizer: text("tokenizer.ggml.model").map(|model| {
                (model, text("tokenizer.ggml.pre").unwrap_or("default"), tokens.map_or(0, |t| t.len()))
            }),
            template: text("tokenizer.chat_template"),
        }
    }

    fn format(&self) -> String {
        match self.file.format() {
            Format::Gguf(version) => format!("GGUF {version}"),
            Format::Safetensors => "safetensors".to_owned(),
            Format::Compiled => "compiled by lathe".to_owned(),
        }
    }

    fn parameters(&self) -> usize {
        self.encodings.values().map(|e| e.parameters).sum()
    }

    fn text(&self, tensors: bool) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: String| out.push_str(&format!("{name:<18} {value}\n"));
        let known = if family(self.file).is_ok() { "" } else { " (not supported)" };
        line("family", format!("{}{known}", clean(self.family.unwrap_or("unknown"))));
        let (files, size) = (self.file.files(), bytes(self.file.file_bytes()));
        let plural = if files == 1 { "" } else { "s" };
        line("format", format!("{}, {files} file{plural}, {size}", self.format()));
        line("parameters", count(self.parameters()));
        for (name, n) in &self.shapes {
            line(name, n.to_string());
        }
        for (i, (name, e)) in self.encodings.iter().enumerate() {
            let what = if i == 0 { "encodings" } else { "" };
            line(what, format!("{name:<6} {:>5} tensors  {:>9}", e.tensors, bytes(e.bytes)));
        }
        match self.tokenizer {
            Some((model, split, n)) => {
                line("tokenizer", format!("{}, {}, {n} tokens", clean(model), clean(split)))
            }
            None => line("tokenizer", "none".to_owned()),
        }
        let lines: Vec<&str> = self.template.map_or(vec![], |t| t.lines().collect());
        line(
            "chat template",
            if lines.is_empty() { "none".to_owned() } else { format!("{} lines", lines.len()) },
        );
        for text in lines.iter().take(TEMPLATE_LINES) {
            line("", clean(text));
        }
        if lines.len() > TEMPLATE_LINES {
            line("", "... (--template prints all)".to_owned());
        }
        for t in self.file.tensors().iter().filter(|_| tensors) {
            let size = bytes(t.byte_len());
            out.push_str(&format!("{:<6} {size:>9}  {} {:?}\n", t.ty().name(), clean(t.name()), t.shape()));
        }
        out
    }

    fn json(&self, tensors: bool) -> Value {
        let shapes: Map<String, Value> =
            self.shapes.iter().map(|(name, n)| (name.replace([' ', '-'], "_"), json!(n))).collect();
        let encodings: Map<String, Value> = self
            .encodings
            .iter()
            .map(|(name, e)| {
                let value = json!({ "tensors": e.tensors, "parameters": e.parameters, "bytes": e.bytes });
                ((*name).to_owned(), value)
            })
            .collect();
        let tokenizer = self
            .tokenizer
            .map(|(model, split, tokens)| json!({ "model": model, "pre": split, "tokens": tokens }));
        let mut out = json!({
            "family": self.family,
            "supported": family(self.file).is_ok(),
            "format": self.format(),
            "files": self.file.files(),
            "bytes": self.file.file_bytes(),
            "parameters": self.parameters(),
            "shapes": shapes,
            "encodings": encodings,
            "tokenizer": tokenizer,
            "chat_template": self.template,
        });
        if tensors {
            let one = |t: &lathe_models::TensorInfo| json!({ "name": t.name(), "shape": t.shape(), "type": t.ty().name(), "bytes": t.byte_len() });
            out["tensors"] = self.file.tensors().iter().map(one).collect();
        }
        out
    }
}

/// A text from a file on one line, short, and without anything that moves a terminal's cursor.
fn clean(text: &str) -> String {
    let short: String = text.chars().take(100).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() < text.len() { format!("{short}...") } else { short }
}

fn count(n: usize) -> String {
    match n {
        0..100_000 => n.to_string(),
        100_000..1_000_000_000 => format!("{:.1} million", n as f64 / 1e6),
        _ => format!("{:.2} billion", n as f64 / 1e9),
    }
}
