//! From index expressions to polynomials with hypotheses: every division becomes a quotient and a remainder with what
//! defines them, every minimum a variable with its cases, everything else that is no arithmetic an unknown named by what
//! it is.
//!
//! Index arithmetic is that of the integers: that addresses fit 64 bits is assumed, as everywhere in the compiler.

use crate::Refusal;
use lathe_check::{Obligation, Term};
use lathe_ir::tensor::{Binary, Buffer, Expr, Fact, For, Kernel, Node, Stmt, expr_type, for_each};
use lathe_ir::{DType, Int, Name};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// What both programs say of names.
pub(crate) struct World<'k> {
    /// Every buffer of either program.
    pub buffers: HashMap<Name, &'k Buffer>,
    /// Every buffer of the program after, with what it promises.
    pub after: HashMap<Name, &'k Buffer>,
    /// The allocation of each view of a parameter.
    pub home: HashMap<Name, Name>,
    /// Buffers that either program writes, and other views of the same storage.
    written: HashSet<Name>,
    dims: Vec<Name>,
}

impl<'k> World<'k> {
    pub fn new(before: &'k Kernel, after: &'k Kernel) -> Result<World<'k>, Refusal> {
        let mut w = World {
            buffers: HashMap::new(),
            after: HashMap::new(),
            home: HashMap::new(),
            written: HashSet::new(),
            dims: before.dims.clone(),
        };
        let (mut written, mut twice): (HashSet<Name>, Option<Name>) = Default::default();
        // What is said of a name counts as the program before says it; the walk compares the two.
        for k in [after, before] {
            let mut own: HashMap<Name, &Buffer> = HashMap::new();
            for p in &k.params {
                for v in &p.views {
                    w.home.insert(v.name.clone(), p.name.clone());
                    w.buffers.insert(v.name.clone(), v);
                }
            }
            for_each(&k.body, &mut |s| match s {
                Stmt::Alloc(b) => {
                    w.buffers.insert(b.name.clone(), b);
                    let other = own.insert(b.name.clone(), b);
                    if other.is_some_and(|o| *o != **b) || w.home.contains_key(&b.name) {
                        twice = Some(b.name.clone());
                    }
                }
                Stmt::Store(s) => written.extend(s.targets.iter().map(|(n, _)| n.clone())),
                _ => {}
            });
        }
        for_each(&after.body, &mut |s| {
            if let Stmt::Alloc(b) = s {
                w.after.insert(b.name.clone(), b);
            }
        });
        w.after.extend(after.params.iter().flat_map(|p| &p.views).map(|v| (v.name.clone(), v)));
        let homes: HashSet<&Name> = written.iter().filter_map(|n| w.home.get(n)).collect();
        let others = w.home.iter().filter(|(_, p)| homes.contains(p)).map(|(n, _)| n.clone());
        w.written = others.chain(written.iter().cloned()).collect();
        match twice {
            Some(n) => Err(Refusal::Differs(format!("'{n}' is declared in two ways"))),
            None => Ok(w),
        }
    }

    pub fn dtype(&self, e: &Expr) -> Option<DType> {
        expr_type(e, &|n| self.buffers.get(n).map(|b| b.dtype))
    }

    /// Whether a value depends on when it is computed.
    pub fn volatile(&self, e: &Expr) -> bool {
        let mut found = false;
        e.visit(&mut |e| found |= matches!(&**e, Node::Load(n, _) if self.written.contains(n)));
        found
    }

    /// The buffer, or the parameter that it is a view of.
    fn home<'n>(&'n self, n: &'n Name) -> &'n Name {
        self.home.get(n).unwrap_or(n)
    }
}

/// What loop variables stand for, in one program at one moment.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Env {
    pub vars: HashMap<Name, Term>,
    /// Whether other moments are talked of too: then each load of what is written is an unknown of its own.
    pub apart: bool,
}

