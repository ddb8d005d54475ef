//! From a graph to a step program: groups become naive kernels, values that cross groups get places in an arena, and
//! threads meet between steps that touch the same bytes.

use crate::group::groups;
use crate::parts::in_parts;
use lathe_ir::graph::{Form, Graph, Node, OpTable, Source, Type, ValueId, int_attr};
use lathe_ir::step::{ALONE, Part, Program, Step, StepBuffer, Storage, conflicts};
use lathe_ir::tensor::{Access, HOST, Kernel};
use lathe_ir::{Int, Name};
use lathe_ops::{group_shape, lower_group};
use lathe_schedule::Choices;
use std::collections::{HashMap, HashSet};

/// What is known of the dimensions when a plan is made, and of the machine.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    /// Dimensions with one value.
    pub fixed: HashMap<Name, i64>,
    /// Largest values of the others.
    pub most: HashMap<Name, i64>,
    /// Cores that share each step, where their number is known.
    pub cores: Option<usize>,
}

/// A kernel that a plan calls, as its operators' naive loops.
#[derive(Clone, Debug)]
pub struct PlannedKernel {
    /// Its name in the program.
    pub name: Name,
    /// The naive program.
    pub kernel: Kernel,
    /// Form and name prefix of each operator in it.
    pub parts: Vec<(Form, String)>,
    /// The operators' names, for people.
    pub operators: Vec<Name>,
}

impl PlannedKernel {
    /// Its operators and the shapes of its parameters, for people.
    pub fn describe(&self) -> String {
        let of = |p: &lathe_ir::tensor::Param| {
            let dims: Vec<_> = p.views[0].shape.iter().map(ToString::to_string).collect();
            dims.join("x")
        };
        let shapes: Vec<_> = self.kernel.params.iter().map(of).collect();
        format!("{} ({})", self.operators.join("+"), shapes.join(" "))
    }
}

/// A step program and the kernels it calls.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The steps that depend on constants only: run once, when the model is loaded.
    pub load: Program,
    /// The steps of a run.
    pub run: Program,
    /// The distinct kernels of both.
    pub kernels: Vec<PlannedKernel>,
    /// Bytes of the arena of the run's temporaries.
    pub arena_bytes: i64,
}

/// Rows are stored padded to a multiple of this, so that kernels may work in whole tiles of 12, 8, 6 or 4 rows.
pub const ROW_PADDING: i64 = 24;

const ALIGN: i64 = 64;

/// Calls behind a small one that may use what it writes.
const NEXT: usize = 4;

/// Bytes of a value's storage at its dimensions' upper bounds, with room for whole tiles of rows behind.
pub fn storage_bytes(t: &Type, most: &dyn Fn(&str) -> Option<i64>) -> usize {
    let padded = |d: &Int| match d.as_const() {
        Some(c) => Int::from(c),
        None => Int::from((d.eval(most).unwrap_or(0) + ROW_PADDING - 1) / ROW_PADDING * ROW_PADDING),
    };
    let t = Type { shape: t.shape.iter().map(padded).collect(), ..t.clone() };
    (t.bits().eval(most).unwrap_or(0).max(0) as usize).div_ceil(8)
}

struct Planner<'g> {
    g: &'g Graph,
    table: &'g OpTable,
    bounds: &'g Bounds,
    kernels: Vec<PlannedKernel>,
    known: HashMap<String, usize>,
    homes: Homes,
    /// The nodes that need no kernel: the same elements in another shape, and values that lie one behind the other already.
    alias: HashSet<usize>,
}

/// Values that lie in another one's storage, and at which byte of it: a linear value's successor, the same elements in another shape,
/// a part of what is joined.
#[derive(Default)]
struct Homes(HashMap<ValueId, (ValueId, i64)>);

impl Homes {
    /// The value that has storage of its own, and the byte of it where this one begins.
    fn of(&self, mut v: ValueId) -> (ValueId, i64) {
        let mut at = 0;
        while let Some((home, byte)) = self.0.get(&v) {
            (v, at) = (*home, at + byte);
        }
        (v, at)
    }
}

/// Plans a graph whose dimensions are known as `bounds` says.
pub fn plan(g: &Graph, table: &OpTable, bounds: &Bounds) -> Plan {
    plan_decided(g, table, bounds, &mut Choices::default())
}

