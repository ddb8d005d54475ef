//! The schedule primitives, one file each, and the trace that replays them.
//!
//! A schedule is a list of steps; a step names a primitive, a loop or buffer, and numbers. Applying one gives a new
//! program and keeps the one before, so that each step can be checked on its own. Loops made by copying another one are
//! called `name.c1`, `name.c2`, ...; a step on `name` means the whole family.
//!
//! ```
//! use lathe_ir::tensor::parse;
//! use lathe_schedule::Schedule;
//! let k = parse("kernel f() {
//!   in x: f32[64]
//!   out y: f32[64]
//!   for i in 64 spatial serial {
//!     S: y[i] = x[i] + 1f32
//!   }
//! }").unwrap();
//! let mut s = Schedule::new(k);
//! s.step("split i 16").unwrap();
//! s.step("vectorize i.i").unwrap();
//! assert!(s.kernel().to_string().contains("for i.i in 16 spatial lane"));
//! let again = Schedule::replay(s.original().clone(), &s.trace()).unwrap();
//! assert_eq!(again.kernel(), s.kernel());
//! ```

mod align;
mod annotate;
mod cache_read;
mod cache_write;
mod choices;
mod contract;
mod fuse;
mod interchange;
mod intrinsics;
mod join;
mod lanes;
mod nontemporal;
mod online;
mod overrun;
mod pad;
mod partials;
mod peel;
mod prefetch;
mod reorder;
mod rfactor;
mod rules;
mod sink;
mod skew;
mod space_time;
mod split;
mod stage;
mod stream;
mod tensorize;
mod util;
mod witness;

pub use choices::{Choice, Choices, Decisions};
pub use intrinsics::{
    INTRINSICS, IntrinsicRow, MANY_STEPS, STEPS, WIDTHS, byte_products, fits, multiplies_bytes,
    multiplies_signed, word_product,
};
pub use lanes::{Lane, ends_alike, lane, of_pairs, pairs};
pub use nontemporal::PAST_CACHES;
pub use prefetch::is_prefetch;
pub use rules::{ChannelTile, channel_tile, schedule};
pub use tensorize::{Code, code, lanes_first};
pub use witness::Witness;

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use lathe_ir::tensor::Kernel;

/// How a step's result may differ from the program before, in rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tag {
    /// The same operations in the same order for every element.
    Bitwise,
    /// A reduction in another order.
    Reassociates,
    /// Other operations within a bound.
    Approximates,
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Tag::Bitwise => "bitwise",
            Tag::Reassociates => "reassociates",
            Tag::Approximates => "approximates",
        })
    }
}

/// Why a step was refused.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{step}: {message}")]
pub struct ScheduleError {
    /// The step's text.
    pub step: String,
    /// What it requires that does not hold.
    pub message: String,
}

impl Diagnose for ScheduleError {
    fn diagnostic(&self) -> Diagnostic {
        Diagnostic::new("schedule", Fault::Bug, self.message.clone()).at(self.step.clone())
    }
}

/// A primitive's row.
pub struct Primitive {
    /// Its name in a trace.
    pub name: &'static str,
    /// What it does and requires.
    pub doc: &'static str,
    /// How results may differ; a step of `tensorize` differs as its instruction's row says, where that is more.
    pub tag: Tag,
    witness: Option<fn(&Kernel, &[&str]) -> Option<Witness>>,
    apply: fn(&Kernel, &[&str]) -> Result<Kernel, String>,
}

/// All primitives.
pub static PRIMITIVES: &[&Primitive] = &[
    &split::SPLIT,
    &fuse::FUSE,
    &join::JOIN,
    &contract::CONTRACT,
    &sink::SINK,
    &interchange::INTERCHANGE,
    &cache_read::CACHE_READ,
    &cache_write::CACHE_WRITE,
    &reorder::REORDER,
    &rfactor::RFACTOR,
    &online::ONLINE,
    &partials::PARTIALS,
    &align::ALIGN,
    &nontemporal::NONTEMPORAL,
    &overrun::OVERRUN,
    &pad::PAD,
    &peel::PEEL,
    &prefetch::PREFETCH,
    &tensorize::TENSORIZE,
    &annotate::VECTORIZE,
    &annotate::UNROLL,
    &annotate::PARALLEL,
    &annotate::SET_MEMORY,
    &skew::SKEW,
    &stage::STAGE,
    &stream::STREAM,
    &space_time::SPACE_TIME,
];

