//! What the compiler made of a graph, stage by stage, for people and for those who prove it.

use crate::compile::{Compiled, Draft, Made};
use lathe_ir::graph::Graph;
use lathe_rewrite::Plan;
use std::fmt::Write;

/// A stage on the way from a graph to code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// The graph, after all rewrites.
    Graph,
    /// The tensor programs, as lowered.
    Tensor,
    /// The schedule trace of each kernel, and the program that it makes.
    Schedule,
    /// The C that the compiler is given.
    C,
    /// The step programs of each class of sizes.
    Step,
}

/// What the compiler made of a graph.
#[derive(Clone)]
pub struct Overview<'a> {
    /// The graph after all rewrites.
    pub graph: &'a Graph,
    /// The distinct kernels; none where only a compiled file is there.
    pub kernels: &'a [Made],
    /// The plan of each class of sizes, by the class's name.
    pub plans: Vec<(&'static str, &'a Plan)>,
}

impl Draft {
    /// What was made so far.
    pub fn overview(&self) -> Overview<'_> {
        let plans = self.plans.iter().map(|(name, plan, _)| (*name, plan)).collect();
        Overview { graph: &self.graph, kernels: &self.kernels, plans }
    }
}

impl Compiled {
    /// What is left of it: graph and steps, and no kernels.
    pub fn overview(&self) -> Overview<'_> {
        let plans = self.classes.iter().map(|c| (c.name, &c.plan)).collect();
        Overview { graph: &self.graph, kernels: &[], plans }
    }
}

impl Overview<'_> {
    /// The kernels that have an operator, or all.
    pub fn kernels_of(&self, op: Option<&str>) -> impl Iterator<Item = &Made> {
        self.kernels.iter().filter(move |k| op.is_none_or(|op| k.operators.iter().any(|o| **o == *op)))
    }

    /// A stage as its text form; of kernels, those that have the operator where one is named.
    pub fn text(&self, what: Show, op: Option<&str>) -> String {
        let mut out = String::new();
        match what {
            Show::Graph => return self.graph.to_string(),
            Show::Step => {
                for (class, plan) in &self.plans {
                    let (load, run) = (&plan.load, &plan.run);
                    let _ = writeln!(out, "# {class}: {} bytes of temporaries", plan.arena_bytes);
                    let programs = [load, run].into_iter().filter(|p| !p.steps.is_empty());
                    programs.for_each(|p| out.push_str(&format!("{p}\n")));
                }
                return out;
            }
            Show::Tensor | Show::Schedule | Show::C => {}
        }
        for k in self.kernels_of(op) {
            let _ = writeln!(out, "# {} ({}): {}", k.symbol, k.class, k.operators.join(", "));
            match what {
                Show::Tensor => out.push_str(&k.schedule.original().to_string()),
                Show::C => out.push_str(&k.source),
                _ => {
                    out.push_str(&k.schedule.trace());
                    out.push_str(&k.schedule.kernel().to_string());
                }
            }
            out.push('\n');
        }
        out
    }
}
