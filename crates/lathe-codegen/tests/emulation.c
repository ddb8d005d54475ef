/* The instructions that dialects of x86 name, in plain C, for tests on processors without them. Placed before a unit of C,
   this stands in for the compiler's builtins, so that the unit's own text runs unchanged. Meanings are those of the Intel
   64 and IA-32 Architectures Software Developer's Manual; masked forms are only used with
   all bits set, but for loads and stores. */
#define E_TYPES(bytes)                                                        \
    typedef char e_b##bytes __attribute__((vector_size(bytes)));              \
    typedef short e_h##bytes __attribute__((vector_size(bytes)));             \
    typedef int e_i##bytes __attribute__((vector_size(bytes)));               \
    typedef float e_f##bytes __attribute__((vector_size(bytes)));
E_TYPES(16) E_TYPES(32) E_TYPES(64)

static inline int e_saturated(int v) { return v > 32767 ? 32767 : v < -32768 ? -32768 : v; }
static inline float e_half(unsigned short h) {
    int exponent = h >> 10 & 31, fraction = h & 1023;
    float v = exponent == 31 ? (fraction ? __builtin_nanf("") : __builtin_inff())
        : exponent == 0 ? __builtin_ldexpf(fraction, -24) : __builtin_ldexpf(fraction + 1024, exponent - 25);
    return h >> 15 ? -v : v;
}
/* The nearest, ties to even; NaN is one NaN. */
static inline unsigned short e_to_half(float v) {
    unsigned short sign = __builtin_signbit(v) ? 0x8000 : 0;
    float a = __builtin_fabsf(v);
    int exponent;
    if (v != v) return sign | 0x7e00;
    if (a >= 65520) return sign | 0x7c00;
    if (a < 0x1p-14f) return sign | (unsigned short)__builtin_rintf(a * 0x1p24f);
    float m = __builtin_frexpf(a, &exponent);
    return sign | (unsigned short)((exponent + 14) * 1024 + ((int)__builtin_rintf(m * 2048) - 1024));
}
static inline int e_rounded(float v) {
    return __builtin_fabsf(v) < 0x1p31f ? (int)__builtin_rintf(v) : -2147483647 - 1;
}

