//! The checker: refuses malformed tensor programs and names the place.

use super::{
    Access, Buffer, CHANNEL, Expr, Fact, For, Iter, Kernel, Node, Opaque, PROCESS, Stmt, Store, Unary, apart,
    for_each, loop_bounds, network, popped, processes,
};
use crate::{Bounds, DType, IrError, Name};
use std::collections::{HashMap, HashSet};

/// The type of an expression, given the buffers in scope; `None` when it is ill-typed.
pub fn expr_type(e: &Expr, buffers: &dyn Fn(&str) -> Option<DType>) -> Option<DType> {
    match &**e {
        Node::Int(_, t) | Node::Float(_, t) => Some(*t),
        Node::Var(_) => Some(DType::INDEX),
        Node::Unary(_, a) => expr_type(a, buffers),
        Node::Cast(t, a) => expr_type(a, buffers).map(|_| *t),
        Node::Bitcast(t, a) => (expr_type(a, buffers)?.bits() == t.bits()).then_some(*t),
        Node::Binary(op, a, b) => {
            let (a, b) = (expr_type(a, buffers)?, expr_type(b, buffers)?);
            (a == b).then_some(if op.is_comparison() { DType::BOOL } else { a })
        }
        Node::Select(c, a, b) => {
            let (a, b) = (expr_type(a, buffers)?, expr_type(b, buffers)?);
            (expr_type(c, buffers)? == DType::BOOL && a == b).then_some(a)
        }
        Node::Load(n, _) => buffers(n),
        Node::Table(t, v, a) => {
            let fits = t.is_int() && !v.is_empty() && v.iter().all(|c| t.wrap(*c) == *c);
            (fits && expr_type(a, buffers)?.is_int()).then_some(*t)
        }
    }
}

struct Checker<'k> {
    kernel: &'k Kernel,
    buffers: HashMap<Name, (&'k Buffer, usize)>,
    writable: HashSet<Name>,
    bounds: Bounds,
    /// In a loop that has no iterations: nothing collides.
    never: bool,
    loops: Vec<(Name, Iter)>,
    names: HashSet<Name>,
}

/// Checks names, scopes, types, ranks, access, and that iterations of spatial loops write apart.
pub fn check(kernel: &Kernel) -> Result<(), IrError> {
    let mut c = Checker {
        kernel,
        buffers: HashMap::new(),
        writable: HashSet::new(),
        bounds: loop_bounds(kernel),
        never: false,
        loops: vec![],
        names: HashSet::new(),
    };
    for (i, p) in kernel.params.iter().enumerate() {
        if kernel.params[..i].iter().any(|q| q.name == p.name) {
            return c.fail(&p.name, "two parameters of this name");
        }
        for v in &p.views {
            c.shape(v)?;
            if c.buffers.insert(v.name.clone(), (v, 0)).is_some() {
                return c.fail(&v.name, "two buffers of this name");
            }
            if &*v.memory == CHANNEL {
                return c.fail(&v.name, "a parameter is no channel");
            }
            if p.access != Access::In {
                c.writable.insert(v.name.clone());
            }
        }
        if p.access != Access::In {
            c.views_apart(&p.views)?;
        }
    }
    for v in kernel.views() {
        for f in &v.facts {
            if matches!(f, Fact::Padded(d, m) if *m < 1 || *d >= v.shape.len()) {
                return c.fail(&v.name, "a dimension that it has is padded to a multiple of at least 1");
            }
            if let Fact::Ascending(o) = f
                && c.buffers.get(o).is_none_or(|(b, _)| b.shape.len() != 1)
            {
                return c.fail(&v.name, format!("'{o}' is no vector of offsets"));
            }
        }
    }
    for a in &kernel.axes {
        c.loops = a.parents.iter().map(|p| (p.clone(), Iter::Spatial)).collect();
        let length = c.expr(&a.name, &a.length)?;
        c.loops.push((a.name.clone(), Iter::Spatial));
        if length != DType::INDEX || c.expr(&a.name, &a.at)? != DType::INDEX {
            return c.fail(&a.name, "the axis's length or coordinate is not an index");
        }
        c.loops.clear();
    }
    c.body(&kernel.body)?;
    processes(kernel).map(|_| ())
}

