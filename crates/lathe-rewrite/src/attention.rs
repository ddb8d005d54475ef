//! `attention`: two products with a softmax between become one operator, whose scores stay in the caches.
//!
//! Approximates: each exponential is divided by their sum after it multiplied a value, not before, so that a result of n keys
//! differs by at most (n + 3) u of the same sum of absolute values; where elements are bf16, sums and scores are f32 and
//! exponentials alone are rounded, by at most 2^-9 of themselves, once and not three times.

use crate::{Pass, sizes};
use lathe_ir::graph::{Attr, Graph, Node, OpTable, Source, Type, ValueId, ints_attr};
use lathe_ir::{DType, Int, IrError};
use lathe_machine::Target;
use lathe_schedule::{Choices, Tag, word_product};

pub(crate) const ATTENTION: Pass = Pass {
    name: "attention",
    doc: "products with a softmax between are one operator, in one pass over the scores; approximates",
    tag: Tag::Approximates,
    run,
};

/// Queries and keys that are few are no reason to copy keys and values.
const FEW: i64 = 32;

/// What the nodes behind a result compute.
struct Found {
    queries: ValueId,
    /// Keys, and in which order their axes are wanted.
    keys: (ValueId, Vec<i64>),
    values: ValueId,
    /// A number that scores are multiplied with, or divided by.
    scale: Option<(ValueId, bool)>,
    mask: Option<ValueId>,
}

impl Found {
    /// What is chosen of: all attention over these sizes.
    fn choice(&self, g: &Graph) -> String {
        format!("attention.{}.{}", sizes(&g.ty(self.queries).shape), sizes(&g.ty(self.values).shape))
    }
}

struct Search<'g> {
    g: &'g Graph,
    producers: Vec<Option<usize>>,
    uses: Vec<usize>,
}

impl<'g> Search<'g> {
    fn shape(&self, v: ValueId) -> Option<Vec<i64>> {
        self.g.ty(v).shape.iter().map(Int::as_const).collect()
    }

    /// The node that makes a value, where it is one of these.
    fn made(&self, v: ValueId, ops: &[&str]) -> Option<&'g Node> {
        self.producers[v.0 as usize].map(|i| &self.g.nodes[i]).filter(|n| ops.contains(&&*n.op))
    }

    /// The same, where nobody else reads the value.
    fn within(&self, v: ValueId, ops: &[&str]) -> Option<&'g Node> {
        self.made(v, ops).filter(|_| self.uses[v.0 as usize] == 1)
    }

    /// Where a value comes from, behind changes of its shape and type.
    fn source(&self, mut v: ValueId) -> ValueId {
        let float = |v: ValueId| matches!(self.g.ty(v).dtype, DType::F32 | DType::BF16);
        while let Some(n) = self.within(v, &["reshape", "cast"]).filter(|n| float(n.inputs[0]) && float(v)) {
            v = n.inputs[0];
        }
        v
    }

    /// A product of matrices, batch by batch: whether the second one is summed over its last axis.
    fn product(&self, n: &Node) -> Option<bool> {
        let axes = |name: &str| ints_attr(&n.attrs, name);
        let rank = self.g.ty(n.inputs[0]).shape.len() as i64;
        let batch: Vec<i64> = (0..rank - 2).collect();
        let same = self.g.ty(n.inputs[1]).shape.len() as i64 == rank;
        let fits =
            same && axes("batch_x") == batch && axes("batch_y") == batch && axes("sum_x") == [rank - 1];
        let of = axes("sum_y");
        (rank >= 2 && fits && (of == [rank - 1] || of == [rank - 2])).then_some(of == [rank - 1])
    }

    /// The argument that is no single number, that number, and whether it divides.
    fn scaled(&self, n: &Node) -> Option<(ValueId, (ValueId, bool))> {
        let single = |v: &ValueId| self.shape(*v).is_some_and(|s| s.iter().all(|d| *d == 1));
        let [x, y] = n.inputs[..] else { return None };
        match (single(&x), single(&y)) {
            (false, true) => Some((x, (y, &*n.op == "div"))),
            (true, false) if &*n.op == "mul" => Some((y, (x, false))),
            _ => None,
        }
    }

    fn attention(&self, last: &Node) -> Option<Found> {
        (&*last.op == "dot" && !self.product(last)?).then_some(())?;
        let (shares, values) = (last.inputs[0], last.inputs[1]);
        let softmax = self.within(self.source(shares), &["softmax"])?;
        let scores = self.source(softmax.inputs[0]);
        // Rows of the softmax are those of the product.
        let keys = *self.shape(values)?.iter().nth_back(1)?;
        (self.shape(softmax.outputs[0])?.last() == Some(&keys)).then_some(())?;
        let (scores, mask) = match self.within(scores, &["add"]) {
            Some(n) => {
                let is = |v: ValueId| {
                    self.within(v, &["mul", "div", "dot"]).is_some() && self.shape(v) == self.shape(shares)
                };
                let [x, y] = n.inputs[..] else { return None };
                if is(x) { (x, Some(y)) } else { (y, Some(x)) }
            }
            None => (scores, None),
        };
        let (scores, mut scale) = match self.within(scores, &["mul", "div"]) {
            Some(n) => self.scaled(n).map(|(x, by)| (x, Some(by)))?,
            None => (scores, None),
        };
        let first = self.within(scores, &["dot"])?;
        let along = self.product(first)?;
        let (mut queries, of) = (first.inputs[0], first.inputs[1]);
        (self.shape(first.outputs[0]) == self.shape(shares)).then_some(())?;
        if scale.is_none()
            && let Some((x, by)) = self.within(queries, &["mul", "div"]).and_then(|n| self.scaled(n))
        {
            (queries, scale) = (x, Some(by));
        }
        let rank = self.shape(of)?.len() as i64;
        let mut keys: (ValueId, Vec<i64>) = (of, (0..rank).collect());
        if !along {
            if let Some(n) = self.made(of, &["permute"]) {
                keys = (n.inputs[0], ints_attr(&n.attrs, "axes").to_vec());
            }
            keys.1.swap(rank as usize - 2, rank as usize - 1);
        }
        Some(Found { queries, keys, values, scale, mask })
    }

    /// Whether one operator suits: dense elements of one type that it takes, and enough of them.
    fn suits(&self, f: &Found, y: ValueId, target: &Target) -> bool {
        let of = self.g.ty(y).dtype;
        let words = of == DType::BF16 && word_product(target, [DType::BF16; 2]).is_some();
        let all = [Some(f.queries), Some(f.keys.0), Some(f.values), f.mask, f.scale.map(|s| s.0)];
        let dense = |v: &ValueId| self.g.ty(*v).dtype == of && self.g.ty(*v).encoding.is_none();
        let long = |v: ValueId| self.shape(v).is_some_and(|s| s[s.len() - 2] >= FEW && s[s.len() - 1] >= 8);
        // A kernel copies keys and values, each in its own order.
        let apart = f.queries != f.values && f.keys.0 != f.queries && f.keys.0 != f.values;
        let all_dense = all.iter().flatten().all(dense);
        (of == DType::F32 || words) && apart && all_dense && long(f.queries) && long(f.values)
    }
}

