//! The encodings by name: dense types, block formats of model files (`blocks.rs`), activations, pages of the cache.
//!
//! Names with a `.tile16` suffix keep 16 rows side by side, so that one vector register holds the same column of 16
//! rows; in `.tile16s` codes that can be negative stay so, and in `.tile16p` two neighbouring columns of a row of halves lie beside
//! each other. With `.filters16` or `.filters8`, elements of so many channels, the first
//! axis, lie side by side.

use crate::blocks::Format;
use crate::encoding::{Coded, Decode, Encoding, Field, Layout, Term, row_major};
use crate::{DType, Int, Name};
use lathe_symbolic::Bounds;

/// Columns that share a scale of activations, at least.
pub const GROUP: i64 = 32;

/// The most columns that share a scale of activations: sums of so many products of bytes are exact in 32 bits.
const MOST: i64 = 1 << 16;

/// A tensor as matrices: leading axes (experts) are folded in front of the rows, each is one matrix after the other.
pub(crate) struct Matrix<'a> {
    shape: &'a [Int],
    /// Rows of one matrix.
    pub rows: Int,
    /// Its columns.
    pub columns: Int,
    /// Nothing is known of dimensions.
    pub bounds: Bounds,
}

impl<'a> Matrix<'a> {
    fn of(shape: &'a [Int]) -> Option<Matrix<'a>> {
        let rows = shape.len().checked_sub(2).map_or(1.into(), |r| shape[r].clone());
        Some(Matrix { shape, rows, columns: shape.last()?.clone(), bounds: Bounds::new() })
    }

    fn leading(&self) -> usize {
        self.shape.len().saturating_sub(2)
    }

    /// How many matrices there are.
    pub fn outer(&self) -> Int {
        self.shape[..self.leading()].iter().fold(Int::from(1), |p, d| p * d.clone())
    }

    /// A digit of the row's number; modulus 0 means none.
    pub fn row(&self, div: i64, modulus: i64, stride: Int) -> Term {
        term(self.shape.len().wrapping_sub(2), div, modulus, stride)
    }

    /// A digit of the column's.
    pub fn column(&self, div: i64, modulus: i64, stride: impl Into<Int>) -> Term {
        term(self.shape.len() - 1, div, modulus, stride.into())
    }

    /// These digits in a matrix of so many bits; those of axes that are not there are left out.
    pub fn layout(&self, matrix: &Int, terms: Vec<Term>) -> Layout {
        let mut stride = matrix.clone();
        let mut all = vec![];
        for d in (0..self.leading()).rev() {
            all.push(term(d, 1, 0, stride.clone()));
            stride = stride * self.shape[d].clone();
        }
        all.extend(terms.into_iter().filter(|t| t.dim < self.shape.len()));
        Layout { offset: 0.into(), terms: all }
    }
}

fn term(dim: usize, div: i64, modulus: i64, stride: Int) -> Term {
    Term { dim, div, modulo: (modulus != 0).then_some(modulus), stride }
}

fn field(name: &str, dtype: DType, group: i64, layout: Layout) -> Field {
    Field { name: name.into(), dtype, group, layout }
}

/// The encoding of this name for a tensor of this shape, when there is one and the shape suits it.
pub fn encoding(name: &str, shape: &[Int]) -> Option<Encoding> {
    let (base, tile, signed) = match (name.strip_suffix(".tile16"), name.strip_suffix(".tile16s")) {
        (Some(b), _) => (b, true, false),
        (_, Some(b)) => (b, true, true),
        _ => (name, false, false),
    };
    for lanes in [16, 8] {
        if let Some(t) = name.strip_suffix(&format!(".filters{lanes}")).and_then(DType::parse) {
            return filters(name, t, lanes, shape);
        }
    }
    let m = Matrix::of(shape)?;
    if let Some(t) = name.strip_suffix(".tile16p").and_then(DType::parse) {
        return pairs(name, t, &m);
    }
    if let Some(f) = Format::named(base) {
        return if tile { f.tiled(name, &m, signed) } else { f.stored(name, &m) };
    }
    if tile && base == "i8" {
        return bytes(name, &m, signed);
    }
    if let Some(t) = DType::parse(base) {
        return (!signed).then(|| dense(name, t, tile, shape, &m));
    }
    if let Some(a) = Activations::named(base) {
        return a.stored(name, &m);
    }
    pages(name, shape)
}

fn plain(name: &str, t: DType, layout: Layout, bits: Int) -> Encoding {
    Encoding { name: name.into(), fields: vec![field("q", t, 1, layout)], decode: Decode::Plain, bits }
}

fn dense(name: &str, t: DType, tile: bool, shape: &[Int], m: &Matrix) -> Encoding {
    if !tile {
        let bits = shape.iter().fold(Int::from(t.bits()), |p, d| p * d.clone());
        return plain(name, t, Layout::dense(t, shape), bits);
    }
    let row = m.columns.clone() * (16 * t.bits());
    let matrix = m.rows.ceil_div(16, &m.bounds) * row.clone();
    let terms = vec![m.row(16, 0, row), m.column(1, 0, 16 * t.bits()), m.row(1, 16, t.bits().into())];
    plain(name, t, m.layout(&matrix, terms), m.outer() * matrix)
}

/// Floats of 16 bits of 16 rows, two neighbouring columns of a row in a lane of 32 bits.
fn pairs(name: &str, t: DType, m: &Matrix) -> Option<Encoding> {
    if t.bits() != 16 || m.columns.as_const().is_none_or(|k| k % 2 != 0) {
        return None;
    }
    let row = m.columns.clone() * (16 * t.bits());
    let matrix = m.rows.ceil_div(16, &m.bounds) * row.clone();
    let terms =
        vec![m.row(16, 0, row), m.column(2, 0, 512), m.row(1, 16, 32.into()), m.column(1, 2, t.bits())];
    Some(plain(name, t, m.layout(&matrix, terms), m.outer() * matrix))
}

/// Signed bytes of 16 rows, four neighbouring columns of a row in a lane of 32 bits: codes without a scale, plus 128 unless they
/// keep their sign.
fn bytes(name: &str, m: &Matrix, signed: bool) -> Option<Encoding> {
    if m.columns.as_const().is_none_or(|k| k % 4 != 0) {
        return None;
    }
    let (t, zero) = if signed { (DType::I8, 0) } else { (DType::U8, 128) };
    let row = m.columns.clone() * (16 * t.bits());
    let matrix = m.rows.ceil_div(16, &m.bounds) * row.clone();
    let terms =
        vec![m.row(16, 0, row), m.column(4, 0, 512), m.row(1, 16, 32.into()), m.column(1, 4, t.bits())];
    let decode = Decode::Coded(Coded { zero, scale_zero: 0, levels: None });
    let codes = field("q", t, 1, m.layout(&matrix, terms));
    Some(Encoding { name: name.into(), fields: vec![codes], decode, bits: m.outer() * matrix })
}

/// All elements of so many channels, the first axis, element by element.
fn filters(name: &str, t: DType, lanes: i64, shape: &[Int]) -> Option<Encoding> {
    let (channels, rest) = shape.split_first()?;
    let strides = row_major(rest);
    let size = rest.iter().fold(Int::from(lanes * t.bits()), |p, d| p * d.clone());
    let mut terms = vec![term(0, lanes, 0, size.clone())];
    terms.extend(strides.into_iter().enumerate().map(|(d, s)| term(d + 1, 1, 0, s * (lanes * t.bits()))));
    terms.push(term(0, 1, lanes, t.bits().into()));
    let bits = channels.ceil_div(lanes, &Bounds::new()) * size;
    Some(plain(name, t, Layout { offset: 0.into(), terms }, bits))
}

/// What activations that multiply integer-coded weights are stored as: 8-bit codes with a scale for each block of the
/// weights, and what each group of the weights needs of the sum of its activations' codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activations {
    /// Columns that share a scale.
    pub block: i64,
    /// Columns whose codes are summed.
    pub group: i64,
    /// The code of 0 among the weights, where they have no minima: the sum is an integer then, times `-zero`.
    pub zero: Option<i64>,
}

