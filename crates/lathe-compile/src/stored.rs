//! A compiled graph as a text beside its library: what is loaded when it is compiled, when it was compiled before, and where
//! nothing can be compiled.
//!
//! The text is blocks behind lines of four dashes: a line with a hash of what packs constants, and the graph; for each class a line
//! `class ARENA` (bytes), a line of pairs `NAME=INDEX` (each kernel with its place below), and the step programs of a run and, behind
//! a line of two dashes, of loading; for each kernel a line with its symbol, one that says what it is, those of its grid, its workspace
//! bytes, how often its blocks run (`?` where nobody knows) and which buffers lead it (`lathe_exec::Loops`), and the kernel's parameters. Compiled files have no steps of loading: the results of these are the packed weights.

use crate::CompileError;
use crate::compile::{Class, Compiled, Draft, Made};
use lathe_exec::{Image, Loops};
use lathe_ir::graph::Source;
use lathe_ir::step::{Program, Step, Storage};
use lathe_ir::tensor::Kernel;
use lathe_ir::{Name, graph, parse_int, step, tensor};
use lathe_rewrite::Plan;
use lathe_runtime::Library;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write;

const RULE: &str = "----\n";
const SHORT_RULE: &str = "--\n";

impl Draft {
    /// The graph, the plan and the kernels as a text that [`load_stored`] reads, with what runs at load or without.
    pub fn text(&self, load: bool) -> String {
        let mut out = format!("{}\n{}", self.packing(), self.graph);
        let mut places: BTreeMap<usize, usize> = BTreeMap::new();
        let mut titles: HashMap<usize, String> = HashMap::new();
        for (_, plan, ids) in &self.plans {
            let mut needed = called(&plan.run);
            needed.extend(called(&plan.load).into_iter().filter(|_| load));
            let used = plan.kernels.iter().zip(ids).filter(|(k, _)| needed.contains(&&k.name));
            let pairs: Vec<String> = used
                .map(|(k, id)| {
                    let next = places.len();
                    titles.entry(*id).or_insert_with(|| k.describe());
                    format!("{}={}", k.name, places.entry(*id).or_insert(next))
                })
                .collect();
            let _ = write!(out, "{RULE}class {}\n{}\n{}", plan.arena_bytes, pairs.join(" "), plan.run);
            if load {
                let _ = write!(out, "{SHORT_RULE}{}", plan.load);
            }
        }
        let mut ids: Vec<(usize, usize)> = places.into_iter().map(|(id, place)| (place, id)).collect();
        ids.sort_unstable();
        for (_, id) in ids {
            let (Made { symbol, grid, workspace_bytes, schedule, .. }, title) =
                (&self.kernels[id], &titles[&id]);
            // Who calls it needs no more than its parameters.
            let loops = Loops::of(schedule.kernel());
            let work = loops.work.map_or("?".into(), |n| n.to_string());
            let kernel = Kernel { body: vec![], ..schedule.kernel().clone() };
            let _ = write!(out, "{RULE}{symbol}\n{title}\n{grid}\n{workspace_bytes}\n{work}\n");
            let _ = write!(out, "{}\n{kernel}", loops.leads.join(" "));
        }
        out
    }

    /// A hash of what makes the constants that runs of the first class read: the steps at load, and their naive kernels.
    fn packing(&self) -> String {
        let mut hash = blake3::Hasher::new();
        let mut add = |text: String| {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        if let Some((_, plan, _)) = self.plans.first() {
            let called = called(&plan.load);
            add(plan.load.to_string());
            let kernels = plan.kernels.iter().filter(|k| called.contains(&&k.name));
            kernels.for_each(|k| add(k.kernel.to_string()));
        }
        hash.finalize().to_hex().to_string()
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
fn called(program: &Program) -> HashSet<&Name> {
    let mut names = HashSet::new();
    for s in &program.steps {
        if let Step::Call { kernel, .. } = s {
            names.insert(kernel);
        }
    }
    names
}

/// The compiled graph of a text that [`Draft::text`] wrote, with its classes under `names`, in order. Its plans list no
/// kernels.
pub fn load_stored(text: &str, library: Library, names: &[&'static str]) -> Result<Compiled, CompileError> {
    let malformed = |what: &str| CompileError::file(format!("the stored plan is malformed: {what}"));
    let mut blocks = text.split(RULE);
    let (packing, graph) = blocks.next().and_then(|b| b.split_once('\n')).unwrap_or_default();
    let graph = graph::parse(graph).map_err(|e| malformed(&e.to_string()))?;
    let blocks: Vec<&str> = blocks.collect();
    let (classes, kernels) = blocks.split_at_checked(names.len()).ok_or_else(|| malformed("classes"))?;
    let mut images = vec![];
    for block in kernels {
        let [symbol, title, grid, workspace, work, leads, kernel] =
            block.splitn(7, '\n').collect::<Vec<_>>().try_into().map_err(|_| malformed("a kernel"))?;
        let int = |text| parse_int(text).map_err(|e| malformed(&e.to_string()));
        let image = Image {
            function: library.kernel(symbol)?,
            kernel: tensor::parse(kernel).map_err(|e| malformed(&e.to_string()))?,
            grid: int(grid)?,
            workspace_bytes: int(workspace)?,
            loops: Loops {
                work: if work == "?" { None } else { Some(int(work)?) },
                leads: leads.split_whitespace().map(Name::from).collect(),
            },
        };
        images.push((image, title));
    }
    let mut out = vec![];
    for (name, block) in names.iter().zip(classes) {
        let class = block.strip_prefix("class ").and_then(|block| block.split_once('\n'));
        let (arena, rest) = class.ok_or_else(|| malformed("a class"))?;
        let (pairs, programs) = rest.split_once('\n').ok_or_else(|| malformed("a class"))?;
        let (run, load) = match programs.split_once(&format!("\n{SHORT_RULE}")) {
            Some((run, load)) => (run, Some(load)),
            None => (programs, None),
        };
        let program = |text| step::parse(text).map_err(|e| malformed(&e.to_string()));
        let (run, load) = (program(run)?, load.map(program).transpose()?.unwrap_or_default());
        let (mut of_class, mut titles) = (HashMap::new(), HashMap::new());
        for pair in pairs.split_whitespace() {
            let (name, place) = pair.split_once('=').ok_or_else(|| malformed("a class's kernels"))?;
            let found = place.parse().ok().and_then(|place: usize| images.get(place));
            let (image, title) = found.ok_or_else(|| malformed("a class's kernels"))?;
            of_class.insert(name.into(), image.clone());
            titles.insert(name.into(), (*title).to_string());
        }
        let arena_bytes = arena.parse().map_err(|_| malformed("an arena"))?;
        let plan = Plan { load, run, kernels: vec![], arena_bytes };
        out.push(Class { name, plan, images: of_class, titles });
    }
    Ok(Compiled { graph, classes: out, packing: packing.to_string(), library })
}
