//! Programs in the script form of another compiler, TVM, with their arguments and what the interpreter makes of them: what it is
//! given to be wrong about. `bench/peers/tvm_fuzz.py` runs them there, under schedules of its own.
//!
//! Sizes are numbers there, a temporary inside loops has a dimension for each of them, and a block says which of its loops are
//! independent: those that pick what it writes.

use crate::arguments::bytes;
use crate::oracle::Code;
use lathe_ir::tensor::{
    Access, Binary, Buffer, Expr, For, Iter, Kernel, Node, Stmt, Store, Unary, expr_type, rename_vars,
};
use lathe_ir::{Bounds, DType, Layout, Name};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

/// Element types that both have, and their names there; they are those of numpy.
const TYPES: [(DType, &str); 9] = [
    (DType::F32, "float32"),
    (DType::F64, "float64"),
    (DType::I8, "int8"),
    (DType::int(16), "int16"),
    (DType::I32, "int32"),
    (DType::INDEX, "int64"),
    (DType::U8, "uint8"),
    (DType::uint(16), "uint16"),
    (DType::U32, "uint32"),
];

fn type_name(t: DType) -> Option<&'static str> {
    TYPES.iter().find(|(own, _)| *own == t).map(|(_, n)| *n)
}

/// A program there.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    /// Its text.
    pub text: String,
    /// Its arguments, in order.
    pub arrays: Vec<Array>,
}

/// An argument.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// The type of its elements, as numpy names it.
    pub dtype: &'static str,
    /// Its extents.
    pub shape: Vec<i64>,
    /// Its bytes before the program runs, and after.
    pub bytes: [Vec<u8>; 2],
}

impl Array {
    /// The bytes as a file of numpy; `turn` 0 is before the program runs, 1 after.
    pub fn npy(&self, turn: usize) -> Vec<u8> {
        let code = match self.dtype.split_at(self.dtype.find(|c: char| c.is_ascii_digit()).unwrap_or(0)) {
            ("float", bits) => format!("f{}", bits.parse().unwrap_or(0) / 8),
            ("int", bits) => format!("i{}", bits.parse().unwrap_or(0) / 8),
            (_, bits) => format!("u{}", bits.parse().unwrap_or(0) / 8),
        };
        let shape = tuple(&self.shape);
        let header = format!("{{'descr': '<{code}', 'fortran_order': False, 'shape': {shape}, }}");
        let length = (header.len() + 11).next_multiple_of(64) - 10;
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend((length as u16).to_le_bytes());
        out.extend(format!("{header:<0$}\n", length - 1).bytes());
        out.extend(&self.bytes[turn]);
        out
    }
}

/// A temporary or a parameter there: its name, and the loops that it has dimensions for.
struct Place {
    name: String,
    loops: Vec<Name>,
}

struct Writer {
    kernel: Kernel,
    places: HashMap<Name, Place>,
    /// Declarations of temporaries.
    declared: String,
    out: String,
    /// Loops around, their variables there, and their extents.
    loops: Vec<(Arc<For>, String, i64)>,
    conditions: Vec<Expr>,
    number: usize,
}

