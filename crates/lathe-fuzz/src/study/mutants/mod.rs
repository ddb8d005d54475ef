//! Wrong steps: programs, a step of theirs, and what is wrong in the program after it; a file for each group of primitives.

mod copies;
mod levels;
mod loops;
mod processes;
mod programs;
mod statements;
mod storage;
mod sums;

pub use programs::SHARED_TILE;

/// How it is known that a wrong step is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The interpreter computes something else, or finds an index outside.
    Run,
    /// It does when the lanes' iterations run in another order, or side by side.
    Lanes,
    /// It does when what the machine does runs in place of what the instruction wraps.
    Instruction,
    /// Never: the change is none of the meaning, and this is why.
    Never(&'static str),
}

/// Loops of one program by those of the other: a variable and its index each.
pub type Indices = &'static [(&'static str, &'static str)];

/// A wrong step.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// What is wrong: the primitive, a colon, and the rest.
    pub what: &'static str,
    /// The text of the program before.
    pub before: &'static str,
    /// The step it pretends to be, after others; hints of how iterations move are taken from it.
    pub step: &'static str,
    /// Changes of the text of the program after the step (of the one before where the step itself is refused); of both where they are
    /// what an instruction wraps, or of what it makes.
    pub changes: &'static [(&'static str, &'static str)],
    /// A further hint: what the loops before are after, and the other way round.
    pub hint: Option<(Indices, Indices)>,
    /// How it shows.
    pub seen: Seen,
}

impl Mutant {
    /// The primitive whose wrong step it is.
    pub fn primitive(&self) -> &'static str {
        self.what.split(':').next().unwrap_or_default()
    }
}

/// All of them.
pub fn mutants() -> impl Iterator<Item = &'static Mutant> {
    [
        loops::MUTANTS,
        levels::MUTANTS,
        statements::MUTANTS,
        storage::MUTANTS,
        copies::MUTANTS,
        sums::MUTANTS,
        processes::MUTANTS,
    ]
    .into_iter()
    .flatten()
}

const fn plain(
    what: &'static str,
    before: &'static str,
    step: &'static str,
    changes: &'static [(&'static str, &'static str)],
) -> Mutant {
    Mutant { what, before, step, changes, hint: None, seen: Seen::Run }
}

const fn lanes(
    what: &'static str,
    before: &'static str,
    step: &'static str,
    changes: &'static [(&'static str, &'static str)],
) -> Mutant {
    Mutant { seen: Seen::Lanes, ..plain(what, before, step, changes) }
}

const fn instruction(what: &'static str, changes: &'static [(&'static str, &'static str)]) -> Mutant {
    Mutant { seen: Seen::Instruction, ..plain(what, programs::BYTES, "tensorize l dpbusd", changes) }
}

/// What reads or holds the result of an instruction is changed before and after it.
const fn whole(what: &'static str, changes: &'static [(&'static str, &'static str)]) -> Mutant {
    Mutant { seen: Seen::Instruction, ..plain(what, programs::FEWER, "tensorize l dpbf16ps", changes) }
}

/// A change that is none of the meaning.
const fn same(
    why: &'static str,
    what: &'static str,
    before: &'static str,
    step: &'static str,
    changes: &'static [(&'static str, &'static str)],
) -> Mutant {
    Mutant { seen: Seen::Never(why), ..plain(what, before, step, changes) }
}
