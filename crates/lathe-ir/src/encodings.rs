//! The table of encodings: a row for each way of storing a tensor of floats.
//!
//! Names with a `.tile16` suffix keep 16 rows side by side, so that one vector register holds the same column of 16
//! rows; the others are the layouts of model files (the GGUF specification) and of run-time values.

use crate::encoding::{Decode, Encoding, Field, Layout, Term};
use crate::{DType, Int, Name};
use lathe_symbolic::Bounds;

const F16: DType = DType::F16;

fn field(name: &str, dtype: DType, group: i64, layout: Layout) -> Field {
    Field { name: name.into(), dtype, group, layout }
}

/// Which quantized formats exist: (name, bits of a code, bits of a block in a file, codes' offset, has a minimum).
struct Blocks {
    name: &'static str,
    code: DType,
    zero: i64,
    minimum: bool,
}

/// Elements of a block of the quantized formats.
pub const GROUP: i64 = 32;

const BLOCKS: &[Blocks] = &[
    Blocks { name: "q4_0", code: DType::uint(4), zero: 8, minimum: false },
    Blocks { name: "q4_1", code: DType::uint(4), zero: 0, minimum: true },
    Blocks { name: "q8_0", code: DType::I8, zero: 0, minimum: false },
];

/// The encoding of this name for a tensor of this shape, when there is one and the shape suits it.
pub fn encoding(name: &str, shape: &[Int]) -> Option<Encoding> {
    let (base, tile) = match name.strip_suffix(".tile16") {
        Some(b) => (b, true),
        None => (name, false),
    };
    let rank = shape.len();
    let k = shape.last()?.clone();
    // Leading axes (experts) are folded in front of the rows: each is one matrix after the other.
    let rows = rank.checked_sub(2).map(|r| shape[r].clone()).unwrap_or(1.into());
    let b = Bounds::new();
    let nrows = if tile { rows.ceil_div(16, &b) } else { rows.clone() };
    let outer = shape.iter().take(rank.saturating_sub(2)).fold(Int::from(1), |p, d| p * d.clone());
    let lead = |matrix: &Int| -> Vec<Term> {
        let mut stride = matrix.clone();
        let mut terms = vec![];
        for d in (0..rank.saturating_sub(2)).rev() {
            terms.push(Term { dim: d, div: 1, modulo: None, stride: stride.clone() });
            stride = stride * shape[d].clone();
        }
        terms
    };
    let term =
        |dim: usize, div: i64, m: i64, stride: Int| Term { dim, div, modulo: (m != 0).then_some(m), stride };
    let (row, col) = (rank.wrapping_sub(2), rank - 1);
    let layout = |offset: i64, matrix: &Int, mut terms: Vec<Term>| {
        terms.retain(|t| t.dim < rank);
        let mut all = lead(matrix);
        all.extend(terms);
        Layout { offset: offset.into(), terms: all }
    };

    if let Some(q) = BLOCKS.iter().find(|q| q.name == base) {
        let blocks = k.div(GROUP, &b);
        if k.as_const().is_some_and(|k| k % GROUP != 0) {
            return None;
        }
        let w = q.code.bits();
        let decode = match (q.minimum, tile && q.code == DType::I8) {
            (true, _) => Decode::Affine,
            (false, true) => Decode::Scaled { zero: 128 },
            (false, false) => Decode::Scaled { zero: q.zero },
        };
        let (codes, heads) = (GROUP * w, if q.minimum { 32 } else { 16 });
        if !tile {
            // A block: scale, perhaps minimum, then codes; 4-bit codes k and k+16 share a byte.
            let block = codes + heads;
            let matrix = rows.clone() * blocks.clone() * block;
            let row_stride = blocks.clone() * block;
            let head = |off| {
                layout(off, &matrix, vec![term(row, 1, 0, row_stride.clone()), term(col, 1, 0, block.into())])
            };
            let mut terms = vec![term(row, 1, 0, row_stride.clone()), term(col, GROUP, 0, block.into())];
            if w == 4 {
                terms.extend([term(col, 16, 2, 4.into()), term(col, 1, 16, 8.into())]);
            } else {
                terms.push(term(col, 1, GROUP, w.into()));
            }
            let mut fields =
                vec![field("q", q.code, 1, layout(heads, &matrix, terms)), field("d", F16, GROUP, head(0))];
            if q.minimum {
                fields.push(field("m", F16, GROUP, head(16)));
            }
            return Some(Encoding { name: name.into(), fields, decode, bits: outer * matrix });
        }
        // 16 rows of a block: codes in groups of four columns (a 32-bit lane each row), then scales, then minima.
        let block = 16 * (codes + heads);
        let matrix = nrows * blocks.clone() * block;
        let row_stride = blocks * block;
        let mut terms = vec![
            term(row, 16, 0, row_stride.clone()),
            term(col, GROUP, 0, block.into()),
            term(row, 1, 16, 32.into()),
            term(col, 1, 4, 8.into()),
        ];
        let code = if w == 4 {
            terms.extend([term(col, 4, 4, 512.into()), term(col, 16, 2, 4.into())]);
            DType::uint(4)
        } else {
            terms.push(term(col, 4, 8, 512.into()));
            DType::U8
        };
        let head = |off| {
            layout(
                off,
                &matrix,
                vec![
                    term(row, 16, 0, row_stride.clone()),
                    term(col, 1, 0, block.into()),
                    term(row, 1, 16, 16.into()),
                ],
            )
        };
        let mut fields =
            vec![field("q", code, 1, layout(0, &matrix, terms)), field("d", F16, GROUP, head(16 * codes))];
        if q.minimum {
            fields.push(field("m", F16, GROUP, head(16 * codes + 256)));
        }
        return Some(Encoding { name: name.into(), fields, decode, bits: outer * matrix });
    }

    let plain = |f: Field, bits: Int| {
        Some(Encoding { name: name.into(), fields: vec![f], decode: Decode::Plain, bits })
    };
    match (DType::parse(base), base) {
        (Some(t), _) if tile => {
            let matrix = nrows * k.clone() * (16 * t.bits());
            let terms = vec![
                term(row, 16, 0, k * (16 * t.bits())),
                term(col, 1, 0, (16 * t.bits()).into()),
                term(row, 1, 16, t.bits().into()),
            ];
            plain(field("q", t, 1, layout(0, &matrix, terms)), outer * matrix)
        }
        (Some(t), _) => {
            let bits = shape.iter().fold(Int::from(t.bits()), |p, d| p * d.clone());
            plain(field("q", t, 1, Layout::dense(t, shape)), bits)
        }
        // Activations: a row of 8-bit codes, then a scale and `scale * sum of codes` for every 32 of them.
        (None, "a8") => {
            let blocks = k.div(GROUP, &b);
            let stride = (k.clone() * 8 + blocks.clone() * 64).ceil_div(512, &b) * 512;
            let row_terms = |stride_k: i64| {
                let mut terms = lead(&(rows.clone() * stride.clone()));
                if rank >= 2 {
                    terms.push(term(row, 1, 0, stride.clone()));
                }
                terms.push(term(col, 1, 0, stride_k.into()));
                terms
            };
            let at = |offset: Int, terms| Layout { offset, terms };
            let fields = vec![
                field("q", DType::I8, 1, at(0.into(), row_terms(8))),
                field("d", DType::F32, GROUP, at(k.clone() * 8, row_terms(32))),
                field("s", DType::F32, GROUP, at(k.clone() * 8 + blocks * 32, row_terms(32))),
            ];
            let bits = outer * rows * stride;
            Some(Encoding { name: name.into(), fields, decode: Decode::Scaled { zero: 0 }, bits })
        }
        // Pages of 16 positions of [position, head, component]: keys component-major, values position-major.
        (None, "keys16" | "values16") if rank == 3 => {
            let (h, d, t) = (shape[1].clone(), shape[2].clone(), 32);
            let head = d.clone() * (16 * t);
            let (pos, comp) =
                if base == "keys16" { (t.into(), Int::from(16 * t)) } else { (d * t, t.into()) };
            let terms = vec![
                term(0, 16, 0, h.clone() * head.clone()),
                term(1, 1, 0, head.clone()),
                term(0, 1, 16, pos),
                term(2, 1, 0, comp),
            ];
            let bits = shape[0].ceil_div(16, &b) * h * head;
            plain(field("q", DType::F32, 1, Layout { offset: 0.into(), terms }), bits)
        }
        _ => None,
    }
}

/// The packed form of an encoding of matrices, when there is one.
pub fn packed(name: &str) -> Option<Name> {
    let known = BLOCKS.iter().any(|q| q.name == name) || matches!(name, "f32" | "f16" | "bf16");
    known.then(|| format!("{name}.tile16").into())
}
