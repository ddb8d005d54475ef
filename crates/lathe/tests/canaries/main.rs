//! The canaries: small programs of every kind that the one path must carry, one module each, on the same IRs and in the same
//! rooms as a language model. What each asked of the IRs is told in `ARCHITECTURE.md`.
//!
//! `cargo test -p lathe --test canaries` runs them all.

mod control;
mod hardware;
mod online;
mod paged;
mod proof;
mod ranks;
mod sparse;
mod tiers;
mod training;

use std::path::Path;

/// Where the canaries keep compiled kernels: the next run finds them.
fn cache() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// Pseudo-random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Numbers in [-1, 1).
    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }
}
