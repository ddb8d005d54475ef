//! Changes of layout: the fields' outermost loops run over the same blocks of rows, so one parallel loop serves all.

use crate::{Schedule, ScheduleError};
use lathe_ir::tensor::{For, Iter, Stmt};
use std::sync::Arc;

pub(super) fn apply(s: &mut Schedule) -> Result<(), ScheduleError> {
    let loops: Vec<Arc<For>> = s
        .kernel()
        .body
        .iter()
        .filter_map(|s| match s {
            Stmt::For(l) => Some(l.clone()),
            _ => None,
        })
        .collect();
    let same = |l: &Arc<For>| l.iter == Iter::Spatial && l.extent == loops[0].extent;
    if loops.len() == s.kernel().body.len() && loops.iter().all(same) {
        for l in &loops[1..] {
            s.step(&format!("join {} {}", loops[0].var, l.var))?;
        }
    }
    Ok(())
}
