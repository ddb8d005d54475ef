//! `tensorize L I`: the loops from `L` inwards are what one machine instruction `I` does. They are compared with the
//! row's meaning (same loops, same arithmetic; codes of fewer bits count as the unsigned byte they widen to; lanes of a vector may be
//! fewer) and wrapped; the
//! body stays as it is, so the interpreter and the portable dialect need no knowledge of the instruction.

use crate::intrinsics::{INTRINSICS, IntrinsicRow, STEPS, WIDTHS, fits};
use crate::lanes::{Lane, ends_alike, lane};
use crate::util::{arg, in_family};
use crate::{Primitive, Tag};
use lathe_ir::tensor::{
    Binary, Expr, Fact, For, Kernel, LANE, Node, Opaque, Stmt, Store, for_each, loop_bounds, map_stmts,
};
use lathe_ir::{Bounds, DType};
use std::sync::Arc;

pub(crate) static TENSORIZE: Primitive = Primitive {
    name: "tensorize",
    doc: "tensorize L I: the loops of the family L are the instruction I, which may round in its own way as its row says; code for a \
          processor that has it needs its sums in vectors of registers",
    tag: Tag::Bitwise,
    witness: None,
    apply,
};

/// Loop extents, outer to inner, and the one block inside.
fn nest(s: &Stmt) -> Option<(Vec<Arc<For>>, Arc<lathe_ir::tensor::Store>)> {
    let mut loops = vec![];
    let mut s = s;
    loop {
        match s {
            Stmt::For(l) => {
                loops.push(l.clone());
                match l.body.as_slice() {
                    [inner] => s = inner,
                    _ => return None,
                }
            }
            Stmt::Store(b) => return Some((loops, b.clone())),
            _ => return None,
        }
    }
}

/// A factor of a product: a load widened to i32, several joined bit above bit, or the level they pick; or a half as f32.
#[derive(Clone, Debug)]
pub enum Code {
    /// A stored field.
    Load(Expr),
    /// `low`, and `high` above so many bits.
    Joined(Box<Code>, Box<Code>, i64),
    /// What a table has at a place.
    Level(DType, Arc<[i64]>, Box<Code>),
    /// A stored float of 16 bits.
    Half(Expr),
}

/// The code that an expression of i32 or f32 is.
pub fn code(e: &Expr) -> Option<Code> {
    match &**e {
        Node::Cast(DType::I32, x) => match &**x {
            Node::Load(..) => Some(Code::Load(x.clone())),
            Node::Table(t, values, i) => Some(Code::Level(*t, values.clone(), Box::new(code(i)?))),
            _ => None,
        },
        Node::Cast(DType::F32, x) if matches!(&**x, Node::Load(..)) => Some(Code::Half(x.clone())),
        Node::Binary(Binary::Or, low, high) => {
            let Node::Binary(Binary::Shl, high, by) = &**high else { return None };
            Some(Code::Joined(Box::new(code(low)?), Box::new(code(high)?), by.as_int()?))
        }
        _ => None,
    }
}

impl Code {
    /// Its type: as many unsigned bits as its parts have together, or that of its levels.
    pub fn dtype(&self, buffers: &dyn Fn(&str) -> Option<DType>) -> Option<DType> {
        match self {
            Code::Load(e) | Code::Half(e) => match &**e {
                Node::Load(n, _) => buffers(n),
                _ => None,
            },
            Code::Joined(low, high, by) => match (low.dtype(buffers)?, high.dtype(buffers)?) {
                (DType::Int { signed: false, bits }, DType::Int { signed: false, bits: above })
                    if i64::from(bits) == *by && bits + above <= 8 =>
                {
                    Some(DType::uint(bits + above))
                }
                _ => None,
            },
            Code::Level(t, ..) => Some(*t),
        }
    }

    /// Whether it is widened to what the other one is: a float, or an integer.
    pub fn widened_as(&self, other: &Code) -> bool {
        matches!(self, Code::Half(_)) == matches!(other, Code::Half(_))
    }

    /// The stored fields it is made of.
    pub fn loads(&self) -> Vec<&Expr> {
        match self {
            Code::Load(e) | Code::Half(e) => vec![e],
            Code::Joined(low, high, _) => [low.loads(), high.loads()].concat(),
            Code::Level(_, _, i) => i.loads(),
        }
    }
}

/// The strides, in elements of the operand (codes in the bytes they stand in, of `least` bits), that a load has along the
/// nest's loops.
fn strides(k: &Kernel, e: &Expr, loops: &[&Arc<For>], least: i64, b: &Bounds) -> Option<Vec<i64>> {
    let Node::Load(n, i) = &**e else { return None };
    let buffer = k.buffer(n)?;
    let unit = buffer.dtype.bits().max(least);
    let of = |l: &&Arc<For>| match lane(&buffer, i, &l.var, b)? {
        Lane { stride, .. } if stride % unit == 0 => Some(stride / unit),
        _ => None,
    };
    loops.iter().map(of).collect()
}

/// The two widened factors of a product.
fn factors(e: &Expr) -> Option<(Code, Code)> {
    let Node::Binary(Binary::Mul, x, y) = &**e else { return None };
    Some((code(x)?, code(y)?))
}

/// A product with the factor first whose elements the loop `lane` picks, as rows have it: factors may change places.
pub fn lanes_first(product: &Expr, lane: &str) -> Expr {
    match &**product {
        Node::Binary(Binary::Mul, x, y) if !x.mentions(lane) && y.mentions(lane) => y.bin(Binary::Mul, x),
        _ => product.clone(),
    }
}

