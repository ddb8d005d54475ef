//! Which operators become one kernel.
//!
//! A contraction takes the contractions beside it that feed the same elementwise operator, and the elementwise operators
//! behind it; so does a convolution, as far as nobody else reads what is made on the way. Padding stands in front of windows of
//! its channels. Operators that work row by row and follow each other over the same rows become one. Everything else stands
//! alone. A group's nodes run where the first of them stood or later, so no value is read before it is made. What follows a sum of
//! products, and padding in front of windows, are choices of which measurement may find the other answer ([`Choices`]).

use crate::sizes;
use lathe_ir::encodings::Activations;
use lathe_ir::graph::{Form, Graph, OpTable, Source, ValueId, int_attr, ints_attr, str_attr};
use lathe_ir::{Bounds, Int, Name};
use lathe_schedule::Choices;
use std::collections::{HashMap, HashSet};

/// Node indices of each group, in an order that respects data flow; `fixed` are the dimensions of one value.
pub(crate) fn groups(
    g: &Graph,
    table: &OpTable,
    nodes: &[usize],
    fixed: &HashMap<Name, i64>,
    choices: &mut Choices,
) -> Vec<Vec<usize>> {
    let form = |i: usize| {
        let n = &g.nodes[i];
        let types: Vec<_> = n.inputs.iter().map(|v| g.ty(*v).clone()).collect();
        (table.get(&n.op).expect("checked graph").form)(&types, &n.attrs)
    };
    let producers = g.producers();
    let uses = g.uses();
    let mut taken: HashSet<usize> = HashSet::new();
    let mut out: Vec<Vec<usize>> = vec![];
    let producer = |v: ValueId| producers[v.0 as usize];

    // Elementwise operators behind contractions: found from the elementwise side.
    let mut epilogue: HashMap<usize, Vec<usize>> = HashMap::new();
    for &i in nodes {
        let n = &g.nodes[i];
        let singles = n.inputs.iter().all(|v| g.ty(*v).dtype == lathe_ir::DType::F32);
        if form(i) != Form::Elementwise || !singles || n.outputs.iter().any(|o| g.ty(*o).encoding.is_some()) {
            continue;
        }
        let feeding: Vec<usize> = g.nodes[i]
            .inputs
            .iter()
            .filter(|v| uses[v.0 as usize] == 1)
            .filter_map(|v| producer(*v))
            .filter(|p| &*g.nodes[*p].op == "matmul" && nodes.contains(p) && !taken.contains(p))
            .filter(|p| g.ty(g.nodes[*p].outputs[0]) == g.ty(g.nodes[i].outputs[0]))
            // It would run later, and must still read what it reads.
            .filter(|p| !(p + 1..=i).any(|m| donated(g, table, m).any(|v| g.nodes[*p].inputs.contains(&v))))
            .collect();
        // Several contractions share a kernel only when they read the same rows.
        let same = feeding.windows(2).all(|w| g.nodes[w[0]].inputs[0] == g.nodes[w[1]].inputs[0]);
        if feeding.is_empty() || !same {
            continue;
        }
        taken.extend(feeding.iter().copied());
        taken.insert(i);
        let mut all = feeding;
        all.sort_unstable();
        all.push(i);
        epilogue.insert(i, all);
    }

    // One row of a product is rotated, put into a cache and encoded where it is made, a few columns at a time: where the product stands, for
    // weights that come from elsewhere are read in one order, whatever the sizes.
    let mut made_whole: Vec<usize> = vec![];
    for &i in nodes {
        let Some(made) = finished(g, i, fixed).filter(|v| uses[v.0 as usize] == 1 && !taken.contains(&i))
        else {
            continue;
        };
        let Some(p) = producer(made).filter(|p| nodes.contains(p)) else { continue };
        let mut all = match epilogue.get(&p) {
            Some(all) => all.clone(),
            None if !taken.contains(&p) => vec![p],
            None => continue,
        };
        let first = all[0];
        let mut products = all.iter().filter(|n| form(**n) == Form::Contraction).peekable();
        let packed = products.peek().is_some() && products.all(|n| is_packed(g, *n));
        let is_there = |v: &ValueId| producer(*v).is_none_or(|p| p < first || all.contains(&p));
        let reads = |n: usize, v: ValueId| g.nodes[n].inputs.contains(&v);
        // What it would find changed, or not be found as it was.
        let updated = |m: usize| donated(g, table, m).any(|v| all.iter().any(|n| *n < m && reads(*n, v)));
        let read = |v: ValueId| (first..i).any(|n| !all.contains(&n) && reads(n, v));
        if !packed
            || !g.nodes[i].inputs.iter().all(is_there)
            || (first + 1..=i).any(updated)
            || donated(g, table, i).any(read)
        {
            continue;
        }
        epilogue.remove(&p);
        made_whole.retain(|last| *last != p);
        made_whole.push(i);
        all.push(i);
        taken.extend(all.iter().copied());
        epilogue.insert(i, all);
    }
    for last in made_whole {
        let all = epilogue.remove(&last).expect("it was put there");
        epilogue.insert(all[0], all);
    }

    // Elementwise operators behind other sums of products: found from the sum's side, as several may read one value.
    for (at, &i) in nodes.iter().enumerate() {
        if !matches!(
            &*g.nodes[i].op,
            "conv" | "dot" | "pool" | "winograd" | "winograd_input" | "winograd_output"
        ) || taken.contains(&i)
        {
            continue;
        }
        let follows = |n: usize| {
            let sum = !matches!(&*g.nodes[i].op, "pool" | "winograd_input");
            form(n) == Form::Elementwise && !taken.contains(&n) && sum
        };
        let mut all = behind(g, &nodes[at..], &follows, &uses);
        let of =
            |what: &str| format!("{what}.{}.{}", g.nodes[i].op, sizes(&g.ty(g.nodes[i].outputs[0]).shape));
        if all.len() > 1 && !choices.whether(&format!("{}.{}", of("behind"), all.len() - 1), true) {
            all.truncate(1);
        }
        // Each channel's windows are over that channel's padding.
        let x = g.nodes[i].inputs[0];
        if let Some(p) =
            producer(x).filter(|p| uses[x.0 as usize] == 1 && nodes.contains(p) && apart(g, *p, i))
            && choices.whether(&of("padded"), true)
        {
            all.insert(0, p);
        }
        // It would run later, and must still read what it reads.
        let updated = |m: usize| {
            donated(g, table, m).any(|v| all.iter().any(|n| *n < m && g.nodes[*n].inputs.contains(&v)))
        };
        if all.len() > 1 && !(all[0] + 1..=all[all.len() - 1]).any(updated) {
            taken.extend(all.iter().copied());
            epilogue.insert(all[all.len() - 1], all);
        }
    }

    let mut rows: Option<Vec<usize>> = None;
    for &i in nodes {
        if let Some(all) = epilogue.remove(&i) {
            out.extend(rows.take());
            out.push(all);
            continue;
        }
        if taken.contains(&i) {
            continue;
        }
        let by_row = matches!(form(i), Form::Row | Form::Elementwise);
        if !by_row {
            out.extend(rows.take());
            out.push(vec![i]);
            continue;
        }
        match &mut rows {
            Some(r) if joins(g, table, r, i) => r.push(i),
            _ => {
                out.extend(rows.take());
                rows = Some(vec![i]);
            }
        }
    }
    out.extend(rows);
    out
}

