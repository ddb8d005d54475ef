//! The dialect tables: which builtins a target has, and how each compiler spells them.

use crate::emit::{CodegenError, Emitter, c_type};
use lathe_ir::tensor::{Buffer, Expr, For};
use lathe_ir::{DType, Name};
use std::borrow::Cow;

/// How a compiler spells builtins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// GNU.
    Gcc,
    /// LLVM.
    Clang,
}

/// One machine instruction or library call that vector extensions cannot express.
pub struct Row {
    /// Its name to the emitter.
    pub name: &'static str,
    /// gcc's spelling; `$0`, `$1`, ... are the operands.
    pub gcc: &'static str,
    /// clang's spelling.
    pub clang: &'static str,
}

/// A target's way of writing C.
pub struct Dialect {
    /// Name, as in the machine's description.
    pub name: &'static str,
    /// Lanes of 32 bits in a vector; 1 means scalar loops. Wider lane loops are several vectors.
    pub lanes: i64,
    /// Builtins beyond plain C.
    pub rows: &'static [Row],
    /// Functions that rows call, behind the types that every translation unit begins with.
    pub prelude: &'static str,
    /// What it writes in its own way; `None` is C of the kernel ABI.
    pub(crate) form: Option<&'static dyn Form>,
}

/// What a dialect may write in its own way: types, memory and functions. Statements and expressions are the emitter's.
pub(crate) trait Form: Sync {
    /// What every translation unit begins with.
    fn prelude(&self) -> String;
    /// The name of an element type.
    fn type_name(&self, t: DType) -> String;
    /// The whole text of the kernel.
    fn function(&self, e: &mut Emitter, symbol: &str) -> Result<(), CodegenError>;
    /// The declaration of a buffer in a body.
    fn declare(&self, e: &mut Emitter, b: &Buffer) -> Result<(), CodegenError>;
    /// A line at the head of a loop's body.
    fn head_of_loop(&self, l: &For) -> Option<&'static str>;
    /// The text of an expression that is not written as in C.
    fn node(&self, e: &mut Emitter, x: &Expr) -> Result<Option<String>, CodegenError>;
    /// Writes an element.
    fn assign(&self, e: &mut Emitter, n: &Name, index: &[Expr], value: &str) -> Result<(), CodegenError>;
}

/// Calls every dialect has: the compiler's own names for C's mathematics.
const COMMON: &[Row] = &[
    Row { name: "sqrt", gcc: "__builtin_sqrtf($0)", clang: "__builtin_sqrtf($0)" },
    Row { name: "sin", gcc: "__builtin_sinf($0)", clang: "__builtin_sinf($0)" },
    Row { name: "cos", gcc: "__builtin_cosf($0)", clang: "__builtin_cosf($0)" },
    Row { name: "log", gcc: "__builtin_logf($0)", clang: "__builtin_logf($0)" },
    Row { name: "floor", gcc: "__builtin_floorf($0)", clang: "__builtin_floorf($0)" },
    Row { name: "convert", gcc: "__builtin_convertvector($0)", clang: "__builtin_convertvector($0)" },
    Row { name: "prefetch", gcc: "__builtin_prefetch($0)", clang: "__builtin_prefetch($0)" },
];

const AVX512: &[Row] = &[
    Row {
        name: "dpbusd",
        gcc: "__builtin_ia32_vpdpbusd_v16si($0, $1, $2)",
        clang: "__builtin_ia32_vpdpbusd512($0, $1, $2)",
    },
    Row {
        name: "f32_of_f16",
        gcc: "__builtin_ia32_vcvtph2ps512_mask($0, (f32x16){0}, (unsigned short)-1, 4)",
        clang: "__builtin_ia32_vcvtph2ps512_mask($0, (f32x16){0}, (unsigned short)-1, 4)",
    },
    Row { name: "shuffle", gcc: "__builtin_shufflevector($0)", clang: "__builtin_shufflevector($0)" },
    Row { name: "levels", gcc: "levels($0, (i8x16){$1})", clang: "levels($0, (i8x16){$1})" },
    Row {
        name: "max",
        gcc: "__builtin_ia32_maxps512_mask($0, $1, $0, (unsigned short)-1, 4)",
        clang: "__builtin_ia32_maxps512($0, $1, 4)",
    },
    Row {
        name: "min",
        gcc: "__builtin_ia32_minps512_mask($0, $1, $0, (unsigned short)-1, 4)",
        clang: "__builtin_ia32_minps512($0, $1, 4)",
    },
];

