//! A compiled model as one file: everything that a run needs, made for one kind of processor, so that nothing is compiled or
//! packed where it runs.
//!
//! The container is `lathe-models`' (`write_artifact`). Sections: `weights`, constants and packed weights at multiples of 64;
//! and for each part P (a precision, or `program`) `plan.P`, the text of graph, programs and kernels (`lathe_compile::load_stored`), and `kernels.P`,
//! their shared object. Settings under `lathe.` name the target and the sizes, and where each constant lies.
//!
//! Such a file holds native code: it is to be trusted as any program is.

mod parts;
mod program;

pub use parts::Accept;
pub use program::{compile_program, is_program, load_program};

use crate::EngineError;
use crate::error::below;
use crate::report::{LoadTiming, Stage};
use crate::runner::{Precision, Runner, RunnerOptions};
use crate::sizes::classes;
use crate::weights::{Packing, Weights, model};
use lathe_compile::{Compiled, Options, compile, load_stored};
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_ir::Name;
use lathe_machine::Target;
use lathe_models::{Format, GgufWriter, KvType, ModelFile};
use lathe_runtime::{Pool, View};
use parts::{Parts, check_machine, constants, library, malformed, refused, section_text};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

/// What a model is compiled to a file for.
#[derive(Clone, Debug)]
pub struct ArtifactOptions {
    /// The kind of processor.
    pub target: Target,
    /// The precisions that the file will offer.
    pub precisions: Vec<Precision>,
    /// The sizes; threads and cache are those of this machine, while it compiles.
    pub runner: RunnerOptions,
}

/// Compiles the model of a file for a kind of processor and writes it, with its weights packed, to `path`. `accept` is shown the
/// kernels of each precision before they are built, and may refuse them.
pub fn compile_model(
    file: &ModelFile,
    options: &ArtifactOptions,
    path: &Path,
    accept: &mut Accept<'_>,
    progress: &mut dyn FnMut(Stage, usize, usize),
) -> Result<(), EngineError> {
    let ArtifactOptions { target, precisions, runner } = options;
    if file.format() == Format::Compiled {
        let what = "the model is compiled already";
        let d = Diagnostic::new("artifact-twice", Fault::User, what);
        return Err(below(d.fix("give the GGUF file or the folder it was made from")));
    }
    let mut parts = Parts::new(target, &runner.cache)?;
    let pool = Pool::new(runner.threads).map_err(below)?;
    // The machine that will run it has any number of cores.
    let classes = classes(runner.max_rows.max(runner.max_sequences), None);
    file.copy_metadata(&mut parts.settings, &[]);
    let mut is_encoder = false;
    for precision in precisions {
        let runner = RunnerOptions { precision: *precision, ..runner.clone() };
        let model = model(None, file, &runner)?;
        is_encoder = model.encoder;
        let precision = precision.as_str();
        parts.settings.str(&format!("lathe.{precision}.kv_type"), runner.kv_type().as_str());
        let mut report = |done, all| progress(Stage::Compile, done, all);
        let passes = runner.precision.passes(target);
        let draft = parts.add(precision, &model.graph, (passes, &classes), accept, &mut report)?;
        let here = parts.here()?;
        let packer = Options { target: &here, cache: &runner.cache, passes: &[], classes: &classes[..1] };
        let packer = compile(&draft.graph, &packer, &mut report).map_err(below)?;
        let used: BTreeSet<&Name> = draft.given().collect();
        let used: Vec<&Name> = used.into_iter().collect();
        let packed = Packing::new(file, &model, &packer, &pool)?.into_memory(&used, progress)?;
        let bytes = |view: &View| {
            let mut bytes = vec![0u8; view.len()];
            view.read(0, &mut bytes).map_err(below).map(|()| bytes)
        };
        let there = used.into_iter().filter_map(|name| Some((name, packed.given.get(name)?)));
        parts.constants(precision, there.map(|(name, view)| Ok((name, bytes(view)?))))?;
    }
    put_sizes(&mut parts.settings, options, is_encoder);
    parts.write(path)
}

