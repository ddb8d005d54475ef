//! Matrix products over weights packed 16 rows side by side: a tile of accumulators in registers, one vector of weights
//! for many rows of activations, the epilogue on the tile.

use super::{LANES, finish, product, temporaries};
use crate::intrinsics::{IntrinsicRow, MANY_STEPS, byte_products};
use crate::lanes::lane;
use crate::tensorize::code;
use crate::{Schedule, ScheduleError};
use lathe_ir::graph::Form;
use lathe_ir::tensor::{Binary, Node, find_block, find_loop, loop_bounds};
use lathe_machine::Target;

/// Rows of activations in a tile: integer sums and their float totals, and those of two vectors of weights, as measured.
const ROWS_INTEGER: i64 = 8;
/// The same of two vectors of 8 lanes by an instruction of many steps, all of which a tile makes step by step: a core loads as many
/// repeated words as it adds vectors, so each is for two.
const ROWS_STEPPED: i64 = 4;
/// The same with floats, where decoded weights need registers too.
const ROWS_FLOAT: i64 = 6;
/// Tiles of rows that share a vector of weights before the next one is read: few, which stay in the first cache while
/// weights come from the second or the third.
const BLOCK: i64 = 2;
/// The same where weights are too large for any cache.
const BLOCK_FAR: i64 = 16;
/// Bytes of weights that are.
const FAR: i64 = 16 << 20;

/// Rows of activations that are few: a tile's shape is made for them.
const FEW: i64 = 16;

/// Rows that a tile may have: activations are stored padded to a multiple of each.
const PADDED: &[i64] = &[1, 2, 3, 4, 6, 8, 12];
/// Vectors of accumulators that a tile may have, over which none is left in registers.
const MOST_ROWS: i64 = 16;

/// The loops and blocks of a product's sums over groups (`lathe-ops`' `matmul.rs`).
const DIGITS: [[&str; 2]; 2] = [["high", "hs"], ["low", "ls"]];

/// The most words of four columns of a group that are all written out, and how many of more are.
const UNROLLED: i64 = 16;
const PART: i64 = 8;

/// The rows a matrix product computes at a time; activations must be stored padded to a multiple of this.
fn tile_rows(integer: bool, most: Option<i64>) -> i64 {
    let full = if integer { ROWS_INTEGER } else { ROWS_FLOAT };
    match most {
        // Fewer rows than a tile: as many as there are.
        Some(n) if n <= 4 => 4,
        _ => full,
    }
}

