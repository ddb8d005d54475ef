//! The text of a project: the kernel, and a testbench that reads the stored bits of every element of every argument in
//! hexadecimal, runs the kernel, and prints those of its results.

use crate::HardwareError;
use lathe_codegen::{CodegenError, Dialect, emit, prelude};
use lathe_ir::DType;
use lathe_ir::tensor::{Access, Kernel};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// A kernel in HLS C++ and its testbench.
#[derive(Clone, Debug)]
pub struct Project {
    pub(crate) arguments: Vec<Argument>,
    kernel: String,
    testbench: String,
}

/// An argument as the testbench passes it.
#[derive(Clone, Debug)]
pub(crate) struct Argument {
    pub name: String,
    /// Width of an element.
    pub bits: i64,
    pub elements: i64,
    pub is_result: bool,
}

/// How the testbench gets at the bits of an element.
const BITS: &str = "
#include <cstdio>
#include <cstring>
typedef unsigned long long Bits;
template <class T> struct Element {
  static void set(T &v, Bits b) { v.range() = b; }
  static Bits get(T &v) { return v.range().to_uint64(); }
};
template <class T> struct Plain {
  static void set(T &v, Bits b) { memcpy(&v, &b, sizeof v); }
  static Bits get(T &v) { Bits b = 0; memcpy(&b, &v, sizeof v); return b; }
};
template <> struct Element<float> : Plain<float> {};
template <> struct Element<double> : Plain<double> {};
template <> struct Element<i64> : Plain<i64> {};
template <class T> static bool take(T *v, long n) {
  for (long i = 0; i < n; i++) {
    Bits b;
    if (scanf(\"%llx\", &b) != 1) return false;
    Element<T>::set(v[i], b);
  }
  return true;
}
template <class T> static void give(T *v, long n) {
  for (long i = 0; i < n; i++) printf(\"%llx\\n\", Element<T>::get(v[i]));
}
";

impl Project {
    /// The project of a kernel without dimensions.
    pub fn new(kernel: &Kernel) -> Result<Project, HardwareError> {
        let fail = |message: String| CodegenError { kernel: kernel.name.to_string(), message };
        let dialect = Dialect::named("hls").ok_or_else(|| fail("there is no dialect 'hls'".into()))?;
        let source = emit(kernel, &kernel.name, dialect)?.source;
        let (mut arguments, mut declared, mut body, mut results) =
            (vec![], String::new(), String::new(), String::new());
        let mut passed = vec![];
        for p in &kernel.params {
            let v = &p.views[0];
            let shape = v.shape.iter().map(|d| d.as_const()).collect::<Option<Vec<_>>>();
            let shape = shape.ok_or_else(|| fail(format!("'{}' has no constant shape", p.name)))?;
            let (name, t, n) =
                (p.name.replace('.', "_"), dialect.type_name(v.dtype), shape.iter().product::<i64>());
            let sizes: String = shape.iter().map(|d| format!("[{d}]")).collect();
            let is_result = p.access != Access::In;
            let first = if shape.is_empty() { format!("&{name}") } else { format!("({t} *){name}") };
            writeln!(declared, "static {t} {name}{sizes};").expect("a string takes all");
            writeln!(body, "  if (!take({first}, {n})) return 1;").expect("a string takes all");
            if is_result {
                writeln!(results, "  give({first}, {n});").expect("a string takes all");
            }
            let bits = if v.dtype == DType::INDEX { 64 } else { v.dtype.bits() };
            arguments.push(Argument { name: p.name.to_string(), bits, elements: n, is_result });
            passed.push(name);
        }
        let call = format!("  {}({});\n", kernel.name, passed.join(", "));
        let testbench = format!(
            "#include \"kernel.cpp\"\n{BITS}\n{declared}\nint main() {{\n{body}{call}{results}  return 0;\n}}\n"
        );
        Ok(Project { arguments, kernel: prelude(dialect, "") + "\n" + &source, testbench })
    }

    /// The text of `kernel.cpp`.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// The text of `testbench.cpp`.
    pub fn testbench(&self) -> &str {
        &self.testbench
    }

    /// Writes both files to a folder.
    pub fn write(&self, folder: &Path) -> Result<(), HardwareError> {
        fs::create_dir_all(folder).map_err(HardwareError::file("make", folder))?;
        for (name, text) in [("kernel.cpp", &self.kernel), ("testbench.cpp", &self.testbench)] {
            let path = folder.join(name);
            fs::write(&path, text).map_err(HardwareError::file("write", &path))?;
        }
        Ok(())
    }
}
