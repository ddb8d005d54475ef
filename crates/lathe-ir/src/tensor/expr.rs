//! Scalar expressions: persistent trees with sharing.

use crate::{Bounds, DType, Int, Name};
use lathe_symbolic::Atom;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

/// One-argument functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is the function of that name")]
pub enum Unary {
    Neg,
    Abs,
    Not,
    Exp,
    Log,
    Sqrt,
    Sin,
    Cos,
    Atan,
    Tanh,
    Floor,
    /// To the nearest integer, ties to even.
    Round,
}

impl Unary {
    /// All, with their names in the text form.
    pub const ALL: [(Unary, &'static str); 12] = [
        (Unary::Neg, "neg"),
        (Unary::Abs, "abs"),
        (Unary::Not, "not"),
        (Unary::Exp, "exp"),
        (Unary::Log, "log"),
        (Unary::Sqrt, "sqrt"),
        (Unary::Sin, "sin"),
        (Unary::Cos, "cos"),
        (Unary::Atan, "atan"),
        (Unary::Tanh, "tanh"),
        (Unary::Floor, "floor"),
        (Unary::Round, "round"),
    ];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        Unary::ALL.iter().find(|(u, _)| *u == self).map_or("?", |(_, n)| n)
    }
}

/// Two-argument functions. Integer division and remainder round towards minus infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is the function of that name")]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    Min,
    Max,
    /// The power of floats; one of integers is a matter of the caller.
    Pow,
    And,
    Or,
    Xor,
    Shl,
    Shr,
    Lt,
    Le,
    Eq,
    Ne,
}

impl Binary {
    /// All, with their spelling and binding strength (0: written as a function).
    pub const ALL: [(Binary, &'static str, u8); 17] = [
        (Binary::Or, "|", 1),
        (Binary::Xor, "^", 2),
        (Binary::And, "&", 3),
        (Binary::Eq, "==", 4),
        (Binary::Ne, "!=", 4),
        (Binary::Lt, "<", 5),
        (Binary::Le, "<=", 5),
        (Binary::Shl, "<<", 6),
        (Binary::Shr, ">>", 6),
        (Binary::Add, "+", 7),
        (Binary::Sub, "-", 7),
        (Binary::Mul, "*", 8),
        (Binary::Div, "/", 8),
        (Binary::Rem, "%", 8),
        (Binary::Min, "min", 0),
        (Binary::Max, "max", 0),
        (Binary::Pow, "pow", 0),
    ];

    /// Spelling and binding strength.
    pub fn spelling(self) -> (&'static str, u8) {
        Binary::ALL.iter().find(|(b, ..)| *b == self).map_or(("?", 0), |(_, s, p)| (s, *p))
    }

    /// Whether the result is a truth value.
    pub fn is_comparison(self) -> bool {
        matches!(self, Binary::Lt | Binary::Le | Binary::Eq | Binary::Ne)
    }

    /// Whether fixed point has it.
    pub fn of_fixed(self) -> bool {
        use Binary::{Add, Max, Min, Mul, Sub};
        matches!(self, Add | Sub | Mul | Min | Max) || self.is_comparison()
    }
}

/// What an expression is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Node {
    /// An integer constant.
    Int(i64, DType),
    /// A float constant, by the bits of its f64 value.
    Float(u64, DType),
    /// A loop variable or a dimension.
    Var(Name),
    /// One-argument function.
    Unary(Unary, Expr),
    /// Two-argument function, both of one type.
    Binary(Binary, Expr, Expr),
    /// `if c { a } else { b }`, both sides evaluated.
    Select(Expr, Expr, Expr),
    /// Conversion of the value; integers wrap, and floats to integers round towards zero. A float that the integer type does not hold
    /// then (below zero where it has no sign, too large, infinite, no number) becomes some value of the type, and which one is not
    /// specified: compiled code gives what the machine does, and the interpreter wraps (0 for what is no number). Whoever needs one
    /// clamps before.
    Cast(DType, Expr),
    /// The same bits as another type of the same width.
    Bitcast(DType, Expr),
    /// An element of a buffer.
    Load(Name, Vec<Expr>),
    /// The constant at an integer's place in a list, of a type; the integer is never outside.
    Table(DType, Arc<[i64]>, Expr),
}

/// A scalar expression; clones share.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Expr(Arc<Node>);

impl Deref for Expr {
    type Target = Node;
    fn deref(&self) -> &Node {
        &self.0
    }
}

impl From<Node> for Expr {
    fn from(n: Node) -> Expr {
        Expr(Arc::new(n))
    }
}

impl From<i64> for Expr {
    fn from(v: i64) -> Expr {
        Node::Int(v, DType::INDEX).into()
    }
}

impl From<&Int> for Expr {
    fn from(v: &Int) -> Expr {
        Opaque::default().restore(v)
    }
}

