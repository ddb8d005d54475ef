//! Changes of cases, decided by random numbers: of the program, of the steps, of what steps pretend, of two cases at once.

mod graph;
mod program;
mod steps;

pub use graph::mutate_graph;

use crate::case::{Case, Move};
use crate::random::Random;

/// What may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Programs, and what is done to them.
    Joint,
    /// Programs alone.
    Programs,
    /// What is done to them alone.
    Passes,
}

impl Mode {
    /// All, with their names.
    pub const ALL: [(Mode, &'static str); 3] =
        [(Mode::Joint, "joint"), (Mode::Programs, "programs"), (Mode::Passes, "passes")];

    /// The mode of a name.
    pub fn named(name: &str) -> Option<Mode> {
        Mode::ALL.iter().find(|(_, n)| *n == name).map(|(m, _)| *m)
    }
}

/// Most moves of a case.
const MOVES: usize = 24;

/// Changes a case a little; another one may lend its moves or its program.
pub fn mutate(case: &Case, other: Option<&Case>, mode: Mode, random: &mut Random) -> Case {
    let mut out = case.clone();
    out.notes.clear();
    let times = 1 + random.below(3);
    for _ in 0..times {
        match mode {
            Mode::Joint if random.one_in(2) => program::change(&mut out, random),
            Mode::Joint | Mode::Passes => steps::change(&mut out, random),
            Mode::Programs => program::change(&mut out, random),
        }
    }
    if let Some(other) = other.filter(|_| random.one_in(8)) {
        match mode {
            Mode::Programs => out.program = other.program.clone(),
            _ if random.one_in(2) && mode == Mode::Joint => out.program = other.program.clone(),
            _ => {
                let at = random.below(out.moves.len() + 1);
                out.moves.splice(at.., other.moves.iter().cloned());
            }
        }
    }
    if random.one_in(4) {
        arguments(&mut out, random);
    }
    out.moves.truncate(MOVES);
    // Changes without a step pretend nothing.
    while matches!(out.moves.first(), Some(Move::Change(..))) {
        out.moves.remove(0);
    }
    for d in &out.program.dims {
        if !out.sizes.iter().any(|(n, _)| n == d) {
            out.sizes.push((d.clone(), random.range(1, 9)));
        }
    }
    out.sizes.retain(|(n, _)| out.program.dims.contains(n));
    out
}

/// Changes what a case is run on.
fn arguments(case: &mut Case, random: &mut Random) {
    case.seed = random.bits() % 1000;
    let at = random.below(case.sizes.len());
    if let Some((_, v)) = case.sizes.get_mut(at) {
        *v = *random.pick(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33]).expect("there are some");
    }
}

/// Sizes that loops, dimensions and factors have in interesting programs.
fn number(random: &mut Random) -> i64 {
    match random.below(4) {
        0 => random.range(1, 4),
        1 => *random.pick(&[4, 8, 16, 32]).expect("there are some"),
        2 => random.range(1, 20),
        _ => *random.pick(&[2, 3, 5, 7, 9, 15, 17]).expect("there are some"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lathe_ir::tensor::check;

    #[test]
    fn changes_are_decided_by_the_seed_and_by_the_mode() {
        let text = include_str!("../../lathe-rewrite/tests/files/schedule/split.txt");
        let all = crate::seeds::of_file(text);
        assert!(all.len() > 5);
        let (mut programs, mut moves) = (0, 0);
        for (i, case) in all.iter().cycle().take(60).enumerate() {
            for (mode, _) in Mode::ALL {
                let make = || mutate(case, all.get(i % all.len()), mode, &mut Random::new(i as u64));
                let new = make();
                assert_eq!(new, make());
                assert!(check(&new.program).is_ok(), "{new}");
                assert_eq!(Case::parse(&new.to_string()).as_ref(), Ok(&new), "{new}");
                let known = |k| all.iter().any(|c| c.program == k);
                assert!(mode != Mode::Passes || known(new.program.clone()), "{new}");
                programs += usize::from(new.program != case.program);
                moves += usize::from(new.moves != case.moves);
                assert!(mode != Mode::Programs || new.moves == case.moves, "{new}");
            }
        }
        assert!(programs > 30 && moves > 30, "{programs} {moves}");
    }
}
