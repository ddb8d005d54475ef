//! The HTTP server: a model behind the interfaces of OpenAI and Anthropic, and the client that measures such servers.
//!
//! [`serve`] listens as [`Settings`] say and serves a [`TextModel`], an [`EmbeddingModel`] or both. The engine runs on a thread of
//! its own; each request is a task on one other thread, which reaches the engine by channels. A client that goes away
//! cancels its request. [`batch()`] answers a list of requests without a socket, and [`bench()`] measures any server of that kind.
//!
//! Where what is: `routes` is the table of endpoints, `app` what holds for all of them, `service` what they share, `params` the fields they have in common, `answers` makes
//! text of an engine's events, `structure` says
//! what grammar an answer must keep to, `stream` sends it piece by piece, and each interface has a file.

mod adapters;
mod answers;
mod app;
mod batch;
mod bench;
mod chat;
mod completions;
mod error;
mod logprobs;
mod messages;
mod metrics;
mod object;
mod params;
mod respond;
mod responses;
mod routes;
mod server;
mod service;
mod stream;
mod structure;
mod tls;
mod tokens;
mod tools;
mod worker;

pub use batch::{BatchRequest, batch};
pub use bench::{BenchOptions, BenchRow, bench};
pub use error::ServeError;
pub use server::serve;
pub use service::{EmbeddingModel, Settings, TextModel};
