//! `stage B S`: the element of the buffer `B` that the block `S` reads goes through a temporary `B.S`, which further steps
//! can then move: to a process of its own, for one.

use crate::util::{arg, edit_list, guards, need_free};
use crate::{Primitive, Tag};
use lathe_ir::tensor::{Buffer, Expr, Kernel, Node, REGISTER, Stmt, Store, find_block};
use std::sync::Arc;

pub(crate) static STAGE: Primitive = Primitive {
    name: "stage",
    doc: "stage B S: what the block S reads of B goes through a temporary B.S",
    tag: Tag::Bitwise,
    apply,
    witness: None,
};

/// The one element of a buffer that a block's values read.
pub(crate) fn element(s: &Store, buffer: &str) -> Result<Vec<Expr>, String> {
    let mut found: Vec<Vec<Expr>> = vec![];
    for v in &s.values {
        v.visit(&mut |e| match &**e {
            Node::Load(n, i) if &**n == buffer && !found.contains(i) => found.push(i.clone()),
            _ => {}
        });
    }
    match found.as_slice() {
        [_] if s.values.iter().any(|v| guards(v, buffer)) => {
            Err(format!("whether '{}' reads '{buffer}' hangs on a condition", s.name))
        }
        [i] => Ok(i.clone()),
        [] => Err(format!("'{}' does not read '{buffer}'", s.name)),
        _ => Err(format!("'{}' reads several elements of '{buffer}'", s.name)),
    }
}

/// A block that reads the temporary `by` where it read the buffer.
pub(crate) fn read_instead(s: &Store, buffer: &str, by: &str) -> Stmt {
    let swap = |e: &Expr| {
        e.rewrite(&|e| match &**e {
            Node::Load(n, _) if &**n == buffer => Some(Expr::load(by, &[])),
            _ => None,
        })
    };
    Stmt::Store(Arc::new(Store { values: s.values.iter().map(swap).collect(), ..s.clone() }))
}

/// Whether a statement is the block of a name.
pub(crate) fn is_block(s: &Stmt, name: &str) -> bool {
    matches!(s, Stmt::Store(b) if &*b.name == name)
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let (buffer, block) = (arg(args, 0)?, arg(args, 1)?);
    let s = find_block(&k.body, block).ok_or_else(|| format!("there is no block '{block}'"))?;
    let index = element(&s, buffer)?;
    let t = k.buffer(buffer).ok_or_else(|| format!("there is no buffer '{buffer}'"))?.dtype;
    let name = format!("{buffer}.{block}");
    let read = format!("{name}.read");
    need_free(k, &[&name, &read])?;
    let body = edit_list(&k.body, &|s| is_block(s, block), &mut |list, i| {
        let mut out = list.to_vec();
        out[i] = read_instead(&s, buffer, &name);
        out.insert(i, Stmt::store(&read, &name, &[], Expr::load(buffer, &index)));
        out.insert(i, Stmt::Alloc(Arc::new(Buffer::dense(&name, t, &[], REGISTER))));
        Ok(out)
    })?;
    Ok(Kernel { body: body.ok_or("the block is not in a plain list")?, ..k.clone() })
}
