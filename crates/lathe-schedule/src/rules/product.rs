//! Sums of products of floats that lie as their operators have them: a tile of accumulators in registers, rows of one factor
//! against vectors of the other. Where many rows share the vectors, both factors are first copied to where the tile reads
//! them in a row, a panel of columns and a block of rows at a time. Halves are multiplied as f32, or in pairs where an instruction
//! does that, and bytes in fours: the copies then put the elements of a word beside each other.

use super::rows::vectorize_inner;
use super::windows;
use super::{FEW, LANES, filters};
use crate::intrinsics::{IntrinsicRow, word_product};
use crate::lanes::lane;
use crate::{Schedule, ScheduleError};
use lathe_ir::tensor::{
    Binary, Expr, For, Iter, Kernel, Node, REGISTER, SERIAL, Stmt, Store, WORKSPACE, find_block, find_loop,
    loop_bounds,
};
use lathe_ir::{Bounds, DType};
use lathe_machine::Target;
use std::sync::Arc;

/// Rows of a block that share a panel of columns: enough to hide what its copy costs.
const BLOCK: i64 = 264;
/// The same where columns lie packed and are not copied: their copy and the panel stay in the second cache.
const BLOCK_PACKED: i64 = 132;
/// Columns of a block, for the same reason.
const COLUMNS: i64 = 512;
/// The same where columns lie packed: only the copy of the rows is to be hidden.
const COLUMNS_PACKED: i64 = 2048;

/// A nest that is a product: spatial loops around a sum, and what follows it.
pub(super) struct Product {
    /// The spatial loops, outermost first.
    pub loops: Vec<Arc<For>>,
    /// The loops that are summed over.
    pub sums: Vec<Arc<For>>,
    /// The factors: buffer and index.
    pub factors: [(String, Vec<Expr>); 2],
    /// The factors' types: f32, or halves that are widened to it, or bytes that are widened to i32.
    pub of: [DType; 2],
}

impl Product {
    /// The product that a kernel is, if it is one of floats.
    pub fn of(k: &Kernel) -> Option<Product> {
        let (mut loops, mut body) = (vec![], k.body.as_slice());
        while let [Stmt::For(l)] = body {
            let ragged = loops.iter().any(|o: &Arc<For>| l.extent.mentions(&o.var)) || loads(&l.extent);
            (l.iter == Iter::Spatial && &*l.level == SERIAL && !ragged).then_some(())?;
            loops.push(l.clone());
            body = &l.body;
        }
        let (mut sums, mut found) = (vec![], None);
        for s in body {
            match s {
                Stmt::Alloc(b) => (b.shape.is_empty() && &*b.memory == REGISTER).then_some(())?,
                Stmt::Store(b) => b.reducer.is_none().then_some(())?,
                Stmt::For(_) if found.is_none() => found = Some(summed(s, &mut sums)?),
                _ => return None,
            }
        }
        let s = found?;
        let Node::Binary(Binary::Mul, x, y) = &**s.values.first()? else { return None };
        let factor = |e: &Expr| {
            let (e, wide) = match &**e {
                Node::Cast(to @ (DType::F32 | DType::I32), narrow) => (narrow, Some(*to)),
                _ => (e, None),
            };
            let Node::Load(n, i) = &**e else { return None };
            let of = k.views().find(|b| b.name == *n)?.dtype;
            let fits = match wide {
                None => of == DType::F32,
                Some(DType::F32) => matches!(of, DType::F16 | DType::BF16),
                Some(_) => matches!(of, DType::U8 | DType::I8),
            };
            (fits && !i.iter().any(loads)).then(|| ((n.to_string(), i.clone()), of))
        };
        let ((x, of), (y, other)) = (factor(x)?, factor(y)?);
        let both = of == other || (of.is_int() && other.is_int());
        (x.0 != y.0 && both).then_some(Product { loops, sums, factors: [x, y], of: [of, other] })
    }

    /// Whether a loop picks elements of a factor.
    pub fn picks(&self, factor: usize, var: &str) -> bool {
        self.factors[factor].1.iter().any(|i| i.mentions(var))
    }

