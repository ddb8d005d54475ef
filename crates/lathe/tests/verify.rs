//! `lathe verify`: a report of what is proved, a file of the proofs, and the check of one on its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = "# The rows' sums.
kernel f(n) {
  in x: f32[n, 40]
  out y: f32[n]
  for i in n spatial serial {
    Z: y[i] = 0f32
    for k in 40 reduce serial {
      S: y[i] sum = x[i, k]
    }
  }
}
";

const STEPS: &str = "split k 16\nvectorize k.i\nparallel i\n";

/// Where elements go is known only when it runs.
const SCATTER: &str = "kernel scatter() {
  in x: f32[8]
  in at: i32[8] range(0, 8)
  out y: f32[8]
  for i in 8 spatial serial {
    S: y[index(at[i])] = x[i]
  }
}
";

struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().expect("a temporary folder can be made"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("the path is UTF-8").to_owned()
    }

    fn file(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).expect("the temporary folder can be written");
        self.path(name)
    }

    /// The code, standard output, and standard error of a run.
    fn verify(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        self.run("verify", arguments)
    }

    /// The same of another verb.
    fn run(&self, verb: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
        command.arg(verb).args(arguments).env("LATHE_CACHE", self.path("cache")).stdin(Stdio::null());
        let output = command.output().expect("lathe runs");
        let text = |bytes| String::from_utf8(bytes).expect("it is UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// Runs and expects a JSON object.
    fn json(&self, arguments: &[&str]) -> Value {
        let (code, out, err) = self.verify(&[arguments, &["--json"]].concat());
        assert_eq!(code, Some(0), "{arguments:?}: {err}");
        serde_json::from_str(&out).expect("it is JSON")
    }
}

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-models/tests/data/tiny/llama-q4_1.gguf")
}

/// Steps and their tags.
fn steps(report: &Value) -> Vec<(&str, &str)> {
    let programs = report["programs"].as_array().expect("there are programs");
    let all = programs.iter().flat_map(|p| p["steps"].as_array().expect("there are steps"));
    all.map(|s| (s["step"].as_str().expect("a step"), s["tag"].as_str().expect("a tag"))).collect()
}

#[test]
fn a_programs_steps_are_proved_and_checked_on_their_own() {
    let place = Place::new();
    let (program, steps_file) = (place.file("program.txt", PROGRAM), place.file("steps.txt", STEPS));
    let proofs = place.path("proofs.txt");
    let (code, out, err) = place.verify(&[&program, "--schedule", &steps_file, "--output", &proofs]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(
        out.starts_with("f: reassociates\n  split k 16 ") && out.contains("1 programs, 3 steps"),
        "{out}"
    );
    let report = place.json(&[&program, "--check", &proofs]);
    let expected = [("split k 16", "bitwise"), ("vectorize k.i", "reassociates"), ("parallel i", "bitwise")];
    assert_eq!(steps(&report), expected);
    assert_eq!(report["programs"][0]["tag"], "reassociates");
    let steps = report["programs"][0]["steps"].as_array().expect("there are steps");
    let mut times: Vec<f64> = steps.iter().map(|s| s["check_ms"].as_f64().expect("a time")).collect();
    times.sort_by(f64::total_cmp);
    let spread = ["p50", "p99", "max"].map(|of| report["check_ms"][of].as_f64().expect("a time"));
    assert_eq!(spread, [times[1], times[2], times[2]], "of three steps");
    // The name of a step is no part of what is proved.
    let text = std::fs::read_to_string(&proofs).expect("the proofs were written");
    let named = place.file("named.txt", &text.replace("step split k 16", "step online a b"));
    assert_eq!(place.verify(&[&program, "--check", &named]).0, Some(0));
}

#[test]
fn what_the_proofs_are_not_of_is_refused() {
    let place = Place::new();
    let (program, steps) = (place.file("program.txt", PROGRAM), place.file("steps.txt", STEPS));
    let proofs = place.path("proofs.txt");
    assert_eq!(place.verify(&[&program, "--schedule", &steps, "--output", &proofs]).0, Some(0));
    let text = std::fs::read_to_string(&proofs).expect("the proofs were written");
    let fails = |program: &str, proofs: &str, message: &str| {
        let (code, out, err) = place.verify(&[program, "--check", proofs]);
        assert_eq!((code, err.lines().count()), (Some(2), 1), "{out}{err}");
        assert!(err.contains(message), "{err}");
    };
    let wrong = place.file("wrong.txt", &text.replace("x[i, k.o * 16 + k.i]", "x[i, k.o * 15 + k.i]"));
    fails(&program, &wrong, "error[unproved]: 1 of 3 steps are not proved");
    let cut = place.file("cut.txt", &text[..text.find("order").expect("a certificate")]);
    fails(&program, &cut, "without an order");
    let line = text.lines().position(|l| l.starts_with("(sum")).expect("a proof") + 1;
    let bad = place.file("bad.txt", &text.replacen("(sum", "(sam", 1));
    fails(&program, &bad, &format!("line {line}: "));
    let other = place.file("other.txt", &PROGRAM.replace("40", "41"));
    fails(&other, &proofs, "no proofs of 'f'");
    fails(&program, &program, "'lathe derivations 1' expected");
    fails(&program, &place.path("missing.txt"), "error[file]");
    fails(&place.file("broken.txt", "kernel f("), &proofs, "error[ir-parse]");
}

/// Products of signed bytes, one chain of sums a lane.
const BYTES: &str = "kernel g() {
  in x: i8[4]
  in w: i8[16, 4]
  inout y: i32[16]
  for l in 16 spatial serial {
    for b in 4 reduce serial {
      S: y[l] sum = i32(w[l, b]) * i32(x[b])
    }
  }
}
";

