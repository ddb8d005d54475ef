//! What must hold of a case.
//!
//! A run is judged where the program before it is defined: inside its buffers, and reading nothing that nobody wrote. What is
//! certified must compute the same then, whatever loops are marked as. What the scheduler did must compute the same where loops are
//! what they are marked as, which the watched interpreter tells; and where instructions do what their rows say, on elements as they lie. A step that no rule or proof covers is no finding, but counted
//! as a false alarm where the results are the same.

use crate::arguments::{Likeness, Ran, Sizes, arguments, compare, likeness, run};
use crate::case::{Case, Move};
use crate::machine::by_instructions;
use crate::random::Random;
use lathe_codegen::{Dialect, emit};
use lathe_ir::graph::Graph;
use lathe_ir::tensor::{Kernel, LANE, Memory, Seen, Stmt, UNROLLED, check, is_network, parse};
use lathe_schedule::{Applied, Schedule, Tag, witness};
use lathe_verify::{PROVED, Prover, Refusal};
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Statements that the interpreter runs of one program before a step; four times as many after it.
const WORK: u64 = 6_000;

/// Bytes of a program's text; what grows beyond is left alone.
const TEXT: usize = 12_000;

/// Runs of each program, with other sizes and arguments.
const RUNS: u64 = 3;

/// Statements of what a kernel is in C, with loops written out; what is larger is not compiled.
const WRITTEN_OUT: u64 = 600;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Something panicked.
    Panic,
    /// A text is not read back as it was printed.
    Text,
    /// A step left a program that the checker refuses.
    Broken,
    /// A step left iterations that meet, of loops that say that they do not by their marks or levels.
    Marks,
    /// A step left a program that computes something else, or fails.
    Meaning,
    /// A certificate was accepted, and the programs do not compute the same.
    Proof,
    /// The compiled program computes something else than the interpreter.
    Code,
    /// The C compiler refuses what was written for it.
    Refused,
    /// A pass changes what it left.
    Twice,
}

impl Kind {
    /// All, with their names.
    pub const ALL: [(Kind, &'static str); 9] = [
        (Kind::Panic, "panic"),
        (Kind::Text, "text"),
        (Kind::Broken, "broken"),
        (Kind::Marks, "marks"),
        (Kind::Meaning, "meaning"),
        (Kind::Proof, "proof"),
        (Kind::Code, "code"),
        (Kind::Refused, "refused"),
        (Kind::Twice, "twice"),
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(Kind::ALL.iter().find(|(k, _)| k == self).map_or("?", |(_, n)| n))
    }
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// Where: a primitive, or a target.
    pub place: String,
    /// What exactly, in a line.
    pub message: String,
}

impl Finding {
    /// Whether two are likely the same.
    pub fn like(&self, other: &Finding) -> bool {
        (self.kind, &self.place) == (other.kind, &other.place)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line: Vec<&str> = self.message.split_whitespace().collect();
        write!(f, "{} {}: {}", self.kind, self.place, line.join(" "))
    }
}

/// What was counted over many cases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Cases.
    pub cases: u64,
    /// Cases whose program is judged.
    pub defined: u64,
    /// Steps that were applied, refused by their primitive, certified, and not certified, by primitive.
    pub steps: BTreeMap<String, StepCounts>,
    /// Programs that were compiled and run.
    pub compiled: u64,
}

/// What became of the steps of a primitive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepCounts {
    /// Applied by the scheduler.
    pub applied: u64,
    /// Refused by the scheduler.
    pub refused: u64,
    /// Certified.
    pub certified: u64,
    /// Not certified, and the results are the same, of a program whose loops are what they are marked as: false alarms.
    pub alarms: u64,
    /// Wrong steps that were pretended, and not certified.
    pub caught: u64,
}

/// A program to be compiled, with what it must give.
#[derive(Clone, Debug)]
pub struct Code {
    pub(crate) case: Case,
    pub(crate) kernel: Kernel,
    pub(crate) sizes: Sizes,
    pub(crate) before: Memory,
    pub(crate) after: Memory,
}

