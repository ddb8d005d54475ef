//! `peel L f`: the loop `L` over whole blocks of `f` iterations, and what is left of them in a loop `L.p` behind it, whose
//! loops, blocks and temporaries get names of their own. Order is kept. After it, `split L f` needs no shorter last block, so that what is made of the blocks has constant extents.

use crate::util::{arg, copy_name, need_free, need_loop, need_serial, need_still, number, runs_at_least};
use crate::{Primitive, Tag};
use lathe_ir::Name;
use lathe_ir::tensor::{
    Buffer, Expr, For, Kernel, Node, Opaque, Stmt, Store, for_each, loop_bounds, map_exprs, map_stmts,
    rename_vars, replace_loop,
};
use std::collections::HashMap;
use std::sync::Arc;

pub(crate) static PEEL: Primitive = Primitive {
    name: "peel",
    doc: "peel L f: the iterations of L that make no whole block of f in a loop L.p of their own",
    tag: Tag::Bitwise,
    apply,
    witness: None,
};

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let (var, f) = (arg(args, 0)?, number(arg(args, 1)?)?);
    let l = need_loop(k, var)?;
    need_serial(&l)?;
    need_still(&l)?;
    let rest = format!("{var}.p");
    need_free(k, &[&rest])?;
    let bounds = loop_bounds(k);
    let mut opaque = Opaque::default();
    let n = opaque.int(&l.extent, &bounds).ok_or("the extent is not integer arithmetic")?;
    // Below 0 nothing runs, and yet a remainder would be left.
    if !runs_at_least(k, &l, 0) {
        return Err(format!("the extent of '{var}' may be below 0"));
    }
    let left = n.rem(f, &bounds);
    if left.as_const() == Some(0) {
        return Err(format!("{f} divides the extent: nothing is left"));
    }
    let whole = n.div(f, &bounds) * f;
    let (whole, left) = (opaque.restore(&whole), opaque.restore(&left));
    // The copy's names are in the families of the first ones'.
    let (mut taken, mut names): (Vec<Name>, HashMap<Name, Name>) = (vec![], HashMap::new());
    let mut buffers: HashMap<Name, Name> = HashMap::new();
    for_each(&l.body, &mut |s| {
        let (name, names) = match s {
            Stmt::For(l) => (&l.var, &mut names),
            Stmt::Store(b) => (&b.name, &mut names),
            Stmt::Alloc(b) => (&b.name, &mut buffers),
            _ => return,
        };
        names.insert(name.clone(), copy_name(k, name, &mut taken));
    });
    let buffer = |n: &Name| buffers.get(n).unwrap_or(n).clone();
    let mut map: HashMap<&str, Expr> = names.iter().map(|(n, c)| (&**n, Expr::var(c))).collect();
    map.insert(var, whole.clone() + Expr::var(&rest));
    let copy = map_exprs(&rename_vars(&l.body, &map), &|e| {
        e.rewrite(&|n| match &**n {
            Node::Load(n, i) if buffers.contains_key(n) => Some(Node::Load(buffer(n), i.clone()).into()),
            _ => None,
        })
    });
    let copy = map_stmts(&copy, &mut |s| {
        vec![match s {
            Stmt::For(l) => Stmt::For(Arc::new(For { var: names[&l.var].clone(), ..(*l).clone() })),
            Stmt::Store(b) => {
                let targets = b.targets.iter().map(|(n, i)| (buffer(n), i.clone())).collect();
                Stmt::Store(Arc::new(Store { name: names[&b.name].clone(), targets, ..(*b).clone() }))
            }
            Stmt::Alloc(b) => Stmt::Alloc(Arc::new(Buffer { name: buffer(&b.name), ..(*b).clone() })),
            s => s,
        }]
    });
    let body = replace_loop(&k.body, var, &mut |l| {
        let blocks = For { extent: whole.clone(), ..l.clone() };
        let last = For { var: rest.as_str().into(), extent: left.clone(), body: copy.clone(), ..l.clone() };
        vec![Stmt::For(Arc::new(blocks)), Stmt::For(Arc::new(last))]
    });
    Ok(Kernel { body: body.expect("found above"), ..k.clone() })
}
