//! `skew T n`: rows of the temporary `T` lie `n` elements further apart, by elements behind the last dimension that nothing
//! touches. Rows a power of two apart fall onto the same few lines of a cache; these do not.

use crate::util::{arg, number};
use crate::{Primitive, Tag};
use lathe_ir::tensor::{Buffer, Kernel, Stmt, map_stmts};
use std::sync::Arc;

pub(crate) static SKEW: Primitive = Primitive {
    name: "skew",
    doc: "skew T n: rows of the temporary T are n elements longer in storage",
    tag: Tag::Bitwise,
    witness: None,
    apply: |k, a| {
        let (name, n) = (arg(a, 0)?, number(arg(a, 1)?)?);
        let mut hit = false;
        let body = map_stmts(&k.body, &mut |s| match &s {
            Stmt::Alloc(b) if &*b.name == name && b.shape.len() > 1 => {
                hit = true;
                let mut shape = b.shape.clone();
                if let Some(last) = shape.last_mut() {
                    *last = last.clone() + lathe_ir::Int::from(n);
                }
                vec![Stmt::Alloc(Arc::new(Buffer::dense(&b.name, b.dtype, &shape, &b.memory)))]
            }
            _ => vec![s],
        });
        if hit {
            Ok(Kernel { body, ..k.clone() })
        } else {
            Err(format!("there is no temporary '{name}' with rows"))
        }
    },
};
