//! Damaged models, surroundings and caches: one clear line on standard error and exit code 2, or an answer where there is
//! a way around; never a panic.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lathe_models::{GgufWriter, ModelFile};
use tempfile::TempDir;

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-models/tests/data/tiny/llama-f32.gguf")
}

/// The tiny model's file with something changed in it.
fn changed(change: &dyn Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = fs::read(tiny()).expect("the tiny model is there");
    change(&mut bytes);
    bytes
}

fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|w| w == what).expect("the file has it")
}

/// Where the record of a tensor goes on behind its name: rank (u32), extents (u64 each), type (u32), offset (u64).
fn record(bytes: &[u8], tensor: &str) -> usize {
    find(bytes, tensor.as_bytes()) + tensor.len()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// A matrix of the first layer, 32 by 32.
const MATRIX: &str = "blk.0.attn_q.weight";

/// A folder with a cache of its own.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().expect("a temporary folder can be made"))
    }

    fn cache(&self) -> PathBuf {
        self.0.path().join("cache")
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).expect("the temporary folder can be written");
        path
    }

    fn command(&self, model: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
        command.args(["run", "--raw", "--ignore-eos", "--max-tokens", "4", "the band", "--model"]).arg(model);
        command.env("LATHE_CACHE", self.cache()).stdin(Stdio::null());
        command
    }

    /// Runs a model that is to fail with this code.
    fn fails(&self, code: &str, model: &Path) -> String {
        failed(code, &self.command(model).output().expect("lathe runs"))
    }
}

/// Demands one line with this code (behind lines of progress), exit code 2 and no output; returns the line.
fn failed(code: &str, output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{code}: {text}");
    assert!(output.stdout.is_empty(), "{code}");
    let lines: Vec<&str> = text.lines().filter(|line| !line.ends_with(" ...")).collect();
    assert!(lines.len() == 1 && lines[0].starts_with(&format!("error[{code}]: ")), "{code}: {text}");
    assert!(!text.contains("defect in lathe"), "{text}");
    lines[0].to_string()
}

fn answered(output: &Output) -> (String, String) {
    let messages = String::from_utf8_lossy(&output.stderr).to_string();
    assert!(output.status.success() && !output.stdout.is_empty(), "{messages}");
    assert!(!messages.contains("panicked"), "{messages}");
    (String::from_utf8_lossy(&output.stdout).to_string(), messages)
}

#[test]
fn damaged_files() {
    let place = Place::new();
    let fails = |code: &str, change: &dyn Fn(&mut Vec<u8>)| {
        place.fails(code, &place.file("damaged.gguf", &changed(change)))
    };
    let whole = fs::read(tiny()).expect("the tiny model is there").len();
    for keep in [whole - 1, whole / 2, 3300, 8, 5] {
        fails("gguf-truncated", &|b| b.truncate(keep));
    }
    // Where the file claims more than is left.
    for keep in [1000, 30, 24, 23] {
        fails("gguf-malformed", &|b| b.truncate(keep));
    }
    fails("gguf-magic", &|b| b.truncate(3));
    fails("gguf-magic", &|b| b[0] = b'X');
    fails("gguf-big-endian", &|b| b[4..8].reverse());
    // More tensors or settings than any file could hold.
    fails("gguf-malformed", &|b| put(b, 8, &u64::MAX.to_le_bytes()));
    fails("gguf-malformed", &|b| put(b, 16, &u64::MAX.to_le_bytes()));
}

#[test]
fn damaged_tensors() {
    let place = Place::new();
    let fails = |code: &str, change: &dyn Fn(&mut Vec<u8>, usize)| {
        let bytes = changed(&|b| {
            let at = record(b, MATRIX);
            change(b, at);
        });
        place.fails(code, &place.file("damaged.gguf", &bytes))
    };
    let (rank, rows, columns, ty, offset) = (0, 4, 12, 20, 24);
    fails("gguf-truncated", &|b, at| put(b, at + offset, &(1u64 << 40).to_le_bytes()));
    fails("gguf-malformed", &|b, at| put(b, at + offset, &(u64::MAX - 31).to_le_bytes()));
    fails("gguf-malformed", &|b, at| put(b, at + offset, &7u64.to_le_bytes()));
    for extent in [u64::MAX, 1 << 62] {
        fails("gguf-malformed", &|b, at| put(b, at + rows, &extent.to_le_bytes()));
    }
    fails("gguf-malformed", &|b, at| put(b, at + rank, &9u32.to_le_bytes()));
    fails("gguf-type", &|b, at| put(b, at + ty, &16u32.to_le_bytes()));
    // Rows of 32 are no whole block of Q4_K.
    fails("gguf-malformed", &|b, at| put(b, at + ty, &12u32.to_le_bytes()));
    let text = fails("family-shape", &|b, at| {
        put(b, at + rows, &16u64.to_le_bytes());
        put(b, at + columns, &64u64.to_le_bytes());
    });
    assert!(text.contains(MATRIX) && text.contains("[64, 16]") && text.contains("[32, 32]"), "{text}");
    fails("family-tensor", &|b, at| b[at - 1] = b'x');
}

