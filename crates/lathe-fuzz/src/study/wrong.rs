//! Wrong steps made of the table's rows, and the judgement of one: by the interpreter and by the search for certificates.

use super::mutants::{Indices, Mutant, Seen};
use crate::arguments::{Likeness, Sizes, arguments, compare, run};
use crate::machine::by_instructions;
use crate::random::Random;
use lathe_ir::tensor::{CORE, Expr, For, Kernel, LANE, Stmt, map_stmts, parse, rename_vars};
use lathe_schedule::{Schedule, Tag, Witness, witness};
use lathe_verify::{Certificate, Prover, Refusal, check};

/// Statements that the interpreter runs of one program.
const WORK: u64 = 1 << 20;

/// Largest value of a dimension.
const MOST: i64 = 20;

/// A wrong step.
#[derive(Clone, Debug)]
pub struct Wrong {
    /// The program before it.
    pub before: Kernel,
    /// The program that it left.
    pub after: Kernel,
    /// The program after the right step, with its certificate, where there is one.
    pub right: Option<(Kernel, Certificate)>,
    /// Every hint of how iterations move that there is for the search.
    pub hints: Vec<Option<Witness>>,
}

/// What came of a wrong step.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The first of the runs in which the results differ, if any does.
    pub differs: Option<u64>,
    /// A certificate that was found and accepted, if one was.
    pub accepted: Option<Certificate>,
    /// Whether an obligation stood in its way that has no proof, and not only that no rule covers how the programs differ.
    pub unproved: bool,
}

/// An index expression over these names.
fn index(text: &str, names: &[&str]) -> Result<Expr, String> {
    let k = parse(&format!("kernel e({}) {{\n  out y: f32[1]\n  E: y[{text}] = 0f32\n}}", names.join(", ")));
    match k.map_err(|e| e.to_string())?.body.first() {
        Some(Stmt::Store(s)) => Ok(s.targets[0].1[0].clone()),
        _ => Err(format!("'{text}' is no index")),
    }
}

impl Wrong {
    /// Makes a row's step; an error where the row is no step.
    pub fn make(m: &Mutant, prover: &mut Prover) -> Result<Wrong, String> {
        let fail = |e: &dyn std::fmt::Display| format!("{}: {e}", m.what);
        let mut s = Schedule::new(parse(m.before).map_err(|e| fail(&e))?);
        for step in m.step.lines() {
            s.step(step).map_err(|e| fail(&e))?;
        }
        let mut text = s.kernel().to_string();
        for (from, to) in m.changes {
            if !text.contains(from) {
                return Err(fail(&format!("no '{from}' in\n{text}")));
            }
            text = text.replace(from, to);
        }
        let last = s.steps().last();
        let mut before = last.map_or(s.original(), |l| &l.before).clone();
        let after = parse(&text).map_err(|e| fail(&format!("{e} in\n{text}")))?;
        if m.seen == Seen::Instruction && !m.step.is_empty() {
            // Both programs are changed: what is wrapped is what stood there, but not what the instruction is.
            let changed = m.changes.iter().fold(before.to_string(), |t, (from, to)| t.replace(from, to));
            before = parse(&changed).map_err(|e| fail(&e))?;
        }
        let mut hints = vec![None];
        hints.extend(last.map(|l| witness(&l.before, &l.step)));
        if let Some((old, new)) = m.hint {
            let names: Vec<&str> =
                old.iter().chain(new).map(|(n, _)| *n).chain(before.dims.iter().map(|d| &**d)).collect();
            let list = |l: Indices| l.iter().map(|(_, e)| index(e, &names)).collect::<Result<Vec<_>, _>>();
            let vars = |l: Indices| l.iter().map(|(n, _)| (*n).into()).collect();
            let (to_before, to_after) = (list(old)?, list(new)?);
            hints.push(Some(Witness { before: vars(old), after: vars(new), to_before, to_after }));
        }
        let right =
            last.and_then(|l| Some((l.after.clone(), prover.certify(&l.before, &l.after, &l.step).ok()?)));
        Ok(Wrong { before, after, right, hints })
    }