/// What callers promise is said below the step, of the whole program, and in JSON; found again where a file is checked.
#[test]
fn what_proofs_assume_is_told() {
    let place = Place::new();
    let program = place.file("program.txt", PROGRAM);
    let steps = place.file("steps.txt", "split i 16\npad i.i\n");
    let proofs = place.path("proofs.txt");
    let (code, out, err) = place.verify(&[&program, "--schedule", &steps, "--output", &proofs]);
    assert_eq!(code, Some(0), "{out}{err}");
    let promise = "dimension 0 of 'x' is padded to 16";
    let told: Vec<&str> = out.lines().skip_while(|l| !l.starts_with("  pad i.i ")).skip(1).collect();
    assert!(told.contains(&&*format!("    assumes: {promise}")), "{out}");
    for report in [place.json(&[&program, "--schedule", &steps]), place.json(&[&program, "--check", &proofs])]
    {
        let program = &report["programs"][0];
        let all = program["assumes"].as_array().expect("a list");
        assert!(all.contains(&promise.into()), "{report}");
        assert_eq!(program["steps"][0]["assumes"], serde_json::json!([]));
        assert_eq!(&program["steps"][1]["assumes"], &program["assumes"]);
    }
    // An instruction that does not take all numbers of its type.
    let (bytes, steps) = (place.file("bytes.txt", BYTES), place.file("word.txt", "tensorize l maddbs\n"));
    let report = place.json(&[&bytes, "--schedule", &steps]);
    let promise = "'maddbs' reads 'w' as its 'x' and 'x' as its 'y', of which 'y' has no -128";
    assert_eq!(report["programs"][0]["assumes"], serde_json::json!([promise]));
}

