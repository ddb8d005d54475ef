//! Faults that are planted in the scheduler are found: after each step of a primitive the program is what a wrong implementation
//! would leave. What is found is made small, and still shows it.

use lathe_fuzz::{Case, Choice, Finding, Judge, Kind, Mode, Random, mutate, reduce, seeds};
use lathe_ir::tensor::{Binary, Expr, For, Kernel, LANE, Node, Stmt, Store, map_exprs, map_stmts};
use lathe_schedule::Applied;
use std::path::Path;
use std::sync::Arc;

/// A fault: the primitive, what is wrong, and the program that it leaves.
type Fault = (&'static str, &'static str, fn(&Applied) -> Option<Kernel>);

fn word(step: &Applied, i: usize) -> String {
    step.step.split_whitespace().nth(i).unwrap_or_default().into()
}

fn statements(k: &Kernel, f: &mut dyn FnMut(Stmt) -> Vec<Stmt>) -> Option<Kernel> {
    Some(Kernel { body: map_stmts(&k.body, f), ..k.clone() })
}

fn loops(k: &Kernel, f: &dyn Fn(&For) -> Option<For>) -> Option<Kernel> {
    statements(k, &mut |s| match &s {
        Stmt::For(l) => vec![f(l).map_or_else(|| s.clone(), |l| Stmt::For(Arc::new(l)))],
        _ => vec![s],
    })
}

fn stores(k: &Kernel, f: &dyn Fn(&Store) -> Option<Store>) -> Option<Kernel> {
    statements(k, &mut |s| match &s {
        Stmt::Store(b) => vec![f(b).map_or_else(|| s.clone(), |b| Stmt::Store(Arc::new(b)))],
        _ => vec![s],
    })
}

