//! What is inside a model's steps on texts: how large the inputs of its products become, feature by feature, which decides what
//! columns of a matrix stay floats when the others become bytes; and which experts its router chooses.

use std::collections::HashMap;
use std::sync::Arc;

use lathe_compile::Session;
use lathe_ir::graph::{Attr, Graph, Node, Source, Type, ValueId};
use lathe_ir::{DType, Name, Tensor};
use lathe_models::ModelFile;
use lathe_plan::experts::Routing;
use lathe_runtime::{KernelCache, detect_target};

use crate::error::below;
use crate::weights::model;
use crate::{Batch, EngineError, PAGE, Precision, RunnerOptions};

/// For each matrix of a product, by its tensor's name, the largest absolute value that each of its columns is multiplied with, over
/// all tokens of these texts. `options` bound the length of a text; activations stay f32.
pub fn feature_maxima(
    file: &ModelFile,
    options: &RunnerOptions,
    texts: &[&[u32]],
    goes_on: &dyn Fn() -> bool,
) -> Result<HashMap<String, Vec<f32>>, EngineError> {
    let (mut names, mut maxima): (Vec<(String, usize)>, Vec<Vec<f32>>) = (vec![], vec![]);
    let add = |graph: &mut Graph| {
        let (mut of, mut results): (HashMap<ValueId, usize>, Vec<ValueId>) = (HashMap::new(), vec![]);
        for n in graph.nodes.clone().iter().filter(|n| &*n.op == "matmul") {
            let Source::Const(name) = &graph.value(n.inputs[1]).source else { continue };
            let (name, x) = (name.to_string(), n.inputs[0]);
            let at = match of.get(&x) {
                Some(at) => *at,
                None => {
                    results.push(largest(graph, x));
                    of.insert(x, results.len() - 1);
                    results.len() - 1
                }
            };
            names.push((name, at));
        }
        results
    };
    watched(file, options, texts, goes_on, add, |found| {
        maxima.resize(found.len(), vec![]);
        for (most, seen) in maxima.iter_mut().zip(found) {
            let seen = seen.to_f32();
            most.resize(seen.len(), 0.0);
            most.iter_mut().zip(&seen).for_each(|(m, s)| *m = m.max(*s));
        }
    })?;
    Ok(names.into_iter().map(|(name, at)| (name, maxima.get(at).cloned().unwrap_or_default())).collect())
}

/// Which experts each token of these texts is sent to in each layer: a step of the routing a text. `options` bound the length of a
/// text; activations stay f32. Fails where the model has no experts.
pub fn router_choices(
    file: &ModelFile,
    options: &RunnerOptions,
    texts: &[&[u32]],
    goes_on: &dyn Fn() -> bool,
) -> Result<Routing, EngineError> {
    let experts = model(None, file, options)?.config.experts.ok_or(EngineError::NoExperts)?;
    let mut steps = vec![];
    let add = |graph: &mut Graph| {
        graph.nodes.iter().filter(|n| &*n.op == "route").map(|n| n.outputs[1]).collect::<Vec<_>>()
    };
    watched(file, options, texts, goes_on, add, |found| {
        let layer = |chosen: &Tensor| chosen.values().iter().map(|e| *e as u16).collect();
        steps.push(found.iter().map(layer).collect());
    })?;
    Ok(Routing { experts: experts.count as usize, used: experts.used as usize, steps })
}

/// Runs each text that is not empty as one step and gives what the values are that `add` finds in the graph, or adds to it.
fn watched(
    file: &ModelFile,
    options: &RunnerOptions,
    texts: &[&[u32]],
    goes_on: &dyn Fn() -> bool,
    add: impl FnOnce(&mut Graph) -> Vec<ValueId>,
    mut each: impl FnMut(&[Tensor]),
) -> Result<(), EngineError> {
    let model = model(None, file, options)?;
    let mut graph = model.graph.clone();
    let results = add(&mut graph);
    graph.outputs.splice(0..1, results.iter().copied());
    let kernels = KernelCache::new(&options.cache);
    let (target, _) = kernels.compilable(detect_target().map_err(below)?, None).map_err(below)?;
    let mut constants: HashMap<Name, Tensor> = model.made.clone();
    for v in &graph.values {
        if let Source::Const(name) = &v.source
            && let Some(info) = file.tensor(name)
        {
            let (encoding, bytes) = (v.ty.storage().map(Arc::new), file.data(info).into_owned());
            constants
                .insert(name.clone(), Tensor { shape: info.shape(), dtype: v.ty.dtype, encoding, bytes });
        }
    }
    let passes = Precision::Exact.passes(&target);
    let session = Session::new(&graph, passes, &constants, &target, &options.cache, options.threads);
    let mut session = session.map_err(below)?;
    drop(constants);
    for text in texts.iter().filter(|text| !text.is_empty()) {
        if !goes_on() {
            return Err(EngineError::Interrupted);
        }
        let mut b = Batch::default();
        let pages: Vec<u32> = (0..text.len().div_ceil(PAGE) as u32).collect();
        b.push(text, 0, &pages, 0);
        let mut table = pages;
        table.resize(options.context.div_ceil(PAGE), 0);
        let ints = |v: &[u32]| Tensor::i32(&[v.len()], &v.iter().map(|i| *i as i32).collect::<Vec<_>>());
        let table = Tensor { shape: vec![1, table.len()], ..ints(&table) };
        let (last, shares) = (b.last(), b.shares());
        let all = [
            ("tokens", ints(&b.tokens)),
            ("positions", ints(&b.position)),
            ("sequences", ints(&b.sequence)),
            ("slots", ints(&b.slot)),
            ("rows", ints(&[0])),
            ("pages", table),
            ("last", ints(&last)),
            ("types", ints(&vec![0; text.len()])),
            ("shares", Tensor::f32(&[shares.len()], &shares)),
        ];
        let inputs = graph.values.iter().filter(|v| v.source == Source::Input);
        let given: Vec<(&str, &Tensor)> = inputs
            .filter_map(|v| all.iter().find(|(name, _)| **name == *v.name).map(|(name, t)| (*name, t)))
            .collect();
        let found = session.run(&given).map_err(below)?;
        each(&found[..results.len()]);
    }
    Ok(())
}

/// Adds the largest absolute value of each column.
fn largest(g: &mut Graph, x: ValueId) -> ValueId {
    let shape = g.ty(x).shape.clone();
    let mut add = |op: &str, v: ValueId, ty: Type, attrs: &[(&str, Attr)]| {
        let y = g.add_value("", ty, Source::Node);
        let attrs = attrs.iter().map(|(name, a)| ((*name).into(), a.clone())).collect();
        g.nodes.push(Node { op: op.into(), inputs: vec![v], attrs, outputs: vec![y] });
        y
    };
    let size = add("abs", x, Type::dense(DType::F32, &shape), &[]);
    add("maximum", size, Type::dense(DType::F32, &shape[1..]), &[("axes", Attr::Ints(vec![0]))])
}
