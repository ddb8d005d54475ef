//! What rules and passes leave open: at each choice a rule names the options and the one that it takes by itself, and a tuner may
//! decide for another one. All options give correct programs; they differ in speed.

use crate::Schedule;
use std::collections::BTreeMap;

/// Decisions by the names of choices. What names no choice, or no option of it, decides nothing, so that decisions outlive
/// changes of the rules.
pub type Decisions = BTreeMap<String, i64>;

/// A choice that a rule came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its name, unique in a schedule, or among what is chosen of a graph.
    pub name: String,
    /// The numbers to choose from, ascending.
    pub options: Vec<i64>,
    /// What the rule takes by itself.
    pub rule: i64,
    /// What was taken.
    pub taken: i64,
}

/// Decisions, and the choices that rules came to while these were in force.
#[derive(Clone, Debug, Default)]
pub struct Choices {
    decisions: Decisions,
    met: Vec<Choice>,
}

impl Choices {
    /// No choice yet, and what is to be taken at those that come.
    pub fn decided(decisions: &Decisions) -> Choices {
        Choices { decisions: decisions.clone(), met: vec![] }
    }

    /// The choices that rules came to, in order.
    pub fn met(&self) -> &[Choice] {
        &self.met
    }

    /// Comes to a choice: what is decided of it, where that is an option, else what the rule takes.
    pub fn choose(&mut self, name: &str, options: impl IntoIterator<Item = i64>, rule: i64) -> i64 {
        let mut options: Vec<i64> = options.into_iter().chain([rule]).collect();
        options.sort_unstable();
        options.dedup();
        let decided = self.decisions.get(name).filter(|d| options.contains(d));
        let taken = decided.copied().unwrap_or(rule);
        if options.len() > 1 && !self.met.iter().any(|c| c.name == name) {
            self.met.push(Choice { name: name.into(), options, rule, taken });
        }
        taken
    }

    /// Comes to a choice between yes and no.
    pub fn whether(&mut self, name: &str, rule: bool) -> bool {
        self.choose(name, [0, 1], i64::from(rule)) == 1
    }
}

impl Schedule {
    /// The choices that rules came to, in order.
    pub fn choices(&self) -> &[Choice] {
        self.choices.met()
    }

    /// [`Choices::choose`].
    pub(crate) fn choose(&mut self, name: &str, options: impl IntoIterator<Item = i64>, rule: i64) -> i64 {
        self.choices.choose(name, options, rule)
    }
}
