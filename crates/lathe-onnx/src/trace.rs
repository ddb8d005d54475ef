//! Values while a program is read: known from the model, known in this run, or still to be computed by the region that is
//! being written.
//!
//! A program is read with the shapes of its arguments known, node by node, into a [`Graph`] of primitives: a region. Where a
//! node needs a number that only the region computes (the shape to reshape to, whether a loop goes on), the region is run as
//! far as it is written, and reading goes on with what it gave. A region is compiled once for all runs that write it alike.

use crate::elem::{Array, Elem};
use crate::error::Fault;
use lathe_ir::graph::{Attr, Attrs, Form, Graph, OpTable, Source, Type, ValueId};
use lathe_ir::{Int, Name, Tensor};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// The result of reading a node.
pub type Read<T> = Result<T, Fault>;

/// Runs regions.
pub trait Runner {
    /// The number of a region: a graph with its constants by name, made ready to be called.
    fn prepare(&mut self, graph: &Graph, constants: &HashMap<Name, Arc<Tensor>>) -> Result<usize, Fault>;

    /// The results of a region that was prepared, on its inputs by name; the memory of `spent` tensors may be used for them.
    fn call(
        &mut self,
        region: usize,
        inputs: &[(Name, Arc<Tensor>)],
        spent: Vec<Tensor>,
    ) -> Result<Vec<Tensor>, Fault>;
}

#[derive(Clone, Debug)]
enum State {
    /// Part of the model: what depends on such values alone is computed while reading.
    Constant(Arc<Tensor>),
    /// Known in this run, and passed to regions.
    Given(Arc<Tensor>),
    /// A value of the region that is being written.
    Pending(ValueId),
}

#[derive(Debug)]
struct Inner {
    elem: Elem,
    shape: Vec<usize>,
    state: RefCell<State>,
}

/// A tensor of the program; clones share.
#[derive(Clone, Debug)]
pub struct Val(Rc<Inner>);

impl Val {
    fn new(elem: Elem, shape: Vec<usize>, state: State) -> Val {
        Val(Rc::new(Inner { elem, shape, state: RefCell::new(state) }))
    }

    /// A tensor of the model.
    pub fn constant(a: Array) -> Val {
        Val::new(a.elem, a.tensor.shape.clone(), State::Constant(a.tensor))
    }

    /// A tensor of this run.
    pub fn given(a: Array) -> Val {
        Val::new(a.elem, a.tensor.shape.clone(), State::Given(a.tensor))
    }

    /// Its element type.
    pub fn elem(&self) -> Elem {
        self.0.elem
    }

    /// Its extents.
    pub fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    /// Its extents as signed numbers.
    pub fn dims(&self) -> Vec<i64> {
        self.0.shape.iter().map(|d| *d as i64).collect()
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.0.shape.len()
    }

    /// The extent of an axis that must be there.
    pub fn extent(&self, axis: usize) -> Read<usize> {
        let found = self.0.shape.get(axis).copied();
        found.ok_or_else(|| Fault::invalid(format!("{:?} has no axis {axis}", self.0.shape)))
    }

    /// The last axis, which must be there.
    pub fn last(&self) -> Read<usize> {
        self.rank().checked_sub(1).ok_or_else(|| Fault::invalid("a single number has no axis"))
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.0.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it is part of the model.
    pub fn is_constant(&self) -> bool {
        matches!(*self.0.state.borrow(), State::Constant(_))
    }

    /// Whether these are its elements: the same ones, not equal ones.
    pub fn holds(&self, t: &Arc<Tensor>) -> bool {
        self.known().is_some_and(|k| Arc::ptr_eq(&k, t))
    }

    fn is_given(&self) -> bool {
        matches!(*self.0.state.borrow(), State::Given(_))
    }

    /// Whether it is of the kind that programs decide by: a few integers or truth values.
    pub fn steers(&self) -> bool {
        self.len() <= STEERING && self.elem().dtype().is_int()
    }

    fn known(&self) -> Option<Arc<Tensor>> {
        match &*self.0.state.borrow() {
            State::Constant(t) | State::Given(t) => Some(t.clone()),
            State::Pending(_) => None,
        }
    }

    /// The same elements under another name for their type, stored alike.
    pub fn renamed(&self, elem: Elem) -> Option<Val> {
        let state = self.0.state.borrow().clone();
        (elem.dtype() == self.elem().dtype() && !matches!(state, State::Pending(_)))
            .then(|| Val::new(elem, self.0.shape.clone(), state))
    }
}

/// Constants up to this number of elements are computed while reading.
const FOLDED: usize = 1 << 14;

/// Most integers of an argument that are taken for numbers that a program decides by.
const STEERING: usize = 16;

#[derive(Default)]
struct Region {
    graph: Graph,
    inputs: Vec<(Name, Arc<Tensor>)>,
    constants: HashMap<Name, Arc<Tensor>>,
    /// Values from outside, by the place of their record; they are kept so that the place stays theirs.
    entered: HashMap<*const Inner, (ValueId, Val)>,
    pending: Vec<Weak<Inner>>,
}

/// A program on the way to regions.
pub struct Trace<'r> {
    pub(crate) table: OpTable,
    region: Region,
    runner: &'r mut dyn Runner,
    /// Regions run so far.
    regions: usize,
    /// Whether reading hung on elements of an argument that are more than a few integers.
    looked: bool,
    /// Names of large constants, by the place of their tensor: hashes are computed once a model.
    names: &'r RefCell<HashMap<*const Tensor, (Arc<Tensor>, Name)>>,
}

