//! The dialect of AVX2 with FMA: 8 lanes are one register. Products of bytes are `vpmaddubsw`, pairs in 16 bits.

use super::Row;

pub(super) const HOLD: Row =
    Row { name: "hold", gcc: "__asm__(\"\" : \"+x\"($0))", clang: "__asm__(\"\" : \"+x\"($0))" };

pub(super) const SHUFFLE: Row =
    Row { name: "shuffle", gcc: "__builtin_shufflevector($0)", clang: "__builtin_shufflevector($0)" };
pub(super) const F32_OF_F16: Row = Row {
    name: "f32_of_f16",
    gcc: "__builtin_ia32_vcvtph2ps256($0)",
    clang: "__builtin_ia32_vcvtph2ps256($0)",
};
pub(super) const F16_OF_F32: Row = Row {
    name: "f16_of_f32",
    gcc: "__builtin_ia32_vcvtps2ph256($0, 0)",
    clang: "__builtin_ia32_vcvtps2ph256($0, 0)",
};
pub(super) const ROUND: Row =
    Row { name: "round", gcc: "__builtin_ia32_roundps256($0, 8)", clang: "__builtin_ia32_roundps256($0, 8)" };
/// In the processor's mode, which is to the nearest, ties to even, unless somebody has changed it.
pub(super) const I32_OF_ROUNDED: Row = Row {
    name: "i32_of_rounded",
    gcc: "__builtin_ia32_cvtps2dq256($0)",
    clang: "__builtin_ia32_cvtps2dq256($0)",
};
// The compiler would convert these element by element.
pub(super) const I32_OF_U8: Row = Row { name: "i32_of_u8", gcc: "i32_of_u8($0)", clang: "i32_of_u8($0)" };
pub(super) const I32_OF_I8: Row = Row { name: "i32_of_i8", gcc: "i32_of_i8($0)", clang: "i32_of_i8($0)" };
pub(super) const I32_OF_U16: Row = Row {
    name: "i32_of_u16",
    gcc: "__builtin_ia32_pmovzxwd256((i16x8)$0)",
    clang: "__builtin_convertvector($0, i32x8)",
};
pub(super) const I8_OF_I32: Row = Row { name: "i8_of_i32", gcc: "i8_of_i32($0)", clang: "i8_of_i32($0)" };
pub(super) const MAX: Row =
    Row { name: "max", gcc: "__builtin_ia32_maxps256($0, $1)", clang: "__builtin_ia32_maxps256($0, $1)" };
pub(super) const MIN: Row =
    Row { name: "min", gcc: "__builtin_ia32_minps256($0, $1)", clang: "__builtin_ia32_minps256($0, $1)" };
pub(super) const NONTEMPORAL: Row = Row {
    name: "nontemporal",
    gcc: "nontemporal(&$2, $0, (f32x8)$1)",
    clang: "nontemporal(&$2, $0, (f32x8)$1)",
};
/// What stores past the caches are in order with others' behind it.
pub(super) const FENCE: Row = Row { name: "fence", gcc: "past_end(&$0)", clang: "past_end(&$0)" };
pub(super) const LEVELS: Row =
    Row { name: "levels", gcc: "levels($0, (i8x16){$1})", clang: "levels($0, (i8x16){$1})" };

/// A loop of 16 lanes is two vectors side by side.
pub(super) const ROWS: &[Row] = &[
    SHUFFLE,
    F32_OF_F16,
    F16_OF_F32,
    ROUND,
    I32_OF_ROUNDED,
    I32_OF_U8,
    I32_OF_I8,
    I32_OF_U16,
    I8_OF_I32,
    MAX,
    MIN,
    LEVELS,
    HOLD,
    NONTEMPORAL,
    FENCE,
    Row {
        name: "maddubs8",
        gcc: "($0 + fold((pairs4($1, $2, $3, $4, $5, $6, $7, $8)) + pairs4($9, $10, $11, $12, $13, $14, $15, $16)))",
        clang: "($0 + fold((pairs4($1, $2, $3, $4, $5, $6, $7, $8)) + pairs4($9, $10, $11, $12, $13, $14, $15, $16)))",
    },
    Row {
        name: "maddubs4",
        gcc: "($0 + fold(pairs4($1, $2, $3, $4, $5, $6, $7, $8)))",
        clang: "($0 + fold(pairs4($1, $2, $3, $4, $5, $6, $7, $8)))",
    },
    Row {
        name: "maddubs2",
        gcc: "($0 + fold(pairs($1, $2) + pairs($3, $4)))",
        clang: "($0 + fold(pairs($1, $2) + pairs($3, $4)))",
    },
    // What an instruction of several steps is made of, where a tile of them is made step by step.
    Row { name: "step", gcc: "pairs($0, $1)", clang: "pairs($0, $1)" },
    Row { name: "total", gcc: "($0 + fold($1))", clang: "($0 + fold($1))" },
    Row { name: "maddbs", gcc: "($0 + fold(signs($1, $2)))", clang: "($0 + fold(signs($1, $2)))" },
];

