//! The executor of step programs.
//!
//! [`Executable`] is a program bound to memory and compiled kernels. A run hands every step's loop over cores to the
//! threads of a pool in equal parts; threads meet where the program says so. With equal dimensions nothing is computed
//! anew, so a decode step costs its kernels and its meetings.

mod error;
mod executable;

pub use error::ExecError;
pub use executable::{Executable, Image};
