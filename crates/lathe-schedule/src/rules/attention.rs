//! Attention in one pass over the keys, some pages of 16 at a time: scores with a key in each lane, the online softmax, then
//! values with a component in each lane. Heads that share keys share each loaded vector. All heads of a page come before the
//! next page.

use super::LANES;
use crate::intrinsics::{IntrinsicRow, word_product};
use crate::tensorize::code;
use crate::util::in_family;
use crate::{Schedule, ScheduleError};
use lathe_ir::Name;
use lathe_ir::tensor::{Binary, Expr, Node, REGISTER, Stmt, WORKSPACE, find_block, find_loop, for_each};
use lathe_machine::Target;

/// Most keys of one step of the online softmax: what a step does once (the maximum across lanes, the new scale of all sums) is little
/// beside their products.
const KEYS: i64 = 512;

/// Most scores of a step: those of all heads stay in the first cache, with what becomes of them.
const SCORES: i64 = 5 << 10;

/// The same of one head at a time, where sums are in registers.
const KEYS_OF_A_HEAD: i64 = 64;

pub(super) fn apply(s: &mut Schedule, p: &str, target: &Target) -> Result<(), ScheduleError> {
    let n = |w: &str| format!("{p}_{w}");
    let extent = |s: &Schedule, l: &str| find_loop(&s.kernel().body, &n(l)).and_then(|l| l.extent.as_int());
    let one_token = extent(s, "0") == Some(1);
    let whole = extent(s, "c").is_some_and(|c| c % LANES == 0);
    let part = extent(s, "1").is_some();
    // One token that is in one part has its heads alone to share out.
    let inwards = whole && (part || !one_token);
    let heads = extent(s, "g").unwrap_or(1) * extent(s, "r").unwrap_or(1);
    let most = if inwards { (SCORES / heads).clamp(KEYS_OF_A_HEAD, KEYS) } else { KEYS_OF_A_HEAD };
    let keys = s.choose("keys", [16, 32, 64, 128, 256, 512], 1 << most.ilog2());
    let words = words(s, [&n("bd"), &n("bo")], target).filter(|_| whole && keys > LANES);
    for l in ["js", "jm", "jp", "jl", "jo"] {
        s.step(&format!("split {} {keys}", n(l)))?;
    }
    if whole {
        for l in ["c", "z", "y"] {
            s.step(&format!("split {} {LANES}", n(l)))?;
        }
    }
    s.step(&format!("join {} {}", n("js.o"), n("jm.o")))?;
    s.step(&format!("online {} {} {} {}", n("js.o"), n("jp.o"), n("jl.o"), n("jo.o")))?;
    s.step(&format!("contract {}", n("s")))?;
    s.step(&format!("contract {}", n("p")))?;
    let sharing = extent(s, "r").unwrap_or(1);
    let together = (1..=4).rev().find(|f| sharing % f == 0).unwrap_or(1);
    let share = together > 1 && whole;
    // A sum over components is one long chain of additions: several at a time hide their latency.
    let chains = if share { 2 } else { 4 };
    let mut d = n("d");
    if words.is_some() {
        s.step(&format!("split {d} 2"))?;
        d += ".o";
    }
    let chained =
        find_loop(&s.kernel().body, &d).and_then(|d| d.extent.as_int()).is_some_and(|d| d % chains == 0);
    if chained {
        s.step(&format!("split {d} {chains}"))?;
        s.step(&format!("rfactor {d}.i"))?;
    }
    let pages = keys > LANES;
    if pages {
        for l in ["js", "jm", "jp", "jl"] {
            s.step(&format!("split {}.i {LANES}", n(l)))?;
        }
        // A maximum and a sum for each lane, and across lanes once a step.
        for l in ["jm", "jl"] {
            s.step(&format!("rfactor {}.i.i", n(l)))?;
        }
        let jo = n("jo.i");
        match words {
            None => s.step(&format!("split {jo} {LANES}"))?,
            // Two keys a word, and perhaps a last one.
            Some(_) => {
                s.step(&format!("peel {jo} 2"))?;
                s.step(&format!("split {jo} 2"))?;
                s.step(&format!("split {jo}.o {}", LANES / 2))?;
            }
        }
    }
    let inwards = inwards && pages;
    if inwards {
        sums_of_a_page(s, p, words.is_some())?;
    }
    // The keys of a page, in lanes.
    let page = |l: &str| n(l) + if pages { ".i.i" } else { ".i" };
    s.step(&format!("sink {}", page("js")))?;
    if chained {
        s.step(&format!("unroll {d}.i"))?;
    }
    let lanes = ["js", "jm", "jp", "jl"].map(page);
    for l in &lanes {
        s.step(&format!("vectorize {l}"))?;
    }
    if share {
        s.step(&format!("split {} {together}", n("r")))?;
        let stop = [&lanes[..], &["c.o", "z.o", "y.o"].map(n)].concat();
        s.step(&format!("sink {} {}", n("r.i"), stop.join(" ")))?;
        s.step(&format!("unroll {}", n("r.i")))?;
    }
    let r = if share { n("r.o") } else { n("r") };
    if inwards {
        all_heads_of_a_page(s, p, &r, words.is_some())?;
    }
    // A word's two factors, inside of the lanes.
    let (two_components, two_keys) = (n("d.i"), n("jo.i.i"));
    if words.is_some() {
        s.step(&format!("sink {two_components}"))?;
        s.step(&format!("sink {two_keys}"))?;
        s.step(&format!("unroll {}", n("jo.i.p")))?;
    }
    if whole {
        for l in ["c", "z", "y"] {
            s.step(&format!("vectorize {}.i", n(l)))?;
            s.step(&format!("unroll {}.o", n(l)))?;
        }
        if !inwards {
            s.step(&format!("set_memory {} {REGISTER}", n("o")))?;
        }
    }
    if !pages {
        s.step(&format!("set_memory {} {REGISTER}", n("s")))?;
    }
    if part {
        s.step(&format!("fuse {} {}", n("0"), n("1")))?;
    } else if !inwards {
        s.step(&format!("fuse {} {}", n("0"), n("g")))?;
        s.step(&format!("fuse {} {r}", n("0.f")))?;
    }
    if whole {
        // Caches come from memory, in pages, which may lie anywhere. Where all heads of a page are read, the next page is asked for: codes
        // into the first cache, words of 16 bits into the second one, as a core can have few lines on their way into the first; what is
        // longer the processor foresees well enough. A head's piece of a page is short in any case: those of the
        // next step are asked for, of values that are pairs of keys, which a step may have none of, the next page's, and of codes of less
        // than a byte, a line of which is asked for often, the same.
        let [values, _] = pages_of_values(words.is_some());
        for (block, keys, of_page) in [("bd", "js", "js.i.o"), ("bo", "jo", values)] {
            let Some((cache, bits)) = paged(s, &n(block)) else { continue };
            let ahead = match bits {
                _ if inwards => match s.choose("ask", [0, 1], (bits <= 16).into()) {
                    1 => n(of_page) + ".o",
                    _ => continue,
                },
                8.. if words.is_some() && block == "bo" => n(values),
                8.. => n("js.o"),
                _ if words.is_none() && pages => n(keys) + ".i.o",
                _ => continue,
            };
            let near = if bits <= 8 { " near" } else { "" };
            s.step(&format!("prefetch {ahead} {cache} {}{near}", n(block)))?;
        }
    }
    if let Some(words) = words {
        for l in [page("js"), n("c.i")] {
            s.step(&format!("tensorize {l} {}", words.name))?;
        }
    }
    Ok(())
}

