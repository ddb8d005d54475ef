//! `lathe plan`, as a person runs it: what it prints, writes and refuses.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn lathe(arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
    command.current_dir(folder).arg("plan").args(arguments).output().expect("lathe runs")
}

/// What it printed as JSON.
fn json(arguments: &[&str], folder: &Path) -> Value {
    let output = lathe(arguments, folder);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

/// The line of an error.
fn refused(arguments: &[&str], folder: &Path) -> String {
    let output = lathe(arguments, folder);
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

fn tiny() -> String {
    let data =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../lathe-models/tests/data/tiny/llama-f16.gguf");
    data.display().to_string()
}

const HERE: &str = "\
name = \"here\"
[cpu]
vendor = \"v\"
model = \"m\"
cores = 2
features = []
vector_bits = 256
[rates.f32]
2 = { best = 1e11, median = 1e11 }
[[memory]]
name = \"dram\"
capacity_bytes = 1073741824
[memory.read_bandwidth]
2 = { best = 1e10, median = 1e10 }
[disk]
read_bandwidth = { best = 1e9, median = 1e9 }
";

#[test]
fn a_plan_is_data_and_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("here.toml"), HERE).unwrap();
    let files = ["--dump", "policy.toml", "--dump-work", "work.toml", "--picture", "plan.svg"];
    let model = tiny();
    let common = ["--machine", "here.toml", "--prompt", "16", "--generate", "8", "--json"];
    let small = ["--memory", "100kB"];
    let planned = json(&[&[model.as_str()][..], &common, &files, &small].concat(), at);
    let plan = &planned["plan"]["best"];
    assert_eq!(planned["machine"], "here");
    let speed = plan["prediction"]["tokens_per_second"].as_f64().unwrap();
    assert!(speed > 0.0 && plan["policy"]["weights"]["disk"].as_f64().unwrap() > 0.0, "{plan}");
    let held = plan["prediction"]["held"][0]["peak"].as_f64().unwrap();
    assert!(held <= 100_000.0, "{plan}");
    assert!(std::fs::read_to_string(at.join("plan.svg")).unwrap().contains("</svg>"));

    // The work in place of the model gives the same plan, and the policy the same prediction.
    let again = json(&[&["work.toml"][..], &common, &small].concat(), at);
    assert_eq!(again["plan"], planned["plan"]);
    let predicted = json(&[&["work.toml", "--policy", "policy.toml"][..], &common].concat(), at);
    assert_eq!(predicted["prediction"], plan["prediction"]);
    assert_eq!(std::fs::read_dir(at).unwrap().count(), 4, "nothing else is left");

    // With room for everything nothing is on disk.
    let whole = json(&[&[model.as_str()][..], &common].concat(), at);
    assert_eq!(whole["plan"]["best"]["policy"]["weights"]["dram"], 1.0);
    assert!(whole["plan"]["best"]["prediction"]["tokens_per_second"].as_f64().unwrap() > speed);
}

#[test]
fn a_plan_tells_what_binds_and_what_was_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let output = lathe(&["opt-30b", "--machine", "flexgen-t4", "--compare"], folder.path());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for part in ["weights", "bound by", "What a tenth more would give: ", "Rejected:", "tokens/s"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_cannot_be_planned_is_said_in_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("here.toml"), HERE).unwrap();
    std::fs::write(at.join("bad.toml"), "name = 3").unwrap();
    let model = tiny();
    let here = ["--machine", "here.toml"];
    let of = |more: &[&str]| refused(&[&[model.as_str()][..], &here, more].concat(), at);
    assert!(of(&["--memory", "1kB"]).contains("bytes of 'dram' are needed at least"));
    assert!(of(&["--kv-type", "q3"]).contains("cannot be stored as 'q3'"));
    assert!(of(&["--memory", "5 miles"]).contains("the units are"));
    assert!(of(&["--most-seconds-per-token", "1e-12"]).contains("the fastest takes"));
    assert!(of(&["--policy", "bad.toml"]).contains("plan-syntax"));
    assert!(of(&["--dump", "no/such/folder.toml"]).contains("cannot write the file"));
    assert!(refused(&["bad.toml", "--machine", "here.toml"], at).contains("plan-syntax"));
    assert!(refused(&["opt-30b", "--machine", "none.toml"], at).contains("cannot read the file"));
    assert!(refused(&["opt-30b", "--machine", "bad.toml"], at).contains("machine-syntax"));
}

