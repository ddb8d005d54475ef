//! Verbs on a program of ONNX: what the compiler made of it is shown, proved, and kept.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lathe_ir::{Tensor, graph, step, tensor};
use lathe_onnx::{Array, Elem, npy};
use serde_json::Value;
use tempfile::TempDir;

struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().expect("a temporary folder can be made"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("the path is UTF-8").to_owned()
    }

    /// The code, standard output, and standard error of a run.
    fn lathe(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
        command.args(arguments).env("LATHE_CACHE", env!("CARGO_TARGET_TMPDIR")).stdin(Stdio::null());
        let output = command.output().expect("lathe runs");
        let text = |bytes| String::from_utf8(bytes).expect("it is UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn shown(&self, arguments: &[&str]) -> String {
        let (code, out, err) = self.lathe(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {err}");
        out
    }

    /// A file with numbers that follow each other.
    fn array(&self, name: &str, shape: &[usize]) -> String {
        let n = shape.iter().product::<usize>();
        let numbers: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
        let bytes = npy::write_npy(&Array::new(Elem::F32, Tensor::f32(shape, &numbers))).expect("an array");
        std::fs::write(self.path(name), bytes).expect("the temporary folder can be written");
        self.path(name)
    }

    /// The arguments of the convolution.
    fn convolution(&self) -> [String; 2] {
        [self.array("x.npy", &[1, 1, 7, 5]), self.array("w.npy", &[1, 1, 3, 3])]
    }
}

fn case(name: &str) -> String {
    let cases: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-onnx/tests/cases");
    cases.join(name).join("model.onnx").to_str().expect("the path is UTF-8").to_owned()
}

#[test]
fn every_stage_of_a_program_is_shown_and_reads_back() {
    let place = Place::new();
    let (conv, [x, w]) = (case("test_conv_with_strides_padding"), place.convolution());
    let stage = |name: &str| place.shown(&["show", &conv, name, "--input", &x, "--input", &w]);
    let text = stage("graph");
    assert_eq!(text, place.shown(&["show", &conv, "--input", &x, "--input", &w]));
    let g = graph::parse(&text).expect("it is a graph");
    assert!(g.nodes.iter().any(|n| &*n.op == "conv"), "{text}");
    // Its text is a program too, and the same comes of it.
    let file = place.path("graph.txt");
    std::fs::write(&file, &text).expect("the temporary folder can be written");
    let kernels = stage("tensor");
    assert_eq!(kernels, place.shown(&["show", &file, "tensor"]));
    let each: Vec<&str> = kernels.split("\n# ").map(|k| k.split_once('\n').expect("a name").1).collect();
    for k in &each {
        let k = tensor::parse(k).expect("it is a kernel");
        tensor::check(&k).expect("it is whole");
    }
    let steps = stage("step");
    let program = steps.split_once('\n').expect("a name").1;
    let program = step::parse(program).expect("it is a step program");
    step::check(&program).expect("it is whole");
    let calls = program.steps.iter().filter(|s| matches!(s, step::Step::Call { .. })).count();
    assert!(calls >= 1 && calls <= each.len(), "{steps}");
    assert!(stage("schedule").contains("parallel "));
    assert!(stage("c").contains("ctx"));
}

#[test]
fn steps_of_a_program_are_proved_and_checked_on_their_own() {
    let place = Place::new();
    let (conv, [x, w]) = (case("test_conv_with_strides_padding"), place.convolution());
    let proofs = place.path("proofs.txt");
    let verify = |more: &[&str]| -> Value {
        let all = [&["verify", &conv, "--json", "--input", &x, "--input", &w], more].concat();
        serde_json::from_str(&place.shown(&all)).expect("it is JSON")
    };
    let found = verify(&["--output", &proofs]);
    let checked = verify(&["--check", &proofs]);
    assert!(found["steps"].as_u64() > Some(0) && found["steps"] == checked["steps"], "{found}");
    assert_eq!(found["unproved"], serde_json::json!({}));
}

#[test]
fn what_cannot_be_looked_at_is_refused_in_one_line() {
    let place = Place::new();
    let (conv, [x, _]) = (case("test_conv_with_strides_padding"), place.convolution());
    let refused = |code: &str, arguments: &[&str]| {
        let (exit, out, err) = place.lathe(arguments);
        assert_eq!((exit, out.as_str()), (Some(2), ""), "{arguments:?}: {err}");
        assert!(err.starts_with(&format!("error[{code}]: ")) && err.lines().count() == 1, "{err}");
    };
    refused("onnx-input", &["show", &conv, "graph", "--input", &x]);
    refused("usage", &["show", &conv, "everything", "--input", &x]);
    refused("usage", &["show", &conv, "graph", "--model", &conv]);
    refused("usage", &["show", "graph", "--input", &x]);
    refused("file", &["show", &place.path("none.onnx")]);
}

/// The file that `run` writes, as bytes.
fn results(place: &Place, run: &mut Command, name: &str) -> Vec<u8> {
    let output = run.args(["--output", &place.path(name)]).output().expect("lathe runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(place.path(name)).expect("the results were written")
}

fn with(arguments: &[&str], cache: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
    command.args(arguments).env("LATHE_CACHE", cache).stdin(Stdio::null());
    command
}

#[test]
fn a_compiled_program_gives_the_same_without_a_compiler() {
    let place = Place::new();
    let (conv, [x, w]) = (case("test_conv_with_strides_padding"), place.convolution());
    let inputs = ["--input", x.as_str(), "--input", w.as_str()];
    let file = place.path("conv.lathe");
    let told = place.shown(&[&["compile", &conv, "-o", &file], &inputs[..]].concat());
    assert!(told.contains("a program for inputs of these types and shapes"), "{told}");
    let cache = place.path("cache");
    let want = results(
        &place,
        &mut with(&[&["run", &conv], &inputs[..]].concat(), env!("CARGO_TARGET_TMPDIR")),
        "want.npy",
    );
    let mut bare = with(&[&["run", &file], &inputs[..]].concat(), &cache);
    bare.env("PATH", "/nonexistent").env_remove("LATHE_CC").env_remove("CC");
    assert_eq!(results(&place, &mut bare, "got.npy"), want);

    let refused = |code: &str, arguments: &[&str]| {
        let output = with(arguments, &cache).output().expect("lathe runs");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {err}");
        assert!(err.starts_with(&format!("error[{code}]: ")) && err.lines().count() == 1, "{err}");
        err
    };
    // Other shapes than it was compiled for, and verbs that want a language model.
    let other = place.array("other.npy", &[1, 1, 9, 5]);
    let err = refused("onnx-input", &["run", &file, "--input", &other, "--input", &w]);
    assert!(err.contains("'x' is not as it was when the program was prepared"), "{err}");
    refused("model-program", &["run", &file, "a prompt"]);
    refused("model-program", &["show", "graph", "--model", &file]);
    // Damage in any section is found before anything of it is used.
    let bytes = std::fs::read(&file).expect("it is there");
    let count = u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes")) as usize;
    assert_eq!(count, 5);
    for row in bytes[32..32 + 64 * count].chunks_exact(64) {
        let at = u64::from_le_bytes(row[16..24].try_into().expect("eight bytes")) as usize;
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        std::fs::write(place.path("damaged.lathe"), bytes).expect("the temporary folder can be written");
        refused("artifact-damaged", &["run", &place.path("damaged.lathe"), "--input", &x]);
    }
}

#[test]
fn a_program_of_several_regions_is_not_compiled_to_a_file() {
    let place = Place::new();
    // Which elements are not 0 only a run knows.
    let (file, x) = (place.path("nonzero.lathe"), place.path("x.npy"));
    let t = Tensor { bytes: vec![1, 0, 1, 1], dtype: lathe_ir::DType::U8, ..Tensor::f32(&[2, 2], &[0.0; 4]) };
    std::fs::write(&x, npy::write_npy(&Array::new(Elem::Bool, t)).expect("an array")).expect("it is written");
    let (code, _, err) = place.lathe(&["compile", &case("test_nonzero_example"), "--input", &x, "-o", &file]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.starts_with("error[onnx-") && err.contains("region") && err.lines().count() == 1, "{err}");
    assert!(!Path::new(&file).exists());
}

/// The temporaries of a step program's text: for each, its bytes and place, and the first and last call that names it.
fn temporaries(text: &str) -> Vec<(i64, i64, usize, usize)> {
    let program = step::parse(text).expect("it is a step program");
    let mut out = vec![];
    for (b, buffer) in program.buffers.iter().enumerate() {
        let step::Storage::Planned(at) = buffer.storage else { continue };
        let mut steps = vec![];
        let calls = program.steps.iter().filter_map(|s| match s {
            step::Step::Call { args, .. } => Some(args),
            _ => None,
        });
        for (i, args) in calls.enumerate() {
            steps.extend(args.iter().filter(|p| p.buffer as usize == b).map(|_| i));
        }
        let (first, last) = (steps[0], steps[steps.len() - 1]);
        out.push((buffer.bytes.as_const().expect("a number"), at, first, last));
    }
    out
}

#[test]
fn pictures_show_groups_schedules_and_memory() {
    let place = Place::new();
    // Three products one after the other, each with something behind it: two temporaries that live at the same time.
    let g = "graph three() {
  x: f32[32, 48] = input
  a: f32[64, 48] = const \"a\"
  b: f32[16, 64] = const \"b\"
  y: f32[32, 64] = matmul(x, a)
  r: f32[32, 64] = silu(y)
  z: f32[32, 16] = matmul(r, b)
  s: f32[32, 64] = softmax(r)
  t: f32[32, 16] = matmul(s, b)
  return z, t
}
";
    let file = place.path("three.txt");
    std::fs::write(&file, g).expect("the temporary folder can be written");
    let steps = place.shown(&["show", &file, "step"]);
    // What is done at load, the packing of weights, comes first.
    let steps = &steps[steps.rfind("program ").expect("there is one")..];
    let drawn = |stage: &[&str], name: &str| {
        let path = place.path(name);
        place.shown(&[&["show", &file], stage, &["--picture", &path]].concat());
        std::fs::read_to_string(&path).expect("it was drawn")
    };
    let memory = drawn(&["step"], "memory.svg");
    let all = temporaries(steps);
    assert!(!all.is_empty(), "{steps}");
    let last = all.iter().map(|t| t.3).max().expect("there are some");
    let alive =
        |step: usize| -> i64 { all.iter().filter(|t| (t.2..=t.3).contains(&step)).map(|t| t.0).sum() };
    let bound = (0..=last).map(alive).max().expect("there are steps");
    let arena = all.iter().map(|t| t.0 + t.1).max().expect("there are some");
    let (bound_mb, arena_mb) =
        (format!("{:.3} MB", bound as f64 / 1e6), format!("{:.3} MB", arena as f64 / 1e6));
    assert!(memory.contains(&format!("arena {arena_mb}")), "{arena_mb}: {memory}");
    assert!(memory.contains(&format!("(lower bound) {bound_mb}")), "{bound_mb}: {memory}");
    for t in &all {
        assert!(memory.contains(&format!("{} bytes at {}, steps {} to {}", t.0, t.1, t.2, t.3)), "{memory}");
    }
    let graph = drawn(&["graph"], "graph.svg");
    let calls = steps.lines().filter(|l| l.trim_start().starts_with("call ")).count();
    assert_eq!(graph.matches("(step ").count(), calls, "{steps}{graph}");
    assert!(graph.contains(">silu<") && graph.contains("input x: f32[32, 48]"), "{graph}");
    let schedule = drawn(&["schedule", "--op", "softmax"], "softmax.svg");
    assert!(schedule.contains(">parallel ") && !schedule.contains(">matmul<"), "{schedule}");
    let page = drawn(&[], "all.html");
    assert!(page.starts_with("<!doctype html>") && page.matches("<svg").count() > 3);
    for (text, tag) in [(&memory, "text"), (&graph, "text"), (&page, "svg")] {
        assert_eq!(text.matches(&format!("<{tag} ")).count(), text.matches(&format!("</{tag}>")).count());
    }
    let refused = |arguments: &[&str]| {
        let (code, _, err) = place.lathe(&[&["show", &file], arguments].concat());
        assert!(code == Some(2) && err.lines().count() == 1, "{err}");
    };
    refused(&["graph", "--picture", &place.path("graph.png")]);
    refused(&["c", "--picture", &place.path("c.svg")]);
}
