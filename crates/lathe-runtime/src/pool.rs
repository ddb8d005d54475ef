//! The decode thread pool: the same closure on every thread, meeting at a cheap barrier.
//!
//! A token is some hundreds of kernels of a few microseconds each, so starting a run and meeting between kernels must cost
//! less than a microsecond: threads spin while work is likely to come, then sleep, so that an idle process burns nothing.
//! The thread that calls [`Pool::run`] is thread 0. A panic or an error on one thread ends the run on all of them; the pool
//! is then as good as new.

use crate::RuntimeError;
use crate::barrier::{Barrier, Line, Poisoned};
use crate::gate::Gate;
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How a pool waits and where it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// Threads, the caller's included; at least 1.
    pub threads: usize,
    /// How long a worker spins for the next run before it sleeps.
    pub idle_spin: Duration,
    /// How long a thread spins at a barrier before it sleeps.
    pub barrier_spin: Duration,
    /// Whether worker `i` stays on the `i`-th processor that this process may use. The caller's thread is left alone.
    pub pin: bool,
}

impl PoolOptions {
    /// The defaults for `threads` threads: spin 2 ms between runs and 100 us at a barrier; with more threads than
    /// processors, hardly spin at all.
    pub fn new(threads: usize) -> PoolOptions {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let (idle_spin, barrier_spin) = match threads <= processors {
            true => (Duration::from_millis(2), Duration::from_micros(100)),
            false => (Duration::from_micros(20), Duration::from_micros(2)),
        };
        PoolOptions { threads, idle_spin, barrier_spin, pin: false }
    }
}

type Job<'a> = dyn Fn(usize, &Barrier) + Sync + 'a;
type Payload = Box<dyn Any + Send>;

/// Bits of the door: how many workers the caller waits for, whether all take part, whether those who come still may, and behind
/// these the number of the run.
const INSIDE_NOW: u64 = ALL - 1;
const ALL: u64 = 1 << 16;
const OPEN: u64 = 1 << 17;
const NUMBER: u32 = 18;

struct Shared {
    /// Who takes part in which run; a change of the number starts the workers.
    door: Line<AtomicU64>,
    /// The current run's closure. Written by the caller only while nobody is inside and nobody may enter; read by workers only
    /// inside.
    job: UnsafeCell<Option<*const Job<'static>>>,
    barrier: Barrier,
    start: Gate,
    finish: Gate,
    stop: AtomicBool,
    /// The first cause of a failed run.
    cause: Mutex<Option<Payload>>,
    options: PoolOptions,
}

// SAFETY: every field but `job` is Sync by itself. `job` is written only by the thread that holds `Pool::turn` while the door
// counts nobody and lets nobody in, and read by a worker only while the door counts it; the door is sequentially consistent, so
// writes and reads never overlap. What it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is only followed while the caller of `run` keeps the closure alive.
unsafe impl Send for Shared {}

thread_local! {
    /// The pool whose run this thread is inside of, to refuse a run within itself.
    static INSIDE: Cell<*const ()> = const { Cell::new(std::ptr::null()) };
}

/// Threads that run one closure together.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held for the length of a run: one at a time.
    turn: Mutex<()>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

impl Pool {
    /// A pool of `threads` threads (the caller's included; 0 counts as 1) with the usual options.
    pub fn new(threads: usize) -> Result<Pool, RuntimeError> {
        Pool::with_options(PoolOptions::new(threads.max(1)))
    }

    /// A pool as `options` say.
    pub fn with_options(options: PoolOptions) -> Result<Pool, RuntimeError> {
        let threads = options.threads.max(1);
        let shared = Arc::new(Shared {
            door: Line::default(),
            job: UnsafeCell::new(None),
            barrier: Barrier::new(threads, options.barrier_spin),
            start: Gate::default(),
            finish: Gate::default(),
            stop: AtomicBool::new(false),
            cause: Mutex::new(None),
            options,
        });
        let mut pool = Pool { shared, workers: Vec::new(), turn: Mutex::new(()) };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = std::thread::Builder::new().name(format!("lathe-{index}"));
            match worker.spawn(move || work(&shared, index)) {
                Ok(handle) => pool.workers.push(handle),
                // Dropping the pool ends the workers that did start.
                Err(error) => return Err(RuntimeError::Threads { threads, message: error.to_string() }),
            }
        }
        Ok(pool)
    }

    /// How many threads a run has.
    pub fn threads(&self) -> usize {
        self.shared.barrier.threads()
    }

    /// Runs `job(thread, barrier)` on every thread and returns when all have finished. Every thread must meet at the
    /// barrier equally often.
    ///
    /// # Panics
    /// With the panic of the first thread that panicked; or when called from inside a run of the same pool.
    pub fn run(&self, job: &(dyn Fn(usize, &Barrier) + Sync)) {
        self.start(ALL | self.workers.len() as u64, job);
    }

    /// Starts a run whose door is as given: see [`Shared::enter`].
    fn start(&self, door: u64, job: &Job<'_>) {
        let shared = &*self.shared;
        let me: *const () = (shared as *const Shared).cast();
        assert!(INSIDE.get() != me, "Pool::run was called from inside a run of the same pool");
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        shared.barrier.reset();
        // SAFETY: only the lifetime changes. The workers use the pointer only while the door counts them, and this function
        // closes the door and awaits that it counts nobody on every path before it returns, so the closure outlives every use.
        let lasting = unsafe { std::mem::transmute::<*const Job<'_>, *const Job<'static>>(job) };
        // SAFETY: `turn` is held, the last run closed the door and awaited that nobody was inside, so nobody reads the cell now.
        unsafe { *shared.job.get() = Some(lasting) };
        if !self.workers.is_empty() {
            let number = shared.number() + 1;
            shared.door.0.store(number << NUMBER | door, SeqCst);
            shared.start.open();
        }
        shared.take_part(0, job);
        shared.door.0.fetch_and(!OPEN, SeqCst);
        shared.finish.wait(shared.options.barrier_spin, || shared.door.0.load(SeqCst) & INSIDE_NOW == 0);
        let cause = shared.cause.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(turn);
        if let Some(cause) = cause {
            resume_unwind(cause);
        }
    }

    /// As [`Pool::run`], for a closure that can fail: the first error ends the run on every thread (at its next barrier) and
    /// is returned.
    pub fn try_run<E: Send>(&self, job: &(dyn Fn(usize, &Barrier) -> Result<(), E> + Sync)) -> Result<(), E> {
        fallible(job, &|job| self.run(job))
    }

    /// As [`Pool::try_run`], for a closure that does all its work whoever takes part, as threads take pieces of it: workers that
    /// do not come while the caller's own part runs are not waited for. So a run that is shorter than it takes a worker to get
    /// a processor is not held up. Threads wait for each other by [`Barrier::wait_until`], never by [`Barrier::wait`].
    pub fn try_share<E: Send>(
        &self,
        job: &(dyn Fn(usize, &Barrier) -> Result<(), E> + Sync),
    ) -> Result<(), E> {
        fallible(job, &|job| self.start(OPEN, job))
    }
}