/// Judges cases; remembers proofs, and counts.
#[derive(Default)]
pub struct Judge {
    prover: Prover,
    /// What was counted so far.
    pub counts: Counts,
    /// The false alarms so far: the primitive, and why its step is not certified.
    pub(crate) alarms: Vec<(String, Refusal)>,
    /// A fault that is planted to see whether it is found: a primitive, and what it would leave in place of what it leaves.
    planted: Option<(&'static str, fn(&Applied) -> Option<Kernel>)>,
    /// The same of a pass: by the graphs before and after it.
    pub(crate) planted_pass: Option<(&'static str, PassFault)>,
}

/// What a faulty pass leaves, by the graph before it and the one that the pass leaves.
pub type PassFault = fn(&Graph, &Graph) -> Option<Graph>;

/// What a panic said.
fn said(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_string()
}

/// Does something that must not panic.
pub(crate) fn guarded<T>(place: &str, f: impl FnOnce() -> T) -> Result<T, Finding> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|p| Finding {
        kind: Kind::Panic,
        place: place.into(),
        message: said(p),
    })
}

pub(crate) fn finding<T>(kind: Kind, place: &str, message: impl Into<String>) -> Result<T, Finding> {
    Err(Finding { kind, place: place.into(), message: message.into() })
}

/// A program with arguments, and what it makes of them.
struct Defined {
    sizes: Sizes,
    before: Memory,
    after: Memory,
    seen: Seen,
}

impl Judge {
    /// One with a fault planted.
    pub fn planted(primitive: &'static str, fault: fn(&Applied) -> Option<Kernel>) -> Judge {
        Judge { planted: Some((primitive, fault)), ..Judge::default() }
    }

    /// One with a fault planted in a pass.
    pub fn planted_in_pass(pass: &'static str, fault: PassFault) -> Judge {
        Judge { planted_pass: Some((pass, fault)), ..Judge::default() }
    }

    /// Judges a case: the first thing that does not hold, or what is to be compiled of it.
    pub fn judge(&mut self, case: &Case) -> Result<Vec<Code>, Finding> {
        self.counts.cases += 1;
        if check(&case.program).is_err() || case.program.to_string().len() > TEXT {
            return Ok(vec![]);
        }
        read_back(&case.program, "program")?;
        let mut defined = runs(&case.program, case)?;
        self.counts.defined += u64::from(!defined.is_empty());
        let mut out = code(case, &case.program, &defined)?;
        let (mut s, mut changed) = (Schedule::new(case.program.clone()), false);
        let mut moves = case.moves.iter().peekable();
        while let Some(m) = moves.next() {
            let Move::Step(step) = m else { continue };
            let name = step.split_whitespace().next().unwrap_or_default().to_string();
            let done = guarded(&name, || s.step(step))?;
            let counts = self.counts.steps.entry(name.clone()).or_default();
            if done.is_err() {
                counts.refused += 1;
                while matches!(moves.peek(), Some(Move::Change(..))) {
                    moves.next();
                }
                continue;
            }
            counts.applied += 1;
            changed = true;
            let mut applied = s.steps().last().expect("it was applied just now").clone();
            let mut text = applied.after.to_string();
            if text.len() > TEXT {
                break;
            }
            let mut pretended = false;
            while let Some(Move::Change(from, to)) = moves.peek() {
                pretended = true;
                text = text.replace(from.as_str(), to);
                moves.next();
            }
            if pretended {
                let Some(after) = parse(&text).ok().filter(|k| check(k).is_ok()) else { break };
                applied.after = after;
            } else if let Some(after) = self.planted.filter(|p| p.0 == name).and_then(|p| p.1(&applied)) {
                applied.after = after;
                s = Schedule::new(applied.after.clone());
            }
            defined = self.step(&name, &applied, defined, pretended)?;
            if pretended {
                // What was pretended is not where the scheduler goes on from.
                return Ok(out);
            }
        }
        if changed {
            out.extend(code(case, s.kernel(), &defined)?);
        }
        Ok(out)
    }

    /// Judges one step of a case's program, whoever did it.
    pub fn judge_step(&mut self, case: &Case, step: &Applied) -> Result<(), Finding> {
        let name = step.step.split_whitespace().next().unwrap_or_default().to_string();
        let defined = runs(&step.before, case)?;
        self.step(&name, step, defined, false).map(drop)
    }

