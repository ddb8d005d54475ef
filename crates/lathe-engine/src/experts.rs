//! A mixture's experts in real time: what a plan chose for one sequence, as a step program with real kernels, a throttled link and
//! an emulated device. Queues, events and links are those of every step program; what computes slower than it does here waits
//! for a link that is as slow. (The engine's own steps compute whole experts on both sides: `split.rs`.)

use crate::EngineError;
use crate::error::below;
use lathe_compile::{Class, Options, Sizes, compile};
use lathe_exec::{Costs, Executable, Places, Setting, virtual_run};
use lathe_ir::Name;
use lathe_ir::step::{Program, Step, Storage};

use lathe_machine::{Link, Machine};
use lathe_plan::experts::{
    Computed, ExpertCosts, ExpertPolicy, Knows, Mixture, Popularity, Routing, StepLoad, simulate,
};
use lathe_runtime::{Arena, Buffer, Pool, View, detect_target};
use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

/// What one policy took.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertTrial {
    /// The policy.
    pub policy: String,
    /// Seconds of a step, as the plan has them.
    pub planned: f64,
    /// Seconds of a step on the virtual clock of step programs.
    pub expected: f64,
    /// Seconds of a step that were measured.
    pub measured: f64,
    /// How far the results are from the experts' in f64, as a share of the largest.
    pub error: f64,
}

/// What policies took in real time.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertTrials {
    /// How many times slower than the machine's description everything is.
    pub slower: f64,
    /// Seconds of one part's kernels here, on one thread.
    pub kernel: f64,
    /// Seconds that the host of the description takes for it, made slower.
    pub host: f64,
    /// Always move, always on host, chosen.
    pub trials: Vec<ExpertTrial>,
}

/// Bytes a second of the links that stand for time.
const CLOCK: f64 = 1e6;
/// The least seconds of a part on the emulated device: waiting is not exact.
const LEAST: f64 = 1e-4;

/// Runs steps of one sequence in real time under each policy, with what the popularity says on the device from the start and no
/// exchange. Experts are those of the mixture in f32, their weights random; of attention there is only the time. The machine is
/// made slower until kernels of this processor are faster than it.
pub fn try_experts(
    mixture: &Mixture,
    machine: &Machine,
    parts: u32,
    popularity: &Popularity,
    capacity: u64,
    routing: &Routing,
    cache: &Path,
) -> Result<ExpertTrials, EngineError> {
    let costs = ExpertCosts::of_machine(mixture, machine, parts).map_err(below)?;
    let (hidden, width) = (mixture.hidden_bytes as usize / 4, (mixture.inner / u64::from(parts)) as usize);
    let mixture =
        &Mixture { expert_bytes: (12 * hidden * width) as u64 * u64::from(parts), ..mixture.clone() };
    let text = format!(
        "graph part() {{
           x: f32[1, {hidden}] = input
           g: f32[{width}, {hidden}] = input
           u: f32[{width}, {hidden}] = input
           d: f32[{hidden}, {width}] = input
           a: f32[1, {width}] = matmul(x, g)
           b: f32[1, {width}] = matmul(x, u)
           c: f32[1, {width}] = swiglu(a, b)
           y: f32[1, {hidden}] = matmul(c, d)
           return y
         }}"
    );
    let graph = lathe_ir::graph::parse(&text).map_err(below)?;
    let (target, classes) = (detect_target().map_err(below)?, [Sizes { name: "all", ..Sizes::default() }]);
    let options = Options { target: &target, cache, passes: &[], classes: &classes };
    let compiled = compile(&graph, &options, &mut |_, _| ()).map_err(below)?;
    let pool = Pool::new(1).map_err(below)?;
    let part = Part::new(&compiled.classes[0], hidden, width)?;
    let (kernel, kernels) = part.time(&pool)?;
    let share = costs.share(1);
    let (on_host, on_device) = (costs.host.seconds(1, share), costs.device.seconds(1, share));
    // On the device a kernel may also wait for one of the host, as both are of one pool.
    let slower = (kernel / on_host).max(3.0 * kernel / on_device).max(LEAST / on_device);
    let costs = costs.slower(slower);
    let experts = Experts::new(&part, mixture, popularity, capacity, parts)?;
    let load = StepLoad { sequences: 1, tokens: 1, context: 0 };
    let mut trials = vec![];
    for policy in [ExpertPolicy::moved(true), ExpertPolicy::on_host(true), ExpertPolicy::best()] {
        let policy = ExpertPolicy { fetches: Knows::Nothing, keeps: Knows::Nothing, ..policy };
        let plan = simulate(&costs, popularity, capacity, routing, load, &policy).map_err(below)?;
        let timed = Timed { part: &part, costs: &costs, experts: &experts, load, computed: &plan.computed };
        let (expected, measured, error) = timed.run(machine, &pool, &kernels)?;
        trials.push(ExpertTrial {
            policy: policy.name.clone(),
            planned: plan.step_seconds(),
            expected,
            measured,
            error,
        });
    }
    Ok(ExpertTrials { slower, kernel, host: costs.host.seconds(1, share), trials })
}

