//! What is inside a model's steps on texts: how large the inputs of its products become, feature by feature, which decides what
//! columns of a matrix stay floats when the others become bytes; and which experts its router chooses.

use std::collections::HashMap;
use std::sync::Arc;

use lathe_compile::Session;
use lathe_ir::graph::{Attr, Graph, Node, Source, Type, ValueId};
use lathe_ir::{DType, Int, Name, Tensor};
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
    let (mut names, mut maxima): (Vec<Vec<String>>, Vec<Vec<f32>>) = (vec![], vec![]);
    let add = |graph: &mut Graph| {
        let (of, inputs): (Vec<_>, Vec<_>) = products(graph, &|_| true).into_iter().unzip();
        names = of;
        inputs.into_iter().map(|x| largest(graph, x)).collect()
    };
    watched(file, options, texts, goes_on, add, |found| {
        maxima.resize(found.len(), vec![]);
        for (most, seen) in maxima.iter_mut().zip(found) {
            let seen = seen.to_f32();
            most.resize(seen.len(), 0.0);
            most.iter_mut().zip(&seen).for_each(|(m, s)| *m = m.max(*s));
        }
    })?;
    let each =
        |(names, maxima): (Vec<String>, Vec<f32>)| names.into_iter().map(move |name| (name, maxima.clone()));
    Ok(names.into_iter().zip(maxima).flat_map(each).collect())
}

/// The inputs of products with constant matrices that are wanted, with the names of these.
pub(crate) fn products(graph: &Graph, wanted: &dyn Fn(&str) -> bool) -> Vec<(Vec<String>, ValueId)> {
    let mut found: Vec<(Vec<String>, ValueId)> = vec![];
    for n in graph.nodes.iter().filter(|n| &*n.op == "matmul") {
        let Source::Const(name) = &graph.value(n.inputs[1]).source else { continue };
        if wanted(name) {
            match found.iter_mut().find(|(_, x)| *x == n.inputs[0]) {
                Some((names, _)) => names.push(name.to_string()),
                None => found.push((vec![name.to_string()], n.inputs[0])),
            }
        }
    }
    found
}

/// Which experts each token of these texts is sent to in each layer: a step of the routing is one of the model. `options` bound the
/// length of a text; activations stay f32. Fails where the model has no experts.
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

/// Runs the texts step by step and gives what the values are that `add` finds in the graph, or adds to it.
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
    graph.outputs = add(&mut graph);
    let mut watch = Watch::new(graph, &model.made, file, options)?;
    for step in steps(options, texts) {
        if !goes_on() {
            return Err(EngineError::Interrupted);
        }
        each(&watch.run(&step)?);
    }
    Ok(())
}

/// The arguments of one step, by their names.
pub(crate) type Step = HashMap<Name, Tensor>;

/// The steps of texts that are not empty, as many in one as `options` have sequences and tokens for.
pub(crate) fn steps(options: &RunnerOptions, texts: &[&[u32]]) -> Vec<Step> {
    let each_pages = options.context.div_ceil(PAGE);
    let mut rest = texts.iter().filter(|text| !text.is_empty()).peekable();
    let mut steps = vec![];
    while rest.peek().is_some() {
        let (mut b, mut table) = (Batch::default(), vec![]);
        let fits = |b: &Batch, text: &[u32]| {
            b.pages.is_empty()
                || b.pages.len() < options.max_sequences && b.tokens.len() + text.len() <= options.max_tokens
        };
        while let Some(text) = rest.next_if(|text| fits(&b, text)) {
            let first = b.pages.len() * each_pages;
            let pages: Vec<u32> = (first..first + each_pages).map(|page| page as u32).collect();
            let row = b.push(text, 0, &pages, 0);
            b.rows.push(row);
            table.extend(pages);
        }
        let ints = |v: &[u32]| Tensor::i32(&[v.len()], &v.iter().map(|i| *i as i32).collect::<Vec<_>>());
        let table = Tensor { shape: vec![b.pages.len(), each_pages], ..ints(&table) };
        let (last, shares) = (b.last(), b.shares());
        let step = [
            ("tokens", ints(&b.tokens)),
            ("positions", ints(&b.position)),
            ("sequences", ints(&b.sequence)),
            ("slots", ints(&b.slot)),
            ("rows", ints(&b.rows)),
            ("pages", table),
            ("last", ints(&last)),
            ("types", ints(&vec![0; b.tokens.len()])),
            ("shares", Tensor::f32(&[shares.len()], &shares)),
        ];
        steps.push(step.into_iter().map(|(name, t)| (name.into(), t)).collect());
    }
    steps
}

/// A graph over a model's constants that is run on steps for its results; nothing else in it is computed.
pub(crate) struct Watch {
    graph: Graph,
    session: Session,
}

impl Watch {
    /// Compiles it and loads what it uses: `made`, or from the file.
    pub(crate) fn new(
        graph: Graph,
        made: &HashMap<Name, Tensor>,
        file: &ModelFile,
        options: &RunnerOptions,
    ) -> Result<Watch, EngineError> {
        let graph = graph.without_dead(0);
        let kernels = KernelCache::new(&options.cache);
        let (target, _) = kernels.compilable(detect_target().map_err(below)?, None).map_err(below)?;
        let mut constants: HashMap<Name, Tensor> = made.clone();
        for v in &graph.values {
            if let Source::Const(name) = &v.source
                && let Some(info) = file.tensor(name)
            {
                let (encoding, bytes) = (v.ty.storage().map(Arc::new), file.data(info).into_owned());
                let (shape, dtype) = (info.shape(), v.ty.dtype);
                constants.insert(name.clone(), Tensor { shape, dtype, encoding, bytes });
            }
        }
        let passes = Precision::Exact.passes(&target);
        let session = Session::new(&graph, passes, &constants, &target, &options.cache, options.threads);
        Ok(Watch { session: session.map_err(below)?, graph })
    }

    /// The results of a step that has all arguments of the graph.
    pub(crate) fn run(&mut self, step: &Step) -> Result<Vec<Tensor>, EngineError> {
        let inputs = self.graph.values.iter().filter(|v| v.source == Source::Input);
        let given: Vec<(&str, &Tensor)> =
            inputs.filter_map(|v| Some((&*v.name, step.get(&v.name)?))).collect();
        self.session.run(&given).map_err(below)
    }
}

/// Adds a node with one result, each of these attributes a list of axes.
pub(crate) fn add(
    g: &mut Graph,
    op: &str,
    inputs: &[ValueId],
    shape: &[Int],
    axes: &[(&str, i64)],
) -> ValueId {
    let y = g.add_value("", Type::dense(DType::F32, shape), Source::Node);
    let attrs = axes.iter().map(|(name, axis)| ((*name).into(), Attr::Ints(vec![*axis]))).collect();
    g.nodes.push(Node { op: op.into(), inputs: inputs.to_vec(), attrs, outputs: vec![y] });
    y
}

/// Adds the largest absolute value of each column.
fn largest(g: &mut Graph, x: ValueId) -> ValueId {
    let shape = g.ty(x).shape.clone();
    let size = add(g, "abs", &[x], &shape, &[]);
    add(g, "maximum", &[size], &shape[1..], &[("axes", 0)])
}
