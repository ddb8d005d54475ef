//! The interpreter: the meaning of a tensor program, one scalar at a time, loops in order, storage by layout. Processes take
//! turns: each runs until it waits for a channel, and when all wait, what each waits for is told.
//!
//! Fixed point is exact arithmetic whose result is rounded towards minus infinity and wrapped to the type, as the default
//! modes of `ap_fixed` do (`AP_TRN`, `AP_WRAP`) when a result is assigned.

mod arithmetic;
#[cfg(test)]
mod tests;

use super::network::{label, shown};
use super::watch::{Seen, Storage, Touch, Watch, overflow_is_open};
use super::{
    Access, Binary, Buffer, CHANNEL, Expr, Fact, For, Kernel, Node, Param, Stmt, Store, Unary, network,
    popped,
};
use crate::encoding::Resolved;
use crate::value::{decode_bits, encode_bits, read_bits, write_bits};
use crate::{DType, IrError, Layout, Name};
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use arithmetic::{binary_fixed, binary_float, exact_binary, exact_int, exact_unary, integer, unary};

/// The arguments of a run: dimensions and the bytes of each parameter.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Values of the dimensions.
    pub dims: HashMap<Name, i64>,
    /// Storage of each parameter.
    pub params: HashMap<Name, Vec<u8>>,
}

impl Memory {
    /// Memory with these dimensions and no storage yet.
    pub fn new(dims: &[(&str, i64)]) -> Memory {
        Memory { dims: dims.iter().map(|(n, v)| ((*n).into(), *v)).collect(), params: HashMap::new() }
    }

    /// Sets a parameter's storage.
    pub fn set(&mut self, name: &str, bytes: &[u8]) {
        self.params.insert(name.into(), bytes.to_vec());
    }

    /// Sets a parameter's storage to f32 values.
    pub fn set_f32(&mut self, name: &str, v: &[f32]) {
        self.set(name, &v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
    }

    /// A parameter's storage as f32 values.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        let b = self.params.get(name).map_or(&[][..], Vec::as_slice);
        b.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
    }
}

#[derive(Clone, Copy, Debug)]
enum Value {
    Int(i64),
    Float(f64),
    /// The integer that is stored, and the number of its bits behind the point.
    Fixed(i64, u8),
}

impl Value {
    fn float(self) -> f64 {
        match self {
            Value::Int(v) => v as f64,
            Value::Float(v) => v,
            Value::Fixed(v, fraction) => v as f64 / f64::from(fraction).exp2(),
        }
    }

    fn int(self) -> i64 {
        match self {
            Value::Int(v) => v,
            Value::Float(v) => v as i64,
            Value::Fixed(v, fraction) => (i128::from(v) / (1i128 << fraction)) as i64,
        }
    }

    /// The value of stored bits.
    fn of_bits(t: DType, bits: u64) -> Value {
        match t {
            DType::Int { .. } => Value::Int(t.wrap(bits as i64)),
            DType::Fixed { fraction, .. } => Value::Fixed(t.wrap(bits as i64), fraction),
            t => Value::Float(decode_bits(t, bits)),
        }
    }

    /// The stored bits of the value as a type.
    fn bits(self, t: DType) -> u64 {
        match (t, self) {
            (DType::Int { .. }, Value::Float(v)) => t.wrap(v as i128 as i64) as u64,
            (DType::Int { .. }, v) => t.wrap(v.int()) as u64,
            (DType::Fixed { fraction, .. }, Value::Int(v)) => (i128::from(v) << fraction) as u64,
            (DType::Fixed { fraction, .. }, Value::Fixed(v, from)) if fraction >= from => {
                (i128::from(v) << (fraction - from)) as u64
            }
            (DType::Fixed { fraction, .. }, Value::Fixed(v, from)) => {
                (i128::from(v) >> (from - fraction)) as u64
            }
            (t, v) => encode_bits(t, v.float()),
        }
    }

    fn cast(self, t: DType) -> Value {
        Value::of_bits(t, self.bits(t))
    }
}

/// Where the elements of a buffer are; clones share.
#[derive(Clone)]
enum Place {
    Bytes(Rc<RefCell<Vec<u8>>>),
    Channel(Rc<Channels>),
}

