//! Mixtures of experts against hand-made arithmetic, closed forms, and the laws that every policy obeys.

use lathe_diagnostic::Diagnose;
use lathe_machine::Machine;
use lathe_plan::experts::{
    ExpertCosts, ExpertPolicy, Knows, Latency, Mixture, Popularity, Router, Routing, Simulation, StepLoad,
    expert_picture, published_mixture, simulate,
};
use lathe_plan::published_machine;
use proptest::prelude::*;

fn machine() -> Machine {
    Machine::from_toml(published_machine("accelerator-500").unwrap()).unwrap()
}

/// Mixtral's layers, but few of them.
fn mixture(layers: u64) -> Mixture {
    Mixture { layers, ..published_mixture("mixtral-8x7b").unwrap() }
}

fn zipf(layers: usize) -> Router {
    Router::zipf(layers, 8, 2, 1.0, 1).unwrap()
}

fn load(sequences: usize, tokens: usize) -> StepLoad {
    StepLoad { sequences, tokens, context: 512 }
}

/// What each policy takes, a quarter of the experts on the device.
struct Ran {
    moved: Simulation,
    on_host: Simulation,
    chosen: Simulation,
    /// The same without a cache and without guesses.
    plain: Simulation,
    oracle: Simulation,
}

fn ran(costs: &ExpertCosts, layers: usize, zipf: &Router, load: StepLoad, steps: usize) -> Ran {
    let popularity = zipf.routing(1, 1, 2048, 99).popularity("made up");
    let routing = zipf.routing(steps, load.sequences, load.tokens, 7);
    let capacity = (layers * 8 / 4) as u64;
    let run = |policy: &ExpertPolicy| simulate(costs, &popularity, capacity, &routing, load, policy).unwrap();
    Ran {
        moved: run(&ExpertPolicy::moved(true)),
        on_host: run(&ExpertPolicy::on_host(true)),
        chosen: run(&ExpertPolicy::best()),
        plain: run(&ExpertPolicy { fetches: Knows::Nothing, keeps: Knows::Nothing, ..ExpertPolicy::best() }),
        oracle: run(&ExpertPolicy::oracle(false)),
    }
}

#[test]
fn costs_are_what_the_rates_say() {
    let (m, machine) = (mixture(32), machine());
    let costs = ExpertCosts::of_machine(&m, &machine, 8).unwrap();
    let bytes = 3.0 * 4096.0 * 14336.0 * 2.0;
    let close = |a: f64, b: f64| (a - b).abs() < 1e-9 * b;
    assert!(close(costs.host.seconds(1, 1.0), bytes / 1.666e10));
    assert!(close(costs.host.seconds(100, 0.5), 0.5 * 100.0 * bytes / 1.89e11));
    assert!(close(costs.device.seconds(1, 1.0), bytes / 5e11));
    assert!(close(8.0 * costs.part, bytes / 1.2e10));
    assert!(close(costs.down.1, 4.0 * 4096.0 / 1.2e10));
    // The machine's file says that a quarter of the experts fits.
    assert_eq!(ExpertCosts::capacity(&m, &machine, 4096).unwrap(), 64);
    let refused = ExpertCosts::of_machine(&m, &machine, 5).unwrap_err().diagnostic().to_string();
    assert!(refused.contains("do not divide its inner width of 14336"), "{refused}");
}

