//! Plans against hand-made arithmetic, brute force, laws that any planner obeys, and what was published.

use lathe_diagnostic::Diagnose;
use lathe_machine::Machine;
use lathe_plan::{
    Asked, Attention, Head, Layers, Load, Measured, Objective, Outcome, Pairs, PlanError, Policy, Shares,
    StepBytes, Work, picture, plan, predict, published_machine, published_work,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A machine: its host's memory and disk, and perhaps a device.
#[derive(Clone, Debug)]
struct Shape {
    host: (u64, f64, f64),
    disk: Option<(f64, f64)>,
    device: Option<(u64, f64, f64, f64)>,
}

impl Shape {
    fn machine(&self) -> Machine {
        let (capacity, bandwidth, rate) = self.host;
        let mut text = format!(
            "name = \"shape\"\n[cpu]\nvendor = \"v\"\nmodel = \"m\"\ncores = 1\nfeatures = []\nvector_bits = 256\n\
             [rates.f32]\n1 = {{ best = {rate:e}, median = {rate:e} }}\n\
             [[memory]]\nname = \"dram\"\ncapacity_bytes = {capacity}\n\
             [memory.read_bandwidth]\n1 = {{ best = {bandwidth:e}, median = {bandwidth:e} }}\n"
        );
        if let Some((read, write)) = self.disk {
            text += &format!(
                "[disk]\nread_bandwidth = {{ best = {read:e}, median = {read:e} }}\n\
                 write_bandwidth = {{ best = {write:e}, median = {write:e} }}\n"
            );
        }
        if let Some((capacity, bandwidth, rate, link)) = self.device {
            text += &format!(
                "[[memory]]\nname = \"vram\"\ncapacity_bytes = {capacity}\n\
                 [memory.read_bandwidth]\n1 = {{ best = {bandwidth:e}, median = {bandwidth:e} }}\n\
                 [[devices]]\nname = \"gpu\"\nmemory = \"vram\"\n[devices.rates]\nf32 = {{ best = {rate:e}, median = {rate:e} }}\n\
                 [[links]]\nfrom = \"dram\"\nto = \"vram\"\nbandwidth = {link:e}\n\
                 [[links]]\nfrom = \"vram\"\nto = \"dram\"\nbandwidth = {link:e}\n"
            );
        }
        Machine::from_toml(&text).unwrap()
    }
}

/// Layers with these weights, one in four of which is the largest, and positions of so many bytes.
fn work(layers: u64, weights: u64, position: u64) -> Work {
    Work {
        name: "made up".into(),
        hidden_bytes: 64,
        embedding_bytes: 0,
        attention_type: "f32".into(),
        layers: vec![Layers {
            count: layers,
            weight_bytes: weights,
            four_bit_bytes: weights / 4,
            expert_bytes: 0,
            experts_used: 0.0,
            largest_bytes: weights / 4,
            operations: [("f32".to_string(), weights)].into(),
            attention_operations: position,
            kv_bytes: [("f16".to_string(), position / 2), ("f32".to_string(), position)].into(),
            workspace_bytes: 256,
        }],
        head: Head {
            weight_bytes: weights / 8,
            four_bit_bytes: weights / 32,
            operations: [("f32".to_string(), weights / 8)].into(),
            logits_bytes: 128,
        },
        measured: None,
    }
}

fn load(prompt: u64, generate: u64, sequences: u64) -> Load {
    Load { prompt, generate, sequences: Some(sequences) }
}

fn asked() -> Asked {
    Asked { kv_types: vec!["f32".into()], ..Asked::default() }
}

fn close(a: f64, b: f64, relative: f64) -> bool {
    (a - b).abs() <= relative * a.abs().max(b.abs()).max(1e-300)
}

fn published(name: &str) -> (Work, Machine, Load, Outcome) {
    let work = published_work(name).unwrap();
    let machine = Machine::from_toml(published_machine("flexgen-t4").unwrap()).unwrap();
    let load = Load { prompt: 512, generate: 32, sequences: None };
    let asked = Asked { kv_types: vec!["f16".into()], ..Asked::default() };
    let outcome = plan(&work, &machine, &load, &asked).unwrap();
    (work, machine, load, outcome)
}

/// The tier with the largest share.
fn dominant(shares: &Shares) -> &str {
    shares.iter().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0
}

fn shares(device: f64, host: f64, disk: f64) -> Shares {
    [("gpu", device), ("dram", host), ("disk", disk)].map(|(tier, share)| (tier.to_string(), share)).into()
}

/// The numbers are those of `python bench/peers/offload_cost.py opt-30b` and `opt-175b`: the published cost model with the
/// published constants.
#[test]
fn published_models_are_planned_as_published() {
    for (name, speed, weights, kv, activations) in
        [("opt-30b", 7.075, "dram", "dram", "dram"), ("opt-175b", 0.169, "disk", "disk", "dram")]
    {
        let (_, _, _, outcome) = published(name);
        let best = &outcome.best;
        assert!(close(best.prediction.tokens_per_second, speed, 0.2), "{name}: {best:?}");
        assert_eq!(dominant(&best.policy.weights), weights, "{name}: {best:?}");
        assert_eq!(dominant(&best.policy.kv), kv, "{name}: {best:?}");
        assert_eq!(dominant(&best.policy.activations), activations, "{name}: {best:?}");
    }
}

/// The policies that the paper's measurements used (FMInference/FlexiGen, benchmark/flexgen/bench_suite.py), against
/// `offload_cost.py opt-30b --batch 48 --batches 3 --slack 1.2` and `opt-175b --batch 32 --batches 8 --shares 0 50 0 0 0 100
/// --slack 1.2`.
#[test]
fn published_policies_are_predicted_as_published() {
    let policy = |batch, batches, weights, kv, attention| Policy {
        batch,
        batches,
        passes: 1,
        four_bit: false,
        head_stays: false,
        kv_type: "f16".into(),
        attention,
        weights,
        kv,
        activations: shares(0.0, 1.0, 0.0),
    };
    let cases = [
        ("opt-30b", policy(48, 3, shares(0.2, 0.8, 0.0), shares(0.0, 1.0, 0.0), Attention::Where), 7.114),
        ("opt-175b", policy(32, 8, shares(0.0, 0.5, 0.5), shares(0.0, 0.0, 1.0), Attention::Where), 0.154),
    ];
    for (name, policy, speed) in cases {
        let (work, machine, load, outcome) = published(name);
        let got = predict(&work, &machine, &load, &policy).unwrap().tokens_per_second;
        assert!(close(got, speed, 0.2), "{name}: {got}");
        assert!(got <= outcome.best.prediction.tokens_per_second, "{name}: a policy that fits is no better");
    }
}

#[test]
fn in_memory_the_prediction_is_the_roofline() {
    let shape = Shape { host: (1 << 30, 1e9, 1e10), disk: Some((1e8, 1e8)), device: None };
    let (layers, weights, position) = (4, 1 << 20, 1 << 10);
    let (w, l) = (work(layers, weights, position), load(100, 20, 1));
    let outcome =
        plan(&w, &shape.machine(), &l, &Asked { objective: Objective::Latency, ..asked() }).unwrap();
    let p = &outcome.best.prediction;
    let all = (layers * weights + weights / 8) as f64;
    let cache = (layers * position) as f64;
    // Ten operations are as fast as a byte: a token reads, a prompt computes.
    assert!(close(p.decode.seconds, (all + cache * 110.0) / 1e9, 1e-9), "{p:?}");
    let products = 100.0 * (layers * weights) as f64 / 1e10 + (weights / 8) as f64 / 1e9;
    let attention = cache * (100.0 * 101.0 / 2.0) / 1e10;
    assert!(close(p.prefill.seconds, products + attention, 1e-9), "{p:?}");
    assert!(close(p.seconds, p.prefill.seconds + 19.0 * p.decode.seconds, 1e-12));
    assert!(close(p.tokens_per_second, 20.0 / p.seconds, 1e-12));
    assert_eq!((outcome.best.policy.weights["dram"], outcome.best.policy.kv["dram"]), (1.0, 1.0));
    assert_eq!(p.held("dram").unwrap().weight_window, 0.0);
}

#[test]
fn what_was_measured_is_what_is_predicted() {
    let machine = Shape { host: (1 << 30, 1e12, 1e9), disk: Some((1e6, 1e6)), device: None }.machine();
    let measured = Measured {
        prompt: vec![(1, 1.0), (100, 10.0)],
        token: vec![(1, 2.0), (4, 5.0)],
        attention: [("f32".to_string(), Pairs { prompt: 0.001, token: 0.002 })].into(),
        held: StepBytes { constant: 1000, token: 10, sequence: 100 },
        stored_bytes: 50_000,
        page: 16,
    };
    let work = Work { measured: Some(measured), ..work(4, 8000, 16) };
    let asked = Asked { kv_types: vec!["f32".into()], ..asked() };
    let found = plan(&work, &machine, &load(10, 5, 4), &asked).unwrap();
    let Policy { batch, passes, .. } = found.best.policy;
    assert_eq!((batch, passes), (4, 1));
    // 40 tokens of prompts on the line from 1 to 10 s, three more rows of logits than one, and 4 times 55 pairs.
    let line = |tokens: f64| 1.0 + 9.0 * (tokens - 1.0) / 99.0;
    let prefill = line(40.0) + (5.0 - line(4.0)) + 4.0 * 55.0 * 0.001;
    // At a depth of 12.5 positions.
    let decode = 5.0 + 4.0 * 12.5 * 0.002;
    let p = &found.best.prediction;
    assert!(close(p.prefill.seconds, prefill, 1e-9), "{} {prefill}", p.prefill.seconds);
    assert!(close(p.decode.seconds, decode, 1e-9), "{} {decode}", p.decode.seconds);
    let held = p.held("dram").unwrap();
    assert_eq!(held.workspace, 1000.0 + 4.0 * 11.0 * 10.0 + 4.0 * 100.0);
    // 15 positions are a page of 16.
    assert_eq!((held.weights, held.kv), (50_000.0, 4.0 * 16.0 * 4.0 * 16.0));
    assert_eq!(Work::from_toml(&work.to_toml()).unwrap(), work);
    // A device is as fast as it is without them, and holds the bytes that were measured.
    let device = Some((1 << 30, 1e12, 1e9, 1e9));
    let other = Shape { host: (1 << 30, 1e12, 1e9), disk: None, device }.machine();
    let slower = |m: &Measured| Measured { prompt: vec![(1, 1e3)], token: vec![(1, 1e3)], ..m.clone() };
    let slow = Work { measured: work.measured.as_ref().map(slower), ..work.clone() };
    let (with, without) =
        (plan(&work, &other, &load(10, 5, 4), &asked), plan(&slow, &other, &load(10, 5, 4), &asked));
    let with = with.unwrap().best;
    assert_eq!(with, without.unwrap().best);
    assert_eq!((with.policy.batch, with.policy.passes), (1, 1));
    assert_eq!(with.prediction.held("vram").unwrap().workspace, 1000.0 + 11.0 * 10.0 + 100.0);
}

#[test]
fn what_does_not_fit_is_streamed_through_a_window() {
    let shape = Shape { host: (1 << 30, 1e11, 1e12), disk: Some((1e8, 1e8)), device: None };
    let (w, l) = (work(8, 1 << 20, 1 << 10), load(64, 64, 1));
    let budget = 3 << 20;
    let asked = Asked {
        objective: Objective::Latency,
        budgets: [("dram".to_string(), budget)].into(),
        most_batches: Some(1),
        ..asked()
    };
    let best = plan(&w, &shape.machine(), &l, &asked).unwrap().best;
    let held = best.prediction.held("dram").unwrap();
    // The window is the largest weight twice, and all the rest is used.
    assert_eq!(held.weight_window, f64::from(2 * (1 << 18)));
    assert!(close(held.peak, budget as f64, 1e-4), "{held:?}");
    let head = if best.policy.head_stays { w.head_bytes(false) } else { 0 };
    let streamed = (w.weight_bytes(false) - head) as f64 * best.policy.weights["disk"];
    let cache = w.kv_bytes("f32").unwrap() as f64 * 96.0 * best.policy.kv["disk"];
    let written = w.kv_bytes("f32").unwrap() as f64 * best.policy.kv["disk"];
    assert!(close(best.prediction.decode.seconds, (streamed + cache + written) / 1e8, 1e-6), "{best:?}");
    assert_eq!(best.prediction.decode.binds, "disk");
}

#[test]
fn a_large_head_stays_where_that_saves_its_window() {
    let shape = Shape { host: (1 << 30, 1e11, 1e12), disk: Some((1e8, 1e8)), device: None };
    let (mut w, l) = (work(8, 1 << 20, 1 << 10), load(64, 64, 1));
    w.head.weight_bytes = 2 << 20;
    let asked = Asked {
        objective: Objective::Latency,
        budgets: [("dram".to_string(), 5 << 20)].into(),
        most_batches: Some(1),
        ..asked()
    };
    let best = plan(&w, &shape.machine(), &l, &asked).unwrap().best;
    assert!(best.policy.head_stays, "{best:?}");
    let held = best.prediction.held("dram").unwrap();
    assert_eq!(held.weight_window, f64::from(2 * (1 << 18)));
    assert!(held.weights >= f64::from(2 << 20) && held.peak <= f64::from(5 << 20), "{held:?}");
    // Streamed, it takes twice its size, and less than a fifth of the memory is left.
    let streamed = Policy { head_stays: false, ..best.policy.clone() };
    let p = predict(&w, &shape.machine(), &l, &streamed).unwrap();
    assert!(p.held("dram").unwrap().peak > f64::from(5 << 20));
}

/// All splits in steps of `1 / steps` over so many tiers.
fn splits(tiers: usize, steps: u32) -> Vec<Vec<f64>> {
    if tiers == 1 {
        return vec![vec![1.0]];
    }
    let mut out = vec![];
    for first in 0..=steps {
        for rest in splits(tiers - 1, steps) {
            let left = 1.0 - f64::from(first) / f64::from(steps);
            out.push([vec![1.0 - left], rest.iter().map(|x| x * left).collect()].concat());
        }
    }
    out
}

#[test]
fn no_split_on_a_grid_is_better() {
    let shape =
        Shape { host: (5 << 20, 2e9, 4e9), disk: Some((2e8, 1e8)), device: Some((3 << 20, 2e10, 5e10, 1e9)) };
    let (w, l, machine) = (work(8, 1 << 20, 1 << 12), load(32, 32, 4), shape.machine());
    let outcome = plan(&w, &machine, &l, &asked()).unwrap();
    let best = outcome.best.prediction.seconds / outcome.best.policy.sequences() as f64;
    let all = splits(3, 8);
    let of = |split: &[f64]| -> Shares {
        ["vram", "dram", "disk"].iter().zip(split).map(|(tier, share)| (tier.to_string(), *share)).collect()
    };
    let (mut tried, mut nearest) = (0, f64::INFINITY);
    for attention in [Attention::Where, Attention::Main] {
        for (batch, batches, passes) in
            [(1, 1, 1), (1, 1, 8), (2, 1, 1), (2, 2, 1), (4, 1, 1), (4, 1, 4), (1, 4, 1)]
        {
            for weights in &all {
                for kv in &all {
                    for activations in [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]] {
                        let policy = Policy {
                            batch,
                            batches,
                            passes,
                            four_bit: false,
                            head_stays: false,
                            kv_type: "f32".into(),
                            attention,
                            weights: of(weights),
                            kv: of(kv),
                            activations: of(&activations),
                        };
                        let p = predict(&w, &machine, &l, &policy).unwrap();
                        let fits = p.held.iter().all(|held| held.peak <= outcome.capacities[&held.tier]);
                        if fits {
                            tried += 1;
                            nearest = nearest.min(p.seconds / policy.sequences() as f64);
                        }
                    }
                }
            }
        }
    }
    assert!(tried > 1000, "{tried}");
    assert!(best <= nearest * 1.00001, "{best} > {nearest}");
    assert!(best >= nearest * 0.7, "the grid is near the best: {best}, {nearest}");
}

