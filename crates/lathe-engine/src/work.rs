//! What a model's file asks of a machine, read off its graph: a planner's question, before anything is compiled.

use crate::EngineError;
use crate::error::below;
use lathe_compile::multiplies_bytes;
use lathe_ir::graph::{Graph, Source, Type, ValueId};
use lathe_ir::{Decode, Name};
use lathe_machine::Target;
use lathe_models::{CacheShape, KvType, Model, ModelFile, build};
use lathe_plan::experts::Mixture;
use lathe_plan::{Head, Layers, Work};
use std::collections::{BTreeMap, HashSet};

/// The work of the model in a file, computed as `precision` `fast` does on this target: products with coded weights take
/// codes of 8 bits where the target multiplies bytes.
pub fn work(file: &ModelFile, target: &Target) -> Result<Work, EngineError> {
    let shape = |elements: KvType| CacheShape {
        elements,
        pages: 1,
        context: lathe_models::PAGE,
        max_tokens: 1,
        max_sequences: 1,
        adapters: None,
    };
    let model = build(file, &shape(KvType::F32)).map_err(below)?;
    if model.encoder {
        return Err(EngineError::Purpose { encoder: true });
    }
    // Heads that are no whole groups of codes cannot be stored as codes.
    let others =
        [KvType::F16, KvType::Bf16, KvType::Q8, KvType::Q4].map(|t| Some((t, build(file, &shape(t)).ok()?)));
    let mut layers = vec![Layers::default(); model.config.layers as usize];
    let head = products(&model, target, &mut layers);
    let stored = [(KvType::F32, &model)].into_iter().chain(others.iter().flatten().map(|(t, m)| (*t, m)));
    for (kv_type, model) in stored {
        attention(&model.graph, kv_type, &mut layers);
    }
    let inside = most_live(&model.graph);
    layers.iter_mut().for_each(|l| l.workspace_bytes = inside);
    let read: HashSet<&str> = constants(&model.graph, "matmul").map(|(name, _)| name).collect();
    let table = |name: &str| file.tensor(name).map_or(0, |t| t.byte_len() as u64);
    let embedding = "token_embd.weight";
    Ok(Work {
        name: file.get_str("general.name").unwrap_or(model.graph.name.as_str()).to_owned(),
        hidden_bytes: 4 * model.config.hidden as u64,
        embedding_bytes: if read.contains(embedding) { 0 } else { table(embedding) },
        attention_type: "f32".into(),
        layers: Work::joined(layers),
        head,
        measured: None,
    })
}

/// The mixture in a file, computed so; layers that differ count as their mean. Keys and values are f32.
pub fn mixture(file: &ModelFile, target: &Target) -> Result<Mixture, EngineError> {
    let shape = CacheShape {
        elements: KvType::F32,
        pages: 1,
        context: lathe_models::PAGE,
        max_tokens: 1,
        max_sequences: 1,
        adapters: None,
    };
    let model = build(file, &shape).map_err(below)?;
    let experts = model.config.experts.ok_or(EngineError::NoExperts)?;
    let all = work(file, target)?;
    let (count, used, layers) = (experts.count as u64, experts.used as u64, model.config.layers as u64);
    let of_layers =
        |of: &dyn Fn(&Layers) -> u64| all.layers.iter().map(|l| l.count * of(l)).sum::<u64>() / layers.max(1);
    let weights = |of: &dyn Fn(&Type) -> u64| {
        constants(&model.graph, "expert_matmul").map(|(_, v)| of(model.graph.ty(v))).sum::<u64>()
            / layers.max(1)
    };
    let expert_bytes = weights(&bytes) / count;
    let expert_operations = 2 * weights(&elements) / count;
    Ok(Mixture {
        name: all.name.clone(),
        layers,
        experts: count,
        used,
        inner: experts.width as u64,
        hidden_bytes: all.hidden_bytes,
        expert_bytes,
        expert_operations,
        expert_type: "f32".into(),
        dense_bytes: of_layers(&|l| l.weight_bytes) - expert_bytes * count,
        dense_operations: of_layers(&|l| l.operations.values().sum()) - expert_operations * used,
        attention_operations: of_layers(&|l| l.attention_operations),
        attention_type: all.attention_type,
        kv_bytes: of_layers(&|l| l.kv_bytes[KvType::F32.as_str()]),
        head_bytes: all.head.weight_bytes,
        head_operations: all.head.operations.values().sum(),
    })
}

