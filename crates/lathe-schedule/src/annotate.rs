//! Steps that only say who runs a loop (`vectorize`, `unroll`, `parallel`) or where a temporary lies (`set_memory`).

use crate::pad::{promise, uses};
use crate::rules::LANES;
use crate::util::{arg, in_family, need_name};
use crate::{Primitive, Tag};
use lathe_ir::tensor::{
    Buffer, CHANNEL, CORE, Expr, For, Iter, Kernel, LANE, Opaque, SWEEP, Stmt, UNROLLED, find_loop, for_each,
    loop_bounds, map_stmts,
};
use lathe_ir::{Int, Name};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) static VECTORIZE: Primitive = Primitive {
    name: "vectorize",
    doc: "vectorize L [masked]: iterations of the family L run in the lanes of a vector; a reduction's order changes. \
          Where the extent is not constant, whole vectors are read: parameters must be stored padded, unless lanes \
          without an iteration are masked",
    tag: Tag::Reassociates,
    witness: None,
    apply: |k, a| {
        let family = arg(a, 0)?;
        let masked = a.get(1) == Some(&"masked");
        let partial = !masked && find_loop(&k.body, family).is_some_and(|l| l.extent.as_int().is_none());
        let k = level(k, family, LANE, &[Iter::Spatial, Iter::Reduce])?;
        if partial { promise(&k, &uses(&k, family).0, LANES) } else { Ok(k) }
    },
};

pub(crate) static UNROLL: Primitive = Primitive {
    name: "unroll",
    doc: "unroll L: iterations of the family L are written out, behind conditions where their number is only bounded",
    tag: Tag::Bitwise,
    witness: None,
    apply: |k, a| {
        level(k, arg(a, 0)?, UNROLLED, &[Iter::Spatial, Iter::Reduce, Iter::Scan, Iter::Sequential])
    },
};

pub(crate) static PARALLEL: Primitive = Primitive {
    name: "parallel",
    doc: "parallel L [M...]: iterations of L go to the cores; it must be the kernel's one outermost loop, and no two of them \
          write elements that share a byte, as a core writes bytes. Each iteration of the loops M, which are the whole body of one \
          another in L, is run for all that a core has of L before the next one",
    tag: Tag::Bitwise,
    witness: None,
    apply: |k, a| {
        let var = arg(a, 0)?;
        match k.body.iter().filter(|s| !matches!(s, Stmt::Alloc(_))).collect::<Vec<_>>().as_slice() {
            [Stmt::For(l)] if &*l.var == var => {
                let mut after = level(k, var, CORE, &[Iter::Spatial])?;
                let mut inner = (*l).clone();
                for sweep in &a[1..] {
                    let [Stmt::For(m)] = inner.body.as_slice() else {
                        return Err(format!("the body of '{}' is not one loop", inner.var));
                    };
                    if &*m.var != *sweep || m.extent.mentions(var) {
                        return Err(format!(
                            "'{sweep}' is not the whole body of '{}', or its extent depends on '{var}'",
                            inner.var
                        ));
                    }
                    inner = m.clone();
                    after = level(&after, sweep, SWEEP, &[Iter::Spatial])?;
                }
                Ok(after)
            }
            _ => Err(format!("'{var}' is not the one outermost loop")),
        }
    },
};

pub(crate) static SET_MEMORY: Primitive = Primitive {
    name: "set_memory",
    doc: "set_memory T M: the temporary T lies in the memory M",
    tag: Tag::Bitwise,
    witness: None,
    apply: |k, a| {
        let (name, memory): (&str, Name) = (arg(a, 0)?, arg(a, 1)?.into());
        need_name(&memory)?;
        if &*memory == CHANNEL {
            return Err("a channel is no place to keep values: 'stream' makes one".into());
        }
        let mut hit = false;
        let body = map_stmts(&k.body, &mut |s| match &s {
            Stmt::Alloc(b) if &*b.name == name => {
                hit = true;
                vec![Stmt::Alloc(Arc::new(Buffer { memory: memory.clone(), ..(**b).clone() }))]
            }
            _ => vec![s],
        });
        if hit { Ok(Kernel { body, ..k.clone() }) } else { Err(format!("there is no temporary '{name}'")) }
    },
};

