//! Processes and channels.

use super::programs::{
    ARRAY, ARRAY_BACKWARDS, ARRAY_TRANSPOSED, ARRAY_TWICE, ARRAY_TWO, NETWORK, SHARED_PLACES, SYSTOLIC,
};
use super::{Mutant, plain, same};

const LOAD: &str = "stage a S\nstream a.S load multiply 2";
const STORE: &str = "stream s multiply store";
const SPACE: &str = "space_time i j a+j b+i";

/// What `stream` would make of a program of an array with these rows, this shape, and what is written and read.
macro_rules! cut {
    ($rows:literal, $shape:literal, $write:literal, $read:literal, $popped:literal) => {
        &[
            (
                concat!("alloc p: f32[", $shape, "] on workspace"),
                "alloc p.c: f32[4] on channel\nfor square in 1 spatial process {",
            ),
            (concat!("for i in ", $rows, " spatial"), concat!("for i in ", $rows, " scan")),
            ("for j in 8 spatial", "for j in 8 scan"),
            (concat!("P: p[", $write, "]"), "P: p.c[]"),
            (
                concat!("for r in ", $rows, " spatial"),
                concat!("}\nfor add in 1 spatial process {\nfor r in ", $rows, " scan"),
            ),
            ("for c in 8 reduce", "for c in 8 scan"),
            (
                concat!("S: y[r] sum = ", $read),
                concat!("alloc p.v: f32[] on register\np.pop: p.v[] = p.c[]\nS: y[r] sum = ", $popped),
            ),
            ("x[r, c]", "x[r, c]\n}"),
        ]
    };
}

