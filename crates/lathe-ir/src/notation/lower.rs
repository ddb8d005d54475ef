//! From notation to loops.
//!
//! Indices become loops in the order left side first, then sums, moved so that every tensor's levels are entered outermost
//! first. An index runs over all coordinates; or over the nonzeros of the one compressed tensor that must not be zero; or over
//! the coordinates that two or more compressed tensors have in common (a product) or have at all (a sum), a *merge*: cursors
//! move along the sorted segments, the smallest coordinate next.
//!
//! A compressed result has the places of the compressed tensor that drives its loop, and only its values are computed; or it
//! comes from a merge, and then a first kernel counts each row's places, and a second one fills them.

use super::{Access, Level, Notation, Operand, Term};
use crate::tensor::{
    self, Axis, Binary, Buffer, Expr, Fact, HOST, Iter, Kernel, Param, REGISTER, Reducer, Stmt, Store,
};
use crate::{Bounds, DType, Int, IrError, Name};
use std::collections::HashMap;
use std::sync::Arc;

/// The kernels of a statement.
///
/// A tensor `A` whose level `l` is compressed has parameters `A_ptr{l}` and `A_idx{l}` (i32), and all have `A` for their
/// values. The number of places of a compressed level is the dimension `A_nnz{l}`.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// Computes the offsets of the result's rows; the last one is the number of places that `compute` needs. Only where the
    /// result is assembled.
    pub count: Option<Kernel>,
    /// Computes the result's values, and where it is assembled, its coordinates.
    pub compute: Kernel,
}

/// What an index runs over.
enum Domain {
    Dense,
    One(Access),
    Intersect(Vec<Access>),
    Union(Vec<Access>),
}

fn ptr(tensor: &str, level: usize) -> String {
    format!("{tensor}_ptr{level}")
}

fn idx(tensor: &str, level: usize) -> String {
    format!("{tensor}_idx{level}")
}

fn nnz(tensor: &str, level: usize) -> Int {
    Int::var(&format!("{tensor}_nnz{level}"))
}

fn index(b: &str, i: Expr) -> Expr {
    Expr::load(b, &[i]).cast(DType::INDEX)
}

fn load(b: &str) -> Expr {
    Expr::load(b, &[])
}

/// The position after one.
fn after(e: &Expr) -> Expr {
    if *e == 0.into() { 1.into() } else { e.clone() + 1 }
}

/// Number of positions of a tensor's first levels.
fn positions(o: &Operand, levels: usize) -> Int {
    (0..levels).fold(Int::from(1), |n, l| match o.levels[l] {
        Level::Dense => n * o.shape[l].clone(),
        Level::Compressed => nnz(&o.name, l),
    })
}

struct Lower<'n> {
    n: &'n Notation,
    order: Vec<(Name, Int)>,
    /// The position that each tensor's levels so far have reached.
    at: HashMap<Name, Expr>,
    /// Coordinates by index.
    coordinate: HashMap<Name, Expr>,
    axes: Vec<Axis>,
    /// For tensors of a union: the value that is read instead of storage.
    instead: HashMap<Name, Expr>,
    /// What stands innermost, made when all indices are bound.
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// Count the places of an assembled result.
    Count,
    /// Compute values.
    Compute,
}

/// Makes the kernels of a statement; an error where its formats need what is not there: a sum of a compressed and a dense
/// tensor, a compressed result that no loop drives, an order of levels that no order of loops can follow.
pub fn lower(n: &Notation) -> Result<Lowered, IrError> {
    let order = order(n)?;
    let make = |phase| -> Result<Kernel, IrError> {
        let mut l = Lower {
            n,
            order: order.clone(),
            at: n.operands.iter().map(|o| (o.name.clone(), 0.into())).collect(),
            coordinate: HashMap::new(),
            axes: vec![],
            instead: HashMap::new(),
            phase,
        };
        l.kernel()
    };
    let count = assembled(n, &order)?.then(|| make(Phase::Count)).transpose()?;
    let compute = make(Phase::Compute)?;
    for k in std::iter::once(&compute).chain(&count) {
        tensor::check(k)?;
    }
    Ok(Lowered { count, compute })
}