/// Products of bytes in pairs of 16 bits, and their widening sums.
pub(super) const PRELUDE: &str = "
typedef char b32 __attribute__((vector_size(32)));
typedef char b16 __attribute__((vector_size(16)));
#define FUNCTION static inline __attribute__((always_inline))
#ifdef __clang__
#define PAST_CACHES(p, v) __builtin_nontemporal_store(v, (f32x8 *)(p))
#else
#define PAST_CACHES(p, v) __builtin_ia32_movntps256((float *)(p), v)
#endif
/* Vectors behind each other go past the caches in whole ones, wherever these begin: the rest of a vector waits for the next one. */
struct past {
    u8 *next;
    f32x8 before;
    i32x8 picks, old;
};
static inline void past_rest(u8 *next, f32x8 before) {
    for (unsigned i = 8 - ((u64)next >> 2 & 7); i < 8; i++) ((m_f32 *)(next - 32))[i] = before[i];
}
static __attribute__((noinline)) void past_jump(u8 *next, f32x8 before, u8 *p, f32x8 v) {
    unsigned first = (u64)p & 3 ? 0 : (u64)p >> 2 & 7;
    past_rest(next, before);
    if (((u64)p & 31) == 0) PAST_CACHES(p, v);
    else for (unsigned i = 0; i < 8 - first; i++) ((m_f32 *)p)[i] = v[i];
}
FUNCTION void nontemporal(struct past *s, u8 *p, f32x8 v) {
    int first = (u64)p >> 2 & 7;
    if (p == s->next) {
        i32x8 a = (i32x8)__builtin_ia32_permvarsf256(s->before, s->picks);
        i32x8 b = (i32x8)__builtin_ia32_permvarsf256(v, s->picks);
        PAST_CACHES(p - 4 * first, (f32x8)((s->old & a) | (~s->old & b)));
        s->next = p + 32;
    } else {
        past_jump(s->next, s->before, p, v);
        i32x8 lane = {0, 1, 2, 3, 4, 5, 6, 7};
        s->picks = lane + splat_i32x8(8 - first) & splat_i32x8(7);
        s->old = lane < splat_i32x8(first);
        s->next = (u64)p & 3 ? 0 : p + 32;
    }
    s->before = v;
}
FUNCTION void past_end(struct past *s) {
    past_rest(s->next, s->before);
    __builtin_ia32_sfence();
}
FUNCTION i16x16 pairs(i32x8 x, i32x8 y) { return (i16x16)__builtin_ia32_pmaddubsw256((b32)x, (b32)y); }
FUNCTION i16x16 pairs4(i32x8 x0, i32x8 y0, i32x8 x1, i32x8 y1, i32x8 x2, i32x8 y2, i32x8 x3, i32x8 y3) {
    return (pairs(x0, y0) + pairs(x1, y1)) + (pairs(x2, y2) + pairs(x3, y3));
}
FUNCTION i16x16 signs(i32x8 x, i32x8 y) {
    return pairs((i32x8)__builtin_ia32_pabsb256((b32)x), (i32x8)__builtin_ia32_psignb256((b32)y, (b32)x));
}
FUNCTION i32x8 fold(i16x16 v) {
    return (i32x8)__builtin_ia32_pmaddwd256(v, (i16x16){1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1});
}
FUNCTION i8x16 eight(i64 x) { return (i8x16)(i64x2){x, 0}; }
FUNCTION i32x8 i32_of_u8(u8x8 x) { return (i32x8)__builtin_ia32_pmovzxbd256((b16)eight((i64)x)); }
FUNCTION i32x8 i32_of_i8(i8x8 x) { return (i32x8)__builtin_ia32_pmovsxbd256((b16)eight((i64)x)); }
FUNCTION i8x8 i8_of_i32(i32x8 x) {
    i32x8 low = (i32x8)__builtin_ia32_pshufb256((b32)x, (b32)(i32x8){0x0c080400, 0, 0, 0, 0x0c080400, 0, 0, 0});
    return (i8x8)((i64x4)__builtin_ia32_permvarsi256(low, (i32x8){0, 4, 0, 0, 0, 0, 0, 0}))[0];
}
FUNCTION i32x8 levels(i32x8 x, i8x16 t) {
    b32 table = (b32)__builtin_shufflevector(
        t, t, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return (i32x8)__builtin_ia32_pshufb256(table, (b32)x);
}
";
