//! Standard output and standard error. A closed pipe is not an error but the end.

use std::io::{self, ErrorKind, Write};
use std::path::Path;

use lathe_diagnostic::{Diagnostic, Fault};
use lathe_engine::Footprint;
use serde_json::{Value, json};

use crate::failure::Failure;

/// Writes text to standard output, at once.
pub fn text(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(failed)
}

/// Writes text that ends its line.
pub fn line(line: &str) -> Result<(), Failure> {
    text(&format!("{}\n", line.strip_suffix('\n').unwrap_or(line)))
}

/// Writes one object.
pub fn json(value: &Value) -> Result<(), Failure> {
    line(&value.to_string())
}

/// What a model takes in memory, as JSON.
pub fn memory(f: Footprint) -> Value {
    json!({
        "weights_bytes": f.weights_bytes,
        "streamed_bytes": f.streamed_bytes,
        "disk_bytes": f.disk_bytes,
        "experts_bytes": f.experts_bytes,
        "cache_bytes": f.cache_bytes,
        "spilled_bytes": f.spilled_bytes,
        "activation_bytes": f.activation_bytes,
    })
}

/// Writes a file, whole or not at all.
pub fn file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    // A folder that is not there is a slip of the keys.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let there = folder.map_or(Ok(()), |folder| std::fs::metadata(folder).map(drop));
    there.and_then(|()| lathe_runtime::write_whole(path, bytes)).map_err(|error| {
        let what = format!("cannot write the file: {error}");
        Diagnostic::new("output", Fault::Environment, what).at(path.display().to_string()).into()
    })
}

/// Writes one line to standard error, as well as that can be done.
pub fn message(message: &str) {
    let line: Vec<&str> = message.split_whitespace().collect();
    let _ = writeln!(io::stderr(), "{}", line.join(" "));
}

/// A number of bytes as people say it.
pub fn bytes(n: usize) -> String {
    match n {
        0..10_000 => format!("{n} B"),
        10_000..10_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}

fn failed(error: io::Error) -> Failure {
    match error.kind() {
        ErrorKind::BrokenPipe => Failure::BrokenPipe,
        _ => {
            Diagnostic::new("output", Fault::Environment, format!("cannot write the output: {error}")).into()
        }
    }
}
