//! Instruction selection by equality saturation: a graph becomes classes of equal terms ([`search`]), which a closed table of
//! rules ([`rules`]) makes larger, until products stand in the sizes and layouts that an instruction of the target computes.
//! The cheapest terms are the chosen graph, and each has a proof that is checked without the search ([`replay`]).
//!
//! An instruction is described by its meaning, a tensor program ([`target`]).

mod cost;
mod error;
mod extract;
pub mod replay;
pub mod rule;
pub mod rules;
pub mod sample;
pub mod search;
mod select;
pub mod target;
pub mod term;

pub use error::SelectError;
pub use search::Limits;
pub use select::{Operator, Selection, select};
pub use target::{TARGETS, Target};