pub(super) fn apply(
    s: &mut Schedule,
    parts: &[(Form, String)],
    target: &Target,
    most: Option<i64>,
) -> Result<(), ScheduleError> {
    let p = &parts[0].1;
    let (m, mut n) = (format!("{p}_m"), format!("{p}_n"));
    let lanes = if target.vector_bits < 512 { LANES / 2 } else { LANES };
    let products: Vec<&String> =
        parts.iter().filter(|(f, _)| *f == Form::Contraction).map(|(_, p)| p).collect();
    // Rows of a bucket come one by one: how many there are is known when it runs.
    let bucket = [format!("{p}_r"), format!("{p}_e")];
    let ragged = find_loop(&s.kernel().body, &m).is_none();
    let behind: Vec<&String> = parts.iter().filter(|(f, _)| *f == Form::Row).map(|(_, p)| p).collect();
    let joined = || parts[1..].iter().filter(|(f, _)| *f != Form::Row);
    for (form, q) in joined() {
        let other = if *form == Form::Contraction { "m" } else { "0" };
        s.step(&format!("join {m} {q}_{other}"))?;
    }
    for (form, q) in joined() {
        let other = if *form == Form::Contraction { "n" } else { "1" };
        s.step(&format!("join {n} {q}_{other}"))?;
    }
    if behind.is_empty() {
        for t in temporaries(s.kernel()) {
            s.step(&format!("contract {t}"))?;
        }
    } else {
        n = finish::pieces(s, &m, &n, &behind)?;
    }
    if !packed(s, p, &n, lanes) {
        return product::or_rows(s, target);
    }
    if most.is_none_or(|n| n > FEW) && product::with_packed(s, target)? {
        return Ok(());
    }
    let integer = find_block(&s.kernel().body, &format!("{p}_is")).is_some();
    s.step(&format!("split {n} {lanes}"))?;
    let extent = |s: &Schedule, var: &str| find_loop(&s.kernel().body, var).and_then(|l| l.extent.as_int());
    let single = ragged || !behind.is_empty() || extent(s, &m) == Some(1);
    // Two vectors of weights share each repeated word of the activations: loads keep pace with products then. One row takes
    // two where they are the halves of what lies side by side: weights are read once, in order. Minima, and sums over a block's
    // groups, need the registers of the second one.
    let more =
        [format!("{p}_sm"), format!("{p}_ts")].iter().any(|b| find_block(&s.kernel().body, b).is_some());
    let steps =
        |q: &&String| instruction(s, q, ["k", "is"], target).is_some_and(|row| row.steps >= MANY_STEPS);
    let stepped = target.vector_bits < 512 && integer && products.iter().all(steps);
    let suits = match target.vector_bits < 512 {
        true => single || stepped,
        false => !(single || more || most.is_some_and(|n| n <= FEW)),
    };
    let columns = extent(s, &format!("{n}.o")).filter(|_| integer).unwrap_or(1);
    let whole: Vec<i64> = [1, 2, 4].into_iter().filter(|v| columns % v == 0).collect();
    let rule = if suits && columns % 2 == 0 { 2 } else { 1 };
    let vectors = s.choose("vectors", whole, rule);
    let pairs = vectors > 1;
    if pairs {
        s.step(&format!("split {n}.o {vectors}"))?;
    }
    let rows = if ragged || !behind.is_empty() {
        None
    } else if single {
        Some(m.clone())
    } else {
        // Where it is known how many there are, nothing is stored behind them.
        let all = extent(s, &m);
        let fits = |r: &i64| r * vectors <= MOST_ROWS && all.is_none_or(|n| n % r == 0);
        let options: Vec<i64> = PADDED.iter().copied().filter(fits).collect();
        let most = if stepped && pairs { ROWS_STEPPED } else { tile_rows(integer, most) };
        let rows = options.iter().copied().rfind(|r| *r <= most).unwrap_or(1);
        let rows = s.choose("rows", options, rows);
        s.step(&format!("split {m} {rows}"))?;
        s.step(&format!("pad {m}.i"))?;
        Some(format!("{m}.i"))
    };
    // The inner sums: an instruction's bytes, or a block's columns written out so that shifts are constant.
    let mut placed: Vec<(&String, &IntrinsicRow)> = vec![];
    let mut long: Vec<&String> = vec![];
    for q in &products {
        let group = find_loop(&s.kernel().body, &format!("{q}_k")).and_then(|l| l.extent.as_int());
        if integer && group == Some(16) {
            // Two groups share words of codes: written out, shifts are constant.
            s.step(&format!("split {q}_g 2"))?;
            s.step(&format!("unroll {q}_g.i"))?;
        }
        let row = integer.then(|| instruction(s, q, ["k", "is"], target)).flatten();
        let columns = if integer { 4 } else { inner_columns(s, q) };
        s.step(&format!("split {q}_k {columns}"))?;
        let parts = extent(s, &format!("{q}_k.o")).unwrap_or(1);
        if integer && parts > UNROLLED && row.is_none_or(|row| row.steps == 1) {
            // A whole row has one sum: a part of it is written out.
            let part = (1..=PART).rev().find(|n| parts % n == 0).unwrap_or(1);
            s.step(&format!("split {q}_k.o {part}"))?;
            long.push(q);
        }
        let Some(row) = row else { continue };
        if row.steps > 1 {
            s.step(&format!("split {q}_k.o {}", row.steps))?;
        }
        placed.push((q, row));
    }
    // Sums over a block's groups, of what belongs to its minima: an instruction's bytes, too.
    let mut digits: Vec<(String, Option<&IntrinsicRow>)> = vec![];
    for q in &products {
        for [var, block] in DIGITS {
            let l = format!("{q}_{var}");
            if find_loop(&s.kernel().body, &l).is_none() {
                continue;
            }
            let row = instruction(s, q, [var, block], target);
            if let Some(row) = row {
                s.step(&format!("split {l} 4"))?;
                if row.steps > 1 {
                    s.step(&format!("split {l}.o {}", row.steps))?;
                }
            }
            digits.push((l, row));
        }
    }
    // One row has one chain of additions a tile; two chains hide half of its latency.
    let chained = |q: &String| {
        let takes = placed.iter().find(|(p, _)| *p == q).map_or(1, |(_, row)| row.steps);
        integer && takes == 1 && single && !long.contains(&q)
    };
    for q in products.iter().filter(|q| chained(q)) {
        s.step(&format!("split {q}_k.o 2"))?;
        s.step(&format!("rfactor {q}_k.o.i"))?;
    }
    s.step(&format!("sink {n}.i"))?;
    let columns = if pairs { format!("{n}.o.i") } else { format!("{n}.i") };
    if pairs {
        s.step(&format!("sink {columns} {n}.i"))?;
    }
    if let Some(rows) = &rows {
        s.step(&format!("sink {rows} {columns}"))?;
    }
    for q in &products {
        let steps = placed.iter().find(|(p, _)| p == q).map_or(1, |(_, row)| row.steps);
        if !integer {
            s.step(&format!("unroll {q}_k.i"))?;
        } else if steps > 1 {
            s.step(&format!("sink {q}_k.i"))?;
            s.step(&format!("sink {q}_k.o.i"))?;
            s.step(&format!("unroll {q}_k.o.o"))?;
        } else {
            s.step(&format!("sink {q}_k.i"))?;
            if long.contains(q) {
                s.step(&format!("unroll {q}_k.o.i"))?;
            } else if chained(q) {
                s.step(&format!("unroll {q}_k.o.o"))?;
                s.step(&format!("unroll {q}_k.o.i"))?;
            } else {
                s.step(&format!("unroll {q}_k.o"))?;
            }
        }
    }
    for (l, row) in &digits {
        match row {
            Some(row) if row.steps > 1 => {
                s.step(&format!("sink {l}.i"))?;
                s.step(&format!("sink {l}.o.i"))?;
                s.step(&format!("unroll {l}.o.o"))?;
            }
            Some(_) => {
                s.step(&format!("sink {l}.i"))?;
                s.step(&format!("unroll {l}.o"))?;
            }
            None => s.step(&format!("unroll {l}"))?,
        }
    }
    let mut names: Vec<&str> = placed.iter().map(|(_, row)| row.name).collect();
    names.extend(digits.iter().filter_map(|(_, row)| row.map(|row| row.name)));
    names.sort_unstable();
    names.dedup();
    s.step(&format!("vectorize {n}.i"))?;
    if pairs {
        s.step(&format!("unroll {columns}"))?;
    }
    if ragged {
        // All rows of all buckets meet a few columns of weights while these are near, and cores share columns: buckets
        // differ in length.
        for l in &bucket {
            s.step(&format!("interchange {l}"))?;
        }
    }
    if let Some(rows) = &rows {
        s.step(&format!("unroll {rows}"))?;
        if rows.ends_with(".i") {
            let weights = s.kernel().params.iter().filter_map(|b| b.bits.as_const()).max();
            let far = weights.is_some_and(|bits| bits / 8 > FAR);
            let near = if stepped && pairs { BLOCK * ROWS_INTEGER / ROWS_STEPPED } else { BLOCK };
            let block = s.choose("block", [1, 2, 4, 8, 16, 32], if far { BLOCK_FAR } else { near });
            s.step(&format!("split {m}.o {block}"))?;
            s.step(&format!("interchange {m}.o.i"))?;
            let tiles = format!("{n}.o{}", if pairs { ".o" } else { "" });
            ask(s, &tiles, &products)?;
            s.step(&format!("fuse {m}.o.o {tiles}"))?;
        }
    }
    for name in names {
        s.step(&format!("tensorize {n}.i {name}"))?;
    }
    finish::vectorize(s, &behind)
}

