//! One pass in place of several: programs of which `online` would compute something else have no certificate, whatever the step
//! says, nor have steps that leave a part of it out.

use lathe_ir::tensor::{Kernel, Memory, interpret, parse};
use lathe_schedule::{Schedule, Tag};
use lathe_verify::{Prover, check};

/// Attention of one query.
const ATTENTION: &str = "kernel f(n) {
  in x: f32[n]
  in v: f32[n, 4]
  out y: f32[4]
  alloc t: f32[] on register
  alloc m: f32[] on register
  Z: m[] = -50f32
  for j in n reduce serial {
    M: m[] max = x[j]
  }
  alloc p: f32[n] on workspace
  for a in n spatial serial {
    P: p[a] = exp(x[a] - m[])
  }
  alloc s: f32[] on register
  Y: s[] = 0f32
  for b in n reduce serial {
    S: s[] sum = p[b]
  }
  alloc o: f32[4] on workspace
  for z in 4 spatial serial {
    O: o[z] = 0f32
  }
  for d in n reduce serial {
    for c in 4 spatial serial {
      W: o[c] sum = p[d] * v[d, c]
    }
  }
  for i in 4 spatial serial {
    R: y[i] = o[i] / s[]
  }
}";

type Changes = &'static [(&'static str, &'static str)];

/// What is wrong, and what changes in the text before and after the step.
const WRONG: &[(&str, Changes, Changes)] = &[
    ("a sum is not rescaled", &[], &[("    s.rescale: s[] = s[] * exp(m.before[] - m[])\n", "")]),
    ("the factor is turned round", &[], &[("exp(m.before[] - m[])", "exp(m[] - m.before[])")]),
    ("not all of a sum is rescaled", &[], &[("c.c1 in 4", "c.c1 in 3")]),
    (
        "elements are rescaled twice",
        &[],
        &[("o.rescale: o[c.c1] = o[c.c1] *", "o.rescale: o[c.c1 / 2] = o[c.c1 / 2] *")],
    ),
    (
        "the maximum is kept too late",
        &[],
        &[(
            "    m.before.s: m.before[] = m[]\n    M: m[] max = x[j]\n",
            "    M: m[] max = x[j]\n    m.before.s: m.before[] = m[]\n",
        )],
    ),
    ("the maximum is not kept", &[], &[("m.before[] = m[]", "m.before[] = s[]")]),
    (
        "a sum comes before its weight",
        &[],
        &[(
            "    P: p[j] = exp(x[j] - m[])\n    S: s[] sum = p[j]\n",
            "    S: s[] sum = p[j]\n    P: p[j] = exp(x[j] - m[])\n",
        )],
    ),
    (
        "it starts at minus infinity",
        &[("Z: m[] = (-50.0f32)", "Z: m[] = (-inf(f32))")],
        &[("Z: m[] = (-50.0f32)", "Z: m[] = (-inf(f32))")],
    ),
    ("a sum starts at 1", &[("Y: s[] = 0f32", "Y: s[] = 1f32")], &[("Y: s[] = 0f32", "Y: s[] = 1f32")]),
    (
        "it is no maximum",
        &[("M: m[] max = x[j]", "M: m[] sum = x[j] * 40f32")],
        &[("M: m[] max = x[j]", "M: m[] sum = x[j] * 40f32")],
    ),
    ("squares of weights", &[("sum = p[b]", "sum = p[b] * p[b]")], &[("sum = p[j]", "sum = p[j] * p[j]")]),
    ("a weight and more", &[("sum = p[b]", "sum = p[b] + 1f32")], &[("sum = p[j]", "sum = p[j] + 1f32")]),
    (
        "the maximum without an exponential",
        &[("P: p[a] = exp(x[a] - m[])", "P: p[a] = x[a] - m[]")],
        &[("P: p[j] = exp(x[j] - m[])", "P: p[j] = x[j] - m[]")],
    ),
    ("another iteration's weight", &[("sum = p[b]", "sum = p[0]")], &[("sum = p[j]", "sum = p[0]")]),
    (
        "a later iteration's weight",
        &[("sum = p[b]", "sum = p[n - 1 - b]")],
        &[("sum = p[j]", "sum = p[n - 1 - j]")],
    ),
    ("a weight is used when all is done", &[("= o[i] / s[]", "= p[0]")], &[("= o[i] / s[]", "= p[0]")]),
    (
        "what is written to a weight is none",
        &[
            ("p: f32[n] on", "p: f32[n + 1] on"),
            ("    P: p[a] = exp(x[a] - m[])\n", "    P: p[a] = exp(x[a] - m[])\n    Q: p[a] = 3f32\n"),
        ],
        &[
            ("p: f32[n] on", "p: f32[n + 1] on"),
            ("    P: p[j] = exp(x[j] - m[])\n", "    P: p[j] = exp(x[j] - m[])\n    Q: p[j] = 3f32\n"),
        ],
    ),
    (
        "a sum begins anew",
        &[("    for c in 4", "    Q: o[d % 4] = 3f32\n    for c in 4")],
        &[("    for c in 4", "    Q: o[j % 4] = 3f32\n    for c in 4")],
    ),
    (
        "fewer and fewer elements",
        &[("for c in 4", "for c in min(n - d, 4)")],
        &[("for c in 4", "for c in min(n - j, 4)"), ("c.c1 in 4", "c.c1 in min(n - j, 4)")],
    ),
    (
        "two terms in one place",
        &[("W: o[c] sum", "W: o[c / 2] sum"), ("for c in 4 spatial", "for c in 4 reduce")],
        &[
            ("W: o[c] sum", "W: o[c / 2] sum"),
            ("for c in 4 spatial", "for c in 4 reduce"),
            ("o.rescale: o[c.c1] = o[c.c1] *", "o.rescale: o[c.c1 / 2] = o[c.c1 / 2] *"),
            ("c.c1 in 4 spatial", "c.c1 in 4 sequential"),
        ],
    ),
    (
        "the maximum is looked at between the loops",
        &[("  alloc s: f32[] on", "  T: t[] = m[]\n  alloc s: f32[] on"), ("= o[i] / s[]", "= t[]")],
        &[("  alloc s: f32[] on", "  T: t[] = m[]\n  alloc s: f32[] on"), ("= o[i] / s[]", "= t[]")],
    ),
    (
        "the maximum decides where a sum is",
        &[
            (
                "    S: s[] sum = p[b]\n",
                "    S: s[] sum = p[b]\n    Q: y[index(min(max(m[], 0f32), 3f32))] = x[b]\n",
            ),
            ("    R: y[i] = o[i] / s[]\n", "    R: o[i] = o[i] / s[]\n"),
            ("  Z: m[]", "  for e in 4 spatial serial {\n    E: y[e] = 0f32\n  }\n  Z: m[]"),
        ],
        &[
            (
                "    S: s[] sum = p[j]\n",
                "    S: s[] sum = p[j]\n    Q: y[index(min(max(m[], 0f32), 3f32))] = x[j]\n",
            ),
            ("    R: y[i] = o[i] / s[]\n", "    R: o[i] = o[i] / s[]\n"),
            ("  Z: m[]", "  for e in 4 spatial serial {\n    E: y[e] = 0f32\n  }\n  Z: m[]"),
        ],
    ),
];

