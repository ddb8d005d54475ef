//! Mixtures of experts on a device that holds only some of the experts: what lies there, and what each step does with the rest.
//!
//! The idea is Fiddler's (Kamahori et al. 2024, arXiv 2402.07033): popular experts lie on the device; for each other one that
//! a step uses, its weights move to the device or its tokens to the host, as a model of latencies says. Here an expert is cut
//! along its inner width into equal parts, whose results add up, so that one expert may be computed by both at once: then host
//! and link work beside each other even when a single token wants a single expert.
//!
//! - [`Mixture`]: the shape of a model; [`published_mixture`] knows some by name.
//! - [`Popularity`]: how often each expert was chosen. [`Routing`]: which experts each token chose, perhaps made up ([`Router`]).
//! - [`ExpertCosts`]: how long things take, from a machine's rates or fitted to measurements ([`Latency`]).
//! - [`choose()`]: where each part of a layer's experts is computed ([`LayerWork`]), and how long the layer takes: a [`Timing`].
//! - [`History`]: what the router is expected to choose.
//! - [`simulate()`]: a [`Routing`] on a virtual clock under an [`ExpertPolicy`]; [`expert_picture`] draws a step of it.

mod choice;
mod costs;
mod history;
mod mixture;
mod picture;
mod popularity;
mod routing;
mod simulate;

pub use choice::{Job, LayerWork, Timing, choose, timing};
pub use costs::{Dense, ExpertCosts, Latency};
pub use history::History;
pub use mixture::{Mixture, published_mixture};
pub use picture::expert_picture;
pub use popularity::Popularity;
pub use routing::{Router, Routing};
pub use simulate::{Computed, ExpertPolicy, ExpertSpan, Knows, Runs, Simulation, StepLoad, simulate};
