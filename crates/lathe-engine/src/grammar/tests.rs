//! Grammars over the tokens of a small model: whatever is drawn within a constraint is what the grammar says.

use lathe_models::ModelFile;
use proptest::prelude::*;

use super::*;
use crate::beam::{BeamSearch, Beams, Next};
use crate::sampling::Sampling;
use crate::score::log_softmax;

fn tokenizer() -> Arc<Tokenizer> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../lathe-models/tests/data/tiny/llama-q4_1.gguf");
    let file = ModelFile::open(path).expect("the tiny model is whole");
    Arc::new(Tokenizer::from_file(&file).expect("it has a tokenizer"))
}

fn grammars() -> Grammars {
    Grammars::new(&tokenizer(), &[]).expect("it has a token that ends an answer")
}

/// The text that comes of drawing allowed tokens, and whether it ended.
fn drawn(mut constraint: Constraint, draws: &[u32]) -> (String, bool) {
    let (tokenizer, mut ids) = (tokenizer(), vec![]);
    for draw in draws {
        let allowed = constraint.allowed().expect("some token may come");
        let bit = |id: u32| allowed.bits()[id as usize / 32] >> (id % 32) & 1 == 1;
        let all: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(|&id| bit(id)).collect();
        let token = all[*draw as usize % all.len()];
        match constraint.take(token).expect("it is allowed") {
            Some(FinishReason::Stop) => return (tokenizer.decode(&ids), true),
            Some(_) => {
                ids.push(token);
                return (tokenizer.decode(&ids), true);
            }
            None => ids.push(token),
        }
    }
    (tokenizer.decode(&ids), false)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_drawn_is_what_the_grammar_says(draws in prop::collection::vec(any::<u32>(), 80)) {
        let grammars = grammars();
        let schema = r#"{"type": "object", "properties": {"a": {"type": "integer", "minimum": -3, "maximum": 12},
            "b": {"enum": ["x", "y\n"]}, "c": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}},
            "required": ["a", "b"], "additionalProperties": false}"#;
        let (text, over) = drawn(grammars.compile(&Grammar::Json(schema.into())).unwrap(), &draws);
        if over {
            let value: Value = serde_json::from_str(&text).expect("it is JSON");
            // To a schema 3.0 is an integer.
            let a = value["a"].as_f64().expect("it is a number");
            prop_assert!((-3.0..=12.0).contains(&a) && a.fract() == 0.0 && (value["b"] == "x" || value["b"] == "y\n"), "{}", text);
            prop_assert!(value.get("c").is_none_or(|c| c.as_array().is_some_and(|c| c.len() <= 3)), "{}", text);
        }
        let choice = Grammar::Choice(vec!["yes".into(), "no \"quoted\"".into()]);
        let (text, over) = drawn(grammars.compile(&choice).unwrap(), &draws);
        prop_assert!(over && ["yes", "no \"quoted\""].contains(&text.as_str()), "{}", text);
        let (text, over) = drawn(grammars.compile(&Grammar::Regex("[a-c]{2,4}/[0-9]".into())).unwrap(), &draws);
        let (letters, digit) = text.split_once('/').expect("there is a slash");
        prop_assert!(over && (2..=4).contains(&letters.len()) && digit.parse::<u8>().is_ok(), "{}", text);
        let lark = Grammar::Lark("start: \"(\" start \")\" | NUMBER\nNUMBER: /[1-9]/".into());
        let (text, over) = drawn(grammars.compile(&lark).unwrap(), &draws);
        let open = text.matches('(').count();
        prop_assert!(!over || open == text.matches(')').count(), "{}", text);
    }
}