/// What a node reads, where that is one row, of which it finishes a few columns at a time ([`COLUMNS`], or a head).
fn finished(g: &Graph, i: usize, fixed: &HashMap<Name, i64>) -> Option<ValueId> {
    let n = &g.nodes[i];
    let whole = |n: i64| n % COLUMNS == 0;
    let ty = |v: usize| g.ty(n.inputs[v]);
    let x = match &*n.op {
        // All of a head rotates.
        "rope" => {
            let head = int_attr(&n.attrs, "head_dim").filter(|d| whole(*d));
            (head.is_some() && ty(1).shape[1].as_const() == head).then_some(0)?
        }
        // What one code says is of several columns.
        "put" => {
            let coded = ty(0).storage().is_some_and(|e| e.coded().is_some());
            (!coded && ty(0).shape[2].as_const().is_some_and(whole)).then_some(1)?
        }
        "encode" => {
            let to = g.ty(n.outputs[0]).encoding.as_ref()?;
            (Activations::named(to)?.block == COLUMNS).then_some(0)?
        }
        _ => return None,
    };
    let [rows, columns] = ty(x).shape.as_slice() else { return None };
    let rows = rows.substitute(&|n| fixed.get(n).map(|v| Int::from(*v)), &Bounds::new());
    let one = rows.as_const() == Some(1) && columns.as_const().is_some_and(whole);
    (one && single(g, n.inputs[x])).then_some(n.inputs[x])
}

