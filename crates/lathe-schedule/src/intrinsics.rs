//! The table of machine instructions that `tensorize` can place: the meaning of each as loops over the operands' tiles.

use crate::Tag;
use lathe_ir::DType;
use lathe_ir::tensor::{Buffer, Kernel, parse};
use lathe_machine::Target;

/// A row: one machine instruction, or a few that always go together.
///
/// The loops of a meaning are lanes `l`, perhaps steps `c`, and `b`, the bytes or halves of a word of 32 bits. Operands lie along
/// lanes and words as the meaning's do (codes of fewer bits than a byte each in their own byte); what the steps read may lie anywhere.
pub struct IntrinsicRow {
    /// Name in the IR and in the dialect tables.
    pub name: &'static str,
    /// What it is.
    pub doc: &'static str,
    /// Dialects that have it.
    pub dialects: &'static [&'static str],
    /// The type of its second factor.
    pub of: DType,
    /// How many steps of a word it takes.
    pub steps: i64,
    /// How its results may differ from its meaning's.
    pub tag: Tag,
    /// What must hold of its operands for that, where it does not take all of their types' numbers.
    pub assumes: Option<&'static str>,
    /// Its meaning, `LANES` lanes wide; `acc`, `x` and `y` stand for the operands.
    pub meaning: &'static str,
}

/// Lanes that a tile can have.
pub const WIDTHS: [i64; 5] = [8, 16, 24, 32, 48];

/// Fewest steps of an instruction for which a tile is made step by step: with two of them (codes of 6 bits) such tiles were slower.
pub const MANY_STEPS: i64 = 4;

/// The name of the loop over steps.
pub const STEPS: &str = "c";

impl IntrinsicRow {
    /// Its meaning for so many lanes (a vector, or several side by side).
    pub fn kernel(&self, lanes: i64) -> Kernel {
        parse(&self.meaning.replace("LANES", &lanes.to_string()))
            .expect("the table's texts are read by a test")
    }

    /// Whether codes of type `t` can be its first operand.
    pub fn takes(&self, t: DType) -> bool {
        self.kernel(8).buffer("x").is_some_and(|x: Buffer| fits(t, x.dtype))
    }
}

/// Whether an operand of type `t` can be one of type `want`: the same, or fewer bits without sign.
pub fn fits(t: DType, want: DType) -> bool {
    match (t, want) {
        (DType::Int { signed: false, bits }, DType::Int { signed: false, bits: most }) => bits <= most,
        _ => t == want,
    }
}

/// The instructions of a target that multiply bytes, best first.
pub fn byte_products(target: &Target) -> impl Iterator<Item = &'static IntrinsicRow> {
    products(target, DType::I8)
}

/// The instruction of a target that adds up the products of two dense words of these types, whatever they hold, the first one in lanes.
pub fn word_product(target: &Target, [lanes, repeated]: [DType; 2]) -> Option<&'static IntrinsicRow> {
    let first = |row: &IntrinsicRow| row.kernel(8).buffer("x").map(|x| x.dtype);
    let any = |row: &&IntrinsicRow| row.steps == 1 && row.assumes.is_none();
    products(target, repeated).filter(any).find(|row| first(row) == Some(lanes))
}

fn products(target: &Target, of: DType) -> impl Iterator<Item = &'static IntrinsicRow> {
    INTRINSICS.iter().filter(move |i| i.of == of && i.dialects.contains(&target.dialect.as_str()))
}

/// Whether a target has instructions that multiply and add bytes; without one, products of 8-bit activations cost more than
/// those of f32.
pub fn multiplies_bytes(target: &Target) -> bool {
    byte_products(target).next().is_some()
}

/// Whether its instructions want 8-bit codes with their sign, rather than plus 128.
pub fn multiplies_signed(target: &Target) -> bool {
    let takes = |t| byte_products(target).any(|i| i.takes(t));
    takes(DType::I8) && !takes(DType::U8)
}

