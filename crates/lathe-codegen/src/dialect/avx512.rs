//! The dialects of AVX-512: 16 lanes are one register. Products of bytes are `vpdpbusd` with VNNI, and pairs in 16 bits
//! (`vpmaddubsw`), as in AVX2, without. Those of bf16 are `vdpbf16ps` where there is that.

use super::Row;

const HOLD: Row =
    Row { name: "hold", gcc: "__asm__(\"\" : \"+v\"($0))", clang: "__asm__(\"\" : \"+v\"($0))" };

const SHUFFLE: Row =
    Row { name: "shuffle", gcc: "__builtin_shufflevector($0)", clang: "__builtin_shufflevector($0)" };
const LEVELS: Row = Row { name: "levels", gcc: "levels($0, (i8x16){$1})", clang: "levels($0, (i8x16){$1})" };
const F32_OF_F16: Row = Row {
    name: "f32_of_f16",
    gcc: "__builtin_ia32_vcvtph2ps512_mask($0, (f32x16){0}, (unsigned short)-1, 4)",
    clang: "__builtin_ia32_vcvtph2ps512_mask($0, (f32x16){0}, (unsigned short)-1, 4)",
};
const F16_OF_F32: Row = Row {
    name: "f16_of_f32",
    gcc: "__builtin_ia32_vcvtps2ph512_mask($0, 0, (i16x16){0}, (unsigned short)-1)",
    clang: "__builtin_ia32_vcvtps2ph512_mask($0, 0, (i16x16){0}, (unsigned short)-1)",
};
/// To the nearest, ties to even, whatever the processor's mode is.
const ROUND: Row = Row {
    name: "round",
    gcc: "__builtin_ia32_rndscaleps_mask($0, 8, $0, (unsigned short)-1, 4)",
    clang: "__builtin_ia32_rndscaleps_mask($0, 8, $0, (unsigned short)-1, 4)",
};
const I32_OF_ROUNDED: Row = Row {
    name: "i32_of_rounded",
    gcc: "__builtin_ia32_cvtps2dq512_mask($0, (i32x16){0}, (unsigned short)-1, 8)",
    clang: "__builtin_ia32_cvtps2dq512_mask($0, (i32x16){0}, (unsigned short)-1, 8)",
};
// gcc widens bytes that it has just loaded one by one, unless told otherwise.
const I32_OF_U8: Row = Row {
    name: "i32_of_u8",
    gcc: "__builtin_ia32_pmovzxbd512_mask((b16)$0, (i32x16){0}, (unsigned short)-1)",
    clang: "__builtin_convertvector($0, i32x16)",
};
const I32_OF_I8: Row = Row {
    name: "i32_of_i8",
    gcc: "__builtin_ia32_pmovsxbd512_mask((b16)$0, (i32x16){0}, (unsigned short)-1)",
    clang: "__builtin_convertvector($0, i32x16)",
};
const I32_OF_U16: Row = Row {
    name: "i32_of_u16",
    gcc: "__builtin_ia32_pmovzxwd512_mask((i16x16)$0, (i32x16){0}, (unsigned short)-1)",
    clang: "__builtin_convertvector($0, i32x16)",
};
const MAX: Row = Row {
    name: "max",
    gcc: "__builtin_ia32_maxps512_mask($0, $1, $0, (unsigned short)-1, 4)",
    clang: "__builtin_ia32_maxps512($0, $1, 4)",
};
const MIN: Row = Row {
    name: "min",
    gcc: "__builtin_ia32_minps512_mask($0, $1, $0, (unsigned short)-1, 4)",
    clang: "__builtin_ia32_minps512($0, $1, 4)",
};
// A copy of some bytes into a vector would wait for its stores to reach the cache.
const LOAD_LANES: Row = Row {
    name: "load_lanes",
    gcc: "__builtin_ia32_loadups512_mask((const float *)$0, (f32x16){0}, (unsigned short)((1u << ($1)) - 1))",
    clang: "__builtin_ia32_loadups512_mask((const float *)$0, (f32x16){0}, (unsigned short)((1u << ($1)) - 1))",
};
const STORE_LANES: Row = Row {
    name: "store_lanes",
    gcc: "__builtin_ia32_storeups512_mask((float *)$0, (f32x16)$1, (unsigned short)((1u << ($2)) - 1))",
    clang: "__builtin_ia32_storeups512_mask((float *)$0, (f32x16)$1, (unsigned short)((1u << ($2)) - 1))",
};

