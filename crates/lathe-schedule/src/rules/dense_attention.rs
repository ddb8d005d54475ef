//! Attention whose queries all see the same keys: two products in tiles, a few queries at a time, whose scores are in the first
//! cache when the softmax and the second product read them. Keys, which lie as rows and are read as columns, are copied once for a block of
//! queries; so are values where an instruction takes two of them as a word.

use super::product::{evenly, fuse_to, rows_of, tile};
use super::{FEW, LANES, attention};
use crate::{Schedule, ScheduleError};
use lathe_ir::tensor::{Expr, Iter, Node, REGISTER, Stmt, WORKSPACE, find_block, find_loop, for_each};
use lathe_machine::Target;

/// Queries of a block where there are few heads: enough to hide what copies of keys and values cost.
const BLOCK: i64 = 64;

/// Schedules attention over keys whose number is constant; `false` where they are others.
pub(super) fn apply(s: &mut Schedule, p: &str, target: &Target) -> Result<bool, ScheduleError> {
    let n = |w: &str| format!("{p}_{w}");
    let extent = |s: &Schedule, l: &str| find_loop(&s.kernel().body, &n(l)).and_then(|l| l.extent.as_int());
    let all = ["i", "js", "d", "c"].map(|l| extent(s, l));
    let [Some(queries), Some(keys), Some(dim), Some(width)] = all else { return Ok(false) };
    let [Some(k), Some(v)] = ["bd", "bo"].map(|b| parameter(s, &n(b))) else { return Ok(false) };
    // What is copied must be read as keys, or as values, and as nothing else: other loops stay as they are (the pass makes none such).
    if reads(s, &k) > 1 || reads(s, &v) > 1 {
        return Ok(true);
    }
    // Whole vectors, or all there is where that is less.
    let [js, c] = [keys, width].map(|e| tile(Some(e), target).0.min(e));
    let whole = dim % 2 == 0 && keys % 2 == 0 && js % LANES == 0 && c % LANES == 0 && width % c == 0;
    let words = attention::words(s, [&n("bd"), &n("bo")], target).filter(|_| whole);

    // Tiles of both products.
    let most = tile(None, target).1;
    let whole = (most / 2..=most).rev().find(|r| queries % r == 0);
    let rows = whole.unwrap_or_else(|| rows_of(Some(queries), most, false)).min(queries);
    let rows = s.choose("rows", 1..=most, rows);
    let heads: i64 = (0..).map_while(|d| extent(s, &d.to_string())).product();
    let blocks = (FEW + heads - 1) / heads;
    let block = evenly(queries, if heads * 2 >= FEW { queries } else { (queries / blocks).max(BLOCK) }, rows);
    s.step(&format!("split {} {block}", n("i")))?;
    s.step(&format!("split {} {rows}", n("i.i")))?;
    s.step(&format!("split {} {js}", n("js")))?;
    for l in ["c", "z", "y"] {
        s.step(&format!("split {} {c}", n(l)))?;
    }
    s.step(&format!("sink {} {}", n("jo"), n("c.i")))?;
    for l in ["c.o", "y.o"] {
        s.step(&format!("join {} {}", n("z.o"), n(l)))?;
    }
    let (mut d, mut jo) = (n("d"), n("jo"));
    // Elements of a word beside each other.
    let (mut d_word, mut jo_word) = (String::new(), String::new());
    if words.is_some() {
        for l in [&d, &jo] {
            s.step(&format!("split {l} 2"))?;
        }
        (d_word, jo_word) = (format!(" {d}.i"), format!(" {jo}.i"));
        (d, jo) = (d + ".o", jo + ".o");
    }
    s.step(&format!("cache_read {} {k} {WORKSPACE} {} {d} {}{d_word}", n("i.o"), n("js.o"), n("js.i")))?;
    if words.is_some() {
        s.step(&format!("cache_read {} {v} {WORKSPACE} {} {jo} {}{jo_word}", n("i.o"), n("z.o"), n("c.i")))?;
    }

    // The softmax, with keys in lanes.
    let vector = LANES.min(keys);
    let rest = keys % vector;
    for l in ["jm", "jp", "jl"].map(n) {
        if rest > 0 {
            s.step(&format!("peel {l} {vector}"))?;
        }
        s.step(&format!("split {l} {vector}"))?;
        let reduction =
            find_loop(&s.kernel().body, &format!("{l}.i")).is_some_and(|l| l.iter == Iter::Reduce);
        if reduction {
            s.step(&format!("rfactor {l}.i"))?;
        }
    }
    if rest == 0 {
        s.step(&format!("join {} {}", n("jp.o"), n("jl.o")))?;
    }

    // Queries of a tile around the lanes of each block.
    s.step(&format!("sink {}", n("js.i")))?;
    if words.is_some() {
        s.step(&format!("sink {}", n("d.i")))?;
    }
    let mut lanes = ["js.i", "z.i", "c.i", "y.i", "jm.i", "jp.i", "jl.i"].map(n).to_vec();
    if rest > 0 {
        lanes.extend(["jm.p", "jp.p", "jl.p"].map(n));
    }
    let row = n("i.i.i");
    s.step(&format!("sink {row} {} {}", n("w"), lanes.join(" ")))?;
    if words.is_some() {
        s.step(&format!("sink {}", n("jo.i")))?;
    }
    s.step(&format!("contract {}", n("o")))?;
    for l in [&row, &n("js.i")] {
        if find_loop(&s.kernel().body, l).is_some_and(|l| l.extent.as_int().is_none()) {
            s.step(&format!("overrun {l}"))?;
        }
    }
    if let Some(words) = words {
        for l in ["js.i", "c.i"] {
            s.step(&format!("tensorize {} {}", n(l), words.name))?;
        }
    }
    for l in &lanes {
        s.step(&format!("vectorize {l} masked"))?;
    }
    s.step(&format!("unroll {row}"))?;
    s.step(&format!("set_memory {} {REGISTER}", n("o")))?;
    // Rows a power of two apart fall onto the same few lines of a cache.
    for t in ["s", "p"] {
        s.step(&format!("skew {} 1 {LANES}", n(t)))?;
    }
    copies(s, &k, &v, words.is_some())?;
    fuse_to(s, &n("i.o"))?;
    Ok(true)
}

