//! From a model's file to its graph, and to its weights in memory as a compiled graph wants them.

use crate::error::below;
use crate::report::Stage;
use crate::store::Store;
use crate::{EngineError, RunnerOptions};
use lathe_compile::Compiled;
use lathe_exec::Executable;
use lathe_ir::Name;
use lathe_ir::graph::Source;
use lathe_ir::step::{Part, Program, Step};
use lathe_models::{CacheShape, Model, ModelFile, TensorInfo, build};
use lathe_rewrite::{only_used, read_once};
use lathe_runtime::{Arena, DiskFile, Pool, StoreWriter, View};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Constants of at most this many bytes are copied from the file.
const COPIED: usize = 64 << 10;

/// What the programs of a compiled graph are given that does not change.
pub(crate) struct Weights {
    /// The storage of each constant, and of each value that is made of constants alone.
    pub given: HashMap<Name, View>,
    /// Bytes that were allocated for them.
    pub bytes: usize,
    /// Those that are on a disk.
    pub store: Option<Store>,
}

/// The model of a file, sized as `options` says; refused where it is an encoder and none is wanted, or the reverse.
pub(crate) fn model(
    encoder: Option<bool>,
    file: &ModelFile,
    options: &RunnerOptions,
) -> Result<Model, EngineError> {
    let shape = CacheShape {
        elements: options.kv_type.unwrap_or_default(),
        pages: options.pages as i64,
        context: options.context as i64,
        max_tokens: options.max_tokens as i64,
        max_sequences: options.max_sequences as i64,
        adapters: options.adapters.clone(),
    };
    let mut model = build(file, &shape).map_err(below)?;
    if encoder.is_some_and(|encoder| encoder != model.encoder) {
        return Err(EngineError::Purpose { encoder: model.encoder });
    }
    for (name, most) in &mut model.graph.dims {
        if &**name == "R" {
            *most = options.max_rows.max(options.max_sequences) as i64;
        }
    }
    Ok(model)
}

/// Whether a weight that no step packs is copied: what is small, for the system may map 2 MiB of a file for one vector.
fn is_copied(file: &ModelFile, info: &TensorInfo) -> bool {
    info.byte_len() <= COPIED || file.mapping(info).is_none()
}

/// What brings constants from a file's layout to that of the kernels.
pub(crate) struct Packing<'a> {
    file: &'a ModelFile,
    compiled: &'a Compiled,
    pool: &'a Pool,
    arena: Arena,
    most: HashMap<Name, i64>,
    given: HashMap<Name, View>,
    in_file: HashMap<Name, &'a TensorInfo>,
}