    /// The size of the blocks of a loop, several of them, by whose number one factor is picked and the other one's elements by
    /// the loop itself.
    fn blocks_of(&self, l: &For) -> Option<i64> {
        let number = |i: &Expr| {
            let mut by = None;
            i.visit(&mut |e| {
                if let Node::Binary(Binary::Div, x, f) = &**e
                    && matches!(&**x, Node::Var(v) if *v == l.var)
                {
                    by = f.as_int();
                }
            });
            by
        };
        let of = |f: usize| self.factors[f].1.iter().find_map(number);
        let by = of(0).or_else(|| of(1)).filter(|by| *by > 1)?;
        extent(l).is_some_and(|n| n % by == 0 && n > by).then_some(by)
    }

    /// The loop of columns, the factor that has them, and the loop of rows of the other factor, if there is one.
    fn roles(&self) -> Option<(Arc<For>, usize, Option<Arc<For>>)> {
        let n = self.loops.last()?;
        let v = (0..2).find(|f| self.picks(*f, &n.var) && !self.picks(1 - f, &n.var))?;
        let m = self.loops.iter().rev().find(|l| self.picks(1 - v, &l.var) && !self.picks(v, &l.var));
        Some((n.clone(), v, m.cloned()))
    }

    /// Whether a copy runs along what it reads and writes.
    fn along(&self, k: &Kernel, factor: usize, block: &str, var: &str) -> bool {
        let Some(b) = find_block(&k.body, block) else { return false };
        let Some(Node::Load(from, i)) = b.values.first().map(|v| &**v) else { return false };
        let (bounds, [(to, j)]) = (loop_bounds(k), b.targets.as_slice()) else { return false };
        [(from, i), (to, j)].into_iter().all(|(n, i)| {
            k.buffer(n)
                .and_then(|b| lane(&b, i, var, &bounds))
                .is_some_and(|l| l.stride == self.of[factor].bits())
        })
    }

    /// The instruction that takes words of the factors, where the sum is one of whole words; `v` is the factor in lanes.
    fn words(&self, v: usize, target: &Target) -> Option<&'static IntrinsicRow> {
        let count = 32 / self.of[v].bits();
        let whole = extent(&self.sums[self.sums.len() - 1]).is_some_and(|n| n % count == 0);
        word_product(target, [self.of[v], self.of[1 - v]]).filter(|_| whole && count > 1)
    }

    /// Whether a factor's elements lie side by side along a loop.
    fn beside(&self, k: &Kernel, factor: usize, var: &str) -> bool {
        self.stride(k, factor, var) == Some(self.of[factor].bits())
    }

    /// Bits from one element of a factor to the next along a loop.
    pub fn stride(&self, k: &Kernel, factor: usize, var: &str) -> Option<i64> {
        let (n, i) = &self.factors[factor];
        Some(lane(&k.buffer(n)?, i, var, &loop_bounds(k))?.stride)
    }
}

/// Whether something in an expression is read from memory.
fn loads(e: &Expr) -> bool {
    let mut found = false;
    e.visit(&mut |e| found |= matches!(&**e, Node::Load(..)));
    found
}

/// The block of a sum inside nothing but reduce loops.
fn summed(s: &Stmt, sums: &mut Vec<Arc<For>>) -> Option<Arc<Store>> {
    match s {
        Stmt::For(l) if l.iter == Iter::Reduce => {
            sums.push(l.clone());
            let [inner] = l.body.as_slice() else { return None };
            summed(inner, sums)
        }
        Stmt::Store(b) if b.targets.len() == 1 && b.reducer.is_some_and(|r| r.name == "sum") => {
            Some(b.clone())
        }
        _ => None,
    }
}

