//! What several primitives need: finding loops and lists, families of names, accesses.

use lathe_ir::tensor::{
    Expr, Fact, For, Iter, Kernel, Node, Opaque, SERIAL, Stmt, UNROLLED, find_loop, for_each, loop_bounds,
    rename_vars,
};
use lathe_ir::{Bounds, Int, Name};
use lathe_symbolic::Atom;
use std::collections::HashMap;
use std::sync::Arc;

/// Whether a loop belongs to the family of a name: itself or one of its copies.
pub(crate) fn in_family(var: &str, family: &str) -> bool {
    var.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with(".c"))
}

/// The loop of a name, or why not.
pub(crate) fn need_loop(k: &Kernel, var: &str) -> Result<Arc<For>, String> {
    find_loop(&k.body, var).ok_or_else(|| format!("there is no loop '{var}'"))
}

/// The loop's body writes nothing that decides how long the loop runs.
pub(crate) fn need_still(l: &For) -> Result<(), String> {
    let written = touched(&l.body, true);
    let mut changes = false;
    l.extent.visit(&mut |e| changes |= matches!(&**e, Node::Load(n, _) if written.contains(n)));
    match changes {
        true => Err(format!("the body of '{}' writes what its extent reads", l.var)),
        false => Ok(()),
    }
}

/// The least of what is read of memory and promised by nobody: far below all that is added to it.
const ANYTHING: i64 = -(1 << 40);

/// Whether a loop's extent is at least so much wherever it is reached.
pub(crate) fn runs_at_least(k: &Kernel, l: &For, least: i64) -> bool {
    // What is read of memory counts as at least 0 only where that is promised.
    let promised = |e: &Expr| {
        let mut all = true;
        e.visit(&mut |e| {
            if let Node::Load(n, _) = &**e {
                let least = |f: &Fact| matches!(f, Fact::Range(least, _) if least.as_const() >= Some(0));
                all &= k.views().any(|v| v.name == *n && v.facts.iter().any(least));
            }
        });
        all
    };
    let mut bounds = loop_bounds(k);
    let mut number = |e: &Expr| {
        let mut opaque = Opaque::default();
        let n = opaque.int(e, &bounds)?;
        let mut unknown: Vec<Name> = vec![];
        n.visit_vars(&mut |v| {
            if v.starts_with('$') && !promised(&opaque.restore(&Int::var(v))) {
                unknown.push(v.into());
            }
        });
        unknown.iter().for_each(|v| bounds.set(v, ANYTHING, None));
        Some(n)
    };
    let outer = enclosing(&k.body, &l.var).unwrap_or_default();
    let outer: Vec<(Name, Int)> =
        outer.into_iter().filter_map(|o| Some((o.var.clone(), number(&o.extent)?))).collect();
    let own = number(&l.extent);
    own.is_some_and(|n| not_negative(&(n - least), &outer, &bounds))
}

/// Refuses that a loop goes outside of one that perhaps has no iteration, where how long it runs is read of memory: nobody read that
/// then, and perhaps it is not there.
pub(crate) fn need_known(k: &Kernel, inner: &For, outer: &For) -> Result<(), String> {
    let mut reads = false;
    inner.extent.visit(&mut |e| reads |= matches!(&**e, Node::Load(..)));
    match reads && !runs_at_least(k, outer, 1) {
        true => Err(format!(
            "'{}' may have no iteration, and how long '{}' runs is read of memory",
            outer.var, inner.var
        )),
        false => Ok(()),
    }
}

/// The loops around a loop, outermost first.
fn enclosing<'k>(body: &'k [Stmt], var: &str) -> Option<Vec<&'k For>> {
    body.iter().find_map(|s| match s {
        Stmt::For(l) if &*l.var == var => Some(vec![]),
        Stmt::For(l) => Some([vec![&**l], enclosing(&l.body, var)?].concat()),
        Stmt::If(_, b) | Stmt::Intrinsic(_, b) => enclosing(b, var),
        _ => None,
    })
}