/// Columns of a product that are finished together: two vectors, and a block of codes.
const COLUMNS: i64 = 32;

/// Whether a product's weights lie as vectors read them.
fn is_packed(g: &Graph, i: usize) -> bool {
    let weights = g.nodes[i].inputs.get(1).and_then(|v| g.ty(*v).encoding.as_ref());
    &*g.nodes[i].op == "matmul" && weights.is_some_and(|e| e.contains(".tile16"))
}

/// Most elements of a padded plane, of which 16 are in the second cache with what is made of them.
const NEAR: i64 = 1 << 13;

/// Whether one node pads the axes of space, and the other one's windows are over a channel each.
fn apart(g: &Graph, pad: usize, windows: usize) -> bool {
    let (p, c) = (&g.nodes[pad], &g.nodes[windows]);
    let channel = |v: ValueId| g.ty(v).shape.get(1).and_then(lathe_ir::Int::as_const);
    let (low, high) = (ints_attr(&p.attrs, "low"), ints_attr(&p.attrs, "high"));
    let space = |by: &[i64]| by.len() > 2 && by[..2] == [0, 0] && by.iter().all(|n| *n >= 0);
    // Vectors of the copy begin behind the padding, at no multiple of any vector's lanes, and so are stored as far as they go.
    let around = space(low) && space(high) && low.last().is_some_and(|n| (1..4).contains(n));
    let constant = str_attr(&p.attrs, "mode").is_none_or(|m| m == "constant");
    let one = match &*c.op {
        "conv" => {
            let groups = int_attr(&c.attrs, "groups").filter(|n| *n > 1);
            groups.is_some() && groups == channel(c.inputs[0]) && groups == channel(c.outputs[0])
        }
        // A few channels at a time are padded and transformed, which are near only where their planes are small.
        "winograd_input" => {
            let plane: Option<i64> =
                g.ty(c.inputs[0]).shape[2..].iter().map(lathe_ir::Int::as_const).product();
            plane.is_some_and(|n| n <= NEAR)
        }
        op => op == "pool" && ints_attr(&c.attrs, "window").len() + 2 == g.ty(c.inputs[0]).shape.len(),
    };
    &*p.op == "pad" && around && constant && one && single(g, p.outputs[0])
}

/// Whether elements are dense f32.
fn single(g: &Graph, v: ValueId) -> bool {
    g.ty(v).dtype == lathe_ir::DType::F32 && g.ty(v).encoding.is_none()
}

/// Most operators behind a sum of products in one kernel.
const BEHIND: usize = 12;

