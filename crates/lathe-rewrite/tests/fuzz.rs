//! Whatever is done to a text, the parsers, printers and checkers answer and do not panic, and what a parser takes is
//! printed so that it is read back the same.

use lathe_ir::{graph, notation, step, tensor};
use proptest::prelude::*;

/// Words that a change may put anywhere.
const WORDS: &[&str] = &[
    "kernel",
    "graph",
    "program",
    "for",
    "in",
    "out",
    "inout",
    "alloc",
    "if",
    "intrinsic",
    "axis",
    "extent",
    "length",
    "at",
    "module",
    "notation",
    "csr",
    "dense",
    "compressed",
    "data",
    "function",
    "match",
    "make",
    "while",
    "do",
    "else",
    "offset",
    "spatial",
    "reduce",
    "scan",
    "core",
    "lane",
    "on",
    "register",
    "queue",
    "event",
    "loop",
    "signal",
    "wait",
    "send",
    "receive",
    "tag",
    "process",
    "channel",
    "range",
    "padded",
    "bits",
    "return",
    "input",
    "state",
    "const",
    "buffer",
    "bytes",
    "given",
    "planned",
    "call",
    "meet",
    "copy",
    "to",
    "sum",
    "max",
    "argmax",
    "softmax",
    "select",
    "bitcast",
    "exp",
    "min",
    "inf",
    "nan",
    "index",
    "bool",
    "f32",
    "f16",
    "i8",
    "u4",
    "f8e4m3",
    "fx8p8",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    ",",
    ":",
    ";",
    "=",
    "+",
    "-",
    "*",
    "/",
    "%",
    "&",
    "|",
    "^",
    "<",
    "<=",
    "<<",
    ">>",
    "@",
    "#",
    "\"",
    "0",
    "1",
    "3",
    "64",
    "9223372036854775807",
    "9223372036854775808",
    "1e9",
    "1.5f32",
    "1e999f32",
    "7i32",
    "-1",
    "n",
    "i",
    "x",
    "y",
    "\n",
    "é",
    "∑",
    "..",
    "->",
    "q4_0",
    "a8",
    "a8k.16.z32",
    "keys16",
    "matmul",
    "put",
    "take",
    "rms_norm",
];

/// Good texts to start from: one of each IR that uses all of it, and the kernels and graphs of the file tests.
fn seeds() -> Vec<String> {
    let files = [
        include_str!("files/parse/tensor.txt"),
        include_str!("files/parse/graph.txt"),
        include_str!("files/parse/step.txt"),
        include_str!("files/parse/module.txt"),
        include_str!("files/check/tensor.txt"),
        include_str!("files/check/network.txt"),
        include_str!("files/run/network.txt"),
        include_str!("files/check/graph.txt"),
        include_str!("files/check/inside.txt"),
        include_str!("files/check/module.txt"),
        include_str!("files/check/step.txt"),
        include_str!("files/schedule/online.txt"),
        include_str!("files/schedule/tensorize.txt"),
        include_str!("files/plan/plan.txt"),
        include_str!("files/lower/notation.txt"),
    ];
    let cases = files.iter().flat_map(|f| f.split("# test:"));
    let texts =
        cases.flat_map(|c| c.split("----")).filter_map(|t| Some(t[t.find('\n')?..].trim().to_string()));
    texts.filter(|t| t.len() > 20).collect()
}

/// One change of a text.
#[derive(Clone, Debug)]
enum Change {
    Remove(prop::sample::Index, usize),
    Put(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Cut(prop::sample::Index),
    Character(prop::sample::Index, char),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<prop::sample::Index>(), 1..6usize).prop_map(|(i, n)| Change::Remove(i, n)),
        (any::<prop::sample::Index>(), 0..WORDS.len()).prop_map(|(i, w)| Change::Put(i, w)),
        (any::<prop::sample::Index>(), 1..9usize).prop_map(|(i, n)| Change::Repeat(i, n)),
        any::<prop::sample::Index>().prop_map(Change::Cut),
        (any::<prop::sample::Index>(), any::<char>()).prop_map(|(i, c)| Change::Character(i, c)),
    ]
}

/// Splits into words, numbers, single signs and spaces.
fn words(text: &str) -> Vec<String> {
    let mut out: Vec<String> = vec![];
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    for c in text.chars() {
        match out.last_mut() {
            Some(last) if word(c) && last.chars().all(word) => last.push(c),
            _ => out.push(c.to_string()),
        }
    }
    out
}