/// Hypotheses in the making.
#[derive(Clone)]
pub(crate) struct Scope<'w> {
    pub world: &'w World<'w>,
    pub facts: Vec<Term>,
    pub choices: Vec<Vec<Vec<Term>>>,
    /// What the facts say of a variable alone: the least and the most it can be.
    bounds: HashMap<u32, (Option<i128>, Option<i128>)>,
    /// Quotients with their dividends and divisors: hints for the search.
    quotients: Vec<(Term, Term, Term)>,
    /// What must hold besides: that divisors are positive.
    pub sides: Vec<Obligation>,
    atoms: HashMap<Arc<str>, u32>,
    /// Elements of buffers that nobody writes: the buffer, the index, the element.
    elements: Vec<(Name, Vec<Term>, Term)>,
    /// Unknowns so far that are made of what is read of memory.
    pub reads: usize,
    count: u32,
    /// Dimensions and iterations by their names; of several iterations of a loop the later ones get a stroke each.
    pub labels: Vec<(u32, Name)>,
    /// Terms whose sign decides, as far as is known.
    hints: Vec<Term>,
    /// Buffers that are written, but not while what is talked of runs, and since when that is so: their elements are what they
    /// were then.
    still: HashMap<Name, u32>,
}

/// Both programs at one moment: what is known, and what the loop variables of each stand for.
#[derive(Clone)]
pub(crate) struct Sides<'w> {
    pub scope: Scope<'w>,
    pub before: Env,
    pub after: Env,
}

impl<'w> Sides<'w> {
    /// In an iteration of two loops of equal extents, or one of those that both have.
    pub fn iteration(&self, before: &For, after: &For) -> Result<Sides<'w>, Refusal> {
        let mut now = self.clone();
        let i = now.scope.iteration(&before.var, &before.extent, &mut now.before)?;
        now.after.vars.insert(after.var.clone(), i);
        Ok(now)
    }
}

/// Whether an expression reads memory.
pub(crate) fn reads_memory(e: &Expr) -> bool {
    let mut found = false;
    e.visit(&mut |e| found |= matches!(&**e, Node::Load(..)));
    found
}

pub(crate) fn exact(t: Option<Term>) -> Result<Term, Refusal> {
    t.ok_or_else(|| Refusal::Differs("the numbers are too large".into()))
}

