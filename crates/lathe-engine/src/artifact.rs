//! A compiled model as one file: everything that a run needs, made for one kind of processor, so that nothing is compiled or
//! packed where it runs.
//!
//! The container is `lathe-models`' (`write_artifact`). Sections: `weights`, constants and packed weights at multiples of 64;
//! and for each precision `plan.P`, the text of graph, programs and kernels (`lathe_compile::load_stored`), and `kernels.P`,
//! their shared object. Settings under `lathe.` name the target and the sizes, and where each constant lies.
//!
//! Such a file holds native code: it is to be trusted as any program is.

use crate::EngineError;
use crate::error::below;
use crate::report::{LoadTiming, Stage};
use crate::runner::{Precision, Runner, RunnerOptions};
use crate::sizes::classes;
use crate::weights::{Weights, model, pack};
use lathe_compile::{Compiled, Made, Options, compile, draft, load_stored};
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_ir::Name;
use lathe_machine::Target;
use lathe_models::{Format, GgufWriter, KvType, ModelFile, StrArray, write_artifact};
use lathe_runtime::{ABI_VERSION, KernelCache, Pool, View, cross_compiler, detect_cpu};
use std::collections::BTreeSet;
use std::ops::Range;
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
    accept: &mut dyn FnMut(&[Made]) -> Result<(), Diagnostic>,
    progress: &mut dyn FnMut(Stage, usize, usize),
) -> Result<(), EngineError> {
    let ArtifactOptions { target, precisions, runner } = options;
    if file.format() == Format::Compiled {
        let what = "the model is compiled already";
        let d = Diagnostic::new("artifact-twice", Fault::User, what);
        return Err(below(d.fix("give the GGUF file or the folder it was made from")));
    }
    let kernels = KernelCache::new(&runner.cache);
    let compiler = cross_compiler(target);
    if kernels.compilable(target.clone(), compiler.as_deref()).map_err(below)?.0 != *target {
        let what = format!("the compiler here cannot make code for '{}'", target.dialect);
        let d = Diagnostic::new("target-compiler", Fault::Environment, what);
        return Err(below(d.fix("install a newer one, or name one with LATHE_CC")));
    }
    let pool = Pool::new(runner.threads).map_err(below)?;
    let classes = classes(runner.max_rows.max(runner.max_sequences));
    let mut settings = GgufWriter::new();
    file.copy_metadata(&mut settings, &[]);
    let mut is_encoder = false;
    let mut weights: Vec<u8> = vec![];
    let mut placed: Vec<Range<usize>> = vec![];
    let mut sections: Vec<(String, Vec<u8>)> = vec![];
    for precision in precisions {
        let runner = RunnerOptions { precision: *precision, ..runner.clone() };
        let model = model(None, file, &runner)?;
        is_encoder = model.encoder;
        let passes = precision.passes(target);
        let build = Options { target, cache: &runner.cache, passes, classes: &classes };
        let mut draft = draft(&model.graph, &build).map_err(below)?;
        accept(&draft.kernels).map_err(below)?;
        draft.request.compiler.clone_from(&compiler);
        let precision = precision.as_str();
        settings.str(&format!("lathe.{precision}.kv_type"), runner.kv_type().as_str());
        let mut report = |done, all| progress(Stage::Compile, done, all);
        sections
            .push((format!("kernels.{precision}"), draft.build(&runner.cache, &mut report).map_err(below)?));
        sections.push((format!("plan.{precision}"), draft.text().into_bytes()));
        // What packs the weights runs here, whatever the target.
        let here = kernels.compilable(Target::of_cpu(&detect_cpu()), None).map_err(below)?.0;
        let packer = Options { target: &here, cache: &runner.cache, passes: &[], classes: &classes[..1] };
        let packer = compile(&draft.graph, &packer, &mut report).map_err(below)?;
        let used: BTreeSet<&Name> = draft.given().collect();
        let used: Vec<&Name> = used.into_iter().collect();
        let packed = pack(file, &model, &packer, &used, &pool, progress)?;
        let (mut names, mut offsets, mut lengths): (Vec<&str>, Vec<u64>, Vec<u64>) = Default::default();
        for name in used {
            let Some(view) = packed.given.get(name) else { continue };
            let mut bytes = vec![0u8; view.len()];
            view.read(0, &mut bytes).map_err(below)?;
            names.push(name);
            offsets.push(place(&mut weights, &mut placed, &bytes) as u64);
            lengths.push(bytes.len() as u64);
        }
        settings.strs(&format!("lathe.{precision}.names"), &names);
        settings.u64s(&format!("lathe.{precision}.offsets"), &offsets);
        settings.u64s(&format!("lathe.{precision}.lengths"), &lengths);
    }
    put_sizes(&mut settings, options, is_encoder);
    // Vectors at the end of the last constant may reach past it.
    weights.resize(weights.len() + 64, 0);
    sections.push(("weights".into(), weights));
    let sections: Vec<(&str, &[u8])> = sections.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
    write_artifact(path, settings, &sections).map_err(below)
}