/// The script of a program for the sizes and arguments of a run; nothing where it says what the other one has no words for.
pub fn script(code: &Code) -> Option<Script> {
    let sizes: HashMap<&str, Expr> = code.sizes.iter().map(|(n, v)| (&**n, Expr::from(*v))).collect();
    let get = |n: &str| code.sizes.iter().find(|(d, _)| &**d == n).map(|(_, v)| *v);
    let kernel = Kernel { body: rename_vars(&code.kernel.body, &sizes), ..code.kernel.clone() };
    let (mut arrays, mut signature) = (vec![], vec![]);
    let mut w = Writer {
        kernel,
        places: HashMap::new(),
        declared: String::new(),
        out: String::new(),
        loops: vec![],
        conditions: vec![],
        number: 0,
    };
    for (i, p) in code.kernel.params.iter().enumerate() {
        let [v] = p.views.as_slice() else { return None };
        (v.layout == Layout::dense(v.dtype, &v.shape)).then_some(())?;
        let shape: Vec<i64> = v.shape.iter().map(|d| d.eval(&get)).collect::<Option<_>>()?;
        let n = bytes(p, &code.sizes)?;
        let of = |m: &lathe_ir::tensor::Memory| Some(m.params[&p.name].as_slice().get(..n)?.to_vec());
        let after = if p.access == Access::In { of(&code.before)? } else { of(&code.after)? };
        let name = format!("p{i}");
        signature.push(format!("{name}: T.Buffer({}, \"{}\")", tuple(&shape), type_name(v.dtype)?));
        w.places.insert(v.name.clone(), Place { name, loops: vec![] });
        arrays.push(Array { dtype: type_name(v.dtype)?, shape, bytes: [of(&code.before)?, after] });
    }
    let body = w.kernel.body.clone();
    w.body(&body, &get, 1)?;
    let text = format!(
        "@T.prim_func(s_tir=True)\ndef main({}):\n    T.func_attr({{\"tirx.noalias\": True}})\n{}{}",
        signature.join(", "),
        w.declared,
        w.out
    );
    Some(Script { text, arrays })
}

/// A shape there: what has no dimensions has one element in one.
fn tuple(shape: &[i64]) -> String {
    let shape = if shape.is_empty() { &[1] } else { shape };
    let all: String = shape.iter().map(|d| format!("{d}, ")).collect();
    format!("({})", all.trim_end())
}

impl Writer {
    fn fresh(&mut self, of: &str) -> String {
        self.number += 1;
        format!("{of}{}", self.number)
    }

    fn body(&mut self, body: &[Stmt], get: &dyn Fn(&str) -> Option<i64>, depth: usize) -> Option<()> {
        for s in body {
            match s {
                Stmt::For(l) => {
                    let n = l.extent.simplify_index(&Bounds::default()).as_int().filter(|n| *n > 0)?;
                    let var = self.fresh("i");
                    let start = self.out.len();
                    writeln!(self.out, "{}for {var} in range({n}):", "    ".repeat(depth)).ok()?;
                    let inside = self.out.len();
                    self.loops.push((l.clone(), var, n));
                    self.body(&l.body, get, depth + 1)?;
                    self.loops.pop();
                    if self.out.len() == inside {
                        // A loop around nothing has no words there.
                        self.out.truncate(start);
                    }
                }
                Stmt::If(c, body) => {
                    // Each block there asks for itself, and one before might have changed what is asked.
                    let mut reads = false;
                    c.visit(&mut |e| reads |= matches!(&**e, Node::Load(..)));
                    (!reads || matches!(body.as_slice(), [Stmt::Store(_)])).then_some(())?;
                    self.conditions.push(c.clone());
                    self.body(body, get, depth)?;
                    self.conditions.pop();
                }
                Stmt::Alloc(b) => self.temporary(b, get)?,
                Stmt::Store(b) => self.block(b, depth)?,
                Stmt::Intrinsic(..) => return None,
            }
        }
        Some(())
    }

    fn temporary(&mut self, b: &Buffer, get: &dyn Fn(&str) -> Option<i64>) -> Option<()> {
        (b.layout == Layout::dense(b.dtype, &b.shape)).then_some(())?;
        let own: Vec<i64> = b.shape.iter().map(|d| d.eval(get)).collect::<Option<_>>()?;
        let mut shape: Vec<i64> = self.loops.iter().map(|(.., n)| *n).collect();
        shape.extend(own);
        let name = self.fresh("t");
        let t = type_name(b.dtype)?;
        writeln!(self.declared, "    {name} = T.sblock_alloc_buffer({}, \"{t}\")", tuple(&shape)).ok()?;
        let loops = self.loops.iter().map(|(l, ..)| l.var.clone()).collect();
        self.places.insert(b.name.clone(), Place { name, loops });
        Some(())
    }

