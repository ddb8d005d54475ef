//! The rule of an instruction: a nest is wrapped that is what the instruction's row says.

use crate::Refusal;
use crate::obligations::{Walk, differs};
use crate::scope::{Env, Scope, exact};
use lathe_check::Term;
use lathe_ir::tensor::{Buffer, Expr, Fact, LANE, Node, Stmt};
use lathe_ir::{DType, Int, Name};
use lathe_schedule::{Code, INTRINSICS, STEPS, WIDTHS, code, ends_alike, fits, lanes_first};

/// Lanes of a vector whose number is not constant.
const LANES: i64 = 16;

impl Walk<'_> {
    pub(crate) fn instruction(
        &mut self,
        s: &Scope,
        ea: &Env,
        name: &str,
        inner: &Stmt,
    ) -> Result<(), Refusal> {
        let row = INTRINSICS.iter().find(|r| r.name == name);
        let row = row.ok_or_else(|| Refusal::Differs(format!("no row says what '{name}' is")))?;
        self.tag = self.tag.max(row.tag);
        let assumed = row.assumes;
        let Stmt::For(lanes) = inner else { return differs(format!("there is no loop of '{name}'")) };
        // Of lanes that are a vector's already there may be fewer, where there is room for all: what the others compute, nobody looks at.
        let some = lanes.extent.as_int().is_none() && &*lanes.level == LANE;
        let width = lanes.extent.as_int().or(some.then_some(LANES)).filter(|n| WIDTHS.contains(n));
        let width =
            width.ok_or_else(|| Refusal::Differs(format!("'{}' is no loop over lanes", lanes.var)))?;
        let row = row.kernel(width);
        let (mut s, mut here, mut there) = (s.clone(), ea.clone(), Env::default());
        let (mut zero_here, mut zero_there) = (ea.clone(), Env::default());
        let (mut first_here, mut first_there) = (ea.clone(), Env::default());
        let (mut got, mut want) = (inner, row.body.first());
        while let (Stmt::For(l), Some(Stmt::For(w))) = (got, want) {
            let fewer = some && l.var == lanes.var;
            if l.iter != w.iter || !(fewer || l.extent == w.extent) || l.body.len() != 1 || w.body.len() != 1
            {
                return differs(format!("'{}' is not the loop '{}' of '{name}'", l.var, w.var));
            }
            let i = s.iteration(&l.var, &l.extent, &mut here)?;
            if fewer {
                let n = Term::constant(width.into());
                self.inside(&s, &i, &n, &format!("lanes of '{}' are no more than of '{name}'", l.var))?;
            }
            there.vars.insert(w.var.clone(), i.clone());
            zero_here.vars.insert(l.var.clone(), Term::default());
            zero_there.vars.insert(w.var.clone(), Term::default());
            // What the steps read may lie anywhere.
            let first = if &*w.var == STEPS { i } else { Term::default() };
            first_here.vars.insert(l.var.clone(), first.clone());
            first_there.vars.insert(w.var.clone(), first);
            (got, want) = (&l.body[0], w.body.first());
        }
        let (Stmt::Store(got), Some(Stmt::Store(want))) = (got, want) else {
            return differs(format!("the statement is not that of '{name}'"));
        };
        if got.reducer != want.reducer || got.targets.len() != 1 || want.targets.len() != 1 {
            return differs(format!("the block '{}' is not that of '{name}'", got.name));
        }
        let mut operands = vec![(got.targets[0].clone(), want.targets[0].clone())];
        let types = |n: &str| self.world.buffers.get(n).map(|b| b.dtype);
        let want_types = |n: &str| row.buffer(n).map(|b| b.dtype);
        let product = lanes_first(&got.values[0], &lanes.var);
        pair(&product, &want.values[0], &types, &want_types, &mut operands)
            .ok_or_else(|| Refusal::Differs(format!("'{}' does not compute what '{name}' does", got.name)))?;
        let home = |n: &Name| self.world.home.get(n).unwrap_or(n).clone();
        for (k, ((n, i), (m, j))) in operands.iter().enumerate() {
            let (Some(b), Some(r)) = (self.world.buffers.get(n), row.buffer(m)) else {
                return differs(format!("there is no buffer '{n}'"));
            };
            if k == 0 && b.dtype != r.dtype {
                return differs(format!("'{n}' is no operand '{m}' of '{name}'"));
            }
            if k > 0 && home(n) == home(&operands[0].0.0) {
                return differs(format!("'{n}' is read and written"));
            }
            if i.iter().any(|i| self.world.volatile(i)) {
                return differs(format!("what is written picks an element of '{n}'"));
            }
            let room = match k {
                0 => {
                    // Loops that go to lanes in this step overwrite as much: who reads it is asked of the program after.
                    b.shape.last().and_then(Int::as_const) == Some(width) && ends_alike(self.after, n, width)
                }
                _ => {
                    let padded = |f: &Fact| matches!(f, Fact::Padded(_, m) if *m == width);
                    !i.iter().any(|i| i.mentions(&lanes.var)) || b.facts.iter().any(padded)
                }
            };
            if some && !room {
                return differs(format!("'{n}' has no room for all lanes of '{name}'"));
            }
            let at = |s: &mut Scope, b: &Buffer, i: &[Expr], env: &Env| -> Result<Term, Refusal> {
                let i = i.iter().map(|i| s.term(i, env)).collect::<Result<Vec<_>, _>>()?;
                s.address(b, &i)
            };
            let (from, row_from) =
                if k == 0 { (&zero_here, &zero_there) } else { (&first_here, &first_there) };
            let far = exact(at(&mut s, b, i, &here)?.sub(&at(&mut s, b, i, from)?))?;
            let row_far = exact(at(&mut s, &r, j, &there)?.sub(&at(&mut s, &r, j, row_from)?))?;
            // Distances in elements, those of packed codes in the bytes they stand in.
            let (unit, row_unit) =
                (Term::constant(b.dtype.bits().max(8).into()), Term::constant(r.dtype.bits().into()));
            let (far, row_far) = (exact(far.mul(&row_unit))?, exact(row_far.mul(&unit))?);
            self.equal(&s, &far, &row_far, &format!("elements of '{n}' lie as in '{m}' of '{name}'"))?;
        }
        if let Some(what) = assumed {
            let read = operands[1..].iter().map(|((n, _), (m, _))| format!("'{n}' as its '{m}'"));
            let read: Vec<String> = read.collect();
            let promise = format!("'{name}' reads {}, of which {what}", read.join(" and "));
            self.assumes.extend((!self.assumes.contains(&promise)).then_some(promise));
        }
        Ok(())
    }
}

