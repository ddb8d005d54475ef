//! A step program bound to memory and compiled kernels.

use crate::facts::{Promise, check, promises};
use crate::own::{self, Called, Own};
use crate::queues::Run;
use crate::share::{Cut, Progress};
use crate::{ExecError, HeldRoom, NETWORK, Setting};
use lathe_ir::step::{Bytes, Division, Op, Program, Storage, Unit, Unrolled, unroll};
use lathe_ir::tensor::{Access, HOST, Kernel, Opaque, Stmt};
use lathe_ir::{Bounds, Int, Name};
use lathe_machine::Link;
use lathe_runtime::{
    Arena, Ctx, DiskFile, KernelFn, Pool, Prepared, RuntimeError, Signature, View, Workspace,
};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// A compiled kernel as the executor needs it.
#[derive(Clone, Debug)]
pub struct Image {
    /// The code.
    pub function: KernelFn,
    /// The program it was made from, of which only parameters and dimensions are looked at: those are the call's.
    pub kernel: Kernel,
    /// Iterations of its loop over cores.
    pub grid: Int,
    /// Scratch bytes of each thread.
    pub workspace_bytes: Int,
    /// What its loops say.
    pub loops: Loops,
}

/// What an executor knows of a kernel's loops.
#[derive(Clone, Debug, Default)]
pub struct Loops {
    /// How often its blocks run, which is about what it computes; nothing where that is known only when it runs.
    pub work: Option<Int>,
    /// The buffers whose content decides where it reads and writes, and how often.
    pub leads: Vec<Name>,
}

impl Loops {
    /// Those of a kernel.
    pub fn of(k: &Kernel) -> Loops {
        let known = |n: &Int| {
            let mut known = true;
            n.visit_vars(&mut |v| known &= k.dims.iter().any(|d| **d == *v));
            known
        };
        Loops { work: work(&k.body, &Bounds::new()).filter(known), leads: own::leading(k) }
    }
}

/// Where the buffers of a program are.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The given ones that are memory.
    pub given: HashMap<Name, View>,
    /// The given ones that are files: copied from, and pages are copied to them.
    pub files: HashMap<Name, Arc<DiskFile>>,
    /// The arenas of planned ones, by tier.
    pub planned: HashMap<Name, View>,
    /// What copies between tiers go over.
    pub links: Vec<Link>,
    /// The room for pages that are held.
    pub held: Option<Arc<HeldRoom>>,
    /// Threads that compute in a tier of their own; those of the run do in all others. A queue computes in one tier.
    pub pools: HashMap<Name, Arc<Pool>>,
}

impl Places {
    /// Takes what the planned buffers of a program need from the arenas of their tiers, which have an end.
    pub fn plan(
        &mut self,
        program: &Program,
        most: &HashMap<Name, i64>,
        tiers: &[&Arena],
    ) -> Result<(), ExecError> {
        for b in program.buffers.iter().filter(|b| b.storage != Storage::Given) {
            if self.planned.contains_key(&b.tier) {
                continue;
            }
            let bad = |message: &str| ExecError::Buffer {
                program: program.name.clone(),
                buffer: b.name.to_string(),
                message: message.into(),
            };
            let tier =
                tiers.iter().find(|t| t.tier() == &*b.tier).ok_or_else(|| bad("is on an unknown tier"))?;
            let bytes = program.arena_bytes(&b.tier, &|n| most.get(n).copied());
            let bytes = bytes.ok_or_else(|| bad("has no bound on its size"))?;
            let view = tier.alloc(bytes.max(0) as usize)?.into_view();
            self.planned.insert(b.tier.clone(), view);
        }
        Ok(())
    }
}

/// Where some bytes are.
#[derive(Clone)]
pub(crate) enum Piece {
    Memory(View),
    File(Arc<DiskFile>, u64),
}

/// Bytes of a program that are memory.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub bytes: Bytes,
    /// Whether these are all that its buffer has: a caller may pass less than the largest size, or more, and a kernel's door looks
    /// at what it needs.
    pub whole: bool,
}

