//! Experts in real time: parts that host and emulated device compute add up to the experts, and the clocks are kept.

use lathe_engine::{measure_expert, try_experts};
use lathe_machine::Machine;
use lathe_plan::experts::{Latency, Mixture, Router, published_mixture};
use lathe_plan::published_machine;

#[test]
fn parts_on_host_and_device_add_up_and_keep_their_clocks() {
    let machine = Machine::from_toml(published_machine("accelerator-500").unwrap()).unwrap();
    let (hidden, inner) = (64, 256);
    let mixture = Mixture {
        layers: 3,
        inner,
        hidden_bytes: 4 * hidden,
        expert_bytes: 12 * hidden * inner,
        expert_operations: 6 * hidden * inner,
        dense_bytes: 16 * hidden * hidden,
        head_bytes: 1 << 10,
        ..published_mixture("mixtral-8x7b").unwrap()
    };
    let router = Router::zipf(3, 8, 2, 1.0, 1).unwrap();
    let popularity = router.routing(1, 1, 512, 1).popularity("made up");
    let routing = router.routing(3, 1, 1, 2);
    let cache = tempfile::tempdir().unwrap();
    // An expert here, by the number of tokens.
    let measured = measure_expert(&mixture, &[1, 32, 64], 1, cache.path()).unwrap();
    assert_eq!(measured.iter().map(|m| m.0).collect::<Vec<_>>(), [1, 32, 64]);
    assert!(measured.iter().all(|m| m.1 > 0.0), "{measured:?}");
    let fit = Latency::fitted(0.0, &measured).unwrap();
    assert!(fit.seconds(48, 1.0) >= fit.seconds(1, 1.0));
    // So are those of rows of bytes, with a scale each.
    let bytes = Mixture { expert_bytes: 3 * hidden * inner + 4 * (2 * inner + hidden), ..mixture.clone() };
    assert_eq!(measure_expert(&bytes, &[1, 8], 1, cache.path()).unwrap().len(), 2);
    let packed = Mixture { expert_bytes: mixture.expert_bytes / 8, ..mixture.clone() };
    let refused = measure_expert(&packed, &[1], 1, cache.path()).unwrap_err().to_string();
    assert!(refused.contains("experts of 4.00 bits a weight are not measured"), "{refused}");
    let found = try_experts(&mixture, &machine, 4, &popularity, 6, &routing, cache.path()).unwrap();
    assert!(found.slower >= 1.0 && found.kernel > 0.0 && found.kernel <= found.host, "{found:?}");
    assert_eq!(found.trials.len(), 3);
    for t in &found.trials {
        assert!(t.error < 1e-5, "{t:?}");
        // Clocks keep their time; a busy machine only makes a step slower, so there is no bound from above here:
        // `lathe bench experts` tells how near it is.
        assert!(t.measured > 0.85 * t.planned && t.expected > 0.85 * t.planned, "{t:?}");
    }
    // What is chosen is planned to be no slower than either of the others.
    let [moved, on_host, chosen] = &found.trials[..] else { unreachable!("there are three") };
    assert!(chosen.planned <= moved.planned.min(on_host.planned) * 1.03, "{found:?}");
}
