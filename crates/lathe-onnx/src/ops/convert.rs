//! Conversions of type, those of small floats by arithmetic on their codes.

use super::{Row, one, row};
use crate::build::{constant, limits, number};
use crate::elem::Elem;
use crate::error::Fault;
use crate::model::Reader;
use crate::node::{Item, Node};
use crate::trace::{Read, Trace, Val};
use lathe_ir::Elements;

/// A small float: bits of exponent and mantissa, the exponent's bias, and which codes are no numbers.
struct Small {
    exponent: u32,
    mantissa: u32,
    bias: i32,
    /// Whether there are infinities, as in IEEE's types.
    infinite: bool,
    /// Whether the code of the negative zero is the only one that is no number.
    unsigned_zero: bool,
    /// Whether all codes are numbers.
    finite: bool,
}

impl Small {
    fn of(elem: Elem) -> Option<Small> {
        let small = |exponent, mantissa, bias, infinite, unsigned_zero, finite| {
            Some(Small { exponent, mantissa, bias, infinite, unsigned_zero, finite })
        };
        match elem {
            Elem::F8E4M3FN => small(4, 3, 7, false, false, false),
            Elem::F8E4M3FNUZ => small(4, 3, 8, false, true, false),
            Elem::F8E5M2 => small(5, 2, 15, true, false, false),
            Elem::F8E5M2FNUZ => small(5, 2, 16, false, true, false),
            Elem::F4E2M1 => small(2, 1, 1, false, false, true),
            _ => None,
        }
    }

    /// The value of a code.
    fn value(&self, code: u32) -> f64 {
        let m = code & ((1 << self.mantissa) - 1);
        let e = code >> self.mantissa & ((1 << self.exponent) - 1);
        let negative = code >> (self.mantissa + self.exponent) & 1 == 1;
        let (last_e, last_m) = ((1 << self.exponent) - 1, (1 << self.mantissa) - 1);
        let special = match () {
            () if self.finite => None,
            () if self.unsigned_zero => (negative && e == 0 && m == 0).then_some(f64::NAN),
            () if self.infinite && e == last_e => Some(if m == 0 { f64::INFINITY } else { f64::NAN }),
            () if !self.infinite && e == last_e && m == last_m => Some(f64::NAN),
            () => None,
        };
        let part = f64::from(m) / f64::from(1 << self.mantissa);
        let size = special.unwrap_or_else(|| match e {
            0 => part * f64::from(1 - self.bias).exp2(),
            e => (1.0 + part) * f64::from(e as i32 - self.bias).exp2(),
        });
        if negative { -size } else { size }
    }

    /// Codes of finite sizes, in order.
    fn sizes(&self) -> Vec<f64> {
        let codes = 0..1 << (self.mantissa + self.exponent);
        codes.map(|c| self.value(c)).filter(|v| v.is_finite()).collect()
    }
}

/// The value of 2^(code - 127), the scale of a block of small floats.
fn scale_value(code: u32) -> f64 {
    if code == 255 { f64::NAN } else { f64::from(code as i32 - 127).exp2() }
}

/// The values of codes, by a table.
fn decoded(t: &mut Trace<'_>, x: &Val, to: Elem) -> Read<Val> {
    let n = 1 << x.elem().bits();
    let values: Vec<f64> = match Small::of(x.elem()) {
        Some(s) => (0..n).map(|c| s.value(c)).collect(),
        None => (0..n).map(scale_value).collect(),
    };
    let table = constant(Elem::F32, &[values.len()], &Elements::Floats(values));
    let codes = t.rename(x, Elem::U8);
    let v = t.gather(&table, &codes, 0)?;
    t.cast(&v, to)
}

