//! Graph passes: gradients, precision, constant packing, grouping into kernels, and memory planning.
//!
//! [`PASSES`] names the passes from graph to graph; [`plan()`] turns a graph into a step program and the naive kernels it
//! calls; a [`Stream`] brings constants that lie on another tier.
//!
//! ```
//! use lathe_ir::graph::parse;
//! let table = lathe_ops::table();
//! let target = lathe_machine::Target::portable();
//! let mut g = parse("graph f(T <= 4) {
//!   x: f32[T, 64] = input
//!   w: f32[32, 64]{q4_0} = const \"w\"
//!   y: f32[T, 32] = matmul(x, w)
//!   return y
//! }").unwrap();
//! for name in ["pack", "quantize"] {
//!     g = lathe_rewrite::pass(name).unwrap().run(&g, &table, &target).unwrap();
//! }
//! assert!(g.to_string().contains("encode(x)"));
//! ```

mod attention;
mod filters;
mod gradient;
mod group;
mod halves;
mod hold;
mod pack;
mod parts;
mod plan;
mod quantize;
mod rows;
mod spill;
mod split;
mod stream;
mod winograd;

pub use gradient::differentiate;
pub use hold::{EXPERTS, EXPERTS_HELD, Hold, Rows, Sliced};
pub use parts::in_parts;
pub use plan::{Bounds, Plan, PlannedKernel, ROW_PADDING, plan, plan_decided, storage_bytes};
pub use spill::{CACHE, CACHE_WINDOW, PAGES_NEW, PAGES_USED, Spill, Spilled};
pub use split::{EXPERTS_AWAY, EXPERTS_HERE, Split};
pub use stream::{Extent, Load, RELAY, RELAY_STORE, STORE, Stream, WINDOW, only_used, read_once};

use lathe_ir::graph::{Graph, OpTable};
use lathe_ir::{Int, IrError};
use lathe_machine::Target;
use lathe_schedule::{Choices, Tag};

/// A pass from graph to graph.
pub struct Pass {
    /// Name, for pipelines and file tests.
    pub name: &'static str,
    /// What it does.
    pub doc: &'static str,
    /// How results may differ; a pass that approximates says how near, and whether it encodes arguments or computes otherwise.
    pub tag: Tag,
    run: fn(&Graph, &OpTable, &Target, &mut Choices) -> Result<Graph, IrError>,
}

impl Pass {
    /// Runs the pass for a machine as its own rules choose; in debug builds the result is checked.
    pub fn run(&self, g: &Graph, table: &OpTable, target: &Target) -> Result<Graph, IrError> {
        self.decided(g, table, target, &mut Choices::default())
    }

    /// Runs the pass with what is decided at its choices. Their names say what is chosen of by its shapes, so that operators of the
    /// same shapes are decided together.
    pub fn decided(
        &self,
        g: &Graph,
        table: &OpTable,
        target: &Target,
        choices: &mut Choices,
    ) -> Result<Graph, IrError> {
        let out = (self.run)(g, table, target, choices)?;
        if cfg!(debug_assertions) {
            lathe_ir::graph::check(&out, table)?;
        }
        Ok(out)
    }
}

/// All passes.
pub static PASSES: &[Pass] = &[
    rows::ROWS,
    pack::PACK,
    quantize::QUANTIZE,
    halves::HALVES,
    filters::FILTERS,
    winograd::WINOGRAD,
    attention::ATTENTION,
];

/// Sizes in the name of a choice: without spaces.
pub(crate) fn sizes(shape: &[Int]) -> String {
    let each = shape.iter().map(|n| n.to_string().split_whitespace().collect::<String>());
    each.collect::<Vec<_>>().join("x")
}

/// The pass of a name.
pub fn pass(name: &str) -> Option<&'static Pass> {
    PASSES.iter().find(|p| p.name == name)
}