/// The loops over pages of values, and over the keys of a page (or pairs of them).
fn pages_of_values(words: bool) -> [&'static str; 2] {
    if words { ["jo.i.o.o", "jo.i.o.i"] } else { ["jo.i.o", "jo.i.i"] }
}

/// Sums over the values of a page have accumulators of their own, in registers: those of all heads and pages are too many.
fn sums_of_a_page(s: &mut Schedule, p: &str, words: bool) -> Result<(), ScheduleError> {
    let n = |w: &str| format!("{p}_{w}");
    let [page, key] = pages_of_values(words).map(n);
    s.step(&format!("split {page} 1"))?;
    s.step(&format!("split {key} 1"))?;
    let pair = words.then(|| n("jo.i.i"));
    let inside = [format!("{key}.i"), format!("{key}.o"), format!("{page}.i"), format!("{page}.o")];
    for l in pair.iter().chain(&inside) {
        s.step(&format!("sink {l}"))?;
    }
    s.step(&format!("rfactor {key}.i"))?;
    s.step(&format!("sink {}", n("c.i")))?;
    s.step(&format!("sink {} {}", n("c.o"), n("c.i")))?;
    s.step(&format!("unroll {key}.i"))
}

/// The loops over heads go inwards: a step makes the scores of all heads page by page, what there is of its softmax for each head, and the
/// sums of values page by page again. So pages are read from the first byte to the last one, as the processor foresees it.
fn all_heads_of_a_page(s: &mut Schedule, p: &str, r: &str, words: bool) -> Result<(), ScheduleError> {
    let n = |w: &str| format!("{p}_{w}");
    s.step(&format!("split {} 1", n("js.i.o")))?;
    s.step(&format!("fuse {} {r}", n("g")))?;
    let heads = n("g.f");
    let rest: Vec<String> =
        ["z.o", "y.o", "c.o", "r.i", "jm.i.o", "jp.i.o", "jl.i.o", "jo.i.p"].iter().map(|l| n(l)).collect();
    let rest = rest.join(" ");
    s.step(&format!("sink {heads} {} {rest}", n("js.o")))?;
    let around = around(s, &heads, &n("js.o"));
    s.step(&format!("interchange {around}"))?;
    let values = n(pages_of_values(words)[0]) + ".i";
    s.step(&format!("sink {around} {} {values} {rest}", n("js.i.o.i")))?;
    // What the loops over heads pick is in no register.
    let mut picked = vec![];
    for_each(&s.kernel().body, &mut |s| {
        if let Stmt::Alloc(b) = s
            && &*b.memory == REGISTER
        {
            picked.push(b.name.clone());
        }
    });
    let mut of_heads = vec![];
    for_each(&s.kernel().body, &mut |s| {
        if let Stmt::Store(b) = s {
            let by =
                |(n, i): &&(Name, Vec<Expr>)| picked.contains(n) && i.iter().any(|e| mentions(e, &heads));
            of_heads.extend(b.targets.iter().filter(by).map(|(n, _)| n.clone()));
        }
    });
    of_heads.sort();
    of_heads.dedup();
    of_heads.iter().try_for_each(|b| s.step(&format!("set_memory {b} {WORKSPACE}")))
}

