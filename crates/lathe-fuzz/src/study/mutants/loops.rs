//! Loops renamed, cut and put in another order.

use super::programs::{
    LAST_WINS, MATRIX, OWN, PICKED, PLANE, RECURRENCE, SHIFT, SLANTED, SLANTED_SPATIAL, SQUARE, SUM, WINDOW,
};
use super::{Mutant, plain, same};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        what: "split: the index of another factor",
        hint: Some((&[("i", "i.o * 3 + i.i")], &[("i.o", "i / 3"), ("i.i", "i % 3")])),
        ..plain("", SQUARE, "split i 4", &[("i.o * 4 + i.i", "i.o * 3 + i.i")])
    },
    plain("split: no guard of the last block", SQUARE, "split i 4", &[("min(n - i.o * 4, 4)", "4")]),
    plain("split: a block is one shorter", SQUARE, "split i 4", &[("i.o * 4, 4)", "i.o * 4, 3)")]),
    plain("split: the last block is missing", SQUARE, "split i 4", &[("(n + 3) / 4", "n / 4")]),
    plain(
        "split: the next element is read",
        SQUARE,
        "split i 4",
        &[("* x[i.o * 4 + i.i]", "* x[i.o * 4 + i.i + 1]")],
    ),
    plain(
        "split: the next element is written",
        SQUARE,
        "split i 4",
        &[("y[i.o * 4 + i.i]", "y[i.o * 4 + i.i + 1]")],
    ),
    plain("split: a block too many", SHIFT, "split i 16", &[("i.o in 4", "i.o in 5")]),
    Mutant {
        what: "split: blocks overlap",
        hint: Some((&[("i", "i.o * 15 + i.i")], &[("i.o", "i / 15"), ("i.i", "i % 15")])),
        ..plain("", SHIFT, "split i 16", &[("i.o * 16", "i.o * 15")])
    },
    Mutant {
        what: "split: the loops' parts are exchanged",
        hint: Some((&[("i", "i.i * 16 + i.o")], &[("i.o", "i % 16"), ("i.i", "i / 16")])),
        ..plain("", SHIFT, "split i 16", &[("i.o * 16 + i.i", "i.i * 16 + i.o")])
    },
    plain("split: another value", SHIFT, "split i 16", &[("1f32", "2f32")]),
    plain("split: a sum without guard", SUM, "split k 6", &[("min(20 - k.o * 6, 6)", "6")]),
    plain("split: another reducer", SUM, "split k 6", &[("sum =", "max =")]),
    plain("split: the sum begins anew in each block", SUM, "split k 6", &[("S: y[i] sum = ", "S: y[i] = ")]),
    Mutant {
        what: "split: blocks of a recurrence run backwards",
        hint: Some((&[("i", "i.o * 16 + (15 - i.i)")], &[("i.o", "i / 16"), ("i.i", "15 - i % 16")])),
        ..plain("", RECURRENCE, "split i 16", &[("i.o * 16 + i.i", "i.o * 16 + (15 - i.i)")])
    },
    plain("fuse: the remainder by another number", PLANE, "fuse i j", &[("i.f % 8", "i.f % 7")]),
    plain(
        "fuse: quotient and remainder exchanged",
        PLANE,
        "fuse i j",
        &[("i.f / 8, i.f % 8", "i.f % 8, i.f / 8")],
    ),
    plain("fuse: one iteration less", PLANE, "fuse i j", &[("n * 8 spatial", "n * 8 - 1 spatial")]),
    plain("fuse: a row too many", PLANE, "fuse i j", &[("n * 8 spatial", "n * 8 + 8 spatial")]),
    Mutant {
        what: "fuse: the quotient by the other extent",
        hint: Some((&[("i", "i.f % n"), ("j", "i.f / n")], &[("i.f", "j * n + i")])),
        ..plain("", MATRIX, "fuse i j", &[("i.f / m", "i.f / n")])
    },
    exchanged("interchange: iterations that depend on each other", SLANTED),
    plain("interchange: loops marked spatial that are not", SLANTED_SPATIAL, "interchange i", &[]),
    exchanged("interchange: the last of several writes", LAST_WINS),
    plain("interchange: the wrong extents", PLANE, "interchange i", &[("in n spatial", "in 8 spatial")]),
    plain("reorder: an iteration less", WINDOW, "reorder c", &[("c in 20", "c in 19")]),
    plain("reorder: the sum begins anew", WINDOW, "reorder c", &[("S: y[i] sum =", "S: y[i] =")]),
    plain("reorder: a term of another place", WINDOW, "reorder c", &[("* w[c, k]", "* w[c, 2 - k]")]),
    exchanged("reorder: the last of several writes", LAST_WINS),
    plain("peel: the rest is one shorter", SUM, "peel k 16", &[("k.p in 4", "k.p in 3")]),
    plain("peel: the rest begins one earlier", SUM, "peel k 16", &[("16 + k.p", "15 + k.p")]),
    plain("peel: a block ends one earlier", SUM, "peel k 16", &[("k in 16", "k in 15")]),
    plain("peel: the rest is not accumulated", SUM, "peel k 16", &[("S.c1: y[i] sum", "S.c1: y[i] max")]),
    plain("peel: the rest is the first block", SQUARE, "peel i 4", &[("n / 4 * 4 + i.p", "i.p")]),
    plain("peel: the rest is written elsewhere", SQUARE, "peel i 4", &[("y[n / 4 * 4 + i.p]", "y[i.p]")]),
    plain("peel: what is left is that of another factor", SQUARE, "peel i 4", &[("in n % 4", "in n % 3")]),
    plain("peel: one block too many", SQUARE, "peel i 4", &[("in n / 4 * 4", "in n / 4 * 4 + 4")]),
    plain(
        "unroll: one iteration less",
        SHIFT,
        "unroll i",
        &[("in 64 spatial unrolled", "in 63 spatial unrolled")],
    ),
    plain(
        "split: blocks in reverse, the elements not",
        RECURRENCE,
        "split i 16",
        &[("i.o * 16 + i.i", "(3 - i.o) * 16 + i.i")],
    ),
    plain("fuse: a column for a row", MATRIX, "fuse i j", &[("y[i.f / m, i.f % m]", "y[i.f % n, i.f % m]")]),
    plain("fuse: a guard that leaves one out", MATRIX, "fuse i j", &[("in n * m", "in max(n * m - 1, 1)")]),
    plain("interchange: the last column is missing", PLANE, "interchange i", &[("j in 8", "j in 7")]),
    plain(
        "interchange: the indices go along",
        MATRIX,
        "interchange i",
        &[("y[i, j]", "y[min(j, n - 1), min(i, m - 1)]")],
    ),
    plain(
        "interchange: written twice",
        MATRIX,
        "interchange i",
        &[("S: y[i, j] = x[i, j] + 1f32", "S: y[i, j] = x[i, j] + 1f32\n      T: y[i, j] = y[i, j] + 1f32")],
    ),
    plain("reorder: another loop's length", WINDOW, "reorder c", &[("k in 3", "k in 2")]),
    plain(
        "reorder: what sets it to 0 is inside",
        WINDOW,
        "reorder c",
        &[(
            "    Z: y[i] = 0f32\n    for k in 3 reduce serial {\n",
            "    for k in 3 reduce serial {\n      Z: y[i] = 0f32\n",
        )],
    ),
    plain(
        "peel: the rest comes twice",
        SUM,
        "peel k 16",
        &[("k.p in 4 reduce serial {\n", "k.p in 4 reduce serial {\n      T: y[i] sum = x[i, 16 + k.p]\n")],
    ),
    plain(
        "peel: the copy reads its other temporary",
        OWN,
        "peel i 4",
        &[("t.c1[] - u.c1[]", "u.c1[] - t.c1[]")],
    ),
    plain(
        "peel: the copy sums into its other temporary",
        OWN,
        "peel i 4",
        &[("S.c1: t.c1[]", "S.c1: u.c1[]")],
    ),
    plain(
        "peel: the copy's sum begins with 1",
        OWN,
        "peel i 4",
        &[("Z.c1: t.c1[] = 0f32", "Z.c1: t.c1[] = 1f32")],
    ),
    plain(
        "unroll: nothing comes of an index that is not there",
        PICKED,
        "unroll i",
        &[("= x[i]", "= x[i + 0 * index(p[99])]")],
    ),
    plain(
        "unroll: one iteration too many",
        SHIFT,
        "unroll i",
        &[("in 64 spatial unrolled", "in 65 spatial unrolled")],
    ),
    plain("unroll: the first one again and again", SHIFT, "unroll i", &[("= x[i] +", "= x[0] +")]),
    plain("unroll: a sum keeps its last term", SUM, "unroll k", &[("S: y[i] sum =", "S: y[i] =")]),
    plain(
        "unroll: what follows is taken in",
        SUM,
        "unroll k",
        &[("S: y[i] sum = x[i, k]", "S: y[i] sum = x[i, k]\n      T: y[i] = y[i] * 2f32")],
    ),
    same(
        "addition may be exchanged in an index",
        "split: the index written otherwise",
        SQUARE,
        "split i 4",
        &[("i.o * 4 + i.i", "i.i + i.o * 4")],
    ),
    same(
        "the minimum of two numbers is that of the same two",
        "split: the guard written otherwise",
        SQUARE,
        "split i 4",
        &[("min(n - i.o * 4, 4)", "min(4, n - i.o * 4)")],
    ),
    same(
        "the number of blocks is the same, rounded up in another way",
        "split: the count written otherwise",
        SQUARE,
        "split i 4",
        &[("(n + 3) / 4", "(n - 1) / 4 + 1")],
    ),
    same(
        "what is more of an index is cut off again",
        "fuse: a remainder of a remainder",
        PLANE,
        "fuse i j",
        &[("i.f % 8", "(i.f + 8) % 8")],
    ),
];

/// Two nested loops in each other's place where the order counts.
const fn exchanged(what: &'static str, before: &'static str) -> Mutant {
    Mutant {
        hint: Some((&[("i", "i"), ("j", "j")], &[("j", "j"), ("i", "i")])),
        ..plain(
            what,
            before,
            "",
            &[("for i in", "for q in"), ("for j in", "for i in"), ("for q in", "for j in")],
        )
    }
}
