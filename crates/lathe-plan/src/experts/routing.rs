//! Which experts each token chose, and a script that makes such choices up.

use super::Popularity;
use super::mixture::MOST;
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

/// A router made up: each token draws different experts of a layer by weights, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    used: usize,
    /// By layer, the weights of its experts, and which expert follows each of the layer before.
    layers: Vec<(Vec<f64>, Vec<usize>)>,
    after_layer: f64,
    after_token: f64,
}

impl Router {
    /// The expert of rank `r` in a layer's own order has the weight `1 / r^s` (Zipf 1949); `seed` stands for the model, as
    /// orders and maps follow from it. Choices are independent unless something else is said of them.
    pub fn zipf(layers: usize, experts: usize, used: usize, s: f64, seed: u64) -> Result<Router, PlanError> {
        let within = |n: usize, most: usize| (1..=most).contains(&n);
        if !within(layers, MOST as usize)
            || !within(experts, MOST as usize)
            || !within(used, experts.min(64))
            || !s.is_finite()
        {
            let what = "a router chooses 1 to 64 of at most 1024 experts in each of at most 1024 layers, by a finite exponent";
            return Err(PlanError::Asked { what: what.into() });
        }
        let mut random = Random(seed);
        let mut permutation = || {
            let mut all: Vec<usize> = (0..experts).collect();
            (1..all.len()).rev().for_each(|i| all.swap(i, random.below(i + 1)));
            all
        };
        let mut layer = |_| {
            let weights = permutation().iter().map(|r| ((r + 1) as f64).powf(-s)).collect();
            (weights, permutation())
        };
        let layers = (0..layers).map(&mut layer).collect();
        Ok(Router { used, layers, after_layer: 0.0, after_token: 0.0 })
    }

    /// By how often experts were chosen in a text.
    pub fn of(popularity: &Popularity) -> Result<Router, PlanError> {
        popularity.check()?;
        let experts = popularity.counts[0].len();
        let layer =
            |l: usize| ((0..experts).map(|e| popularity.share(l, e)).collect(), (0..experts).collect());
        let layers = (0..popularity.counts.len()).map(layer).collect();
        Ok(Router { used: popularity.used as usize, layers, after_layer: 0.0, after_token: 0.0 })
    }

    /// The same where a choice follows from the token's choice in the layer before, by a fixed map, with the first likelihood, and is
    /// that of the sequence's token before with the second.
    pub fn following(self, after_layer: f64, after_token: f64) -> Result<Router, PlanError> {
        let within = |p: f64| (0.0..=1.0).contains(&p);
        match within(after_layer) && within(after_token) {
            true => Ok(Router { after_layer, after_token, ..self }),
            false => Err(PlanError::Asked { what: "likelihoods are between 0 and 1".into() }),
        }
    }

    /// So many steps, each of so many sequences with so many new tokens; `seed` stands for the text.
    pub fn routing(&self, steps: usize, sequences: usize, tokens: usize, seed: u64) -> Routing {
        let mut random = Random(seed);
        let mut last: Vec<Vec<Vec<u16>>> = vec![vec![vec![]; sequences]; self.layers.len()];
        let mut out = vec![];
        for _ in 0..steps {
            let mut step: Vec<Vec<u16>> = vec![vec![]; self.layers.len()];
            for (sequence, _) in (0..sequences).flat_map(|s| (0..tokens).map(move |t| (s, t))) {
                let mut before: Vec<u16> = vec![];
                for (l, (weights, follows)) in self.layers.iter().enumerate() {
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
            out.push(step);
        }
        Routing { experts: self.layers[0].0.len(), used: self.used, steps: out }
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
