//! One pass in place of several, and a pass in parts: programs of which `online` or `partials` would compute something else have no
//! certificate, whatever the step says, nor have steps that leave a part of it out.

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
    x.iter_mut().enumerate().for_each(|(i, x)| *x += (i / 16 % 3) as f32);
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

/// Before a pass over 64 keys is split into four parts, and after; the scale of the sums shows.
fn parts() -> (Kernel, Kernel) {
    let text = ATTENTION.replace("f(n)", "f()").replace("[n", "[64").replace(" in n ", " in 64 ");
    let text = text.replace("= o[i] / s[]", "= o[i] + s[] + m[]");
    let steps = "online j a b d\ncontract p\nsplit j 16\npartials j.o";
    let s = Schedule::replay(parse(&text).expect("a kernel"), steps).expect("it applies");
    (s.steps()[3].before.clone(), s.kernel().clone())
}

const WRONG_PARTS: &[(&str, Changes, Changes)] = &[
    ("the sums so far are not rescaled", &[], &[("s[] * exp(m.before.c[] - m[])", "s[]")]),
    ("a part's sum is on its own scale", &[], &[("s.v[j.o.c2] * exp(m.v[j.o.c2] - m[])", "s.v[j.o.c2]")]),
    (
        "a part's maximum starts too high",
        &[],
        &[("m.v.z: m.v[j.o] = (-50.0f32)", "m.v.z: m.v[j.o] = 1000f32")],
    ),
    ("a part's sum starts elsewhere", &[], &[("s.v.z: s.v[j.o] = 0f32", "s.v.z: s.v[j.o] = 1e30f32")]),
    ("a part is missing", &[], &[("for j.o.c2 in 4", "for j.o.c2 in 3")]),
    ("the first part's maximum", &[], &[("m.join: m[] max = m.v[j.o.c2]", "m.join: m[] max = m.v[0]")]),
    ("the first part's sums", &[], &[("s.join: s[] sum = s.v[j.o.c2]", "s.join: s[] sum = s.v[0]")]),
    ("parts share a maximum", &[], &[("M: m.v[j.o] max", "M: m.v[0] max")]),
    ("not all elements are joined", &[], &[("c.c2 in 4", "c.c2 in 3")]),
    ("elements start elsewhere", &[], &[("o.v[j.o, c.c3] = 0f32", "o.v[j.o, c.c3] = 1e30f32")]),
    (
        "the maximum so far is kept too late",
        &[],
        &[(
            "    m.before.c.s: m.before.c[] = m[]\n    m.join: m[] max = m.v[j.o.c2]\n",
            "    m.join: m[] max = m.v[j.o.c2]\n    m.before.c.s: m.before.c[] = m[]\n",
        )],
    ),
    (
        "the pass does not rescale",
        &[("s.rescale: s[] = s[] * exp(m.before[] - m[])", "s.rescale: s[] = s[] * 1f32")],
        &[(
            "s.rescale: s.v[j.o] = s.v[j.o] * exp(m.before[] - m.v[j.o])",
            "s.rescale: s.v[j.o] = s.v[j.o] * 1f32",
        )],
    ),
    (
        "the maximum so far is looked at",
        &[("      P: p[] =", "      Q: t[] = m[]\n      P: p[] ="), ("+ m[]", "+ t[]")],
        &[("      P: p[] =", "      Q: t[] = m.v[j.o]\n      P: p[] ="), ("+ m[]", "+ t[]")],
    ),
    (
        "the maximum so far is looked at before it grows",
        &[("      M: m[] max", "      Q: t[] = m[]\n      M: m[] max"), ("+ m[]", "+ t[]")],
        &[("      M: m.v[j.o] max", "      Q: t[] = m.v[j.o]\n      M: m.v[j.o] max"), ("+ m[]", "+ t[]")],
    ),
    (
        "the weight of the iteration before",
        &[
            ("      alloc p: f32[] on register\n", ""),
            ("  alloc m:", "  alloc p: f32[] on workspace\n  PZ: p[] = 1f32\n  alloc m:"),
            (
                "      P: p[] = exp(x[j.o * 16 + j.i] - m[])\n      S: s[] sum = p[]\n",
                "      S: s[] sum = p[]\n      P: p[] = exp(x[j.o * 16 + j.i] - m[])\n",
            ),
        ],
        &[
            ("      alloc p: f32[] on register\n", ""),
            ("  alloc m:", "  alloc p: f32[] on workspace\n  PZ: p[] = 1f32\n  alloc m:"),
            (
                "      P: p[] = exp(x[j.o * 16 + j.i] - m.v[j.o])\n      S: s.v[j.o] sum = p[]\n",
                "      S: s.v[j.o] sum = p[]\n      P: p[] = exp(x[j.o * 16 + j.i] - m.v[j.o])\n",
            ),
        ],
    ),
];

#[test]
fn one_pass_is_certified() {
    let (before, after) = right();
    let c = Prover::default().certify(&before, &after, "online j a b d").expect("a certificate");
    assert_eq!(check(&before, &after, &c), Ok(Tag::Approximates));
    assert!([1, 3, 9].into_iter().all(|n| near(&run(&after, n, 0.0), &run(&before, n, 0.0))));
}

#[test]
fn what_is_not_one_pass_is_refused() {
    refused(&right(), WRONG, &[1, 2, 3, 5, 9]);
}

#[test]
fn parts_are_certified() {
    let (before, after) = parts();
    let c = Prover::default().certify(&before, &after, "partials j.o").expect("a certificate");
    assert_eq!(check(&before, &after, &c), Ok(Tag::Approximates));
    assert!(near(&run(&after, 64, 0.5), &run(&before, 64, 0.5)));
}

#[test]
fn what_are_no_parts_is_refused() {
    refused(&parts(), WRONG_PARTS, &[64]);
}

fn refused((before, after): &(Kernel, Kernel), wrong: &[(&str, Changes, Changes)], sizes: &[i64]) {
    let (mut prover, mut holes) = (Prover::default(), String::new());
    for (what, old, new) in wrong {
        let (b, a) = (changed(before, old, what), changed(after, new, what));
        let sizes = sizes.iter().flat_map(|n| [(*n, 0.5), (*n, f32::NEG_INFINITY)]);
        let differs = { sizes }.any(|(n, first)| {
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
