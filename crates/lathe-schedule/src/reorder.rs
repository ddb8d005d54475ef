//! `reorder A`: the reduce loop `A` inside the reduce loop that is its whole body. A sum's elements are added in another order, which
//! the reduction must allow.

use crate::interchange::exchanged;
use crate::rfactor::one_block;
use crate::util::{arg, need_known, need_loop};
use crate::{Primitive, Tag};
use lathe_ir::tensor::{For, Iter, Kernel, Law, Stmt, replace_loop};
use std::sync::Arc;

pub(crate) static REORDER: Primitive = Primitive {
    name: "reorder",
    doc: "reorder A: the reduce loop A inside the reduce loop that was its whole body",
    tag: Tag::Reassociates,
    witness: Some(exchanged),
    apply,
};

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let a = arg(args, 0)?;
    let la = need_loop(k, a)?;
    let [Stmt::For(lb)] = la.body.as_slice() else {
        return Err(format!("the body of '{a}' is not one loop"));
    };
    if la.iter != Iter::Reduce || lb.iter != Iter::Reduce {
        return Err(format!("'{a}' and '{}' are not two reduce loops", lb.var));
    }
    if lb.extent.mentions(a) {
        return Err(format!("the extent of '{}' depends on '{a}'", lb.var));
    }
    need_known(k, lb, &la)?;
    let block = one_block(&lb.body);
    if !block.is_some_and(|b| b.reducer.is_some_and(|r| r.law == Law::Commutative)) {
        return Err(format!("'{a}' is not a reduction in any order of one block"));
    }
    let inner = Stmt::For(Arc::new(For { body: lb.body.clone(), ..(*la).clone() }));
    let outer = Stmt::For(Arc::new(For { body: vec![inner], ..(**lb).clone() }));
    let body = replace_loop(&k.body, a, &mut |_| vec![outer.clone()]);
    Ok(Kernel { body: body.expect("found above"), ..k.clone() })
}
