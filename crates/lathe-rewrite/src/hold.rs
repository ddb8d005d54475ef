//! Experts that do not fit: all lie on another tier, and those that a step's tokens are sent to are in memory while it computes with
//! them. Before a layer's first product the router has said which they are; those that are not there come, and which others stay
//! is the executor's choice ([`Step::Hold`]). While a layer's products are computed, a queue of its own brings what the next layer
//! is likely to need.
//!
//! Each weight has its whole length of addresses, so that kernels find every expert where they always do; only the experts
//! that are there take memory.

use crate::stream::{Extent, buffer, event, part};
use lathe_ir::graph::{Form, Graph, Node, Type, int_attr};
use lathe_ir::step::{Held, Part, Program, Queue, Step};
use lathe_ir::tensor::{Buffer, HOST};
use lathe_ir::{Encoding, Int, Layout, Name};
use std::collections::HashMap;

/// The name of the buffer on the other tier.
pub const EXPERTS: &str = "experts";
/// The name of the buffer in memory.
pub const EXPERTS_HELD: &str = "experts_held";

/// What places are multiples of, bytes: a disk is read past the page cache by sectors.
const ALIGN: i64 = 4096;

/// A weight with a page for each expert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sliced {
    /// Its buffer in the program.
    pub name: Name,
    /// The offsets of the buckets of tokens, by expert.
    pub offsets: Name,
    /// Its first byte on the other tier.
    pub from: i64,
    /// Its first byte in memory.
    pub(crate) place: i64,
    /// Bytes of an expert.
    pub page: i64,
    /// Experts.
    pub pages: i64,
    /// The slots, by expert.
    pub index: Name,
    /// What it multiplies.
    pub argument: Rows,
    /// The product.
    pub result: Rows,
}

/// A value of which each row belongs to slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Its buffer in the program.
    pub name: Name,
    /// Slots of a row.
    pub slots: i64,
    /// Bytes of a row, where rows lie one behind the other.
    pub bytes: Option<i64>,
}

/// How experts come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The tier that they lie on.
    pub tier: Name,
    /// Bytes of it.
    pub bytes: i64,
    /// The weights, in the order of the program.
    pub weights: Vec<Sliced>,
    /// Values of which a row follows from several rows of others.
    pub mixed: Vec<Name>,
}

/// Bytes of each slice along the first axis, when the slices lie one behind the other, whole bytes each.
fn slice_bytes(ty: &Type) -> Option<i64> {
    let one = Type { shape: [&[1.into()], ty.shape.get(1..)?].concat(), ..ty.clone() };
    let slice = one.bits().as_const()?;
    let layouts: Vec<Layout> = match ty.storage() {
        None => vec![Buffer::dense("w", ty.dtype, &ty.shape, HOST).layout],
        Some(Encoding { fields, .. }) => fields.into_iter().map(|f| f.layout).collect(),
    };
    let apart = |l: &Layout| {
        let first: Vec<_> = l.terms.iter().filter(|t| t.dim == 0).collect();
        matches!(first[..], [t] if t.div == 1 && t.modulo.is_none() && t.stride == Int::from(slice))
    };
    (slice % 8 == 0 && layouts.iter().all(apart)).then_some(slice / 8)
}

impl Hold {
    /// The weights of a graph's experts, of those in `extents` (of `bytes` bytes on `tier`), that can be held so.
    pub fn new(graph: &Graph, program: &Program, tier: &str, bytes: i64, extents: &[Extent]) -> Hold {
        let table = lathe_ops::table();
        let by_row = |n: &&Node| {
            let types: Vec<_> = n.inputs.iter().map(|v| graph.ty(*v).clone()).collect();
            let form = table.get(&n.op).map(|row| (row.form)(&types, &n.attrs));
            &*n.op == "expert_matmul" || matches!(form, Some(Form::Row | Form::Elementwise))
        };
        let mixed = graph.nodes.iter().filter(|n| !by_row(n)).flat_map(|n| &n.outputs);
        let mixed = mixed.map(|v| graph.value(*v).name.clone()).collect();
        let mut hold = Hold { tier: tier.into(), bytes, weights: vec![], mixed };
        let mut end = 0;
        for node in graph.nodes.iter().filter(|n| &*n.op == "expert_matmul") {
            let name = |i: usize| &graph.value(node.inputs[i]).name;
            let (weight, offsets) = (name(1), name(2));
            let uses = graph.nodes.iter().flat_map(|n| &n.inputs).filter(|v| **v == node.inputs[1]).count();
            let known = program.buffer(weight).is_some() && program.buffer(offsets).is_some();
            let extent = extents.iter().find(|e| e.name == *weight).filter(|_| uses == 1 && known);
            let ty = graph.ty(node.inputs[1]);
            let Some((extent, page)) = extent.zip(slice_bytes(ty)) else { continue };
            let pages = ty.shape[0].as_const().unwrap_or(0);
            if page * pages > extent.len {
                continue;
            }
            hold.weights.push(Sliced {
                name: weight.clone(),
                offsets: offsets.clone(),
                from: extent.offset,
                place: end,
                page,
                pages,
                index: name(3).clone(),
                argument: Rows {
                    name: name(0).clone(),
                    slots: int_attr(&node.attrs, "k").unwrap_or(1),
                    bytes: slice_bytes(graph.ty(node.inputs[0])),
                },
                result: Rows {
                    name: graph.value(node.outputs[0]).name.clone(),
                    slots: 1,
                    bytes: slice_bytes(graph.ty(node.outputs[0])),
                },
            });
            end += (page * pages + ALIGN - 1) / ALIGN * ALIGN;
        }
        hold
    }