/// The compiled kernels of one part of an expert for one token.
struct Part<'a> {
    class: &'a Class,
    hidden: usize,
    width: usize,
    /// Bytes of each value, with the rows that kernels may touch behind it.
    bytes: HashMap<&'static str, usize>,
}

impl<'a> Part<'a> {
    fn new(class: &'a Class, hidden: usize, width: usize) -> Result<Part<'a>, EngineError> {
        let buffers = &class.plan.run.buffers;
        let size = |name: &'static str| {
            let found = buffers.iter().find(|b| &*b.name == name).and_then(|b| b.bytes.as_const());
            (name, found.unwrap_or(0).max(0) as usize)
        };
        let bytes = ["x", "g", "u", "d", "y"].map(size).map(|(n, b)| (n, b.next_multiple_of(64))).into();
        Ok(Part { class, hidden, width, bytes })
    }

    /// Bytes of the weights: gate, up and down, one after the other.
    fn weights(&self) -> usize {
        self.bytes["g"] + self.bytes["u"] + self.bytes["d"]
    }

    /// The buffers of temporaries, with their bytes.
    fn temporaries(&self) -> impl Iterator<Item = (&Name, usize)> {
        let planned = self.class.plan.run.buffers.iter().filter(|b| b.storage != Storage::Given);
        planned.map(|b| (&b.name, (b.bytes.as_const().unwrap_or(0).max(64) as usize).next_multiple_of(64)))
    }

    /// The steps as text, with the buffers that `place` says.
    fn calls(&self, place: &dyn Fn(&str) -> String) -> String {
        let run = &self.class.plan.run;
        let mut out = String::new();
        for step in &run.steps {
            let Step::Call { kernel, args, writes } = step else {
                out += " meet";
                continue;
            };
            let arg = |(a, w): (&lathe_ir::step::Part, &bool)| {
                format!("{}{}", if *w { "@" } else { "" }, place(&run.buffers[a.buffer as usize].name))
            };
            let args: Vec<String> = args.iter().zip(writes).map(arg).collect();
            let _ = write!(out, " call {kernel}({})", args.join(", "));
        }
        out + " meet"
    }

    /// Seconds of one part, and of each of its kernels.
    fn time(&self, pool: &Pool) -> Result<(f64, HashMap<Name, f64>), EngineError> {
        let arena = Arena::new("host", usize::MAX);
        let alloc = |bytes: usize| arena.alloc(bytes.max(64)).map(Buffer::into_view).map_err(below);
        let given = self.bytes.iter().map(|(name, bytes)| Ok(((*name).into(), alloc(*bytes)?)));
        let given: HashMap<Name, View> = given.collect::<Result<_, EngineError>>()?;
        let planned = alloc(self.class.plan.arena_bytes.max(64) as usize)?;
        let none = HashMap::new();
        let run = &self.class.plan.run;
        let mut e =
            Executable::new(run, &self.class.images, &given, &planned, &none, 1, &arena).map_err(below)?;
        let mut seconds: HashMap<Name, Vec<f64>> = HashMap::new();
        for _ in 0..33 {
            for (name, _, s) in e.profile(pool, &[]).map_err(below)? {
                seconds.entry(name).or_default().push(s);
            }
        }
        let median = |(name, mut all): (Name, Vec<f64>)| {
            all.sort_by(f64::total_cmp);
            (name, all[all.len() / 2])
        };
        let kernels: HashMap<Name, f64> = seconds.into_iter().map(median).collect();
        Ok((kernels.values().sum(), kernels))
    }
}

/// All experts' weights, on the host, and a copy of those that lie on the device.
struct Experts {
    parts: usize,
    count: usize,
    weights: View,
    kept: View,
    /// By layer and expert, its place on the device.
    places: HashMap<(usize, usize), usize>,
    host: Arena,
    x: Vec<f32>,
}