impl<'k> Checker<'k> {
    fn fail<T>(&self, place: &str, message: impl Into<String>) -> Result<T, IrError> {
        Err(IrError::check(format!("{}/{place}", self.kernel.name), message))
    }

    /// Refuses views of what is written that may share a bit: whoever moves a statement looks at names.
    fn views_apart(&self, views: &[Buffer]) -> Result<(), IrError> {
        for (i, v) in views.iter().enumerate() {
            if let Some(other) = views[..i].iter().find(|other| !apart(other, v, &self.bounds)) {
                return self
                    .fail(&v.name, format!("it may share bits with '{}', and is written", other.name));
            }
        }
        Ok(())
    }

    /// Refuses a shape that names what is not there: any number for what is tells.
    fn shape(&self, b: &Buffer) -> Result<(), IrError> {
        let known = |v: &str| {
            let dim = self.kernel.dims.iter().any(|d| &**d == v);
            (dim || self.loops.iter().any(|(l, _)| &**l == v)).then_some(1009)
        };
        match b.shape.iter().find(|n| n.eval(&known).is_none()) {
            Some(n) => self.fail(&b.name, format!("its extent {n} is not known here")),
            None => Ok(()),
        }
    }

    fn is_fixed(&self, e: &Expr) -> bool {
        matches!(expr_type(e, &|n| self.buffers.get(n).map(|(b, _)| b.dtype)), Some(DType::Fixed { .. }))
    }

    fn at_most(&self, extent: &Expr, iterations: i64) -> bool {
        let n = Opaque::default().int(extent, &self.bounds);
        n.and_then(|n| self.bounds.range(&n).hi).is_some_and(|most| most <= iterations)
    }

    fn is_channel(&self, n: &str) -> bool {
        self.buffers.get(n).is_some_and(|(b, _)| &*b.memory == CHANNEL)
    }

    /// Refuses an expression that is a pop: it would be of no certain number and order.
    fn pure(&self, place: &str, e: &Expr) -> Result<(), IrError> {
        let mut pop = None;
        e.visit(&mut |e| match &**e {
            Node::Load(n, _) if self.is_channel(n) => pop = Some(n.clone()),
            _ => {}
        });
        pop.map_or(Ok(()), |n| self.fail(place, format!("a pop from '{n}' is the whole of a block")))
    }

    fn expr(&self, place: &str, e: &Expr) -> Result<DType, IrError> {
        let mut bad = None;
        e.visit(&mut |e| match &**e {
            Node::Var(n) if !self.loops.iter().any(|(l, _)| l == n) && !self.kernel.dims.contains(n) => {
                bad = Some(format!("'{n}' is not in scope"));
            }
            Node::Load(n, i) => match self.buffers.get(n) {
                None => bad = Some(format!("buffer '{n}' is not in scope")),
                Some((b, _)) if rank(b) != i.len() => {
                    bad = Some(format!("'{n}' has rank {}, indexed by {}", rank(b), i.len()));
                }
                _ => {}
            },
            Node::Unary(op, a) if *op != Unary::Neg && self.is_fixed(a) => {
                bad = Some(format!("fixed point has no '{}'", op.name()));
            }
            Node::Binary(op, a, _) if !op.of_fixed() && self.is_fixed(a) => {
                bad = Some(format!("fixed point has no '{}'", op.spelling().0));
            }
            _ => {}
        });
        if let Some(b) = bad {
            return self.fail(place, b);
        }
        match expr_type(e, &|n| self.buffers.get(n).map(|(b, _)| b.dtype)) {
            Some(t) => Ok(t),
            None => self.fail(place, format!("types do not agree in {e}")),
        }
    }