    /// Judges a step; the runs of the program after it.
    fn step(
        &mut self,
        name: &str,
        step: &Applied,
        before: Vec<Defined>,
        pretended: bool,
    ) -> Result<Vec<Defined>, Finding> {
        if let Err(e) = check(&step.after) {
            // The checker believes marks, and that steps do.
            if before.is_empty() || before.iter().any(|d| d.seen.meet.is_some()) {
                return Ok(vec![]);
            }
            return finding(Kind::Broken, name, e.to_string());
        }
        read_back(&step.after, name)?;
        let certificate = guarded(name, || self.certify(name, step))?;
        let machine = guarded(name, || by_instructions(&step.after))?;
        let (mut out, mut same) = (vec![], !before.is_empty());
        for d in before {
            let work = 4 * WORK + 4 * d.seen.work;
            let after = guarded(name, || run(&step.after, &d.sizes, &d.before, work))?;
            let tag = certificate.as_ref().copied().unwrap_or(step.tag);
            let like = |ran: &Ran| {
                likeness(tag, &d.seen, &ran.seen)
                    .map(|like| compare(&step.before, &d.sizes, &d.after, &ran.memory, like))
            };
            let mut differs = match &after {
                Ok(ran) if !ran.seen.ended => continue,
                Ok(ran) => like(ran),
                Err(e) => Some(Err(e.to_string())),
            };
            if let Some(Ok(())) = differs {
                differs = match &machine {
                    Ok(None) => differs,
                    Ok(Some(k)) => match guarded(name, || run(k, &d.sizes, &d.before, work))? {
                        Ok(ran) if !ran.seen.ended => continue,
                        Ok(ran) => like(&ran),
                        Err(e) => Some(Err(format!("by its instructions: {e}"))),
                    },
                    Err(e) => Some(Err(e.clone())),
                };
            }
            same &= differs == Some(Ok(())) && d.seen.meet.is_none();
            if let Some(Err(what)) = differs {
                match (&certificate, &d.seen.meet) {
                    (Ok(_), _) => return finding(Kind::Proof, name, about(step, &d.sizes, &what)),
                    (Err(_), None) if !pretended => {
                        return finding(Kind::Meaning, name, about(step, &d.sizes, &what));
                    }
                    _ => return Ok(vec![]),
                }
            }
            let Ok(ran) = after else { continue };
            if d.seen.parallel.is_none()
                && let (Some(what), Ok(_)) = (&ran.seen.parallel, &certificate)
            {
                return finding(Kind::Proof, name, about(step, &d.sizes, what));
            }
            let parallel = ran.seen.parallel.as_ref().filter(|_| d.seen.parallel.is_none());
            if d.seen.meet.is_none()
                && let Some(what) = ran.seen.meet.as_ref().or(parallel)
                && !pretended
            {
                return finding(Kind::Marks, name, about(step, &d.sizes, what));
            }
            out.push(Defined { sizes: d.sizes, before: d.before, after: ran.memory, seen: ran.seen });
        }
        let counts = self.counts.steps.entry(name.to_string()).or_default();
        match &certificate {
            Ok(_) => counts.certified += 1,
            Err(Refusal::Unproved(_)) => {}
            Err(_) if pretended => counts.caught += 1,
            Err(e) if same => {
                counts.alarms += 1;
                self.alarms.push((name.into(), e.clone()));
            }
            Err(_) => {}
        }
        Ok(out)
    }

    /// The tag of a certificate that is found and accepted.
    fn certify(&mut self, name: &str, step: &Applied) -> Result<Tag, Refusal> {
        if !PROVED.contains(&name) {
            return Err(Refusal::Unproved(name.into()));
        }
        let hint = witness(&step.before, &step.step);
        let c = self.prover.search(&step.before, &step.after, hint)?;
        lathe_verify::check(&step.before, &step.after, &c)
    }
}

/// What a finding says of a step.
fn about(step: &Applied, sizes: &Sizes, what: &str) -> String {
    let sizes: Vec<String> = sizes.iter().map(|(n, v)| format!(" {n}={v}")).collect();
    format!("after '{}' ({}){}: {what}", step.step, step.tag, sizes.concat())
}