/// Puts bytes at the end of the weights, or finds where the same are already: precisions have most constants in common.
fn place(weights: &mut Vec<u8>, placed: &mut Vec<Range<usize>>, bytes: &[u8]) -> usize {
    if let Some(known) = placed.iter().find(|range| weights[(*range).clone()] == *bytes) {
        return known.start;
    }
    let start = weights.len().next_multiple_of(64);
    weights.resize(start, 0);
    weights.extend_from_slice(bytes);
    placed.push(start..weights.len());
    start
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
    let architecture = options.target.architecture().unwrap_or(std::env::consts::ARCH);
    settings.u32("lathe.abi", ABI_VERSION).bool("lathe.encoder", encoder);
    settings.str("lathe.target", &options.target.dialect).str("lathe.architecture", architecture);
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
    let Some((kernels, at)) = file.section(&format!("kernels.{precision}")) else {
        let what = format!("it is not compiled for the precision '{precision}'");
        let d = refused(file, "artifact-precision", &what);
        return Err(below(
            d.fix("ask for the other one, or make it again with lathe compile --precision both"),
        ));
    };
    check_kv_type(file, options)?;
    let library = KernelCache::new(&options.cache).load_built(&kernels[at]).map_err(below)?;
    let missing = |name: &str| malformed(file, &format!("it has no section '{name}'"));
    let (map, at) = file.section(&format!("plan.{precision}")).ok_or_else(|| missing("plan"))?;
    let text = String::from_utf8_lossy(&map[at]);
    let names: Vec<&str> =
        classes(made_for.max_rows.max(made_for.max_sequences)).iter().map(|c| c.name).collect();
    let compiled: Compiled = load_stored(&text, library, &names).map_err(below)?;
    let weights = mapped_weights(file, precision)?;
    let compile_s = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let pool = Pool::new(options.threads).map_err(below)?;
    let mut runner = Runner::bind(compiled, weights, &made_for, options.context, pool, &mut |_, _, _| ())?;
    runner.set_timing(LoadTiming { load_s: start.elapsed().as_secs_f64(), compile_s });
    Ok(runner)
}

fn refused(file: &ModelFile, code: &'static str, what: &str) -> Diagnostic {
    let d = Diagnostic::new(code, Fault::User, what);
    file.path().map_or(d.clone(), |path| d.at(path.display().to_string()))
}

fn malformed(file: &ModelFile, what: &str) -> EngineError {
    let d = Diagnostic { fault: Fault::File, ..refused(file, "artifact-malformed", what) };
    below(d.fix("make it again with lathe compile"))
}

/// Refuses a file for another kind of processor, or of another kernel interface.
fn check_machine(file: &ModelFile) -> Result<(), EngineError> {
    let abi = file.get_u32("lathe.abi")?;
    if abi != ABI_VERSION {
        let what = format!("its kernels have interface {abi}, this program calls interface {ABI_VERSION}");
        return Err(below(refused(file, "artifact-version", &what).fix("make it again with lathe compile")));
    }
    let (name, architecture) = (file.get_str("lathe.target")?, file.get_str("lathe.architecture")?);
    let cpu = detect_cpu();
    let best = Target::of_cpu(&cpu).dialect;
    let fix = format!("make it for this machine with lathe compile --target {best}");
    let Some(target) = Target::named(name) else {
        return Err(malformed(file, &format!("it is compiled for '{name}', which is no target")));
    };
    let lacking = target.lacking(&cpu);
    let why = match (architecture == std::env::consts::ARCH, lacking.is_empty()) {
        (false, _) => format!("this machine is {}, not {architecture}", std::env::consts::ARCH),
        (true, false) => format!("this processor lacks {}", lacking.join(", ")),
        (true, true) => return Ok(()),
    };
    let what = format!("it is compiled for '{name}', and {why}");
    Err(below(refused(file, "artifact-target", &what).fix(fix)))
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

/// The constants of a precision, where they lie in the mapped file.
fn mapped_weights(file: &ModelFile, precision: &str) -> Result<Weights, EngineError> {
    let (map, at) = file.section("weights").ok_or_else(|| malformed(file, "it has no section 'weights'"))?;
    let all = View::mapped(map).part(at.start, at.len()).map_err(below)?;
    let names: StrArray<'_> = file.get(&format!("lathe.{precision}.names"))?;
    let offsets: Vec<u64> = file.get(&format!("lathe.{precision}.offsets"))?;
    let lengths: Vec<u64> = file.get(&format!("lathe.{precision}.lengths"))?;
    let mut weights = Weights { given: Default::default(), bytes: 0, store: None };
    for (name, (offset, len)) in names.iter().zip(offsets.into_iter().zip(lengths)) {
        let place = usize::try_from(offset).ok().zip(usize::try_from(len).ok());
        let view = place.and_then(|(offset, len)| all.part(offset, len).ok());
        let view = view.ok_or_else(|| malformed(file, "a constant lies outside of the weights"))?;
        weights.given.insert(String::from_utf8_lossy(name).as_ref().into(), view);
        weights.bytes += len as usize;
    }
    Ok(weights)
}
