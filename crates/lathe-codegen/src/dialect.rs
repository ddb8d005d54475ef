//! The dialect tables: which builtins a target has, and how each compiler spells them.

mod avx512;
mod avxvnni;
mod neon;

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
    /// Lanes of 32 bits in a vector; 1 means scalar loops.
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

/// Vectors of 16 lanes are two registers each: the compiler splits them, and functions do where rows name instructions.
const AVX2: &[Row] = &[
    Row { name: "shuffle", gcc: "__builtin_shufflevector($0)", clang: "__builtin_shufflevector($0)" },
    Row { name: "f32_of_f16", gcc: "f32_of_f16($0)", clang: "f32_of_f16($0)" },
    Row { name: "levels", gcc: "levels($0, (i8x16){$1})", clang: "levels($0, (i8x16){$1})" },
    Row {
        name: "maddubs4",
        gcc: "maddubs4($0, $1, $2, $3, $4, $5, $6, $7, $8)",
        clang: "maddubs4($0, $1, $2, $3, $4, $5, $6, $7, $8)",
    },
    Row { name: "maddubs2", gcc: "maddubs2($0, $1, $2, $3, $4)", clang: "maddubs2($0, $1, $2, $3, $4)" },
    Row { name: "maddbs", gcc: "maddbs($0, $1, $2)", clang: "maddbs($0, $1, $2)" },
];

/// The first rows are instructions on halves; `FOLD` is what keeps pairs of 16 bits apart until they are added.
const AVX2_PRELUDE: &str = "
typedef char b32 __attribute__((vector_size(32)));
typedef short h16 __attribute__((vector_size(32)));
#define FUNCTION static inline __attribute__((always_inline))
FUNCTION i32x8 low(i32x16 v) { return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7); }
FUNCTION i32x8 high(i32x16 v) { return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15); }
FUNCTION i32x16 both(i32x8 a, i32x8 b) {
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
FUNCTION h16 pairs(i32x8 x, i32x8 y) { return (h16)__builtin_ia32_pmaddubsw256((b32)x, (b32)y); }
FUNCTION i32x8 fold(h16 v) { return (i32x8)__builtin_ia32_pmaddwd256(v, (h16){1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}); }
FUNCTION i32x8 signs(i32x8 x, i32x8 y) {
    return fold(pairs((i32x8)__builtin_ia32_pabsb256((b32)x), (i32x8)__builtin_ia32_psignb256((b32)y, (b32)x)));
}
#define HALVES4(h) fold((pairs(h(x0), h(y0)) + pairs(h(x1), h(y1))) + (pairs(h(x2), h(y2)) + pairs(h(x3), h(y3))))
FUNCTION i32x16 maddubs4(i32x16 acc, i32x16 x0, i32x16 y0, i32x16 x1, i32x16 y1, i32x16 x2, i32x16 y2, i32x16 x3, i32x16 y3) {
    return acc + both(HALVES4(low), HALVES4(high));
}
#define HALVES2(h) fold(pairs(h(x0), h(y0)) + pairs(h(x1), h(y1)))
FUNCTION i32x16 maddubs2(i32x16 acc, i32x16 x0, i32x16 y0, i32x16 x1, i32x16 y1) {
    return acc + both(HALVES2(low), HALVES2(high));
}
FUNCTION i32x16 maddbs(i32x16 acc, i32x16 x, i32x16 y) {
    return acc + both(signs(low(x), low(y)), signs(high(x), high(y)));
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

/// All dialects.
static DIALECTS: [Dialect; 7] = [
    Dialect { name: "avx512vnni", lanes: 16, rows: avx512::VNNI, prelude: avx512::PRELUDE, form: None },
    Dialect { name: "avx512", lanes: 16, rows: avx512::ROWS, prelude: avx512::PRELUDE_BYTES, form: None },
    Dialect { name: "avxvnni", lanes: 16, rows: avxvnni::ROWS, prelude: avxvnni::PRELUDE, form: None },
    Dialect { name: "avx2", lanes: 16, rows: AVX2, prelude: AVX2_PRELUDE, form: None },
    Dialect { name: "neon", lanes: 16, rows: neon::ROWS, prelude: neon::PRELUDE, form: None },
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
        for (i, o) in operands.iter().enumerate() {
            text = text.replace(&format!("${i}"), o);
        }
        text
    }
}