fn gcd(a: i128, b: i128) -> i128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl<'w> Scope<'w> {
    pub fn new(world: &'w World<'w>) -> Scope<'w> {
        Scope {
            world,
            facts: vec![],
            choices: vec![],
            bounds: HashMap::new(),
            quotients: vec![],
            sides: vec![],
            atoms: HashMap::new(),
            elements: vec![],
            reads: 0,
            count: 0,
            labels: vec![],
            hints: vec![],
            still: HashMap::new(),
        }
    }

    /// From here on, nothing but what is done in these loops is talked of.
    pub fn within(&mut self, loops: &[&For]) {
        let mut written: HashSet<&Name> = HashSet::new();
        for l in loops {
            for_each(&l.body, &mut |s| {
                if let Stmt::Store(b) = s {
                    written.extend(b.targets.iter().map(|(n, _)| self.world.home(n)));
                }
            });
        }
        self.count += 1;
        for n in self.world.written.iter().filter(|n| !written.contains(self.world.home(n))) {
            self.still.entry(n.clone()).or_insert(self.count);
        }
    }

    /// Whether elements of a buffer depend on the moment.
    fn changes(&self, n: &Name) -> bool {
        self.world.written.contains(n) && !self.still.contains_key(n)
    }

    /// Whether a value depends on the moment, of those that are talked of.
    pub fn volatile(&self, e: &Expr) -> bool {
        let mut found = false;
        e.visit(&mut |e| found |= matches!(&**e, Node::Load(n, _) if self.changes(n)));
        found
    }

    /// A variable of which nothing is known.
    pub fn fresh(&mut self) -> Term {
        self.count += 1;
        Term::var(self.count - 1)
    }

    /// Names the last variable.
    fn label(&mut self, name: &str) {
        let again = |l: &&(u32, Name)| l.1.trim_end_matches('\'') == name;
        let strokes = "'".repeat(self.labels.iter().filter(again).count());
        self.labels.push((self.count - 1, format!("{name}{strokes}").into()));
    }

    /// The unknown of a name, and whether it is new.
    fn atom(&mut self, key: String) -> (Term, bool) {
        if let Some(v) = self.atoms.get(&*key) {
            return (Term::var(*v), false);
        }
        self.atoms.insert(key.into(), self.count);
        (self.fresh(), true)
    }

    /// `t <= 0`.
    pub fn fact(&mut self, t: Term) {
        let alone: Vec<(&[u32], i128)> = t.parts().filter(|(v, _)| !v.is_empty()).collect();
        let constant = t.parts().find(|(v, _)| v.is_empty()).map_or(0, |(_, c)| c);
        if let ([([v], by @ (1 | -1))], Some(end)) = (alone.as_slice(), constant.checked_neg()) {
            let (low, most) = self.bounds.entry(*v).or_default();
            match by {
                1 => *most = Some(most.map_or(end, |m| m.min(end))),
                _ => *low = Some(low.map_or(constant, |l| l.max(constant))),
            }
        }
        self.facts.push(t);
    }

    /// `a <= b`.
    pub fn at_most(&mut self, a: &Term, b: &Term) -> Result<(), Refusal> {
        let t = exact(a.sub(b))?;
        self.fact(t);
        Ok(())
    }

    /// `a = b`.
    pub fn equal(&mut self, a: &Term, b: &Term) -> Result<(), Refusal> {
        self.at_most(a, b)?;
        self.at_most(b, a)
    }

    /// A number that is no constant is positive, which follows already: products of it say how large others are.
    fn positive(&mut self, n: &Term) -> Result<(), Refusal> {
        let t = exact(n.neg().and_then(|n| n.plus(1)))?;
        if n.as_constant().is_none() && !self.facts.contains(&t) {
            self.fact(t);
        }
        Ok(())
    }

    /// A fresh iteration of a loop, bound to its variable; its extent is a hypothesis where it does not change.
    pub fn iteration(&mut self, var: &Name, extent: &Expr, env: &mut Env) -> Result<Term, Refusal> {
        let i = self.fresh();
        self.label(var);
        self.fact(exact(i.neg())?);
        if !self.volatile(extent) {
            let n = self.term(extent, env)?;
            self.at_most(&exact(i.plus(1))?, &n)?;
            self.positive(&n)?;
        }
        env.vars.insert(var.clone(), i.clone());
        Ok(i)
    }

    /// The polynomial of an index expression.
    pub fn term(&mut self, e: &Expr, env: &Env) -> Result<Term, Refusal> {
        match &**e {
            Node::Int(v, DType::INDEX) => Ok(Term::constant((*v).into())),
            Node::Var(n) => match env.vars.get(n) {
                Some(t) => Ok(t.clone()),
                None if self.world.dims.contains(n) => {
                    let (t, new) = self.atom(format!("dim {n:?}"));
                    if new {
                        self.label(n);
                        self.at_most(&Term::constant(1), &t)?;
                    }
                    Ok(t)
                }
                None => Err(Refusal::Differs(format!("'{n}' has no meaning here"))),
            },
            Node::Binary(..) if self.world.dtype(e) == Some(DType::INDEX) => self.arithmetic(e, env),
            _ => self.unknown(e, env),
        }
    }

    /// The same of an expression that is known to be an index: so are the operands of its operators.
    fn arithmetic(&mut self, e: &Expr, env: &Env) -> Result<Term, Refusal> {
        let Node::Binary(op, x, y) = &**e else { return self.term(e, env) };
        let (x, y) = (self.arithmetic(x, env)?, self.arithmetic(y, env)?);
        match op {
            Binary::Add => exact(x.add(&y)),
            Binary::Sub => exact(x.sub(&y)),
            Binary::Mul => exact(x.mul(&y)),
            Binary::Div => Ok(self.divide(&x, &y)?.0),
            Binary::Rem => Ok(self.divide(&x, &y)?.1),
            Binary::Min => self.extreme("min", &x, &y, 1),
            Binary::Max => self.extreme("max", &x, &y, -1),
            _ => self.unknown(e, env),
        }
    }

    /// The polynomial of a shape or stride.
    pub fn int(&mut self, i: &Int) -> Result<Term, Refusal> {
        self.term(&Expr::from(i), &Env::default())
    }

    fn unknown(&mut self, e: &Expr, env: &Env) -> Result<Term, Refusal> {
        let key = self.key(e, env)?;
        let (t, new) = self.atom(key);
        self.reads += usize::from(new && reads_memory(e));
        if new
            && let Node::Cast(DType::INDEX, x) = &**e
            && let Node::Load(n, index) = &**x
            && !self.world.written.contains(n)
            && let Some(b) = self.world.buffers.get(n)
        {
            let at = index.iter().map(|i| self.term(i, env)).collect::<Result<Vec<_>, _>>()?;
            self.promised(b, &at, &t)?;
        }
        Ok(t)
    }

    /// What is known of an element of a buffer that nobody writes: what the buffer promises, and that it is the same as another
    /// one at the same index.
    fn promised(&mut self, b: &Buffer, at: &[Term], t: &Term) -> Result<(), Refusal> {
        for f in &b.facts {
            if let Fact::Range(lo, hi) = f {
                let (lo, hi) = (self.int(lo)?, self.int(hi)?);
                self.at_most(&lo, t)?;
                self.at_most(&exact(t.plus(1))?, &hi)?;
            }
        }
        let apart = |a: &Term, b: &Term| -> Result<[Term; 2], Refusal> {
            let d = exact(a.sub(b))?;
            Ok([exact(d.plus(1))?, exact(d.neg().and_then(|d| d.plus(1)))?])
        };
        let others: Vec<_> = self.elements.iter().filter(|o| o.0 == b.name).cloned().collect();
        for (_, j, u) in others {
            let mut same = vec![exact(t.sub(&u))?, exact(u.sub(t))?];
            if b.facts.contains(&Fact::Injective) {
                for (x, y) in at.iter().zip(&j) {
                    same.extend([exact(x.sub(y))?, exact(y.sub(x))?]);
                }
            }
            let mut cases = vec![same];
            for (x, y) in at.iter().zip(&j) {
                let not_less = [exact(t.sub(&u))?, exact(u.sub(t))?];
                for (other_index, rises) in apart(x, y)?.into_iter().zip(not_less) {
                    let mut case = vec![other_index];
                    if b.facts.contains(&Fact::Monotone) && at.len() == 1 {
                        case.push(rises);
                    }
                    if b.facts.contains(&Fact::Injective) {
                        cases.extend(apart(t, &u)?.map(|other| [case.as_slice(), &[other]].concat()));
                    } else {
                        cases.push(case);
                    }
                }
            }
            self.choices.push(cases);
        }
        self.elements.push((b.name.clone(), at.to_vec(), t.clone()));
        Ok(())
    }

    /// What an expression is, indices in normal form.
    fn key(&mut self, e: &Expr, env: &Env) -> Result<String, Refusal> {
        let op = match &**e {
            Node::Int(v, t) => format!("{v} {t}"),
            Node::Float(bits, t) => format!("{bits} {t}"),
            Node::Var(_) => return Ok(self.term(e, env)?.to_string()),
            Node::Unary(op, _) => op.name().to_string(),
            Node::Binary(op, ..) => format!("{op:?}"),
            Node::Select(..) => "select".into(),
            Node::Cast(t, _) => format!("cast {t}"),
            Node::Bitcast(t, _) => format!("bitcast {t}"),
            Node::Table(t, v, _) => format!("table {t} {v:?}"),
            Node::Load(n, _) if env.apart && self.changes(n) => {
                self.count += 1;
                format!("load {n:?} then {}", self.count)
            }
            Node::Load(n, _) => match self.still.get(n) {
                Some(since) => format!("load {n:?} since {since}"),
                None => format!("load {n:?}"),
            },
        };
        let mut out = format!("{op}(");
        for c in e.children() {
            let arithmetic =
                matches!(&**c, Node::Binary(..) | Node::Int(..)) && self.world.dtype(c) == Some(DType::INDEX);
            out += &if arithmetic { self.term(c, env)?.to_string() } else { self.key(c, env)? };
            out += ", ";
        }
        Ok(out + ")")
    }

    /// The numbers that a sum of variables is between, by the facts that bound each with a number.
    fn range(&self, t: &Term) -> Option<(i128, i128)> {
        t.parts().try_fold((0i128, 0i128), |(low, most), (vars, by)| {
            let (a, b) = match vars {
                [] => (1, 1),
                [v] => {
                    let (lo, hi) = self.bounds.get(v)?;
                    ((*lo)?, (*hi)?)
                }
                _ => return None,
            };
            let (a, b) = if by < 0 { (b, a) } else { (a, b) };
            Some((low.checked_add(by.checked_mul(a)?)?, most.checked_add(by.checked_mul(b)?)?))
        })
    }

    /// Quotient and remainder: `x = q*m + r` with `0 <= r < m`.
    pub fn divide(&mut self, x: &Term, m: &Term) -> Result<(Term, Term), Refusal> {
        let (mut whole, mut rest) = (Term::default(), x.clone());
        match m.as_constant() {
            Some(c) if c <= 0 => {
                return Err(Refusal::Differs("a division by a number that is not positive".into()));
            }
            // Whole multiples come out of a quotient by a number.
            Some(c) => {
                rest = Term::default();
                for (vars, v) in x.parts() {
                    let (to, by) = if v % c == 0 { (&mut whole, v / c) } else { (&mut rest, v) };
                    *to = exact(to.add(&Term::product(vars.to_vec(), by)))?;
                }
                if let Some(v) = rest.as_constant() {
                    let q = exact(whole.plus(v.div_euclid(c)))?;
                    return Ok((q, Term::constant(v.rem_euclid(c))));
                }
                // floor(g*x / g*c) = floor(x / c), and the remainder is g times as large.
                // So it is where what is no multiple of g is a digit, at least 0 and less than g: the digit is left over.
                let gcds: BTreeSet<i128> =
                    rest.parts().map(|(_, v)| gcd(c, (v % c).abs())).chain([c]).collect();
                for g in gcds.into_iter().rev().filter(|g| *g > 1) {
                    let (mut high, mut digit) = (Term::default(), Term::default());
                    for (vars, v) in rest.parts() {
                        let (to, by) = if v % g == 0 { (&mut high, v / g) } else { (&mut digit, v) };
                        *to = exact(to.add(&Term::product(vars.to_vec(), by)))?;
                    }
                    if !self.range(&digit).is_some_and(|(low, most)| low >= 0 && most < g) {
                        continue;
                    }
                    let (q, r) = match g == c {
                        true => (Term::default(), Term::default()),
                        false => self.divide(&high, &Term::constant(c / g))?,
                    };
                    let left = exact(r.mul(&Term::constant(g)).and_then(|r| r.add(&digit)))?;
                    return Ok((exact(whole.add(&q))?, left));
                }
            }
            None => {
                let mut facts = self.facts.clone();
                facts.push(m.clone());
                self.sides.push(Obligation { facts, choices: self.choices.clone() });
            }
        }
        let (q, new) = self.atom(format!("{rest} / {m}"));
        let (r, _) = self.atom(format!("{rest} % {m}"));
        if new {
            let sum = exact(q.mul(m).and_then(|p| p.add(&r)))?;
            self.equal(&sum, &rest)?;
            self.fact(exact(r.neg())?);
            self.at_most(&exact(r.plus(1))?, m)?;
            self.positive(m)?;
            self.quotients.push((q.clone(), rest, m.clone()));
        }
        Ok((exact(whole.add(&q))?, r))
    }

    /// The least (`sign` 1) or greatest (-1) of two.
    fn extreme(&mut self, name: &str, x: &Term, y: &Term, sign: i128) -> Result<Term, Refusal> {
        if let Some(d) = exact(x.sub(y))?.as_constant() {
            return Ok(if d * sign <= 0 { x.clone() } else { y.clone() });
        }
        let (e, new) = self.atom(format!("{name} {x}, {y}"));
        if new {
            let below =
                |t: &Term| exact(Term::default().add_scaled(&e, sign).and_then(|e| e.add_scaled(t, -sign)));
            let (dx, dy) = (below(x)?, below(y)?);
            let cases = vec![vec![exact(dx.neg())?], vec![exact(dy.neg())?]];
            self.fact(dx);
            self.fact(dy);
            self.choices.push(cases);
        }
        Ok(e)
    }

    /// The first tuple comes before the second, in the order of nested loops.
    pub fn precedes(&mut self, a: &[Term], b: &[Term]) -> Result<(), Refusal> {
        let mut cases = vec![];
        for d in 0..a.len() {
            let mut case = vec![exact(a[d].sub(&b[d]).and_then(|t| t.plus(1)))?];
            for e in 0..d {
                case.extend([exact(a[e].sub(&b[e]))?, exact(b[e].sub(&a[e]))?]);
            }
            cases.push(case);
        }
        self.choices.push(cases);
        Ok(())
    }

    /// Terms whose sign may decide: each quotient beside what its dividend says it is, and beside the others.
    pub fn cuts(&self) -> Vec<Term> {
        let mut out = self.hints.clone();
        for (q, x, m) in &self.quotients {
            let divisor = m.parts().next().map(|(vars, _)| vars);
            let mut whole = Term::default();
            for (vars, c) in x.parts() {
                if let [a, b] = vars
                    && let Some([d]) = divisor
                    && (d == a || d == b)
                {
                    let other = if d == a { *b } else { *a };
                    whole = whole.add(&Term::product(vec![other], c)).unwrap_or_default();
                }
            }
            out.extend(q.sub(&whole));
        }
        // Two quotients by one divisor are likely the same digit of two iterations, and outer ones decide inner ones.
        let pairs = |same: bool| {
            let each = self.quotients.iter().enumerate().rev();
            each.flat_map(move |(i, (q, _, m))| {
                let alike = move |n: &Term| match m == n {
                    true => same,
                    false => !same && m.as_constant().is_some() && n.as_constant().is_some(),
                };
                self.quotients[..i].iter().filter(move |(.., n)| alike(n)).filter_map(|(p, ..)| q.sub(p))
            })
        };
        pairs(true).chain(pairs(false)).chain(out).collect()
    }

    /// Hints at how far apart the blocks are that two addresses of different views lie in: where the blocks of both are as long,
    /// views are apart inside of one, and so they are in different ones.
    pub fn blocks(&mut self, i: &Term, j: &Term) {
        let Some(d) = i.sub(j) else { return };
        let strides: BTreeSet<i128> =
            d.parts().filter(|(vars, _)| !vars.is_empty()).map(|(_, c)| c.abs()).collect();
        for stride in strides.iter().rev().take(3) {
            let whole = d.parts().filter(|(vars, c)| !vars.is_empty() && c % stride == 0);
            let sum = whole.map(|(vars, c)| Term::product(vars.to_vec(), c / stride));
            self.hints.extend(sum.into_iter().try_fold(Term::default(), |s, t| s.add(&t)));
        }
    }

    /// The bit address of an element.
    pub fn address(&mut self, b: &Buffer, index: &[Term]) -> Result<Term, Refusal> {
        let mut sum = self.int(&b.layout.offset)?;
        for t in &b.layout.terms {
            let mut i = index[t.dim].clone();
            if t.div != 1 {
                i = self.divide(&i, &Term::constant(t.div.into()))?.0;
            }
            if let Some(m) = t.modulo {
                i = self.divide(&i, &Term::constant(m.into()))?.1;
            }
            let stride = self.int(&t.stride)?;
            sum = exact(i.mul(&stride).and_then(|p| sum.add(&p)))?;
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lathe_ir::tensor::parse;

    fn value(t: &Term, of: &HashMap<u32, i128>) -> i128 {
        t.parts().map(|(vars, by)| by * vars.iter().map(|v| of[v]).product::<i128>()).sum()
    }

    /// Quotients and remainders are those of numbers, whatever is taken out of them.
    #[test]
    fn division_is_that_of_numbers() {
        let k = parse("kernel f() {\n}").expect("a kernel");
        let world = World::new(&k, &k).expect("no names");
        let mut seed = 1u64;
        let mut below = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((seed >> 33) % n) as i128
        };
        let mut plain = 0;
        for _ in 0..4000 {
            let mut s = Scope::new(&world);
            let vars: Vec<(Term, i128)> = (0..3)
                .map(|_| {
                    let (v, n) = (s.fresh(), 1 + below(9));
                    s.fact(v.neg().expect("small"));
                    s.at_most(&v, &Term::constant(n - 1)).expect("small");
                    (v, n)
                })
                .collect();
            let steps = [1, 2, 3, 4, 6, 8, 12, 16, -1, -4];
            let mut x = Term::constant(below(20) - 6);
            for (v, _) in &vars {
                x = x.add_scaled(v, steps[below(10) as usize]).expect("small");
            }
            let c = [2, 3, 4, 6, 8, 12, 16][below(7) as usize];
            let (q, r) = s.divide(&x, &Term::constant(c)).expect("small");
            plain += i128::from(s.quotients.is_empty());
            for _ in 0..20 {
                let mut of: HashMap<u32, i128> = HashMap::new();
                for (i, (_, n)) in vars.iter().enumerate() {
                    of.insert(i as u32, below(*n as u64));
                }
                // What is left unknown is a quotient, and behind it its remainder.
                for (q, rest, m) in &s.quotients {
                    let (rest, m) = (value(rest, &of), value(m, &of));
                    let q = *q.parts().next().and_then(|(v, _)| v.first()).expect("a variable");
                    of.extend([(q, rest.div_euclid(m)), (q + 1, rest.rem_euclid(m))]);
                }
                let x = value(&x, &of);
                assert_eq!((value(&q, &of), value(&r, &of)), (x.div_euclid(c), x.rem_euclid(c)));
                assert!(s.facts.iter().all(|t| value(t, &of) <= 0));
            }
        }
        assert!(plain > 400, "{plain}");
    }
}
