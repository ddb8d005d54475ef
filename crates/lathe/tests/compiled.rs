//! `lathe compile`: its file gives the tokens of the model it was made from where there is no compiler, and is refused in one
//! line where it is damaged, for another processor, or asked for more than it was made for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-models/tests/data/tiny").join(name)
}

fn lathe(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
    command.args(arguments).env("LATHE_CACHE", env!("CARGO_TARGET_TMPDIR")).stdin(Stdio::null());
    command
}

/// The same on a machine without a compiler, where nothing is in the cache.
fn bare(arguments: &[&str], cache: &TempDir) -> Command {
    let mut command = lathe(arguments);
    command.env("LATHE_CACHE", cache.path()).env("PATH", "/nonexistent");
    command.env_remove("LATHE_CC").env_remove("CC").env_remove("LATHE_CPU");
    command
}

fn done(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("the output is UTF-8")
}

/// Demands one line with this code, exit code 2 and no output; returns the line.
fn failed(code: &str, output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{code}: {text}");
    let lines: Vec<&str> = text.lines().filter(|line| !line.ends_with(" ...")).collect();
    assert!(lines.len() == 1 && lines[0].starts_with(&format!("error[{code}]: ")), "{code}: {text}");
    assert!(output.stdout.is_empty() && !text.contains("defect in lathe"), "{text}");
    lines[0].to_owned()
}

fn compile(name: &str, more: &[&str], path: &Path) {
    let (model, path) = (tiny(name), path.to_str().expect("UTF-8"));
    let model = ["compile", "--model", model.to_str().expect("UTF-8"), "-o", path];
    done(lathe(&[&model, more].concat()).output().expect("lathe runs"));
}

/// The compiled file of the tiny Llama with both precisions, made once, for sequences of 64 tokens.
fn compiled() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("llama-q4_1.lathe");
        compile("llama-q4_1.gguf", &["--precision", "both", "--context", "64"], &path);
        path
    })
}

fn run<'a>(model: &'a Path, precision: &'a str) -> Vec<&'a str> {
    let model = model.to_str().expect("UTF-8");
    let all = ["run", "--json", "--ignore-eos", "--max-tokens", "24", "--precision", precision];
    [&all[..], &[model, "the band"]].concat()
}

#[test]
fn without_a_compiler_it_gives_the_same_tokens() {
    let source = tiny("llama-q4_1.gguf");
    for precision in ["fast", "exact"] {
        let cache = tempfile::tempdir().expect("a temporary folder");
        failed("no-compiler", &bare(&run(&source, precision), &cache).output().expect("lathe runs"));
        let json = |output: Output| serde_json::from_str::<Value>(&done(output)).expect("one object");
        let want = json(lathe(&run(&source, precision)).output().expect("lathe runs"));
        let got = json(bare(&run(compiled(), precision), &cache).output().expect("lathe runs"));
        assert_eq!((&got["tokens"], &got["text"]), (&want["tokens"], &want["text"]), "{precision}");
        assert!(got["memory"]["weights_bytes"].as_u64() >= want["memory"]["weights_bytes"].as_u64());
        let bytes = fs::metadata(compiled()).expect("it is there").len();
        assert!(got["memory"]["weights_bytes"].as_u64() < Some(bytes));
    }
}

#[test]
fn other_verbs_take_it_too() {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let ids = cache.path().join("ids.json");
    fs::write(&ids, "[1, 2, 3, 4, 5, 6, 7, 8]").expect("it can be written");
    let score = |model: &Path| {
        let (ids, model) = (ids.to_str().expect("UTF-8"), model.to_str().expect("UTF-8"));
        ["score", "--json", "--ids", ids, "--model", model].map(str::to_owned)
    };
    let source = score(&tiny("llama-q4_1.gguf"));
    let want = done(lathe(&source.each_ref().map(String::as_str)).output().unwrap());
    let got = done(bare(&score(compiled()).each_ref().map(String::as_str), &cache).output().unwrap());
    assert_eq!(got, want);

    let encoder = cache.path().join("bert.lathe");
    compile("bert-f16.gguf", &[], &encoder);
    let embed = |model: &Path| ["embed", "the band", "--model", model.to_str().unwrap()].map(str::to_owned);
    let source = embed(&tiny("bert-f16.gguf"));
    let want = done(lathe(&source.each_ref().map(String::as_str)).output().unwrap());
    let got = done(bare(&embed(&encoder).each_ref().map(String::as_str), &cache).output().unwrap());
    assert_eq!(got, want);
}

