//! The table of block formats: quantized weights as model files store them (the GGUF specification), a row each, and the
//! layout of the same fields for vectors, 16 rows side by side.
//!
//! Fields: `q` low bits of the codes, `h` their high bits; `d` scales; `s` integer factors of the scales, `t` their high
//! bits; `m` minima; `e` scales of minima, `n` integer factors of those, `o` their high bits. What they mean together says
//! [`Coded`].

use crate::encoding::{Coded, Decode, Encoding, Field, Layout};
use crate::encodings::Matrix;
use crate::{DType, Int};

/// A stored component of a block: `group` columns share one; in a block of bits, `offset` plus a digit of its place for each
/// row `(divisor, modulus, stride)`.
struct Piece {
    name: &'static str,
    dtype: DType,
    group: i64,
    offset: i64,
    digits: &'static [(i64, i64, i64)],
}

/// A block format.
pub(crate) struct Format {
    /// Its name, as in GGUF.
    pub name: &'static str,
    /// Columns of a block.
    pub block: i64,
    /// Bits of a block in a file.
    pub bits: i64,
    pieces: &'static [Piece],
    coded: Coded,
}

const fn piece(
    name: &'static str,
    dtype: DType,
    group: i64,
    offset: i64,
    digits: &'static [(i64, i64, i64)],
) -> Piece {
    Piece { name, dtype, group, offset, digits }
}

const F16: DType = DType::F16;
const U1: DType = DType::uint(1);
const U2: DType = DType::uint(2);
const U4: DType = DType::uint(4);

/// 16 bytes; the low halves are columns 0 to 15 of a block of 32, the high ones columns 16 to 31.
const HALVES: &[(i64, i64, i64)] = &[(16, 2, 4), (1, 16, 8)];
/// 32 bytes for each 64 columns, the low halves first.
const PAIRS: &[(i64, i64, i64)] = &[(64, 4, 256), (32, 2, 4), (1, 32, 8)];
/// 32 bytes for each 128 columns, two bits of each 32.
const QUARTERS: &[(i64, i64, i64)] = &[(128, 2, 256), (32, 4, 2), (1, 32, 8)];
/// 32 bytes, one bit of each 32 columns.
const BITS: &[(i64, i64, i64)] = &[(32, 8, 1), (1, 32, 8)];
/// Scales and minima of 6 bits each, eight of both in 12 bytes: low bits (4) and high bits (2).
const LOW: &[(i64, i64, i64)] = &[(4, 2, 64), (1, 4, 8)];
const LOW_MINIMA: &[(i64, i64, i64)] = &[(4, 2, 36), (1, 4, 8)];
const HIGH: &[(i64, i64, i64)] = &[(4, 2, 2), (1, 4, 8)];

