//! The memory of a compiled model: its inputs, cache, results and activations, and what of its weights and cache passes through
//! from what is below. What is here decides where everything lies before a step runs.

use crate::EngineError;
use crate::error::below;
use crate::huge_pages::HugePages;
use crate::lower::Lower;
use crate::offload::{BELOW, DIRECT, Holding, Placement, Spilling, Streamed, Streaming, spilled};
use crate::report::{Footprint, Stage};
use crate::runner::{RunnerOptions, adapted};
use crate::split::Splitting;
use crate::weights::Weights;
use lathe_compile::Compiled;
use lathe_exec::{Executable, HeldRoom, Places};
use lathe_ir::Name;
use lathe_ir::graph::{Source, Type};
use lathe_ir::step::{Program, Step};
use lathe_ir::tensor::HOST;
use lathe_rewrite::{
    CACHE, CACHE_WINDOW, EXPERTS, EXPERTS_AWAY, EXPERTS_HELD, EXPERTS_HERE, Hold, PAGES_NEW, PAGES_USED,
    RELAY, RELAY_STORE, STORE, Spill, Split, WINDOW, storage_bytes,
};
use lathe_runtime::{Arena, View};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What a step reads and writes, and the programs over it.
pub(crate) struct Memory {
    /// A program for each class of step sizes.
    pub programs: Vec<Executable>,
    /// What a step is given, by name.
    pub inputs: HashMap<Name, View>,
    /// The parts of the cache that are in memory, with the bytes of a page of each.
    pub states: Vec<(View, usize)>,
    /// How the parts of a large cache come into huge pages.
    pub huge_pages: Option<HugePages>,
    /// The result.
    pub logits: View,
    /// How much of everything there is.
    pub footprint: Footprint,
    /// Weights that come from a disk.
    pub stream: Option<Streaming>,
    /// Experts that come from one.
    pub holding: Option<Holding>,
    /// Keys and values that lie on one.
    pub spilling: Option<Spilling>,
}

