//! Statements that go to other loops, and loops that run further.

use super::programs::{AROUND, BLOCKS, BOTH, COLUMNS, NEVER_RUN, SUMS, THROUGH};
use super::{Mutant, plain};

pub(super) const MUTANTS: &[Mutant] = &[
    plain("sink: an iteration reads what another one writes", THROUGH, "sink i", &[]),
    plain("sink: what never ran is run", NEVER_RUN, "sink a", &[("a in 1 / 2", "a in 2 / 2")]),
    plain("sink: a temporary has a place less", AROUND, "sink j", &[("f32[16] on", "f32[15] on")]),
    plain("sink: another iteration's temporary", AROUND, "sink j", &[("= a[j.c2]", "= a[15 - j.c2]")]),
    plain(
        "sink: a statement runs for fewer iterations",
        AROUND,
        "sink j",
        &[("for j.c2 in 16", "for j.c2 in 15")],
    ),
    plain(
        "sink: a statement is in the wrong place",
        AROUND,
        "sink j",
        &[
            ("    for j in 16 spatial serial {\n      Z: a[j] = 0f32\n    }\n", ""),
            (
                "    for j.c2 in",
                "    for j in 16 spatial serial {\n      Z: a[j] = 0f32\n    }\n    for j.c2 in",
            ),
        ],
    ),
    plain(
        "sink: a sum goes past what sets it to 0",
        SUMS,
        "sink k",
        &[("y[j] sum = x[k, j]", "y[j] sum = x[k, 7 - j]")],
    ),
    plain(
        "join: the second loop reads what comes later",
        BOTH,
        "",
        &[
            ("    S: t[i] = x[i] * 2f32\n", "    S: t[i] = x[i] * 2f32\n    U: z[i] = t[63 - i]\n"),
            ("  for k in 64 spatial serial {\n    U: z[k] = t[63 - k]\n  }\n", ""),
        ],
    ),
    plain(
        "join: the bodies are exchanged",
        BOTH,
        "join i j",
        &[
            ("    S: t[i] = x[i] * 2f32\n", ""),
            ("    T: y[i] = t[i] + 1f32\n", "    T: y[i] = t[i] + 1f32\n    S: t[i] = x[i] * 2f32\n"),
        ],
    ),
    plain("join: another iteration's element", BOTH, "join i j", &[("y[i] = t[i]", "y[i] = t[63 - i]")]),
    plain("join: the loop is shorter", BOTH, "join i j", &[("for i in 64", "for i in 63")]),
    plain(
        "join: what stands between uses what the first loop writes",
        BOTH,
        "",
        &[
            (
                "    S: t[i] = x[i] * 2f32\n  }\n  for j in 64 spatial serial {\n    T: y[j] = t[j] + 1f32\n  }\n",
                "    T: y[i] = t[i] + 1f32\n  }\n",
            ),
            ("    U: z[k] = t[63 - k]\n", "    S: t[k] = x[k] * 2f32\n    U: z[k] = t[63 - k]\n"),
        ],
    ),
    plain("pad: one iteration too many", BLOCKS, "pad i", &[("for i in 4", "for i in 5")]),
    plain("pad: one too few", BLOCKS, "pad i", &[("for i.c2 in 4", "for i.c2 in 3")]),
    plain("pad: without room", BLOCKS, "pad i", &[(" padded(0, 4)", "")]),
    plain(
        "pad: what is more is written before the end",
        BLOCKS,
        "pad i",
        &[("y[o * 4 + i.c2, 0]", "y[min(o * 4 + i.c2, n - 1), 0]")],
    ),
    plain(
        "pad: what is more is written to one place",
        BLOCKS,
        "pad i",
        &[("t[i] = 0f32", "t[min(i, 0)] = 0f32")],
    ),
    plain(
        "overrun: what is more is read elsewhere",
        COLUMNS,
        "",
        &[("for j.c2 in min(7 - j.o * 4, 4)", "for j.c2 in 4")],
    ),
    plain("overrun: one iteration too many", COLUMNS, "", &[("for j in min(7 - j.o * 4, 4)", "for j in 5")]),
    plain(
        "overrun: what is more meets what counts",
        COLUMNS,
        "",
        &[("for j.c1 in min(7 - j.o * 4, 4)", "for j.c1 in 4"), ("S: a[j.c1]", "S: a[j.c1 % 3]")],
    ),
    plain(
        "overrun: behind the row of a parameter",
        COLUMNS,
        "",
        &[
            ("for j.c1 in min(7 - j.o * 4, 4)", "for j.c1 in 4"),
            ("w[k, j.o * 4 + j.c1]", "w[k, j.o * 5 + j.c1]"),
        ],
    ),
    plain(
        "sink: a term of another loop's iteration",
        AROUND,
        "sink j",
        &[("x[i, k, j.c1]", "x[i, k, 15 - j.c1]")],
    ),
    plain(
        "join: the first loop's statement runs twice",
        BOTH,
        "join i j",
        &[("    T: y[i] = t[i] + 1f32\n", "    T: y[i] = t[i] + 1f32\n    V: t[i] = t[i] * 2f32\n")],
    ),
    plain(
        "pad: what is more is added to a row that counts",
        BLOCKS,
        "pad i",
        &[("S: t[i.c1] sum", "S: t[i.c1 % 2] sum")],
    ),
    plain("overrun: a temporary's place is too far", COLUMNS, "overrun j", &[("a: f32[4]", "a: f32[3]")]),
    plain(
        "overrun: the parameter is overrun",
        COLUMNS,
        "overrun j",
        &[("for j.c2 in min(7 - j.o * 4, 4)", "for j.c2 in 4")],
    ),
];