/// Demands that a program is read back as it is printed.
fn read_back(k: &Kernel, place: &str) -> Result<(), Finding> {
    let text = k.to_string();
    match guarded(place, || parse(&text))? {
        Ok(again) if again == *k || again.to_string() == text => Ok(()),
        Ok(again) => finding(Kind::Text, place, format!("{text} is read back as {again}")),
        Err(e) => finding(Kind::Text, place, format!("{e} in {text}")),
    }
}

/// The runs of a program that is defined.
fn runs(k: &Kernel, case: &Case) -> Result<Vec<Defined>, Finding> {
    let mut out = vec![];
    let mut random = Random::new(case.seed ^ 0x5eed);
    let machine = guarded("program", || by_instructions(k))?;
    for turn in 0..RUNS {
        let size = |d: &lathe_ir::Name, random: &mut Random| {
            let given = case.sizes.iter().find(|(n, _)| n == d).map(|(_, v)| *v).filter(|v| *v > 0);
            let others: &[i64] = if turn == 1 { &[17, 20, 33] } else { &[1, 2, 3, 4, 5, 7, 8, 9, 16] };
            let other = random.pick(others).copied();
            given.filter(|_| turn == 0).or(other).unwrap_or(1)
        };
        let sizes: Sizes = k.dims.iter().map(|d| (d.clone(), size(d, &mut random))).collect();
        let Some(before) = guarded("program", || arguments(k, &sizes, case.seed.wrapping_add(turn)))? else {
            continue;
        };
        // A program that leaves its buffers is not defined, nor is one whose instructions are not what they wrap.
        let Ok(ran) = guarded("program", || run(k, &sizes, &before, WORK))? else { continue };
        let true_to_rows = match &machine {
            Ok(None) => true,
            Ok(Some(m)) => guarded("program", || run(m, &sizes, &before, WORK))?.is_ok_and(|by| {
                by.seen.ended && compare(k, &sizes, &ran.memory, &by.memory, Likeness::Near).is_ok()
            }),
            Err(_) => false,
        };
        if ran.seen.ended && ran.seen.unwritten.is_none() && true_to_rows {
            out.push(Defined { sizes, before, after: ran.memory, seen: ran.seen });
        }
    }
    Ok(out)
}

/// Statements of a kernel with what is written out counted as often as it is, and lanes as vectors.
fn written_out(body: &[Stmt]) -> u64 {
    body.iter()
        .map(|s| match s {
            Stmt::For(l) => {
                let inner = 1 + written_out(&l.body);
                let times = l.extent.as_int().unwrap_or(64).clamp(1, 1 << 20) as u64;
                match &*l.level {
                    UNROLLED => inner.saturating_mul(times),
                    LANE => inner.saturating_mul(times.div_ceil(4)),
                    _ => inner,
                }
            }
            Stmt::If(_, b) | Stmt::Intrinsic(_, b) => 1 + written_out(b),
            Stmt::Store(_) | Stmt::Alloc(_) => 1,
        })
        .fold(0, u64::saturating_add)
}

/// Writes a program in every dialect, which must not panic; and what of it may be compiled and compared.
fn code(case: &Case, k: &Kernel, runs: &[Defined]) -> Result<Vec<Code>, Finding> {
    if written_out(&k.body) > WRITTEN_OUT || k.to_string().len() > TEXT {
        return Ok(vec![]);
    }
    for dialect in Dialect::all() {
        guarded(dialect.name, || emit(k, "k", dialect).map(|e| e.source.len()))?.ok();
    }
    let judged = |d: &&Defined| d.seen.exact && d.seen.open.is_none() && d.seen.meet.is_none();
    let found = runs.iter().find(judged).filter(|_| !is_network(k));
    let of = |d: &Defined| Code {
        case: case.clone(),
        kernel: k.clone(),
        sizes: d.sizes.clone(),
        before: d.before.clone(),
        after: d.after.clone(),
    };
    Ok(found.map(of).into_iter().collect())
}

/// How what a compiled program left is compared with what the interpreter did.
pub(crate) const OF_CODE: Likeness = Likeness::Values;