const FAULTS: &[Fault] = &[
    ("split", "the last block is as long as the others", |a| {
        let inner = format!("{}.i", word(a, 1));
        loops(&a.after, &|l| match &*l.extent {
            Node::Binary(Binary::Min, _, f) if *l.var == *inner => {
                Some(For { extent: f.clone(), ..l.clone() })
            }
            _ => None,
        })
    }),
    ("split", "one block too few", |a| {
        let outer = format!("{}.o", word(a, 1));
        loops(&a.after, &|l| (*l.var == *outer).then(|| For { extent: l.extent.clone() - 1, ..l.clone() }))
    }),
    ("fuse", "the quotient and the remainder are exchanged", |a| {
        let body = map_exprs(&a.after.body, &|e| {
            e.rewrite(&|n| match &**n {
                Node::Binary(Binary::Div, x, y) => Some(x.bin(Binary::Rem, y)),
                Node::Binary(Binary::Rem, x, y) => Some(x.bin(Binary::Div, y)),
                _ => None,
            })
        });
        Some(Kernel { body, ..a.after.clone() })
    }),
    ("peel", "what is left is forgotten", |a| {
        let rest = format!("{}.p", word(a, 1));
        statements(&a.after, &mut |s| match &s {
            Stmt::For(l) if *l.var == *rest => vec![],
            _ => vec![s],
        })
    }),
    ("rfactor", "the accumulators begin with another value", |a| {
        stores(&a.after, &|b| {
            let first = b.values.first().filter(|_| b.name.ends_with(".z"))?;
            matches!(**first, Node::Float(..)).then(|| Store { values: vec![Expr::f32(3.0)], ..b.clone() })
        })
    }),
    ("cache_read", "the copy is of other elements", |a| {
        stores(&a.after, &|b| {
            let Node::Load(n, index) = &**b.values.first().filter(|_| b.name.ends_with(".r.s"))? else {
                return None;
            };
            let index: Vec<Expr> = index.iter().map(|_| Expr::from(0)).collect();
            Some(Store { values: vec![Expr::load(n, &index)], ..b.clone() })
        })
    }),
    ("cache_write", "the last elements are not copied back", |a| {
        let w = format!("{}.w", word(a, 2));
        loops(&a.after, &|l| {
            let copies = l.body.iter().any(
                |s| matches!(s, Stmt::Store(b) if b.values.iter().any(|v| matches!(&**v, Node::Load(n, _) if **n == *w))),
            );
            copies.then(|| For { extent: l.extent.clone() - 1, ..l.clone() })
        })
    }),
    ("join", "the bodies are in the wrong order", |a| {
        let var = word(a, 1);
        loops(&a.after, &|l| {
            let mut body = l.body.clone();
            body.rotate_left(1);
            (*l.var == *var && !matches!(l.body[0], Stmt::Alloc(_))).then(|| For { body, ..l.clone() })
        })
    }),
    ("stage", "the temporary is read before it is written", |a| {
        let read = format!("{}.{}.read", word(a, 1), word(a, 2));
        let mut late = None;
        let k = statements(&a.after, &mut |s| match &s {
            Stmt::Store(b) if *b.name == *read => {
                late = Some(s);
                vec![]
            }
            Stmt::Store(_) if late.is_some() => [s].into_iter().chain(late.take()).collect(),
            _ => vec![s],
        });
        k.filter(|_| late.is_none())
    }),
    ("unroll", "loops in order go to lanes", |a| {
        let var = word(a, 1);
        loops(&a.after, &|l| {
            let ordered = !matches!(l.iter, lathe_ir::tensor::Iter::Spatial);
            (*l.var == *var && ordered).then(|| For { level: LANE.into(), ..l.clone() })
        })
    }),
    ("interchange", "the extents stay where they were", |a| {
        let var = word(a, 1);
        let inner = lathe_ir::tensor::find_loop(&a.after.body, &var)?;
        let k = loops(&a.after, &|l| {
            let around = matches!(l.body.as_slice(), [Stmt::For(x)] if *x.var == *var);
            around.then(|| {
                let body = vec![Stmt::For(Arc::new(For { extent: l.extent.clone(), ..(*inner).clone() }))];
                For { extent: inner.extent.clone(), body, ..l.clone() }
            })
        });
        k.filter(|k| *k != a.after)
    }),
    ("sink", "a statement is lost", |a| {
        let mut lost = false;
        let k = statements(&a.after, &mut |s| match &s {
            Stmt::Store(b) if !lost && b.reducer.is_none() => {
                lost = true;
                vec![]
            }
            _ => vec![s],
        });
        k.filter(|_| lost)
    }),
];

/// The seeds, those first that have a step of the primitive.
fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-rewrite/tests/files/schedule");
    let mut out = vec![];
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("the folder").map(|e| e.expect("an entry").path()).collect();
    files.sort();
    for file in files {
        out.extend(seeds::of_file(&std::fs::read_to_string(file).expect("a file")));
    }
    out
}

/// Changed cases that are judged for one fault.
const CASES: usize = 600;

#[test]
fn planted_faults_are_found_and_made_small() {
    let all = cases();
    let mut missed = String::new();
    for (name, what, plant) in FAULTS {
        let judged = |c: &Case| Judge::planted(name, *plant).judge(c).err();
        let near: Vec<&Case> = all.iter().filter(|c| c.steps().any(|s| s.starts_with(name))).collect();
        let mut random = Random::new(7);
        let found = (0..CASES).find_map(|_| {
            let case = random.pick(&near).expect("a seed");
            let case =
                mutate(case, random.clone().pick(&all), Mode::Joint, &mut Choice::default(), &mut random);
            let finding = judged(&case)?;
            Some((case, finding))
        });
        let Some((case, finding)) = found else {
            missed += &format!("{name}: {what}\n");
            continue;
        };
        assert!(finding.kind != Kind::Panic, "{finding}\n{case}");
        let small = reduce(&case, 400, &mut |c| judged(c).is_some_and(|f: Finding| f.like(&finding)));
        assert!(small.to_string().len() <= case.to_string().len());
        assert!(judged(&small).is_some_and(|f| f.like(&finding)), "{small}");
        println!("{name}: {what}: {}\n{small}", judged(&small).expect("it shows it"));
    }
    assert!(missed.is_empty(), "{missed}");
}
