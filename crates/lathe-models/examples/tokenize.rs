//! Opens a model, makes its tokenizer, prints the ids of a text, and how long each step took:
//! `cargo run --release -p lathe-models --example tokenize -- MODEL "some text"`; with `@FILE`, the text is a file's, and the
//! speed is printed instead of the ids.

use std::time::Instant;

use lathe_models::{ModelFile, Tokenizer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(text)) = (args.next(), args.next()) else {
        return Err("give a model file and a text".into());
    };
    let (text, from_file) = match text.strip_prefix('@') {
        Some(path) => (std::fs::read_to_string(path)?, true),
        None => (text, false),
    };
    let start = Instant::now();
    let file = ModelFile::open(path)?;
    let opened = start.elapsed();
    let tokenizer = Tokenizer::from_file(&file)?;
    let made = start.elapsed() - opened;
    let ids = tokenizer.encode(&text, true);
    let encoded = start.elapsed() - opened - made;
    if from_file {
        let speed = text.len() as f64 / 1e6 / encoded.as_secs_f64();
        println!("{} tokens, {speed:.1} MB/s", ids.len());
    } else {
        println!("{ids:?}");
    }
    eprintln!(
        "open {opened:.1?}, tokenizer of {} tokens {made:.1?}, encode {encoded:.1?}",
        tokenizer.vocab_size()
    );
    Ok(())
}