fn bytes(t: &Type) -> u64 {
    t.bits().as_const().unwrap_or(0).max(0) as u64 / 8
}

fn elements(t: &Type) -> u64 {
    t.shape.iter().map(|d| d.as_const().unwrap_or(0) as u64).product()
}

/// The constants that operators of a kind multiply by.
fn constants<'g>(g: &'g Graph, op: &str) -> impl Iterator<Item = (&'g str, ValueId)> {
    let nodes = g.nodes.iter().filter(move |n| n.op.ends_with(op));
    nodes.filter_map(|n| match &g.value(n.inputs[1]).source {
        Source::Const(name) => Some((&**name, n.inputs[1])),
        _ => None,
    })
}

/// The layer of a tensor by its name in a file: `blk.3.attn_q.weight`.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// Adds weights and products to the layers; what is left is the head.
fn products(model: &Model, target: &Target, layers: &mut [Layers]) -> Head {
    let g = &model.graph;
    let mut head = Head { logits_bytes: 4 * model.config.vocab as u64, ..Head::default() };
    let mut read: HashSet<&Name> = HashSet::new();
    for v in &g.values {
        let Source::Const(name) = &v.source else { continue };
        if let Some(layer) = layer_of(name).and_then(|i| layers.get_mut(i))
            && read.insert(name)
        {
            layer.weight_bytes += bytes(&v.ty);
            layer.four_bit_bytes += bytes(&v.ty).min(four_bit(elements(&v.ty)));
        }
    }
    for n in g.nodes.iter().filter(|n| n.op.ends_with("matmul")) {
        let Source::Const(name) = &g.value(n.inputs[1]).source else { continue };
        let ty = g.ty(n.inputs[1]);
        let coded = &*n.op == "matmul" && ty.storage().is_some_and(|e| e.decode != Decode::Plain);
        let dtype = if coded && multiplies_bytes(target) { "int8" } else { "f32" };
        // Of a mixture's experts a token uses a few.
        let experts = model.config.experts.filter(|_| &*n.op == "expert_matmul");
        let share = experts.map_or((1, 1), |e| (e.used as u64, e.count as u64));
        let operations = 2 * elements(ty) * share.0 / share.1;
        let place = match layer_of(name).and_then(|i| layers.get_mut(i)) {
            Some(layer) => {
                layer.largest_bytes = layer.largest_bytes.max(bytes(ty));
                &mut layer.operations
            }
            None => {
                head.weight_bytes += bytes(ty);
                head.four_bit_bytes += bytes(ty).min(four_bit(elements(ty)));
                &mut head.operations
            }
        };
        *place.entry(dtype.to_owned()).or_default() += operations;
        if let (Some(e), Some(layer)) = (experts, layer_of(name).and_then(|i| layers.get_mut(i))) {
            layer.expert_bytes += bytes(ty);
            layer.experts_used = e.used as f64 / e.count as f64;
        }
    }
    head
}

/// Bytes of so many weights in groups of 32 codes of 4 bits with a scale of 16.
fn four_bit(elements: u64) -> u64 {
    elements.div_ceil(32) * 18
}

/// Adds attention and what a position of the cache takes, stored so: a node a layer, in order.
fn attention(g: &Graph, kv_type: KvType, layers: &mut [Layers]) {
    let bits = |t: &Type| t.bits().as_const().unwrap_or(0).max(0) as u64;
    let nodes = g.nodes.iter().filter(|n| &*n.op == "attention");
    for (n, layer) in nodes.zip(layers) {
        let ty = |i: usize| g.ty(n.inputs[i]);
        let positions = ty(1).shape[0].as_const().unwrap_or(1) as u64;
        layer.attention_operations = 4 * ty(0).shape[1].as_const().unwrap_or(0) as u64;
        layer.kv_bytes.insert(kv_type.as_str().into(), (bits(ty(1)) + bits(ty(2))) / 8 / positions);
    }
}

