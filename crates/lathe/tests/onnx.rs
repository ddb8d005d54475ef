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
