//! `lathe quantize`: what it writes runs, what it refuses, and that nothing half done is left.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lathe_models::{GgmlType, GgufWriter, ModelFile};
use serde_json::Value;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-models/tests/data").join(name)
}

fn lathe(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
    command.args(arguments).env("LATHE_CACHE", env!("CARGO_TARGET_TMPDIR"));
    command
}

fn quantize(model: &Path, out: &Path, more: &[&str]) -> Output {
    lathe(&["quantize"]).args([model, out]).args(more).output().expect("lathe runs")
}

fn made(model: &Path, out: &Path, more: &[&str]) -> Value {
    let output = quantize(model, out, &[more, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the output is one object")
}

fn perplexity(model: &Path) -> f64 {
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let arguments = ["score", "--json", "--precision", "exact", "--file", text, "--model"];
    let output = lathe(&arguments).arg(model).output().expect("lathe runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let score: Value = serde_json::from_slice(&output.stdout).expect("the output is one object");
    score["perplexity"].as_f64().expect("a number")
}

fn refused(output: &Output, what: &str) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains(what) && message.trim().lines().count() == 1, "{message}");
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn what_it_writes_runs_and_keeps_its_settings() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (from, out) = (data("tiny/llama-f32.gguf"), folder.path().join("out.gguf"));
    let report = made(&from, &out, &["--scheme", "q4_k", "--keep", "*embd*=q8_0", "--keep", "*ffn_up*=f16"]);
    let file = ModelFile::open(&out).expect("it is a model");
    let before = ModelFile::open(&from).expect("it is a model");
    assert_eq!(file.tensors().len(), before.tensors().len());
    for t in file.tensors() {
        let wanted = match t.name() {
            name if t.dims().len() == 1 || name.contains("norm") => GgmlType::F32,
            name if name.contains("embd") => GgmlType::Q8_0,
            name if name.contains("ffn_up") => GgmlType::F16,
            // Rows of 64, 96 or so are no whole blocks of 256.
            _ => GgmlType::Q5_0,
        };
        assert_eq!(t.ty(), wanted, "{}", t.name());
        assert_eq!(Some(t.shape()), before.tensor(t.name()).map(|t| t.shape()));
    }
    let kept = |key: &&str| !key.starts_with("general.file_type") && !key.contains("quantization_version");
    assert_eq!(
        file.keys().into_iter().filter(kept).collect::<Vec<_>>(),
        before.keys().into_iter().filter(kept).collect::<Vec<_>>()
    );
    let tensors = report["tensors"].as_array().expect("there are tensors");
    assert!(tensors.iter().any(|t| t["why"] == "rows of no whole blocks"));
    assert!(report["bytes_after"].as_u64() < report["bytes_before"].as_u64());
    let (first, second) = (perplexity(&from), perplexity(&out));
    assert!((first.ln() / second.ln() - 1.0).abs() < 0.03 && first != second, "{first} became {second}");
    // What is in its type already is copied.
    let twice = folder.path().join("twice.gguf");
    made(&out, &twice, &["--scheme", "q5_0", "--keep", "*embd*=q8_0", "--keep", "*ffn_up*=f16"]);
    assert!(std::fs::read(&out).ok() == std::fs::read(&twice).ok(), "the second file differs");
}

#[test]
fn every_type_is_written_and_read() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (wide, out) = (folder.path().join("wide.gguf"), folder.path().join("out.gguf"));
    let mut writer = GgufWriter::new();
    let values: Vec<u8> = (0..512 * 3).flat_map(|i| (i as f32).sin().to_le_bytes()).collect();
    writer.str("general.architecture", "llama").tensor("w.weight", &[3, 512], GgmlType::F32, values);
    writer.write(&wide).expect("it can be written");
    for ty in GgmlType::ALL {
        let report = made(&wide, &out, &["--scheme", &ty.encoding(), "--force"]);
        let file = ModelFile::open(&out).expect("it is a model");
        assert_eq!(file.tensors()[0].ty(), *ty);
        let error = report["types"][0]["relative_error"].as_f64().expect("a number");
        assert!(
            if *ty == GgmlType::F32 { error == 0.0 } else { error > 1e-9 && error < 0.1 },
            "{ty}: {error}"
        );
    }
}

