//! A run on the real clock: a thread a queue, events between them, links that take their time, and one end for all.

use crate::executable::{Action, Lane, Piece};
use crate::facts::check;
use crate::share::{Cut, Progress};
use crate::{ExecError, Trace};
use lathe_ir::step::{divide, listed};
use lathe_machine::Link;
use lathe_runtime::{Ctx, Pool, SECTOR, View};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The other ranks, as a program's messages reach them.
pub trait Peers: Sync {
    /// Gives a message to a rank, without waiting until it is received.
    fn send(&self, to: u32, tag: u64, bytes: &[u8]) -> Result<(), ExecError>;

    /// The next message of a rank with this tag; none when `stopped` says, at any time, that nobody wants it any more.
    fn receive(&self, from: u32, tag: u64, stopped: &dyn Fn() -> bool) -> Result<Option<Vec<u8>>, ExecError>;
}

/// What a program runs with.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    /// The threads that share the kernels' loops.
    pub pool: &'a Pool,
    /// The other ranks.
    pub peers: Option<&'a dyn Peers>,
    /// Who is told when each step ran.
    pub trace: Option<&'a Trace>,
}

/// Why a queue ended before its last step.
pub(crate) enum Stop {
    /// Something failed here.
    Failed(ExecError),
    /// Another queue has failed.
    Told,
}

impl<E: Into<ExecError>> From<E> for Stop {
    fn from(e: E) -> Stop {
        Stop::Failed(e.into())
    }
}

struct State {
    /// When each signal that nobody has taken yet was given, by event.
    signals: Vec<VecDeque<Instant>>,
    /// Whether a queue waits for an event now.
    wanted: Vec<bool>,
    /// Until when each link is taken.
    busy: Vec<Instant>,
    over: bool,
    error: Option<ExecError>,
}

/// What the queues of a run share.
pub(crate) struct Run<'a> {
    setting: &'a Setting<'a>,
    program: &'a str,
    links: &'a [Link],
    get: &'a (dyn Fn(&str) -> Option<i64> + Sync),
    state: Mutex<State>,
    wake: Condvar,
}

/// Ends the other queues when its own ends by a panic.
struct Ender<'r, 'a>(&'r Run<'a>);

impl Drop for Ender<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(None);
        }
    }
}

