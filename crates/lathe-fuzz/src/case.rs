//! A case: a tensor program or a graph, sizes and a seed for its arguments, targets its code is written for, and what is done to
//! it: steps of a schedule, or passes. The text form is what a finding's file holds:
//!
//! ```text
//! # What it shows.
//! seed 7
//! sizes n=5
//! targets portable avx2
//! ----
//! kernel f(n) { ... }
//! ----
//! split i 4
//! change `i.o * 4` to `i.o * 3`
//! ```

use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use lathe_ir::graph::Graph;
use lathe_ir::tensor::Kernel;
use lathe_ir::{IrError, Name};
use std::fmt;

const RULE: &str = "----";

/// What a case is of.
pub trait Program: Clone + PartialEq + fmt::Display {
    /// Reads its text.
    fn read(text: &str) -> Result<Self, IrError>;
    /// The dimensions that a caller binds.
    fn dims(&self) -> Vec<Name>;
    /// Whether the checker takes it.
    fn is_sound(&self) -> bool;
    /// The same with a little less, each in another way.
    fn smaller(&self) -> Vec<Self>;
}

/// Something that is done to a program.
#[derive(Clone, Debug, PartialEq)]
pub enum Move {
    /// A step of a schedule, or the name of a pass.
    Step(String),
    /// A text in the program after the last step in place of another: what a wrong step might have made.
    Change(String, String),
}

/// A program, its arguments, and what is done to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Case<P = Kernel> {
    /// What it shows, for people.
    pub notes: String,
    /// Decides the arguments.
    pub seed: u64,
    /// Values of the program's dimensions.
    pub sizes: Vec<(Name, i64)>,
    /// Targets that code is written for.
    pub targets: Vec<String>,
    /// The program.
    pub program: P,
    /// What is done to it, in order.
    pub moves: Vec<Move>,
}

/// Why a text is no case.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct CaseError(pub String);

impl Diagnose for CaseError {
    fn diagnostic(&self) -> Diagnostic {
        let what =
            format!("{}; a case is a head, a tensor program and moves, with lines of ---- between", self.0);
        Diagnostic::new("case", Fault::User, what)
    }
}

impl Case {
    /// Reads the text form of a case of a tensor program.
    pub fn parse(text: &str) -> Result<Case, CaseError> {
        Case::read(text)
    }
}

impl<P: Program> Case<P> {
    /// Nothing done yet to a program, with small sizes.
    pub fn new(program: P) -> Case<P> {
        let sizes = program.dims().into_iter().zip([5, 3, 7, 2].into_iter().cycle()).collect();
        let targets = ["portable", "avx2"].map(String::from).into();
        Case { notes: String::new(), seed: 1, sizes, targets, program, moves: vec![] }
    }

    /// Reads the text form.
    pub fn read(text: &str) -> Result<Case<P>, CaseError> {
        let fail = |what: String| CaseError(what);
        let parts: Vec<&str> = text.split(&format!("\n{RULE}\n")).collect();
        let [head, program, moves @ ..] = parts.as_slice() else {
            return Err(fail(format!("there is no line {RULE}")));
        };
        if moves.len() > 1 {
            return Err(fail(format!("there are {} parts", parts.len())));
        }
        let program = P::read(program).map_err(|e| fail(format!("the program: {e}")))?;
        let mut case = Case { sizes: vec![], targets: vec![], ..Case::new(program) };
        for line in head.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "#" => case.notes += &format!("{rest}\n"),
                "seed" => case.seed = rest.parse().map_err(|_| fail(format!("'{rest}' is no seed")))?,
                "targets" => case.targets = rest.split_whitespace().map(String::from).collect(),
                "sizes" => {
                    for word in rest.split_whitespace() {
                        let size = word.split_once('=').and_then(|(n, v)| Some((n.into(), v.parse().ok()?)));
                        case.sizes.push(size.ok_or_else(|| fail(format!("'{word}' is not NAME=NUMBER")))?);
                    }
                }
                "" => {}
                _ => return Err(fail(format!("'{word}' is not known"))),
            }
        }
        let lines = moves.iter().flat_map(|m| m.lines()).filter(|l| !l.trim().is_empty());
        case.moves = lines.map(parse_move).collect::<Result<_, _>>()?;
        Ok(case)
    }

    /// The steps alone.
    pub fn steps(&self) -> impl Iterator<Item = &str> {
        self.moves.iter().filter_map(|m| match m {
            Move::Step(s) => Some(s.as_str()),
            Move::Change(..) => None,
        })
    }
}