/// One layer, one token, two experts on the host: arithmetic by hand.
#[test]
fn a_layer_takes_what_arithmetic_says() {
    let m = mixture(1);
    let costs = ExpertCosts::of_machine(&m, &machine(), 32).unwrap();
    let popularity =
        Popularity { model: "m".into(), tokens: 10, used: 2, counts: vec![vec![10, 4, 1, 1, 1, 1, 1, 1]] };
    let routing = Routing { experts: 8, used: 2, steps: vec![vec![vec![2, 3]]] };
    let run = |policy: &ExpertPolicy| simulate(&costs, &popularity, 2, &routing, load(1, 1), policy).unwrap();
    let bytes = 3.0 * 4096.0 * 14336.0 * 2.0;
    let dense = |weights: f64| 2.0 * weights / 5e11;
    let (kv, head) = (513.0 * 4096.0 / 5e11, dense(4096.0 * 32000.0));
    let layer = dense(2.0 * 4096.0 * 4096.0 + 2.0 * 4096.0 * 1024.0 + 4096.0 * 8.0) + kv;
    let sent = 2.0 * 4.0 * 4096.0 / 1.2e10;
    let on_host = run(&ExpertPolicy::on_host(true)).steps[0];
    assert!((on_host - (layer + head + 2.0 * bytes / 1.666e10 + sent)).abs() < 1e-9, "{on_host}");
    let moved = run(&ExpertPolicy::moved(true)).steps[0];
    let last = bytes / 32.0 / 5e11;
    assert!((moved - (layer + head + 2.0 * bytes / 1.2e10 + last)).abs() < 1e-9, "{moved}");
    // Both together are at most as fast as their rates together, and a part of the expert misses at most.
    let chosen = run(&ExpertPolicy::best()).steps[0] - layer - head;
    let bound = 2.0 * bytes / (1.666e10 + 1.2e10);
    assert!(chosen > bound && chosen < bound + bytes / 32.0 / 1.2e10 + 1e-4, "{chosen} of {bound}");
    // What lies on the device takes only the device.
    let routing = Routing { experts: 8, used: 2, steps: vec![vec![vec![0, 1]]] };
    let run = |policy: &ExpertPolicy| simulate(&costs, &popularity, 2, &routing, load(1, 1), policy).unwrap();
    let here = run(&ExpertPolicy::on_host(true));
    assert!((here.steps[0] - layer - head - 2.0 * bytes / 5e11).abs() < 1e-9, "{here:?}");
    assert_eq!((here.here, here.moved, here.on_host), (64, 0, 0));
    // But the host may help.
    assert!(run(&ExpertPolicy::best()).steps[0] <= here.steps[0]);
}

/// The goals for the emulated accelerator, on fewer layers, which are all alike.
#[test]
fn the_choice_is_faster_than_both_and_near_the_oracle() {
    let costs = ExpertCosts::of_machine(&mixture(8), &machine(), 8).unwrap();
    let goals = [(1, 1, 40, 1.15), (4, 1, 8, 1.15), (16, 1, 6, 1.15), (64, 1, 3, 1.15), (1, 256, 2, 1.25)];
    for (sequences, tokens, steps, goal) in goals {
        let r = ran(&costs, 8, &zipf(8), load(sequences, tokens), steps);
        let better = r.moved.step_seconds().min(r.on_host.step_seconds());
        let ratio = better / r.chosen.step_seconds();
        assert!(ratio >= goal, "{sequences} x {tokens}: {ratio}");
        let gap = r.chosen.step_seconds() / r.oracle.step_seconds();
        assert!(gap < 1.05, "{sequences} x {tokens}: {gap} of the oracle");
    }
    // Where host and link take turns at a memory that the host alone needs whole, only what is fetched ahead is gained.
    let shared = costs.with_shared_memory(&mixture(8), &machine()).unwrap();
    let r = ran(&shared, 8, &zipf(8), load(1, 1), 40);
    let ratio = r.on_host.step_seconds() / r.chosen.step_seconds();
    assert!((0.97..1.2).contains(&ratio), "{ratio}");
}

