//! Instructions that a schedule has placed, of the form `acc = f(acc, x, y)`: at each step, a word of one factor in every lane, and a
//! repeated one of the other: four codes, or two halves. They come one by one; or, where all those of a tile have many steps, step by
//! step: what all read of a step is unpacked once and then forgotten, so that few registers hold words.

use crate::Row;
use crate::emit::{CodegenError, Emitter};
use crate::registers::Kind;
use lathe_ir::Name;
use lathe_ir::tensor::{Expr, For, Node, Stmt, UNROLLED, for_each, rename_vars};
use lathe_schedule::{Code, MANY_STEPS, PAST_CACHES, code, ends_alike, is_prefetch, lanes_first};
use std::collections::{HashMap, HashSet};

/// Most vectors of sums that are made step by step: with a step's words, as many as there are registers.
const MOST: usize = 12;

/// A vector that an instruction adds to, and its two factors at each step.
struct Sum {
    to: (Name, Vec<Expr>),
    steps: Vec<(Code, Expr)>,
}

impl Emitter<'_> {
    /// An instruction, for each vector of its lanes. One that adds to memory is refused: written out in scalars it would be many times
    /// slower, and nothing would tell.
    pub fn intrinsic(&mut self, row: &'static Row, body: &[Stmt]) -> Result<(), CodegenError> {
        if let Some(sum) = self.in_memory(body) {
            return self.fail(format!(
                "'{}' adds to '{sum}', which is in no vectors of registers: add up in a temporary there ('cache_write' and 'set_memory'), \
                 and unroll the loops that pick its elements",
                row.name
            ));
        }
        let sums = self.sums(row, body)?;
        let around = self.words_shared;
        self.words_shared |= sums.len() > 1;
        for sum in &sums {
            self.instruction(row, sum)?;
        }
        self.words_shared = around;
        Ok(())
    }

    /// Unrolled loops around nothing but one instruction of many steps: made step by step. `false` where they are none.
    pub fn tile(&mut self, l: &For) -> Result<bool, CodegenError> {
        let rows = ["step", "total", "hold"].map(|name| self.dialect.row(name));
        let [Some(step), Some(total), Some(hold)] = rows else { return Ok(false) };
        let mut sums = vec![];
        if !self.sums_of(std::slice::from_ref(&Stmt::For(l.clone().into())), &mut sums)? {
            return Ok(false);
        }
        let apart: HashSet<_> = sums.iter().map(|s| &s.to).collect();
        let steps = sums.first().map_or(0, |s| s.steps.len());
        if sums.len() < 2 || sums.len() > MOST || apart.len() < sums.len() || (steps as i64) < MANY_STEPS {
            return Ok(false);
        }
        let pairs = format!("i16x{}", 2 * self.dialect.lanes);
        let names: Vec<String> = sums.iter().map(|_| self.temp()).collect();
        for (at, k) in self.in_order(&sums[0])?.into_iter().enumerate() {
            let mut repeated: HashMap<&Expr, String> = HashMap::new();
            for (sum, name) in sums.iter().zip(&names) {
                let (x, y) = &sum.steps[k];
                let x = self.words(x)?;
                if !repeated.contains_key(y) {
                    let word = self.repeated_word(y)?;
                    let t = self.temp();
                    self.line(&format!("const i32x{} {t} = {word};", self.dialect.lanes));
                    repeated.insert(y, t);
                }
                let product = step.spell(self.compiler, &[&x, &repeated[y]]);
                match at {
                    0 => self.line(&format!("{pairs} {name} = {product};")),
                    // Without this the compiler makes all products before it adds any.
                    _ => self.line(&format!("{name} += {product}; {};", hold.spell(self.compiler, &[name]))),
                }
            }
        }
        for (sum, name) in sums.iter().zip(&names) {
            let to = self.register(&sum.to.0, &sum.to.1, Kind::Vectors)?;
            let sum = total.spell(self.compiler, &[&to, name]);
            self.line(&format!("{to} = {sum};"));
        }
        Ok(true)
    }

    /// Collects the vectors that one instruction in unrolled loops adds to; `false` where there is something else.
    fn sums_of(&self, body: &[Stmt], sums: &mut Vec<Sum>) -> Result<bool, CodegenError> {
        match body {
            [Stmt::For(l)] if &*l.level == UNROLLED => {
                let Some(n) = l.extent.as_int().filter(|n| *n as usize <= MOST) else { return Ok(false) };
                for i in 0..n {
                    let at = rename_vars(&l.body, &HashMap::from([(&*l.var, Expr::from(i))]));
                    if sums.len() > MOST || !self.sums_of(&at, sums)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            [Stmt::Intrinsic(name, b)] => {
                match self.dialect.row(name).filter(|_| self.in_memory(b).is_none()) {
                    Some(row) if !is_prefetch(name) && &**name != PAST_CACHES => {
                        sums.extend(self.sums(row, b)?);
                        Ok(true)
                    }
                    _ => Ok(false),
                }
            }
            _ => Ok(false),
        }
    }

    /// The steps, those behind each other that unpack the same words.
    fn in_order(&mut self, sum: &Sum) -> Result<Vec<usize>, CodegenError> {
        let mut words = vec![];
        for (x, _) in &sum.steps {
            words.push(self.place_of_words(x)?);
        }
        let mut order: Vec<usize> = (0..words.len()).collect();
        order.sort_by_key(|k| words.iter().position(|w| *w == words[*k]));
        Ok(order)
    }

    fn sums(&self, row: &'static Row, body: &[Stmt]) -> Result<Vec<Sum>, CodegenError> {
        let [Stmt::For(l)] = body else { return self.fail("an instruction over more than one nest") };
        // Of a vector's lanes there may be fewer.
        let n = l.extent.as_int().unwrap_or(self.dialect.lanes);
        if n % self.dialect.lanes != 0 {
            return self.fail(format!("'{}' has {n} lanes", row.name));
        }
        let (mut swapped, mut seen) = (false, false);
        for_each(&l.body, &mut |s| {
            if let Stmt::Store(s) = s {
                seen |= l.extent.as_int().is_none() && !ends_alike(self.kernel, &s.targets[0].0, n);
                swapped |= lanes_first(&s.values[0], &l.var) != s.values[0];
            }
        });
        if seen {
            return self.fail(format!("others read what '{}' writes behind its lanes", row.name));
        }
        let at = |first: i64| rename_vars(&l.body, &HashMap::from([(&*l.var, Expr::from(first))]));
        (0..n).step_by(self.dialect.lanes as usize).map(|first| self.sum(at(first), swapped)).collect()
    }

    /// The sum in the lanes of one vector; in the program the factors may be `swapped`.
    fn sum(&self, at0: Vec<Stmt>, swapped: bool) -> Result<Sum, CodegenError> {
        let steps = match at0.as_slice() {
            // A loop of steps is around that of the bytes.
            [Stmt::For(l)] if matches!(l.body.as_slice(), [Stmt::For(_)]) => {
                let n = l.extent.as_int().unwrap_or(1);
                (0..n).map(|i| rename_vars(&l.body, &HashMap::from([(&*l.var, Expr::from(i))]))).collect()
            }
            _ => vec![at0],
        };
        let (mut to, mut factors) = (None, vec![]);
        for step in &steps {
            let Some((s, _)) = Self::origin(step) else {
                return self.fail("an instruction over more than one block");
            };
            let Node::Binary(_, x, y) = &*s.values[0] else {
                return self.fail("an instruction without a product");
            };
            let (x, y) = if swapped { (y, x) } else { (x, y) };
            let (Some(x), Some(Code::Load(y) | Code::Half(y))) = (code(x), code(y)) else {
                return self.fail("an instruction's factors are no codes");
            };
            to = to.or(s.targets.first().cloned());
            factors.push((x, y));
        }
        match to {
            Some(to) => Ok(Sum { to, steps: factors }),
            None => self.fail("an instruction of no steps"),
        }
    }

    fn instruction(&mut self, row: &'static Row, sum: &Sum) -> Result<(), CodegenError> {
        // A word that one instruction takes can be read by it.
        let repeated = self.dialect.row(&format!("{}.repeated", row.name)).filter(|_| !self.words_shared);
        let mut operands = vec![self.register(&sum.to.0, &sum.to.1, Kind::Vectors)?];
        for (x, y) in &sum.steps {
            operands.push(self.words(x)?);
            operands.push(if repeated.is_some() { self.word_place(y)? } else { self.repeated_word(y)? });
        }
        let row = repeated.unwrap_or(row);
        let texts: Vec<&str> = operands.iter().map(String::as_str).collect();
        let call = row.spell(self.compiler, &texts);
        self.line(&format!("{} = {call};", operands[0]));
        Ok(())
    }
}
