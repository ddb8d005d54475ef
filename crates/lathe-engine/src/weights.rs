//! From a model's file to its graph, and to its weights in memory as a compiled graph wants them.

use crate::error::below;
use crate::report::Stage;
use crate::{EngineError, RunnerOptions};
use lathe_compile::Compiled;
use lathe_exec::Executable;
use lathe_ir::Name;
use lathe_ir::graph::Source;
use lathe_ir::step::{Program, Step};
use lathe_models::{CacheShape, Model, ModelFile, TensorInfo, build};
use lathe_runtime::{Arena, Pool, View};
use std::collections::{HashMap, HashSet};

/// Constants of at most this many bytes are copied from the file.
const COPIED: usize = 64 << 10;

/// What the programs of a compiled graph are given that does not change.
pub(crate) struct Weights {
    /// The storage of each constant, and of each value that is made of constants alone.
    pub given: HashMap<Name, View>,
    /// Bytes that were allocated for them.
    pub bytes: usize,
}

/// The model of a file, sized as `options` says; refused where it is an encoder and none is wanted, or the reverse.
pub(crate) fn model(
    encoder: Option<bool>,
    file: &ModelFile,
    options: &RunnerOptions,
) -> Result<Model, EngineError> {
    let shape = CacheShape {
        elements: options.kv_type(),
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

/// Brings the weights of a file into the layout of the compiled kernels; `used` names the buffers that runs are given.
pub(crate) fn pack(
    file: &ModelFile,
    model: &Model,
    compiled: &Compiled,
    used: &[&Name],
    pool: &Pool,
    progress: &mut dyn FnMut(Stage, usize, usize),
) -> Result<Weights, EngineError> {
    let arena = Arena::new("host", usize::MAX);
    let g = &compiled.graph;
    let most: HashMap<Name, i64> = g.dims.iter().cloned().collect();
    let alloc =
        |bytes: usize| arena.alloc(bytes.max(64)).map(lathe_runtime::Buffer::into_view).map_err(below);

    // Constants: made by the family, straight from the file's mapping, or made from what the file holds.
    let mut given: HashMap<Name, View> = HashMap::new();
    let mut in_file = HashMap::new();
    for v in &g.values {
        let Source::Const(name) = &v.source else { continue };
        if let Some(t) = model.made.get(name) {
            let view = alloc(t.bytes.len())?;
            view.write(0, &t.bytes).map_err(below)?;
            given.insert(v.name.clone(), view);
        } else {
            in_file.insert(v.name.clone(), file.tensor(name).expect("the family found it"));
        }
    }
    let copy_of = |info: &TensorInfo| {
        let view = alloc(info.byte_len())?;
        view.write(0, &file.data(info)).map_err(below)?;
        Ok(view)
    };
    let view_of = |info: &TensorInfo| match file.mapping(info) {
        Some((map, range)) => View::mapped(map).part(range.start, range.len()).map_err(below),
        None => copy_of(info),
    };

    // Weights are packed one after the other, and the pages of each source go back at once: the largest first, while
    // little else is in memory.
    let class = &compiled.classes[0];
    let load = &class.plan.load;
    let mut steps: Vec<&Step> = load.steps.iter().filter(|s| **s != Step::Meet).collect();
    // One allocation for all of them, so that it lies in huge pages and a decode step misses few address translations.
    let size = |b: &lathe_ir::step::StepBuffer| b.bytes.as_const().unwrap_or(0) as usize;
    let written = |s: &Step| match s {
        Step::Call { args, writes, .. } => args
            .iter()
            .zip(writes)
            .filter(|(_, w)| **w)
            .map(|(a, _)| size(&load.buffers[a.buffer as usize]).next_multiple_of(64))
            .sum(),
        _ => 0,
    };
    steps.sort_by_key(|s| std::cmp::Reverse(written(s)));
    let packed = alloc(steps.iter().map(|s| written(s)).sum())?;
    let mut at = 0;
    for (done, step) in steps.iter().enumerate() {
        progress(Stage::Pack, done, steps.len());
        let Step::Call { args, writes, .. } = step else { continue };
        for (a, w) in args.iter().zip(writes) {
            let b = &load.buffers[a.buffer as usize];
            if *w {
                given.insert(b.name.clone(), packed.part(at, size(b)).map_err(below)?);
                at += size(b).next_multiple_of(64);
            } else if let Some(info) = in_file.get(&b.name) {
                given.insert(b.name.clone(), view_of(info)?);
            }
        }
        let one = Program { steps: vec![(*step).clone()], buffers: load.buffers.clone(), ..load.clone() };
        let one = only_used(one);
        let nothing = alloc(64)?;
        let mut e = Executable::new(&one, &class.images, &given, &nothing, &most, pool.threads(), &arena)
            .map_err(below)?;
        let values: Vec<i64> = g.dims.iter().map(|(_, m)| *m).collect();
        e.run(pool, &values).map_err(below)?;
        for (a, w) in args.iter().zip(writes) {
            if let Some(info) = in_file.get(&load.buffers[a.buffer as usize].name).filter(|_| !w) {
                file.drop_pages(info);
                given.remove(&load.buffers[a.buffer as usize].name);
            }
        }
    }
    // What no step packs is used as it is; what is small is copied, for the system may map 2 MiB of a file for one vector.
    let kept: HashSet<&Name> = used.iter().filter(|n| !given.contains_key(**n)).copied().collect();
    for name in kept {
        if let Some(info) = in_file.get(name) {
            let copied = info.byte_len() <= COPIED;
            let view = if copied { copy_of(info)? } else { view_of(info)? };
            given.insert(name.clone(), view);
            if copied || !info.is_stored() {
                file.drop_pages(info);
            }
        }
    }
    progress(Stage::Pack, steps.len(), steps.len());
    Ok(Weights { given, bytes: arena.used() })
}

/// A program with the buffers its steps use, and no others.
fn only_used(mut p: Program) -> Program {
    let mut used: Vec<u32> = vec![];
    for s in &mut p.steps {
        if let Step::Call { args, .. } = s {
            for a in args.iter_mut() {
                let at = used.iter().position(|u| *u == a.buffer).unwrap_or_else(|| {
                    used.push(a.buffer);
                    used.len() - 1
                });
                a.buffer = at as u32;
            }
        }
    }
    p.buffers = used.iter().map(|i| p.buffers[*i as usize].clone()).collect();
    p
}
