//! The virtual clock: when the steps of programs would run, by the description of a machine and the times of kernels.

use crate::{ExecError, Span};
use lathe_ir::step::{Bytes, Cost, Op, Program, Unit, Unrolled, check_ranks, order, unroll};
use lathe_ir::{IrError, Name};
use lathe_machine::Machine;
use std::collections::HashMap;

/// The name by which links lead to other ranks.
pub const NETWORK: &str = "network";

/// What steps take.
#[derive(Clone, Copy, Debug)]
pub struct Costs<'a> {
    /// The machine that each rank runs on. Copies between tiers need a link of it; messages take theirs, if there is one, to
    /// [`NETWORK`].
    pub machine: &'a Machine,
    /// Seconds of each kernel, measured ([`Executable::profile`](crate::Executable::profile)) or assumed.
    pub kernels: &'a HashMap<Name, f64>,
}

impl Costs<'_> {
    /// What a step of a rank takes. All calls of a rank share its cores; all copies over a link share that.
    fn of(&self, rank: usize, p: &Program, unit: &Unit<'_>) -> Result<Cost, IrError> {
        let resource = |n: usize| Some(rank * (self.machine.links.len() + 1) + n);
        let tier = |b: u32| &*p.buffers[b as usize].tier;
        let over = |from: &str, to: &str, bytes: i64| {
            let at = self.machine.links.iter().position(|l| l.from == from && l.to == to)?;
            Some(Cost { seconds: self.machine.links[at].seconds(bytes as u64), resource: resource(at + 1) })
        };
        let copy = |from: &Bytes, to: &Bytes| match (tier(from.buffer), tier(to.buffer)) {
            (a, b) if a == b => {
                let rate = self.machine.memory(a).and_then(|m| m.read_bandwidth.at(1));
                let seconds = rate.map_or(0.0, |r| from.len as f64 / r.median);
                Ok(Cost { seconds, resource: resource(0) })
            }
            (a, b) => over(a, b, from.len)
                .ok_or_else(|| IrError::run(&*unit.place, format!("no link leads from {a} to {b}"))),
        };
        Ok(match &unit.op {
            Op::Call(kernel, _) => match self.kernels.get(*kernel) {
                Some(seconds) => Cost { seconds: *seconds, resource: resource(0) },
                None => {
                    return Err(IrError::run(&*unit.place, format!("nobody says how long {kernel} takes")));
                }
            },
            // How many pages a list has, or are held already, is not known here: all come.
            Op::Copy(from, to) | Op::Pages(from, to, ..) => copy(from, to)?,
            Op::Hold(held, ..) => held.iter().try_fold(Cost::default(), |sum, (from, to, _)| {
                let one = copy(from, to)?;
                Ok(Cost { seconds: sum.seconds + one.seconds, resource: one.resource })
            })?,
            Op::Send(bytes, ..) => over(tier(bytes.buffer), NETWORK, bytes.len).unwrap_or_default(),
            // A split moves nothing: those here are there already.
            Op::Meet | Op::Signal(_) | Op::Wait(_) | Op::Receive(..) | Op::Split(..) => Cost::default(),
        })
    }
}

/// When each call, copy and message of the programs (one a rank) starts and ends, earliest first.
pub fn virtual_run(
    programs: &[&Program],
    dims: &HashMap<Name, i64>,
    costs: &Costs<'_>,
) -> Result<Vec<Span>, ExecError> {
    let get = |n: &str| dims.get(n).copied();
    let ranks = programs.iter().map(|p| unroll(p, &get)).collect::<Result<Vec<Unrolled<'_>>, _>>()?;
    match &ranks[..] {
        [alone] => alone.check()?,
        ranks => check_ranks(ranks)?,
    }
    let mut spans = vec![];
    for t in order(&ranks, &mut |rank, unit| costs.of(rank, programs[rank], unit))? {
        let unit = &ranks[t.rank].queues[t.queue][t.index];
        let (Some(step), false) = (unit.step, matches!(unit.op, Op::Meet | Op::Signal(_) | Op::Wait(_)))
        else {
            continue;
        };
        let queue = programs[t.rank].all_queues().nth(t.queue).map_or("", |(name, _)| name);
        spans.push(Span {
            rank: t.rank as u32,
            queue: queue.into(),
            step: programs[t.rank].line(step),
            start: t.start,
            seconds: t.finish - t.start,
        });
    }
    Ok(spans)
}