/// The code of the nearest value, ties to the even code; beyond the largest it is the largest where `saturate`.
///
/// The code of a size is the number of boundaries between neighbouring sizes that are below it; with some boundaries it counts
/// those that are equal as well, so that ties go to even codes.
fn encoded(t: &mut Trace<'_>, x: &Val, to: Elem, saturate: bool) -> Read<Val> {
    let Some(s) = Small::of(to) else {
        return Err(Fault::unsupported(format!("a conversion to {}", to.name())));
    };
    let x = t.cast(x, Elem::F32)?;
    let sizes = s.sizes();
    let top = sizes.len() - 1;
    let mut bounds: Vec<f64> = sizes.windows(2).map(|w| f64::midpoint(w[0], w[1])).collect();
    if !saturate && !s.finite {
        // What rounds to one more than the largest.
        bounds.push(sizes[top] + (sizes[top] - sizes[top - 1]) / 2.0);
    }
    // A size above a boundary takes the upper code; one on it takes the even one of the two.
    let ties: Vec<f64> = (0..bounds.len()).map(|i| f64::from(u8::from(i % 2 == 1))).collect();
    let n = bounds.len();
    let size = t.un("abs", &x)?;
    let flat = t.reshape(&size, &[size.len(), 1])?;
    let bounds = constant(Elem::F32, &[1, n], &Elements::Floats(bounds));
    let ties = constant(Elem::Bool, &[1, n], &Elements::Ints(ties.iter().map(|v| *v as i128).collect()));
    let (above, on) = (t.bin("lt", &bounds, &flat)?, t.bin("eq", &bounds, &flat)?);
    let on = t.bin("and", &on, &ties)?;
    let counted = t.bin("or", &above, &on)?;
    let counted = t.rename(&counted, Elem::U8);
    let code = t.reduce("sum", &counted, &[1], false)?;
    let mut code = t.reshape(&code, x.shape())?;
    let width = s.mantissa + s.exponent;
    // The sign: of bits, as a zero has one too.
    let bits = t.op("bitcast", &[&x], &[("to", lathe_ir::graph::Attr::Str("u32".into()))], Elem::U32)?;
    let sign = t.with("shr", &bits, 31.0)?;
    let sign = t.cast(&sign, Elem::U8)?;
    let sign = t.with("shl", &sign, f64::from(width))?;
    let number = t.bin("eq", &x, &x)?;
    let (nan, infinity, negative_zero) = match to {
        Elem::F8E4M3FN => (0x7f, 0x7f, true),
        Elem::F8E5M2 => (0x7e, 0x7c, true),
        Elem::F8E4M3FNUZ | Elem::F8E5M2FNUZ => (0x80, 0x80, false),
        // There is no such code: the negative zero stands for it.
        Elem::F4E2M1 => (8, top, true),
        _ => (top, top, true),
    };
    if !saturate && !s.finite {
        let over = t.of("lt", top as f64, &code)?;
        code = t.select(&over, &number_of(infinity), &code)?;
    }
    let code = {
        let signed = t.bin("or", &code, &sign)?;
        if negative_zero {
            signed
        } else {
            let none = t.with("eq", &code, 0.0)?;
            t.select(&none, &number_of(0), &signed)?
        }
    };
    // What is no number keeps its sign where the code of one has room for it.
    let nan = if to == Elem::F8E4M3FN || to == Elem::F8E5M2 {
        t.bin("or", &number_of(nan), &sign)?
    } else {
        number_of(nan)
    };
    let code = t.select(&number, &code, &nan)?;
    Ok(t.rename(&code, to))
}

fn number_of(code: usize) -> Val {
    number(code as f64, Elem::U8)
}

/// Numbers of less than a byte: bits that do not fit are cut off.
fn narrowed(t: &mut Trace<'_>, x: &Val, to: Elem) -> Read<Val> {
    let (low, high) = limits(to);
    let wide = t.cast(x, Elem::I32)?;
    let wrapped = t.with("sub", &wide, low)?;
    let wrapped = t.with("rem", &wrapped, high - low + 1.0)?;
    let wrapped = t.with("add", &wrapped, low)?;
    let byte = if low < 0.0 { Elem::I8 } else { Elem::U8 };
    let v = t.cast(&wrapped, byte)?;
    Ok(t.rename(&v, to))
}

