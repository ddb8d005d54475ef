//! Every family's graph: embeddings, layers of attention over a paged cache and of a feed-forward, a head. In what families
//! differ, their [`Style`] says; biases are added where the file has them.

use lathe_ir::graph::{Attr, Graph, Type, ValueId};
use lathe_ir::{DType, Int};

use super::config::{Config, Metadata, Pooling};
use super::nodes::{Builder, Made};
use super::rope::Rotations;
use super::style::{HeadNorm, Norm, Pairs, Positions, Style};
use super::{CacheShape, FamilyErrorKind, KvType, Model, PAGE};
use crate::file::{Format, ModelFile};

/// The Hadamard matrix of a power of two (Sylvester 1867), orthonormal.
fn hadamard(n: i64) -> Vec<f32> {
    let sign = |i: i64| if ((i / n) & (i % n)).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
    (0..n * n).map(|i| sign(i) / (n as f32).sqrt()).collect()
}

pub(super) fn build(file: &ModelFile, cache: &CacheShape, style: &Style) -> Made<Model> {
    let c = Config::read(file, style)?;
    let together = match cache.elements {
        KvType::F32 | KvType::F16 => 1,
        KvType::Bf16 => 2,
        KvType::Q8 | KvType::Q4 => 32,
    };
    if c.head_dim % together != 0 {
        return Err(FamilyErrorKind::Elements { elements: cache.elements, head: c.head_dim });
    }
    let dims = [("T", cache.max_tokens), ("R", cache.max_sequences), ("B", cache.max_sequences)];
    let mut graph = Graph::new("step", &dims);
    let inputs = Inputs::add(&mut graph, cache, style);
    let mut b = Builder::new(graph, file);
    if let Some(room) = &cache.adapters {
        b.adapt(room)?;
    }
    let mut t = Transformer { b, c: &c, style, cache, inputs, states: vec![] };
    let x = t.embed()?;
    let turns = t.turns(file)?;
    let x = (0..c.layers).try_fold(x, |x, layer| t.layer(x, &turns, layer))?;
    let embeds = style.encoder || c.pooling == Pooling::Last;
    let result = match (style.encoder, embeds) {
        (true, _) => t.pooled(x)?,
        (false, true) => t.rows(x)?,
        (false, false) => t.logits(x)?,
    };
    t.b.graph.outputs = std::iter::once(result).chain(t.states.iter().flat_map(|s| [s.k, s.v])).collect();
    let (graph, made) = t.b.finish()?;
    Ok(Model { graph, config: c, encoder: embeds, made })
}

/// What the caller passes each step.
struct Inputs {
    tokens: ValueId,
    positions: ValueId,
    sequences: ValueId,
    slots: ValueId,
    rows: ValueId,
    pages: ValueId,
    /// What an encoder needs more.
    text: Option<Text>,
}

struct Text {
    last: ValueId,
    types: ValueId,
    shares: ValueId,
}

impl Inputs {
    fn add(g: &mut Graph, cache: &CacheShape, style: &Style) -> Inputs {
        let mut input = |name: &str, dtype, shape: &[Int]| g.input(name, Type::dense(dtype, shape));
        let token = [Int::var("T")];
        let tables = [Int::var("B"), Int::from((cache.context - 1) / PAGE + 1)];
        Inputs {
            tokens: input("tokens", DType::I32, &token),
            positions: input("positions", DType::I32, &token),
            sequences: input("sequences", DType::I32, &token),
            slots: input("slots", DType::I32, &token),
            rows: input("rows", DType::I32, &[Int::var("R")]),
            pages: input("pages", DType::I32, &tables),
            text: style.encoder.then(|| Text {
                last: input("last", DType::I32, &token),
                types: input("types", DType::I32, &token),
                shares: input("shares", DType::F32, &token),
            }),
        }
    }
}

/// Keys and values of a layer.
#[derive(Clone, Copy)]
struct Cache {
    k: ValueId,
    v: ValueId,
}

/// Tables of rotations for layers over the whole context, and for those with a window.
struct Turns {
    global: ValueId,
    local: ValueId,
    pairs: Pairs,
}

pub(super) struct Transformer<'a> {
    pub b: Builder<'a>,
    pub c: &'a Config,
    pub style: &'a Style,
    cache: &'a CacheShape,
    inputs: Inputs,
    states: Vec<Cache>,
}

