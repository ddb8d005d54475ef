//! The step IR: what the executor runs. A program names its buffers (passed by the caller, or planned at an offset of a
//! tier's arena) and its events, and lists steps: calls of kernels, whose loop over cores is shared by all threads, copies
//! between buffers of any two tiers, messages to and from other ranks, and loops of these.
//!
//! The steps at the top are the queue `main`; those in a `queue` run beside it. In a queue, a call or a copy is sure to
//! come after another only when the threads meet between the two; every other step is such a meeting, and so is the end of
//! a loop's iteration. Between queues only events order: `signal` adds one to an event's count, `wait` takes one and
//! waits while there is none. One queue signals an event and one waits for it, so the n-th wait is always for the same signal:
//! what a program computes, and whether it comes to its end, does not depend on who is faster.
//!
//! ```
//! let text = "program p(T) {
//!   buffer w: 4096 bytes on disk = given
//!   buffer x: T*32 bytes on host = given
//!   buffer slots: 1024 bytes on host = planned 0
//!   event free = 2
//!   event full
//!   queue load {
//!     loop i in 8 {
//!       wait free
//!       copy w[i*512, 512] to slots[(i)%(2)*512, 512]
//!       signal full
//!     }
//!   }
//!   loop i in 8 {
//!     wait full
//!     call k0(slots[(i)%(2)*512, 512], @x)
//!     signal free
//!   }
//! }
//! ";
//! let p = lathe_ir::step::parse(text).unwrap();
//! assert_eq!(p.to_string(), text);
//! lathe_ir::step::check(&p).unwrap();
//! ```

mod check;
mod interpret;
mod order;
mod split;
mod text;
mod unroll;

pub use check::{check, check_ranks, conflicts, overlap};
pub use interpret::{interpret, interpret_ranks, listed, occupied};
pub use order::{Cost, Timed, order};
pub use split::{Division, Segments, Side, divide};
pub use text::parse;
pub use unroll::{Bytes, Op, Unit, Unrolled, unroll};

use crate::{Int, Name};

/// The name of the queue that a program's own steps are.
pub const MAIN: &str = "main";

/// Bytes that a call may touch for each thread to do all of it for itself rather than wait for another one: such take a microsecond or two.
/// Planners leave what these read alone until what they write is used.
pub const ALONE: i64 = 64 << 10;

/// Where a buffer's storage comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Passed by the caller: inputs, state, constants, results, files.
    Given,
    /// At this byte of the tier's arena.
    Planned(i64),
}

/// A named piece of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepBuffer {
    /// Unique name.
    pub name: Name,
    /// Size.
    pub bytes: Int,
    /// The memory it is in, a name of the machine's description.
    pub tier: Name,
    /// Where its storage comes from.
    pub storage: Storage,
}

/// A buffer, or some bytes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Index of the buffer.
    pub buffer: u32,
    /// First byte and number of bytes, which may mention loop variables; all when there is none.
    pub range: Option<(Int, Int)>,
}

impl From<u32> for Part {
    fn from(buffer: u32) -> Part {
        Part { buffer, range: None }
    }
}

/// A count that one queue adds to and one takes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Unique name.
    pub name: Name,
    /// The count at the start.
    pub count: i64,
}

/// Steps that run beside those of the other queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Unique name.
    pub name: Name,
    /// What to do, in order.
    pub steps: Vec<Step>,
}

/// Pages that are held: where they come from, and where they are held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Source, which nothing writes.
    pub from: Part,
    /// Destination, of as many bytes, which nothing else writes.
    pub to: Part,
    /// Bytes of a page.
    pub page: i64,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Runs a kernel; threads share the iterations of its loop over cores.
    Call {
        /// The kernel.
        kernel: Name,
        /// Its buffers, in order of its parameters; all in one tier.
        args: Vec<Part>,
        /// Which of the arguments it writes.
        writes: Vec<bool>,
    },
    /// Copies bytes to as many bytes elsewhere.
    Copy {
        /// Source.
        from: Part,
        /// Destination.
        to: Part,
    },
    /// Copies the pages that a list names, each to the same place of as many bytes elsewhere.
    Pages {
        /// Source.
        from: Part,
        /// Destination.
        to: Part,
        /// Bytes of a page.
        page: i64,
        /// Words of 32 bits: how many pages, then their numbers, rising.
        list: Part,
    },
    /// Sees to it that the pages of segments with something in them are at their places, the i-th page of each for the i-th
    /// segment. Pages of empty segments may be forgotten: what is held is copied only when it was.
    Hold {
        /// What is held; all have as many pages.
        held: Vec<Held>,
        /// Words of 32 bits, rising: where each segment begins, and where the last one ends. Nothing, where this is not known
        /// yet: pages come that are likely to be needed, or none.
        offsets: Option<Part>,
        /// Offsets of the segments that a [split](Step::Split) found here, whose pages stay as well.
        beside: Option<Part>,
    },
    /// Says where each segment is computed. Pages of those here are at their places and stay until the next split of the same;
    /// those that come are brought by a [hold](Step::Hold) by their offsets, beside those here. Other pages may be forgotten.
    /// Which segments are which is the executor's choice: what a program computes must not depend on it.
    Split {
        /// What is held; all have as many pages.
        held: Vec<Held>,
        /// The segments, and what becomes of them.
        segments: Box<Division<Part>>,
    },
    /// All threads of the queue wait for each other.
    Meet,
    /// Adds one to an event's count.
    Signal(u32),
    /// Waits until an event's count is positive, and takes one.
    Wait(u32),
    /// Gives bytes to another rank; does not wait until they are received.
    Send {
        /// What is sent.
        from: Part,
        /// The receiver.
        rank: Int,
        /// The message's tag. Messages of one tag from one rank to another keep their order.
        tag: Int,
    },
    /// Waits for a message of another rank.
    Receive {
        /// Where it goes.
        to: Part,
        /// The sender.
        rank: Int,
        /// The message's tag.
        tag: Int,
    },
    /// Does the body with the variable at 0, 1 and so on.
    Loop {
        /// The variable.
        var: Name,
        /// Number of iterations.
        count: Int,
        /// What each does.
        body: Vec<Step>,
    },
}