impl Experts {
    fn new(
        part: &Part<'_>,
        mixture: &Mixture,
        popularity: &Popularity,
        capacity: u64,
        parts: u32,
    ) -> Result<Experts, EngineError> {
        let (parts, count) = (parts as usize, mixture.experts as usize);
        let all = mixture.layers as usize * count * parts;
        let host = Arena::new("host", usize::MAX);
        let weights = host.alloc(all * part.weights()).map_err(below)?.into_view();
        let mut random = 1u64;
        let mut floats = |n: usize, scale: f32| -> Vec<f32> {
            let mut one = || {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((random >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * scale
            };
            (0..n).map(|_| one()).collect()
        };
        let x = floats(part.hidden, 2.0);
        let scale = 4.0 / (part.hidden as f32).sqrt();
        for at in 0..all {
            for (offset, rows) in [0, part.bytes["g"], part.bytes["g"] + part.bytes["u"]].into_iter().zip(0..)
            {
                let scale = if rows < 2 { scale } else { scale / 4.0 };
                weights
                    .write(at * part.weights() + offset, &floats(part.hidden * part.width, scale))
                    .map_err(below)?;
            }
        }
        let ranked = popularity.ranked().into_iter().take(capacity as usize);
        let places: HashMap<(usize, usize), usize> = ranked.enumerate().map(|(i, e)| (e, i)).collect();
        let expert = parts * part.weights();
        let device = Arena::new("device", usize::MAX);
        let kept = device.alloc((places.len() * expert).max(64)).map_err(below)?.into_view();
        for ((layer, e), place) in &places {
            let from = weights.part((layer * count + e) * expert, expert).map_err(below)?;
            kept.copy(place * expert, &from).map_err(below)?;
        }
        Ok(Experts { parts, count, weights, kept, places, host, x })
    }

    /// What an expert makes of the token, in f64.
    fn reference(&self, part: &Part<'_>, layer: usize, expert: usize) -> Result<Vec<f64>, EngineError> {
        let mut y = vec![0.0; part.hidden];
        let n = part.hidden * part.width;
        let mut matrices = [vec![0f32; n], vec![0f32; n], vec![0f32; n]];
        for p in 0..self.parts {
            let mut at = ((layer * self.count + expert) * self.parts + p) * part.weights();
            for (name, m) in ["g", "u", "d"].into_iter().zip(&mut matrices) {
                self.weights.read(at, m).map_err(below)?;
                at += part.bytes[name];
            }
            let [g, u, d] = &matrices;
            let row = |m: &[f32], i: usize| -> f64 {
                m[i * part.hidden..][..part.hidden]
                    .iter()
                    .zip(&self.x)
                    .map(|(a, b)| f64::from(*a) * f64::from(*b))
                    .sum()
            };
            for i in 0..part.width {
                let gate = row(g, i);
                let inner = gate / (1.0 + (-gate).exp()) * row(u, i);
                y.iter_mut().enumerate().for_each(|(o, y)| *y += inner * f64::from(d[o * part.width + i]));
            }
        }
        Ok(y)
    }
}

/// Some steps in real time.
struct Timed<'a> {
    part: &'a Part<'a>,
    costs: &'a ExpertCosts,
    experts: &'a Experts,
    load: StepLoad,
    computed: &'a [Vec<Vec<Computed>>],
}

impl Timed<'_> {
    /// Seconds of a step as the virtual clock has them and as measured, and how far results are off.
    fn run(
        &self,
        machine: &Machine,
        pool: &Pool,
        kernels: &HashMap<Name, f64>,
    ) -> Result<(f64, f64, f64), EngineError> {
        let program = lathe_ir::step::parse(&self.text()).map_err(below)?;
        let link = |from: &str, to: &str, bandwidth: f64| Link {
            from: from.into(),
            to: to.into(),
            bandwidth,
            latency_seconds: 0.0,
        };
        let token = self.part.bytes["x"] as f64;
        let sent = |(copy, each): (f64, f64)| token / (copy + each);
        let links = vec![
            link("host", "device", self.part.weights() as f64 / self.costs.part),
            link("device", "host", sent(self.costs.down)),
            link("host", "returned", sent(self.costs.up)),
            link("host", "host_clock", CLOCK),
            link("device", "device_clock", CLOCK),
        ];
        let machine = Machine { links: links.clone(), ..machine.clone() };
        let costs = Costs { machine: &machine, kernels };
        let spans = virtual_run(&[&program], &HashMap::new(), &costs).map_err(below)?;
        let steps = self.computed.len() as f64;
        let expected = spans.iter().map(lathe_exec::Span::finish).fold(0.0, f64::max) / steps;
        let (mut executable, results) = self.bind(&program, links)?;
        let setting = Setting { pool, peers: None, trace: None };
        // The first run touches the memory.
        let mut measured = f64::INFINITY;
        for _ in 0..2 {
            let start = Instant::now();
            executable.run_in(&setting, &[]).map_err(below)?;
            measured = measured.min(start.elapsed().as_secs_f64() / steps);
        }
        Ok((expected, measured, self.error(&results)?))
    }

