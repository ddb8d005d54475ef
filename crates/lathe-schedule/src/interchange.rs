//! `interchange A`: swaps `A` with the loop that is its whole body. One of the two must be spatial.

use crate::util::{arg, need_known, need_loop};
use crate::{Primitive, Tag, Witness};
use lathe_ir::tensor::{Expr, For, Iter, Kernel, Stmt, replace_loop};
use std::sync::Arc;

pub(crate) static INTERCHANGE: Primitive = Primitive {
    name: "interchange",
    doc: "interchange A: A inside the loop that was its whole body",
    tag: Tag::Bitwise,
    witness: Some(exchanged),
    apply,
};

/// The loop and the one inside it, each the other's place.
pub(crate) fn exchanged(k: &Kernel, args: &[&str]) -> Option<Witness> {
    let a = arg(args, 0).ok()?;
    let la = need_loop(k, a).ok()?;
    let [Stmt::For(lb)] = la.body.as_slice() else { return None };
    let (a, b) = ((a, Expr::var(a)), (&*lb.var, Expr::var(&lb.var)));
    Some(Witness::new(&[a.clone(), b.clone()], &[b, a]))
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let a = arg(args, 0)?;
    let la = need_loop(k, a)?;
    let [Stmt::For(lb)] = la.body.as_slice() else {
        return Err(format!("the body of '{a}' is not one loop"));
    };
    if lb.extent.mentions(a) {
        return Err(format!("the extent of '{}' depends on '{a}'", lb.var));
    }
    need_known(k, lb, &la)?;
    if la.iter != Iter::Spatial && lb.iter != Iter::Spatial {
        return Err("neither loop is spatial".into());
    }
    let inner = Stmt::For(Arc::new(For { body: lb.body.clone(), ..(*la).clone() }));
    let outer = Stmt::For(Arc::new(For { body: vec![inner], ..(**lb).clone() }));
    let body = replace_loop(&k.body, a, &mut |_| vec![outer.clone()]);
    Ok(Kernel { body: body.expect("found above"), ..k.clone() })
}