impl<'a> Run<'a> {
    pub fn new(
        setting: &'a Setting<'a>,
        program: &'a str,
        links: &'a [Link],
        counts: &[i64],
        get: &'a (dyn Fn(&str) -> Option<i64> + Sync),
    ) -> Run<'a> {
        let start = Instant::now();
        let busy = vec![start; links.len()];
        let signals = counts.iter().map(|n| (0..*n).map(|_| start).collect()).collect();
        let wanted = vec![false; counts.len()];
        let state = Mutex::new(State { signals, wanted, busy, over: false, error: None });
        Run { setting, program, links, get, state, wake: Condvar::new() }
    }

    /// Runs all queues, the first on this thread.
    pub fn all(&self, lanes: &[Lane]) -> Result<(), ExecError> {
        let one = |lane: &Lane| {
            let ender = Ender(self);
            if let Err(Stop::Failed(e)) = self.lane(lane) {
                self.end(Some(e));
            }
            drop(ender);
        };
        let (main, beside) = lanes.split_first().expect("a program has a main queue");
        std::thread::scope(|scope| {
            for lane in beside {
                let thread = std::thread::Builder::new().name(format!("lathe-{}", lane.name));
                if let Err(e) = thread.spawn_scoped(scope, || one(lane)) {
                    let (threads, message) = (lanes.len(), e.to_string());
                    self.end(Some(lathe_runtime::RuntimeError::Threads { threads, message }.into()));
                }
            }
            one(main);
        });
        self.lock().error.take().map_or(Ok(()), Err)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, error: Option<ExecError>) {
        let mut state = self.lock();
        state.over = true;
        state.error = state.error.take().or(error);
        drop(state);
        self.wake.notify_all();
    }

    fn lane(&self, lane: &Lane) -> Result<(), Stop> {
        let mut next = 0;
        // When the queue's last step was over: for a copy over a link, when the link was done, however late this thread
        // woke up. So a busy processor does not make links slower than they are.
        let mut free = Instant::now();
        while let Some(action) = lane.actions.get(next) {
            let start = Instant::now();
            let first = next;
            next += 1;
            match action {
                Action::Signal(e) => {
                    self.lock().signals[*e].push_back(free);
                    self.wake.notify_all();
                }
                Action::Wait(e) => free = self.wait(*e)?.max(free),
                Action::Transfer { from, to, link } => {
                    let until = self.take(*link, to.len(), free);
                    match from {
                        Piece::Memory(from) => to.copy(0, from)?,
                        Piece::File(file, offset) => file.read(*offset, to)?,
                    }
                    free = self.sleep(until)?;
                }
                Action::Pages { from, to, page, pages, list, link } => {
                    let words = words(list)?;
                    let named = listed(&words, *pages)
                        .map_err(|message| ExecError::Pages { program: self.program.into(), message })?;
                    // Nothing is sent where nothing is listed.
                    let until = match named {
                        [] => free,
                        _ => self.take(*link, named.len() * page, free),
                    };
                    // Of a file whole sectors. What lies between pages is in memory as it is in the file: pages are brought so
                    // before they are taken back.
                    let file = [from, to].iter().any(|end| matches!(end, Piece::File(..)));
                    let sector = if file { SECTOR } else { 1 };
                    let pieces = sectors(named, *page, sector, *pages as usize * page);
                    let pieces = pieces.into_iter().map(|(at, len)| (at, at, len)).collect();
                    copy_pieces(from, to, pieces, self.program)?;
                    free = self.sleep(until)?;
                }
                Action::Split { places, segments, room } => {
                    let [offsets, index] = segments.reads().map(words);
                    let (offsets, index) = (offsets?, index?);
                    let sides = room.split(self.program, places, &offsets)?;
                    let by: Vec<i64> = segments.rows.iter().map(|(_, by)| *by).collect();
                    let all = divide(&offsets, &index, &sides, &by)
                        .map_err(|message| ExecError::Pages { program: self.program.into(), message })?;
                    segments.writes().zip(all).try_for_each(|(to, words)| to.write(0, &words))?;
                    free = Instant::now();
                }
                Action::Hold { from, to, starts, places, offsets: None, link, room, .. } if room.splits() => {
                    // Until somebody waits for this queue.
                    let signal = lane.actions[next..].iter().find_map(|a| match a {
                        Action::Signal(e) => Some(*e),
                        _ => None,
                    });
                    while !self.wanted(signal)
                        && let Some(piece) = room.next_piece(places)?
                    {
                        let until = self.take(*link, piece.len, free);
                        let (source, place) = starts[piece.place];
                        let piece_at = (source + piece.at, place + piece.at, piece.len);
                        copy_pieces(from, &Piece::Memory(to.clone()), vec![piece_at], self.program)?;
                        free = self.sleep(until)?;
                        room.piece_came(places, piece);
                    }
                }
                Action::Hold { from, to, starts, places, offsets, beside, link, room } => {
                    let words = offsets.as_ref().map(words).transpose()?;
                    let mut until = free;
                    let mut bring = |missing: &[u32]| {
                        let all: usize = places.iter().map(|(_, page)| page).sum();
                        until = self.take(*link, missing.len() * all, free);
                        let of = |((source, place), (_, page)): (&(usize, usize), &(View, usize))| {
                            let piece = |(at, len)| (source + at, place + at, len);
                            joined(missing, *page).into_iter().map(piece).collect::<Vec<_>>()
                        };
                        let pieces = starts.iter().zip(places).flat_map(of).collect();
                        copy_pieces(from, &Piece::Memory(to.clone()), pieces, self.program)
                    };
                    match words {
                        Some(offsets) if *beside => room.come(self.program, places, &offsets, &mut bring)?,
                        Some(offsets) => room.hold(self.program, places, &offsets, &mut bring)?,
                        None => room.expect(places, &mut bring)?,
                    }
                    free = self.sleep(until)?;
                }
                Action::Send { from, rank, tag, link } => {
                    let mut bytes = vec![0u8; from.len()];
                    from.read(0, &mut bytes)?;
                    let until = link.map(|l| self.take(l, bytes.len(), free));
                    self.peers(*rank)?.send(*rank, *tag, &bytes)?;
                    free = until.map_or_else(|| Ok(Instant::now()), |u| self.sleep(u))?;
                }
                Action::Receive { to, rank, tag } => {
                    let over = || self.lock().over;
                    let bytes = self.peers(*rank)?.receive(*rank, *tag, &over)?.ok_or(Stop::Told)?;
                    if bytes.len() != to.len() {
                        let message = format!("sent {} bytes with tag {tag}, not {}", bytes.len(), to.len());
                        return Err(ExecError::Peer { rank: *rank, message }.into());
                    }
                    to.write(0, &bytes)?;
                    free = Instant::now();
                }
                // As many shared steps as there are in a row, so that threads meet only where the program says; one by one
                // when somebody wants to know when each ran.
                _ => {
                    // What each thread does for itself it does for the steps up to the next meeting.
                    if self.setting.trace.is_none() {
                        next += lane.actions[next..].iter().take_while(|a| a.is_shared()).count();
                    } else if matches!(action, Action::Call { own: true, .. }) {
                        next +=
                            lane.actions[next..].iter().take_while(|a| !matches!(a, Action::Meet)).count();
                    }
                    if lane.actions[first..next].iter().any(|a| !matches!(a, Action::Meet)) {
                        let pool = lane.pool.as_deref().unwrap_or(self.setting.pool);
                        self.shared(pool, &lane.actions[first..next])?;
                        free = Instant::now();
                    }
                }
            }
            if let Some(trace) = self.setting.trace
                && !matches!(
                    action,
                    Action::Meet | Action::Signal(_) | Action::Wait(_) | Action::Check { .. }
                )
            {
                trace.add(&lane.name, &lane.labels[first..next].join("; "), start);
            }
        }
        Ok(())
    }

    /// Steps in a row, shared by the threads of the pool.
    fn shared(&self, pool: &Pool, actions: &[Action]) -> Result<(), ExecError> {
        let threads = pool.threads();
        let (progress, once) = (Progress::new(threads), Cut::even(1, threads));
        pool.try_share(&|thread, barrier| {
            let mut ctx = Ctx { thread: thread as u32, threads: threads as u32 };
            let mut run = |a: &Action, begin, end| match a {
                Action::Call { call, .. } => call.run(&mut ctx, begin, end).map_err(ExecError::from),
                Action::Check { promise } => {
                    check(self.program, std::iter::once(promise), &self.get, &mut vec![])
                }
                Action::Copy { from, to, .. } => to.copy(0, from).map_err(ExecError::from),
                _ => Ok(()),
            };
            let mut share = progress.of(thread, barrier);
            let mut first = 0;
            for (index, a) in actions.iter().enumerate() {
                match a {
                    Action::Meet => {
                        share.meet(|i, begin, end| run(&actions[first + i], begin, end))?;
                        first = index + 1;
                    }
                    Action::Call { grid, own: true, .. } => {
                        first = index + 1;
                        let meeting = actions[first..].iter().take_while(|a| !matches!(a, Action::Meet));
                        if !share.is_behind(meeting.count()) {
                            run(a, 0, *grid)?;
                        }
                    }
                    Action::Call { cut, .. } => share.run(cut, |begin, end| run(a, begin, end))?,
                    _ => share.run(&once, |begin, end| run(a, begin, end))?,
                }
            }
            share.finish(|i, begin, end| run(&actions[first + i], begin, end))
        })
    }

    fn peers(&self, rank: u32) -> Result<&'a dyn Peers, ExecError> {
        let message = || "cannot be reached: the program runs alone".into();
        self.setting.peers.ok_or_else(|| ExecError::Peer { rank, message: message() })
    }

    /// Takes one of an event's signals; when it was given.
    fn wait(&self, event: usize) -> Result<Instant, Stop> {
        let mut state = self.lock();
        loop {
            match state.signals[event].pop_front() {
                Some(given) => {
                    state.wanted[event] = false;
                    return Ok(given);
                }
                None if state.over => return Err(Stop::Told),
                None => {
                    state.wanted[event] = true;
                    state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Whether a queue waits for an event, or nothing is to be done any more.
    fn wanted(&self, event: Option<usize>) -> bool {
        let state = self.lock();
        state.over || event.is_none_or(|e| state.wanted[e])
    }

    /// Takes a link for so many bytes, wanted since `since`; when they are over there.
    fn take(&self, link: usize, bytes: usize, since: Instant) -> Instant {
        let mut state = self.lock();
        let until =
            state.busy[link].max(since) + Duration::from_secs_f64(self.links[link].seconds(bytes as u64));
        state.busy[link] = until;
        until
    }

    /// Waits for a link that is done at `until`; when it was.
    fn sleep(&self, until: Instant) -> Result<Instant, Stop> {
        let mut state = self.lock();
        loop {
            if state.over {
                return Err(Stop::Told);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(until);
            }
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// All words of a list.
fn words(list: &View) -> Result<Vec<u32>, ExecError> {
    let mut words = vec![0u32; list.len() / 4];
    list.read(0, &mut words)?;
    Ok(words)
}

/// Copies pieces: where each begins in the source, where in the destination, bytes.
fn copy_pieces(
    from: &Piece,
    to: &Piece,
    pieces: Vec<(usize, usize, usize)>,
    program: &str,
) -> Result<(), ExecError> {
    match (from, to) {
        (Piece::File(file, start), Piece::Memory(to)) => {
            let pieces: Vec<_> = pieces.into_iter().map(|(a, b, n)| (start + a as u64, b, n)).collect();
            file.read_pieces(&pieces, to)?;
        }
        (Piece::Memory(from), Piece::File(file, start)) => {
            let pieces: Vec<_> = pieces.into_iter().map(|(a, b, n)| (start + b as u64, a, n)).collect();
            file.write_pieces(&pieces, from)?;
        }
        (Piece::Memory(from), Piece::Memory(to)) => {
            for (a, b, n) in pieces {
                to.copy(b, &from.part(a, n)?)?;
            }
        }
        (Piece::File(..), Piece::File(..)) => {
            let message = "are copied from file to file".into();
            return Err(ExecError::Pages { program: program.into(), message });
        }
    }
    Ok(())
}

/// Where pages begin and how long they are; neighbours are one piece.
fn joined(pages: &[u32], page: usize) -> Vec<(usize, usize)> {
    sectors(pages, page, 1, usize::MAX)
}

/// The same in whole sectors, as far as there are so many bytes; rising pages.
fn sectors(pages: &[u32], page: usize, sector: usize, all: usize) -> Vec<(usize, usize)> {
    let mut pieces: Vec<(usize, usize)> = vec![];
    for p in pages.iter().map(|p| *p as usize * page) {
        let (from, to) = (p / sector * sector, (p + page).next_multiple_of(sector).min(all));
        match pieces.last_mut() {
            Some((start, len)) if *start + *len >= from => *len = to - *start,
            _ => pieces.push((from, to - from)),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_in_whole_sectors() {
        assert_eq!(joined(&[1, 2, 5], 100), [(100, 200), (500, 100)]);
        assert_eq!(sectors(&[0, 3], 9216, 4096, 8 * 9216), [(0, 12288), (24576, 12288)]);
        // The last page ends where all do, and small pages share sectors.
        assert_eq!(sectors(&[6, 7], 9216, 4096, 8 * 9216), [(53248, 20480)]);
        for page in [100, 4096, 5000, 9216] {
            for picks in 1u32..256 {
                let pages: Vec<u32> = (0..8).filter(|p| picks >> p & 1 == 1).collect();
                let pieces = sectors(&pages, page, 4096, 8 * page);
                let inside = |p: &u32| {
                    let at = *p as usize * page;
                    pieces.iter().filter(|(from, len)| *from <= at && at + page <= from + len).count() == 1
                };
                assert!(pages.iter().all(inside), "{page} {pages:?} {pieces:?}");
                assert!(pieces.windows(2).all(|w| w[0].0 + w[0].1 < w[1].0), "{page} {pages:?} {pieces:?}");
                let whole = |n: usize| n.is_multiple_of(4096) || n == 8 * page;
                assert!(pieces.iter().all(|(from, len)| from % 4096 == 0 && whole(from + len)));
            }
        }
    }
}
