//! What must hold of graphs and passes.
//!
//! A graph is judged where the interpreter gives results. Each pass is run on it, and on what it left: that is no other graph, it
//! is checked and read back, and means the same. After a pass that is exact, each value that both graphs have is the same bit by
//! bit. One that approximates may encode arguments of nodes: a code is as near as the pass says, and a node gives on codes what it
//! gives on the numbers that they stand for. Or it may compute a value by other nodes: what that is where nothing on the way is rounded
//! to narrower floats, but for the rounding of its own type. (What it was may be far from that: of large numbers that were rounded
//! exponentials are anything.)

use crate::arguments::value;
use crate::case::{Case, Move, Program};
use crate::oracle::{Finding, Judge, Kind, finding, guarded};
use crate::random::Random;
use lathe_ir::graph::{Attr, Graph, Node, OpTable, Source, Type, Value, ValueId, check, interpret, parse};
use lathe_ir::{DType, Elements, Int, IrError, Name, Tensor, encode_bits, encodings::encoding, write_bits};
use lathe_machine::Target;
use lathe_rewrite::Pass;
use lathe_schedule::{Choices, Decisions, Tag};
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes of a graph's text; what grows beyond is left alone.
const TEXT: usize = 6_000;

/// Most elements of an argument.
const MOST_ELEMENTS: usize = 1 << 13;

/// Of the largest number of a block, the most that codes may be away from what they stand for, as the root of the mean square: half
/// a step of 127.
const HALF_STEP: f64 = 1.0 / 254.0;

/// Rounding of scales, and of sums in another order.
const ROUNDED: f64 = 1e-4;

impl Program for Graph {
    fn read(text: &str) -> Result<Graph, IrError> {
        parse(text)
    }

    fn dims(&self) -> Vec<Name> {
        self.dims.iter().map(|(n, _)| n.clone()).collect()
    }

    fn is_sound(&self) -> bool {
        check(self, &lathe_ops::table()).is_ok()
    }

    fn smaller(&self) -> Vec<Graph> {
        let table = lathe_ops::table();
        let mut out = vec![];
        for i in 0..self.outputs.len() {
            let mut g = self.clone();
            g.outputs.remove(i);
            out.extend((!g.outputs.is_empty()).then(|| g.without_dead(0)));
        }
        // An argument in the place of what is computed.
        for (i, _) in self.nodes.iter().enumerate().rev() {
            let mut g = self.clone();
            let n = g.nodes.remove(i);
            for v in n.outputs {
                g.values[v.0 as usize].source = Source::Input;
            }
            out.push(tidy(&g));
        }
        for n in numbers(self) {
            out.extend([1, n / 2, n - 1].into_iter().filter(|m| *m > 0).filter_map(|m| {
                let mut g = self.clone();
                renumber(&mut g, n, m);
                rebuilt(&g, &table)
            }));
        }
        out
    }
}

/// Without arguments that nobody uses.
pub(crate) fn tidy(g: &Graph) -> Graph {
    let g = g.without_dead(0);
    let uses = g.uses();
    let mut at: HashMap<ValueId, ValueId> = HashMap::new();
    let mut out = Graph { values: vec![], nodes: vec![], outputs: vec![], ..g.clone() };
    for (i, v) in g.values.iter().enumerate() {
        if uses[i] > 0 || v.source == Source::Node {
            at.insert(ValueId(i as u32), ValueId(out.values.len() as u32));
            out.values.push(v.clone());
        }
    }
    let moved = |list: &[ValueId]| list.iter().map(|v| at[v]).collect::<Vec<_>>();
    let node = |n: &Node| Node { inputs: moved(&n.inputs), outputs: moved(&n.outputs), ..n.clone() };
    out.nodes = g.nodes.iter().map(node).collect();
    out.outputs = moved(&g.outputs);
    out
}

/// The extents and attributes of a graph that are numbers above 1.
pub(crate) fn numbers(g: &Graph) -> Vec<i64> {
    let given = g.values.iter().filter(|v| v.source != Source::Node);
    let mut out: Vec<i64> = given.flat_map(|v| &v.ty.shape).filter_map(Int::as_const).collect();
    out.sort_unstable();
    out.dedup();
    out.retain(|n| *n > 1);
    out
}