impl Place {
    /// Where they are in the memory that was put under their buffer, if one was.
    pub fn moved(&self, placed: &[(u32, View)]) -> Option<Result<View, RuntimeError>> {
        let (_, view) = placed.iter().rfind(|(b, _)| *b == self.bytes.buffer)?;
        Some(match self.whole {
            true => Ok(view.clone()),
            false => view.part(self.bytes.offset as usize, self.bytes.len as usize),
        })
    }
}

pub(crate) enum Action {
    // What all threads share.
    Call {
        call: Box<Prepared>,
        args: Vec<Place>,
        grid: i64,
        /// Which iterations are whose.
        cut: Cut,
        /// What the sizes above follow from, and how much is computed, as far as that is known.
        extent: Int,
        work: Option<Int>,
        required: Vec<Int>,
        dims: Vec<usize>,
        image: Name,
        /// Whether each thread does all of it, for itself.
        own: bool,
    },
    /// Inside a tier, by whoever takes it.
    Copy {
        from: View,
        to: View,
        /// Which bytes these are.
        places: [Place; 2],
    },
    /// Nobody goes on before all is done that stands between the meeting before and here, by whomever.
    Meet,
    /// A promise about what an earlier step made, which that step does not give; a meeting follows.
    Check {
        promise: Promise,
    },
    // What the queue's own thread does.
    /// From one tier to another.
    Transfer {
        from: Piece,
        to: View,
        link: usize,
    },
    /// Pages that a list names, from one tier to another.
    Pages {
        from: Piece,
        to: Piece,
        page: usize,
        /// How many pages there are.
        pages: i64,
        list: View,
        link: usize,
    },
    /// Pages of segments with something in them, or likely ones.
    Hold {
        /// The buffer that they come from, and the one that they are held in.
        from: Piece,
        to: View,
        /// Where the pages of each begin in both.
        starts: Vec<(usize, usize)>,
        /// Where each is held, and the bytes of a page.
        places: Vec<(View, usize)>,
        offsets: Option<View>,
        /// Whether a split has said which, and taken room for them.
        beside: bool,
        link: usize,
        room: Arc<HeldRoom>,
    },
    /// Where each segment is computed.
    Split {
        /// Where each is held, and the bytes of a page.
        places: Vec<(View, usize)>,
        segments: Division<View>,
        room: Arc<HeldRoom>,
    },
    Signal(usize),
    Wait(usize),
    Send {
        from: View,
        rank: u32,
        tag: u64,
        link: Option<usize>,
    },
    Receive {
        to: View,
        rank: u32,
        tag: u64,
    },
}

impl Action {
    pub fn is_shared(&self) -> bool {
        matches!(self, Action::Call { .. } | Action::Copy { .. } | Action::Meet | Action::Check { .. })
    }
}

/// A queue that can run.
pub(crate) struct Lane {
    pub name: String,
    pub actions: Vec<Action>,
    /// The text of each action's step.
    pub labels: Vec<String>,
    /// Its threads, where they are not those of the run.
    pub pool: Option<Arc<Pool>>,
}

impl Lane {
    /// Cuts the loops of the calls for so many threads, those between two meetings together.
    fn cut(&mut self, threads: usize, get: &dyn Fn(&str) -> Option<i64>) {
        let threads = self.pool.as_ref().map_or(threads, |p| p.threads());
        for group in self.actions.split_mut(|a| !matches!(a, Action::Call { own: false, .. })) {
            let each = group.iter().map(|a| match a {
                Action::Call { grid, work, .. } => Some((*grid, work.as_ref()?.eval(get)?.try_into().ok()?)),
                _ => None,
            });
            let known: Option<Vec<(i64, u64)>> = each.collect();
            let cuts = known.filter(|k| k.len() > 1).map(|k| Cut::together(&k, threads));
            for (i, a) in group.iter_mut().enumerate() {
                if let Action::Call { cut, grid, .. } = a {
                    *cut = cuts.as_ref().map_or_else(|| Cut::even(*grid, threads), |c| c[i].clone());
                }
            }
        }
    }
}

/// What actions are made from: once, or for each change of the dimensions when loops or parts follow them.
struct Maker<'m> {
    program: Cow<'m, Program>,
    images: Cow<'m, HashMap<Name, Image>>,
    /// Where each buffer is.
    homes: Vec<Piece>,
    links: Vec<Link>,
    held: Option<Arc<HeldRoom>>,
    workspace: Workspace,
    /// Tiers with threads of their own, and with scratch space for those.
    pools: HashMap<Name, (Arc<Pool>, Workspace)>,
    most: HashMap<Name, i64>,
    threads: usize,
}

