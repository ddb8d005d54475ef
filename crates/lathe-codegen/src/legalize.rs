//! Functions that C's operators lack, as expressions over those it has. The same text then serves scalars and vectors.

use lathe_ir::DType;
use lathe_ir::tensor::{Binary, Expr, Node, Unary};

fn f(v: f32) -> Expr {
    Expr::f32(v)
}

fn i(v: i64) -> Expr {
    Expr::int(v, DType::I32)
}

/// To the nearest integer, ties to even, by adding and subtracting 1.5 * 2^23; exact below 2^22, and larger values are
/// kept (they may have a fraction of a half, which a caller that rounds to small integers never meets). What becomes 0 has no sign.
fn nearest(x: &Expr) -> Expr {
    let big = f(12_582_912.0);
    let near = &(x + &big) - &big;
    Expr::select(&abs(x).bin(Binary::Lt, &f(4_194_304.0)), &near, x)
}

/// What is rounded to the nearest integer, where an expression is that.
pub(crate) fn rounded(e: &Expr) -> Option<&Expr> {
    match &**e {
        Node::Unary(Unary::Round, x) => Some(x),
        _ => None,
    }
}

/// [`nearest`], with the argument's sign on what becomes 0.
fn round(x: &Expr) -> Expr {
    let sign = x.bitcast(DType::I32).bin(Binary::And, &i(i32::MIN.into()));
    nearest(x).bitcast(DType::I32).bin(Binary::Or, &sign).bitcast(DType::F32)
}

fn abs(x: &Expr) -> Expr {
    x.bitcast(DType::I32).bin(Binary::And, &i(0x7fff_ffff)).bitcast(DType::F32)
}

/// e^x by 2^n * p(r) with p near e^r on |r| <= ln(2) / 2, its coefficients after the first two those of the least relative error. The
/// relative error is below 4e-7, of `short` ones 1.3e-4; results below 2^-126 are rounded up to it. `fused`: a product and a sum are one
/// operation, which rounds once.
fn exp(x: &Expr, fused: bool, short: bool) -> Expr {
    let x = x.max_with(&f(-87.336_54)).min_with(&f(88.37));
    let big = f(12_582_912.0);
    let shifted = &(&x * &f(std::f32::consts::LOG2_E)) + &big;
    let n = &shifted - &big;
    let r = if fused {
        &x - &(&n * &f(std::f32::consts::LN_2))
    } else {
        // So few digits of ln(2) that the product is exact, and the rest.
        &(&x - &(&n * &f(0.693_359_4))) - &(&n * &f(-2.121_944_4e-4))
    };
    let coefficients: &[f32] = if short {
        &[0.166_628_17, 0.503_942_7, 1.0, 1.0]
    } else {
        &[8.312_517e-3, 4.189_020_4e-2, 0.166_671_14, 0.499_992_3, 1.0, 1.0]
    };
    let p = coefficients[1..].iter().fold(f(coefficients[0]), |p, c| &(&p * &r) + &f(*c));
    // The low bits of the shifted sum are n in two's complement: the exponent of p grows by it.
    let n = shifted.bitcast(DType::U32).bin(Binary::Shl, &u(23));
    (&p.bitcast(DType::U32) + &n).bitcast(DType::F32)
}

/// What a bf16 is rounded from where it is an exponential: a short one, whose error is small beside that of the rounding (2^-8).
pub(crate) fn exp_of_bf16(e: &Expr, dtype: &dyn Fn(&Expr) -> Option<DType>, fused: bool) -> Option<Expr> {
    let Node::Cast(DType::BF16, x) = &**e else { return None };
    let Node::Unary(Unary::Exp, y) = &**x else { return None };
    (dtype(y) == Some(DType::F32)).then(|| exp(y, fused, true))
}

fn tanh(x: &Expr, fused: bool) -> Expr {
    let e = exp(&(x + x), fused, false);
    &f(1.0) - &(&f(2.0) / &(&e + &f(1.0)))
}

