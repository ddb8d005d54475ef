//! The place where the threads of one run meet: a counter that only rises.
//!
//! Each arrival adds one; a meeting is over when the counter reaches the next multiple of the number of threads. There is
//! no sense flag to flip and nothing to reset between meetings, so for two threads a meeting costs about two transfers of
//! one cache line. A poisoned barrier has its top bit set, which lets every waiter through at once.

use crate::gate::Gate;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

const POISON: u64 = 1 << 63;

/// Meets the threads of one [`Pool::run`](crate::Pool::run).
pub struct Barrier {
    arrived: Line<AtomicU64>,
    gate: Gate,
    threads: u64,
    spin: Duration,
}

/// A value alone on its cache lines (two, since lines are fetched in pairs).
#[derive(Default)]
#[repr(align(128))]
pub struct Line<T>(pub T);

/// What unwinds a thread out of a poisoned barrier; caught by the pool.
pub(crate) struct Poisoned;

impl Barrier {
    pub(crate) fn new(threads: usize, spin: Duration) -> Barrier {
        Barrier { arrived: Line::default(), gate: Gate::default(), threads: threads as u64, spin }
    }

    /// How many threads meet here.
    pub fn threads(&self) -> usize {
        self.threads as usize
    }

    /// Waits until every thread of the run is here. What each thread wrote before, all see after.
    ///
    /// When the barrier is poisoned (another thread panicked or failed), this does not return: the thread unwinds
    /// quietly to the pool, which reports the first cause to the caller of the run.
    #[inline]
    pub fn wait(&self) {
        let before = self.arrived.0.fetch_add(1, SeqCst);
        let goal = match self.threads {
            2 => (before & !1) + 2, // the most common case, without a division
            n => (before / n + 1) * n,
        };
        if before + 1 == goal {
            self.gate.open();
        } else if before & POISON == 0 {
            self.gate.wait(self.spin, || self.arrived.0.load(SeqCst) >= goal); // poison is above every goal
        }
        if self.arrived.0.load(SeqCst) & POISON != 0 {
            std::panic::resume_unwind(Box::new(Poisoned));
        }
    }

    /// Waits until `ready` holds, which some thread of the run makes true and then says so with [`Barrier::announce`]. Returns
    /// no more than [`Barrier::wait`] does when the barrier is poisoned.
    #[inline]
    pub fn wait_until(&self, ready: impl Fn() -> bool) {
        self.gate.wait(self.spin, || ready() || self.arrived.0.load(SeqCst) & POISON != 0);
        if self.arrived.0.load(SeqCst) & POISON != 0 {
            std::panic::resume_unwind(Box::new(Poisoned));
        }
    }

    /// Wakes those who wait for something that was made true before this call, by sequentially consistent writes or before a
    /// sequentially consistent fence.
    #[inline]
    pub fn announce(&self) {
        self.gate.open();
    }

    /// Lets every thread that waits or will wait unwind to the pool: the run is over.
    pub(crate) fn poison(&self) {
        self.arrived.0.fetch_or(POISON, SeqCst);
        self.gate.open();
    }

    /// Makes the barrier new; only between runs.
    pub(crate) fn reset(&self) {
        self.arrived.0.store(0, SeqCst);
    }
}
