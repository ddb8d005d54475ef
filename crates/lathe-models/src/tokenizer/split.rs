//! Pre-tokenizers: how a text is cut into the words that are merged one by one.
//!
//! A row of [`SPLITS`] has the names that GGUF files give to a way of cutting, and the regular expressions of the model's
//! original tokenizer, as llama.cpp reads them: each cuts what the one before left, and what matches nothing is a word too.

use regex_automata::meta::Regex;
use regex_automata::util::captures::Captures;
use regex_automata::{Input, nfa::thompson::WhichCaptures};

/// The end of many expressions: white space leaves its last character to the word that follows. The engine has no
/// look-ahead, so runs of white space are matched whole, and shortened here.
const SPACES: &str = r"|\s+(?!\S)";

/// Bytes that a lazy automaton may take: with less, that of two cased classes of letters is made again and again over texts of
/// many scripts.
const DFA: usize = 16 << 20;

macro_rules! contractions {
    () => {
        r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
    };
}
/// Llama 3's expression with another rule for digits.
macro_rules! llama3 {
    ($digits:literal) => {
        concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
        )
    };
}
/// Words that begin in upper case or are of one case, with what may end them, then a rule for digits.
macro_rules! cased {
    ($upper:literal, $lower:literal, $ending:expr, $digits:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?",
            $upper,
            "*",
            $lower,
            "+",
            $ending,
            r"|[^\r\n\p{L}\p{N}]?",
            $upper,
            "+",
            $lower,
            "*",
            $ending,
            "|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)"
        )
    };
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
const KANA_AND_HAN: &str = r"[一-龥\u{3040}-ゟ゠-ヿ]+";
/// All from U+0800 to the last syllable of Hangul, but white space.
const HAN_AND_HANGUL: &str = r"[[一-龥ࠀ-一가-\u{d7ff}]--\s]+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
/// The cased letters of Latin, Greek, Cyrillic and their like, as the model has them.
const CASED_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u{1f7d}ᾀ-ᾴᾶ-ᾼ\u{1fbe}ῂ-ῄῆ-ῌῐ-\u{1fd3}ῖ-\u{1fdb}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u{2126}ℨ\u{212a}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";

/// A way of cutting text into words.
#[derive(Debug)]
struct Row {
    names: &'static [&'static str],
    cuts: &'static [&'static str],
    /// Whether a word that is a token is taken as it is, whatever the merges would make of it.
    whole_words: bool,
    /// Whether a prompt begins with the beginning-of-text token where the file does not say.
    begin: bool,
}

const fn row(names: &'static [&'static str], cuts: &'static [&'static str]) -> Row {
    Row { names, cuts, whole_words: false, begin: false }
}

