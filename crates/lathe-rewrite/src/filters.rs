//! `filters`: constant filters of convolutions get the layout that channels in lanes read best, where that is the faster way: a
//! `pack` node behind each, which runs once, when the program is loaded.

use crate::{Pass, sizes};
use lathe_ir::graph::{Attr, Graph, Node, OpTable, Source, Type, ValueId, int_attr, ints_attr};
use lathe_ir::{DType, IrError, Name};
use lathe_machine::Target;
use lathe_schedule::{Choices, Tag, channel_tile};
use std::collections::HashMap;

pub(crate) const FILTERS: Pass = Pass {
    name: "filters",
    doc: "constant filters of convolutions lie 16 or 8 channels side by side, where channels are best in lanes",
    tag: Tag::Bitwise,
    run,
};

/// Cycles to store a vector of channels, whose elements lie apart: far, or where all of them share one place of the first cache.
const STORE: [i64; 2] = [24, 160];
/// Bytes after which places of the first cache repeat.
const REPEAT: i64 = 4096;
/// Cycles to copy a vector of positions from a window.
const WINDOW: i64 = 16;
/// Cycles to copy an element of 16 filters that do not lie as they are read.
const COPY: i64 = 64;

/// The layout of a convolution's filters, where it is best with channels in lanes, or decided to be.
fn layout(g: &Graph, n: &Node, target: &Target, choices: &mut Choices) -> Option<Name> {
    let constants = |t: &Type| t.shape.iter().map(lathe_ir::Int::as_const).collect::<Option<Vec<i64>>>();
    let (filters, results) = (g.ty(n.inputs[1]), g.ty(n.outputs[0]));
    let (w, y) = (constants(filters)?, constants(results)?);
    let groups = int_attr(&n.attrs, "groups").unwrap_or(1).max(1);
    let strided = ints_attr(&n.attrs, "strides").iter().any(|s| *s > 1);
    let pointwise = !strided && w[2..].iter().all(|k| *k == 1);
    let tile = channel_tile(w[0] / groups, &y[2..], pointwise, target)?;
    let way = if strided { ".strided" } else { "" };
    let name = format!("filters.{}.{}{way}", sizes(&filters.shape), sizes(&results.shape));
    let rule = strided || channels_first(&w, &y, groups, pointwise, tile.lanes);
    choices.whether(&name, rule).then(|| format!("f32.filters{}", tile.lanes).into())
}

/// Whether fewer cycles are foreseen with channels in lanes than with positions in them.
fn channels_first(w: &[i64], y: &[i64], groups: i64, pointwise: bool, lanes: i64) -> bool {
    // Few channels at a time would read the input too often.
    if pointwise && lanes < 16 {
        return false;
    }
    let (channels, sum) = (w[0] / groups, w[1..].iter().product::<i64>());
    let (positions, last) = (y[2..].iter().product::<i64>(), y[2..].iter().rfind(|n| **n > 1).unwrap_or(&1));
    let channel_lanes = positions * (sum + STORE[usize::from(4 * positions % REPEAT == 0)]);
    // Positions lie side by side: with them in lanes, only the last vector is not full, of all or of a row, but filters are copied
    // in each run, and so are windows, once for all channels.
    let (vectors, windows) = match pointwise {
        true => ((positions + 15) / 16, 0),
        false => {
            let vectors = positions / last * ((last + 15) / 16);
            (vectors, WINDOW * vectors * sum * 16 / channels)
        }
    };
    16 * vectors * sum + windows + COPY * sum > channel_lanes
}

fn run(g: &Graph, _: &OpTable, target: &Target, choices: &mut Choices) -> Result<Graph, IrError> {
    let mut out = Graph { nodes: vec![], ..g.clone() };
    let mut done: HashMap<(ValueId, Name), ValueId> = HashMap::new();
    for n in &g.nodes {
        let mut n = n.clone();
        if &*n.op == "conv"
            && matches!(g.value(n.inputs[1]).source, Source::Const(_))
            && g.ty(n.inputs[1]).encoding.is_none()
            && g.ty(n.inputs[1]).dtype == DType::F32
            && let Some(layout) = layout(g, &n, target, choices)
        {
            let from = n.inputs[1];
            let packed = *done.entry((from, layout.clone())).or_insert_with(|| {
                let name = format!("{}.packed", g.value(from).name);
                let v = out.add_value(&name, Type::encoded(&layout, &g.ty(from).shape), Source::Node);
                let attrs = [("to".into(), Attr::Str(layout))].into();
                out.nodes.push(Node { op: "pack".into(), inputs: vec![from], attrs, outputs: vec![v] });
                v
            });
            n.inputs[1] = packed;
        }
        out.nodes.push(n);
    }
    Ok(out)
}
