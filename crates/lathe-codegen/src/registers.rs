//! Which temporaries can be named registers: every index is a constant once unrolled loops are written out, lane loops
//! excepted, which walk along the last dimension.

use lathe_ir::tensor::{Expr, For, Kernel, LANE, Node, Opaque, Stmt, UNROLLED};
use lathe_ir::{Layout, Name};
use lathe_schedule::{ends_alike, lane};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// How a register buffer is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A scalar variable for each element.
    Scalars,
    /// A vector variable for each run of lanes.
    Vectors,
}

/// The promotable buffers of a kernel.
pub(crate) fn promotable(k: &Kernel, memory: &str, lanes: i64) -> HashMap<Name, Kind> {
    let mut s = Scan {
        k,
        bounds: lathe_ir::tensor::loop_bounds(k),
        loops: vec![],
        kinds: HashMap::new(),
        bad: HashSet::new(),
        lanes,
    };
    s.body(&k.body);
    let mut out = HashMap::new();
    lathe_ir::tensor::for_each(&k.body, &mut |st| {
        if let Stmt::Alloc(b) = st
            && &*b.memory == memory
            && !s.bad.contains(&b.name)
            && b.shape.iter().all(|d| d.as_const().is_some())
            && b.layout == Layout::dense(b.dtype, &b.shape)
        {
            out.insert(b.name.clone(), s.kinds.get(&b.name).copied().unwrap_or(Kind::Scalars));
        }
    });
    out
}

struct Scan<'k> {
    k: &'k Kernel,
    bounds: lathe_ir::Bounds,
    loops: Vec<Arc<For>>,
    kinds: HashMap<Name, Kind>,
    bad: HashSet<Name>,
    lanes: i64,
}

impl Scan<'_> {
    fn body(&mut self, body: &[Stmt]) {
        for s in body {
            match s {
                Stmt::For(l) => {
                    self.expr(&l.extent);
                    self.loops.push(l.clone());
                    self.body(&l.body);
                    self.loops.pop();
                }
                Stmt::If(c, b) => {
                    self.expr(c);
                    self.body(b);
                }
                Stmt::Intrinsic(_, b) => self.body(b),
                Stmt::Store(b) => {
                    for (n, i) in &b.targets {
                        self.access(n, i);
                        i.iter().for_each(|e| self.expr(e));
                    }
                    b.values.iter().for_each(|v| self.expr(v));
                }
                Stmt::Alloc(_) => {}
            }
        }
    }

    fn expr(&mut self, e: &Expr) {
        e.visit(&mut |e| {
            if let Node::Load(n, i) = &**e {
                self.access(n, i);
            }
        });
    }

    fn access(&mut self, n: &Name, index: &[Expr]) {
        let Some(b) = self.k.buffer(n) else { return };
        let mut kind = Kind::Scalars;
        for l in self.loops.clone() {
            if !index.iter().any(|i| i.mentions(&l.var)) {
                continue;
            }
            match &*l.level {
                UNROLLED => {}
                LANE => {
                    let along = lane(&b, index, &l.var, &self.bounds);
                    let whole =
                        b.shape.last().and_then(lathe_ir::Int::as_const).is_some_and(|s| s % self.lanes == 0);
                    // Whole vectors are written, or of 32 bits those lanes that there are.
                    let fewer = l.extent.as_int().is_none_or(|n| n % self.lanes != 0);
                    let whole =
                        whole && (!fewer || b.dtype.bits() == 32 || ends_alike(self.k, n, self.lanes));
                    // As many lanes as there may be by what is known, all of which are written out.
                    let place = index.last().and_then(|i| Opaque::default().int(i, &self.bounds));
                    let most = place.and_then(|i| self.bounds.range(&i).hi);
                    let beyond = most.zip(b.shape.last().and_then(lathe_ir::Int::as_const));
                    let inside = beyond.is_none_or(|(most, n)| most < n);
                    if whole && inside && along.is_some_and(|a| a.stride == b.dtype.bits()) {
                        kind = Kind::Vectors;
                    } else {
                        self.bad.insert(n.clone());
                    }
                }
                _ => {
                    self.bad.insert(n.clone());
                }
            }
        }
        // Dimensions of the kernel are not constants either.
        if index.iter().any(|i| self.k.dims.iter().any(|d| i.mentions(d))) {
            self.bad.insert(n.clone());
        }
        if *self.kinds.entry(n.clone()).or_insert(kind) != kind {
            self.bad.insert(n.clone());
        }
    }
}
