//! Times of candidates: all of a batch in one library, on the same memory, taking turns. What a candidate computes is
//! compared with what the rules' own schedule does.

use crate::random::Random;
use crate::{Task, TuneError};
use lathe_compile::{Bound, Function};
use lathe_ir::tensor::{Access, Expr, Fact, Kernel, Node, Param, Stmt, for_each};
use lathe_ir::{DType, Name};
use lathe_runtime::{Arena, Buffer, View};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Rounds of turns; the best one of a candidate counts.
const ROUNDS: usize = 3;
/// How long a turn is.
const TURN: Duration = Duration::from_millis(4);
/// Bytes that no cache holds.
const COLD: usize = 96 << 20;
/// Most copies of what is read.
const COPIES: usize = 48;
/// Rows are stored padded to a multiple of this.
const PADDING: i64 = lathe_compile::ROW_PADDING;

/// Where candidates of a task run.
pub(crate) struct Place<'t> {
    task: &'t Task,
    /// The same content several times, so that caches do not hold what a real run reads from memory.
    copies: Vec<HashMap<Name, View>>,
    /// What is changed in place, as it is before.
    before: Vec<(View, Vec<u8>)>,
}

/// What came of a candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Timed {
    /// Seconds of a call.
    Seconds(f64),
    /// It computes something else.
    Differs,
}

/// The buffers whose elements say where other elements are.
fn indices(k: &Kernel) -> HashSet<Name> {
    let mut found = HashSet::new();
    let mut inside = |e: &Expr| {
        e.visit(&mut |e| {
            if let Node::Load(n, _) = &**e {
                found.insert(n.clone());
            }
        });
    };
    let mut all = |e: &Expr| {
        e.visit(&mut |e| {
            if let Node::Load(_, i) = &**e {
                i.iter().for_each(&mut inside);
            }
        });
    };
    for_each(&k.body, &mut |s| match s {
        Stmt::Store(b) => {
            b.values.iter().for_each(&mut all);
            // An index of a target is an index as well.
            let wrapped = b.targets.iter().map(|(n, i)| Expr::load(n, i));
            wrapped.for_each(|e| all(&e));
        }
        Stmt::If(c, _) => all(c),
        _ => {}
    });
    found
}

/// Whether how often a loop runs is read from memory.
pub(crate) fn ragged(k: &Kernel) -> bool {
    let mut found = false;
    for_each(&k.body, &mut |s| {
        if let Stmt::For(l) = s {
            l.extent.visit(&mut |e| found |= matches!(&**e, Node::Load(..)));
        }
    });
    found
}

/// Bytes of a parameter, its rows padded.
pub(crate) fn bytes(p: &Param, dims: &[(Name, i64)]) -> usize {
    let padded = |n: &str| {
        let (_, v) = dims.iter().find(|(d, _)| **d == *n)?;
        Some((v + PADDING - 1) / PADDING * PADDING)
    };
    (p.bits.eval(&padded).unwrap_or(0).max(0) as usize).div_ceil(8) + 64
}