/// A program that can run.
pub struct Executable {
    name: String,
    dims: Vec<Name>,
    buffers: Vec<Name>,
    /// Memory that was put under buffers, by their numbers, since the last run.
    placed: Vec<(u32, View)>,
    /// Values of the dimensions that all sizes follow; none before the first run.
    values: Option<Vec<i64>>,
    /// How many threads the loops are cut for; 0 where they are not.
    cut_for: usize,
    lanes: Vec<Lane>,
    promises: Vec<Promise>,
    /// How high events count at the start.
    counts: Vec<i64>,
    links: Vec<Link>,
    scratch: Vec<i32>,
    /// There when the steps follow from the dimensions.
    maker: Option<Box<Maker<'static>>>,
}

impl Executable {
    /// Binds a program on the host alone: `given` holds the storage of its given buffers by name, `planned` its arena.
    /// See [`Executable::bind`].
    pub fn new(
        program: &Program,
        images: &HashMap<Name, Image>,
        given: &HashMap<Name, View>,
        planned: &View,
        most: &HashMap<Name, i64>,
        threads: usize,
        arena: &Arena,
    ) -> Result<Executable, ExecError> {
        let planned = HashMap::from([(HOST.into(), planned.clone())]);
        let places = Places { given: given.clone(), planned, ..Places::default() };
        Executable::bind(program, images, &places, most, threads, arena)
    }

    /// Binds a program to memory. `most` has the largest value of each dimension (those the kernels were specialised to
    /// included); scratch space of the kernels comes from `arena`.
    pub fn bind(
        program: &Program,
        images: &HashMap<Name, Image>,
        places: &Places,
        most: &HashMap<Name, i64>,
        threads: usize,
        arena: &Arena,
    ) -> Result<Executable, ExecError> {
        let bad = |buffer: &Name, message: &str| ExecError::Buffer {
            program: program.name.clone(),
            buffer: buffer.to_string(),
            message: message.into(),
        };
        let get = |n: &str| most.get(n).copied();
        let mut homes = vec![];
        for b in &program.buffers {
            let bytes = b.bytes.eval(&get).ok_or_else(|| bad(&b.name, "has no bound on its size"))? as usize;
            homes.push(match b.storage {
                Storage::Given => match (places.given.get(&b.name), places.files.get(&b.name)) {
                    (Some(view), _) => Piece::Memory(view.clone()),
                    (_, Some(file)) if file.len() >= bytes as u64 => Piece::File(file.clone(), 0),
                    (_, Some(_)) => return Err(bad(&b.name, "is a file that is too short")),
                    _ => return Err(bad(&b.name, "was not passed")),
                },
                Storage::Planned(at) => {
                    let tier = places.planned.get(&b.tier);
                    let tier = tier.ok_or_else(|| bad(&b.name, "is on a tier that has no arena"))?;
                    Piece::Memory(tier.part(at as usize, bytes)?)
                }
            });
        }
        let workspace = arena.alloc(Executable::workspace_bytes(images, most, threads))?.into_view();
        let workspace = Workspace::new(workspace, threads);
        let own = |(tier, pool): (&Name, &Arc<Pool>)| {
            let bytes = Executable::workspace_bytes(images, most, pool.threads());
            let scratch = Arena::new(&**tier, usize::MAX).alloc(bytes)?.into_view();
            Ok((tier.clone(), (pool.clone(), Workspace::new(scratch, pool.threads()))))
        };
        let pools = places.pools.iter().map(own).collect::<Result<HashMap<_, _>, ExecError>>()?;
        let mut e = Executable {
            name: program.name.clone(),
            dims: program.dims.clone(),
            buffers: program.buffers.iter().map(|b| b.name.clone()).collect(),
            placed: vec![],
            values: None,
            cut_for: 0,
            lanes: vec![],
            promises: vec![],
            counts: program.events.iter().map(|e| e.count).collect(),
            links: places.links.clone(),
            scratch: vec![],
            maker: None,
        };
        let (links, held, bounds) = (places.links.clone(), places.held.clone(), most.clone());
        // A program that is made once, as the planner's are, needs no copy of the kernels.
        if program.follows_dims() {
            let (program, images) = (Cow::Owned(program.clone()), Cow::Owned(images.clone()));
            let maker =
                Maker { program, images, homes, links, held, workspace, pools, most: bounds, threads };
            e.maker = Some(Box::new(maker));
        } else {
            let (program, images) = (Cow::Borrowed(program), Cow::Borrowed(images));
            let maker =
                Maker { program, images, homes, links, held, workspace, pools, most: bounds, threads };
            (e.lanes, e.promises) = maker.make(&get)?;
        }
        Ok(e)
    }

