//! How threads share steps in a row: each loop over cores is cut into pieces, each is done by the thread that comes first, and at a
//! meeting nobody goes on before all pieces are done since the one before, by whomever. Who comes late finds them done, and is not
//! waited for.
//!
//! Cores may be far from each other: a line of memory that one wrote takes the other one as long as a small kernel. So what a thread
//! took stands on a line of its own, which others touch only where they help, which is after they waited for a moment; what it did
//! stands on another one, which it writes once a meeting and does not wait for; and how much there is to do everybody counts for
//! himself.

use lathe_runtime::{Barrier, Line};
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

/// Pieces of a thread's part of a long loop, a bit each.
const PIECES: i64 = 16;
/// Bits of a count of pieces.
const COUNT: u32 = 32;

/// How often a thread looks whether all is done before it helps: a microsecond or two, which is little for whom it helps, and before
/// which most come. To look at what others took would hold them up.
const PATIENCE: u32 = 128;

/// What the threads of a run have taken and done.
pub(crate) struct Progress(Vec<Part>);

/// Of one thread's part. What others look at while they wait lies apart from what it takes, and both apart from all else (two lines
/// of memory each, since lines are fetched in pairs).
#[derive(Default)]
struct Part {
    /// The last step of which something was taken, and which pieces of that. Of steps before it all are taken, for nobody goes on to a
    /// step before he has found each piece of the last one taken.
    taken: Line<AtomicU64>,
    /// The last meeting that the thread came to with something done, and how many pieces.
    done: Line<AtomicU64>,
}

/// One thread on its way through the steps.
pub(crate) struct Share<'a> {
    progress: &'a Progress,
    barrier: &'a Barrier,
    thread: usize,
    /// The number of the last step.
    step: u64,
    /// Iterations of each step since the last meeting, their pieces, and how many of those this thread did.
    grids: Vec<i64>,
    all: u64,
    done: u64,
    /// Whether it may be that somebody sleeps who waits for what was done.
    told: bool,
}

impl Progress {
    pub fn new(threads: usize) -> Progress {
        Progress((0..threads).map(|_| Part::default()).collect())
    }

    pub fn of<'a>(&'a self, thread: usize, barrier: &'a Barrier) -> Share<'a> {
        Share { progress: self, barrier, thread, step: 0, grids: vec![], all: 0, done: 0, told: true }
    }

    /// Takes a piece of a part of a step, where nobody has.
    fn take(&self, part: usize, step: u64, piece: i64) -> bool {
        let free = |taken: u64| (taken >> piece & 1 == 0).then_some((1 << piece, ()));
        self.claim(part, step, free).is_some()
    }

    /// Takes half of what is left of a thread's own part of a step, from its begin: what is taken together costs little, and what is not
    /// taken yet others may.
    fn take_half(&self, part: usize, step: u64, pieces: u32) -> Option<Range<u32>> {
        self.claim(part, step, |taken| {
            let begin = taken.trailing_ones();
            let left = (taken >> begin).trailing_zeros().min(pieces.saturating_sub(begin));
            let range = begin..begin + left.div_ceil(2);
            (left > 0).then(|| ((1 << range.end) - (1 << range.start), range))
        })
    }

    /// Takes what is picked of a part of a step by what is taken already, a bit each, unless the step is over.
    fn claim<T>(&self, part: usize, step: u64, pick: impl Fn(u64) -> Option<(u64, T)>) -> Option<T> {
        let taken = &self.0[part].taken.0;
        let mut now = taken.load(Relaxed);
        loop {
            let others = if now >> PIECES < step { 0 } else { now & ((1 << PIECES) - 1) };
            let (bits, picked) = pick(others).filter(|_| now >> PIECES <= step)?;
            match taken.compare_exchange_weak(now, step << PIECES | others | bits, Relaxed, Relaxed) {
                Ok(_) => return Some(picked),
                Err(changed) => now = changed,
            }
        }
    }

