//! Where the bytes of a model larger than the memory lie, when they move, and how fast that is.
//!
//! - [`Work`]: what a model asks, layer by layer, as plain data; [`published_work`] knows some by name.
//! - [`Measured`]: how long the model's own kernels take on the machine, where that was measured.
//! - [`plan()`]: the best [`Policy`] for a [`Load`] on a machine, as [`Asked`], with what it is predicted to take, what binds it
//!   and what was rejected: an [`Outcome`]; [`plans`] are all that it compared.
//! - [`predict`]: what any policy takes, a [`Prediction`].
//! - [`picture()`]: a plan as SVG, each kind of tensor on its tier and a step in time.
//! - [`experts`]: mixtures of experts on a device that holds only some of them.
//! - [`PlanError`].
//!
//! The model of costs is that of FlexGen (Sheng et al. 2023, arXiv 2303.06865), and a phase takes as long as its longest lane:
//! arithmetic, each link, the disk, and each memory, which serves its readers one after the other. There a weight's way to the
//! device and arithmetic are in a row; here they are beside each other, as far as the host's memory gives both. The head is
//! counted, waiting times of links are not.
//!
//! ```
//! use lathe_machine::Machine;
//! use lathe_plan::{Asked, Load, plan, predict, published_machine, published_work};
//! let work = published_work("opt-30b").unwrap();
//! let machine = Machine::from_toml(published_machine("flexgen-t4").unwrap()).unwrap();
//! let load = Load { prompt: 512, generate: 32, sequences: Some(64) };
//! let asked = Asked { kv_types: vec!["f16".into()], ..Asked::default() };
//! let best = plan(&work, &machine, &load, &asked)?.best;
//! assert!(best.policy.weights["dram"] > 0.7);
//! assert_eq!(predict(&work, &machine, &load, &best.policy)?, best.prediction);
//! # Ok::<(), lathe_plan::PlanError>(())
//! ```

mod cost;
mod error;
pub mod experts;
mod measured;
mod picture;
mod plan;
mod policy;
mod published;
mod tiers;
mod work;

pub use error::PlanError;
pub use measured::{DIRECT_BYTES, EXPECTED_ROWS, Measured, Pairs, StepBytes, load_bytes};
pub use picture::picture;
pub use plan::{Asked, Gain, Load, Objective, Outcome, Plan, plan, plans};
pub(crate) use policy::Choice;
pub use policy::{Attention, Held, Part, Phase, Policy, Prediction, Shares, predict};
pub use published::{published_machine, published_work};
pub use work::{Head, Layers, Work};
