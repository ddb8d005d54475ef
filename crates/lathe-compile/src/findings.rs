//! What measurement found out of kernels and graphs: the decisions for rules and passes that were fastest, kept beside the compiled kernels in
//! a text that grows by a line a finding, so that a process killed at any time loses nothing.
//!
//! `best KEY THREADS SECONDS RULE NAME=VALUE ... .` says what to decide for a kernel, or of a graph as a whole, the seconds of a call
//! then, and those of the rules' own schedule in the same run; the last one of a key counts. `tried KEY THREADS SECONDS NAME=VALUE ... .` is one
//! trial. Other lines say nothing: one that was cut short, and lacks its dot, is not a reason to stop.

use lathe_ir::graph::Graph;
use lathe_ir::tensor::Kernel;
use lathe_machine::Target;
use lathe_schedule::Decisions;
use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

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

    /// Those in a cache folder; none where there is no file.
    pub fn read(cache: &Path, target: &Target) -> Findings {
        let bytes = std::fs::read(Findings::path(cache, target)).unwrap_or_default();
        Findings::parse(&String::from_utf8_lossy(&bytes))
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

    /// The name of a graph, before the passes that it is compiled with.
    pub fn graph_key(graph: &Graph, passes: &[&str]) -> String {
        let text = format!("{passes:?} {graph}");
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
