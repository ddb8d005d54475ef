//! What a policy costs, as linear forms over its shares: the one place that says how long things take and what they hold.
//! The solver minimises over these forms, and a prediction is their value.

use crate::tiers::{DEVICE, DISK, HOST, Processor, Tiers};
use crate::{
    Attention, Choice, DIRECT_BYTES, EXPECTED_ROWS, Layers, Load, Measured, Pairs, PlanError, Work,
    load_bytes,
};
use std::collections::BTreeMap;
use std::ops::{Add, Mul};

/// What the forms are over: shares by tier of weights, of keys and values, and of activations; then, for weights and for keys
/// and values, whether any pass through the device's memory, and through the host's.
pub(crate) const VARIABLES: usize = 13;
pub(crate) const WEIGHTS: usize = 0;
pub(crate) const KV: usize = 3;
pub(crate) const ACTIVATIONS: usize = 6;
/// The places of the two that say whether a class (0 weights, 1 keys and values) passes through a tier.
pub(crate) fn passes_through(class: usize, tier: usize) -> usize {
    9 + 2 * class + tier
}

/// A sum of multiples of the variables, and a constant.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Form {
    /// What each variable is multiplied by.
    pub by: [f64; VARIABLES],
    /// The constant.
    pub constant: f64,
}

impl Form {
    pub fn constant(constant: f64) -> Form {
        Form { constant, ..Form::default() }
    }

    /// `by` times a variable.
    pub fn of(variable: usize, by: f64) -> Form {
        let mut form = Form::default();
        form.by[variable] = by;
        form
    }

    /// `by` times the share of a class on all tiers below `tier`.
    fn below(class: usize, tier: usize, by: f64) -> Form {
        (tier + 1..3).fold(Form::default(), |sum, lower| sum + Form::of(class + lower, by))
    }

    /// Its value where the variables are these.
    pub fn at(&self, values: &[f64; VARIABLES]) -> f64 {
        self.constant + self.by.iter().zip(values).map(|(by, x)| by * x).sum::<f64>()
    }

    /// No value with shares between 0 and 1 is larger.
    pub fn most(&self) -> f64 {
        self.constant + self.by.iter().filter(|by| **by > 0.0).sum::<f64>()
    }
}

impl Add for Form {
    type Output = Form;
    fn add(mut self, other: Form) -> Form {
        self.constant += other.constant;
        self.by.iter_mut().zip(other.by).for_each(|(a, b)| *a += b);
        self
    }
}

impl Mul<f64> for Form {
    type Output = Form;
    fn mul(mut self, factor: f64) -> Form {
        self.constant *= factor;
        self.by.iter_mut().for_each(|by| *by *= factor);
        self
    }
}

/// Something that does one thing at a time; lanes work beside each other.
pub(crate) struct Lane {
    pub name: String,
    pub parts: Vec<Piece>,
}

/// One of the things a lane does.
pub(crate) struct Piece {
    pub what: String,
    pub bytes: Form,
    pub seconds: Form,
}

impl Lane {
    /// A way that carries these bytes.
    fn carries(name: String, parts: Vec<(&str, Form)>, rate: f64) -> Lane {
        let piece =
            |(what, bytes): (&str, Form)| Piece { what: what.into(), bytes, seconds: bytes * (1.0 / rate) };
        Lane { name, parts: parts.into_iter().map(piece).collect() }
    }

    /// How long it works.
    pub fn seconds(&self) -> Form {
        self.parts.iter().fold(Form::default(), |sum, part| sum + part.seconds)
    }
}

/// What one tier holds in one phase, bytes.
#[derive(Default)]
pub(crate) struct Holds {
    pub weights: Form,
    pub weight_window: Form,
    pub kv: Form,
    pub kv_window: Form,
    pub activations: Form,
    pub workspace: Form,
}

impl Holds {
    /// All of it.
    pub fn total(&self) -> Form {
        self.weights + self.weight_window + self.kv + self.kv_window + self.activations + self.workspace
    }
}

/// The prompt, or one token of each sequence.
pub(crate) struct PhaseCosts {
    /// What works; the phase takes as long as the longest.
    pub lanes: Vec<Lane>,
    /// What each tier that is there holds.
    pub holds: Vec<(usize, Holds)>,
}

/// Costs of a block of sequences, from their prompts to their last tokens.
pub(crate) struct Costs {
    /// All prompts.
    pub prefill: PhaseCosts,
    /// One token of each sequence.
    pub decode: PhaseCosts,
}

/// What the forms are made from.
struct Maker<'a> {
    work: &'a Work,
    tiers: &'a Tiers,
    load: &'a Load,
    choice: &'a Choice,
}

