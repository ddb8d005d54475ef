//! The dialect of AVX-VNNI: registers of AVX2, so vectors of 16 lanes are two each, and `vpdpbusd` for products of bytes.

use super::Row;

pub(super) const ROWS: &[Row] = &[
    Row { name: "dpbusd", gcc: "dpbusd($0, $1, $2)", clang: "dpbusd($0, $1, $2)" },
    Row { name: "shuffle", gcc: "__builtin_shufflevector($0)", clang: "__builtin_shufflevector($0)" },
    Row { name: "f32_of_f16", gcc: "f32_of_f16($0)", clang: "f32_of_f16($0)" },
    Row { name: "levels", gcc: "levels($0, (i8x16){$1})", clang: "levels($0, (i8x16){$1})" },
];

pub(super) const PRELUDE: &str = "
typedef char b32 __attribute__((vector_size(32)));
#define FUNCTION static inline __attribute__((always_inline))
#ifdef __clang__
#define DPBUSD __builtin_ia32_vpdpbusd256
#else
#define DPBUSD __builtin_ia32_vpdpbusd_v8si
#endif
FUNCTION i32x8 low(i32x16 v) { return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7); }
FUNCTION i32x8 high(i32x16 v) { return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15); }
FUNCTION i32x16 both(i32x8 a, i32x8 b) {
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
FUNCTION i32x16 dpbusd(i32x16 acc, i32x16 x, i32x16 y) {
    return both(DPBUSD(low(acc), low(x), low(y)), DPBUSD(high(acc), high(x), high(y)));
}
FUNCTION i32x16 levels(i32x16 x, i8x16 t) {
    b32 table = (b32)__builtin_shufflevector(t, t, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return both((i32x8)__builtin_ia32_pshufb256(table, (b32)low(x)), (i32x8)__builtin_ia32_pshufb256(table, (b32)high(x)));
}
FUNCTION f32x16 f32_of_f16(i16x16 x) {
    f32x8 a = __builtin_ia32_vcvtph2ps256(__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7));
    f32x8 b = __builtin_ia32_vcvtph2ps256(__builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15));
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
";
