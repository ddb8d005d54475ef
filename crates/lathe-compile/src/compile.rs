//! From a graph to compiled plans: rewrite, plan for each class of sizes, schedule each distinct kernel, emit, build, load. What
//! was made once is kept, and read the next time ([`crate::kept`]).

use crate::kept::Kept;
use crate::{CompileError, Findings, load_stored};
use lathe_codegen::{Dialect, emit, prelude};
use lathe_exec::Image;
use lathe_ir::graph::{Form, Graph};
use lathe_ir::step::Step;
use lathe_ir::tensor::{Fact, Kernel};
use lathe_ir::{Int, Name};
use lathe_machine::Target;
use lathe_rewrite::{Bounds, Plan, PlannedKernel, plan_decided};
use lathe_runtime::{BuildRequest, CTX_DECLARATION, KernelCache, Library};
use lathe_schedule::{Choice, Choices, Decisions, Schedule, schedule};
use std::collections::HashMap;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A kernel on its way from operators to C.
pub struct Made {
    /// What is found out of it is kept under this ([`Findings::key`]).
    pub key: String,
    /// The symbol in the library.
    pub symbol: String,
    /// The operators in it.
    pub operators: Vec<Name>,
    /// The class of sizes it was first made for.
    pub class: &'static str,
    /// Naive and scheduled program, and the steps between.
    pub schedule: Schedule,
    /// The form and name prefix of each operator, for the rules.
    pub parts: Vec<(Form, String)>,
    /// Most rows of a product, when few.
    pub few: Option<i64>,
    /// How often the programs of all classes call it, in a run of each.
    pub calls: usize,
    /// The C function.
    pub source: String,
    pub(crate) grid: Int,
    pub(crate) workspace_bytes: Int,
}

/// A class of sizes that gets a plan and kernels of its own.
#[derive(Clone, Debug, Default)]
pub struct Sizes {
    /// Its name.
    pub name: &'static str,
    /// Dimensions with one value.
    pub fixed: Vec<(&'static str, i64)>,
    /// Most rows of a product, when few: kernels get small tiles.
    pub few: Option<i64>,
    /// Cores that share each step, where their number is known: what one of them could do alone is divided for so many.
    pub cores: Option<usize>,
}

/// A class of sizes with its plan and kernels.
pub struct Class {
    /// The class's name.
    pub name: &'static str,
    /// Step programs; their kernels are below.
    pub plan: Plan,
    /// The compiled kernels by their names in the plan.
    pub images: HashMap<Name, Image>,
    /// What each of them is, for people.
    pub titles: HashMap<Name, String>,
}

/// A compiled graph.
pub struct Compiled {
    /// The graph after all rewrites.
    pub graph: Graph,
    /// A plan for each class of sizes, in the order they were asked for.
    pub classes: Vec<Class>,
    /// What the constants of the first class are made with, as a hash: the steps at load and their kernels.
    pub packing: String,
    /// The code.
    pub library: Library,
}

/// What a graph is compiled for.
pub struct Options<'a> {
    /// The machine.
    pub target: &'a Target,
    /// The folder of compiled kernels.
    pub cache: &'a Path,
    /// Passes from graph to graph, in order (names of [`lathe_rewrite::PASSES`]).
    pub passes: &'a [&'a str],
    /// Classes of sizes.
    pub classes: &'a [Sizes],
}

/// What drafts are made from, whatever is decided.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The graph before all rewrites.
    pub graph: Graph,
    /// Passes from graph to graph, in order.
    pub passes: Vec<String>,
    /// Classes of sizes.
    pub classes: Vec<Sizes>,
}

impl Recipe {
    /// A draft with what is decided of the graph as a whole, and what is known of kernels.
    pub fn draft(
        &self,
        target: &Target,
        cache: &Path,
        findings: &Findings,
        decisions: &Decisions,
    ) -> Result<Draft, CompileError> {
        let passes: Vec<&str> = self.passes.iter().map(String::as_str).collect();
        let options = Options { target, cache, passes: &passes, classes: &self.classes };
        drafted(&self.graph, &options, findings, Some(decisions))
    }
}