/// The levels of IQ4_NL and IQ4_XS (from the format's definition), and the same plus 128.
const IQ4: &[i64] = &[-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
const IQ4_BIASED: &[i64] = &[1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

/// The levels of NF4 (Dettmers et al. 2023), quantiles of a normal distribution in [-1, 1], in parts of 127; and the same plus 128.
const NF4: &[i64] = &[-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127];
const NF4_BIASED: &[i64] = &[1, 40, 61, 78, 92, 105, 116, 128, 138, 148, 159, 171, 184, 199, 220, 255];

const fn coded(zero: i64, scale_zero: i64) -> Coded {
    Coded { zero, scale_zero, levels: None }
}

pub(crate) const FORMATS: &[Format] = &[
    Format {
        name: "q4_0",
        block: 32,
        bits: 144,
        pieces: &[piece("q", U4, 1, 16, HALVES), piece("d", F16, 32, 0, &[])],
        coded: coded(8, 0),
    },
    Format {
        name: "q4_1",
        block: 32,
        bits: 160,
        pieces: &[piece("q", U4, 1, 32, HALVES), piece("d", F16, 32, 0, &[]), piece("m", F16, 32, 16, &[])],
        coded: coded(0, 0),
    },
    Format {
        name: "q5_0",
        block: 32,
        bits: 176,
        pieces: &[
            piece("q", U4, 1, 48, HALVES),
            piece("h", U1, 1, 16, &[(1, 32, 1)]),
            piece("d", F16, 32, 0, &[]),
        ],
        coded: coded(16, 0),
    },
    Format {
        name: "q5_1",
        block: 32,
        bits: 192,
        pieces: &[
            piece("q", U4, 1, 64, HALVES),
            piece("h", U1, 1, 32, &[(1, 32, 1)]),
            piece("d", F16, 32, 0, &[]),
            piece("m", F16, 32, 16, &[]),
        ],
        coded: coded(0, 0),
    },
    Format {
        name: "q8_0",
        block: 32,
        bits: 272,
        pieces: &[piece("q", DType::I8, 1, 16, &[(1, 32, 8)]), piece("d", F16, 32, 0, &[])],
        coded: coded(0, 0),
    },
    Format {
        name: "q2_k",
        block: 256,
        bits: 672,
        pieces: &[
            piece("q", U2, 1, 128, QUARTERS),
            piece("s", U4, 16, 0, &[(1, 16, 8)]),
            piece("n", U4, 16, 4, &[(1, 16, 8)]),
            piece("d", F16, 256, 640, &[]),
            piece("e", F16, 256, 656, &[]),
        ],
        coded: coded(0, 0),
    },
    Format {
        name: "q3_k",
        block: 256,
        bits: 880,
        pieces: &[
            piece("q", U2, 1, 256, QUARTERS),
            piece("h", U1, 1, 0, BITS),
            piece("s", U4, 16, 768, &[(8, 2, 4), (1, 8, 8)]),
            piece("t", U2, 16, 832, &[(4, 4, 2), (1, 4, 8)]),
            piece("d", F16, 256, 864, &[]),
        ],
        coded: coded(4, 32),
    },
    Format {
        name: "q4_k",
        block: 256,
        bits: 1152,
        pieces: &[
            piece("q", U4, 1, 128, PAIRS),
            piece("s", U4, 32, 32, LOW),
            piece("t", U2, 32, 36, HIGH),
            piece("n", U4, 32, 64, LOW_MINIMA),
            piece("o", U2, 32, 68, HIGH),
            piece("d", F16, 256, 0, &[]),
            piece("e", F16, 256, 16, &[]),
        ],
        coded: coded(0, 0),
    },
    Format {
        name: "q5_k",
        block: 256,
        bits: 1408,
        pieces: &[
            piece("q", U4, 1, 384, PAIRS),
            piece("h", U1, 1, 128, BITS),
            piece("s", U4, 32, 32, LOW),
            piece("t", U2, 32, 36, HIGH),
            piece("n", U4, 32, 64, LOW_MINIMA),
            piece("o", U2, 32, 68, HIGH),
            piece("d", F16, 256, 0, &[]),
            piece("e", F16, 256, 16, &[]),
        ],
        coded: coded(0, 0),
    },
    Format {
        name: "q6_k",
        block: 256,
        bits: 1680,
        pieces: &[
            piece("q", U4, 1, 0, &[(128, 2, 512), (64, 2, 4), (1, 64, 8)]),
            piece("h", U2, 1, 1024, QUARTERS),
            piece("s", DType::I8, 16, 1536, &[(1, 16, 8)]),
            piece("d", F16, 256, 1664, &[]),
        ],
        coded: coded(32, 0),
    },
    Format {
        name: "iq4_nl",
        block: 32,
        bits: 144,
        pieces: &[piece("q", U4, 1, 16, HALVES), piece("d", F16, 32, 0, &[])],
        coded: Coded { zero: 0, scale_zero: 0, levels: Some(IQ4) },
    },
    Format {
        name: "iq4_xs",
        block: 256,
        bits: 1088,
        pieces: &[
            piece("q", U4, 1, 64, &[(32, 8, 128), (16, 2, 4), (1, 16, 8)]),
            piece("s", U4, 32, 32, &[(1, 8, 4)]),
            piece("t", U2, 32, 16, &[(1, 8, 2)]),
            piece("d", F16, 256, 0, &[]),
        ],
        coded: Coded { zero: 0, scale_zero: 32, levels: Some(IQ4) },
    },
    Format {
        name: "nf4",
        block: 64,
        bits: 272,
        pieces: &[piece("q", U4, 1, 16, &[(32, 2, 4), (1, 32, 8)]), piece("d", F16, 64, 0, &[])],
        coded: Coded { zero: 0, scale_zero: 0, levels: Some(NF4) },
    },
];

/// Rows of a packed tile.
const TILE: i64 = 16;

/// Columns whose fields lie together in one.
const RUN: i64 = 32;

impl Format {
    /// The format of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Format> {
        FORMATS.iter().find(|f| f.name == name)
    }

    /// Whether codes or levels are negative, so that packed ones are stored plus 128 or as they are.
    pub(crate) fn signed(&self) -> bool {
        self.coded.levels.is_some() || self.pieces[0].dtype == DType::I8
    }

    /// The type of a field with the high bits that another one has of it.
    fn joined(&self, low: &str, high: &str) -> DType {
        let bits = |name| self.pieces.iter().find(|p| p.name == name).map_or(0, |p| p.dtype.bits());
        DType::uint((bits(low) + bits(high)) as u8)
    }

    fn suits(&self, m: &Matrix) -> bool {
        m.columns.as_const().is_none_or(|k| k % self.block == 0)
    }

    /// As it lies in a file.
    pub(crate) fn stored(&self, name: &str, m: &Matrix) -> Option<Encoding> {
        if !self.suits(m) {
            return None;
        }
        let row = m.columns.div(self.block, &m.bounds) * self.bits;
        let matrix = m.rows.clone() * row.clone();
        let field = |p: &Piece| {
            let mut terms = vec![m.row(1, 0, row.clone()), m.column(self.block / p.group, 0, self.bits)];
            terms.extend(p.digits.iter().map(|(div, modulus, s)| m.column(*div, *modulus, *s)));
            m.field(p.name, p.dtype, p.group, p.offset, &matrix, terms)
        };
        Some(Encoding {
            name: name.into(),
            fields: self.pieces.iter().map(field).collect(),
            decode: Decode::Coded(self.coded),
            bits: m.outer() * matrix,
        })
    }

    /// 16 rows side by side, in the order in which products read them, which is how memory is fastest: the factors of a block's groups,
    /// runs of 32 columns with each field of codes after the other (and what a block of 32 has besides), then minima and what the whole
    /// block has. A 32-bit lane holds codes of four neighbouring columns of a row, a byte each; codes of `w` bits share their bytes with
    /// those `4 * w` columns on. Integer factors are whole bytes, and those of minima lie in lanes of four neighbouring groups, as codes do.
    /// Codes and levels that are negative are stored plus 128 unless `signed`.
    pub(crate) fn tiled(&self, name: &str, m: &Matrix, signed: bool) -> Option<Encoding> {
        if !self.suits(m) {
            return None;
        }
        let mut coded = self.coded;
        let biased = self.signed() && !signed;
        if biased {
            coded.zero += 128;
            coded.levels = coded.levels.map(|levels| if levels == NF4 { NF4_BIASED } else { IQ4_BIASED });
        }
        let kept: Vec<(&Piece, DType)> = self
            .pieces
            .iter()
            .filter(|p| !matches!(p.name, "t" | "o"))
            .map(|p| match p.name {
                "q" if biased && p.dtype == DType::I8 => (p, DType::U8),
                "s" if p.dtype != DType::I8 => (p, DType::U8),
                "n" => (p, self.joined("n", "o")),
                _ => (p, p.dtype),
            })
            .collect();
        // Bits of a field in a run of 32 columns, or else in the block.
        let parts = self.block / RUN;
        let in_runs = |p: &Piece| parts == 1 || p.group == 1;
        let bits = |p: &Piece, t: DType| {
            let columns = if in_runs(p) { RUN } else { self.block };
            TILE * if p.name == "n" { 8 } else { t.bits() } * (columns / p.group)
        };
        let sum = |of: &dyn Fn(&Piece) -> bool| -> i64 {
            kept.iter().filter(|(p, _)| of(p)).map(|(p, t)| bits(p, *t)).sum()
        };
        let before = |p: &Piece| !in_runs(p) && p.name == "s";
        let (run, head) = (sum(&in_runs), sum(&before));
        let block = run * parts + sum(&|p| !in_runs(p));
        let tiles = m.rows.ceil_div(TILE, &m.bounds);
        let row = m.columns.div(self.block, &m.bounds) * block;
        let matrix = tiles * row.clone();
        let (mut first, mut offset, mut behind) = (0, head, head + run * parts);
        let mut fields: Vec<Field> = vec![];
        for (p, t) in kept {
            let mut terms = vec![m.row(TILE, 0, row.clone()), m.column(self.block / p.group, 0, block)];
            let w = t.bits();
            let at = match p {
                p if before(p) => &mut first,
                p if in_runs(p) => &mut offset,
                _ => &mut behind,
            };
            if in_runs(p) && parts > 1 {
                terms.push(m.column(RUN / p.group, parts, run));
            }
            let groups = self.block / p.group;
            if p.name == "n" {
                terms.extend([m.row(1, TILE, 32.into()), m.column(1, 4, 8), m.column(4, groups / 4, 512)]);
            } else if p.group == 1 {
                terms.extend([m.row(1, TILE, 32.into()), m.column(1, 4, 8)]);
                if w > 1 {
                    terms.push(m.column(4, w, 512));
                }
                if w < 8 {
                    terms.push(m.column(4 * w, 8 / w, w));
                }
            } else {
                if groups > 1 {
                    terms.push(m.column(1, groups, TILE * w));
                }
                terms.push(m.row(1, TILE, w.into()));
            }
            fields.push(m.field(p.name, t, p.group, *at, &matrix, terms));
            *at += bits(p, t);
        }
        Some(Encoding { name: name.into(), fields, decode: Decode::Coded(coded), bits: m.outer() * matrix })
    }
}

impl Matrix<'_> {
    fn field(
        &self,
        name: &str,
        dtype: DType,
        group: i64,
        offset: i64,
        matrix: &Int,
        terms: Vec<crate::Term>,
    ) -> Field {
        Field {
            name: name.into(),
            dtype,
            group,
            layout: Layout { offset: offset.into(), ..self.layout(matrix, terms) },
        }
    }
}