    /// Whether so many pieces are done before a meeting. Who went on from it, or beyond, found that they are.
    fn all_done(&self, meeting: u64, all: u64) -> bool {
        let mut sum = 0;
        for part in &self.0 {
            let done = part.done.0.load(SeqCst);
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
    /// This thread's own part of the next step, a loop of so many iterations.
    pub fn run<E>(&mut self, grid: i64, mut run: impl FnMut(i64, i64) -> Result<(), E>) -> Result<(), E> {
        self.step += 1;
        self.grids.push(grid);
        let threads = self.progress.0.len() as i64;
        self.all += count(threads, grid) as u64;
        let (first, last) = part(self.thread as i64, threads, grid);
        while let Some(range) = self.progress.take_half(self.thread, self.step, (last - first) as u32) {
            self.tell();
            self.done += u64::from(range.end - range.start);
            let at = |piece: u32| grid * (first + i64::from(piece)) / count(threads, grid);
            run(at(range.start), at(range.end))?;
        }
        Ok(())
    }

    /// Whether others are further than so many steps from here.
    pub fn is_behind(&self, steps: usize) -> bool {
        self.progress.0[self.thread].taken.0.load(Relaxed) >> PIECES > self.step + steps as u64
    }

    /// Takes what nobody has taken of the steps since the last meeting: the number of the step among them, and iterations of it.
    fn help<E>(&mut self, mut run: impl FnMut(usize, i64, i64) -> Result<(), E>) -> Result<(), E> {
        let threads = self.progress.0.len() as i64;
        let first = self.step + 1 - self.grids.len() as u64;
        for (i, grid) in self.grids.iter().enumerate() {
            for piece in others(self.thread as i64, threads, *grid) {
                if self.progress.take(piece.part as usize, first + i as u64, piece.number) {
                    run(i, piece.begin, piece.end)?;
                    self.done += 1;
                }
            }
        }
        Ok(())
    }

    /// Waits until all is done that stands between the meeting before and here, and helps where that takes long.
    pub fn meet<E>(&mut self, run: impl FnMut(usize, i64, i64) -> Result<(), E>) -> Result<(), E> {
        let meeting = self.step + 1;
        let all = self.all;
        self.publish(meeting);
        let progress = self.progress;
        let over = || progress.all_done(meeting, all);
        let mut soon = false;
        for _ in 0..PATIENCE {
            soon = over();
            if soon {
                break;
            }
            std::hint::spin_loop();
        }
        if !soon {
            let before = self.done;
            self.help(run)?;
            if self.done > before {
                self.publish(meeting);
            }
            self.tell();
        }
        self.barrier.wait_until(over);
        self.step += 1;
        self.grids.clear();
        (self.all, self.done) = (0, 0);
        Ok(())
    }

    /// Ends the thread's way: what nobody has taken since the last meeting is done.
    pub fn finish<E>(&mut self, run: impl FnMut(usize, i64, i64) -> Result<(), E>) -> Result<(), E> {
        self.help(run)?;
        self.tell();
        Ok(())
    }

    /// Says how much is done. Whoever sleeps is woken later, when that costs nothing: with [`Share::tell`].
    fn publish(&mut self, meeting: u64) {
        if self.done > 0 {
            self.progress.0[self.thread].done.0.store(meeting << COUNT | self.done, Release);
            self.told = false;
        }
    }

    /// Wakes those who sleep until what was published.
    fn tell(&mut self) {
        if !self.told {
            self.told = true;
            fence(SeqCst);
            self.barrier.announce();
        }
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

/// How many pieces a loop has. Short loops have one for each thread, as cores that share positions go through all filters for each piece.
fn count(threads: i64, grid: i64) -> i64 {
    let long = threads > 1 && grid / (threads * PIECES) >= 4;
    grid.min(threads * if long { PIECES } else { 1 }).max(0)
}

/// The pieces that are a thread's own part of a loop over cores: the first one, and the one behind the last.
fn part(thread: i64, threads: i64, grid: i64) -> (i64, i64) {
    let all = count(threads, grid);
    (all * thread / threads, all * (thread + 1) / threads)
}

/// Those of other threads' parts from their ends, as iterations may cost unequally (causal attention), a core may be busy elsewhere, and a
/// thread may not have come.
fn others(thread: i64, threads: i64, grid: i64) -> impl Iterator<Item = Piece> {
    let all = count(threads, grid);
    (1..threads).flat_map(move |i| {
        let of = (thread + i) % threads;
        let (first, last) = part(of, threads, grid);
        (first..last).rev().map(move |piece| {
            let (begin, end) = (grid * piece / all, grid * (piece + 1) / all);
            Piece { part: of, number: piece - first, begin, end }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{PIECES, Progress, count, others, part};
    use lathe_runtime::Pool;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[test]
    fn pieces_are_all_iterations_once_whoever_comes() {
        for threads in [1, 2, 3, 7, 16, 63, 64, 200, 300] {
            for grid in (-1..300).chain([1000, 4096, 1 << 40]) {
                let all = count(threads, grid);
                let parts: Vec<_> = (0..threads).map(|t| part(t, threads, grid)).collect();
                assert!(parts.iter().all(|(first, last)| first <= last && last - first <= PIECES));
                let ends: Vec<i64> = std::iter::once(0).chain(parts.iter().map(|p| p.1)).collect();
                let begins: Vec<i64> = parts.iter().map(|p| p.0).chain([all]).collect();
                assert_eq!(begins, ends, "{threads} threads, {grid} iterations");
                for thread in [0, threads - 1] {
                    let (first, last) = parts[thread as usize];
                    let own = (first..last).map(|p| (grid * p / all, grid * (p + 1) / all));
                    let mut ranges: Vec<_> =
                        own.chain(others(thread, threads, grid).map(|p| (p.begin, p.end))).collect();
                    ranges.sort_unstable();
                    let ends: Vec<i64> = std::iter::once(0).chain(ranges.iter().map(|p| p.1)).collect();
                    let begins: Vec<i64> = ranges.iter().map(|p| p.0).chain([grid.max(0)]).collect();
                    assert_eq!(begins, ends, "{threads} threads, {grid} iterations");
                    assert!(ranges.iter().all(|(begin, end)| begin < end));
                }
            }
        }
    }

    #[test]
    fn a_thread_takes_half_of_what_is_left_of_its_own_and_others_the_rest() {
        let progress = Progress::new(2);
        assert_eq!(progress.take_half(0, 1, 16), Some(0..8));
        assert!(progress.take(0, 1, 15) && !progress.take(0, 1, 15) && !progress.take(0, 1, 7));
        assert_eq!(progress.take_half(0, 1, 16), Some(8..12));
        assert!(progress.take(0, 1, 13));
        assert_eq!(progress.take_half(0, 1, 16), Some(12..13));
        assert_eq!(progress.take_half(0, 1, 16), Some(14..15));
        assert_eq!(progress.take_half(0, 1, 16), None);
        assert_eq!(progress.take_half(0, 2, 1), Some(0..1));
        assert!(!progress.take(0, 1, 14), "nobody takes of a step that is over");
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
                    let mut share = progress.of(thread, barrier);
                    let run = |i: usize, begin: i64, end: i64| {
                        counts[i].fetch_add((end - begin) as u64, Relaxed);
                        Ok(())
                    };
                    let mut first = 0;
                    for (i, grid) in grids.iter().enumerate() {
                        share.run(*grid, |begin, end| run(i, begin, end))?;
                        // Two steps without a meeting between them, now and then.
                        if i % 3 != 0 {
                            share.meet(|j, begin, end| run(first + j, begin, end))?;
                            first = i + 1;
                            assert!(
                                grids[..=i].iter().zip(&counts).all(|(g, n)| n.load(Relaxed) == *g as u64)
                            );
                        }
                    }
                    share.finish(|j, begin, end| run(first + j, begin, end))
                })
                .unwrap();
                assert!(grids.iter().zip(&counts).all(|(g, n)| n.load(Relaxed) == *g as u64));
            }
        }
    }
}
