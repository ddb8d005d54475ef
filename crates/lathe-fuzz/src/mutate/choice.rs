//! Which changes are made how often: those that lately reached more that is new for their time more often, the others now and then
//! (a bandit with many arms, as MOpt is for a fuzzer of bytes: Lyu et al. 2019). All modes choose so, each among its own.

use super::Part;
use crate::random::Random;
use std::collections::BTreeMap;

/// A kind of change.
pub(super) struct Row<F> {
    /// What it is called.
    pub name: &'static str,
    /// What it changes.
    pub part: Part,
    /// How often it is made beside the others where nothing is known of them.
    pub often: u32,
    /// Makes it.
    pub change: F,
}

pub(super) const fn row<F: Copy>(name: &'static str, part: Part, often: u32, change: F) -> Row<F> {
    Row { name, part, often, change }
}

/// What runs reached that was new, and what they took.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    runs: f64,
    gain: f64,
    seconds: f64,
}

impl Known {
    fn add(&mut self, by: f64, other: Known) {
        self.runs += by * other.runs;
        self.gain += by * other.gain;
        self.seconds += by * other.seconds;
    }
}

/// What is known of each kind of change and of all, by what came of those that were chosen.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    known: BTreeMap<&'static str, Known>,
    all: Known,
    made: Vec<&'static str>,
}

/// What is left of what was known after one more run: the last few hundred count.
const KEPT: f64 = 0.997;

/// Runs like the mean of all that each kind of change begins with.
const BEGIN: f64 = 8.0;

/// The least that a kind of change is chosen beside what it is where all are alike.
const LEAST: f64 = 0.1;

impl Choice {
    /// One of some rows.
    pub(super) fn pick<'r, F>(&mut self, rows: &[&'r Row<F>], random: &mut Random) -> &'r Row<F> {
        let weights: Vec<f64> = rows.iter().map(|r| f64::from(r.often) * self.favour(r.name)).collect();
        let mut left = weights.iter().sum::<f64>() * random.share();
        let found = rows.iter().zip(weights).find(|(_, w)| {
            left -= w;
            left < 0.0
        });
        let row = found.map_or(rows[rows.len() - 1], |(r, _)| r);
        self.made.push(row.name);
        row
    }

    /// How much more often than others a change is made: by the square of what it gains in its time beside what all do.
    fn favour(&self, name: &str) -> f64 {
        let mut own = self.known.get(name).copied().unwrap_or_default();
        own.add(BEGIN / self.all.runs.max(BEGIN), self.all);
        let rate = (own.gain / own.seconds) / (self.all.gain / self.all.seconds);
        if rate.is_finite() { rate.powi(2).max(LEAST) } else { 1.0 }
    }

    /// What came of the case that was changed last: so many edges that no run had reached before, in so many seconds.
    pub fn learn(&mut self, edges: usize, seconds: f64) {
        // One lucky run is no habit.
        let run = Known { runs: 1.0, gain: (edges as f64).sqrt(), seconds };
        for k in self.known.values_mut().chain([&mut self.all]) {
            *k = Known { runs: k.runs * KEPT, gain: k.gain * KEPT, seconds: k.seconds * KEPT };
        }
        self.all.add(1.0, run);
        self.made.sort_unstable();
        self.made.dedup();
        for name in self.made.drain(..) {
            self.known.entry(name).or_default().add(1.0, run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [Row<bool>; 3] = [
        row("gains", Part::Program, 1, true),
        row("dear", Part::Moves, 1, true),
        row("idle", Part::Moves, 1, false),
    ];

    /// How often each is chosen of 1,000 times, where some reach an edge in 10 runs, one of them in ten times the time.
    fn chosen(choice: &mut Choice, gains: impl Fn(&Row<bool>) -> bool) -> [usize; 3] {
        let (mut random, mut out) = (Random::new(3), [0; 3]);
        for _ in 0..1000 {
            let row = choice.pick(&ROWS.each_ref(), &mut random);
            out[ROWS.iter().position(|r| r.name == row.name).expect("one of them")] += 1;
            let reached = gains(row) && random.one_in(10);
            choice.learn(usize::from(reached), if row.name == "dear" { 0.01 } else { 0.001 });
        }
        out
    }

    #[test]
    fn what_gains_most_in_its_time_is_chosen_most_and_nothing_is_given_up() {
        let mut choice = Choice::default();
        let [gains, dear, idle] = chosen(&mut choice, |r| r.change);
        assert!(gains > 500 && gains > 2 * dear && gains > 2 * idle, "{gains} {dear} {idle}");
        assert!(dear > 20 && idle > 20, "{dear} {idle}");
        // What changes is noticed.
        let [gains, _, idle] = chosen(&mut choice, |r| !r.change);
        assert!(idle > 400 && idle > gains, "{gains} {idle}");
    }
}