/// A scale of blocks: the exponent of x, rounded `up`, `down` or to the nearest.
fn scale_code(t: &mut Trace<'_>, x: &Val, mode: &str, saturate: bool) -> Read<Val> {
    let x = t.cast(x, Elem::F32)?;
    let bits = t.op("bitcast", &[&x], &[("to", lathe_ir::graph::Attr::Str("u32".into()))], Elem::U32)?;
    let exponent = t.with("shr", &bits, 23.0)?;
    let exponent = t.with("and", &exponent, 255.0)?;
    let mantissa = t.with("and", &bits, f64::from(0x7f_ffff))?;
    let more = match mode {
        "down" => t.with("lt", &mantissa, 0.0)?,
        "up" => t.of("lt", 0.0, &mantissa)?,
        _ => {
            let half = f64::from(0x40_0000);
            let up = t.of("le", half, &mantissa)?;
            // Below the least normal number, half of it rounds up only from above.
            let small = t.with("eq", &exponent, 0.0)?;
            let strict = t.of("lt", half, &mantissa)?;
            t.select(&small, &strict, &up)?
        }
    };
    let more = t.cast(&more, Elem::U32)?;
    let code = t.add(&exponent, &more)?;
    let top = t.with("eq", &exponent, 255.0)?;
    let limit = if saturate { 254.0 } else { 255.0 };
    let code = t.with("min", &code, limit)?;
    let same = t.bin("eq", &x, &x)?;
    let infinite = if saturate { limit } else { 255.0 };
    let special = t.select(&same, &number(infinite, Elem::U32), &number(255.0, Elem::U32))?;
    let code = t.select(&top, &special, &code)?;
    let code = t.cast(&code, Elem::U8)?;
    Ok(t.rename(&code, Elem::F8E8M0))
}

/// x as any type.
pub fn convert(t: &mut Trace<'_>, x: &Val, to: Elem, saturate: bool, mode: &str) -> Read<Val> {
    if x.elem() == to {
        return Ok(x.clone());
    }
    if x.elem().is_code() {
        let wide = decoded(t, x, Elem::F32)?;
        return convert(t, &wide, to, saturate, mode);
    }
    if to == Elem::F8E8M0 {
        return scale_code(t, x, mode, saturate);
    }
    if to.is_code() {
        return encoded(t, x, to, saturate);
    }
    if to.bits() < 8 && to != Elem::Bool {
        return narrowed(t, x, to);
    }
    if x.elem().is_float() && to.is_int() && to.bits() < 32 {
        // As C does: through an int, which then wraps.
        let wide = t.cast(x, Elem::I32)?;
        return t.cast(&wide, to);
    }
    t.cast(x, to)
}

/// The numbers that a tensor of text spells.
fn parsed(r: &mut Reader<'_>, item: &Item, to: Elem) -> Read<Item> {
    let Item::Text(a) = item else { return Err(Fault::invalid("a tensor was expected")) };
    if to == Elem::Str {
        return Ok(item.clone());
    }
    let values: Result<Vec<f64>, _> = a.text.iter().map(|s| s.trim().parse::<f64>()).collect();
    let values = values.map_err(|_| Fault::invalid("a text that is no number"))?;
    let v = constant(Elem::F64, &a.tensor.shape, &Elements::Floats(values));
    Ok(convert(&mut r.trace, &v, to, true, "up")?.into())
}

fn cast_to(r: &mut Reader<'_>, n: &Node<'_>, to: Elem) -> Read<Vec<Item>> {
    if let Item::Text(_) = n.item(0)? {
        return Ok(vec![parsed(r, n.item(0)?, to)?]);
    }
    if to == Elem::Str {
        return Err(Fault::unsupported("tensors of text"));
    }
    let saturate = n.int("saturate", 1) != 0;
    one(convert(&mut r.trace, n.tensor(0)?, to, saturate, n.word("round_mode", "up"))?)
}

pub(super) const ROWS: &[Row] = &[
    row("Cast", 6, |r, n| {
        let to = Elem::of_code(n.int("to", 0))?;
        cast_to(r, n, to)
    }),
    row("CastLike", 15, |r, n| {
        let to = match n.item(1)? {
            Item::Text(_) => Elem::Str,
            item => item.tensor()?.elem(),
        };
        cast_to(r, n, to)
    }),
    row("BitCast", 1, |r, n| {
        let (x, to) = (n.tensor(0)?, Elem::of_code(n.int("to", 0))?);
        if x.elem().bits() != to.bits() || to.bits() < 8 {
            return Err(Fault::unsupported("the bits of types of other or of small sizes"));
        }
        if x.elem().dtype() == to.dtype() {
            return one(r.trace.rename(x, to));
        }
        let name = lathe_ir::graph::Attr::Str(to.dtype().to_string().into());
        one(r.trace.op("bitcast", &[x], &[("to", name)], to)?)
    }),
];
