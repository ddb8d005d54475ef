//! Waiting for a word in memory to change: spin while it is likely to change soon, then sleep.
//!
//! The waiter's condition is any check of atomics; the one who makes it true calls [`Gate::open`] afterwards. The atomics
//! are read and written with sequential consistency, or written before a fence of it, so that either the waiter sees the
//! change before it sleeps or the opener sees the sleeper.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Spins between two looks at the clock: about a microsecond.
const SPINS: usize = 64;

/// A place where threads wait.
#[derive(Default)]
pub(crate) struct Gate {
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Gate {
    /// Returns when `ready` holds: spins for up to `spin`, then sleeps.
    #[inline]
    pub fn wait(&self, spin: Duration, ready: impl Fn() -> bool) {
        for _ in 0..SPINS {
            if ready() {
                return;
            }
            std::hint::spin_loop();
        }
        self.wait_longer(spin, &ready);
    }

    #[cold]
    fn wait_longer(&self, spin: Duration, ready: &dyn Fn() -> bool) {
        let start = Instant::now();
        while start.elapsed() < spin {
            for _ in 0..SPINS {
                if ready() {
                    return;
                }
                std::hint::spin_loop();
            }
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, SeqCst);
        while !ready() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }

    /// Wakes all sleepers; to be called after their condition was made true. One load when nobody sleeps.
    #[inline]
    pub fn open(&self) {
        if self.sleepers.load(SeqCst) > 0 {
            // A sleeper counts itself and checks its condition under the lock: taking it here means that it either saw the
            // change or is already waiting for this call.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }
}