const NONTEMPORAL: Row = Row {
    name: "nontemporal",
    gcc: "nontemporal(&$2, $0, (f32x16)$1)",
    clang: "nontemporal(&$2, $0, (f32x16)$1)",
};
/// What stores past the caches are in order with others' behind it.
const FENCE: Row = Row { name: "fence", gcc: "past_end(&$0)", clang: "past_end(&$0)" };

const DPBUSD: Row = Row {
    name: "dpbusd",
    gcc: "__builtin_ia32_vpdpbusd_v16si($0, $1, $2)",
    clang: "__builtin_ia32_vpdpbusd512($0, $1, $2)",
};

/// With the repeated word where `$2` points: its load is a part of the instruction, which gcc does not see on its own.
const DPBUSD_REPEATED: Row = Row {
    name: "dpbusd.repeated",
    gcc: "dpbusd_repeated($0, $1, $2)",
    clang: "__builtin_ia32_vpdpbusd512($0, $1, splat_i32x16(*(const m_i32 *)$2))",
};

const DPSUBD: Row = Row {
    name: "dpsubd",
    gcc: "__builtin_ia32_vpdpbusd_v16si($0, $2, $1)",
    clang: "__builtin_ia32_vpdpbusd512($0, $2, $1)",
};

/// With VNNI and BF16.
pub(super) const BF16: &[Row] = &[
    Row {
        name: "dpbf16ps",
        gcc: "__builtin_ia32_dpbf16ps_v16sf($0, (halves)$1, (halves)$2)",
        clang: "__builtin_ia32_dpbf16ps_512($0, (halves)$1, (halves)$2)",
    },
    Row {
        name: "dpbf16ps.repeated",
        gcc: "dpbf16ps_repeated($0, $1, $2)",
        clang: "__builtin_ia32_dpbf16ps_512($0, (halves)$1, (halves)splat_i32x16(*(const m_i32 *)$2))",
    },
    Row {
        name: "bf16_of_normal",
        gcc: "__builtin_ia32_cvtneps2bf16_v16sf($0)",
        clang: "__builtin_ia32_cvtneps2bf16_512($0)",
    },
    DPBUSD,
    DPBUSD_REPEATED,
    DPSUBD,
    F32_OF_F16,
    F16_OF_F32,
    ROUND,
    I32_OF_ROUNDED,
    I32_OF_U8,
    I32_OF_I8,
    I32_OF_U16,
    SHUFFLE,
    LEVELS,
    HOLD,
    MAX,
    MIN,
    LOAD_LANES,
    STORE_LANES,
    NONTEMPORAL,
    FENCE,
];

/// With VNNI.
pub(super) const VNNI: &[Row] = &[
    DPBUSD,
    DPBUSD_REPEATED,
    F32_OF_F16,
    F16_OF_F32,
    ROUND,
    I32_OF_ROUNDED,
    I32_OF_U8,
    I32_OF_I8,
    I32_OF_U16,
    SHUFFLE,
    LEVELS,
    HOLD,
    MAX,
    MIN,
    LOAD_LANES,
    STORE_LANES,
    NONTEMPORAL,
    FENCE,
];

