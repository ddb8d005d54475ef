//! The facts that a program's kernels rely on: those of buffers that the caller passes are checked at the program's door,
//! once for all kernels; those of buffers that a kernel makes are promised by that kernel, or else checked at the door of the
//! kernel that relies on them.

use crate::ExecError;
use crate::executable::Place;
use lathe_ir::step::{Bytes, Op, Unrolled};
use lathe_ir::tensor::{Access, Buffer, Fact, Kernel};
use lathe_ir::{DType, Int, Name};
use lathe_runtime::{RuntimeError, View};
use std::collections::HashSet;

/// What one buffer must hold.
pub(crate) struct Promise {
    buffer: Name,
    place: Place,
    view: View,
    /// Number of elements in use.
    len: Int,
    fact: Fact,
    /// Boundaries of segments, where they are, and how many: of a fact about segments.
    segments: Option<(View, Place, Int)>,
    /// The queue and the step before which it is checked, for what the program makes itself.
    pub step: Option<(usize, usize)>,
}

impl Promise {
    /// Follows memory that was put under buffers.
    pub fn moved(&mut self, placed: &[(u32, View)]) -> Result<(), RuntimeError> {
        if let Some(view) = self.place.moved(placed) {
            self.view = view?;
        }
        if let Some((view, place, _)) = &mut self.segments
            && let Some(moved) = place.moved(placed)
        {
            *view = moved?;
        }
        Ok(())
    }
}

/// Collects what must be checked, in the order of queues and steps.
pub(crate) fn promises<'k>(
    u: &Unrolled<'_>,
    kernel: &dyn Fn(&Name) -> Option<&'k Kernel>,
    memory: &dyn Fn(Bytes) -> Result<(View, Place), ExecError>,
) -> Result<Vec<Promise>, ExecError> {
    // Who writes what: the content of bytes that another queue writes is known to nobody beforehand.
    let mut writers: HashSet<(Bytes, usize)> = HashSet::new();
    for (queue, unit) in u.queues.iter().enumerate().flat_map(|(q, us)| us.iter().map(move |x| (q, x))) {
        writers.extend(unit.op.touches().into_iter().filter(|(_, w)| *w).map(|(b, _)| (b, queue)));
    }
    let meet = |a: &Bytes, b: &Bytes| {
        a.buffer == b.buffer && (a == b || (a.offset < b.offset + b.len && b.offset < a.offset + a.len))
    };
    let mut out: Vec<Promise> = vec![];
    for (queue, units) in u.queues.iter().enumerate() {
        let others = |b: &Bytes| writers.iter().any(|(w, q)| *q != queue && meet(w, b));
        let mut made: Vec<(Bytes, Vec<Fact>)> = vec![];
        for (index, unit) in units.iter().enumerate() {
            let (name, args) = match &unit.op {
                Op::Call(name, args) => (*name, args),
                Op::Split(_, s) => {
                    // Its parts are as what it is made of, a list is not.
                    let known = |of: &Bytes| {
                        let mut makers = made.iter().filter(|(b, _)| meet(b, of));
                        let first =
                            makers.next().filter(|(b, _)| b.buffer == of.buffer && b.offset == of.offset);
                        let facts = first.filter(|_| makers.next().is_none()).map(|(_, facts)| facts.clone());
                        facts.unwrap_or_default()
                    };
                    let (offsets, index) = (known(&s.of.offsets), known(&s.of.index));
                    for side in [&s.here, &s.come, &s.away] {
                        for (part, facts) in [(side.offsets, &offsets), (side.index, &index)] {
                            made.retain(|(b, _)| *b != part);
                            made.push((part, facts.clone()));
                        }
                    }
                    continue;
                }
                op => {
                    let written = op.touches().into_iter().filter(|(_, w)| *w);
                    made.extend(written.map(|(b, _)| (b, vec![])));
                    continue;
                }
            };
            let Some(k) = kernel(name) else { continue };
            for (p, (arg, _)) in k.params.iter().zip(args) {
                let [view] = p.views.as_slice() else { continue };
                let promised: Vec<&Fact> =
                    view.facts.iter().filter(|f| !matches!(f, Fact::Padded(..))).collect();
                if p.access == Access::Out {
                    made.retain(|(b, _)| b != arg);
                    made.push((*arg, promised.into_iter().cloned().collect()));
                    continue;
                }
                let buffer = &u.program.buffers[arg.buffer as usize].name;
                for fact in promised {
                    let mut makers = made.iter().filter(|(b, _)| meet(b, arg)).peekable();
                    let late = others(arg) || makers.peek().is_some();
                    // A name inside a fact is the kernel's own, so that of another kernel promises nothing.
                    let local = matches!(fact, Fact::Ascending(_));
                    if !local
                        && !others(arg)
                        && late
                        && makers.all(|(b, known)| b == arg && known.contains(fact))
                    {
                        continue;
                    }
                    if view.dtype != DType::I32 {
                        return Err(ExecError::Buffer {
                            program: u.program.name.clone(),
                            buffer: buffer.to_string(),
                            message: format!("has facts, and elements of type {}, not i32", view.dtype),
                        });
                    }
                    let size = |b: &Buffer| b.shape.iter().fold(Int::from(1), |n, d| n * d.clone());
                    let len = size(view);
                    let mut segments = None;
                    if let Fact::Ascending(name) = fact {
                        for (p, (arg, _)) in k.params.iter().zip(args) {
                            if let Some(b) = p.views.iter().find(|b| b.name == *name) {
                                let (view, place) = memory(*arg)?;
                                segments = Some((view, place, size(b)));
                            }
                        }
                    }
                    let step = late.then_some((queue, index));
                    let same = |o: &Promise| {
                        o.place.bytes == *arg && o.fact == *fact && o.len == len && o.step == step
                    };
                    if !out.iter().any(same) {
                        let (buffer, fact, (view, place)) = (buffer.clone(), fact.clone(), memory(*arg)?);
                        out.push(Promise { buffer, place, view, len, fact, segments, step });
                    }
                }
            }
        }
    }
    Ok(out)
}

