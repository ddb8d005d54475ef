//! Where verbs that look at kernels get them from: a program of ONNX, a graph's text, or a language model.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use lathe_compile::{Draft, Options, Overview, Sizes, draft};
use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use lathe_engine::{Engine, Runner};
use lathe_ir::graph;
use lathe_ir::tensor::{self, Kernel};
use lathe_schedule::Schedule;

use crate::failure::Failure;
use crate::model::Model;
use crate::onnx;
use crate::options::{CacheOptions, ComputeOptions};

/// A context that costs little; the kernels are the same for any.
const CONTEXT: usize = 512;

/// Bytes in which a text shows what it is, behind comments.
const HEAD: u64 = 4096;

/// What the compiler made of something.
pub enum Source {
    /// Of a model, of the regions of a program of ONNX, or of one graph.
    Drafts(Vec<Draft>),
    /// What a compiled model's file holds.
    Compiled(Box<Engine<Runner>>),
}

impl Source {
    /// Compiles what a name says: a file that ends in `.onnx`, with the arrays that `run` takes as inputs, a file with the text of a
    /// graph, or else a language model.
    pub fn open(
        name: &str,
        inputs: &[String],
        compute: &ComputeOptions,
        cache: &CacheOptions,
    ) -> Result<Source, Failure> {
        let path = Path::new(name);
        if onnx::is_program(name) {
            let regions = onnx::regions(path, inputs, compute)?;
            return Ok(Source::Drafts(drafts(&regions, compute.precision.passes())?));
        }
        if !inputs.is_empty() {
            return Err(Failure::usage("--input is for a program of ONNX, a file that ends in .onnx"));
        }
        if begins(path, "graph ") {
            let graph = graph::parse(&text(path)?)?;
            graph::check(&graph, &lathe_ops::table())?;
            return Ok(Source::Drafts(drafts(&[graph], compute.precision.passes())?));
        }
        let model = Model::open(name)?;
        let (compute, context) = (cache.with(compute)?, model.context_for(CONTEXT, None)?);
        Ok(match model.is_compiled() {
            true => Source::Compiled(Box::new(model.load(compute, context, 1, 1)?)),
            false => Source::Drafts(vec![model.drafted(compute, context)?]),
        })
    }

    /// The same for verbs that need more than what a compiled model's file holds.
    pub fn whole(self, name: &str) -> Result<Source, Failure> {
        match self {
            Source::Compiled(_) => {
                let what =
                    "a compiled model's file holds its graph and steps, and no more of what it was made from";
                let fix = "give the file that it was compiled from";
                Err(Diagnostic::new("compiled-stages", Fault::User, what).at(name).fix(fix).into())
            }
            source => Ok(source),
        }
    }

    /// What was made, where it is more than what a compiled model's file holds.
    pub fn drafts(&self) -> &[Draft] {
        match self {
            Source::Compiled(_) => &[],
            Source::Drafts(all) => all,
        }
    }

    /// What was made, region by region.
    pub fn overviews(&self) -> Vec<Overview<'_>> {
        match self {
            Source::Compiled(engine) => vec![engine.model().overview()],
            Source::Drafts(all) => all.iter().map(Draft::overview).collect(),
        }
    }
}

/// Graphs on this machine up to their C, which is not built.
fn drafts(graphs: &[graph::Graph], passes: &[&str]) -> Result<Vec<Draft>, Failure> {
    let (target, cache) = (lathe_runtime::detect_target()?, lathe_models::cache_dir()?);
    let classes = [Sizes { name: "all", ..Sizes::default() }];
    let options = Options { target: &target, cache: &cache, passes, classes: &classes };
    Ok(graphs.iter().map(|g| draft(g, &options)).collect::<Result<_, _>>()?)
}

/// Whether a file is a text that begins, behind comments, with a word.
pub fn begins(path: &Path, word: &str) -> bool {
    let mut head = vec![];
    let read = File::open(path).and_then(|f| f.take(HEAD).read_to_end(&mut head));
    let head = String::from_utf8_lossy(&head);
    let first = head.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#'));
    read.is_ok() && first.is_some_and(|l| l.starts_with(word))
}

/// The text of a file.
pub fn text(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| {
        let what = format!("cannot read the file: {e}");
        Diagnostic::new("file", Fault::User, what).at(path.display().to_string()).into()
    })
}

/// A tensor program after the steps of a file, which whoever wrote it must mend where one is not possible.
pub fn replayed(program: Kernel, steps: &Path) -> Result<Schedule, Failure> {
    Schedule::replay(program, &text(steps)?).map_err(|e| {
        let d = Diagnostic { fault: Fault::User, ..e.diagnostic() };
        d.fix("see the primitives' requirements in the documentation of lathe-schedule").into()
    })
}

/// The tensor program that a file says, where it begins as the text of one.
pub fn program(path: &Path) -> Result<Option<Kernel>, Failure> {
    if !begins(path, "kernel ") {
        return Ok(None);
    }
    let kernel = tensor::parse(&text(path)?)?;
    tensor::check(&kernel)?;
    Ok(Some(kernel))
}