/// While a tile is computed, the weights of the next columns are asked for: they come from memory in pieces that are too short for the
/// processor to foresee the next one.
fn ask(s: &mut Schedule, columns: &str, products: &[&String]) -> Result<(), ScheduleError> {
    for block in products.iter().flat_map(|q| ["is", "s"].map(|b| format!("{q}_{b}"))) {
        let mut weights = None;
        for v in find_block(&s.kernel().body, &block).iter().flat_map(|b| &b.values) {
            v.visit(&mut |e| match &**e {
                Node::Load(n, i) if i.iter().any(|i| i.mentions(columns)) => weights = Some(n.clone()),
                _ => {}
            });
        }
        if let Some(weights) = weights {
            s.step(&format!("prefetch {columns} {weights} {block}"))?;
        }
    }
    Ok(())
}

/// The target's best instruction for a product's sum of integers, its loop and its block: one that takes its codes, in steps that it
/// is made of.
fn instruction(
    s: &Schedule,
    q: &str,
    [var, block]: [&str; 2],
    target: &Target,
) -> Option<&'static IntrinsicRow> {
    let k = s.kernel();
    let block = find_block(&k.body, &format!("{q}_{block}"))?;
    let Node::Binary(Binary::Mul, x, _) = &**block.values.first()? else { return None };
    let t = code(x)?.dtype(&|n| k.buffer(n).map(|b| b.dtype))?;
    let group = find_loop(&k.body, &format!("{q}_{var}")).and_then(|l| l.extent.as_int())?;
    byte_products(target).find(|row| row.takes(t) && group % (4 * row.steps) == 0)
}

