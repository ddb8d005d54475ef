//! How long an expert takes where it lies, where it is moved to, and on its way.

use super::{Mixture, StepLoad};
use crate::PlanError;
use crate::tiers::{DEVICE, HOST, Processor, Tiers};
use lathe_machine::Machine;
use std::collections::BTreeMap;

/// How long a processor takes for an expert's three products, by the number of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency {
    /// Seconds of each call.
    pub fixed: f64,
    curve: Curve,
}

#[derive(Clone, Debug, PartialEq)]
enum Curve {
    /// Seconds to read the weights, and of each token's operations: it takes the longer of the two.
    Roofline { read: f64, token: f64 },
    /// Rising tokens with seconds that do not fall.
    Points(Vec<(f64, f64)>),
}

impl Latency {
    /// By rates: as long as reading all weights takes, or as so many tokens' operations.
    pub fn roofline(fixed: f64, read: f64, token: f64) -> Latency {
        Latency { fixed, curve: Curve::Roofline { read, token } }
    }

    /// Fitted to measured (tokens, seconds) of whole experts, of which `fixed` is what each call takes: the line through the
    /// points that do not fall and are nearest to the measurements in least squares (isotonic regression, Barlow et al.
    /// 1972). Beyond the last point it goes on as steeply as between the last two, or as from 0.
    ///
    /// Fails without measurements, and where one is not positive.
    pub fn fitted(fixed: f64, measured: &[(u64, f64)]) -> Result<Latency, PlanError> {
        let sound = |(tokens, seconds): &(u64, f64)| *tokens > 0 && seconds.is_finite() && *seconds > 0.0;
        if measured.is_empty() || !measured.iter().all(sound) || !fixed.is_finite() || fixed < 0.0 {
            let what = "a model of latencies is fitted to positive numbers of tokens and seconds".into();
            return Err(PlanError::Asked { what });
        }
        let mut by_tokens: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        for (tokens, seconds) in measured {
            let at = by_tokens.entry(*tokens).or_default();
            *at = (at.0 + (seconds - fixed).max(0.0), at.1 + 1.0);
        }
        // Neighbours that fall become one block with their mean, until none does.
        let mut blocks: Vec<(f64, f64, Vec<u64>)> = vec![];
        for (tokens, (sum, count)) in by_tokens {
            let mut block = (sum, count, vec![tokens]);
            while let Some(last) = blocks.pop_if(|last| last.0 / last.1 >= block.0 / block.1) {
                block = (block.0 + last.0, block.1 + last.1, [last.2, block.2].concat());
            }
            blocks.push(block);
        }
        let points = blocks.iter().flat_map(|(sum, n, all)| all.iter().map(move |t| (*t as f64, sum / n)));
        Ok(Latency { fixed, curve: Curve::Points(points.collect()) })
    }

    fn slower(&self, by: f64) -> Latency {
        let curve = match &self.curve {
            Curve::Roofline { read, token } => Curve::Roofline { read: by * read, token: by * token },
            Curve::Points(points) => Curve::Points(points.iter().map(|(n, s)| (*n, by * s)).collect()),
        };
        Latency { fixed: by * self.fixed, curve }
    }

    /// Seconds for so many tokens of this share of an expert; nothing takes none.
    pub fn seconds(&self, tokens: u64, share: f64) -> f64 {
        if tokens == 0 || share <= 0.0 {
            return 0.0;
        }
        let tokens = tokens as f64;
        let whole = match &self.curve {
            Curve::Roofline { read, token } => read.max(token * tokens),
            Curve::Points(points) => {
                let above = points.partition_point(|(t, _)| *t < tokens);
                let line = |a: (f64, f64), b: (f64, f64)| a.1 + (tokens - a.0) * (b.1 - a.1) / (b.0 - a.0);
                match (above.checked_sub(1).map(|i| points[i]), points.get(above)) {
                    (Some(a), Some(b)) => line(a, *b),
                    (None, Some(first)) => first.1,
                    (Some(last), None) => {
                        let before = above.checked_sub(2).map_or((0.0, 0.0), |i| points[i]);
                        line(before, last)
                    }
                    (None, None) => 0.0,
                }
            }
        };
        self.fixed + share * whole
    }
}

/// What a step computes on the device beside experts.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// The products of a layer, for so many tokens.
    pub products: Latency,
    /// Seconds of one pair of a token and a position.
    pub pair: f64,
    /// Seconds to read one position's keys and values.
    pub position: f64,
    /// The logits of so many sequences.
    pub head: Latency,
}

/// The model of latencies: seconds of everything that a step does.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertCosts {
    /// Into how many equal parts an expert is cut.
    pub parts: u32,
    /// An expert on the host.
    pub host: Latency,
    /// An expert on the device.
    pub device: Latency,
    /// Seconds to move one part to the device.
    pub part: f64,
    /// Seconds until a copy that is under way can be given up.
    pub piece: f64,
    /// Whether what moves is computed together, once all of it came; else each part when it came.
    pub together: bool,
    /// Seconds that moving a part takes of both processors' own, where parts are [computed together](ExpertCosts::together): a link that
    /// is not here copies with one of them.
    pub copy: f64,
    /// Seconds of each copy, and for each token, from the device to the host and back.
    pub down: (f64, f64),
    /// The same from the host to the device.
    pub up: (f64, f64),
    /// Seconds to read one part from the host's memory, where host and link take turns at it; without it the memory gives both
    /// what they take.
    pub memory: Option<f64>,
    /// Attention and what else the device computes.
    pub dense: Dense,
}

