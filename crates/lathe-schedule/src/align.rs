//! `align T m`: rows of the temporary `T` get room for a multiple of `m` elements. What the room holds is never read. After it, a row
//! in lanes is whole vectors, which can be registers.

use crate::util::{arg, number};
use crate::{Primitive, Tag};
use lathe_ir::tensor::{Buffer, CHANNEL, Kernel, Stmt, map_stmts};
use lathe_ir::{Int, Layout};
use std::sync::Arc;

pub(crate) static ALIGN: Primitive = Primitive {
    name: "align",
    doc: "align T m: rows of the temporary T have room for a multiple of m elements",
    tag: Tag::Bitwise,
    witness: None,
    apply,
};

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let (name, m) = (arg(args, 0)?, number(arg(args, 1)?)?);
    let mut done = Err(format!("there is no temporary '{name}'"));
    let body = map_stmts(&k.body, &mut |s| match &s {
        Stmt::Alloc(b) if &*b.name == name => {
            let aligned = aligned(b, m);
            done = aligned.as_ref().map(|_| ()).map_err(Clone::clone);
            aligned.map_or_else(|_| vec![s.clone()], |b| vec![Stmt::Alloc(Arc::new(b))])
        }
        _ => vec![s],
    });
    done.map(|()| Kernel { body, ..k.clone() })
}

fn aligned(b: &Buffer, m: i64) -> Result<Buffer, String> {
    let row = b.shape.last().and_then(Int::as_const);
    let row = row.ok_or_else(|| format!("'{}' has no rows of a constant length", b.name))?;
    if &*b.memory == CHANNEL || b.layout != Layout::dense(b.dtype, &b.shape) {
        return Err(format!("rows of '{}' do not lie one behind the other", b.name));
    }
    if row % m == 0 {
        return Err(format!("rows of '{}' are a multiple of {m} elements", b.name));
    }
    let mut shape = b.shape.clone();
    *shape.last_mut().expect("it has a row") = ((row + m - 1) / m * m).into();
    Ok(Buffer { facts: b.facts.clone(), ..Buffer::dense(&b.name, b.dtype, &shape, &b.memory) })
}
