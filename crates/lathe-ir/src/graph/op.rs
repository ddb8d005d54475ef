//! The shape of an operator's row, and what its lowering is given.

use super::{Attrs, Gradient, Graph, Type};
use crate::encoding::{Coded, Decode, Encoding};
use crate::tensor::{Axis, Binary, Buffer, Expr, Fact, HOST, Stmt};
use crate::{DType, Int, IrError, Name, Tensor};

/// How an operator's iterations are made; schedules by rule start from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Each element of the result from the same element of the arguments (broadcast: axes that lack in front or are 1 are repeated).
    Elementwise,
    /// Each row of the result from the same row of the arguments.
    Row,
    /// Sums of products.
    Contraction,
    /// Softmax-weighted sums of values, dense or over a page table.
    Attention,
    /// A change of layout.
    Copy,
    /// Any other loops; stands alone.
    Nest,
}

/// The form of an operator on arguments of these types.
pub type FormOf = fn(&[Type], &Attrs) -> Form;

impl Form {
    /// Always [`Form::Elementwise`].
    pub const ELEMENTWISE: FormOf = |_, _| Form::Elementwise;
    /// Always [`Form::Row`].
    pub const ROW: FormOf = |_, _| Form::Row;
    /// Always [`Form::Contraction`].
    pub const CONTRACTION: FormOf = |_, _| Form::Contraction;
    /// Always [`Form::Attention`].
    pub const ATTENTION: FormOf = |_, _| Form::Attention;
    /// Always [`Form::Copy`].
    pub const COPY: FormOf = |_, _| Form::Copy;
    /// Always [`Form::Nest`].
    pub const NEST: FormOf = |_, _| Form::Nest;
}

/// A row of the operator table: everything the rooms need to know of one operator.
pub struct OpRow {
    /// Its name.
    pub name: &'static str,
    /// One sentence, with shapes.
    pub doc: &'static str,
    /// Iteration form, from the types of the arguments and the attributes.
    pub form: FormOf,
    /// `(argument, result)` pairs where a linear argument is updated in place.
    pub donates: &'static [(usize, usize)],
    /// Types of the results; an error message when the arguments do not fit.
    pub infer: fn(&[Type], &Attrs) -> Result<Vec<Type>, String>,
    /// The meaning: slow, obvious, in f64 where rounding matters.
    pub reference: fn(&[Tensor], &Attrs, &[Type]) -> Vec<Tensor>,
    /// The naive loops.
    pub lower: fn(&Lowering) -> Vec<Stmt>,
    /// What holds of arguments and results beyond their types: indirect axes, and facts that let the loops read and write
    /// without checks ([`crate::tensor::inside`]).
    pub edge: fn(&Lowering) -> Edge,
    /// The gradients of its arguments; `None` where there are none (integers, state), or none yet.
    pub gradient: Option<Gradient>,
    /// Arguments for a test, from a seed.
    pub sample: fn(u64) -> (Vec<Tensor>, Attrs),
}

impl OpRow {
    /// Its form on its first sample.
    pub fn sample_form(&self) -> Form {
        let (args, attrs) = (self.sample)(0);
        (self.form)(&args.iter().map(Type::of).collect::<Vec<_>>(), &attrs)
    }

    /// A graph of the operator alone on the arguments of a sample, which are its first values (`a0`, `a1`, ...), and the
    /// arguments; an error when a row does not take its own sample.
    pub fn sample_graph(&self, table: &OpTable, seed: u64) -> Result<(Graph, Vec<Tensor>), IrError> {
        let (args, attrs) = (self.sample)(seed);
        let mut g = Graph::new(self.name, &[]);
        let ins: Vec<_> =
            args.iter().enumerate().map(|(i, t)| g.input(&format!("a{i}"), Type::of(t))).collect();
        let attrs: Vec<_> = attrs.iter().map(|(n, a)| (&**n, a.clone())).collect();
        g.outputs = g.apply(table, self.name, &ins, &attrs)?;
        Ok((g, args))
    }
}

