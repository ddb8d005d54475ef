//! What is decided, what that is predicted to take, and what was asked.

use crate::PlanError;
use crate::cost::{ACTIVATIONS, KV, PhaseCosts, VARIABLES, WEIGHTS, costs, passes_through};
use crate::tiers::{DISK, Tiers};
use crate::{Load, Work};
use lathe_machine::Machine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where attention over keys and values that are not with the products is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Attention {
    /// By the processor of the memory that they lie in; what lies on disk is read to the host.
    #[serde(rename = "where they lie")]
    Where,
    /// Where the products are: they are brought there.
    #[serde(rename = "with the products")]
    Main,
}

/// What is not a share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Choice {
    pub batch: u64,
    pub batches: u64,
    pub passes: u64,
    pub four_bit: bool,
    pub head_stays: bool,
    pub kv_type: String,
    pub attention: Attention,
}

/// Shares by the name of a memory, or `disk`; they sum to 1.
pub type Shares = BTreeMap<String, f64>;

/// How a model is run: a block of sequences at a time, each layer's weights brought once for all of it (the zig-zag schedule of
/// Sheng et al. 2023, arXiv 2303.06865).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Sequences that are computed at once.
    pub batch: u64,
    /// Such batches in a block, one after the other through each layer.
    pub batches: u64,
    /// Sweeps over all weights that the prompts take, each a part of every prompt; 1 where a block has several batches.
    pub passes: u64,
    /// Whether weights are in groups of 4-bit codes; else they are as the model has them.
    pub four_bit: bool,
    /// Whether the head's weights stay where products are computed; the shares of weights are of the others then.
    pub head_stays: bool,
    /// How keys and values are stored.
    pub kv_type: String,
    /// Where attention is computed.
    pub attention: Attention,
    /// Where weights lie.
    pub weights: Shares,
    /// Where keys and values lie.
    pub kv: Shares,
    /// Where activations lie between layers: in memories.
    pub activations: Shares,
}

impl Policy {
    /// Sequences of a block.
    pub fn sequences(&self) -> u64 {
        self.batch * self.batches
    }

    /// As TOML; [`Policy::from_toml`] reads it back unchanged.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a policy has a TOML form")
    }

    /// Reads a policy; [`predict`] checks it against a machine.
    pub fn from_toml(text: &str) -> Result<Policy, PlanError> {
        toml::from_str(text).map_err(|e| PlanError::Syntax { message: e.to_string() })
    }

    pub(crate) fn choice(&self) -> Choice {
        let Policy { batch, batches, passes, four_bit, head_stays, attention, .. } = *self;
        Choice { batch, batches, passes, four_bit, head_stays, kv_type: self.kv_type.clone(), attention }
    }

    /// The values that it gives to the variables of the costs.
    fn values(&self, tiers: &Tiers) -> Result<[f64; VARIABLES], PlanError> {
        let wrong = |what: String| Err(PlanError::Policy { what });
        let sound = self.batch > 0 && self.batches > 0 && self.passes > 0;
        let sequences = self.batch.saturating_mul(self.batches);
        if !sound || sequences.max(self.passes) > 1 << 30 {
            return wrong(
                "batch, batches and passes are from 1 on, and passes and sequences up to 2^30".into(),
            );
        }
        if self.batches > 1 && self.passes > 1 {
            return wrong("a block of several batches takes one pass".into());
        }
        let mut values = [0.0; VARIABLES];
        for (class, name, shares) in [
            (WEIGHTS, "weights", &self.weights),
            (KV, "kv", &self.kv),
            (ACTIVATIONS, "activations", &self.activations),
        ] {
            for (tier, share) in shares {
                let Some(place) = tiers.present().find(|t| tiers.tier(*t).name == *tier) else {
                    return wrong(format!("{name}: the machine has no '{tier}'"));
                };
                values[class + place] = *share;
            }
            let sum: f64 = shares.values().sum();
            if shares.values().any(|x| !(0.0..=1.0 + 1e-6).contains(x)) || (sum - 1.0).abs() > 1e-6 {
                return wrong(format!("{name}: shares are from 0 to 1 and sum to 1, not to {sum}"));
            }
        }
        if values[ACTIVATIONS + DISK] > 0.0 {
            return wrong("activations: they lie in memories, not on disk".into());
        }
        for (class, base) in [(0, WEIGHTS), (1, KV)] {
            for tier in tiers.main()..DISK {
                let below: f64 = (tier + 1..3).map(|lower| values[base + lower]).sum();
                values[passes_through(class, tier)] = f64::from(below > 0.0);
            }
        }
        Ok(values)
    }
}

