//! Sampling against a slow and obvious twin, and its edges.

use super::*;
use proptest::prelude::*;

fn sample(logits: &[f32], history: &[u32], sampling: &Sampling, sequence: u64) -> Result<u32, EngineError> {
    Sampler::default().sample(logits, history, 2, sampling, sequence, None)
}

/// The probabilities after all filters, in f64, with a full sort.
fn probabilities(logits: &[f32], history: &[u32], s: &Sampling) -> Vec<(u32, f64)> {
    let penalised = |(id, &logit): (usize, &f32)| {
        let logit = match (history.contains(&(id as u32)), logit > 0.0) {
            (false, _) => logit,
            (true, true) => logit / s.repetition_penalty,
            (true, false) => logit * s.repetition_penalty,
        };
        let count = history.iter().skip(2).filter(|&&token| token == id as u32).count();
        let presence = if count > 0 { s.presence_penalty } else { 0.0 };
        let bias: f32 = s.bias.iter().filter(|b| b.0 == id as u32).map(|b| b.1).sum();
        let logit = logit - (presence + s.frequency_penalty * count as f32) + bias;
        (id as u32, logit)
    };
    let mut all: Vec<(u32, f32)> = logits.iter().enumerate().map(penalised).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if s.top_k > 0 {
        all.truncate(s.top_k);
    }
    let best = all[0].1;
    let mut weights: Vec<(u32, f64)> =
        all.iter().map(|&(id, l)| (id, f64::from(((l - best) / s.temperature).exp()))).collect();
    let total: f64 = weights.iter().map(|w| w.1).sum();
    let mut sum = 0.0;
    weights.retain(|&(_, w)| {
        let keep =
            sum == 0.0 || ((s.top_p == 1.0 || sum < f64::from(s.top_p) * total) && w >= f64::from(s.min_p));
        sum += w;
        keep
    });
    let total: f64 = weights.iter().map(|w| w.1).sum();
    weights.into_iter().map(|(id, w)| (id, w / total)).collect()
}

fn sampling() -> impl Strategy<Value = Sampling> {
    let top_p = prop_oneof![Just(1.0f32), 0.05f32..1.0];
    let min_p = prop_oneof![Just(0.0f32), 0.0f32..0.9];
    let penalty = prop_oneof![Just(1.0f32), 0.5f32..2.0];
    let other = prop_oneof![Just(0.0f32), -2.0f32..2.0];
    let bias = prop::option::of((0u32..300, -9.0f32..9.0));
    (0.1f32..3.0, 0usize..9, top_p, min_p, penalty, (other.clone(), other, bias), any::<u64>()).prop_map(
        |(temperature, top_k, top_p, min_p, repetition_penalty, (presence, frequency, bias), seed)| {
            Sampling {
                temperature,
                top_k,
                top_p,
                min_p,
                repetition_penalty,
                presence_penalty: presence,
                frequency_penalty: frequency,
                bias: bias.into_iter().collect(),
                seed,
            }
        },
    )
}

proptest! {
    #[test]
    fn as_the_slow_twin(
        logits in prop::collection::vec(-6.0f32..6.0, 1..300),
        history in prop::collection::vec(0u32..300, 0..20),
        sampling in sampling(),
    ) {
        let token = sample(&logits, &history, &sampling, 4).unwrap();
        let draw = uniform(sampling.seed, 4, history.len() as u64);
        // Where the draw falls between two tokens, rounding may decide; a hair to either side says which may come.
        let expected: Vec<u32> = [-1e-9, 1e-9].into_iter().map(|hair| {
            let mut sum = 0.0;
            let all = probabilities(&logits, &history, &sampling);
            all.iter().find(|(_, p)| { sum += p; sum > draw + hair }).or(all.last()).unwrap().0
        }).collect();
        prop_assert!(expected.contains(&token), "{token} is none of {expected:?}");
    }

    #[test]
    fn cold_is_the_first_of_the_best(logits in prop::collection::vec((-5i8..5).prop_map(f32::from), 1..2500)) {
        let best = logits.iter().copied().fold(f32::MIN, f32::max);
        let first = logits.iter().position(|&l| l == best).unwrap();
        prop_assert_eq!(sample(&logits, &[], &Sampling::default(), 0).unwrap() as usize, first);
    }
}

#[test]
fn frequencies_follow_the_probabilities() {
    let logits = [1.0, 0.0, 2.0, f32::NEG_INFINITY];
    let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
    let mut counts = [0u32; 4];
    (0..20_000).for_each(|i| counts[sample(&logits, &[], &sampling, i).unwrap() as usize] += 1);
    for (id, p) in probabilities(&logits[..3], &[], &sampling) {
        let expected = p * 20_000.0;
        let got = f64::from(counts[id as usize]);
        assert!((got - expected).abs() < 5.0 * expected.sqrt(), "{id}: {got} for {expected}");
    }
    assert_eq!(counts[3], 0);
}

#[test]
fn bad_logits_are_an_error_and_never_a_token() {
    for row in [vec![f32::NAN], vec![f32::NEG_INFINITY; 40], vec![0.0, f32::INFINITY], vec![]] {
        for temperature in [0.0, 1.0] {
            let sampling = Sampling { temperature, ..Sampling::default() };
            let error = sample(&row, &[1, 2, 3], &sampling, 0);
            assert_eq!(error, Err(EngineError::NanLogits { position: 2 }), "{row:?}");
        }
    }
    for at in 0..70 {
        let mut row = vec![0.5; 70];
        row[at] = f32::NAN;
        assert!(sample(&row, &[], &Sampling::default(), 0).is_err(), "{at}");
    }
}

#[test]
fn ranges_are_checked() {
    let good = Sampling { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, ..Sampling::default() };
    assert_eq!(good.check(), Ok(()));
    let good = || good.clone();
    let bad = [
        Sampling { temperature: -0.1, ..good() },
        Sampling { temperature: f32::NAN, ..good() },
        Sampling { top_p: 0.0, ..good() },
        Sampling { top_p: 1.5, ..good() },
        Sampling { min_p: -1.0, ..good() },
        Sampling { repetition_penalty: 0.0, ..good() },
        Sampling { repetition_penalty: f32::INFINITY, ..good() },
        Sampling { presence_penalty: 2.5, ..good() },
        Sampling { frequency_penalty: f32::NAN, ..good() },
        Sampling { bias: Arc::new([(1, 0.0), (2, 101.0)]), ..good() },
    ];
    for sampling in bad {
        assert!(matches!(sampling.check(), Err(EngineError::Sampling { .. })), "{sampling:?}");
    }
}

#[test]
fn a_tiny_temperature_is_the_best_token() {
    let sampling = Sampling { temperature: 1e-30, ..Sampling::default() };
    assert_eq!(sample(&[1.0, 3.0, 2.0], &[], &sampling, 0), Ok(1));
}