/// Lanes of a tile of so many columns and the most rows it may have: accumulators fill the registers but for the vectors of
/// a column and a repeated element.
pub(super) fn tile(columns: Option<i64>, target: &Target) -> (i64, i64) {
    let (lanes, most) = if target.vector_bits >= 512 { (2 * LANES, 14) } else { (LANES, 6) };
    let over = |lanes: i64| columns.map_or(0, |n| (n + lanes - 1) / lanes * lanes);
    // One vector where the second one would be idle: where loads are no bottleneck, a twentieth of it.
    let part = if target.vector_bits >= 512 { 20 } else { 10 };
    if over(lanes) * (part - 1) > over(lanes / 2) * part || columns.is_some_and(|n| n < lanes) {
        (lanes / 2, 2 * most)
    } else {
        (lanes, most)
    }
}

/// Rows of a tile for so many: those that compute least beyond the last one. Where tiles are all there is to share, `alone`, a few of
/// them are an even number.
pub(super) fn rows_of(n: Option<i64>, most: i64, alone: bool) -> i64 {
    let Some(n) = n else { return most };
    let cost = |r: &i64| {
        let tiles = (n + r - 1) / r;
        let odd = i64::from(alone && tiles < FEW) * (tiles % 2);
        (tiles + odd) * (2 * r + 1)
    };
    (most / 2 + 1..=most).rev().min_by_key(cost).unwrap_or(most)
}

pub(super) fn extent(l: &For) -> Option<i64> {
    l.extent.simplify_index(&Bounds::default()).as_int()
}

/// Moves a loop inwards until it stands right around another.
pub(super) fn move_to(s: &mut Schedule, var: &str, around: &str) -> Result<(), ScheduleError> {
    loop {
        let l = find_loop(&s.kernel().body, var);
        match l.as_ref().map(|l| l.body.as_slice()) {
            Some([Stmt::For(inner)]) if &*inner.var != around => s.step(&format!("interchange {var}"))?,
            _ => return Ok(()),
        }
    }
}

/// Fuses the loops from the outermost one to `last`, each of which is the whole body of the one before.
pub(super) fn fuse_to(s: &mut Schedule, last: &str) -> Result<(), ScheduleError> {
    loop {
        let [Stmt::For(outer)] = s.kernel().body.as_slice() else { return Ok(()) };
        let [Stmt::For(next)] = outer.body.as_slice() else { return Ok(()) };
        let (a, b) = (outer.var.to_string(), next.var.to_string());
        if a == last {
            return Ok(());
        }
        s.step(&format!("fuse {a} {b}"))?;
        if b == last {
            return Ok(());
        }
    }
}

/// Vectorizes the innermost loop of a copy, whole vectors first.
pub(super) fn vectorize_copy(s: &mut Schedule, var: &str) -> Result<(), ScheduleError> {
    let bounds = loop_bounds(s.kernel());
    let n = find_loop(&s.kernel().body, var).and_then(|l| l.extent.simplify_index(&bounds).as_int());
    if n.is_none_or(|n| n % LANES != 0) {
        s.step(&format!("peel {var} {LANES}"))?;
    }
    if n.is_none_or(|n| n >= LANES) {
        s.step(&format!("split {var} {LANES}"))?;
        s.step(&format!("vectorize {var}.i"))?;
    }
    Ok(())
}

/// Schedules a product, or else vectorizes its innermost loops.
pub(super) fn or_rows(s: &mut Schedule, target: &Target) -> Result<(), ScheduleError> {
    if apply(s, target)? || windows::apply(s)? { Ok(()) } else { vectorize_inner(s) }
}