/// Bits of a half as a float: multiplying by 2^112 moves the exponent, subnormals included.
fn f32_of_f16(bits: &Expr) -> Expr {
    let wide = bits.cast(DType::I32);
    let magnitude = wide.bin(Binary::And, &i(0x7fff));
    let moved = &magnitude.bin(Binary::Shl, &i(13)).bitcast(DType::F32) * &f(5.192_297e33);
    let special = moved.bitcast(DType::I32).bin(Binary::Or, &i(0x7f80_0000));
    let finite = magnitude.bin(Binary::Lt, &i(0x7c00));
    let value = Expr::select(&finite, &moved.bitcast(DType::I32), &special);
    let sign = wide.bin(Binary::And, &i(0x8000)).bin(Binary::Shl, &i(16));
    value.bin(Binary::Or, &sign).bitcast(DType::F32)
}

fn f32_of_bf16(bits: &Expr) -> Expr {
    bits.cast(DType::I32).bin(Binary::Shl, &i(16)).bitcast(DType::F32)
}

fn u(v: i64) -> Expr {
    Expr::int(v, DType::U32)
}

/// The half nearest to a float, ties to even. Below the least normal half, adding 0.5 leaves the half's bits at the end.
fn f16_of_f32(x: &Expr) -> Expr {
    let bits = x.bitcast(DType::U32);
    let size = bits.bin(Binary::And, &u(0x7fff_ffff));
    let sign = bits.bin(Binary::Shr, &u(16)).bin(Binary::And, &u(0x8000));
    let odd = size.bin(Binary::Shr, &u(13)).bin(Binary::And, &u(1));
    let normal = (&(&size - &u(0x3800_0000)) + &(&odd + &u(0xfff))).bin(Binary::Shr, &u(13));
    let small = &(&size.bitcast(DType::F32) + &f(0.5)).bitcast(DType::U32) - &u(0x3f00_0000);
    let special = Expr::select(&u(0x7f80_0000).bin(Binary::Lt, &size), &u(0x7e00), &u(0x7c00));
    let finite = Expr::select(&size.bin(Binary::Lt, &u(0x3880_0000)), &small, &normal);
    let half = Expr::select(&size.bin(Binary::Lt, &u(0x4780_0000)), &finite, &special);
    half.bin(Binary::Or, &sign).cast(DType::uint(16)).bitcast(DType::F16)
}

/// The upper half of a float, to the nearest, ties to even.
fn bf16_of_f32(x: &Expr) -> Expr {
    let bits = x.bitcast(DType::U32);
    let odd = bits.bin(Binary::Shr, &u(16)).bin(Binary::And, &u(1));
    let near = (&bits + &(&odd + &u(0x7fff))).bin(Binary::Shr, &u(16));
    let nan = u(0x7f80_0000).bin(Binary::Lt, &bits.bin(Binary::And, &u(0x7fff_ffff)));
    Expr::select(&nan, &u(0x7fc0), &near).cast(DType::uint(16)).bitcast(DType::BF16)
}

/// The type that C computes an integer in whose width it has not; no truth value.
fn container(t: DType) -> Option<DType> {
    match t {
        DType::BOOL => None,
        DType::Int { signed, bits } if ![8, 16, 32, 64].contains(&bits) => {
            let bits = [8, 16, 32].into_iter().find(|w| bits < *w).unwrap_or(64);
            Some(DType::Int { signed, bits })
        }
        _ => None,
    }
}

/// A value of the container, wrapped to the width of `t`.
fn wrapped(e: &Expr, t: DType, of: DType) -> Expr {
    let by = Expr::int(of.bits() - t.bits(), of);
    match t {
        DType::Int { signed: true, .. } => e.bin(Binary::Shl, &by).bin(Binary::Shr, &by),
        _ => e.bin(Binary::And, &Expr::int((1i64 << t.bits()) - 1, of)),
    }
}