/// The most bytes of one token's temporaries that are alive at once.
fn most_live(g: &Graph) -> u64 {
    let one = |name: &str| g.dims.iter().any(|(n, _)| **n == *name).then_some(1);
    let of_token = |v: ValueId| match &g.value(v).source {
        Source::Node => g.ty(v).bits().eval(&one).unwrap_or(0).max(0) as u64 / 8,
        _ => 0,
    };
    let state: HashSet<ValueId> = g.outputs.iter().copied().collect();
    let mut last: BTreeMap<ValueId, usize> = BTreeMap::new();
    for (at, n) in g.nodes.iter().enumerate() {
        last.extend(n.inputs.iter().map(|v| (*v, at)));
    }
    let (mut live, mut most) = (0, 0);
    for (at, n) in g.nodes.iter().enumerate() {
        let made = n.outputs.iter().filter(|v| !state.contains(v) && last.contains_key(v));
        live += made.map(|v| of_token(*v)).sum::<u64>();
        most = most.max(live);
        let mut read = n.inputs.clone();
        read.sort_unstable();
        read.dedup();
        live -=
            read.iter().filter(|v| last[v] == at && !state.contains(v)).map(|v| of_token(*v)).sum::<u64>();
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn of(name: &str) -> Work {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-models/tests/data/tiny").join(name);
        work(&ModelFile::open(path).unwrap(), &Target::named("avx2").unwrap()).unwrap()
    }

    #[test]
    fn work_is_what_the_shapes_say() {
        // 64 wide, 2 layers, 4 heads of 16 with 2 for keys and values, 96 inside, 128 tokens; f16.
        let w = of("llama-f16.gguf");
        let (hidden, kv, ffn, vocab) = (64, 32, 96, 128);
        let weights = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * ffn;
        assert_eq!(w.layer_count(), 2, "{w:?}");
        for l in &w.layers {
            assert_eq!(l.operations, BTreeMap::from([("f32".to_string(), 2 * weights)]));
            // Two norms of f32 beside the products.
            assert_eq!(l.weight_bytes, 2 * weights + 2 * 4 * hidden);
            assert_eq!(l.largest_bytes, 2 * hidden * ffn);
            assert_eq!(l.attention_operations, 4 * hidden);
            assert_eq!((l.kv_bytes["f32"], l.kv_bytes["f16"]), (2 * kv * 4, 2 * kv * 2));
            assert!(l.workspace_bytes >= 4 * (hidden + 2 * ffn) && l.workspace_bytes < 64 << 10);
        }
        assert_eq!(w.head.operations["f32"], 2 * hidden * vocab);
        assert_eq!(w.head.logits_bytes, 4 * vocab);
        w.check().unwrap();
        assert_eq!(Work::from_toml(&w.to_toml()).unwrap(), w);
    }

    #[test]
    fn coded_weights_are_multiplied_as_bytes_and_experts_count_as_used() {
        let w = of("llama-q8_0.gguf");
        assert!(w.layers[0].operations.contains_key("int8"), "{w:?}");
        // The router of a mixture, and of its experts those that a token uses.
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-models/tests/data/tiny/mixtral-f32.gguf");
        let file = ModelFile::open(path).unwrap();
        let number = |key: &str| u64::from(file.get_u32(&format!("llama.{key}")).unwrap());
        let (hidden, heads, kv_heads) =
            (number("embedding_length"), number("attention.head_count"), number("attention.head_count_kv"));
        let (experts, used, inside) =
            (number("expert_count"), number("expert_used_count"), number("feed_forward_length"));
        let attention = 2 * hidden * hidden + 2 * hidden * hidden * kv_heads / heads;
        let of_token = attention + hidden * experts + used * 3 * hidden * inside;
        let all = attention + hidden * experts + experts * 3 * hidden * inside;
        let w = of("mixtral-f32.gguf");
        assert_eq!(w.layers[0].operations["f32"], 2 * of_token);
        assert_eq!(w.layers[0].weight_bytes, 4 * (all + 2 * hidden));
        let m = mixture(&file, &Target::named("avx2").unwrap()).unwrap();
        m.check().unwrap();
        assert_eq!((m.layers, m.experts, m.used, m.inner), (2, experts, used, inside));
        assert_eq!(m.expert_bytes, 4 * 3 * hidden * inside);
        assert_eq!(m.expert_operations, 2 * 3 * hidden * inside);
        assert_eq!(m.dense_bytes, 4 * (attention + hidden * experts + 2 * hidden));
        assert_eq!(m.dense_operations, 2 * (attention + hidden * experts));
    }
}
