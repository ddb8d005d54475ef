//! Changes of cases, decided by random numbers: of the program, of the steps, of what steps pretend, of two cases at once.

mod choice;
mod graph;
mod program;
mod steps;

pub use choice::Choice;
pub use graph::mutate_graph;

use crate::case::{AnyCase, Case, Move};
use crate::random::Random;
use crate::seeds::TARGETS;
use choice::{Row, row};

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

/// What a kind of change is a change of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Program,
    Moves,
    Arguments,
}

impl Mode {
    /// Whether a part may change.
    fn may(self, part: Part) -> bool {
        match part {
            Part::Program => self != Mode::Passes,
            Part::Moves => self != Mode::Programs,
            Part::Arguments => true,
        }
    }
}

/// How a case of a tensor program is changed.
#[derive(Clone, Copy)]
enum How {
    Program(program::Way),
    Case(fn(&mut Case, &mut Random)),
    /// By what another one has.
    Other(fn(&mut Case, &Case, &mut Random)),
}

/// All kinds of changes; without a reason for anything else programs and moves are changed as often.
const CHANGES: [Row<How>; 22] = [
    row("size", Part::Program, 5, How::Program(program::size)),
    row("extent", Part::Program, 10, How::Program(program::every_extent)),
    row("index", Part::Program, 10, How::Program(program::index)),
    row("value", Part::Program, 15, How::Program(program::value)),
    row("type", Part::Program, 5, How::Program(program::types)),
    row("kind", Part::Program, 5, How::Program(program::kind)),
    row("reducer", Part::Program, 5, How::Program(program::reducer)),
    row("around", Part::Program, 5, How::Program(program::around)),
    row("staged", Part::Program, 5, How::Program(program::staged)),
    row("parameter", Part::Program, 5, How::Program(program::another)),
    row("statements", Part::Program, 10, How::Program(program::statements)),
    row("program", Part::Program, 5, How::Other(|c, other, _| c.program = other.program.clone())),
    row("remove", Part::Moves, 8, How::Case(steps::remove)),
    row("exchange", Part::Moves, 8, How::Case(steps::exchange)),
    row("shorten", Part::Moves, 8, How::Case(steps::shorten)),
    row("word", Part::Moves, 8, How::Case(steps::word)),
    row("pretend", Part::Moves, 16, How::Case(steps::pretend)),
    row("further", Part::Moves, 8, How::Case(steps::further)),
    row("last", Part::Moves, 24, How::Case(steps::last)),
    row("moves", Part::Moves, 5, How::Other(moves)),
    row("arguments", Part::Arguments, 20, How::Case(arguments)),
    row("target", Part::Arguments, 5, How::Case(target)),
];

/// What a case is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tensor,
    Graph,
}

/// Both kinds of cases, of which one may be much dearer to run than the other.
const KINDS: [Row<Kind>; 2] =
    [row("a tensor program", Part::Program, 1, Kind::Tensor), row("a graph", Part::Program, 1, Kind::Graph)];

/// Changes a case a little, or one of the others where one of the other kind is wanted; another one of its kind may lend its moves
/// or its program. There are cases of both kinds among the others.
pub(crate) fn mutate_any(
    case: Option<AnyCase>,
    others: &[AnyCase],
    mode: Mode,
    choice: &mut Choice,
    random: &mut Random,
) -> Option<AnyCase> {
    let kind = choice.pick(&KINDS.each_ref(), random).change;
    let fits = |c: &AnyCase| match c {
        AnyCase::Tensor(_) => kind == Kind::Tensor,
        AnyCase::Graph(_) => kind == Kind::Graph,
    };
    let others: Vec<&AnyCase> = others.iter().filter(|c| fits(c)).collect();
    let other = random.pick(&others).copied();
    let case = case.filter(|c| fits(c)).or_else(|| random.pick(&others).copied().cloned())?;
    Some(match (&case, other) {
        (AnyCase::Tensor(c), Some(AnyCase::Tensor(o))) => {
            AnyCase::Tensor(mutate(c, Some(o), mode, choice, random))
        }
        (AnyCase::Tensor(c), _) => AnyCase::Tensor(mutate(c, None, mode, choice, random)),
        (AnyCase::Graph(c), Some(AnyCase::Graph(o))) => {
            AnyCase::Graph(mutate_graph(c, Some(o), mode, choice, random))
        }
        (AnyCase::Graph(c), _) => AnyCase::Graph(mutate_graph(c, None, mode, choice, random)),
    })
}

/// Changes a case a little; another one may lend its moves or its program.
pub fn mutate(
    case: &Case,
    other: Option<&Case>,
    mode: Mode,
    choice: &mut Choice,
    random: &mut Random,
) -> Case {
    let mut out = case.clone();
    out.notes.clear();
    for _ in 0..1 + random.below(3) {
        let fits =
            |r: &&Row<How>| mode.may(r.part) && (other.is_some() || !matches!(r.change, How::Other(_)));
        let rows: Vec<&Row<How>> = CHANGES.iter().filter(fits).collect();
        match (choice.pick(&rows, random).change, other) {
            (How::Program(way), _) => program::change(&mut out, way, random),
            (How::Case(change), _) => change(&mut out, random),
            (How::Other(change), Some(other)) => change(&mut out, other, random),
            (How::Other(_), None) => {}
        }
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

/// Goes on with the moves of another case.
fn moves(case: &mut Case, other: &Case, random: &mut Random) {
    let at = random.below(case.moves.len() + 1);
    case.moves.splice(at.., other.moves.iter().cloned());
}

/// Changes what a case is run on.
fn arguments(case: &mut Case, random: &mut Random) {
    case.seed = random.bits() % 1000;
    let at = random.below(case.sizes.len());
    if let Some((_, v)) = case.sizes.get_mut(at) {
        *v = *random.pick(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33]).expect("there are some");
    }
}

/// Writes code for one machine in particular, beside the portable code.
fn target(case: &mut Case, random: &mut Random) {
    case.targets = random.pick(&TARGETS).map(|t| (*t).to_string()).into_iter().collect();
    if case.targets != [TARGETS[0]] {
        case.targets.insert(0, TARGETS[0].into());
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
                let make = || {
                    mutate(
                        case,
                        all.get(i % all.len()),
                        mode,
                        &mut Choice::default(),
                        &mut Random::new(i as u64),
                    )
                };
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
