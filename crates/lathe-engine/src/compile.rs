//! From a model's graph to compiled plans: rewrite, plan for each class of sizes, schedule each distinct kernel, emit,
//! build, load.

use crate::{EngineError, Precision, Stage};
use lathe_codegen::{Dialect, emit, prelude};
use lathe_diagnostic::Diagnostic;
use lathe_exec::Image;
use lathe_ir::graph::Graph;
use lathe_ir::tensor::Fact;
use lathe_ir::{Int, Name};
use lathe_machine::Target;
use lathe_rewrite::{Bounds, Plan, plan};
use lathe_runtime::{BuildRequest, CTX_DECLARATION, KernelCache, Library};
use lathe_schedule::{Schedule, schedule};
use std::collections::HashMap;
use std::path::Path;

/// A kernel on its way from operators to C.
pub(crate) struct Made {
    /// The symbol in the library.
    pub symbol: String,
    /// The operators in it.
    pub operators: Vec<Name>,
    /// The class of sizes it was first made for.
    pub class: &'static str,
    /// Naive and scheduled program, and the steps between.
    pub schedule: Schedule,
    /// The C function.
    pub source: String,
    grid: Int,
    workspace_bytes: Int,
}

/// A class of sizes with its plan and kernels.
pub(crate) struct Class {
    pub name: &'static str,
    pub plan: Plan,
    pub images: HashMap<Name, Image>,
}

/// A compiled model.
pub(crate) struct Compiled {
    /// The graph after all rewrites.
    pub graph: Graph,
    pub classes: Vec<Class>,
    pub kernels: Vec<Made>,
    pub library: Library,
}

/// A class of sizes that gets kernels of its own.
pub(crate) struct Sizes {
    pub name: &'static str,
    /// Dimensions with one value.
    fixed: &'static [(&'static str, i64)],
    /// Most tokens and rows, when few.
    most: Option<i64>,
}

/// The classes, in order of preference; one sequence needs the first two only.
pub(crate) const CLASSES: [Sizes; 5] = [
    Sizes { name: "decode", fixed: &[("T", 1), ("R", 1)], most: None },
    Sizes { name: "prefill", fixed: &[("R", 1)], most: None },
    Sizes { name: "batch4", fixed: &[], most: Some(4) },
    Sizes { name: "batch16", fixed: &[], most: Some(16) },
    Sizes { name: "batch", fixed: &[], most: None },
];

/// The class of a step of this many tokens that wants the logits of this many rows.
pub(crate) fn class_of(tokens: usize, rows: usize) -> usize {
    match (tokens, rows) {
        (1, 0 | 1) => 0,
        (_, 0 | 1) => 1,
        (0..=4, _) => 2,
        (0..=16, _) => 3,
        _ => 4,
    }
}

/// Passes that a precision asks for, in order.
fn pipeline(precision: Precision) -> &'static [&'static str] {
    match precision {
        Precision::Fast => &["quantize", "pack"],
        Precision::Exact => &["pack"],
    }
}

