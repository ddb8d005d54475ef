//! Pre-tokenizers: how a text is cut into the words that are merged one by one.
//!
//! Each is given by a regular expression in the model's original tokenizer file. They are written by hand here: two
//! scanners serve all, need no time to build, and are exact where a regular-expression library would need look-ahead.

use unicode_general_category::{GeneralCategory as G, get_general_category};

/// A way of cutting text into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// Each `\p{N}` alone, then GPT-2's on what is between.
    DigitsGpt2,
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    Llama3,
    /// Llama 3's with single digits.
    Qwen2,
    /// Where a file names none: runs of `[\p{P}$+<=>^~|]`, then GPT-2's, then `\p{N}+` alone, then three ASCII digits.
    Default,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

fn class(c: char) -> Class {
    match c {
        'a'..='z' | 'A'..='Z' => Class::Letter,
        '0'..='9' => Class::Number,
        c if c.is_whitespace() => Class::Space,
        c if c.is_ascii() => Class::Other,
        // `is_numeric` is exactly the categories Nd, Nl and No, but `is_alphabetic` is more than L.
        c if c.is_numeric() => Class::Number,
        c => match get_general_category(c) {
            G::UppercaseLetter
            | G::LowercaseLetter
            | G::TitlecaseLetter
            | G::ModifierLetter
            | G::OtherLetter => Class::Letter,
            _ => Class::Other,
        },
    }
}

impl Split {
    /// The split by the name that files give it.
    pub(super) fn by_name(name: &str) -> Option<Split> {
        Some(match name {
            "gpt-2" | "gpt2" | "phi-2" | "olmo" | "jais" | "trillion" | "granite-docling" => Split::Gpt2,
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
                Split::DigitsGpt2
            }
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "dbrx" | "smaug-bpe" => Split::Llama3,
            "qwen2" | "deepseek-r1-qwen" | "stablelm2" | "megrez" => Split::Qwen2,
            "default" => Split::Default,
            _ => return None,
        })
    }

    /// Whether a word that is a token is taken as it is, whatever the merges would make of it.
    pub(super) fn whole_words_first(self) -> bool {
        self == Split::Llama3
    }

    /// Whether a prompt begins with the beginning-of-text token where the file does not say.
    pub(super) fn begins_with_bos(self) -> bool {
        self == Split::Llama3
    }

    /// Calls `word` with each word of `text` in order; together they are the text.
    pub(super) fn words<'a>(self, text: &'a str, word: &mut dyn FnMut(&'a str)) {
        match self {
            Split::Gpt2 => each(text, gpt2, word),
            Split::DigitsGpt2 => each(text, one_number, &mut |part| each(part, gpt2, word)),
            Split::Llama3 => each(text, |rest| llama3(rest, 3), word),
            Split::Qwen2 => each(text, |rest| llama3(rest, 1), word),
            Split::Default => each(text, marks, &mut |part| {
                each(part, gpt2, &mut |part| {
                    each(part, numbers, &mut |part| each(part, three_digits, word));
                });
            }),
        }
    }
}

/// Cuts `text` by a function that gives the length of the first word.
fn each<'a>(mut text: &'a str, first: impl Fn(&str) -> usize, word: &mut dyn FnMut(&'a str)) {
    while !text.is_empty() {
        let (head, tail) = text.split_at(first(text));
        word(head);
        text = tail;
    }
}

/// The length of the longest prefix whose characters all satisfy `is`.
fn run(text: &str, is: impl Fn(char) -> bool) -> usize {
    text.find(|c| !is(c)).unwrap_or(text.len())
}

/// The first character and the text after it.
fn first(text: &str) -> Option<(char, &str)> {
    let mut chars = text.chars();
    chars.next().map(|c| (c, chars.as_str()))
}

/// The length of an English contraction (`'s`, `'ll`) at the start.
fn contraction(text: &str, any_case: bool) -> Option<usize> {
    let rest = text.strip_prefix('\'')?;
    ["s", "t", "re", "ve", "m", "ll", "d"].into_iter().find_map(|ending| {
        let head = rest.get(..ending.len())?;
        let same = if any_case { head.eq_ignore_ascii_case(ending) } else { head == ending };
        same.then_some(1 + ending.len())
    })
}

/// `\s+(?!\S)|\s+` at a white space: the last one is left to the word that follows, unless it is the only one.
fn spaces(text: &str) -> usize {
    let end = run(text, char::is_whitespace);
    let last = text[..end].chars().next_back().map_or(0, char::len_utf8);
    if end == text.len() || last == end { end } else { end - last }
}

