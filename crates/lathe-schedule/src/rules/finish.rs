//! What follows one row of a product and is done a few columns at a time, where they are made: a rotation of heads, what is put into a
//! cache, codes of blocks. Each core finishes its own columns, so that no step follows in which one core does little and the others wait.

use super::product::extent;
use super::rows::{blocks_as_rows, vectorize_those};
use super::temporaries;
use crate::{Schedule, ScheduleError};
use lathe_ir::tensor::find_loop;

/// Columns that are finished together: the first number of them that all of what follows can be cut into. A head whose pairs lie half a
/// head apart cannot be cut.
const COLUMNS: [i64; 4] = [32, 64, 128, 256];

/// Cuts the loop of columns, with what follows, into pieces that one loop makes and finishes, the row's loop fused with it; the loop over
/// the columns of a piece.
pub(super) fn pieces(
    s: &mut Schedule,
    row: &str,
    n: &str,
    behind: &[&String],
) -> Result<String, ScheduleError> {
    let mut refused = None;
    for columns in COLUMNS {
        let mut t = s.clone();
        match cut(&mut t, row, n, behind, columns) {
            Ok(()) => {
                *s = t;
                return Ok(format!("{n}.i"));
            }
            Err(e) => refused = refused.or(Some(e)),
        }
    }
    Err(refused.expect("several were tried"))
}

fn cut(s: &mut Schedule, row: &str, n: &str, behind: &[&String], columns: i64) -> Result<(), ScheduleError> {
    for q in behind {
        blocks_as_rows(s, q);
        s.step(&format!("join {row} {q}_0"))?;
    }
    s.step(&format!("split {n} {columns}"))?;
    for q in behind {
        let piece = piece(s, q, columns)?;
        s.step(&format!("join {n}.o {piece}"))?;
    }
    for t in temporaries(s.kernel()) {
        s.step(&format!("contract {t}"))?;
    }
    s.step(&format!("fuse {row} {n}.o"))
}

/// The loop of an operator whose iterations are so many columns each.
fn piece(s: &mut Schedule, q: &str, columns: i64) -> Result<String, ScheduleError> {
    let of =
        |s: &Schedule, l: &str| find_loop(&s.kernel().body, &format!("{q}_{l}")).and_then(|l| extent(&l));
    // Codes come block by block.
    if of(s, "a").is_some() {
        return Ok(format!("{q}_a"));
    }
    let heads = if of(s, "h").is_some() { "h" } else { "g" };
    // A rotation's loop is over pairs.
    let each = if heads == "h" { columns / 2 } else { columns };
    if of(s, "i") != Some(each) {
        s.step(&format!("split {q}_i {each}"))?;
        s.step(&format!("fuse {q}_{heads} {q}_i.o"))?;
        return Ok(format!("{q}_{heads}.f"));
    }
    Ok(format!("{q}_{heads}"))
}

/// What follows is done in vectors.
pub(super) fn vectorize(s: &mut Schedule, behind: &[&String]) -> Result<(), ScheduleError> {
    let of =
        |var: &str| behind.iter().any(|q| var.strip_prefix(q.as_str()).is_some_and(|v| v.starts_with('_')));
    vectorize_those(s, &of)
}