#[test]
fn experts_are_placed_by_what_a_text_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let model = tiny().replace("llama-f16", "mixtral-f32");
    std::fs::write(at.join("text.txt"), "the band and the other one is in the harbour of this town").unwrap();
    let counted = json(&[&model, "--profile", "text.txt", "-o", "popularity.toml", "--json"], at);
    let counts: Vec<Vec<u64>> = serde_json::from_value(counted["counts"].clone()).unwrap();
    assert_eq!((counts.len(), counts[0].len()), (2, 4));
    let common = [&*model, "--experts", "--machine", "accelerator-500", "--on-device", "0.25"];
    let popular =
        ["--popularity", "popularity.toml", "--json", "--picture", "token.svg", "--dump-work", "m.toml"];
    let planned = json(&[&common[..], &popular].concat(), at);
    // A quarter of eight, of the highest counts.
    let placed: Vec<Vec<usize>> = serde_json::from_value(planned["placed"].clone()).unwrap();
    let of = |rows: &[Vec<usize>]| -> u64 {
        rows.iter()
            .enumerate()
            .flat_map(|(l, row)| row.iter().map(move |e| (l, *e)))
            .map(|(l, e)| counts[l][e])
            .sum()
    };
    let mut all: Vec<u64> = counts.iter().flatten().copied().collect();
    all.sort_unstable();
    assert_eq!((placed.iter().flatten().count(), of(&placed)), (2, all[6] + all[7]));
    let loads = planned["loads"].as_array().unwrap();
    assert!(loads.len() >= 10);
    for load in loads {
        let seconds = |policy: &str| load["policies"][policy]["seconds"].as_f64().unwrap();
        let better = seconds("always move").min(seconds("always on host"));
        assert!((load["gain"].as_f64().unwrap() - better / seconds("chosen")).abs() < 1e-9, "{load}");
        assert!(seconds("chosen") <= 1.03 * better, "{load}");
    }
    assert!(std::fs::read_to_string(at.join("token.svg")).unwrap().contains("</svg>"));
    // The shape in place of the file gives the same plan.
    let again = json(&[&["m.toml"][..], &common[1..], &popular[..3]].concat(), at);
    assert_eq!(again, planned);
    // Other counts, no experts, nothing to profile.
    let other =
        ["mixtral-8x7b", "--experts", "--machine", "accelerator-500", "--popularity", "popularity.toml"];
    assert!(refused(&other, at).contains("the popularity is of 2 layers with 4 experts"));
    assert!(refused(&[&tiny(), "--experts", "--machine", "accelerator-500"], at).contains("no experts"));
    assert!(refused(&[&tiny(), "--profile", "text.txt", "-o", "p.toml"], at).contains("no experts"));
    std::fs::write(at.join("empty.txt"), "").unwrap();
    assert!(refused(&[&model, "--profile", "empty.txt", "-o", "p.toml"], at).contains("[score-too-short]"));
    std::fs::write(at.join("bad.toml"), "model = 1").unwrap();
    let bad = [&common[..], &["--popularity", "bad.toml"]].concat();
    assert!(refused(&bad, at).contains("[plan-syntax]"));
    assert!(refused(&[&common[..5], &["2"]].concat(), at).contains("a share between 0 and 1"));
}