/// The copies of keys, whose rows are read in their order, and of values.
fn copies(s: &mut Schedule, k: &str, v: &str, words: bool) -> Result<(), ScheduleError> {
    s.step(&format!("interchange {k}.r1"))?;
    let mut along = vec![format!("{k}.r1")];
    if words {
        along.push(format!("{v}.r2"));
    }
    for l in along {
        let extent = find_loop(&s.kernel().body, &l).and_then(|l| l.extent.as_int());
        if extent.is_some_and(|n| n % LANES == 0) {
            s.step(&format!("split {l} {LANES}"))?;
            s.step(&format!("vectorize {l}.i"))?;
        }
    }
    if words {
        for t in [k, v] {
            s.step(&format!("unroll {t}.r3"))?;
        }
    }
    Ok(())
}

/// How often the program says that it reads a parameter.
fn reads(s: &Schedule, name: &str) -> usize {
    let mut count = 0;
    for_each(&s.kernel().body, &mut |stmt| {
        if let Stmt::Store(b) = stmt {
            let mut one = |e: &Expr| count += usize::from(matches!(&**e, Node::Load(n, _) if &**n == name));
            b.values.iter().for_each(|e| e.visit(&mut one));
        }
    });
    count
}

/// The parameter that a block reads.
fn parameter(s: &Schedule, block: &str) -> Option<String> {
    let mut found = None;
    let is = |name: &str| s.kernel().views().any(|v| &*v.name == name);
    for e in &find_block(&s.kernel().body, block)?.values {
        e.visit(&mut |e: &Expr| {
            if let Node::Load(name, _) = &**e
                && is(name)
            {
                found = Some(name.to_string());
            }
        });
    }
    found
}