impl Expr {
    /// A loop variable or dimension.
    pub fn var(name: &str) -> Expr {
        Node::Var(name.into()).into()
    }

    /// An f32 constant.
    pub fn f32(v: f32) -> Expr {
        Expr::float(f64::from(v), DType::F32)
    }

    /// A float constant of a type.
    pub fn float(v: f64, t: DType) -> Expr {
        Node::Float(v.to_bits(), t).into()
    }

    /// An integer constant of a type.
    pub fn int(v: i64, t: DType) -> Expr {
        Node::Int(v, t).into()
    }

    /// An element of a buffer.
    pub fn load(buffer: &str, index: &[Expr]) -> Expr {
        Node::Load(buffer.into(), index.to_vec()).into()
    }

    /// A one-argument function of this.
    pub fn un(&self, op: Unary) -> Expr {
        Node::Unary(op, self.clone()).into()
    }

    /// A two-argument function of this and another.
    pub fn bin(&self, op: Binary, o: &Expr) -> Expr {
        Node::Binary(op, self.clone(), o.clone()).into()
    }

    /// Conversion.
    pub fn cast(&self, t: DType) -> Expr {
        Node::Cast(t, self.clone()).into()
    }

    /// Same bits, other type.
    pub fn bitcast(&self, t: DType) -> Expr {
        Node::Bitcast(t, self.clone()).into()
    }

    /// Choice.
    pub fn select(c: &Expr, a: &Expr, b: &Expr) -> Expr {
        Node::Select(c.clone(), a.clone(), b.clone()).into()
    }

    /// The constant at this place of a list.
    pub fn table(&self, t: DType, values: &[i64]) -> Expr {
        Node::Table(t, values.into(), self.clone()).into()
    }

    /// The smaller.
    pub fn min_with(&self, o: &Expr) -> Expr {
        self.bin(Binary::Min, o)
    }

    /// The larger.
    pub fn max_with(&self, o: &Expr) -> Expr {
        self.bin(Binary::Max, o)
    }

    /// Direct subexpressions.
    pub fn children(&self) -> Vec<&Expr> {
        match &**self {
            Node::Int(..) | Node::Float(..) | Node::Var(_) => vec![],
            Node::Unary(_, a) | Node::Cast(_, a) | Node::Bitcast(_, a) | Node::Table(_, _, a) => vec![a],
            Node::Binary(_, a, b) => vec![a, b],
            Node::Select(a, b, c) => vec![a, b, c],
            Node::Load(_, i) => i.iter().collect(),
        }
    }

    /// The same node over changed subexpressions.
    pub fn map_children(&self, f: &mut dyn FnMut(&Expr) -> Expr) -> Expr {
        match &**self {
            Node::Int(..) | Node::Float(..) | Node::Var(_) => self.clone(),
            Node::Unary(o, a) => Node::Unary(*o, f(a)).into(),
            Node::Cast(t, a) => Node::Cast(*t, f(a)).into(),
            Node::Bitcast(t, a) => Node::Bitcast(*t, f(a)).into(),
            Node::Table(t, v, a) => Node::Table(*t, v.clone(), f(a)).into(),
            Node::Binary(o, a, b) => Node::Binary(*o, f(a), f(b)).into(),
            Node::Select(a, b, c) => Node::Select(f(a), f(b), f(c)).into(),
            Node::Load(n, i) => Node::Load(n.clone(), i.iter().map(f).collect()).into(),
        }
    }

    /// Bottom-up rewriting: `f` sees each rebuilt node and may replace it.
    pub fn rewrite(&self, f: &dyn Fn(&Expr) -> Option<Expr>) -> Expr {
        let e = self.map_children(&mut |c| c.rewrite(f));
        f(&e).unwrap_or(e)
    }

    /// Calls `f` on this and every subexpression.
    pub fn visit(&self, f: &mut dyn FnMut(&Expr)) {
        f(self);
        for c in self.children() {
            c.visit(f);
        }
    }

    /// Whether a variable occurs.
    pub fn mentions(&self, var: &str) -> bool {
        let mut found = false;
        self.visit(&mut |e| found |= matches!(&**e, Node::Var(n) if &**n == var));
        found
    }

    /// Whether a buffer is loaded from.
    pub fn loads(&self, buffer: &str) -> bool {
        let mut found = false;
        self.visit(&mut |e| found |= matches!(&**e, Node::Load(n, _) if &**n == buffer));
        found
    }

    /// Replaces a variable.
    pub fn substitute(&self, var: &str, by: &Expr) -> Expr {
        self.rewrite(&|e| matches!(&**e, Node::Var(n) if &**n == var).then(|| by.clone()))
    }

    /// The value of an integer constant.
    pub fn as_int(&self) -> Option<i64> {
        match **self {
            Node::Int(v, _) => Some(v),
            _ => None,
        }
    }

