//! `prefetch L B S`: while the block `S` reads the buffer `B` in one iteration of the loop `L`, the memory is asked for what
//! the same read of the next iteration will touch. A read into nowhere in the IR; an instruction that cannot fail in C.

use crate::util::{arg, edit_list, need_free, need_loop};
use crate::{Primitive, Tag};
use lathe_ir::tensor::{Buffer, Expr, Kernel, LANE, Node, REGISTER, Stmt, find_block, for_each, loop_bounds};
use std::sync::Arc;

/// The name of the instruction.
pub const ASK: &str = "prefetch";

pub(crate) static PREFETCH: Primitive = Primitive {
    name: "prefetch",
    doc: "prefetch L B S: before the block S reads B, ask for what it will read in the next iteration of L",
    tag: Tag::Bitwise,
    witness: None,
    apply,
};

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let (var, buffer, block) = (arg(args, 0)?, arg(args, 1)?, arg(args, 2)?);
    let l = need_loop(k, var)?;
    let b = find_block(&l.body, block).ok_or_else(|| format!("'{block}' is not inside '{var}'"))?;
    let mut index = None;
    for v in &b.values {
        v.visit(&mut |e| {
            if let Node::Load(n, i) = &**e
                && &**n == buffer
            {
                index = Some(i.clone());
            }
        });
    }
    let index = index.ok_or_else(|| format!("'{block}' does not read '{buffer}'"))?;
    let t = k.buffer(buffer).ok_or_else(|| format!("there is no buffer '{buffer}'"))?.dtype;
    let name = format!("{block}.next");
    let store = format!("{name}.s");
    need_free(k, &[&name, &store])?;
    let bounds = loop_bounds(k);
    let last = (l.extent.clone() - 1).simplify_index(&bounds);
    let next = (Expr::var(var) + 1).min_with(&last);
    let body = edit_list(
        &k.body,
        &|s| match s {
            Stmt::For(f) => {
                &*f.level == LANE && f.body.iter().any(|s| matches!(s, Stmt::Store(b) if &*b.name == block))
            }
            _ => false,
        },
        &mut |list, i| {
            let Stmt::For(f) = &list[i] else { return Err("no loop over lanes".into()) };
            let mut inside = vec![];
            for_each(&f.body, &mut |s| match s {
                Stmt::Alloc(b) => inside.push(b.name.clone()),
                Stmt::For(l) => inside.push(l.var.clone()),
                _ => {}
            });
            if inside.iter().any(|n| &**n == buffer || index.iter().any(|e| e.mentions(n) || e.loads(n))) {
                return Err(format!("what '{block}' reads is known inside of its lanes only"));
            }
            let at = index
                .iter()
                .map(|e| e.substitute(&f.var, &0.into()).substitute(var, &next))
                .collect::<Vec<_>>();
            let scratch = Stmt::Alloc(Arc::new(Buffer::dense(&name, t, &[], REGISTER)));
            let read = Stmt::store(&store, &name, &[], Expr::load(buffer, &at));
            let mut out = list.to_vec();
            out.insert(i, Stmt::Intrinsic(ASK.into(), Arc::new(vec![scratch, read])));
            Ok(out)
        },
    )?;
    Ok(Kernel { body: body.ok_or("the block is not in a loop over lanes")?, ..k.clone() })
}