#[test]
fn unknown_families() {
    let place = Place::new();
    let bytes = changed(&|b| {
        while let Some(at) = b.windows(5).position(|w| w == b"llama") {
            put(b, at, b"zebra");
        }
    });
    let text = place.fails("family-unknown", &place.file("zebra.gguf", &bytes));
    assert!(text.contains("'zebra'") && text.contains("llama"), "{text}");
    // Only the name: none of its settings are there.
    let bytes = changed(&|b| {
        let at = find(b, b"general.architecture") + 32;
        put(b, at, b"zebra");
    });
    place.fails("family-unknown", &place.file("zebra.gguf", &bytes));
}

#[test]
fn prompts_of_nothing_and_of_too_much() {
    let place = Place::new();
    let run = |prompt: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
        command.args(["run", "--raw", prompt, "--model"]).arg(tiny()).args(more);
        command.env("LATHE_CACHE", place.cache()).stdin(Stdio::null()).output().expect("lathe runs")
    };
    failed("prompt-empty", &run("", &[]));
    failed("prompt-too-long", &run(&"long ".repeat(5000), &[]));
    failed("prompt-too-long", &run("the band the band the band", &["--context", "4"]));
}

#[test]
fn no_compiler() {
    let place = Place::new();
    let with =
        |compiler: &str| place.command(&tiny()).env("LATHE_CC", compiler).output().expect("lathe runs");
    let text = failed("no-compiler", &with("/nonexistent/cc"));
    assert!(text.contains("/nonexistent/cc") && text.contains("install"), "{text}");
    failed("compiler-broken", &with("/bin/false"));
    // Says that it is a compiler, and compiles nothing.
    let script =
        place.file("cc", b"#!/bin/sh\n[ \"$1\" = --version ] && echo cc 1 && exit 0\necho no >&2\nexit 1\n");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it can be made a program");
    }
    let output = with(script.to_str().expect("the path is UTF-8"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(2) && text.contains("error[") && !text.contains("panicked"),
        "{text}"
    );
}

#[test]
fn caches_that_cannot_be_written() {
    let place = Place::new();
    let (text, _) = answered(&place.command(&tiny()).output().expect("lathe runs"));
    // Below a file there is no folder: nobody can write there, not even the administrator.
    let file = place.file("file", b"");
    let with = |cache: &Path| place.command(&tiny()).env("LATHE_CACHE", cache).output().expect("lathe runs");
    let (again, messages) = answered(&with(&file.join("cache")));
    assert_eq!(again, text);
    assert!(messages.contains("warning") && messages.contains("cache"), "{messages}");
    // A filled cache that may only be read is as good as any.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let set = |mode| {
            for folder in [place.cache(), place.cache().join("kernels")] {
                fs::set_permissions(folder, fs::Permissions::from_mode(mode)).expect("its mode can be set");
            }
        };
        set(0o555);
        let (again, messages) = answered(&with(&place.cache()));
        set(0o755);
        assert_eq!(again, text);
        assert!(!messages.contains("warning"), "{messages}");
    }
}

#[test]
fn caches_that_are_damaged() {
    let place = Place::new();
    let run = || answered(&place.command(&tiny()).output().expect("lathe runs")).0;
    let text = run();
    let kernels = place.cache().join("kernels");
    let libraries = || -> Vec<PathBuf> {
        let all = fs::read_dir(&kernels).expect("the cache is there").map(|e| e.expect("an entry").path());
        all.filter(|p| p.extension().is_some_and(|e| e == "so")).collect()
    };
    assert!(!libraries().is_empty());
    let half = |b: &mut Vec<u8>| b.truncate(b.len() / 2);
    let flip = |b: &mut Vec<u8>| {
        let at = b.len() / 2;
        b[at] ^= 1;
    };
    for damage in [&half as &dyn Fn(&mut Vec<u8>), &flip, &|b| b.clear(), &|b| b.fill(0)] {
        for path in libraries() {
            let mut bytes = fs::read(&path).expect("it can be read");
            damage(&mut bytes);
            fs::write(&path, bytes).expect("it can be written");
        }
        assert_eq!(run(), text);
    }
    // What else lies there may be nonsense too.
    for folder in [place.cache().join("compilers"), place.cache().join("failed")] {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            fs::write(entry.expect("an entry").path(), b"nonsense\xff").expect("it can be written");
        }
    }
    fs::write(kernels.join("something.lock"), b"").expect("it can be written");
    assert_eq!(run(), text);
}

#[test]
fn two_at_once() {
    let place = Place::new();
    let start = || {
        let mut command = place.command(&tiny());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("lathe runs")
    };
    let both = [start(), start()];
    let texts = both.map(|child| answered(&child.wait_with_output().expect("lathe ends")).0);
    assert_eq!(texts[0], texts[1]);
}

