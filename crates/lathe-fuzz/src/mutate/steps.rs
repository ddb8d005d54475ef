//! Changes of what is done to a program: steps whose arguments are loops, blocks and buffers that are there, and texts that wrong
//! steps might have left.

use super::number;
use crate::case::{Case, Move};
use crate::random::Random;
use lathe_ir::tensor::{For, Kernel, Node, Stmt, for_each};
use lathe_schedule::{INTRINSICS, PRIMITIVES, Schedule};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Steps that are tried until one is applied.
const TRIES: usize = 12;

/// Leaves out a move.
pub(super) fn remove(case: &mut Case, random: &mut Random) {
    if !case.moves.is_empty() {
        case.moves.remove(random.below(case.moves.len()));
    }
}

/// Exchanges two moves.
pub(super) fn exchange(case: &mut Case, random: &mut Random) {
    let n = case.moves.len();
    if n > 1 {
        case.moves.swap(random.below(n), random.below(n));
    }
}

/// Leaves out the last moves.
pub(super) fn shorten(case: &mut Case, random: &mut Random) {
    case.moves.truncate(random.below(case.moves.len()));
}

/// Changes a word of a step.
pub(super) fn word(case: &mut Case, random: &mut Random) {
    let at = random.below(case.moves.len());
    if let Some(Move::Step(s)) = case.moves.get_mut(at) {
        *s = other_word(s, random);
    }
}

/// One more step at some place.
pub(super) fn further(case: &mut Case, random: &mut Random) {
    let at = random.below(case.moves.len() + 1);
    insert(case, at, random);
}

/// One more step at the end.
pub(super) fn last(case: &mut Case, random: &mut Random) {
    let end = case.moves.iter().rposition(|m| matches!(m, Move::Step(_))).map_or(0, |i| i + 1);
    case.moves.truncate(end);
    insert(case, end, random);
}

/// Puts a step at a place, one that is applied there if one is found.
fn insert(case: &mut Case, at: usize, random: &mut Random) {
    let s = replayed(case, at);
    let mut step = String::new();
    for _ in 0..TRIES {
        let Some(text) = any_step(s.kernel(), random) else { return };
        step = text.trim_end().into();
        let mut tried = s.clone();
        match catch_unwind(AssertUnwindSafe(|| tried.step(&step).is_ok())) {
            Ok(false) => {}
            Ok(true) | Err(_) => break,
        }
    }
    case.moves.insert(at, Move::Step(step));
}

/// The program after the moves before a place, of which some may be refused.
fn replayed(case: &Case, at: usize) -> Schedule {
    let mut s = Schedule::new(case.program.clone());
    for m in &case.moves[..at] {
        if let Move::Step(step) = m {
            let mut tried = s.clone();
            if let Ok(Ok(())) = catch_unwind(AssertUnwindSafe(|| tried.step(step))) {
                s = tried;
            }
        }
    }
    s
}

/// What steps may name.
#[derive(Default)]
struct Names {
    loops: Vec<Arc<For>>,
    blocks: Vec<(String, Vec<String>)>,
    temporaries: Vec<(String, usize)>,
    buffers: Vec<String>,
}

fn names(k: &Kernel) -> Names {
    let mut n = Names::default();
    n.buffers.extend(k.views().map(|v| v.name.to_string()));
    for_each(&k.body, &mut |s| match s {
        Stmt::For(l) => n.loops.push(l.clone()),
        Stmt::Alloc(b) => {
            n.temporaries.push((b.name.to_string(), b.shape.len()));
            n.buffers.push(b.name.to_string());
        }
        Stmt::Store(b) => {
            let mut reads = vec![];
            for v in &b.values {
                v.visit(&mut |e| {
                    if let Node::Load(n, _) = &**e {
                        reads.push(n.to_string());
                    }
                });
            }
            n.blocks.push((b.name.to_string(), reads));
        }
        _ => {}
    });
    n
}

/// The loops that a loop is around, from the next one inwards.
fn inside(l: &For) -> Vec<String> {
    let mut out = vec![];
    for_each(&l.body, &mut |s| {
        if let Stmt::For(l) = s {
            out.push(l.var.to_string());
        }
    });
    out
}

/// Memories that a step may name.
const MEMORIES: [&str; 2] = ["register", "workspace"];

