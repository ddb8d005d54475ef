//! The thread pool: every thread takes part, meets in order, survives panics and errors, and leaves nothing behind.

use lathe_runtime::{Pool, PoolOptions};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

#[test]
fn every_thread_takes_part_once() {
    for threads in 1..=8 {
        let pool = Pool::new(threads).unwrap();
        let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
        for _ in 0..200 {
            pool.run(&|thread, _| {
                counts[thread].fetch_add(1, Relaxed);
            });
        }
        assert!(counts.iter().all(|count| count.load(Relaxed) == 200));
    }
}

#[test]
fn thousands_of_tiny_runs_with_barriers() {
    for threads in 1..=8 {
        let pool = Pool::new(threads).unwrap();
        let runs = if threads <= 2 { 5000 } else { 500 };
        let slots: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
        for run in 1..=runs {
            pool.run(&|thread, barrier| {
                for step in 0..4 {
                    slots[thread].store(run * 10 + step, Relaxed);
                    barrier.wait();
                    // Relaxed loads: the barrier alone must make the others' stores visible.
                    assert!(slots.iter().all(|slot| slot.load(Relaxed) == run * 10 + step));
                    barrier.wait();
                }
            });
        }
    }
}

#[test]
fn sleeping_workers_wake() {
    let mut options = PoolOptions::new(4);
    (options.idle_spin, options.barrier_spin) = (Duration::ZERO, Duration::ZERO);
    let pool = Pool::with_options(options).unwrap();
    let total = AtomicUsize::new(0);
    for round in 0..300 {
        if round % 50 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        pool.run(&|_, barrier| {
            barrier.wait();
            total.fetch_add(1, Relaxed);
            barrier.wait();
        });
    }
    assert_eq!(total.load(Relaxed), 1200);
}

fn panic_text(result: Result<(), Box<dyn std::any::Any + Send>>) -> String {
    let payload = result.unwrap_err();
    payload
        .downcast_ref::<&str>()
        .map(|s| s.to_string())
        .or(payload.downcast_ref::<String>().cloned())
        .unwrap()
}

#[test]
fn a_panic_on_any_thread_reaches_the_caller_and_blocks_nobody() {
    for threads in 1..=4 {
        let pool = Pool::new(threads).unwrap();
        for guilty in 0..threads {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(&|thread, barrier| {
                    barrier.wait();
                    assert!(thread != guilty, "thread {guilty} failed");
                    barrier.wait();
                    barrier.wait();
                })
            }));
            assert_eq!(panic_text(result), format!("thread {guilty} failed"));
            let alive = AtomicUsize::new(0);
            pool.run(&|_, barrier| {
                barrier.wait();
                alive.fetch_add(1, Relaxed);
            });
            assert_eq!(alive.load(Relaxed), threads);
        }
    }
}

#[test]
fn a_thread_that_comes_to_a_poisoned_barrier_leaves() {
    let pool = Pool::new(3).unwrap();
    let result = pool.try_run(&|thread, barrier| {
        if thread == 1 {
            return Err("early");
        }
        std::thread::sleep(Duration::from_millis(20));
        (0..5).for_each(|_| barrier.wait());
        Ok(())
    });
    assert_eq!(result, Err("early"));
}

#[test]
fn an_error_ends_the_run_on_every_thread() {
    let pool = Pool::new(3).unwrap();
    let after = AtomicUsize::new(0);
    let result = pool.try_run(&|thread, barrier| {
        barrier.wait();
        if thread == 2 {
            return Err("no");
        }
        barrier.wait();
        after.fetch_add(1, Relaxed);
        Ok(())
    });
    assert_eq!((result, after.load(Relaxed)), (Err("no"), 0));
    let result: Result<(), ()> = pool.try_run(&|_, barrier| {
        barrier.wait();
        Ok(())
    });
    assert_eq!(result, Ok(()));
}

#[test]
fn shared_work_is_done_once_whoever_comes() {
    const PIECES: usize = 5;
    for (threads, sleepy) in [(1, false), (2, false), (2, true), (4, true)] {
        let mut options = PoolOptions::new(threads);
        if sleepy {
            (options.idle_spin, options.barrier_spin) = (Duration::ZERO, Duration::ZERO);
        }
        let pool = Pool::with_options(options).unwrap();
        for round in 0..500 {
            let nexts = [const { AtomicUsize::new(0) }; 3];
            let lefts = [const { AtomicUsize::new(PIECES) }; 3];
            let inside = AtomicUsize::new(0);
            let result: Result<(), ()> = pool.try_share(&|_, barrier| {
                inside.fetch_add(1, Relaxed);
                for (step, (next, left)) in nexts.iter().zip(&lefts).enumerate() {
                    while next.fetch_add(1, Relaxed) < PIECES {
                        // Nobody is here before all of the last step is done.
                        assert!(step == 0 || lefts[step - 1].load(SeqCst) == 0);
                        if left.fetch_sub(1, SeqCst) == 1 {
                            barrier.announce();
                        }
                    }
                    barrier.wait_until(|| left.load(SeqCst) == 0);
                }
                if round % 7 == 0 {
                    std::thread::yield_now();
                }
                inside.fetch_sub(1, Relaxed);
                Ok(())
            });
            // Who came is gone again, and all is done.
            assert_eq!((result, inside.load(Relaxed)), (Ok(()), 0));
            assert!(lefts.iter().all(|l| l.load(Relaxed) == 0));
        }
        // Runs of the other kind still have all threads.
        let count = AtomicUsize::new(0);
        pool.run(&|_, barrier| {
            barrier.wait();
            count.fetch_add(1, Relaxed);
        });
        assert_eq!(count.load(Relaxed), threads);
    }
}

#[test]
fn an_error_ends_shared_work() {
    let pool = Pool::new(3).unwrap();
    for _ in 0..100 {
        let result = pool.try_share(&|thread, barrier| {
            if thread == 0 {
                return Err("no");
            }
            barrier.wait_until(|| false);
            Ok(())
        });
        assert_eq!(result, Err("no"));
    }
}

#[test]
fn a_run_inside_a_run_is_refused() {
    let pool = Pool::new(2).unwrap();
    let result = catch_unwind(AssertUnwindSafe(|| pool.run(&|_, _| pool.run(&|_, _| ()))));
    assert!(panic_text(result).contains("inside a run"));
    let other = Pool::new(2).unwrap();
    pool.run(&|thread, _| {
        if thread == 0 {
            other.run(&|_, barrier| barrier.wait());
        }
    });
}

#[test]
fn callers_from_several_threads_take_turns() {
    let pool = Pool::new(2).unwrap();
    let inside = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..200 {
                    pool.run(&|_, barrier| {
                        assert!(inside.fetch_add(1, Relaxed) < 2);
                        barrier.wait();
                        inside.fetch_sub(1, Relaxed);
                    });
                }
            });
        }
    });
}

#[test]
fn dropping_a_pool_is_quick() {
    let start = Instant::now();
    for _ in 0..50 {
        drop(Pool::new(3).unwrap());
    }
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn pinned_pools_work() {
    let mut options = PoolOptions::new(2);
    options.pin = true;
    let pool = Pool::with_options(options).unwrap();
    let total = AtomicUsize::new(0);
    pool.run(&|_, barrier| {
        barrier.wait();
        total.fetch_add(1, Relaxed);
    });
    assert_eq!(total.load(Relaxed), 2);
}
