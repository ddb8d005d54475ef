//! Changes of programs: extents, indices, operators, types, kinds of loops, statements.

use super::number;
use crate::case::Case;
use crate::random::Random;
use lathe_ir::tensor::{
    Access, Binary, Buffer, Expr, For, Iter, Kernel, Node, Param, REDUCERS, Stmt, Store, Unary, check,
    expr_type, map_stmts,
};
use lathe_ir::{DType, Int, Name};
use std::collections::HashSet;
use std::sync::Arc;

/// Changes that are tried until one leaves a program that the checker accepts.
const TRIES: usize = 16;

/// Changes the program in a way.
pub(super) fn change(case: &mut Case, way: Way, random: &mut Random) {
    for _ in 0..TRIES {
        let mut k = case.program.clone();
        way(&mut k, random);
        if k != case.program && check(&k).is_ok() {
            case.program = k;
            return;
        }
    }
}

/// A way in which a program is changed, which may leave it as it was, or none that the checker accepts.
pub(super) type Way = fn(&mut Kernel, &mut Random);

/// The number of statements, inner ones too.
fn count(body: &[Stmt]) -> usize {
    let mut n = 0;
    lathe_ir::tensor::for_each(body, &mut |_| n += 1);
    n
}

/// Replaces the statement of a number (in the order in which they are rebuilt).
fn at(k: &mut Kernel, which: usize, f: &mut dyn FnMut(Stmt) -> Vec<Stmt>) {
    let mut i = 0;
    k.body = map_stmts(&k.body, &mut |s| {
        i += 1;
        if i == which + 1 { f(s) } else { vec![s] }
    });
}

/// Replaces one number in the whole program, shapes and extents alike, so that it stays in its buffers.
pub(super) fn size(k: &mut Kernel, random: &mut Random) {
    let mut numbers = vec![];
    lathe_ir::tensor::for_each(&k.body, &mut |s| {
        if let Stmt::For(l) = s {
            numbers.extend(l.extent.as_int());
        }
    });
    let Some(&from) = random.pick(&numbers) else { return };
    let to = number(random);
    let swap = |i: &Int| if i.as_const() == Some(from) { Int::from(to) } else { i.clone() };
    let buffer = |b: &Buffer| {
        let shape: Vec<Int> = b.shape.iter().map(swap).collect();
        if lathe_ir::Layout::dense(b.dtype, &b.shape) != b.layout {
            return b.clone();
        }
        Buffer { facts: b.facts.clone(), ..Buffer::dense(&b.name, b.dtype, &shape, &b.memory) }
    };
    for p in &mut k.params {
        if let [v] = p.views.as_mut_slice()
            && v.name == p.name
        {
            *v = buffer(v);
            p.bits = v.shape.iter().fold(Int::from(v.dtype.bits()), |a, s| a * s.clone());
        }
    }
    k.body = map_stmts(&k.body, &mut |s| {
        vec![match &s {
            Stmt::Alloc(b) => Stmt::Alloc(Arc::new(buffer(b))),
            Stmt::For(l) if l.extent.as_int() == Some(from) => {
                Stmt::For(Arc::new(For { extent: to.into(), ..(**l).clone() }))
            }
            _ => s,
        }]
    });
}

/// Changes the extent of a loop.
pub(super) fn every_extent(k: &mut Kernel, random: &mut Random) {
    let dims: Vec<Name> = k.dims.clone();
    let which = random.below(count(&k.body));
    at(k, which, &mut |s| {
        let Stmt::For(l) = &s else { return vec![s] };
        let extent = match (random.below(6), random.pick(&dims)) {
            (0, Some(d)) => Expr::var(d),
            (1, _) => l.extent.clone() - 1,
            (2, _) => l.extent.clone() / random.range(2, 4),
            (3, _) => l.extent.min_with(&number(random).into()),
            (4, Some(d)) => l.extent.min_with(&Expr::var(d)),
            _ => number(random).into(),
        };
        vec![Stmt::For(Arc::new(For { extent, ..(**l).clone() }))]
    });
}

/// What an expression may name: variables around, and buffers with their ranks and types.
struct Scope {
    vars: Vec<Name>,
    buffers: Vec<(Name, usize, DType)>,
}

