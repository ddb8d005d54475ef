//! Who is served next: flows that wait for a common engine get shares of it by weight.
//!
//! Each flow, a client at a priority, has a counter of the tokens computed for it, divided by its weight; the flow of least
//! count goes next (the virtual token counter of Sheng et al. 2024). One that comes back after it had nothing to do takes up
//! with the least of the others: it may not save up. So a flow with much to do cannot keep another one waiting, and no flow
//! waits forever.

use std::collections::{BTreeMap, VecDeque};

use crate::scheduler::{Sequence, SequenceId};

/// Whose work something is, and how much it weighs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// The client.
    pub client: u64,
    /// A flow of priority `p` gets `2^p` times the share of one of priority 0; from -8 to 8.
    pub priority: i8,
}

impl Flow {
    /// What a token costs the flow.
    fn cost(self) -> u64 {
        1 << (8 - self.priority.clamp(-8, 8))
    }
}

/// The sequences that wait, by flow and in each by arrival.
#[derive(Debug, Default)]
pub(crate) struct Flows(BTreeMap<Flow, Queue>);

#[derive(Debug, Default)]
struct Queue {
    served: u64,
    waiting: VecDeque<Sequence>,
}

impl Flows {
    /// A flow has something to do, beside those that run.
    pub(crate) fn enter(&mut self, flow: Flow, running: impl Iterator<Item = Flow>) {
        let running: Vec<Flow> = running.collect();
        let active = |flow: &Flow, queue: &Queue| !queue.waiting.is_empty() || running.contains(flow);
        if self.0.get(&flow).is_some_and(|queue| active(&flow, queue)) {
            return;
        }
        let least = self.0.iter().filter(|(flow, queue)| active(flow, queue)).map(|(_, q)| q.served).min();
        match least {
            // A flow that would be lifted anyway is forgotten: there are as many as matter.
            Some(least) => self.0.retain(|flow, queue| active(flow, queue) || queue.served > least),
            None => self.0.clear(),
        }
        let queue = self.0.entry(flow).or_default();
        queue.served = queue.served.max(least.unwrap_or(0));
    }

    /// A sequence waits, in its place by arrival.
    pub(crate) fn push(&mut self, sequence: Sequence) {
        let waiting = &mut self.0.entry(sequence.flow).or_default().waiting;
        let index = waiting.partition_point(|s| s.id < sequence.id);
        waiting.insert(index, sequence);
    }

    /// So many tokens were computed for a flow.
    pub(crate) fn charge(&mut self, flow: Flow, tokens: usize) {
        self.0.entry(flow).or_default().served += tokens as u64 * flow.cost();
    }

    fn next(&self) -> Option<Flow> {
        let order = |(flow, queue): (&Flow, &Queue)| Some((queue.served, queue.waiting.front()?.id, *flow));
        self.0.iter().filter_map(order).min().map(|(_, _, flow)| flow)
    }

    /// The sequence that is next.
    pub(crate) fn first(&self) -> Option<&Sequence> {
        self.0.get(&self.next()?)?.waiting.front()
    }

    /// Takes the sequence that is next.
    pub(crate) fn pop(&mut self) -> Option<Sequence> {
        let flow = self.next()?;
        self.0.get_mut(&flow)?.waiting.pop_front()
    }

    /// Takes a sequence out, if it is there.
    pub(crate) fn remove(&mut self, id: SequenceId) -> Option<Sequence> {
        self.0.values_mut().find_map(|queue| {
            let index = queue.waiting.iter().position(|s| s.id == id)?;
            queue.waiting.remove(index)
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.values().all(|queue| queue.waiting.is_empty())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Sequence> {
        self.0.values().flat_map(|queue| &queue.waiting)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Sequence> {
        self.0.values_mut().flat_map(|queue| &mut queue.waiting)
    }
}