#[test]
fn experts_take_the_time_that_was_planned() {
    let folder = tempfile::tempdir().unwrap();
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
        command.current_dir(folder.path()).args(["bench", "experts"]).args(more).output().expect("lathe runs")
    };
    let small =
        ["--layers", "2", "--hidden", "64", "--inner", "128", "--parts", "4", "--steps", "2", "--json"];
    let output = run(&small);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found["slower"].as_f64().unwrap() >= 1.0, "{found}");
    for trial in found["trials"].as_array().unwrap() {
        let number = |name: &str| trial[name].as_f64().unwrap();
        // Links and clocks take at least what they say; how much more is for a machine that is alone to show.
        assert!(number("measured_seconds") > 0.9 * number("virtual_seconds"), "{trial}");
        assert!(number("error") < 1e-4, "{trial}");
    }
    let refusals = [
        (&["--on-device", "3"][..], "a share between 0 and 1"),
        (&["--layers", "64", "--steps", "64"], "more than one program holds"),
        (&["--hidden", "8192", "--inner", "32768"], "make them smaller"),
    ];
    for (arguments, line) in refusals {
        let refused = run(arguments);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(line), "{refused:?}");
    }
}

#[test]
fn plans_are_run_beside_what_they_predict() {
    let folder = tempfile::tempdir().unwrap();
    let arguments =
        ["bench", "plan", "--memory", "1GiB", "--kv-types", "f16", "--sequences", "2", "--prompt", "8"];
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
        command.current_dir(folder.path()).args(arguments).args(["--model", &tiny()]).args(more);
        command.env("LATHE_CACHE", env!("CARGO_TARGET_TMPDIR")).output().expect("lathe runs")
    };
    let output = run(&["--every", "2", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let plans = report["memories"][0]["plans"].as_array().expect("plans").clone();
    assert_eq!(plans.len(), 2);
    for p in &plans {
        let speed = |name: &str| p[name].as_f64().expect("a number");
        let (predicted, measured) = (speed("predicted_tokens_per_s"), speed("measured_tokens_per_s"));
        assert!(predicted > 0.0 && measured > 0.0, "{p}");
        assert!((p["error"].as_f64().unwrap() - (predicted / measured - 1.0)).abs() < 1e-9);
        assert_eq!(p["read_bytes_per_step"], 0, "all is in memory: {p}");
    }
    // The best is first, and regret is how much slower it was than the fastest.
    assert!(plans[0]["predicted_tokens_per_s"].as_f64() >= plans[1]["predicted_tokens_per_s"].as_f64());
    let speeds = [0, 1].map(|i: usize| plans[i]["measured_tokens_per_s"].as_f64().unwrap());
    let regret = 1.0 - speeds[0] / speeds[0].max(speeds[1]);
    assert!((report["memories"][0]["regret"].as_f64().unwrap() - regret).abs() < 1e-9);
    // What no plan fits into is said.
    let output = run(&["--memory", "1kB"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("are needed at least"));
}

#[test]
fn a_device_that_is_described_runs_in_its_memory() {
    let folder = tempfile::tempdir().unwrap();
    let run = |machine: Option<String>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
        command.current_dir(folder.path()).env("LATHE_CACHE", env!("CARGO_TARGET_TMPDIR"));
        command.args(["run", "--model", &tiny(), "--raw", "--max-tokens", "4", "--context", "64", "--json"]);
        if let Some(text) = machine {
            std::fs::write(folder.path().join("machine.toml"), text).unwrap();
            command.args(["--machine", "machine.toml"]);
        }
        command.arg("the band").output().expect("lathe runs")
    };
    let device = |bytes: u64, back: &str| {
        format!(
            "{HERE}
[[memory]]
name = \"vram\"
capacity_bytes = {bytes}
[[devices]]
name = \"gpu\"
memory = \"vram\"
[[links]]
from = \"dram\"
to = \"vram\"
bandwidth = 1e9
[[links]]
from = \"vram\"
to = \"{back}\"
bandwidth = 1e9
"
        )
    };
    let text = |output: &Output| serde_json::from_slice::<Value>(&output.stdout).unwrap()["text"].clone();
    let want = text(&run(None));
    assert_eq!(text(&run(Some(device(4_000_000, "dram")))), want);
    // A machine without one bounds the process, as --memory does.
    assert_eq!(text(&run(Some(HERE.to_owned()))), want);
    for (machine, part) in [
        (device(100_000, "dram"), "take a device with more memory"),
        (device(4_000_000, "disk"), "no link from 'vram' to 'dram'"),
        (HERE.replace("1073741824", "1000000"), "raise --memory"),
    ] {
        let output = run(Some(machine));
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(line.contains(part), "{part}: {line}");
    }
}