fn shape() -> impl Strategy<Value = Shape> {
    let rate = |low: f64, high: f64| (low..high).prop_map(|x| 10f64.powf(x));
    let host = (1u64 << 20..48 << 20, rate(9.0, 11.0), rate(9.0, 12.0));
    let disk = (rate(7.5, 9.5), rate(7.5, 9.5));
    let device = (1u64 << 20..24 << 20, rate(10.0, 12.0), rate(10.0, 13.0), rate(9.0, 10.5));
    (host, prop::option::weighted(0.8, disk), prop::option::of(device))
        .prop_map(|(host, disk, device)| Shape { host, disk, device })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn plans_fit_and_more_of_anything_is_no_slower(
        shape in shape(),
        layers in 1u64..12,
        weights in 18u32..22,
        position in 9u32..13,
        prompt in 1u64..80,
        generate in 1u64..40,
        latency: bool,
    ) {
        let (w, l) = (work(layers, 1 << weights, 1 << position), load(prompt, generate, 3));
        let objective = if latency { Objective::Latency } else { Objective::Throughput };
        let asked = Asked { objective, most_batches: shape.device.is_none().then_some(1), ..asked() };
        let outcome = match plan(&w, &shape.machine(), &l, &asked) {
            Ok(outcome) => outcome,
            Err(PlanError::TooSmall { .. } | PlanError::Machine { .. }) => return Ok(()),
            Err(error) => panic!("{error}"),
        };
        for planned in [&outcome.best].into_iter().chain(&outcome.rejected) {
            for held in &planned.prediction.held {
                let most = outcome.capacities[&held.tier];
                prop_assert!(held.peak <= most, "{} of {}: {:?}", held.peak, most, planned);
            }
            let again = predict(&w, &shape.machine(), &l, &planned.policy).unwrap();
            prop_assert_eq!(&again, &planned.prediction);
            let read_back = Policy::from_toml(&planned.policy.to_toml()).unwrap();
            prop_assert_eq!(&read_back, &planned.policy);
            prop_assert!(planned.prediction.tokens_per_second <= outcome.best.prediction.tokens_per_second);
            for phase in [&again.prefill, &again.decode] {
                let longest = phase.lanes().iter().map(|lane| phase.lane_seconds(lane)).fold(0.0, f64::max);
                prop_assert!(close(phase.seconds, longest, 1e-12));
            }
        }
        prop_assert!(outcome.gains.iter().all(|g| g.gain >= 0.0));
        let mut more: Vec<Shape> = vec![];
        let mut with = |change: &dyn Fn(&mut Shape)| {
            let mut shape = shape.clone();
            change(&mut shape);
            more.push(shape);
        };
        with(&|s| s.host.0 = s.host.0 * 3 / 2);
        with(&|s| s.host.1 *= 1.5);
        with(&|s| s.host.2 *= 1.5);
        if shape.disk.is_some() {
            with(&|s| s.disk = s.disk.map(|(read, write)| (read * 1.5, write * 1.2)));
        }
        if shape.device.is_some() {
            with(&|s| s.device = s.device.map(|(c, b, r, l)| (c * 3 / 2, b, r, l)));
            with(&|s| s.device = s.device.map(|(c, b, r, l)| (c, b * 1.5, r, l)));
            with(&|s| s.device = s.device.map(|(c, b, r, l)| (c, b, r * 1.5, l)));
            with(&|s| s.device = s.device.map(|(c, b, r, l)| (c, b, r, l * 1.5)));
        }
        for more in more {
            let better = plan(&w, &more.machine(), &l, &asked).unwrap().best.prediction.tokens_per_second;
            let before = outcome.best.prediction.tokens_per_second;
            prop_assert!(better >= before * (1.0 - 1e-5), "{before} > {better}: {shape:?} and {more:?}");
        }
    }
}