/// Names of large constants of a model.
pub type Names = RefCell<HashMap<*const Tensor, (Arc<Tensor>, Name)>>;

/// Constants of more bytes have their names remembered.
const LARGE: usize = 1 << 12;

impl<'r> Trace<'r> {
    /// An empty program whose regions `runner` runs.
    pub fn new(runner: &'r mut dyn Runner, names: &'r Names) -> Trace<'r> {
        let mut t = Trace {
            table: lathe_ops::table(),
            region: Region::default(),
            runner,
            regions: 0,
            looked: false,
            names,
        };
        t.region.graph = Graph::new("region", &[]);
        t
    }

    fn ty(v: &Val) -> Type {
        let shape: Vec<Int> = v.dims().into_iter().map(Int::from).collect();
        Type::dense(v.elem().dtype(), &shape)
    }

    /// The name of a constant: equal content has an equal name.
    fn name(&self, t: &Arc<Tensor>) -> Name {
        let hash = || -> Name {
            let mut h = blake3::Hasher::new();
            h.update(format!("{:?}{}", t.shape, t.dtype).as_bytes()).update(&t.bytes);
            format!("c{}", &h.finalize().to_hex()[..24]).into()
        };
        if t.bytes.len() < LARGE {
            return hash();
        }
        let mut names = self.names.borrow_mut();
        names.entry(Arc::as_ptr(t)).or_insert_with(|| (t.clone(), hash())).1.clone()
    }

    /// The value's place in the region.
    fn enter(&mut self, v: &Val) -> ValueId {
        let state = v.0.state.borrow().clone();
        let (tensor, constant) = match state {
            State::Pending(id) => return id,
            State::Constant(t) => (t, true),
            State::Given(t) => (t, false),
        };
        if let Some((id, _)) = self.region.entered.get(&Rc::as_ptr(&v.0)) {
            return *id;
        }
        let ty = Trace::ty(v);
        let r = &mut self.region;
        let id = if constant {
            let name = self.name(&tensor);
            let r = &mut self.region;
            if let Some(i) =
                r.graph.values.iter().position(|x| x.source == Source::Const(name.clone()) && x.ty == ty)
            {
                ValueId(i as u32)
            } else {
                r.constants.insert(name.clone(), tensor);
                r.graph.constant(&name, ty)
            }
        } else {
            let name = format!("x{}", r.inputs.len());
            r.inputs.push((name.as_str().into(), tensor));
            r.graph.input(&name, ty)
        };
        self.region.entered.insert(Rc::as_ptr(&v.0), (id, v.clone()));
        id
    }

    /// Applies a primitive; its first result has elements of the type `elem`.
    pub fn op(&mut self, op: &str, args: &[&Val], attrs: &[(&str, Attr)], elem: Elem) -> Read<Val> {
        let row =
            self.table.get(op).ok_or_else(|| Fault::invalid(format!("there is no primitive '{op}'")))?;
        let types: Vec<Type> = args.iter().map(|v| Trace::ty(v)).collect();
        let all: Attrs = attrs.iter().map(|(n, a)| ((*n).into(), a.clone())).collect();
        if args.iter().any(|v| v.is_empty()) {
            if (row.form)(&types, &all) == Form::Elementwise {
                let shapes: Vec<&[usize]> = args.iter().map(|v| v.shape()).collect();
                return Ok(empty(elem, &broadcast(&shapes)?));
            }
            return Err(Fault::unsupported(format!("'{op}' of a tensor without elements")));
        }
        let out = (row.infer)(&types, &all).map_err(|m| {
            let types: Vec<_> = types.iter().map(ToString::to_string).collect();
            Fault::invalid(format!("'{op}' of {}: {m}", types.join(" and ")))
        })?;
        let shape: Option<Vec<usize>> =
            out[0].shape.iter().map(|d| d.as_const().and_then(|d| usize::try_from(d).ok())).collect();
        let shape = shape.ok_or_else(|| Fault::invalid("a shape that is no constant"))?;
        if out[0].dtype != elem.dtype() {
            return Err(Fault::invalid(format!("'{op}' gives {}, not {}", out[0].dtype, elem.name())));
        }
        let n = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n < 1 << 36);
        let n = n.ok_or_else(|| Fault::invalid(format!("a tensor of shape {shape:?} is too large")))?;
        let constants: Option<Vec<Arc<Tensor>>> =
            args.iter().map(|v| v.is_constant().then(|| v.known()).flatten()).collect();
        if let Some(c) = constants.filter(|c| n <= FOLDED && c.iter().all(|t| t.len() <= FOLDED)) {
            let args: Vec<Tensor> = c.iter().map(|t| (**t).clone()).collect();
            let t = (row.reference)(&args, &all, &out[..1]).remove(0);
            return Ok(Val::new(elem, shape, State::Constant(Arc::new(t))));
        }
        // So are decisions by numbers of this run.
        let steering = n <= STEERING && out[0].dtype.is_int() && args.iter().all(|v| v.steers());
        let known: Option<Vec<Arc<Tensor>>> = args.iter().map(|v| v.known()).collect();
        if let Some(k) = known.filter(|k| steering && !k.is_empty()) {
            let args: Vec<Tensor> = k.iter().map(|t| (**t).clone()).collect();
            let t = (row.reference)(&args, &all, &out[..1]).remove(0);
            return Ok(Val::new(elem, shape, State::Given(Arc::new(t))));
        }
        let ids: Vec<ValueId> = args.iter().map(|v| self.enter(v)).collect();
        let id = self.region.graph.apply(&self.table, op, &ids, attrs)?[0];
        let v = Val::new(elem, shape, State::Pending(id));
        self.region.pending.push(Rc::downgrade(&v.0));
        Ok(v)
    }

    /// The same elements under another type that is stored alike.
    pub fn rename(&mut self, v: &Val, elem: Elem) -> Val {
        if let Some(v) = v.renamed(elem) {
            return v;
        }
        let id = self.enter(v);
        let v = Val::new(elem, v.shape().to_vec(), State::Pending(id));
        self.region.pending.push(Rc::downgrade(&v.0));
        v
    }

    /// The region as it is written, prepared: its number, its inputs, and the place of each value in its results. `None`
    /// where reading hung on elements of this run, so that other ones would be read in another way.
    pub fn finish(&mut self, values: &[Val]) -> Read<Option<(usize, Vec<(Name, Arc<Tensor>)>, Vec<usize>)>> {
        if self.regions > 0 || self.looked {
            return Ok(None);
        }
        let mut region = std::mem::take(&mut self.region);
        self.region.graph = Graph::new("region", &[]);
        let (mut outputs, mut places) = (vec![], vec![]);
        for v in values {
            let State::Pending(id) = *v.0.state.borrow() else { return Ok(None) };
            let at = outputs.iter().position(|o| *o == id).unwrap_or(outputs.len());
            if at == outputs.len() {
                outputs.push(id);
            }
            places.push(at);
        }
        region.graph.outputs = outputs;
        let graph = without_dead(&region.graph);
        let used = |n: &Name| graph.values.iter().any(|v| v.source == Source::Input && v.name == *n);
        let inputs = region.inputs.into_iter().filter(|(n, _)| used(n)).collect();
        let number = self.runner.prepare(&graph, &region.constants)?;
        Ok(Some((number, inputs, places)))
    }

    /// Runs the region as far as it is written; every value that is still in use is then known.
    pub fn run(&mut self) -> Read<()> {
        let mut region = std::mem::take(&mut self.region);
        self.region.graph = Graph::new("region", &[]);
        let live: Vec<Rc<Inner>> = region.pending.iter().filter_map(Weak::upgrade).collect();
        let mut outputs: Vec<ValueId> = vec![];
        for v in &live {
            if let State::Pending(id) = *v.state.borrow()
                && !outputs.contains(&id)
            {
                outputs.push(id);
            }
        }
        if outputs.is_empty() {
            return Ok(());
        }
        region.graph.outputs = outputs.clone();
        let graph = without_dead(&region.graph);
        let used = |n: &Name| graph.values.iter().any(|v| v.source == Source::Input && v.name == *n);
        let inputs: Vec<(Name, Arc<Tensor>)> = region.inputs.into_iter().filter(|(n, _)| used(n)).collect();
        let constant = |n: &Name| graph.values.iter().any(|v| v.source == Source::Const(n.clone()));
        region.constants.retain(|n, _| constant(n));
        let number = self.runner.prepare(&graph, &region.constants)?;
        let results = self.runner.call(number, &inputs, vec![])?;
        self.regions += 1;
        let results: Vec<Arc<Tensor>> = results.into_iter().map(Arc::new).collect();
        for v in &live {
            let State::Pending(id) = v.state.borrow().clone() else { continue };
            if let Some(i) = outputs.iter().position(|o| *o == id) {
                *v.state.borrow_mut() = State::Given(results[i].clone());
            }
        }
        Ok(())
    }

    /// The elements of a value; runs the region where it must.
    pub fn tensor(&mut self, v: &Val) -> Read<Arc<Tensor>> {
        self.looked |= v.is_given() && !v.steers();
        if v.known().is_none() {
            self.run()?;
        }
        v.known().ok_or_else(|| Fault::invalid("a value that no region computed"))
    }

    /// The value as one that is known in this run only.
    pub fn settled(&mut self, v: &Val) -> Read<Val> {
        let t = self.tensor(v)?;
        Ok(Val::new(v.elem(), v.shape().to_vec(), State::Given(t)))
    }

    /// The value as one of the model: what follows is read for this value alone.
    pub fn fixed(&mut self, v: &Val) -> Read<Val> {
        let t = self.tensor(v)?;
        Ok(Val::new(v.elem(), v.shape().to_vec(), State::Constant(t)))
    }
}