/// Refuses a program in which two iterations of a loop on cores may write elements that share a byte: those of each are not known to lie in
/// whole bytes of their own.
pub(crate) fn own_bytes(k: &Kernel) -> Result<(), String> {
    let mut shared = Ok(());
    for_each(&k.body, &mut |s| match s {
        Stmt::For(l) if &*l.level == CORE && shared.is_ok() => shared = apart_in_bytes(k, l),
        _ => {}
    });
    shared
}

fn apart_in_bytes(k: &Kernel, l: &For) -> Result<(), String> {
    let bounds = loop_bounds(k);
    let (mut own, mut stores) = (vec![], vec![]);
    for_each(&l.body, &mut |s| match s {
        Stmt::Alloc(b) => own.push(&b.name),
        Stmt::Store(s) => stores.extend(&s.targets),
        _ => {}
    });
    // Of each storage how far iterations are apart, and the bits of all fields that the first one writes.
    let mut fields: BTreeMap<Name, Option<(i64, i64, i64)>> = BTreeMap::new();
    for (n, index) in stores.into_iter().filter(|(n, _)| !own.contains(&n)) {
        let Some(b) = k.buffer(n).filter(|b| b.dtype.bits() % 8 != 0) else { continue };
        let written = || {
            let mut opaque = Opaque::default();
            let index: Option<Vec<Int>> = index.iter().map(|e| opaque.int(e, &bounds)).collect();
            let (step, first) = b.layout.address(&index?, &bounds).affine_in(&l.var)?;
            let range = bounds.range(&first);
            Some((step.as_const()?, range.lo?, range.hi?.checked_add(b.dtype.bits())?))
        };
        let param = k.params.iter().find(|p| p.views.iter().any(|v| v.name == *n));
        let all = fields.entry(param.map_or(n, |p| &p.name).clone()).or_insert_with(written);
        let with = |x: (i64, i64, i64), y: (i64, i64, i64)| (x.0, x.1.min(y.1), x.2.max(y.2));
        *all = all.zip(written()).filter(|(x, y)| x.0 == y.0).map(|(x, y)| with(x, y));
    }
    let in_bytes = |(step, lo, end): (i64, i64, i64)| {
        step % 8 == 0 && (lo.div_euclid(8) * 8).checked_add(step).is_some_and(|next| end <= next)
    };
    match fields.into_iter().find(|(_, f)| !f.is_some_and(in_bytes)) {
        Some((n, _)) => Err(format!("two iterations of '{}' may write the same byte of '{n}'", l.var)),
        None => Ok(()),
    }
}

fn level(k: &Kernel, family: &str, level: &str, kinds: &[Iter]) -> Result<Kernel, String> {
    let (mut hit, mut wrong) = (false, None);
    let bounded = |e: &Expr| {
        let bounds = loop_bounds(k);
        Opaque::default().int(e, &bounds).is_some_and(|e| bounds.range(&e).hi.is_some())
    };
    let body = map_stmts(&k.body, &mut |s| match &s {
        Stmt::For(l) if in_family(&l.var, family) => {
            hit = true;
            if !kinds.contains(&l.iter) || (level == UNROLLED && !bounded(&l.extent)) {
                wrong = Some(l.var.clone());
            }
            vec![Stmt::For(Arc::new(For { level: level.into(), ..(**l).clone() }))]
        }
        _ => vec![s],
    });
    match (hit, wrong) {
        (false, _) => Err(format!("there is no loop '{family}'")),
        (_, Some(w)) => Err(format!("the kind or extent of loop '{w}' does not allow it")),
        _ => Ok(Kernel { body, ..k.clone() }),
    }
}