/// The primitives that keep the order of every loop and statement, and so the order of values in channels. No other one
/// changes a program that has processes: in another order, processes might wait for each other for ever.
const KEEP_ORDER: &[&str] = &["split", "stage", "stream"];

/// What the primitive of a step says of how its iterations move, from the program before it; nothing where iterations stay
/// what they are. It is a hint, to be checked.
pub fn witness(before: &Kernel, step: &str) -> Option<Witness> {
    let words: Vec<&str> = step.split_whitespace().collect();
    let (name, args) = words.split_first()?;
    let p = PRIMITIVES.iter().find(|p| p.name == *name)?;
    p.witness.and_then(|w| w(before, args))
}

/// A step that was applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// Its text: the primitive's name and arguments.
    pub step: String,
    /// How results may differ from the program before.
    pub tag: Tag,
    /// The program before it.
    pub before: Kernel,
    /// The program after it.
    pub after: Kernel,
}

/// A program on its way from naive to fast, with all its steps.
#[derive(Clone, Debug)]
pub struct Schedule {
    original: Kernel,
    steps: Vec<Applied>,
    choices: Choices,
}

impl Schedule {
    /// Nothing done yet.
    pub fn new(kernel: Kernel) -> Schedule {
        Schedule::decided(kernel, &Decisions::new())
    }

    /// Nothing done yet, and what rules are to take at their choices.
    pub fn decided(kernel: Kernel, decisions: &Decisions) -> Schedule {
        Schedule { original: kernel, steps: vec![], choices: Choices::decided(decisions) }
    }

    /// The naive program.
    pub fn original(&self) -> &Kernel {
        &self.original
    }

    /// The program as it is now.
    pub fn kernel(&self) -> &Kernel {
        self.steps.last().map_or(&self.original, |s| &s.after)
    }

    /// The steps so far.
    pub fn steps(&self) -> &[Applied] {
        &self.steps
    }

    /// The trace's text form, a step a line.
    pub fn trace(&self) -> String {
        self.steps.iter().map(|s| format!("{}\n", s.step)).collect()
    }

    /// The loosest tag of all steps.
    pub fn tag(&self) -> Tag {
        self.steps.iter().map(|s| s.tag).max().unwrap_or(Tag::Bitwise)
    }

    /// Applies one step, given as text.
    pub fn step(&mut self, text: &str) -> Result<(), ScheduleError> {
        let fail = |message: String| ScheduleError { step: text.to_string(), message };
        let words: Vec<&str> = text.split_whitespace().collect();
        let Some((name, args)) = words.split_first() else { return Err(fail("an empty step".into())) };
        let p = PRIMITIVES
            .iter()
            .find(|p| p.name == *name)
            .ok_or_else(|| fail("there is no such primitive".into()))?;
        let before = self.kernel().clone();
        if lathe_ir::tensor::is_network(&before) && !KEEP_ORDER.contains(name) {
            return Err(fail("the program has processes already, and their order might change".into()));
        }
        let after = (p.apply)(&before, args).map_err(fail)?;
        annotate::own_bytes(&after).and_then(|()| tensorize::kept(&before, &after)).map_err(fail)?;
        if cfg!(debug_assertions) {
            lathe_ir::tensor::check(&after).map_err(|e| fail(format!("broke the program: {e}")))?;
        }
        // An instruction may round in its own way.
        let tag = if p.name == tensorize::TENSORIZE.name { tensorize::tag(args) } else { p.tag };
        self.steps.push(Applied { step: text.to_string(), tag, before, after });
        Ok(())
    }

    /// Applies a trace to a program.
    pub fn replay(kernel: Kernel, trace: &str) -> Result<Schedule, ScheduleError> {
        let mut s = Schedule::new(kernel);
        for line in trace.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            s.step(line)?;
        }
        Ok(s)
    }
}