pub(super) const MUTANTS: &[Mutant] = &[
    plain("stream: fewer are pushed than popped", SYSTOLIC, STORE, &[("multiply.j in 4", "multiply.j in 3")]),
    plain(
        "stream: another row is computed",
        SYSTOLIC,
        STORE,
        &[("a[multiply.i, k]", "a[3 - multiply.i, k]")],
    ),
    plain("stream: columns are left out on both sides", SYSTOLIC, STORE, &[("j in 4 scan", "j in 3 scan")]),
    plain(
        "stream: what is pushed is not what was computed",
        SYSTOLIC,
        STORE,
        &[("s.c[] = s[]", "s.c[] = s[] + 1f32")],
    ),
    plain(
        "stream: it is pushed before it is complete",
        SYSTOLIC,
        STORE,
        &[
            ("s.push: s.c[] = s[]", "s.last: s[] = 1f32"),
            ("Z: s[] = 0f32", "Z: s[] = 0f32\ns.push: s.c[] = s[]"),
        ],
    ),
    plain(
        "stream: it is popped after it is used",
        SYSTOLIC,
        STORE,
        &[
            ("W: y[i, j] = s[]", "HERE"),
            ("s.pop: s[] = s.c[]", "W: y[i, j] = s[]"),
            ("HERE", "s.pop: s[] = s.c[]"),
        ],
    ),
    plain(
        "stream: the loops around the pop are exchanged",
        SYSTOLIC,
        STORE,
        &[
            ("for i in 4 scan", "for i in HERE"),
            ("for j in 4 scan", "for i in 4 scan"),
            ("for i in HERE", "for j in 4 scan"),
        ],
    ),
    plain(
        "stream: an operand is read backwards",
        SYSTOLIC,
        LOAD,
        &[("a[load.i, load.k]", "a[load.i, 5 - load.k]")],
    ),
    plain("stream: an operand ends early", SYSTOLIC, LOAD, &[("for load.k in 6", "for load.k in 5")]),
    plain(
        "stream: an operand goes on",
        SYSTOLIC,
        LOAD,
        &[("for load.k in 6", "for load.k in 7"), ("a[load.i, load.k]", "a[load.i, load.k % 6]")],
    ),
    plain(
        "stream: an operand is sent for one column",
        SYSTOLIC,
        LOAD,
        &[("for load.j in 4", "for load.j in 1")],
    ),
    plain(
        "stream: it is sent for other columns than rows",
        SYSTOLIC,
        LOAD,
        &[("a[load.i, load.k]", "a[load.j, load.k]")],
    ),
    plain(
        "stream: elements are written backwards",
        ARRAY,
        "stream p square add 4",
        &[("x[i, j] + 1f32", "x[i, 7 - j] + 1f32")],
    ),
    plain(
        "stream: rows end earlier on one side",
        ARRAY,
        "stream p square add 4",
        &[("for c in 8", "for c in 7")],
    ),
    plain(
        "stream: the writer is under a condition",
        ARRAY,
        "stream p square add 4",
        &[("P: p.c[] = x[i, j] + 1f32", "if j < 7 {\nP: p.c[] = x[i, j] + 1f32\n}")],
    ),
    plain(
        "stream: read in another order than written",
        ARRAY_BACKWARDS,
        "",
        cut!("n", "n, 8", "i, j", "p[r, 7 - c]", "p.v[]"),
    ),
    plain(
        "stream: read by columns and written by rows",
        ARRAY_TRANSPOSED,
        "",
        cut!("8", "8, 8", "i, j", "p[c, r]", "p.v[]"),
    ),
    plain(
        "stream: elements that are written over are sent",
        ARRAY_TWICE,
        "",
        cut!("n", "n, 8", "i, j / 2 * 2", "p[r, c / 2 * 2]", "p.v[]"),
    ),
    plain(
        "stream: two elements become one",
        ARRAY_TWO,
        "",
        cut!("n", "n, 8", "i, j", "(p[r, c] + p[r, 0])", "(p.v[] + p.v[])"),
    ),
    same(
        "what is popped may wait in a longer queue",
        "stream: another depth",
        SYSTOLIC,
        STORE,
        &[("f32[1] on channel", "f32[7] on channel")],
    ),
    plain(
        "space_time: what is handed on is changed",
        SYSTOLIC,
        SPACE,
        &[("j + 1] = a.v[]", "j + 1] = a.v[] + 1f32")],
    ),
    plain(
        "space_time: another operand is handed on",
        SYSTOLIC,
        SPACE,
        &[
            ("if i < 3 {", "if 3 < i {"),
            ("S: s[]", "if i < 3 {\nb.on: b.c[i + 1, j] = a.v[]\n}\nS: s[]"),
            ("b.push: b.c[i + 1, j] = b.v[]", "b.none: s[] = 0f32"),
        ],
    ),
    plain("space_time: another row enters", SYSTOLIC, SPACE, &[("= a[a.i, a.k]", "= a[3 - a.i, a.k]")]),
    plain("space_time: a row enters backwards", SYSTOLIC, SPACE, &[("= a[a.i, a.k]", "= a[a.i, 5 - a.k]")]),
    plain(
        "space_time: another column enters",
        SYSTOLIC,
        SPACE,
        &[("= b[b.k, b.j]", "= b[b.k, (b.j + 1) % 4]")],
    ),
    plain("space_time: the edge ends early", SYSTOLIC, SPACE, &[("for a.k in 6", "for a.k in 5")]),
    plain(
        "space_time: the edge goes on",
        SYSTOLIC,
        SPACE,
        &[("for b.k in 6", "for b.k in 7"), ("= b[b.k, b.j]", "= b[b.k % 6, b.j]")],
    ),
    plain("space_time: all end early", SYSTOLIC, SPACE, &[("k in 6 scan", "k in 5 scan")]),
    plain("space_time: one operand is used for both", SYSTOLIC, SPACE, &[("a.v[] * b.v[]", "a.v[] * a.v[]")]),
    plain(
        "space_time: it is handed on at another time than it comes",
        SYSTOLIC,
        SPACE,
        &[("if j < 3 {", "if j + k < 3 + k * 2 {")],
    ),
    plain(
        "space_time: an operand is popped twice",
        SYSTOLIC,
        SPACE,
        &[("S: s[]", "a.more: a.v[] = a.c[i, j]\nS: s[]")],
    ),
    plain(
        "space_time: places write one element",
        SHARED_PLACES,
        "space_time i j a-j b-i",
        &[("alloc s: f32[] on register", "alloc s: f32[] on workspace")],
    ),
    same(
        "channels may be longer",
        "space_time: another depth",
        SYSTOLIC,
        SPACE,
        &[("f32[4, 4, 1] on channel", "f32[4, 4, 2] on channel")],
    ),
    plain(
        "split: iterations of a process in another order",
        SYSTOLIC,
        "stage a S\nstream a.S load multiply 2\nsplit load.k 3",
        &[("load.k.o * 3 + load.k.i", "load.k.o * 3 + (2 - load.k.i)")],
    ),
    plain(
        "stage: another element in a process",
        SYSTOLIC,
        "stage a S\nstream a.S load multiply 2\nstage b S",
        &[("b.S[] = b[k, j]", "b.S[] = b[5 - k, j]")],
    ),
    Mutant {
        hint: Some((&[("u", "u"), ("v", "v")], &[("v", "v"), ("u", "u")])),
        ..plain(
            "interchange: loops of a process",
            NETWORK,
            "",
            &[
                ("for u in 3 scan", "for HERE"),
                ("for v in 3 scan", "for u in 3 scan"),
                ("for HERE", "for v in 3 scan"),
            ],
        )
    },
];
