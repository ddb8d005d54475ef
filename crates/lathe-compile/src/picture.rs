//! What the compiler made, as pictures: the graph by its kernels, a kernel's schedule, and memory over time.

mod groups;
mod memory;
mod tree;

use crate::Overview;
use lathe_draw::Picture;
use lathe_ir::step::{Program, Step};
use lathe_rewrite::Plan;

impl Overview<'_> {
    /// Each class's step program, with a heading: the kernels that it calls as boxes of the operators that became one, under those whose
    /// results they read.
    pub fn graph_pictures(&self) -> Vec<(String, Picture)> {
        let one = |(class, plan): &(&'static str, &Plan)| {
            (format!("graph ({class})"), groups::picture(self.graph, plan))
        };
        self.plans.iter().map(one).collect()
    }

    /// The scheduled loops of each kernel that has the operator (or of all) as a tree, beside the steps that made them.
    pub fn schedule_pictures(&self, op: Option<&str>) -> Vec<(String, Picture)> {
        let title = |k: &crate::Made| format!("{} ({}): {}", k.symbol, k.class, k.operators.join(", "));
        self.kernels_of(op)
            .map(|k| (title(k), tree::picture(k.schedule.kernel(), &k.schedule.trace())))
            .collect()
    }

    /// Each class's temporaries: steps from left to right, bytes of the arena upwards, and how many of them are alive.
    pub fn memory_pictures(&self) -> Vec<(String, Picture)> {
        let one =
            |(class, plan): &(&'static str, &Plan)| (format!("memory ({class})"), memory::picture(plan));
        self.plans.iter().map(one).collect()
    }
}

/// A call of a program: the kernel's name, the buffers it reads, and those it writes.
struct Call<'p> {
    kernel: &'p str,
    reads: Vec<usize>,
    writes: Vec<usize>,
}

/// The calls of a program, in order.
fn calls(program: &Program) -> Vec<Call<'_>> {
    let mut out = vec![];
    for s in &program.steps {
        let Step::Call { kernel, args, writes } = s else { continue };
        let mut c = Call { kernel, reads: vec![], writes: vec![] };
        for (part, written) in args.iter().zip(writes) {
            if *written { &mut c.writes } else { &mut c.reads }.push(part.buffer as usize);
        }
        out.push(c);
    }
    out
}