impl Memory {
    /// Gives a compiled model its memory, within the budget of `options` where there is one.
    pub fn new(
        compiled: &Compiled,
        weights: Weights,
        options: &RunnerOptions,
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Memory, EngineError> {
        let Weights { given, bytes: weights_bytes, store } = weights;
        // Who reads the logits has a copy of them.
        let outside = weights_bytes + row_bytes(compiled) as usize * options.max_rows;
        let capacity = options.budget.as_ref().map_or(usize::MAX, |b| b.left().saturating_sub(outside));
        let most: HashMap<Name, i64> = compiled.graph.dims.iter().cloned().collect();
        let states = states_of(compiled, options.pages);
        let (mut fixed, mut spill) = (0, None);
        if let Some(budget) = &options.budget {
            let least = store.as_ref().map_or(0, |store| Placement::least(compiled, store));
            let all = fixed_bytes(compiled, options.threads);
            let (pages, room) = (options.pages, capacity.saturating_sub(least));
            (fixed, spill) = spilled(compiled, &states, pages, budget.spilled_layers, all, room)
                .map_err(|fixed| budget.too_small(outside + least + fixed))?;
        }
        let arena = Arena::new("host", capacity);
        let mut binding =
            Binding { compiled, options, most, arena, places: Places { given, ..Places::default() } };
        let inputs = binding.inputs()?;
        let away: HashSet<Name> =
            spill.iter().flat_map(|s| s.layers.iter().flatten()).map(|s| s.name.clone()).collect();
        let states = states.into_iter().filter(|(name, _)| !away.contains(name));
        let (states, huge_pages) = binding.states(states.collect())?;
        let logits = binding.results()?;
        let (mut stream, mut holding, mut spilling, mut kept) = (None, None, None, 0);
        if let Some(budget) = &options.budget {
            binding.places.links.extend(budget.links());
            let (mut streamed, mut held) = (None, None);
            if let Some(store) = &store {
                let placement = Placement::choose(compiled, store, (capacity - fixed) as u64)
                    .map_err(|needed| budget.too_small(outside + fixed + needed as usize))?;
                let before = binding.arena.used();
                store.keep(&placement.kept, &binding.arena, &mut binding.places.given, progress)?;
                (streamed, held) = (placement.stream, placement.hold);
                kept = binding.arena.used() - before;
            }
            let stored = spill.as_ref().map(|spill| spill.stored() as usize);
            let split = held.as_ref().and_then(|(hold, room)| binding.split(hold, *room));
            let (hold, room) = held.unzip();
            let away = split.as_ref().map_or(0, |split| split.away as usize);
            let lower = budget.lower(store.as_ref(), streamed, hold, away, stored)?;
            stream = lower.stream.map(|streamed| binding.streaming(streamed)).transpose()?;
            if let Some(((hold, from), [room, _])) = lower.hold.zip(room) {
                let mut splitting = None;
                if let (Some(split), Some(away), Lower::Memory(store)) = (split, lower.away, &from) {
                    let split = Split { hold: hold.clone(), ..split };
                    splitting = Some(binding.splitting(split, [store, &away], progress)?);
                }
                holding = Some(binding.holding(hold, from, splitting, room)?);
            }
            let spilled = spill.zip(lower.beside);
            spilling = spilled.map(|(spill, lower)| binding.spilling(spill, lower)).transpose()?;
        }
        let cache_bytes = states.iter().map(|(v, _)| v.len()).sum::<usize>();
        let programs = binding.programs(stream.as_ref(), holding.as_ref(), spilling.as_ref())?;
        let room = holding.as_ref().map_or(0, |h| h.room.bytes());
        let footprint = Footprint {
            weights_bytes: (weights_bytes + kept + room) as u64,
            experts_bytes: holding.as_ref().map_or(0, |h| h.hold.window() as u64),
            streamed_bytes: stream.as_ref().map_or(0, |s| s.streamed.stream.copied() as u64),
            disk_bytes: stream.as_ref().map_or(0, |s| s.streamed.disk_bytes()),
            cache_bytes: cache_bytes as u64,
            spilled_bytes: spilling.as_ref().map_or(0, |s| s.spill.stored() as u64),
            activation_bytes: (binding.arena.used() - cache_bytes - kept - room) as u64,
        };
        Ok(Memory { programs, inputs, states, huge_pages, logits, footprint, stream, holding, spilling })
    }

    /// Writes something into all of the cache: memory that was never written is one page of zeros for the processor's caches.
    pub fn fill_states(&self) -> Result<(), EngineError> {
        let words = [0x2c2c_2c2c_u32; 1 << 12];
        for (view, _) in &self.states {
            let bytes = std::mem::size_of_val(&words);
            for at in (0..view.len()).step_by(bytes) {
                view.write(at, &words[..bytes.min(view.len() - at) / 4]).map_err(below)?;
            }
        }
        Ok(())
    }
}

/// Bytes of all caches up to which it matters little whether all of it is real memory.
const SMALL_CACHE: usize = 32 << 20;

/// Memory as it is given out.
struct Binding<'a> {
    compiled: &'a Compiled,
    options: &'a RunnerOptions,
    /// The most that each dimension can be.
    most: HashMap<Name, i64>,
    arena: Arena,
    places: Places,
}

