//! What the router is expected to choose: its choices so far, with popularity as what is believed before.

use super::Popularity;

/// How many tokens popularity weighs as much as, where it is asked what follows an expert of the layer before.
const BELIEF: f64 = 8.0;
/// How many steps it weighs as much as, where it is asked what the next step uses.
const STEPS: f64 = 32.0;

/// The choices of a router so far.
#[derive(Clone, Debug)]
pub struct History {
    /// Expected choices by popularity and what was seen, for each layer and expert, of each token.
    share: Vec<Vec<f64>>,
    /// For each layer, how many tokens chose one expert in the layer before and another in this; empty for what nobody chose.
    after: Vec<Vec<Vec<f64>>>,
    /// For each layer, how many tokens chose an expert in the layer before.
    seen: Vec<Vec<f64>>,
    /// Whether the last step used an expert; how many steps did and did not, and how many of these used it in the next.
    last: Vec<Vec<bool>>,
    again: Vec<Vec<[(f64, f64); 2]>>,
}

impl History {
    /// With nothing seen but this.
    pub fn new(popularity: &Popularity) -> History {
        let (layers, experts) = (popularity.counts.len(), popularity.counts[0].len());
        let row = |l: usize| (0..experts).map(|e| popularity.share(l, e)).collect();
        History {
            share: (0..layers).map(row).collect(),
            after: vec![vec![vec![]; experts]; layers],
            seen: vec![vec![0.0; experts]; layers],
            last: vec![vec![false; experts]; layers],
            again: vec![vec![[(0.0, 0.0); 2]; experts]; layers],
        }
    }

    /// A step chose in a layer: for each token its experts there, and in the layer before, where there is one.
    pub fn observe(&mut self, layer: usize, before: Option<&[u16]>, chosen: &[u16], used: usize) {
        let mut now = vec![false; self.share[layer].len()];
        for (token, experts) in chosen.chunks_exact(used).enumerate() {
            experts.iter().for_each(|e| now[usize::from(*e)] = true);
            let Some(before) = before else { continue };
            for from in before[token * used..].iter().take(used).map(|e| usize::from(*e)) {
                self.seen[layer][from] += 1.0;
                let after = &mut self.after[layer][from];
                after.resize(now.len(), 0.0);
                experts.iter().for_each(|to| after[usize::from(*to)] += 1.0);
            }
        }
        for (expert, now) in now.into_iter().enumerate() {
            let of = &mut self.again[layer][expert][usize::from(self.last[layer][expert])];
            *of = (of.0 + 1.0, of.1 + f64::from(u8::from(now)));
            self.last[layer][expert] = now;
        }
    }

    /// How likely each expert of a layer is used by any of so many tokens, after what they chose in the layer before.
    pub fn next(&self, layer: usize, before: &[u16], tokens: usize) -> Vec<f64> {
        let share = &self.share[layer];
        let mut expected = vec![0.0; share.len()];
        let used = (before.len() / tokens.max(1)).max(1) as f64;
        let mut counts = vec![0.0; share.len()];
        before.iter().for_each(|e| counts[usize::from(*e)] += 1.0);
        for (from, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0.0) {
            let weight = BELIEF + self.seen[layer][from];
            for (to, sum) in expected.iter_mut().enumerate() {
                let after = self.after[layer][from].get(to).copied().unwrap_or(0.0);
                *sum += count / used * (BELIEF * share[to] + after) / weight;
            }
        }
        expected.iter().map(|sum| of_any(sum / tokens.max(1) as f64, tokens)).collect()
    }

    /// How likely an expert is used by any of so many tokens, by popularity alone.
    pub fn prior(&self, layer: usize, expert: usize, tokens: usize) -> f64 {
        of_any(self.share[layer][expert], tokens)
    }

    /// How likely an expert is used in the next step of so many tokens, by whether it was used in the last.
    pub fn next_step(&self, layer: usize, expert: usize, tokens: usize) -> f64 {
        let (steps, used) = self.again[layer][expert][usize::from(self.last[layer][expert])];
        (STEPS * self.prior(layer, expert, tokens) + used) / (STEPS + steps)
    }
}

/// How likely any of so many does what each does with this likelihood.
fn of_any(each: f64, tokens: usize) -> f64 {
    1.0 - (1.0 - each.clamp(0.0, 1.0)).powi(tokens.min(1 << 20) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_is_learned_and_popularity_is_believed_before() {
        let counts = vec![vec![6, 3, 1], vec![2, 3, 5]];
        let popularity = Popularity { model: "m".into(), tokens: 10, used: 1, counts };
        let mut h = History::new(&popularity);
        let first = h.next(1, &[0], 1);
        assert!((first[2] - 0.5).abs() < 1e-12 && (first[0] - 0.2).abs() < 1e-12, "{first:?}");
        // Of two tokens one at least does it.
        assert!((h.prior(1, 2, 2) - 0.75).abs() < 1e-12);
        // In this text 0 is followed by 1, whatever is popular.
        for _ in 0..1000 {
            h.observe(0, None, &[0], 1);
            h.observe(1, Some(&[0]), &[1], 1);
        }
        assert!(h.next(1, &[0], 1)[1] > 0.95);
        assert!((h.next(1, &[2], 1)[2] - 0.5).abs() < 1e-12, "nothing was seen after 2");
        assert!(h.next_step(1, 1, 1) > 0.95 && h.next_step(1, 2, 1) < 0.05);
    }
}
