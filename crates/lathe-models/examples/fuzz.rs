//! Gives damaged input to what reads files, for as long as it is told; a panic ends it, with the input beside it on disk:
//! `cargo run --release -p lathe-models --example fuzz -- TARGET --time SECONDS`, where the target is `gguf`, `safetensors`,
//! `tokenizer`, `template` or `ir`. It starts from the data of the tests.

use std::path::{Path, PathBuf};

use lathe_models::{ChatTemplate, Message, ModelFile, Tokenizer};

mod damage;

type Target = fn(&[u8]);

/// Name, what reads the input, and the files to start from, below `crates/`.
const TARGETS: &[(&str, Target, &[&str])] = &[
    (
        "gguf",
        gguf,
        &[
            "lathe-models/tests/data/tokenizer/kinds/spm.gguf",
            "lathe-models/tests/data/tokenizer/kinds/unigram.gguf",
            "lathe-models/tests/data/tokenizer/kinds/bpe.gguf",
            "lathe-models/tests/data/tiny/llama-q4_0.gguf",
        ],
    ),
    (
        "safetensors",
        safetensors,
        &[
            "lathe-models/tests/data/safetensors/llama-f32/config.json",
            "lathe-models/tests/data/safetensors/llama-f32/model.safetensors",
        ],
    ),
    (
        "tokenizer",
        tokenizer,
        &[
            "lathe-models/tests/data/tokenizer/kinds/words.json",
            "lathe-models/tests/data/tokenizer/kinds/wordpiece.json",
            "lathe-models/tests/data/tokenizer/kinds/unigram.json",
            "lathe-models/tests/data/safetensors/llama-f32/tokenizer.json",
        ],
    ),
    (
        "template",
        template,
        &["lathe-models/tests/scripts/chat_templates.py", "lathe-models/tests/scripts/make_chat.py"],
    ),
    (
        "ir",
        ir,
        &[
            "lathe-rewrite/tests/files/parse/tensor.txt",
            "lathe-rewrite/tests/files/parse/graph.txt",
            "lathe-rewrite/tests/files/parse/step.txt",
            "lathe-rewrite/tests/files/parse/module.txt",
        ],
    ),
];

fn gguf(bytes: &[u8]) {
    if let Ok(file) = ModelFile::from_bytes(bytes.to_vec()) {
        use_model(&file);
    }
}

/// The input takes the place of the file of the model folder that it is like.
fn safetensors(bytes: &[u8]) {
    let name = if bytes.first() == Some(&b'{') { "config.json" } else { "model.safetensors" };
    in_folder(name, bytes);
}

fn tokenizer(bytes: &[u8]) {
    in_folder("tokenizer.json", bytes);
}

fn in_folder(name: &str, bytes: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let from = root().join("lathe-models/tests/data/safetensors/llama-f32");
    for part in ["config.json", "model.safetensors"] {
        std::fs::copy(from.join(part), folder.path().join(part)).expect("the data of the tests is there");
    }
    std::fs::write(folder.path().join(name), bytes).expect("the folder can be written");
    if let Ok(file) = ModelFile::open(folder.path()) {
        use_model(&file);
    }
}

fn use_model(file: &ModelFile) {
    for tensor in file.tensors().iter().take(4) {
        file.data(tensor);
    }
    if let Ok(tokenizer) = Tokenizer::from_file(file) {
        let ids = tokenizer.encode("<s> the band\n été 日本 <|im_end|> 1234", true);
        tokenizer.decode(&tokenizer.with_specials(ids));
    }
}

fn template(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(template) = ChatTemplate::new(&text) {
        let messages = [Message::new("user", "one"), Message::new("assistant", "two")];
        let _ =
            template.render_with_tools(&messages, &[serde_json::json!({"name": "f"})], true, "<s>", "</s>");
    }
}

fn ir(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = lathe_ir::tensor::parse(&text).map(|k| lathe_ir::tensor::check(&k).is_ok());
    let _ = lathe_ir::graph::parse(&text).map(|g| lathe_ir::graph::check(&g, &lathe_ops::table()).is_ok());
    let _ = lathe_ir::graph::parse_module(&text);
    let _ = lathe_ir::step::parse(&text).map(|p| lathe_ir::step::check(&p).is_ok());
    let _ = lathe_ir::notation::parse(&text).map(|n| lathe_ir::notation::lower(&n).is_ok());
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&str> = TARGETS.iter().map(|t| t.0).collect();
    let usage = format!("give a target of {} and --time SECONDS", names.join(", "));
    let [target, option, seconds] = args.as_slice() else { return Err(usage.into()) };
    let Some((_, read, files)) = TARGETS.iter().find(|t| t.0 == target && option == "--time") else {
        return Err(usage.into());
    };
    let mut seeds = vec![];
    for file in *files {
        seeds.push(std::fs::read(root().join(file))?);
        if *target == "template" {
            let text = String::from_utf8_lossy(&seeds[seeds.len() - 1]).into_owned();
            seeds.extend(text.split("\"\"\"").map(|part| part.replace("\\n", "\n").into_bytes()));
        }
    }
    damage::fuzz(target, &seeds, seconds.parse()?, *read)
}
