//! Programs of ONNX on the command line: arrays of numpy in, arrays of numpy out.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Instant;

use lathe_diagnostic::{Diagnostic, Fault};
use lathe_engine::{Accept, Stage, compile_program};
use lathe_ir::graph::Graph;
use lathe_machine::Target;
use lathe_models::ModelFile;
use lathe_onnx::{Array, Compiled, Model, Prepared, Stored, Value, npy};

use crate::failure::Failure;
use crate::options::{ComputeOptions, Precision};
use crate::output;
use crate::progress::Status;

/// Whether a file is a program of ONNX, by its name.
pub fn is_program(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|e| {
        let what = format!("cannot read the file: {e}");
        Diagnostic::new("file", Fault::User, what).at(path.display().to_string()).into()
    })
}

/// Opens a program, whose large tensors may be in files beside it.
pub fn open(path: &Path) -> Result<Model, Failure> {
    let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let beside = |name: &str, offset: u64, length: Option<u64>| {
        let relative = Path::new(name);
        let inside = relative.components().all(|c| matches!(c, std::path::Component::Normal(_)));
        if !inside {
            return Err(format!("'{name}' is not a file beside the program"));
        }
        let part = || {
            let mut file = File::open(folder.join(relative))?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = vec![];
            file.take(length.unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
            Ok::<_, std::io::Error>(bytes)
        };
        part().map_err(|e| format!("'{name}': {e}"))
    };
    Ok(Model::parse(&read(path)?, &beside)?)
}

/// Arrays by name: `x.npy` is the only one that is missing, `name=x.npy` is one, `x.npz` is several by their own names.
pub fn arguments(model: &Model, given: &[String]) -> Result<Vec<(String, Value)>, Failure> {
    let names: Vec<&str> = model.inputs().into_iter().map(|(name, _)| name).collect();
    named(&names, given)
}

/// The same of anything with names.
pub fn named(inputs: &[&str], given: &[String]) -> Result<Vec<(String, Value)>, Failure> {
    let mut all: Vec<(String, Value)> = vec![];
    for text in given {
        let (name, path) = match text.split_once('=') {
            Some((name, path)) => (Some(name), Path::new(path)),
            None => (None, Path::new(text.as_str())),
        };
        let bytes = read(path)?;
        let archive = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz"));
        let arrays =
            if archive { npy::read_npz(&bytes)? } else { vec![(String::new(), npy::read_npy(&bytes)?)] };
        let single = arrays.len() == 1;
        for (own, a) in arrays {
            let known = inputs.contains(&own.as_str());
            let next = || inputs.iter().find(|n| all.iter().all(|(m, _)| m != *n));
            let name = match name {
                Some(name) if single => name.to_string(),
                _ if known => own,
                _ => next().map_or(own, |n| (*n).to_string()),
            };
            all.push((name, Value::Array(a)));
        }
    }
    Ok(all)
}

/// What compiles regions for this machine.
pub fn compiler(precision: Precision, threads: usize) -> Result<Compiled, Failure> {
    let (target, cache) = (lathe_runtime::detect_target()?, lathe_models::cache_dir()?);
    Ok(Compiled::new(target, precision.passes(), cache, threads))
}

/// The regions of a program as it is read for some inputs, before any rewrite; it is run where reading needs what it computes.
pub fn regions(path: &Path, inputs: &[String], compute: &ComputeOptions) -> Result<Vec<Graph>, Failure> {
    let model = open(path)?;
    let inputs = arguments(&model, inputs)?;
    let mut runner = compiler(compute.precision, compute.threads())?;
    if model.prepare(&inputs, &mut runner)?.is_none() {
        model.run(&inputs, &mut runner)?;
    }
    Ok(runner.graphs().to_vec())
}

/// Compiles a program, as it is read for some inputs, to a file that runs without a compiler.
pub fn compile(
    path: &Path,
    inputs: &[String],
    (target, precision): (&Target, Precision),
    to: &Path,
    accept: &mut Accept<'_>,
) -> Result<(), Failure> {
    let model = open(path)?;
    let region = model.region(&arguments(&model, inputs)?)?;
    let cache = lathe_models::cache_dir()?;
    let mut status = Status::new();
    let mut report = |done, total| status.stage(Stage::Compile, done, total);
    let interface = region.prepared.text();
    let graph = (&region.graph, precision.passes());
    compile_program(graph, &region.constants, &interface, (target, &cache), to, accept, &mut report)?;
    Ok(())
}

/// The compiled program of a file, where it is one.
pub fn compiled(path: &Path) -> Result<Option<ModelFile>, Failure> {
    if !lathe_models::is_artifact(path) {
        return Ok(None);
    }
    let file = ModelFile::open(path)?;
    Ok(lathe_engine::is_program(&file).then_some(file))
}

/// Runs a program: inputs as arrays of numpy, the results to `output` or told in one line each.
pub fn run(
    path: &Path,
    inputs: &[String],
    to: Option<&Path>,
    compute: &ComputeOptions,
) -> Result<(), Failure> {
    let model = open(path)?;
    let inputs = arguments(&model, inputs)?;
    let mut runner = compiler(compute.precision, compute.threads())?;
    let start = Instant::now();
    let results = model.run(&inputs, &mut runner)?;
    let seconds = start.elapsed().as_secs_f64();
    let names: Vec<&str> = model.outputs().into_iter().map(|(name, _)| name).collect();
    let done = format!("{} regions, {seconds:.3} s with their compilation", runner.regions());
    give(&names, &results, to, &done)
}

/// Runs a compiled program in the same way.
pub fn run_compiled(
    file: &ModelFile,
    inputs: &[String],
    to: Option<&Path>,
    threads: usize,
) -> Result<(), Failure> {
    let (session, interface) = lathe_engine::load_program(file, &lathe_models::cache_dir()?, threads)?;
    let prepared = Prepared::parse(&interface, session.graph().outputs.len())?;
    let inputs = named(&prepared.inputs(), inputs)?;
    let start = Instant::now();
    let results = prepared.run(&inputs, vec![], &mut Stored(session))?;
    give(&prepared.outputs(), &results, to, &format!("{:.3} s", start.elapsed().as_secs_f64()))
}

/// Writes results to a file of numpy, or tells them in one line each, and `done` behind them.
fn give(names: &[&str], results: &[Value], to: Option<&Path>, done: &str) -> Result<(), Failure> {
    let mut named: Vec<(String, &Array)> = vec![];
    for (name, value) in names.iter().zip(results) {
        arrays((*name).to_string(), value, &mut named);
    }
    let Some(to) = to else {
        for (name, a) in &named {
            output::line(&format!("{name}: {}{:?}", a.elem.name(), a.tensor.shape))?;
        }
        return output::line(done);
    };
    write_arrays(to, &named)
}

/// Writes named arrays to a file of numpy.
pub fn write(to: &Path, values: &[(String, Value)]) -> Result<(), Failure> {
    let mut named = vec![];
    values.iter().for_each(|(name, v)| arrays(name.clone(), v, &mut named));
    write_arrays(to, &named)
}

fn write_arrays(to: &Path, named: &[(String, &Array)]) -> Result<(), Failure> {
    let single = to.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy"));
    let bytes = match named {
        [(_, a)] if single => npy::write_npy(a)?,
        _ if single => {
            return Err(Failure::usage(
                "a .npy file holds one array, and there are several: name a .npz file",
            ));
        }
        all => npy::write_npz(all)?,
    };
    output::file(to, &bytes)
}

/// The arrays of a value, those of a sequence with their places behind the name.
fn arrays<'v>(name: String, value: &'v Value, out: &mut Vec<(String, &'v Array)>) {
    match value {
        Value::Array(a) => out.push((name, a)),
        Value::Sequence(all) => {
            all.iter().enumerate().for_each(|(i, v)| arrays(format!("{name}.{i}"), v, out));
        }
        Value::Optional(v) => v.iter().for_each(|v| arrays(name.clone(), v, out)),
    }
}
