//! The kernels of a compiled graph that can be tuned.

use crate::measure::{bytes, ragged};
use lathe_compile::Made;
use lathe_ir::Name;
use lathe_ir::graph::Form;
use lathe_ir::tensor::{Access, Kernel};

/// Bytes that a run of the whole may read and still find in a cache the next time.
const CACHED: usize = 48 << 20;

/// A kernel to tune.
#[derive(Clone, Debug)]
pub struct Task {
    /// What findings are kept under.
    pub key: String,
    /// What it is, for people.
    pub name: String,
    /// The naive program.
    pub kernel: Kernel,
    /// The form and name prefix of each operator in it.
    pub parts: Vec<(Form, String)>,
    /// Most rows of a product, when few.
    pub few: Option<i64>,
    /// How often a run calls it.
    pub calls: usize,
    /// The sizes to tune for: the largest.
    pub dims: Vec<(Name, i64)>,
    /// Whether what it reads comes from memory and not from a cache.
    pub cold: bool,
}

/// The kernels of a graph whose loops' lengths are no data, with the largest sizes of its dimensions.
pub fn tasks(kernels: &[Made], most: &[(Name, i64)]) -> Vec<Task> {
    let dims = |k: &Kernel| -> Option<Vec<(Name, i64)>> {
        k.dims.iter().map(|d| Some((d.clone(), most.iter().find(|(n, _)| n == d)?.1))).collect()
    };
    let task = |m: &Made| {
        let kernel = m.schedule.original().clone();
        let dims = dims(&kernel)?;
        let fits = m.calls > 0 && !ragged(&kernel);
        fits.then(|| Task {
            key: m.key.clone(),
            name: describe(m),
            parts: m.parts.clone(),
            few: m.few,
            calls: m.calls,
            dims,
            cold: false,
            kernel,
        })
    };
    let mut all: Vec<Task> = kernels.iter().filter_map(task).collect();
    let reads = |t: &Task| -> usize {
        let read = t.kernel.params.iter().filter(|p| p.access == Access::In);
        t.calls * read.map(|p| bytes(p, &t.dims)).sum::<usize>()
    };
    let cold = all.iter().map(reads).sum::<usize>() > CACHED;
    all.iter_mut().for_each(|t| t.cold = cold);
    all
}

/// The operators of a kernel, and the first of them that has a name.
fn describe(m: &Made) -> String {
    match m.operators.as_slice() {
        [] => m.symbol.clone(),
        [one] => format!("{} {one} ({})", m.symbol, m.class),
        [first, rest @ ..] => format!("{} {first} and {} more ({})", m.symbol, rest.len(), m.class),
    }
}