/// The costs of a choice.
pub(crate) fn costs(work: &Work, tiers: &Tiers, load: &Load, choice: &Choice) -> Result<Costs, PlanError> {
    let known = work.kv_types().any(|t| t == choice.kv_type);
    if !known {
        let types: Vec<&str> = work.kv_types().collect();
        let what =
            format!("keys and values cannot be stored as '{}', only as {}", choice.kv_type, types.join(", "));
        return Err(PlanError::Asked { what });
    }
    let maker = Maker { work, tiers, load, choice };
    Ok(Costs { prefill: maker.phase(true)?, decode: maker.phase(false)? })
}

impl Maker<'_> {
    fn sequences(&self) -> f64 {
        (self.choice.batch * self.choice.batches) as f64
    }

    /// Bytes of one position's keys and values, in all layers.
    fn position(&self) -> f64 {
        self.work.kv_bytes(&self.choice.kv_type).expect("the type was looked up") as f64
    }

    /// The most bytes of one position's keys and values in one layer.
    fn position_of_layer(&self) -> f64 {
        let layers = self.work.layers.iter().filter_map(|l| l.kv_bytes.get(&self.choice.kv_type));
        layers.copied().max().unwrap_or(0) as f64
    }

    fn weight_bytes(&self, l: &Layers) -> f64 {
        (if self.choice.four_bit { l.four_bit_bytes } else { l.weight_bytes }) as f64
    }

    fn head_bytes(&self) -> f64 {
        self.work.head_bytes(self.choice.four_bit) as f64
    }

    /// Bytes of the weights that shares are of.
    fn shared_bytes(&self) -> f64 {
        let all = self.work.weight_bytes(self.choice.four_bit) as f64;
        let all = self.measured().map_or(all, |m| m.stored_bytes as f64);
        if self.choice.head_stays { all - self.head_bytes() } else { all }
    }

    /// What was measured: its bytes are the same wherever the model is computed.
    fn measured(&self) -> Option<&Measured> {
        self.work.measured.as_ref()
    }

    /// The times among it, which are the processor's, not a device's.
    fn timed(&self) -> Option<&Measured> {
        self.measured().filter(|_| self.tiers.device.is_none())
    }

    fn measured_pairs(&self) -> Option<&Pairs> {
        self.timed()?.attention.get(&self.choice.kv_type)
    }

    /// Seconds of all layers' products for so many tokens at once: as long as their operations take, or as reading the weights.
    fn products(&self, tokens: f64) -> Result<f64, PlanError> {
        let (computes, rate) = (self.tiers.computes(), self.tiers.tier(self.tiers.main()).read);
        self.work.layers.iter().try_fold(0.0, |sum, l| {
            let busy = computes.seconds(scaled(&l.operations, tokens))?;
            let read = self.weight_bytes(l) * (1.0 - l.unread(tokens));
            Ok(sum + l.count as f64 * busy.max(read / rate))
        })
    }

    /// Seconds of the logits of so many sequences.
    fn logits(&self, sequences: f64) -> Result<f64, PlanError> {
        let (computes, rate) = (self.tiers.computes(), self.tiers.tier(self.tiers.main()).read);
        let busy = computes.seconds(scaled(&self.work.head.operations, sequences))?;
        Ok(busy.max(self.head_bytes() / rate))
    }

    /// Seconds of all layers' attention between so many pairs of a token and a position, reading the keys and values of so
    /// many positions from a tier.
    fn attention(&self, on: &Processor, tier: usize, pairs: f64, positions: f64) -> Result<f64, PlanError> {
        let rate = self.tiers.tier(tier).read;
        self.work.layers.iter().try_fold(0.0, |sum, l| {
            let dtype = self.work.attention_type.as_str();
            let busy = on.seconds([(dtype, l.attention_operations as f64 * pairs)])?;
            let read = l.kv_bytes[&self.choice.kv_type] as f64 * positions / rate;
            Ok(sum + l.count as f64 * busy.max(read))
        })
    }

    fn phase(&self, prefill: bool) -> Result<PhaseCosts, PlanError> {
        Ok(PhaseCosts { lanes: self.lanes(prefill)?, holds: self.holds(prefill) })
    }

    fn lanes(&self, prefill: bool) -> Result<Vec<Lane>, PlanError> {
        let (tiers, load, choice) = (self.tiers, self.load, self.choice);
        let (main, device) = (tiers.main(), tiers.device.is_some());
        let (batch, batches, n) = (choice.batch as f64, choice.batches as f64, self.sequences());
        let (prompt, depth) = (load.prompt as f64, load.prompt as f64 + load.generate as f64 / 2.0);
        let sweeps = if prefill { choice.passes as f64 } else { 1.0 };
        let tokens = if prefill { n * prompt } else { n };
        let position = self.position();
        let apart = device && choice.attention == Attention::Where;
        let shared = self.shared_bytes();

        // Arithmetic is in a row: a layer's attention waits for its products, and they for the layer before.
        let each = tokens / (batches * sweeps);
        let copied = shared * self.work.read_share(tokens / sweeps);
        let products = match self.timed() {
            Some(m) if prefill => batches * (sweeps * m.prompt_seconds(each) + m.logits_seconds(batch)),
            Some(m) => batches * m.token_seconds(batch),
            None => batches * (sweeps * self.products(each)? + self.logits(batch)?),
        };
        let name = |processor: &Processor| processor.name.clone();
        let piece = |what: String, bytes: Form, seconds: Form| Piece { what, bytes, seconds };
        let computes = tiers.computes();
        let read = Form::constant(batches * sweeps * self.work.weight_bytes(choice.four_bit) as f64);
        let mut arithmetic =
            vec![piece(format!("products on {}", name(computes)), read, Form::constant(products))];
        let mut attended = [Form::default(); 2];
        if prefill {
            let pairs = n * prompt * (prompt + 1.0) / 2.0;
            let seconds = match self.measured_pairs() {
                Some(each) => pairs * each.prompt,
                None => self.attention(computes, main, pairs, n * prompt)?,
            };
            let seconds = Form::constant(seconds);
            attended[main] = Form::constant(position * n * prompt);
            arithmetic.push(piece(format!("attention on {}", name(computes)), attended[main], seconds));
        } else {
            let seconds = match self.measured_pairs() {
                Some(each) => n * depth * each.token,
                None => self.attention(computes, main, n * depth, n * depth)?,
            };
            let here = if apart { Form::of(KV + DEVICE, 1.0) } else { Form::constant(1.0) };
            attended[main] = here * (position * n * depth);
            arithmetic.push(piece(
                format!("attention on {}", name(computes)),
                attended[main],
                here * seconds,
            ));
            if let (true, Some(cpu)) = (apart, &tiers.cpu) {
                let seconds = self.attention(cpu, HOST, n * depth, n * depth)?;
                let there = Form::below(KV, DEVICE, 1.0);
                attended[HOST] = there * (position * n * depth);
                arithmetic.push(piece(
                    format!("attention on {}", name(cpu)),
                    attended[HOST],
                    there * seconds,
                ));
            }
        }
        // Experts are known when the router has chosen them. Those of long segments come while the layer before is computed; for
        // others arithmetic waits.
        let rows = self.work.layers.iter().map(|l| l.experts_used).fold(0.0, f64::max) * tokens / sweeps;
        if rows > 0.0 && rows < f64::from(EXPECTED_ROWS) {
            let all = sweeps * copied;
            let mut seconds = Form::default();
            if device {
                seconds = seconds + Form::below(WEIGHTS, DEVICE, all / tiers.links[0]);
            }
            if let Some(disk) = &tiers.tiers[DISK] {
                seconds = seconds + Form::of(WEIGHTS + DISK, all / disk.read);
            }
            arithmetic.push(piece("waiting for experts".into(), Form::default(), seconds));
        }
        let mut lanes = vec![Lane { name: "arithmetic".into(), parts: arithmetic }];

        // Keys and values that are read to be attended: in a prompt, those of the passes before.
        let before = match prefill {
            true => position * n * prompt * (sweeps - 1.0) / 2.0,
            false => position * n * depth,
        };
        let made = position * if prefill { n * prompt } else { n };
        let layers = self.work.layer_count() as f64;
        // In passes the stream between layers is short, and stays.
        let hidden = if sweeps > 1.0 { 0.0 } else { self.work.hidden_bytes as f64 * tokens * layers };
        let (mut from_host, mut to_host) = (Form::default(), Form::default());
        if device {
            let moved = Form::below(ACTIVATIONS, DEVICE, hidden);
            let fetched = if apart && !prefill { Form::default() } else { Form::below(KV, DEVICE, before) };
            // Where attention is on the host, its queries go there and its results come back.
            let asked = self.work.hidden_bytes as f64 * n * layers;
            let asked = if apart && !prefill { Form::below(KV, DEVICE, asked) } else { Form::default() };
            let weights = Form::below(WEIGHTS, DEVICE, sweeps * copied);
            let down =
                vec![("weights", weights), ("keys and values", fetched), ("activations", moved + asked)];
            let up = vec![("keys and values", Form::below(KV, DEVICE, made)), ("activations", moved + asked)];
            (from_host, to_host) =
                (weights + fetched + moved + asked, Form::below(KV, DEVICE, made) + moved + asked);
            let ends = [&tiers.tier(HOST).name, &tiers.tier(DEVICE).name];
            lanes.push(Lane::carries(format!("{} to {}", ends[0], ends[1]), down, tiers.links[0]));
            lanes.push(Lane::carries(format!("{} to {}", ends[1], ends[0]), up, tiers.links[1]));
        }
        let mut disk_traffic = Form::default();
        if let Some(disk) = &tiers.tiers[DISK] {
            let on_disk = |class: usize, bytes: f64| Form::of(class + DISK, bytes);
            let reads = [
                ("weights read", on_disk(WEIGHTS, sweeps * copied)),
                ("keys and values read", on_disk(KV, before)),
            ];
            let writes = [("keys and values written", on_disk(KV, made))];
            disk_traffic = reads.iter().chain(&writes).fold(Form::default(), |sum, (_, bytes)| sum + *bytes);
            let mut lane = Lane::carries("disk".into(), reads.into(), disk.read);
            lane.parts.extend(Lane::carries(String::new(), writes.into(), disk.write).parts);
            lanes.push(lane);
        }
        // A memory serves one reader after the other, whoever they are.
        let serves = |tier: usize, name: &str, carried: Form| {
            let products = if tier == main { read } else { Form::default() };
            let parts = vec![("products", products), ("attention", attended[tier]), ("copies", carried)];
            Lane::carries(format!("memory {name}"), parts, tiers.tier(tier).read)
        };
        lanes.push(serves(HOST, &tiers.tier(HOST).name, from_host + to_host + disk_traffic));
        if device {
            lanes.push(serves(DEVICE, &tiers.tier(DEVICE).name, from_host + to_host));
        }
        Ok(lanes)
    }

    fn holds(&self, prefill: bool) -> Vec<(usize, Holds)> {
        let (tiers, load, choice) = (self.tiers, self.load, self.choice);
        let (main, device) = (tiers.main(), tiers.device.is_some());
        let (batch, n) = (choice.batch as f64, self.sequences());
        let tokens = if prefill { load.prompt as f64 / choice.passes as f64 } else { 1.0 };
        let page = self.measured().map_or(1, |m| m.page);
        let positions = (load.prompt + load.generate).next_multiple_of(page) as f64;
        let last = tiers.present().last().expect("there is a host");
        // Twice: one is read while the other is used. A block of several batches goes through a layer batch by batch.
        let head = if choice.head_stays { 0.0 } else { self.head_bytes() };
        let mut matrix = 2.0 * (self.work.largest_bytes(choice.four_bit) as f64).max(head);
        let experts = self.work.layer_expert_bytes(choice.four_bit) as f64;
        if experts > 0.0 {
            matrix = experts;
        } else if self.measured().is_some() {
            // A copy is of several weights where they are small.
            matrix += 2.0 * load_bytes(tiers.tier(main).capacity.min(1e18) as u64) as f64;
        }
        let layer = 2.0 * (self.work.largest_layer_bytes(choice.four_bit) as f64).max(head);
        let pages =
            2.0 * self.position_of_layer() * batch * if prefill { load.prompt as f64 } else { positions };
        let pages = match self.measured() {
            Some(_) => pages.max(DIRECT_BYTES as f64) + DIRECT_BYTES as f64,
            None => pages,
        };
        let at_main = prefill || choice.attention == Attention::Main || !device;
        let of = |tier: usize| {
            let mut holds = Holds {
                weights: Form::of(WEIGHTS + tier, self.shared_bytes()),
                kv: Form::of(KV + tier, self.position() * n * positions),
                activations: Form::of(ACTIVATIONS + tier, self.work.hidden_bytes as f64 * n * tokens),
                ..Holds::default()
            };
            if tier == DISK {
                holds.activations = Form::default();
            }
            if tier == last {
                holds.weights.constant += self.work.embedding_bytes as f64;
            }
            if tier < DISK && tier >= main {
                let window = if tier == main && choice.batches > 1 { layer } else { matrix };
                holds.weight_window = Form::of(passes_through(0, tier), window);
                if tier > main || at_main {
                    holds.kv_window = Form::of(passes_through(1, tier), pages);
                }
            }
            if tier == main {
                if choice.head_stays {
                    holds.weights.constant += self.head_bytes();
                }
                let inside = self.work.layers.iter().map(|l| l.workspace_bytes).max().unwrap_or(0);
                let token = inside as f64 + 2.0 * self.work.hidden_bytes as f64;
                let logits = self.work.head.logits_bytes as f64 * batch;
                let workspace = batch * tokens.max(1.0) * token + logits;
                let measured = self.measured().map(|m| {
                    m.held.constant as f64
                        // Sequences whose prompts are done have a token each beside those of other prompts.
                        + m.held.token as f64 * batch * (tokens + 1.0)
                        + m.held.sequence as f64 * batch
                });
                holds.workspace = Form::constant(measured.unwrap_or(workspace));
            }
            (tier, holds)
        };
        tiers.present().map(of).collect()
    }
}

fn scaled(operations: &BTreeMap<String, u64>, by: f64) -> impl Iterator<Item = (&str, f64)> {
    operations.iter().map(move |(dtype, n)| (dtype.as_str(), *n as f64 * by))
}
