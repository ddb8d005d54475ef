//! The executor of step programs, on the real clock or a virtual one.
//!
//! [`Executable`] is a program bound to memory and compiled kernels. A run hands every step's loop over cores to the
//! threads of a pool in equal parts; threads meet where the program says so, but for small steps that each does for itself. With equal dimensions nothing is computed
//! anew, so a decode step costs its kernels, its meetings, and a look at the index buffers that the caller passes: the facts that
//! kernels rely on are checked here, once for all of them.
//!
//! Each queue of a program has a thread of its own; those that call kernels take turns at the pool, or have
//! a pool of their own where they compute in another tier ([`Places::pools`]). A copy from one tier to
//! another goes over a link of the machine's description and takes at least as long as that says, one at a time on each
//! link; a tier with a capacity is an arena with that limit. Messages go through [`Peers`]. The first step that fails ends
//! all queues.
//!
//! [`virtual_run`] says when each step of the same programs would start and end on such a machine, and computes nothing.
//! Both give [`Span`]s, which [`timeline`] writes for a trace viewer.
//!
//! ```
//! use lathe_exec::{Costs, timeline, virtual_run};
//! use lathe_machine::Machine;
//! let p = lathe_ir::step::parse("program p() {
//!   buffer w: 4000 bytes on disk = given
//!   buffer x: 2000 bytes on host = planned 0
//!   loop i in 2 { copy w[i*2000, 2000] to x }
//! }").unwrap();
//! let machine = Machine::from_toml(r#"
//!     name = "small"
//!     cpu = { vendor = "v", model = "m", cores = 1, features = [], vector_bits = 128 }
//!     links = [{ from = "disk", to = "host", bandwidth = 1000.0, latency_seconds = 0.5 }]
//! "#).unwrap();
//! let costs = Costs { machine: &machine, kernels: &Default::default() };
//! let spans = virtual_run(&[&p], &Default::default(), &costs).unwrap();
//! assert_eq!((spans[1].start, spans[1].seconds), (2.5, 2.5));
//! assert!(timeline(&spans).contains("copy w[i*2000, 2000] to x"));
//! ```

mod error;
mod executable;
mod facts;
mod held;
mod own;
mod queues;
mod share;
mod trace;
mod virtual_clock;

pub use error::ExecError;
pub use executable::{Executable, Image, Loops, Places};
pub use held::{Chooser, HeldCounts, HeldRoom, Segment, held_bytes};
pub use queues::{Peers, Setting};
pub use trace::{Span, Trace, timeline};
pub use virtual_clock::{Costs, NETWORK, virtual_run};