#[test]
fn a_router_that_repeats_itself_is_learned() {
    let costs = ExpertCosts::of_machine(&mixture(8), &machine(), 8).unwrap();
    let repeats = zipf(8).following(0.0, 0.9).unwrap();
    let caching = ran(&costs, 8, &repeats, load(1, 1), 60).chosen;
    let popularity = repeats.routing(1, 1, 2048, 99).popularity("made up");
    let routing = repeats.routing(60, 1, 1, 7);
    let without = ExpertPolicy { keeps: Knows::Nothing, ..ExpertPolicy::best() };
    let fixed = simulate(&costs, &popularity, 16, &routing, load(1, 1), &without).unwrap();
    assert!(caching.exchanged > 0 && caching.here as f64 > 1.05 * fixed.here as f64, "{caching:?}");
    assert!(caching.step_seconds() < 0.97 * fixed.step_seconds());
    // What follows from the layer before is fetched before it is asked for.
    let follows = zipf(8).following(0.9, 0.0).unwrap();
    let follows = ran(&costs, 8, &follows, load(1, 1), 200).chosen;
    let independent = ran(&costs, 8, &zipf(8), load(1, 1), 200).chosen;
    let share = |s: &Simulation| s.fetched_used as f64 / s.fetched.max(1) as f64;
    assert!(share(&follows) > 1.2 * share(&independent), "{} {}", share(&follows), share(&independent));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// On any machine, for any load: no slower than the better of the two, and no more on the device than it holds.
    #[test]
    fn the_choice_is_never_slower_by_over_three_hundredths(
        host in 0.1f64..4.0,
        link in 0.2f64..4.0,
        device in 0.01f64..1.0,
        ends in (0.001f64..0.1, 0.0005f64..0.05),
        sequences in 1usize..20,
        tokens in prop::sample::select(vec![1usize, 1, 40]),
        parts in prop::sample::select(vec![1u32, 4, 8]),
        after_token in 0.0f64..0.9,
        seed in 0u64..1000,
    ) {
        let mut costs = ExpertCosts::of_machine(&mixture(4), &machine(), parts).unwrap();
        let unit = 1e-2;
        costs.host = Latency::roofline(1e-5, unit * host, unit * host * ends.0);
        costs.device = Latency::roofline(1e-6, unit * device, unit * device * ends.1);
        costs.part = unit * link / f64::from(parts);
        let zipf = Router::zipf(4, 8, 2, 1.0, seed).unwrap().following(0.0, after_token).unwrap();
        let r = ran(&costs, 4, &zipf, load(sequences, tokens), 12);
        let better = r.moved.step_seconds().min(r.on_host.step_seconds());
        prop_assert!(r.chosen.step_seconds() <= 1.03 * better, "{} of {better}", r.chosen.step_seconds());
        // Guesses take the link's idle time, and what is exchanged is likelier to be used.
        let plain = r.plain.step_seconds();
        prop_assert!(r.chosen.step_seconds() <= 1.03 * plain, "{} of {plain}", r.chosen.step_seconds());
        for s in [&r.moved, &r.on_host, &r.chosen, &r.oracle] {
            prop_assert_eq!(s.used, s.here + s.moved + s.on_host);
            let all: f64 = s.steps.iter().sum();
            prop_assert!(s.host <= all * (1.0 + 1e-9) && s.device <= all * (1.0 + 1e-9));
            prop_assert!(s.link <= all * (1.0 + 1e-9) + costs.part, "{} of {all}", s.link);
        }
        // Lanes do one thing at a time, in the chosen policy's last step.
        for lane in ["host", "link"] {
            let mut spans: Vec<_> = r.chosen.spans.iter().filter(|s| s.lane == lane).collect();
            spans.sort_by(|a, b| a.start.total_cmp(&b.start));
            for pair in spans.windows(2) {
                let end = pair[0].start + pair[0].seconds;
                prop_assert!(pair[1].start >= end - 1e-9, "{pair:?}");
            }
        }
    }

    /// The fit is isotonic regression: by its max-min formula (Robertson et al. 1988).
    #[test]
    fn fitted_latencies_do_not_fall_and_are_nearest(seconds in prop::collection::vec(0.001f64..1.0, 1..12)) {
        let measured: Vec<(u64, f64)> = (1..).zip(seconds.iter().copied()).map(|(n, s)| (3 * n, s)).collect();
        let fit = Latency::fitted(0.0, &measured).unwrap();
        let mean = |a: usize, b: usize| seconds[a..=b].iter().sum::<f64>() / (b - a + 1) as f64;
        for i in 0..seconds.len() {
            let inner = |a: usize| (i..seconds.len()).map(|b| mean(a, b)).fold(f64::INFINITY, f64::min);
            let want = (0..=i).map(inner).fold(f64::NEG_INFINITY, f64::max);
            let got = fit.seconds(measured[i].0, 1.0);
            prop_assert!((got - want).abs() < 1e-9, "{got} {want}");
        }
        prop_assert!(fit.seconds(1000, 1.0) >= fit.seconds(measured[seconds.len() - 1].0, 1.0));
        prop_assert!(fit.seconds(1, 1.0) <= fit.seconds(2, 1.0));
    }
}