/// Checks what buffers hold, with the dimensions bound.
pub(crate) fn check<'p>(
    program: &str,
    promises: impl Iterator<Item = &'p Promise>,
    get: &dyn Fn(&str) -> Option<i64>,
    scratch: &mut Vec<i32>,
) -> Result<(), ExecError> {
    for p in promises {
        scratch.resize(p.len.eval(get).unwrap_or(0).max(0) as usize, 0);
        p.view.read(0, scratch)?;
        let broken = match &p.fact {
            Fact::Range(lo, hi) => {
                let (lo, hi) = (lo.eval(get).unwrap_or(0), hi.eval(get).unwrap_or(0));
                let at = scratch.iter().position(|v| i64::from(*v) < lo || i64::from(*v) >= hi);
                at.map(|i| format!("holds {} at {i}, outside {lo}..{hi}", scratch[i]))
            }
            Fact::Monotone => {
                let at = scratch.windows(2).position(|w| w[0] > w[1]);
                at.map(|i| format!("decreases from {} to {} at {i}", scratch[i], scratch[i + 1]))
            }
            Fact::Injective => {
                scratch.sort_unstable();
                let at = scratch.windows(2).position(|w| w[0] == w[1]);
                at.map(|i| format!("holds {} more than once", scratch[i]))
            }
            Fact::Ascending(_) => {
                let (offsets, _, n) = p.segments.as_ref().expect("found when it was collected");
                let mut bounds = vec![0i32; n.eval(get).unwrap_or(0).max(0) as usize];
                offsets.read(0, &mut bounds)?;
                let inside = |v: i32| (v.max(0) as usize).min(scratch.len());
                let mut segments = bounds.windows(2).map(|w| inside(w[0])..inside(w[1].max(w[0])));
                let at = segments.find_map(|s| {
                    let i = scratch[s.clone()].windows(2).position(|w| w[0] >= w[1])?;
                    Some(s.start + i)
                });
                at.map(|i| format!("goes from {} to {} at {i}, inside a segment", scratch[i], scratch[i + 1]))
            }
            Fact::Padded(..) => None,
        };
        if let Some(message) = broken {
            let (program, buffer) = (program.to_string(), p.buffer.to_string());
            return Err(ExecError::Buffer { program, buffer, message });
        }
    }
    Ok(())
}