/// Arithmetic of integers of any width, of truth values and of halves, in types that C has; nothing where C's is the same. A
/// single operation on halves rounds the same by way of a float. C++ of hardware has all widths.
pub(crate) fn narrow(e: &Expr, dtype: &dyn Fn(&Expr) -> Option<DType>) -> Option<Expr> {
    let t = dtype(e)?;
    let half = |x: &Expr| dtype(x).is_some_and(is_half);
    match &**e {
        Node::Unary(op, x) if half(x) => return Some(x.cast(DType::F32).un(*op).cast(t)),
        Node::Binary(op, a, b) if half(a) => {
            let wide = a.cast(DType::F32).bin(*op, &b.cast(DType::F32));
            return Some(if op.is_comparison() { wide } else { wide.cast(t) });
        }
        _ => {}
    }
    if t == DType::BOOL {
        let wide = |x: &Expr| x.cast(DType::I32);
        return match &**e {
            Node::Cast(_, x) if dtype(x)? != t => {
                let odd = if dtype(x)?.is_int() { x.clone() } else { wide(x) };
                let one = Expr::int(1, dtype(&odd)?);
                Some(odd.bin(Binary::And, &one).bin(Binary::Ne, &Expr::int(0, dtype(&odd)?)))
            }
            Node::Unary(Unary::Not, x) => Some(x.bin(Binary::Eq, &Expr::int(0, t))),
            Node::Unary(op, x) => Some(wide(x).un(*op).cast(t)),
            Node::Binary(op, a, b)
                if !op.is_comparison()
                    && !matches!(op, Binary::And | Binary::Or | Binary::Xor)
                    && dtype(a)? == t =>
            {
                Some(wide(a).bin(*op, &wide(b)).cast(t))
            }
            Node::Binary(op @ (Binary::Lt | Binary::Le), a, b) if dtype(a)? == t => {
                Some(wide(a).bin(*op, &wide(b)))
            }
            _ => None,
        };
    }
    let of = container(t)?;
    match &**e {
        Node::Cast(_, x) | Node::Bitcast(_, x) if dtype(x)? != t => Some(wrapped(&x.cast(of), t, of)),
        Node::Unary(op, x) => Some(wrapped(&x.cast(of).un(*op), t, of)),
        Node::Binary(op, a, b) => Some(wrapped(&a.cast(of).bin(*op, &b.cast(of)), t, of)),
        _ => None,
    }
}

fn is_half(t: DType) -> bool {
    matches!(t, DType::F16 | DType::BF16)
}

/// The replacement of a node, when C has no operator for it. What `has` an instruction of its own is left to that: `f32_of_f16`,
/// `f16_of_f32`, `round`, `i32_of_rounded`.
pub(crate) fn legalize(
    e: &Expr,
    dtype: &dyn Fn(&Expr) -> Option<DType>,
    fused: bool,
    has: &dyn Fn(&str) -> bool,
) -> Option<Expr> {
    if let Some(x) = exp_of_bf16(e, dtype, fused) {
        return Some(bf16_of_f32(&x));
    }
    match &**e {
        Node::Unary(Unary::Exp, x) if dtype(x) == Some(DType::F32) => Some(exp(x, fused, false)),
        Node::Unary(Unary::Tanh, x) if dtype(x) == Some(DType::F32) => Some(tanh(x, fused)),
        Node::Unary(Unary::Round, x) if dtype(x) == Some(DType::F32) && !has("round") => Some(round(x)),
        Node::Cast(DType::I32, r)
            if rounded(r).is_some_and(|x| dtype(x) == Some(DType::F32)) && has("i32_of_rounded") =>
        {
            None
        }
        // Integers have one 0.
        Node::Cast(t, r) if t.is_int() && rounded(r).is_some_and(|x| dtype(x) == Some(DType::F32)) => {
            rounded(r).map(|x| nearest(x).cast(*t))
        }
        Node::Cast(DType::F16, x) if dtype(x) == Some(DType::F32) => {
            (!has("f16_of_f32")).then(|| f16_of_f32(x))
        }
        Node::Cast(DType::BF16, x) if dtype(x) == Some(DType::F32) => Some(bf16_of_f32(x)),
        Node::Cast(t, x) if is_half(*t) && dtype(x) != Some(*t) => Some(x.cast(DType::F32).cast(*t)),
        Node::Cast(t, x) if *t != DType::F32 && dtype(x).is_some_and(|from| is_half(from) && from != *t) => {
            Some(x.cast(DType::F32).cast(*t))
        }
        Node::Unary(Unary::Abs, x) if dtype(x) == Some(DType::F32) => Some(abs(x)),
        Node::Cast(DType::F32, x) if dtype(x) == Some(DType::F16) && !has("f32_of_f16") => {
            Some(f32_of_f16(&x.bitcast(DType::uint(16))))
        }
        Node::Cast(DType::F32, x) if dtype(x) == Some(DType::BF16) => {
            Some(f32_of_bf16(&x.bitcast(DType::uint(16))))
        }
        _ => None,
    }
}
