//! `prefetch L B S [near]`: while the block `S` reads the buffer `B` in one iteration of the loop `L`, the memory is asked for what
//! the same read of the next iteration will touch. A read into nowhere in the IR; an instruction that cannot fail in C. The next
//! iteration reaches the block wherever this one does: no condition on the way hangs on `L`, each loop runs once at least, and there is
//! a lane. Where a loop on the way is shorter in the next iteration, its last one stands for those that it has no more, but for places
//! inside of a page: what is asked for is then in the same page as what the next iteration reads first. What is read again in
//! each iteration of loops around the lanes that are written out is asked for once. Of lanes side by side each line is asked for.

use crate::lanes::lane;
use crate::util::{arg, edit_list, guards, inside_copies, need_free, need_loop, runs_at_least, touched};
use crate::{Primitive, Tag};
use lathe_ir::tensor::{
    Binary, Buffer, Expr, For, Iter, Kernel, LANE, Node, Opaque, REGISTER, Stmt, UNROLLED, find_block,
    for_each, loop_bounds,
};
use lathe_ir::{Bounds, Int, Name};
use std::sync::Arc;

/// Bits that come from memory together.
const LINE: i64 = 512;

/// The names of the instruction: into the second cache, of whose lines many may be on their way, and into the first one, which waits for
/// few.
const ASK: [&str; 2] = ["prefetch", "prefetch_near"];

/// Whether an instruction asks for memory.
pub fn is_prefetch(name: &str) -> bool {
    ASK.contains(&name)
}

pub(crate) static PREFETCH: Primitive = Primitive {
    name: "prefetch",
    doc: "prefetch L B S [near]: before the block S reads B, ask for what it will read in the next iteration of L, near: into the first cache",
    tag: Tag::Bitwise,
    witness: None,
    apply,
};

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let (var, buffer, block) = (arg(args, 0)?, arg(args, 1)?, arg(args, 2)?);
    let ask = match args.get(3) {
        None => ASK[0],
        Some(&"near") => ASK[1],
        Some(other) => return Err(format!("'{other}' is not 'near'")),
    };
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
    if b.values.iter().any(|v| guards(v, buffer)) {
        return Err(format!("whether '{block}' reads '{buffer}' hangs on a condition"));
    }
    let written = touched(&k.body, true);
    let changes = |e: &Expr| {
        let mut found = false;
        e.visit(&mut |e| {
            found |= matches!(&**e, Node::Load(n, _) if written.contains(n));
        });
        found
    };
    if index.iter().any(changes) {
        return Err(format!("what '{block}' reads of '{buffer}' is picked by what is written"));
    }
    let bounds = loop_bounds(k);
    let (loops, conditions) = around(&l.body, block);
    if conditions.iter().any(|e| e.mentions(var) || changes(e)) || loops.iter().any(|f| changes(&f.extent)) {
        return Err(format!("whether '{block}' runs hangs on the iteration of '{var}'"));
    }
    // The iterations of the loops on the way: in the next iteration of `L`, those of the same number, or the last ones.
    let last = |extent: &Expr| (extent.clone() - 1).simplify_index(&bounds);
    let mut next = vec![(l.var.clone(), (Expr::var(var) + 1).min_with(&last(&l.extent)))];
    let then = |e: &Expr, next: &[(Name, Expr)]| next.iter().fold(e.clone(), |e, (v, n)| e.substitute(v, n));
    let t = k.buffer(buffer).ok_or_else(|| format!("there is no buffer '{buffer}'"))?;
    let on_pages = |f: &For| {
        let most = Opaque::default().int(&f.extent, &bounds).and_then(|n| bounds.range(&n).hi);
        let stays = |n: i64| {
            index.iter().zip(&t.shape).all(|(e, extent)| is_place_in_page(e, extent, &f.var, n, &bounds))
        };
        most.is_some_and(stays)
    };
    let mut shorter = vec![l.var.clone()];
    for f in &loops {
        if shorter.iter().any(|v| f.extent.mentions(v)) {
            if !runs_at_least(k, f, 1) {
                return Err(format!("'{}' may not run in the next iteration of '{var}'", f.var));
            }
            // There another one may stand for this one, of which the condition says something else.
            if conditions.iter().any(|e| e.mentions(&f.var)) {
                return Err(format!("whether '{block}' runs hangs on '{}', which may be shorter", f.var));
            }
            shorter.push(f.var.clone());
            if !on_pages(f) {
                let end = then(&last(&f.extent), &next);
                next.push((f.var.clone(), Expr::var(&f.var).min_with(&end)));
            }
        }
    }
    // Loops that are written out and read the same places in each iteration: these are asked for once.
    let again = |l: &For| !index.iter().any(|e| e.mentions(&l.var)) && !shorter.contains(&l.var);
    let name = format!("{block}.next");
    let (store, line) = (format!("{name}.s"), Name::from(format!("{block}.line")));
    need_free(k, &[&name, &store, &line])?;
    let is = |s: &Stmt| lanes(s, block).is_some_and(|(loops, _)| loops.first().is_none_or(|l| again(l)));
    let body = edit_list(&k.body, &is, &mut |list, i| {
        let (loops, f) = lanes(&list[i], block).ok_or("no loop over lanes")?;
        let f = &f;
        if !runs_at_least(k, f, 1) {
            return Err(format!("'{}' may have no lanes", f.var));
        }
        let each = LINE / t.dtype.bits();
        let beside = lane(&t, &index, &f.var, &bounds).is_some_and(|l| l.stride == t.dtype.bits());
        let lines = f.extent.as_int().filter(|n| beside && n % each == 0).map_or(1, |n| n / each);
        let place = if lines > 1 { Expr::var(&line) * each } else { 0.into() };
        let (mut inside, mut first) = (vec![], vec![(f.var.clone(), place)]);
        let mut hangs = false;
        for_each(&f.body, &mut |s| match s {
            Stmt::If(_, b) => hangs |= find_block(b, block).is_some(),
            Stmt::Alloc(b) => inside.push(b.name.clone()),
            // Of a word's elements the first one is asked for.
            Stmt::For(l) if l.extent.as_int().is_some_and(|n| n > 0) => first.push((l.var.clone(), 0.into())),
            Stmt::For(l) => {
                hangs |= find_block(&l.body, block).is_some();
                inside.push(l.var.clone());
            }
            _ => {}
        });
        if hangs {
            return Err(format!("whether '{block}' runs is known inside of its lanes only"));
        }
        if inside.iter().any(|n| &**n == buffer || index.iter().any(|e| e.mentions(n) || e.loads(n))) {
            return Err(format!("what '{block}' reads is known inside of its lanes only"));
        }
        let at =
            index.iter().map(|e| then(&then(e, &first), &next).simplify_index(&bounds)).collect::<Vec<_>>();
        let scratch = Stmt::Alloc(Arc::new(Buffer::dense(&name, t.dtype, &[], REGISTER)));
        let read = Stmt::store(&store, &name, &[], Expr::load(buffer, &at));
        let mut ask = Stmt::Intrinsic(ask.into(), Arc::new(vec![scratch, read]));
        if lines > 1 {
            let (var, level, body) = (line.clone(), UNROLLED.into(), vec![ask]);
            ask = Stmt::For(Arc::new(For { var, extent: lines.into(), iter: Iter::Spatial, level, body }));
        }
        let places: Vec<Arc<For>> = loops.into_iter().filter(|l| !again(l)).collect();
        let mut out = list.to_vec();
        out.insert(i, inside_copies(k, &places, ask, &mut vec![]));
        Ok(out)
    })?;
    Ok(Kernel { body: body.ok_or("the block is not in a loop over lanes")?, ..k.clone() })
}