#[test]
fn a_budget_is_kept_and_used() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (from, out) = (data("tiny/llama-f32.gguf"), folder.path().join("out.gguf"));
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let near = |path: &Path| (perplexity(path).ln() / perplexity(&from).ln() - 1.0).abs();
    let mut far = vec![];
    for bits in ["6.5", "9"] {
        for more in [&[][..], &["--calibrate", text]] {
            let report =
                made(&from, &out, &[&["--bits", bits, "--keep", "*embd*=q5_1", "--force"], more].concat());
            let found = report["bits_per_weight"].as_f64().expect("a number");
            let bits: f64 = bits.parse().expect("a number");
            assert!(found <= bits && found > bits - 0.6, "{found} of {bits}");
            assert_eq!(report["tensors"][0]["type"], "Q5_1");
            far.push(near(&out));
        }
    }
    assert!(far[2] < 0.02 && far[3] < 0.02 && far[2] <= far[0] + 0.01, "{far:?}");
    refused(
        &quantize(&from, &out, &["--size", "2kB", "--force"]),
        "too few for these tensors; give at least --size",
    );
    refused(&quantize(&from, &out, &["--force"]), "--scheme");
    refused(&quantize(&from, &out, &["--size", "2kB", "--scheme", "q8_0"]), "cannot be used with");
}

#[test]
fn bytes_have_their_scales_and_outliers_beside_them() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let from = data("tiny/llama-f32.gguf");
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let far = |path: &Path| (perplexity(path).ln() / perplexity(&from).ln() - 1.0).abs();
    let write = |scheme: &str, more: &[&str]| {
        let out = folder.path().join(format!("{scheme}.gguf"));
        let report = made(&from, &out, &[&["--scheme", scheme, "--force"], more].concat());
        (out, report)
    };
    let (rows, _) = write("int8", &[]);
    let (whole, _) = write("int8-tensor", &[]);
    let (apart, report) = write("int8-outliers", &["--calibrate", text, "--threshold", "3"]);
    for (path, parts) in [(&rows, 2), (&whole, 2), (&apart, 4)] {
        let file = ModelFile::open(path).expect("it is a model");
        let of = |t: &lathe_models::TensorInfo| t.name().starts_with("blk.0.attn_q.");
        assert_eq!(file.tensors().iter().filter(|t| of(t)).count(), parts);
        let weight = file.tensor("blk.0.attn_q.weight").expect("the matrix");
        assert_eq!(weight.ty(), GgmlType::I8);
        let scale = file.tensor("blk.0.attn_q.scale").expect("its scales");
        assert_eq!(scale.elements(), if *path == whole { 1 } else { weight.shape()[0] });
        let embedding = file.tensor("token_embd.weight").map(|t| t.ty());
        assert_eq!(embedding, Some(GgmlType::F32));
        assert!(far(path) < 0.01, "{}", far(path));
    }
    assert!(far(&rows) < far(&whole) + 1e-3);
    let share = report["outliers"]["share"].as_f64().expect("a share");
    assert!(share > 0.0 && share < 1.0, "{share}");
    // What is found is one of those that were tried, and the best that was seen if none was near enough.
    let (_, report) = write("int8-outliers", &["--calibrate", text]);
    let tried = report["outliers"]["tried"].as_array().expect("thresholds").clone();
    assert!(tried.iter().any(|t| t["threshold"] == report["outliers"]["threshold"]));
    refused(
        &quantize(&rows, &folder.path().join("twice.gguf"), &["--scheme", "q8_0"]),
        "whose scales lie apart",
    );
    let out = folder.path().join("no.gguf");
    refused(&quantize(&from, &out, &["--scheme", "int8-outliers"]), "needs --calibrate");
    refused(&quantize(&from, &out, &["--scheme", "int8", "--threshold", "6"]), "for --scheme int8-outliers");
    refused(
        &quantize(&from, &out, &["--scheme", "int8", "--calibrate", text]),
        "--calibrate is not for int8",
    );
    assert!(!out.exists());
}

#[test]
fn columns_that_are_not_there_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (from, out) = (data("tiny/llama-f32.gguf"), folder.path().join("out.gguf"));
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    made(&from, &out, &["--scheme", "int8-outliers", "--calibrate", text, "--threshold", "0.5"]);
    let file = ModelFile::open(&out).expect("it is a model");
    let info = file.tensor("blk.0.ffn_down.columns").expect("it has outliers");
    let bytes = std::fs::read(&out).expect("it can be read");
    let at =
        bytes.windows(info.byte_len()).rposition(|w| w == &*file.data(info)).expect("they are in the file");
    let mut bad = bytes.clone();
    bad[at..at + 4].copy_from_slice(&i32::MAX.to_le_bytes());
    std::fs::write(&out, bad).expect("it can be written");
    let output = lathe(&["score", "--file", text, "--model"]).arg(&out).output().expect("lathe runs");
    refused(&output, "names a column that is not there");
}

