//! What compiled files of all kinds have: kernels, plan and constants of each part, and the processor that they are for.

use crate::EngineError;
use crate::error::below;
use lathe_compile::{Draft, Made, Options, Sizes, draft};
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_ir::Name;
use lathe_ir::graph::Graph;
use lathe_machine::Target;
use lathe_models::{GgufWriter, ModelFile, StrArray, write_artifact};
use lathe_runtime::{ABI_VERSION, KernelCache, Library, View, cross_compiler, detect_cpu};
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The version of the text of plans.
const PLAN_VERSION: u32 = 2;

/// Is shown the kernels of a part before they are built, and may refuse them.
pub type Accept<'a> = dyn FnMut(&[Made]) -> Result<(), Diagnostic> + 'a;

/// A compiled file on its way.
pub(crate) struct Parts<'f> {
    /// What is said of it.
    pub settings: GgufWriter<'f>,
    target: Target,
    cache: PathBuf,
    compiler: Option<String>,
    weights: Vec<u8>,
    placed: Vec<Range<usize>>,
    sections: Vec<(String, Vec<u8>)>,
}

impl Parts<'_> {
    /// A file for a kind of processor, which the compiler here must know.
    pub fn new<'f>(target: &Target, cache: &Path) -> Result<Parts<'f>, EngineError> {
        let compiler = cross_compiler(target);
        let kernels = KernelCache::new(cache);
        if kernels.compilable(target.clone(), compiler.as_deref()).map_err(below)?.0 != *target {
            let what = format!("the compiler here cannot make code for '{}'", target.dialect);
            let d = Diagnostic::new("target-compiler", Fault::Environment, what);
            return Err(below(d.fix("install a newer one, or name one with LATHE_CC")));
        }
        let architecture = target.architecture().unwrap_or(std::env::consts::ARCH);
        let mut settings = GgufWriter::new();
        settings.u32("lathe.abi", ABI_VERSION).u32("lathe.plan", PLAN_VERSION);
        settings.str("lathe.target", &target.dialect).str("lathe.architecture", architecture);
        Ok(Parts {
            settings,
            target: target.clone(),
            cache: cache.to_path_buf(),
            compiler,
            weights: vec![],
            placed: vec![],
            sections: vec![],
        })
    }

    /// Adds the kernels and the plan of a part, which the draft that is returned says.
    pub fn add(
        &mut self,
        part: &str,
        graph: &Graph,
        (passes, classes): (&[&str], &[Sizes]),
        accept: &mut Accept<'_>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Draft, EngineError> {
        let options = Options { target: &self.target, cache: &self.cache, passes, classes };
        let mut draft = draft(graph, &options).map_err(below)?;
        accept(&draft.kernels).map_err(below)?;
        draft.request.compiler.clone_from(&self.compiler);
        let kernels = draft.build(&self.cache, progress).map_err(below)?;
        self.section(&format!("kernels.{part}"), kernels);
        self.section(&format!("plan.{part}"), draft.text(false).into_bytes());
        Ok(draft)
    }

    /// What packs weights runs here, whatever the target.
    pub fn here(&self) -> Result<Target, EngineError> {
        let here = Target::of_cpu(&detect_cpu());
        Ok(KernelCache::new(&self.cache).compilable(here, None).map_err(below)?.0)
    }

    /// Adds the constants of a part by their names, one after the other.
    pub fn constants<'n>(
        &mut self,
        part: &str,
        all: impl Iterator<Item = Result<(&'n Name, Vec<u8>), EngineError>>,
    ) -> Result<(), EngineError> {
        let (mut names, mut offsets, mut lengths): (Vec<&str>, Vec<u64>, Vec<u64>) = Default::default();
        for constant in all {
            let (name, bytes) = constant?;
            names.push(name);
            offsets.push(self.place(&bytes) as u64);
            lengths.push(bytes.len() as u64);
        }
        self.settings.strs(&format!("lathe.{part}.names"), &names);
        self.settings.u64s(&format!("lathe.{part}.offsets"), &offsets);
        self.settings.u64s(&format!("lathe.{part}.lengths"), &lengths);
        Ok(())
    }

    /// Puts bytes at the end of the weights, or finds where the same are already: precisions have most constants in common.
    fn place(&mut self, bytes: &[u8]) -> usize {
        if let Some(known) = self.placed.iter().find(|range| self.weights[(*range).clone()] == *bytes) {
            return known.start;
        }
        let start = self.weights.len().next_multiple_of(64);
        self.weights.resize(start, 0);
        self.weights.extend_from_slice(bytes);
        self.placed.push(start..self.weights.len());
        start
    }

    /// Adds a section.
    pub fn section(&mut self, name: &str, bytes: Vec<u8>) {
        self.sections.push((name.to_string(), bytes));
    }

    /// Writes the file.
    pub fn write(mut self, path: &Path) -> Result<(), EngineError> {
        // Vectors at the end of the last constant may reach past it.
        self.weights.resize(self.weights.len() + 64, 0);
        let mut all: Vec<(&str, &[u8])> = self.sections.iter().map(|(n, bytes)| (&**n, &**bytes)).collect();
        all.push(("weights", &self.weights));
        write_artifact(path, self.settings, &all).map_err(below)
    }
}

