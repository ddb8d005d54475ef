//! A program with its dimensions bound and its loops written out: what the checker looks at, the interpreter and the
//! executor run, and the virtual clock times.

use super::{Division, Held, Part, Program, Segments, Step};
use crate::{Int, IrError, Name};

/// Steps that a program may have with all loops written out.
const MOST: usize = 1 << 16;

/// Bytes of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bytes {
    /// Index of the buffer.
    pub buffer: u32,
    /// First byte.
    pub offset: i64,
    /// Number of bytes.
    pub len: i64,
}

/// A [`Step`] with numbers in place of expressions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op<'p> {
    /// Runs a kernel; each argument with whether it is written.
    Call(&'p Name, Vec<(Bytes, bool)>),
    /// Copies the first to the second.
    Copy(Bytes, Bytes),
    /// Copies those pages of the first, of so many bytes each, to their places in the second that the third lists.
    Pages(Bytes, Bytes, i64, Bytes),
    /// Sees to it that pages of the firsts, of so many bytes each, are at their places in the seconds: those whose segment has
    /// something in it, or likely ones; perhaps beside those of other segments.
    Hold(Vec<(Bytes, Bytes, i64)>, Option<Bytes>, Option<Bytes>),
    /// Says where each segment is computed.
    Split(Vec<(Bytes, Bytes, i64)>, Box<Division<Bytes>>),
    /// The threads of the queue meet.
    Meet,
    /// Adds one to an event.
    Signal(u32),
    /// Takes one from an event.
    Wait(u32),
    /// Bytes, the receiving rank, the tag.
    Send(Bytes, u32, u64),
    /// Bytes, the sending rank, the tag.
    Receive(Bytes, u32, u64),
}

impl Op<'_> {
    /// The bytes it touches, and whether it writes them.
    pub fn touches(&self) -> Vec<(Bytes, bool)> {
        match self {
            Op::Call(_, args) => args.clone(),
            Op::Copy(from, to) => vec![(*from, false), (*to, true)],
            Op::Pages(from, to, _, list) => vec![(*from, false), (*to, true), (*list, false)],
            Op::Hold(held, offsets, beside) => {
                let each = held.iter().flat_map(|(from, to, _)| [(*from, false), (*to, true)]);
                each.chain([offsets, beside].into_iter().flatten().map(|o| (*o, false))).collect()
            }
            Op::Split(held, s) => {
                let each = held.iter().flat_map(|(from, to, _)| [(*from, false), (*to, true)]);
                let each = each.chain(s.reads().map(|b| (*b, false)));
                each.chain(s.writes().map(|b| (*b, true))).collect()
            }
            Op::Send(b, ..) => vec![(*b, false)],
            Op::Receive(b, ..) => vec![(*b, true)],
            Op::Meet | Op::Signal(_) | Op::Wait(_) => vec![],
        }
    }

    /// Whether the threads of the queue go on without waiting for each other.
    pub fn is_shared(&self) -> bool {
        matches!(self, Op::Call(..) | Op::Copy(..))
    }
}

/// One step of a queue with all loops written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit<'p> {
    /// What it does.
    pub op: Op<'p>,
    /// The step it comes from; none for the meeting at the end of a loop's iteration.
    pub step: Option<&'p Step>,
    /// Its place in the program, for messages.
    pub place: std::rc::Rc<str>,
}

/// A program with its loops written out.
#[derive(Clone, Debug)]
pub struct Unrolled<'p> {
    /// The program.
    pub program: &'p Program,
    /// The steps of each queue, in the order of [`Program::all_queues`].
    pub queues: Vec<Vec<Unit<'p>>>,
    /// Sizes of the buffers.
    pub sizes: Vec<i64>,
}

