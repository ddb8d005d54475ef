//! Counter-based random numbers: a pure function of a key and a counter, so that a draw does not depend on what else was
//! drawn, in which batch, or how often a step was computed again.

/// A number in `0..1`, uniform, for the token at `position` of a sample under `seed`.
pub(crate) fn uniform(seed: u64, sample: u64, position: u64) -> f64 {
    let bits = mix(mix(mix(seed).wrapping_add(sample)).wrapping_add(position));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// SplitMix64: one step and its finaliser, a bijection whose every output bit depends on every input bit.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_uniform_in_each_coordinate() {
        let draws: [fn(u64) -> f64; 3] = [|i| uniform(i, 3, 5), |i| uniform(7, i, 5), |i| uniform(7, 3, i)];
        for draw in draws {
            let mut buckets = [0u32; 16];
            (0..16_000).for_each(|i| buckets[(draw(i) * 16.0) as usize] += 1);
            // 1000 a bucket, standard deviation 31.
            assert!(buckets.iter().all(|n| (860..1140).contains(n)), "{buckets:?}");
            let pairs = (0..8_000).map(|i| (draw(i) - 0.5) * (draw(i + 1) - 0.5)).sum::<f64>() / 8_000.0;
            assert!(pairs.abs() < 0.005, "{pairs}");
        }
    }
}