    /// Addresses that they take in memory.
    pub fn window(&self) -> i64 {
        self.weights.last().map_or(0, |w| (w.place + w.page * w.pages + ALIGN - 1) / ALIGN * ALIGN)
    }

    /// The weights that are held together, those of a layer.
    pub fn layers(&self) -> Vec<Vec<&Sliced>> {
        let mut layers: Vec<Vec<&Sliced>> = vec![];
        for w in &self.weights {
            match layers.iter_mut().find(|l| l[0].offsets == w.offsets) {
                Some(layer) => layer.push(w),
                None => layers.push(vec![w]),
            }
        }
        layers
    }

    /// The same with nothing on the other tier but these weights; and where each lay.
    pub fn compact(&self) -> (Hold, Vec<i64>) {
        let from = self.weights.iter().map(|w| w.from).collect();
        let mut compact = Hold { bytes: self.window(), ..self.clone() };
        compact.weights.iter_mut().for_each(|w| w.from = w.place);
        (compact, from)
    }

    /// The program with steps that hold the experts; it is given [`EXPERTS`], the other tier, and [`EXPERTS_HELD`].
    pub fn apply(&self, program: &Program) -> Program {
        let mut p = program.clone();
        let store = buffer(&mut p, EXPERTS, self.bytes, &self.tier);
        let memory = buffer(&mut p, EXPERTS_HELD, self.window(), HOST);
        let layers = self.layers();
        let mut places: HashMap<&Name, (usize, Part)> = HashMap::new();
        for (i, w) in layers.iter().enumerate().flat_map(|(i, l)| l.iter().map(move |w| (i, w))) {
            places.insert(&w.name, (i, part(memory, w.place, w.page * w.pages)));
        }
        let held = |layer: &[&Sliced]| {
            let one = |w: &&Sliced| {
                let len = w.page * w.pages;
                Held { from: part(store, w.from, len), to: part(memory, w.place, len), page: w.page }
            };
            layer.iter().map(one).collect::<Vec<_>>()
        };
        let go = event(&mut p, "experts_go", 0);
        let there = event(&mut p, "experts_there", 0);
        let mut begun = 0;
        p.steps.clear();
        for s in &program.steps {
            let mut s = s.clone();
            if let Step::Call { args, .. } = &mut s {
                for a in args {
                    let Some((layer, place)) = places.get(&program.buffers[a.buffer as usize].name) else {
                        continue;
                    };
                    *a = place.clone();
                    // Layers are in the order of the program.
                    if *layer < begun {
                        continue;
                    }
                    begun = layer + 1;
                    let offsets = program.buffer(&layers[*layer][0].offsets);
                    let offsets = offsets.expect("it was there when this was made");
                    let offsets = part(offsets, 0, 4 * (layers[*layer][0].pages + 1));
                    p.steps.extend((*layer > 0).then_some(Step::Wait(there)));
                    p.steps.push(Step::Hold {
                        held: held(&layers[*layer]),
                        offsets: Some(offsets),
                        beside: None,
                    });
                    p.steps.extend((begun < layers.len()).then_some(Step::Signal(go)));
                }
            }
            p.steps.push(s);
        }
        let expect = |l: &Vec<&Sliced>| {
            [Step::Wait(go), Step::Hold { held: held(l), offsets: None, beside: None }, Step::Signal(there)]
        };
        let steps: Vec<Step> = layers.iter().skip(1).flat_map(expect).collect();
        if !steps.is_empty() {
            p.queues.push(Queue { name: EXPERTS.into(), steps });
        }
        crate::only_used(p)
    }
}
