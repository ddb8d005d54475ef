//! The executor of step programs.
//!
//! [`Executable`] is a program bound to memory and compiled kernels. A run hands every step's loop over cores to the
//! threads of a pool in equal parts; threads meet where the program says so. With equal dimensions nothing is computed
//! anew, so a decode step costs its kernels, its meetings, and a look at the index buffers that the caller passes: the facts that
//! kernels rely on are checked here, once for all of them.

mod error;
mod executable;
mod facts;

pub use error::ExecError;
pub use executable::{Executable, Image};