/// Schedules a product; `false` where it is none, or one that this is no use for.
fn apply(s: &mut Schedule, target: &Target) -> Result<bool, ScheduleError> {
    let Some(mut p) = Product::of(s.kernel()) else { return Ok(false) };
    // Channels in groups: each group is a product of its own.
    if let Some((var, of)) = p.loops.iter().find_map(|l| Some((l.var.to_string(), p.blocks_of(l)?))) {
        s.step(&format!("split {var} {of}"))?;
        let Some(apart) = Product::of(s.kernel()) else { return Ok(false) };
        p = apart;
    }
    if p.of[0].is_int() && p.roles().is_none_or(|(_, v, _)| p.words(v, target).is_none()) {
        return Ok(false);
    }
    if p.of[0] == DType::F32 && filters::apply(s, &p, target)? {
        return Ok(true);
    }
    let Some((mut n, v, m)) = p.roles() else { return Ok(false) };
    if m.is_none() && p.loops.len() > 2 && p.sums.len() > 1 {
        // Nothing is shared but among neighbours: a window for each of them.
        return Ok(false);
    }
    let rows = m.as_ref().map_or(Some(1), |m| extent(m));
    let (mut contiguous, most) = (p.beside(s.kernel(), v, &n.var), tile(None, target).1);
    // Columns of several axes are one axis where they lie so, or where a copy in another order costs least.
    while let [.., o, _] = p.loops.as_slice()
        && p.picks(v, &o.var)
        && !p.picks(1 - v, &o.var)
    {
        let mut t = s.clone();
        t.step(&format!("fuse {} {}", o.var, n.var))?;
        let Some(fused) = Product::of(t.kernel()) else { break };
        let Some((over, ..)) = fused.roles() else { break };
        let one = fused.beside(t.kernel(), v, &over.var);
        let short = extent(&n).is_some_and(|n| n <= LANES);
        if !(one || short) {
            break;
        }
        (*s, p, n, contiguous) = (t, fused, over, one);
    }
    if rows.is_some_and(|r| r <= most) {
        if !contiguous || p.of[0].is_int() {
            return Ok(false);
        }
        few(s, &n, m.as_ref(), tile(None, target).0)?;
        return Ok(true);
    }
    // A tile is full in places at least.
    let narrow = extent(&n).is_some_and(|n| n < tile(Some(n), target).0);
    if narrow && p.of[0].is_int() {
        return Ok(false);
    }
    // Not quite a vector of columns: a few rows at a time.
    if let (true, true, Some(m), Some(columns)) = (narrow, contiguous, &m, extent(&n))
        && let (lanes, most) = tile(Some(columns), target)
        && 2 * columns > lanes
    {
        s.step(&format!("split {} {}", m.var, rows_of(extent(m), most, false)))?;
        let m = find_loop(&s.kernel().body, &format!("{}.i", m.var));
        few(s, &n, m.as_ref(), lanes)?;
        return Ok(true);
    }
    let Some(m) = m.filter(|_| !narrow) else { return Ok(false) };
    blocks(s, &p, (&n, &m), v, if contiguous { Columns::Beside } else { Columns::Apart }, target)?;
    Ok(true)
}

/// Schedules a product of many rows with weights whose rows lie packed side by side; `false` where it is none.
pub(super) fn with_packed(s: &mut Schedule, target: &Target) -> Result<bool, ScheduleError> {
    let Some(p) = Product::of(s.kernel()) else { return Ok(false) };
    let Some((n, v, Some(m))) = p.roles() else { return Ok(false) };
    if p.of != [DType::F32; 2] && p.words(v, target).is_none() {
        return Ok(false);
    }
    let many = extent(&m).is_none_or(|rows| rows > tile(None, target).1);
    if !many || extent(&n).is_none_or(|n| n % LANES != 0) {
        return Ok(false);
    }
    blocks(s, &p, (&n, &m), v, Columns::Packed, target)?;
    Ok(true)
}

/// How the columns of a product lie where they are stored.
#[derive(Clone, Copy, PartialEq)]
enum Columns {
    /// Side by side.
    Beside,
    /// Apart from each other.
    Apart,
    /// As many as a vector has side by side, for each element of the sum: as the tile reads them.
    Packed,
}

/// Few rows, all in one tile: nothing is read twice, so nothing is copied.
fn few(s: &mut Schedule, n: &For, m: Option<&Arc<For>>, lanes: i64) -> Result<(), ScheduleError> {
    let n = &n.var;
    // Vectors side by side hide the latency of a sum where few rows do not.
    let rows = m.and_then(|m| extent(m)).unwrap_or(1);
    let wide = if rows <= 3 { 2 * lanes } else { lanes };
    // A narrow tile may be less than what is counted by.
    let unit = LANES.min(lanes);
    let wide = unit * s.choose("vectors", [1, 2, 3, 4, 6, 8], wide / unit);
    s.step(&format!("split {n} {wide}"))?;
    if let Some(m) = m {
        move_to(s, &m.var, &format!("{n}.i"))?;
    }
    s.step(&format!("sink {n}.i"))?;
    if let Some(m) = m {
        s.step(&format!("sink {} {n}.i", m.var))?;
    }
    windows::align(s)?;
    s.step(&format!("vectorize {n}.i masked"))?;
    if let Some(m) = m {
        s.step(&format!("unroll {}", m.var))?;
    }
    fuse_to(s, &format!("{n}.o"))
}

