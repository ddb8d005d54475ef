//! What most families are: layers of rotary attention with shared key heads and a gated feed-forward, each behind a
//! root-mean-square norm (Touvron et al. 2023). With experts in the file, the feed-forward is Mixtral's (Jiang et al. 2024).
//! Biases are added where the file has them. In what else a family differs, its [`Style`] says.

use std::collections::HashMap;

use lathe_ir::graph::{Attr, Graph, OpTable, Type, ValueId};
use lathe_ir::{DType, Int, IrError};

use super::config::Config;
use super::error::FamilyErrorKind;
use super::tensors::{Constants, inverse_frequencies};
use super::{CacheShape, Model, PAGE};
use crate::file::{Format, ModelFile};

const FREQUENCIES: &str = "rope.inv_freq";

/// Elements of a head that rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pairs {
    /// `2i` and `2i + 1`.
    Neighbours,
    /// `i` and `i` of the second half.
    Halves,
}

/// A family of such decoders.
pub(super) struct Style {
    /// What the names of its settings begin with.
    pub prefix: &'static str,
    /// How queries and keys rotate in GGUF files; in safetensors folders always by halves.
    pub pairs: Pairs,
}

pub(super) fn build(file: &ModelFile, cache: &CacheShape, style: &Style) -> Result<Model, FamilyErrorKind> {
    let c = Config::read(file, style.prefix)?;
    let pairs = match file.format() {
        Format::Safetensors => Pairs::Halves,
        Format::Gguf(_) => style.pairs,
    };
    let frequencies = inverse_frequencies(file, c.rope_base, c.rope_dim)?;
    let dims = [("T", cache.max_tokens), ("R", cache.max_sequences), ("B", cache.max_sequences)];
    let mut graph = Graph::new("step", &dims);
    let inputs = Inputs::add(&mut graph, cache);
    let states: Vec<Cache> = (0..c.layers).map(|n| Cache::add(&mut graph, cache, &c, n)).collect();
    let turns = graph.constant(FREQUENCIES, Type::dense(DType::F32, &[Int::from(c.rope_dim / 2)]));
    let weights = Weights::add(&mut graph, file, &c)?;
    let mut b = Builder { graph, table: lathe_ops::table(), c: &c, pairs };
    b.graph.outputs = b.step(&inputs, turns, &states, &weights)?;
    let graph = b.graph;
    Ok(Model { graph, config: c, made: HashMap::from([(FREQUENCIES.into(), frequencies)]) })
}

/// What the caller passes each step.
struct Inputs {
    tokens: ValueId,
    positions: ValueId,
    sequences: ValueId,
    slots: ValueId,
    rows: ValueId,
    pages: ValueId,
}

impl Inputs {
    fn add(g: &mut Graph, cache: &CacheShape) -> Inputs {
        let mut input = |name: &str, shape: &[Int]| g.input(name, Type::dense(DType::I32, shape));
        let token = [Int::var("T")];
        let tables = [Int::var("B"), Int::from((cache.context - 1) / PAGE + 1)];
        Inputs {
            tokens: input("tokens", &token),
            positions: input("positions", &token),
            sequences: input("sequences", &token),
            slots: input("slots", &token),
            rows: input("rows", &[Int::var("R")]),
            pages: input("pages", &tables),
        }
    }
}

/// A layer's keys and values.
#[derive(Clone, Copy)]
struct Cache {
    k: ValueId,
    v: ValueId,
}

impl Cache {
    fn add(g: &mut Graph, cache: &CacheShape, c: &Config, layer: i64) -> Cache {
        let shape = [Int::from(cache.pages) * PAGE, c.kv_heads.into(), c.head_dim.into()];
        let mut state =
            |name: &str, encoding| g.state(&format!("{name}{layer}"), Type::encoded(encoding, &shape));
        Cache { k: state("k", "keys16"), v: state("v", "values16") }
    }
}

/// A matrix and perhaps what is added after it.
struct Linear {
    weight: ValueId,
    bias: Option<ValueId>,
}

enum FeedForward {
    Dense { gate: Linear, up: Linear, down: Linear },
    Experts { router: ValueId, gate: ValueId, up: ValueId, down: ValueId, count: i64, used: i64 },
}