/// The table.
pub static INTRINSICS: &[IntrinsicRow] = &[
    IntrinsicRow {
        name: "dpbusd",
        doc: "acc += sum of four products of an unsigned and a signed byte (AVX-512 VNNI, AVX-VNNI)",
        dialects: &["avx512bf16", "avx512vnni", "avxvnni"],
        of: DType::I8,
        steps: 1,
        tag: Tag::Bitwise,
        assumes: None,
        meaning: "kernel dpbusd() {
  in x: u8[LANES, 4]
  in y: i8[4]
  inout acc: i32[LANES]
  for l in LANES spatial serial {
    for b in 4 reduce serial {
      S: acc[l] sum = i32(x[l, b]) * i32(y[b])
    }
  }
}
",
    },
    IntrinsicRow {
        name: "dpsubd",
        doc: "acc += sum of four products of a signed and an unsigned byte: dpbusd, where the unsigned ones are repeated",
        dialects: &["avx512bf16", "avx512vnni", "avxvnni"],
        of: DType::U8,
        steps: 1,
        tag: Tag::Bitwise,
        assumes: None,
        meaning: "kernel dpsubd() {
  in x: i8[LANES, 4]
  in y: u8[4]
  inout acc: i32[LANES]
  for l in LANES spatial serial {
    for b in 4 reduce serial {
      S: acc[l] sum = i32(x[l, b]) * i32(y[b])
    }
  }
}
",
    },
    IntrinsicRow {
        name: "dpbf16ps",
        doc: "acc += sum of two products of bf16, the second one first; numbers below 2^-126 count as 0 (AVX-512 BF16)",
        dialects: &["avx512bf16"],
        of: DType::BF16,
        steps: 1,
        tag: Tag::Approximates,
        assumes: None,
        meaning: "kernel dpbf16ps() {
  in x: bf16[LANES, 2]
  in y: bf16[2]
  inout acc: f32[LANES]
  for l in LANES spatial serial {
    for b in 2 reduce serial {
      S: acc[l] sum = f32(x[l, b]) * f32(y[b])
    }
  }
}
",
    },
    IntrinsicRow {
        name: "maddubs8",
        doc: "acc += sum of 32 products of a code of 4 bits and a signed byte; pairs in 16 bits (AVX2, AVX-512BW)",
        dialects: &["avx512", "avx2"],
        of: DType::I8,
        steps: 8,
        tag: Tag::Bitwise,
        assumes: None,
        meaning: "kernel maddubs8() {
  in x: u4[8, LANES, 4]
  in y: i8[8, 4]
  inout acc: i32[LANES]
  for l in LANES spatial serial {
    for c in 8 reduce serial {
      for b in 4 reduce serial {
        S: acc[l] sum = i32(x[c, l, b]) * i32(y[c, b])
      }
    }
  }
}
",
    },
    IntrinsicRow {
        name: "maddubs4",
        doc: "acc += sum of 16 products of a code of 5 bits and a signed byte; pairs in 16 bits (AVX2, AVX-512BW)",
        dialects: &["avx512", "avx2"],
        of: DType::I8,
        steps: 4,
        tag: Tag::Bitwise,
        assumes: None,
        meaning: "kernel maddubs4() {
  in x: u5[4, LANES, 4]
  in y: i8[4, 4]
  inout acc: i32[LANES]
  for l in LANES spatial serial {
    for c in 4 reduce serial {
      for b in 4 reduce serial {
        S: acc[l] sum = i32(x[c, l, b]) * i32(y[c, b])
      }
    }
  }
}
",
    },
    IntrinsicRow {
        name: "maddubs2",
        doc: "acc += sum of eight products of a code of 6 bits and a signed byte; pairs in 16 bits (AVX2, AVX-512BW)",
        dialects: &["avx512", "avx2"],
        of: DType::I8,
        steps: 2,
        tag: Tag::Bitwise,
        assumes: None,
        meaning: "kernel maddubs2() {
  in x: u6[2, LANES, 4]
  in y: i8[2, 4]
  inout acc: i32[LANES]
  for l in LANES spatial serial {
    for c in 2 reduce serial {
      for b in 4 reduce serial {
        S: acc[l] sum = i32(x[c, l, b]) * i32(y[c, b])
      }
    }
  }
}
",
    },
    IntrinsicRow {
        name: "maddbs",
        doc: "acc += sum of four products of signed bytes, those of y above -128, as codes of activations are (AVX2, AVX-512BW)",
        dialects: &["avx512", "avx2"],
        of: DType::I8,
        steps: 1,
        tag: Tag::Bitwise,
        assumes: Some("'y' has no -128"),
        meaning: "kernel maddbs() {
  in x: i8[LANES, 4]
  in y: i8[4]
  inout acc: i32[LANES]
  for l in LANES spatial serial {
    for b in 4 reduce serial {
      S: acc[l] sum = i32(x[l, b]) * i32(y[b])
    }
  }
}
",
    },
    IntrinsicRow {
        name: "sdot",
        doc: "acc += sum of four products of signed bytes (dot-product extension of ARMv8.2-A)",
        dialects: &["neon"],
        of: DType::I8,
        steps: 1,
        tag: Tag::Bitwise,
        assumes: None,
        meaning: "kernel sdot() {
  in x: i8[LANES, 4]
  in y: i8[4]
  inout acc: i32[LANES]
  for l in LANES spatial serial {
    for b in 4 reduce serial {
      S: acc[l] sum = i32(x[l, b]) * i32(y[b])
    }
  }
}
",
    },
    IntrinsicRow {
        name: "sdotu",
        doc: "acc += sum of four products of a code of 7 bits and a signed byte (the same)",
        dialects: &["neon"],
        of: DType::I8,
        steps: 1,
        tag: Tag::Bitwise,
        assumes: None,
        meaning: "kernel sdotu() {
  in x: u7[LANES, 4]
  in y: i8[4]
  inout acc: i32[LANES]
  for l in LANES spatial serial {
    for b in 4 reduce serial {
      S: acc[l] sum = i32(x[l, b]) * i32(y[b])
    }
  }
}
",
    },
];