fn parse_move(line: &str) -> Result<Move, CaseError> {
    let Some(rest) = line.strip_prefix("change ") else { return Ok(Move::Step(line.trim().into())) };
    let parts: Vec<&str> = rest.split('`').collect();
    match parts.as_slice() {
        ["", from, " to ", to, ""] if !from.is_empty() => Ok(Move::Change((*from).into(), (*to).into())),
        _ => Err(CaseError(format!("'{line}' is not: change `THIS` to `THAT`"))),
    }
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Move::Step(s) => write!(f, "{s}"),
            Move::Change(from, to) => write!(f, "change `{from}` to `{to}`"),
        }
    }
}

impl<P: Program> fmt::Display for Case<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.notes.lines() {
            writeln!(f, "# {line}")?;
        }
        writeln!(f, "seed {}", self.seed)?;
        let sizes: Vec<String> = self.sizes.iter().map(|(n, v)| format!("{n}={v}")).collect();
        if !sizes.is_empty() {
            writeln!(f, "sizes {}", sizes.join(" "))?;
        }
        writeln!(f, "targets {}", self.targets.join(" "))?;
        write!(f, "{RULE}\n{}{RULE}\n", self.program)?;
        self.moves.iter().try_for_each(|m| writeln!(f, "{m}"))
    }
}

/// A case of either kind.
#[derive(Clone, Debug, PartialEq)]
pub enum AnyCase {
    /// Of a tensor program and steps of a schedule.
    Tensor(Case),
    /// Of a graph and passes.
    Graph(Case<Graph>),
}

impl AnyCase {
    /// Reads the text form: what the program begins with says which it is.
    pub fn parse(text: &str) -> Result<AnyCase, CaseError> {
        let program = text.split_once(&format!("\n{RULE}\n")).map_or("", |(_, rest)| rest);
        match program.trim_start().starts_with("graph ") {
            true => Case::read(text).map(AnyCase::Graph),
            false => Case::parse(text).map(AnyCase::Tensor),
        }
    }

    /// Says in its notes what it shows.
    pub(crate) fn note(&mut self, what: &str) {
        let (AnyCase::Tensor(Case { notes, .. }) | AnyCase::Graph(Case { notes, .. })) = self;
        *notes = format!("{what}\n");
    }
}

impl fmt::Display for AnyCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnyCase::Tensor(c) => c.fmt(f),
            AnyCase::Graph(c) => c.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# What it shows.
seed 7
sizes n=5
targets portable
----
kernel f(n) {
  out y: f32[n]
  for i in n spatial serial {
    S: y[i] = 1f32
  }
}
----
split i 4
change `i.o * 4` to `i.o * 3`
";

    #[test]
    fn a_case_is_read_back_as_it_is_printed() {
        let case = Case::parse(TEXT).unwrap();
        assert_eq!(case.to_string(), TEXT);
        assert_eq!(case.moves.len(), 2);
        assert_eq!(case.steps().collect::<Vec<_>>(), ["split i 4"]);
    }

    #[test]
    fn what_is_no_case_is_refused_in_one_line() {
        for (from, to) in [
            ("----\nkernel", "kernel"),
            ("seed 7", "seed x"),
            ("sizes n=5", "sizes n"),
            ("kernel f", "kern f"),
            ("to `i.o * 3`", "to i.o * 3"),
            ("targets", "target"),
        ] {
            let error = Case::parse(&TEXT.replacen(from, to, 1)).unwrap_err();
            assert_eq!(error.diagnostic().to_string().lines().count(), 1, "{error}");
        }
    }
}
