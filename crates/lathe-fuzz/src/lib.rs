//! The fuzzer: looks for programs and schedules that the compiler gets wrong.
//!
//! - A [`Case`] is a tensor program or a graph, what is done to it, and arguments; its text is what files of findings hold.
//! - A [`Judge`] says what does not hold of one (a [`Finding`]): by the interpreter before and after each step, by certificates,
//!   by text forms; of graphs, by the interpreter before and after each pass. [`compile`] compares compiled programs with the interpreter, many in one call of the C compiler. [`replay`]
//!   does both for one case.
//! - [`mutate()`] changes programs, steps, and what steps pretend to have left, together or apart ([`Mode`]); [`seeds`] are where
//!   it starts. The same seed makes the same change, as long as the same is known of which changes help ([`Choice`]).
//! - [`reduce()`] makes a finding small.
//! - A [`Session`] is all of that inside the program of `fuzz/`, which libFuzzer leads by coverage; [`fuzz`] builds and runs that
//!   program, and [`report()`] draws what came of it.
//! - [`study`] is what the proofs are worth: wrong steps, damaged certificates and false alarms.
//!
//! ```
//! use lathe_fuzz::{Case, Judge, Move};
//! let k = lathe_ir::tensor::parse("kernel f(n) {
//!   in x: f32[n]
//!   out y: f32[n]
//!   for i in n spatial serial {
//!     S: y[i] = x[i] + 1f32
//!   }
//! }").unwrap();
//! let mut case = Case::new(k);
//! case.moves = vec![Move::Step("split i 4".into()), Move::Step("vectorize i.i".into())];
//! let mut judge = Judge::default();
//! let codes = judge.judge(&case).unwrap();
//! assert_eq!(judge.counts.steps["split"].certified, 1);
//! // The program before and after the steps, to be compiled.
//! assert_eq!(codes.len(), 2);
//! ```

mod arguments;
mod case;
mod compiled;
mod driver;
mod graphs;
mod machine;
mod mutate;
mod oracle;
mod random;
mod reduce;
mod report;
mod script;
pub mod seeds;
mod session;
pub mod study;

pub use case::{AnyCase, Case, CaseError, Move, Program};
pub use compiled::compile;
pub use driver::{Clock, Found, FuzzError, Outcome, Point, Progress, Setup, find_sources, fuzz};
pub use mutate::{Choice, Mode, mutate, mutate_graph};
pub use oracle::{Code, Counts, Finding, Judge, Kind, PassFault, StepCounts};
pub use random::Random;
pub use reduce::reduce;
pub use report::report;
pub use script::{Array, Script, script};
pub use session::{FOLDERS, MARK, Session, replay, smallest};
