//! The dialect tables: which builtins a target has, and how each compiler spells them.

mod avx2;
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
    /// Lanes of 32 bits in a vector; 1 means scalar loops. Wider lane loops are several vectors.
    pub lanes: i64,
    /// Vector registers.
    pub registers: i64,
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
    Row { name: "atan", gcc: "__builtin_atanf($0)", clang: "__builtin_atanf($0)" },
    Row { name: "pow", gcc: "__builtin_powf($0, $1)", clang: "__builtin_powf($0, $1)" },
    Row { name: "sqrt_f64", gcc: "__builtin_sqrt($0)", clang: "__builtin_sqrt($0)" },
    Row { name: "sin_f64", gcc: "__builtin_sin($0)", clang: "__builtin_sin($0)" },
    Row { name: "cos_f64", gcc: "__builtin_cos($0)", clang: "__builtin_cos($0)" },
    Row { name: "log_f64", gcc: "__builtin_log($0)", clang: "__builtin_log($0)" },
    Row { name: "floor_f64", gcc: "__builtin_floor($0)", clang: "__builtin_floor($0)" },
    Row { name: "atan_f64", gcc: "__builtin_atan($0)", clang: "__builtin_atan($0)" },
    Row { name: "pow_f64", gcc: "__builtin_pow($0, $1)", clang: "__builtin_pow($0, $1)" },
    Row { name: "exp_f64", gcc: "__builtin_exp($0)", clang: "__builtin_exp($0)" },
    Row { name: "tanh_f64", gcc: "__builtin_tanh($0)", clang: "__builtin_tanh($0)" },
    Row { name: "round_f64", gcc: "__builtin_rint($0)", clang: "__builtin_rint($0)" },
    Row { name: "convert", gcc: "__builtin_convertvector($0)", clang: "__builtin_convertvector($0)" },
    Row { name: "copy", gcc: "__builtin_memcpy($0, $1, $2)", clang: "__builtin_memcpy($0, $1, $2)" },
    Row { name: "prefetch", gcc: "__builtin_prefetch($0, 0, 2)", clang: "__builtin_prefetch($0, 0, 2)" },
    Row { name: "prefetch_near", gcc: "__builtin_prefetch($0)", clang: "__builtin_prefetch($0)" },
];

/// All dialects.
static DIALECTS: [Dialect; 8] = [
    Dialect {
        name: "avx512bf16",
        lanes: 16,
        registers: 32,
        rows: avx512::BF16,
        prelude: avx512::PRELUDE_BF16,
        form: None,
    },
    Dialect {
        name: "avx512vnni",
        lanes: 16,
        registers: 32,
        rows: avx512::VNNI,
        prelude: avx512::PRELUDE,
        form: None,
    },
    Dialect {
        name: "avx512",
        lanes: 16,
        registers: 32,
        rows: avx512::ROWS,
        prelude: avx512::PRELUDE_BYTES,
        form: None,
    },
    Dialect {
        name: "avxvnni",
        lanes: 8,
        registers: 16,
        rows: avxvnni::ROWS,
        prelude: avxvnni::PRELUDE,
        form: None,
    },
    Dialect { name: "avx2", lanes: 8, registers: 16, rows: avx2::ROWS, prelude: avx2::PRELUDE, form: None },
    Dialect { name: "neon", lanes: 4, registers: 32, rows: neon::ROWS, prelude: neon::PRELUDE, form: None },
    Dialect { name: "portable", lanes: 1, registers: 0, rows: &[], prelude: "", form: None },
    Dialect { name: "hls", lanes: 1, registers: 0, rows: &[], prelude: "", form: Some(&crate::hls::Hls) },
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

    /// Whether the target multiplies and adds in one operation, which the compiler is told to make of a product in a sum.
    pub(crate) fn fused(&self) -> bool {
        self.lanes > 1
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