/// Some step; nothing where there is nothing to name.
fn any_step(k: &Kernel, random: &mut Random) -> Option<String> {
    let n = names(k);
    let name = random.pick(PRIMITIVES)?.name;
    let l = random.pick(&n.loops)?;
    let within = inside(l);
    let var = &l.var;
    let factor = number(random);
    let other = &random.pick(&n.loops)?.var;
    let memory = random.pick(&MEMORIES)?;
    let buffer = random.pick(&n.buffers)?.clone();
    let (block, reads) = random.pick(&n.blocks)?.clone();
    let read = random.pick(&reads).cloned().unwrap_or_else(|| buffer.clone());
    let (temporary, rank) = random.pick(&n.temporaries).cloned().unwrap_or((buffer.clone(), 1));
    let some = |random: &mut Random| -> String {
        let kept: Vec<&str> = within.iter().map(String::as_str).filter(|_| !random.one_in(3)).collect();
        kept.join(" ")
    };
    Some(match name {
        "split" | "peel" => format!("{name} {var} {factor}"),
        "fuse" => format!("{name} {var} {}", within.first().map_or(&**other, |w| w)),
        "join" => format!("{name} {var} {other}"),
        "contract" => format!("{name} {temporary}"),
        "sink" if random.one_in(2) => format!("{name} {var}"),
        "sink" => format!("{name} {var} {}", random.pick(&within).map_or("", |w| w)),
        "cache_read" => {
            let reads: Vec<String> = read_inside(l);
            let b = random.pick(&reads).cloned().unwrap_or(read);
            format!("{name} {var} {b} {memory} {}", some(random))
        }
        "cache_write" => format!("{name} {var} {buffer} {memory}"),
        "online" => {
            let others: Vec<&str> =
                n.loops.iter().map(|l| &*l.var).filter(|v| *v != &**var && random.one_in(2)).collect();
            format!("{name} {var} {}", others.join(" "))
        }
        "align" => format!("{name} {temporary} {}", 4 * factor.min(4)),
        "skew" => format!("{name} {temporary} {} {factor}", random.below(rank.max(1))),
        "set_memory" => format!("{name} {temporary} {memory}"),
        "prefetch" => format!("{name} {var} {read} {block}"),
        "tensorize" => format!("{name} {var} {}", random.pick(INTRINSICS)?.name),
        "nontemporal" => format!("{name} {block}"),
        "stage" => format!("{name} {read} {block}"),
        "stream" => {
            format!("{name} {temporary} P{} Q{} {}", random.below(3), random.below(3), 1 + random.below(4))
        }
        "space_time" => format!("{name} {var} {other} {read}+{var} {}", 1 + random.below(3)),
        "vectorize" if random.one_in(3) => format!("{name} {var} masked"),
        _ => format!("{name} {var}"),
    })
}

/// Buffers that a loop's body reads.
fn read_inside(l: &For) -> Vec<String> {
    let mut out = vec![];
    for_each(&l.body, &mut |s| {
        if let Stmt::Store(b) = s {
            for v in &b.values {
                v.visit(&mut |e| {
                    if let Node::Load(n, _) = &**e {
                        out.push(n.to_string());
                    }
                });
            }
        }
    });
    out
}

/// A step with a number changed, or with another primitive's name.
fn other_word(step: &str, random: &mut Random) -> String {
    let mut words: Vec<String> = step.split_whitespace().map(String::from).collect();
    let numbers: Vec<usize> = (0..words.len()).filter(|i| words[*i].parse::<i64>().is_ok()).collect();
    match random.pick(&numbers) {
        Some(i) => words[*i] = number(random).to_string(),
        None => {
            if let (Some(w), Some(p)) = (words.first_mut(), random.pick(PRIMITIVES)) {
                *w = p.name.into();
            }
        }
    }
    words.join(" ")
}

/// Lets the last step that is applied leave something else: one line of the program after it changed, or gone, or exchanged
/// with another.
pub(super) fn pretend(case: &mut Case, random: &mut Random) {
    let Some(last) = case.moves.iter().rposition(|m| matches!(m, Move::Step(_))) else {
        return insert(case, 0, random);
    };
    let s = replayed(case, last + 1);
    let mut text = s.kernel().to_string();
    for m in &case.moves[last + 1..] {
        if let Move::Change(from, to) = m {
            text = text.replace(from.as_str(), to);
        }
    }
    let lines: Vec<&str> = text.lines().skip(1).filter(|l| l.trim().len() > 1).collect();
    let Some(line) = random.pick(&lines) else { return };
    let to = match random.below(12) {
        0 if line.contains(" = ") => String::new(),
        _ => other_text(line, &lines, random),
    };
    if to != *line {
        case.moves.push(Move::Change((*line).into(), to));
    }
}

/// A line with a number, a name or a sign changed.
fn other_text(line: &str, lines: &[&str], random: &mut Random) -> String {
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    let mut words: Vec<String> = vec![];
    for c in line.chars() {
        match words.last_mut() {
            Some(last) if word(c) && last.chars().all(word) => last.push(c),
            _ => words.push(c.to_string()),
        }
    }
    let of = |i: usize| words[i].chars().next().is_some_and(|c| c.is_alphanumeric() || "+-*/%<".contains(c));
    let places: Vec<usize> = (0..words.len()).filter(|i| of(*i)).collect();
    let Some(&at) = random.pick(&places) else { return line.into() };
    let w = words[at].clone();
    words[at] = if let Ok(n) = w.parse::<i64>() {
        [n.saturating_add(1), n.saturating_sub(1), 0, n.saturating_mul(2), n / 2][random.below(5)]
            .max(0)
            .to_string()
    } else if let Some(sign) = ["+", "-", "*", "/", "%"].iter().find(|s| **s == w) {
        let others = ["+", "-", "*", "/", "%"];
        others.iter().filter(|o| o != &sign).nth(random.below(4)).map_or(w.clone(), |s| s.to_string())
    } else if let Some(pair) =
        [("min", "max"), ("sum", "max"), ("max", "min"), ("spatial", "sequential"), ("serial", "lane")]
            .iter()
            .find(|p| p.0 == w)
    {
        pair.1.into()
    } else {
        // Another name of the program.
        let from = random.pick(lines).map_or("", |l| l);
        let names: Vec<&str> =
            from.split(|c| !word(c)).filter(|n| n.starts_with(|c: char| c.is_alphabetic())).collect();
        random.pick(&names).map_or(w, ToString::to_string)
    };
    words.concat()
}