/// A machine with a device that does not hold the deep model.
const DEVICE: &str = "\
name = \"m\"
cpu = { vendor = \"v\", model = \"m\", cores = 2, features = [], vector_bits = 256 }
memory = [{ name = \"vram\", capacity_bytes = 1000000 }, { name = \"dram\", capacity_bytes = 1000000000 }]
links = [{ from = \"dram\", to = \"vram\", bandwidth = 1e9 }, { from = \"vram\", to = \"dram\", bandwidth = 1e9 }]
devices = [{ name = \"gpu\", memory = \"vram\" }]
";

/// Files of a folder, with their sizes.
fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(folder).map_or(vec![], |all| all.map(|e| e.expect("an entry")).collect());
    let mut all: Vec<(PathBuf, u64)> =
        entries.iter().map(|e| (e.path(), e.metadata().expect("it is there").len())).collect();
    all.sort();
    all
}

/// The tiny model with its first layer so many times: weights that are worth a store, for kernels that are compiled already.
fn deep(layers: u32, path: &Path) {
    let file = ModelFile::open(tiny()).expect("the tiny model is there");
    let mut writer = GgufWriter::new();
    file.copy_metadata(&mut writer, &["llama.block_count"]);
    writer.u32("llama.block_count", layers);
    for t in file.tensors().iter().filter(|t| !t.name().starts_with("blk.1.")) {
        let names: Vec<String> = match t.name().strip_prefix("blk.0.") {
            Some(rest) => (0..layers).map(|layer| format!("blk.{layer}.{rest}")).collect(),
            None => vec![t.name().to_owned()],
        };
        for name in &names {
            writer.tensor(name, &t.shape(), t.ty(), file.data(t).to_vec());
        }
    }
    writer.write(path).expect("it can be written");
}

#[test]
fn a_disk_that_fills_leaves_no_half_file() {
    let place = Place::new();
    let model = tiny();
    let folder = |name: &str| place.0.path().join(name);
    deep(32, &folder("deep.gguf"));
    place.file("device.toml", DEVICE.as_bytes());
    for name in ["weights", "other", "out"] {
        fs::create_dir(folder(name)).expect("a folder can be made");
    }
    let lines: Vec<String> = (0..6)
        .map(|i| format!("{{\"prompt\": \"the band {i}\", \"max_tokens\": 4, \"temperature\": 0}}"))
        .collect();
    place.file("in.jsonl", lines.join("\n").as_bytes());
    place.file("text.txt", "the band and the other one".repeat(9).as_bytes());
    // A file that no process may make longer than so many sectors stands for a disk with no more room.
    let run = |sectors: Option<u32>, arguments: &[&str]| {
        let mut command = Command::new("sh");
        let limit = sectors.map_or(String::new(), |n| format!("trap '' XFSZ; ulimit -f {n}; "));
        command.args(["-c", &format!("{limit}exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_lathe")]);
        command.args(arguments).current_dir(place.0.path()).env("LATHE_CACHE", place.cache());
        command.stdin(Stdio::null()).output().expect("sh runs")
    };
    let model = model.to_str().expect("a path in UTF-8");
    let store = |folder| {
        let one =
            ["run", "--raw", "--max-tokens", "4", "--context", "64", "the band", "--model", "deep.gguf"];
        [&one[..], &["--machine", "device.toml", "--disk-cache", folder]].concat()
    };
    let quantize = vec!["quantize", model, "out/small.gguf", "--scheme", "q8_0"];
    let score = vec!["score", "--model", model, "--file", "text.txt", "--save-log-softmax", "out/all.npy"];
    let batch = vec!["batch", "--model", model, "in.jsonl", "answers.jsonl"];
    // With room once, so that kernels are built.
    let warm = ["batch", "--model", model, "in.jsonl", "warm.jsonl"];
    for arguments in [&store("weights"), &score, &warm[..]] {
        let output = run(None, arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    fs::remove_file(folder("out/all.npy")).expect("it was written");
    for (sectors, arguments) in [(40, store("other")), (4, quantize.clone()), (4, score.clone())] {
        let output = run(Some(sectors), &arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("error[") && text.lines().count() <= 3, "{arguments:?}: {text}");
        assert_eq!([files(&folder("other")), files(&folder("out"))], [vec![], vec![]], "{arguments:?}");
        let output = run(None, &arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        for name in ["other", "out"] {
            files(&folder(name)).iter().for_each(|(path, _)| fs::remove_file(path).expect("a file"));
        }
    }
    // Answers that were written stay, and the others come when there is room.
    let output = run(Some(2), &batch);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && text.contains("the same command goes on"), "{text}");
    let output = run(None, &batch);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers = fs::read_to_string(folder("answers.jsonl")).expect("answers");
    let mut ids: Vec<&str> = answers.lines().filter_map(|l| l.split_once("line-")?.1.get(..1)).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["1", "2", "3", "4", "5", "6"]);
}