/// The indirect axes of an operator's loops, and the facts of its index operands: established by the operator that makes
/// them, else checked when the kernel is called.
#[derive(Clone, Debug, Default)]
pub struct Edge {
    /// Axes that the loops run over.
    pub axes: Vec<Axis>,
    /// Facts by operand: arguments first, then results.
    pub facts: Vec<(usize, Fact)>,
}

impl Edge {
    /// No indirection.
    pub fn none(_: &Lowering) -> Edge {
        Edge::default()
    }

    /// Every element of an operand is in `[0, hi)`.
    pub fn below(operand: usize, hi: Int) -> Edge {
        Edge::default().and_below(operand, hi)
    }

    /// As well: every element of an operand is in `[0, hi)`.
    pub fn and_below(self, operand: usize, hi: Int) -> Edge {
        self.and(operand, Fact::Range(0.into(), hi))
    }

    /// As well: a fact of an operand.
    pub fn and(mut self, operand: usize, fact: Fact) -> Edge {
        self.facts.push((operand, fact));
        self
    }
}

/// The operators, by name.
pub struct OpTable {
    rows: Vec<&'static OpRow>,
}

impl OpTable {
    /// A table of these rows.
    pub fn new(rows: Vec<&'static OpRow>) -> OpTable {
        OpTable { rows }
    }

    /// The row of a name.
    pub fn get(&self, name: &str) -> Option<&'static OpRow> {
        self.rows.iter().find(|r| r.name == name).copied()
    }

    /// All rows.
    pub fn rows(&self) -> &[&'static OpRow] {
        &self.rows
    }
}

/// A tensor as a lowering sees it: named storage with a type.
#[derive(Clone, Debug)]
pub struct Operand {
    /// Name of the parameter or temporary.
    pub name: Name,
    /// Its type.
    pub ty: Type,
}

impl Operand {
    /// The storage's views: one with the operand's name, or one a field.
    pub fn views(&self) -> Vec<Buffer> {
        match self.ty.storage() {
            None => vec![Buffer::dense(&self.name, self.ty.dtype, &self.ty.shape, HOST)],
            Some(e) => e
                .fields
                .iter()
                .map(|f| Buffer {
                    name: self.field(&f.name),
                    dtype: f.dtype,
                    shape: Encoding::field_shape(f, &self.ty.shape),
                    layout: f.layout.clone(),
                    memory: HOST.into(),
                    facts: vec![],
                })
                .collect(),
        }
    }

    /// The name of the view of a field.
    pub fn field(&self, field: &str) -> Name {
        format!("{}_{field}", self.name).into()
    }

    /// An element of a field; `index` is the tensor's.
    pub fn read_field(&self, field: &str, index: &[Expr]) -> Expr {
        let e = self.ty.storage().expect("an encoded operand");
        let group = e.field(field).expect("a field of the encoding").group;
        let mut index = index.to_vec();
        if let Some(last) = index.last_mut()
            && group > 1
        {
            *last = last.clone() / group;
        }
        Expr::load(&self.field(field), &index)
    }

    /// The value of an element, decoded to the logical type.
    pub fn read(&self, index: &[Expr]) -> Expr {
        let Some(e) = self.ty.storage() else { return Expr::load(&self.name, index) };
        let t = self.ty.dtype;
        let Decode::Coded(c) = e.decode else {
            let q = self.read_field("q", index);
            return if e.field("q").is_some_and(|f| f.dtype == t) { q } else { q.cast(t) };
        };
        let code = self.code(&e, &c, index);
        let code = if c.zero == 0 { code } else { code - Expr::int(c.zero, DType::I32) };
        let value = match self.scale(&e, &c, index) {
            Some(scale) => scale * code.cast(t),
            None => code.cast(t),
        };
        match self.minimum(&e, index) {
            Some((m, true)) => value - m,
            Some((m, false)) => value + m,
            None => value,
        }
    }

