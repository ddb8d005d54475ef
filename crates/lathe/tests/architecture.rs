//! The invariants of `ARCHITECTURE.md` that can be read off the sources: which crate uses which, where `unsafe` and I/O
//! are, and that every test which the page names exists.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page() -> String {
    fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the page is there")
}

/// What stands between backticks in a text.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The crates of the page's table, in its order: name, and what it may use.
fn table(page: &str) -> Vec<(&str, Vec<&str>)> {
    let rows = page.lines().filter(|line| line.starts_with("| `lathe"));
    let mut out = vec![];
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        assert_eq!(cells.len(), 3, "crate, purpose, may use: {row}");
        out.push((quoted(cells[0])[0], quoted(cells[2])));
    }
    out
}

/// The workspace's crates and the others that each depends on: ours, and foreign ones.
fn packages() -> BTreeMap<String, (Vec<String>, Vec<String>)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let all: Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    let mut packages = BTreeMap::new();
    for package in all["packages"].as_array().expect("there are packages") {
        let uses = package["dependencies"].as_array().expect("there is a list");
        let names = uses.iter().filter(|d| d["kind"].is_null()).filter_map(|d| d["name"].as_str());
        let (mut ours, foreign): (Vec<String>, Vec<String>) =
            names.map(str::to_owned).partition(|name| name.starts_with("lathe"));
        ours.sort();
        packages.insert(package["name"].as_str().expect("it has a name").to_owned(), (ours, foreign));
    }
    packages
}

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => sources(&path, out),
            false if path.extension().is_some_and(|e| e == "rs") => out.push(path),
            false => {}
        }
    }
}

/// Lines of code (no comments) of a crate's sources, with their files.
fn lines(name: &str) -> Vec<(String, String)> {
    let mut files = vec![];
    sources(&root().join("crates").join(name).join("src"), &mut files);
    let mut out = vec![];
    for path in files {
        let text = fs::read_to_string(&path).expect("a source can be read");
        let file = path.to_string_lossy().split("/crates/").last().expect("it is in a crate").to_owned();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        out.extend(code.map(|line| (file.clone(), line.to_owned())));
    }
    out
}

#[test]
fn crates_use_what_the_table_says() {
    let page = page();
    let table = table(&page);
    let packages = packages();
    assert_eq!(table.len(), packages.len(), "the table has a row for each crate");
    for (place, (name, may_use)) in table.iter().enumerate() {
        let (uses, _) = packages.get(*name).unwrap_or_else(|| panic!("there is no crate '{name}'"));
        let mut may_use: Vec<String> = may_use.iter().map(|n| (*n).to_owned()).collect();
        may_use.sort();
        assert_eq!(*uses, may_use, "what {name} uses");
        for used in uses {
            let above = table[..place].iter().any(|(n, _)| n == used);
            assert!(above, "{name} uses {used}, which is not above it");
        }
    }
}

#[test]
fn unsafe_code_stays_in_the_basement() {
    for name in packages().keys().filter(|name| *name != "lathe-runtime") {
        for (file, line) in lines(name) {
            let found = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "allow(unsafe_code"]
                .iter()
                .any(|word| line.contains(word));
            assert!(!found || file == "lathe-models/src/file/bytes.rs", "{file}: {line}");
        }
    }
}

/// Crates that only compute.
const PURE: &[&str] = &[
    "lathe-diagnostic",
    "lathe-draw",
    "lathe-check",
    "lathe-symbolic",
    "lathe-machine",
    "lathe-plan",
    "lathe-ir",
    "lathe-ops",
    "lathe-schedule",
    "lathe-verify",
    "lathe-select",
    "lathe-rewrite",
    "lathe-codegen",
];

#[test]
fn the_core_is_pure() {
    let packages = packages();
    // `rustc-hash` looks names up; `stacker` gives deep recursion more stack; `microlp` solves linear programmes; `egg` keeps classes of equal terms.
    let harmless =
        ["thiserror", "half", "serde", "toml", "blake3", "rustc-hash", "stacker", "microlp", "egg"];
    for name in PURE {
        for (file, line) in lines(name) {
            for word in ["fs", "thread", "net", "process", "env", "time", "io"] {
                assert!(!line.contains(&format!("std::{word}")), "{file}: {line}");
            }
            for word in ["println!", "print!(", "static mut"] {
                assert!(!line.contains(word), "{file}: {line}");
            }
        }
        let (_, foreign) = &packages[*name];
        let other = foreign.iter().find(|d| !harmless.contains(&d.as_str()));
        assert!(other.is_none(), "{name} uses {other:?}");
    }
}

#[test]
fn named_tests_exist() {
    let page = page();
    let named = quoted(&page).into_iter().filter_map(|text| text.split_once(".rs::"));
    let mut count = 0;
    for (file, test) in named {
        let path = root().join("crates").join(format!("{file}.rs"));
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(text.contains(&format!("fn {test}(")), "{file}.rs has no test '{test}'");
        count += 1;
    }
    assert!(count >= 10, "only {count} tests are named");
}