/// The same with what is decided at choices of which operators become one kernel. Their names say operators and shapes, so that the same
/// ones are decided together.
pub fn plan_decided(g: &Graph, table: &OpTable, bounds: &Bounds, choices: &mut Choices) -> Plan {
    let g = &in_parts(g, table, &bounds.fixed, bounds.cores);
    let mut constant: HashSet<ValueId> = HashSet::new();
    for (i, v) in g.values.iter().enumerate() {
        if matches!(v.source, Source::Const(_)) {
            constant.insert(ValueId(i as u32));
        }
    }
    let (mut at_load, mut at_run) = (vec![], vec![]);
    for (i, n) in g.nodes.iter().enumerate() {
        if n.inputs.iter().all(|v| constant.contains(v)) {
            constant.extend(n.outputs.iter().copied());
            at_load.push(i);
        } else {
            at_run.push(i);
        }
    }
    let mut p = Planner {
        g,
        table,
        bounds,
        kernels: vec![],
        known: HashMap::new(),
        homes: Homes::default(),
        alias: HashSet::new(),
    };
    for n in &g.nodes {
        for (a, r) in table.get(&n.op).map_or(&[][..], |r| r.donates) {
            p.homes.0.insert(n.outputs[*r], (n.inputs[*a], 0));
        }
    }
    let all_given = |_: ValueId| true;
    let given =
        |v: ValueId| g.value(v).source != Source::Node || constant.contains(&v) || g.outputs.contains(&v);
    // Where nothing is updated in place.
    if p.homes.0.is_empty() && g.values.iter().all(|v| v.source != Source::State) {
        for (i, n) in g.nodes.iter().enumerate() {
            if reshapes(g, n) {
                p.homes.0.insert(n.outputs[0], (n.inputs[0], 0));
                p.alias.insert(i);
            } else if let Some(parts) = joined(g, n, &p.homes, &given) {
                p.homes.0.extend(parts);
                p.alias.insert(i);
            }
        }
    }
    let (load, _) = p.program(&format!("{}_load", g.name), &at_load, &all_given, choices);
    let (run, arena_bytes) = p.program(&g.name, &at_run, &given, choices);
    Plan { load, run, kernels: p.kernels, arena_bytes }
}

/// Whether a type is dense, of constant extents.
fn constant_shape(t: &Type) -> bool {
    t.encoding.is_none() && t.shape.iter().all(|d| d.as_const().is_some())
}

/// Whether a node's result is its argument's elements in another shape.
fn reshapes(g: &Graph, n: &Node) -> bool {
    &*n.op == "reshape" && constant_shape(g.ty(n.inputs[0])) && !g.outputs.contains(&n.outputs[0])
}

/// Where the arguments of a `concat` may be made inside its result, so that nothing is copied: each of them has storage of its own that
/// a kernel writes in this program, and they follow each other in memory at whole multiples of the alignment.
fn joined(
    g: &Graph,
    n: &Node,
    homes: &Homes,
    given: &dyn Fn(ValueId) -> bool,
) -> Option<Vec<(ValueId, (ValueId, i64))>> {
    let y = n.outputs[0];
    (&*n.op == "concat" && constant_shape(g.ty(y)) && !given(y)).then_some(())?;
    let axis = usize::try_from(int_attr(&n.attrs, "axis")?).ok()?;
    g.ty(y).shape.get(..axis)?.iter().all(|d| d.as_const() == Some(1)).then_some(())?;
    let (mut at, mut parts) = (0, vec![]);
    for v in &n.inputs {
        let bytes = storage_bytes(g.ty(*v), &|_| None) as i64;
        let (home, first) = homes.of(*v);
        let whole = first == 0 && storage_bytes(g.ty(home), &|_| None) as i64 == bytes;
        let own = whole && !given(home) && !given(*v) && parts.iter().all(|(p, _)| *p != home);
        (own && at % ALIGN == 0).then_some(())?;
        parts.push((home, (y, at)));
        at += bytes;
    }
    Some(parts)
}

