//! `stream T P Q [depth]`: what computes the temporary `T` becomes a process `P`, all else the process `Q` (which may be
//! there already), and the values go through a channel `T.c`. The loops around go into both. A scalar is sent when it is
//! complete. An array must be written once in the order in which it is read once; it is then never stored. `P` may read
//! what no process writes, and write nothing but `T`.

use crate::stage::{element, is_block, read_instead};
use crate::util::{accesses, arg, edit_list, need_free, number, touched};
use crate::{Primitive, Tag};
use lathe_ir::Name;
use lathe_ir::tensor::{
    Buffer, CHANNEL, Expr, For, Iter, Kernel, PROCESS, REGISTER, SERIAL, Stmt, Store, UNROLLED, check,
    find_block, for_each, is_network, map_stmts, rename_vars,
};
use std::collections::HashMap;
use std::sync::Arc;

pub(crate) static STREAM: Primitive = Primitive {
    name: "stream",
    doc: "stream T P Q [depth]: a process P computes the temporary T and sends it to the rest, the process Q",
    tag: Tag::Bitwise,
    apply,
    witness: None,
};

/// Fixes the order of every loop around an access to a channel.
pub(crate) fn ordered(body: &[Stmt], channel: &str) -> Result<Vec<Stmt>, String> {
    let mut moved = None;
    let out = map_stmts(body, &mut |s| match &s {
        Stmt::For(l) if &*l.level != PROCESS && !accesses(&l.body, channel).is_empty() => {
            if ![SERIAL, UNROLLED].contains(&&*l.level) {
                moved = Some(l.var.clone());
            }
            let free = matches!(l.iter, Iter::Spatial | Iter::Reduce);
            let iter = if free { Iter::Scan } else { l.iter };
            vec![Stmt::For(Arc::new(For { iter, ..(**l).clone() }))]
        }
        _ => vec![s],
    });
    moved.map_or(Ok(out), |l| Err(format!("the iterations of '{l}' are not run one after the other")))
}

/// A process that is alone.
pub(crate) fn process(name: &str, body: Vec<Stmt>) -> Stmt {
    let level = PROCESS.into();
    Stmt::For(Arc::new(For { var: name.into(), extent: 1.into(), iter: Iter::Spatial, level, body }))
}

fn is_alloc(s: &Stmt, name: &str) -> bool {
    matches!(s, Stmt::Alloc(b) if &*b.name == name)
}

fn allocates(s: &Stmt, name: &str) -> bool {
    let mut found = false;
    for_each(std::slice::from_ref(s), &mut |s| found |= is_alloc(s, name));
    found
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let (t, p, q) = (arg(args, 0)?, arg(args, 1)?, arg(args, 2)?);
    let depth = args.get(3).map_or(Ok(1), |d| number(d))?;
    let [channel, push, pop, value] = ["c", "push", "pop", "v"].map(|s| format!("{t}.{s}"));
    need_free(k, &[p, &channel, &push, &pop, &value])?;
    let buffer = k.buffer(t).ok_or_else(|| format!("there is no temporary '{t}'"))?;
    if k.views().any(|b| &*b.name == t) || &*buffer.memory == CHANNEL {
        return Err(format!("'{t}' is no temporary"));
    }
    let cut = Cut { t, p, buffer: &buffer, channel: &channel, push: &push, pop: &pop, value: &value };
    let declared = Buffer::dense(&channel, buffer.dtype, &[depth.into()], CHANNEL);
    let declared = Stmt::Alloc(Arc::new(declared));
    let body = if is_network(k) {
        let inside = |s: &Stmt| match s {
            Stmt::For(l) => {
                &*l.var == q && &*l.level == PROCESS && l.extent.as_int() == Some(1) && allocates(s, t)
            }
            _ => false,
        };
        let body = edit_list(&k.body, &inside, &mut |list, i| {
            let Stmt::For(l) = &list[i] else { return Err("not a process".into()) };
            let (made, rest) = cut.body(&l.body)?;
            let mut out = list.to_vec();
            out[i] = process(q, rest);
            out.insert(i, process(p, made));
            // Declarations stand in front of the processes, which stay adjacent.
            let first = out.iter().position(|s| !matches!(s, Stmt::Alloc(_))).unwrap_or(0);
            out.insert(first, declared.clone());
            Ok(out)
        })?;
        body.ok_or_else(|| format!("'{t}' is not a temporary of a process '{q}'"))?
    } else {
        need_free(k, &[q])?;
        let (made, rest) = cut.body(&k.body)?;
        vec![declared, process(p, made), process(q, rest)]
    };
    let k = Kernel { body, ..k.clone() };
    cut.alone(&k)?;
    let out = Kernel { body: ordered(&k.body, &channel)?, ..k };
    // Which process meets which has to be known before the run: conditions and extents around the ends of a channel too.
    check(&out).map_err(|e| e.to_string())?;
    Ok(out)
}

