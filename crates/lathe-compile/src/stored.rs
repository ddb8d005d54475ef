//! A compiled graph as a text beside its library, to be loaded where nothing can be compiled.
//!
//! The text is blocks behind lines of four dashes: the graph; for each class a line `class ARENA` (bytes), a line of pairs
//! `NAME=INDEX` (each kernel of the run with its place below), and the step program; for each kernel a line with its symbol,
//! the lines of its grid and its workspace bytes, and the scheduled kernel. What runs once at load is not kept: its results
//! are the packed weights.

use crate::CompileError;
use crate::compile::{Class, Compiled, Draft};
use lathe_exec::Image;
use lathe_ir::graph::Source;
use lathe_ir::step::{Program, Step, Storage};
use lathe_ir::{Name, graph, parse_int, step, tensor};
use lathe_rewrite::Plan;
use lathe_runtime::Library;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write;

const RULE: &str = "----\n";

impl Draft {
    /// The graph, the plan and the kernels as a text that [`load_stored`] reads.
    pub fn text(&self) -> String {
        let mut out = self.graph.to_string();
        let mut places: BTreeMap<usize, usize> = BTreeMap::new();
        for (_, plan, ids) in &self.plans {
            let called = called(&plan.run);
            let used = plan.kernels.iter().zip(ids).filter(|(k, _)| called.contains(&&k.name));
            let pairs: Vec<String> = used
                .map(|(k, id)| {
                    let next = places.len();
                    format!("{}={}", k.name, places.entry(*id).or_insert(next))
                })
                .collect();
            let _ = write!(out, "{RULE}class {}\n{}\n{}", plan.arena_bytes, pairs.join(" "), plan.run);
        }
        let mut ids: Vec<(usize, usize)> = places.into_iter().map(|(id, place)| (place, id)).collect();
        ids.sort_unstable();
        for k in ids.iter().map(|(_, id)| &self.kernels[*id]) {
            let (grid, workspace, kernel) = (&k.grid, &k.workspace_bytes, k.schedule.kernel());
            let _ = write!(out, "{RULE}{}\n{grid}\n{workspace}\n{kernel}", k.symbol);
        }
        out
    }
}

impl Draft {
    /// The buffers that the runs are given, those of constants among them.
    pub fn given(&self) -> impl Iterator<Item = &Name> {
        let buffers = self.plans.iter().flat_map(|(_, plan, _)| &plan.run.buffers);
        buffers.filter(|b| b.storage == Storage::Given).map(|b| &b.name)
    }

    /// The values that runs and callers read and that depend on constants alone: they are kept beside the text, as nothing
    /// computes them where it is loaded.
    pub fn kept(&self) -> BTreeSet<&Name> {
        let outputs = self.graph.outputs.iter().map(|v| &self.graph.value(*v).name);
        let constant = |name: &Name| {
            self.graph.values.iter().any(|v| v.name == *name && matches!(v.source, Source::Const(_)))
        };
        let made: HashSet<&Name> =
            self.plans.iter().flat_map(|(_, plan, _)| &plan.load.buffers).map(|b| &b.name).collect();
        self.given().chain(outputs).filter(|name| made.contains(name) || constant(name)).collect()
    }
}

/// The kernels that a program calls.
fn called(program: &Program) -> Vec<&Name> {
    let mut names = vec![];
    for s in &program.steps {
        if let Step::Call { kernel, .. } = s {
            names.push(kernel);
        }
    }
    names
}

/// The compiled graph of a text that [`Draft::text`] wrote, with its classes under `names`, in order. It has no C to show, and
/// its plans have nothing to do at load.
pub fn load_stored(text: &str, library: Library, names: &[&'static str]) -> Result<Compiled, CompileError> {
    let malformed = |what: &str| CompileError::file(format!("the stored plan is malformed: {what}"));
    let mut blocks = text.split(RULE);
    let graph = graph::parse(blocks.next().unwrap_or_default()).map_err(|e| malformed(&e.to_string()))?;
    let blocks: Vec<&str> = blocks.collect();
    let (classes, kernels) = blocks.split_at_checked(names.len()).ok_or_else(|| malformed("classes"))?;
    let mut images = vec![];
    for block in kernels {
        let [symbol, grid, workspace, kernel] = lines(block).ok_or_else(|| malformed("a kernel"))?;
        let int = |text| parse_int(text).map_err(|e| malformed(&e.to_string()));
        images.push(Image {
            function: library.kernel(symbol)?,
            kernel: tensor::parse(kernel).map_err(|e| malformed(&e.to_string()))?,
            grid: int(grid)?,
            workspace_bytes: int(workspace)?,
        });
    }
    let mut out = vec![];
    for (name, block) in names.iter().zip(classes) {
        let class = block.strip_prefix("class ").and_then(|block| block.split_once('\n'));
        let (arena, rest) = class.ok_or_else(|| malformed("a class"))?;
        let (pairs, program) = rest.split_once('\n').ok_or_else(|| malformed("a class"))?;
        let run = step::parse(program).map_err(|e| malformed(&e.to_string()))?;
        let image = |pair: &str| {
            let (name, place) = pair.split_once('=')?;
            Some((name.into(), images.get(place.parse::<usize>().ok()?)?.clone()))
        };
        let of_class: Option<HashMap<Name, Image>> = pairs.split_whitespace().map(image).collect();
        let of_class = of_class.ok_or_else(|| malformed("a class's kernels"))?;
        let arena_bytes = arena.parse().map_err(|_| malformed("an arena"))?;
        let plan = Plan { load: Program::default(), run, kernels: vec![], arena_bytes };
        out.push(Class { name, plan, images: of_class });
    }
    Ok(Compiled { graph, classes: out, kernels: vec![], library })
}

/// Three lines and what follows.
fn lines(block: &str) -> Option<[&str; 4]> {
    let mut parts = block.splitn(4, '\n');
    Some([parts.next()?, parts.next()?, parts.next()?, parts.next()?])
}
