//! Which experts each token chose, and a script that makes such choices up.

use super::Popularity;
use crate::PlanError;

/// The choices of a router in some steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routing {
    /// Experts of a layer.
    pub experts: usize,
    /// Experts that a token uses in a layer.
    pub used: usize,
    /// By step and layer: the experts of each token, `used` after one another.
    pub steps: Vec<Vec<Vec<u16>>>,
}

impl Routing {
    /// How often each expert was chosen.
    pub fn popularity(&self, model: &str) -> Popularity {
        let layers = self.steps.first().map_or(0, Vec::len);
        let mut counts = vec![vec![0; self.experts]; layers];
        let mut tokens = 0;
        for step in &self.steps {
            tokens += step.first().map_or(0, |chosen| chosen.len() / self.used) as u64;
            for (counts, chosen) in counts.iter_mut().zip(step) {
                chosen.iter().for_each(|e| counts[usize::from(*e)] += 1);
            }
        }
        Popularity { model: model.into(), tokens, used: self.used as u64, counts }
    }
}

/// A router made up: the expert of rank `r` in a layer's own order has the weight `1 / r^s`, and each token draws different ones
/// by these weights, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Zipf {
    /// Layers.
    pub layers: usize,
    /// Experts of a layer.
    pub experts: usize,
    /// Experts that a token uses in a layer.
    pub used: usize,
    /// The exponent.
    pub s: f64,
    /// How likely a choice follows from the token's choice in the layer before, by a fixed map.
    pub after_layer: f64,
    /// How likely a choice is that of the sequence's token before.
    pub after_token: f64,
    /// What layers' orders and maps follow from: it stands for the model.
    pub model_seed: u64,
}

impl Zipf {
    /// So many steps, each of so many sequences with so many new tokens; `seed` stands for the text.
    pub fn routing(
        &self,
        steps: usize,
        sequences: usize,
        tokens: usize,
        seed: u64,
    ) -> Result<Routing, PlanError> {
        let within = |p: f64| (0.0..=1.0).contains(&p);
        let sound = (1..=self.experts.min(64)).contains(&self.used)
            && self.experts <= 1 << 12
            && self.s.is_finite()
            && within(self.after_layer)
            && within(self.after_token);
        if !sound {
            let what = "a router chooses 1 to 64 of at most 4096 experts, by a finite exponent, with likelihoods from 0 to 1";
            return Err(PlanError::Asked { what: what.into() });
        }
        let mut model = Random(self.model_seed);
        let permutation = |random: &mut Random| {
            let mut all: Vec<usize> = (0..self.experts).collect();
            (1..all.len()).rev().for_each(|i| all.swap(i, random.below(i + 1)));
            all
        };
        let mut layers = vec![];
        for _ in 0..self.layers {
            let ranks = permutation(&mut model);
            let weights: Vec<f64> = ranks.iter().map(|r| ((r + 1) as f64).powf(-self.s)).collect();
            layers.push((weights, permutation(&mut model)));
        }
        let mut random = Random(seed);
        let mut last: Vec<Vec<Vec<u16>>> = vec![vec![vec![]; sequences]; self.layers];
        let mut out = vec![];
        for _ in 0..steps {
            let mut step: Vec<Vec<u16>> = vec![vec![]; self.layers];
            for sequence in 0..sequences {
                for _ in 0..tokens {
                    let mut before: Vec<u16> = vec![];
                    for (l, (weights, follows)) in layers.iter().enumerate() {
                        let mut chosen: Vec<u16> = vec![];
                        for slot in 0..self.used {
                            let (of_layer, of_token) = (random.unit(), random.unit());
                            let follows = before.get(slot).map(|e| follows[usize::from(*e)] as u16);
                            let repeats = last[l][sequence].get(slot).copied();
                            let asked = (follows.filter(|_| of_layer < self.after_layer))
                                .or_else(|| repeats.filter(|_| of_token < self.after_token));
                            let asked = asked.filter(|e| !chosen.contains(e));
                            chosen.push(asked.unwrap_or_else(|| draw(weights, &chosen, random.unit())));
                        }
                        step[l].extend(&chosen);
                        last[l][sequence].clone_from(&chosen);
                        before = chosen;
                    }
                }
            }
            out.push(step);
        }
        Ok(Routing { experts: self.experts, used: self.used, steps: out })
    }
}

/// One that is not taken, by these weights.
fn draw(weights: &[f64], taken: &[u16], at: f64) -> u16 {
    let free = |e: &usize| !taken.contains(&(*e as u16));
    let mut left = at * (0..weights.len()).filter(free).map(|e| weights[e]).sum::<f64>();
    let mut last = 0;
    for e in (0..weights.len()).filter(free) {
        last = e;
        left -= weights[e];
        if left < 0.0 {
            break;
        }
    }
    last as u16
}

/// SplitMix64 (Steele et al. 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }
}