#define E_ALL(bytes, half)                                                                                          \
    static inline e_i##bytes e_dpbusd##bytes(e_i##bytes a, e_i##bytes x, e_i##bytes y) {                            \
        e_b##bytes p = (e_b##bytes)x, q = (e_b##bytes)y;                                                            \
        for (int i = 0; i < bytes; i++) a[i / 4] += (int)(unsigned char)p[i] * (signed char)q[i];                   \
        return a;                                                                                                   \
    }                                                                                                               \
    static inline e_h##bytes e_maddubs##bytes(e_b##bytes x, e_b##bytes y) {                                         \
        e_h##bytes r = {0};                                                                                         \
        for (int i = 0; i < bytes / 2; i++)                                                                         \
            r[i] = e_saturated((int)(unsigned char)x[2 * i] * (signed char)y[2 * i]                                 \
                               + (int)(unsigned char)x[2 * i + 1] * (signed char)y[2 * i + 1]);                     \
        return r;                                                                                                   \
    }                                                                                                               \
    static inline e_i##bytes e_maddwd##bytes(e_h##bytes x, e_h##bytes y) {                                          \
        e_i##bytes r = {0};                                                                                         \
        for (int i = 0; i < bytes / 4; i++)                                                                         \
            r[i] = (unsigned)(x[2 * i] * y[2 * i]) + (unsigned)(x[2 * i + 1] * y[2 * i + 1]);                       \
        return r;                                                                                                   \
    }                                                                                                               \
    static inline e_b##bytes e_shufb##bytes(e_b##bytes t, e_b##bytes x) {                                           \
        e_b##bytes r = {0};                                                                                         \
        for (int i = 0; i < bytes; i++) r[i] = x[i] & 128 ? 0 : t[i / 16 * 16 + (x[i] & 15)];                       \
        return r;                                                                                                   \
    }                                                                                                               \
    static inline e_f##bytes e_halves##bytes(e_h##half x) {                                                         \
        e_f##bytes r = {0};                                                                                         \
        for (int i = 0; i < bytes / 4; i++) r[i] = e_half(x[i]);                                                    \
        return r;                                                                                                   \
    }                                                                                                               \
    static inline e_h##half e_to_halves##bytes(e_f##bytes x) {                                                      \
        e_h##half r = {0};                                                                                          \
        for (int i = 0; i < bytes / 4; i++) r[i] = e_to_half(x[i]);                                                 \
        return r;                                                                                                   \
    }                                                                                                               \
    static inline e_f##bytes e_round##bytes(e_f##bytes x) {                                                         \
        for (int i = 0; i < bytes / 4; i++) x[i] = __builtin_rintf(x[i]);                                           \
        return x;                                                                                                   \
    }                                                                                                               \
    static inline e_i##bytes e_rounded##bytes(e_f##bytes x) {                                                       \
        e_i##bytes r = {0};                                                                                         \
        for (int i = 0; i < bytes / 4; i++) r[i] = e_rounded(x[i]);                                                 \
        return r;                                                                                                   \
    }                                                                                                               \
    static inline e_b##bytes e_absb##bytes(e_b##bytes x) {                                                          \
        for (int i = 0; i < bytes; i++) x[i] = (signed char)x[i] < 0 ? -x[i] : x[i];                                \
        return x;                                                                                                   \
    }                                                                                                               \
    static inline e_b##bytes e_signb##bytes(e_b##bytes x, e_b##bytes s) {                                           \
        for (int i = 0; i < bytes; i++) x[i] = (signed char)s[i] < 0 ? -x[i] : s[i] ? x[i] : 0;                     \
        return x;                                                                                                   \
    }                                                                                                               \
    static inline e_f##bytes e_max##bytes(e_f##bytes x, e_f##bytes y) {                                             \
        for (int i = 0; i < bytes / 4; i++) x[i] = x[i] > y[i] ? x[i] : y[i];                                       \
        return x;                                                                                                   \
    }                                                                                                               \
    static inline e_f##bytes e_min##bytes(e_f##bytes x, e_f##bytes y) {                                             \
        for (int i = 0; i < bytes / 4; i++) x[i] = x[i] < y[i] ? x[i] : y[i];                                       \
        return x;                                                                                                   \
    }
E_ALL(32, 16) E_ALL(64, 32)

typedef unsigned short e_eight __attribute__((vector_size(16)));
typedef unsigned short e_sixteen __attribute__((vector_size(32)));
static inline e_i32 e_zero_extended(e_b16 x) {
    e_i32 r = {0};
    for (int i = 0; i < 8; i++) r[i] = (unsigned char)x[i];
    return r;
}
static inline e_i32 e_sign_extended(e_b16 x) {
    e_i32 r = {0};
    for (int i = 0; i < 8; i++) r[i] = (signed char)x[i];
    return r;
}
static inline e_i64 e_zero_extended64(e_b16 x) {
    e_i64 r = {0};
    for (int i = 0; i < 16; i++) r[i] = (unsigned char)x[i];
    return r;
}
static inline e_i64 e_sign_extended64(e_b16 x) {
    e_i64 r = {0};
    for (int i = 0; i < 16; i++) r[i] = (signed char)x[i];
    return r;
}
static inline e_i32 e_permuted(e_i32 x, e_i32 at) {
    e_i32 r = {0};
    for (int i = 0; i < 8; i++) r[i] = x[at[i] & 7];
    return r;
}
static inline e_f64 e_load_lanes(const float *p, e_f64 r, unsigned short mask) {
    for (int i = 0; i < 16; i++) if (mask >> i & 1) r[i] = p[i];
    return r;
}
static inline void e_store_lanes(float *p, e_f64 v, unsigned short mask) {
    for (int i = 0; i < 16; i++) if (mask >> i & 1) p[i] = v[i];
}

