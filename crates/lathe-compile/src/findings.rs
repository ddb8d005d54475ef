//! What measurement found out of kernels and graphs: the decisions for rules and passes that were fastest, kept beside the compiled kernels in
//! a text that grows by a line a finding, so that a process killed at any time loses nothing.
//!
//! `best KEY THREADS SECONDS RULE NAME=VALUE ... .` says what to decide for a kernel, or of a graph as a whole, the seconds of a call
//! then, and those of the rules' own schedule in the same run; the last one of a key counts. `tried KEY THREADS SECONDS NAME=VALUE ... .` is one
//! trial. Other lines say nothing: one that was cut short, and lacks its dot, is not a reason to stop.
//!
//! Some are shipped (`shipped/`, made by `bench/tuning/ship.py`): for kernels and graphs of well-known models, by the kind of processor
//! that they were measured on. What is found here counts more.

use lathe_ir::Name;
use lathe_ir::graph::{Graph, Source};
use lathe_ir::tensor::Kernel;
use lathe_machine::Target;
use lathe_schedule::Decisions;
use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Which kernel, of [`Findings::key`], or which graph, of [`Findings::graph_key`].
    pub key: String,
    /// Threads that computed.
    pub threads: usize,
    /// Seconds of a call.
    pub seconds: f64,
    /// Seconds of the schedule by rule, where this is the best one.
    pub rule: Option<f64>,
    /// What was decided.
    pub decisions: Decisions,
}

impl Finding {
    /// Its line, without an end.
    pub fn line(&self) -> String {
        let Finding { key, threads, seconds, rule, decisions } = self;
        let mut out = match rule {
            Some(rule) => format!("best {key} {threads} {seconds:e} {rule:e}"),
            None => format!("tried {key} {threads} {seconds:e}"),
        };
        for (name, value) in decisions {
            let _ = write!(out, " {name}={value}");
        }
        out + " ."
    }

    fn parse(line: &str) -> Option<Finding> {
        let mut words = line.strip_suffix(" .")?.split_whitespace();
        let best = match words.next()? {
            "best" => true,
            "tried" => false,
            _ => return None,
        };
        let key = words.next().filter(|k| k.len() == KEY)?.to_string();
        let threads = words.next()?.parse().ok()?;
        let mut time = || words.next()?.parse().ok().filter(|s: &f64| s.is_finite() && *s > 0.0);
        let seconds = time()?;
        let rule = if best { Some(time()?) } else { None };
        let decision = |word: &str| {
            let (name, value) = word.split_once('=')?;
            Some((name.to_string(), value.parse().ok()?))
        };
        let decisions = words.map(decision).collect::<Option<_>>()?;
        Some(Finding { key, threads, seconds, rule, decisions })
    }
}

/// Texts by the class of processor and the dialect that they were measured on ([`lathe_machine::Cpu::class`]).
pub type Shipped = &'static [(&'static str, &'static str, &'static str)];

/// The findings that are shipped.
const SHIPPED: Shipped =
    &[("AuthenticAMD-26", "avx512bf16", include_str!("shipped/AuthenticAMD-26.avx512bf16.txt"))];

/// The text that is shipped for this processor and a dialect.
pub fn shipped(all: Shipped, dialect: &str) -> Option<&'static str> {
    static CLASS: LazyLock<Option<String>> = LazyLock::new(|| lathe_runtime::detect_cpu().class());
    let class = CLASS.as_deref()?;
    all.iter().find(|(c, d, _)| *c == class && *d == dialect).map(|(.., text)| *text)
}

/// Digits of a key.
const KEY: usize = 32;

/// All that was found for a kind of processor.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    lines: Vec<Finding>,
    best: HashMap<String, usize>,
}

impl Findings {
    /// Where findings for a kind of processor are kept in a cache folder.
    pub fn path(cache: &Path, target: &Target) -> PathBuf {
        cache.join("tuning").join(format!("{}.txt", target.dialect))
    }

    /// Those that are shipped, and then those in a cache folder, where there is a file.
    pub fn read(cache: &Path, target: &Target) -> Findings {
        let bytes = std::fs::read(Findings::path(cache, target)).unwrap_or_default();
        let shipped = shipped(SHIPPED, &target.dialect).unwrap_or_default();
        Findings::parse(&[shipped, &String::from_utf8_lossy(&bytes)].concat())
    }

    /// Those of a text.
    pub fn parse(text: &str) -> Findings {
        let mut all = Findings::default();
        text.lines().filter_map(Finding::parse).for_each(|f| all.push(f));
        all
    }