impl Planner<'_> {
    fn most(&self, n: &str) -> Option<i64> {
        self.bounds.fixed.get(n).or_else(|| self.bounds.most.get(n)).copied()
    }

    /// Largest size of a value's storage, aligned.
    fn bytes(&self, v: ValueId) -> i64 {
        let bytes = storage_bytes(self.g.ty(v), &|n| self.most(n)) as i64;
        (bytes + ALIGN - 1) / ALIGN * ALIGN
    }

    /// Whether a call of a kernel touches little, row by row.
    fn is_small(&self, k: &PlannedKernel) -> bool {
        let bits: Option<i64> = k.kernel.params.iter().map(|p| p.bits.eval(&|n| self.most(n))).sum();
        let by_row = |(form, _): &(Form, String)| matches!(form, Form::Row | Form::Elementwise);
        k.parts.iter().all(by_row) && bits.is_some_and(|n| n <= 8 * ALONE)
    }

    fn program(
        &mut self,
        name: &str,
        nodes: &[usize],
        given: &dyn Fn(ValueId) -> bool,
        choices: &mut Choices,
    ) -> (Program, i64) {
        let g = self.g;
        let groups = groups(g, self.table, nodes, &self.bounds.fixed, choices);
        let mut readers: HashMap<ValueId, HashSet<usize>> = HashMap::new();
        for (gi, group) in groups.iter().enumerate() {
            for v in group.iter().flat_map(|n| &g.nodes[*n].inputs) {
                readers.entry(*v).or_default().insert(gi);
            }
        }
        let mut program = Program {
            name: name.into(),
            dims: g.dims.iter().map(|(n, _)| n.clone()).collect(),
            ..Program::default()
        };
        let mut calls: Vec<(Name, Vec<(ValueId, bool)>)> = vec![];
        let mut small: Vec<bool> = vec![];
        let mut life: HashMap<ValueId, (usize, usize)> = HashMap::new();
        for (gi, group) in groups.iter().enumerate() {
            if group.iter().all(|n| self.alias.contains(n)) {
                continue;
            }
            let outside =
                |v: ValueId| given(v) || readers.get(&v).is_some_and(|r| r.iter().any(|x| *x != gi));
            let shape = group_shape(g, self.table, group, &outside);
            let next = self.kernels.len();
            let id = *self.known.entry(shape.key).or_insert(next);
            if id == next {
                let k = lower_group(g, self.table, group, &outside, &self.bounds.fixed);
                let operators = group.iter().map(|n| g.nodes[*n].op.clone()).collect();
                let name = format!("k{next}").into();
                self.kernels.push(PlannedKernel { name, kernel: k.kernel, parts: k.parts, operators });
            }
            let args: Vec<(ValueId, bool)> =
                shape.args.iter().zip(&shape.access).map(|(v, a)| (*v, *a != Access::In)).collect();
            for (v, _) in &args {
                let l = life.entry(self.homes.of(*v).0).or_insert((calls.len(), calls.len()));
                l.1 = calls.len();
            }
            calls.push((self.kernels[id].name.clone(), args));
            small.push(self.is_small(&self.kernels[id]));
        }
        // Threads that are not as far may still read what a small call reads while others use what it writes.
        for (at, (_, args)) in calls.iter().enumerate().filter(|(at, _)| small[*at]) {
            let used = args.iter().filter(|(_, w)| *w).map(|(v, _)| life[&self.homes.of(*v).0].1).max();
            let used = used.filter(|last| (at + 1..=at + NEXT).contains(last)).unwrap_or(at);
            for (v, _) in args {
                let l = life.get_mut(&self.homes.of(*v).0).expect("a call touches it");
                l.1 = l.1.max(used);
            }
        }

        let mut order: Vec<(ValueId, (usize, usize))> = life.into_iter().collect();
        order.sort_by_key(|(v, (born, _))| (*born, std::cmp::Reverse(self.bytes(*v)), *v));
        let temporaries: Vec<Temporary> = (order.iter().filter(|(v, _)| !given(*v)))
            .map(|(v, life)| Temporary { value: *v, bytes: self.bytes(*v), life: *life })
            .collect();
        let (places, arena) = places(temporaries);
        let mut index: HashMap<ValueId, u32> = HashMap::new();
        for (v, _) in order {
            let storage = places.get(&v).map_or(Storage::Given, |at| Storage::Planned(*at));
            index.insert(v, program.buffers.len() as u32);
            program.buffers.push(StepBuffer {
                name: g.value(v).name.clone(),
                bytes: self.bytes(v).into(),
                tier: HOST.into(),
                storage,
            });
        }
        let mut open: Vec<Step> = vec![];
        for (kernel, args) in calls {
            let (values, writes): (Vec<ValueId>, Vec<bool>) = args.into_iter().unzip();
            let part = |v: &ValueId| {
                let (home, at) = self.homes.of(*v);
                let (whole, bytes) = (self.bytes(home), self.bytes(*v).min(self.bytes(home) - at));
                Part { buffer: index[&home], range: (bytes < whole).then(|| (at.into(), bytes.into())) }
            };
            let args = values.iter().map(part).collect();
            let step = Step::Call { kernel, args, writes };
            if open.iter().any(|o| conflicts(&program, o, &step, &|_| None)) {
                program.steps.push(Step::Meet);
                open.clear();
            }
            open.push(step.clone());
            program.steps.push(step);
        }
        (program, arena)
    }
}