impl Activations {
    /// The fields of the sum of a group's codes where several share a scale: `DIGIT * high + low`, `low` from 0.
    pub const DIGITS: [&str; 2] = ["high", "low"];
    /// How many of the low digit are one of the high one. The sum of 32 codes fits into two bytes so.
    pub const DIGIT: i64 = 64;

    /// The activations that a name means: `a8` (blocks of 32), `a8b.BLOCK` (blocks of so many, or whole rows) and `a8k.GROUP` (groups
    /// in blocks of 256), for weights with minima; `.zZERO` behind it, for those without.
    pub fn named(name: &str) -> Option<Activations> {
        let (base, zero) = match name.split_once(".z") {
            Some((base, zero)) => (base, Some(zero.parse().ok().filter(|z| (0..=128).contains(z))?)),
            None => (name, None),
        };
        let (block, group) = match base {
            "a8" => (GROUP, GROUP),
            "a8k.32" => (256, 32),
            "a8k.16" => (256, 16),
            _ => {
                let block = base.strip_prefix("a8b.")?.parse().ok()?;
                (1..=MOST).contains(&block).then_some((block, block))?
            }
        };
        Some(Activations { block, group, zero })
    }

    /// Those that multiply weights of an encoding, in rows of so many columns; none where those have no integer codes. Where
    /// weights have no scale of their own, a row of activations has one.
    pub fn of(weights: &Encoding, columns: i64) -> Option<Activations> {
        let minima = ["m", "e"].iter().any(|f| weights.field(f).is_some());
        let zero = weights.coded()?.zero;
        if weights.field("d").is_none() {
            let whole = (1..=MOST).contains(&columns);
            return whole.then_some(Activations { block: columns, group: columns, zero: Some(zero) });
        }
        let (block, group) = (weights.block(), weights.group());
        let suits = matches!((block, group), (GROUP, GROUP) | (64, 64) | (256, 16 | 32));
        suits.then_some(Activations { block, group, zero: (!minima).then_some(zero) })
    }