struct Cut<'a> {
    t: &'a str,
    p: &'a str,
    buffer: &'a Buffer,
    channel: &'a str,
    push: &'a str,
    pop: &'a str,
    value: &'a str,
}

impl Cut<'_> {
    /// The statements of the two processes.
    fn body(&self, body: &[Stmt]) -> Result<(Vec<Stmt>, Vec<Stmt>), String> {
        let Some(i) = body.iter().position(|s| allocates(s, self.t)) else {
            return Err(format!("'{}' is not in a plain list", self.t));
        };
        let (made, rest) = match &body[i] {
            Stmt::Alloc(_) => return self.list(body),
            Stmt::For(l) => {
                let (made, rest) = self.body(&l.body)?;
                let var: Name = format!("{}.{}", self.p, l.var).into();
                let made = rename_vars(&made, &HashMap::from([(&*l.var, Expr::var(&var))]));
                let made = Stmt::For(Arc::new(For { var, body: made, ..(**l).clone() }));
                (made, Stmt::For(Arc::new(For { body: rest, ..(**l).clone() })))
            }
            Stmt::If(c, b) => {
                let (made, rest) = self.body(b)?;
                (Stmt::If(c.clone(), Arc::new(made)), Stmt::If(c.clone(), Arc::new(rest)))
            }
            _ => return Err(format!("'{}' is inside of an instruction", self.t)),
        };
        let mut all = body.to_vec();
        all[i] = rest;
        Ok((vec![made], all))
    }

    /// Cuts the list that allocates the temporary: what it is computed from goes with it.
    fn list(&self, list: &[Stmt]) -> Result<(Vec<Stmt>, Vec<Stmt>), String> {
        let one = std::slice::from_ref::<Stmt>;
        let local = |n: &Name| list.iter().any(|s| is_alloc(s, n));
        let mut wanted: Vec<Name> = vec![self.t.into()];
        let mut goes = vec![false; list.len()];
        let last = list.iter().rposition(|s| touched(one(s), true).iter().any(|n| &**n == self.t));
        let last = last.ok_or_else(|| format!("nothing writes '{}'", self.t))?;
        loop {
            let new = (0..=last)
                .find(|i| !goes[*i] && touched(one(&list[*i]), true).iter().any(|n| wanted.contains(n)));
            let Some(i) = new else { break };
            goes[i] = true;
            wanted.extend(touched(one(&list[i]), false).into_iter().filter(|n| local(n)));
        }
        let early =
            (0..last).find(|i| !goes[*i] && touched(one(&list[*i]), false).iter().any(|n| &**n == self.t));
        if early.is_some() {
            return Err(format!("'{}' is used before it is complete", self.t));
        }
        let (mut made, mut rest) = (vec![], vec![]);
        for (s, goes) in list.iter().zip(goes) {
            match s {
                Stmt::Alloc(b) if &*b.name == self.t => {}
                Stmt::Alloc(b) if wanted.contains(&b.name) => made.push(s.clone()),
                _ if goes => made.push(s.clone()),
                _ => rest.push(s.clone()),
            }
        }
        if let Some(n) = wanted.iter().find(|n| &***n != self.t && touched(&rest, false).contains(n)) {
            return Err(format!("'{n}', which '{}' is computed from, is used by the rest too", self.t));
        }
        if self.buffer.shape.is_empty() {
            let own = Stmt::Alloc(Arc::new(self.buffer.clone()));
            let push = Stmt::store(self.push, self.channel, &[], Expr::load(self.t, &[]));
            let pop = Stmt::store(self.pop, self.t, &[], Expr::load(self.channel, &[]));
            return Ok(([vec![own.clone()], made, vec![push]].concat(), [vec![own, pop], rest].concat()));
        }
        self.array(&made, &rest)
    }

    /// Pushes each element when it is written and pops it when it is read.
    fn array(&self, made: &[Stmt], rest: &[Stmt]) -> Result<(Vec<Stmt>, Vec<Stmt>), String> {
        let (mut writers, mut readers) = (vec![], vec![]);
        for (body, out) in [(made, &mut writers), (rest, &mut readers)] {
            for_each(body, &mut |s| match s {
                Stmt::Store(b) if !accesses(std::slice::from_ref(s), self.t).is_empty() => {
                    out.push(b.clone())
                }
                _ => {}
            });
        }
        let ([w], [r]) = (writers.as_slice(), readers.as_slice()) else {
            return Err(format!("'{}' is not written by one block and read by one other", self.t));
        };
        let plain = w.reducer.is_none() && w.targets.len() == 1 && &*w.targets[0].0 == self.t;
        if !plain || w.values.iter().any(|v| v.loads(self.t)) {
            return Err(format!("'{}' does not write elements of '{}' once", w.name, self.t));
        }
        let read = element(r, self.t)?;
        let path =
            |body: &[Stmt], name: &str| loops(body, name).ok_or_else(|| format!("'{name}' has a condition"));
        let (lw, lr) = (path(made, &w.name)?, path(rest, &r.name)?);
        let index = &w.targets[0].1;
        let each = index.len() == lw.len() && lw.iter().all(|l| index.contains(&Expr::var(&l.var)));
        if !each {
            return Err(format!("'{}' does not write an element of '{}' in each iteration", w.name, self.t));
        }
        let renamed = |e: &Expr| {
            lw.iter().zip(&lr).fold(e.clone(), |e, (w, r)| e.substitute(&w.var, &Expr::var(&r.var)))
        };
        let same = lw.len() == lr.len()
            && lw.iter().zip(&lr).all(|(w, r)| renamed(&w.extent) == r.extent)
            && index.iter().map(renamed).eq(read.iter().cloned());
        if !same {
            return Err(format!("'{}' is not read in the order in which it is written", self.t));
        }
        let pushed = Store { targets: vec![(self.channel.into(), vec![])], ..(**w).clone() };
        let made = edit_list(made, &|s| is_block(s, &w.name), &mut |list, i| {
            let mut out = list.to_vec();
            out[i] = Stmt::Store(Arc::new(pushed.clone()));
            Ok(out)
        })?;
        let rest = edit_list(rest, &|s| is_block(s, &r.name), &mut |list, i| {
            let mut out = list.to_vec();
            out[i] = read_instead(r, self.t, self.value);
            out.insert(i, Stmt::store(self.pop, self.value, &[], Expr::load(self.channel, &[])));
            out.insert(i, Stmt::Alloc(Arc::new(Buffer::dense(self.value, self.buffer.dtype, &[], REGISTER))));
            Ok(out)
        })?;
        Ok((
            made.ok_or("the writer is not in a plain list")?,
            rest.ok_or("the reader is not in a plain list")?,
        ))
    }

    /// Refuses a producer that sees what others write, or that writes what is seen.
    fn alone(&self, k: &Kernel) -> Result<(), String> {
        let made = find_process(k, self.p);
        let others = map_stmts(&k.body, &mut |s| match &s {
            Stmt::For(l) if &*l.var == self.p => vec![],
            _ => vec![s],
        });
        let own = |n: &Name| made.iter().any(|s| allocates(s, n)) || &**n == self.channel;
        if let Some(n) = touched(&made, true).into_iter().find(|n| !own(n)) {
            return Err(format!("what computes '{}' writes '{n}' too", self.t));
        }
        let written = touched(&others, true);
        match touched(&made, false).into_iter().find(|n| !own(n) && written.contains(n)) {
            Some(n) => Err(format!("'{}' is computed from '{n}', which the rest writes", self.t)),
            None => Ok(()),
        }
    }
}

fn find_process(k: &Kernel, name: &str) -> Vec<Stmt> {
    lathe_ir::tensor::find_loop(&k.body, name).map(|l| l.body.clone()).unwrap_or_default()
}

/// The loops around a block, outermost first; `None` when there is a condition as well.
pub(crate) fn loops(body: &[Stmt], block: &str) -> Option<Vec<Arc<For>>> {
    for s in body {
        match s {
            Stmt::Store(b) if &*b.name == block => return Some(vec![]),
            Stmt::For(l) if find_block(&l.body, block).is_some() => {
                return Some([vec![l.clone()], loops(&l.body, block)?].concat());
            }
            _ => {}
        }
    }
    None
}