    /// How near results of the right step are to those of the program before.
    fn likeness(&self) -> Likeness {
        let tag = self.right.as_ref().and_then(|(k, c)| check(&self.before, k, c).ok());
        if tag.unwrap_or(Tag::Bitwise) == Tag::Bitwise { Likeness::Bits } else { Likeness::Near }
    }

    /// The first of so many runs, each with sizes and arguments of its own, in which what the step left computes something else.
    fn difference(&self, m: &Mutant, runs: u64) -> Result<Option<u64>, String> {
        let others = match m.seen {
            Seen::Lanes => other_orders(&self.after).to_vec(),
            Seen::Instruction => match by_instructions(&self.after) {
                Ok(made) => made.into_iter().collect(),
                // What no machine can do is wrong in the first run.
                Err(_) => return Ok(Some(0)),
            },
            Seen::Run | Seen::Never(_) => vec![self.after.clone()],
        };
        let (like, mut judged) = (self.likeness(), false);
        for turn in 0..runs {
            let mut random = Random::new(turn);
            let sizes: Sizes = self.before.dims.iter().map(|d| (d.clone(), random.range(1, MOST))).collect();
            let Some(given) = arguments(&self.before, &sizes, turn) else { continue };
            let Ok(right) = run(&self.before, &sizes, &given, WORK) else { continue };
            if !right.seen.ended {
                continue;
            }
            judged = true;
            let wrong = others.iter().any(|k| match run(k, &sizes, &given, WORK) {
                // What nobody wrote may be anything.
                Ok(ran) if ran.seen.unwritten.is_some() && right.seen.unwritten.is_none() => true,
                Ok(ran) => compare(&self.before, &sizes, &right.memory, &ran.memory, like).is_err(),
                Err(_) => true,
            });
            if wrong {
                return Ok(Some(turn));
            }
        }
        if judged { Ok(None) } else { Err(format!("{}: the program before is never defined", m.what)) }
    }
}

/// Judges a wrong step, with so many runs at most until one differs.
pub fn judge(m: &Mutant, wrong: &Wrong, runs: u64, prover: &mut Prover) -> Result<Verdict, String> {
    let mut verdict = Verdict { differs: wrong.difference(m, runs)?, accepted: None, unproved: false };
    for hint in &wrong.hints {
        match prover.search(&wrong.before, &wrong.after, hint.clone()) {
            Ok(c) if check(&wrong.before, &wrong.after, &c).is_ok() => verdict.accepted = Some(c),
            Ok(_) => {}
            Err(e) => verdict.unproved |= matches!(e, Refusal::NotFound(..)),
        }
    }
    Ok(verdict)
}

/// The loops over lanes and cores, run from the last iteration to the first, or each statement of theirs for all iterations at
/// once.
fn other_orders(k: &Kernel) -> [Kernel; 2] {
    let backwards = map_stmts(&k.body, &mut |s| match &s {
        Stmt::For(l) if [LANE, CORE].contains(&&*l.level) => {
            let last = l.extent.clone() - 1;
            let turned = Expr::var("turned");
            let body = rename_vars(&l.body, &[(&*l.var, last - turned)].into());
            vec![Stmt::For(For { var: "turned".into(), body, ..(**l).clone() }.into())]
        }
        _ => vec![s],
    });
    let apart = map_stmts(&k.body, &mut |s| match &s {
        Stmt::For(l) if [LANE, CORE].contains(&&*l.level) => {
            l.body.iter().map(|s| Stmt::For(For { body: vec![s.clone()], ..(**l).clone() }.into())).collect()
        }
        _ => vec![s],
    });
    [Kernel { body: backwards, ..k.clone() }, Kernel { body: apart, ..k.clone() }]
}
