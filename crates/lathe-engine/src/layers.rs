//! A model's layers one by one over the same texts, each from what the ones before made of them, so that a layer can be changed by
//! what it meets before the next one sees it.
//!
//! A node belongs to the last layer whose constants it depends on, and to none where it depends on no layer's. A layer's graph is the
//! nodes that belong to it or to none; what earlier layers made for it are arguments. All texts go through a layer twice: to see
//! what its products meet, and, with its matrices as they have become, for the arguments of later layers.

use std::collections::HashSet;

use lathe_ir::graph::{Attr, Graph, Node, Source, Type, ValueId};
use lathe_ir::{DType, Name};
use lathe_models::{Correlation, ModelFile};

use crate::features::{Watch, add, products, steps};
use crate::weights::model;
use crate::{EngineError, RunnerOptions};

/// What the products of a layer meet.
pub struct Met {
    /// The number of the layer.
    pub layer: usize,
    /// Of how many.
    pub layers: usize,
    /// For each input of products, the names of the matrices that it meets and how its features go together over all tokens.
    pub inputs: Vec<(Vec<String>, Correlation)>,
}

/// Shows for each layer of a model in turn what its `wanted` matrices meet on these texts; `each` gives the file from which this
/// layer makes what later ones get, in which its matrices may be others. `options` bound the length of a text and how many
/// are run at once; activations stay f32.
pub fn layer_by_layer<E: From<EngineError>>(
    file: &ModelFile,
    options: &RunnerOptions,
    texts: &[&[u32]],
    wanted: &dyn Fn(&str) -> bool,
    goes_on: &dyn Fn() -> bool,
    each: &mut dyn FnMut(Met) -> Result<ModelFile, E>,
) -> Result<(), E> {
    let (mut steps, given) = (steps(options, texts), model(None, file, options)?);
    let layers = Layers::of(&given.graph);
    let count = layers.count();
    for layer in 0..count {
        let mut graph = layers.graph(layer);
        let (names, inputs): (Vec<_>, Vec<_>) = products(&graph, wanted).into_iter().unzip();
        graph.outputs = inputs.into_iter().map(|x| squared(&mut graph, x)).collect();
        let mut sums: Vec<Correlation> = vec![];
        if !names.is_empty() {
            let mut watch = Watch::new(graph, &given.made, file, options)?;
            for step in &steps {
                if !goes_on() {
                    return Err(EngineError::Interrupted.into());
                }
                let found = watch.run(step)?;
                if sums.is_empty() {
                    sums = found.iter().map(|seen| Correlation::new(seen.row())).collect();
                }
                sums.iter_mut().zip(&found).for_each(|(sum, seen)| sum.add(&seen.to_f32()));
            }
        }
        let file = each(Met { layer, layers: count, inputs: names.into_iter().zip(sums).collect() })?;
        // The matrices may have other types now.
        let changed = model(None, &file, options)?;
        let layers = Layers::of(&changed.graph);
        let mut graph = layers.graph(layer);
        graph.outputs = layers.leaving(layer);
        if graph.outputs.is_empty() {
            continue;
        }
        let past = layers.past(layer);
        let made: Vec<Name> = graph.outputs.iter().map(|v| graph.value(*v).name.clone()).collect();
        let mut watch = Watch::new(graph, &changed.made, &file, options)?;
        for step in &mut steps {
            if !goes_on() {
                return Err(EngineError::Interrupted.into());
            }
            let found = watch.run(step)?;
            step.retain(|name, _| !past.contains(name));
            step.extend(made.iter().cloned().zip(found));
        }
    }
    Ok(())
}

/// Which layer everything in a graph belongs to.
struct Layers<'a> {
    graph: &'a Graph,
    /// Of each value.
    of: Vec<Option<usize>>,
    /// The state that a value succeeds; itself where it is none.
    home: Vec<ValueId>,
}