/// Another number in the place of one, in arguments' shapes and in attributes.
pub(crate) fn renumber(g: &mut Graph, from: i64, to: i64) {
    for v in g.values.iter_mut().filter(|v| v.source != Source::Node) {
        for n in v.ty.shape.iter_mut().filter(|n| n.as_const() == Some(from)) {
            *n = Int::from(to);
        }
    }
    for a in g.nodes.iter_mut().flat_map(|n| n.attrs.values_mut()) {
        match a {
            Attr::Int(n) if *n == from => *n = to,
            Attr::Ints(all) => all.iter_mut().filter(|n| **n == from).for_each(|n| *n = to),
            _ => {}
        }
    }
}

/// A graph with the types that follow from its arguments', if it is one.
pub(crate) fn rebuilt(g: &Graph, table: &OpTable) -> Option<Graph> {
    let mut out = g.clone();
    for n in &g.nodes {
        let types: Vec<Type> = n.inputs.iter().map(|v| out.ty(*v).clone()).collect();
        let made = (table.get(&n.op)?.infer)(&types, &n.attrs).ok()?;
        if made.len() != n.outputs.len() {
            return None;
        }
        for (v, ty) in n.outputs.iter().zip(made) {
            out.values[v.0 as usize].ty = ty;
        }
    }
    check(&out, table).is_ok().then_some(out)
}

/// A type with its dimensions bound.
fn bound(t: &Type, dims: &HashMap<Name, i64>) -> Option<(Type, Vec<usize>)> {
    let shape: Vec<i64> = t.shape.iter().map(|n| n.eval(&|d| dims.get(d).copied())).collect::<Option<_>>()?;
    let sizes: Vec<usize> = shape.iter().map(|n| usize::try_from(*n).ok()).collect::<Option<_>>()?;
    Some((Type { shape: shape.into_iter().map(Int::from).collect(), ..t.clone() }, sizes))
}

/// Numbers for an argument.
fn argument(v: &Value, dims: &HashMap<Name, i64>, style: usize, random: &mut Random) -> Option<Tensor> {
    let (ty, shape) = bound(&v.ty, dims)?;
    let n = shape.iter().try_fold(1usize, |a, b| a.checked_mul(*b)).filter(|n| *n <= MOST_ELEMENTS)?;
    let Some(name) = &ty.encoding else {
        let one = |random: &mut Random| value(ty.dtype, style, random);
        return Some(match ty.dtype {
            DType::Int { .. } => {
                let ints = (0..n).map(|_| one(random) as i128).collect();
                Tensor::of(ty.dtype, &shape, &Elements::Ints(ints))
            }
            t => Tensor::of(t, &shape, &Elements::Floats((0..n).map(|_| one(random)).collect())),
        });
    };
    // Codes are any, numbers that scale them are ordinary ones.
    let e = encoding(name, &ty.shape)?;
    let len = usize::try_from(e.bits.as_const()?).ok()?.div_ceil(8);
    let mut bytes: Vec<u8> = (0..len).map(|_| random.bits() as u8).collect();
    for f in e.fields.iter().filter(|f| f.dtype.is_float()) {
        let layout = f.layout.resolve(&|_| None)?;
        for mut i in 0..n {
            let mut index = vec![0; shape.len()];
            for d in (0..shape.len()).rev() {
                index[d] = (i % shape[d]) as i64;
                i /= shape[d];
            }
            *index.last_mut()? /= f.group;
            let number = *random.pick(&[0.25, 0.5, 1.0, 2.0])?;
            write_bits(&mut bytes, layout.address(&index), f.dtype.bits(), encode_bits(f.dtype, number))?;
        }
    }
    Some(Tensor { shape, dtype: ty.dtype, encoding: Some(Arc::new(e)), bytes })
}

/// What the values of a graph are for arguments decided by a seed.
struct Run {
    dims: HashMap<Name, i64>,
    named: HashMap<Name, Tensor>,
}

impl Run {
    fn new(g: &Graph, case: &Case<Graph>) -> Option<Run> {
        let mut random = Random::new(case.seed);
        let style = random.below(4);
        let size = |(d, most): &(Name, i64)| {
            let given = case.sizes.iter().find(|(n, _)| n == d).map_or(1, |(_, v)| *v);
            (d.clone(), given.clamp(1, (*most).max(1)))
        };
        let dims: HashMap<Name, i64> = g.dims.iter().map(size).collect();
        let mut named = HashMap::new();
        for v in &g.values {
            let name = match &v.source {
                Source::Node => continue,
                Source::Const(n) => n,
                Source::Input | Source::State => &v.name,
            };
            named.insert(name.clone(), argument(v, &dims, style, &mut random)?);
        }
        Some(Run { dims, named })
    }