#[test]
fn folders_get_matrices_of_four_bits() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    // Its rows are of 64, so that groups are whole; those of one product are of 96, and it stays as it is.
    let from = data("safetensors/llama-bf16");
    let far = |path: &Path| (perplexity(path).ln() / perplexity(&from).ln() - 1.0).abs();
    for scheme in ["nf4", "int4-g64", "int4z-g64"] {
        let out = folder.path().join(scheme);
        let report = made(&from, &out, &["--scheme", scheme]);
        let quantized = |t: &&Value| t["quantized"] == true;
        let tensors = report["tensors"].as_array().expect("there are tensors");
        assert!(tensors.iter().filter(quantized).count() > 6, "{report}");
        assert!(tensors.iter().filter(quantized).all(|t| t["relative_error"].as_f64() < Some(0.03)));
        // It is read, and what it says it lost is what is missing.
        let (file, before) = (open(&out), open(&from));
        let matrix = |t: &&Value| t["name"] == "model.layers.0.mlp.gate_proj.weight";
        let said = tensors.iter().find(matrix).and_then(|t| t["relative_error"].as_f64()).expect("an error");
        let found =
            relative(&values(&before, "blk.0.ffn_gate.weight"), &values(&file, "blk.0.ffn_gate.weight"));
        assert!((found / said - 1.0).abs() < 1e-3, "{scheme}: {found}, not {said}");
        assert!(far(&out) < 0.05, "{scheme}: {}", far(&out));
        refused(&quantize(&from, &out, &["--scheme", scheme]), "it is there already");
        let twice = folder.path().join("twice");
        refused(&quantize(&out, &twice, &["--scheme", scheme]), "a model that is not quantized");
        refused(
            &quantize(&data("tiny/llama-f32.gguf"), &twice, &["--scheme", scheme]),
            "folders of safetensors",
        );
    }
    assert_eq!(names(folder.path()), ["int4-g64", "int4z-g64", "nf4"]);
}

#[test]
fn a_text_says_how_matrices_are_rounded() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let from = data("safetensors/llama-bf16");
    // Queries and keys have another order of rows in a GGUF file than in a folder.
    for (scheme, file) in [("q4_0", "q4_0.gguf"), ("int4z-g64", "int4z-g64")] {
        let (plain, out) = (folder.path().join(format!("plain-{file}")), folder.path().join(file));
        made(&from, &plain, &["--scheme", scheme]);
        let report = made(&from, &out, &["--scheme", scheme, "--calibrate", text]);
        assert!(report["calibrated_tensors"].as_u64() > Some(6), "{report}");
        let far = (perplexity(&out).ln() / perplexity(&from).ln() - 1.0).abs();
        assert!(far < 0.05, "{scheme}: {far}");
        // The same numbers of bits, other ones; further from the weights than what is nearest to them.
        let (file, nearest) = (open(&out), open(&plain));
        for name in ["blk.0.attn_q.weight", "blk.1.ffn_gate.weight"] {
            let (info, other) =
                (file.tensor(name).expect("it is there"), nearest.tensor(name).expect("it is there"));
            assert_eq!((info.ty(), info.shape()), (other.ty(), other.shape()), "{name}");
            let (rounded, nearest) = (values(&file, name), values(&nearest, name));
            let apart = relative(&nearest, &rounded);
            assert!(apart > 1e-4 && apart < 0.1, "{scheme} {name}: {apart}");
        }
        let tensors = report["tensors"].as_array().expect("there are tensors");
        assert!(tensors.iter().all(|t| t["relative_error"].as_f64() < Some(0.1)), "{report}");
    }
}

fn open(path: &Path) -> ModelFile {
    ModelFile::open(path).expect("it is a model")
}

fn values(file: &ModelFile, name: &str) -> Vec<f32> {
    let info = file.tensor(name).expect("it has the tensor");
    let mut values = vec![0.0; info.elements()];
    lathe_models::dequantize(info.ty(), &file.data(info), &mut values);
    values
}