#[test]
fn what_cannot_be_a_grammar_is_refused() {
    let deep = |open: &str, close: &str, n: usize| open.repeat(n) + "1" + &close.repeat(n);
    let chain: String = (0..2000).map(|i| format!("a{i}: a{}\n", i + 1)).collect();
    let references: Value = (0..1000)
        .map(|i| (i.to_string(), format!(r##"{{"allOf": [{{"$ref": "#/$defs/{}"}}]}}"##, i + 1)))
        .map(|(name, text)| (name, serde_json::from_str(&text).unwrap()))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let references = serde_json::json!({ "$defs": references, "$ref": "#/$defs/0" }).to_string();
    let cases = [
        Grammar::Json("{".into()),
        Grammar::Json("[]".into()),
        Grammar::Json(r#"{"type": "nonsense"}"#.into()),
        Grammar::Json(r#"{"type": "string", "pattern": "("}"#.into()),
        Grammar::Json(r#"{"type": "integer", "minimum": 3, "maximum": 2}"#.into()),
        Grammar::Json(r##"{"$ref": "#/$defs/missing"}"##.into()),
        Grammar::Json(r##"{"$ref": "http://example.com/schema"}"##.into()),
        Grammar::Json(references),
        Grammar::Json(deep(r#"{"items": "#, "}", 100)),
        Grammar::Json(format!(r#"{{"const": "{}"}}"#, "x".repeat(TEXT))),
        Grammar::Regex("(".into()),
        Grammar::Regex(deep("(", ")", 30_000)),
        Grammar::Choice(vec![]),
        Grammar::Lark(String::new()),
        Grammar::Lark("start: nothing".into()),
        Grammar::Lark(format!("start: {}", deep("(", ")", 30_000))),
        Grammar::Lark(chain + "a2000: a0\nstart: a0\n"),
        Grammar::Lark("start: start".into()),
    ];
    let grammars = grammars();
    let mut wrong = vec![];
    for grammar in cases {
        let start = std::time::Instant::now();
        let text: String = format!("{grammar:?}").chars().take(100).collect();
        match grammars.compile(&grammar) {
            Err(EngineError::Grammar { why }) if !why.is_empty() && why.len() <= 1200 => {}
            other => wrong.push(format!("{other:?} for {text}")),
        }
        if start.elapsed().as_secs() > 5 {
            wrong.push(format!("{text} took {:?}", start.elapsed()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn large_grammars_are_read_in_bounded_time_or_refused() {
    let cases = [
        Grammar::Json(r#"{"type": "string", "pattern": "^((a{1,500}){1,500}){1,500}$"}"#.into()),
        Grammar::Json(
            r#"{"type": "array", "minItems": 100000000, "items": {"type": "array", "minItems": 9999}}"#
                .into(),
        ),
        Grammar::Regex("((a{1,999}){1,999}){1,999}".into()),
        Grammar::Regex("(a|b|ab)*c{500}(.*x){30}".into()),
    ];
    let grammars = grammars();
    for grammar in cases {
        let start = std::time::Instant::now();
        if let Ok(mut constraint) = grammars.compile(&grammar) {
            for _ in 0..50 {
                let Ok(allowed) = constraint.allowed() else { break };
                let first = (0..).find(|id| allowed.bits()[id / 32] >> (id % 32) & 1 == 1);
                if !matches!(constraint.take(first.expect("some token may come") as u32), Ok(None)) {
                    break;
                }
            }
        }
        assert!(start.elapsed().as_secs() < 5, "{grammar:?} took {:?}", start.elapsed());
    }
}

/// Pretended logits of what follows some tokens.
fn logits(known: &[u32], count: usize) -> Vec<f32> {
    let seed =
        known.iter().fold(7u64, |seed, token| (seed ^ u64::from(*token)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (0..count as u64).map(|i| (seed.wrapping_mul(2 * i + 1) >> 40) as f32 / (1 << 22) as f32).collect()
}

/// All texts of a grammar as tokens, with their log-likelihoods, by trying every token.
fn every(constraint: &Constraint, known: &[u32], sum: f64, count: usize, all: &mut Vec<(f64, Vec<u32>)>) {
    let mut constraint = constraint.clone();
    let allowed = constraint.allowed().expect("some token may come");
    let logprobs = log_softmax(&logits(known, count));
    for token in (0..count).filter(|id| allowed.bits()[id / 32] >> (id % 32) & 1 == 1) {
        let (sum, known) = (sum + f64::from(logprobs[token]), [known, &[token as u32]].concat());
        let mut next = constraint.clone();
        match next.take(token as u32).expect("it is allowed") {
            None => every(&next, &known, sum, count, all),
            Some(_) => all.push((sum, known)),
        }
    }
}

/// As many beams as there are beginnings of texts find what trying everything finds.
#[test]
fn beams_keep_to_a_grammar() {
    let count = tokenizer().vocab_size();
    for grammar in
        [Grammar::Choice(vec!["the band".into(), "no".into()]), Grammar::Regex("[ab]{1,3}c?".into())]
    {
        let constraint = grammars().compile(&grammar).unwrap();
        let mut all = vec![];
        every(&constraint, &[1], 0.0, count, &mut all);
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let beams = Beams { length_penalty: 0.0, ..Beams::new(400) };
        let mut search = BeamSearch::new(beams, &constraint.ends, 40, None, Some(constraint.clone()));
        let (mut rows, sampling) = (vec![vec![1u32]], Sampling::default());
        'steps: loop {
            for (beam, known) in rows.iter().enumerate() {
                search.row(beam, &logits(known, count), known, 1, &sampling).unwrap();
            }
            let Next::Beams(next) = search.advance().unwrap() else { break 'steps };
            rows = next.into_iter().map(|(from, token)| [&rows[from][..], &[token]].concat()).collect();
        }
        let found = search.into_answers();
        assert!(
            all.len() > 3 && all.len() < 400 && found.len() == all.len(),
            "{} {}",
            all.len(),
            found.len()
        );
        for (answer, (score, known)) in found.iter().zip(&all) {
            assert_eq!(answer.tokens, known[1..]);
            assert!((answer.score - score).abs() < 1e-4 && answer.finish.is_some());
        }
    }
}
