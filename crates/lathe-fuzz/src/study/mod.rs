//! The study of trust: what the proofs of steps are worth.
//!
//! - [`mutants`] are wrong steps, over all primitives that are proved; [`judge`] asks whether the interpreter tells each from
//!   the program before, and whether any certificate is found.
//! - [`corrupt`] tries damaged certificates and those of other steps for each wrong step; [`damage`] changes one proof.
//! - [`alarms`] counts the legal steps of random schedules for which no proof is found.
//!
//! `cargo run --release -p lathe-fuzz --example trust` does all of it at full size.

mod alarms;
mod corrupt;
mod mutants;
mod wrong;

pub use alarms::{Alarms, alarms};
pub use corrupt::{Corrupted, corrupt, damage};
pub use mutants::{Indices, Mutant, SHARED_TILE, Seen, mutants};
pub use wrong::{Verdict, Wrong, judge};