struct Unroller<'p, 'd> {
    program: &'p Program,
    dims: &'d dyn Fn(&str) -> Option<i64>,
    vars: Vec<(&'p Name, i64)>,
    sizes: Vec<i64>,
    made: usize,
}

/// Binds the dimensions and writes out the loops.
pub fn unroll<'p>(p: &'p Program, dims: &dyn Fn(&str) -> Option<i64>) -> Result<Unrolled<'p>, IrError> {
    let mut sizes = vec![];
    for b in &p.buffers {
        let size = b.bytes.eval(dims).filter(|n| *n >= 0);
        let place = format!("{}/{}", p.name, b.name);
        sizes.push(size.ok_or_else(|| IrError::check(place, "its size is not known, or negative"))?);
    }
    let mut u = Unroller { program: p, dims, vars: vec![], sizes, made: 0 };
    let mut queues = vec![];
    for (name, steps) in p.all_queues() {
        let place = if name == super::MAIN { p.name.clone() } else { format!("{}/{name}", p.name) };
        let mut out = vec![];
        u.steps(steps, &format!("{place}/step "), &mut out)?;
        queues.push(out);
    }
    Ok(Unrolled { program: p, queues, sizes: u.sizes })
}

impl<'p> Unroller<'p, '_> {
    fn eval(&self, e: &Int) -> Option<i64> {
        let var = |n: &str| self.vars.iter().rev().find(|(v, _)| &***v == n).map(|(_, i)| *i);
        e.eval(&|n| var(n).or_else(|| (self.dims)(n)))
    }

    fn bytes(&self, p: &Part) -> Result<Bytes, String> {
        let buffer =
            self.program.buffers.get(p.buffer as usize).ok_or_else(|| "an unknown buffer".to_string())?;
        let (name, size) = (&buffer.name, self.sizes[p.buffer as usize]);
        let (offset, len) = match &p.range {
            None => (0, size),
            Some((o, n)) => (self.eval(o).zip(self.eval(n)))
                .ok_or_else(|| format!("the part of '{name}' mentions what nothing binds"))?,
        };
        let end = offset.checked_add(len).filter(|end| offset >= 0 && len >= 0 && *end <= size);
        match end {
            Some(_) => Ok(Bytes { buffer: p.buffer, offset, len }),
            None => Err(format!("{len} bytes from {offset} on are not inside '{name}', which has {size}")),
        }
    }

    /// Two parts of as many pages.
    fn pages(&self, from: &Part, to: &Part, page: i64) -> Result<(Bytes, Bytes), String> {
        let (from, to) = (self.bytes(from)?, self.bytes(to)?);
        if from.len != to.len || page < 1 || from.len % page != 0 {
            return Err(format!("pages of {page} bytes, of {} bytes and of {}", from.len, to.len));
        }
        Ok((from, to))
    }

    /// What is held, by each of these offsets.
    fn held(&self, held: &[Held], by: &[Option<Bytes>]) -> Result<Vec<(Bytes, Bytes, i64)>, String> {
        let one = |h: &Held| {
            let (from, to) = self.pages(&h.from, &h.to, h.page)?;
            let pages = from.len / h.page;
            match by.iter().flatten().find(|o| o.len != 4 * (pages + 1)) {
                Some(o) => Err(format!("{pages} pages by {} bytes of offsets", o.len)),
                None => Ok((from, to, h.page)),
            }
        };
        held.iter().map(one).collect()
    }

    fn peer(&self, rank: &Int, tag: &Int) -> Result<(u32, u64), String> {
        let rank = self.eval(rank).and_then(|r| u32::try_from(r).ok());
        let tag = self.eval(tag).and_then(|t| u64::try_from(t).ok());
        rank.zip(tag).ok_or_else(|| "a rank and a tag are numbers from 0 on".to_string())
    }

    fn op(&self, s: &'p Step) -> Result<Op<'p>, String> {
        let event = |e: &u32| match self.program.events.get(*e as usize) {
            Some(_) => Ok(*e),
            None => Err("an unknown event".to_string()),
        };
        Ok(match s {
            Step::Call { kernel, args, writes } => {
                if args.len() != writes.len() {
                    return Err("arguments and their uses differ in number".into());
                }
                let arg = |(a, w): (&Part, &bool)| Ok((self.bytes(a)?, *w));
                Op::Call(kernel, args.iter().zip(writes).map(arg).collect::<Result<_, String>>()?)
            }
            Step::Copy { from, to } => {
                let (from, to) = (self.bytes(from)?, self.bytes(to)?);
                if from.len != to.len {
                    return Err(format!("{} bytes are copied to {}", from.len, to.len));
                }
                Op::Copy(from, to)
            }
            Step::Hold { held, offsets, beside } => {
                let bytes = |p: &Option<Part>| p.as_ref().map(|o| self.bytes(o)).transpose();
                let (offsets, beside) = (bytes(offsets)?, bytes(beside)?);
                Op::Hold(self.held(held, &[offsets, beside])?, offsets, beside)
            }
            Step::Split { held, segments } => {
                let s = segments.map(&mut |p| self.bytes(p))?;
                let sides = [&s.of, &s.here, &s.come, &s.away];
                let held = self.held(held, &sides.map(|s| Some(s.offsets)))?;
                let slots = s.of.index.len / 4;
                let long = |s: &&Segments<Bytes>| s.index.len == 4 * slots;
                let lists = |(list, by): &(Bytes, i64)| *by > 0 && list.len >= 4 * (slots / by + 1);
                if !sides.iter().all(long) || !s.rows.iter().all(lists) {
                    return Err(format!("{slots} slots, for which there is no room on a side or in a list"));
                }
                Op::Split(held, Box::new(s))
            }
            Step::Pages { from, to, page, list } => {
                let ((from, to), list) = (self.pages(from, to, *page)?, self.bytes(list)?);
                if list.len < 4 || list.len % 4 != 0 {
                    return Err(format!("a list of pages is words of 4 bytes, not {} bytes", list.len));
                }
                Op::Pages(from, to, *page, list)
            }
            Step::Signal(e) => Op::Signal(event(e)?),
            Step::Wait(e) => Op::Wait(event(e)?),
            Step::Send { from, rank, tag } => {
                let (rank, tag) = self.peer(rank, tag)?;
                Op::Send(self.bytes(from)?, rank, tag)
            }
            Step::Receive { to, rank, tag } => {
                let (rank, tag) = self.peer(rank, tag)?;
                Op::Receive(self.bytes(to)?, rank, tag)
            }
            Step::Meet | Step::Loop { .. } => Op::Meet,
        })
    }

    fn push(&mut self, place: &str, unit: Unit<'p>, out: &mut Vec<Unit<'p>>) -> Result<(), IrError> {
        self.made += 1;
        if self.made > MOST {
            return Err(IrError::check(place, format!("more than {MOST} steps with all loops written out")));
        }
        out.push(unit);
        Ok(())
    }

    fn steps(&mut self, steps: &'p [Step], head: &str, out: &mut Vec<Unit<'p>>) -> Result<(), IrError> {
        for (i, s) in steps.iter().enumerate() {
            let mut place = format!("{head}{i}");
            let Step::Loop { var, count, body } = s else {
                if !self.vars.is_empty() {
                    let at = |(v, n): &(&Name, i64)| format!("{v} = {n}");
                    place += &format!(" ({})", self.vars.iter().map(at).collect::<Vec<_>>().join(", "));
                }
                let op = self.op(s).map_err(|m| IrError::check(place.clone(), m))?;
                let unit = Unit { op, step: Some(s), place: place.as_str().into() };
                self.push(&place, unit, out)?;
                continue;
            };
            let n = self.eval(count);
            let n = n.ok_or_else(|| IrError::check(place.clone(), "it loops as often as nothing binds"))?;
            for i in 0..n {
                self.vars.push((var, i));
                self.steps(body, &format!("{place}."), out)?;
                self.vars.pop();
                let end = Unit { op: Op::Meet, step: None, place: place.as_str().into() };
                self.push(&place, end, out)?;
            }
        }
        Ok(())
    }
}
