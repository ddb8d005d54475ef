//! Tiles of planes that are transformed (Winograd's algorithm): on one side channels lie side by side, on the other a plane for each. A
//! few channels at a time, in lanes where tiles are transformed, so that what stands before and behind, plane by plane, is near.

use super::filters::lanes_of;
use super::product::extent;
use super::rows::vectorize_inner;
use super::{LANES, contract_where_picked, temporaries, windows, write_out_transform};
use crate::lanes::lane;
use crate::{Schedule, ScheduleError};
use lathe_ir::tensor::{For, Node, Stmt, find_loop, for_each, loop_bounds};
use lathe_machine::Target;
use std::sync::Arc;

/// A word before an operator's axis in the name of its loop, for each of its nests.
type Nests = Vec<(String, bool)>;

/// The nests of the operators in their order, and whether tiles are transformed there: whether it has arrays of its own.
fn nests(s: &Schedule) -> Option<Nests> {
    let mut all = vec![];
    for stmt in &s.kernel().body {
        if let Stmt::For(l) = stmt {
            let mut arrays = false;
            for_each(&l.body, &mut |s| arrays |= matches!(s, Stmt::Alloc(b) if !b.shape.is_empty()));
            all.push((l.var.strip_suffix('0')?.to_string(), arrays));
        }
    }
    Some(all)
}

/// How many channels are in lanes, where tiles are transformed.
fn lanes(s: &Schedule, nests: &Nests, target: &Target) -> Option<i64> {
    let mut tiles = nests.iter().filter(|(_, arrays)| *arrays);
    let (Some((p, _)), None) = (tiles.next(), tiles.next()) else { return None };
    let channels = find_loop(&s.kernel().body, &format!("{p}1"))?;
    find_loop(&channels.body, &format!("{p}3"))?;
    // Half vectors, where channels are no whole number of vectors: what is transformed is little beside the products.
    let channels = extent(&channels)?;
    let lanes = lanes_of(channels, target).or_else(|| (channels % (LANES / 2) == 0).then_some(LANES / 2))?;
    let mut t = s.clone();
    t.step(&format!("split {p}1 {lanes}")).ok()?;
    let (k, mut along) = (t.kernel(), false);
    let bounds = loop_bounds(k);
    for_each(&k.body, &mut |stmt| {
        if let Stmt::Store(b) = stmt {
            let mut access = |n: &str, i: &[_]| {
                let stride =
                    k.views().find(|v| &*v.name == n).and_then(|v| lane(v, i, &format!("{p}1.i"), &bounds));
                along |= stride.is_some_and(|l| l.stride == 32);
            };
            b.targets.iter().for_each(|(n, i)| access(n, i));
            b.values.iter().for_each(|v| {
                v.visit(&mut |e| {
                    if let Node::Load(n, i) = &**e {
                        access(n, i);
                    }
                });
            });
        }
    });
    along.then_some(lanes)
}

/// Schedules tiles that are transformed, with what stands before and behind; `false` where there are none, or something stands there
/// that does not go with them.
pub(super) fn apply(s: &mut Schedule, target: &Target) -> bool {
    let Some(nests) = nests(s) else { return false };
    let Some(lanes) = lanes(s, &nests, target) else { return false };
    let mut tiled = s.clone();
    let part = lanes_of(lanes, target).is_none();
    let done = together(&mut tiled, &nests, lanes, part).is_ok();
    if done {
        *s = tiled;
    }
    done
}

/// `part` says that so many channels are a part of a vector only.
fn together(s: &mut Schedule, nests: &Nests, lanes: i64, part: bool) -> Result<(), ScheduleError> {
    for (p, _) in nests {
        s.step(&format!("split {p}1 {lanes}"))?;
    }
    let Some(((first, _), rest)) = nests.split_first() else { return Ok(()) };
    for axis in ["0", "1.o"] {
        for (p, _) in rest {
            s.step(&format!("join {first}{axis} {p}{axis}"))?;
        }
    }
    let behind: Vec<&String> = nests.iter().skip_while(|(_, tiles)| !tiles).skip(1).map(|(p, _)| p).collect();
    // A row of tiles at a time, where nothing stands before them.
    let mut outer = format!("{first}1.o");
    let mut by_rows = s.clone();
    if nests[0].1 && rows_of_tiles(&mut by_rows, first, &behind).is_some() {
        (*s, outer) = (by_rows, format!("{first}2"));
    }
    let near = temporaries(s.kernel());
    for t in &near {
        s.step(&format!("contract {t}"))?;
    }
    // Elementwise operators behind are one nest with what they follow.
    if let [first, rest @ ..] = behind.as_slice()
        && !rest.is_empty()
    {
        let row = if outer.ends_with('2') { "2.i" } else { "2" };
        for axis in ["1.i", row, "3"] {
            for p in rest {
                s.step(&format!("join {first}{axis} {p}{axis}"))?;
            }
        }
        // Nothing but whole planes crosses the nests.
        contract_where_picked(s, &near);
    }
    for (p, tiles) in nests {
        if *tiles {
            s.step(&format!("sink {p}1.i"))?;
            // What is on the way is in registers, with room for the lanes that a vector has more.
            if part {
                windows::align(s)?;
            }
            s.step(&format!("vectorize {p}1.i{}", if part { " masked" } else { "" }))?;
            write_out_transform(s, p.trim_end_matches('t'))?;
        }
    }
    if let Some(p) = behind.first() {
        rows(s, &format!("{p}3"))?;
    }
    vectorize_inner(s)?;
    super::product::fuse_to(s, &outer)
}

/// One loop over rows of tiles, around the channels of a vector: what is written is near what the next vector's channels are written
/// to, planes on the way have the rows of a tile, and there are enough of them for all cores.
fn rows_of_tiles(s: &mut Schedule, tiles: &str, behind: &[&String]) -> Option<()> {
    let rows = |s: &Schedule, p: &str| find_loop(&s.kernel().body, &format!("{p}2")).and_then(|l| extent(&l));
    let count = rows(s, tiles)?;
    s.step(&format!("interchange {tiles}1.i")).ok()?;
    let Some(planes) = behind.first() else { return s.step(&format!("interchange {tiles}1.o")).ok() };
    // Rows of a tile, where it is not the only one.
    let all = rows(s, planes)?;
    let tile = [4, 2].into_iter().find(|t| count > 1 && (all + t - 1) / t == count)?;
    for p in behind {
        s.step(&format!("split {p}2 {tile}")).ok()?;
        s.step(&format!("interchange {p}1.i")).ok()?;
        s.step(&format!("join {tiles}2 {p}2.o")).ok()?;
    }
    Some(())
}

/// A row of a plane, through all operators a vector at a time.
pub(super) fn rows(s: &mut Schedule, var: &str) -> Result<(), ScheduleError> {
    let l: Option<Arc<For>> = find_loop(&s.kernel().body, var);
    let Some(l) = l.filter(|l| !l.body.iter().all(|s| matches!(s, Stmt::Store(_)))) else { return Ok(()) };
    let n = extent(&l).unwrap_or(0);
    let mut loops = vec![];
    if n > LANES && n % LANES > 0 {
        s.step(&format!("peel {var} {LANES}"))?;
        loops.push((format!("{var}.p"), " masked"));
    }
    if n >= LANES {
        s.step(&format!("split {var} {LANES}"))?;
        loops.push((format!("{var}.i"), ""));
    } else {
        loops.push((var.to_string(), " masked"));
    }
    for (l, masked) in loops {
        s.step(&format!("sink {l}"))?;
        windows::align(s)?;
        s.step(&format!("vectorize {l}{masked}"))?;
    }
    Ok(())
}
