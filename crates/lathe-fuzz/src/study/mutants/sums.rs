//! Sums in parts, and in one pass.

use super::programs::{CHAINS, KEYS, NO_TERMS, PARTS, SOFTMAX, SOME_MAXIMUM};
use super::{Mutant, plain, same};

pub(super) const MUTANTS: &[Mutant] = &[
    plain("rfactor: an accumulator begins with 1", CHAINS, "rfactor l", &[("= 0f32", "= 1f32")]),
    plain("rfactor: a part is left out", CHAINS, "rfactor l", &[("l.c2 in 2", "l.c2 in 1")]),
    plain("rfactor: a part counts twice", CHAINS, "rfactor l", &[("= y.v[l.c2]", "= y.v[0]")]),
    plain("rfactor: the old sum is lost", CHAINS, "rfactor l", &[("S.r: y[i] sum =", "S.r: y[i] =")]),
    plain("rfactor: a term of another row", CHAINS, "rfactor l", &[("= x[i, k, l]", "= x[3 - i, k, l]")]),
    same(
        "the first accumulator gets all of the sum, and the others stay 0",
        "rfactor: one accumulator for all",
        CHAINS,
        "rfactor l",
        &[("y.v[l] sum", "y.v[0] sum")],
    ),
    plain(
        "online: the sum is not rescaled",
        SOFTMAX,
        "online j k",
        &[("s[] * exp(m.before[] - m[])", "s[]")],
    ),
    plain("online: by the wrong factor", SOFTMAX, "online j k", &[("m.before[] - m[]", "m[] - m.before[]")]),
    plain(
        "online: the maximum is kept too late",
        SOFTMAX,
        "online j k",
        &[("m.before[] = m[]", "m.before[] = x[j]")],
    ),
    plain(
        "online: terms on another scale",
        SOFTMAX,
        "online j k",
        &[("exp(x[j] - m[])", "exp(x[j] - m.before[])")],
    ),
    same(
        "all elements are added in another order, each on the scale of the last maximum in the end",
        "online: another element",
        SOFTMAX,
        "online j k",
        &[("exp(x[j] - m[])", "exp(x[n - 1 - j] - m[])")],
    ),
    plain(
        "online: the last element is missing",
        SOFTMAX,
        "online j k",
        &[("for j in n scan", "for j in n - 1 scan")],
    ),
    plain(
        "rfactor: no term is added to an element that is not there",
        NO_TERMS,
        "",
        &[(
            "  for k in 1 / 2 reduce serial {
    for l in 2 reduce serial {
      S: y[1] sum = 1f32
    }
  }
",
            "  alloc y.v: f32[2] on register
  for l.c1 in 2 spatial serial {
    S.z: y.v[l.c1] = 0f32
  }
  for k in 1 / 2 reduce serial {
    for l in 2 spatial serial {
      S: y.v[l] sum = 1f32
    }
  }
  for l.c2 in 2 reduce serial {
    S.r: y[1] sum = y.v[l.c2]
  }
",
        )],
    ),
    plain(
        "online: the maximum is of other numbers",
        SOME_MAXIMUM,
        "",
        &[
            ("  for j in 64 reduce", "  alloc s: f32[] on register\n  Y: s[] = 0f32\n  for j in 64 scan"),
            (
                "    M: m[]",
                "    alloc m.before: f32[] on register\n    m.before.s: m.before[] = m[]\n    M: m[]",
            ),
            (
                "  }
  alloc s: f32[] on register
  Y: s[] = 0f32
  for k in 64 reduce serial {
    S: s[] sum = exp(x[k] - m[])
  }
",
                "    s.rescale: s[] = s[] * exp(m.before[] - m[])
    S: s[] sum = exp(x[j] - m[])
  }
",
            ),
        ],
    ),
    plain("partials: a part is missing", KEYS, PARTS, &[("for j.o.c2 in 4", "for j.o.c2 in 3")]),
    plain("partials: a part's own scale", KEYS, PARTS, &[("* exp(m.v[j.o.c2] - m[])", "* 1f32")]),
    plain("partials: the sums so far keep theirs", KEYS, PARTS, &[("* exp(m.before.c[] - m[])", "* 1f32")]),
    plain(
        "partials: the maximum begins elsewhere",
        KEYS,
        PARTS,
        &[("m.v[j.o] = (-1000.0f32)", "m.v[j.o] = 9f32")],
    ),
    plain("partials: the first part's maximum", KEYS, PARTS, &[("max = m.v[j.o.c2]", "max = m.v[0]")]),
    plain("partials: all parts in one", KEYS, PARTS, &[("S: s.v[j.o] sum", "S: s.v[0] sum")]),
    plain(
        "rfactor: the accumulators begin where the last row ended",
        CHAINS,
        "rfactor l",
        &[("l.c1 in 2", "l.c1 in 1")],
    ),
    plain(
        "rfactor: accumulators of another reducer",
        CHAINS,
        "rfactor l",
        &[("S: y.v[l] sum", "S: y.v[l] max")],
    ),
    plain("online: the maximum is a minimum", SOFTMAX, "online j k", &[("M: m[] max", "M: m[] min")]),
    plain(
        "online: rescaled after the term is added",
        SOFTMAX,
        "online j k",
        &[(
            "    s.rescale: s[] = s[] * exp(m.before[] - m[])\n    S: s[] sum = exp(x[j] - m[])\n",
            "    S: s[] sum = exp(x[j] - m[])\n    s.rescale: s[] = s[] * exp(m.before[] - m[])\n",
        )],
    ),
    plain("online: the sum is one larger", SOFTMAX, "online j k", &[("/ s[]", "/ (s[] + 1f32)")]),
    plain(
        "partials: a part's elements are another's",
        KEYS,
        PARTS,
        &[("max = x[j.o * 16 + j.i]", "max = x[j.i]")],
    ),
    plain(
        "partials: the first part's sum for all",
        KEYS,
        PARTS,
        &[("sum = s.v[j.o.c2] *", "sum = s.v[0] *")],
    ),
    plain(
        "partials: joined before the maximum is",
        KEYS,
        PARTS,
        &[(
            "    m.before.c.s: m.before.c[] = m[]\n    m.join: m[] max = m.v[j.o.c2]\n",
            "    m.join: m[] max = m.v[j.o.c2]\n    m.before.c.s: m.before.c[] = m[]\n",
        )],
    ),
];
