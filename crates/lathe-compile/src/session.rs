//! A graph that runs on tensors: compiled for one class of sizes, its constants and its state in memory.

use crate::{CompileError, Compiled, Options, Sizes, compile, load_stored};
use lathe_exec::Executable;
use lathe_ir::graph::{Graph, Source, Type, ValueId};
use lathe_ir::step::{Program, unroll};
use lathe_ir::{DType, Name, Tensor};
use lathe_machine::Target;
use lathe_rewrite::storage_bytes;
use lathe_runtime::{Arena, Buffer, Library, Pool, RuntimeError, View, prefer_huge_pages};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// The one class of sizes of a session.
const ALL: &str = "all";

/// A compiled graph with its memory.
pub struct Session {
    graph: Graph,
    run: Executable,
    pool: Pool,
    views: HashMap<Name, View>,
    /// The value whose storage each result has: itself, or the state it succeeds.
    homes: HashMap<ValueId, ValueId>,
    /// Arguments that kernels only read, and results that each run makes whole, of constant sizes: both can lie in the caller's memory.
    placeable: HashSet<ValueId>,
    /// Those arguments that lie there now.
    lent: HashSet<Name>,
    /// What each kernel is, for people.
    kernels: HashMap<Name, String>,
}

impl Session {
    /// Compiles a graph for this machine, kernels cached in the folder `cache`, and runs what depends on `constants`
    /// (by their names) alone. State starts as zeros.
    pub fn new(
        graph: &Graph,
        passes: &[&str],
        constants: &HashMap<Name, Tensor>,
        target: &Target,
        cache: &Path,
        threads: usize,
    ) -> Result<Session, CompileError> {
        let classes = [Sizes { name: ALL, ..Sizes::default() }];
        let compiled = compile(graph, &Options { target, cache, passes, classes: &classes }, &mut |_, _| ())?;
        Session::bind(compiled, constants, HashMap::new(), threads)
    }

    /// A graph that was compiled elsewhere for one class of sizes: the text that [`Draft::text`](crate::Draft::text) gave, its
    /// code, and the storage of what [`Draft::kept`](crate::Draft::kept) names.
    pub fn stored(
        text: &str,
        library: Library,
        kept: HashMap<Name, View>,
        threads: usize,
    ) -> Result<Session, CompileError> {
        Session::bind(load_stored(text, library, &[ALL])?, &HashMap::new(), kept, threads)
    }

    /// Puts everything in memory that is not `kept` elsewhere, and runs what depends on constants alone.
    fn bind(
        compiled: Compiled,
        constants: &HashMap<Name, Tensor>,
        mut views: HashMap<Name, View>,
        threads: usize,
    ) -> Result<Session, CompileError> {
        let (graph, class) = (compiled.graph, &compiled.classes[0]);
        let table = lathe_ops::table();
        let most: HashMap<Name, i64> = graph.dims.iter().cloned().collect();
        let get = |n: &str| most.get(n).copied();
        let arena = Arena::new("host", usize::MAX);
        let mut homes: HashMap<ValueId, ValueId> = HashMap::new();
        for n in &graph.nodes {
            for (a, r) in table.get(&n.op).map_or(&[][..], |r| r.donates) {
                let home = homes.get(&n.inputs[*a]).copied().unwrap_or(n.inputs[*a]);
                homes.insert(n.outputs[*r], home);
            }
        }
        let named = [&class.plan.load, &class.plan.run].into_iter().flat_map(|p| &p.buffers);
        let named: HashSet<&Name> = named.map(|b| &b.name).collect();
        for (i, v) in graph.values.iter().enumerate() {
            let id = ValueId(i as u32);
            let passed = matches!(v.source, Source::Input | Source::State);
            let needed = passed || graph.outputs.contains(&id) || named.contains(&v.name);
            if !needed || views.contains_key(&v.name) || homes.contains_key(&id) {
                continue;
            }
            let view = arena.alloc(storage_bytes(&v.ty, &get).max(64)).map(Buffer::into_view)?;
            if let Source::Const(name) = &v.source {
                let t = constants
                    .get(name)
                    .ok_or_else(|| CompileError::user(format!("constant '{name}' was not passed")))?;
                write(&view, &v.name, t)?;
            }
            views.insert(v.name.clone(), view);
        }
        let pool = Pool::new(threads)?;
        let planned = arena.alloc(class.plan.arena_bytes.max(64) as usize)?.into_view();
        let bind = |program| {
            Executable::new(program, &class.images, &views, &planned, &most, threads, &arena)
                .map_err(CompileError::from)
        };
        let values: Vec<i64> = graph.dims.iter().map(|(_, m)| *m).collect();
        if !class.plan.load.steps.is_empty() {
            bind(&class.plan.load)?.run(&pool, &values)?;
        }
        let run = bind(&class.plan.run)?;
        let placeable = placeable(&graph, (&class.plan.load, &class.plan.run), &homes, &most)?;
        let kernels = class.titles.clone();
        Ok(Session { graph, run, pool, views, homes, placeable, lent: HashSet::new(), kernels })
    }

