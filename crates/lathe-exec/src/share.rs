//! How threads share steps in a row: each loop over cores is cut into pieces, each is done by the thread that comes first, and at a
//! meeting nobody goes on before all pieces are done since the one before, by whomever. Who comes late finds them done, and is not
//! waited for.
//!
//! Steps between two meetings are cut as if they were one loop, by what they compute ([`Cut::together`]): so each thread does as few of
//! them as can be, and what small ones write is written by one thread.
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

/// Which iterations of a loop are each thread's own part: where each begins, and behind the last one the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut(Vec<i64>);

impl Cut {
    /// Parts of equal length.
    pub fn even(grid: i64, threads: usize) -> Cut {
        let (grid, threads) = (i128::from(grid.max(0)), threads as i128);
        Cut((0..=threads).map(|t| (grid * t / threads) as i64).collect())
    }

    /// The same of several loops in a row, each with what it computes in all: a thread's parts of all of them together are as much as
    /// another one's, and the first thread's are of the first loops.
    pub fn together(loops: &[(i64, u64)], threads: usize) -> Vec<Cut> {
        let all: u128 = loops.iter().map(|(_, work)| u128::from(*work)).sum();
        let mut before = 0;
        let cut = |(grid, work): &(i64, u64)| {
            let (grid, work) = ((*grid).max(0), u128::from(*work));
            let bound = |t: usize| {
                let wanted = (all * t as u128 / threads as u128).saturating_sub(before).min(work);
                // The nearest iteration.
                (2 * wanted * grid as u128 + work).checked_div(2 * work).map_or(0, |at| at as i64)
            };
            let mut bounds: Vec<i64> = (0..threads).map(bound).collect();
            bounds.push(grid);
            before += work;
            Cut(bounds)
        };
        loops.iter().map(cut).collect()
    }

    /// The iterations of a thread's part.
    fn part(&self, thread: usize) -> Range<i64> {
        self.0[thread]..self.0[thread + 1]
    }

    /// How many pieces a part has. Short ones have one, as cores that share positions go through all filters for each piece.
    fn pieces(&self, thread: usize) -> u32 {
        match self.part(thread) {
            part if part.is_empty() => 0,
            part if self.0.len() > 2 && part.end - part.start >= 4 * PIECES => PIECES as u32,
            _ => 1,
        }
    }

    /// The pieces of all parts.
    fn all(&self) -> u64 {
        (0..self.0.len() - 1).map(|t| u64::from(self.pieces(t))).sum()
    }

    /// The iteration at which a piece of a part begins.
    fn begin(&self, thread: usize, piece: u32) -> i64 {
        let part = self.part(thread);
        let length = i128::from(part.end - part.start);
        part.start + (length * i128::from(piece) / i128::from(self.pieces(thread).max(1))) as i64
    }

    /// The pieces of other threads' parts from their ends, as iterations may cost unequally (causal attention), a core may be busy
    /// elsewhere, and a thread may not have come.
    fn others(&self, thread: usize) -> impl Iterator<Item = Piece> {
        let threads = self.0.len() - 1;
        (1..threads).flat_map(move |i| {
            let of = (thread + i) % threads;
            let at = move |piece| self.begin(of, piece);
            (0..self.pieces(of)).rev().map(move |n| Piece {
                part: of,
                number: n.into(),
                begin: at(n),
                end: at(n + 1),
            })
        })
    }
}

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
    /// How each step since the last meeting is cut, the pieces of all, and how many of those this thread did.
    cuts: Vec<&'a Cut>,
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
        Share { progress: self, barrier, thread, step: 0, cuts: vec![], all: 0, done: 0, told: true }
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

impl<'a> Share<'a> {
    /// This thread's own part of the next step, a loop that is cut so.
    pub fn run<E>(&mut self, cut: &'a Cut, mut run: impl FnMut(i64, i64) -> Result<(), E>) -> Result<(), E> {
        self.step += 1;
        self.cuts.push(cut);
        self.all += cut.all();
        while let Some(range) = self.progress.take_half(self.thread, self.step, cut.pieces(self.thread)) {
            self.tell();
            self.done += u64::from(range.end - range.start);
            run(cut.begin(self.thread, range.start), cut.begin(self.thread, range.end))?;
        }
        Ok(())
    }