fn fail<T>(n: &Notation, message: impl Into<String>) -> Result<T, IrError> {
    Err(IrError::check(&*n.name, message))
}

/// The loops' order.
fn order(n: &Notation) -> Result<Vec<(Name, Int)>, IrError> {
    let mut left = n.indices()?;
    let all: Vec<&Access> = std::iter::once(&n.result).chain(n.value.accesses()).collect();
    let sparse: Vec<&&Access> =
        all.iter().filter(|a| n.operand(&a.tensor).is_some_and(Operand::is_sparse)).collect();
    let mut out: Vec<(Name, Int)> = vec![];
    while !left.is_empty() {
        let ready = |i: &Name| {
            sparse.iter().all(|a| {
                let before = a.index.iter().take_while(|x| *x != i);
                !a.index.contains(i) || before.into_iter().all(|x| out.iter().any(|(o, _)| o == x))
            })
        };
        let Some(next) = left.iter().position(|(i, _)| ready(i)) else {
            return fail(n, "no order of loops enters all levels from the outside");
        };
        out.push(left.remove(next));
    }
    Ok(out)
}

/// The compressed level of a tensor at an index.
fn compressed<'n>(n: &'n Notation, a: &Access, i: &Name) -> Option<(&'n Operand, usize)> {
    let o = n.operand(&a.tensor)?;
    let level = a.index.iter().position(|x| x == i)?;
    (o.levels[level] == Level::Compressed).then_some((o, level))
}

fn domain(n: &Notation, t: &Term, i: &Name) -> Result<Domain, IrError> {
    let flat = |d: Domain, intersect: bool| match (d, intersect) {
        (Domain::One(a), _) => Some(vec![a]),
        (Domain::Intersect(v), true) | (Domain::Union(v), false) => Some(v),
        _ => None,
    };
    Ok(match t {
        Term::Access(a) if compressed(n, a, i).is_some() => Domain::One(a.clone()),
        Term::Access(_) => Domain::Dense,
        Term::Mul(a, b) => match (domain(n, a, i)?, domain(n, b, i)?) {
            (Domain::Dense, d) | (d, Domain::Dense) => d,
            (a, b) => match (flat(a, true), flat(b, true)) {
                (Some(a), Some(b)) => Domain::Intersect([a, b].concat()),
                _ => return fail(n, format!("a product of sums over '{i}', compressed on both sides")),
            },
        },
        Term::Add(a, b) => {
            let mentions = |t: &Term| t.accesses().iter().any(|a| a.index.contains(i));
            match (domain(n, a, i)?, domain(n, b, i)?) {
                (Domain::Dense, Domain::Dense) => Domain::Dense,
                (Domain::Dense, _) | (_, Domain::Dense) => {
                    let what =
                        if mentions(a) && mentions(b) { "a dense tensor" } else { "a value without it" };
                    return fail(n, format!("a sum over '{i}' of a compressed tensor and {what}"));
                }
                (a, b) => match (flat(a, false), flat(b, false)) {
                    (Some(a), Some(b)) => Domain::Union([a, b].concat()),
                    _ => return fail(n, format!("a sum of products over '{i}', compressed on both sides")),
                },
            }
        }
    })
}