    /// Bytes that [`Executable::bind`] takes from its arena: one scratch area, of which each thread has a part as large as the hungriest
    /// kernel needs, serves all steps, as a thread's calls run one after the other.
    pub fn workspace_bytes(
        images: &HashMap<Name, Image>,
        most: &HashMap<Name, i64>,
        threads: usize,
    ) -> usize {
        let get = |n: &str| most.get(n).copied();
        let scratch = |i: &Image| i.workspace_bytes.eval(&get).unwrap_or(0).max(0) as usize;
        let most = images.values().map(scratch).max().unwrap_or(0).next_multiple_of(64);
        (most * threads).max(64)
    }

    /// The program's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts other memory under a given buffer, from the next run on: an argument, or room for a result, where it lies.
    pub fn place(&mut self, buffer: &str, view: View) -> Result<(), ExecError> {
        let bad = |message: &str| ExecError::Buffer {
            program: self.name.clone(),
            buffer: buffer.into(),
            message: message.into(),
        };
        let number = self.buffers.iter().position(|b| **b == *buffer).ok_or_else(|| bad("is unknown"))?;
        if self.lanes.iter().flat_map(|l| &l.actions).any(|a| !a.is_shared()) {
            return Err(bad("is of a program that copies between tiers, which stays where it was bound"));
        }
        self.placed.push((number as u32, view));
        Ok(())
    }

    /// Lets go of memory that other memory was put in place of since the last run.
    pub fn settle(&mut self) -> Result<(), ExecError> {
        match self.values.clone() {
            Some(values) if !self.placed.is_empty() => self.set(&values),
            _ => Ok(()),
        }
    }

    /// Binds the dimensions and what was placed, and checks what the caller promised of its buffers.
    fn set(&mut self, values: &[i64]) -> Result<(), ExecError> {
        let names = &self.dims;
        let get = |n: &str| names.iter().position(|d| &**d == n).and_then(|i| values.get(i).copied());
        let known = self.values.as_deref() == Some(values);
        let placed = &self.placed;
        if !known || !placed.is_empty() {
            // What fails below leaves nothing that the next run could take for bound.
            self.values = None;
        }
        match &mut self.maker {
            Some(maker) if self.values.is_none() => {
                for (b, view) in placed {
                    maker.homes[*b as usize] = Piece::Memory(view.clone());
                }
                let fixed = |n: &str| get(n).or_else(|| maker.most.get(n).copied());
                (self.lanes, self.promises) = maker.make(&fixed)?;
            }
            _ => self.promises.iter_mut().try_for_each(|p| p.moved(placed))?,
        }
        check(&self.name, self.promises.iter(), &get, &mut self.scratch)?;
        if self.values.is_some() {
            return Ok(());
        }
        for a in self.lanes.iter_mut().flat_map(|l| &mut l.actions) {
            match a {
                Action::Call { call, args, grid, extent, required, dims, .. } => {
                    let moved = args.iter().enumerate().filter_map(|(i, p)| Some((i, p.moved(placed)?)));
                    let moved: Vec<_> =
                        moved.map(|(i, v)| Ok((i, v?))).collect::<Result<_, RuntimeError>>()?;
                    if known && moved.is_empty() {
                        continue;
                    }
                    let own: Vec<i64> = dims.iter().map(|i| values[*i]).collect();
                    call.set(&moved, &own, &bytes_of(required, &get))?;
                    *grid = extent.eval(&get).unwrap_or(0);
                }
                Action::Copy { from, to, places, .. } => {
                    for (view, place) in [from, to].into_iter().zip(places) {
                        if let Some(moved) = place.moved(placed) {
                            *view = moved?.part(0, place.bytes.len as usize)?;
                        }
                    }
                }
                Action::Check { promise, .. } => promise.moved(placed)?,
                _ => {}
            }
        }
        self.values = Some(values.to_vec());
        self.placed.clear();
        self.cut_for = 0;
        Ok(())
    }