/// A graph with its plans and its kernels' C, before any of it is built.
pub struct Draft {
    /// What it was made from.
    pub recipe: Recipe,
    /// What is found out of the graph as a whole is kept under this ([`Findings::graph_key`]).
    pub key: String,
    /// What passes and planning chose of the graph as a whole.
    pub choices: Vec<Choice>,
    /// The graph after all rewrites.
    pub graph: Graph,
    /// The distinct kernels.
    pub kernels: Vec<Made>,
    /// What to build.
    pub request: BuildRequest,
    /// Of each class: its name, its plan, and for each kernel of the plan its index in `kernels`.
    pub(crate) plans: Vec<(&'static str, Plan, Vec<usize>)>,
}

/// Compiles a graph; `progress` is told how many of all C files are built.
pub fn compile(
    graph: &Graph,
    options: &Options<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Compiled, CompileError> {
    let names: Vec<&'static str> = options.classes.iter().map(|c| c.name).collect();
    let kept = Kept::of(graph, options)?;
    if let Some(compiled) = kept.read(&names) {
        return Ok(compiled);
    }
    let draft = draft(graph, options)?;
    let kernels = KernelCache::new(options.cache);
    let library = kernels.load(&draft.request, jobs(), progress)?;
    let text = draft.text(true);
    kept.write(&kernels.key(&draft.request)?, &text);
    load_stored(&text, library, &names)
}

/// Compilers that may run at once.
pub(crate) fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Rewrites and plans a graph, schedules its kernels and writes their C, as was found to be best of the graph and of each kernel, or
/// by rule.
pub fn draft(graph: &Graph, options: &Options<'_>) -> Result<Draft, CompileError> {
    drafted(graph, options, &Findings::read(options.cache, options.target), None)
}

/// The same with what is known of kernels, and what is decided of the graph as a whole, or what was found of it.
fn drafted(
    graph: &Graph,
    options: &Options<'_>,
    findings: &Findings,
    decisions: Option<&Decisions>,
) -> Result<Draft, CompileError> {
    let table = lathe_ops::table();
    let Options { target, passes, classes: sizes, .. } = *options;
    let recipe = Recipe {
        graph: graph.clone(),
        passes: passes.iter().map(ToString::to_string).collect(),
        classes: sizes.to_vec(),
    };
    let key = Findings::graph_key(graph, passes);
    let found = || findings.best(&key).map(|f| &f.decisions);
    let mut choices = decisions.or_else(found).map_or_else(Choices::default, Choices::decided);
    let mut graph = graph.clone();
    for name in passes {
        let pass = lathe_rewrite::pass(name).ok_or_else(|| CompileError::bug(format!("no pass '{name}'")))?;
        graph = pass.decided(&graph, &table, target, &mut choices)?;
    }
    let dialect = Dialect::named(&target.dialect)
        .ok_or_else(|| CompileError::bug(format!("no dialect '{}'", target.dialect)))?;
    let most: HashMap<Name, i64> = graph.dims.iter().cloned().collect();
    let classes = sizes.iter().map(|Sizes { fixed, cores, .. }| {
        let fixed = fixed.iter().map(|(n, v)| ((*n).into(), *v)).collect();
        let bounds = Bounds { fixed, most: most.clone(), cores: *cores };
        plan_decided(&graph, &table, &bounds, &mut choices)
    });
    let classes: Vec<Plan> = classes.collect();
    let mut distinct: Vec<Naive<'_>> = vec![];
    let mut known: HashMap<String, usize> = HashMap::new();
    let mut ids: Vec<Vec<usize>> = vec![];
    for (Sizes { name: class, few, .. }, plan) in sizes.iter().zip(&classes) {
        if cfg!(debug_assertions) {
            for program in [&plan.load, &plan.run] {
                lathe_ir::step::check(program)?;
            }
        }
        let mut of_class = vec![];
        for k in &plan.kernels {
            if cfg!(debug_assertions) {
                lathe_ir::tensor::check(&k.kernel)?;
                lathe_ir::tensor::inside(&k.kernel)?;
            }
            let contraction = matches!(k.parts.first(), Some((lathe_ir::graph::Form::Contraction, _)));
            let few = few.filter(|_| contraction);
            let key = Findings::key(&k.kernel, few);
            let id = *known.entry(key.clone()).or_insert(distinct.len());
            if id == distinct.len() {
                distinct.push(Naive { planned: k, class, few, key, calls: 0 });
            }
            let calls = |s: &&Step| matches!(s, Step::Call { kernel, .. } if *kernel == k.name);
            distinct[id].calls += plan.run.steps.iter().filter(calls).count();
            of_class.push(id);
        }
        ids.push(of_class);
    }
    let kernels = in_parallel(&distinct, |i, naive| naive.made(format!("k{i}"), target, dialect, findings));
    let kernels: Vec<Made> = kernels.into_iter().collect::<Result<_, CompileError>>()?;
    let plans = sizes.iter().zip(classes).zip(ids).map(|((s, plan), ids)| (s.name, plan, ids)).collect();
    let functions: Vec<&str> = kernels.iter().map(|k| k.source.as_str()).collect();
    let request = BuildRequest::new(units(&functions, dialect), target);
    Ok(Draft { recipe, key, choices: choices.met().to_vec(), graph, kernels, request, plans })
}

/// A distinct kernel of the plans, before its schedule.
struct Naive<'p> {
    planned: &'p PlannedKernel,
    class: &'static str,
    few: Option<i64>,
    key: String,
    calls: usize,
}

impl Naive<'_> {
    /// Schedules it by what was found to be best, or by rule, and writes its C.
    fn made(
        &self,
        symbol: String,
        target: &Target,
        dialect: &'static Dialect,
        findings: &Findings,
    ) -> Result<Made, CompileError> {
        let (k, few) = (self.planned, self.few);
        let best = findings.best(&self.key);
        let best = best.map(|f| scheduled(&k.kernel, &k.parts, target, few, &f.decisions));
        // What was found with other rules may not fit these.
        let schedule = match best {
            Some(Ok(best)) => best,
            _ => scheduled(&k.kernel, &k.parts, target, few, &Decisions::new())?,
        };
        let e = emit(schedule.kernel(), &symbol, dialect)?;
        Ok(Made {
            key: self.key.clone(),
            symbol,
            operators: k.operators.clone(),
            class: self.class,
            schedule,
            parts: k.parts.clone(),
            few,
            calls: self.calls,
            source: e.source,
            grid: e.grid,
            workspace_bytes: e.workspace_bytes,
        })
    }
}