pub(crate) fn compile(
    graph: &Graph,
    precision: Precision,
    target: &Target,
    cache: &Path,
    rows: usize,
    progress: &mut dyn FnMut(Stage, usize, usize),
) -> Result<Compiled, EngineError> {
    let table = lathe_ops::table();
    let mut graph = graph.clone();
    for name in pipeline(precision) {
        let pass = lathe_rewrite::pass(name).expect("a pass of the table");
        graph = pass.run(&graph, &table).map_err(|e| EngineError::below(&e))?;
    }
    let dialect = Dialect::named(&target.dialect).expect("a target names a dialect");
    let most: HashMap<Name, i64> = graph.dims.iter().cloned().collect();
    let mut kernels: Vec<Made> = vec![];
    let mut known: HashMap<String, usize> = HashMap::new();
    let mut plans: Vec<(&'static str, Plan, Vec<usize>)> = vec![];
    for sizes in &CLASSES[..if rows > 1 { CLASSES.len() } else { 2 }] {
        let class = sizes.name;
        let fixed = sizes.fixed.iter().map(|(n, v)| ((*n).into(), *v)).collect();
        let plan = plan(&graph, &table, &Bounds { fixed, most: most.clone() });
        if cfg!(debug_assertions) {
            for program in [&plan.load, &plan.run] {
                lathe_ir::step::check(program).map_err(|e| EngineError::below(&e))?;
            }
        }
        let mut ids = vec![];
        for k in &plan.kernels {
            if cfg!(debug_assertions) {
                lathe_ir::tensor::check(&k.kernel).map_err(|e| EngineError::below(&e))?;
            }
            let contraction = matches!(k.parts.first(), Some((lathe_ir::graph::Form::Contraction, _)));
            let few = sizes.most.filter(|_| contraction);
            let key = format!("{few:?} {}", k.kernel);
            let id = match known.get(&key) {
                Some(id) => *id,
                None => {
                    let symbol = format!("k{}", kernels.len());
                    let schedule = schedule(k.kernel.clone(), &k.parts, target, few)
                        .map_err(|e| EngineError::below(&e))?;
                    debug_assert_eq!(
                        Schedule::replay(k.kernel.clone(), &schedule.trace())
                            .map(|s| s.kernel().clone())
                            .ok()
                            .as_ref(),
                        Some(schedule.kernel()),
                        "a kernel replays from its naive loops by its trace"
                    );
                    promises_kept(schedule.kernel())?;
                    let e = emit(schedule.kernel(), &symbol, dialect).map_err(|e| EngineError::below(&e))?;
                    known.insert(key, kernels.len());
                    kernels.push(Made {
                        symbol,
                        operators: k.operators.clone(),
                        class,
                        schedule,
                        source: e.source,
                        grid: e.grid,
                        workspace_bytes: e.workspace_bytes,
                    });
                    kernels.len() - 1
                }
            };
            ids.push(id);
        }
        plans.push((class, plan, ids));
    }
    let request = BuildRequest::new(units(&kernels, dialect), target);
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let library = KernelCache::new(cache)
        .load(&request, jobs, &mut |done, all| progress(Stage::Compile, done, all))
        .map_err(|e| EngineError::below(&e))?;
    let mut classes = vec![];
    for (name, plan, ids) in plans {
        let mut images = HashMap::new();
        for (k, id) in plan.kernels.iter().zip(ids) {
            let made = &kernels[id];
            let image = Image {
                function: library.kernel(&made.symbol).map_err(|e| EngineError::below(&e))?,
                kernel: made.schedule.kernel().clone(),
                grid: made.grid.clone(),
                workspace_bytes: made.workspace_bytes.clone(),
            };
            images.insert(k.name.clone(), image);
        }
        classes.push(Class { name, plan, images });
    }
    Ok(Compiled { graph, classes, kernels, library })
}

/// Checks that storage is padded as a kernel's schedule relies on: whole multiples by shape, or rows, which the planner
/// pads.
fn promises_kept(k: &lathe_ir::tensor::Kernel) -> Result<(), EngineError> {
    for v in k.views() {
        for f in &v.facts {
            if let Fact::Padded(d, m) = f {
                let whole = v.shape[*d].as_const().is_some_and(|n| n % m == 0);
                let rows = *d == 0 && lathe_rewrite::ROW_PADDING % m == 0 && v.shape[*d].as_const().is_none();
                if !whole && !rows {
                    let what = format!("nothing pads dimension {d} of '{}' to a multiple of {m}", v.name);
                    return Err(EngineError::Below(Box::new(Diagnostic::new(
                        "padding",
                        lathe_diagnostic::Fault::Bug,
                        what,
                    ))));
                }
            }
        }
    }
    Ok(())
}

/// Translation units of about equal length: large functions first, each to the shortest unit.
fn units(kernels: &[Made], dialect: &'static Dialect) -> Vec<String> {
    let mut units = vec![prelude(dialect, CTX_DECLARATION); kernels.len().clamp(1, 8)];
    let mut order: Vec<&Made> = kernels.iter().collect();
    order.sort_by_key(|k| std::cmp::Reverse(k.source.len()));
    for k in order {
        let shortest = units.iter_mut().min_by_key(|u| u.len()).expect("at least one unit");
        shortest.push_str(&k.source);
    }
    units
}