    /// Cuts all loops for so many threads, where they are not.
    fn cut(&mut self, threads: usize) {
        if self.cut_for != threads {
            let (names, values) = (&self.dims, self.values.as_deref().unwrap_or(&[]));
            let get = |n: &str| names.iter().position(|d| &**d == n).and_then(|i| values.get(i).copied());
            self.lanes.iter_mut().for_each(|l| l.cut(threads, &get));
            self.cut_for = threads;
        }
    }

    /// Runs the program with its dimensions bound, in the program's order of them.
    pub fn run(&mut self, pool: &Pool, values: &[i64]) -> Result<(), ExecError> {
        self.run_in(&Setting { pool, peers: None, trace: None }, values)
    }

    /// As [`Executable::run`], with other ranks, or traced.
    pub fn run_in(&mut self, setting: &Setting<'_>, values: &[i64]) -> Result<(), ExecError> {
        self.set(values)?;
        self.cut(setting.pool.threads());
        let names = &self.dims;
        let get = |n: &str| names.iter().position(|d| &**d == n).and_then(|i| values.get(i).copied());
        Run::new(setting, &self.name, &self.links, &self.counts, &get).all(&self.lanes)
    }

    /// Runs the program once and says how long each kernel took in all, longest first: (kernel, calls, seconds). The
    /// threads meet after every step, so the sum is a little more than a run's time.
    pub fn profile(&mut self, pool: &Pool, values: &[i64]) -> Result<Vec<(Name, usize, f64)>, ExecError> {
        self.set(values)?;
        self.cut(pool.threads());
        let threads = pool.threads() as u32;
        let mut total: HashMap<Name, (usize, f64)> = HashMap::new();
        for a in self.lanes.iter().flat_map(|l| &l.actions) {
            let Action::Call { call, grid, cut, image, own, .. } = a else { continue };
            let progress = Progress::new(pool.threads());
            let start = std::time::Instant::now();
            let ctx = |thread: usize| Ctx { thread: thread as u32, threads };
            if *own {
                pool.try_run(&|thread, _| call.run(&mut ctx(thread), 0, *grid))?;
            } else {
                pool.try_share(&|thread, barrier| {
                    let (mut share, mut ctx) = (progress.of(thread, barrier), ctx(thread));
                    share.run(cut, |begin, end| call.run(&mut ctx, begin, end))?;
                    share.finish(|_, begin, end| call.run(&mut ctx, begin, end))
                })?;
            }
            let t = total.entry(image.clone()).or_default();
            t.0 += 1;
            t.1 += start.elapsed().as_secs_f64();
        }
        let mut out: Vec<_> = total.into_iter().map(|(n, (c, s))| (n, c, s)).collect();
        out.sort_by(|a, b| b.2.total_cmp(&a.2));
        Ok(out)
    }
}