/// So many iterations in about equal blocks of at most `most`, an even number of them where there are several.
pub(super) fn evenly(n: i64, most: i64, multiple: i64) -> i64 {
    // Blocks that divide it have constant extents.
    let whole = |b: &i64| n % b == 0 && b % multiple == 0;
    let even = |b: &i64| whole(b) && n / b % 2 == 0;
    let large = most / 3 + 1..=most.max(1);
    if n > most
        && let Some(b) = large.clone().rev().find(even).or_else(|| large.rev().find(whole))
    {
        return b;
    }
    let blocks = (n + most - 1) / most;
    let blocks = if blocks > 1 { blocks + blocks % 2 } else { 1 };
    ((n + blocks - 1) / blocks + multiple - 1) / multiple * multiple
}

/// Sizes of blocks of so many iterations: what is near halves, thirds and so on of all, in whole multiples.
fn panels(n: Option<i64>, multiple: i64) -> Vec<i64> {
    let up = |b: i64| (b + multiple - 1) / multiple * multiple;
    match n {
        Some(n) => {
            [1, 2, 3, 4, 6, 8, 12, 16, 24, 32].iter().map(|parts| up((n + parts - 1) / parts)).collect()
        }
        None => [64, 128, 264, 512, 1024].iter().map(|b| up(*b)).collect(),
    }
}