    /// The name that means them.
    pub fn name(&self) -> Name {
        let base = match (self.block, self.group) {
            (GROUP, GROUP) => "a8".to_string(),
            (block, group) if block == group => format!("a8b.{block}"),
            (_, group) => format!("a8k.{group}"),
        };
        match self.zero {
            Some(zero) => format!("{base}.z{zero}").into(),
            None => base.into(),
        }
    }

    /// A row of codes, then the scales, then what is kept of the sums: `sum`, times the scale where each has its own; the digits of
    /// the integer where several share one; or `bias`, the integer `-zero * sum`, where that is not 0.
    fn stored(&self, name: &str, m: &Matrix) -> Option<Encoding> {
        let k = m.columns.clone();
        if k.as_const().is_some_and(|k| k % self.block != 0) {
            return None;
        }
        let (scales, sums) = (k.div(self.block, &m.bounds), k.div(self.group, &m.bounds));
        let kept: &[(&str, DType)] = match self.zero {
            None if self.group == self.block => &[("sum", DType::F32)],
            None => &Self::DIGITS.map(|digit| (digit, DType::I8)),
            Some(0) => &[],
            Some(_) => &[("bias", DType::I32)],
        };
        let bits: i64 = kept.iter().map(|(_, t)| t.bits()).sum();
        let row = (k.clone() * 8 + scales.clone() * 32 + sums.clone() * bits).ceil_div(512, &m.bounds) * 512;
        let matrix = m.rows.clone() * row.clone();
        let at = |name, dtype, group, offset: Int, stride: i64| {
            let terms = vec![m.row(1, 0, row.clone()), m.column(1, 0, stride)];
            field(name, dtype, group, Layout { offset, ..m.layout(&matrix, terms) })
        };
        let mut fields =
            vec![at("q", DType::I8, 1, 0.into(), 8), at("d", DType::F32, self.block, k.clone() * 8, 32)];
        let mut offset = k * 8 + scales * 32;
        for (name, dtype) in kept {
            fields.push(at(name, *dtype, self.group, offset.clone(), dtype.bits()));
            offset = offset + sums.clone() * dtype.bits();
        }
        let coded = Coded { zero: 0, scale_zero: 0, levels: None };
        Some(Encoding { name: name.into(), fields, decode: Decode::Coded(coded), bits: m.outer() * matrix })
    }
}