/// A value that crosses kernels: its storage, and the first and the last call that touches it.
#[derive(Clone, Copy)]
struct Temporary {
    value: ValueId,
    bytes: i64,
    life: (usize, usize),
}

/// Places of temporaries, which are in the order of their first calls, and the bytes of all: one after the other, each at the lowest
/// place that is free as long as it lives, in that order or the largest first (Pisarchyk and Lee, "Efficient Memory Management for
/// Deep Neural Net Inference", 2020), whichever takes less.
fn places(by_birth: Vec<Temporary>) -> (HashMap<ValueId, i64>, i64) {
    let mut by_size = by_birth.clone();
    by_size.sort_by_key(|t| std::cmp::Reverse(t.bytes));
    let (born, sized) = (first_fit(by_birth), first_fit(by_size));
    if sized.1 < born.1 { sized } else { born }
}

fn first_fit(order: Vec<Temporary>) -> (HashMap<ValueId, i64>, i64) {
    let mut placed: Vec<(i64, Temporary)> = vec![];
    for t in order {
        let mut at = 0;
        for (start, other) in &placed {
            let together = other.life.0 <= t.life.1 && t.life.0 <= other.life.1;
            if together && at + t.bytes <= *start {
                break;
            }
            if together {
                at = at.max(start + other.bytes);
            }
        }
        let behind = placed.partition_point(|(start, _)| *start <= at);
        placed.insert(behind, (at, t));
    }
    let end = placed.iter().map(|(at, t)| at + t.bytes).max().unwrap_or(0);
    (placed.into_iter().map(|(at, t)| (t.value, at)).collect(), end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporaries_that_live_together_share_no_byte() {
        let mut state = 1u64;
        let mut random = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        for _ in 0..200 {
            let mut all: Vec<Temporary> = (0..40)
                .map(|i| {
                    let born = random(30) as usize;
                    let life = (born, born + random(6) as usize);
                    Temporary { value: ValueId(i), bytes: 64 * (1 + random(50)) as i64, life }
                })
                .collect();
            all.sort_by_key(|t| t.life.0);
            let (at, end) = places(all.clone());
            for step in 0..36 {
                let alive = all.iter().filter(|t| (t.life.0..=t.life.1).contains(&step));
                let mut there: Vec<(i64, i64)> = alive.map(|t| (at[&t.value], t.bytes)).collect();
                there.sort_unstable();
                assert!(there.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0));
                assert!(there.iter().all(|(at, bytes)| *at >= 0 && at + bytes <= end));
            }
            assert!(end <= first_fit(all.clone()).1);
        }
    }

    #[test]
    fn the_largest_first_takes_less_where_small_ones_were_in_the_way() {
        let t = |value, bytes, life| Temporary { value: ValueId(value), bytes, life };
        // A small one that lives on above a dead one keeps a large one from the bottom.
        let all = vec![t(0, 64, (0, 1)), t(1, 64, (0, 3)), t(2, 128, (2, 3))];
        assert_eq!((first_fit(all.clone()).1, places(all).1), (256, 192));
    }
}
