//! Making a finding small: whatever can be left out or made simpler is, as long as the same is found.

use crate::case::{Case, Move, Program};
use lathe_ir::tensor::{
    Access, Buffer, Expr, For, Kernel, Node, Stmt, Store, check, expr_type, for_each, map_stmts, parse,
    rename_vars,
};
use lathe_ir::{DType, Int, IrError, Name};
use std::sync::Arc;

/// The smallest case that is found to still show it, in `budget` tries.
pub fn reduce<P: Program>(case: &Case<P>, budget: usize, shows: &mut dyn FnMut(&Case<P>) -> bool) -> Case<P> {
    let (mut best, mut left) = (case.clone(), budget);
    loop {
        let before = best.clone();
        let mut i = 0;
        // What was tried at a place and failed is not tried again before something else has changed.
        while let Some(next) = smaller(&best, i) {
            if left == 0 {
                return best;
            }
            i += 1;
            let Some(next) = next else { continue };
            left -= 1;
            if shows(&next) {
                best = next;
                i = i.saturating_sub(2);
            }
        }
        if best == before {
            return best;
        }
    }
}

/// The `i`th way to make a case smaller; an inner nothing where it is not one, an outer one at the end.
fn smaller<P: Program>(case: &Case<P>, mut i: usize) -> Option<Option<Case<P>>> {
    let n = case.moves.len();
    if i < n {
        // The last moves first: what comes behind the finding is of no use.
        let at = n - 1 - i;
        let mut c = case.clone();
        c.moves.remove(at);
        return Some((at > 0 || !matches!(c.moves.first(), Some(Move::Change(..)))).then_some(c));
    }
    i -= n;
    let programs = case.program.smaller();
    if let Some(k) = programs.get(i) {
        return Some((k.is_sound() && *k != case.program).then(|| of(case, k.clone())));
    }
    i -= programs.len();
    if i < case.sizes.len() {
        let mut c = case.clone();
        let (_, v) = &mut c.sizes[i];
        *v -= 1;
        return Some((*v > 0).then_some(c));
    }
    i -= case.sizes.len();
    if i < case.targets.len() {
        let mut c = case.clone();
        c.targets.remove(i);
        return Some(Some(c));
    }
    None
}

fn of<P: Program>(case: &Case<P>, program: P) -> Case<P> {
    let (mut c, dims) = (case.clone(), program.dims());
    c.sizes.retain(|(n, _)| dims.contains(n));
    c.program = program;
    c
}

impl Program for Kernel {
    fn read(text: &str) -> Result<Kernel, IrError> {
        parse(text)
    }

    fn dims(&self) -> Vec<Name> {
        self.dims.clone()
    }

    fn is_sound(&self) -> bool {
        check(self).is_ok()
    }

    fn smaller(&self) -> Vec<Kernel> {
        smaller_programs(self)
    }
}

/// Programs with a little less.
fn smaller_programs(k: &Kernel) -> Vec<Kernel> {
    let mut out = vec![];
    let mut n = 0;
    for_each(&k.body, &mut |_| n += 1);
    let mut edit = |which: usize, f: &mut dyn FnMut(&Stmt) -> Option<Vec<Stmt>>| {
        let (mut i, mut hit) = (0, false);
        let body = map_stmts(&k.body, &mut |s| {
            i += 1;
            if i == which + 1
                && let Some(new) = f(&s)
            {
                hit = true;
                return new;
            }
            vec![s]
        });
        if hit {
            out.push(Kernel { body, ..k.clone() });
        }
    };
    for which in (0..n).rev() {
        edit(which, &mut |_| Some(vec![]));
    }
    for which in (0..n).rev() {
        edit(which, &mut |s| match s {
            Stmt::For(l) => Some(rename_vars(&l.body, &[(&*l.var, Expr::from(0))].into())),
            Stmt::If(_, b) | Stmt::Intrinsic(_, b) => Some(b.to_vec()),
            _ => None,
        });
        for to in [1, 2, 4] {
            edit(which, &mut |s| match s {
                Stmt::For(l) if l.extent.as_int().is_none_or(|n| n > to) => {
                    Some(vec![Stmt::For(Arc::new(For { extent: to.into(), ..(**l).clone() }))])
                }
                _ => None,
            });
        }
        edit(which, &mut |s| match s {
            Stmt::For(l) => {
                let less = l.extent.as_int().filter(|n| *n > 1)? - 1;
                Some(vec![Stmt::For(Arc::new(For { extent: less.into(), ..(**l).clone() }))])
            }
            _ => None,
        });
        edit(which, &mut |s| match s {
            Stmt::Store(b) if b.reducer.is_some() => {
                Some(vec![Stmt::Store(Arc::new(Store { reducer: None, ..(**b).clone() }))])
            }
            _ => None,
        });
    }
    for which in 0..n {
        let mut exprs = 0;
        edit(which, &mut |s| {
            if let Stmt::Store(b) = s {
                b.values.iter().chain(b.targets.iter().flat_map(|t| &t.1)).for_each(|e| exprs += nodes(e));
            }
            if let Stmt::If(c, _) = s {
                exprs += nodes(c);
            }
            None
        });
        for at in 0..exprs {
            for way in 0..WAYS {
                edit(which, &mut |s| simpler(k, s, at, way).map(|s| vec![s]));
            }
        }
    }
    for i in 0..k.params.len() {
        let mut less = k.clone();
        less.params.remove(i);
        out.push(less);
    }
    for (i, d) in k.dims.iter().enumerate() {
        let mut less = k.clone();
        less.dims.remove(i);
        out.push(less);
        out.push(with_number(k, d, 3));
    }
    for i in 0..k.params.len() {
        let p = &k.params[i];
        let [v] = p.views.as_slice() else { continue };
        if v.name != p.name {
            continue;
        }
        for d in 0..v.shape.len() {
            let Some(n) = v.shape[d].as_const().filter(|n| *n > 1) else { continue };
            for to in [1, n / 2, n - 1] {
                let mut less = k.clone();
                let mut shape = v.shape.clone();
                shape[d] = Int::from(to);
                let b =
                    Buffer { facts: v.facts.clone(), ..Buffer::dense(&v.name, v.dtype, &shape, &v.memory) };
                less.params[i].bits = shape.iter().fold(Int::from(v.dtype.bits()), |a, s| a * s.clone());
                less.params[i].views = vec![b];
                out.push(less);
            }
        }
        if p.access == Access::InOut {
            let mut less = k.clone();
            less.params[i].access = Access::Out;
            out.push(less);
        }
    }
    out
}