/// A part of a phase: something that is moved or computed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// What does it, one thing after the other, beside the others.
    pub lane: String,
    /// What is done.
    pub what: String,
    /// How long, seconds.
    pub seconds: f64,
    /// Bytes that it reads or carries.
    pub bytes: f64,
}

/// All prompts of a block, or one token of each of its sequences.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phase {
    /// As long as its longest lane.
    pub seconds: f64,
    /// That lane.
    pub binds: String,
    /// What takes time.
    pub parts: Vec<Part>,
}

impl Phase {
    /// Seconds of one lane.
    pub fn lane_seconds(&self, lane: &str) -> f64 {
        self.parts.iter().filter(|p| p.lane == lane).map(|p| p.seconds).sum()
    }

    /// The lanes, as they come.
    pub fn lanes(&self) -> Vec<&str> {
        let mut lanes: Vec<&str> = self.parts.iter().map(|p| p.lane.as_str()).collect();
        lanes.dedup();
        lanes
    }
}

/// What one tier holds, bytes: the most of the two phases.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Held {
    /// The memory's name, or `disk`.
    pub tier: String,
    /// Most that is held at once.
    pub peak: f64,
    /// Weights that stay, and the table of embeddings on the last tier.
    pub weights: f64,
    /// Room for weights that pass through.
    pub weight_window: f64,
    /// Keys and values that stay.
    pub kv: f64,
    /// Room for keys and values that pass through.
    pub kv_window: f64,
    /// The stream between layers.
    pub activations: f64,
    /// Temporaries and logits.
    pub workspace: f64,
}

/// What a policy is predicted to take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// All prompts of a block, and with them the first token of each sequence.
    pub prefill: Phase,
    /// One more token of each sequence, at the mean depth.
    pub decode: Phase,
    /// A block, from its prompts to its last tokens.
    pub seconds: f64,
    /// Tokens made a second.
    pub tokens_per_second: f64,
    /// What each tier holds, fastest first.
    pub held: Vec<Held>,
}

impl Prediction {
    /// What a tier holds.
    pub fn held(&self, tier: &str) -> Option<&Held> {
        self.held.iter().find(|held| held.tier == tier)
    }
}

/// What a policy takes on a machine, whether or not it fits.
pub fn predict(
    work: &Work,
    machine: &Machine,
    load: &Load,
    policy: &Policy,
) -> Result<Prediction, PlanError> {
    work.check()?;
    load.check()?;
    predict_on(work, &Tiers::new(machine, &BTreeMap::new())?, load, policy)
}

pub(crate) fn predict_on(
    work: &Work,
    tiers: &Tiers,
    load: &Load,
    policy: &Policy,
) -> Result<Prediction, PlanError> {
    let values = policy.values(tiers)?;
    let costs = costs(work, tiers, load, &policy.choice())?;
    let phase = |costs: &PhaseCosts| {
        let longest = costs.lanes.iter().map(|lane| (lane.seconds().at(&values), &lane.name));
        let (seconds, binds) = longest.max_by(|a, b| a.0.total_cmp(&b.0)).expect("there is arithmetic");
        let parts = costs.lanes.iter().flat_map(|lane| lane.parts.iter().map(move |part| (lane, part)));
        let part = |(lane, part): (&crate::cost::Lane, &crate::cost::Piece)| Part {
            lane: lane.name.clone(),
            what: part.what.clone(),
            seconds: part.seconds.at(&values),
            bytes: part.bytes.at(&values),
        };
        Phase { seconds, binds: binds.clone(), parts: parts.map(part).filter(|p| p.seconds > 0.0).collect() }
    };
    let (prefill, decode) = (phase(&costs.prefill), phase(&costs.decode));
    let held = costs.prefill.holds.iter().zip(&costs.decode.holds).map(|((tier, a), (_, b))| {
        let most =
            |of: fn(&crate::cost::Holds) -> crate::cost::Form| of(a).at(&values).max(of(b).at(&values));
        Held {
            tier: tiers.tier(*tier).name.clone(),
            peak: most(|h| h.total()),
            weights: most(|h| h.weights),
            weight_window: most(|h| h.weight_window),
            kv: most(|h| h.kv),
            kv_window: most(|h| h.kv_window),
            activations: most(|h| h.activations),
            workspace: most(|h| h.workspace),
        }
    });
    let seconds = prefill.seconds + (load.generate - 1) as f64 * decode.seconds;
    let made = (policy.sequences() * load.generate) as f64;
    Ok(Prediction { seconds, tokens_per_second: made / seconds, held: held.collect(), prefill, decode })
}