impl Scope {
    fn of(k: &Kernel) -> Scope {
        let mut buffers: Vec<_> = k.views().map(|v| (v.name.clone(), v.shape.len(), v.dtype)).collect();
        let mut vars = k.dims.clone();
        lathe_ir::tensor::for_each(&k.body, &mut |s| match s {
            Stmt::For(l) => vars.push(l.var.clone()),
            Stmt::Alloc(b) => buffers.push((b.name.clone(), b.shape.len(), b.dtype)),
            _ => {}
        });
        Scope { vars, buffers }
    }

    fn type_of(&self, e: &Expr) -> Option<DType> {
        expr_type(e, &|n| self.buffers.iter().find(|b| &*b.0 == n).map(|b| b.2))
    }

    fn index(&self, random: &mut Random) -> Expr {
        match random.pick(&self.vars) {
            Some(v) if !random.one_in(5) => Expr::var(v),
            _ => random.range(0, 3).into(),
        }
    }

    /// An expression of a type that is no index.
    fn value(&self, t: DType, random: &mut Random) -> Expr {
        let of: Vec<_> = self.buffers.iter().filter(|b| b.2 == t).collect();
        if t == DType::INDEX && random.one_in(2) {
            return self.index(random);
        }
        match random.pick(&of) {
            Some((n, rank, _)) if random.one_in(2) => {
                let index: Vec<Expr> = (0..*rank).map(|_| self.index(random)).collect();
                Expr::load(n, &index)
            }
            _ if t.is_float() => Expr::float(random.range(-2, 4) as f64, t),
            _ if t == DType::BOOL => self.index(random).bin(Binary::Lt, &self.index(random)),
            _ if t.is_int() => Expr::int(t.wrap(random.range(0, 3)), t),
            _ => Expr::int(random.range(0, 3), t),
        }
    }
}

/// Changes one expression in an index of a block.
pub(super) fn index(k: &mut Kernel, random: &mut Random) {
    one_expr(k, random, true);
}

/// Changes one expression in a value or a condition.
pub(super) fn value(k: &mut Kernel, random: &mut Random) {
    one_expr(k, random, false);
}

fn one_expr(k: &mut Kernel, random: &mut Random, in_index: bool) {
    let scope = Scope::of(k);
    let which = random.below(count(&k.body));
    at(k, which, &mut |s| match &s {
        Stmt::Store(b) => {
            let mut b = (**b).clone();
            let t = random.below(b.targets.len());
            if in_index && random.one_in(2) {
                let index = &mut b.targets[t].1;
                let d = random.below(index.len());
                if let Some(i) = index.get_mut(d) {
                    *i = other_index(i, &scope, random);
                }
            } else {
                let v = random.below(b.values.len());
                let value = b.values[v].clone();
                b.values[v] = other_expr(&value, &scope, random, in_index);
            }
            vec![Stmt::Store(Arc::new(b))]
        }
        Stmt::If(c, body) => vec![Stmt::If(other_expr(c, &scope, random, in_index), body.clone())],
        _ => vec![s],
    });
}

/// Replaces one node of an expression.
fn other_expr(e: &Expr, scope: &Scope, random: &mut Random, in_index: bool) -> Expr {
    let mut nodes = 0usize;
    e.visit(&mut |_| nodes += 1);
    let mut at = random.below(nodes);
    replace(e, &mut at, &mut |n| other_node(n, scope, random, in_index))
}

/// Replaces the node of a number, counted from the root, by what `f` makes of it.
fn replace(e: &Expr, at: &mut usize, f: &mut dyn FnMut(&Expr) -> Expr) -> Expr {
    if *at == 0 {
        *at = usize::MAX;
        return f(e);
    }
    *at = at.wrapping_sub(usize::from(*at != usize::MAX));
    e.map_children(&mut |c| if *at == usize::MAX { c.clone() } else { replace(c, at, f) })
}

