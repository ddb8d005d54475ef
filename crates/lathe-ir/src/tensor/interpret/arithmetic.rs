//! What operations make of numbers: floats in f64, integers that the caller wraps, fixed point as the integers that are stored; and
//! whether a result is what it is in the reals.

use crate::DType;
use crate::tensor::{Binary, Unary};

pub(super) fn unary(op: Unary, v: f64) -> f64 {
    match op {
        Unary::Neg => -v,
        Unary::Abs => v.abs(),
        Unary::Not => f64::NAN,
        Unary::Exp => v.exp(),
        Unary::Log => v.ln(),
        Unary::Sqrt => v.sqrt(),
        Unary::Sin => v.sin(),
        Unary::Cos => v.cos(),
        Unary::Atan => v.atan(),
        Unary::Tanh => v.tanh(),
        Unary::Floor => v.floor(),
        Unary::Round => v.round_ties_even(),
    }
}

/// Whether an operation's result in f64 is what it is in the reals; where that is not known, it is not.
pub(super) fn exact_unary(op: Unary, x: f64, y: f64) -> bool {
    match op {
        Unary::Neg | Unary::Abs | Unary::Floor | Unary::Round => true,
        Unary::Sqrt => y.mul_add(y, -x) == 0.0,
        _ => false,
    }
}

/// The same of two operands.
pub(super) fn exact_binary(op: Binary, x: f64, y: f64, v: f64) -> bool {
    match op {
        Binary::Add => v - x == y && v - y == x,
        Binary::Sub => v + y == x && x - v == y,
        Binary::Mul => x.mul_add(y, -v) == 0.0,
        Binary::Div => v.mul_add(y, -x) == 0.0,
        Binary::Min | Binary::Max => true,
        _ => false,
    }
}

/// The result on integers without end; nothing where C has none: for shifts by more than the width or of what is negative.
pub(super) fn exact_int(op: Binary, x: i64, y: i64, v: i64, t: DType) -> Option<i128> {
    let (a, b) = (i128::from(x), i128::from(y));
    Some(match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a.wrapping_mul(b),
        Binary::Shl | Binary::Shr if !(0..t.bits()).contains(&y) => return None,
        Binary::Shl | Binary::Shr if x < 0 && t != DType::U64 => return None,
        Binary::Shl => a << y,
        _ => i128::from(v),
    })
}

/// The arithmetic of a type: what fits 63 bits is the same signed and unsigned.
pub(super) fn integer(t: DType) -> fn(Binary, i64, i64) -> Option<i64> {
    if t == DType::U64 { binary_u64 } else { binary_int }
}

fn binary_u64(op: Binary, x: i64, y: i64) -> Option<i64> {
    let (a, b) = (x as u64, y as u64);
    Some(match op {
        Binary::Div => a.checked_div(b)? as i64,
        Binary::Rem => a.checked_rem(b)? as i64,
        Binary::Min => a.min(b) as i64,
        Binary::Max => a.max(b) as i64,
        Binary::Shr => a.wrapping_shr(b as u32) as i64,
        Binary::Lt => (a < b).into(),
        Binary::Le => (a <= b).into(),
        op => return binary_int(op, x, y),
    })
}

fn binary_int(op: Binary, x: i64, y: i64) -> Option<i64> {
    Some(match op {
        Binary::Add => x.wrapping_add(y),
        Binary::Sub => x.wrapping_sub(y),
        Binary::Mul => x.wrapping_mul(y),
        Binary::Div => x.checked_div_euclid(y)?,
        Binary::Rem => x.checked_rem_euclid(y)?,
        Binary::Min => x.min(y),
        Binary::Max => x.max(y),
        Binary::And => x & y,
        Binary::Or => x | y,
        Binary::Xor => x ^ y,
        Binary::Shl => x.wrapping_shl(y as u32),
        Binary::Shr => x.wrapping_shr(y as u32),
        Binary::Lt => (x < y).into(),
        Binary::Le => (x <= y).into(),
        Binary::Eq => (x == y).into(),
        Binary::Ne => (x != y).into(),
        Binary::Pow => return None,
    })
}

/// On stored integers with the same number of bits behind the point; the caller wraps.
pub(super) fn binary_fixed(op: Binary, x: i64, y: i64, fraction: u8) -> Option<i64> {
    match op {
        Binary::Mul => Some(((i128::from(x) * i128::from(y)) >> fraction) as i64),
        op if op.of_fixed() => binary_int(op, x, y),
        _ => None,
    }
}

pub(super) fn binary_float(op: Binary, x: f64, y: f64) -> f64 {
    match op {
        Binary::Add => x + y,
        Binary::Sub => x - y,
        Binary::Mul => x * y,
        Binary::Div => x / y,
        Binary::Rem => x.rem_euclid(y),
        Binary::Pow => x.powf(y),
        Binary::Min => {
            if y < x {
                y
            } else {
                x
            }
        }
        Binary::Max => {
            if x < y {
                y
            } else {
                x
            }
        }
        _ => f64::NAN,
    }
}
