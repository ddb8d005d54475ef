//! The dialect of AArch64 with the dot-product extension (ARMv8.2-A, `sdot`): vectors of 16 lanes are four registers each.
//! The compiler splits them, and functions do where rows name instructions, by the names of ARM's C Language Extensions.
//! Both operands of `sdot` have a sign, so codes keep theirs, and codes of seven bits or fewer are not negative.

use super::Row;

pub(super) const ROWS: &[Row] = &[
    Row { name: "sdot", gcc: "sdot($0, $1, $2)", clang: "sdot($0, $1, $2)" },
    Row { name: "sdotu", gcc: "sdot($0, $1, $2)", clang: "sdot($0, $1, $2)" },
    Row { name: "shuffle", gcc: "__builtin_shufflevector($0)", clang: "__builtin_shufflevector($0)" },
    Row { name: "f32_of_f16", gcc: "f32_of_f16($0)", clang: "f32_of_f16($0)" },
    Row { name: "levels", gcc: "levels($0, (i8x16){$1})", clang: "levels($0, (i8x16){$1})" },
];

pub(super) const PRELUDE: &str = "
#include <arm_neon.h>
#define FUNCTION static inline __attribute__((always_inline))
typedef union { i32x16 i; f32x16 f; int32x4_t words[4]; int8x16_t bytes[4]; float32x4_t floats[4]; } quarters;
FUNCTION i32x16 sdot(i32x16 acc, i32x16 x, i32x16 y) {
    quarters a = {.i = acc}, b = {.i = x}, c = {.i = y};
    for (int q = 0; q < 4; q++) a.words[q] = vdotq_s32(a.words[q], b.bytes[q], c.bytes[q]);
    return a.i;
}
FUNCTION i32x16 levels(i32x16 x, i8x16 t) {
    quarters a = {.i = x};
    for (int q = 0; q < 4; q++) a.bytes[q] = vqtbl1q_s8((int8x16_t)t, (uint8x16_t)a.bytes[q]);
    return a.i;
}
FUNCTION f32x16 f32_of_f16(i16x16 x) {
    union { i16x16 v; float16x4_t halves[4]; } h = {.v = x};
    quarters a;
    for (int q = 0; q < 4; q++) a.floats[q] = vcvt_f32_f16(h.halves[q]);
    return a.f;
}
";
