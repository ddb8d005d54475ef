//! What a cost model sees of a scheduled kernel: counts of what it executes, by kind, in powers of two, and the cycles that these take
//! by themselves on a core that does two vector operations, two loads and a store in each.

use crate::Task;
use crate::space::Candidate;
use lathe_ir::Bounds;
use lathe_ir::tensor::{
    CORE, Expr, Kernel, LANE, Node, REGISTER, Stmt, Store, UNROLLED, WORKSPACE, loop_bounds,
};
use lathe_schedule::lane;
use std::collections::HashMap;

/// Choices of these names have a place of their own; others share one.
const NAMES: &[&str] = &["rows", "vectors", "columns", "block", "positions", "inside", "skew"];

/// Counts of a program.
#[derive(Clone, Debug, Default)]
struct Counts {
    /// Vector operations, and those on single elements.
    vector: f64,
    scalar: f64,
    /// Loads along the lanes, of one element for all lanes, and of elements apart.
    along: f64,
    repeated: f64,
    apart: f64,
    /// Stores to memory.
    stores: f64,
    /// Vectors in named registers.
    registers: f64,
    /// Statements in the body of an innermost loop, and its iterations.
    body: f64,
    inner: f64,
    loops: f64,
    /// Bytes of scratch memory.
    workspace: f64,
    /// Iterations that the cores share.
    grid: f64,
}

struct Walk<'k> {
    kernel: &'k Kernel,
    bounds: Bounds,
    dims: &'k [(lathe_ir::Name, i64)],
    memories: HashMap<lathe_ir::Name, lathe_ir::Name>,
    counts: Counts,
}

impl Walk<'_> {
    /// The iterations of a loop where those around it are at their start.
    fn extent(&self, e: &Expr) -> f64 {
        let at_start = e.rewrite(&|e| match &**e {
            Node::Var(n) => {
                let dim = self.dims.iter().find(|(d, _)| d == n);
                Some(Expr::from(dim.map_or(0, |(_, v)| *v)))
            }
            _ => None,
        });
        at_start.simplify_index(&Bounds::default()).as_int().unwrap_or(1).max(1) as f64
    }

    /// Walks statements that run `times`, `written` of which are written out in the loop around.
    fn body(&mut self, body: &[Stmt], times: f64, written: f64, lanes: Option<&str>) {
        for s in body {
            match s {
                Stmt::For(l) => {
                    let n = self.extent(&l.extent);
                    self.counts.loops += 1.0;
                    if *l.level == *LANE {
                        self.body(
                            &l.body,
                            times * (n / 16.0).ceil(),
                            written * (n / 16.0).ceil(),
                            Some(&l.var),
                        );
                        continue;
                    }
                    if *l.level == *CORE {
                        self.counts.grid = n;
                    }
                    let unrolled = *l.level == *UNROLLED;
                    let before = self.counts.body;
                    let written = if unrolled { written * n } else { 1.0 };
                    self.counts.body = 0.0;
                    self.body(&l.body, times * n, written, lanes);
                    if unrolled {
                        self.counts.body += before;
                    } else if self.counts.body > 0.0 {
                        self.counts.inner = self.counts.inner.max(n);
                        self.counts.body = self.counts.body.max(before);
                    }
                }
                Stmt::Store(b) => self.store(b, times, written, lanes),
                Stmt::Alloc(b) => {
                    self.memories.insert(b.name.clone(), b.memory.clone());
                    let elements: f64 =
                        b.shape.iter().map(|d| d.as_const().unwrap_or(1) as f64).product::<f64>().max(1.0);
                    if *b.memory == *REGISTER {
                        self.counts.registers += elements / 16.0;
                    } else if *b.memory == *WORKSPACE {
                        self.counts.workspace += elements * f64::from(b.dtype.bits() as u32) / 8.0;
                    }
                }
                Stmt::If(_, inner) | Stmt::Intrinsic(_, inner) => self.body(inner, times, written, lanes),
            }
        }
    }

    fn store(&mut self, b: &Store, times: f64, written: f64, lanes: Option<&str>) {
        self.counts.body += written;
        let mut operations = if b.reducer.is_some() { 1.0 } else { 0.0 };
        for v in &b.values {
            v.visit(&mut |e| match &**e {
                Node::Unary(..) | Node::Binary(..) | Node::Select(..) | Node::Cast(..) => operations += 1.0,
                Node::Load(n, i) if self.memories.get(n).is_none_or(|m| **m != *REGISTER) => {
                    let stride = lanes.and_then(|l| {
                        let b = self.kernel.buffer(n)?;
                        Some((lane(&b, i, l, &self.bounds)?.stride, b.dtype.bits()))
                    });
                    match stride {
                        Some((0, _)) => self.counts.repeated += times,
                        Some((stride, bits)) if stride == bits => self.counts.along += times,
                        _ => self.counts.apart += times,
                    }
                }
                _ => {}
            });
        }
        if lanes.is_some() {
            self.counts.vector += times * operations;
        } else {
            self.counts.scalar += times * operations;
        }
        let memory = b.targets.iter().filter(|(n, _)| self.memories.get(n).is_none_or(|m| **m != *REGISTER));
        self.counts.stores += times * memory.count() as f64;
    }
}

impl Counts {
    /// Cycles of all cores together, where nothing is known but counts: the busiest of a core's ports, and what keeps it from being
    /// busy.
    fn cycles(&self) -> f64 {
        let operations = self.vector / 2.0 + self.scalar / 3.0;
        let loads = (self.along + self.repeated) / 2.0 + self.apart;
        // Results of an operation are there four cycles later, and what has no register goes to memory and back.
        let (busy, kept) = (8.0 / self.registers.clamp(1.0, 8.0), (self.registers / 30.0).max(1.0));
        operations.max(loads).max(self.stores) * busy * kept
    }
}

/// Features of a candidate.
pub(crate) const FEATURES: usize = 14 + NAMES.len() + 1;

/// The place of the logarithm of its cycles.
pub(crate) const CYCLES: usize = 12;

/// The features of a candidate, [`FEATURES`] for all.
pub(crate) fn features(task: &Task, c: &Candidate, threads: usize) -> Vec<f64> {
    let kernel = c.schedule.kernel();
    let mut walk = Walk {
        kernel,
        bounds: loop_bounds(kernel),
        dims: &task.dims,
        memories: HashMap::new(),
        counts: Counts::default(),
    };
    walk.body(&kernel.body, 1.0, 1.0, None);
    let n = walk.counts;
    let threads = threads as f64;
    // What the cores wait for each other, at most.
    let uneven = (n.grid / threads).ceil() * threads / n.grid.max(1.0);
    let counts = [
        n.vector,
        n.scalar,
        n.along,
        n.repeated,
        n.apart,
        n.stores,
        n.registers,
        n.body,
        n.inner,
        n.loops,
        n.workspace,
        n.grid,
    ];
    let mut out: Vec<f64> = counts.iter().map(|n| (1.0 + n).log2()).collect();
    out.push((1.0 + n.cycles() * uneven).log2());
    out.push(uneven);
    let mut decided = vec![0.0; NAMES.len() + 1];
    for (name, value) in &c.decisions {
        let place = NAMES.iter().position(|n| n == name).unwrap_or(NAMES.len());
        decided[place] += (1.0 + *value as f64).log2();
    }
    out.extend(decided);
    out
}