/// The loop over lanes around a block, where a statement is that, and the loops around it that are written out where it is these.
fn lanes(s: &Stmt, block: &str) -> Option<(Vec<Arc<For>>, Arc<For>)> {
    let Stmt::For(f) = s else { return None };
    match (&*f.level, f.body.as_slice()) {
        (LANE, _) => find_block(&f.body, block).is_some().then(|| (vec![], f.clone())),
        (UNROLLED, [inner]) if f.extent.as_int() > Some(0) => {
            let (mut loops, lane) = lanes(inner, block)?;
            let apart = loops.iter().chain([&lane]).all(|l| !l.extent.mentions(&f.var));
            loops.insert(0, f.clone());
            apart.then_some((loops, lane))
        }
        _ => None,
    }
}

/// The loops and conditions around a block, inside of some statements, but for its lanes: the first one of these is asked for.
fn around(body: &[Stmt], block: &str) -> (Vec<Arc<For>>, Vec<Expr>) {
    for s in body {
        match s {
            Stmt::For(l) if &*l.level != LANE && find_block(&l.body, block).is_some() => {
                let (loops, conditions) = around(&l.body, block);
                return ([vec![l.clone()], loops].concat(), conditions);
            }
            Stmt::If(c, b) if find_block(b, block).is_some() => {
                let (loops, conditions) = around(b, block);
                return (loops, [vec![c.clone()], conditions].concat());
            }
            _ => {}
        }
    }
    (vec![], vec![])
}

/// Whether a variable of so many values picks places of one page of a dimension: it counts, in equal steps from the beginning of a block
/// that pages are whole numbers of, in the place inside of a page, to which the page's beginning is added, and in quotients by pages.
fn is_place_in_page(e: &Expr, extent: &Int, var: &str, values: i64, bounds: &Bounds) -> bool {
    let Node::Binary(Binary::Add, begin, place) = &**e else {
        return picks_pages(e, var, values, bounds);
    };
    let Node::Binary(Binary::Rem, x, page) = &**place else { return picks_pages(e, var, values, bounds) };
    let whole = |n: Option<Int>, page: i64| n.is_some_and(|n| n.rem(page, bounds).as_const() == Some(0));
    let in_page =
        page.as_int().filter(|page| is_in_block(x, var, *page, values, bounds)).is_some_and(|page| {
            whole(Opaque::default().int(begin, bounds), page) && whole(Some(extent.clone()), page)
        });
    in_page && picks_pages(begin, var, values, bounds)
}

/// Whether a variable is used in quotients by pages alone, which are the same for all its values.
fn picks_pages(e: &Expr, var: &str, values: i64, bounds: &Bounds) -> bool {
    match &**e {
        Node::Var(n) => &**n != var,
        Node::Binary(Binary::Div, x, page) if e.mentions(var) => {
            page.as_int().is_some_and(|page| is_in_block(x, var, page, values, bounds))
        }
        _ => e.children().into_iter().all(|c| picks_pages(c, var, values, bounds)),
    }
}

/// Whether the variable's values are equal steps in a block from its beginning on, of which a page is a whole number.
fn is_in_block(x: &Expr, var: &str, page: i64, values: i64, bounds: &Bounds) -> bool {
    let only = |v: &str| bounds.of(v).lo.filter(|lo| bounds.of(v).hi == Some(*lo)).map(Int::from);
    let block = Opaque::default().int(x, bounds).and_then(|x| {
        let (by, first) = x.substitute(&only, bounds).affine_in(var)?;
        let block = by.as_const()?.checked_mul(values).filter(|n| *n > 0)?;
        (first.rem(block, bounds).as_const() == Some(0)).then_some(block)
    });
    block.is_some_and(|block| page % block == 0)
}