/// Columns to write out in a float product: those that share a packed word, else a few.
fn inner_columns(s: &Schedule, q: &str) -> i64 {
    let sub_byte = s.kernel().views().any(|b| b.dtype.bits() < 32 && b.dtype.is_int());
    let extent = find_loop(&s.kernel().body, &format!("{q}_k")).and_then(|l| l.extent.as_int()).unwrap_or(1);
    let want = if sub_byte { 32 } else { 8 };
    (1..=want).rev().find(|f| extent % f == 0).unwrap_or(1)
}

/// Whether the rows of the weights lie side by side: the weights' loads are vectors along the loop of columns.
fn packed(s: &Schedule, p: &str, n: &str, lanes: i64) -> bool {
    let k = s.kernel();
    let whole = find_loop(&k.body, n).and_then(|l| l.extent.as_int()).is_some_and(|e| e % lanes == 0);
    let Some(block) =
        find_block(&k.body, &format!("{p}_is")).or_else(|| find_block(&k.body, &format!("{p}_s")))
    else {
        return false;
    };
    let Ok(after) = ({
        let mut t = s.clone();
        t.step(&format!("split {n} {lanes}")).map(|()| t)
    }) else {
        return false;
    };
    let Some(block) = find_block(&after.kernel().body, &block.name) else { return false };
    let bounds = loop_bounds(after.kernel());
    let inner = format!("{n}.i");
    let mut ok = whole;
    for v in &block.values {
        v.visit(&mut |e| {
            if let Node::Load(b, i) = &**e
                && let Some(b) = after.kernel().buffer(b)
            {
                let stride = lane(&b, i, &inner, &bounds).map(|l| l.stride);
                ok &= stride.is_some_and(|s| s == 0 || s == b.dtype.bits() || s == 32);
            }
        });
    }
    ok
}
