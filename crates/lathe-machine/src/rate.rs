//! Measured speeds: what a machine does in a second, by the number of threads that do it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A speed in units per second (bytes for memories and disks, operations for arithmetic), as seen over several passes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// The fastest pass, units per second: the floor that work is compared with.
    pub best: f64,
    /// The middle pass, units per second: what a plan may count on.
    pub median: f64,
}

impl Rate {
    /// The rate of some passes, each in units per second; `None` when no pass was finite and positive.
    pub fn of_passes(passes: &[f64]) -> Option<Rate> {
        let mut sorted: Vec<f64> = passes.iter().copied().filter(|x| x.is_finite() && *x > 0.0).collect();
        sorted.sort_by(f64::total_cmp);
        let best = *sorted.last()?;
        Some(Rate { best, median: sorted[sorted.len() / 2] })
    }

    fn scaled(self, by: f64) -> Rate {
        Rate { best: self.best * by, median: self.median * by }
    }
}

/// A speed for each number of threads that was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "BTreeMap<String, Rate>", try_from = "BTreeMap<String, Rate>")]
pub struct ByThreads(BTreeMap<usize, Rate>);

impl ByThreads {
    /// Records the rate of `threads` threads together, replacing an earlier one.
    pub fn set(&mut self, threads: usize, rate: Rate) {
        self.0.insert(threads, rate);
    }

    /// The measured rates, by rising number of threads.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Rate)> + '_ {
        self.0.iter().map(|(threads, rate)| (*threads, *rate))
    }

    /// The rate of `threads` threads: as measured; between two measurements, on the line between them; outside of them, the
    /// nearest one (never more than in proportion to the threads). `None` when nothing was measured.
    pub fn at(&self, threads: usize) -> Option<Rate> {
        let below = self.0.range(..=threads).next_back();
        let above = self.0.range(threads..).next();
        match (below, above) {
            (Some((&a, &low)), Some((&b, &high))) if a < b => {
                let part = (threads - a) as f64 / (b - a) as f64;
                let between = |x: f64, y: f64| x + (y - x) * part;
                Some(Rate { best: between(low.best, high.best), median: between(low.median, high.median) })
            }
            (Some((_, &rate)), _) => Some(rate),
            (None, Some((&b, &rate))) => Some(rate.scaled(threads as f64 / b as f64)),
            (None, None) => None,
        }
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(usize, Rate)> for ByThreads {
    fn from_iter<I: IntoIterator<Item = (usize, Rate)>>(rates: I) -> Self {
        ByThreads(rates.into_iter().collect())
    }
}

impl From<ByThreads> for BTreeMap<String, Rate> {
    fn from(rates: ByThreads) -> Self {
        rates.0.into_iter().map(|(threads, rate)| (threads.to_string(), rate)).collect()
    }
}

impl TryFrom<BTreeMap<String, Rate>> for ByThreads {
    type Error = String;

    fn try_from(rates: BTreeMap<String, Rate>) -> Result<Self, String> {
        let parse = |(key, rate): (String, Rate)| match key.parse::<usize>() {
            Ok(threads) if threads > 0 => Ok((threads, rate)),
            _ => Err(format!("'{key}' is not a number of threads")),
        };
        rates.into_iter().map(parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(x: f64) -> Rate {
        Rate { best: x, median: x }
    }

    #[test]
    fn passes_give_best_and_median() {
        assert_eq!(Rate::of_passes(&[3.0, 1.0, 2.0]), Some(Rate { best: 3.0, median: 2.0 }));
        assert_eq!(Rate::of_passes(&[f64::NAN, 5.0, f64::INFINITY]), Some(flat(5.0)));
        assert_eq!(Rate::of_passes(&[]), None);
    }

    #[test]
    fn rates_between_and_outside_the_measured() {
        let rates: ByThreads = [(2, flat(20.0)), (4, flat(30.0))].into_iter().collect();
        assert_eq!(rates.at(1), Some(flat(10.0)));
        assert_eq!(rates.at(2), Some(flat(20.0)));
        assert_eq!(rates.at(3), Some(flat(25.0)));
        assert_eq!(rates.at(64), Some(flat(30.0)));
        assert_eq!(ByThreads::default().at(1), None);
    }
}