    /// Every value of a graph, by its number.
    fn values(&self, g: &Graph, table: &OpTable) -> Result<Vec<Tensor>, IrError> {
        let all = Graph { outputs: (0..g.values.len() as u32).map(ValueId).collect(), ..g.clone() };
        interpret(&all, table, &self.dims, &self.named)
    }
}

impl Judge {
    /// Judges a graph and the passes that are run on it: the first thing that does not hold.
    pub fn judge_graph(&mut self, case: &Case<Graph>) -> Result<(), Finding> {
        self.counts.cases += 1;
        let table = lathe_ops::table();
        let mut g = case.program.clone();
        if check(&g, &table).is_err() || g.to_string().len() > TEXT {
            return Ok(());
        }
        read_back(&g, "graph")?;
        let Some(run) = Run::new(&g, case) else { return Ok(()) };
        // Where indices lead nowhere, operators mean nothing.
        let Ok(Ok(mut before)) = guarded("graph", || run.values(&g, &table)) else { return Ok(()) };
        self.counts.defined += 1;
        let named = case.targets.first().and_then(|name| Target::named(name));
        let target = named.unwrap_or_else(Target::portable);
        for m in &case.moves {
            let Move::Step(step) = m else { continue };
            let (name, dice) = step.split_once(' ').unwrap_or((step, ""));
            let Some(pass) = lathe_rewrite::pass(name) else { continue };
            let once = |g: &Graph| -> Result<Graph, Finding> {
                let done = guarded(name, || with_dice(pass, g, &table, &target, dice.parse().ok()))?;
                done.or_else(|e| finding(Kind::Broken, name, e.to_string()))
            };
            let mut after = once(&g)?;
            self.counts.steps.entry(name.to_string()).or_default().applied += 1;
            if let Some(wrong) = self.planted_pass.filter(|p| p.0 == name).and_then(|p| p.1(&g, &after)) {
                after = wrong;
            } else {
                let again = once(&after)?;
                if again != after {
                    return finding(Kind::Twice, name, format!("{after} becomes {again}"));
                }
            }
            check(&after, &table).or_else(|e| finding(Kind::Broken, name, e.to_string()))?;
            read_back(&after, name)?;
            let values = guarded(name, || run.values(&after, &table))?
                .or_else(|e| finding(Kind::Meaning, name, e.to_string()))?;
            match pass.tag {
                Tag::Bitwise => same_values(name, (&g, &before), (&after, &values))?,
                _ => near_values(name, &table, &run, (&g, &before), (&after, &values))?,
            }
            (g, before) = (after, values);
        }
        Ok(())
    }
}

/// A pass as its rules choose, or as a number decides: another answer at each choice, wherever that comes.
fn with_dice(
    pass: &Pass,
    g: &Graph,
    table: &OpTable,
    target: &Target,
    dice: Option<u64>,
) -> Result<Graph, IrError> {
    let mut decisions = Decisions::default();
    loop {
        let mut choices = Choices::decided(&decisions);
        let after = pass.decided(g, table, target, &mut choices)?;
        let new = choices.met().iter().filter(|c| !decisions.contains_key(&c.name));
        let thrown = new.filter_map(|c| {
            let seed = c.name.bytes().fold(dice?, |n, b| n.wrapping_mul(31).wrapping_add(b.into()));
            Some((c.name.clone(), *Random::new(seed).pick(&c.options)?))
        });
        let thrown: Vec<_> = thrown.collect();
        if thrown.is_empty() {
            return Ok(after);
        }
        decisions.extend(thrown);
    }
}

fn read_back(g: &Graph, place: &str) -> Result<(), Finding> {
    let text = g.to_string();
    match guarded(place, || parse(&text))? {
        Ok(again) if again.to_string() == text => Ok(()),
        Ok(again) => finding(Kind::Text, place, format!("{text} is read back as {again}")),
        Err(e) => finding(Kind::Text, place, format!("{e} in {text}")),
    }
}

type Valued<'g> = (&'g Graph, &'g [Tensor]);

