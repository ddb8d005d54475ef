//! The table of machine instructions that `tensorize` can place: the meaning of each as loops over the operands' tiles.

use lathe_machine::Target;

/// A row: one machine instruction.
pub struct IntrinsicRow {
    /// Name in the IR and in the dialect tables.
    pub name: &'static str,
    /// What it is.
    pub doc: &'static str,
    /// Feature of the CPU that has it.
    pub feature: &'static str,
    /// Its meaning: loops `l` (lanes) and, inside, `b`, around one block; `acc`, `x` and `y` stand for the operands.
    pub meaning: &'static str,
}

/// Whether a target multiplies and adds bytes in one instruction; without one, products of 8-bit activations cost more than
/// those of f32.
pub fn multiplies_bytes(target: &Target) -> bool {
    INTRINSICS.iter().any(|i| i.name == "dpbusd" && target.features.contains(i.feature))
}

/// The table.
pub static INTRINSICS: &[IntrinsicRow] = &[IntrinsicRow {
    name: "dpbusd",
    doc: "16 lanes: acc += sum of four products of an unsigned and a signed byte (AVX-512 VNNI)",
    feature: "avx512vnni",
    meaning: "kernel dpbusd() {
  in x: u8[16, 4]
  in y: i8[4]
  inout acc: i32[16]
  for l in 16 spatial serial {
    for b in 4 reduce serial {
      S: acc[l] sum = i32(x[l, b]) * i32(y[b])
    }
  }
}
",
}];
