//! `cache_write L T M`: in each iteration of `L`, what is written to the buffer `T` goes to a fresh temporary `T.w` in the
//! memory `M`, and is copied to `T` at the iteration's end. The first block that touches `T` there must overwrite, under
//! loops of constant extents that are the temporary's dimensions, and whatever else the iteration does to `T` must be at
//! an index of the same form.

use crate::util::{Site, accesses, arg, need_free, need_loop, need_name, renamed, sites, touched};
use crate::{Primitive, Tag};
use lathe_ir::tensor::{
    Buffer, Expr, For, Iter, Kernel, Node, Opaque, SERIAL, Stmt, Store, for_each, loop_bounds, map_exprs,
    map_stmts, replace_loop,
};
use lathe_ir::{Bounds, Int};
use std::sync::Arc;

pub(crate) static CACHE_WRITE: Primitive = Primitive {
    name: "cache_write",
    doc: "cache_write L T M: what an iteration of L does to the buffer T is done in a temporary, and copied at its end",
    tag: Tag::Bitwise,
    witness: None,
    apply,
};

/// The loops around the one block that touches a buffer in a statement, when it overwrites unconditionally.
fn first(s: &Stmt, name: &str) -> Option<(Vec<Arc<For>>, Arc<Store>)> {
    let (mut loops, mut s) = (vec![], s);
    while let Stmt::For(l) = s {
        loops.push(l.clone());
        s = l.body.iter().find(|s| !accesses(std::slice::from_ref(s), name).is_empty())?;
    }
    match s {
        Stmt::Store(b) if b.reducer.is_none() && accesses(std::slice::from_ref(s), name).len() == 1 => {
            Some((loops, b.clone()))
        }
        _ => None,
    }
}

/// Whether an index is a multiple of one loop's variable plus what the others around it do not change.
fn picks(index: &Expr, var: &str, around: &[Arc<For>], b: &Bounds) -> bool {
    let mut o = Opaque::default();
    let parts = o.int(index, b).and_then(|i| i.affine_in(var));
    let alone = |rest: &Int| around.iter().all(|l| !rest.mentions(&l.var) && !o.hides(&l.var));
    parts.is_some_and(|(c, rest)| c.as_const().is_some_and(|c| c != 0) && alone(&rest))
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let (scope, name, memory) = (need_loop(k, arg(args, 0)?)?, arg(args, 1)?, arg(args, 2)?);
    need_name(memory)?;
    let buffer = k.buffer(name).ok_or_else(|| format!("there is no buffer '{name}'"))?;
    let touching = |s: &&Stmt| !accesses(std::slice::from_ref(s), name).is_empty();
    let start = scope.body.iter().find(touching).ok_or_else(|| format!("no iteration touches '{name}'"))?;
    let one = accesses(std::slice::from_ref(start), name).len() == 1;
    let (around, block) = first(start, name)
        .filter(|_| one)
        .ok_or_else(|| format!("'{name}' is not overwritten first, by a block of its own"))?;
    let home = &block.targets.iter().find(|(n, _)| &**n == name).ok_or("the first access is a read")?.1;
    let written = touched(&scope.body, true);
    if home.iter().any(|e| written.iter().any(|w| e.loads(w))) {
        return Err(format!("the iteration writes what picks an element of '{name}'"));
    }
    let mut decides = false;
    for_each(&scope.body, &mut |s| {
        decides |= match s {
            Stmt::For(l) => l.extent.loads(name),
            Stmt::If(c, _) => c.loads(name),
            _ => false,
        };
    });
    if decides {
        return Err(format!("'{name}' decides what is run"));
    }
    let bounds = loop_bounds(k);
    let extents: Vec<i64> = around
        .iter()
        .map(|l| l.extent.as_int().filter(|_| l.iter == Iter::Spatial))
        .collect::<Option<_>>()
        .ok_or("a loop around the first block is not spatial, or its extent is not constant")?;
    for l in &around {
        if !home.iter().any(|e| picks(e, &l.var, &around, &bounds)) {
            return Err(format!("'{}' does not pick an element of '{name}'", l.var));
        }
    }
    let all = sites(&scope.body, name);
    let renamed = |index: &[Expr], from: &[Arc<For>], to: &[Arc<For>]| -> Vec<Expr> {
        index.iter().map(|e| renamed(e, from, to)).collect()
    };
    // For each access, the loops that stand for those of the first block.
    let stands = |(loops, index): &Site| -> Option<Vec<Arc<For>>> {
        let free: Vec<Arc<For>> =
            loops.iter().filter(|l| index.iter().any(|i| i.mentions(&l.var))).cloned().collect();
        let fits = free.len() == around.len()
            && free.iter().zip(&extents).all(|(l, n)| l.extent.as_int() == Some(*n))
            && renamed(index, &free, &around) == *home;
        fits.then_some(free)
    };
    if all.iter().any(|site| stands(site).is_none()) {
        return Err(format!("an access to '{name}' is not of the form of the first one"));
    }
    let (cache, copy) = (format!("{name}.w"), format!("{name}.w.s"));
    let vars: Vec<String> = (0..around.len()).map(|d| format!("{name}.w{d}")).collect();
    need_free(
        k,
        &[&[cache.as_str(), copy.as_str()], vars.iter().map(String::as_str).collect::<Vec<_>>().as_slice()]
            .concat(),
    )?;
    let at = |index: &[Expr]| -> Vec<Expr> {
        let found =
            all.iter().find(|(_, i)| i == index).and_then(stands).expect("every access was looked at");
        found.iter().map(|l| Expr::var(&l.var)).collect()
    };
    let body = map_exprs(&scope.body, &|e| {
        e.rewrite(&|e| match &**e {
            Node::Load(n, i) if &**n == name => Some(Expr::load(&cache, &at(i))),
            _ => None,
        })
    });
    let mut body = map_stmts(&body, &mut |s| match &s {
        Stmt::Store(b) if b.targets.iter().any(|(n, _)| &**n == name) => {
            let mut b = (**b).clone();
            for (n, i) in b.targets.iter_mut().filter(|(n, _)| &**n == name) {
                (*n, *i) = (cache.as_str().into(), at(i));
            }
            vec![Stmt::Store(Arc::new(b))]
        }
        _ => vec![s],
    });
    let shape: Vec<Int> = extents.iter().map(|n| Int::from(*n)).collect();
    body.insert(0, Stmt::Alloc(Arc::new(Buffer::dense(&cache, buffer.dtype, &shape, memory))));
    let places: Vec<Arc<For>> = vars
        .iter()
        .zip(&around)
        .map(|(v, l)| {
            Arc::new(For { var: v.as_str().into(), level: SERIAL.into(), body: vec![], ..(**l).clone() })
        })
        .collect();
    let index: Vec<Expr> = vars.iter().map(|v| Expr::var(v)).collect();
    let mut out = Stmt::store(&copy, name, &renamed(home, &around, &places), Expr::load(&cache, &index));
    for l in places.iter().rev() {
        out = Stmt::For(Arc::new(For { body: vec![out], ..(**l).clone() }));
    }
    body.push(out);
    let body = replace_loop(&k.body, &scope.var, &mut |l| {
        vec![Stmt::For(Arc::new(For { body: body.clone(), ..l.clone() }))]
    });
    Ok(Kernel { body: body.expect("found above"), ..k.clone() })
}