/// Whether the result's places are found by a merge.
fn assembled(n: &Notation, order: &[(Name, Int)]) -> Result<bool, IrError> {
    let Some(o) = n.operand(&n.result.tensor).filter(|o| o.is_sparse()) else { return Ok(false) };
    let rank = o.levels.len();
    let only_last = o.levels[..rank - 1].iter().all(|l| *l == Level::Dense);
    let last = &n.result.index[rank - 1];
    let in_order = order.iter().zip(&n.result.index).all(|((a, _), b)| a == b);
    if !only_last || !in_order {
        return fail(n, "a compressed result must be dense rows of compressed columns, rows outermost");
    }
    for i in &n.result.index[..rank - 1] {
        if !matches!(domain(n, &n.value, i)?, Domain::Dense) {
            return fail(
                n,
                format!("the rows '{i}' of a compressed result come from a compressed dimension"),
            );
        }
    }
    match domain(n, &n.value, last)? {
        Domain::Dense => fail(n, "nothing on the right side says which places a compressed result has"),
        Domain::One(_) => Ok(false),
        _ if order.len() > rank => fail(n, "a sum inside an assembled result"),
        _ => Ok(true),
    }
}

impl Lower<'_> {
    fn result(&self) -> &Operand {
        self.n.operand(&self.n.result.tensor).expect("checked with the indices")
    }

    fn assembled(&self) -> bool {
        assembled(self.n, &self.order).unwrap_or(false)
    }

    fn kernel(&mut self) -> Result<Kernel, IrError> {
        let mut body = self.level(0)?;
        if !self.result().is_sparse() && self.skips()? {
            body.splice(0..0, self.fill());
        }
        if self.phase == Phase::Count {
            let r = self.result();
            let (last, row) = (r.levels.len() - 1, Expr::var("row"));
            let offsets = ptr(&r.name, last);
            let at = |i: Expr| Expr::load(&offsets, &[i]);
            let sum = &at(row.clone()) + &at(row.clone() + 1);
            let add = Stmt::store("offset", &offsets, &[row + 1], sum);
            body.insert(0, Stmt::store("first", &offsets, &[0.into()], Expr::int(0, DType::I32)));
            body.push(Stmt::for_("row", (&positions(r, last)).into(), Iter::Scan, vec![add]));
        }
        let (mut params, mut dims) = (vec![], self.n.dims.clone());
        let used: Vec<&Access> = self.n.value.accesses();
        let mut done: Vec<&Name> = vec![];
        for a in used {
            let o = self.n.operand(&a.tensor).expect("checked with the indices");
            if done.contains(&&o.name) {
                continue;
            }
            done.push(&o.name);
            params.extend(self.structure(o, tensor::Access::In, &mut dims));
            if self.phase == Phase::Compute {
                params.push(param(values(o), tensor::Access::In));
            }
        }
        let r = self.result().clone();
        let last = r.levels.len().saturating_sub(1);
        match (self.phase, self.assembled()) {
            (Phase::Count, _) => {
                let rows = positions(&r, last);
                let b = Buffer::dense(&ptr(&r.name, last), DType::I32, &[rows + Int::from(1)], HOST);
                params.push(param(b, tensor::Access::Out));
            }
            (Phase::Compute, true) => {
                let mut structure = self.structure(&r, tensor::Access::In, &mut dims);
                let coordinates = structure.pop().expect("offsets and coordinates");
                params.extend(structure);
                params.push(Param { access: tensor::Access::Out, ..coordinates });
                params.push(param(values(&r), tensor::Access::Out));
            }
            _ => {
                let mut v = values(&r);
                if r.is_sparse() {
                    // The places are those of the tensor that drives the loop.
                    let driver = self.driver()?;
                    v = Buffer::dense(&r.name, r.dtype, &[nnz(&driver.0, driver.1)], HOST);
                }
                params.push(param(v, tensor::Access::Out));
            }
        }
        Ok(Kernel { name: self.n.name.clone(), dims, axes: self.axes.clone(), params, body })
    }

    /// Whether the loops leave out coordinates of the result.
    fn skips(&self) -> Result<bool, IrError> {
        for i in &self.n.result.index {
            if !matches!(domain(self.n, &self.n.value, i)?, Domain::Dense) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Zeros for all of a dense result.
    fn fill(&self) -> Vec<Stmt> {
        let r = self.result();
        let vars: Vec<String> = self.n.result.index.iter().map(|i| format!("{i}.zero")).collect();
        let index: Vec<Expr> = vars.iter().map(|v| Expr::var(v)).collect();
        let mut body = vec![Stmt::store("fill", &r.name, &index, self.zero())];
        for (v, extent) in vars.iter().zip(&r.shape).rev() {
            body = vec![Stmt::for_(v, extent.into(), Iter::Spatial, body)];
        }
        body
    }

    /// The tensor and level whose places a compressed result shares.
    fn driver(&self) -> Result<(Name, usize), IrError> {
        let last = self.n.result.index.last().expect("a compressed dimension");
        match domain(self.n, &self.n.value, last)? {
            Domain::One(a) => {
                let (o, level) = compressed(self.n, &a, last).expect("the domain's");
                if level + 1 != o.levels.len() || a.index != self.n.result.index {
                    return fail(self.n, format!("the result has not the places of '{}'", o.name));
                }
                Ok((o.name.clone(), level))
            }
            _ => fail(self.n, "no one tensor drives the result"),
        }
    }

    /// Offsets and coordinates of compressed levels.
    fn structure(&self, o: &Operand, access: tensor::Access, dims: &mut Vec<Name>) -> Vec<Param> {
        let mut out = vec![];
        for (l, _) in o.levels.iter().enumerate().filter(|(_, l)| **l == Level::Compressed) {
            let places = nnz(&o.name, l);
            dims.push(format!("{}_nnz{l}", o.name).into());
            let offsets =
                Buffer::dense(&ptr(&o.name, l), DType::I32, &[positions(o, l) + Int::from(1)], HOST)
                    .with(Fact::Range(0.into(), places.clone() + Int::from(1)))
                    .with(Fact::Monotone);
            let coordinates = Buffer::dense(&idx(&o.name, l), DType::I32, &[places], HOST)
                .with(Fact::Range(0.into(), o.shape[l].clone()))
                .with(Fact::Ascending(offsets.name.clone()));
            out.extend([param(offsets, access), param(coordinates, access)]);
        }
        out
    }

    /// The statements of the loops from one index inwards.
    fn level(&mut self, depth: usize) -> Result<Vec<Stmt>, IrError> {
        let n = self.n;
        let left = n.result.index.len();
        let Some((var, extent)) = self.order.get(depth).cloned() else { return self.innermost() };
        // Sums start where the left side's indices are all bound.
        let outer: Vec<&Name> = self.order[..depth].iter().map(|(i, _)| i).collect();
        let starts = n.result.index.iter().all(|i| outer.contains(&i)) && depth == left;
        let wrap = |l: &mut Self, body: Vec<Stmt>| -> Result<Vec<Stmt>, IrError> {
            if !starts {
                return Ok(body);
            }
            let acc = Buffer::dense("acc", l.result().dtype, &[], REGISTER);
            let mut out = vec![Stmt::Alloc(Arc::new(acc)), Stmt::store("zero", "acc", &[], l.zero())];
            out.extend(body);
            out.push(l.store(load("acc")));
            Ok(out)
        };
        let iter = if n.result.index.contains(&var) { Iter::Spatial } else { Iter::Reduce };
        let body = match domain(n, &n.value, &var)? {
            Domain::Dense => {
                self.enter(&var, Expr::var(&var), &[]);
                let inner = self.level(depth + 1)?;
                vec![Stmt::for_(&var, (&extent).into(), iter, inner)]
            }
            Domain::One(a) => {
                let (o, level) = compressed(n, &a, &var).expect("the domain's");
                let axis = self.axis(&var, o, level);
                let above = self.at[&o.name].clone();
                let parents = [above.clone()];
                let place = index(&ptr(&o.name, level), above) + Expr::var(&var);
                let coordinate = axis.coordinate(&parents, &Expr::var(&var));
                self.enter(&var, coordinate, &[(o.name.clone(), place)]);
                let inner = self.level(depth + 1)?;
                let stmt = axis.over(&var, &parents, iter, inner);
                self.axes.push(axis);
                vec![stmt]
            }
            Domain::Intersect(v) => self.merge(depth, &var, &extent, &v, true)?,
            Domain::Union(v) => self.merge(depth, &var, &extent, &v, false)?,
        };
        wrap(self, body)
    }

    /// The segment of a compressed level.
    fn axis(&self, var: &Name, o: &Operand, level: usize) -> Axis {
        let (above, name) = (Expr::var("above"), format!("{}_{var}", o.name));
        let start = index(&ptr(&o.name, level), above.clone());
        Axis {
            at: index(&idx(&o.name, level), start.clone() + Expr::var(&name)),
            name: name.into(),
            parents: vec!["above".into()],
            extent: nnz(&o.name, level),
            length: index(&ptr(&o.name, level), above + 1) - start,
        }
    }

    /// Binds an index: dense levels move on by the coordinate, compressed ones to the place given.
    fn enter(&mut self, var: &Name, coordinate: Expr, places: &[(Name, Expr)]) {
        self.coordinate.insert(var.clone(), coordinate.clone());
        for a in std::iter::once(&self.n.result).chain(self.n.value.accesses()) {
            let o = self.n.operand(&a.tensor).expect("checked with the indices");
            let Some(level) = a.index.iter().position(|i| i == var) else { continue };
            let at = match o.levels[level] {
                // Dense tensors are read by their coordinates.
                Level::Dense if !o.is_sparse() => continue,
                Level::Dense => {
                    let above = self.at[&o.name].clone();
                    let extent = Expr::from(&o.shape[level]);
                    if above == 0.into() { coordinate.clone() } else { above * extent + coordinate.clone() }
                }
                Level::Compressed => match places.iter().find(|(n, _)| *n == o.name) {
                    Some((_, place)) => place.clone(),
                    None => continue,
                },
            };
            self.at.insert(o.name.clone(), at);
        }
    }

    /// Cursors along sorted segments: every iteration takes the smallest coordinate under them.
    fn merge(
        &mut self,
        depth: usize,
        var: &Name,
        extent: &Int,
        tensors: &[Access],
        intersect: bool,
    ) -> Result<Vec<Stmt>, IrError> {
        if depth + 1 != self.order.len() {
            return fail(self.n, format!("the merged index '{var}' is not the innermost"));
        }
        let (mut out, mut body) = (vec![], vec![]);
        let scalar = |name: &str, t: DType| Stmt::Alloc(Arc::new(Buffer::dense(name, t, &[], REGISTER)));
        let cursor = |name: &str| {
            let most = Fact::Range(0.into(), i64::from(i32::MAX).into());
            Stmt::Alloc(Arc::new(Buffer::dense(name, DType::INDEX, &[], REGISTER).with(most)))
        };
        let next = format!("{var}.next");
        let least = |tensor: &Name, value: Expr| {
            Stmt::Store(Arc::new(Store {
                name: format!("{next}.{tensor}").into(),
                targets: vec![(next.as_str().into(), vec![])],
                values: vec![value],
                reducer: Reducer::named("min"),
            }))
        };
        body.push(cursor(&next));
        body.push(Stmt::store(&format!("{next}.z"), &next, &[], extent.into()));
        let (mut length, mut parents, mut formal): (Option<Expr>, Vec<Expr>, Vec<Name>) =
            (None, vec![], vec![]);
        let (mut presence, mut advance, mut seen) = (vec![], vec![], vec![]);
        for a in tensors {
            let (o, level) = compressed(self.n, a, var).expect("the domain's");
            if seen.contains(&o.name) {
                return fail(self.n, format!("'{}' is merged with itself", o.name));
            }
            seen.push(o.name.clone());
            if level + 1 != o.levels.len() {
                return fail(self.n, format!("'{var}' is not the last level of '{}'", o.name));
            }
            let (at, here) = (format!("{}.at", o.name), format!("{}.here", o.name));
            let above = self.at[&o.name].clone();
            let (p, i) = (ptr(&o.name, level), idx(&o.name, level));
            let (start, end) = (index(&p, above.clone()), index(&p, after(&above)));
            out.push(cursor(&at));
            out.push(Stmt::store(&format!("{at}.z"), &at, &[], start.clone()));
            let inside = load(&at).bin(Binary::Lt, &end);
            body.push(Stmt::If(inside.clone(), Arc::new(vec![least(&o.name, index(&i, load(&at)))])));
            presence.push(scalar(&here, DType::INDEX));
            presence.push(Stmt::store(&format!("{here}.z"), &here, &[], 0.into()));
            let same = index(&i, load(&at)).bin(Binary::Eq, &load(&next));
            let one =
                Stmt::store(&format!("{here}.s"), &here, &[], Expr::select(&same, &1.into(), &0.into()));
            presence.push(Stmt::If(inside, Arc::new(vec![one])));
            advance.push(Stmt::reduce(&format!("{at}.s"), &at, &[], "sum", load(&here)));
            let parent: Name = format!("above{}", parents.len()).into();
            let q = Expr::var(&parent);
            let own = index(&p, q.clone() + 1) - index(&p, q);
            length = Some(length.map_or(own.clone(), |l| l + own));
            parents.push(above);
            formal.push(parent);
        }
        let length = length.expect("at least two tensors");
        let axis = Axis {
            name: format!("{var}_merged").into(),
            parents: formal,
            extent: tensors.iter().fold(Int::from(0), |n, a| {
                let (o, level) = compressed(self.n, a, var).expect("the domain's");
                n + nnz(&o.name, level)
            }),
            length,
            at: Expr::var(&format!("{var}_merged")),
        };
        body.extend(presence);
        let here = |o: &Name| load(&format!("{o}.here"));
        // When all segments have ended, nothing is left; a product needs all tensors here.
        let room = load(&next).bin(Binary::Lt, &extent.into());
        let all =
            seen.iter().map(here).reduce(|a, b| a * b).expect("at least two").bin(Binary::Eq, &1.into());
        let mut inner = vec![];
        let places: Vec<(Name, Expr)> = seen.iter().map(|o| (o.clone(), load(&format!("{o}.at")))).collect();
        self.enter(var, load(&next), &places);
        for a in tensors {
            let (o, level) = compressed(self.n, a, var).expect("the domain's");
            // The value is read where the cursor stands, when it stands inside its segment and on this coordinate.
            let value = format!("{}.value", o.name);
            if self.phase == Phase::Compute {
                let end = index(
                    &ptr(&o.name, level),
                    parents[seen.iter().position(|s| *s == o.name).expect("its own")].clone() + 1,
                );
                let at = load(&format!("{}.at", o.name));
                let read = Stmt::store(
                    &format!("{value}.s"),
                    &value,
                    &[],
                    Expr::load(&o.name, std::slice::from_ref(&at)),
                );
                let on = Stmt::If(Expr::from(0).bin(Binary::Lt, &here(&o.name)), Arc::new(vec![read]));
                inner.push(scalar(&value, o.dtype));
                inner.push(Stmt::store(&format!("{value}.z"), &value, &[], zero(o.dtype)));
                inner.push(Stmt::If(at.bin(Binary::Lt, &end), Arc::new(vec![on])));
                self.instead.insert(o.name.clone(), load(&value));
            }
        }
        let iter = Iter::Sequential;
        if self.assembled() {
            let r = self.result().clone();
            let last = r.levels.len() - 1;
            let row = self.at[&r.name].clone();
            let filled = "filled".to_string();
            out.push(cursor(&filled));
            out.push(Stmt::store("filled.z", &filled, &[], 0.into()));
            if self.phase == Phase::Compute {
                let place = index(&ptr(&r.name, last), row.clone()) + load(&filled);
                let room = place.bin(Binary::Lt, &index(&ptr(&r.name, last), row.clone() + 1));
                let coordinate = load(&next).cast(DType::I32);
                let write = vec![
                    Stmt::store("coordinate", &idx(&r.name, last), std::slice::from_ref(&place), coordinate),
                    Stmt::store("value", &r.name, std::slice::from_ref(&place), self.term(&self.n.value)),
                ];
                inner.push(Stmt::If(room, Arc::new(write)));
            }
            inner.push(Stmt::reduce("filled.s", &filled, &[], "sum", 1.into()));
        } else {
            inner.extend(self.innermost()?);
        }
        let inner = if intersect { vec![Stmt::If(all, Arc::new(inner))] } else { inner };
        body.push(Stmt::If(room, Arc::new(inner)));
        body.extend(advance);
        out.push(axis.over(var, &parents, iter, body));
        self.axes.push(axis);
        if self.phase == Phase::Count {
            let r = self.result();
            let row = self.at[&r.name].clone();
            let count = load("filled").cast(DType::I32);
            out.push(Stmt::store("count", &ptr(&r.name, r.levels.len() - 1), &[row + 1], count));
        }
        Ok(out)
    }

    /// The one statement inside all loops.
    fn innermost(&mut self) -> Result<Vec<Stmt>, IrError> {
        let value = self.term(&self.n.value);
        if self.order.len() > self.n.result.index.len() {
            return Ok(vec![Stmt::reduce("sum", "acc", &[], "sum", value)]);
        }
        Ok(vec![self.store(value)])
    }

    fn zero(&self) -> Expr {
        zero(self.result().dtype)
    }

    /// Stores an element of the result.
    fn store(&self, value: Expr) -> Stmt {
        let r = self.result();
        match r.is_sparse() {
            false => {
                let at: Vec<Expr> = self.n.result.index.iter().map(|i| self.coordinate[i].clone()).collect();
                Stmt::store("store", &r.name, &at, value)
            }
            true => {
                let driver = self.driver().map_or_else(|_| r.name.clone(), |(o, _)| o);
                Stmt::store("store", &r.name, &[self.at[&driver].clone()], value)
            }
        }
    }

    fn term(&self, t: &Term) -> Expr {
        match t {
            Term::Add(a, b) => &self.term(a) + &self.term(b),
            Term::Mul(a, b) => &self.term(a) * &self.term(b),
            Term::Access(a) => {
                let o = self.n.operand(&a.tensor).expect("checked with the indices");
                if let Some(v) = self.instead.get(&o.name) {
                    return v.clone();
                }
                if o.is_sparse() {
                    return Expr::load(&o.name, &[self.at[&o.name].clone()]);
                }
                let at: Vec<Expr> = a.index.iter().map(|i| self.coordinate[i].clone()).collect();
                Expr::load(&o.name, &at)
            }
        }
    }
}

fn zero(t: DType) -> Expr {
    if t.is_float() { Expr::float(0.0, t) } else { Expr::int(0, t) }
}

/// The values of a tensor: dense ones have its shape, compressed ones a value a place.
fn values(o: &Operand) -> Buffer {
    match o.is_sparse() {
        false => Buffer::dense(&o.name, o.dtype, &o.shape, HOST),
        true => Buffer::dense(&o.name, o.dtype, &[positions(o, o.levels.len())], HOST),
    }
}

fn param(b: Buffer, access: tensor::Access) -> Param {
    let bits = b.shape.iter().fold(Int::from(b.dtype.bits()), |p, d| p * d.clone());
    Param { name: b.name.clone(), access, bits: bits.simplify(&Bounds::new()), views: vec![b] }
}