/// Without VNNI.
pub(super) const ROWS: &[Row] = &[
    Row {
        name: "maddubs8",
        gcc: "($0 + fold(pairs4($1, $2, $3, $4, $5, $6, $7, $8) + pairs4($9, $10, $11, $12, $13, $14, $15, $16)))",
        clang: "($0 + fold(pairs4($1, $2, $3, $4, $5, $6, $7, $8) + pairs4($9, $10, $11, $12, $13, $14, $15, $16)))",
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
    Row { name: "maddbs", gcc: "maddbs($0, $1, $2)", clang: "maddbs($0, $1, $2)" },
    F32_OF_F16,
    F16_OF_F32,
    ROUND,
    I32_OF_ROUNDED,
    I32_OF_U8,
    I32_OF_I8,
    I32_OF_U16,
    SHUFFLE,
    LEVELS,
    HOLD,
    MAX,
    MIN,
    LOAD_LANES,
    STORE_LANES,
    NONTEMPORAL,
    FENCE,
];

macro_rules! levels {
    () => {
        "
typedef char b16 __attribute__((vector_size(16)));
typedef char b64 __attribute__((vector_size(64)));
#define FUNCTION static inline __attribute__((always_inline))
FUNCTION i32x16 levels(i32x16 x, i8x16 t) {
    i32x4 q = (i32x4)t;
    i32x16 table = __builtin_shufflevector(q, q, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
    return (i32x16)__builtin_ia32_pshufb512_mask((b64)table, (b64)x, (b64)table, -1ll);
}
#ifdef __clang__
#define PAST_CACHES(p, v) __builtin_nontemporal_store(v, (f32x16 *)(p))
#define PICKED(a, b, picks) __builtin_ia32_vpermi2varps512(a, picks, b)
#else
#define PAST_CACHES(p, v) __builtin_ia32_movntps512((float *)(p), v)
#define PICKED(a, b, picks) __builtin_ia32_vpermt2varps512_mask(picks, a, b, (unsigned short)-1)
#endif
/* Vectors behind each other go past the caches in whole lines, wherever these begin: the rest of a vector waits for the next one. */
struct past {
    u8 *next;
    f32x16 before;
    i32x16 picks;
};
static inline void past_rest(u8 *next, f32x16 before) {
    for (unsigned i = 16 - ((u64)next >> 2 & 15); i < 16; i++) ((m_f32 *)(next - 64))[i] = before[i];
}
static __attribute__((noinline)) void past_jump(u8 *next, f32x16 before, u8 *p, f32x16 v) {
    unsigned first = (u64)p & 3 ? 0 : (u64)p >> 2 & 15;
    past_rest(next, before);
    if (((u64)p & 63) == 0) PAST_CACHES(p, v);
    else for (unsigned i = 0; i < 16 - first; i++) ((m_f32 *)p)[i] = v[i];
}
FUNCTION void nontemporal(struct past *s, u8 *p, f32x16 v) {
    int first = (u64)p >> 2 & 15;
    if (p == s->next) {
        PAST_CACHES(p - 4 * first, PICKED(s->before, v, s->picks));
        s->next = p + 64;
    } else {
        past_jump(s->next, s->before, p, v);
        s->picks = (i32x16){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + splat_i32x16(16 - first);
        s->next = (u64)p & 3 ? 0 : p + 64;
    }
    s->before = v;
}
FUNCTION void past_end(struct past *s) {
    past_rest(s->next, s->before);
    __builtin_ia32_sfence();
}
FUNCTION i32x16 dpbusd_repeated(i32x16 acc, i32x16 x, const void *y) {
    __asm__(\"vpdpbusd %2%{1to16%}, %1, %0\" : \"+v\"(acc) : \"v\"(x), \"m\"(*(const m_i32 *)y));
    return acc;
}
"
    };
}

pub(super) const PRELUDE: &str = levels!();

/// Compilers came to have a type of bf16 after they had the instruction.
pub(super) const PRELUDE_BF16: &str = concat!(
    levels!(),
    "
#if defined(__clang__) || __GNUC__ >= 13
typedef __bf16 halves __attribute__((vector_size(64)));
#else
typedef short halves __attribute__((vector_size(64)));
#endif
FUNCTION f32x16 dpbf16ps_repeated(f32x16 acc, i32x16 x, const void *y) {
    __asm__(\"vdpbf16ps %2%{1to16%}, %1, %0\" : \"+v\"(acc) : \"v\"(x), \"m\"(*(const m_i32 *)y));
    return acc;
}
"
);

/// `fold` adds the pairs of 16 bits; a sign moves from `x` to `y` by all bits of a mask, as there is no `vpsignb` here.
pub(super) const PRELUDE_BYTES: &str = concat!(
    levels!(),
    "
typedef short h32 __attribute__((vector_size(64)));
FUNCTION h32 pairs(i32x16 x, i32x16 y) {
    return (h32)__builtin_ia32_pmaddubsw512_mask((b64)x, (b64)y, (h32){0}, (unsigned)-1);
}
FUNCTION i32x16 fold(h32 v) {
    return (i32x16)__builtin_ia32_pmaddwd512_mask(v, (h32)splat_i32x16(0x00010001), (i32x16){0}, (unsigned short)-1);
}
FUNCTION h32 pairs4(i32x16 x0, i32x16 y0, i32x16 x1, i32x16 y1, i32x16 x2, i32x16 y2, i32x16 x3, i32x16 y3) {
    return (pairs(x0, y0) + pairs(x1, y1)) + (pairs(x2, y2) + pairs(x3, y3));
}
FUNCTION i32x16 maddbs(i32x16 acc, i32x16 x, i32x16 y) {
    typedef signed char s64 __attribute__((vector_size(64)));
    b64 negative = (b64)((s64)x < 0);
    return acc + fold(pairs((i32x16)(((b64)x ^ negative) - negative), (i32x16)(((b64)y ^ negative) - negative)));
}
"
);
