//! When each step ran, and the file in which people look at it: the trace-event format of Chrome and Perfetto.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A step that ran, on the real clock or the virtual one.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The rank it ran on.
    pub rank: u32,
    /// Its queue.
    pub queue: String,
    /// The step's text.
    pub step: String,
    /// When it started, seconds after the run did.
    pub start: f64,
    /// How long it took, seconds.
    pub seconds: f64,
}

impl Span {
    /// When it was over, seconds after the run started.
    pub fn finish(&self) -> f64 {
        self.start + self.seconds
    }
}

/// Collects the spans of a run on the real clock.
pub struct Trace {
    rank: u32,
    start: Instant,
    spans: Mutex<Vec<Span>>,
}

impl Trace {
    /// A trace of what `rank` does from now on.
    pub fn new(rank: u32) -> Trace {
        Trace { rank, start: Instant::now(), spans: Mutex::new(vec![]) }
    }

    pub(crate) fn add(&self, queue: &str, step: &str, start: Instant) {
        let seconds = start.elapsed().as_secs_f64();
        let start = start.saturating_duration_since(self.start).as_secs_f64();
        let span = Span { rank: self.rank, queue: queue.into(), step: step.into(), start, seconds };
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).push(span);
    }

    /// The spans so far, earliest first.
    pub fn spans(&self) -> Vec<Span> {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone();
        spans.sort_by(|a, b| a.start.total_cmp(&b.start));
        spans
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => write!(out, "\\u{:04x}", u32::from(c)).expect("a string takes all"),
            c => out.push(c),
        }
    }
    out + "\""
}

/// Spans as a JSON file for a trace viewer: one process a rank, one line a queue.
pub fn timeline(spans: &[Span]) -> String {
    let mut rows: Vec<(u32, &str)> = vec![];
    let mut events = vec![];
    for s in spans {
        let row = (s.rank, &*s.queue);
        let known = rows.iter().position(|r| *r == row);
        let line = known.unwrap_or(rows.len());
        if known.is_none() {
            rows.push(row);
            let (rank, queue) = (s.rank, quoted(&s.queue));
            events.push(format!(
                r#"{{"name":"thread_name","ph":"M","pid":{rank},"tid":{line},"args":{{"name":{queue}}}}}"#
            ));
        }
        let (name, rank, start, time) = (quoted(&s.step), s.rank, s.start * 1e6, s.seconds * 1e6);
        let kind = quoted(s.step.split(' ').next().unwrap_or(""));
        events.push(format!(
            r#"{{"name":{name},"cat":{kind},"ph":"X","pid":{rank},"tid":{line},"ts":{start:.3},"dur":{time:.3}}}"#
        ));
    }
    format!("{{\"traceEvents\":[\n{}\n]}}\n", events.join(",\n"))
}