static inline float e_flushed(float v) { return __builtin_fabsf(v) < 0x1p-126f ? 0.0f : v; }
/* The second product of a pair first, each added in one rounding; numbers that are not normal are 0. */
static inline e_f64 e_dpbf16(e_f64 a, e_h64 x, e_h64 y) {
    for (int i = 0; i < 16; i++) {
        for (int b = 1; b >= 0; b--) {
            int p = x[2 * i + b] << 16, q = y[2 * i + b] << 16;
            float v, w;
            __builtin_memcpy(&v, &p, 4);
            __builtin_memcpy(&w, &q, 4);
            a[i] = e_flushed(__builtin_fmaf(e_flushed(v), e_flushed(w), e_flushed(a[i])));
        }
    }
    return a;
}
typedef unsigned short e_u16x16 __attribute__((vector_size(32)));
/* The nearest, ties to even; NaN stays one, with its first bit. */
static inline e_u16x16 e_to_bf16(e_f64 v) {
    e_u16x16 r = {0};
    for (int i = 0; i < 16; i++) {
        float f = v[i];
        unsigned b;
        __builtin_memcpy(&b, &f, 4);
        if (f != f) r[i] = b >> 16 | 64;
        else if (e_flushed(f) == 0) r[i] = b >> 16 & 0x8000;
        else r[i] = (b + 0x7fff + (b >> 16 & 1)) >> 16;
    }
    return r;
}

#define __builtin_ia32_cvtneps2bf16_v16sf e_to_bf16
#define __builtin_ia32_dpbf16ps_v16sf(a, x, y) e_dpbf16(a, (e_h64)(x), (e_h64)(y))
#define __builtin_ia32_vpdpbusd_v8si e_dpbusd32
#define __builtin_ia32_vpdpbusd_v16si e_dpbusd64
#define __builtin_ia32_pmaddubsw256 e_maddubs32
#define __builtin_ia32_pmaddubsw512_mask(x, y, zero, all) e_maddubs64(x, y)
#define __builtin_ia32_pmaddwd256 e_maddwd32
#define __builtin_ia32_pmaddwd512_mask(x, y, zero, all) e_maddwd64(x, y)
#define __builtin_ia32_pshufb256 e_shufb32
#define __builtin_ia32_pshufb512_mask(t, x, zero, all) e_shufb64(t, x)
#define __builtin_ia32_vcvtph2ps256 e_halves32
#define __builtin_ia32_vcvtph2ps512_mask(x, zero, all, rounding) e_halves64(x)
#define __builtin_ia32_vcvtps2ph256(x, nearest) e_to_halves32(x)
#define __builtin_ia32_vcvtps2ph512_mask(x, nearest, zero, all) e_to_halves64(x)
#define __builtin_ia32_roundps256(x, nearest) e_round32(x)
#define __builtin_ia32_rndscaleps_mask(x, nearest, zero, all, exact) e_round64(x)
#define __builtin_ia32_cvtps2dq256 e_rounded32
#define __builtin_ia32_cvtps2dq512_mask(x, zero, all, nearest) e_rounded64(x)
#define __builtin_ia32_pabsb256 e_absb32
#define __builtin_ia32_psignb256 e_signb32
#define __builtin_ia32_maxps256 e_max32
#define __builtin_ia32_minps256 e_min32
// A hint to the compiler, in registers that may not be here.
#define __asm__(...)
#define __builtin_ia32_pmovzxbd256(x) e_zero_extended((e_b16)(x))
#define __builtin_ia32_pmovsxbd256(x) e_sign_extended((e_b16)(x))
#define __builtin_ia32_pmovzxbd512_mask(x, zero, all) e_zero_extended64((e_b16)(x))
#define __builtin_ia32_pmovsxbd512_mask(x, zero, all) e_sign_extended64((e_b16)(x))
#define __builtin_ia32_pmovzxwd256(x) __builtin_convertvector((e_eight)(x), e_i32)
#define __builtin_ia32_pmovzxwd512_mask(x, zero, all) __builtin_convertvector((e_sixteen)(x), e_i64)
#define __builtin_ia32_permvarsi256 e_permuted
#define __builtin_ia32_maxps512_mask(x, y, zero, all, rounding) e_max64(x, y)
#define __builtin_ia32_minps512_mask(x, y, zero, all, rounding) e_min64(x, y)
#define __builtin_ia32_movntps512(p, v) (*(e_f64 *)(p) = (v))
#define __builtin_ia32_movntps256(p, v) (*(e_f32 *)(p) = (v))
#define __builtin_ia32_vpermt2varps512_mask(picks, a, b, all) __builtin_shuffle(a, b, picks)
#define __builtin_ia32_permvarsf256(v, picks) __builtin_shuffle(v, picks)
#define __builtin_ia32_loadups512_mask e_load_lanes
#define __builtin_ia32_storeups512_mask e_store_lanes
