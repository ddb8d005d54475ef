//! How threads share steps in a row: each loop over cores is cut into pieces, each is done by the thread that comes first, and at a
//! meeting nobody goes on before all pieces are done since the one before, by whomever. Who comes late finds them done, and is not
//! waited for.
//!
//! Cores may be far from each other: a line of memory that one wrote takes the other one as long as a small kernel. So what a thread
//! took and did stands on a line of its own, which others write only where they take its pieces, and how much there is to do
//! everybody counts for himself.

use lathe_runtime::Barrier;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// Pieces of a thread's part of a long loop, a bit each.
const PIECES: i64 = 16;
/// Bits of a count of pieces.
const COUNT: u32 = 32;

/// What the threads of a run have taken and done.
pub(crate) struct Progress(Vec<Line>);

/// Of one thread's part, alone on its lines of memory (two, since lines are fetched in pairs).
#[derive(Default)]
#[repr(align(128))]
struct Line {
    /// The last step of which something was taken, and which pieces of that. Of steps before it all are taken, for nobody goes on to a
    /// step before he has found each piece of the last one taken.
    taken: AtomicU64,
    /// The last meeting that the thread came to with something done, and how many pieces.
    done: AtomicU64,
}

/// One thread on its way through the steps.
pub(crate) struct Share<'a> {
    progress: &'a Progress,
    thread: usize,
    /// The number of the last step.
    step: u64,
    /// Pieces since the last meeting, and those that this thread did.
    all: u64,
    done: u64,
}

impl Progress {
    pub fn new(threads: usize) -> Progress {
        Progress((0..threads).map(|_| Line::default()).collect())
    }

    pub fn of(&self, thread: usize) -> Share<'_> {
        Share { progress: self, thread, step: 0, all: 0, done: 0 }
    }

    /// Takes a piece of a part of a step, where nobody has.
    fn take(&self, part: usize, step: u64, piece: i64) -> bool {
        let (taken, bit) = (&self.0[part].taken, 1 << piece);
        let mut now = taken.load(Relaxed);
        loop {
            let others = if now >> PIECES < step { 0 } else { now & ((1 << PIECES) - 1) };
            if now >> PIECES > step || others & bit != 0 {
                return false;
            }
            match taken.compare_exchange_weak(now, step << PIECES | others | bit, Relaxed, Relaxed) {
                Ok(_) => return true,
                Err(changed) => now = changed,
            }
        }
    }

    /// Whether so many pieces are done before a meeting. Who went on from it, or beyond, found that they are.
    fn all_done(&self, meeting: u64, all: u64) -> bool {
        let mut sum = 0;
        for line in &self.0 {
            let done = line.done.load(SeqCst);
            if done >> COUNT > meeting {
                return true;
            }
            if done >> COUNT == meeting {
                sum += done & ((1 << COUNT) - 1);
            }
        }
        sum == all
    }
}

impl Share<'_> {
    /// This thread's share of the next step, a loop of so many iterations.
    pub fn run<E>(&mut self, grid: i64, mut run: impl FnMut(i64, i64) -> Result<(), E>) -> Result<(), E> {
        self.step += 1;
        let threads = self.progress.0.len() as i64;
        self.all += count(threads, grid) as u64;
        for piece in pieces(self.thread as i64, threads, grid) {
            if self.progress.take(piece.part as usize, self.step, piece.number) {
                run(piece.begin, piece.end)?;
                self.done += 1;
            }
        }
        Ok(())
    }

    /// Waits until all is done that stands between the meeting before and here.
    pub fn meet(&mut self, barrier: &Barrier) {
        self.step += 1;
        let (meeting, all, done) = (self.step, std::mem::take(&mut self.all), std::mem::take(&mut self.done));
        let over = || self.progress.all_done(meeting, all);
        if done > 0 {
            self.progress.0[self.thread].done.store(meeting << COUNT | done, SeqCst);
            if over() {
                barrier.announce();
            }
        }
        barrier.wait_until(over);
    }
}

