//! Temporaries that lie elsewhere or get smaller, and memory asked for.

use super::programs::{ASKED, DOUBLED, GUARDED, KEPT, LATER, PAGES, PAIRS, PLANE, ROWS, SQUARE, TAIL};
use super::{Mutant, plain, same};

pub(super) const MUTANTS: &[Mutant] = &[
    plain("contract: another element", KEPT, "contract t", &[("= t[15 - k]", "= t[k]")]),
    plain("contract: a place less", KEPT, "contract t", &[("t: f32[16]", "t: f32[15]")]),
    plain(
        "contract: two elements in one place",
        KEPT,
        "contract t",
        &[("t: f32[16]", "t: f32[8]"), ("S: t[j]", "S: t[j / 2]"), ("t[15 - k]", "t[(15 - k) / 2]")],
    ),
    plain(
        "contract: a value goes from one iteration to the next",
        LATER,
        "",
        &[
            ("  alloc t: f32[9] on workspace\n  S: t[0] = 0f32\n", ""),
            (
                "sequential serial {\n",
                "sequential serial {\n    alloc t: f32[] on register\n    S: t[] = 0f32\n",
            ),
            ("t[i + 1] = t[i] +", "t[] = t[] +"),
            ("= t[i + 1]", "= t[]"),
        ],
    ),
    plain("contract: what is read was not written", KEPT, "contract t", &[("for j in 16", "for j in 12")]),
    plain("set_memory: and a row less", ROWS, "set_memory t register", &[("f32[4, 16]", "f32[3, 16]")]),
    plain("align: rows get shorter", TAIL, "align t 4", &[("f32[3, 8]", "f32[3, 5]")]),
    plain("align: and a row less", TAIL, "align t 4", &[("f32[3, 8]", "f32[2, 8]")]),
    plain("align: the place of another element", TAIL, "align t 4", &[("t[2, 5 - j]", "t[2, 7 - j]")]),
    plain("skew: rows get shorter", ROWS, "skew t 1 1", &[("f32[4, 17]", "f32[4, 15]")]),
    plain("prefetch: beyond the end", ASKED, "prefetch i x S", &[("min(i + 1, 7)", "i + 1")]),
    plain(
        "prefetch: to where something is",
        ASKED,
        "prefetch i x S",
        &[("S.next.s: S.next[] =", "S.next.s: y[0, 0] =")],
    ),
    plain(
        "nontemporal: another element is written",
        ASKED,
        "nontemporal S",
        &[("S: y[i, j] =", "S: y[i, 15 - j] =")],
    ),
    plain("nontemporal: another value", ASKED, "nontemporal S", &[("= x[i, j]", "= x[7 - i, j]")]),
    plain(
        "stage: an element that is not there is read",
        GUARDED,
        "",
        &[
            ("S: y[i] =", "alloc x.S: f32[] on register\n    x.S.read: x.S[] = x[i]\n    S: y[i] ="),
            ("x[i],", "x.S[],"),
        ],
    ),
    plain("stage: another element", SQUARE, "stage x S", &[("= x[i]", "= x[n - 1 - i]")]),
    plain(
        "stage: an element before it changes",
        DOUBLED,
        "stage m B",
        &[
            ("    M: m[] sum = x[i]\n", ""),
            ("    m.B.read: m.B[] = m[]\n", "    m.B.read: m.B[] = m[]\n    M: m[] sum = x[i]\n"),
        ],
    ),
    plain("stage: in place of another buffer", PLANE, "stage x S", &[("+ 1f32", "+ x.S[]")]),
    plain(
        "contract: a place for two iterations' elements",
        KEPT,
        "contract t",
        &[("S: t[j] =", "S: t[(j + i) % 16] =")],
    ),
    plain(
        "set_memory: an element elsewhere",
        ROWS,
        "set_memory t register",
        &[("S: t[i, j]", "S: t[i, 15 - j]")],
    ),
    plain(
        "set_memory: fewer columns",
        ROWS,
        "set_memory t register",
        &[("f32[4, 16] on register", "f32[4, 12] on register")],
    ),
    plain(
        "set_memory: and what is read of another row",
        ROWS,
        "set_memory t register",
        &[("= t[l, k]", "= t[3 - l, k]")],
    ),
    plain(
        "align: narrower elements",
        TAIL,
        "align t 4",
        &[
            ("t: f32[3, 8]", "t: f16[3, 8]"),
            ("= x[i] + 1f32", "= f16(x[i] / 3f32 + 1000f32)"),
            ("t[0, j] * t[2, 5 - j]", "f32(t[0, j]) * f32(t[2, 5 - j])"),
        ],
    ),
    plain("skew: a row less", ROWS, "skew t 1 1", &[("f32[4, 17]", "f32[3, 17]")]),
    plain(
        "skew: the index goes along in one place only",
        ROWS,
        "skew t 1 1",
        &[("= t[l, k]", "= t[l, k + 1]")],
    ),
    plain(
        "skew: rows of another length",
        ROWS,
        "skew t 1 1",
        &[("S: t[i, j]", "S: t[(i * 17 + j) / 16 % 4, (i * 17 + j) % 16]")],
    ),
    plain(
        "prefetch: it is no longer asked for but stored",
        ASKED,
        "prefetch i x S",
        &[(
            "intrinsic prefetch {\n      alloc S.next: f32[] on register\n      S.next.s: S.next[] = x[min(i + 1, 7), 0]\n    }\n",
            "S.next.s: y[max(i - 1, 0), 0] = x[i, 0] * 2f32\n",
        )],
    ),
    plain(
        "prefetch: a page behind the table's end",
        PAGES,
        "prefetch i x S",
        &[("table[min(i + 1, n - 1)]", "table[i + 1]")],
    ),
    plain(
        "prefetch: the page behind the next one",
        PAGES,
        "prefetch i x S",
        &[("index(table[min(i + 1, n - 1)])", "index(table[min(i + 1, n - 1)]) + 1")],
    ),
    plain(
        "prefetch: a row behind its page",
        PAGES,
        "prefetch i x S",
        &[("table[min(i + 1, n - 1)]), p, 0]", "table[min(i + 1, n - 1)]), p + 1, 0]")],
    ),
    plain(
        "prefetch: and the page is the next one's",
        PAGES,
        "prefetch i x S",
        &[("x[index(table[i]), p, j]", "x[index(table[min(i + 1, n - 1)]), p, j]")],
    ),
    plain(
        "stage: a value is popped twice",
        PAIRS,
        "stage c B",
        &[("c.B.read: c.B[] = c[q]", "c.B.first: c.B[] = c[q]\n      c.B.read: c.B[] = c[q]")],
    ),
    plain("stage: the other channel's value", PAIRS, "stage c B", &[("c.B[] = c[q]", "c.B[] = c[1 - q]")]),
    plain(
        "stage: a value is popped after it is used",
        PAIRS,
        "stage c B",
        &[
            ("c.B.read: c.B[] = c[q]\n", "HERE\n"),
            ("B: y[q * 4 + j] = c.B[]\n", "c.B.read: c.B[] = c[q]\n"),
            ("HERE\n", "B: y[q * 4 + j] = c.B[]\n"),
        ],
    ),
    plain(
        "stage: one value is popped for all",
        PAIRS,
        "stage c B",
        &[
            ("      alloc c.B: f32[] on register\n      c.B.read: c.B[] = c[q]\n", ""),
            (
                "    for j in 4",
                "    alloc c.B: f32[] on register\n    c.B.read: c.B[] = c[q]\n    for j in 4",
            ),
        ],
    ),
    plain("prefetch: before the beginning", ASKED, "prefetch i x S", &[("min(i + 1, 7)", "i - 1")]),
    plain(
        "prefetch: and the loop begins later",
        ASKED,
        "prefetch i x S",
        &[("S: y[i, j] = x[i, j]", "S: y[i, j] = x[min(i + 1, 7), j]")],
    ),
    plain(
        "stage: it is read before it is there",
        SQUARE,
        "stage x S",
        &[(
            "    x.S.read: x.S[] = x[i]\n    S: y[i] = x.S[] * x.S[]\n",
            "    S: y[i] = x.S[] * x.S[]\n    x.S.read: x.S[] = x[i]\n",
        )],
    ),
    same(
        "nobody reads the places that are more",
        "align: a row more",
        TAIL,
        "align t 4",
        &[("f32[3, 8]", "f32[4, 8]")],
    ),
    same(
        "the same element is asked for, whatever is asked for",
        "prefetch: the element at hand",
        ASKED,
        "prefetch i x S",
        &[("min(i + 1, 7)", "i")],
    ),
];