    /// Simplifies integer arithmetic in indices and extents with what is known of the variables.
    pub fn simplify_index(&self, b: &Bounds) -> Expr {
        let mut o = Opaque::default();
        match o.int(self, b) {
            Some(i) => o.restore(&i),
            None => self.clone(),
        }
    }
}

macro_rules! operators {
    ($($tr:ident $f:ident),*) => {$(
        impl std::ops::$tr<Expr> for Expr {
            type Output = Expr;
            fn $f(self, o: Expr) -> Expr { self.bin(Binary::$tr, &o) }
        }
        impl std::ops::$tr<&Expr> for &Expr {
            type Output = Expr;
            fn $f(self, o: &Expr) -> Expr { self.bin(Binary::$tr, o) }
        }
        impl std::ops::$tr<i64> for Expr {
            type Output = Expr;
            fn $f(self, o: i64) -> Expr { self.bin(Binary::$tr, &o.into()) }
        }
    )*};
}
operators!(Add add, Sub sub, Mul mul, Div div, Rem rem);

/// The bridge between index expressions and [`Int`]: loads and casts become variables and come back.
#[derive(Default)]
pub struct Opaque {
    atoms: BTreeMap<Name, Expr>,
}

impl Opaque {
    /// Whether a variable hides inside a load or cast met so far.
    pub fn hides(&self, var: &str) -> bool {
        self.atoms.values().any(|e| e.mentions(var))
    }

    /// The load or cast behind a variable.
    pub(crate) fn hidden(&self, var: &str) -> Option<&Expr> {
        self.atoms.get(var)
    }

    /// Whether something holds of every load and cast met so far.
    pub fn hides_only(&self, is: impl Fn(&Expr) -> bool) -> bool {
        self.atoms.values().all(is)
    }

    /// Whether no load or cast was met so far.
    pub fn hides_nothing(&self) -> bool {
        self.atoms.is_empty()
    }

    /// The symbolic integer of an index expression; `None` for what is not integer arithmetic.
    pub fn int(&mut self, e: &Expr, b: &Bounds) -> Option<Int> {
        Some(match &**e {
            Node::Int(v, _) => (*v).into(),
            Node::Var(n) => Int::var(n),
            Node::Binary(op, x, y) => {
                let (x, y) = (self.int(x, b)?, self.int(y, b)?);
                match op {
                    Binary::Add => x + y,
                    Binary::Sub => x - y,
                    Binary::Mul => x * y,
                    Binary::Div => match y.as_const() {
                        Some(c) if c <= 0 => return None,
                        _ => x.div_int(&y, b),
                    },
                    Binary::Rem => match y.as_const() {
                        Some(c) if c <= 0 => return None,
                        _ => x.rem_int(&y, b),
                    },
                    Binary::Min => x.min_with(&y, b),
                    Binary::Max => x.max_with(&y, b),
                    _ => return None,
                }
            }
            Node::Load(..) | Node::Cast(..) => {
                let inner = e.map_children(&mut |c| c.simplify_index(b));
                let name: Name = format!("${inner}").into();
                self.atoms.insert(name.clone(), inner);
                Int::var(&name)
            }
            _ => return None,
        })
    }

    /// The expression of a symbolic integer.
    pub fn restore(&self, i: &Int) -> Expr {
        let mut sum: Option<Expr> = None;
        for (atoms, c) in i.terms() {
            let mut prod: Option<Expr> = None;
            for a in atoms {
                let a = self.atom(a);
                prod = Some(prod.map_or(a.clone(), |p| p * a));
            }
            let Some(mut p) = prod else { continue };
            if c.unsigned_abs() != 1 {
                p = p * c.wrapping_abs();
            }
            sum = Some(match (sum, c < 0) {
                (Some(s), true) => s - p,
                (Some(s), false) => s + p,
                (None, true) => Expr::from(0) - p,
                (None, false) => p,
            });
        }
        match (sum, i.constant()) {
            (None, c) => c.into(),
            (Some(s), 0) => s,
            (Some(s), c) if c < 0 => s - c.wrapping_neg(),
            (Some(s), c) => s + c,
        }
    }

    fn atom(&self, a: &Atom) -> Expr {
        let two = |op: Binary, x: &Int, y: &Int| self.restore(x).bin(op, &self.restore(y));
        match a {
            Atom::Var(n) => self.atoms.get(n).cloned().unwrap_or_else(|| Expr::var(n)),
            Atom::Div(x, y) => two(Binary::Div, x, y),
            Atom::Rem(x, y) => two(Binary::Rem, x, y),
            Atom::Min(x, y) => two(Binary::Min, x, y),
            Atom::Max(x, y) => two(Binary::Max, x, y),
        }
    }
}