/// Content that computes with ordinary numbers whatever its type: floats between -1 and 1, places that are there, and in packed
/// bytes such ones that no float of any width is very large or very small.
fn content(p: &Param, places: &HashSet<Name>, len: usize) -> Vec<u8> {
    if let Some(v) = p.views.iter().find(|v| places.contains(&v.name)) {
        let width = v.dtype.bits() as usize / 8;
        let injective = v.facts.iter().any(|f| matches!(f, Fact::Injective));
        let place = |i: usize| if injective { (i as u64).to_le_bytes() } else { [0; 8] };
        return (0..len).map(|i| place(i / width.max(1))[i % width.clamp(1, 8)]).collect();
    }
    let mut random = Random(p.bits.as_const().unwrap_or(1) as u64);
    let block: Vec<u8> = match p.views.as_slice() {
        [v] if v.dtype == DType::F32 => {
            let mut one = || (random.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
            (0..PATTERN / 4).flat_map(|_| one().to_le_bytes()).collect()
        }
        _ => (0..PATTERN).map(|_| 0x30 | (random.next() >> 61) as u8).collect(),
    };
    block.iter().copied().cycle().take(len).collect()
}

/// Bytes after which made-up content repeats itself.
const PATTERN: usize = 1 << 16;

impl<'t> Place<'t> {
    /// Memory for a task.
    pub fn new(task: &'t Task) -> Result<Place<'t>, TuneError> {
        let (arena, places) = (Arena::new("host", usize::MAX), indices(&task.kernel));
        let read: usize =
            task.kernel.params.iter().filter(|p| p.access == Access::In).map(|p| bytes(p, &task.dims)).sum();
        let count = if task.cold { COLD.div_ceil(read.max(1)).clamp(1, COPIES) } else { 1 };
        let (mut copies, mut before): (Vec<HashMap<Name, View>>, Vec<(View, Vec<u8>)>) = (vec![], vec![]);
        for i in 0..count {
            let mut views = HashMap::new();
            for p in &task.kernel.params {
                // Only what is read is there more than once.
                if i > 0 && p.access != Access::In {
                    views.insert(p.name.clone(), copies[0][&p.name].clone());
                    continue;
                }
                let len = bytes(p, &task.dims);
                let view = arena.alloc(len).map(Buffer::into_view).map_err(below)?;
                let content = content(p, &places, len);
                view.write(0, &content).map_err(below)?;
                if p.access == Access::InOut {
                    before.push((view.clone(), content));
                }
                views.insert(p.name.clone(), view);
            }
            copies.push(views);
        }
        Ok(Place { task, copies, before })
    }

    /// What a function writes.
    fn results(&self, f: &mut Bound) -> Result<Vec<(DType, Vec<u8>)>, TuneError> {
        for (view, bytes) in &self.before {
            view.write(0, bytes).map_err(below)?;
        }
        f.run()?;
        let exact = |n: &str| self.task.dims.iter().find(|(d, _)| **d == *n).map(|(_, v)| *v);
        let mut out = vec![];
        for p in self.task.kernel.params.iter().filter(|p| p.access != Access::In) {
            let len = p.bits.eval(&exact).unwrap_or(0).max(0) as usize / 8;
            let mut bytes = vec![0u8; len];
            self.copies[0][&p.name].read(0, &mut bytes).map_err(below)?;
            let single = if let [v] = p.views.as_slice() { v.dtype } else { DType::U8 };
            out.push((single, bytes));
        }
        Ok(out)
    }

    /// The times of functions, of which the first is the one to compare with; none where that cannot run on made-up content.
    pub fn time(&self, functions: &[Function], rounds: usize) -> Result<Vec<Timed>, TuneError> {
        let dims: Vec<(&str, i64)> = self.task.dims.iter().map(|(n, v)| (&**n, *v)).collect();
        let mut want: Option<Vec<(DType, Vec<u8>)>> = None;
        let mut bound: Vec<Option<Vec<Bound>>> = vec![];
        for f in functions {
            let all = self.copies.iter().map(|views| f.bind(&dims, views));
            let mut all = all.collect::<Result<Vec<Bound>, _>>()?;
            let got = match self.results(&mut all[0]) {
                Ok(got) => got,
                Err(_) if want.is_none() => return Ok(vec![]),
                Err(e) => return Err(e),
            };
            let same = want.as_ref().is_none_or(|want| want.iter().zip(&got).all(|(a, b)| close(a, b)));
            want.get_or_insert(got);
            bound.push(same.then_some(all));
        }
        let mut best = vec![f64::INFINITY; functions.len()];
        for _ in 0..rounds.max(ROUNDS) {
            for (all, best) in bound.iter_mut().zip(&mut best) {
                let Some(all) = all else { continue };
                let (start, mut calls) = (Instant::now(), 0);
                // Whole rounds over the copies, so that each is cold when its turn comes.
                while calls == 0 || start.elapsed() < TURN {
                    for f in all.iter_mut() {
                        f.run()?;
                        calls += 1;
                    }
                }
                *best = best.min(start.elapsed().as_secs_f64() / f64::from(calls));
            }
        }
        let timed = |(b, seconds): (&Option<Vec<Bound>>, f64)| match b {
            Some(_) => Timed::Seconds(seconds),
            None => Timed::Differs,
        };
        Ok(bound.iter().zip(best).map(timed).collect())
    }
}

/// Of packed bytes, one in so many may differ by more than one.
const CODES: usize = 100;

/// Whether two results are the same but for the order of sums. A code may fall to the other side of a half then.
fn close((t, a): &(DType, Vec<u8>), (_, b): &(DType, Vec<u8>)) -> bool {
    if *t != DType::F32 {
        let far = |(x, y): &(&u8, &u8)| x.wrapping_sub(**y).wrapping_add(1) > 2;
        return a.iter().zip(b).filter(far).count() * CODES <= a.len();
    }
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
    };
    let (a, b) = (floats(a), floats(b));
    let scale = a.iter().fold(0f32, |m, v| if v.is_finite() { m.max(v.abs()) } else { m });
    a.iter().zip(&b).all(|(x, y)| x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= 1e-4 * scale)
}

fn below(e: lathe_runtime::RuntimeError) -> TuneError {
    TuneError::Run(e.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lathe_ir::tensor::parse;
    use lathe_machine::Target;
    use lathe_runtime::Pool;
    use std::sync::Arc;

    fn scaled(by: &str) -> Kernel {
        let text = format!(
            "kernel f() {{\n  in x: f32[64]\n  out y: f32[64]\n  for i in 64 spatial serial {{\n    S: y[i] = x[i] * {by}f32\n  }}\n}}"
        );
        parse(&text).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn what_computes_something_else_is_not_timed() {
        let (two, three) = (scaled("2"), scaled("3"));
        let task = Task {
            key: String::new(),
            name: String::new(),
            kernel: two.clone(),
            parts: vec![],
            few: None,
            calls: 1,
            dims: vec![],
            cold: false,
        };
        let (folder, pool) = (tempfile::tempdir().unwrap(), Arc::new(Pool::new(1).unwrap()));
        let place = Place::new(&task).unwrap();
        let functions =
            Function::all(&[&two, &three, &two], &Target::portable(), folder.path(), &pool).unwrap();
        let times = place.time(&functions, 1).unwrap();
        assert!(matches!(times[..], [Timed::Seconds(_), Timed::Differs, Timed::Seconds(_)]), "{times:?}");
    }
}