fn other_node(e: &Expr, scope: &Scope, random: &mut Random, in_index: bool) -> Expr {
    if let Node::Load(n, index) = &**e
        && (in_index || random.one_in(3))
        && !index.is_empty()
    {
        let mut index = index.clone();
        let d = random.below(index.len());
        index[d] = other_index(&index[d], scope, random);
        return Expr::load(n, &index);
    }
    let Some(t) = scope.type_of(e) else { return e.clone() };
    if t == DType::INDEX {
        return other_index(e, scope, random);
    }
    let arithmetic = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Min, Binary::Max];
    let bits = [Binary::And, Binary::Or, Binary::Xor, Binary::Shl, Binary::Shr, Binary::Div, Binary::Rem];
    let compare = [Binary::Lt, Binary::Le, Binary::Eq, Binary::Ne];
    let of = |random: &mut Random| match t {
        t if t.is_int() && random.one_in(2) => bits[random.below(bits.len())],
        _ => arithmetic[random.below(arithmetic.len())],
    };
    match (&**e, random.below(8)) {
        (Node::Binary(op, a, b), 0..=3) if op.is_comparison() => a.bin(compare[random.below(4)], b),
        (Node::Binary(_, a, b), 0..=2) => a.bin(of(random), b),
        (Node::Binary(op, a, b), 3) => b.bin(*op, a),
        (_, 4) => {
            let children: Vec<&Expr> =
                e.children().into_iter().filter(|c| scope.type_of(c) == Some(t)).collect();
            random.pick(&children).map_or_else(|| scope.value(t, random), |c| (*c).clone())
        }
        (_, 5) if t.is_float() => {
            let all = [Unary::Neg, Unary::Abs, Unary::Floor, Unary::Round, Unary::Sqrt, Unary::Exp];
            e.un(all[random.below(all.len())])
        }
        (_, 5) if t != DType::BOOL => e.un([Unary::Neg, Unary::Abs, Unary::Not][random.below(3)]),
        (_, 6) => {
            let c = scope.value(DType::BOOL, random);
            Expr::select(&c, e, &scope.value(t, random))
        }
        (_, 7) if t != DType::BOOL => e.bin(of(random), &scope.value(t, random)),
        _ => scope.value(t, random),
    }
}

fn other_index(e: &Expr, scope: &Scope, random: &mut Random) -> Expr {
    let c = number(random);
    match random.below(10) {
        0 => e.clone() + random.range(1, 3),
        1 => e.clone() * random.range(2, 4),
        2 => e.clone() % c,
        3 => e.clone() / c,
        4 => Expr::from(c - 1) - e.clone(),
        5 => e.clone() + scope.index(random),
        6 => e.min_with(&c.into()),
        7 => e.clone() - random.range(1, 2),
        _ => scope.index(random),
    }
}

/// Gives a buffer another type, with conversions where it is used.
pub(super) fn types(k: &mut Kernel, random: &mut Random) {
    let scope = Scope::of(k);
    let Some((name, _, old)) = random.pick(&scope.buffers).cloned() else { return };
    let all = [
        DType::F32,
        DType::I32,
        DType::I8,
        DType::U8,
        DType::F16,
        DType::BF16,
        DType::F64,
        DType::int(16),
        DType::uint(16),
        DType::U32,
        DType::INDEX,
        DType::uint(4),
        DType::int(4),
        DType::BOOL,
        DType::U64,
    ];
    let new = all[random.below(all.len())];
    let retype = |b: &Buffer| {
        (b.name == name && lathe_ir::Layout::dense(b.dtype, &b.shape) == b.layout)
            .then(|| Buffer { facts: b.facts.clone(), ..Buffer::dense(&b.name, new, &b.shape, &b.memory) })
    };
    let mut done = false;
    for p in &mut k.params {
        if let [v] = p.views.as_mut_slice()
            && v.name == p.name
            && let Some(b) = retype(v)
        {
            *v = b;
            p.bits = v.shape.iter().fold(Int::from(new.bits()), |a, s| a * s.clone());
            done = true;
        }
    }
    k.body = map_stmts(&k.body, &mut |s| match &s {
        Stmt::Alloc(b) => match retype(b) {
            Some(b) => {
                done = true;
                vec![Stmt::Alloc(Arc::new(b))]
            }
            None => vec![s],
        },
        _ => vec![s],
    });
    if !done {
        return;
    }
    // Loads are converted back, and what is stored is converted.
    k.body = lathe_ir::tensor::map_exprs(&k.body, &|e| {
        e.rewrite(&|n| match &**n {
            Node::Load(b, _) if *b == name => Some(n.cast(old)),
            _ => None,
        })
    });
    k.body = map_stmts(&k.body, &mut |s| match &s {
        Stmt::Store(b) => {
            let mut b = (**b).clone();
            for (t, v) in b.targets.iter().zip(&mut b.values) {
                if t.0 == name {
                    *v = v.cast(new);
                }
            }
            vec![Stmt::Store(Arc::new(b))]
        }
        _ => vec![s],
    });
}

