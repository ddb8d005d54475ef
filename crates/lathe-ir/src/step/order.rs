//! The order in which the steps of all queues, of one program or of the programs of several ranks, happen when each step
//! takes a given time: a discrete-event run. It computes nothing; with all costs zero it gives an order to interpret in.

use super::{Op, Unit, Unrolled};
use crate::IrError;
use std::collections::HashMap;

/// What a step takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// How long it takes.
    pub seconds: f64,
    /// What it has to itself for that time (a link, the cores), by a number of the caller's.
    pub resource: Option<usize>,
}

/// A step that happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timed {
    /// The rank.
    pub rank: usize,
    /// The queue, in the order of [`Program::all_queues`](super::Program::all_queues).
    pub queue: usize,
    /// The step's index in the queue, loops written out.
    pub index: usize,
    /// When it began: after what its queue did before, what it waits for, and what else used its resource.
    pub start: f64,
    /// When it was over.
    pub finish: f64,
}

/// Runs the programs of all ranks, earliest steps first, or says who waits for what forever. The messages of a program that
/// is alone come from ranks unknown here, at once.
pub fn order(
    ranks: &[Unrolled<'_>],
    cost: &mut dyn FnMut(usize, &Unit<'_>) -> Result<Cost, IrError>,
) -> Result<Vec<Timed>, IrError> {
    // A queue with its position and the time it is free at, and the cost of its next step.
    struct At {
        rank: usize,
        queue: usize,
        next: usize,
        free: f64,
        cost: Cost,
    }
    let mut queues = vec![];
    for (rank, r) in ranks.iter().enumerate() {
        for (queue, units) in r.queues.iter().enumerate().filter(|(_, u)| !u.is_empty()) {
            queues.push(At { rank, queue, next: 0, free: 0.0, cost: cost(rank, &units[0])? });
        }
    }
    // Times of an event's signals (its count at the start: at 0), of a channel's messages, and how many are taken.
    let starts = |r: &Unrolled<'_>| -> Vec<(i64, Vec<f64>, usize)> {
        r.program.events.iter().map(|e| (e.count, vec![], 0)).collect()
    };
    let mut events: Vec<_> = ranks.iter().map(starts).collect();
    let mut messages: HashMap<(usize, u32, u64), (Vec<f64>, usize)> = HashMap::new();
    let mut busy: HashMap<usize, f64> = HashMap::new();
    let mut out = vec![];
    loop {
        let mut first: Option<(usize, f64)> = None;
        for (i, q) in queues.iter().enumerate() {
            let Some(unit) = ranks[q.rank].queues[q.queue].get(q.next) else { continue };
            let ready = match unit.op {
                Op::Wait(e) => {
                    let (count, signals, taken) = &events[q.rank][e as usize];
                    let nth = *taken as i64 - count;
                    if nth < 0 { Some(0.0) } else { signals.get(nth as usize).copied() }
                }
                Op::Receive(_, from, tag) if ranks.len() > 1 => {
                    let channel = messages.get(&(from as usize, q.rank as u32, tag));
                    channel.and_then(|(times, taken)| times.get(*taken).copied())
                }
                _ => Some(0.0),
            };
            let Some(ready) = ready else { continue };
            let free = q.cost.resource.and_then(|r| busy.get(&r).copied()).unwrap_or(0.0);
            let start = q.free.max(ready).max(free);
            if first.is_none_or(|(_, earliest)| start < earliest) {
                first = Some((i, start));
            }
        }
        let Some((i, start)) = first else { break };
        let q = &mut queues[i];
        let units = &ranks[q.rank].queues[q.queue];
        let finish = start + q.cost.seconds;
        if let Some(r) = q.cost.resource {
            busy.insert(r, finish);
        }
        match units[q.next].op {
            Op::Wait(e) => events[q.rank][e as usize].2 += 1,
            Op::Signal(e) => events[q.rank][e as usize].1.push(finish),
            Op::Send(_, to, tag) => messages.entry((q.rank, to, tag)).or_default().0.push(finish),
            Op::Receive(_, from, tag) => {
                messages.entry((from as usize, q.rank as u32, tag)).or_default().1 += 1;
            }
            _ => {}
        }
        out.push(Timed { rank: q.rank, queue: q.queue, index: q.next, start, finish });
        (q.next, q.free) = (q.next + 1, finish);
        if let Some(unit) = units.get(q.next) {
            q.cost = cost(q.rank, unit)?;
        }
    }
    let stuck = queues.iter().filter_map(|q| {
        let r = &ranks[q.rank];
        let unit = r.queues[q.queue].get(q.next)?;
        let what = match unit.op {
            Op::Wait(e) => format!("event '{}'", r.program.events[e as usize].name),
            Op::Receive(_, from, tag) => format!("tag {tag} from rank {from}"),
            _ => return None,
        };
        Some(format!("{} waits for {what}", unit.place))
    });
    match stuck.collect::<Vec<_>>() {
        none if none.is_empty() => Ok(out),
        stuck => {
            Err(IrError::check(ranks[0].program.name.clone(), format!("deadlock: {}", stuck.join("; "))))
        }
    }
}
