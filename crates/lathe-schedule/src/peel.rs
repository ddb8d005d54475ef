//! `peel L f`: the loop `L` over whole blocks of `f` iterations, and what is left of them in a loop `L.p` behind it. Order is
//! kept. After it, `split L f` needs no shorter last block, so that what is made of the blocks has constant extents.

use crate::util::{arg, copy_name, need_free, need_loop, need_serial, number};
use crate::{Primitive, Tag};
use lathe_ir::Name;
use lathe_ir::tensor::{
    Expr, For, Kernel, Opaque, Stmt, Store, for_each, loop_bounds, map_stmts, rename_vars, replace_loop,
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
    let mut temporary = None;
    for_each(&l.body, &mut |s| {
        if let Stmt::Alloc(b) = s {
            temporary = Some(b.name.clone());
        }
    });
    if let Some(t) = temporary {
        return Err(format!("'{var}' has the temporary '{t}', which cannot be in both loops"));
    }
    let rest = format!("{var}.p");
    need_free(k, &[&rest])?;
    let bounds = loop_bounds(k);
    let mut opaque = Opaque::default();
    let n = opaque.int(&l.extent, &bounds).ok_or("the extent is not integer arithmetic")?;
    let left = n.rem(f, &bounds);
    if left.as_const() == Some(0) {
        return Err(format!("{f} divides the extent: nothing is left"));
    }
    let whole = n.div(f, &bounds) * f;
    let (whole, left) = (opaque.restore(&whole), opaque.restore(&left));
    // The copy's loops and blocks get names of their own, in the families of the first ones'.
    let (mut taken, mut names): (Vec<Name>, HashMap<Name, Name>) = (vec![], HashMap::new());
    for_each(&l.body, &mut |s| {
        let name = match s {
            Stmt::For(l) => &l.var,
            Stmt::Store(b) => &b.name,
            _ => return,
        };
        names.insert(name.clone(), copy_name(k, name, &mut taken));
    });
    let mut map: HashMap<&str, Expr> = names.iter().map(|(n, c)| (&**n, Expr::var(c))).collect();
    map.insert(var, whole.clone() + Expr::var(&rest));
    let copy = map_stmts(&rename_vars(&l.body, &map), &mut |s| {
        vec![match s {
            Stmt::For(l) => Stmt::For(Arc::new(For { var: names[&l.var].clone(), ..(*l).clone() })),
            Stmt::Store(b) => Stmt::Store(Arc::new(Store { name: names[&b.name].clone(), ..(*b).clone() })),
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
