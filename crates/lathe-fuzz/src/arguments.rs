//! Arguments of a program, and what it makes of them: values such that sums stay exact and nothing overflows, parameters that
//! are only written full of poison, and room behind each for what schedules declare of padding.

use crate::random::Random;
use lathe_ir::tensor::{
    Access, Buffer, Fact, Kernel, Memory, Param, Seen, Stmt, interpret_watched, map_stmts,
};
use lathe_ir::{Bounds, DType, Int, IrError, Name, encode_bits, read_bits, write_bits};
use lathe_schedule::{Tag, is_prefetch};

/// What stands in a parameter that is only written.
const POISON: u8 = 0xa5;

/// Bytes behind each parameter.
pub(crate) const ROOM: usize = 1 << 16;

/// Most elements of a parameter.
const MOST_ELEMENTS: i64 = 1 << 13;

/// Dimensions of a run.
pub(crate) type Sizes = Vec<(Name, i64)>;

fn size<'a>(sizes: &'a [(Name, i64)]) -> impl Fn(&str) -> Option<i64> + 'a {
    |n| sizes.iter().find(|(d, _)| &**d == n).map(|(_, v)| *v)
}

/// Bytes of a parameter that its user sees.
pub(crate) fn bytes(p: &Param, sizes: &[(Name, i64)]) -> Option<usize> {
    let bits = p.bits.eval(&size(sizes))?;
    usize::try_from(bits).ok().map(|b| b.div_ceil(8))
}

/// Arguments decided by a seed; nothing where a promise cannot be kept, or they would be too large.
pub(crate) fn arguments(k: &Kernel, sizes: &Sizes, seed: u64) -> Option<Memory> {
    let get = size(sizes);
    let mut random = Random::new(seed);
    let style = random.below(4);
    let dims: Vec<(&str, i64)> = sizes.iter().map(|(n, v)| (&**n, *v)).collect();
    let mut m = Memory::new(&dims);
    for p in &k.params {
        let seen = bytes(p, sizes)?;
        if seen as i64 > 8 * MOST_ELEMENTS {
            return None;
        }
        let mut b = vec![POISON; seen.next_multiple_of(8) + ROOM];
        if p.access == Access::Out {
            m.set(&p.name, &b);
            continue;
        }
        for v in &p.views {
            fill(&mut b, v, &get, style, &mut random, &m)?;
        }
        // What lies behind is like what lies before.
        for i in seen..b.len().min(if seen == 0 { 0 } else { b.len() }) {
            b[i] = b[i - seen];
        }
        m.set(&p.name, &b);
    }
    Some(m)
}

/// Fills a view.
fn fill(
    bytes: &mut [u8],
    v: &Buffer,
    get: &dyn Fn(&str) -> Option<i64>,
    style: usize,
    random: &mut Random,
    before: &Memory,
) -> Option<()> {
    let shape: Vec<i64> = v.shape.iter().map(|s| s.eval(get)).collect::<Option<_>>()?;
    let n = shape.iter().try_fold(1i64, |a, s| a.checked_mul((*s).max(0))).filter(|n| *n <= MOST_ELEMENTS)?;
    let mut values: Vec<f64> = (0..n).map(|_| value(v.dtype, style, random)).collect();
    promise(&mut values, v, get, random, before)?;
    let width = v.dtype.bits();
    let dense = lathe_ir::Layout::dense(v.dtype, &v.shape) == v.layout;
    for (i, x) in values.into_iter().enumerate() {
        let bits = match v.dtype {
            DType::Int { .. } => x as i64 as u64,
            DType::Fixed { .. } => x as i64 as u64,
            t => encode_bits(t, x),
        };
        let at = if dense { i as i64 * width } else { address(v, &shape, i as i64, get)? };
        write_bits(bytes, at, width, bits)?;
    }
    Some(())
}

/// The bit address of an element by its number.
fn address(v: &Buffer, shape: &[i64], mut i: i64, get: &dyn Fn(&str) -> Option<i64>) -> Option<i64> {
    let mut index = vec![Int::from(0); shape.len()];
    for d in (0..shape.len()).rev() {
        index[d] = Int::from(i % shape[d]);
        i /= shape[d];
    }
    v.layout.address(&index, &Bounds::new()).eval(get)
}

