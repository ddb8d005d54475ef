//! Processes and channels, read off a kernel before it runs: which process pushes to a channel and which pops from it.
//!
//! A loop at the level [`PROCESS`] stands for processes, one an iteration; adjacent ones run concurrently, and the body
//! goes on when all have ended. A buffer in the memory [`CHANNEL`] is an array of first-in-first-out channels, whose last
//! dimension is their depth and takes no index. A block that stores to one pushes, and a block whose whole value is an
//! element of one pops; both wait. As each channel has one producer and one consumer, and no process sees what another
//! one writes, the result does not depend on who runs when (a Kahn network).

use super::{Binary, Buffer, Expr, For, Kernel, Node, Opaque, Stmt, Store, for_each};
use crate::{Bounds, IrError, Name};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// The level of a loop whose iterations are processes.
pub const PROCESS: &str = "process";
/// The memory of channels.
pub const CHANNEL: &str = "channel";

/// Iterations that are looked at to find who uses a channel; more are refused.
const MOST_STEPS: usize = 1 << 18;

/// An element of an array of channels.
pub type End = (Name, Vec<i64>);

/// A process, as known before the run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Its name in messages: `load`, or `i=2 j=3` for an iteration of two loops.
    pub label: String,
    /// The process loops around it and the iteration of each, outermost first.
    pub vars: Vec<(Name, i64)>,
    /// Channels it pushes to.
    pub pushes: BTreeSet<End>,
    /// Channels it pops from.
    pub pops: BTreeSet<End>,
}

/// The label of an iteration of a process loop.
pub(super) fn label(outer: &str, l: &For, i: i64, n: i64) -> String {
    let own = if n == 1 { l.var.to_string() } else { format!("{}={i}", l.var) };
    if outer.is_empty() { own } else { format!("{outer} {own}") }
}

/// A channel as `c[1, 2]`.
pub(super) fn shown((name, index): &End) -> String {
    format!("{name}{index:?}")
}

/// The length of the run of adjacent process loops that a body begins with.
pub fn network(body: &[Stmt]) -> usize {
    body.iter().take_while(|s| matches!(s, Stmt::For(l) if &*l.level == PROCESS)).count()
}