/// A copy of weights is given up after so many bytes at the latest.
const PIECE: f64 = (1 << 20) as f64;

impl ExpertCosts {
    /// The costs of a mixture, cut into so many parts, on a machine with a device, by the machine's rates.
    pub fn of_machine(mixture: &Mixture, machine: &Machine, parts: u32) -> Result<ExpertCosts, PlanError> {
        mixture.check()?;
        if parts == 0 || !mixture.inner.is_multiple_of(u64::from(parts)) {
            let what = format!(
                "an expert is cut into {parts} parts, which do not divide its inner width of {}",
                mixture.inner
            );
            return Err(PlanError::Asked { what });
        }
        let lacks = |what: &str| PlanError::Machine { machine: machine.name.clone(), what: what.into() };
        let tiers = Tiers::new(machine, &BTreeMap::new())?;
        let device = tiers.device.as_ref().ok_or_else(|| lacks("no device, which experts are moved to"))?;
        let host = tiers.cpu.as_ref().ok_or_else(|| lacks("no rates of its processor"))?;
        let on = |by: &Processor, tier: usize, dtype: &str, bytes: u64, operations: u64| {
            let token = by.seconds([(dtype, operations as f64)])?;
            Ok::<_, PlanError>(Latency::roofline(0.0, bytes as f64 / tiers.tier(tier).read, token))
        };
        let m = mixture;
        let expert = |by, tier| on(by, tier, &m.expert_type, m.expert_bytes, m.expert_operations);
        let names = [HOST, DEVICE].map(|tier| tiers.tier(tier).name.clone());
        let latency =
            |a: usize, b: usize| machine.link(&names[a], &names[b]).map_or(0.0, |l| l.latency_seconds);
        let (up, down) = (latency(0, 1), latency(1, 0));
        let bytes = m.expert_bytes as f64 / f64::from(parts);
        Ok(ExpertCosts {
            parts,
            host: expert(host, HOST)?,
            device: expert(device, DEVICE)?,
            part: up + bytes / tiers.links[0],
            piece: bytes.min(PIECE) / tiers.links[0],
            together: false,
            copy: 0.0,
            down: (down, m.hidden_bytes as f64 / tiers.links[1]),
            up: (up, m.hidden_bytes as f64 / tiers.links[0]),
            memory: None,
            dense: Dense {
                products: on(device, DEVICE, &m.expert_type, m.dense_bytes, m.dense_operations)?,
                pair: device.seconds([(m.attention_type.as_str(), m.attention_operations as f64)])?,
                position: m.kv_bytes as f64 / tiers.tier(DEVICE).read,
                head: on(device, DEVICE, &m.expert_type, m.head_bytes, m.head_operations)?,
            },
        })
    }

    /// The same where the host's memory serves host and link one after the other, at the rate that the processor reads it.
    pub fn with_shared_memory(self, mixture: &Mixture, machine: &Machine) -> Result<ExpertCosts, PlanError> {
        let rate = Tiers::new(machine, &BTreeMap::new())?.tier(HOST).read;
        let bytes = mixture.expert_bytes as f64 / f64::from(self.parts);
        Ok(ExpertCosts { memory: Some(bytes / rate), ..self })
    }

    /// The share of an expert that so many parts are.
    pub fn share(&self, parts: u32) -> f64 {
        f64::from(parts) / f64::from(self.parts)
    }

    /// The same on a machine that does everything so many times slower.
    pub fn slower(&self, by: f64) -> ExpertCosts {
        let both = |(copy, token): (f64, f64)| (by * copy, by * token);
        ExpertCosts {
            parts: self.parts,
            host: self.host.slower(by),
            device: self.device.slower(by),
            part: by * self.part,
            piece: by * self.piece,
            together: self.together,
            copy: by * self.copy,
            down: both(self.down),
            up: both(self.up),
            memory: self.memory.map(|part| by * part),
            dense: Dense {
                products: self.dense.products.slower(by),
                pair: by * self.dense.pair,
                position: by * self.dense.position,
                head: self.dense.head.slower(by),
            },
        }
    }

    /// Seconds of what a layer computes on the device beside its experts.
    pub fn layer_seconds(&self, load: StepLoad) -> f64 {
        let (d, n) = (&self.dense, load.tokens as f64);
        let (sequences, context) = (load.sequences as f64, load.context as f64);
        let pairs = sequences * n * (context + (n + 1.0) / 2.0);
        let positions = sequences * (context + n);
        let tokens = load.sequences.saturating_mul(load.tokens) as u64;
        d.products.seconds(tokens, 1.0) + (d.pair * pairs).max(d.position * positions)
    }

    /// How many whole experts a device holds beside everything else of the model: the other weights, the keys and values of
    /// so many positions, and room for two experts that pass.
    pub fn capacity(mixture: &Mixture, machine: &Machine, positions: u64) -> Result<u64, PlanError> {
        let tiers = Tiers::new(machine, &BTreeMap::new())?;
        let Some(device) = &tiers.tiers[DEVICE] else {
            let what = "no device, which experts are moved to".into();
            return Err(PlanError::Machine { machine: machine.name.clone(), what });
        };
        let m = mixture;
        let others = m.layers * (m.dense_bytes + positions * m.kv_bytes) + m.head_bytes + 2 * m.expert_bytes;
        let room = device.capacity - others as f64;
        if room < 0.0 {
            return Err(PlanError::TooSmall {
                memory: device.name.clone(),
                needed: others,
                has: device.capacity as u64,
                what: "what is no expert, and two experts that pass".into(),
            });
        }
        Ok(((room / m.expert_bytes as f64) as u64).min(m.layers * m.experts))
    }
}