    /// The graph after all rewrites.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The bytes that the storage of a value holds: of a constant, or of what is made of constants alone.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>, CompileError> {
        let view =
            self.views.get(name).ok_or_else(|| CompileError::user(format!("there is no value '{name}'")))?;
        let mut bytes = vec![0; view.len()];
        view.read(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Writes a value of the caller's: an input that stays, or state.
    pub fn set(&mut self, name: &str, t: &Tensor) -> Result<(), CompileError> {
        let view =
            self.views.get(name).ok_or_else(|| CompileError::user(format!("there is no value '{name}'")))?;
        if self.lent.remove(name) {
            self.run.place(name, view.clone())?;
        }
        let part = self.part(t.bytes.len());
        if t.bytes.len() <= part {
            return write(view, name, t);
        }
        fits(view, name, t)?;
        let parts: Vec<&[u8]> = t.bytes.chunks(part).collect();
        Ok(self.each(&parts, &|i, from| view.write(i * part, from))?)
    }

    /// Bytes of a copy that a thread does: small ones are done by one.
    fn part(&self, bytes: usize) -> usize {
        bytes.div_ceil(self.pool.threads()).next_multiple_of(4096).max(SMALL_COPY)
    }

    /// Copies parts, a thread each.
    fn each<T: Sync>(
        &self,
        parts: &[T],
        copy: &(dyn Fn(usize, &T) -> Result<(), RuntimeError> + Sync),
    ) -> Result<(), RuntimeError> {
        match parts {
            [] => Ok(()),
            [one] => copy(0, one),
            _ => self.pool.try_run(&|thread, _| parts.get(thread).map_or(Ok(()), |p| copy(thread, p))),
        }
    }

    /// Copies `bytes` of a state's storage to another place of it (a page of a cache that is about to be written).
    pub fn copy(&self, state: &str, from: usize, to: usize, bytes: usize) -> Result<(), CompileError> {
        let view = self
            .views
            .get(state)
            .ok_or_else(|| CompileError::user(format!("there is no state '{state}'")))?;
        Ok(view.part(to, bytes)?.copy(0, &view.part(from, bytes)?)?)
    }

    /// Runs the graph: inputs by name, whose shapes bind the dimensions (inputs not passed keep what they had); the
    /// results in order.
    pub fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<Tensor>, CompileError> {
        let dims = self.dims(inputs.iter().copied())?;
        for (name, t) in inputs {
            self.set(name, t)?;
        }
        self.results(&dims, vec![])
    }

    /// As [`Session::run`], without copies of large tensors of constant sizes: kernels read them where they lie (an input that is not passed again
    /// stays shared), and write results into the memory of `spent` ones where that has the size. Fresh memory costs
    /// about as much as a copy, so whoever runs a graph again and again gives back the results that it has used.
    pub fn run_shared(
        &mut self,
        inputs: &[(&str, &Arc<Tensor>)],
        spent: Vec<Tensor>,
    ) -> Result<Vec<Tensor>, CompileError> {
        let dims = self.dims(inputs.iter().map(|(n, t)| (*n, &***t)))?;
        for (name, t) in inputs {
            let value = self.graph.values.iter().position(|v| *v.name == **name && v.source == Source::Input);
            match value {
                Some(v) if t.bytes.len() >= LARGE && self.placeable.contains(&ValueId(v as u32)) => {
                    self.run.place(name, View::shared((*t).clone()))?;
                    self.lent.insert((*name).into());
                }
                _ => self.set(name, t)?,
            }
        }
        self.results(&dims, spent)
    }

    /// The dimensions that the inputs' shapes say, in the graph's order.
    fn dims<'t>(
        &self,
        inputs: impl Iterator<Item = (&'t str, &'t Tensor)>,
    ) -> Result<Vec<i64>, CompileError> {
        let mut dims: Vec<Option<i64>> = vec![None; self.graph.dims.len()];
        for (name, t) in inputs {
            let v = self.graph.values.iter().find(|v| *v.name == *name && v.source != Source::Node);
            let v = v.ok_or_else(|| CompileError::user(format!("there is no input '{name}'")))?;
            let unfit = || CompileError::user(format!("'{name}' has shape {:?}, not {}", t.shape, v.ty));
            if v.ty.shape.len() != t.shape.len() || v.ty.dtype != t.dtype {
                return Err(unfit());
            }
            for (d, n) in v.ty.shape.iter().zip(&t.shape) {
                let n = *n as i64;
                match self.graph.dims.iter().position(|(dim, _)| lathe_ir::Int::var(dim) == *d) {
                    Some(i) if n > self.graph.dims[i].1 || dims[i].is_some_and(|m| m != n) => {
                        return Err(unfit());
                    }
                    Some(i) => dims[i] = Some(n),
                    None if d.as_const().is_some_and(|c| c != n) => return Err(unfit()),
                    None => {}
                }
            }
        }
        let unbound = self.graph.dims.iter().zip(&dims).find(|(_, v)| v.is_none());
        if let Some(((name, _), _)) = unbound {
            return Err(CompileError::user(format!("no input's shape says how large '{name}' is")));
        }
        Ok(dims.into_iter().flatten().collect())
    }