impl<'a> Packing<'a> {
    /// Constants: made by the family, straight from the file's mapping, or made from what the file holds.
    pub fn new(
        file: &'a ModelFile,
        model: &Model,
        compiled: &'a Compiled,
        pool: &'a Pool,
    ) -> Result<Packing<'a>, EngineError> {
        let g = &compiled.graph;
        let most = g.dims.iter().cloned().collect();
        let (given, in_file) = Default::default();
        let arena = Arena::new("host", usize::MAX);
        let mut packing = Packing { file, compiled, pool, arena, most, given, in_file };
        for v in &g.values {
            let Source::Const(name) = &v.source else { continue };
            if let Some(t) = model.made.get(name) {
                let view = packing.alloc(t.bytes.len())?;
                view.write(0, &t.bytes).map_err(below)?;
                packing.given.insert(v.name.clone(), view);
            } else {
                packing.in_file.insert(v.name.clone(), file.tensor(name).expect("the family found it"));
            }
        }
        Ok(packing)
    }

    /// Packs all weights into memory; `used` names the buffers that runs are given.
    pub fn into_memory(
        mut self,
        used: &[&Name],
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Weights, EngineError> {
        // Weights are packed one after the other, and the pages of each source go back at once: the largest first, while
        // little else is in memory.
        let mut steps = self.steps();
        let bytes = |s: &Step| self.results(s).iter().map(|(_, n)| n.next_multiple_of(64)).sum::<usize>();
        steps.sort_by_key(|s| std::cmp::Reverse(bytes(s)));
        // One allocation for all of them, so that it lies in huge pages and a decode step misses few address translations.
        let packed = self.alloc(steps.iter().map(|s| bytes(s)).sum())?;
        let mut at = 0;
        for (done, step) in steps.iter().enumerate() {
            progress(Stage::Pack, done, steps.len());
            for (name, size) in self.results(step) {
                self.given.insert(name.clone(), packed.part(at, size).map_err(below)?);
                at += size.next_multiple_of(64);
            }
            self.run(step)?;
        }
        self.keep(used)?;
        progress(Stage::Pack, steps.len(), steps.len());
        Ok(Weights { bytes: self.arena.used(), given: self.given, store: None })
    }

    /// The same into a store at `path`, in the order in which a run reads them; what needs no packing is in memory.
    pub fn into_store(
        mut self,
        used: &[&Name],
        path: &Path,
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Weights, EngineError> {
        let mut steps = self.steps();
        let results = |s: &Step| self.results(s);
        if !DiskFile::has_store(path) {
            let run = &self.compiled.classes[0].plan.run;
            let all: Vec<Name> =
                steps.iter().flat_map(|s| results(s)).map(|(name, _)| name.clone()).collect();
            let order = read_once(run, &all.iter().collect());
            let place = |s: &&Step| {
                let first =
                    results(s).first().and_then(|(name, _)| order.iter().position(|(o, _)| o == *name));
                first.unwrap_or(order.len())
            };
            steps.sort_by_key(place);
            let mut writer = StoreWriter::create(path).map_err(below)?;
            let mut note = String::new();
            for (done, step) in steps.iter().enumerate() {
                progress(Stage::Store, done, steps.len());
                let results: Vec<(Name, usize)> =
                    self.results(step).into_iter().map(|(name, n)| (name.clone(), n)).collect();
                for (name, size) in &results {
                    let view = self.alloc(*size)?;
                    self.given.insert(name.clone(), view);
                }
                self.run(step)?;
                for (name, size) in &results {
                    let view = self.given.remove(name).expect("it was put there above");
                    let offset = writer.add(&[view]).map_err(below)?;
                    note.push_str(&format!("{offset} {size} {name}\n"));
                }
            }
            writer.finish(note.as_bytes()).map_err(below)?;
            progress(Stage::Store, steps.len(), steps.len());
        }
        let store = Store::open(path)?;
        // The steps' results count as there.
        let stored: HashSet<&Name> = store.extents.iter().map(|e| &e.name).collect();
        let rest: Vec<&Name> = used.iter().filter(|n| !stored.contains(**n)).copied().collect();
        self.keep(&rest)?;
        Ok(Weights { bytes: self.arena.used(), given: self.given, store: Some(store) })
    }

    /// Weights of no meaning in the place of those that would be packed, all within one piece of memory of at least `room` bytes: a
    /// step over them takes as long as one over a model's own.
    pub fn stand_ins(mut self, used: &[&Name], room: usize) -> Result<Weights, EngineError> {
        let steps = self.steps();
        let results: Vec<(&Name, usize)> = steps.iter().flat_map(|s| self.results(s)).collect();
        let sizes = results.iter().map(|(_, n)| n.next_multiple_of(64));
        let room = room.min(sizes.clone().sum()).max(sizes.max().unwrap_or(0));
        let memory = self.alloc(room)?;
        // Floats of any width near 1, of either sign, and codes of either sign: no step through them leaves the numbers.
        let word = |i: u64| {
            (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7) & 0x8787_8787_8787_8787 | 0x3838_3838_3838_3838
        };
        let chunk: Vec<u64> = (0..1 << 13).map(word).collect();
        let bytes = chunk.len() * 8;
        for at in (0..memory.len()).step_by(bytes) {
            memory.write(at, &chunk[..bytes.min(memory.len() - at) / 8]).map_err(below)?;
        }
        let mut at = 0;
        for (name, size) in results {
            if at + size > memory.len() {
                at = 0;
            }
            self.given.insert(name.clone(), memory.part(at, size).map_err(below)?);
            at += size.next_multiple_of(64);
        }
        self.keep(used)?;
        Ok(Weights { bytes: self.arena.used(), given: self.given, store: None })
    }

    fn alloc(&self, bytes: usize) -> Result<View, EngineError> {
        self.arena.alloc(bytes.max(64)).map(lathe_runtime::Buffer::into_view).map_err(below)
    }

    fn copy_of(&self, info: &TensorInfo) -> Result<View, EngineError> {
        let view = self.alloc(info.byte_len())?;
        view.write(0, &self.file.data(info)).map_err(below)?;
        Ok(view)
    }

    fn view_of(&self, info: &TensorInfo) -> Result<View, EngineError> {
        match self.file.mapping(info) {
            Some((map, range)) => View::mapped(map).part(range.start, range.len()).map_err(below),
            None => self.copy_of(info),
        }
    }

    /// The steps that pack, which do not need each other.
    fn steps(&self) -> Vec<&'a Step> {
        self.load().steps.iter().filter(|s| **s != Step::Meet).collect()
    }

    fn load(&self) -> &'a Program {
        &self.compiled.classes[0].plan.load
    }

    /// What a step makes, and how many bytes.
    fn results(&self, step: &Step) -> Vec<(&'a Name, usize)> {
        let Step::Call { args, writes, .. } = step else { return vec![] };
        let written = args.iter().zip(writes).filter(|(_, w)| **w);
        let buffer = |a: &Part| &self.load().buffers[a.buffer as usize];
        written.map(|(a, _)| (&buffer(a).name, buffer(a).bytes.as_const().unwrap_or(0) as usize)).collect()
    }

    /// Runs a step, whose results have their places, and gives its sources back.
    fn run(&mut self, step: &Step) -> Result<(), EngineError> {
        let Step::Call { args, writes, .. } = step else { return Ok(()) };
        let load = self.load();
        let reads = args.iter().zip(writes).filter(|(_, w)| !**w);
        let reads: Vec<&Name> = reads.map(|(a, _)| &load.buffers[a.buffer as usize].name).collect();
        for name in &reads {
            if let Some(info) = self.in_file.get(*name) {
                self.given.insert((*name).clone(), self.view_of(info)?);
            }
        }
        let one = Program { steps: vec![step.clone()], buffers: load.buffers.clone(), ..load.clone() };
        let nothing = self.alloc(64)?;
        let images = &self.compiled.classes[0].images;
        let threads = self.pool.threads();
        let mut e =
            Executable::new(&only_used(one), images, &self.given, &nothing, &self.most, threads, &self.arena)
                .map_err(below)?;
        let values: Vec<i64> = self.compiled.graph.dims.iter().map(|(_, m)| *m).collect();
        e.run(self.pool, &values).map_err(below)?;
        for name in reads {
            if let Some(info) = self.in_file.get(name) {
                self.file.drop_pages(info);
                self.given.remove(name);
            }
        }
        Ok(())
    }

    /// What runs are given and no step packs, with whether it is copied out of the file.
    fn unpacked(&self, used: &[&Name]) -> HashMap<Name, (&'a TensorInfo, bool)> {
        let open = used.iter().filter(|name| !self.given.contains_key(**name));
        let found = open.filter_map(|name| Some(((*name).clone(), *self.in_file.get(*name)?)));
        found.map(|(name, info)| (name, (info, is_copied(self.file, info)))).collect()
    }

    /// Bytes of memory that weights take beside those that are packed: what families make, and what is copied out of the file.
    pub fn unpacked_bytes(&self, used: &[&Name]) -> usize {
        let copied = self.unpacked(used).into_values().filter(|(_, copied)| *copied);
        self.arena.used()
            + copied.map(|(info, _)| info.byte_len().max(64).next_multiple_of(64)).sum::<usize>()
    }

    /// What no step packs is used as it is, or copied.
    fn keep(&mut self, used: &[&Name]) -> Result<(), EngineError> {
        for (name, (info, copied)) in self.unpacked(used) {
            let view = if copied { self.copy_of(info)? } else { self.view_of(info)? };
            self.given.insert(name, view);
            if copied || !info.is_stored() {
                self.file.drop_pages(info);
            }
        }
        Ok(())
    }
}
