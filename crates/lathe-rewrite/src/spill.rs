//! State that does not fit: pages of keys and values lie on another tier, and those of a layer are in memory while it is
//! computed.
//!
//! The states of a layer share one of two slots. Before the layer, the pages that the step uses come into the slot, while the
//! layer before is computed; behind it, the pages that the step has written go back. Which pages these are the caller says
//! in two lists, [`PAGES_USED`] and [`PAGES_NEW`], in every run anew.

use crate::stream::{buffer, event, in_turn, part};
use lathe_ir::Name;
use lathe_ir::step::{Part, Program, Queue, Step};
use lathe_ir::tensor::HOST;
use std::collections::HashMap;

/// The buffer on the other tier.
pub const CACHE: &str = "cache";
/// The buffer in memory: the slots.
pub const CACHE_WINDOW: &str = "cache_window";
/// The list of pages that a run reads or writes: words of 32 bits, their count, then the pages, rising.
pub const PAGES_USED: &str = "pages_used";
/// The list of pages that a run writes.
pub const PAGES_NEW: &str = "pages_new";

/// What places are multiples of, bytes: a disk is read past the page cache by sectors.
const ALIGN: i64 = 4096;

/// Layers at once in memory: one is computed, one comes or goes.
const SLOTS: i64 = 2;

/// A state on the other tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spilled {
    /// Its buffer in the program.
    pub name: Name,
    /// Its first byte on the other tier.
    pub offset: i64,
    /// Its first byte in its layer's slot.
    place: i64,
    /// Bytes of a page.
    pub page: i64,
}

/// How states come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spill {
    /// The tier that they lie on.
    pub tier: Name,
    /// Pages of each state.
    pub pages: i64,
    /// The states of each layer, in the order of the program.
    pub layers: Vec<Vec<Spilled>>,
}

fn whole(bytes: i64) -> i64 {
    (bytes + ALIGN - 1) / ALIGN * ALIGN
}

impl Spill {
    /// Of a program's states (with the bytes of a page each), those of its last layers, `layers` of them: what steps use
    /// together is a layer.
    pub fn new(program: &Program, tier: &str, states: &[(Name, i64)], pages: i64, layers: usize) -> Spill {
        // A state with the first and last step that uses it.
        let mut lives: Vec<(usize, usize, &(Name, i64))> = vec![];
        for state in states {
            let uses = |s: &Step| {
                let Step::Call { args, .. } = s else { return false };
                args.iter().any(|a| program.buffers[a.buffer as usize].name == state.0)
            };
            let first = program.steps.iter().position(uses);
            let last = program.steps.iter().rposition(uses);
            lives.extend(first.zip(last).map(|(first, last)| (first, last, state)));
        }
        lives.sort_by_key(|(first, ..)| *first);
        let mut groups: Vec<(usize, Vec<&(Name, i64)>)> = vec![];
        for (first, last, state) in lives {
            match groups.last_mut() {
                Some((end, group)) if first <= *end => {
                    *end = (*end).max(last);
                    group.push(state);
                }
                _ => groups.push((last, vec![state])),
            }
        }
        let mut at = 0;
        let skipped = groups.len().saturating_sub(layers);
        let layer = |(_, group): (usize, Vec<&(Name, i64)>)| {
            let mut place = 0;
            let state = |(name, page): &(Name, i64)| {
                let spilled = Spilled { name: name.clone(), offset: at, place, page: *page };
                (at, place) = (at + whole(page * pages), place + whole(page * pages));
                spilled
            };
            group.into_iter().map(state).collect()
        };
        Spill { tier: tier.into(), pages, layers: groups.into_iter().skip(skipped).map(layer).collect() }
    }

    /// Bytes of a slot: the largest layer's.
    fn slot(&self) -> i64 {
        let end = |l: &Vec<Spilled>| l.last().map_or(0, |s| s.place + whole(s.page * self.pages));
        self.layers.iter().map(end).max().unwrap_or(0)
    }

    /// Bytes of the slots together.
    pub fn window(&self) -> i64 {
        self.slot() * SLOTS
    }

    /// Bytes on the other tier.
    pub fn stored(&self) -> i64 {
        let last = self.layers.last().and_then(|l| l.last());
        last.map_or(0, |s| s.offset + whole(s.page * self.pages))
    }

    /// The program with queues that bring and take the pages; it is given [`CACHE`], [`CACHE_WINDOW`] and the two lists.
    pub fn apply(&self, program: &Program) -> Program {
        let mut p = program.clone();
        let store = buffer(&mut p, CACHE, self.stored(), &self.tier);
        let window = buffer(&mut p, CACHE_WINDOW, self.window(), HOST);
        let [used, new] =
            [PAGES_USED, PAGES_NEW].map(|name| Part::from(buffer(&mut p, name, (self.pages + 1) * 4, HOST)));
        let free = event(&mut p, "cache_free", SLOTS);
        let full = event(&mut p, "cache_full", 0);
        let written = event(&mut p, "cache_written", 0);
        let (mut bring, mut take) = (vec![], vec![]);
        let mut places: HashMap<&Name, (usize, Part)> = HashMap::new();
        for (i, layer) in self.layers.iter().enumerate() {
            bring.push(Step::Wait(free));
            take.push(Step::Wait(written));
            for s in layer {
                let (page, len) = (s.page, s.page * self.pages);
                let away = part(store, s.offset, len);
                let here = part(window, i as i64 % SLOTS * self.slot() + s.place, len);
                let (from, to, list) = (away.clone(), here.clone(), used.clone());
                bring.push(Step::Pages { from, to, page, list });
                take.push(Step::Pages { from: here.clone(), to: away, page, list: new.clone() });
                places.insert(&s.name, (i, here));
            }
            bring.push(Step::Signal(full));
            take.push(Step::Signal(free));
        }
        let buffers: Vec<Name> = program.buffers.iter().map(|b| b.name.clone()).collect();
        p.steps = in_turn(program.steps.clone(), &buffers, &places, self.layers.len(), full, written);
        p.queues.push(Queue { name: "bring".into(), steps: bring });
        p.queues.push(Queue { name: "take".into(), steps: take });
        crate::only_used(p)
    }
}