    /// Runs the graph on what its inputs hold; the results in order, large ones in the memory of `spent` ones or in fresh one.
    fn results(&mut self, dims: &[i64], mut spent: Vec<Tensor>) -> Result<Vec<Tensor>, CompileError> {
        let outputs = self.graph.outputs.clone();
        let mut made: Vec<(ValueId, View)> = vec![];
        for v in &outputs {
            let bytes = self.sized(*v, dims)?.1;
            if bytes < LARGE || !self.placeable.contains(v) || made.iter().any(|(o, _)| o == v) {
                continue;
            }
            let memory = match spent.iter().position(|t| t.bytes.len() == bytes) {
                Some(i) => spent.swap_remove(i).bytes,
                None => fresh(bytes),
            };
            let view = View::of_bytes(memory);
            self.run.place(&self.graph.value(*v).name, view.clone())?;
            made.push((*v, view));
        }
        let done = self.run.run(&self.pool, dims);
        // Nothing holds the caller's memory afterwards, whatever came of the run.
        for (v, _) in &made {
            let name = &self.graph.value(*v).name;
            self.run.place(name, self.views[name].clone())?;
        }
        self.run.settle()?;
        done?;
        let mut results: Vec<Tensor> = vec![];
        for (i, v) in outputs.iter().enumerate() {
            let before = outputs[..i].iter().position(|o| o == v);
            let taken = made.iter().position(|(o, _)| o == v).filter(|_| before.is_none());
            results.push(match (before, taken.map(|at| made.swap_remove(at))) {
                (Some(before), _) => results[before].clone(),
                (None, Some((_, view))) => {
                    let held = || CompileError::bug("a result's memory is still held");
                    let (mut t, _) = self.sized(*v, dims)?;
                    t.bytes = view.into_bytes().ok_or_else(held)?;
                    t
                }
                (None, None) => self.read(*v, dims)?,
            });
        }
        Ok(results)
    }

    /// Runs a graph without dimensions once more on what its inputs hold, and reads nothing back.
    pub fn step(&mut self) -> Result<(), CompileError> {
        if !self.graph.dims.is_empty() {
            return Err(CompileError::user(
                "only inputs' shapes say how large the dimensions are".to_string(),
            ));
        }
        Ok(self.run.run(&self.pool, &[])?)
    }

    /// Runs a graph without dimensions once more: what each kernel is, how often it was called, and its seconds.
    pub fn profile(&mut self) -> Result<Vec<(String, usize, f64)>, CompileError> {
        let rows = self.run.profile(&self.pool, &[])?;
        let name = |n: Name| self.kernels.get(&n).cloned().unwrap_or_else(|| n.to_string());
        Ok(rows.into_iter().map(|(n, calls, s)| (name(n), calls, s)).collect())
    }