impl Layers<'_> {
    fn of(graph: &Graph) -> Layers<'_> {
        let table = lathe_ops::table();
        let named = |name: &Name| name.strip_prefix("blk.")?.split('.').next()?.parse().ok();
        let constant = |source: &Source| if let Source::Const(name) = source { named(name) } else { None };
        let mut of: Vec<Option<usize>> = graph.values.iter().map(|v| constant(&v.source)).collect();
        let mut home: Vec<ValueId> = (0..graph.values.len()).map(|i| ValueId(i as u32)).collect();
        for n in &graph.nodes {
            let layer = n.inputs.iter().filter_map(|v| of[v.0 as usize]).max();
            n.outputs.iter().for_each(|v| of[v.0 as usize] = layer);
            for (a, r) in table.get(&n.op).map_or(&[][..], |row| row.donates) {
                home[n.outputs[*r].0 as usize] = home[n.inputs[*a].0 as usize];
            }
        }
        Layers { graph, of, home }
    }

    fn count(&self) -> usize {
        self.of.iter().flatten().max().map_or(0, |last| last + 1)
    }

    fn layer(&self, n: &Node) -> Option<usize> {
        n.outputs.first().and_then(|v| self.of[v.0 as usize])
    }

    /// Whether a value is state that an earlier layer than this one left.
    fn is_left(&self, v: ValueId, layer: usize) -> bool {
        let at = v.0 as usize;
        self.home[at] != v && self.of[at].is_some_and(|of| of < layer)
    }

    /// What a layer makes for later ones: state is none of it, as each writes what it reads.
    fn leaving(&self, layer: usize) -> Vec<ValueId> {
        let later = self.graph.nodes.iter().filter(|n| self.layer(n).is_some_and(|l| l > layer));
        let made = |v: &ValueId| self.of[v.0 as usize] == Some(layer) && !self.is_left(*v, layer + 1);
        let is_node = |v: &ValueId| self.graph.value(*v).source == Source::Node;
        let mut all: Vec<ValueId> =
            later.flat_map(|n| n.inputs.iter().copied()).filter(|v| made(v) && is_node(v)).collect();
        all.sort_unstable_by_key(|v| v.0);
        all.dedup();
        all
    }

    /// What no later layer than this one reads.
    fn past(&self, layer: usize) -> HashSet<Name> {
        let last = |v: usize| {
            let readers = self.graph.nodes.iter().filter(|n| n.inputs.contains(&ValueId(v as u32)));
            readers.filter_map(|n| self.layer(n)).max()
        };
        let made = (0..self.of.len()).filter(|v| self.of[*v].is_some_and(|of| of < layer));
        made.filter(|v| last(*v) <= Some(layer)).map(|v| self.graph.values[v].name.clone()).collect()
    }

    /// A layer's graph; it has no results.
    fn graph(&self, layer: usize) -> Graph {
        let mut graph = Graph { nodes: vec![], outputs: vec![], ..self.graph.clone() };
        let mut used: HashSet<ValueId> = HashSet::new();
        for n in self.graph.nodes.iter().filter(|n| self.layer(n).is_none_or(|of| of == layer)) {
            let mut n = n.clone();
            for v in &mut n.inputs {
                if self.is_left(*v, layer) {
                    *v = self.home[v.0 as usize];
                }
                used.insert(*v);
            }
            graph.nodes.push(n);
        }
        for (i, v) in graph.values.iter_mut().enumerate() {
            let earlier = self.of[i].is_some_and(|of| of < layer) && v.source == Source::Node;
            if earlier && used.contains(&ValueId(i as u32)) {
                v.source = Source::Input;
            }
        }
        graph
    }
}

/// Adds the sums of products of each two columns.
fn squared(g: &mut Graph, x: ValueId) -> ValueId {
    let [rows, columns] = [0, 1].map(|i| g.ty(x).shape[i].clone());
    let turned = g.add_value("", Type::dense(DType::F32, &[columns.clone(), rows]), Source::Node);
    let attrs = [("axes".into(), Attr::Ints(vec![1, 0]))].into();
    g.nodes.push(Node { op: "permute".into(), inputs: vec![x], attrs, outputs: vec![turned] });
    add(g, "dot", &[turned, x], &[columns.clone(), columns], &[("sum_x", 1), ("sum_y", 0)])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{PAGE, Precision};

    /// Layer by layer products meet what they meet in the whole model, also where layers share state.
    #[test]
    fn layers_alone_do_as_in_the_model() {
        let cache = tempfile::tempdir().expect("a temporary folder can be made");
        let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../lathe-models/tests/data/tiny");
        for name in ["llama-f32.gguf", "bert-f16.gguf"] {
            let file = ModelFile::open(Path::new(data).join(name)).expect("a tiny model");
            let options = RunnerOptions {
                precision: Precision::Exact,
                threads: 2,
                context: 32,
                pages: 2 * 32usize.div_ceil(PAGE),
                max_tokens: 40,
                max_sequences: 2,
                max_rows: 2,
                kv_type: Some(lathe_models::KvType::F32),
                adapters: None,
                cache: cache.path().into(),
                budget: None,
            };
            let texts: [&[u32]; 3] = [&[5, 9, 17, 40, 3], &[1, 2, 3, 4, 60, 61, 62], &[8; 20]];
            let whole = model(None, &file, &options).expect("it is built");
            let mut graph = whole.graph.clone();
            let (names, inputs): (Vec<_>, Vec<_>) =
                products(&graph, &|name| name.starts_with("blk.")).into_iter().unzip();
            graph.outputs = inputs.into_iter().map(|x| squared(&mut graph, x)).collect();
            let mut watch = Watch::new(graph, &whole.made, &file, &options).expect("it compiles");
            let mut expected: Vec<Vec<f32>> = vec![];
            for step in steps(&options, &texts) {
                let found = watch.run(&step).expect("it runs");
                expected.resize(found.len(), vec![]);
                for (sum, seen) in expected.iter_mut().zip(&found) {
                    sum.resize(seen.to_f32().len(), 0.0);
                    sum.iter_mut().zip(seen.to_f32()).for_each(|(s, x)| *s += x);
                }
            }
            let mut met: Vec<(Vec<String>, Correlation)> = vec![];
            let mut each = |layer: Met| {
                assert!(layer.layer < layer.layers && !layer.inputs.is_empty(), "{name}");
                met.extend(layer.inputs);
                Ok::<_, EngineError>(file.clone())
            };
            let wanted = |name: &str| name.starts_with("blk.");
            layer_by_layer(&file, &options, &texts, &wanted, &|| true, &mut each).expect("it runs");
            let names_met: Vec<&Vec<String>> = met.iter().map(|(names, _)| names).collect();
            assert_eq!(names_met, names.iter().collect::<Vec<_>>(), "{name}");
            for ((names, found), expected) in met.iter().zip(&expected) {
                let most = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
                let off = found.sums().iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off <= 1e-5 * most && most > 0.0, "{name} {names:?}: {off} of {most}");
            }
        }
    }
}