/// Values that both graphs have are the same; results are, whatever they are called.
fn same_values(place: &str, (b, x): Valued, (a, y): Valued) -> Result<(), Finding> {
    if b.outputs.len() != a.outputs.len() {
        return finding(Kind::Meaning, place, "the results differ in number");
    }
    let results = b.outputs.iter().copied().zip(a.outputs.iter().copied());
    let known = b.values.iter().enumerate().filter_map(|(i, v)| {
        let j = a.values.iter().position(|w| w.name == v.name)?;
        Some((ValueId(i as u32), ValueId(j as u32)))
    });
    for (i, j) in results.chain(known) {
        let (x, y) = (&x[i.0 as usize], &y[j.0 as usize]);
        let bits = |t: &Tensor| t.values().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        if x.shape != y.shape || x.dtype != y.dtype || (x.bytes != y.bytes && bits(x) != bits(y)) {
            return finding(Kind::Meaning, place, format!("'{}' is not what it was", b.value(i).name));
        }
    }
    Ok(())
}

/// Each node gives on the codes of its arguments what it gives on the numbers that these stand for, and those are near. What is
/// computed by another node is near what it was.
fn near_values(
    place: &str,
    table: &OpTable,
    run: &Run,
    (b, before): Valued,
    (a, values): Valued,
) -> Result<(), Finding> {
    let wrong = |what: String| finding(Kind::Meaning, place, what);
    let name = |g: &Graph, v: ValueId| g.value(v).name.clone();
    let names = |g: &Graph, list: &[ValueId]| list.iter().map(|v| name(g, *v)).collect::<Vec<_>>();
    let now: HashMap<&Name, &Tensor> = a.values.iter().map(|v| &v.name).zip(values).collect();
    if names(b, &b.outputs) != names(a, &a.outputs) {
        return wrong("the results are other values".into());
    }
    for n in &b.nodes {
        let made = names(b, &n.outputs);
        let Some(m) = a.nodes.iter().find(|m| names(a, &m.outputs) == made) else {
            // Nobody may have to.
            match made.iter().find(|name| now.contains_key(name)) {
                Some(name) => return wrong(format!("nobody computes '{name}'")),
                None => continue,
            }
        };
        if m.op != n.op {
            let args = n.inputs.iter().map(|v| &before[v.0 as usize]);
            let types: Vec<Type> = n.outputs.iter().map(|v| Type::of(&before[v.0 as usize])).collect();
            let Some(most) = of_maxima(table, n, args, &types) else { continue };
            let exact = unrounded(table, run, b, &now, &n.outputs);
            for (i, (v, name)) in n.outputs.iter().zip(&made).enumerate() {
                let was = &before[v.0 as usize];
                let want = exact.as_ref().map_or(was, |all| &all[i]);
                if far(&want.values(), &now[name].values(), most * (ROUNDED + own_rounding(was.dtype))) {
                    return wrong(format!("'{name}' is not what it was"));
                }
            }
            continue;
        }
        if m.attrs != n.attrs || m.inputs.len() != n.inputs.len() {
            return wrong(format!("'{}' is computed otherwise", made[0]));
        }
        let mut args = vec![];
        for (v, w) in n.inputs.iter().zip(&m.inputs) {
            let (v, w) = (name(b, *v), name(a, *w));
            args.push(match (v == w, now.get(&v)) {
                (true, _) => now[&w].clone(),
                (false, Some(numbers)) => {
                    let meant = decoded(place, numbers, now[&w])?;
                    // Narrower floats are no codes: a node may round more where it takes them.
                    if now[&w].encoding.is_none() { now[&w].clone() } else { meant }
                }
                (false, None) => return wrong(format!("nobody computes '{v}'")),
            });
        }
        let types: Vec<Type> = made.iter().map(|name| Type::of(now[name])).collect();
        let Some(row) = table.get(&n.op) else { return wrong(format!("there is no '{}'", n.op)) };
        for (name, want) in made.iter().zip((row.reference)(&args, &n.attrs, &types)) {
            let want = want.values();
            let scale = want.iter().map(|w| w.abs()).filter(|w| w.is_finite()).fold(1.0, f64::max);
            if far(&want, &now[name].values(), scale * ROUNDED) {
                return wrong(format!("'{name}' is not what it is of the numbers that codes stand for"));
            }
        }
    }
    Ok(())
}

/// Floats that are narrower than those that sums are of.
fn is_narrow(t: DType) -> bool {
    [DType::F16, DType::BF16].contains(&t)
}

/// What a number of a type may be away from what it is of, in parts of itself: once as a result, and once on the way.
fn own_rounding(t: DType) -> f64 {
    match t {
        DType::BF16 => 1.0 / 256.0,
        DType::F16 => 1.0 / 2048.0,
        _ => 0.0,
    }
}