impl Transformer<'_> {
    fn embed(&mut self) -> Made {
        let c = self.c;
        let table = self.b.weight("token_embd.weight", &[c.vocab, c.hidden])?;
        let mut x = self.b.op("take", &[table, self.inputs.tokens])?;
        if self.style.scaled_embedding {
            x = self.scaled(x, f64::from((c.hidden as f32).sqrt()))?;
        }
        if let Some(text) = &self.inputs.text {
            let types = self.b.weight("token_types.weight", &[c.types, c.hidden])?;
            let y = self.b.op("take", &[types, text.types])?;
            x = self.b.op("add", &[x, y])?;
        }
        if let Positions::Learned(first) = self.style.positions {
            let table = self.b.weight("position_embd.weight", &[c.context + first, c.hidden])?;
            let mut rows = self.inputs.positions;
            if first > 0 {
                rows = self.b.op_with("offset", &[rows], &[("by", Attr::Int(first))])?;
            }
            let y = self.b.op("take", &[table, rows])?;
            x = self.b.op("add", &[x, y])?;
        }
        if self.style.encoder { self.norm(x, "token_embd_norm", c.hidden) } else { Ok(x) }
    }

    /// The step's rotations, unless positions are learned.
    fn turns(&mut self, file: &ModelFile) -> Made<Option<Turns>> {
        let Positions::Rotary(pairs) = self.style.positions else { return Ok(None) };
        let pairs = match file.format() {
            Format::Safetensors => Pairs::Halves,
            Format::Gguf(_) | Format::Compiled => pairs,
        };
        let mut table = |name, r: Rotations| {
            let frequencies = self.b.numbers(name, &r.frequencies);
            let factor = [("factor", Attr::Float(r.factor.into()))];
            let attrs = if r.factor == 1.0 { &[][..] } else { &factor };
            self.b.op_with("rope_table", &[self.inputs.positions, frequencies], attrs)
        };
        let metadata = Metadata { file, prefix: self.style.name };
        let global = table("rope.inv_freq", Rotations::scaled(&metadata, self.c, self.cache)?)?;
        let local = match self.style.local_base {
            Some(base) => {
                let base = metadata.positive("rope.freq_base_swa")?.unwrap_or(base);
                table("rope.inv_freq_swa", Rotations::plain(base, self.c.rope_dim))?
            }
            None => global,
        };
        Ok(Some(Turns { global, local, pairs }))
    }

    fn layer(&mut self, x: ValueId, turns: &Option<Turns>, layer: i64) -> Made {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let x = self.block(x, layer, 0, |t, x| t.attention(x, turns, layer, &name))?;
        self.block(x, layer, 1, |t, x| t.feed_forward(x, &name))
    }

    /// Attention (0) or feed-forward (1) with its norms and what goes around it.
    fn block(
        &mut self,
        x: ValueId,
        layer: i64,
        which: usize,
        inner: impl FnOnce(&mut Self, ValueId) -> Made,
    ) -> Made {
        let (norms, hidden) = (self.style.norms, self.c.hidden);
        let norm = |t: &mut Self, x, names: Option<[&str; 2]>| match names {
            Some(n) => t.norm(x, &format!("blk.{layer}.{}", n[which]), hidden),
            None => Ok(x),
        };
        let y = norm(self, x, norms.before())?;
        let y = inner(self, y)?;
        let y = norm(self, y, norms.after())?;
        let sum = self.b.op("add", &[x, y])?;
        norm(self, sum, norms.of_sum())
    }

    fn attention(
        &mut self,
        x: ValueId,
        turns: &Option<Turns>,
        layer: i64,
        name: &dyn Fn(&str) -> String,
    ) -> Made {
        let c = self.c;
        let [mut q, mut k, v] = self.heads(x, name)?;
        if let Some(n) = self.style.head_norm {
            let length = |all| if n == HeadNorm::Each { c.head_dim } else { all };
            q = self.norm(q, &name("attn_q_norm"), length(c.query()))?;
            k = self.norm(k, &name("attn_k_norm"), length(c.key()))?;
        }
        let window = c.window_of(layer);
        if let Some(t) = turns {
            let table = if window.is_some() { t.local } else { t.global };
            let mut attrs = vec![("head_dim", Attr::Int(c.head_dim))];
            attrs.extend((t.pairs == Pairs::Halves).then_some(("halves", Attr::Int(1))));
            q = self.b.op_with("rope", &[q, table], &attrs)?;
            k = self.b.op_with("rope", &[k, table], &attrs)?;
        }
        if self.cache.elements == KvType::Q4 {
            // Products of queries and keys stay the same, and no component is far larger than the others.
            // A Hadamard matrix is a Kronecker product of smaller ones, the second here as wide as a vector.
            let n = 1 << c.head_dim.trailing_zeros();
            let (inner, name) = (n.min(16), |n: i64| format!("kv.hadamard.{n}"));
            let [outer, inner] = [n / inner, inner].map(|n| self.b.matrix(&name(n), n, &hadamard(n)));
            q = self.b.op("rotate", &[q, outer, inner])?;
            k = self.b.op("rotate", &[k, outer, inner])?;
        }
        let state = self.state(layer);
        let k = self.b.op("put", &[state.k, k, self.inputs.slots])?;
        let v = self.b.op("put", &[state.v, v, self.inputs.slots])?;
        if self.style.encoder {
            self.states.clear();
        }
        self.states.push(Cache { k, v });
        let last = self.inputs.text.as_ref().map_or(self.inputs.positions, |t| t.last);
        let mut attrs = vec![("heads", Attr::Int(c.heads))];
        let number = |name, v: Option<f32>| v.map(|v| (name, Attr::Float(v.into())));
        attrs.extend(number("scale", c.scale));
        attrs.extend(number("softcap", c.score_cap));
        attrs.extend(window.filter(|w| *w < self.cache.context).map(|w| ("window", Attr::Int(w))));
        let y = self.b.op_with(
            "attention",
            &[q, k, v, self.inputs.pages, self.inputs.sequences, last],
            &attrs,
        )?;
        self.b.linear(y, &name("attn_output"), c.hidden)
    }

    /// Queries, keys and values.
    fn heads(&mut self, x: ValueId, name: &dyn Fn(&str) -> String) -> Made<[ValueId; 3]> {
        let widths = [self.c.query(), self.c.key(), self.c.key()];
        if !self.style.fused_heads {
            let names = ["attn_q", "attn_k", "attn_v"].map(name);
            return self.b.linears(x, [0, 1, 2].map(|i| (&*names[i], widths[i])));
        }
        let all = self.b.linear(x, &name("attn_qkv"), widths.iter().sum())?;
        self.slices(all, widths)
    }

    /// Neighbouring columns of the given widths.
    pub(super) fn slices<const N: usize>(&mut self, x: ValueId, widths: [i64; N]) -> Made<[ValueId; N]> {
        let (mut from, mut parts) = (0, [x; N]);
        for (part, width) in parts.iter_mut().zip(widths) {
            let attrs =
                [("axes", 1), ("starts", from), ("sizes", width)].map(|(n, v)| (n, Attr::Ints(vec![v])));
            *part = self.b.op_with("slice", &[x], &attrs)?;
            from += width;
        }
        Ok(parts)
    }

    /// The cache of a layer as it is before the layer. An encoder keeps nothing for later steps, so its layers share one.
    fn state(&mut self, layer: i64) -> Cache {
        if let (true, Some(s)) = (self.style.encoder, self.states.first()) {
            return *s;
        }
        let shape = [Int::from(self.cache.pages) * PAGE, self.c.kv_heads.into(), self.c.head_dim.into()];
        let elements = match self.cache.elements {
            KvType::F32 => String::new(),
            other => format!(".{}", other.as_str()),
        };
        let mut add = |name| {
            let ty = Type::encoded(&format!("{name}16{elements}"), &shape);
            self.b.graph.state(&format!("{name}{layer}"), ty)
        };
        Cache { k: add("keys"), v: add("values") }
    }

    /// What is known behind the tokens that are asked for.
    fn rows(&mut self, x: ValueId) -> Made {
        let x = self.b.op("take", &[x, self.inputs.rows])?;
        self.norm(x, "output_norm", self.c.hidden)
    }

    fn logits(&mut self, x: ValueId) -> Made {
        let (hidden, vocab) = (self.c.hidden, self.c.vocab);
        let x = self.rows(x)?;
        // Without a matrix of its own the head is the embedding.
        let own = self.b.optional("output.weight", &[vocab, hidden])?;
        let weight = own.map_or_else(|| self.b.weight("token_embd.weight", &[vocab, hidden]), Ok)?;
        let mut y = self.b.op("matmul", &[x, weight])?;
        if let Some(bias) = self.b.optional("output.bias", &[vocab])? {
            y = self.b.op("add", &[y, bias])?;
        }
        let Some(cap) = self.c.logit_cap else { return Ok(y) };
        let y = self.scaled(y, 1.0 / f64::from(cap))?;
        let y = self.b.op("tanh", &[y])?;
        self.scaled(y, cap.into())
    }

    /// One vector of each sequence; `rows` are the first tokens, or the last ones where those are it, and `shares` 1 / length.
    fn pooled(&mut self, x: ValueId) -> Made {
        let first = self.b.op("take", &[x, self.inputs.rows])?;
        let Some(Text { shares, .. }) = self.inputs.text.as_ref().filter(|_| self.c.pooling == Pooling::Mean)
        else {
            return Ok(first);
        };
        let shares = self.b.op_with("spread", &[*shares, x], &[("axes", Attr::Ints(vec![1]))])?;
        let weighed = self.b.op("mul", &[x, shares])?;
        self.b.op("scatter_add", &[weighed, self.inputs.sequences, first])
    }

    /// A norm over parts of so many elements.
    fn norm(&mut self, x: ValueId, name: &str, length: i64) -> Made {
        let weight = self.b.weight(&format!("{name}.weight"), &[length])?;
        let eps = [("eps", Attr::Float(self.c.eps.into()))];
        match self.style.norm {
            Norm::MeanSquare => self.b.op_with("rms_norm", &[x, weight], &eps),
            Norm::Layer => {
                let bias = self.b.weight(&format!("{name}.bias"), &[length])?;
                self.b.op_with("layer_norm", &[x, weight, bias], &eps)
            }
        }
    }

    fn scaled(&mut self, x: ValueId, by: f64) -> Made {
        self.b.op_with("affine", &[x], &[("by", Attr::Float(by))])
    }
}
