//! Expressions and blocks in the lanes of a vector.

use crate::dialect::Row;
use crate::emit::{CodegenError, Emitter, Place, c_type};
use crate::legalize::{exp_of_bf16, legalize, narrow, rounded};
use crate::registers::Kind;
use lathe_ir::tensor::{Binary, Buffer, Expr, Fact, For, Node, Opaque, Reducer, Stmt, Store, Unary};
use lathe_ir::{DType, Int, Name};
use lathe_schedule::{Code, Lane, ends_alike, lane, of_pairs, pairs};

/// Registers that must be left for a vector to be held in one: as many are in use at once for what is computed from it.
const SPARE: i64 = 4;

/// A scalar as a lane: truth is all bits there, and 1 here.
fn lane_text(t: DType, scalar: String) -> String {
    if t == DType::BOOL { format!("-{scalar}") } else { scalar }
}

impl Emitter<'_> {
    fn lane_var(&self) -> Name {
        self.lane.as_ref().map_or_else(|| "".into(), |l| l.var.clone())
    }

    pub fn vector_type(&self, t: DType) -> String {
        format!("{}x{}", c_type(t), self.dialect.lanes)
    }

    fn list(&self, items: &[String]) -> String {
        items.join(", ")
    }

    pub fn named(&mut self, t: DType, text: &str) -> String {
        let name = self.temp();
        let ty = self.vector_type(t);
        self.line(&format!("const {ty} {name} = {text};"));
        name
    }

    /// A scalar in every lane.
    fn broadcast(&mut self, t: DType, scalar: &str) -> String {
        format!("splat_{}({scalar})", self.vector_type(t))
    }

    /// C text of the expression's value in each lane.
    pub fn vector(&mut self, e: &Expr) -> Result<String, CodegenError> {
        let key = (e.clone(), true);
        if let Some((t, _)) = self.memo.get(&key).cloned() {
            self.hold(&t);
            return Ok(t);
        }
        let var = self.lane_var();
        let t = self.dtype(e)?;
        let text = if !e.mentions(&var) {
            let s = self.scalar(e)?;
            self.broadcast(t, &lane_text(t, s))
        } else if let Some(text) = self.half_of_words(e)? {
            text
        } else if let Some((row, x)) = self.half_of_normal(e) {
            let x = self.vector(&x)?;
            format!("({}){}", self.vector_type(t), row.spell(self.compiler, &[&x]))
        } else if let Some(l) = narrow(e, &|x| self.dtype(x).ok()) {
            self.vector(&l)?
        } else if let Some(l) = self.legal(e) {
            self.vector(&l)?
        } else {
            self.vector_node(e, t)?
        };
        let name = match &**e {
            Node::Load(n, _) if matches!(self.places.get(n), Some(Place::Pointer(_))) => {
                self.loaded(t, &text)
            }
            _ => self.named(t, &text),
        };
        let constant = self.is_constant(e);
        self.memo.insert(key, (name.clone(), constant));
        Ok(name)
    }

    /// The replacement of a node that vectors have no operator for.
    fn legal(&self, e: &Expr) -> Option<Expr> {
        let has = |row: &str| self.dialect.row(row).is_some();
        legalize(e, &|x| self.dtype(x).ok(), self.dialect.fused(), &has)
    }

    /// The instruction that narrows to bf16 and takes what is below 2^-126 for 0, and its operand, where nothing is: an exponential, which
    /// is computed as a number that is at least that.
    fn half_of_normal(&self, e: &Expr) -> Option<(&'static Row, Expr)> {
        let row = self.dialect.row("bf16_of_normal")?;
        Some((row, exp_of_bf16(e, &|x| self.dtype(x).ok(), self.dialect.fused())?))
    }

    /// A vector from memory, which [`hold`](Self::hold) may keep.
    fn loaded(&mut self, t: DType, text: &str) -> String {
        let name = self.temp();
        self.line(&format!("{} {name} = {text};", self.vector_type(t)));
        self.loads.insert(name.clone(), self.out.len() - 1);
        name
    }

    /// A vector from memory that is used again stays in a register, if there are some left: the compiler would rather make its
    /// load a part of each instruction that uses it, and a core loads one vector a cycle.
    fn hold(&mut self, name: &str) {
        let left = self.dialect.registers - self.vectors;
        let Some(row) = self.dialect.row("hold").filter(|_| left >= SPARE) else { return };
        let Some(at) = self.loads.remove(name) else { return };
        let text = format!(" {};", row.spell(self.compiler, &[name]));
        self.out.insert_str(at, &text);
        for other in self.loads.values_mut().filter(|other| **other > at) {
            *other += text.len();
        }
    }

    /// Each lane on its own: for what has no vector form.
    fn lanes_apart(&mut self, e: &Expr, t: DType) -> Result<String, CodegenError> {
        let var = self.lane_var();
        let partial = self.lane.as_ref().and_then(|l| l.partial.clone());
        let saved = self.lane.take();
        let mut items = vec![];
        for i in 0..self.dialect.lanes {
            // Lanes past the extent repeat the first one, whose elements exist.
            let at = e.substitute(&var, &i.into());
            let v = lane_text(t, self.scalar(&at)?);
            match &partial {
                Some(p) if i > 0 => items.push(format!("({i} < {p} ? {v} : ({})0)", c_type(t))),
                _ => items.push(v),
            }
        }
        self.lane = saved;
        Ok(format!("({}){{{}}}", self.vector_type(t), self.list(&items)))
    }

    fn blend(&mut self, mask: &str, a: &str, b: &str, t: DType) -> String {
        let (v, i) = (self.vector_type(t), self.vector_type(DType::I32));
        format!("({v})(({mask} & ({i}){a}) | (~{mask} & ({i}){b}))")
    }

    fn vector_node(&mut self, e: &Expr, t: DType) -> Result<String, CodegenError> {
        Ok(match &**e {
            Node::Load(n, i) => return self.vector_load(e, n, i, t),
            Node::Unary(Unary::Neg, x) => format!("-{}", self.vector(x)?),
            Node::Unary(Unary::Round, x) if t == DType::F32 => {
                let Some(r) = self.dialect.row("round") else { return self.lanes_apart(e, t) };
                let x = self.vector(x)?;
                r.spell(self.compiler, &[&x])
            }
            Node::Binary(op, x, y) if t != DType::INDEX => {
                let of = self.dtype(x)?;
                if of == DType::INDEX {
                    return self.lanes_apart(e, t);
                }
                if *op == Binary::Pow || (matches!(op, Binary::Div | Binary::Rem) && of.is_int()) {
                    return self.lanes_apart(e, t);
                }
                let (x, y) = (self.vector(x)?, self.vector(y)?);
                match op {
                    Binary::Min | Binary::Max => {
                        let name = if *op == Binary::Min { "min" } else { "max" };
                        match self.dialect.row(name).filter(|_| of == DType::F32) {
                            Some(r) => r.spell(self.compiler, &[&x, &y]),
                            None if of.bits() == 32 => {
                                let m = format!("({x} < {y})");
                                let (a, b) = if *op == Binary::Min { (&x, &y) } else { (&y, &x) };
                                self.blend(&m, a, b, of)
                            }
                            None => return self.lanes_apart(e, t),
                        }
                    }
                    // The result of a comparison has lanes as wide as what is compared.
                    op if t == DType::BOOL && of.bits() != 32 => match self.dialect.row("convert") {
                        Some(r) => {
                            let lanes = format!("({x} {} {y}), {}", op.spelling().0, self.vector_type(t));
                            r.spell(self.compiler, &[&lanes])
                        }
                        None => return self.lanes_apart(e, t),
                    },
                    op => format!("{x} {} {y}", op.spelling().0),
                }
            }
            Node::Select(c, a, b) if t.bits() == 32 => {
                let (c, a, b) = (self.vector(c)?, self.vector(a)?, self.vector(b)?);
                self.blend(&c, &a, &b, t)
            }
            Node::Cast(to, x) if *to != DType::INDEX => {
                let from = self.dtype(x)?;
                if from == DType::INDEX {
                    return self.lanes_apart(e, t);
                }
                if from == DType::BOOL && *to != DType::BOOL {
                    // Truth is all bits of a lane, and 1 as a number.
                    let [one, none] = [1, 0].map(|v| Expr::int(v, DType::I32));
                    let number = Expr::select(x, &one, &none);
                    return self.vector(&if *to == DType::I32 { number } else { number.cast(*to) });
                }
                if *to == DType::I32
                    && let Node::Table(of, values, i) = &**x
                    && values.len() == 16
                    && of.bits() == 8
                    && self.dtype(i)? == DType::I32
                    && self.dialect.row("levels").is_some()
                {
                    // A byte at the bottom of each lane, widened by shifts.
                    let i = self.vector(i)?;
                    let bytes = self.levels(*of, values, &i)?;
                    if matches!(of, DType::Int { signed: true, .. }) {
                        return Ok(format!("({bytes} << 24) >> 24"));
                    }
                    return Ok(format!("{bytes} & 255"));
                }
                if *to == DType::I32
                    && let Node::Load(n, i) = &**x
                    && let Some(words) = self.unpacked(n, i)?
                {
                    return Ok(words);
                }
                if from.is_int() && from.bits() < 32 && to.is_float() {
                    return self.vector(&x.cast(DType::I32).cast(*to));
                }
                if let (DType::I32, DType::F32, Some(x), Some(r)) =
                    (*to, from, rounded(x), self.dialect.row("i32_of_rounded"))
                {
                    let x = self.vector(x)?;
                    return Ok(r.spell(self.compiler, &[&x]));
                }
                let v = self.vector(x)?;
                if let (DType::F16, DType::F32, Some(r)) = (*to, from, self.dialect.row("f16_of_f32")) {
                    return Ok(format!("({}){}", self.vector_type(t), r.spell(self.compiler, &[&v])));
                }
                if from == DType::F16
                    && *to == DType::F32
                    && let Some(r) = self.dialect.row("f32_of_f16")
                {
                    return Ok(r.spell(self.compiler, &[&format!("(i16x{}){v}", self.dialect.lanes)]));
                }
                if c_type(from) == c_type(*to) {
                    return Ok(v);
                }
                if let Some(r) = self.dialect.row(&format!("{}_of_{}", c_type(*to), c_type(from))) {
                    return Ok(r.spell(self.compiler, &[&v]));
                }
                match self.dialect.row("convert") {
                    Some(r) => r.spell(self.compiler, &[&format!("{v}, {}", self.vector_type(*to))]),
                    None => return self.lanes_apart(e, t),
                }
            }
            Node::Bitcast(to, x) => format!("({}){}", self.vector_type(*to), self.vector(x)?),
            _ => return self.lanes_apart(e, t),
        })
    }

    fn vector_load(&mut self, e: &Expr, n: &Name, i: &[Expr], t: DType) -> Result<String, CodegenError> {
        let var = self.lane_var();
        if let Some(Place::Registers(Kind::Vectors)) = self.places.get(n) {
            let at0: Vec<Expr> = i.iter().map(|e| e.substitute(&var, &0.into())).collect();
            return self.register(n, &at0, Kind::Vectors);
        }
        let b = self.buffers[n].clone();
        match lane(&b, i, &var, &self.bounds) {
            Some(l) if l.stride == b.dtype.bits() && l.stride % 8 == 0 => {
                let at0: Vec<Expr> = i.iter().map(|e| e.substitute(&var, &0.into())).collect();
                let (p, ..) = self.pointer(n, &at0)?;
                let whole = format!("*(const m_{} *){p}", self.vector_type(t));
                match self.lane.as_ref().and_then(|l| l.partial.clone()) {
                    Some(used) if !self.goes_on(&b) => self.load_part(t, &p, &used, &whole),
                    _ => Ok(whole),
                }
            }
            Some(l) if l.stride == 0 => {
                let s = self.scalar(&e.substitute(&var, &0.into()))?;
                Ok(self.broadcast(t, &s))
            }
            Some(l) if self.takes_pairs(n, &b, &l) => {
                // The first or the second elements of the pairs that two vectors hold.
                let (lanes, which) = (self.dialect.lanes, l.symbolic.rem(64, &self.bounds));
                let which = which.as_const().unwrap_or(0);
                let [low, high] = [0, lanes / 2].map(|from| {
                    let at: Vec<Expr> = i.iter().map(|e| e.substitute(&var, &from.into())).collect();
                    self.word_vector(n, &at, "", which)
                });
                let picks: Vec<i64> = (0..lanes).map(|k| 2 * k + which / 32).collect();
                let text = self.shuffled(&low?, &high?, &picks)?;
                Ok(format!("({}){text}", self.vector_type(t)))
            }
            _ => self.lanes_apart(e, t),
        }
    }

    /// Whether the lanes of an access are picked from whole vectors of pairs.
    fn takes_pairs(&self, n: &Name, b: &Buffer, l: &Lane) -> bool {
        let whole = self.lane.as_ref().is_some_and(|l| l.partial.is_none());
        let pointer = matches!(self.places.get(n), Some(Place::Pointer(_)));
        whole && pointer && self.dialect.row("shuffle").is_some() && of_pairs(b, l, &self.bounds)
    }

    /// A vector of lanes picked from two.
    pub fn shuffled(&self, a: &str, b: &str, picks: &[i64]) -> Result<String, CodegenError> {
        let Some(shuffle) = self.dialect.row("shuffle") else {
            return self.fail("the dialect has no shuffle");
        };
        let picks: Vec<String> = picks.iter().map(i64::to_string).collect();
        Ok(shuffle.spell(self.compiler, &[&format!("{a}, {b}, {}", picks.join(", "))]))
    }

    /// Two blocks that write the first and the second elements of pairs, one pair a lane: two vectors are written. `false` where
    /// they are no such blocks.
    pub fn store_pairs(&mut self, first: &Store, second: &Store) -> Result<bool, CodegenError> {
        let ([(n, i)], [(m, j)]) = (first.targets.as_slice(), second.targets.as_slice()) else {
            return Ok(false);
        };
        if n != m {
            return Ok(false);
        }
        let (var, b) = (self.lane_var(), self.buffers[n].clone());
        let at = |i: &[Expr]| lane(&b, i, &var, &self.bounds);
        let (Some(x), Some(y)) = (at(i), at(j)) else { return Ok(false) };
        let assigns = first.reducer.is_none() && second.reducer.is_none();
        if !assigns
            || second.values[0].loads(n)
            || !self.takes_pairs(n, &b, &x)
            || !pairs(&b, [&x, &y], &self.bounds)
        {
            return Ok(false);
        }
        let (x, y) = (self.vector(&first.values[0])?, self.vector(&second.values[0])?);
        let at0: Vec<Expr> = i.iter().map(|e| e.substitute(&var, &0.into())).collect();
        let ((p, ..), lanes, ty) = (self.pointer(n, &at0)?, self.dialect.lanes, self.vector_type(b.dtype));
        for from in [0, lanes / 2] {
            let picks: Vec<i64> = (from..from + lanes / 2).flat_map(|k| [k, lanes + k]).collect();
            let text = self.shuffled(&x, &y, &picks)?;
            self.line(&format!("((m_{ty} *){p})[{}] = {text};", from * 2 / lanes));
        }
        Ok(true)
    }

    /// Whether whole vectors may be read of a buffer whose last elements are no whole vector: temporaries with room, and
    /// parameters that are stored padded.
    fn goes_on(&self, b: &Buffer) -> bool {
        b.facts.iter().any(|f| matches!(f, Fact::Padded(..))) || self.has_room(b)
    }

    /// Whether a buffer is a temporary in which a whole vector meets no other row and no end, wherever it begins: its
    /// rows are whole vectors, or it is one row, behind which the allocation is filled up to 64 bytes.
    fn has_room(&self, b: &Buffer) -> bool {
        let Some((row, rows)) = b.shape.split_last() else { return false };
        let lanes = self.dialect.lanes;
        let one = rows.iter().all(|n| n.as_const() == Some(1)) && lanes * b.dtype.bits() <= 512;
        let whole = row.as_const().is_some_and(|n| n % lanes == 0);
        (one || whole) && !self.kernel.views().any(|v| v.name == b.name)
    }

    /// Whether a loop that may have fewer lanes can run all of them in any case: what it writes is in registers, and nobody looks at what is
    /// behind the last lane; what it reads lies in blocks of as many elements, which are whole. Loops around it then decide nothing.
    pub fn runs_on(&self, l: &For, most: i64) -> bool {
        l.body.iter().all(|s| match s {
            Stmt::Store(s) => {
                let beyond = |(n, _): &(Name, Vec<Expr>)| {
                    matches!(self.places.get(n), Some(Place::Registers(Kind::Vectors)))
                        && ends_alike(self.kernel, n, self.dialect.lanes)
                };
                s.targets.iter().all(beyond) && s.values.iter().all(|v| self.is_whole(v, &l.var, most))
            }
            _ => false,
        })
    }

    /// Whether an expression can be computed in `most` lanes, however many of them count.
    fn is_whole(&self, e: &Expr, var: &str, most: i64) -> bool {
        let all = |e: &[&Expr]| e.iter().all(|e| self.is_whole(e, var, most));
        match &**e {
            _ if !e.mentions(var) => true,
            Node::Load(n, _) if matches!(self.places.get(n), Some(Place::Registers(Kind::Vectors))) => true,
            Node::Load(n, i) => {
                let b = &self.buffers[n];
                let along = |d: &usize| i.get(*d).is_some_and(|e| e.mentions(var));
                let padded =
                    b.facts.iter().any(|f| matches!(f, Fact::Padded(d, m) if along(d) && m % most == 0));
                let row = b.shape.last().and_then(Int::as_const).is_some_and(|n| n % most == 0);
                lane(b, i, var, &self.bounds).is_some_and(|l| {
                    let begins = l.symbolic.rem(most * l.stride.max(1), &self.bounds).as_const() == Some(0);
                    l.stride == 0
                        || l.stride == b.dtype.bits() && begins && (padded || row && self.has_room(b))
                })
            }
            Node::Unary(Unary::Neg, x) => all(&[x]),
            Node::Cast(to, x) if to.is_float() => all(&[x]),
            Node::Binary(Binary::Add | Binary::Sub | Binary::Mul | Binary::Min | Binary::Max, x, y) => {
                self.dtype(e).is_ok_and(DType::is_float) && all(&[x, y])
            }
            _ => false,
        }
    }

    /// Whether a place in a row is a multiple of the lanes: a whole vector there meets no other one of the row.
    fn begins_a_vector(&self, index: &[Expr]) -> bool {
        let place = index.last().and_then(|i| Opaque::default().int(i, &self.bounds));
        place.is_some_and(|i| i.rem(self.dialect.lanes, &self.bounds).as_const() == Some(0))
    }

    /// The first lanes of a vector in memory, and nothing behind them.
    pub fn load_part(&mut self, t: DType, p: &str, used: &str, whole: &str) -> Result<String, CodegenError> {
        if let Some(row) = self.dialect.row("load_lanes").filter(|_| t.bits() == 32) {
            return Ok(format!("({}){}", self.vector_type(t), row.spell(self.compiler, &[p, used])));
        }
        let (name, ty, lanes) = (self.temp(), self.vector_type(t), self.dialect.lanes);
        let bytes = format!("({used}) * sizeof({})", c_type(t));
        let Some(row) = self.dialect.row("copy") else { return self.fail("the dialect has no copies") };
        let copy = row.spell(self.compiler, &[&format!("&{name}"), p, &bytes]);
        self.line(&format!("{ty} {name} = {{0}};"));
        self.line(&format!("if ({used} == {lanes}) {name} = {whole}; else {copy};"));
        Ok(name)
    }

    /// Stores the first lanes of a vector, and nothing behind them.
    pub fn store_part(
        &mut self,
        t: DType,
        p: &str,
        v: &str,
        used: &str,
        whole: &str,
    ) -> Result<(), CodegenError> {
        if let Some(row) = self.dialect.row("store_lanes").filter(|_| t.bits() == 32) {
            self.line(&format!("{};", row.spell(self.compiler, &[p, v, used])));
            return Ok(());
        }
        let Some(row) = self.dialect.row("copy") else { return self.fail("the dialect has no copies") };
        let bytes = format!("({used}) * sizeof({})", c_type(t));
        let copy = row.spell(self.compiler, &[p, &format!("&{v}"), &bytes]);
        self.line(&format!("if ({used} == {}) {whole}; else {copy};", self.dialect.lanes));
        Ok(())
    }

    /// Small codes, one in each of adjacent words of 32 bits or bytes: a load, a shift and a mask, or two shifts where they have a sign.
    fn unpacked(&mut self, n: &Name, i: &[Expr]) -> Result<Option<String>, CodegenError> {
        let var = self.lane_var();
        let b = self.buffers[n].clone();
        let small = matches!(b.dtype, DType::Int { bits, .. } if bits <= 16);
        let whole = |l: &Lane| l.stride == 32 || (l.stride == 8 && b.dtype.bits() < 8);
        let Some(l) = lane(&b, i, &var, &self.bounds).filter(|l| small && whole(l)) else {
            return Ok(None);
        };
        let Some(Place::Pointer(p)) = self.places.get(n).cloned() else { return Ok(None) };
        let all = self.lane.as_ref().is_some_and(|l| l.partial.is_none()) || self.goes_on(&b);
        // One that goes on in the next word or byte is read bit by bit.
        let inside = |shift: &i64| shift + b.dtype.bits() <= l.stride;
        let known = l.symbolic.rem(l.stride, &self.bounds).as_const().filter(inside);
        // Codes that share bytes lie in whole ones, wherever that is.
        let apart =
            8 % b.dtype.bits() == 0 && l.symbolic.rem(b.dtype.bits(), &self.bounds).as_const() == Some(0);
        let (word, shift) = match (l.stride, known, self.dialect.row("i32_of_u8")) {
            (32, Some(shift), _) if all => (self.word_vector(n, i, &var, shift)?, shift.to_string()),
            (8, _, Some(row)) if all && (known.is_some() || apart) => {
                let at0: Vec<Expr> = i.iter().map(|e| e.substitute(&var, &0.into())).collect();
                let (a, o) = self.address(n, &at0)?;
                let at = self.scalar(&o.restore(&a.div(8, &self.bounds)))?;
                let bytes = format!("(*(const m_{} *)({p} + {at}))", self.vector_type(DType::U8));
                let wide = row.spell(self.compiler, &[&bytes]);
                let shift = match known {
                    Some(shift) => shift.to_string(),
                    None => format!("(i32){}", self.scalar(&o.restore(&a.rem(8, &self.bounds)))?),
                };
                (self.named(DType::I32, &wide), shift)
            }
            _ => return Ok(None),
        };
        let (mask, above) = ((1i64 << b.dtype.bits()) - 1, 32 - b.dtype.bits());
        Ok(Some(match b.dtype {
            DType::Int { signed: true, .. } => format!("({word} << ({above} - {shift})) >> {above}"),
            _ => format!("({word} >> {shift}) & {mask}"),
        }))
    }

    /// Widened bf16, one in each of adjacent words of 32 bits: the upper half of a word with nothing below.
    fn half_of_words(&mut self, e: &Expr) -> Result<Option<String>, CodegenError> {
        let Node::Cast(DType::F32, x) = &**e else { return Ok(None) };
        let Node::Load(n, i) = &**x else { return Ok(None) };
        let (var, b) = (self.lane_var(), self.buffers[n].clone());
        let whole = self.lane.as_ref().is_some_and(|l| l.partial.is_none()) || self.goes_on(&b);
        let pointer = matches!(self.places.get(n), Some(Place::Pointer(_)));
        let Some(l) = lane(&b, i, &var, &self.bounds)
            .filter(|l| b.dtype == DType::BF16 && l.stride == 32 && whole && pointer)
        else {
            return Ok(None);
        };
        let Some(shift) = l.symbolic.rem(32, &self.bounds).as_const() else { return Ok(None) };
        let word = self.word_vector(n, i, &var, shift)?;
        let moved = if shift == 0 { format!("{word} << 16") } else { format!("{word} & -65536") };
        Ok(Some(format!("({})({moved})", self.vector_type(DType::F32))))
    }

    /// The vector of 32-bit words that holds the elements, loaded once a scope.
    fn word_vector(&mut self, n: &Name, i: &[Expr], var: &str, shift: i64) -> Result<String, CodegenError> {
        let at0: Vec<Expr> = i.iter().map(|e| e.substitute(var, &0.into())).collect();
        let (a, o) = self.address(n, &at0)?;
        let byte = o.restore(&(a - shift).div(8, &self.bounds));
        let key = (Expr::load(&format!("{n}.words"), std::slice::from_ref(&byte)), true);
        if let Some((t, _)) = self.memo.get(&key) {
            return Ok(t.clone());
        }
        let Some(Place::Pointer(p)) = self.places.get(n).cloned() else {
            return self.fail("words without address");
        };
        let at = self.scalar(&byte)?;
        let name = self.named(DType::I32, &format!("*(const m_i32x{} *)({p} + {at})", self.dialect.lanes));
        let constant = self.constant_buffers.contains(n);
        self.memo.insert(key, (name.clone(), constant));
        Ok(name)
    }

    /// The buffer and the byte where the words of a tensorized operand begin, of one that is joined those of its lower part.
    pub fn place_of_words(&mut self, c: &Code) -> Result<(Name, Expr), CodegenError> {
        let e = match c {
            Code::Load(e) | Code::Half(e) => e,
            Code::Joined(c, ..) | Code::Level(_, _, c) => return self.place_of_words(c),
        };
        let Node::Load(n, i) = &**e else { return self.fail("an operand that is no load") };
        let (a, o) = self.address(n, i)?;
        let shift = a.rem(32, &self.bounds);
        Ok((n.clone(), o.restore(&(a - shift).div(8, &self.bounds))))
    }

    /// The words of a tensorized operand, one a lane: its loops' variables are already 0.
    pub fn words(&mut self, c: &Code) -> Result<String, CodegenError> {
        self.words_above(c, 0)
    }

    /// The same, moved up by so many bits in their bytes.
    fn words_above(&mut self, c: &Code, by: i64) -> Result<String, CodegenError> {
        let e = match c {
            Code::Load(e) | Code::Half(e) => e,
            Code::Joined(low, high, above) => {
                let (low, high) = (self.words_above(low, by)?, self.words_above(high, by + above)?);
                return Ok(self.named(DType::I32, &format!("{low} | {high}")));
            }
            Code::Level(t, values, i) => {
                let i = self.words(i)?;
                let text = self.levels(*t, values, &i)?;
                return Ok(self.named(DType::I32, &text));
            }
        };
        let key = (if by == 0 { e.clone() } else { e.bin(Binary::Shl, &Expr::int(by, DType::I32)) }, true);
        if let Some((t, _)) = self.memo.get(&key) {
            return Ok(t.clone());
        }
        let Node::Load(n, i) = &**e else { return self.fail("an operand that is no load") };
        let (a, _) = self.address(n, i)?;
        let Some(shift) = a.rem(32, &self.bounds).as_const() else {
            return self.fail(format!("codes of '{n}' at a shift that is not constant"));
        };
        let word = self.word_vector(n, i, "", shift)?;
        let name = match self.buffers[n].dtype.bits() {
            8 | 16 => word,
            bits => {
                let mask = (0..4).fold(0u32, |m, b| m | ((1 << bits) - 1) << by << (8 * b)) as i32;
                let moved = match shift - by {
                    0 => word,
                    down @ 1.. => format!("({word} >> {down})"),
                    up => format!("({word} << {})", -up),
                };
                self.named(DType::I32, &format!("{moved} & {mask}"))
            }
        };
        let constant = self.is_constant(e);
        self.memo.insert(key, (name.clone(), constant));
        Ok(name)
    }

    /// For each byte of a vector of words, the byte at its place in a table of 16.
    fn levels(&mut self, t: DType, values: &[i64], words: &str) -> Result<String, CodegenError> {
        match self.dialect.row("levels") {
            Some(row) if t.bits() == 8 && values.len() == 16 => {
                let table: Vec<String> = values.iter().map(|v| (*v as i8).to_string()).collect();
                Ok(row.spell(self.compiler, &[words, &table.join(", ")]))
            }
            _ => self.fail("a table that is not of 16 bytes"),
        }
    }

    /// Where a word lies in memory.
    pub fn word_place(&mut self, e: &Expr) -> Result<String, CodegenError> {
        let Node::Load(n, i) = &**e else { return self.fail("an operand that is no load") };
        Ok(self.pointer(n, i)?.0)
    }

    /// A word in every lane.
    pub fn repeated_word(&mut self, e: &Expr) -> Result<String, CodegenError> {
        let p = self.word_place(e)?;
        let name = self.temp();
        self.line(&format!("const i32 {name} = *(const m_i32 *){p};"));
        Ok(self.broadcast(DType::I32, &name))
    }

    /// A vector whose lanes past the loop's extent hold the neutral element.
    fn masked(&mut self, v: &str, neutral: &Expr, t: DType) -> Result<String, CodegenError> {
        if self.lane.as_ref().is_none_or(|l| l.partial.is_none()) {
            return Ok(v.to_string());
        }
        let neutral = self.scalar(neutral)?;
        let neutral = self.broadcast(t, &neutral);
        self.within(v, &neutral, t)
    }

    /// A vector whose lanes past the loop's extent are another's.
    fn within(&mut self, v: &str, other: &str, t: DType) -> Result<String, CodegenError> {
        let Some(p) = self.lane.as_ref().and_then(|l| l.partial.clone()) else { return Ok(v.to_string()) };
        if t.bits() != 32 {
            return self.fail("fewer lanes of elements that are not 32 bits wide");
        }
        let items: Vec<String> = (0..self.dialect.lanes).map(|i| i.to_string()).collect();
        let iota = format!("({}){{{}}}", self.vector_type(DType::I32), self.list(&items));
        let limit = self.broadcast(DType::I32, &format!("(i32)({p})"));
        let mask = self.named(DType::I32, &format!("{iota} < {limit}"));
        let text = self.blend(&mask, v, other, t);
        Ok(self.named(t, &text))
    }

    /// Combines the lanes of a vector into one scalar, halves first.
    fn across(&mut self, v: String, op: &str, t: DType) -> Result<String, CodegenError> {
        let Some(shuffle) = self.dialect.row("shuffle") else {
            return self.fail("the dialect has no shuffle");
        };
        let (mut v, mut n) = (v, self.dialect.lanes);
        while n > 1 {
            n /= 2;
            let part = |from: i64| {
                let picks: Vec<String> = (from..from + n).map(|i| i.to_string()).collect();
                shuffle.spell(self.compiler, &[&format!("{v}, {v}, {}", picks.join(", "))])
            };
            let (a, b, name) = (part(0), part(n), format!("t{}", self.temps + 1));
            self.temps += 1;
            if n == 1 {
                let (a, b) = (format!("{v}[0]"), format!("{v}[1]"));
                let text = match op {
                    "sum" => format!("{a} + {b}"),
                    "max" => format!("({a} < {b} ? {b} : {a})"),
                    "min" => format!("({b} < {a} ? {b} : {a})"),
                    _ => return self.fail(format!("'{op}' across lanes")),
                };
                self.line(&format!("const {} {name} = {text};", c_type(t)));
            } else {
                let ty = format!("{}x{n}", c_type(t));
                self.line(&format!("const {ty} {name}a = {a}, {name}b = {b};"));
                let text = match op {
                    "sum" => format!("{name}a + {name}b"),
                    "max" | "min" => {
                        let (x, y) = if op == "max" { ("b", "a") } else { ("a", "b") };
                        let i = format!("i{}x{n}", t.bits());
                        format!(
                            "({ty})((({name}a < {name}b) & ({i}){name}{x}) | (~({name}a < {name}b) & ({i}){name}{y}))"
                        )
                    }
                    _ => return self.fail(format!("'{op}' across lanes")),
                };
                self.line(&format!("const {ty} {name} = {text};"));
            }
            v = name;
        }
        Ok(v)
    }

    /// The elements of a word of 32 bits in each lane, which `l` runs through: they are written as one. `false` where a loop is no
    /// such word.
    pub fn word(&mut self, l: &For, count: i64) -> Result<bool, CodegenError> {
        let (var, [Stmt::Store(s)]) = (self.lane_var(), l.body.as_slice()) else { return Ok(false) };
        let ([(n, i)], None) = (s.targets.as_slice(), s.reducer) else { return Ok(false) };
        let b = self.buffers[n].clone();
        let bits = b.dtype.bits();
        let stride = |along: &str| lane(&b, i, along, &self.bounds).map(|l| l.stride);
        let whole = self.lane.as_ref().is_some_and(|l| l.partial.is_none());
        let beside = matches!(bits, 8 | 16) && stride(&l.var) == Some(bits) && stride(&var) == Some(32);
        let reads_itself = s.values[0].loads(n);
        let unsigned = DType::uint(bits as u8);
        let (Some(convert), true) =
            (self.dialect.row("convert"), whole && beside && count * bits == 32 && !reads_itself)
        else {
            return Ok(false);
        };
        let (word, short) = (self.vector_type(DType::I32), self.vector_type(unsigned));
        let mut parts = vec![];
        for k in 0..count {
            let v = self.vector(&s.values[0].substitute(&l.var, &k.into()))?;
            let v = format!("({short}){v}");
            let wide = match self.dialect.row(&format!("i32_of_{}", c_type(unsigned))) {
                Some(row) => row.spell(self.compiler, &[&v]),
                None => convert.spell(self.compiler, &[&format!("{v}, {word}")]),
            };
            parts.push(if k == 0 { wide } else { format!("{wide} << {}", k * bits) });
        }
        let first: Vec<Expr> =
            i.iter().map(|e| e.substitute(&l.var, &0.into()).substitute(&var, &0.into())).collect();
        let (p, ..) = self.pointer(n, &first)?;
        self.line(&format!("*(m_{word} *){p} = {};", parts.join(" | ")));
        self.memo.retain(|_, (_, constant)| *constant);
        Ok(true)
    }

    /// A block in lanes: a vector store, a reduction across lanes, or lane by lane where neither fits.
    pub fn vector_store(&mut self, s: &Store) -> Result<(), CodegenError> {
        let var = self.lane_var();
        let [(n, i)] = s.targets.as_slice() else {
            return self.fail("a lane loop over several accumulators");
        };
        let b = self.buffers[n].clone();
        let at0: Vec<Expr> = i.iter().map(|e| e.substitute(&var, &0.into())).collect();
        let l = lane(&b, i, &var, &self.bounds);
        let stride = l.map(|l| l.stride);
        if stride == Some(0) {
            let Some(r) = s.reducer.filter(|r| r.arity == 1) else {
                return self.fail(format!("lanes of '{var}' write the same element of '{n}'"));
            };
            let v = self.vector(&s.values[0])?;
            let v = self.masked(&v, &r.identity(&[b.dtype])[0], b.dtype)?;
            let total = self.across(v, r.name, b.dtype)?;
            // The combination itself is scalar: a temporary stands for the total.
            let old = {
                let saved = self.lane.take();
                let old = self.scalar(&Expr::load(n, &at0))?;
                self.lane = saved;
                old
            };
            let text = self.combined(r.name, b.dtype, &old, &total)?;
            return self.assign(n, &at0, &text);
        }
        if let Some(r) =
            s.reducer.filter(|_| stride.is_none() && !matches!(self.places.get(n), Some(Place::Registers(_))))
        {
            return self.one_lane_after_the_other(s, r);
        }
        let value = match s.reducer {
            None => s.values[0].clone(),
            Some(r) => r.combine(&[Expr::load(n, i)], &s.values).remove(0),
        };
        let v = self.vector(&value)?;
        if let Some(Place::Registers(Kind::Vectors)) = self.places.get(n) {
            let r = self.register(n, &at0, Kind::Vectors)?;
            let v = if ends_alike(self.kernel, n, self.dialect.lanes) {
                v
            } else {
                self.within(&v, &r, b.dtype)?
            };
            self.line(&format!("{r} = {v};"));
            return Ok(());
        }
        let partial = self.lane.as_ref().and_then(|l| l.partial.clone());
        if stride == Some(b.dtype.bits()) && b.dtype.bits() % 8 == 0 {
            let (p, ..) = self.pointer(n, &at0)?;
            let past = self.past.clone().filter(|_| b.dtype.bits() == 32);
            let whole = match past {
                Some((row, state)) => {
                    let text = row.spell(self.compiler, &[&p, &v, &state]);
                    if !self.pasts.contains(&state) {
                        self.pasts.push(state);
                    }
                    text
                }
                None => format!("*(m_{} *){p} = {v}", self.vector_type(b.dtype)),
            };
            let others = |e: &Self| {
                e.has_room(&b) && e.begins_a_vector(&at0) && ends_alike(e.kernel, &b.name, e.dialect.lanes)
            };
            match partial.filter(|_| !others(self)) {
                None => self.line(&format!("{whole};")),
                Some(used) => self.store_part(b.dtype, &p, &v, &used, &whole)?,
            }
            return Ok(());
        }
        // Halves that lie beside each other are written as one.
        let together =
            if b.dtype.bits() == 16 && partial.is_none() && self.dialect.lanes >= 4 { 2 } else { 1 };
        let mut k = 0;
        while k < self.dialect.lanes {
            let at = |k: i64| i.iter().map(|e| e.substitute(&var, &k.into())).collect::<Vec<Expr>>();
            let guard = partial.as_ref().map_or(String::new(), |e| format!("if ({k} < {e}) "));
            if together == 2 && self.beside(n, &at(k), &at(k + 1))? {
                let (p, ..) = self.pointer(n, &at(k))?;
                let words = format!("i32x{}", self.dialect.lanes / 2);
                self.line(&format!("*(m_i32 *){p} = (({words}){v})[{}];", k / 2));
                k += 2;
                continue;
            }
            self.assign_where(&guard, n, &at(k), &format!("{v}[{k}]"))?;
            k += 1;
        }
        Ok(())
    }

    /// Whether an element lies behind another.
    fn beside(&self, n: &Name, first: &[Expr], second: &[Expr]) -> Result<bool, CodegenError> {
        let b = &self.buffers[n];
        let mut o = Opaque::default();
        let mut at = |i: &[Expr]| {
            let ints: Option<Vec<Int>> = i.iter().map(|i| o.int(i, &self.bounds)).collect();
            ints.map(|i| b.layout.address(&i, &self.bounds))
        };
        let (Some(x), Some(y)) = (at(first), at(second)) else { return Ok(false) };
        Ok((y - x).simplify(&self.bounds).as_const() == Some(b.dtype.bits()))
    }

    /// What an accumulator becomes with a value.
    fn combined(&self, reducer: &str, t: DType, old: &str, value: &str) -> Result<String, CodegenError> {
        if matches!(t, DType::F16 | DType::BF16) || ![8, 16, 32, 64].contains(&t.bits()) {
            return self.fail(format!("lanes do not accumulate in {t}"));
        }
        match reducer {
            "sum" => Ok(format!("{old} + {value}")),
            "max" => Ok(format!("({old} < {value} ? {value} : {old})")),
            "min" => Ok(format!("({value} < {old} ? {value} : {old})")),
            other => self.fail(format!("lanes do not accumulate by '{other}'")),
        }
    }

    /// Values are computed in lanes and added one after the other: lanes may pick the same element.
    fn one_lane_after_the_other(&mut self, s: &Store, r: &Reducer) -> Result<(), CodegenError> {
        let (var, (n, i)) = (self.lane_var(), &s.targets[0]);
        let t = self.buffers[n].dtype;
        let v = self.vector(&s.values[0])?;
        let partial = self.lane.as_ref().and_then(|l| l.partial.clone());
        for k in 0..self.dialect.lanes {
            let at: Vec<Expr> = i.iter().map(|e| e.substitute(&var, &k.into())).collect();
            let (p, ..) = self.pointer(n, &at)?;
            let place = format!("*(m_{} *){p}", c_type(t));
            let text = self.combined(r.name, t, &place, &format!("{v}[{k}]"))?;
            let guard = partial.as_ref().map_or(String::new(), |e| format!("if ({k} < {e}) "));
            self.line(&format!("{guard}{place} = {text};"));
        }
        Ok(())
    }
}
