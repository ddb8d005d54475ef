//! `nontemporal S`: what the block `S` writes goes past the caches (non-temporal stores): its lines are not read before they are written
//! over, and push nothing else out. It pays where a result is larger than the caches. `S` is alone in loops over lanes and writes, without
//! reading back, a parameter that the kernel only writes; nothing of the meaning changes, and dialects without such stores write as ever.

use crate::util::arg;
use crate::{Primitive, Tag};
use lathe_ir::tensor::{Access, Kernel, LANE, Stmt, map_stmts};
use std::sync::Arc;

/// The name of the instruction.
pub const PAST_CACHES: &str = "nontemporal";

pub(crate) static NONTEMPORAL: Primitive = Primitive {
    name: "nontemporal",
    doc: "nontemporal S: the block S, alone in loops over lanes, writes its parameter past the caches",
    tag: Tag::Bitwise,
    witness: None,
    apply,
};

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let block = arg(args, 0)?;
    let mut done = Err(format!("there is no block '{block}' alone in a loop over lanes"));
    let body = map_stmts(&k.body, &mut |s| match &s {
        Stmt::For(l) if &*l.level == LANE => match l.body.as_slice() {
            [Stmt::Store(b)] if &*b.name == block => {
                let written = b.targets.iter().all(|(n, _)| {
                    let of = |p: &&lathe_ir::tensor::Param| p.views.iter().any(|v| v.name == *n);
                    k.params.iter().find(of).is_some_and(|p| p.access == Access::Out)
                });
                if written && b.reducer.is_none() {
                    done = Ok(());
                    return vec![Stmt::Intrinsic(PAST_CACHES.into(), Arc::new(vec![s]))];
                }
                done = Err(format!("'{block}' does not just write a parameter"));
                vec![s]
            }
            _ => vec![s],
        },
        _ => vec![s],
    });
    done.map(|()| Kernel { body, ..k.clone() })
}