/// An array of channels; the queues hold stored bits.
struct Channels {
    name: Name,
    depth: usize,
    queues: RefCell<Vec<VecDeque<u64>>>,
}

#[derive(Clone)]
struct Slot {
    place: Place,
    dtype: DType,
    shape: Vec<i64>,
    /// Bit addresses, or the numbers of channels.
    layout: Resolved,
    /// What its elements are promised to be at least, and to be below.
    range: Option<(i64, i64)>,
    storage: Storage,
}

/// Statements on the way, and the loop they are the body of: its iteration and their number.
struct Frame<'k> {
    body: &'k [Stmt],
    at: usize,
    turn: Option<(&'k For, i64, i64)>,
}

/// A process (the whole kernel is one): what it sees, where it is, and what it waits for.
struct Task<'k> {
    label: String,
    parent: Option<usize>,
    /// Processes it started that have not ended.
    children: usize,
    waits: String,
    vars: FxHashMap<Name, i64>,
    slots: FxHashMap<Name, Slot>,
    stack: Vec<Frame<'k>>,
}

/// Why a process stopped running.
enum Stop<'k> {
    Waits(String),
    Starts(Vec<(&'k For, i64, i64)>),
    Ends,
    /// There is too much to do.
    GivesUp,
}

/// What the process that has its turn sees.
struct Run {
    name: Name,
    slots: FxHashMap<Name, Slot>,
    vars: FxHashMap<Name, i64>,
    channels: Vec<Rc<Channels>>,
    /// Allocations so far.
    places: u64,
    watch: Option<Watch>,
}

/// Processes that a message about a deadlock names.
const NAMED: usize = 8;

/// Runs a kernel over the whole range of its loops.
pub fn interpret(k: &Kernel, memory: &mut Memory) -> Result<(), IrError> {
    run(k, memory, None).map(|_| ())
}

/// Runs a kernel over the whole range of its loops, and tells what was seen. A run of more `work` (statements, and elements of
/// temporaries) is given up, with the memory as it is then. In a program of processes, loops are not watched.
pub fn interpret_watched(k: &Kernel, memory: &mut Memory, work: u64) -> Result<Seen, IrError> {
    let watch = run(k, memory, Some(Watch::new(work, super::is_network(k))))?;
    Ok(watch.expect("it was given one").seen)
}

fn run(k: &Kernel, memory: &mut Memory, watch: Option<Watch>) -> Result<Option<Watch>, IrError> {
    let vars = memory.dims.iter().map(|(n, v)| (n.clone(), *v)).collect();
    let slots = FxHashMap::default();
    let mut r = Run { name: k.name.clone(), slots, vars, channels: vec![], places: 0, watch };
    if let Some(p) = k.params.iter().find(|p| !memory.params.contains_key(&p.name)) {
        return r.fail(&p.name, "no storage was passed");
    }
    // The storage is the run's until it ends.
    let lent: Vec<_> = k
        .params
        .iter()
        .map(|p| {
            Rc::new(RefCell::new(memory.params.get_mut(&p.name).map(std::mem::take).unwrap_or_default()))
        })
        .collect();
    let out = r.kernel(k, &lent);
    for (p, bytes) in k.params.iter().zip(lent) {
        memory.params.insert(p.name.clone(), bytes.take());
    }
    out.map(|()| r.watch)
}

impl Run {
    fn kernel(&mut self, k: &Kernel, params: &[Rc<RefCell<Vec<u8>>>]) -> Result<(), IrError> {
        for (p, bytes) in k.params.iter().zip(params) {
            self.places += 1;
            for v in &p.views {
                let slot = self.slot(v, Some((p, bytes)))?;
                self.slots.insert(v.name.clone(), slot);
            }
        }
        let whole = Task {
            label: String::new(),
            parent: None,
            children: 0,
            waits: String::new(),
            vars: std::mem::take(&mut self.vars),
            slots: std::mem::take(&mut self.slots),
            stack: vec![Frame { body: &k.body, at: 0, turn: None }],
        };
        self.tasks(whole)?;
        let ended = self.watch.as_ref().is_none_or(|w| w.seen.ended);
        for c in self.channels.iter().filter(|_| ended) {
            if let Some(n) = c.queues.borrow().iter().map(VecDeque::len).find(|n| *n > 0) {
                return self.fail(&c.name, format!("{n} of the values pushed were never popped"));
            }
        }
        Ok(())
    }

    fn fail<T>(&self, place: &str, message: impl Into<String>) -> Result<T, IrError> {
        Err(IrError::run(format!("{}/{place}", self.name), message))
    }

    /// From now on accesses do not count, or count again.
    fn aside(&mut self, aside: bool) {
        if let Some(w) = &mut self.watch {
            w.aside = aside;
        }
    }

    fn touch(&mut self, n: &Name, address: i64, touch: Touch) {
        let slot = &self.slots[n];
        if let Some(w) = &mut self.watch {
            w.touch(n, slot.storage, address, slot.dtype.bits(), touch);
        }
    }

    /// Watches the side of a choice that is not taken: C may compute it, which must not fail.
    fn other_side(&mut self, e: &Expr, place: &str) {
        let Some((aside, exact)) = self.watch.as_ref().map(|w| (w.aside, w.seen.exact)) else { return };
        self.aside(true);
        let failed = self.eval(e, place).is_err();
        if let Some(w) = &mut self.watch {
            (w.aside, w.seen.exact) = (aside, exact);
            w.open(failed, || format!("the other side of a choice, {e}, has no value"));
        }
    }

    /// The value as a type, of an operation that may round it or that C may leave open.
    fn converted(&mut self, v: Value, t: DType) -> Value {
        let out = v.cast(t);
        if let Some(w) = &mut self.watch {
            match (v, t) {
                (Value::Float(f), DType::Int { .. }) => {
                    // The largest numbers of `u64` stand here as negative ones.
                    let held = match out.int() {
                        i if t == DType::U64 => i128::from(i as u64),
                        i => i128::from(i),
                    };
                    let fits = f.is_finite() && f.trunc() as i128 == held;
                    w.open(!fits, || format!("{f} converted to {t}"));
                }
                (_, DType::Float { .. }) => {
                    let same = out.float() == v.float() && out.float().is_finite();
                    w.float(same && !matches!(v, Value::Int(i) if v.float() as i128 != i128::from(i)));
                }
                _ => {}
            }
        }
        out
    }

    /// A result of arithmetic on integers, wrapped to their type.
    fn integer(&mut self, t: DType, op: &str, exact: Option<i128>, v: i64) -> Value {
        let out = t.wrap(v);
        if let Some(w) = &mut self.watch {
            let open = exact.is_none_or(|e| overflow_is_open(t) && e != i128::from(out));
            w.open(open, || format!("{op} of {t} overflows"));
        }
        Value::Int(out)
    }

    /// A result of arithmetic on floats, rounded to their type.
    fn float(&mut self, t: DType, v: f64, exact: bool) -> Value {
        let out = t.round(v);
        if let Some(w) = &mut self.watch {
            w.float(exact && out == v && v.is_finite());
        }
        Value::Float(out)
    }

    /// Whether there is work left for this much more.
    fn works(&mut self, n: u64) -> bool {
        self.watch.as_mut().is_none_or(|w| w.work(n))
    }

    fn slot(&mut self, b: &Buffer, param: Option<(&Param, &Rc<RefCell<Vec<u8>>>)>) -> Result<Slot, IrError> {
        let get = |n: &str| self.vars.get(n).copied();
        let shape = b.shape.iter().map(|s| s.eval(&get)).collect::<Option<Vec<_>>>();
        let (Some(mut shape), Some(mut layout)) = (shape, b.layout.resolve(&get)) else {
            return self.fail(&b.name, "its shape mentions an unbound dimension");
        };
        let parts = |b: &Buffer| b.dtype.bits() % 8 != 0;
        let storage = match param {
            Some((p, _)) => Storage {
                place: self.places,
                given: p.access != Access::Out,
                fine: p.views.iter().any(parts),
            },
            None => {
                self.places += 1;
                Storage { place: self.places, given: false, fine: parts(b) }
            }
        };
        let elements =
            |shape: &[i64]| shape.iter().map(|n| (*n).max(0) as usize).fold(1usize, usize::saturating_mul);
        // A run that is given up has no use for the temporary.
        let made = elements(&shape) as u64;
        if param.is_none() && self.watch.as_mut().is_some_and(|w| !w.work(made)) {
            shape.iter_mut().for_each(|n| *n = 0);
        }
        let place = match param {
            Some((_, bytes)) => Place::Bytes(bytes.clone()),
            None if &*b.memory == CHANNEL => {
                let depth = shape.pop().unwrap_or(0).max(0) as usize;
                let bounds = Layout::dense(DType::BOOL, &b.shape[..shape.len()]).resolve(&get);
                layout = bounds.expect("its shape was evaluated");
                let queues = RefCell::new(vec![VecDeque::new(); elements(&shape)]);
                let c = Rc::new(Channels { name: b.name.clone(), depth, queues });
                self.channels.push(c.clone());
                Place::Channel(c)
            }
            None => {
                let bits = elements(&shape) * b.dtype.bits() as usize;
                Place::Bytes(Rc::new(RefCell::new(vec![0xa5; bits / 8 + 8])))
            }
        };
        let range = b.facts.iter().find_map(|f| match f {
            Fact::Range(least, end) => least.eval(&get).zip(end.eval(&get)),
            _ => None,
        });
        Ok(Slot { place, dtype: b.dtype, shape, layout, range, storage })
    }

    /// Runs a process and all that it starts, by turns.
    fn tasks(&mut self, whole: Task) -> Result<(), IrError> {
        let mut tasks = BTreeMap::from([(0, whole)]);
        let mut next = 1;
        while !tasks.is_empty() {
            let mut moved = false;
            for id in tasks.keys().copied().collect::<Vec<_>>() {
                let Some(task) = tasks.get_mut(&id).filter(|t| t.children == 0) else { continue };
                let (stop, ran) = self.turn(task)?;
                moved |= ran;
                match stop {
                    Stop::GivesUp => return Ok(()),
                    Stop::Waits(what) => task.waits = what,
                    Stop::Ends => {
                        let parent = tasks.remove(&id).and_then(|t| t.parent);
                        if let Some(p) = parent.and_then(|p| tasks.get_mut(&p)) {
                            p.children -= 1;
                        }
                    }
                    Stop::Starts(started) => {
                        task.children = started.len();
                        let mut new = vec![];
                        for (l, i, n) in started {
                            let mut vars = task.vars.clone();
                            vars.insert(l.var.clone(), i);
                            new.push(Task {
                                label: label(&task.label, l, i, n),
                                parent: Some(id),
                                children: 0,
                                waits: String::new(),
                                vars,
                                slots: task.slots.clone(),
                                stack: vec![Frame { body: &l.body, at: 0, turn: None }],
                            });
                        }
                        for t in new {
                            tasks.insert(next, t);
                            next += 1;
                        }
                    }
                }
            }
            if !moved {
                let stuck: Vec<&Task> = tasks.values().filter(|t| t.children == 0).collect();
                let mut said: Vec<String> = stuck
                    .iter()
                    .take(NAMED)
                    .map(|t| {
                        if t.label.is_empty() {
                            t.waits.clone()
                        } else {
                            format!("'{}' {}", t.label, t.waits)
                        }
                    })
                    .collect();
                if stuck.len() > NAMED {
                    said.push(format!("{} more wait", stuck.len() - NAMED));
                }
                return self.fail("", format!("deadlock: {}", said.join("; ")));
            }
        }
        Ok(())
    }

    /// Runs a process as far as it goes; says why it stopped, and whether anything was done.
    fn turn<'k>(&mut self, task: &mut Task<'k>) -> Result<(Stop<'k>, bool), IrError> {
        std::mem::swap(&mut self.vars, &mut task.vars);
        std::mem::swap(&mut self.slots, &mut task.slots);
        let mut ran = false;
        let stop = loop {
            if !self.works(1) {
                break Stop::GivesUp;
            }
            let Some(frame) = task.stack.last_mut() else { break Stop::Ends };
            let Some(s) = frame.body.get(frame.at) else {
                match &mut frame.turn {
                    Some((l, i, n)) if *i + 1 < *n => {
                        *i += 1;
                        self.vars.insert(l.var.clone(), *i);
                        if let Some(w) = &mut self.watch {
                            w.next(*i);
                        }
                        frame.at = 0;
                        continue;
                    }
                    Some((l, ..)) => {
                        self.vars.remove(&l.var);
                        if let Some(w) = &mut self.watch {
                            w.leave();
                        }
                    }
                    None => {}
                }
                task.stack.pop();
                continue;
            };
            let mut inner = None;
            match s {
                Stmt::Alloc(b) => {
                    let slot = self.slot(b, None)?;
                    self.slots.insert(b.name.clone(), slot);
                }
                Stmt::For(_) if network(std::slice::from_ref(s)) == 1 => {
                    let run = network(&frame.body[frame.at..]);
                    let mut started = vec![];
                    for s in &frame.body[frame.at..frame.at + run] {
                        if let Stmt::For(l) = s {
                            let n = self.eval(&l.extent, &l.var)?.int();
                            started.extend((0..n).map(|i| (&**l, i, n)));
                        }
                    }
                    frame.at += run;
                    ran = true;
                    break Stop::Starts(started);
                }
                Stmt::For(l) => {
                    let n = self.eval(&l.extent, &l.var)?.int();
                    if n > 0 {
                        self.vars.insert(l.var.clone(), 0);
                        if let Some(w) = &mut self.watch {
                            w.enter(l);
                        }
                        inner = Some(Frame { body: &l.body, at: 0, turn: Some((l, 0, n)) });
                    }
                }
                Stmt::If(c, b) => {
                    if self.eval(c, "if")?.int() != 0 {
                        inner = Some(Frame { body: b, at: 0, turn: None });
                    }
                }
                Stmt::Intrinsic(_, b) => inner = Some(Frame { body: b, at: 0, turn: None }),
                Stmt::Store(s) => {
                    if let Some(what) = self.waits(s)? {
                        break Stop::Waits(what);
                    }
                    self.store(s)?;
                }
            }
            frame.at += 1;
            ran = true;
            task.stack.extend(inner);
        };
        std::mem::swap(&mut self.vars, &mut task.vars);
        std::mem::swap(&mut self.slots, &mut task.slots);
        let ended = matches!(stop, Stop::Ends);
        Ok((stop, ran || ended))
    }

    /// The channels of a name, and the number of the one that is meant.
    fn channel(
        &mut self,
        n: &Name,
        index: &[Expr],
        place: &str,
    ) -> Result<(Rc<Channels>, usize, Vec<i64>), IrError> {
        let index = self.index(index, place)?;
        let at = self.address(n, &index, place)?;
        match &self.slots[n].place {
            Place::Channel(c) => Ok((c.clone(), at as usize, index)),
            _ => self.fail(place, format!("'{n}' is no channel")),
        }
    }

    fn is_channel(&self, n: &str) -> bool {
        self.slots.get(n).is_some_and(|s| matches!(s.place, Place::Channel(_)))
    }

    /// What a block must wait for.
    fn waits(&mut self, s: &Store) -> Result<Option<String>, IrError> {
        if let Some((n, i)) = popped(s, &|n| self.is_channel(n)) {
            let (c, at, index) = self.channel(n, i, &s.name)?;
            if c.queues.borrow()[at].is_empty() {
                return Ok(Some(format!("waits to pop from {}, which is empty", shown(&(n.clone(), index)))));
            }
        }
        for (n, i) in &s.targets {
            if self.is_channel(n) {
                let (c, at, index) = self.channel(n, i, &s.name)?;
                if c.queues.borrow()[at].len() >= c.depth {
                    return Ok(Some(format!(
                        "waits to push to {}, which is full",
                        shown(&(n.clone(), index))
                    )));
                }
            }
        }
        Ok(None)
    }

    fn store(&mut self, s: &Store) -> Result<(), IrError> {
        let mut values = vec![];
        match s.reducer {
            None if popped(s, &|n| self.is_channel(n)).is_some() => {
                let (n, i) = popped(s, &|n| self.is_channel(n)).expect("seen just now");
                let (c, at, _) = self.channel(n, i, &s.name)?;
                let bits = c.queues.borrow_mut()[at].pop_front();
                values.push(Value::of_bits(self.slots[n].dtype, bits.unwrap_or_default()));
            }
            None => {
                for v in &s.values {
                    values.push(self.eval(v, &s.name)?);
                }
            }
            Some(r) => {
                let old: Vec<Expr> = s.targets.iter().map(|(n, i)| Expr::load(n, i)).collect();
                // What accumulates reads its own target, which is no read of another's.
                self.aside(true);
                for v in r.combine(&old, &s.values) {
                    values.push(self.eval(&v, &s.name)?);
                }
                self.aside(false);
                for v in s.values.iter().filter(|_| self.watch.is_some()).collect::<Vec<_>>() {
                    self.eval(v, &s.name)?;
                }
            }
        }
        for ((n, index), v) in s.targets.iter().zip(values) {
            let index = self.index(index, &s.name)?;
            let address = self.address(n, &index, &s.name)?;
            let touch = s.reducer.map_or(Touch::Write, |r| Touch::Accumulate(r.name));
            self.touch(n, address, touch);
            let slot = &self.slots[n];
            let (width, bits) = (slot.dtype.bits(), v.bits(slot.dtype));
            if let (Some(w), Some((least, end))) = (&mut self.watch, slot.range) {
                let kept = match v {
                    Value::Int(v) => (i128::from(least)..i128::from(end)).contains(&i128::from(v)),
                    v => (least as f64..end as f64).contains(&v.float()),
                };
                w.open(!kept, || {
                    format!("{n}{index:?} = {}, which is promised to be from {least} to {end}", v.float())
                });
            }
            let written = match &slot.place {
                Place::Bytes(bytes) => write_bits(&mut bytes.borrow_mut(), address, width, bits),
                Place::Channel(c) => {
                    c.queues.borrow_mut()[address as usize].push_back(bits);
                    Some(())
                }
            };
            if written.is_none() {
                return self.fail(&s.name, format!("{n}{index:?} is outside the storage"));
            }
        }
        Ok(())
    }

    fn index(&mut self, index: &[Expr], place: &str) -> Result<Vec<i64>, IrError> {
        index.iter().map(|i| Ok(self.eval(i, place)?.int())).collect()
    }

    fn address(&self, n: &Name, index: &[i64], place: &str) -> Result<i64, IrError> {
        let Some(slot) = self.slots.get(n) else {
            return self.fail(place, format!("buffer '{n}' is not in scope"));
        };
        if index.iter().zip(&slot.shape).any(|(i, s)| i < &0 || i >= s) {
            return self.fail(place, format!("{n}{index:?} is outside {:?}", slot.shape));
        }
        Ok(slot.layout.address(index))
    }

    fn eval(&mut self, e: &Expr, place: &str) -> Result<Value, IrError> {
        self.typed(e, place).map(|(v, _)| v)
    }

    /// The value and type of an expression.
    fn typed(&mut self, e: &Expr, place: &str) -> Result<(Value, DType), IrError> {
        Ok(match &**e {
            Node::Int(v, t @ DType::Fixed { .. }) => (Value::Int(*v).cast(*t), *t),
            Node::Int(v, t) => (Value::Int(*v), *t),
            Node::Float(b, t @ DType::Fixed { .. }) => (Value::Float(f64::from_bits(*b)).cast(*t), *t),
            Node::Float(b, t) => (Value::Float(f64::from_bits(*b)), *t),
            Node::Var(n) => match self.vars.get(n) {
                Some(v) => (Value::Int(*v), DType::INDEX),
                None => return self.fail(place, format!("'{n}' has no value")),
            },
            Node::Load(n, i) => {
                let i = self.index(i, place)?;
                let a = self.address(n, &i, place)?;
                let slot = &self.slots[n];
                let width = slot.dtype.bits();
                let bits = match &slot.place {
                    Place::Bytes(bytes) => read_bits(&bytes.borrow(), a, width),
                    Place::Channel(_) => {
                        return self.fail(place, format!("a pop from '{n}' is the whole of a block"));
                    }
                };
                let Some(bits) = bits else {
                    return self.fail(place, format!("{n}{i:?} is outside the storage"));
                };
                let (v, t) = (Value::of_bits(slot.dtype, bits), slot.dtype);
                self.touch(n, a, Touch::Read);
                (v, t)
            }
            Node::Cast(to, a) => {
                let v = match (self.typed(a, place)?, to) {
                    ((Value::Int(v), DType::U64), DType::Float { .. }) => Value::Float(v as u64 as f64),
                    ((v, _), _) => v,
                };
                (self.converted(v, *to), *to)
            }
            Node::Bitcast(to, a) => {
                let bits = match self.typed(a, place)? {
                    (Value::Int(v), _) => v as u64,
                    (v, from) => v.bits(from),
                };
                (Value::of_bits(*to, bits), *to)
            }
            Node::Table(t, values, a) => {
                let i = self.eval(a, place)?.int();
                let Some(v) = usize::try_from(i).ok().and_then(|i| values.get(i)) else {
                    return self.fail(place, format!("place {i} of a table of {}", values.len()));
                };
                (Value::Int(*v), *t)
            }
            Node::Select(c, a, b) => {
                let c = self.eval(c, place)?.int() != 0;
                let (taken, other) = if c { (a, b) } else { (b, a) };
                if self.watch.is_some() {
                    self.other_side(other, place);
                }
                self.typed(taken, place)?
            }
            Node::Unary(op, a) => {
                let (v, t) = self.typed(a, place)?;
                let v = match (op, v) {
                    (Unary::Neg, Value::Int(v)) => {
                        self.integer(t, "neg", Some(-i128::from(v)), v.wrapping_neg())
                    }
                    (Unary::Abs, Value::Int(v)) if matches!(t, DType::Int { signed: false, .. }) => {
                        Value::Int(v)
                    }
                    (Unary::Abs, Value::Int(v)) => {
                        self.integer(t, "abs", Some(i128::from(v).abs()), v.wrapping_abs())
                    }
                    (Unary::Not, Value::Int(v)) => Value::Int(t.wrap(!v)),
                    (Unary::Neg, Value::Fixed(v, f)) => Value::Fixed(t.wrap(v.wrapping_neg()), f),
                    (op, Value::Fixed(..)) => return self.fail(place, format!("{t} has no '{}'", op.name())),
                    (op, v) => {
                        let (x, y) = (v.float(), unary(*op, v.float()));
                        self.float(t, y, exact_unary(*op, x, y))
                    }
                };
                (v, t)
            }
            Node::Binary(op, a, b) => {
                let ((x, t), y) = (self.typed(a, place)?, self.eval(b, place)?);
                let v = match (x, y) {
                    (Value::Int(x), Value::Int(y)) => match integer(t)(*op, x, y) {
                        Some(v) if op.is_comparison() => Value::Int(v),
                        Some(v) => self.integer(t, op.spelling().0, exact_int(*op, x, y, v, t), v),
                        None => return self.fail(place, format!("division by zero in {e}")),
                    },
                    (Value::Fixed(x, f), Value::Fixed(y, _)) => match binary_fixed(*op, x, y, f) {
                        Some(v) if op.is_comparison() => Value::Int(v),
                        Some(v) => Value::Fixed(t.wrap(v), f),
                        None => return self.fail(place, format!("{t} has no '{}'", op.spelling().0)),
                    },
                    (x, y) => {
                        let (x, y) = (x.float(), y.float());
                        match op {
                            Binary::Lt => Value::Int((x < y).into()),
                            Binary::Le => Value::Int((x <= y).into()),
                            Binary::Eq => Value::Int((x == y).into()),
                            Binary::Ne => Value::Int((x != y).into()),
                            op => {
                                let v = binary_float(*op, x, y);
                                self.float(t, v, exact_binary(*op, x, y, v))
                            }
                        }
                    }
                };
                (v, if op.is_comparison() { DType::BOOL } else { t })
            }
        })
    }
}