struct Layer {
    attn_norm: ValueId,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    ffn_norm: ValueId,
    ffn: FeedForward,
}

/// The file's tensors.
struct Weights {
    embedding: ValueId,
    layers: Vec<Layer>,
    norm: ValueId,
    output: Linear,
}

impl Weights {
    fn add(g: &mut Graph, file: &ModelFile, c: &Config) -> Result<Weights, FamilyErrorKind> {
        let mut t = Constants::new(g, file);
        let embedding = t.required("token_embd.weight", &[c.vocab, c.hidden])?;
        let layers = (0..c.layers).map(|n| Layer::add(&mut t, c, n)).collect::<Result<_, _>>()?;
        let norm = t.required("output_norm.weight", &[c.hidden])?;
        let own = t.optional("output.weight", &[c.vocab, c.hidden])?;
        let output =
            Linear { weight: own.unwrap_or(embedding), bias: t.optional("output.bias", &[c.vocab])? };
        t.finish()?;
        Ok(Weights { embedding, layers, norm, output })
    }
}

impl Layer {
    fn add(t: &mut Constants<'_>, c: &Config, layer: i64) -> Result<Layer, FamilyErrorKind> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        Ok(Layer {
            attn_norm: t.required(&name("attn_norm.weight"), &[c.hidden])?,
            q: Linear::add(t, &name("attn_q"), c.query(), c.hidden)?,
            k: Linear::add(t, &name("attn_k"), c.key(), c.hidden)?,
            v: Linear::add(t, &name("attn_v"), c.key(), c.hidden)?,
            out: Linear::add(t, &name("attn_output"), c.hidden, c.query())?,
            ffn_norm: t.required(&name("ffn_norm.weight"), &[c.hidden])?,
            ffn: match c.experts {
                None => FeedForward::Dense {
                    gate: Linear::add(t, &name("ffn_gate"), c.ffn, c.hidden)?,
                    up: Linear::add(t, &name("ffn_up"), c.ffn, c.hidden)?,
                    down: Linear::add(t, &name("ffn_down"), c.hidden, c.ffn)?,
                },
                Some(e) => FeedForward::Experts {
                    router: t.required(&name("ffn_gate_inp.weight"), &[e.count, c.hidden])?,
                    gate: t.required(&name("ffn_gate_exps.weight"), &[e.count, c.ffn, c.hidden])?,
                    up: t.required(&name("ffn_up_exps.weight"), &[e.count, c.ffn, c.hidden])?,
                    down: t.required(&name("ffn_down_exps.weight"), &[e.count, c.hidden, c.ffn])?,
                    count: e.count,
                    used: e.used,
                },
            },
        })
    }
}

impl Linear {
    fn add(t: &mut Constants<'_>, name: &str, out: i64, into: i64) -> Result<Linear, FamilyErrorKind> {
        let weight = t.required(&format!("{name}.weight"), &[out, into])?;
        Ok(Linear { weight, bias: t.optional(&format!("{name}.bias"), &[out])? })
    }
}

/// The nodes, in the order they run.
struct Builder<'a> {
    graph: Graph,
    table: OpTable,
    c: &'a Config,
    pairs: Pairs,
}