fn gpt2(text: &str) -> usize {
    if let Some(len) = contraction(text, false) {
        return len;
    }
    let word = text.strip_prefix(' ').unwrap_or(text);
    match first(word).map(|(c, _)| class(c)) {
        None | Some(Class::Space) => spaces(text),
        Some(kind) => text.len() - word.len() + run(word, |c| class(c) == kind),
    }
}

fn llama3(text: &str, digits: usize) -> usize {
    if let Some(len) = contraction(text, true) {
        return len;
    }
    let Some((c, rest)) = first(text) else { return 0 };
    let is_letter = |c| class(c) == Class::Letter;
    let is_other = |c| class(c) == Class::Other;
    let is_break = |c| matches!(c, '\r' | '\n');
    let kind = class(c);
    let letters = run(rest, is_letter);
    if kind == Class::Letter || (letters > 0 && kind != Class::Number && !is_break(c)) {
        return c.len_utf8() + letters;
    }
    if kind == Class::Number {
        return text
            .chars()
            .take(digits)
            .take_while(|&c| class(c) == Class::Number)
            .map(char::len_utf8)
            .sum();
    }
    let word = text.strip_prefix(' ').unwrap_or(text);
    let marks = run(word, is_other);
    if marks > 0 {
        return text.len() - word.len() + marks + run(&word[marks..], is_break);
    }
    let end = run(text, char::is_whitespace);
    match text[..end].rfind(is_break) {
        Some(last) => last + 1,
        None => spaces(text),
    }
}

fn one_number(text: &str) -> usize {
    let between = run(text, |c| class(c) != Class::Number);
    if between > 0 { between } else { text.chars().next().map_or(0, char::len_utf8) }
}

/// A run of characters that satisfy `is`, or a run of those that do not.
fn alternate(text: &str, is: impl Fn(char) -> bool) -> usize {
    match run(text, &is) {
        0 => run(text, |c| !is(c)),
        len => len,
    }
}

fn numbers(text: &str) -> usize {
    alternate(text, |c| class(c) == Class::Number)
}

fn marks(text: &str) -> usize {
    alternate(text, |c| {
        matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|')
            || matches!(
                get_general_category(c),
                G::ConnectorPunctuation
                    | G::DashPunctuation
                    | G::OpenPunctuation
                    | G::ClosePunctuation
                    | G::InitialPunctuation
                    | G::FinalPunctuation
                    | G::OtherPunctuation
            )
    })
}

/// Three ASCII digits, or everything before the next three.
fn three_digits(text: &str) -> usize {
    let is_three =
        |at: usize| text.as_bytes().get(at..at + 3).is_some_and(|d| d.iter().all(u8::is_ascii_digit));
    match (0..text.len()).find(|&at| is_three(at)) {
        Some(0) => 3,
        Some(at) => at,
        None => text.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Split; 5] = [Split::Gpt2, Split::DigitsGpt2, Split::Llama3, Split::Qwen2, Split::Default];

    fn words(split: Split, text: &str) -> Vec<&str> {
        let mut words = Vec::new();
        split.words(text, &mut |w| words.push(w));
        words
    }

    #[test]
    fn spaces_go_to_the_word_that_follows() {
        assert_eq!(words(Split::Gpt2, "a  b \n"), ["a", " ", " b", " \n"]);
        assert_eq!(words(Split::DigitsGpt2, "it's  12"), ["it", "'s", "  ", "1", "2"]);
        assert_eq!(
            words(Split::Llama3, "x\n\n  y IT'S 12345"),
            ["x", "\n\n", " ", " y", " IT", "'S", " ", "123", "45"]
        );
        assert_eq!(words(Split::Qwen2, "12!?\r\n"), ["1", "2", "!?\r\n"]);
        assert_eq!(words(Split::Default, "a: 1234"), ["a", ":", " ", "123", "4"]);
    }

    proptest! {
        #[test]
        fn words_are_the_text(text in "([ \t\r\n'’0-9a-zA-Z½Ⅷ९é日😀$:_]|\\PC){0,40}") {
            for split in ALL {
                let found = words(split, &text);
                prop_assert!(found.iter().all(|w| !w.is_empty()));
                prop_assert_eq!(found.concat(), text.clone());
            }
        }
    }
}