const AVX512_PRELUDE: &str = "
static inline __attribute__((always_inline)) i32x16 levels(i32x16 x, i8x16 t) {
    typedef char b64 __attribute__((vector_size(64)));
    i32x4 q = (i32x4)t;
    i32x16 table = __builtin_shufflevector(q, q, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
    return (i32x16)__builtin_ia32_pshufb512_mask((b64)table, (b64)x, (b64)table, -1ll);
}
";

/// A loop of 16 lanes is two vectors side by side.
const AVX2: &[Row] = &[
    Row { name: "shuffle", gcc: "__builtin_shufflevector($0)", clang: "__builtin_shufflevector($0)" },
    Row {
        name: "f32_of_f16",
        gcc: "__builtin_ia32_vcvtph2ps256($0)",
        clang: "__builtin_ia32_vcvtph2ps256($0)",
    },
    // The compiler would convert these element by element.
    Row { name: "i32_of_u8", gcc: "i32_of_u8($0)", clang: "i32_of_u8($0)" },
    Row { name: "i32_of_i8", gcc: "i32_of_i8($0)", clang: "i32_of_i8($0)" },
    Row { name: "i8_of_i32", gcc: "i8_of_i32($0)", clang: "i8_of_i32($0)" },
    Row { name: "max", gcc: "__builtin_ia32_maxps256($0, $1)", clang: "__builtin_ia32_maxps256($0, $1)" },
    Row { name: "min", gcc: "__builtin_ia32_minps256($0, $1)", clang: "__builtin_ia32_minps256($0, $1)" },
    Row { name: "levels", gcc: "levels($0, (i8x16){$1})", clang: "levels($0, (i8x16){$1})" },
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
    Row { name: "maddbs", gcc: "($0 + fold(signs($1, $2)))", clang: "($0 + fold(signs($1, $2)))" },
];

/// Products of bytes in pairs of 16 bits, and their widening sums.
const AVX2_PRELUDE: &str = "
typedef char b32 __attribute__((vector_size(32)));
typedef char b16 __attribute__((vector_size(16)));
#define FUNCTION static inline __attribute__((always_inline))
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

/// All dialects.
static DIALECTS: [Dialect; 4] = [
    Dialect { name: "avx512vnni", lanes: 16, rows: AVX512, prelude: AVX512_PRELUDE, form: None },
    Dialect { name: "avx2", lanes: 8, rows: AVX2, prelude: AVX2_PRELUDE, form: None },
    Dialect { name: "portable", lanes: 1, rows: &[], prelude: "", form: None },
    Dialect { name: "hls", lanes: 1, rows: &[], prelude: "", form: Some(&crate::hls::Hls) },
];

impl Dialect {
    /// The dialect of a name.
    pub fn named(name: &str) -> Option<&'static Dialect> {
        DIALECTS.iter().find(|d| d.name == name)
    }

    /// All dialects.
    pub fn all() -> &'static [Dialect] {
        &DIALECTS
    }

    /// A row by name.
    pub fn row(&self, name: &str) -> Option<&'static Row> {
        self.rows.iter().chain(COMMON).find(|r| r.name == name)
    }

    /// The name of an element type.
    pub fn type_name(&self, t: DType) -> Cow<'static, str> {
        self.form.map_or(c_type(t).into(), |f| f.type_name(t).into())
    }

    /// All rows, those of every dialect included.
    pub fn all_rows(&self) -> impl Iterator<Item = &'static Row> {
        self.rows.iter().chain(COMMON)
    }
}

impl Row {
    /// The C text of a use.
    pub fn spell(&self, compiler: Compiler, operands: &[&str]) -> String {
        let mut text = match compiler {
            Compiler::Gcc => self.gcc,
            Compiler::Clang => self.clang,
        }
        .to_string();
        // Operands hold no places themselves; the last ones first, so that $1 is no part of $12.
        for (i, o) in operands.iter().enumerate().rev() {
            text = text.replace(&format!("${i}"), o);
        }
        text
    }
}
