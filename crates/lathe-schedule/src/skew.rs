//! `skew T D n`: the dimension `D` (from 0) of the temporary `T` has `n` more positions in storage, which nothing touches, so
//! that what the dimensions before it pick lies further apart. Rows a power of two apart fall onto the same few lines of a cache; these do not.

use crate::util::{arg, number};
use crate::{Primitive, Tag};
use lathe_ir::tensor::{Buffer, Kernel, Stmt, map_stmts};
use std::sync::Arc;

pub(crate) static SKEW: Primitive = Primitive {
    name: "skew",
    doc: "skew T D n: dimension D of the temporary T has n more positions in storage",
    tag: Tag::Bitwise,
    witness: None,
    apply: |k, a| {
        let (name, n) = (arg(a, 0)?, number(arg(a, 2)?)?);
        let d: usize = arg(a, 1)?.parse().map_err(|_| "the dimension is no number")?;
        let mut hit = false;
        let body = map_stmts(&k.body, &mut |s| match &s {
            Stmt::Alloc(b) if &*b.name == name && (1..b.shape.len()).contains(&d) => {
                hit = true;
                let mut shape = b.shape.clone();
                shape[d] = shape[d].clone() + lathe_ir::Int::from(n);
                vec![Stmt::Alloc(Arc::new(Buffer::dense(&b.name, b.dtype, &shape, &b.memory)))]
            }
            _ => vec![s],
        });
        if hit {
            Ok(Kernel { body, ..k.clone() })
        } else {
            Err(format!("there is no temporary '{name}' with a dimension {d} behind another"))
        }
    },
};
