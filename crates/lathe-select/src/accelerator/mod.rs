//! An accelerator of products: its instructions as text, an emulator of them, and programs for what was placed on it.

mod emulate;
mod generate;
mod program;
mod run;

pub use emulate::{Counts, Emulator};
pub use generate::{Call, generate};
pub use program::{Instr, Memory, parse};
pub use run::run;