/// The channel that a block pops from, given which buffers are channels.
pub fn popped<'s>(s: &'s Store, is_channel: &dyn Fn(&str) -> bool) -> Option<(&'s Name, &'s [Expr])> {
    match s.values.as_slice() {
        [v] => match &**v {
            Node::Load(n, i) if is_channel(n) => Some((n, i)),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a kernel has processes or channels.
pub fn is_network(k: &Kernel) -> bool {
    let mut found = false;
    for_each(&k.body, &mut |s| {
        found |= match s {
            Stmt::For(l) => &*l.level == PROCESS,
            Stmt::Alloc(b) => &*b.memory == CHANNEL,
            _ => false,
        };
    });
    found
}

/// The value of an index expression, when its variables are known.
fn number(e: &Expr, vars: &HashMap<Name, i64>) -> Option<i64> {
    Opaque::default().int(e, &Bounds::new())?.eval(&|n| vars.get(n).copied())
}

/// The value of a condition, when its variables are known.
fn truth(e: &Expr, vars: &HashMap<Name, i64>) -> Option<bool> {
    let Node::Binary(op, x, y) = &**e else { return None };
    Some(match op {
        Binary::And => truth(x, vars)? & truth(y, vars)?,
        Binary::Or => truth(x, vars)? | truth(y, vars)?,
        Binary::Lt => number(x, vars)? < number(y, vars)?,
        Binary::Le => number(x, vars)? <= number(y, vars)?,
        Binary::Eq => number(x, vars)? == number(y, vars)?,
        Binary::Ne => number(x, vars)? != number(y, vars)?,
        _ => return None,
    })
}

struct Walk<'k> {
    kernel: &'k Kernel,
    channels: HashMap<Name, Buffer>,
    /// Variables that pick channels, or say whether one is used.
    picking: HashSet<Name>,
    vars: HashMap<Name, i64>,
    steps: usize,
    out: Vec<Process>,
}

/// The processes of a kernel, outer ones before inner ones, the kernel itself first when it has any; each with the
/// channels it uses. Refuses a channel with two producers or two consumers, or without either.
pub fn processes(k: &Kernel) -> Result<Vec<Process>, IrError> {
    if !is_network(k) {
        return Ok(vec![]);
    }
    let mut channels = HashMap::new();
    for_each(&k.body, &mut |s| match s {
        Stmt::Alloc(b) if &*b.memory == CHANNEL => {
            channels.insert(b.name.clone(), (**b).clone());
        }
        _ => {}
    });
    let whole = Process { label: k.name.to_string(), ..Process::default() };
    let mut w = Walk {
        kernel: k,
        channels,
        picking: HashSet::new(),
        vars: HashMap::new(),
        steps: 0,
        out: vec![whole],
    };
    w.picks(&k.body);
    w.body(&k.body, 0)?;
    let mut ends: BTreeMap<&End, [Option<&str>; 2]> = BTreeMap::new();
    for p in &w.out {
        for (side, (verb, used)) in
            [("pushed to", &p.pushes), ("popped from", &p.pops)].into_iter().enumerate()
        {
            for end in used {
                if let Some(other) = ends.entry(end).or_default()[side].replace(&p.label) {
                    return w
                        .fail(&end.0, format!("{} is {verb} by '{other}' and by '{}'", shown(end), p.label));
                }
            }
        }
    }
    for (end, sides) in &ends {
        match sides {
            [Some(p), None] => {
                return w.fail(&end.0, format!("'{p}' pushes to {} and nobody pops", shown(end)));
            }
            [None, Some(p)] => {
                return w.fail(&end.0, format!("'{p}' pops from {} and nobody pushes", shown(end)));
            }
            _ => {}
        }
    }
    Ok(w.out)
}

impl Walk<'_> {
    fn fail<T>(&self, place: &str, message: impl Into<String>) -> Result<T, IrError> {
        Err(IrError::check(format!("{}/{place}", self.kernel.name), message))
    }

    /// Collects the variables that pick channels; says whether a body uses one.
    fn picks(&mut self, body: &[Stmt]) -> bool {
        let mut uses = false;
        let take = |e: &Expr, to: &mut HashSet<Name>| {
            e.visit(&mut |e| {
                if let Node::Var(n) = &**e {
                    to.insert(n.clone());
                }
            });
        };
        for s in body {
            uses |= match s {
                Stmt::For(l) => self.picks(&l.body),
                Stmt::Intrinsic(_, b) => self.picks(b),
                Stmt::If(c, b) => {
                    let inside = self.picks(b);
                    if inside {
                        take(c, &mut self.picking);
                    }
                    inside
                }
                Stmt::Alloc(_) => false,
                Stmt::Store(s) => {
                    let pop = popped(s, &|n| self.channels.contains_key(n));
                    let ends: Vec<_> = s
                        .targets
                        .iter()
                        .filter(|(n, _)| self.channels.contains_key(n))
                        .map(|(_, i)| i.as_slice())
                        .chain(pop.map(|(_, i)| i))
                        .collect();
                    ends.iter().copied().flatten().for_each(|e| take(e, &mut self.picking));
                    !ends.is_empty()
                }
            };
        }
        uses
    }

    fn end(&self, s: &Store, n: &Name, index: &[Expr]) -> Result<End, IrError> {
        let Some(at) = index.iter().map(|e| number(e, &self.vars)).collect::<Option<Vec<_>>>() else {
            return self
                .fail(&s.name, format!("which element of '{n}' is meant is not known before the run"));
        };
        let shape = &self.channels[n].shape;
        let inside = at.iter().zip(shape).all(|(i, s)| *i >= 0 && s.as_const().is_some_and(|s| *i < s));
        let end = (n.clone(), at);
        if inside { Ok(end) } else { self.fail(&s.name, format!("there is no channel {}", shown(&end))) }
    }

    fn body(&mut self, body: &[Stmt], process: usize) -> Result<(), IrError> {
        for s in body {
            self.steps += 1;
            if self.steps > MOST_STEPS {
                return self.fail("", "too many processes and channels");
            }
            match s {
                Stmt::For(l) => self.for_(l, process)?,
                Stmt::If(c, b) => {
                    if truth(c, &self.vars) != Some(false) {
                        self.body(b, process)?;
                    }
                }
                Stmt::Intrinsic(_, b) => self.body(b, process)?,
                Stmt::Alloc(_) => {}
                Stmt::Store(s) => {
                    if let Some((n, i)) = popped(s, &|n| self.channels.contains_key(n)) {
                        let end = self.end(s, n, i)?;
                        self.out[process].pops.insert(end);
                    }
                    for (n, i) in s.targets.iter().filter(|(n, _)| self.channels.contains_key(n)) {
                        let end = self.end(s, n, i)?;
                        self.out[process].pushes.insert(end);
                    }
                }
            }
        }
        Ok(())
    }

    fn for_(&mut self, l: &For, process: usize) -> Result<(), IrError> {
        let is_process = &*l.level == PROCESS;
        if !is_process && !self.picking.contains(&l.var) {
            return self.body(&l.body, process);
        }
        let Some(n) = number(&l.extent, &self.vars) else {
            return self.fail(&l.var, "processes and the loops that pick channels have constant extents");
        };
        for i in 0..n {
            self.vars.insert(l.var.clone(), i);
            let mut inner = process;
            if is_process {
                inner = self.out.len();
                let outer = &self.out[process];
                let around = if process == 0 { "" } else { &outer.label };
                let vars = [outer.vars.as_slice(), &[(l.var.clone(), i)]].concat();
                self.out.push(Process { label: label(around, l, i, n), vars, ..Process::default() });
            }
            self.body(&l.body, inner)?;
        }
        self.vars.remove(&l.var);
        Ok(())
    }
}