/// The first of the nodes with those that turn its result, element by element, into one that is all that others read.
fn behind(g: &Graph, nodes: &[usize], elementwise: &dyn Fn(usize) -> bool, uses: &[usize]) -> Vec<usize> {
    let single = |v: &ValueId| single(g, *v);
    let of = |i: usize| &g.nodes[i];
    let mut all = vec![nodes[0]];
    let ty = g.ty(of(nodes[0]).outputs[0]);
    // Of each length, whether nobody else reads what is made on the way.
    let mut whole = 1;
    let mut open: HashMap<ValueId, usize> =
        of(nodes[0]).outputs.iter().map(|v| (*v, uses[v.0 as usize])).collect();
    for &i in &nodes[1..] {
        let n = of(i);
        if all.len() > BEHIND {
            break;
        }
        let inside = n.inputs.iter().any(|v| open.contains_key(v));
        if !inside {
            continue;
        }
        // What another kind of node reads is no value on the way.
        if !elementwise(i) || !n.inputs.iter().chain(&n.outputs).all(single) || g.ty(n.outputs[0]) != ty {
            continue;
        }
        for v in &n.inputs {
            if let Some(left) = open.get_mut(v) {
                *left -= 1;
            }
        }
        all.push(i);
        open.insert(n.outputs[0], uses[n.outputs[0].0 as usize]);
        let last = n.outputs[0];
        if open.iter().all(|(v, left)| *v == last || *left == 0) {
            whole = all.len();
        }
    }
    all.truncate(whole);
    all
}

/// The extent of the loop over rows: of what is written by row, or of the rows put into a cache.
fn row_extent(g: &Graph, i: usize) -> Option<lathe_ir::Int> {
    let n = &g.nodes[i];
    let v = if &*n.op == "put" { n.inputs[1] } else { n.outputs[0] };
    g.ty(v).shape.first().cloned()
}

/// The values that a node updates in place.
fn donated<'g>(g: &'g Graph, table: &OpTable, i: usize) -> impl Iterator<Item = ValueId> + 'g {
    let pairs = table.get(&g.nodes[i].op).map_or(&[][..], |r| r.donates);
    pairs.iter().map(move |(a, _)| g.nodes[i].inputs[*a])
}

fn joins(g: &Graph, table: &OpTable, group: &[usize], i: usize) -> bool {
    let extent = row_extent(g, i);
    let n = &g.nodes[i];
    if extent.is_none() || row_extent(g, group[0]) != extent {
        return false;
    }
    // One row is no reason to run over tensors of other shapes.
    let shape = |i: usize| &g.ty(g.nodes[i].outputs[0]).shape;
    if extent.and_then(|n| n.as_const()) == Some(1) && shape(i).len() > 2 && shape(i) != shape(group[0]) {
        return false;
    }
    // An operator that picks rows by number would read rows of other iterations.
    let inside = |v: &ValueId| group.iter().any(|m| g.nodes[*m].outputs.contains(v));
    if matches!(&*n.op, "take" | "combine") && n.inputs.iter().any(inside) {
        return false;
    }
    // What has fewer axes than the rows (a bias, a norm's weights) is read whole by each; integers are one a row.
    let axes = |v: &ValueId| g.ty(*v).shape.len();
    let rows = match (&*n.op, &n.inputs[..]) {
        ("put", _) => axes(&n.inputs[1]),
        (_, [first, ..]) => axes(first).max(axes(&n.outputs[0])),
        _ => return false,
    };
    let types: Vec<_> = n.inputs.iter().map(|v| g.ty(*v).clone()).collect();
    let elementwise = (table.get(&n.op).expect("checked graph").form)(&types, &n.attrs) == Form::Elementwise;
    let one_a_row = |v: &ValueId| !elementwise && g.ty(*v).dtype == lathe_ir::DType::I32;
    let whole = |v: &ValueId| axes(v) < rows && !one_a_row(v);
    if n.inputs.iter().any(|v| inside(v) && whole(v)) {
        return false;
    }
    // Another row may still read what this one updates.
    let read = |v: ValueId| group.iter().any(|m| g.nodes[*m].inputs.contains(&v));
    if donated(g, table, i).any(read) {
        return false;
    }
    // A cache is put into by its own rows only, and never read here.
    n.inputs.iter().filter(|v| inside(v)).all(|v| g.value(*v).source != Source::State)
}