    fn bind(&self, program: &Program, links: Vec<Link>) -> Result<(Executable, [View; 2]), EngineError> {
        let most = HashMap::new();
        let tiers = ["host", "device", "returned", "host_clock", "device_clock"];
        let tiers = tiers.map(|tier| Arena::new(tier, usize::MAX));
        let alloc = |tier: usize, bytes: usize| {
            tiers[tier].alloc(bytes.max(64)).map(Buffer::into_view).map_err(below)
        };
        let y = self.all() * self.part.bytes["y"];
        let results = [alloc(0, y)?, alloc(1, y)?];
        let x = alloc(1, self.part.bytes["x"])?;
        x.write(0, &self.experts.x).map_err(below)?;
        let given = [
            ("weights", self.experts.weights.clone()),
            ("kept", self.experts.kept.clone()),
            ("x", x),
            ("yh", results[0].clone()),
            ("yd", results[1].clone()),
        ];
        let given: HashMap<Name, View> = given.map(|(name, view)| (name.into(), view)).into();
        let mut places = Places { given, links, ..Places::default() };
        let arenas: Vec<&Arena> = tiers.iter().collect();
        places.plan(program, &most, &arenas).map_err(below)?;
        let images = &self.part.class.images;
        let bound =
            Executable::bind(program, images, &places, &most, 1, &self.experts.host).map_err(below)?;
        Ok((bound, results))
    }

    /// How many parts are computed in all.
    fn all(&self) -> usize {
        self.computed.iter().flatten().map(Vec::len).sum::<usize>() * self.experts.parts
    }