/// How many lanes there are at most, where they are a vector's already and may be fewer: the accumulator has room for all of them, of which
/// nobody reads more, and parameters that are read are stored padded.
fn fewer(k: &Kernel, lanes: &For, block: &Store, b: &Bounds) -> Option<i64> {
    let most = Opaque::default().int(&lanes.extent, b).and_then(|n| b.range(&n).hi)?;
    let (target, _) = block.targets.first()?;
    let room = k.buffer(target)?.shape.last()?.as_const() == Some(most);
    let (x, y) = factors(&block.values[0])?;
    let padded = [x.loads(), y.loads()].concat().into_iter().all(|e| match &**e {
        Node::Load(n, _) if e.mentions(&lanes.var) => {
            k.buffer(n).is_some_and(|b| b.facts.iter().any(|f| matches!(f, Fact::Padded(_, m) if *m == most)))
        }
        _ => true,
    });
    (&*lanes.level == LANE && room && padded && ends_alike(k, target, most)).then_some(most)
}

fn matches(k: &Kernel, s: &Stmt, row: &IntrinsicRow, b: &Bounds) -> Option<bool> {
    let (loops, block) = nest(s)?;
    let all = loops.first()?;
    let lanes = match all.extent.as_int() {
        Some(n) => n,
        None => fewer(k, all, &block, b)?,
    };
    if !WIDTHS.contains(&lanes) {
        return None;
    }
    let row = &row.kernel(lanes);
    let (want_loops, want) = nest(row.body.first()?)?;
    let same_loops = loops.len() == want_loops.len()
        && loops.iter().zip(&want_loops).all(|(a, w)| {
            let lanes = a.var == all.var;
            (lanes || a.extent == w.extent) && a.iter == w.iter
        });
    if !same_loops || block.reducer != want.reducer || block.targets.len() != 1 {
        return Some(false);
    }
    let target = |s: &lathe_ir::tensor::Store| Code::Load(Expr::load(&s.targets[0].0, &s.targets[0].1));
    let product = lanes_first(&block.values[0], &loops[0].var);
    let ((x, y), (wx, wy)) = (factors(&product)?, factors(&want.values[0])?);
    let none = Bounds::new();
    let of = |k: &Kernel, c: &Code| c.dtype(&|n| k.buffer(n).map(|b| b.dtype));
    for (i, (got, want)) in [(target(&block), target(&want)), (x, wx), (y, wy)].into_iter().enumerate() {
        // What the steps read may lie anywhere.
        let ordered = |w: &&(&Arc<For>, &Arc<For>)| i == 0 || &*w.1.var != STEPS;
        let both: Vec<_> = loops.iter().zip(&want_loops).collect();
        let (loops, want_loops): (Vec<_>, Vec<_>) = both.iter().filter(ordered).copied().unzip();
        if !got.widened_as(&want) || !fits(of(k, &got)?, of(row, &want)?) {
            return Some(false);
        }
        let ws = strides(row, want.loads().first()?, &want_loops, 1, &none)?;
        for load in got.loads() {
            if strides(k, load, &loops, 8, b)? != ws {
                return Some(false);
            }
        }
    }
    Some(true)
}

/// Refuses what is left of a program where an instruction wraps something else than what its row says.
pub(crate) fn kept(before: &Kernel, after: &Kernel) -> Result<(), String> {
    let mut old = vec![];
    for_each(&before.body, &mut |s| old.extend(matches!(s, Stmt::Intrinsic(..)).then_some(s)));
    if old.is_empty() {
        return Ok(());
    }
    let (bounds, mut lost) = (loop_bounds(after), None);
    for_each(&after.body, &mut |s| {
        if let Stmt::Intrinsic(n, body) = s
            && let Some(row) = INTRINSICS.iter().find(|r| r.name == &**n)
        {
            let fewer = matches!(body.as_slice(), [Stmt::For(l)] if l.extent.as_int().is_none());
            let fits = matches!(body.as_slice(), [s] if matches(after, s, row, &bounds) == Some(true));
            if (fewer || !old.contains(&s)) && !fits {
                lost = Some(n.clone());
            }
        }
    });
    lost.map_or(Ok(()), |n| Err(format!("it would change what the instruction '{n}' is")))
}

/// How the results of a step with these arguments may differ, as its instruction's row says.
pub(crate) fn tag(args: &[&str]) -> Tag {
    let row = INTRINSICS.iter().find(|r| args.get(1) == Some(&r.name));
    row.map_or(TENSORIZE.tag, |r| r.tag)
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let (family, name) = (arg(args, 0)?, arg(args, 1)?);
    let row = INTRINSICS.iter().find(|r| r.name == name).ok_or("there is no such instruction")?;
    let bounds = loop_bounds(k);
    let mut hits = 0;
    let body = map_stmts(&k.body, &mut |s| match &s {
        Stmt::For(l) if in_family(&l.var, family) && matches(k, &s, row, &bounds) == Some(true) => {
            hits += 1;
            vec![Stmt::Intrinsic(name.into(), Arc::new(vec![s]))]
        }
        _ => vec![s],
    });
    if hits == 0 {
        return Err(format!("no loop of '{family}' does what '{name}' does"));
    }
    Ok(Kernel { body, ..k.clone() })
}
