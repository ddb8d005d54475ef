//! The checker of step programs: known buffers, and no two steps between meetings that touch the same bytes unless both
//! only read them.

use super::{Program, Step, Storage};
use crate::IrError;
use std::collections::HashSet;

/// Whether two buffers may share bytes: the same one, or planned ranges of one tier that overlap at their largest.
fn overlap(p: &Program, a: u32, b: u32, bound: &dyn Fn(&str) -> Option<i64>) -> bool {
    if a == b {
        return true;
    }
    let (x, y) = (&p.buffers[a as usize], &p.buffers[b as usize]);
    match (&x.storage, &y.storage) {
        (Storage::Planned(i), Storage::Planned(j)) if x.tier == y.tier => {
            let size = |b: &super::StepBuffer| b.bytes.eval(bound).unwrap_or(i64::MAX / 4);
            *i < j + size(y) && *j < i + size(x)
        }
        _ => false,
    }
}

fn touches(s: &Step) -> Vec<(u32, bool)> {
    match s {
        Step::Call { args, writes, .. } => args.iter().copied().zip(writes.iter().copied()).collect(),
        Step::Copy { from, to } => vec![(*from, false), (*to, true)],
        Step::Meet => vec![],
    }
}

/// Whether two steps must not run at the same time, with dimensions at their upper bounds.
pub fn conflicts(p: &Program, a: &Step, b: &Step, bound: &dyn Fn(&str) -> Option<i64>) -> bool {
    touches(a)
        .iter()
        .any(|(x, wx)| touches(b).iter().any(|(y, wy)| (*wx || *wy) && overlap(p, *x, *y, bound)))
}

/// Checks a program whose dimensions stay below 2^20.
pub fn check(p: &Program) -> Result<(), IrError> {
    let mut names = HashSet::new();
    for b in &p.buffers {
        if !names.insert(&b.name) {
            return Err(IrError::check(format!("{}/{}", p.name, b.name), "two buffers of this name"));
        }
    }
    let mut open: Vec<&Step> = vec![];
    for (i, s) in p.steps.iter().enumerate() {
        let place = || format!("{}/step {i}", p.name);
        if touches(s).iter().any(|(b, _)| *b as usize >= p.buffers.len()) {
            return Err(IrError::check(place(), "an unknown buffer"));
        }
        if let Step::Call { args, writes, .. } = s
            && args.len() != writes.len()
        {
            return Err(IrError::check(place(), "arguments and their uses differ in number"));
        }
        if *s == Step::Meet {
            open.clear();
            continue;
        }
        // Buffers whose sizes depend on a dimension may be as large as the bound allows.
        if open.iter().any(|o| conflicts(p, o, s, &|_| Some(1 << 20))) {
            return Err(IrError::check(
                place(),
                "it touches what an earlier step touches, without a meeting between",
            ));
        }
        open.push(s);
    }
    Ok(())
}