/// A tensor without elements.
pub fn empty(elem: Elem, shape: &[usize]) -> Val {
    let tensor = Tensor { shape: shape.to_vec(), dtype: elem.dtype(), encoding: None, bytes: vec![] };
    Val::constant(Array::new(elem, tensor))
}

/// The shape of an elementwise result.
pub fn broadcast(shapes: &[&[usize]]) -> Read<Vec<usize>> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![1; rank];
    for s in shapes {
        for (o, d) in out[rank - s.len()..].iter_mut().zip(s.iter()) {
            if *o == 1 {
                *o = *d;
            } else if *d != 1 && *o != *d {
                return Err(Fault::invalid(format!("shapes {shapes:?} do not fit each other")));
            }
        }
    }
    Ok(out)
}

/// The graph without the nodes and values that no result needs, numbered anew.
fn without_dead(g: &Graph) -> Graph {
    let mut used = vec![false; g.values.len()];
    g.outputs.iter().for_each(|v| used[v.0 as usize] = true);
    let mut keep = vec![false; g.nodes.len()];
    for (i, n) in g.nodes.iter().enumerate().rev() {
        keep[i] = n.outputs.iter().any(|v| used[v.0 as usize]);
        if keep[i] {
            n.inputs.iter().for_each(|v| used[v.0 as usize] = true);
        }
    }
    let mut out = Graph::new(&g.name, &[]);
    let mut place: HashMap<ValueId, ValueId> = HashMap::new();
    for (i, v) in g.values.iter().enumerate().filter(|(i, _)| used[*i]) {
        place.insert(ValueId(i as u32), ValueId(out.values.len() as u32));
        out.values.push(v.clone());
    }
    for (n, _) in g.nodes.iter().zip(&keep).filter(|(_, keep)| **keep) {
        let mut n = n.clone();
        n.inputs.iter_mut().for_each(|v| *v = place[v]);
        n.outputs.iter_mut().for_each(|v| *v = place[v]);
        out.nodes.push(n);
    }
    out.outputs = g.outputs.iter().map(|v| place[v]).collect();
    out
}
