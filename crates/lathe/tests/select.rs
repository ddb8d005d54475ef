//! `lathe select`: what it finds in a program of ONNX, what running it says, and what it refuses.

use std::path::Path;
use std::process::{Command, Stdio};

use lathe_ir::Tensor;
use lathe_onnx::{Array, Elem, npy};
use serde_json::Value;

/// The code, standard output, and standard error of a run.
fn select(arguments: &[&str], cache: &Path) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
    command.arg("select").args(arguments).env("LATHE_CACHE", cache).stdin(Stdio::null());
    let out = command.output().expect("it starts");
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

fn convolution() -> String {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-onnx/tests/cases");
    let path = cases.join("test_conv_with_strides_padding/model.onnx");
    path.to_str().expect("the path is UTF-8").to_owned()
}

/// Its inputs in a file: numbers that are not all alike.
fn inputs(folder: &Path) -> String {
    let ramp = |shape: &[usize], by: usize| {
        let n: usize = shape.iter().product();
        let all: Vec<f32> = (0..n).map(|i| (i * by % 17) as f32 / 8.0 - 1.0).collect();
        Array::new(Elem::F32, Tensor::f32(shape, &all))
    };
    let (x, w) = (ramp(&[1, 1, 7, 5], 3), ramp(&[1, 1, 3, 3], 5));
    let path = folder.join("x.npz");
    let bytes = npy::write_npz(&[("x".into(), &x), ("W".into(), &w)]).expect("it is an archive");
    std::fs::write(&path, bytes).expect("it is written");
    path.to_str().expect("the path is UTF-8").to_owned()
}

/// The description of an accelerator, beside a host that is so slow that everything is given away.
fn slow_host(folder: &Path) -> String {
    let (code, text, error) = select(&["--show-target", "gemm16"], folder);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let path = folder.join("target.toml");
    std::fs::write(&path, text.replace("products_per_ns = 20.0", "products_per_ns = 0.001"))
        .expect("it is written");
    path.to_str().expect("the path is UTF-8").to_owned()
}

#[test]
fn a_convolution_is_found_and_emulated() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (model, target, input) = (convolution(), slow_host(folder.path()), inputs(folder.path()));
    let run = [&model, "--input", &input, "--target", &target, "--run", "--json"];
    let (code, out, error) = select(&run, folder.path());
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let v: Value = serde_json::from_str(&out).expect("it is JSON");
    assert_eq!(v["exact"]["share"], 0.0, "{v}");
    assert_eq!(v["found"]["share"], 1.0, "{v}");
    assert_eq!(v["operators"][0]["on"], "matmul");
    let rules = v["operators"][0]["rules"].to_string();
    assert!(rules.contains("conv-windows") && rules.contains("dot-pad:matmul"), "{rules}");
    assert!(v["run"]["emulated"]["products"].as_u64() > Some(0), "{v}");
    assert!(v["run"]["largest_difference"].as_f64().expect("a number") < 1e-5, "{v}");
    // Without windows there is no product.
    let (_, out, _) =
        select(&[&model, "--target", &target, "--rules", "exact,layout,padding", "--json"], folder.path());
    let v: Value = serde_json::from_str(&out).expect("it is JSON");
    assert_eq!(v["found"]["share"], 0.0, "{v}");
    let (_, out, _) = select(&[&model, "--target", &target, "--proofs"], folder.path());
    assert!(out.contains("conv-windows at"), "{out}");
}

#[test]
fn what_is_wrong_is_told_in_one_line() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let model = convolution();
    let bad = folder.path().join("bad.toml");
    std::fs::write(&bad, "name = 1").expect("it is written");
    let bad = bad.to_str().expect("the path is UTF-8");
    let cases: [(&[&str], &str); 6] = [
        (&[&model, "--target", "gemm17"], "there is no target 'gemm17'"),
        (&[&model, "--target", bad], "target-description"),
        (&[&model, "--rules", "exakt"], "there are no rules 'exakt'"),
        (&["model.gguf"], "a file that ends in .onnx"),
        (&["none.onnx"], "cannot read the file"),
        (&["--show-target", "gemm17"], "there is no target"),
    ];
    for (arguments, says) in cases {
        let (code, out, error) = select(arguments, folder.path());
        assert_eq!((code, out.as_str(), error.lines().count()), (Some(2), "", 1), "{error}");
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
}