/// A dimension as a number.
fn with_number(k: &Kernel, dim: &str, n: i64) -> Kernel {
    let text = k.to_string();
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(i) = rest.find(dim) {
        let (before, after) = (&rest[..i], &rest[i + dim.len()..]);
        let alone = !out.chars().chain(before.chars()).last().is_some_and(word) && !after.starts_with(word);
        out += before;
        out += &if alone { n.to_string() } else { dim.to_string() };
        rest = after;
        if alone && out.ends_with(')') {
            break;
        }
    }
    out += rest;
    // The number stands in the list of dimensions too.
    let out = out.replacen(&format!("({n}, "), "(", 1).replacen(&format!(", {n})"), ")", 1);
    let out = out.replacen(&format!("({n}) {{"), "() {", 1).replacen(&format!(", {n}, "), ", ", 1);
    parse(&out).unwrap_or_else(|_| k.clone())
}

fn nodes(e: &Expr) -> usize {
    let mut n = 0;
    e.visit(&mut |_| n += 1);
    n
}

/// Ways to make a node simpler: each of up to three operands in its place, or 0, or 1.
const WAYS: usize = 5;

/// A statement with one node of its expressions made simpler.
fn simpler(k: &Kernel, s: &Stmt, mut at: usize, way: usize) -> Option<Stmt> {
    let types = |n: &str| k.buffer(n).map(|b| b.dtype);
    let mut changed = false;
    let mut edit = |e: &Expr| -> Expr {
        let n = nodes(e);
        if changed || at >= n {
            at = at.wrapping_sub(if changed { 0 } else { n });
            return e.clone();
        }
        let out = replace(e, &mut at, &mut |n| {
            let t = expr_type(n, &types)?;
            let constant = |v: i64| if t.is_float() { Expr::float(v as f64, t) } else { Expr::int(v, t) };
            let new = match way {
                3 | 4 if matches!(**n, Node::Int(..) | Node::Float(..)) && way == 4 => return None,
                3 => constant(0),
                4 if t == DType::BOOL => return None,
                4 => constant(1),
                _ => (*n.children().get(way)?).clone(),
            };
            (expr_type(&new, &types) == Some(t) && new != *n).then_some(new)
        });
        changed = true;
        out.unwrap_or_else(|| e.clone())
    };
    let out = match s {
        Stmt::Store(b) => {
            let values = b.values.iter().map(&mut edit).collect();
            let targets =
                b.targets.iter().map(|(n, i)| (n.clone(), i.iter().map(&mut edit).collect())).collect();
            Stmt::Store(Arc::new(Store { values, targets, ..(**b).clone() }))
        }
        Stmt::If(c, b) => Stmt::If(edit(c), b.clone()),
        _ => return None,
    };
    (out != *s).then_some(out)
}

/// The expression with the node of a number replaced, if it can be.
fn replace(e: &Expr, at: &mut usize, f: &mut dyn FnMut(&Expr) -> Option<Expr>) -> Option<Expr> {
    if *at == 0 {
        *at = usize::MAX;
        return f(e);
    }
    *at -= 1;
    let mut found = None;
    let mut done = false;
    let out = e.map_children(&mut |c| {
        if done {
            return c.clone();
        }
        let new = replace(c, at, f);
        if *at == usize::MAX {
            done = true;
            found = new.clone();
            return new.unwrap_or_else(|| c.clone());
        }
        c.clone()
    });
    found.map(|_| out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_show_it_is_left_out() {
        let text = "seed 1
sizes n=5
targets portable avx2
----
kernel f(n) {
  in x: f32[n, 8]
  in w: f32[8]
  out y: f32[n, 8]
  for i in n spatial serial {
    for j in 8 spatial serial {
      S: y[i, j] = x[i, j] * exp(w[j]) + 1f32
    }
  }
}
----
split i 4
interchange i.i
unroll j
";
        let case = Case::parse(text).unwrap();
        // As if exponentials were wrong after a split.
        let shows =
            |c: &Case| c.program.to_string().contains("exp(") && c.steps().any(|s| s.starts_with("split"));
        let small = reduce(&case, 2000, &mut |c| shows(c));
        assert!(shows(&small));
        assert_eq!(small.moves, [Move::Step("split i 4".into())]);
        let text = small.to_string();
        assert!(!text.contains("for ") && !text.contains("x:") && text.contains("exp(0"), "{text}");
        assert!(small.sizes.is_empty() && small.targets.is_empty(), "{text}");
    }
}