const SPLITS: &[Row] = &[
    row(
        &[
            "gpt-2",
            "gpt2",
            "phi-2",
            "olmo",
            "mpt",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
            "gigachat",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
        ],
        &[GPT2],
    ),
    row(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[r"\p{N}", GPT2],
    ),
    Row {
        whole_words: true,
        begin: true,
        ..row(
            &[
                "llama-bpe",
                "llama3",
                "llama-v3",
                "falcon3",
                "falcon-h1",
                "pixtral",
                "midm-2.0",
                "lfm2",
                "jina-v5-nano",
            ],
            &[llama3!(r"\p{N}{1,3}")],
        )
    },
    row(&["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"], &[llama3!(r"\p{N}{1,3}")]),
    row(
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "stablelm2",
            "megrez",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        &[llama3!(r"\p{N}")],
    ),
    row(
        &["qwen35"],
        &[concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
        )],
    ),
    row(
        &["bailingmoe", "bailingmoe2", "llada-moe"],
        &[concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)"
        )],
    ),
    row(
        &["seed-coder"],
        &[concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)"
        )],
    ),
    Row {
        whole_words: true,
        begin: true,
        ..row(&["tekken"], &[cased!(r"[\p{L}--[a-z]]", r"[\p{L}--[A-Z]]", "", r"\p{N}")])
    },
    row(
        &["gpt-4o", "llama4", "kanana2", "minimax-m2"],
        &[cased!(r"[\p{L}--[a-z]]", r"[\p{L}--[A-Z]]", concat!("(?:", contractions!(), ")?"), r"\p{N}{1,3}")],
    ),
    row(
        &["deepseek-llm"],
        &[
            r"[\r\n]",
            CASED_LETTERS,
            r"\s?[!-/:-~！-／：-～‘-‟\u{3001}-。]+",
            r"\s+\z",
            HAN_AND_HANGUL,
            r"\p{N}+",
        ],
    ),
    row(&["deepseek-coder"], &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", HAN_AND_HANGUL, r"\p{N}"]),
    row(
        &["deepseek-v3", "step35", "hunyuan-dense", "joyai-llm"],
        &[
            r"\p{N}{1,3}",
            KANA_AND_HAN,
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"##,
        ],
    ),
    row(&["falcon"], &[r"[\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"]),
    row(&["bloom", "poro-chat", "gpt3-finnish"], &[BLOOM]),
    row(&["viking"], &[BLOOM, r"\p{N}"]),
    row(&["default"], &[r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
];

/// A way of cutting text into words, ready to cut.
#[derive(Debug)]
pub(super) struct Split {
    cuts: Vec<Cut>,
    row: &'static Row,
}

#[derive(Debug)]
struct Cut {
    /// The expression without its end, then runs of white space where it has that end.
    regex: Regex,
}

impl Cut {
    fn new(pattern: &str) -> Cut {
        let patterns = match pattern.strip_suffix(SPACES) {
            Some(words) => vec![words, r"\s+"],
            None => vec![pattern],
        };
        let config = Regex::config().which_captures(WhichCaptures::Implicit).hybrid_cache_capacity(DFA);
        let regex = Regex::builder().configure(config).build_many(&patterns);
        Cut { regex: regex.expect("the expressions of the table are tested") }
    }

    /// Calls `piece` with the matches in `text` and what is between.
    fn pieces<'a>(&self, text: &'a str, piece: &mut dyn FnMut(&'a str)) {
        let mut found = Captures::matches(self.regex.group_info().clone());
        let (mut begin, mut at) = (0, 0);
        while at < text.len() {
            self.regex.search_captures(&Input::new(text).range(at..), &mut found);
            let Some(m) = found.get_match() else { break };
            let mut end = m.end();
            if m.pattern().as_usize() == 1 && end < text.len() {
                let last = text[..end].chars().next_back().map_or(0, char::len_utf8);
                end = if end - last == m.start() { end } else { end - last };
            }
            if begin < m.start() {
                piece(&text[begin..m.start()]);
            }
            piece(&text[m.start()..end]);
            (begin, at) = (end, end);
        }
        if begin < text.len() {
            piece(&text[begin..]);
        }
    }
}

/// The name in GGUF of the only cut `pattern`, as a `tokenizer.json` writes it; `whole_words` says whether a word that is a
/// token is taken as it is.
pub(crate) fn name_of(pattern: &str, whole_words: bool) -> Option<&'static str> {
    let pattern = pattern.strip_suffix(r"|\s+").unwrap_or(pattern);
    let pattern = pattern.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", contractions!());
    let same = |row: &&Row| row.cuts == [pattern.as_str()] && row.whole_words == whole_words;
    SPLITS.iter().find(same).map(|row| row.names[0])
}

impl Split {
    /// The split by the name that files give it.
    pub(super) fn by_name(name: &str) -> Option<Split> {
        let row = SPLITS.iter().find(|row| row.names.contains(&name))?;
        Some(Split { cuts: row.cuts.iter().map(|c| Cut::new(c)).collect(), row })
    }

    /// Whether a word that is a token is taken as it is, whatever the merges would make of it.
    pub(super) fn whole_words_first(&self) -> bool {
        self.row.whole_words
    }

    /// Whether a prompt begins with the beginning-of-text token where the file does not say.
    pub(super) fn begins_with_bos(&self) -> bool {
        self.row.begin
    }

    /// Calls `word` with each word of `text` in order; together they are the text.
    pub(super) fn words<'a>(&self, text: &'a str, word: &mut dyn FnMut(&'a str)) {
        words(&self.cuts, text, word);
    }
}

fn words<'a>(cuts: &[Cut], text: &'a str, word: &mut dyn FnMut(&'a str)) {
    match cuts {
        [] if text.is_empty() => {}
        [] => word(text),
        [first, rest @ ..] => first.pieces(text, &mut |piece| words(rest, piece, word)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut<'a>(split: &Split, text: &'a str) -> Vec<&'a str> {
        let mut words = Vec::new();
        split.words(text, &mut |w| words.push(w));
        words
    }

    #[test]
    fn spaces_go_to_the_word_that_follows() {
        let words = |name, text| cut(&Split::by_name(name).expect("it is in the table"), text);
        assert_eq!(words("gpt-2", "a  b \n"), ["a", " ", " b", " \n"]);
        assert_eq!(words("gpt-2", "a\tb"), ["a", "\t", "b"]);
        assert_eq!(words("smollm", "it's  12"), ["it", "'s", "  ", "1", "2"]);
        assert_eq!(
            words("llama-bpe", "x\n\n  y IT'S 12345"),
            ["x", "\n\n", " ", " y", " IT", "'S", " ", "123", "45"]
        );
        assert_eq!(words("qwen2", "12!?\r\n"), ["1", "2", "!?\r\n"]);
        assert_eq!(words("default", "a: 1234"), ["a", ":", " ", "123", "4"]);
        assert_eq!(words("tekken", "aBc XYz"), ["a", "Bc", " XYz"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn words_are_the_text(texts in prop::collection::vec("([ \t\r\n'’0-9a-zA-Z½Ⅷ९é日😀$:_]|\\PC){0,40}", 8)) {
            for row in SPLITS {
                let split = Split::by_name(row.names[0]).expect("it is in the table");
                for text in &texts {
                    let found = cut(&split, text);
                    prop_assert!(found.iter().all(|w| !w.is_empty()));
                    prop_assert_eq!(&found.concat(), text);
                }
            }
        }
    }
}