/// Gives a loop another kind.
pub(super) fn kind(k: &mut Kernel, random: &mut Random) {
    let which = random.below(count(&k.body));
    at(k, which, &mut |s| {
        let Stmt::For(l) = &s else { return vec![s] };
        let iter = [Iter::Spatial, Iter::Reduce, Iter::Scan, Iter::Sequential][random.below(4)];
        vec![Stmt::For(Arc::new(For { iter, ..(**l).clone() }))]
    });
}

/// Gives a block another reducer, or none.
pub(super) fn reducer(k: &mut Kernel, random: &mut Random) {
    let which = random.below(count(&k.body));
    at(k, which, &mut |s| {
        let Stmt::Store(b) = &s else { return vec![s] };
        let fit: Vec<_> = REDUCERS.iter().filter(|r| r.arity == b.targets.len()).collect();
        let reducer = random.pick(&fit).copied().filter(|_| !random.one_in(3));
        vec![Stmt::Store(Arc::new(Store { reducer, ..(**b).clone() }))]
    });
}

/// A name that is not taken.
fn fresh(k: &Kernel, stem: &str) -> String {
    let mut taken: HashSet<Name> = k.views().map(|v| v.name.clone()).chain(k.dims.clone()).collect();
    lathe_ir::tensor::for_each(&k.body, &mut |s| {
        taken.extend(match s {
            Stmt::For(l) => Some(l.var.clone()),
            Stmt::Store(b) => Some(b.name.clone()),
            Stmt::Alloc(b) => Some(b.name.clone()),
            _ => None,
        });
    });
    (0..).map(|i| format!("{stem}{i}")).find(|n| !taken.contains(n.as_str())).expect("numbers do not end")
}

/// Puts a loop or a condition around a statement.
pub(super) fn around(k: &mut Kernel, random: &mut Random) {
    let scope = Scope::of(k);
    let var = fresh(k, "v");
    let which = random.below(count(&k.body));
    at(k, which, &mut |s| {
        if matches!(s, Stmt::Alloc(_)) {
            return vec![s];
        }
        if random.one_in(2) {
            return vec![Stmt::If(scope.value(DType::BOOL, random), Arc::new(vec![s]))];
        }
        let iter = [Iter::Spatial, Iter::Reduce, Iter::Sequential][random.below(3)];
        vec![Stmt::for_(&var, number(random).into(), iter, vec![s])]
    });
}

/// Lets a block write to a fresh temporary, from which another block copies at once.
pub(super) fn staged(k: &mut Kernel, random: &mut Random) {
    let scope = Scope::of(k);
    let (t, copy) = (fresh(k, "t"), fresh(k, "B"));
    let which = random.below(count(&k.body));
    at(k, which, &mut |s| {
        let Stmt::Store(b) = &s else { return vec![s] };
        let ([(target, index)], None) = (b.targets.as_slice(), b.reducer) else { return vec![s] };
        let Some((_, _, dtype)) = scope.buffers.iter().find(|n| n.0 == *target) else { return vec![s] };
        let memory = ["register", "workspace"][random.below(2)];
        let first = Store { targets: vec![(t.as_str().into(), vec![])], ..(**b).clone() };
        vec![
            Stmt::Alloc(Arc::new(Buffer::dense(&t, *dtype, &[], memory))),
            Stmt::Store(Arc::new(first)),
            Stmt::store(&copy, target, index, Expr::load(&t, &[])),
        ]
    });
}

/// One more parameter, read by a block that adds it.
pub(super) fn another(k: &mut Kernel, random: &mut Random) {
    let name = fresh(k, "p");
    let n = number(random);
    let scope = Scope::of(k);
    let view = Buffer::dense(&name, DType::F32, &[Int::from(n)], "host");
    let bits = Int::from(32 * n);
    k.params.insert(0, Param { name: name.as_str().into(), access: Access::In, views: vec![view], bits });
    let which = random.below(count(&k.body));
    at(k, which, &mut |s| {
        let Stmt::Store(b) = &s else { return vec![s] };
        let mut b = (**b).clone();
        let at = scope.index(random) % n;
        if let (Some(v), Some((t, _))) = (b.values.first_mut(), b.targets.first()) {
            let dtype = scope.buffers.iter().find(|n| n.0 == *t).map_or(DType::F32, |b| b.2);
            *v = &*v + &Expr::load(&name, &[at]).cast(dtype);
        }
        vec![Stmt::Store(Arc::new(b))]
    });
}

