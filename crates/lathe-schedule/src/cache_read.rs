//! `cache_read L B M [D...]`: in each iteration of `L`, what its body reads of the buffer `B` is first copied to a fresh
//! temporary `B.r` in the memory `M`, and read there. The temporary's dimensions are the loops `D` inside `L`, in this order:
//! all those that the reads' index mentions, so that it lies as it is read. Every read must have the same index (copies of a
//! loop count as the loop), none may hang on a condition, and the iteration must not write to `B`.

use crate::util::{
    Site, accesses, arg, guards, in_family, need_free, need_loop, need_name, renamed, runs_at_least, sites,
    touched,
};
use crate::{Primitive, Tag};
use lathe_ir::Int;
use lathe_ir::tensor::{
    Buffer, Expr, For, Iter, Kernel, Node, Opaque, SERIAL, Stmt, for_each, loop_bounds, map_exprs,
    replace_loop,
};
use std::sync::Arc;

pub(crate) static CACHE_READ: Primitive = Primitive {
    name: "cache_read",
    doc: "cache_read L B M [D...]: what an iteration of L reads of the buffer B is copied first, to a temporary with the \
          loops D as dimensions",
    tag: Tag::Bitwise,
    witness: None,
    apply,
};

/// The loops of a site that stand for the dimensions: one of each family, and no other one that the index mentions.
fn stands((loops, index): &Site, dims: &[&str]) -> Option<Vec<Arc<For>>> {
    let picks = |l: &&Arc<For>| index.iter().any(|i| i.mentions(&l.var));
    let found: Option<Vec<Arc<For>>> =
        dims.iter().map(|d| loops.iter().find(|l| in_family(&l.var, d)).cloned()).collect();
    found.filter(|f| loops.iter().filter(picks).all(|l| f.iter().any(|d| d.var == l.var)))
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let (scope, name, memory) = (need_loop(k, arg(args, 0)?)?, arg(args, 1)?, arg(args, 2)?);
    need_name(memory)?;
    let dims = &args[3..];
    let buffer = k.buffer(name).ok_or_else(|| format!("there is no buffer '{name}'"))?;
    if touched(&scope.body, true).iter().any(|n| &**n == name) {
        return Err(format!("an iteration of '{}' writes to '{name}'", scope.var));
    }
    let mut conditional = false;
    for_each(&scope.body, &mut |s| {
        if let Stmt::If(_, b) | Stmt::Intrinsic(_, b) = s {
            conditional |= !accesses(b, name).is_empty();
        }
        if let Stmt::Store(b) = s {
            conditional |= b.values.iter().any(|v| guards(v, name));
        }
    });
    if conditional {
        return Err(format!("whether '{name}' is read hangs on a condition"));
    }
    let all = sites(&scope.body, name);
    let first = all.first().ok_or_else(|| format!("no iteration reads '{name}'"))?;
    // A loop that never runs reads nothing, of an element that may not be there.
    let idle = |(loops, _): &Site| {
        let other = |l: &&Arc<For>| !dims.iter().any(|d| in_family(&l.var, d));
        loops.iter().filter(other).find(|l| !runs_at_least(k, l, 1)).cloned()
    };
    if let Some(l) = all.iter().find_map(idle) {
        return Err(format!("'{}', in which '{name}' is read, may never run", l.var));
    }
    let unfit = || format!("the loops given are not those that pick what is read of '{name}'");
    let from = stands(first, dims).ok_or_else(unfit)?;
    let (cache, copy) = (format!("{name}.r"), format!("{name}.r.s"));
    let vars: Vec<String> = (0..dims.len()).map(|d| format!("{cache}{d}")).collect();
    let names: Vec<&str> =
        [cache.as_str(), &copy].into_iter().chain(vars.iter().map(String::as_str)).collect();
    need_free(k, &names)?;
    let mut made = touched(&scope.body, true);
    for_each(&scope.body, &mut |s| {
        if let Stmt::Alloc(b) = s {
            made.push(b.name.clone());
        }
    });
    if made.iter().any(|n| **n == *name || first.1.iter().any(|i| i.loads(n))) {
        return Err(format!("'{name}', or where it is read, is made in the iteration"));
    }
    // The loops of the copy.
    let mut places: Vec<Arc<For>> = vec![];
    for (v, l) in vars.iter().zip(&from) {
        let extent = renamed(&l.extent, &from[..places.len()], &places);
        places.push(Arc::new(For {
            var: v.as_str().into(),
            extent,
            iter: Iter::Spatial,
            level: SERIAL.into(),
            body: vec![],
        }));
    }
    let inner = |e: &Expr| first.0.iter().any(|l| e.mentions(&l.var));
    if let Some(l) = places.iter().find(|l| inner(&l.extent)) {
        return Err(format!("the extent of '{}' depends on a loop that comes later", l.var));
    }
    let at = |site: &Site| -> Option<Vec<Expr>> {
        let own = stands(site, dims)?;
        let same = own.iter().zip(&places).all(|(l, p)| renamed(&l.extent, &own, &places) == p.extent);
        same.then(|| site.1.iter().map(|e| renamed(e, &own, &places)).collect())
    };
    let read = at(first).ok_or_else(unfit)?;
    if all.iter().any(|s| at(s).as_ref() != Some(&read)) {
        return Err(format!("'{name}' is read at more than one index"));
    }
    // A dimension is as long as its loop at most is.
    let bounds = loop_bounds(k);
    let mut shape: Vec<Int> = vec![];
    for l in &places {
        let mut o = Opaque::default();
        let e = o.int(&l.extent, &bounds).ok_or("an extent is not integer arithmetic")?;
        let free = |e: &Int| {
            let mut ok = o.hides_nothing();
            e.visit_vars(&mut |v| ok &= k.dims.iter().any(|d| **d == *v));
            ok
        };
        let most = bounds.range(&e).hi.map(Int::from);
        shape.push(most.or_else(|| free(&e).then(|| e.clone())).ok_or("an extent has no bound")?);
    }
    let body = map_exprs(&scope.body, &|e| {
        e.rewrite(&|e| match &**e {
            Node::Load(n, i) if &**n == name => {
                let site = all.iter().find(|(_, j)| j == i)?;
                let own = stands(site, dims)?;
                Some(Expr::load(&cache, &own.iter().map(|l| Expr::var(&l.var)).collect::<Vec<_>>()))
            }
            _ => None,
        })
    });
    let index: Vec<Expr> = vars.iter().map(|v| Expr::var(v)).collect();
    let mut fill = Stmt::store(&copy, &cache, &index, Expr::load(name, &read));
    for l in places.iter().rev() {
        fill = Stmt::For(Arc::new(For { body: vec![fill], ..(**l).clone() }));
    }
    let temporary = Stmt::Alloc(Arc::new(Buffer::dense(&cache, buffer.dtype, &shape, memory)));
    let body = [vec![temporary, fill], body].concat();
    let body = replace_loop(&k.body, &scope.var, &mut |l| {
        vec![Stmt::For(Arc::new(For { body: body.clone(), ..l.clone() }))]
    });
    Ok(Kernel { body: body.expect("found above"), ..k.clone() })
}