impl Maker<'_> {
    /// The actions of all queues with the dimensions bound, and what is to be checked at the program's door.
    fn make(&self, get: &dyn Fn(&str) -> Option<i64>) -> Result<(Vec<Lane>, Vec<Promise>), ExecError> {
        let u = unroll(&self.program, get)?;
        // Programs of one flat list are the planner's, which is checked in debug builds; the dimensions change nothing there.
        if u.queues.len() > 1 || self.program.follows_dims() {
            u.check()?;
        }
        let place = |b: Bytes| Place { bytes: b, whole: whole(&u, b) };
        let memory = |b: Bytes| match self.piece(&u, b)? {
            Piece::Memory(view) => Ok(view),
            Piece::File(..) => Err(self.bad(b.buffer, "is a file, which is only copied from")),
        };
        let all = promises(&u, &|n| self.images.get(n).map(|i| &i.kernel), &|b| Ok((memory(b)?, place(b))))?;
        let (door, mut checks): (Vec<Promise>, Vec<Promise>) =
            all.into_iter().partition(|p| p.step.is_none());
        let mut lanes = vec![];
        for (queue, (name, _)) in self.program.all_queues().enumerate() {
            let pool = self.pool(&u.queues[queue])?;
            // Where nothing else runs beside, and the threads are those of the run.
            let here = self.threads > 1 && u.queues.len() == 1 && pool.is_none();
            let mut lane = Lane { name: name.into(), actions: vec![], labels: vec![], pool };
            let (own, copies) = match here {
                true => self.own(&u.queues[queue], &checks, get)?,
                false => (Own::default(), vec![]),
            };
            for (index, unit) in u.queues[queue].iter().enumerate() {
                if own.meetings.contains(&index) {
                    continue;
                }
                while checks.first().is_some_and(|c| c.step == Some((queue, index))) {
                    let promise = checks.remove(0);
                    lane.actions.push(Action::Check { promise });
                    lane.actions.push(Action::Meet);
                    lane.labels.extend(["check".into(), "meet".into()]);
                }
                let mut action = self.action(&u, unit, &memory, get)?;
                if let Action::Call { call, args, required, own: whole, .. } = &mut action {
                    *whole = own.calls.contains(&index);
                    let mine = |threads: &Vec<View>| {
                        let of = |p: &Place| {
                            own.bytes.iter().position(|(b, at)| *b == p.bytes && at.contains(&index))
                        };
                        let views =
                            args.iter().enumerate().filter_map(|(i, p)| Some((i, threads[of(p)?].clone())));
                        views.collect::<Vec<_>>()
                    };
                    let mine: Vec<_> = copies.iter().map(mine).collect();
                    if mine.iter().any(|views| !views.is_empty()) {
                        call.set_own(mine, &bytes_of(required, get))?;
                    }
                }
                lane.actions.push(action);
                lane.labels.push(unit.step.map_or_else(|| "meet".into(), |s| self.program.line(s)));
            }
            lanes.push(lane);
        }
        Ok((lanes, door))
    }

    /// The steps of a queue that each thread does for itself, and for each thread its own of the bytes.
    fn own(
        &self,
        units: &[Unit<'_>],
        checks: &[Promise],
        get: &dyn Fn(&str) -> Option<i64>,
    ) -> Result<(Own, Vec<Vec<View>>), ExecError> {
        let called = |op: &Op<'_>| {
            let Op::Call(name, _) = op else { return None };
            let image = self.images.get(*name)?;
            let bits: Int = image.kernel.params.iter().fold(0.into(), |n, p| n + p.bits.clone());
            let (grid, bytes) = (image.grid.eval(get)?, bits.eval(get)? / 8);
            Some(Called { kernel: &image.kernel, leads: &image.loops.leads, grid, bytes })
        };
        let checked: Vec<usize> = checks.iter().filter_map(|c| c.step).map(|(_, index)| index).collect();
        let own = own::find(&self.program, units, &called, &checked);
        // The same bytes are the same memory whenever they are used so.
        let mut places: HashMap<Bytes, usize> = HashMap::new();
        let mut each = 0;
        for (b, _) in &own.bytes {
            places.entry(*b).or_insert_with(|| {
                let at = each;
                each += (b.len as usize + LINE).next_multiple_of(LINE);
                at
            });
        }
        if each == 0 {
            return Ok((own, vec![]));
        }
        let all = Arena::new(HOST, usize::MAX).alloc(each * self.threads)?.into_view();
        let part = |thread: usize, b: &Bytes| Ok(all.part(thread * each + places[b], b.len as usize)?);
        let of = |thread| own.bytes.iter().map(|(b, _)| part(thread, b)).collect::<Result<_, ExecError>>();
        let copies = (0..self.threads).map(of).collect::<Result<_, _>>()?;
        Ok((own, copies))
    }

    fn bad(&self, buffer: u32, message: &str) -> ExecError {
        let buffer = self.program.buffers[buffer as usize].name.to_string();
        ExecError::Buffer { program: self.program.name.clone(), buffer, message: message.into() }
    }

    fn piece(&self, u: &Unrolled<'_>, b: Bytes) -> Result<Piece, ExecError> {
        Ok(match &self.homes[b.buffer as usize] {
            Piece::Memory(view) if whole(u, b) => Piece::Memory(view.clone()),
            Piece::Memory(view) => Piece::Memory(view.part(b.offset as usize, b.len as usize)?),
            Piece::File(file, start) => Piece::File(file.clone(), start + b.offset as u64),
        })
    }

    /// The threads of a queue, where they are its tier's own.
    fn pool(&self, queue: &[Unit<'_>]) -> Result<Option<Arc<Pool>>, ExecError> {
        let called = queue.iter().filter_map(|u| match &u.op {
            Op::Call(_, args) => args.first().map(|(b, _)| b.buffer),
            _ => None,
        });
        let own = |b: u32| self.pools.get(&self.program.buffers[b as usize].tier).map(|(pool, _)| pool);
        let mut first = None;
        for b in called {
            let pool = own(b);
            let before = *first.get_or_insert(pool);
            if before.map(Arc::as_ptr) != pool.map(Arc::as_ptr) {
                return Err(self.bad(b, "is computed with in a queue of another tier"));
            }
        }
        Ok(first.flatten().cloned())
    }

    /// The link that a copy goes over.
    fn between(&self, from: &Bytes, to: &Bytes) -> Result<usize, ExecError> {
        let tier = |b: &Bytes| &*self.program.buffers[b.buffer as usize].tier;
        let message = || format!("is copied to {}, where no link leads from {}", tier(to), tier(from));
        self.link(tier(from), tier(to)).ok_or_else(|| self.bad(from.buffer, &message()))
    }

    /// The room for what is held.
    fn room(&self, held: &[(Bytes, Bytes, i64)]) -> Result<Arc<HeldRoom>, ExecError> {
        let (_, to, _) = held.first().ok_or_else(|| self.bad(0, "is beside a step that holds nothing"))?;
        self.held.clone().ok_or_else(|| self.bad(to.buffer, "is held, and no room was given"))
    }

    fn link(&self, from: &str, to: &str) -> Option<usize> {
        self.links.iter().position(|l| l.from == from && l.to == to)
    }

    fn action(
        &self,
        u: &Unrolled<'_>,
        unit: &Unit<'_>,
        memory: &dyn Fn(Bytes) -> Result<View, ExecError>,
        get: &dyn Fn(&str) -> Option<i64>,
    ) -> Result<Action, ExecError> {
        // What is moved is as long as the program says.
        let exact = |b: Bytes| Ok::<View, ExecError>(memory(b)?.part(0, b.len as usize)?);
        let end = |b: Bytes| {
            Ok::<Piece, ExecError>(match self.piece(u, b)? {
                Piece::Memory(_) => Piece::Memory(exact(b)?),
                file => file,
            })
        };
        let tier = |b: &Bytes| &*self.program.buffers[b.buffer as usize].tier;
        let place = |(_, to, page): &(Bytes, Bytes, i64)| Ok((exact(*to)?, *page as usize));
        Ok(match &unit.op {
            Op::Meet => Action::Meet,
            Op::Signal(e) => Action::Signal(*e as usize),
            Op::Wait(e) => Action::Wait(*e as usize),
            Op::Copy(from, to) if tier(from) == tier(to) => {
                let places = [*from, *to].map(|bytes| Place { bytes, whole: whole(u, bytes) });
                Action::Copy { from: exact(*from)?, to: exact(*to)?, places }
            }
            Op::Split(held, segments) => Action::Split {
                places: held.iter().map(place).collect::<Result<_, ExecError>>()?,
                segments: segments.map(&mut |b| exact(*b))?,
                room: self.room(held)?,
            },
            Op::Hold(held, offsets, beside) => {
                let room = self.room(held)?;
                let (first, second, _) = &held[0];
                let link = self.between(first, second)?;
                if held.iter().any(|(a, b, _)| (a.buffer, b.buffer) != (first.buffer, second.buffer)) {
                    return Err(self.bad(first.buffer, "is not the only one that pages are held of together"));
                }
                let start = |(from, to, _): &(Bytes, Bytes, i64)| (from.offset as usize, to.offset as usize);
                let whole = |b: &Bytes| Bytes { offset: 0, len: u.sizes[b.buffer as usize], ..*b };
                Action::Hold {
                    from: end(whole(first))?,
                    to: memory(whole(second))?,
                    starts: held.iter().map(start).collect(),
                    places: held.iter().map(place).collect::<Result<_, ExecError>>()?,
                    offsets: offsets.map(exact).transpose()?,
                    beside: beside.is_some(),
                    link,
                    room,
                }
            }
            Op::Pages(from, to, page, list) => {
                let link = self.between(from, to)?;
                let (pages, page) = (from.len / page, *page as usize);
                Action::Pages { from: end(*from)?, to: end(*to)?, page, pages, list: exact(*list)?, link }
            }
            Op::Copy(from, to) => {
                Action::Transfer { from: end(*from)?, to: exact(*to)?, link: self.between(from, to)? }
            }
            Op::Send(from, rank, tag) => {
                let link = self.link(tier(from), NETWORK);
                Action::Send { from: exact(*from)?, rank: *rank, tag: *tag, link }
            }
            Op::Receive(to, rank, tag) => Action::Receive { to: exact(*to)?, rank: *rank, tag: *tag },
            Op::Call(kernel, args) => {
                let image = self.images.get(*kernel).ok_or_else(|| ExecError::Kernel {
                    program: self.program.name.clone(),
                    kernel: kernel.to_string(),
                })?;
                let k = &image.kernel;
                let param = |p: &lathe_ir::tensor::Param| lathe_runtime::Param {
                    name: p.name.to_string(),
                    access: match p.access {
                        Access::In => lathe_runtime::Access::Read,
                        Access::Out => lathe_runtime::Access::Write,
                        Access::InOut => lathe_runtime::Access::ReadWrite,
                    },
                    align: 1,
                };
                let scratch = image.workspace_bytes.eval(&|n| self.most.get(n).copied());
                let signature = Signature {
                    name: k.name.to_string(),
                    dims: k.dims.iter().map(ToString::to_string).collect(),
                    params: k.params.iter().map(param).collect(),
                    workspace_bytes: scratch.unwrap_or(0).max(0) as usize,
                };
                let places = args.iter().map(|(a, _)| Place { bytes: *a, whole: whole(u, *a) }).collect();
                let own = args.first().and_then(|(a, _)| self.pools.get(tier(a)));
                let workspace = own.map_or(&self.workspace, |(_, workspace)| workspace).clone();
                let args = args.iter().map(|(a, _)| memory(*a)).collect::<Result<Vec<View>, _>>()?;
                let required: Vec<Int> = k.params.iter().map(|p| p.bits.clone()).collect();
                let bound: Vec<i64> = k.dims.iter().map(|d| get(d).unwrap_or(1)).collect();
                let call = lathe_runtime::Kernel::new(image.function.clone(), signature).prepare(
                    args,
                    &bytes_of(&required, get),
                    &bound,
                    Some(workspace),
                )?;
                let dims = &self.program.dims;
                let dims = k.dims.iter().filter_map(|d| dims.iter().position(|p| p == d)).collect();
                Action::Call {
                    call: Box::new(call),
                    args: places,
                    grid: 0,
                    cut: Cut::even(0, 1),
                    extent: image.grid.clone(),
                    work: image.loops.work.clone(),
                    required,
                    dims,
                    image: (*kernel).clone(),
                    own: false,
                }
            }
        })
    }
}

fn work(body: &[Stmt], bounds: &Bounds) -> Option<Int> {
    let mut each = body.iter().map(|s| match s {
        Stmt::For(l) => {
            let mut o = Opaque::default();
            let extent = o.int(&l.extent, bounds)?;
            o.hides_nothing().then_some(extent * work(&l.body, bounds)?)
        }
        Stmt::If(_, b) => work(b, bounds),
        Stmt::Intrinsic(_, b) => work(b, bounds),
        Stmt::Store(_) => Some(1.into()),
        Stmt::Alloc(_) => Some(0.into()),
    });
    each.try_fold(Int::from(0), |all, n| Some(all + n?))
}

/// Bytes that are far enough from each other that no two cores want the same lines, which are fetched in pairs.
const LINE: usize = 128;

fn whole(u: &Unrolled<'_>, b: Bytes) -> bool {
    b.offset == 0 && b.len == u.sizes[b.buffer as usize]
}

fn bytes_of(bits: &[Int], get: &dyn Fn(&str) -> Option<i64>) -> Vec<usize> {
    bits.iter().map(|b| (b.eval(get).unwrap_or(0).max(0) as usize).div_ceil(8)).collect()
}
