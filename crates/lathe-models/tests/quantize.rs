//! Quantizing: what a type can represent comes back, and what it cannot comes near.

use lathe_models::{GgmlType, dequantize, quantize};
use proptest::prelude::*;

fn decoded(ty: GgmlType, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / ty.block_bytes() * ty.block_len()];
    assert_eq!(dequantize(ty, bytes, &mut values), values.len());
    values
}

fn again(ty: GgmlType, values: &[f32]) -> Vec<f32> {
    let mut bytes = vec![];
    quantize(ty, values, &mut bytes);
    assert_eq!(bytes.len(), ty.bytes_for(values.len()).expect("whole blocks"));
    decoded(ty, &bytes)
}

/// Where the 16-bit floats of a type's block are, in bytes.
fn halves(ty: GgmlType) -> &'static [usize] {
    match ty {
        GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 | GgmlType::IQ4_NL | GgmlType::IQ4_XS => &[0],
        GgmlType::NF4 => &[0],
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
        GgmlType::Q2_K => &[80, 82],
        GgmlType::Q3_K => &[108],
        GgmlType::Q6_K => &[208],
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 | GgmlType::I8 | GgmlType::I32 => &[],
    }
}

/// Any bits, under scales and minima of about the size that weights have.
fn block(ty: GgmlType) -> impl Strategy<Value = Vec<u8>> {
    let half = (0x1000u16..0x3800, any::<bool>(), any::<bool>());
    (prop::collection::vec(any::<u8>(), ty.block_bytes()), [half.clone(), half]).prop_map(
        move |(mut bytes, scales)| {
            for (at, (bits, negative, zero)) in halves(ty).iter().zip(scales) {
                let bits = if zero && bytes[0] < 8 { 0 } else { bits | u16::from(negative) << 15 };
                bytes[*at..at + 2].copy_from_slice(&bits.to_le_bytes());
            }
            bytes
        },
    )
}

/// A standard normal number of each seed.
fn normal(count: usize, mut seed: u64) -> Vec<f32> {
    let mut uniform = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((seed >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    let mut one = || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    (0..count).map(|_| one() as f32).collect()
}

fn relative_error(ty: GgmlType, values: &[f32]) -> f64 {
    let of = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    let differences: Vec<f32> = again(ty, values).iter().zip(values).map(|(a, b)| a - b).collect();
    of(&differences) / of(values)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 24 } else { 4000 }))]

    #[test]
    fn what_a_type_represents_comes_back(
        (ty, bytes) in prop::sample::select(GgmlType::ALL.to_vec()).prop_flat_map(|ty| (Just(ty), block(ty)))
    ) {
        let values = decoded(ty, &bytes);
        // F16 and BF16 have bits that are no numbers, and F32 any.
        prop_assume!(values.iter().all(|v| v.is_finite()));
        prop_assert_eq!(again(ty, &values), values, "{}", ty);
    }

    #[test]
    fn any_numbers_are_encoded(
        ty in prop::sample::select(GgmlType::ALL.to_vec()),
        values in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::ZERO | prop::num::f32::SUBNORMAL, 256),
        scale in prop::sample::select(vec![0.0, 1e-38, 1e-6, 1.0])
    ) {
        let values: Vec<f32> = values.iter().map(|v| (v * scale).clamp(-6e4, 6e4)).collect();
        let found = again(ty, &values);
        let peak = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (v, f) in values.iter().zip(&found) {
            // A code of 0 for everything would be off by the peak.
            prop_assert!((v - f).abs() <= peak * 1.2 + 1e-7, "{ty}: {v} became {f}");
        }
    }
}

#[test]
fn normal_numbers_lose_what_their_bits_say() {
    let values = normal(256 * 64, 3);
    // What the reference implementations lose on the same kind of numbers is a little more.
    let most = [
        (GgmlType::F16, 1e-7),
        (GgmlType::BF16, 3e-6),
        (GgmlType::Q8_0, 3.0e-5),
        (GgmlType::Q6_K, 4.0e-4),
        (GgmlType::Q5_0, 1.9e-3),
        (GgmlType::Q5_1, 1.6e-3),
        (GgmlType::Q5_K, 1.6e-3),
        (GgmlType::Q4_0, 7.6e-3),
        (GgmlType::Q4_1, 6.6e-3),
        (GgmlType::Q4_K, 6.6e-3),
        (GgmlType::IQ4_NL, 5.9e-3),
        (GgmlType::IQ4_XS, 5.9e-3),
        (GgmlType::Q3_K, 2.2e-2),
        (GgmlType::Q2_K, 7.5e-2),
    ];
    for (ty, most) in most {
        let error = relative_error(ty, &values);
        eprintln!("{ty} {error:.3e}");
        assert!(error <= most && error > most / 10.0, "{ty}: {error:.3e}, at most {most:.3e}");
    }
}

#[test]
fn flat_rows_and_zeros_come_back() {
    for ty in GgmlType::ALL {
        for x in [0.0, 1.0, -0.25, 3.0] {
            let found = again(*ty, &vec![x; 512]);
            assert!(found.iter().all(|f| (f - x).abs() <= 1e-2 * x.abs()), "{ty}: {x} became {}", found[0]);
        }
    }
}