    /// A field as an i32, with another above its bits where there is one.
    fn joined(&self, e: &Encoding, low: &str, high: &str, index: &[Expr]) -> Option<Expr> {
        let bits = e.field(low)?.dtype.bits();
        let low = self.read_field(low, index).cast(DType::I32);
        if e.field(high).is_none() {
            return Some(low);
        }
        let high = self.read_field(high, index).cast(DType::I32);
        Some(low.bin(Binary::Or, &high.bin(Binary::Shl, &Expr::int(bits, DType::I32))))
    }

    /// The integer code of an element, as an i32: its level where there are some, zero not subtracted.
    pub fn code(&self, e: &Encoding, c: &Coded, index: &[Expr]) -> Expr {
        let code = self.joined(e, "q", "h", index).expect("codes");
        c.levels.map_or(code.clone(), |l| code.table(Coded::level_type(l), l).cast(DType::I32))
    }

    /// The scale of an element; none where codes have no scale.
    pub fn scale(&self, e: &Encoding, c: &Coded, index: &[Expr]) -> Option<Expr> {
        let d = self.block_scale(e, index)?;
        Some(match self.factor(e, c, index) {
            Some(s) => d * s.cast(self.ty.dtype),
            None => d,
        })
    }

    /// What the scales of a block have in common; none where codes have no scale.
    pub fn block_scale(&self, e: &Encoding, index: &[Expr]) -> Option<Expr> {
        e.field("d").map(|_| self.float(e, "d", index))
    }

    /// The integer by which a group's scale is a multiple of its block's, as an i32.
    pub fn factor(&self, e: &Encoding, c: &Coded, index: &[Expr]) -> Option<Expr> {
        let s = self.joined(e, "s", "t", index)?;
        Some(if c.scale_zero == 0 { s } else { s - Expr::int(c.scale_zero, DType::I32) })
    }

    /// The minimum of an element, and whether it is subtracted.
    pub fn minimum(&self, e: &Encoding, index: &[Expr]) -> Option<(Expr, bool)> {
        if e.field("m").is_some() {
            return Some((self.float(e, "m", index), false));
        }
        let (unit, n) = self.minimum_factor(e, index)?;
        Some((unit * n.cast(self.ty.dtype), true))
    }

    /// The unit of the minima of a block, which are subtracted, and the integer by which a group's is a multiple of it, as an i32.
    pub fn minimum_factor(&self, e: &Encoding, index: &[Expr]) -> Option<(Expr, Expr)> {
        let n = self.joined(e, "n", "o", index)?;
        Some((self.float(e, "e", index), n))
    }

    fn float(&self, e: &Encoding, field: &str, index: &[Expr]) -> Expr {
        let v = self.read_field(field, index);
        if e.field(field).is_some_and(|f| f.dtype == self.ty.dtype) { v } else { v.cast(self.ty.dtype) }
    }

    /// A block that stores a value of the logical type to an element (of a dense or plainly encoded tensor).
    pub fn write(&self, block: &str, index: &[Expr], value: Expr) -> Stmt {
        match self.ty.storage() {
            None => Stmt::store(block, &self.name, index, value),
            Some(e) => {
                let stored = e.field("q").expect("a plain encoding").dtype;
                let value = if stored == self.ty.dtype { value } else { value.cast(stored) };
                Stmt::store(block, &self.field("q"), index, value)
            }
        }
    }
}

/// What a lowering is given: its operands and a prefix that keeps its names apart from its neighbours'.
pub struct Lowering {
    /// Arguments.
    pub ins: Vec<Operand>,
    /// Results; a donated result has its argument's name.
    pub outs: Vec<Operand>,
    /// Attributes.
    pub attrs: Attrs,
    /// Prefix of every loop, block and buffer it makes.
    pub prefix: String,
}

impl Lowering {
    /// A name with the prefix.
    pub fn name(&self, n: &str) -> String {
        format!("{}_{n}", self.prefix)
    }

    /// A loop variable with the prefix.
    pub fn var(&self, n: &str) -> Expr {
        Expr::var(&self.name(n))
    }
}
