//! Scalar expressions: text for indices, a named temporary for everything that costs an instruction.

use crate::emit::{CodegenError, Emitter, Place, c_type, ident};
use crate::legalize::{legalize, narrow};
use crate::registers::Kind;
use lathe_ir::tensor::{Binary, Expr, Fact, Node, Opaque, Store, Unary};
use lathe_ir::{DType, Int, Name, encode_bits};

impl Emitter<'_> {
    /// C text of a scalar expression.
    pub fn scalar(&mut self, e: &Expr) -> Result<String, CodegenError> {
        match &**e {
            Node::Int(_, t @ DType::Fixed { .. })
            | Node::Float(_, t @ DType::Fixed { .. })
            | Node::Cast(t @ DType::Fixed { .. }, _)
            | Node::Bitcast(t @ DType::Fixed { .. }, _)
                if self.dialect.form.is_none() =>
            {
                return self
                    .fail(format!("the dialect '{}' has no fixed point, such as {t}", self.dialect.name));
            }
            Node::Int(v, t) => {
                return Ok(match *t {
                    DType::INDEX if *v == i64::MIN => "(-0x7fffffffffffffffLL - 1)".into(),
                    DType::INDEX => format!("{v}LL"),
                    t if self.dialect.form.is_some() => format!("(({}){v}LL)", self.dialect.type_name(t)),
                    DType::Int { signed: false, bits } if bits > 32 => format!("{}ULL", *v as u64),
                    DType::I32 if *v >= 0 => format!("{v}"),
                    t => format!("(({}){v}LL)", c_type(t)),
                });
            }
            Node::Float(bits, t) => {
                let v = f64::from_bits(*bits);
                if matches!(*t, DType::F16 | DType::BF16) && self.dialect.form.is_none() {
                    return Ok(format!("((u16){})", encode_bits(*t, v)));
                }
                return Ok(match v {
                    v if matches!(t, DType::Fixed { .. }) => {
                        format!("(({}){v:?})", self.dialect.type_name(*t))
                    }
                    v if v.is_nan() => "(0.0f/0.0f)".into(),
                    v if v.is_infinite() => format!("({}1.0f/0.0f)", if v < 0.0 { "-" } else { "" }),
                    v if *t == DType::F32 => format!("({:?}f)", v as f32),
                    v => format!("({v:?})"),
                });
            }
            Node::Var(n) => return Ok(ident(n)),
            _ => {}
        }
        let key = (e.clone(), false);
        if let Some((t, _)) = self.memo.get(&key) {
            return Ok(t.clone());
        }
        let ty = self.dtype(e)?;
        let known = |x: &Expr| self.dtype(x).ok();
        let narrowed = if self.dialect.form.is_none() { narrow(e, &known) } else { None };
        let legal = narrowed.or_else(|| legalize(e, &known, self.dialect.fused(), &|_| false));
        let text = match &legal {
            Some(l) => self.scalar(l)?,
            None => self.scalar_node(e)?,
        };
        // Index arithmetic stays text: the compiler folds it into addresses.
        if ty == DType::INDEX && !matches!(**e, Node::Load(..) | Node::Cast(..)) {
            return Ok(format!("({text})"));
        }
        let t = self.temp();
        self.line(&format!("const {} {t} = {text};", self.dialect.type_name(ty)));
        let constant = self.is_constant(e);
        self.memo.insert(key, (t.clone(), constant));
        Ok(t)
    }

    /// Whether no block of the kernel can change the expression's value within a scope.
    pub fn is_constant(&self, e: &Expr) -> bool {
        let mut ok = true;
        e.visit(&mut |e| {
            if let Node::Load(n, _) = &**e {
                ok &= self.constant_buffers.contains(n);
            }
        });
        ok
    }

    /// Whether C's division is the IR's: of floats, of unsigned integers, and of what is known not to be negative.
    fn rounds_alike(&self, x: &Expr, y: &Expr) -> Result<bool, CodegenError> {
        if !matches!(self.dtype(x)?, DType::Int { signed: true, .. }) {
            return Ok(true);
        }
        let least = |e| {
            let mut o = Opaque::default();
            let i = o.int(e, &self.bounds)?;
            // Of what is read from memory only facts are known.
            let nonnegative =
                |f: &Fact| matches!(f, Fact::Range(lo, _) if self.bounds.range(lo).lo >= Some(0));
            let known = |mut e: &Expr| {
                while let Node::Cast(DType::INDEX, inner) = &**e {
                    e = inner;
                }
                let Node::Load(n, _) = &**e else { return false };
                self.buffers.get(n).is_some_and(|b| b.facts.iter().any(nonnegative))
            };
            self.bounds.range(&i).lo.filter(|_| o.hides_only(known))
        };
        Ok(least(x) >= Some(0) && least(y) >= Some(1))
    }

    /// A call of a row, of the row for f64 where that is what the arguments are.
    fn call(&mut self, row: &str, args: &[&Expr]) -> Result<String, CodegenError> {
        let wide = self.dtype(args[0])? == DType::F64;
        let row = if wide { format!("{row}_f64") } else { row.to_string() };
        let args = args.iter().map(|x| self.scalar(x)).collect::<Result<Vec<_>, _>>()?;
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        match self.dialect.row(&row) {
            Some(r) => Ok(r.spell(self.compiler, &args)),
            None => self.fail(format!("the dialect has no '{row}'")),
        }
    }

    fn scalar_node(&mut self, e: &Expr) -> Result<String, CodegenError> {
        if let Some(form) = self.dialect.form
            && let Some(text) = form.node(self, e)?
        {
            return Ok(text);
        }
        Ok(match &**e {
            Node::Int(..) | Node::Float(..) | Node::Var(_) => self.scalar(e)?,
            Node::Load(n, i) => self.load(n, i)?,
            Node::Unary(op, x) => match op {
                Unary::Neg => format!("-{}", self.scalar(x)?),
                Unary::Not => format!("~{}", self.scalar(x)?),
                Unary::Abs => {
                    let x = self.scalar(x)?;
                    format!("({x} < 0 ? -{x} : {x})")
                }
                op => self.call(op.name(), &[x])?,
            },
            Node::Binary(Binary::Pow, x, y) => self.call("pow", &[x, y])?,
            Node::Binary(op, x, y) => {
                let rounds = matches!(op, Binary::Div | Binary::Rem) && !self.rounds_alike(x, y)?;
                let (x, y) = (self.scalar(x)?, self.scalar(y)?);
                match op {
                    // C rounds towards zero; here a remainder is never negative.
                    Binary::Div if rounds => format!("{x} / {y} - ({x} % {y} < 0 ? ({y} < 0 ? -1 : 1) : 0)"),
                    Binary::Rem if rounds => {
                        format!("{x} % {y} + ({x} % {y} < 0 ? ({y} < 0 ? -{y} : {y}) : 0)")
                    }
                    Binary::Min => format!("({y} < {x} ? {y} : {x})"),
                    Binary::Max => format!("({x} < {y} ? {y} : {x})"),
                    op => format!("{x} {} {y}", op.spelling().0),
                }
            }
            Node::Select(c, a, b) => {
                let (c, a, b) = (self.scalar(c)?, self.scalar(a)?, self.scalar(b)?);
                format!("({c} ? {a} : {b})")
            }
            Node::Cast(t, x) => format!("({}){}", self.dialect.type_name(*t), self.scalar(x)?),
            Node::Table(t, values, x) => {
                let list = values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let x = self.scalar(x)?;
                format!("((const {}[{}]){{{list}}})[{x}]", self.dialect.type_name(*t), values.len())
            }
            Node::Bitcast(t, x) => {
                let from = self.dtype(x)?;
                let v = self.scalar(x)?;
                if c_type(from) == c_type(*t) {
                    return Ok(v);
                }
                format!("((union {{ {} a; {} b; }}){{ .a = {v} }}).b", c_type(from), c_type(*t))
            }
        })
    }

    /// The bit address of an element.
    pub fn address(&mut self, n: &Name, index: &[Expr]) -> Result<(Int, Opaque), CodegenError> {
        let mut o = Opaque::default();
        let ints: Option<Vec<Int>> = index.iter().map(|i| o.int(i, &self.bounds)).collect();
        let (Some(ints), Some(b)) = (ints, self.buffers.get(n)) else {
            return self.fail(format!("'{n}' is indexed by what is not integer arithmetic"));
        };
        Ok((b.layout.address(&ints, &self.bounds), o))
    }

    /// The C variable of an element (or of the vector that holds it) of a buffer in registers.
    pub fn register(&mut self, n: &Name, index: &[Expr], kind: Kind) -> Result<String, CodegenError> {
        let (a, _) = self.address(n, index)?;
        let bits = self.buffers[n].dtype.bits();
        let per = if kind == Kind::Vectors { self.dialect.lanes } else { 1 };
        match a.as_const() {
            Some(a) if a % (bits * per) == 0 => Ok(format!("r_{}_{}", ident(n), a / bits / per)),
            _ => self.fail(format!("'{n}' lies in registers but its index {a} is not a constant")),
        }
    }

    /// A C pointer to the byte that holds an element, and the shift of the element inside it. Elements that begin inside of a byte and
    /// end in another are refused.
    pub fn pointer(&mut self, n: &Name, index: &[Expr]) -> Result<(String, Int, Opaque), CodegenError> {
        let (a, o) = self.address(n, index)?;
        let Some(Place::Pointer(p)) = self.places.get(n).cloned() else {
            return self.fail(format!("'{n}' has no address"));
        };
        let shift = a.rem(8, &self.bounds);
        // Elements of whole bytes begin with one, and those of parts of a byte lie in one.
        let bits = self.buffers[n].dtype.bits();
        let unit = if bits % 8 == 0 { 8 } else { bits };
        let aligned = 8 % unit == 0 && shift.rem(unit, &self.bounds).as_const() == Some(0);
        if !aligned && self.bounds.range(&shift).hi.unwrap_or(7) + bits > 8 {
            return self.fail(format!("an element of '{n}' may lie in parts of two bytes"));
        }
        let byte = self.scalar(&o.restore(&a.div(8, &self.bounds)))?;
        Ok((format!("({p} + {byte})"), shift, o))
    }

    fn load(&mut self, n: &Name, index: &[Expr]) -> Result<String, CodegenError> {
        if let Some(Place::Registers(kind)) = self.places.get(n) {
            return self.register(n, index, *kind);
        }
        let t = self.buffers[n].dtype;
        let (p, shift, o) = self.pointer(n, index)?;
        if t.bits() % 8 == 0 {
            return Ok(format!("*(const m_{} *){p}", c_type(t)));
        }
        let shift = self.scalar(&o.restore(&shift))?;
        let mask = (1i64 << t.bits()) - 1;
        let bits = format!("(*(const m_u8 *){p} >> {shift}) & {mask}");
        Ok(match t {
            // The highest bit is the sign.
            DType::Int { signed: true, bits: n } => {
                let sign = 1i64 << (n - 1);
                format!("(({bits}) ^ {sign}) - {sign}")
            }
            _ => bits,
        })
    }

    /// Writes a value to an element, and to no bit beside it.
    pub fn assign(&mut self, n: &Name, index: &[Expr], value: &str) -> Result<(), CodegenError> {
        self.assign_where("", n, index, value)
    }

    /// The same, behind a condition where one is given: `if (...) `.
    pub fn assign_where(
        &mut self,
        guard: &str,
        n: &Name,
        index: &[Expr],
        value: &str,
    ) -> Result<(), CodegenError> {
        if let Some(form) = self.dialect.form {
            return form.assign(self, n, index, value);
        }
        if let Some(Place::Registers(kind)) = self.places.get(n) {
            let r = self.register(n, index, *kind)?;
            self.line(&format!("{guard}{r} = {value};"));
            return Ok(());
        }
        let t = self.buffers[n].dtype;
        let (p, shift, o) = self.pointer(n, index)?;
        if t.bits() % 8 == 0 {
            self.line(&format!("{guard}*(m_{} *){p} = {value};", c_type(t)));
            return Ok(());
        }
        let shift = self.scalar(&o.restore(&shift))?;
        let mask = (1i64 << t.bits()) - 1;
        self.line(&format!("{guard}*{p} = (*{p} & ~({mask} << {shift})) | (({value} & {mask}) << {shift});"));
        Ok(())
    }

    /// A block in scalar code: all values first, then all stores.
    pub fn scalar_store(&mut self, s: &Store) -> Result<(), CodegenError> {
        let values = match s.reducer {
            None => s.values.clone(),
            Some(r) => {
                let old: Vec<Expr> = s.targets.iter().map(|(n, i)| Expr::load(n, i)).collect();
                r.combine(&old, &s.values)
            }
        };
        let mut texts = vec![];
        for v in &values {
            texts.push(self.scalar(v)?);
        }
        for ((n, i), v) in s.targets.iter().zip(texts) {
            self.assign(n, i, &v)?;
        }
        Ok(())
    }
}