impl Builder<'_> {
    fn step(
        &mut self,
        inputs: &Inputs,
        turns: ValueId,
        states: &[Cache],
        weights: &Weights,
    ) -> Result<Vec<ValueId>, IrError> {
        let mut x = self.op("take", &[weights.embedding, inputs.tokens])?;
        let turns = self.op("rope_table", &[inputs.positions, turns])?;
        let mut successors = vec![];
        for (layer, state) in weights.layers.iter().zip(states) {
            let normed = self.norm(x, layer.attn_norm)?;
            let (attended, next) = self.attention(normed, turns, inputs, *state, layer)?;
            x = self.op("add", &[x, attended])?;
            let normed = self.norm(x, layer.ffn_norm)?;
            let fed = self.feed_forward(normed, &layer.ffn)?;
            x = self.op("add", &[x, fed])?;
            successors.extend([next.k, next.v]);
        }
        let wanted = self.op("take", &[x, inputs.rows])?;
        let normed = self.norm(wanted, weights.norm)?;
        let logits = self.linear(normed, &weights.output)?;
        Ok([vec![logits], successors].concat())
    }

    fn attention(
        &mut self,
        x: ValueId,
        turns: ValueId,
        inputs: &Inputs,
        state: Cache,
        layer: &Layer,
    ) -> Result<(ValueId, Cache), IrError> {
        let q = self.linear(x, &layer.q)?;
        let k = self.linear(x, &layer.k)?;
        let v = self.linear(x, &layer.v)?;
        let mut heads = vec![("head_dim", Attr::Int(self.c.head_dim))];
        heads.extend((self.pairs == Pairs::Halves).then_some(("halves", Attr::Int(1))));
        let q = self.op_with("rope", &[q, turns], &heads)?;
        let k = self.op_with("rope", &[k, turns], &heads)?;
        let k = self.op("put", &[state.k, k, inputs.slots])?;
        let v = self.op("put", &[state.v, v, inputs.slots])?;
        let args = [q, k, v, inputs.pages, inputs.sequences, inputs.positions];
        let y = self.op_with("attention", &args, &[("heads", Attr::Int(self.c.heads))])?;
        Ok((self.linear(y, &layer.out)?, Cache { k, v }))
    }

    fn feed_forward(&mut self, x: ValueId, ffn: &FeedForward) -> Result<ValueId, IrError> {
        match ffn {
            FeedForward::Dense { gate, up, down } => {
                let g = self.linear(x, gate)?;
                let u = self.linear(x, up)?;
                let y = self.op("swiglu", &[g, u])?;
                self.linear(y, down)
            }
            FeedForward::Experts { router, gate, up, down, count, used } => {
                let per = |k: i64| [("k", Attr::Int(k))];
                let scores = self.op("matmul", &[x, *router])?;
                let [weights, chosen] = self.pair("route", scores, &per(*used))?;
                let [offsets, index] = self.pair("bucket", chosen, &[("experts", Attr::Int(*count))])?;
                // The rows of x are tokens, `used` slots each; those of the inner width are slots.
                let g = self.op_with("expert_matmul", &[x, *gate, offsets, index], &per(*used))?;
                let u = self.op_with("expert_matmul", &[x, *up, offsets, index], &per(*used))?;
                let y = self.op("swiglu", &[g, u])?;
                let y = self.op_with("expert_matmul", &[y, *down, offsets, index], &per(1))?;
                self.op("combine", &[y, weights])
            }
        }
    }

    fn norm(&mut self, x: ValueId, weight: ValueId) -> Result<ValueId, IrError> {
        self.op_with("rms_norm", &[x, weight], &[("eps", Attr::Float(self.c.eps.into()))])
    }

    fn linear(&mut self, x: ValueId, l: &Linear) -> Result<ValueId, IrError> {
        let y = self.op("matmul", &[x, l.weight])?;
        l.bias.map_or(Ok(y), |bias| self.op("add", &[y, bias]))
    }

    fn op(&mut self, name: &str, inputs: &[ValueId]) -> Result<ValueId, IrError> {
        self.op_with(name, inputs, &[])
    }

    fn op_with(
        &mut self,
        name: &str,
        inputs: &[ValueId],
        attrs: &[(&str, Attr)],
    ) -> Result<ValueId, IrError> {
        self.results(name, inputs, attrs).map(|[y]| y)
    }

    fn pair(&mut self, name: &str, input: ValueId, attrs: &[(&str, Attr)]) -> Result<[ValueId; 2], IrError> {
        self.results(name, &[input], attrs)
    }

    fn results<const N: usize>(
        &mut self,
        name: &str,
        inputs: &[ValueId],
        attrs: &[(&str, Attr)],
    ) -> Result<[ValueId; N], IrError> {
        let found = self.graph.apply(&self.table, name, inputs, attrs)?;
        let wrong = |f: Vec<ValueId>| IrError::check(name, format!("has {} results, not {N}", f.len()));
        found.try_into().map_err(wrong)
    }
}