    fn block(&mut self, b: &Store, depth: usize) -> Option<()> {
        let ([(target, index)], [value]) = (b.targets.as_slice(), b.values.as_slice()) else { return None };
        let before = Expr::load(target, index);
        let value = match b.reducer {
            Some(r) => r.combine(&[before], std::slice::from_ref(value)).pop()?,
            None => value.clone(),
        };
        let mut pad = "    ".repeat(depth);
        let name = self.fresh("s");
        writeln!(self.out, "{pad}with T.sblock(\"{name}\"):").ok()?;
        pad += "    ";
        let place = &self.places[target];
        for (l, var, n) in &self.loops {
            let picks = place.loops.contains(&l.var) || index.iter().any(|i| i.mentions(&l.var));
            let kind = match l.iter {
                Iter::Spatial if picks => "spatial",
                Iter::Reduce if b.reducer.is_some() && !picks => "reduce",
                _ => "opaque",
            };
            writeln!(self.out, "{pad}v{var} = T.axis.{kind}({n}, {var})").ok()?;
        }
        if self.loops.is_empty() {
            writeln!(self.out, "{pad}vi = T.axis.spatial(1, 0)").ok()?;
        }
        for c in self.conditions.clone() {
            let c = self.expr(&c)?;
            writeln!(self.out, "{pad}if {c}:").ok()?;
            pad += "    ";
        }
        let (at, value) = (self.element(target, index)?, self.expr(&value)?);
        let t = type_name(self.kernel_type(target)?)?;
        writeln!(self.out, "{pad}{at} = T.Cast(\"{t}\", {value})").ok()
    }

    fn kernel_type(&self, name: &str) -> Option<DType> {
        Some(self.kernel.buffer(name)?.dtype)
    }

    fn element(&self, name: &Name, index: &[Expr]) -> Option<String> {
        let place = self.places.get(name)?;
        let var =
            |v: &Name| self.loops.iter().find(|(l, ..)| l.var == *v).map(|(_, var, _)| format!("v{var}"));
        let mut all: Vec<String> = place.loops.iter().map(var).collect::<Option<_>>()?;
        for i in index {
            all.push(self.expr(i)?);
        }
        if all.is_empty() {
            all.push("0".into());
        }
        Some(format!("{}[{}]", place.name, all.join(", ")))
    }

    fn dtype(&self, e: &Expr) -> Option<DType> {
        expr_type(e, &|n| self.kernel_type(n))
    }