fn run(g: &Graph, _: &OpTable, target: &Target, choices: &mut Choices) -> Result<Graph, IrError> {
    // What nobody reads is no reader.
    let g = &g.without_dead(0);
    let search = Search { g, producers: g.producers(), uses: g.uses() };
    let mut out = Graph { nodes: vec![], ..g.clone() };
    for n in &g.nodes {
        let found = search.attention(n).filter(|f| search.suits(f, n.outputs[0], target));
        let Some(f) = found.filter(|f| choices.whether(&f.choice(g), true)) else {
            out.nodes.push(n.clone());
            continue;
        };
        let mut node = |op: &str, inputs: &[ValueId], attrs: &[(&str, Attr)], shape: &[Int]| {
            let v = out.add_value("", Type::dense(g.ty(n.outputs[0]).dtype, shape), Source::Node);
            let attrs = attrs.iter().map(|(n, a)| ((*n).into(), a.clone())).collect();
            out.nodes.push(Node { op: op.into(), inputs: inputs.to_vec(), attrs, outputs: vec![v] });
            v
        };
        let (mut keys, axes) = f.keys;
        if !axes.is_sorted() {
            let shape: Vec<Int> = axes.iter().map(|d| g.ty(keys).shape[*d as usize].clone()).collect();
            keys = node("permute", &[keys], &[("axes", Attr::Ints(axes))], &shape);
        }
        let mut inputs = vec![f.queries, keys, f.values];
        let mut attrs = vec![];
        if let Some((by, divides)) = f.scale {
            inputs.push(if divides {
                let one = node("fill", &[by], &[("value", Attr::Float(1.0))], &g.ty(by).shape);
                node("div", &[one, by], &[], &g.ty(by).shape)
            } else {
                by
            });
            attrs.push(("scaled".into(), Attr::Int(1)));
        }
        if let Some(m) = f.mask {
            inputs.push(m);
            attrs.push(("masked".into(), Attr::Int(1)));
        }
        out.nodes.push(Node {
            op: "dense_attention".into(),
            inputs,
            attrs: attrs.into_iter().collect(),
            outputs: n.outputs.clone(),
        });
    }
    Ok(out.without_dead(0))
}
