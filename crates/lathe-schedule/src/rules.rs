//! Schedules by rule: from the forms of a kernel's operators and the target, without search. Where a rule leaves something
//! open, what was decided for it ([`Decisions`]) is taken.

mod attention;
mod bands;
mod contraction;
mod copies;
mod dense_attention;
mod filters;
mod finish;
mod product;
mod rows;
mod tiles;
mod windows;

pub use filters::{ChannelTile, channel_tile};

use crate::{Decisions, Schedule, ScheduleError};
use lathe_ir::graph::Form;
use lathe_ir::tensor::{Kernel, Stmt, find_loop};
use lathe_machine::Target;

/// Lanes of f32 in the vectors that packed layouts are made for.
pub(crate) const LANES: i64 = 16;

/// Schedules the naive kernel of a group; `parts` are the form and name prefix of each operator, in order, and `rows` is
/// the most rows of activations it will be given, when few.
pub fn schedule(
    kernel: Kernel,
    parts: &[(Form, String)],
    target: &Target,
    rows: Option<i64>,
    decisions: &Decisions,
) -> Result<Schedule, ScheduleError> {
    let mut s = Schedule::decided(kernel, decisions);
    match parts.first() {
        Some((Form::Contraction, _)) => contraction::apply(&mut s, parts, target, rows)?,
        Some((Form::Attention, p)) if dense_attention::apply(&mut s, p, target)? => {}
        Some((Form::Attention, p)) => attention::apply(&mut s, p, target)?,
        Some((Form::Row | Form::Elementwise, _)) => rows::apply(&mut s, parts)?,
        Some((Form::Copy, _)) => copies::apply(&mut s)?,
        Some((Form::Nest, _)) if bands::apply(&mut s, parts, target) || tiles::apply(&mut s, target) => {}
        Some((Form::Nest, p)) if parts.len() > 1 && copies::fills(&s, p) => windows::padded(&mut s, parts)?,
        Some((Form::Nest, _)) => {
            rows::join_axes(&mut s, parts, usize::MAX)?;
            copies::beside(&mut s)?;
            copies::squares(&mut s)?;
            product::or_rows(&mut s, target)?;
        }
        None => {}
    }
    parallel_outermost(&mut s)?;
    Ok(s)
}

/// Cores share the loops behind that of the channels up to `last`, and each sweeps through its part for each of the channels.
fn sweep(s: &mut Schedule, channels: &str, last: &str) -> Result<(), ScheduleError> {
    while let Some(l) = find_loop(&s.kernel().body, channels)
        && let [Stmt::For(inner)] = l.body.as_slice()
    {
        s.step(&format!("interchange {channels}"))?;
        if &*inner.var == last {
            break;
        }
    }
    product::fuse_to(s, last)?;
    match s.kernel().body.as_slice() {
        [Stmt::For(outer)] => {
            let step = format!("parallel {} {channels}", outer.var);
            s.step(&step)
        }
        _ => Ok(()),
    }
}

/// Whether so many parts of a plane are enough for cores to share, none of which has more than another by much.
fn shared_evenly(parts: i64) -> bool {
    parts >= 12 || (parts > 1 && parts % 2 == 0)
}

/// Fewer iterations than this are too few for the cores, where there are more inside.
const FEW: i64 = 16;

/// Gives the one outermost loop to the cores when it is spatial, with the ones inside where it is short.
fn parallel_outermost(s: &mut Schedule) -> Result<(), ScheduleError> {
    while let [Stmt::For(l)] = s.kernel().body.as_slice()
        && l.iter == lathe_ir::tensor::Iter::Spatial
        && &*l.level == lathe_ir::tensor::SERIAL
        && product::extent(l).is_some_and(|n| n < FEW)
        && let [Stmt::For(inner)] = l.body.as_slice()
        && inner.iter == l.iter
        && inner.level == l.level
        && !inner.extent.mentions(&l.var)
    {
        let step = format!("fuse {} {}", l.var, inner.var);
        s.step(&step)?;
    }
    let outer: Vec<_> = s.kernel().body.iter().filter(|s| !matches!(s, Stmt::Alloc(_))).cloned().collect();
    if let [Stmt::For(l)] = outer.as_slice()
        && l.iter == lathe_ir::tensor::Iter::Spatial
        && &*l.level == lathe_ir::tensor::SERIAL
        && outer.len() == s.kernel().body.len()
    {
        s.step(&format!("parallel {}", l.var))?;
    }
    Ok(())
}

/// The loops that take the elements of a transformed tile, and those that give the results, written out.
fn write_out_transform(s: &mut Schedule, word: &str) -> Result<(), ScheduleError> {
    for axis in ["ta", "tb", "ga", "gb"] {
        if find_loop(&s.kernel().body, &format!("{word}{axis}")).is_some() {
            s.step(&format!("unroll {word}{axis}"))?;
        }
    }
    Ok(())
}

/// Contracts the temporaries of which loops around all uses pick elements.
fn contract_where_picked(s: &mut Schedule, temporaries: &[String]) {
    for t in temporaries {
        let mut inner = s.clone();
        if inner.step(&format!("contract {t}")).is_ok() {
            *s = inner;
        }
    }
}

/// Names of temporaries with dimensions allocated at the top of the kernel.
fn temporaries(k: &Kernel) -> Vec<String> {
    let top = k.body.iter().filter_map(|s| match s {
        Stmt::Alloc(b) if !b.shape.is_empty() => Some(b.name.to_string()),
        _ => None,
    });
    top.collect()
}
