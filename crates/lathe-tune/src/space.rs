//! The schedules that the rules can make of a kernel. Which choices there are may depend on what was decided before, so a
//! point of the space is made by running the rules: what they ask for is decided until they ask no more.

use crate::Task;
use crate::random::Random;
use lathe_compile::scheduled;
use lathe_machine::Target;
use lathe_schedule::{Decisions, Schedule};

/// A point of the space.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// What was decided at each choice that the rules came to.
    pub decisions: Decisions,
    /// What came of it.
    pub schedule: Schedule,
}

/// All that can be decided of a kernel.
pub(crate) struct Space<'t> {
    pub task: &'t Task,
    pub target: &'t Target,
}

impl Space<'_> {
    /// What the rules make of some decisions; nothing where the program would not be one that the machine can run.
    pub fn at(&self, decisions: &Decisions) -> Option<Candidate> {
        let Task { kernel, parts, few, .. } = self.task;
        let schedule = scheduled(kernel, parts, self.target, *few, decisions).ok()?;
        let decisions = schedule.choices().iter().map(|c| (c.name.clone(), c.taken)).collect();
        Some(Candidate { decisions, schedule })
    }

    /// Decides at random for what is not decided yet.
    fn complete(&self, mut decisions: Decisions, random: &mut Random) -> Option<Candidate> {
        loop {
            let c = self.at(&decisions)?;
            let open = c.schedule.choices().iter().find(|c| !decisions.contains_key(&c.name));
            let Some(open) = open else { return Some(c) };
            decisions.insert(open.name.clone(), *random.pick(&open.options));
        }
    }

    /// Any point.
    pub fn sample(&self, random: &mut Random) -> Option<Candidate> {
        self.complete(Decisions::new(), random)
    }

    /// A point near another one: one choice or two are decided anew, half of the time for an option beside the one taken.
    pub fn neighbour(&self, of: &Candidate, random: &mut Random) -> Option<Candidate> {
        let mut decisions = of.decisions.clone();
        let choices = of.schedule.choices();
        if choices.is_empty() {
            return None;
        }
        for _ in 0..=random.below(2) {
            let c = random.pick(choices);
            let at = c.options.iter().position(|o| *o == c.taken).unwrap_or(0);
            let to = match random.below(4) {
                0 => c.options[(at + 1).min(c.options.len() - 1)],
                1 => c.options[at.saturating_sub(1)],
                _ => *random.pick(&c.options),
            };
            decisions.insert(c.name.clone(), to);
        }
        self.complete(decisions, random)
    }
}