#[test]
fn an_unproved_step_is_told_and_nothing_is_written() {
    let place = Place::new();
    let program = place.file("scatter.txt", SCATTER);
    let steps = place.file("steps.txt", "split i 2\nparallel i.o\n");
    let proofs = place.path("proofs.txt");
    let (code, out, err) = place.verify(&[&program, "--schedule", &steps, "--output", &proofs]);
    assert_eq!(code, Some(2), "{out}{err}");
    assert!(out.contains("two iterations do not meet in 'y'") && err.contains("1 of 2 steps"), "{out}{err}");
    assert!(!Path::new(&proofs).exists());
    let wrong = place.file("no-step.txt", "split q 4\n");
    let (code, out, err) = place.verify(&[&program, "--schedule", &wrong]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(err.contains("there is no loop 'q'"), "{err}");
}

/// Two programs that share an array, timed: what they write is what their texts say.
#[test]
fn proved_programs_are_timed_one_after_the_other() {
    let place = Place::new();
    let ones = |name: &str, from: &str, to: &str, what: &str| {
        let text = format!(
            "kernel {name}(n) {{
  in {from}: f32[n, 8]
  out {to}: f32[n, 8]
  for i in n spatial serial {{
    for j in 8 spatial serial {{
      S: {to}[i, j] = {what}
    }}
  }}
}}
"
        );
        place.file(name, &text)
    };
    let first = ones("first", "x", "t", "x[i, j] * 2f32");
    let second = ones("second", "t", "y", "t[i, 7 - j] + 1f32");
    let steps = place.file("steps", "vectorize j\nparallel i\n");
    // Three rows of a file of numpy.
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 8), }";
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(format!("{header:<117}\n").bytes());
    bytes.extend((0..24).flat_map(|v| (v as f32).to_le_bytes()));
    std::fs::write(place.path("x.npy"), bytes).expect("the temporary folder can be written");
    let (x, y) = (place.path("x.npy"), place.path("y.npz"));
    let common = ["--size", "n=3", "--threads", "1", "--repetitions", "1", "--seconds", "0", "--json"];
    let both = [&first, &second, "--schedule", &steps, "--schedule", &steps, "--input", &x, "--output", &y];
    let (code, out, err) = place.run("bench", &[&both[..], &common].concat());
    assert_eq!(code, Some(0), "{err}");
    let told: Value = serde_json::from_str(&out).expect("it is JSON");
    assert_eq!((&told["steps_proved"], &told["steps_unproved"]), (&4.into(), &0.into()));
    let written = lathe_onnx::npy::read_npz(&std::fs::read(&y).expect("it was written")).expect("arrays");
    let y = written.iter().find(|(n, _)| n == "y").expect("an array of that name");
    let expected: Vec<f32> = (0..24).map(|e| (e / 8 * 8 + 7 - e % 8) as f32 * 2.0 + 1.0).collect();
    assert_eq!(y.1.tensor.to_f32(), expected);
    let fails = |arguments: &[&str], message: &str| {
        let (code, out, err) = place.run("bench", arguments);
        assert_eq!((code, err.lines().count()), (Some(2), 1), "{out}{err}");
        assert!(err.contains(message), "{err}");
    };
    fails(&[&first], "needs its --schedule");
    fails(&[&first, "--schedule", &steps], "--size N=V");
    fails(&[&first, "--schedule", &steps, "--size", "n"], "NAME=NUMBER");
    fails(&[&first, "--schedule", &steps, "--size", "n=3"], "'x' is read");
    fails(&[&first, "--schedule", &steps, "--size", "n=4", "--input", &x], "'x' is float[4, 8], given");
    fails(&[&first, &place.path("none.onnx")], "several files");
    let shared = place.file("shared", lathe_fuzz::study::SHARED_TILE);
    let wrong = place.file("wrong", "vectorize o\n");
    fails(&[&shared, "--schedule", &wrong, "--input", &x], "the step 'vectorize o' of kernel");
}

#[test]
fn a_models_schedules_are_proved() {
    let place = Place::new();
    let (model, proofs) = (tiny(), place.path("proofs.txt"));
    let model = model.to_str().expect("the path is UTF-8");
    let found = place.json(&[model, "--output", &proofs]);
    assert!(steps(&found).len() > 100);
    assert_eq!(steps(&place.json(&[model, "--check", &proofs])), steps(&found));
    // The schedules of the other precision are others.
    let (code, _, err) = place.verify(&[model, "--check", &proofs, "--precision", "exact"]);
    assert!(code == Some(2) && err.contains("has no proofs of"), "{err}");
    let (code, _, err) = place.verify(&[model, "--schedule", &proofs]);
    assert!(code == Some(2) && err.starts_with("error[usage]"), "{err}");
}

/// Experts whose tokens lie where lists say, and caches of one head: both need what index buffers promise.
#[test]
fn schedules_of_other_families_are_proved() {
    let place = Place::new();
    for name in ["mixtral-f32", "gemma3-q8_0"] {
        let model = format!("{}/../lathe-models/tests/data/tiny/{name}.gguf", env!("CARGO_MANIFEST_DIR"));
        let (code, out, err) = place.verify(&[&model, "--json"]);
        assert_eq!(code, Some(0), "{name}: {err}");
        let report: Value = serde_json::from_str(&out).expect("one object");
        let programs = report["programs"].as_array().expect("programs");
        let steps = programs.iter().map(|p| p["steps"].as_array().map_or(0, Vec::len)).sum::<usize>();
        assert!(steps > 200, "{name}: {steps}");
    }
}

#[test]
fn an_encoder_is_proved_without_its_weights_and_a_step_that_cannot_be_is_its_writers() {
    let place = Place::new();
    let encoder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-models/tests/data/tiny/bert-f16.gguf");
    let report = place.json(&[encoder.to_str().expect("the path is UTF-8")]);
    let programs = report["programs"].as_array().expect("a list");
    let operators = place.run("show", &[encoder.to_str().expect("the path is UTF-8"), "graph"]).1;
    assert!(!programs.is_empty() && operators.contains("attention"), "{report} {operators}");

    let (program, steps) = (place.file("f.txt", PROGRAM), place.file("f.steps", "parallel k\n"));
    let (code, _, err) = place.verify(&[&program, "--schedule", &steps]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("'k' is not the one outermost loop") && !err.contains("defect"), "{err}");
}