/// Whether a number is at least 0 in all iterations of some loops, outermost first: what the bounds say, with the most of a loop's
/// variable that counts against it, and for a minimum both of its sides.
fn not_negative(n: &Int, outer: &[(Name, Int)], bounds: &Bounds) -> bool {
    if bounds.range(n).lo.is_some_and(|least| least >= 0) {
        return true;
    }
    for (i, (var, extent)) in outer.iter().enumerate().rev() {
        let Some((by, rest)) = n.affine_in(var) else { continue };
        let Some(by) = by.as_const().filter(|by| *by < 0) else { continue };
        // Blocks of c are no more than the whole.
        let mut most = extent.clone() * by;
        for (atoms, count) in extent.terms() {
            if let [Atom::Div(whole, c)] = atoms
                && let Some(c) = c.as_const().filter(|c| count > 0 && *c > 0 && by % c == 0)
            {
                most = most + ((**whole).clone() * (by / c) - whole.div(c, bounds) * by) * count;
            }
        }
        return not_negative(&(rest + most - by), &outer[..i], bounds);
    }
    // Some blocks of c are there where their elements are.
    if let (Some(([Atom::Div(whole, c)], by)), 1) = (n.terms().next(), n.terms().count())
        && let Some(c) = c.as_const().filter(|c| *c > 0 && by > 0)
    {
        let blocks = (-n.constant()).div_euclid(by) + i64::from((-n.constant()).rem_euclid(by) > 0);
        return not_negative(&((**whole).clone() - c * blocks), outer, bounds);
    }
    for (atoms, by) in n.terms() {
        let ([Atom::Min(x, y)] | [Atom::Max(x, y)]) = atoms else { continue };
        let least = matches!(atoms, [Atom::Min(..)]);
        let own = if least { x.min_with(y, bounds) } else { x.max_with(y, bounds) };
        let with =
            |side: &Int| not_negative(&(n.clone() - own.clone() * by + side.clone() * by), outer, bounds);
        return if least == (by > 0) { with(x) && with(y) } else { with(x) || with(y) };
    }
    false
}

/// Refuses a loop whose iterations go to lanes, cores or processes already.
pub(crate) fn need_serial(l: &For) -> Result<(), String> {
    match [SERIAL, UNROLLED].contains(&&*l.level) {
        true => Ok(()),
        false => Err(format!("the iterations of '{}' are on the level '{}' already", l.var, l.level)),
    }
}

/// A word that is a name in the text of programs.
pub(crate) fn need_name(word: &str) -> Result<(), String> {
    let begins = word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    match begins && word.chars().all(|c| c.is_ascii_alphanumeric() || "_.$".contains(c)) {
        true => Ok(()),
        false => Err(format!("'{word}' is no name")),
    }
}

/// Refuses names that a loop, block or temporary has already, and what is no name.
pub(crate) fn need_free(k: &Kernel, names: &[&str]) -> Result<(), String> {
    names.iter().try_for_each(|n| need_name(n))?;
    let mut taken = None;
    for_each(&k.body, &mut |s| {
        let name = match s {
            Stmt::For(l) => &l.var,
            Stmt::Store(b) => &b.name,
            Stmt::Alloc(b) => &b.name,
            _ => return,
        };
        if names.contains(&&**name) {
            taken = Some(name.clone());
        }
    });
    taken.map_or(Ok(()), |n| Err(format!("the name '{n}' is taken")))
}

/// The argument at a position.
pub(crate) fn arg<'a>(args: &[&'a str], i: usize) -> Result<&'a str, String> {
    args.get(i).copied().ok_or_else(|| format!("argument {} is missing", i + 1))
}

/// A positive number.
pub(crate) fn number(s: &str) -> Result<i64, String> {
    s.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("'{s}' is not a positive number"))
}

/// Rebuilds the one list of statements that directly holds a statement for which `is` holds.
pub(crate) fn edit_list(
    body: &[Stmt],
    is: &dyn Fn(&Stmt) -> bool,
    f: &mut dyn FnMut(&[Stmt], usize) -> Result<Vec<Stmt>, String>,
) -> Result<Option<Vec<Stmt>>, String> {
    if let Some(i) = body.iter().position(is) {
        return f(body, i).map(Some);
    }
    for (i, s) in body.iter().enumerate() {
        let inner = match s {
            Stmt::For(l) => {
                edit_list(&l.body, is, f)?.map(|body| Stmt::For(Arc::new(For { body, ..(**l).clone() })))
            }
            Stmt::If(c, b) => edit_list(b, is, f)?.map(|b| Stmt::If(c.clone(), Arc::new(b))),
            _ => None,
        };
        if let Some(s) = inner {
            let mut out = body.to_vec();
            out[i] = s;
            return Ok(Some(out));
        }
    }
    Ok(None)
}

/// An access to a buffer: the loops around it, outermost first, and its index.
pub(crate) type Site = (Vec<Arc<For>>, Vec<Expr>);

/// Every access to a buffer with the loops around it.
pub(crate) fn sites(body: &[Stmt], name: &str) -> Vec<Site> {
    fn walk(body: &[Stmt], name: &str, loops: &mut Vec<Arc<For>>, out: &mut Vec<Site>) {
        for s in body {
            match s {
                Stmt::For(l) => {
                    out.extend(reads(&l.extent, name).into_iter().map(|i| (loops.clone(), i)));
                    loops.push(l.clone());
                    walk(&l.body, name, loops, out);
                    loops.pop();
                }
                Stmt::If(c, b) => {
                    out.extend(reads(c, name).into_iter().map(|i| (loops.clone(), i)));
                    walk(b, name, loops, out);
                }
                Stmt::Intrinsic(_, b) => walk(b, name, loops, out),
                s => out.extend(
                    accesses(std::slice::from_ref(s), name).into_iter().map(|(i, _)| (loops.clone(), i)),
                ),
            }
        }
    }
    let mut out = vec![];
    walk(body, name, &mut vec![], &mut out);
    out
}