/// Whether an index has a loop of a family in it.
fn mentions(e: &Expr, family: &str) -> bool {
    let mut found = false;
    e.visit(&mut |e| found |= matches!(&**e, Node::Var(v) if in_family(v, family)));
    found
}

/// The loop of a family that has another loop as its body.
fn around(s: &Schedule, family: &str, inner: &str) -> Name {
    let mut found = Name::from(family);
    for_each(&s.kernel().body, &mut |s| {
        if let Stmt::For(l) = s
            && in_family(&l.var, family)
            && matches!(l.body.as_slice(), [Stmt::For(f)] if *f.var == *inner)
        {
            found = l.var.clone();
        }
    });
    found
}

/// The instruction that adds up the products of both blocks, where they are of words of halves.
pub(super) fn words(s: &Schedule, blocks: [&str; 2], target: &Target) -> Option<&'static IntrinsicRow> {
    let k = s.kernel();
    let factor = |e: &Expr| code(e)?.dtype(&|n| k.buffer(n).map(|b| b.dtype));
    let rows = blocks.map(|block| {
        let b = find_block(&k.body, block)?;
        let Node::Binary(Binary::Mul, repeated, lanes) = &**b.values.first()? else { return None };
        word_product(target, [factor(lanes)?, factor(repeated)?])
    });
    rows[0].filter(|row| rows[1].is_some_and(|other| other.name == row.name))
}

/// The cache that a block reads: its one buffer of positions, heads and components, and its bits.
fn paged(s: &Schedule, block: &str) -> Option<(String, i64)> {
    let mut found = None;
    for v in &find_block(&s.kernel().body, block)?.values {
        v.visit(&mut |e| {
            if let Node::Load(n, i) = &**e
                && i.len() == 3
            {
                found = Some(n.to_string());
            }
        });
    }
    found.and_then(|n: String| Some((n.clone(), s.kernel().buffer(&n)?.dtype.bits())))
}