    fn body(&mut self, body: &'k [Stmt]) -> Result<(), IrError> {
        let mut opened = vec![];
        let mut behind = 0;
        for (at, s) in body.iter().enumerate() {
            if at >= behind {
                behind = at + network(&body[at..]).max(1);
                self.apart(&body[at..behind])?;
            }
            match s {
                Stmt::Alloc(b) => {
                    if &*b.memory == CHANNEL && !b.shape.iter().all(|s| s.as_const().is_some_and(|s| s > 0)) {
                        return self.fail(&b.name, "a channel has constant extents, the last one its depth");
                    }
                    if &*b.memory == CHANNEL && b.shape.is_empty() {
                        return self.fail(&b.name, "a channel's last extent is its depth");
                    }
                    self.shape(b)?;
                    let depth = self.loops.len();
                    if self.buffers.insert(b.name.clone(), (b, depth)).is_some() {
                        return self.fail(&b.name, "two buffers of this name");
                    }
                    self.writable.insert(b.name.clone());
                    opened.push(b.name.clone());
                }
                Stmt::For(l) => {
                    if !self.names.insert(l.var.clone()) {
                        return self.fail(&l.var, "two loops or blocks of this name");
                    }
                    if self.expr(&l.var, &l.extent)? != DType::INDEX {
                        return self.fail(&l.var, "the extent is not an index");
                    }
                    self.pure(&l.var, &l.extent)?;
                    if &*l.level == PROCESS && l.iter != Iter::Spatial {
                        return self.fail(&l.var, "a loop of processes is spatial");
                    }
                    // One iteration has nothing to collide with.
                    let around = self.never;
                    self.never |= self.at_most(&l.extent, 0);
                    let alone = self.never || self.at_most(&l.extent, 1);
                    let iter = if alone { Iter::Sequential } else { l.iter };
                    self.loops.push((l.var.clone(), iter));
                    self.body(&l.body)?;
                    self.loops.pop();
                    self.never = around;
                }
                Stmt::If(c, b) => {
                    if self.expr("if", c)? != DType::BOOL {
                        return self.fail("if", "the condition is no truth value");
                    }
                    self.pure("if", c)?;
                    self.body(b)?;
                }
                Stmt::Intrinsic(_, b) => self.body(b)?,
                Stmt::Store(b) => self.store(b)?,
            }
        }
        for n in opened {
            self.buffers.remove(&n);
        }
        Ok(())
    }

    fn store(&mut self, s: &Store) -> Result<(), IrError> {
        if !self.names.insert(s.name.clone()) {
            return self.fail(&s.name, "two loops or blocks of this name");
        }
        if s.values.len() != s.targets.len() || s.reducer.is_some_and(|r| r.arity != s.targets.len()) {
            return self.fail(&s.name, "targets, values and accumulators differ in number");
        }
        let pop = popped(s, &|n| self.is_channel(n));
        let pushes = s.targets.iter().any(|(n, _)| self.is_channel(n));
        let alone = s.targets.len() == 1 && s.reducer.is_none() && !(pushes && pop.is_some());
        if (pushes || pop.is_some()) && !alone {
            return self.fail(&s.name, "a push or a pop is a block of its own");
        }
        if pop.is_none() {
            s.values.iter().try_for_each(|v| self.pure(&s.name, v))?;
        }
        if let Some((n, index)) = pop {
            index.iter().try_for_each(|i| self.pure(&s.name, i))?;
            self.expr(&s.name, &s.values[0])?;
            self.ordered(s, n, index)?;
        }
        if let Some(r) = s.reducer {
            let old: Vec<Expr> = s.targets.iter().map(|(n, i)| Expr::load(n, i)).collect();
            for ((n, index), v) in s.targets.iter().zip(r.combine(&old, &s.values)) {
                if self.expr(&s.name, &v)? != self.expr(&s.name, &Expr::load(n, index))? {
                    return self
                        .fail(&s.name, format!("'{}' does not accumulate in the type of '{n}'", r.name));
                }
            }
        }
        for ((n, index), v) in s.targets.iter().zip(&s.values) {
            let t = self.expr(&s.name, &Expr::load(n, index))?;
            let got = self.expr(&s.name, v)?;
            if t != got {
                return self.fail(&s.name, format!("a {got} is stored to the {t} buffer '{n}'"));
            }
            if !self.writable.contains(n) {
                return self.fail(&s.name, format!("'{n}' is read only"));
            }
            if self.is_channel(n) {
                self.ordered(s, n, index)?;
            }
            for i in index {
                self.pure(&s.name, i)?;
                if self.expr(&s.name, i)? != DType::INDEX {
                    return self.fail(&s.name, format!("{i} is not an index"));
                }
            }
            // A spatial loop around the buffer's scope must pick the element, or its iterations would collide: unless a loop inside
            // of it has none, and the block is never run.
            let depth = self.buffers.get(n).map_or(0, |(_, d)| *d);
            for (var, iter) in &self.loops[depth..] {
                let picks = self.never || index.iter().any(|i| i.mentions(var));
                if *iter == Iter::Spatial && !picks {
                    return self.fail(
                        &s.name,
                        format!("iterations of spatial loop '{var}' write the same element of '{n}'"),
                    );
                }
            }
        }
        Ok(())
    }

