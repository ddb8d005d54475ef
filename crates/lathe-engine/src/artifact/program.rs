//! A program that is one graph as one file: its part is `program`, and its section `interface` is a text of whoever runs it.

use super::parts::{Accept, Parts, check_machine, constants, library, malformed, section_text};
use crate::EngineError;
use crate::error::below;
use lathe_compile::{Session, Sizes};
use lathe_ir::graph::Graph;
use lathe_ir::{Name, Tensor};
use lathe_machine::Target;
use lathe_models::{Format, ModelFile};
use std::collections::HashMap;
use std::path::Path;

const PART: &str = "program";

/// Compiles a graph with its constants by name for a kind of processor, and writes it to `path` with what `interface` says of it.
/// What depends on constants alone is computed here, with kernels cached in the folder `cache`. `accept` is shown the kernels before
/// they are built, and may refuse them.
pub fn compile_program(
    (graph, passes): (&Graph, &[&str]),
    constants: &HashMap<Name, Tensor>,
    interface: &str,
    (target, cache): (&Target, &Path),
    path: &Path,
    accept: &mut Accept<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(), EngineError> {
    let mut parts = Parts::new(target, cache)?;
    let classes = [Sizes { name: "all", ..Sizes::default() }];
    let draft = parts.add(PART, graph, (passes, &classes), accept, progress)?;
    let packer = Session::new(&draft.graph, &[], constants, &parts.here()?, cache, 1).map_err(below)?;
    let kept = draft.kept();
    let bytes = kept.iter().map(|name| Ok((*name, packer.bytes(name).map_err(below)?)));
    parts.constants(PART, bytes)?;
    parts.section("interface", interface.as_bytes().to_vec());
    parts.write(path)
}

/// Whether a file is a compiled program, and no language model.
pub fn is_program(file: &ModelFile) -> bool {
    file.format() == Format::Compiled && file.section(&format!("plan.{PART}")).is_some()
}

/// Loads a compiled program, its code by way of the folder `cache`: its graph, ready to run, and its interface.
pub fn load_program(
    file: &ModelFile,
    cache: &Path,
    threads: usize,
) -> Result<(Session, String), EngineError> {
    check_machine(file)?;
    let library = library(file, PART, cache)?.ok_or_else(|| malformed(file, "it has no kernels"))?;
    let plan = section_text(file, &format!("plan.{PART}"))?;
    let session = Session::stored(&plan, library, constants(file, PART)?, threads).map_err(below)?;
    Ok((session, section_text(file, "interface")?))
}