type Element = (Name, Vec<Expr>);
type Types<'a> = &'a dyn Fn(&str) -> Option<DType>;

/// Matches an expression with a row's, whose loads are operands. A code of several fields is one operand of as many bits.
fn pair(
    got: &Expr,
    want: &Expr,
    types: Types<'_>,
    want_types: Types<'_>,
    operands: &mut Vec<(Element, Element)>,
) -> Option<()> {
    if let (Some(c), Some(w)) = (code(got), code(want))
        && let Code::Load(e) | Code::Half(e) = &w
        && let Node::Load(m, j) = &**e
    {
        if !c.widened_as(&w) || !fits(c.dtype(types)?, want_types(m)?) {
            return None;
        }
        for load in c.loads() {
            let Node::Load(n, i) = &**load else { return None };
            operands.push(((n.clone(), i.clone()), (m.clone(), j.clone())));
        }
        return Some(());
    }
    let same = match (&**got, &**want) {
        (Node::Int(..) | Node::Float(..), _) => return (got == want).then_some(()),
        (Node::Binary(f, ..), Node::Binary(g, ..)) => f == g,
        _ => false,
    };
    if !same {
        return None;
    }
    let mut children = got.children().into_iter().zip(want.children());
    children.try_for_each(|(x, y)| pair(x, y, types, want_types, operands).ok_or(())).ok()
}
