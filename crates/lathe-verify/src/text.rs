//! The text form of certificates and derivations, and its reader: what is printed is read back as it was. A file says
//! `lathe derivations 1`, then of each derivation `program` and the program's text, and of each of its steps `step ...` with
//! the text of the program after it, and `certificate` with a line for each loop of the witness, the order, and each proof.

use crate::{Certificate, Derivation, Derived, Order};
use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use lathe_ir::tensor::{Expr, Kernel, parse};
use lathe_ir::{IrError, Name};
use lathe_schedule::Witness;
use std::fmt;
use std::str::FromStr;

/// The first line of a file.
const HEAD: &str = "lathe derivations 1";

const ORDERS: [(Order, &str); 3] =
    [(Order::Kept, "kept"), (Order::Apart, "apart"), (Order::Accumulated, "accumulated")];

/// Why a text is no certificate: the user's fault, who gave another file or a damaged one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct TextError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub message: String,
}

impl Diagnose for TextError {
    fn diagnostic(&self) -> Diagnostic {
        Diagnostic::new("certificate", Fault::User, self.message.clone())
            .at(format!("line {}", self.line))
            .fix("give a file as `lathe verify --output` writes it")
    }
}

fn error<T>(line: usize, message: impl ToString) -> Result<T, TextError> {
    Err(TextError { line, message: message.to_string() })
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(w) = &self.witness {
            for (n, e) in w.before.iter().zip(&w.to_before) {
                writeln!(f, "before {n} = {e}")?;
            }
            for (n, e) in w.after.iter().zip(&w.to_after) {
                writeln!(f, "after {n} = {e}")?;
            }
        }
        let order = ORDERS.iter().find(|(o, _)| *o == self.order).map_or("", |(_, name)| name);
        writeln!(f, "order {order}")?;
        self.proofs.iter().try_for_each(|p| writeln!(f, "{p}"))
    }
}

impl FromStr for Certificate {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Certificate, TextError> {
        certificate(1, text)
    }
}

/// A loop of a witness and its expression.
fn moved(line: usize, text: &str) -> Result<(Name, Expr), TextError> {
    let Some((name, e)) = text.split_once(" = ") else {
        return error(line, "a loop, ' = ' and its iteration expected");
    };
    match e.parse::<Expr>() {
        Ok(e) => Ok((name.into(), e)),
        Err(e) => error(line, said(&e)),
    }
}

/// What an error of the parser says, without its own line.
fn said(e: &IrError) -> String {
    match e {
        IrError::Parse { message, .. } => message.clone(),
        e => e.to_string(),
    }
}

/// Reads a certificate whose text begins at a line.
fn certificate(first: usize, text: &str) -> Result<Certificate, TextError> {
    let (mut before, mut after, mut order, mut proofs) = (vec![], vec![], None, vec![]);
    for (line, text) in text.lines().enumerate().map(|(i, l)| (first + i, l)) {
        if order.is_some() {
            match text.parse() {
                Ok(p) => proofs.push(p),
                Err(e) => return error(line, e),
            }
        } else if let Some(rest) = text.strip_prefix("before ").filter(|_| after.is_empty()) {
            before.push(moved(line, rest)?);
        } else if let Some(rest) = text.strip_prefix("after ") {
            after.push(moved(line, rest)?);
        } else {
            let name = text.strip_prefix("order ");
            order = name.and_then(|n| ORDERS.iter().find(|(_, name)| *name == n)).map(|(o, _)| *o);
            if order.is_none() {
                return error(line, "'before', 'after' or 'order' with what is proved of it expected");
            }
        }
    }
    let Some(order) = order else { return error(first, "a certificate without an order") };
    let moves = !before.is_empty() || !after.is_empty();
    let (before, to_before) = before.into_iter().unzip();
    let (after, to_after) = after.into_iter().unzip();
    let witness = moves.then_some(Witness { before, after, to_before, to_after });
    Ok(Certificate { witness, order, proofs })
}

impl fmt::Display for Derivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "program\n{}", self.original)?;
        for s in &self.steps {
            write!(f, "step {}\n{}certificate\n{}", s.step, s.after, s.certificate)?;
        }
        Ok(())
    }
}

impl Derivation {
    /// The text of a file of derivations.
    pub fn file(all: &[Derivation]) -> String {
        all.iter().fold(format!("{HEAD}\n"), |text, d| format!("{text}{d}"))
    }
}

/// What a section of a file begins with.
enum Section<'t> {
    Program,
    Step(&'t str),
    Certificate,
}

/// The sections of a file: what each begins with, its first line, and its text.
fn sections(text: &str) -> Result<Vec<(Section<'_>, usize, String)>, TextError> {
    let mut lines = text.lines().enumerate().map(|(i, l)| (i + 1, l));
    if lines.next().map(|(_, l)| l) != Some(HEAD) {
        return error(1, format!("'{HEAD}' expected"));
    }
    let mut out: Vec<(Section, usize, String)> = vec![];
    for (line, text) in lines {
        let section = match text {
            "program" => Some(Section::Program),
            "certificate" => Some(Section::Certificate),
            _ => text.strip_prefix("step ").map(Section::Step),
        };
        match (section, out.last_mut()) {
            (Some(s), _) => out.push((s, line + 1, String::new())),
            (None, Some((.., body))) => *body += &format!("{text}\n"),
            (None, None) => return error(line, "'program' expected"),
        }
    }
    Ok(out)
}

fn program(first: usize, text: &str) -> Result<Kernel, TextError> {
    parse(text).or_else(|e| match e {
        IrError::Parse { line, message } => error(first + line - 1, message),
        e => error(first, e),
    })
}

/// Reads a file of derivations. Nothing of it is checked.
pub fn derivations(text: &str) -> Result<Vec<Derivation>, TextError> {
    let mut out: Vec<Derivation> = vec![];
    let mut all = sections(text)?.into_iter();
    while let Some((section, line, body)) = all.next() {
        match (section, out.last_mut()) {
            (Section::Program, _) => {
                out.push(Derivation { original: program(line, &body)?, steps: vec![] });
            }
            (Section::Step(step), Some(d)) => {
                let after = program(line, &body)?;
                let Some((Section::Certificate, line, body)) = all.next() else {
                    return error(line - 1, format!("the step '{step}' has no certificate"));
                };
                let certificate = certificate(line, &body)?;
                d.steps.push(Derived { step: step.to_string(), after, certificate });
            }
            (Section::Step(_), None) => return error(line - 1, "a step of no program"),
            (Section::Certificate, _) => return error(line - 1, "a certificate of no step"),
        }
    }
    Ok(out)
}
