//! Cases for another compiler, TVM, from the root of a checkout: `cargo run --release -p lathe-fuzz --example tvm -- FOLDER [--cases 200] [--seed 1]`.
//!
//! Programs are changed as the fuzzer changes them. Of each that the interpreter computes exactly, FOLDER gets `N.txt`, the case;
//! `N.py`, its script; and for each argument `N.K.before.npy` and `N.K.after.npy`. `bench/peers/tvm_fuzz.py` calls it and runs them.

use lathe_fuzz::{Case, Choice, Judge, Mode, Random, mutate, script, seeds};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: tvm FOLDER [--cases N] [--seed N]";

fn main() -> ExitCode {
    match write() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("tvm: {e}");
            ExitCode::from(2)
        }
    }
}

fn write() -> Result<(), String> {
    let (mut folder, mut cases, mut seed) = (None::<PathBuf>, 200u64, 1u64);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|v| v.parse().ok()).ok_or_else(|| USAGE.to_string());
        match arg.as_str() {
            "--cases" => cases = number()?,
            "--seed" => seed = number()?,
            _ if folder.is_none() && !arg.starts_with('-') => folder = Some(arg.into()),
            _ => return Err(USAGE.into()),
        }
    }
    let folder = folder.ok_or(USAGE)?;
    let from = seeds::of_sources(Path::new("."));
    if from.is_empty() {
        return Err("there are no file tests here; run it in the root of a checkout of Lathe".into());
    }
    let put = |name: String, bytes: &[u8]| {
        std::fs::write(folder.join(&name), bytes).map_err(|e| format!("cannot write {name}: {e}"))
    };
    let (mut random, mut judge, mut written, mut tries) = (Random::new(seed), Judge::default(), 0, 0u64);
    let mut last = None::<Case>;
    while written < cases {
        tries += 1;
        if tries > 100 * cases {
            return Err(format!("only {written} of {tries} programs have a script"));
        }
        // A walk of a few changes from each program.
        let from_here = last.take().filter(|_| !random.one_in(8)).or_else(|| random.pick(&from).cloned());
        let Some(case) = from_here else { continue };
        let mut case = mutate(&case, random.pick(&from), Mode::Programs, &mut Choice::default(), &mut random);
        case.moves.clear();
        // What is found here is for `lathe fuzz`.
        let Ok(codes) = judge.judge(&case) else { continue };
        last = Some(case.clone());
        let Some(s) = codes.first().and_then(script) else { continue };
        put(format!("{written}.txt"), case.to_string().as_bytes())?;
        put(format!("{written}.py"), s.text.as_bytes())?;
        for (k, a) in s.arrays.iter().enumerate() {
            put(format!("{written}.{k}.before.npy"), &a.npy(0))?;
            put(format!("{written}.{k}.after.npy"), &a.npy(1))?;
        }
        written += 1;
    }
    Ok(())
}
