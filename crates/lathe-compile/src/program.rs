//! A module that runs on tensors: each of its regions compiled, control between them here. Tensors that a region takes are
//! copied into its memory, and its results out of it.

use crate::{CompileError, Session};
use lathe_ir::graph::{Item, Module, check_module, run_module};
use lathe_ir::{IrError, Name, Tensor};
use lathe_machine::Target;
use std::collections::HashMap;
use std::path::Path;

/// A compiled module.
pub struct Program {
    module: Module,
    /// The sessions of [`Module::regions`], by the names of their graphs.
    regions: HashMap<String, Session>,
}

impl Program {
    /// Checks a module and compiles its regions, whose names must differ, for a machine.
    pub fn new(
        module: &Module,
        passes: &[&str],
        constants: &HashMap<Name, Tensor>,
        target: &Target,
        cache: &Path,
        threads: usize,
    ) -> Result<Program, CompileError> {
        check_module(module, &lathe_ops::table())?;
        let mut regions = HashMap::new();
        for g in module.regions() {
            let session = Session::new(g, passes, constants, target, cache, threads)?;
            if regions.insert(g.name.clone(), session).is_some() {
                return Err(IrError::check(g.name.clone(), "two graphs of this name").into());
            }
        }
        Ok(Program { module: module.clone(), regions })
    }

    /// Runs a function.
    pub fn run(&mut self, function: &str, args: &[Item]) -> Result<Vec<Item>, CompileError> {
        let regions = &mut self.regions;
        run_module(&self.module, function, args, &mut |g, inputs| {
            regions.get_mut(&g.name).expect("compiled before").run(inputs)
        })
    }
}