/// A step program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Dimensions bound by the caller.
    pub dims: Vec<Name>,
    /// All buffers.
    pub buffers: Vec<StepBuffer>,
    /// All events.
    pub events: Vec<Event>,
    /// What runs beside the steps.
    pub queues: Vec<Queue>,
    /// What to do, in order: the queue [`MAIN`].
    pub steps: Vec<Step>,
}

impl Program {
    /// Index of a buffer by name.
    pub fn buffer(&self, name: &str) -> Option<u32> {
        self.buffers.iter().position(|b| &*b.name == name).map(|i| i as u32)
    }

    /// Index of an event by name.
    pub fn event(&self, name: &str) -> Option<u32> {
        self.events.iter().position(|e| &*e.name == name).map(|i| i as u32)
    }

    /// All queues with their names, [`MAIN`] first.
    pub fn all_queues(&self) -> impl Iterator<Item = (&str, &[Step])> {
        let beside = self.queues.iter().map(|q| (&*q.name, &q.steps[..]));
        std::iter::once((MAIN, &self.steps[..])).chain(beside)
    }

    /// Bytes of the arena that planned buffers of a tier need, with dimensions bound.
    pub fn arena_bytes(&self, tier: &str, dims: &dyn Fn(&str) -> Option<i64>) -> Option<i64> {
        let mut end = 0;
        for b in self.buffers.iter().filter(|b| &*b.tier == tier) {
            if let Storage::Planned(at) = b.storage {
                end = end.max(at.checked_add(b.bytes.eval(dims)?)?);
            }
        }
        Some(end)
    }

    /// Whether which steps there are, and which bytes they move, follows from the values of dimensions.
    pub fn follows_dims(&self) -> bool {
        self.mentions_dims(true)
    }

    /// Whether loops, parts or messages mention dimensions; with `sizes`, or the sizes of buffers that are moved whole.
    fn mentions_dims(&self, sizes: bool) -> bool {
        let mentions = |e: &Int| self.dims.iter().any(|d| e.mentions(d));
        let part = |p: &Part| p.range.as_ref().is_some_and(|(o, n)| mentions(o) || mentions(n));
        let size = |p: &Part| self.buffers.get(p.buffer as usize).is_some_and(|b| mentions(&b.bytes));
        let moved = |p: &Part| part(p) || (sizes && p.range.is_none() && size(p));
        fn any(steps: &[Step], f: &dyn Fn(&Step) -> bool) -> bool {
            steps.iter().any(|s| f(s) || matches!(s, Step::Loop { body, .. } if any(body, f)))
        }
        let step = |s: &Step| match s {
            Step::Call { args, .. } => args.iter().any(part),
            Step::Copy { from, to } => moved(from) || moved(to),
            Step::Pages { from, to, list, .. } => [from, to, list].into_iter().any(moved),
            Step::Hold { held, offsets, beside } => {
                held.iter().flat_map(|h| [&h.from, &h.to]).chain(offsets).chain(beside).any(moved)
            }
            Step::Split { held, segments: s } => {
                let held = held.iter().flat_map(|h| [&h.from, &h.to]);
                held.chain(s.reads()).chain(s.writes()).any(moved)
            }
            Step::Meet | Step::Signal(_) | Step::Wait(_) => false,
            Step::Send { from: p, rank, tag } | Step::Receive { to: p, rank, tag } => {
                moved(p) || mentions(rank) || mentions(tag)
            }
            Step::Loop { count, .. } => mentions(count),
        };
        self.all_queues().any(|(_, steps)| any(steps, &step))
    }
}