/// Iterations of a loop that are taken together: the number within a thread's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    part: i64,
    number: i64,
    begin: i64,
    end: i64,
}

/// How many pieces a loop has. Short loops have one for each thread.
fn count(threads: i64, grid: i64) -> i64 {
    let long = threads > 1 && grid / (threads * PIECES) >= 4;
    grid.min(threads * if long { PIECES } else { 1 }).max(0)
}

/// The pieces of a loop over cores in the order in which a thread looks at them: those of its own part in order, where it finds what it
/// computed before (cores may be far from each other), and then those of other threads' parts from their ends, as iterations may cost
/// unequally (causal attention), a core may be busy elsewhere, and a thread may not have come.
fn pieces(thread: i64, threads: i64, grid: i64) -> impl Iterator<Item = Piece> {
    let all = count(threads, grid);
    (0..threads).flat_map(move |i| {
        let part = (thread + i) % threads;
        let (first, last) = (all * part / threads, all * (part + 1) / threads);
        (0..last - first).map(move |j| {
            let number = if i == 0 { j } else { last - first - 1 - j };
            let piece = first + number;
            Piece { part, number, begin: grid * piece / all, end: grid * (piece + 1) / all }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{PIECES, Piece, Progress, count, pieces};
    use lathe_runtime::Pool;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[test]
    fn pieces_are_all_iterations_once_whoever_comes() {
        for threads in [1, 2, 3, 7, 16, 63, 64, 200, 300] {
            for grid in (-1..300).chain([1000, 4096, 1 << 40]) {
                let of = |thread| -> Vec<Piece> {
                    let mut all: Vec<_> = pieces(thread, threads, grid).collect();
                    all.sort_unstable();
                    all
                };
                let all = of(0);
                let ends: Vec<i64> = std::iter::once(0).chain(all.iter().map(|p| p.end)).collect();
                let begins: Vec<i64> = all.iter().map(|p| p.begin).chain([grid.max(0)]).collect();
                assert_eq!(begins, ends, "{threads} threads, {grid} iterations");
                assert_eq!(all.len() as i64, count(threads, grid));
                assert!(all.iter().all(|p| p.number < PIECES && p.begin < p.end));
                assert!((1..threads).all(|t| of(t) == all), "every thread looks at all");
            }
        }
        let first = pieces(1, 2, 64 * 32).next();
        assert_eq!(first, Some(Piece { part: 1, number: 0, begin: 1024, end: 1088 }), "its own come first");
    }

    /// Each piece of each step is done once, and after a meeting all of before are, with threads that come late or not at all.
    #[test]
    fn steps_are_done_once_and_before_the_meeting() {
        let grids = [1, 7, 0, 300, 2, 64, 1000];
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads).unwrap();
            for round in 0..50 {
                let counts: Vec<AtomicU64> = grids.iter().map(|_| AtomicU64::new(0)).collect();
                let progress = Progress::new(threads);
                pool.try_share::<()>(&|thread, barrier| {
                    if thread > 0 && round % 3 == 1 {
                        std::thread::yield_now();
                    }
                    let mut share = progress.of(thread);
                    for (i, (grid, n)) in grids.iter().zip(&counts).enumerate() {
                        share.run(*grid, |begin, end| {
                            n.fetch_add((end - begin) as u64, Relaxed);
                            Ok(())
                        })?;
                        // Two steps without a meeting between them, now and then.
                        if i % 3 != 0 {
                            share.meet(barrier);
                            assert!(
                                grids[..=i].iter().zip(&counts).all(|(g, n)| n.load(Relaxed) == *g as u64)
                            );
                        }
                    }
                    Ok(())
                })
                .unwrap();
                assert!(grids.iter().zip(&counts).all(|(g, n)| n.load(Relaxed) == *g as u64));
            }
        }
    }
}