/// A small value: sums of a thousand of them are exact in f32, and most integers are indices of something. In one style those of up to
/// a byte are any but the lowest, which is no code of an activation.
pub(crate) fn value(t: DType, style: usize, random: &mut Random) -> f64 {
    match t {
        DType::Int { bits: 1, .. } => random.range(0, 1) as f64,
        DType::Int { signed: false, bits: bits @ ..=8 } if style == 3 => {
            random.range(0, (1 << bits) - 1) as f64
        }
        DType::Int { bits: bits @ 2..=8, .. } if style == 3 => {
            random.range(1 - (1 << (bits - 1)), (1 << (bits - 1)) - 1) as f64
        }
        DType::Int { signed: false, bits } => random.range(0, (1 << bits.min(3)) - 1) as f64,
        DType::Int { bits, .. } if bits < 4 => random.range(0, 1) as f64,
        DType::Int { .. } if style == 0 => random.range(-5, 7) as f64,
        DType::Int { .. } => random.range(0, 3) as f64,
        DType::Fixed { .. } => random.range(-7, 7) as f64,
        _ if style == 1 => random.range(1, 3) as f64,
        _ if style == 2 => random.range(-6, 6) as f64 / 2.0,
        _ => random.range(-3, 3) as f64,
    }
}

/// Makes values keep what a buffer promises.
fn promise(
    values: &mut [f64],
    v: &Buffer,
    get: &dyn Fn(&str) -> Option<i64>,
    random: &mut Random,
    before: &Memory,
) -> Option<()> {
    let range = v.facts.iter().find_map(|f| match f {
        Fact::Range(lo, hi) => Some((lo.eval(get), hi.eval(get))),
        _ => None,
    });
    let (lo, hi) = match range {
        // What a type does not hold is in no range.
        Some((lo, hi)) => match v.dtype {
            DType::Int { signed, bits } if bits < 63 => {
                let half = 1i64 << (bits - u8::from(signed));
                (lo?.max(if signed { -half } else { 0 }), hi?.min(half))
            }
            _ => (lo?, hi?),
        },
        None => (0, 8 + values.len() as i64),
    };
    if range.is_some() {
        if lo >= hi && !values.is_empty() {
            return None;
        }
        values.iter_mut().for_each(|x| *x = random.range(lo, hi - 1) as f64);
    }
    for f in &v.facts {
        match f {
            Fact::Injective => {
                let mut all: Vec<i64> = (lo..hi.min(lo + 4 * MOST_ELEMENTS)).collect();
                for x in values.iter_mut() {
                    if all.is_empty() {
                        return None;
                    }
                    *x = all.swap_remove(random.below(all.len())) as f64;
                }
            }
            Fact::Ascending(offsets) => {
                let o = before.params.get(offsets)?;
                let mut last = None;
                for (i, x) in values.iter_mut().enumerate() {
                    let begins = (0..o.len() as i64 / 4).any(|j| read_bits(o, 32 * j, 32) == Some(i as u64));
                    let next = if begins { lo } else { last.map_or(lo, |l| l + 1) };
                    if next >= hi {
                        return None;
                    }
                    *x = next as f64;
                    last = Some(next);
                }
            }
            _ => {}
        }
    }
    if v.facts.contains(&Fact::Monotone) {
        values.sort_by(f64::total_cmp);
    }
    Some(())
}

/// The kernel as its caller must see it: shapes go on to what it declares of padding.
fn padded(k: &Kernel, get: &dyn Fn(&str) -> Option<i64>) -> Option<Kernel> {
    let mut k = k.clone();
    for v in k.params.iter_mut().flat_map(|p| &mut p.views) {
        for d in 0..v.shape.len() {
            let n = v.shape[d].eval(get)?;
            v.shape[d] = (usize::try_from(n).ok()?.next_multiple_of(v.padding(d) as usize) as i64).into();
        }
    }
    Some(k)
}