/// The sizes by their keys.
fn sizes(o: &RunnerOptions) -> [(&'static str, usize); 5] {
    [
        ("lathe.context", o.context),
        ("lathe.pages", o.pages),
        ("lathe.max_tokens", o.max_tokens),
        ("lathe.max_sequences", o.max_sequences),
        ("lathe.max_rows", o.max_rows),
    ]
}

fn put_sizes(settings: &mut GgufWriter, options: &ArtifactOptions, encoder: bool) {
    settings.bool("lathe.encoder", encoder);
    for (key, value) in sizes(&options.runner) {
        settings.u64(key, value as u64);
    }
}

/// The longest sequence that a compiled model's file is made for; `None` for a file that is not compiled.
pub fn compiled_context(file: &ModelFile) -> Option<usize> {
    let context =
        file.find::<u64>("lathe.context").ok().flatten().filter(|_| file.format() == Format::Compiled);
    context.and_then(|n| usize::try_from(n).ok())
}

/// The most sequences at once that a compiled model's file is made for; `None` for a file that is not compiled.
pub fn compiled_sequences(file: &ModelFile) -> Option<usize> {
    let most =
        file.find::<u64>("lathe.max_sequences").ok().flatten().filter(|_| file.format() == Format::Compiled);
    most.and_then(|n| usize::try_from(n).ok())
}

/// Loads a compiled model; `options` must lie within the sizes that it was made for.
pub(crate) fn load(encoder: bool, file: &ModelFile, options: &RunnerOptions) -> Result<Runner, EngineError> {
    let start = Instant::now();
    let is_encoder = file.get::<bool>("lathe.encoder")?;
    if is_encoder != encoder {
        return Err(EngineError::Purpose { encoder: is_encoder });
    }
    if options.adapters.is_some() {
        let d = refused(file, "artifact-adapters", "a compiled model has no room for adapters");
        return Err(below(d.fix("use the model it was made from")));
    }
    check_machine(file)?;
    let made_for = made_for(file, options)?;
    let precision = options.precision.as_str();
    let Some(library) = library(file, precision, &options.cache)? else {
        let what = format!("it is not compiled for the precision '{precision}'");
        let d = refused(file, "artifact-precision", &what);
        return Err(below(
            d.fix("ask for the other one, or make it again with lathe compile --precision both"),
        ));
    };
    check_kv_type(file, options)?;
    let text = section_text(file, &format!("plan.{precision}"))?;
    let names: Vec<&str> =
        classes(made_for.max_rows.max(made_for.max_sequences), None).iter().map(|c| c.name).collect();
    let compiled: Compiled = load_stored(&text, library, &names).map_err(below)?;
    let given = constants(file, precision)?;
    let bytes = given.values().map(View::len).sum();
    let weights = Weights { given, bytes, store: None };
    let compile_s = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let pool = Pool::new(options.threads).map_err(below)?;
    let mut runner = Runner::bind(compiled, weights, &made_for, options.context, pool, &mut |_, _, _| ())?;
    runner.set_timing(LoadTiming { load_s: start.elapsed().as_secs_f64(), compile_s });
    Ok(runner)
}

/// Refuses a type of keys and values that is asked for and is not what the file is compiled with.
fn check_kv_type(file: &ModelFile, options: &RunnerOptions) -> Result<(), EngineError> {
    let made = file.get_str(&format!("lathe.{}.kv_type", options.precision.as_str()))?;
    match options.kv_type.map(KvType::as_str).filter(|asked| *asked != made) {
        None => Ok(()),
        Some(asked) => {
            let what = format!("its keys and values are '{made}', '{asked}' is asked for");
            let fix = format!("leave --kv-type out, or make it again with lathe compile --kv-type {asked}");
            Err(below(refused(file, "artifact-kv-type", &what).fix(fix)))
        }
    }
}

/// The sizes that the file is made for, with the rest of `options`, which must not ask for more.
fn made_for(file: &ModelFile, options: &RunnerOptions) -> Result<RunnerOptions, EngineError> {
    let mut o = options.clone();
    let get = |key: &str| file.get::<u64>(key).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    o.context = get("lathe.context")?;
    o.pages = get("lathe.pages")?;
    o.max_tokens = get("lathe.max_tokens")?;
    o.max_sequences = get("lathe.max_sequences")?;
    o.max_rows = get("lathe.max_rows")?;
    let pairs = [
        (options.context, o.context, "tokens of context", "context"),
        (options.max_sequences, o.max_sequences, "sequences at once", "sequences"),
        (options.max_rows, o.max_rows.max(o.max_sequences), "rows of logits at once", "sequences"),
    ];
    for (asked, most, what, option) in pairs {
        if asked > most {
            let what = format!("it is compiled for {most} {what}, {asked} are asked for");
            let fix = format!("ask for less, or make it again with lathe compile --{option} {asked}");
            return Err(below(refused(file, "artifact-size", &what).fix(fix)));
        }
    }
    if o.pages == 0 || o.max_tokens == 0 || o.max_sequences == 0 {
        return Err(malformed(file, "a size is 0"));
    }
    Ok(o)
}