pub(crate) fn refused(file: &ModelFile, code: &'static str, what: &str) -> Diagnostic {
    let d = Diagnostic::new(code, Fault::User, what);
    file.path().map_or(d.clone(), |path| d.at(path.display().to_string()))
}

pub(crate) fn malformed(file: &ModelFile, what: &str) -> EngineError {
    let d = Diagnostic { fault: Fault::File, ..refused(file, "artifact-malformed", what) };
    below(d.fix("make it again with lathe compile"))
}

/// Refuses a file for another kind of processor, or of another kernel interface.
pub(crate) fn check_machine(file: &ModelFile) -> Result<(), EngineError> {
    let abi = file.get_u32("lathe.abi")?;
    if abi != ABI_VERSION {
        let what = format!("its kernels have interface {abi}, this program calls interface {ABI_VERSION}");
        return Err(below(refused(file, "artifact-version", &what).fix("make it again with lathe compile")));
    }
    let plan = file.find::<u32>("lathe.plan")?.unwrap_or(1);
    if plan != PLAN_VERSION {
        let what = format!("its plan has version {plan}, this program reads version {PLAN_VERSION}");
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

/// The bytes of a section that must be there.
pub(crate) fn section(file: &ModelFile, name: &str) -> Result<View, EngineError> {
    let (map, at) =
        file.section(name).ok_or_else(|| malformed(file, &format!("it has no section '{name}'")))?;
    View::shared(map).part(at.start, at.len()).map_err(below)
}

/// The text of a section that must be there.
pub(crate) fn section_text(file: &ModelFile, name: &str) -> Result<String, EngineError> {
    let view = section(file, name)?;
    let mut bytes = vec![0; view.len()];
    view.read(0, &mut bytes).map_err(below)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The code of a part, loaded, where the file has the part.
pub(crate) fn library(file: &ModelFile, part: &str, cache: &Path) -> Result<Option<Library>, EngineError> {
    let Some((kernels, at)) = file.section(&format!("kernels.{part}")) else { return Ok(None) };
    Ok(Some(KernelCache::new(cache).load_built(&kernels[at]).map_err(below)?))
}

/// The constants of a part, where they lie in the mapped file.
pub(crate) fn constants(file: &ModelFile, part: &str) -> Result<HashMap<Name, View>, EngineError> {
    let all = section(file, "weights")?;
    let names: StrArray<'_> = file.get(&format!("lathe.{part}.names"))?;
    let offsets: Vec<u64> = file.get(&format!("lathe.{part}.offsets"))?;
    let lengths: Vec<u64> = file.get(&format!("lathe.{part}.lengths"))?;
    let mut given = HashMap::new();
    for (name, (offset, len)) in names.iter().zip(offsets.into_iter().zip(lengths)) {
        let place = usize::try_from(offset).ok().zip(usize::try_from(len).ok());
        let view = place.and_then(|(offset, len)| all.part(offset, len).ok());
        let view = view.ok_or_else(|| malformed(file, "a constant lies outside of the weights"))?;
        given.insert(String::from_utf8_lossy(name).as_ref().into(), view);
    }
    Ok(given)
}
