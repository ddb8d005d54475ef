//! One emitter for the C family, with a dialect table for each target.