#[test]
fn damage_is_found_in_each_section() {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let bytes = fs::read(compiled()).expect("it is there");
    let path = cache.path().join("damaged.lathe");
    let refused = |code: &str, bytes: &[u8]| {
        fs::write(&path, bytes).expect("it can be written");
        failed(code, &bare(&run(&path, "fast"), &cache).output().expect("lathe runs"))
    };
    let mut seen = vec![];
    let count = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    for row in bytes[32..32 + 64 * count].chunks_exact(64) {
        let number = |at: usize| u64::from_le_bytes(row[at..at + 8].try_into().unwrap()) as usize;
        let name = String::from_utf8_lossy(&row[..16]).trim_end_matches('\0').to_owned();
        for at in [number(16), number(16) + number(24) / 2, number(16) + number(24) - 1] {
            let mut changed = bytes.clone();
            changed[at] ^= 4;
            let line = refused("artifact-damaged", &changed);
            assert!(line.contains(&format!("the section '{name}' is damaged")), "{line}");
        }
        seen.push(name);
    }
    assert_eq!(seen, ["settings", "kernels.fast", "plan.fast", "kernels.exact", "plan.exact", "weights"]);
    let mut other = bytes.clone();
    other[8] = 9;
    assert!(refused("artifact-version", &other).contains("it has version 9"));
    let mut table = bytes.clone();
    table[50] ^= 1;
    assert!(refused("artifact-damaged", &table).contains("the table of sections is damaged"));
    refused("artifact-truncated", &bytes[..bytes.len() - 5000]);
    refused("artifact-truncated", &bytes[..20]);
}

#[test]
fn another_processor_a_longer_context_and_a_missing_precision_are_refused() {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let context = [&["--context", "65"], &run(compiled(), "fast")[1..]].concat();
    failed("context-too-long", &bare(&[&["run"], &context[..]].concat(), &cache).output().unwrap());
    let batch = ["bench", "model", "--batch", "2", "--prompt", "4", "--generate", "4", "--model"];
    let batch = [&batch[..], &[compiled().to_str().unwrap()]].concat();
    let line = failed("artifact-size", &bare(&batch, &cache).output().unwrap());
    assert!(line.contains("compiled for 1 sequences at once, 2 are asked for"), "{line}");

    // The best target that this processor does not run, if the compiler knows it.
    let cpu = lathe_runtime::detect_cpu();
    let foreign = ["avx512vnni", "avxvnni"].map(|name| lathe_machine::Target::named(name).unwrap());
    let path = cache.path().join("foreign.lathe");
    if let Some(target) = foreign
        .iter()
        .find(|t| t.architecture() == Some(std::env::consts::ARCH) && !t.lacking(&cpu).is_empty())
    {
        compile("llama-q4_1.gguf", &["--target", &target.dialect], &path);
        let line = failed("artifact-target", &bare(&run(&path, "fast"), &cache).output().unwrap());
        assert!(
            line.contains(&format!("compiled for '{}', and this processor lacks", target.dialect)),
            "{line}"
        );
    }
    let path = cache.path().join("portable.lathe");
    compile("llama-q4_1.gguf", &["--target", "portable", "--context", "64"], &path);
    done(bare(&run(&path, "fast"), &cache).output().unwrap());
    let line = failed("artifact-precision", &bare(&run(&path, "exact"), &cache).output().unwrap());
    assert!(line.contains("not compiled for the precision 'exact'"), "{line}");
    let output = lathe(&["compile", "--target", "sse9", "-o", "x", "--model", "y"]).output().unwrap();
    assert!(failed("unknown-target", &output).contains("no target is called 'sse9'"));
}