impl Binding<'_> {
    fn alloc(&self, bytes: usize) -> Result<View, EngineError> {
        self.arena.alloc(bytes.max(64)).map(lathe_runtime::Buffer::into_view).map_err(below)
    }

    fn bytes(&self, ty: &Type) -> usize {
        storage_bytes(ty, &|n| self.most.get(n).copied())
    }

    fn inputs(&mut self) -> Result<HashMap<Name, View>, EngineError> {
        let mut inputs = HashMap::new();
        for v in self.compiled.graph.values.iter().filter(|v| v.source == Source::Input) {
            let size = self.bytes(&v.ty);
            // The places of adapters are zero until one comes, and cost nothing.
            let view = match adapted(&v.name) {
                Some(_) => self.arena.alloc_sparse(size).map_err(below)?.into_view(),
                None => self.alloc(size)?,
            };
            inputs.insert(v.name.clone(), view);
        }
        self.places.given.extend(inputs.clone());
        Ok(inputs)
    }

    /// The caches that are in memory, of so many bytes a page. Pages of large ones that are not written cost nothing; small ones lie in
    /// huge pages, as a step reads them all over and would miss many address translations, and large ones come there where they
    /// fill.
    fn states(
        &mut self,
        states: Vec<(Name, i64)>,
    ) -> Result<(Vec<(View, usize)>, Option<HugePages>), EngineError> {
        let bytes = |page: i64| (page as usize * self.options.pages).next_multiple_of(64);
        let all = states.iter().map(|(_, page)| bytes(*page)).sum::<usize>();
        let sparse = all > SMALL_CACHE;
        let all = match sparse {
            false => self.alloc(all)?,
            true => self.arena.alloc_sparse(all).map_err(below)?.into_view(),
        };
        let mut at = 0;
        let mut views = vec![];
        for (name, page) in states {
            let view = all.part(at, bytes(page)).map_err(below)?;
            at += view.len();
            self.places.given.insert(name, view.clone());
            views.push((view, page as usize));
        }
        let huge_pages = sparse.then(|| HugePages::new(all, &views, self.options.pages));
        Ok((views, huge_pages))
    }

    /// The logits, and what lies between the operators.
    fn results(&mut self) -> Result<View, EngineError> {
        let result = self.compiled.graph.value(self.compiled.graph.outputs[0]);
        let logits = self.alloc(self.bytes(&result.ty))?;
        self.places.given.insert(result.name.clone(), logits.clone());
        let planned = self.compiled.classes.iter().map(|c| c.plan.arena_bytes).max().unwrap_or(0);
        self.places.planned.insert(HOST.into(), self.alloc(planned as usize)?);
        Ok(logits)
    }

    fn spilling(&mut self, spill: Spill, lower: Lower) -> Result<Spilling, EngineError> {
        let spill = Spill { tier: lower.tier().into(), ..spill };
        let list = || self.alloc((self.options.pages + 1) * 4);
        let (used, new) = (list()?, list()?);
        let largest = spill.layers.iter().flatten().map(|s| s.page).max().unwrap_or(0) as usize;
        let page = self.alloc(largest.max(DIRECT))?;
        let window = self.alloc((spill.window() as usize).max(DIRECT))?;
        let given = [(CACHE_WINDOW, &window), (PAGES_USED, &used), (PAGES_NEW, &new)];
        self.places.given.extend(given.map(|(name, view)| (name.into(), view.clone())));
        lower.give(CACHE, &mut self.places);
        Ok(Spilling { spill, lower, used, new, page })
    }

    fn streaming(&mut self, streamed: Streamed) -> Result<Streaming, EngineError> {
        let window = self.alloc(streamed.stream.window as usize)?;
        self.places.given.insert(WINDOW.into(), window.clone());
        streamed.lower.give(STORE, &mut self.places);
        if let Some(relay) = &streamed.relay {
            self.places.given.insert(RELAY.into(), relay.window.clone());
            Lower::File(relay.file.clone()).give(RELAY_STORE, &mut self.places);
        }
        Ok(Streaming { streamed, window, ready: false })
    }

    /// Addresses for all experts, of which so many bytes become real memory.
    fn holding(
        &mut self,
        hold: Hold,
        lower: Lower,
        splitting: Option<Splitting>,
        room: u64,
    ) -> Result<Holding, EngineError> {
        // What layers' products make on the device is in this room.
        let mut room = room as usize;
        if let Some(s) = &splitting {
            let here = self.alloc(s.split.here as usize)?;
            room -= here.len().next_multiple_of(64);
            self.places.given.insert(EXPERTS_HERE.into(), here);
        }
        let taken = self.arena.reserve(room).map_err(below)?;
        let addresses = Arena::new("addresses", usize::MAX);
        let window = addresses.alloc_sparse(hold.window() as usize).map_err(below)?.into_view();
        let mut room = HeldRoom::new(room, lathe_plan::EXPECTED_ROWS);
        let split = splitting.map(|s| {
            self.places.pools.insert(BELOW.into(), s.pool);
            (s.split, s.chooser)
        });
        let split = split.map(|(split, chooser)| {
            room = std::mem::replace(&mut room, HeldRoom::new(0, 0)).with_chooser(chooser);
            split
        });
        let room = Arc::new(room);
        self.places.given.insert(EXPERTS_HELD.into(), window);
        self.places.held = Some(room.clone());
        lower.give(EXPERTS, &mut self.places);
        Ok(Holding { hold, lower, split, room, _taken: taken })
    }

    /// How experts are computed in the host's memory too, where they may be and there is room for what belongs to them, of these
    /// bytes for those that stay and the least that they need.
    fn split(&self, hold: &Hold, [room, least]: [u64; 2]) -> Option<Split> {
        let host = self.options.budget.as_ref()?.host.as_ref()?;
        if Splitting::threads(host, self.options) == 0 {
            return None;
        }
        let programs: Vec<&Program> = self.compiled.classes.iter().map(|c| &c.plan.run).collect();
        let split = Split::new(hold, &programs)?;
        (least + split.here as u64 + 64 <= room).then_some(split)
    }

    /// Gets ready to compute experts where they lie.
    fn splitting(
        &mut self,
        split: Split,
        memory: [&View; 2],
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Splitting, EngineError> {
        let host = self.options.budget.as_ref().and_then(|b| b.host.as_ref()).expect("it has room there");
        self.places.given.insert(EXPERTS_AWAY.into(), memory[1].clone());
        Splitting::new(self.compiled, self.options, host, split, memory, progress)
    }

    fn programs(
        &self,
        stream: Option<&Streaming>,
        holding: Option<&Holding>,
        spilling: Option<&Spilling>,
    ) -> Result<Vec<Executable>, EngineError> {
        let of = |c: &lathe_compile::Class| {
            let mut program = Cow::Borrowed(&c.plan.run);
            if let Some(s) = spilling {
                program = Cow::Owned(s.spill.apply(&program));
            }
            if let Some(h) = holding {
                program = Cow::Owned(match &h.split {
                    Some(split) => split.apply(&program),
                    None => h.hold.apply(&program),
                });
            }
            if let Some(Streamed { stream, relay, .. }) = stream.map(|s| &s.streamed) {
                program = Cow::Owned(stream.apply(&program));
                if let Some(relay) = relay {
                    program = Cow::Owned(relay.stream.apply_relay(&program, BELOW));
                }
            }
            Executable::bind(&program, &c.images, &self.places, &self.most, self.options.threads, &self.arena)
                .map_err(below)
        };
        self.compiled.classes.iter().map(of).collect()
    }
}