#[test]
fn what_cannot_be_is_said() {
    let shape = Shape { host: (1 << 20, 1e9, 1e10), disk: Some((1e8, 1e8)), device: None };
    let (w, machine, l) = (work(4, 1 << 22, 1 << 10), shape.machine(), load(16, 16, 1));
    let why = |asked: &Asked, l: &Load, machine: &Machine| plan(&w, machine, l, asked).unwrap_err();

    // The window of two times a quarter of a layer alone is 2 MiB.
    let error = why(&asked(), &l, &machine);
    let PlanError::TooSmall { memory, needed, has, what } = &error else { panic!("{error}") };
    assert_eq!((memory.as_str(), *has), ("dram", 1 << 20));
    assert!(*needed > 2 << 20 && *needed < (2 << 20) + (128 << 10), "{error}");
    assert!(what.contains("the largest weight twice (2097152)"), "{error}");
    assert_eq!(error.diagnostic().code, "plan-memory");
    let enough = Asked { budgets: [("dram".to_string(), *needed)].into(), ..asked() };
    let large = Shape { host: (1 << 30, 1e9, 1e10), ..shape.clone() }.machine();
    plan(&w, &large, &l, &enough).expect("what is said to be needed is enough");

    let soon = Asked { most_seconds_per_token: Some(1e-6), ..asked() };
    let PlanError::TooSlow { best, .. } = why(&soon, &l, &large) else { panic!("it is not too slow") };
    let soon = Asked { most_seconds_per_token: Some(best * 1.001), ..asked() };
    let kept = plan(&w, &large, &l, &soon).unwrap().best.prediction.decode.seconds;
    assert!(kept <= best * 1.001);

    let unknown = Asked { kv_types: vec!["q3".into()], ..Asked::default() };
    assert_eq!(why(&unknown, &l, &large).diagnostic().code, "plan-asked");
    let nowhere = Asked { budgets: [("hbm".to_string(), 1)].into(), ..asked() };
    assert!(why(&nowhere, &l, &large).to_string().contains("no memory 'hbm'"));
    assert_eq!(why(&asked(), &load(0, 1, 1), &large).diagnostic().code, "plan-asked");
    let slow = Machine { rates: BTreeMap::new(), ..large.clone() };
    assert!(why(&asked(), &l, &slow).to_string().contains("no rates of its processor"));

    let policy = plan(&w, &large, &l, &asked()).unwrap().best.policy;
    let refused = |change: &dyn Fn(&mut Policy)| {
        let mut policy = policy.clone();
        change(&mut policy);
        predict(&w, &large, &l, &policy).unwrap_err().to_string()
    };
    assert!(refused(&|p| p.weights = [("dram".to_string(), 0.5)].into()).contains("sum to 1"));
    assert!(refused(&|p| p.kv = [("vram".to_string(), 1.0)].into()).contains("no 'vram'"));
    assert!(refused(&|p| p.batch = 0).contains("from 1 on"));
    assert!(refused(&|p| (p.batch, p.batches) = (1 << 40, 1 << 40)).contains("up to 2^30"));
    assert!(refused(&|p| p.weights = [("dram".to_string(), f64::NAN)].into()).contains("from 0 to 1"));
    assert!(refused(&|p| p.activations = [("disk".to_string(), 1.0)].into()).contains("in memories"));
    assert!(refused(&|p| (p.batches, p.passes) = (2, 2)).contains("one pass"));
    for text in ["", "name = 3", "=", "\u{0}", "batch = -1"] {
        assert_eq!(Work::from_toml(text).unwrap_err().diagnostic().code, "plan-syntax");
        assert_eq!(Policy::from_toml(text).unwrap_err().diagnostic().code, "plan-syntax");
    }
    let mut huge = w.clone();
    huge.layers[0].weight_bytes = u64::MAX >> 1;
    assert_eq!(Work::from_toml(&huge.to_toml()).unwrap_err().diagnostic().code, "plan-work");
    let mut none = w.clone();
    none.layers.clear();
    assert_eq!(Work::from_toml(&none.to_toml()).unwrap_err().diagnostic().code, "plan-work");
}

#[test]
fn choices_of_types_pay_where_bytes_bind() {
    let shape = Shape { host: (6 << 20, 1e10, 1e12), disk: Some((1e8, 1e8)), device: None };
    let (w, l) = (work(16, 1 << 20, 1 << 12), load(64, 64, 8));
    let open = Asked { four_bit: true, kv_types: vec![], most_batches: Some(1), ..asked() };
    let outcome = plan(&w, &shape.machine(), &l, &open).unwrap();
    assert!(outcome.best.policy.four_bit && outcome.best.policy.kv_type == "f16", "{:?}", outcome.best);
    let whole = plan(&w, &shape.machine(), &l, &Asked { most_batches: Some(1), ..asked() }).unwrap();
    assert!(outcome.best.prediction.tokens_per_second > whole.best.prediction.tokens_per_second);
    assert!(outcome.rejected.iter().any(|p| !p.policy.four_bit && p.policy.kv_type == "f32"));
    let svg = picture(&w, &shape.machine(), &outcome.best);
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.contains("bound by"));
    assert_eq!(svg.matches("<rect").count(), svg.matches("</rect>").count() + 1);
}
