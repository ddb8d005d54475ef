//! The step IR: what the executor runs. A program names its buffers (passed by the caller, or planned at an offset of a
//! tier's arena) and lists steps: calls of kernels, whose loop over cores is shared by all threads, copies between
//! buffers, and meetings of the threads.
//!
//! ```
//! let text = "program p(T) {
//!   buffer x: T*32 bytes on host = given
//!   buffer y: T*32 bytes on host = planned 0
//!   call k0(x, y)
//!   meet
//!   copy x to y
//! }
//! ";
//! let p = lathe_ir::step::parse(text).unwrap();
//! assert_eq!(p.to_string(), text);
//! lathe_ir::step::check(&p).unwrap();
//! ```

mod check;
mod interpret;
mod text;

pub use check::{check, conflicts};
pub use interpret::interpret;
pub use text::parse;

use crate::{Int, Name};

/// Where a buffer's storage comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Passed by the caller: inputs, state, constants, results.
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

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Runs a kernel; threads share the iterations of its loop over cores.
    Call {
        /// The kernel.
        kernel: Name,
        /// Its buffers, in order of its parameters (indices into the program's buffers).
        args: Vec<u32>,
        /// Which of the arguments it writes.
        writes: Vec<bool>,
    },
    /// Copies a whole buffer to another of the same size.
    Copy {
        /// Source.
        from: u32,
        /// Destination.
        to: u32,
    },
    /// All threads wait for each other.
    Meet,
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
    /// What to do, in order.
    pub steps: Vec<Step>,
}

impl Program {
    /// Index of a buffer by name.
    pub fn buffer(&self, name: &str) -> Option<u32> {
        self.buffers.iter().position(|b| &*b.name == name).map(|i| i as u32)
    }

    /// Bytes of the arena that planned buffers of a tier need, with dimensions bound.
    pub fn arena_bytes(&self, tier: &str, dims: &dyn Fn(&str) -> Option<i64>) -> Option<i64> {
        let mut end = 0;
        for b in self.buffers.iter().filter(|b| &*b.tier == tier) {
            if let Storage::Planned(at) = b.storage {
                end = end.max(at + b.bytes.eval(dims)?);
            }
        }
        Some(end)
    }
}
