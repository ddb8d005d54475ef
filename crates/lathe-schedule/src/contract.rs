//! `contract T`: a temporary keeps, of the dimensions that loops around all its uses pick, only what one iteration
//! touches, and moves inside the innermost of those loops. Each iteration must write what it reads: the first access in
//! the loop's body must be a write, and one of all that is left where another loop comes by the same elements again.

use crate::join::is_local;
use crate::lanes::pick;
use crate::util::{accesses, arg};
use crate::{Primitive, Tag};
use lathe_ir::Int;
use lathe_ir::tensor::{Buffer, Expr, For, Kernel, Node, REGISTER, Stmt, loop_bounds, map_exprs, map_stmts};
use std::sync::Arc;

pub(crate) static CONTRACT: Primitive = Primitive {
    name: "contract",
    doc: "contract T: the temporary T inside the loops that index it, without their dimensions",
    tag: Tag::Bitwise,
    witness: None,
    apply,
};

/// Loops around every access, outermost first: descends while one statement holds them all.
fn around(body: &[Stmt], name: &str, out: &mut Vec<Arc<For>>) {
    let total = accesses(body, name).len();
    for s in body {
        if let Stmt::For(l) = s
            && accesses(std::slice::from_ref(s), name).len() == total
        {
            out.push(l.clone());
            return around(&l.body, name, out);
        }
    }
}

/// Whether what touches a buffer first overwrites all that is left of it, whatever the data: a block without reduction
/// or condition, each index left being the variable of a loop over all of that dimension.
fn overwrites(body: &[Stmt], name: &str, keep: &dyn Fn(&[Expr]) -> Vec<Expr>, shape: &[Int]) -> bool {
    let first = body.iter().find(|s| !accesses(std::slice::from_ref(s), name).is_empty());
    let (mut s, mut loops): (_, Vec<Arc<For>>) = (first, vec![]);
    while let Some(Stmt::For(l)) = s {
        loops.push(l.clone());
        s = l.body.iter().find(|s| !accesses(std::slice::from_ref(s), name).is_empty());
    }
    let Some(Stmt::Store(b)) = s else { return false };
    let Some((_, index)) = b.targets.iter().find(|(n, _)| &**n == name) else { return false };
    let (index, mut met) = (keep(index), vec![]);
    let whole = |(e, n): (&Expr, &Int)| {
        let l = loops.iter().find(|l| **e == Node::Var(l.var.clone()));
        let over = l.is_some_and(|l| l.extent == Expr::from(n) && !met.contains(&l.var));
        met.extend(l.map(|l| l.var.clone()));
        over
    };
    b.reducer.is_none() && !b.values.iter().any(|v| v.loads(name)) && index.iter().zip(shape).all(whole)
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let name = arg(args, 0)?;
    let all = accesses(&k.body, name);
    let buffer = k.buffer(name).ok_or_else(|| format!("there is no buffer '{name}'"))?;
    if k.views().any(|b| &*b.name == name) {
        return Err(format!("'{name}' is a parameter"));
    }
    let mut loops = vec![];
    around(&k.body, name, &mut loops);
    let bounds = loop_bounds(k);
    // What is left of each dimension: nothing, a block of this size, or all of it.
    let mut left: Vec<Option<(Arc<For>, i64)>> = vec![None; buffer.shape.len()];
    let mut home = None;
    for l in &loops {
        let d = (0..left.len()).find_map(|d| {
            let mut each = all.iter().map(|(i, _)| pick(&i[d], &l.var, &bounds).map(|(c, _)| c));
            let first = each.next().flatten()?;
            (left[d].is_none() && each.all(|c| c == Some(first))).then_some((d, first))
        });
        if let Some((d, c)) = d {
            left[d] = Some((l.clone(), c));
            home = Some(l.clone());
        }
    }
    let Some(home) = home else {
        return Err(format!("no loop around all uses of '{name}' picks its elements"));
    };
    match accesses(&home.body, name).first() {
        Some((_, true)) => {}
        _ => return Err(format!("'{name}' is read before it is written in '{}'", home.var)),
    }
    let keep = |i: &[Expr]| -> Vec<Expr> {
        let one = |(d, e): (usize, &Expr)| match &left[d] {
            None => Some(e.clone()),
            Some((_, 1)) => None,
            Some((l, _)) => pick(e, &l.var, &bounds).map(|(_, rest)| rest),
        };
        i.iter().enumerate().filter_map(one).collect()
    };
    let extent = |(d, s): (usize, &Int)| match left[d] {
        None => Some(s.clone()),
        Some((_, 1)) => None,
        Some((_, c)) => Some(c.into()),
    };
    let shape: Vec<Int> = buffer.shape.iter().enumerate().filter_map(extent).collect();
    // A loop inside the buffer's scope that does not pick an element comes by the same ones again.
    let again = loops
        .iter()
        .take_while(|l| l.var != home.var)
        .find(|l| !is_local(&l.body, name) && !left.iter().flatten().any(|(p, _)| p.var == l.var));
    if let Some(l) = again
        && !overwrites(&home.body, name, &keep, &shape)
    {
        return Err(format!("'{name}' may keep a value from one iteration of '{}' to the next", l.var));
    }
    let memory = if shape.is_empty() { REGISTER } else { &*buffer.memory };
    let small = Stmt::Alloc(Arc::new(Buffer::dense(name, buffer.dtype, &shape, memory)));
    let body = map_exprs(&k.body, &|e| {
        e.rewrite(&|n| match &**n {
            Node::Load(b, i) if &**b == name => Some(Node::Load(b.clone(), keep(i)).into()),
            _ => None,
        })
    });
    let body = map_stmts(&body, &mut |s| match &s {
        Stmt::Alloc(b) if &*b.name == name => vec![],
        Stmt::Store(b) if b.targets.iter().any(|(n, _)| &**n == name) => {
            let mut b = (**b).clone();
            for (n, i) in &mut b.targets {
                if &**n == name {
                    *i = keep(i);
                }
            }
            vec![Stmt::Store(Arc::new(b))]
        }
        Stmt::For(l) if l.var == home.var => {
            let body = [std::slice::from_ref(&small), &l.body].concat();
            vec![Stmt::For(Arc::new(For { body, ..(**l).clone() }))]
        }
        _ => vec![s],
    });
    Ok(Kernel { body, ..k.clone() })
}