/// Each token draws two different experts by their weights, one after the other: how often each is drawn has a closed form.
#[test]
fn the_script_draws_by_zipf() {
    let weights: Vec<f64> = (1..=8).map(|r| 1.0 / f64::from(r)).collect();
    let sum: f64 = weights.iter().sum();
    let second = |i: usize| -> f64 {
        (0..8).filter(|j| *j != i).map(|j| weights[j] / sum * weights[i] / (sum - weights[j])).sum()
    };
    let mut want: Vec<f64> = (0..8).map(|i| weights[i] / sum + second(i)).collect();
    want.sort_by(f64::total_cmp);
    let p = zipf(3).routing(10, 2, 1000, 5).popularity("made up");
    assert_eq!(p.tokens, 20_000);
    p.check().unwrap();
    for row in &p.counts {
        let mut got: Vec<f64> = row.iter().map(|n| *n as f64 / 20_000.0).collect();
        got.sort_by(f64::total_cmp);
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() < 0.02, "{got} {want}");
        }
    }
    assert_ne!(p.counts[0], p.counts[1], "layers have orders of their own");
    assert_eq!(zipf(3).routing(2, 2, 5, 5), zipf(3).routing(2, 2, 5, 5));
}

#[test]
fn texts_are_read_back_and_damage_is_refused() {
    let p = zipf(2).routing(1, 1, 50, 5).popularity("made up");
    assert_eq!(Popularity::from_toml(&p.to_toml()).unwrap(), p);
    let m = mixture(32);
    assert_eq!(Mixture::from_toml(&m.to_toml()).unwrap(), m);
    let refused = |change: &dyn Fn(&mut Popularity)| {
        let mut p = p.clone();
        change(&mut p);
        let error = Popularity::from_toml(&p.to_toml()).unwrap_err().diagnostic();
        assert_eq!(error.code, "plan-popularity");
        error.to_string()
    };
    assert!(refused(&|p| p.counts[1][0] += 1).contains("the counts of layer 1 sum up to tokens times used"));
    assert!(refused(&|p| p.counts[1].truncate(3)).contains("a number for each expert"));
    assert!(refused(&|p| p.tokens = 0).contains("tokens are between 1"));
    assert!(refused(&|p| p.counts.clear()).contains("a row for each layer"));
    let wrong = Mixture { used: 9, ..m.clone() };
    assert!(Mixture::from_toml(&wrong.to_toml()).unwrap_err().to_string().contains("no more than there are"));
    let costs = ExpertCosts::of_machine(&m, &machine(), 8).unwrap();
    let routing = zipf(3).routing(1, 1, 1, 5);
    let policy = ExpertPolicy::best();
    let error = simulate(&costs, &p, 4, &routing, load(1, 1), &policy).unwrap_err().to_string();
    assert!(error.contains("a row for each layer of the popularity"), "{error}");
}

#[test]
fn the_picture_has_all_lanes() {
    let costs = ExpertCosts::of_machine(&mixture(4), &machine(), 8).unwrap();
    let r = ran(&costs, 4, &zipf(4), load(2, 1), 4);
    let svg = expert_picture("two <sequences>", &r.chosen.spans);
    assert!(svg.ends_with("</svg>\n") && svg.contains("two &lt;sequences&gt;"));
    for lane in ["host", "link", "device"] {
        assert!(svg.contains(&format!(">{lane}</text>")), "{lane}");
        assert!(r.chosen.spans.iter().any(|s| s.lane == lane), "{lane}");
    }
}