    /// Whether others are further than so many steps from here.
    pub fn is_behind(&self, steps: usize) -> bool {
        self.progress.0[self.thread].taken.0.load(Relaxed) >> PIECES > self.step + steps as u64
    }

    /// Takes what nobody has taken of the steps since the last meeting: the number of the step among them, and iterations of it.
    fn help<E>(&mut self, mut run: impl FnMut(usize, i64, i64) -> Result<(), E>) -> Result<(), E> {
        let first = self.step + 1 - self.cuts.len() as u64;
        for (i, cut) in self.cuts.iter().enumerate() {
            for piece in cut.others(self.thread) {
                if self.progress.take(piece.part, first + i as u64, piece.number) {
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
        self.cuts.clear();
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    part: usize,
    number: i64,
    begin: i64,
    end: i64,
}

#[cfg(test)]
mod tests {
    use super::{Cut, PIECES, Progress};
    use lathe_runtime::Pool;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    /// Each iteration is in one piece, of the thread's own part or of others'.
    fn is_whole(cut: &Cut, grid: i64, threads: usize) {
        for thread in 0..threads.min(3) {
            let own = (0..cut.pieces(thread)).map(|n| (cut.begin(thread, n), cut.begin(thread, n + 1)));
            let mut ranges: Vec<_> = own.chain(cut.others(thread).map(|p| (p.begin, p.end))).collect();
            assert_eq!(ranges.len() as u64, cut.all());
            ranges.sort_unstable();
            let ends: Vec<i64> = std::iter::once(0).chain(ranges.iter().map(|p| p.1)).collect();
            let begins: Vec<i64> = ranges.iter().map(|p| p.0).chain([grid.max(0)]).collect();
            assert_eq!(begins, ends, "{threads} threads, {grid} iterations");
            assert!(ranges.iter().all(|(begin, end)| begin < end));
        }
        assert!((0..threads).all(|t| i64::from(cut.pieces(t)) <= PIECES));
    }

    #[test]
    fn pieces_are_all_iterations_once_whoever_comes() {
        for threads in [1, 2, 3, 7, 16, 63, 64, 200, 300] {
            for grid in (-1..300).chain([1000, 4096, 1 << 40]) {
                is_whole(&Cut::even(grid, threads), grid, threads);
                let works = [(grid, 7), (3, 0), (0, 5), (2 * grid, 1), (64, 1 << 40)];
                for (cut, (grid, _)) in Cut::together(&works, threads).iter().zip(works) {
                    is_whole(cut, grid, threads);
                }
            }
        }
    }

    #[test]
    fn loops_in_a_row_are_cut_as_one() {
        let parts = |loops: &[(i64, u64)], threads| -> Vec<Vec<i64>> {
            Cut::together(loops, threads).into_iter().map(|c| c.0).collect()
        };
        // Queries, keys and values: the first thread makes queries alone.
        assert_eq!(parts(&[(18, 1800), (6, 600), (6, 600)], 2), [[0, 15, 18], [0, 0, 6], [0, 0, 6]]);
        assert_eq!(parts(&[(4, 10), (4, 30)], 2), [[0, 4, 4], [0, 1, 4]]);
        // One alone is cut evenly, and one that computes nothing is the last thread's.
        assert_eq!(parts(&[(10, 3)], 3), [[0, 3, 7, 10]]);
        assert_eq!(parts(&[(1, 0), (1, 0)], 2), [[0, 0, 1], [0, 0, 1]]);
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
                let cuts = grids.map(|grid| Cut::even(grid, threads));
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
                    for (i, cut) in cuts.iter().enumerate() {
                        share.run(cut, |begin, end| run(i, begin, end))?;
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
