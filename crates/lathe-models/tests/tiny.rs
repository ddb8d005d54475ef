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
    assert_eq!(expected.len(), 8);
    for e in expected {
        let path = folder.join(format!("{}.gguf", e.name));
        assert!(std::fs::metadata(&path)?.len() < 150_000, "{}", e.name);
        let file = ModelFile::open(&path)?;
        let family = file.get_str("general.architecture")?;
        assert_eq!(family, if e.name.starts_with("qwen2") { "qwen2" } else { "llama" });
        let number = |key: &str| file.get_u32(&format!("{family}.{key}"));
        let hidden = number("embedding_length")? as usize;
        let ffn = number("feed_forward_length")? as usize;
        let (heads, kv_heads) = (number("attention.head_count")?, number("attention.head_count_kv")?);
        assert_eq!((heads, kv_heads, number("block_count")?), (4, 2, 2));
        let shape = |name: &str| file.tensor(name).map(|t| t.shape());
        assert_eq!(shape("token_embd.weight"), Some(vec![e.vocab, hidden]));
        assert_eq!(shape("blk.1.attn_k.weight"), Some(vec![hidden / 2, hidden]));
        match file.find::<u32>("llama.expert_count")? {
            Some(experts) => {
                assert_eq!(shape("blk.0.ffn_down_exps.weight"), Some(vec![experts as usize, hidden, ffn]));
                assert_eq!(shape("blk.0.ffn_gate_inp.weight"), Some(vec![experts as usize, hidden]));
            }
            None => assert_eq!(shape("blk.0.ffn_down.weight"), Some(vec![hidden, ffn])),
        }
        let kind = e.name.split('-').nth(1).unwrap_or_default();
        let ty = GgmlType::ALL.into_iter().find(|t| t.name().eq_ignore_ascii_case(kind));
        assert_eq!(file.tensor("blk.0.attn_q.weight").map(|t| t.ty()), ty);

        let logits = std::fs::metadata(folder.join(format!("{}.logits.bin", e.name)))?.len();
        assert_eq!(logits as usize, 4 * e.prompt.len() * e.vocab);
        assert_eq!((e.greedy.len(), e.gaps.len()), (24, 24));
        let tokenizer = Tokenizer::from_file(&file)?;
        assert_eq!(tokenizer.vocab_size(), e.vocab);
        let prompt =
            ChatTemplate::from_file(&file)?.render(&[Message::new("user", "the band")], true, "", "")?;
        let ids = tokenizer.encode(&prompt, true);
        assert_eq!((tokenizer.decode(&ids), ids[0]), (prompt, 1));
    }
    Ok(())
}