/// Pages of 16 positions of [position, head, component]: `keys16` component-major, `values16` position-major.
///
/// Elements are f32, or what is said behind the name: `.f16`; `.bf16`, where the two neighbours that a sum takes one after the other
/// (components of a key, positions of a value) lie beside each other in a word of 32 bits; or codes `.q8` and `.q4` with a scale of 16 bits for each position's 32
/// components, behind the codes of a page's head. Two codes of 4 bits that are 16 components apart share a byte.
fn pages(name: &str, shape: &[Int]) -> Option<Encoding> {
    let (base, elements) = name.split_once('.').unwrap_or((name, "f32"));
    let keys = base == "keys16";
    let (t, zero) = match elements {
        "f32" => (DType::F32, None),
        "f16" => (DType::F16, None),
        "bf16" => (DType::BF16, None),
        "q8" => (DType::I8, Some(0)),
        "q4" => (DType::uint(4), Some(8)),
        _ => return None,
    };
    let [positions, heads, components] = shape else { return None };
    if !keys && base != "values16" {
        return None;
    }
    if zero.is_some() && components.as_const().is_none_or(|d| d % GROUP != 0) {
        return None;
    }
    let words = t == DType::BF16;
    if words && keys && components.as_const().is_none_or(|d| d % 2 != 0) {
        return None;
    }
    let codes = components.clone() * (16 * t.bits());
    let groups = components.div(GROUP, &Bounds::new());
    let head = if zero.is_some() { codes.clone() + groups * (16 * DType::F16.bits()) } else { codes.clone() };
    let page = heads.clone() * head.clone();
    let place = |within: Vec<Term>| {
        [vec![term(0, 16, 0, page.clone()), term(1, 1, 0, head.clone())], within].concat()
    };
    // The distance of components a whole unit apart: a byte of two codes, or an element.
    let unit = t.bits().max(8);
    let (position, component) = if keys {
        (Int::from(unit), Int::from(16 * unit))
    } else {
        (components.clone() * t.bits(), unit.into())
    };
    // A number in pairs: which of the two, and which pair.
    let pairs = |dim, values, pair: Int| vec![term(dim, 1, 2, t.bits().into()), term(dim, 2, values, pair)];
    let positions_within = match words && !keys {
        true => pairs(0, 8, position * 2),
        false => vec![term(0, 1, 16, if words { position * 2 } else { position })],
    };
    let components = match t.bits() {
        4 => vec![
            term(2, 1, 16, component.clone()),
            term(2, 16, 2, 4.into()),
            term(2, GROUP, 0, component * 16),
        ],
        _ if words && keys => pairs(2, 0, component * 2),
        _ => vec![term(2, 1, 0, if words { component * 2 } else { component })],
    };
    let at = Layout { offset: 0.into(), terms: place([positions_within, components].concat()) };
    let bits = positions.ceil_div(16, &Bounds::new()) * page.clone();
    let Some(zero) = zero else { return Some(plain(name, t, at, bits)) };
    let scale = DType::F16.bits();
    let terms = place(vec![term(0, 1, 16, scale.into()), term(2, 1, 0, (16 * scale).into())]);
    let scales = field("d", DType::F16, GROUP, Layout { offset: codes, terms });
    let decode = Decode::Coded(Coded { zero, scale_zero: 0, levels: None });
    Some(Encoding { name: name.into(), fields: vec![field("q", t, 1, at), scales], decode, bits })
}

/// The packed form of an encoding of matrices, when there is one; `signed` keeps negative codes as they are.
pub fn packed(name: &str, signed: bool) -> Option<Name> {
    match Format::named(name) {
        Some(f) if signed && f.signed() => Some(format!("{name}.tile16s").into()),
        Some(_) => Some(format!("{name}.tile16").into()),
        None if name == "i8" && signed => Some("i8.tile16s".into()),
        None => matches!(name, "f32" | "f16" | "bf16" | "i8").then(|| format!("{name}.tile16").into()),
    }
}

/// The block formats: name, columns of a block, and its bytes in a file.
pub fn formats() -> impl Iterator<Item = (&'static str, i64, i64)> {
    crate::blocks::FORMATS.iter().map(|f| (f.name, f.block, f.bits / 8))
}