/// Many rows: a block of rows and panels of columns are copied, and tiles run over them.
fn blocks(
    s: &mut Schedule,
    p: &Product,
    (n, m): (&For, &For),
    v: usize,
    lie: Columns,
    target: &Target,
) -> Result<(), ScheduleError> {
    let (vectors, scalars) = (&p.factors[v].0, &p.factors[1 - v].0);
    let packed = lie == Columns::Packed;
    let (mut lanes, mut most) = tile(extent(n), target);
    if packed && extent(n).is_some_and(|n| n % lanes != 0) {
        (lanes, most) = (lanes / 2, 2 * most);
    }
    let register = if target.vector_bits >= 512 { LANES } else { LANES / 2 };
    let accumulators = most * lanes / register;
    // Packed columns have no room behind the last ones.
    let fits = |v: &i64| !packed || extent(n).is_some_and(|n| n % (register * v) == 0);
    let lanes = register * s.choose("vectors", (1..=3).filter(fits), lanes / register);
    let most = accumulators * register / lanes;
    let full = if packed { COLUMNS_PACKED } else { COLUMNS };
    let columns = extent(n).map_or(full, |n| evenly(n, full, lanes));
    let columns = s.choose("columns", panels(extent(n), lanes), columns);
    // A further axis of columns, of which a block of rows serves several positions.
    let more = match (p.loops.as_slice(), extent(n)) {
        ([.., o, _], Some(n)) if p.picks(v, &o.var) && !p.picks(1 - v, &o.var) => {
            extent(o).map(|e| (o.var.clone(), evenly(e, (COLUMNS / n).max(1), 1)))
        }
        _ => None,
    };
    // All cores have something to do.
    let others = p.loops.iter().filter(|l| l.var != m.var && l.var != n.var);
    let alone = others.clone().all(|l| {
        more.as_ref().is_some_and(|(o, b)| *o == l.var && extent(l) == Some(*b)) || extent(l) == Some(1)
    });
    let alone = alone && extent(n).is_some_and(|n| n <= columns);
    let rows = s.choose("rows", 1..=most, rows_of(extent(m), most, alone));
    let full = if packed { BLOCK_PACKED } else { BLOCK };
    let block = match extent(m) {
        Some(r) if alone => evenly(r, full.min((r + 1) / 2), rows),
        Some(r) => evenly(r, full, rows),
        None => full / rows * rows,
    };
    let block = s.choose("block", panels(extent(m), rows), block);
    let (n, m) = (&n.var, &m.var);
    s.step(&format!("split {m} {block}"))?;
    s.step(&format!("split {m}.i {rows}"))?;
    s.step(&format!("split {n} {columns}"))?;
    s.step(&format!("split {n}.i {lanes}"))?;
    let (row, lane) = (format!("{m}.i.i"), format!("{n}.i.i"));
    move_to(s, &row, &lane)?;
    move_to(s, &format!("{m}.i.o"), &row)?;
    if let Some((o, block)) = &more {
        s.step(&format!("split {o} {block}"))?;
        move_to(s, &format!("{o}.i"), &format!("{n}.i.o"))?;
    }
    let mut sums: Vec<String> = p.sums.iter().map(|l| l.var.to_string()).collect();
    let mut inner: i64 = p.sums[1..].iter().map(|l| extent(l).unwrap_or(LANES)).product();
    // A word's elements of the sum beside each other, as an instruction takes them.
    let last = &p.sums[sums.len() - 1];
    let count = 32 / p.of[v].bits();
    let words = p.words(v, target);
    let word = words.map(|_| format!("{}.i", last.var));
    if word.is_some() {
        s.step(&format!("split {} {count}", last.var))?;
        sums.pop();
        sums.push(format!("{}.o", last.var));
        inner = if sums.len() > 1 { inner / count } else { inner };
    }
    let within = word.as_ref().map_or(String::new(), |word| format!(" {word}"));
    s.step(&format!("cache_read {n}.o {scalars} {WORKSPACE} {m}.i.o {row} {}{within}", sums.join(" ")))?;
    if s.choose("skew", [0, 1], 1) == 1 {
        s.step(&format!("skew {scalars}.r 2 {}", (LANES / inner.max(1)).max(1)))?;
    }
    if !packed {
        s.step(&format!("cache_read {n}.i.o {vectors} {WORKSPACE} {} {lane}{within}", sums.join(" ")))?;
    }
    // Words of packed columns are side by side for one vector of lanes.
    let vectors_apart = packed && words.is_some();
    let (lane, across) = if vectors_apart {
        s.step(&format!("split {lane} {register}"))?;
        (format!("{lane}.i"), Some(format!("{lane}.o")))
    } else {
        (lane, None)
    };
    s.step(&format!("sink {lane}"))?;
    if let Some(across) = &across {
        s.step(&format!("sink {across} {lane}"))?;
    }
    s.step(&format!("sink {row} {}", across.as_ref().unwrap_or(&lane)))?;
    if let Some(word) = &word {
        s.step(&format!("sink {word}"))?;
    }
    for l in [&row, &lane] {
        if find_loop(&s.kernel().body, l).is_some_and(|l| extent(&l).is_none()) {
            s.step(&format!("overrun {l}"))?;
        }
    }
    if let Some(words) = words {
        s.step(&format!("tensorize {lane} {}", words.name))?;
    }
    s.step(&format!("vectorize {lane} masked"))?;
    s.step(&format!("unroll {row}"))?;
    if let Some(across) = &across {
        s.step(&format!("unroll {across}"))?;
    }
    // The sum's axes of the rows lie in a row.
    let mut along = format!("{scalars}.r2");
    for d in 3..2 + sums.len() + word.iter().len() {
        s.step(&format!("fuse {along} {scalars}.r{d}"))?;
        along += ".f";
    }
    if p.along(s.kernel(), 1 - v, &format!("{scalars}.r.s"), &along) {
        vectorize_copy(s, &along)?;
    }
    if lie == Columns::Beside {
        vectorize_copy(s, &format!("{vectors}.r{}", sums.len()))?;
    }
    if word.is_some() && !packed {
        s.step(&format!("unroll {vectors}.r{}", sums.len() + 1))?;
    }
    fuse_to(s, &format!("{n}.o"))
}