    fn expr(&self, e: &Expr) -> Option<String> {
        let of = |e: &Expr| self.expr(e);
        Some(match &**e {
            // Indices there are 32 bits wide.
            Node::Int(v, DType::INDEX) if i32::try_from(*v).is_ok() => format!("T.int32({v})"),
            Node::Int(v, t) => format!("T.{}({v})", type_name(*t)?),
            Node::Float(bits, t) => {
                let v = f64::from_bits(*bits);
                let text = if v.is_finite() { format!("{v:?}") } else { format!("\"{v}\"") };
                format!("T.{}({text})", type_name(*t)?)
            }
            Node::Var(n) => {
                let (_, var, _) = self.loops.iter().find(|(l, ..)| l.var == *n)?;
                format!("v{var}")
            }
            Node::Unary(f, x) => match f {
                Unary::Neg => format!("(-{})", of(x)?),
                Unary::Abs => format!("T.abs({})", of(x)?),
                Unary::Floor => format!("T.floor({})", of(x)?),
                Unary::Round => format!("T.nearbyint({})", of(x)?),
                _ => return None,
            },
            Node::Binary(f, x, y) => {
                let (a, b, t) = (of(x)?, of(y)?, self.dtype(x)?);
                let truth = t == DType::uint(1);
                // Truths are no numbers there.
                let logic = [Binary::And, Binary::Or, Binary::Eq, Binary::Ne];
                (!truth || logic.contains(f)).then_some(())?;
                let constant = || y.as_int().filter(|n| (0..t.bits()).contains(n));
                match f {
                    Binary::Add => format!("({a} + {b})"),
                    Binary::Sub => format!("({a} - {b})"),
                    Binary::Mul => format!("({a} * {b})"),
                    Binary::Div if t.is_float() => format!("({a} / {b})"),
                    Binary::Div => {
                        y.as_int().filter(|n| *n > 0)?;
                        format!("T.floordiv({a}, {b})")
                    }
                    Binary::Rem if t.is_int() => {
                        y.as_int().filter(|n| *n > 0)?;
                        format!("T.floormod({a}, {b})")
                    }
                    Binary::Min => format!("T.min({a}, {b})"),
                    Binary::Max => format!("T.max({a}, {b})"),
                    Binary::And if truth => format!("T.And({a}, {b})"),
                    Binary::Or if truth => format!("T.Or({a}, {b})"),
                    Binary::And => format!("T.bitwise_and({a}, {b})"),
                    Binary::Or => format!("T.bitwise_or({a}, {b})"),
                    Binary::Xor => format!("T.bitwise_xor({a}, {b})"),
                    Binary::Shl => {
                        constant()?;
                        format!("T.shift_left({a}, {b})")
                    }
                    Binary::Shr => {
                        constant()?;
                        format!("T.shift_right({a}, {b})")
                    }
                    Binary::Lt => format!("({a} < {b})"),
                    Binary::Le => format!("({a} <= {b})"),
                    Binary::Eq => format!("({a} == {b})"),
                    Binary::Ne => format!("({a} != {b})"),
                    Binary::Rem | Binary::Pow => return None,
                }
            }
            Node::Select(c, x, y) => format!("T.Select({}, {}, {})", of(c)?, of(x)?, of(y)?),
            // A float outside of an integer's range has no meaning there.
            Node::Cast(t, x) if self.dtype(x)?.is_float() && !t.is_float() && *t != DType::I32 => {
                return None;
            }
            Node::Cast(t, x) => format!("T.Cast(\"{}\", {})", type_name(*t)?, of(x)?),
            Node::Load(n, i) => self.element(n, i)?,
            Node::Bitcast(..) | Node::Table(..) => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Case, Judge};

    #[test]
    fn a_program_says_the_same_there() {
        let k = lathe_ir::tensor::parse(
            "kernel f(n) {
  in x: f32[n, 2]
  out y: f32[n]
  for i in n spatial serial {
    alloc s: f32[] on register
    Z: s[] = 0f32
    for k in 2 reduce serial {
      S: s[] sum = x[i, k]
    }
    if i < 3 {
      W: y[i] = s[] * 0.5f32
    }
  }
}",
        )
        .expect("a kernel");
        let mut case = Case::new(k);
        case.sizes = vec![("n".into(), 4)];
        let codes = Judge::default().judge(&case).expect("nothing is found");
        let s = script(&codes[0]).expect("there are words for it");
        let expected = "@T.prim_func(s_tir=True)
def main(p0: T.Buffer((4, 2,), \"float32\"), p1: T.Buffer((4,), \"float32\")):
    T.func_attr({\"tirx.noalias\": True})
    t2 = T.sblock_alloc_buffer((4,), \"float32\")
    for i1 in range(4):
        with T.sblock(\"s3\"):
            vi1 = T.axis.spatial(4, i1)
            t2[vi1] = T.Cast(\"float32\", T.float32(0.0))
        for i4 in range(2):
            with T.sblock(\"s5\"):
                vi1 = T.axis.spatial(4, i1)
                vi4 = T.axis.reduce(2, i4)
                t2[vi1] = T.Cast(\"float32\", (t2[vi1] + p0[vi1, vi4]))
        with T.sblock(\"s6\"):
            vi1 = T.axis.spatial(4, i1)
            if (vi1 < T.int32(3)):
                p1[vi1] = T.Cast(\"float32\", (t2[vi1] * T.float32(0.5)))
";
        assert_eq!(s.text, expected);
        let floats = |b: &[u8]| -> Vec<f32> {
            b.chunks(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
        };
        let (x, y) = (floats(&s.arrays[0].bytes[1]), floats(&s.arrays[1].bytes[1]));
        assert!((0..3).all(|i| y[i] == (x[2 * i] + x[2 * i + 1]) * 0.5));
        assert_eq!(s.arrays[1].bytes[0][12..], s.arrays[1].bytes[1][12..], "nobody writes the last one");
        let file = s.arrays[0].npy(0);
        assert!(file.len() == 128 + 32 || file.len() == 64 + 32, "{}", file.len());
        assert!(file.ends_with(&s.arrays[0].bytes[0]));
    }
}