    /// The order of a channel's values is fixed: a loop around it that is free in its order must pick the channel.
    fn ordered(&self, s: &Store, n: &Name, index: &[Expr]) -> Result<(), IrError> {
        let depth = self.buffers.get(n).map_or(0, |(_, d)| *d);
        let free = |iter: &Iter| matches!(iter, Iter::Spatial | Iter::Reduce);
        let mut loops = self.loops[depth.min(self.loops.len())..].iter();
        match loops.find(|(var, iter)| free(iter) && !index.iter().any(|i| i.mentions(var))) {
            Some((var, _)) => {
                self.fail(&s.name, format!("the order of loop '{var}' is free and that of '{n}' is not"))
            }
            None => Ok(()),
        }
    }

    /// Refuses processes that see what another one writes other than through channels.
    fn apart(&self, body: &[Stmt]) -> Result<(), IrError> {
        let run: Vec<&For> = body
            .iter()
            .filter_map(|s| match s {
                Stmt::For(l) if &*l.level == PROCESS => Some(&**l),
                _ => None,
            })
            .collect();
        let seen: Vec<_> = run.iter().map(|l| self.outer_accesses(&l.body)).collect();
        for (l, mine) in run.iter().zip(&seen) {
            for (n, ..) in mine.iter().filter(|(.., writes)| *writes) {
                for (o, theirs) in run.iter().zip(&seen) {
                    if o.var != l.var && theirs.iter().any(|(m, ..)| m == n) {
                        let message = format!("'{n}' is written by '{}' and used by '{}'", l.var, o.var);
                        return self.fail(&l.var, message);
                    }
                }
                let picked = |i: &[Expr]| self.at_most(&l.extent, 1) || i.iter().any(|e| e.mentions(&l.var));
                if mine.iter().any(|(m, i, _)| m == n && !picked(i)) {
                    return self.fail(&l.var, format!("processes of '{}' share elements of '{n}'", l.var));
                }
            }
        }
        Ok(())
    }

    /// Accesses to buffers (no channels) that were there before some statements: index, and whether it is written.
    fn outer_accesses(&self, body: &[Stmt]) -> Vec<(Name, Vec<Expr>, bool)> {
        let mut out = vec![];
        let mut add = |n: &Name, i: &[Expr], writes| {
            if self.buffers.contains_key(n) && !self.is_channel(n) {
                out.push((n.clone(), i.to_vec(), writes));
            }
        };
        for_each(body, &mut |s| {
            let mut reads = |e: &Expr| {
                e.visit(&mut |e| {
                    if let Node::Load(n, i) = &**e {
                        add(n, i, false);
                    }
                });
            };
            match s {
                Stmt::For(l) => reads(&l.extent),
                Stmt::If(c, _) => reads(c),
                Stmt::Store(s) => {
                    s.values.iter().for_each(&mut reads);
                    s.targets.iter().flat_map(|(_, i)| i).for_each(&mut reads);
                    s.targets.iter().for_each(|(n, i)| add(n, i, true));
                }
                Stmt::Alloc(_) | Stmt::Intrinsic(..) => {}
            }
        });
        out
    }
}

/// Number of indices: a channel's depth takes none.
fn rank(b: &Buffer) -> usize {
    b.shape.len().saturating_sub(usize::from(&*b.memory == CHANNEL))
}
