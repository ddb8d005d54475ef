//! A graph that runs on tensors: compiled for one class of sizes, its constants and its state in memory.

use crate::{CompileError, Compiled, Options, Sizes, compile, load_stored};
use lathe_exec::Executable;
use lathe_ir::graph::{Graph, Source, ValueId};
use lathe_ir::{DType, Name, Tensor};
use lathe_machine::Target;
use lathe_rewrite::storage_bytes;
use lathe_runtime::{Arena, Buffer, Library, Pool, RuntimeError, View, prefer_huge_pages};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

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
        let kernels = class.plan.kernels.iter().map(|k| (k.name.clone(), k.describe())).collect();
        Ok(Session { graph, run, pool, views, homes, kernels })
    }

    /// The graph after all rewrites.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The bytes that the storage of a value holds: of a constant, of what is made of constants alone, or of a result.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>, CompileError> {
        let view =
            self.views.get(name).ok_or_else(|| CompileError::user(format!("there is no value '{name}'")))?;
        let mut bytes = vec![0; view.len()];
        view.read(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Writes a value of the caller's: an input that stays, or state.
    pub fn set(&self, name: &str, t: &Tensor) -> Result<(), CompileError> {
        let view =
            self.views.get(name).ok_or_else(|| CompileError::user(format!("there is no value '{name}'")))?;
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
        let mut dims: Vec<Option<i64>> = vec![None; self.graph.dims.len()];
        for (name, t) in inputs {
            let v = self.graph.values.iter().find(|v| *v.name == **name && v.source != Source::Node);
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
            self.set(name, t)?;
        }
        let unbound = self.graph.dims.iter().zip(&dims).find(|(_, v)| v.is_none());
        if let Some(((name, _), _)) = unbound {
            return Err(CompileError::user(format!("no input's shape says how large '{name}' is")));
        }
        let values: Vec<i64> = dims.into_iter().flatten().collect();
        self.run.run(&self.pool, &values)?;
        let outputs = self.graph.outputs.clone();
        outputs.into_iter().map(|v| self.read(v, &values)).collect()
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

    fn read(&self, v: ValueId, dims: &[i64]) -> Result<Tensor, CompileError> {
        let get = |n: &str| self.graph.dims.iter().position(|(d, _)| **d == *n).map(|i| dims[i]);
        let home = self.homes.get(&v).copied().unwrap_or(v);
        let ty = self.graph.ty(v);
        let unbound = || CompileError::bug(format!("'{}' has no size", self.graph.value(v).name));
        let shape: Option<Vec<usize>> = ty.shape.iter().map(|d| d.eval(&get).map(|n| n as usize)).collect();
        let shape = shape.ok_or_else(unbound)?;
        let sized =
            lathe_ir::graph::Type { shape: shape.iter().map(|d| (*d as i64).into()).collect(), ..ty.clone() };
        let bits = sized.bits().as_const().ok_or_else(unbound)?;
        let mut bytes = vec![0u8; (bits as usize).div_ceil(8)];
        let view = &self.views[&self.graph.value(home).name];
        prefer_huge_pages(&mut bytes);
        let part = self.part(bytes.len());
        let parts: Vec<Mutex<&mut [u8]>> = bytes.chunks_mut(part).map(Mutex::new).collect();
        self.each(&parts, &|i, to| {
            let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
            view.read(i * part, &mut to)
        })?;
        drop(parts);
        let encoding = sized.storage().map(std::sync::Arc::new);
        let dtype = if encoding.is_some() { DType::F32 } else { ty.dtype };
        Ok(Tensor { shape, dtype, encoding, bytes })
    }
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