/// What a graph computes of the values that another one still has, with nothing on the way rounded to narrower floats; none where that
/// is no graph.
fn unrounded(
    table: &OpTable,
    run: &Run,
    b: &Graph,
    now: &HashMap<&Name, &Tensor>,
    outputs: &[ValueId],
) -> Option<Vec<Tensor>> {
    let mut g = Graph { outputs: outputs.to_vec(), ..b.clone() };
    let given = |v: &ValueId| !outputs.contains(v) && now.contains_key(&b.value(*v).name);
    g.nodes.retain(|n| !n.outputs.iter().all(given));
    let made: Vec<ValueId> = g.nodes.iter().flat_map(|n| n.outputs.clone()).collect();
    let mut named = HashMap::new();
    for (i, v) in g.values.iter_mut().enumerate() {
        if v.source == Source::Node && !made.contains(&ValueId(i as u32)) {
            v.source = Source::Input;
        }
        let name = match &v.source {
            Source::Const(n) => n,
            _ => &v.name,
        };
        let wide = v.ty.encoding.is_none() && is_narrow(v.ty.dtype);
        if v.source != Source::Node {
            let t = now.get(&v.name).copied().or_else(|| run.named.get(name))?;
            let t = if wide {
                Tensor::of(DType::F32, &t.shape, &Elements::Floats(t.values()))
            } else {
                t.clone()
            };
            named.insert(name.clone(), t);
        }
        if wide {
            v.ty.dtype = DType::F32;
        }
    }
    let narrow = |a: &Attr| matches!(a, Attr::Str(t) if DType::parse(t).is_some_and(is_narrow));
    for a in g.nodes.iter_mut().flat_map(|n| n.attrs.values_mut()).filter(|a| narrow(a)) {
        *a = Attr::Str(DType::F32.to_string().into());
    }
    interpret(&rebuilt(&g.without_dead(0), table)?, table, &run.dims, &named).ok()
}

/// Whether a finite number has become another one, more than this away.
fn far(want: &[f64], got: &[f64], most: f64) -> bool {
    let one = |(w, g): (&f64, &f64)| w.is_finite() && (w - g).abs() > most;
    want.len() != got.len() || want.iter().zip(got).any(one)
}

/// The largest result of a node whose arguments are all as large as the largest number of each: as large as any sum in it; none
/// where some number is not finite.
fn of_maxima<'t>(
    table: &OpTable,
    n: &Node,
    args: impl Iterator<Item = &'t Tensor>,
    types: &[Type],
) -> Option<f64> {
    let largest = |t: &Tensor| {
        let numbers = t.values();
        let most = numbers.iter().map(|v| v.abs()).fold(0.0, f64::max);
        let finite = numbers.iter().all(|v| v.is_finite());
        finite.then(|| Tensor::of(t.dtype, &t.shape, &Elements::Floats(vec![most; numbers.len()])))
    };
    let args: Vec<Tensor> = args.map(largest).collect::<Option<_>>()?;
    let results = (table.get(&n.op)?.reference)(&args, &n.attrs, types);
    let most = results.iter().flat_map(Tensor::values).fold(0.0, f64::max);
    most.is_finite().then_some(most)
}

/// The numbers that codes stand for, which are near those that were encoded.
fn decoded(place: &str, numbers: &Tensor, codes: &Tensor) -> Result<Tensor, Finding> {
    let (x, y) = (numbers.values(), codes.values());
    if numbers.shape != codes.shape {
        return finding(Kind::Meaning, place, "what is encoded has another shape");
    }
    let row = numbers.row().max(1);
    let block = codes.encoding.as_ref().map_or(0, |e| e.block() as usize);
    let block = if block == 0 { row } else { block };
    for (x, y) in x.chunks(row).zip(y.chunks(row)) {
        for (x, y) in x.chunks(block).zip(y.chunks(block)) {
            let most = x.iter().map(|v| v.abs()).fold(0.0, f64::max);
            let squares: f64 = x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum();
            let change = (squares / x.len() as f64).sqrt();
            // What is infinite or no number has no codes.
            let known = x.iter().all(|v| v.is_finite());
            if known && (change.is_nan() || change > (HALF_STEP + ROUNDED) * most) {
                let what = format!("codes of a block of {} up to {most} are {change} away", x.len());
                return finding(Kind::Meaning, place, what);
            }
        }
    }
    Ok(Tensor::of(numbers.dtype, &numbers.shape, &Elements::Floats(y)))
}