    /// One more.
    pub fn push(&mut self, finding: Finding) {
        if finding.rule.is_some() {
            self.best.insert(finding.key.clone(), self.lines.len());
        }
        self.lines.push(finding);
    }

    /// The name of a naive kernel for so many rows at most.
    pub fn key(kernel: &Kernel, few: Option<i64>) -> String {
        let text = format!("{few:?} {kernel}");
        blake3::hash(text.as_bytes()).to_hex()[..KEY].to_string()
    }

    /// The name of a graph, before the passes that it is compiled with: the same for all graphs of these operators and shapes,
    /// whatever is called how.
    pub fn graph_key(graph: &Graph, passes: &[&str]) -> String {
        let mut plain = Graph { name: "graph".into(), ..graph.clone() };
        let mut constants: HashMap<Name, usize> = HashMap::new();
        for (i, v) in plain.values.iter_mut().enumerate() {
            v.name = format!("v{i}").into();
            if let Source::Const(name) = &mut v.source {
                let next = constants.len();
                *name = format!("c{}", constants.entry(name.clone()).or_insert(next)).into();
            }
        }
        let text = format!("{passes:?} {plain}");
        blake3::hash(text.as_bytes()).to_hex()[..KEY].to_string()
    }

    /// The best of a kernel, or of a graph.
    pub fn best(&self, key: &str) -> Option<&Finding> {
        self.best.get(key).map(|i| &self.lines[*i])
    }

    /// The trials of a kernel, in order.
    pub fn tried<'f>(&'f self, key: &'f str) -> impl Iterator<Item = &'f Finding> {
        self.lines.iter().filter(move |f| f.rule.is_none() && f.key == key)
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shipped_is_read_and_what_is_found_counts_more() {
        let folder = tempfile::tempdir().unwrap();
        for (class, dialect, text) in SHIPPED {
            let target = Target { dialect: (*dialect).into(), ..Target::portable() };
            let here = lathe_runtime::detect_cpu().class().as_deref() == Some(class);
            let lines = text.lines().filter(|l| !l.starts_with('#'));
            let shipped: Vec<Finding> = lines.map(|l| Finding::parse(l).expect("a finding")).collect();
            let keys: std::collections::HashSet<&str> = shipped.iter().map(|f| f.key.as_str()).collect();
            assert_eq!(keys.len(), shipped.len(), "one of a key");
            let of = &shipped[0];
            assert!(text.ends_with('\n') && of.rule > Some(of.seconds) && !of.decisions.is_empty());
            assert_eq!(Findings::read(folder.path(), &target).best(&of.key), here.then_some(of));
            let own = Finding { decisions: Decisions::new(), ..of.clone() };
            let path = Findings::path(folder.path(), &target);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, own.line() + "\n").unwrap();
            assert_eq!(Findings::read(folder.path(), &target).best(&of.key), Some(&own));
        }
    }

    /// Two programs that differ in their weights alone have one name.
    #[test]
    fn names_are_no_part_of_a_graphs_key() {
        let text = "graph f() {\n  x: f32[4] = input\n  w: f32[4] = const \"w\"\n  y: f32[4] = add(x, w)\n  return y\n}";
        let key = |text: &str| Findings::graph_key(&lathe_ir::graph::parse(text).unwrap(), &["pack"]);
        let others = text.replace("\"w\"", "\"0123\"").replace("y", "result").replace("f()", "g()");
        assert_eq!(key(&others), key(text));
        assert_ne!(key(&text.replace("[4]", "[5]")), key(text));
    }

    #[test]
    fn lines_are_read_back_and_damage_is_passed_over() {
        let key = "0123456789abcdef0123456789abcdef";
        let decisions: Decisions = [("rows".to_string(), 12), ("vectors.n0_k".to_string(), 2)].into();
        let tried = Finding { key: key.into(), threads: 2, seconds: 3.5e-5, rule: None, decisions };
        let best = Finding { rule: Some(4e-5), ..tried.clone() };
        let text = format!("{}\n{}\n{}\nbest {key} 2 1e-9", tried.line(), best.line(), &best.line()[..60]);
        let all = Findings::parse(&text);
        assert_eq!(all.best(key), Some(&best));
        assert_eq!(all.tried(key).collect::<Vec<_>>(), [&tried]);
        for bad in ["best", "best x 1 1 1", "tried", "tried 0123456789abcdef0123456789abcdef 1 nan", "\u{0}"]
        {
            assert!(Findings::parse(bad).is_empty(), "{bad}");
        }
    }
}