/// Renames one list of loops' variables for another's in an expression.
pub(crate) fn renamed(e: &Expr, from: &[Arc<For>], to: &[Arc<For>]) -> Expr {
    e.rewrite(&|e| match &**e {
        Node::Var(v) => from.iter().position(|l| l.var == *v).map(|i| Expr::var(&to[i].var)),
        _ => None,
    })
}

/// Whether a statement is the loop of a variable.
pub(crate) fn is_loop(s: &Stmt, var: &str) -> bool {
    matches!(s, Stmt::For(l) if &*l.var == var)
}

/// The index of each read of a buffer in an expression.
fn reads(e: &Expr, buffer: &str) -> Vec<Vec<Expr>> {
    let mut out = vec![];
    e.visit(&mut |e| {
        if let Node::Load(n, i) = &**e
            && &**n == buffer
        {
            out.push(i.clone());
        }
    });
    out
}

/// A statement inside copies of loops, which run over the same elements: spatial ones, under names of their own.
pub(crate) fn inside_copies(k: &Kernel, axes: &[Arc<For>], s: Stmt, taken: &mut Vec<Name>) -> Stmt {
    let vars: Vec<Name> = axes.iter().map(|f| copy_name(k, &f.var, taken)).collect();
    let map: HashMap<&str, Expr> = axes.iter().zip(&vars).map(|(f, c)| (&*f.var, Expr::var(c))).collect();
    let nest = axes.iter().zip(&vars).rev().fold(s, |s, (f, var)| {
        Stmt::For(Arc::new(For { var: var.clone(), iter: Iter::Spatial, body: vec![s], ..(**f).clone() }))
    });
    rename_vars(&[nest], &map).remove(0)
}

/// Every access to a buffer in some statements: index and whether it writes.
pub(crate) fn accesses(body: &[Stmt], buffer: &str) -> Vec<(Vec<Expr>, bool)> {
    let mut out: Vec<(Vec<Expr>, bool)> = vec![];
    let read = |e: &Expr| reads(e, buffer).into_iter().map(|i| (i, false));
    for_each(body, &mut |s| match s {
        Stmt::For(l) => out.extend(read(&l.extent)),
        Stmt::If(c, _) => out.extend(read(c)),
        Stmt::Store(b) => {
            for v in b.values.iter().chain(b.targets.iter().flat_map(|(_, i)| i)) {
                out.extend(read(v));
            }
            for (n, i) in &b.targets {
                if &**n == buffer {
                    out.push((i.clone(), true));
                }
            }
        }
        _ => {}
    });
    out
}

/// Whether an expression reads a buffer only where a condition of its own holds.
pub(crate) fn guards(e: &Expr, buffer: &str) -> bool {
    let mut found = false;
    e.visit(&mut |e| {
        if let Node::Select(_, x, y) = &**e {
            found |= x.loads(buffer) || y.loads(buffer);
        }
    });
    found
}

/// Names of buffers written (`writes`) or touched at all.
pub(crate) fn touched(body: &[Stmt], writes: bool) -> Vec<Name> {
    let mut out: Vec<Name> = vec![];
    let mut add = |n: &Name| {
        if !out.contains(n) {
            out.push(n.clone());
        }
    };
    for_each(body, &mut |s| {
        let read: Vec<&Expr> = match s {
            Stmt::Store(b) => {
                b.targets.iter().for_each(|(n, _)| add(n));
                b.values.iter().chain(b.targets.iter().flat_map(|(_, i)| i)).collect()
            }
            Stmt::For(l) => vec![&l.extent],
            Stmt::If(c, _) => vec![c],
            _ => vec![],
        };
        for e in read.into_iter().filter(|_| !writes) {
            e.visit(&mut |e| {
                if let Node::Load(n, _) = &**e {
                    add(n);
                }
            });
        }
    });
    out
}

/// A name not used by any loop or block of the kernel, made from `base`.
pub(crate) fn copy_name(k: &Kernel, base: &str, taken: &mut Vec<Name>) -> Name {
    let mut used = taken.clone();
    for_each(&k.body, &mut |s| match s {
        Stmt::For(l) => used.push(l.var.clone()),
        Stmt::Store(b) => used.push(b.name.clone()),
        Stmt::Alloc(b) => used.push(b.name.clone()),
        _ => {}
    });
    let name: Name = (1..)
        .map(|i| format!("{base}.c{i}"))
        .find(|n| !used.iter().any(|u| **u == **n))
        .expect("endless")
        .into();
    taken.push(name.clone());
    name
}