/// The mean squared error relative to the variance.
fn relative(x: &[f32], y: &[f32]) -> f64 {
    let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64;
    let variance: f64 = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum();
    x.iter().zip(y).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>() / variance
}

#[test]
fn a_folder_gives_the_same_as_a_file() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for name in ["llama-f32", "llama-bf16", "qwen2-f32", "mixtral-f32"] {
        let (from, out) = (data("safetensors").join(name), folder.path().join(name));
        made(&from, &out, &["--scheme", "f32"]);
        let (first, second) = (perplexity(&from), perplexity(&out));
        assert!((first / second - 1.0).abs() < 1e-5, "{name}: {first} became {second}");
    }
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_left() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (from, out) = (data("tiny/llama-f32.gguf"), folder.path().join("out.gguf"));
    refused(&quantize(&from, &out, &["--scheme", "q9_9"]), "the types are f32");
    refused(
        &quantize(&from, &out, &["--scheme", "q8_0", "--keep", "nobody=f16"]),
        "no tensor is named 'nobody'",
    );
    refused(&quantize(&from, &out, &["--scheme", "q8_0", "--keep", "f16"]), "PATTERN=TYPE");
    let bad = |value: f32| {
        let path = folder.path().join("bad.gguf");
        let mut writer = GgufWriter::new();
        let values: Vec<u8> =
            (0..512).flat_map(|i| if i == 300 { value } else { 0.5 }.to_le_bytes()).collect();
        writer.str("general.architecture", "llama").tensor("w.weight", &[2, 256], GgmlType::F32, values);
        writer.write(&path).expect("it can be written");
        path
    };
    refused(&quantize(&bad(f32::NAN), &out, &["--scheme", "q4_k"]), "tensor 'w.weight' holds NaN");
    refused(&quantize(&bad(f32::INFINITY), &out, &["--scheme", "q4_0"]), "tensor 'w.weight' holds inf");
    refused(&quantize(&bad(1e30), &out, &["--scheme", "f16"]), "too large for F16; keep it wider");
    assert_eq!(names(folder.path()), ["bad.gguf"]);
    std::fs::write(&out, "mine").expect("it can be written");
    refused(
        &quantize(&from, &out, &["--scheme", "q8_0"]),
        "it is there already; give another path, or --force",
    );
    assert_eq!(std::fs::read(&out).ok().as_deref(), Some(&b"mine"[..]));
    made(&from, &out, &["--scheme", "q8_0", "--force"]);
    assert_eq!(names(folder.path()), ["bad.gguf", "out.gguf"]);
}

/// A model of one matrix that takes a while.
#[cfg(unix)]
fn large(folder: &Path) -> PathBuf {
    let path = folder.join("large.gguf");
    let mut writer = GgufWriter::new();
    let values: Vec<u8> = (0..1u32 << 24).flat_map(|i| (i as f32 * 0.37).sin().to_le_bytes()).collect();
    writer.str("general.architecture", "llama").tensor(
        "w.weight",
        &[1 << 14, 1 << 10],
        GgmlType::F32,
        values,
    );
    writer.write(&path).expect("it can be written");
    path
}

#[test]
#[cfg(unix)]
fn a_stopped_or_killed_run_leaves_no_half_file() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (from, out) = (large(folder.path()), folder.path().join("out.gguf"));
    for (signal, code) in [("-INT", Some(130)), ("-KILL", None)] {
        let mut child =
            lathe(&["quantize", "--scheme", "q3_k"]).args([&from, &out]).spawn().expect("lathe runs");
        // Once the temporary file is there, it is at work.
        while names(folder.path()).len() < 2 && child.try_wait().expect("it can be asked").is_none() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.is_ok_and(|s| s.success()), "it was done before it could be stopped");
        assert_eq!(child.wait().expect("it ends").code(), code);
        assert!(!out.exists());
        // What is killed cannot clean up, but it has another name.
        assert_eq!(names(folder.path()).len(), if code.is_some() { 1 } else { 2 });
    }
}

#[test]
#[cfg(unix)]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (from, out) = (large(folder.path()), folder.path().join("out.gguf"));
    // A limit on the length of files stands for the end of the disk.
    let script = "trap '' XFSZ; ulimit -f 2000; exec \"$0\" quantize \"$1\" \"$2\" --scheme f16";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_lathe")]).args([&from, &out]);
    refused(&shell.output().expect("a shell runs"), "cannot write: ");
    assert_eq!(names(folder.path()), ["large.gguf"]);
}
