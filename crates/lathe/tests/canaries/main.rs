//! The canaries: small programs of every kind that the one path must carry, one module each, on the same IRs and in the same
//! rooms as a language model. What each asked of the IRs is told in `ARCHITECTURE.md`.
//!
//! `cargo test -p lathe --test canaries` runs them all.

mod proof;