fn changed(text: &str, changes: &[Change]) -> String {
    let mut w = words(text);
    for c in changes {
        if w.is_empty() {
            break;
        }
        match c {
            Change::Remove(i, n) => {
                let at = i.index(w.len());
                w.drain(at..(at + n).min(w.len()));
            }
            Change::Put(i, word) => {
                let at = i.index(w.len());
                w[at] = WORDS[*word].to_string();
            }
            Change::Repeat(i, n) => {
                let at = i.index(w.len());
                let again = w[at..(at + n).min(w.len())].to_vec();
                w.splice(at..at, again);
            }
            Change::Cut(i) => w.truncate(i.index(w.len())),
            Change::Character(i, c) => {
                let at = i.index(w.len());
                w[at].push(*c);
            }
        }
    }
    w.concat()
}

/// Gives a text to everything that reads texts.
fn read(text: &str) {
    if let Ok(k) = tensor::parse(text) {
        let printed = k.to_string();
        let again = tensor::parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        assert_eq!(again.to_string(), printed);
        if tensor::check(&k).is_ok() {
            let _ = tensor::inside(&k);
        }
    }
    if let Ok(n) = notation::parse(text) {
        let printed = n.to_string();
        let again = notation::parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        assert_eq!(again.to_string(), printed);
        let _ = notation::lower(&n);
    }
    if let Ok(m) = graph::parse_module(text) {
        let printed = m.to_string();
        let again = graph::parse_module(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        assert_eq!(again.to_string(), printed);
        let _ = graph::check_module(&m, &lathe_ops::table());
    }
    if let Ok(g) = graph::parse(text) {
        let printed = g.to_string();
        let again = graph::parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        assert_eq!(again.to_string(), printed);
        let _ = graph::check(&g, &lathe_ops::table());
    }
    if let Ok(p) = step::parse(text) {
        let printed = p.to_string();
        let again = step::parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        assert_eq!(again.to_string(), printed);
        let _ = step::check(&p);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_texts_do_not_panic(seed in any::<prop::sample::Index>(), changes in prop::collection::vec(change(), 1..5)) {
        let seeds = seeds();
        read(&changed(&seeds[seed.index(seeds.len())], &changes));
    }

    #[test]
    fn any_words_do_not_panic(words in prop::collection::vec(0..WORDS.len(), 0..60), start in 0..5usize) {
        let start = ["kernel f(n) {", "graph f(n <= 4) {", "program f(n) {", "module m() {", "notation f(n) {"][start];
        let words: Vec<_> = words.into_iter().map(|w| WORDS[w]).collect();
        read(&format!("{start} {}", words.join(" ")));
    }
}

#[test]
fn depth_is_refused_and_does_not_end_the_process() {
    let kernel = |e: &str| format!("kernel f(n) {{ out y: index[n] S: y[0] = {e} }}");
    for e in [
        format!("{}n{}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("{}n", "-".repeat(100_000)),
        format!("n{}", " + n".repeat(100_000)),
        format!("n{}", " < (n".repeat(100_000)),
        format!("{}n{}", "neg(".repeat(100_000), ")".repeat(100_000)),
        format!("{}n{}", "y[".repeat(100_000), "]".repeat(100_000)),
    ] {
        let error = tensor::parse(&kernel(&e)).expect_err("it is too deep").to_string();
        assert!(error.contains("less nesting"), "{error}");
    }
    let loops = "if n < n { ".repeat(100_000);
    assert!(tensor::parse(&format!("kernel f(n) {{ {loops}")).is_err());
}

#[test]
fn what_is_read_is_read_back_as_printed_at_any_depth() {
    let nested: [fn(usize) -> String; 4] = [
        |n| format!("{}(n + 1)", "-".repeat(n)),
        |n| format!("{}(n + 1){}", "(-".repeat(n), ")".repeat(n)),
        |n| format!("{}-1{}", "y[".repeat(n), "]".repeat(n)),
        |n| format!("n{}", " - (-n".repeat(n)) + &")".repeat(n),
    ];
    for text in nested {
        let depths = 1..220;
        let read = depths.clone().filter(|n| {
            let e = text(*n);
            let Ok(k) = tensor::parse(&format!("kernel f(n) {{ out y: index[n] S: y[0] = {e} }}")) else {
                return false;
            };
            let again = tensor::parse(&k.to_string()).unwrap_or_else(|e| panic!("depth {n}: {e}"));
            assert_eq!(again.to_string(), k.to_string());
            true
        });
        let read = read.count();
        assert!((40..200).contains(&read), "{read} of {depths:?} are read");
    }
}
