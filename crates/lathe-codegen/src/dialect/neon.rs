//! The dialect of AArch64 with the dot-product extension (ARMv8.2-A, `sdot`): 4 lanes are one register; instructions by the
//! names of ARM's C Language Extensions. Both operands of `sdot` have a sign, so codes keep theirs, and codes of seven bits or
//! fewer are not negative.

use super::Row;

const DOT: &str = "((i32x4)vdotq_s32((int32x4_t)$0, (int8x16_t)$1, (int8x16_t)$2))";
const HALF: &str = "((f32x4)vcvt_f32_f16((float16x4_t)$0))";
const LEVELS: &str = "((i32x4)vqtbl1q_s8((int8x16_t)(i8x16){$1}, (uint8x16_t)$0))";

pub(super) const ROWS: &[Row] = &[
    Row { name: "sdot", gcc: DOT, clang: DOT },
    Row { name: "sdotu", gcc: DOT, clang: DOT },
    Row { name: "shuffle", gcc: "__builtin_shufflevector($0)", clang: "__builtin_shufflevector($0)" },
    Row { name: "f32_of_f16", gcc: HALF, clang: HALF },
    Row { name: "levels", gcc: LEVELS, clang: LEVELS },
];

pub(super) const PRELUDE: &str = "
#include <arm_neon.h>
";