/// Bytes that a compiled model needs beside its weights: cache, inputs, logits, activations, scratch space.
pub(crate) fn fixed_bytes(compiled: &Compiled, threads: usize) -> usize {
    let g = &compiled.graph;
    let most: HashMap<Name, i64> = g.dims.iter().cloned().collect();
    let bytes = |t: &Type| storage_bytes(t, &|n| most.get(n).copied()).max(64).next_multiple_of(64);
    let held = |v: &&lathe_ir::graph::Value| matches!(v.source, Source::Input | Source::State);
    let values: usize = g.values.iter().filter(held).map(|v| bytes(&v.ty)).sum();
    let logits = bytes(&g.value(g.outputs[0]).ty);
    let planned = compiled.classes.iter().map(|c| c.plan.arena_bytes).max().unwrap_or(0) as usize;
    let scratch = |c: &lathe_compile::Class| Executable::workspace_bytes(&c.images, &most, threads);
    values + logits + planned.next_multiple_of(64) + compiled.classes.iter().map(scratch).sum::<usize>() + 128
}

/// Bytes of the logits of one sequence.
pub(crate) fn row_bytes(compiled: &Compiled) -> u64 {
    let ty = &compiled.graph.value(compiled.graph.outputs[0]).ty;
    let row = Type { shape: vec![lathe_ir::Int::from(1), ty.shape[1].clone()], ..ty.clone() };
    storage_bytes(&row, &|_| None) as u64
}

/// Bytes of the cache of a compiled model with so many pages.
pub(crate) fn state_bytes(compiled: &Compiled, pages: usize) -> usize {
    states_of(compiled, pages).iter().map(|(_, page)| *page as usize * pages).sum()
}

/// The states of a compiled model, with the bytes of a page of each.
fn states_of(compiled: &Compiled, pages: usize) -> Vec<(Name, i64)> {
    let g = &compiled.graph;
    let most: HashMap<Name, i64> = g.dims.iter().cloned().collect();
    let page = |t: &Type| (storage_bytes(t, &|n| most.get(n).copied()) / pages) as i64;
    let states = g.values.iter().filter(|v| v.source == Source::State);
    states.map(|v| (v.name.clone(), page(&v.ty))).collect()
}

/// Bytes of all packed weights, each a multiple of `unit`.
pub(crate) fn packed_bytes(compiled: &Compiled, unit: usize) -> usize {
    let load = &compiled.classes[0].plan.load;
    let written = |s: &Step| -> Vec<u32> {
        let Step::Call { args, writes, .. } = s else { return vec![] };
        args.iter().zip(writes).filter(|(_, w)| **w).map(|(a, _)| a.buffer).collect()
    };
    let bytes = |b: u32| load.buffers[b as usize].bytes.as_const().unwrap_or(0) as usize;
    load.steps.iter().flat_map(written).map(|b| bytes(b).next_multiple_of(unit)).sum()
}