    /// The program: host, link and device beside each other, layer by layer, and a queue for each processor's time.
    fn text(&self) -> String {
        let (part, costs, parts) = (self.part, self.costs, self.experts.parts);
        let (w, x, y) = (part.weights(), part.bytes["x"], part.bytes["y"]);
        let moved = |layer: &Vec<Computed>| layer.iter().map(|c| c.moved as usize).sum::<usize>();
        let slots = self.computed.iter().flatten().map(moved).max().unwrap_or(0).max(1);
        let pad = |seconds: f64| (seconds * CLOCK).round().max(1.0) as usize;
        let mut longest = 1;
        let [mut host, mut host_clock, mut link, mut device, mut device_clock] = [const { String::new() }; 5];
        let mut first = 0;
        let weights = |buffer: &str, at: usize, name: &str| {
            let offset = match name {
                "g" => 0,
                "u" => part.bytes["g"],
                _ => part.bytes["g"] + part.bytes["u"],
            };
            format!("{buffer}[{}, {}]", at * w + offset, part.bytes[name])
        };
        let calls = |on: &str, token: &str, buffer: &str, at: usize, to: usize| {
            part.calls(&|name| match name {
                "x" => token.into(),
                "y" => format!("y{on}[{}, {y}]", to * y),
                "g" | "u" | "d" => weights(buffer, at, name),
                temporary => format!("{temporary}_{on}"),
            })
        };
        for step in self.computed {
            for (layer, used) in step.iter().enumerate() {
                let mut waits = |queue: &mut String,
                                 clock: &mut String,
                                 on: &str,
                                 seconds: f64,
                                 calls: &str| {
                    let bytes = pad(seconds);
                    longest = longest.max(bytes);
                    let _ = writeln!(queue, "signal {on}_go{calls} wait {on}_done");
                    let _ = writeln!(
                        clock,
                        "wait {on}_go copy pad_{on}[0, {bytes}] to clock_{on}[0, {bytes}] signal {on}_done"
                    );
                };
                waits(&mut device, &mut device_clock, "d", costs.layer_seconds(self.load), "");
                device += "signal host_start signal link_start\n";
                host += "wait host_start\n";
                link += "wait link_start\n";
                let (mut there, mut here) = (String::new(), String::new());
                let (mut host_seconds, mut device_seconds) = (0.0, 0.0);
                let mut slot = 0;
                let mut arrived = vec![];
                for (i, c) in used.iter().enumerate() {
                    let (on_host, on_device) = (c.on_host as usize, c.here as usize);
                    let expert = layer * self.experts.count + c.expert;
                    let to = |p: usize| first + i * parts + p;
                    // The host takes the first parts, then come those that lie on the device.
                    for p in 0..on_host {
                        there += &calls("h", "xh", "weights", expert * parts + p, to(p));
                    }
                    host_seconds += costs.host.seconds(1, costs.share(c.on_host));
                    for p in on_host..on_host + on_device {
                        let place = self.experts.places.get(&(layer, c.expert)).copied().unwrap_or(0);
                        here += &calls("d", "x", "kept", place * parts + p, to(p));
                    }
                    device_seconds += costs.device.seconds(1, costs.share(c.here));
                    for p in on_host + on_device..parts {
                        let from = (expert * parts + p) * w;
                        let _ = writeln!(
                            link,
                            "copy weights[{from}, {w}] to slots[{}, {w}] signal arrived",
                            slot * w
                        );
                        arrived.push(calls("d", "x", "slots", slot, to(p)));
                        slot += 1;
                    }
                }
                if !there.is_empty() {
                    let _ = writeln!(host, "copy x[0, {x}] to xh");
                    waits(&mut host, &mut host_clock, "h", host_seconds, &there);
                    let _ = writeln!(host, "copy yh[{}, {x}] to back", first * y);
                }
                host += "signal host_end\n";
                if !here.is_empty() {
                    waits(&mut device, &mut device_clock, "d", device_seconds, &here);
                }
                for calls in &arrived {
                    device += "wait arrived\n";
                    waits(
                        &mut device,
                        &mut device_clock,
                        "d",
                        costs.device.seconds(1, costs.share(1)),
                        calls,
                    );
                }
                device += "wait host_end\n";
                first += used.len() * parts;
            }
            let head = pad(costs.dense.head.seconds(1, 1.0));
            longest = longest.max(head);
            device += "signal d_go wait d_done\n";
            let _ =
                writeln!(device_clock, "wait d_go copy pad_d[0, {head}] to clock_d[0, {head}] signal d_done");
        }
        let mut out = format!(
            "program experts() {{
               buffer weights: {} bytes on host = given
               buffer kept: {} bytes on device = given
               buffer x: {x} bytes on device = given
               buffer yh: {all} bytes on host = given
               buffer yd: {all} bytes on device = given
               buffer back: {x} bytes on returned = planned 0
               buffer clock_h: {longest} bytes on host_clock = planned 0
               buffer clock_d: {longest} bytes on device_clock = planned 0
             ",
            self.experts.weights.len(),
            self.experts.kept.len(),
            all = self.all() * y,
        );
        let mut used = HashMap::from([("host", 0), ("device", 0)]);
        let mut planned = |name: String, bytes: usize, tier: &'static str| {
            let at = used.entry(tier).or_default();
            let _ = writeln!(out, "buffer {name}: {bytes} bytes on {tier} = planned {at}");
            *at += bytes.next_multiple_of(64);
        };
        planned("xh".into(), x, "host");
        planned("pad_h".into(), longest, "host");
        planned("pad_d".into(), longest, "device");
        planned("slots".into(), slots * w, "device");
        for (name, bytes) in part.temporaries() {
            planned(format!("{name}_h"), bytes, "host");
            planned(format!("{name}_d"), bytes, "device");
        }
        for event in ["host_start", "link_start", "host_end", "arrived", "h_go", "h_done", "d_go", "d_done"] {
            let _ = writeln!(out, "event {event}");
        }
        let queues =
            [("link", link), ("device", device), ("host_time", host_clock), ("device_time", device_clock)];
        for (name, steps) in queues.into_iter().filter(|(_, steps)| !steps.is_empty()) {
            let _ = writeln!(out, "queue {name} {{\n{steps}}}");
        }
        out + &host + "}\n"
    }

    /// How far the sums of the parts are from the experts, as a share of the largest.
    fn error(&self, results: &[View; 2]) -> Result<f64, EngineError> {
        let (parts, y) = (self.experts.parts, self.part.bytes["y"]);
        let (mut first, mut worst, mut largest) = (0, 0f64, 0f64);
        for step in self.computed {
            for (layer, used) in step.iter().enumerate() {
                for c in used {
                    let mut sum = vec![0.0; self.part.hidden];
                    for p in 0..parts {
                        let from = &results[usize::from(p >= c.on_host as usize)];
                        let mut row = vec![0f32; self.part.hidden];
                        from.read((first + p) * y, &mut row).map_err(below)?;
                        sum.iter_mut().zip(&row).for_each(|(s, r)| *s += f64::from(*r));
                    }
                    first += parts;
                    for (got, want) in sum.iter().zip(self.experts.reference(self.part, layer, c.expert)?) {
                        worst = worst.max((got - want).abs());
                        largest = largest.max(want.abs());
                    }
                }
            }
        }
        Ok(worst / largest.max(f64::MIN_POSITIVE))
    }
}