    /// The state of a name as it is now.
    pub fn state(&self, name: &str) -> Result<Tensor, CompileError> {
        let most: Vec<i64> = self.graph.dims.iter().map(|(_, m)| *m).collect();
        let v = self.graph.values.iter().position(|v| *v.name == *name && v.source == Source::State);
        let v = v.ok_or_else(|| CompileError::user(format!("there is no state '{name}'")))?;
        self.read(ValueId(v as u32), &most)
    }

    /// A value's tensor, yet without bytes, and how many these are.
    fn sized(&self, v: ValueId, dims: &[i64]) -> Result<(Tensor, usize), CompileError> {
        let get = |n: &str| self.graph.dims.iter().position(|(d, _)| **d == *n).map(|i| dims[i]);
        let ty = self.graph.ty(v);
        let unbound = || CompileError::bug(format!("'{}' has no size", self.graph.value(v).name));
        let shape: Option<Vec<usize>> = ty.shape.iter().map(|d| d.eval(&get).map(|n| n as usize)).collect();
        let shape = shape.ok_or_else(unbound)?;
        let sized = Type { shape: shape.iter().map(|d| (*d as i64).into()).collect(), ..ty.clone() };
        let bits = sized.bits().as_const().ok_or_else(unbound)?;
        let encoding = sized.storage().map(Arc::new);
        let dtype = if encoding.is_some() { DType::F32 } else { ty.dtype };
        Ok((Tensor { shape, dtype, encoding, bytes: vec![] }, (bits as usize).div_ceil(8)))
    }

    fn read(&self, v: ValueId, dims: &[i64]) -> Result<Tensor, CompileError> {
        let home = self.homes.get(&v).copied().unwrap_or(v);
        let (tensor, bytes) = self.sized(v, dims)?;
        let mut bytes = fresh(bytes);
        let view = &self.views[&self.graph.value(home).name];
        let part = self.part(bytes.len());
        let parts: Vec<Mutex<&mut [u8]>> = bytes.chunks_mut(part).map(Mutex::new).collect();
        self.each(&parts, &|i, to| {
            let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
            view.read(i * part, &mut to)
        })?;
        drop(parts);
        Ok(Tensor { bytes, ..tensor })
    }
}

/// Bytes from which on it costs less to point kernels at a tensor than to copy it.
const LARGE: usize = 1 << 16;

/// Zeros for a result.
fn fresh(bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0; bytes];
    prefer_huge_pages(&mut bytes);
    bytes
}

/// Arguments that the program reads and neither writes nor returns, and results that it makes and keeps for no other value: those whose
/// size is constant, as kernels use the room behind others ([`storage_bytes`]).
fn placeable(
    graph: &Graph,
    (load, run): (&Program, &Program),
    homes: &HashMap<ValueId, ValueId>,
    most: &HashMap<Name, i64>,
) -> Result<HashSet<ValueId>, CompileError> {
    let unrolled = unroll(run, &|n| most.get(n).copied())?;
    let touched = unrolled.queues.iter().flatten().flat_map(|u| u.op.touches());
    let written = touched.filter(|(_, writes)| *writes).map(|(b, _)| &run.buffers[b.buffer as usize].name);
    let written: HashSet<&Name> = written.collect();
    let known = |p: &Program, name: &Name| p.buffers.iter().any(|b| b.name == *name);
    let shared: HashSet<&ValueId> = homes.iter().flat_map(|(v, home)| [v, home]).collect();
    let fits = |v: &ValueId| {
        let value = graph.value(*v);
        value.ty.shape.iter().all(|d| d.as_const().is_some())
            && known(run, &value.name)
            && !known(load, &value.name)
            && !shared.contains(v)
            && match value.source {
                Source::Input => !written.contains(&value.name) && !graph.outputs.contains(v),
                Source::Node => graph.outputs.contains(v) && written.contains(&value.name),
                _ => false,
            }
    };
    Ok((0..graph.values.len() as u32).map(ValueId).filter(fits).collect())
}

/// Bytes below which more threads make no copy faster.
const SMALL_COPY: usize = 1 << 20;

fn write(view: &View, name: &str, t: &Tensor) -> Result<(), CompileError> {
    fits(view, name, t)?;
    Ok(view.write(0, &t.bytes)?)
}

fn fits(view: &View, name: &str, t: &Tensor) -> Result<(), CompileError> {
    if t.bytes.len() > view.len() {
        let what = format!("'{name}' has room for {} bytes, given {}", view.len(), t.bytes.len());
        return Err(CompileError::user(what));
    }
    Ok(())
}