fn changed(k: &Kernel, changes: Changes, what: &str) -> Kernel {
    let mut text = k.to_string();
    for (from, to) in changes {
        assert!(text.contains(from), "{what}: no '{from}' in\n{text}");
        text = text.replace(from, to);
    }
    parse(&text).unwrap_or_else(|e| panic!("{what}: {e}\n{text}"))
}

/// The result for scores that grow, fall and repeat, behind a first one.
fn run(k: &Kernel, n: i64, first: f32) -> Vec<f32> {
    let mut m = Memory::new(&[("n", n)]);
    let mut x: Vec<f32> = (0..n).map(|i| [0.5, 3.0, -2.0, 3.0, 7.0, 1.0, 0.0][i as usize % 7]).collect();
    x[0] = first;
    let v: Vec<f32> = (0..4 * n).map(|i| (i * 7 % 11) as f32 - 4.0).collect();
    m.set_f32("x", &x);
    m.set_f32("v", &v);
    m.set_f32("y", &[0.0; 4]);
    interpret(k, &mut m).map_or(vec![f32::NAN], |()| m.f32("y"))
}

fn near(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| (x - y).abs() <= 1e-4 * y.abs().max(1e-2))
}

fn right() -> (Kernel, Kernel) {
    let s = Schedule::replay(parse(ATTENTION).expect("a kernel"), "online j a b d").expect("it applies");
    (s.original().clone(), s.kernel().clone())
}

#[test]
fn one_pass_is_certified() {
    let (before, after) = right();
    let c = Prover::default().certify(&before, &after, "online j a b d").expect("a certificate");
    assert_eq!(check(&before, &after, &c), Ok(Tag::Approximates));
    assert!([1, 3, 9].into_iter().all(|n| near(&run(&after, n, 0.0), &run(&before, n, 0.0))));
}

#[test]
fn what_is_not_one_pass_is_refused() {
    let (before, after) = right();
    let (mut prover, mut holes) = (Prover::default(), String::new());
    for (what, old, new) in WRONG {
        let (b, a) = (changed(&before, old, what), changed(&after, new, what));
        let sizes = [1, 2, 3, 5, 9].into_iter().flat_map(|n| [(n, 0.5), (n, f32::NEG_INFINITY)]);
        let differs = sizes.into_iter().any(|(n, first)| {
            let wanted = run(&b, n, first);
            wanted.iter().all(|v| v.is_finite()) && !near(&run(&a, n, first), &wanted)
        });
        if !differs {
            holes += &format!("{what}: nothing is wrong\n");
        }
        if prover.search(&b, &a, None).is_ok() {
            holes += &format!("{what}: certified\n");
        }
    }
    assert!(holes.is_empty(), "{holes}");
}