/// What a run left, and what was seen of it.
pub(crate) struct Ran {
    pub memory: Memory,
    pub seen: Seen,
}

/// Runs a program on arguments.
pub(crate) fn run(k: &Kernel, sizes: &Sizes, arguments: &Memory, work: u64) -> Result<Ran, IrError> {
    let mut memory = arguments.clone();
    let k = padded(k, &size(sizes)).ok_or_else(|| IrError::run(&*k.name, "a shape has no value"))?;
    let mut seen = interpret_watched(&k, &mut memory, work)?;
    if seen.meet.is_some() || seen.parallel.is_some() {
        // What asks for memory early reads nothing.
        let without = map_stmts(&k.body, &mut |s| match &s {
            Stmt::Intrinsic(n, _) if is_prefetch(n) => vec![],
            _ => vec![s],
        });
        let again = interpret_watched(&Kernel { body: without, ..k }, &mut arguments.clone(), work)?;
        (seen.meet, seen.parallel) = (again.meet, again.parallel);
    }
    Ok(Ran { memory, seen })
}

/// How results may differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Likeness {
    /// In nothing, bit by bit (any NaN is like any other).
    Bits,
    /// In the sign of zeros.
    Values,
    /// A little, where the first is finite.
    Near,
}

/// How the results of two runs may be compared, when a step of this tag is between them; not at all where rounding may differ.
pub(crate) fn likeness(tag: Tag, a: &Seen, b: &Seen) -> Option<Likeness> {
    match tag {
        Tag::Bitwise => Some(Likeness::Bits),
        Tag::Reassociates => (a.exact && b.exact).then_some(Likeness::Values),
        Tag::Approximates => Some(Likeness::Near),
    }
}

/// Compares what two runs left in the parameters; says where they differ.
pub(crate) fn compare(
    k: &Kernel,
    sizes: &Sizes,
    a: &Memory,
    b: &Memory,
    like: Likeness,
) -> Result<(), String> {
    for p in k.params.iter().filter(|p| p.access != Access::In) {
        let Some(n) = bytes(p, sizes) else { continue };
        let (x, y) = (&a.params[&p.name], &b.params[&p.name]);
        // Bits of the last byte that are behind the end are nobody's.
        let over =
            p.bits.eval(&|d| sizes.iter().find(|(n, _)| &**n == d).map(|(_, v)| *v)).map_or(0, |b| b % 8);
        let last = |m: &[u8]| if over == 0 { m[n - 1] } else { m[n - 1] & ((1 << over) - 1) };
        if n == 0 || (x[..n - 1] == y[..n - 1] && last(x) == last(y)) {
            continue;
        }
        let v = &p.views[0];
        let plain = p.views.len() == 1 && lathe_ir::Layout::dense(v.dtype, &v.shape) == v.layout;
        if !plain || !v.dtype.is_float() {
            let at = (0..n).find(|i| x[*i] != y[*i]).unwrap_or(0);
            let at = if plain {
                format!("element {}", at as i64 * 8 / v.dtype.bits())
            } else {
                format!("byte {at}")
            };
            return Err(format!("'{}' differs at {at}", p.name));
        }
        let (width, count) = (v.dtype.bits(), n as i64 * 8 / v.dtype.bits());
        let element = |m: &[u8], i: i64| {
            let bits = read_bits(m, i * width, width).unwrap_or(0);
            (bits, lathe_ir::decode_bits(v.dtype, bits))
        };
        let scale = (0..count).map(|i| element(x, i).1.abs()).filter(|v| v.is_finite()).fold(1e-3, f64::max);
        for i in 0..count {
            let ((p_bits, s), (q_bits, t)) = (element(x, i), element(y, i));
            let same = match like {
                Likeness::Bits => p_bits == q_bits || s.is_nan() && t.is_nan(),
                Likeness::Values => s == t || s.is_nan() && t.is_nan(),
                Likeness::Near => s == t || !s.is_finite() || (s - t).abs() <= 1e-3 * scale,
            };
            if !same {
                return Err(format!("'{}' differs at element {i}: {s} and {t}", p.name));
            }
        }
    }
    Ok(())
}
