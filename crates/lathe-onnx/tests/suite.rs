//! A selection of the cases of the `onnx` package, compiled; `bench/onnx/generate.py` writes all of them.

use lathe_machine::Target;
use lathe_onnx::suite::{Outcome, run};
use lathe_onnx::{Compiled, FAST, Interpreted};
use std::path::{Path, PathBuf};

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn compiled_programs_give_what_onnx_says() {
    let cache = tempfile::tempdir().unwrap();
    for case in cases() {
        let target = Target::of_cpu(&lathe_runtime::detect_cpu());
        let mut runner = Compiled::new(target, FAST, cache.path().into(), 1);
        assert_eq!(run(&case, &mut runner), Outcome::Passed, "{}", case.display());
    }
}

/// The meaning of a program is that of its graphs.
#[test]
fn interpreted_programs_give_the_same() {
    for case in cases() {
        assert_eq!(run(&case, &mut Interpreted::default()), Outcome::Passed, "{}", case.display());
    }
}