/// Runs a closure that can fail as one that cannot: its first error ends the run.
fn fallible<E: Send>(
    job: &(dyn Fn(usize, &Barrier) -> Result<(), E> + Sync),
    run: &dyn Fn(&Job<'_>),
) -> Result<(), E> {
    let first: Mutex<Option<E>> = Mutex::new(None);
    run(&|thread, barrier| {
        if let Err(error) = job(thread, barrier) {
            first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            barrier.poison();
        }
    });
    first.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.door.0.fetch_add(1 << NUMBER, SeqCst);
        self.shared.start.open();
        for worker in self.workers.drain(..) {
            let _ = worker.join(); // a worker catches every panic of a job and has none of its own
        }
    }
}

impl Shared {
    /// The number of the current run.
    fn number(&self) -> u64 {
        self.door.0.load(SeqCst) >> NUMBER
    }

    /// A worker comes: the number of the run, and whether it takes part. Where all do, it is counted before it comes; else it
    /// counts itself, while the door is open.
    fn enter(&self) -> (u64, bool) {
        let mut door = self.door.0.load(SeqCst);
        loop {
            let counted = door & ALL != 0;
            if counted || door & OPEN == 0 {
                return (door >> NUMBER, counted);
            }
            match self.door.0.compare_exchange(door, door + 1, SeqCst, SeqCst) {
                Ok(_) => return (door >> NUMBER, true),
                Err(now) => door = now,
            }
        }
    }

    /// One thread's share of a run; never unwinds. A panic poisons the barrier and, when first, becomes the run's cause.
    fn take_part(&self, index: usize, job: &Job<'_>) {
        let me: *const () = (self as *const Shared).cast();
        let outer = INSIDE.replace(me);
        let result = catch_unwind(AssertUnwindSafe(|| job(index, &self.barrier)));
        INSIDE.set(outer);
        if let Err(payload) = result {
            if !payload.is::<Poisoned>() {
                self.cause.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
            }
            self.barrier.poison();
        }
    }
}

/// The life of a worker.
fn work(shared: &Shared, index: usize) {
    if shared.options.pin {
        pin(index);
    }
    let mut seen = 0;
    loop {
        shared.start.wait(shared.options.idle_spin, || shared.number() != seen);
        let (number, takes_part) = shared.enter();
        seen = number;
        if shared.stop.load(SeqCst) {
            return;
        }
        if !takes_part {
            continue;
        }
        // SAFETY: the door counts this worker until the decrement below: the cell is not written now, and the closure it points
        // to is alive (see `Pool::start`).
        let job = unsafe { (*shared.job.get()).map(|job| &*job) };
        if let Some(job) = job {
            shared.take_part(index, job);
        }
        if shared.door.0.fetch_sub(1, SeqCst) & INSIDE_NOW == 1 {
            shared.finish.open();
        }
    }
}

/// Keeps the calling thread on the `index`-th processor this process may use; does nothing where that is not possible.
fn pin(index: usize) {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: an all-zero `cpu_set_t` is a valid empty set.
        let mut allowed: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        let size = std::mem::size_of_val(&allowed);
        // SAFETY: the pointer is to a set of `size` bytes that lives through the call; 0 is the calling thread.
        if unsafe { libc::sched_getaffinity(0, size, &mut allowed) } != 0 {
            return;
        }
        // SAFETY: every index is below CPU_SETSIZE, the number of bits in the set.
        let is_allowed = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &allowed) };
        let processors: Vec<usize> = (0..libc::CPU_SETSIZE as usize).filter(is_allowed).collect();
        if processors.is_empty() {
            return;
        }
        // SAFETY: as above.
        let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the index came from the set, so it is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(processors[index % processors.len()], &mut one) };
        // SAFETY: the pointer is to a set of `size` bytes that lives through the call. A failure leaves the thread unpinned.
        unsafe { libc::sched_setaffinity(0, size, &one) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = index;
}