/// What becomes of each item, in their order, on as many threads as there are cores.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(usize, &T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let thread = || {
        let mut done = vec![];
        while let i = next.fetch_add(1, Relaxed)
            && let Some(item) = items.get(i)
        {
            done.push((i, work(i, item)));
        }
        done
    };
    let mut all: Vec<(usize, R)> = std::thread::scope(|s| {
        let others: Vec<_> = (1..jobs().min(items.len())).map(|_| s.spawn(thread)).collect();
        let mut all = thread();
        all.extend(others.into_iter().flat_map(|t| t.join().unwrap_or_else(|e| resume_unwind(e))));
        all
    });
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, r)| r).collect()
}

impl Draft {
    /// Builds the code without loading it: the library's bytes. `progress` is told how many of all C files are built.
    pub fn build(
        &self,
        cache: &Path,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<u8>, CompileError> {
        Ok(KernelCache::new(cache).build(&self.request, jobs(), progress)?)
    }
}

/// The schedule of a naive kernel by rule, with what is decided for it, and what it promises checked.
pub fn scheduled(
    kernel: &Kernel,
    parts: &[(Form, String)],
    target: &Target,
    few: Option<i64>,
    decisions: &Decisions,
) -> Result<Schedule, CompileError> {
    let schedule = schedule(kernel.clone(), parts, target, few, decisions)?;
    debug_assert_eq!(
        Schedule::replay(kernel.clone(), &schedule.trace()).map(|s| s.kernel().clone()).ok().as_ref(),
        Some(schedule.kernel()),
        "a kernel replays from its naive loops by its trace"
    );
    promises_kept(schedule.kernel())?;
    Ok(schedule)
}

/// Checks that storage is padded as a kernel's schedule relies on: whole multiples by shape, or rows, which the planner
/// pads.
fn promises_kept(k: &Kernel) -> Result<(), CompileError> {
    for v in k.views() {
        for f in &v.facts {
            if let Fact::Padded(d, m) = f {
                let whole = v.shape[*d].as_const().is_some_and(|n| n % m == 0);
                let rows = *d == 0 && lathe_rewrite::ROW_PADDING % m == 0 && v.shape[*d].as_const().is_none();
                if !whole && !rows {
                    let what = format!("nothing pads dimension {d} of '{}' to a multiple of {m}", v.name);
                    return Err(CompileError::bug(what));
                }
            }
        }
    }
    Ok(())
}

/// Bytes of C that are worth a translation unit of their own.
const SHORT: usize = 8192;

/// Translation units of about equal length: large functions first, each to the shortest unit.
pub(crate) fn units(functions: &[&str], dialect: &'static Dialect) -> Vec<String> {
    // A start of the compiler costs as much as a few short kernels.
    let length: usize = functions.iter().map(|f| f.len()).sum();
    let count = functions.len().min(length / SHORT + 1).clamp(1, 8);
    let mut units = vec![prelude(dialect, CTX_DECLARATION); count];
    let mut order = functions.to_vec();
    order.sort_by_key(|f| std::cmp::Reverse(f.len()));
    for f in order {
        let shortest = units.iter_mut().min_by_key(|u| u.len()).expect("at least one unit");
        shortest.push_str(f);
    }
    units
}
