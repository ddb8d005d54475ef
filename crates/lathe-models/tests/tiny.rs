//! The tiny models of tests/data/tiny are whole, and what their README says they are.

use std::path::Path;

use lathe_models::{ChatTemplate, GgmlType, Message, ModelFile, Tokenizer};

#[derive(serde::Deserialize)]
struct Expected {
    name: String,
    prompt: Vec<u32>,
    vocab: usize,
    greedy: Vec<u32>,
    gaps: Vec<f32>,
}

#[test]
fn tiny_models_are_as_documented() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny");
    let expected: Vec<Expected> =
        serde_json::from_str(&std::fs::read_to_string(folder.join("expected.json"))?)?;
    let with_logits = |e: &std::fs::DirEntry| {
        let name = e.file_name().into_string().unwrap_or_default();
        name.strip_suffix(".gguf").is_some_and(|n| folder.join(format!("{n}.logits.bin")).exists())
    };
    assert_eq!(std::fs::read_dir(&folder)?.flatten().filter(with_logits).count(), expected.len());
    for e in expected {
        let path = folder.join(format!("{}.gguf", e.name));
        assert!(std::fs::metadata(&path)?.len() < 150_000, "{}", e.name);
        let file = ModelFile::open(&path)?;
        let family = file.get_str("general.architecture")?;
        let (stem, kind) = e.name.rsplit_once('-').ok_or("a name without a type")?;
        let of_llama = ["mixtral", "mistral", "linear", "yarn", "heads32"].contains(&stem);
        assert!(stem.starts_with(family) || of_llama && family == "llama", "{}", e.name);
        let number = |key: &str| file.get_u32(&format!("{family}.{key}"));
        let hidden = number("embedding_length")? as usize;
        let shape = |name: &str| file.tensor(name).map(|t| t.shape());
        assert_eq!(shape("token_embd.weight"), Some(vec![e.vocab, hidden]));
        assert_eq!(number("attention.head_count")?, if stem == "heads32" { 2 } else { 4 });
        assert!(file.tensor(&format!("blk.{}.attn_output.weight", number("block_count")? - 1)).is_some());
        match file.find::<u32>(&format!("{family}.expert_count"))? {
            Some(experts) => {
                let down = shape("blk.0.ffn_down_exps.weight").ok_or("no experts")?;
                assert_eq!(down[..2], [experts as usize, hidden]);
                assert_eq!(shape("blk.0.ffn_gate_inp.weight"), Some(vec![experts as usize, hidden]));
            }
            None => {
                let ffn = number("feed_forward_length")? as usize;
                assert_eq!(shape("blk.0.ffn_down.weight"), Some(vec![hidden, ffn]));
            }
        }
        let ty = GgmlType::ALL.iter().copied().find(|t| t.name().eq_ignore_ascii_case(kind));
        assert_eq!(file.tensor("blk.0.attn_output.weight").map(|t| t.ty()), ty);

        let logits = std::fs::metadata(folder.join(format!("{}.logits.bin", e.name)))?.len();
        assert_eq!(logits as usize, 4 * e.prompt.len() * e.vocab);
        assert_eq!((e.greedy.len(), e.gaps.len()), if e.prompt.len() == 12 { (24, 24) } else { (20, 20) });
        let tokenizer = Tokenizer::from_file(&file)?;
        assert_eq!(tokenizer.vocab_size(), e.vocab);
        let prompt =
            ChatTemplate::from_file(&file)?.render(&[Message::new("user", "the band")], true, "", "")?;
        let ids = tokenizer.encode(&prompt, true);
        assert_eq!((tokenizer.decode(&ids), ids[0]), (prompt, 1));
    }
    Ok(())
}