/// Removes, repeats or exchanges statements, or leaves out a loop around its body.
pub(super) fn statements(k: &mut Kernel, random: &mut Random) {
    let which = random.below(count(&k.body));
    match random.below(5) {
        0 => at(k, which, &mut |_| vec![]),
        1 => {
            let suffix = fresh(k, "r");
            at(k, which, &mut |s| match &s {
                Stmt::Alloc(_) => vec![s],
                _ => vec![s.clone(), renamed(&s, &suffix)],
            });
        }
        2 => at(k, which, &mut |s| match &s {
            Stmt::For(l) => {
                let map = [(&*l.var, Expr::from(0))].into();
                lathe_ir::tensor::rename_vars(&l.body, &map)
            }
            Stmt::If(_, b) => b.to_vec(),
            _ => vec![s],
        }),
        3 => at(k, which, &mut |s| match &s {
            Stmt::For(l) if l.body.len() > 1 => {
                let mut body = l.body.clone();
                let i = random.below(body.len() - 1);
                body.swap(i, i + 1);
                vec![Stmt::For(Arc::new(For { body, ..(**l).clone() }))]
            }
            // One loop for each statement of the body.
            _ => vec![s],
        }),
        _ => {
            let suffix = fresh(k, "d");
            at(k, which, &mut |s| match &s {
                Stmt::For(l) if l.body.len() > 1 && !l.body.iter().any(|s| matches!(s, Stmt::Alloc(_))) => {
                    let at = 1 + random.below(l.body.len() - 1);
                    let first = For { body: l.body[..at].to_vec(), ..(**l).clone() };
                    let second = Stmt::For(Arc::new(For { body: l.body[at..].to_vec(), ..(**l).clone() }));
                    vec![Stmt::For(Arc::new(first)), renamed(&second, &suffix)]
                }
                _ => vec![s],
            });
        }
    }
}

/// A copy with names of its own.
fn renamed(s: &Stmt, suffix: &str) -> Stmt {
    let mut vars = vec![];
    let one = std::slice::from_ref(s);
    lathe_ir::tensor::for_each(one, &mut |s| {
        if let Stmt::For(l) = s {
            vars.push((l.var.clone(), Expr::var(&format!("{}{suffix}", l.var))));
        }
    });
    let mut buffers = HashSet::new();
    lathe_ir::tensor::for_each(one, &mut |s| {
        if let Stmt::Alloc(b) = s {
            buffers.insert(b.name.clone());
        }
    });
    let other = |n: &Name| -> Name {
        if buffers.contains(n) { format!("{n}{suffix}").as_str().into() } else { n.clone() }
    };
    let body = lathe_ir::tensor::rename_vars(one, &vars.iter().map(|(n, e)| (&**n, e.clone())).collect());
    let body = lathe_ir::tensor::map_exprs(&body, &|e| {
        e.rewrite(&|n| match &**n {
            Node::Load(b, i) if buffers.contains(b) => Some(Expr::load(&other(b), i)),
            _ => None,
        })
    });
    let body = map_stmts(&body, &mut |s| {
        vec![match &s {
            Stmt::For(l) => Stmt::For(Arc::new(For {
                var: format!("{}{suffix}", l.var).as_str().into(),
                ..(**l).clone()
            })),
            Stmt::Store(b) => {
                let targets = b.targets.iter().map(|(n, i)| (other(n), i.clone())).collect();
                let name = format!("{}{suffix}", b.name).as_str().into();
                Stmt::Store(Arc::new(Store { name, targets, ..(**b).clone() }))
            }
            Stmt::Alloc(b) => Stmt::Alloc(Arc::new(Buffer { name: other(&b.name), ..(**b).clone() })),
            _ => s,
        }]
    });
    body.into_iter().next().expect("one statement stays one")
}
