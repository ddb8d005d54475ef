//! Runs the cases of the `onnx` package that `bench/onnx/generate.py` writes:
//! `cargo run --release -p lathe-onnx --example node_suite -- FOLDER [--only TEXT] [--list FILE] [--interpret]`.
//! It prints what passed, and how many did not for which reason; `--list` writes the cases that did not pass.

use lathe_machine::Target;
use lathe_onnx::suite::{Outcome, run};
use lathe_onnx::{Compiled, FAST, Interpreted, Runner};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Folders with a model below a folder, in order.
fn cases(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for path in entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()) {
        if path.join("model.onnx").is_file() {
            found.push(path);
        } else {
            found.extend(cases(&path));
        }
    }
    found.sort();
    found
}

/// The reason of an outcome without what is of one case alone.
fn reason(what: &str) -> String {
    let operator = what.split(" '").next().unwrap_or(what);
    let message = what.rsplit(": ").next().unwrap_or(what);
    let operator = operator.split(" (opset").next().unwrap_or(operator);
    if what.contains(": ") { format!("{operator}: {message}") } else { message.to_string() }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (mut folder, mut only, mut list, mut interpret) = (None, None, None, false);
    while let Some(a) = args.next() {
        match a.as_str() {
            "--only" => only = args.next(),
            "--list" => list = args.next(),
            "--interpret" => interpret = true,
            _ => folder = Some(PathBuf::from(a)),
        }
    }
    let Some(folder) = folder else {
        eprintln!("usage: node_suite FOLDER [--only TEXT] [--list FILE] [--interpret]");
        return ExitCode::from(2);
    };
    let name = |p: &Path| p.strip_prefix(&folder).unwrap_or(p).to_string_lossy().into_owned();
    let all: Vec<PathBuf> = cases(&folder)
        .into_iter()
        .filter(|p| only.as_ref().is_none_or(|o| name(p).contains(o.as_str())))
        .collect();
    let target = Target::of_cpu(&lathe_runtime::detect_cpu());
    let cache = std::env::temp_dir().join("lathe-node-suite");
    let (next, results) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::panic::set_hook(Box::new(|_| ()));
    std::thread::scope(|s| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            s.spawn(|| {
                while let Some(path) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut compiled = Compiled::new(target.clone(), FAST, cache.clone(), 1);
                    let mut interpreted = Interpreted::default();
                    let runner: &mut dyn Runner = if interpret { &mut interpreted } else { &mut compiled };
                    if std::env::var("LATHE_SUITE_TRACE").is_ok() {
                        eprintln!("{}", name(path));
                    }
                    let outcome = catch_unwind(AssertUnwindSafe(|| run(path, runner))).unwrap_or_else(|e| {
                        let text = e.downcast_ref::<String>().cloned();
                        let text = text.or_else(|| e.downcast_ref::<&str>().map(|s| (*s).to_string()));
                        Outcome::Failed(format!("panic: {}", text.unwrap_or_default()))
                    });
                    results.lock().expect("no thread ends early").insert(name(path), outcome);
                }
            });
        }
    });
    let results = results.into_inner().expect("no thread ends early");
    let (mut reasons, mut lines): (BTreeMap<(u8, String), usize>, Vec<String>) = (BTreeMap::new(), vec![]);
    let (mut passed, mut own) = (0, [0, 0]);
    for (name, outcome) in &results {
        let expanded = name.contains("_expanded");
        own[1] += usize::from(!expanded);
        match outcome {
            Outcome::Passed => {
                passed += 1;
                own[0] += usize::from(!expanded);
            }
            Outcome::Unsupported(what) => {
                *reasons.entry((1, format!("not supported: {}", reason(what)))).or_default() += 1;
                lines.push(format!("{name}: not supported: {what}"));
            }
            Outcome::Failed(what) => {
                *reasons.entry((0, format!("failed: {}", reason(what)))).or_default() += 1;
                lines.push(format!("{name}: failed: {what}"));
            }
        }
    }
    for ((_, why), n) in &reasons {
        println!("{n:5}  {why}");
    }
    if let Some(path) = list
        && let Err(e) = std::fs::write(&path, lines.join("\n") + "\n")
    {
        eprintln!("{path}: {e}");
    }
    println!(
        "{passed} of {} pass; of those that are no expanded forms, {} of {}",
        results.len(),
        own[0],
        own[1]
    );
    if passed == results.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
