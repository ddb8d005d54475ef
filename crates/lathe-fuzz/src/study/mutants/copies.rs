//! Copies of what is read and written.

use super::programs::{PASSED, PRODUCT, TILE};
use super::{Mutant, plain, same};

pub(super) const MUTANTS: &[Mutant] = &[
    plain(
        "cache_read: not all is copied",
        PRODUCT,
        "cache_read j.o w workspace k j.i",
        &[("w.r0 in 5", "w.r0 in 4")],
    ),
    plain(
        "cache_read: a place less than is copied",
        PRODUCT,
        "cache_read j.o w workspace k j.i",
        &[("w.r: f32[5, 4]", "w.r: f32[5, 3]")],
    ),
    plain(
        "cache_read: more is copied than there is",
        PRODUCT,
        "cache_read j.o w workspace k j.i",
        &[("w.r1 in min(7 - j.o * 4, 4)", "w.r1 in 4")],
    ),
    plain(
        "cache_read: a narrower block's columns for all",
        PRODUCT,
        "cache_read j.o w workspace k j.i",
        &[("w.r1 in min(7 - j.o * 4, 4)", "w.r1 in 3")],
    ),
    plain(
        "cache_read: another block is copied",
        PRODUCT,
        "cache_read j.o w workspace k j.i",
        &[("w[w.r0, j.o * 4 + w.r1]", "w[w.r0, (1 - j.o) * 3 + w.r1]")],
    ),
    plain(
        "cache_read: the next row is read",
        PRODUCT,
        "cache_read j.o w workspace k j.i",
        &[("w.r[k, j.i]", "w.r[(k + 1) % 5, j.i]")],
    ),
    plain(
        "cache_read: two elements in one place",
        PRODUCT,
        "cache_read j.o w workspace k j.i",
        &[("w.r[w.r0, w.r1] =", "w.r[w.r0, w.r1 / 2] ="), ("w.r[k, j.i]", "w.r[k, j.i / 2]")],
    ),
    plain(
        "cache_read: what is copied is doubled",
        PRODUCT,
        "cache_read j.o w workspace k j.i",
        &[("= w[w.r0, j.o * 4 + w.r1]", "= w[w.r0, j.o * 4 + w.r1] * 2f32")],
    ),
    plain(
        "cache_read: another buffer is copied",
        PRODUCT,
        "cache_read j.o w workspace k j.i",
        &[("= w[w.r0, j.o * 4 + w.r1]", "= x[w.r0, w.r1]")],
    ),
    plain(
        "cache_read: a copy is written to",
        PRODUCT,
        "cache_read j.o w workspace k j.i",
        &[("Y: y[i, j.o * 4 + j.i] = a[]", "Y: w.r[0, 0] = a[]")],
    ),
    plain(
        "cache_read: the copy is older than what is read",
        PASSED,
        "",
        &[
            (
                "  for i in 2 sequential serial {\n",
                "  alloc x.r: f32[8] on workspace\n  for x.r0 in 8 spatial serial {\n    x.r.s: x.r[x.r0] = x[x.r0]\n  }\n  for i in 2 sequential serial {\n",
            ),
            ("= x[i * 4 + j] *", "= x.r[i * 4 + j] *"),
        ],
    ),
    plain(
        "cache_write: copied out of range",
        TILE,
        "cache_write o y register",
        &[("y.w0 in 16", "y.w0 in 17")],
    ),
    plain(
        "cache_write: all of it a size too large",
        TILE,
        "cache_write o y register",
        &[("y.w0 in 16", "y.w0 in 17"), ("y.w: f32[16]", "y.w: f32[17]")],
    ),
    plain(
        "cache_write: copied backwards",
        TILE,
        "cache_write o y register",
        &[("o * 16 + y.w0", "o * 16 + (15 - y.w0)")],
    ),
    plain(
        "cache_write: two elements to one place",
        TILE,
        "cache_write o y register",
        &[("o * 16 + y.w0", "o * 16 + y.w0 / 2")],
    ),
    plain(
        "cache_write: the old element is read",
        TILE,
        "cache_write o y register",
        &[("= y.w[k] + 1", "= y[i, o * 16 + k] + 1")],
    ),
    plain(
        "cache_write: not all of it is written first",
        TILE,
        "cache_write o y register",
        &[("for j in 16", "for j in 15")],
    ),
    plain(
        "cache_write: what was not there counts",
        TILE,
        "cache_write o y register",
        &[("A: y.w[j] =", "A: y.w[j] max =")],
    ),
    plain(
        "cache_write: copied to another block",
        TILE,
        "cache_write o y register",
        &[("y[i, o * 16", "y[i, (3 - o) * 16")],
    ),
    plain(
        "cache_read: the copy is of one row",
        PRODUCT,
        "cache_read j.o w workspace k j.i",
        &[("= w[w.r0, j.o * 4", "= w[0, j.o * 4")],
    ),
    plain(
        "cache_write: the copy out is a sum",
        TILE,
        "cache_write o y register",
        &[("y.w.s: y[i, o * 16 + y.w0] =", "y.w.s: y[i, o * 16 + y.w0] sum =")],
    ),
    same(
        "it is written twice with the same value",
        "cache_read: copied twice",
        PRODUCT,
        "cache_read j.o w workspace k j.i",
        &[(
            "        w.r.s: w.r[w.r0, w.r1] = w[w.r0, j.o * 4 + w.r1]\n",
            "        w.r.s: w.r[w.r0, w.r1] = w[w.r0, j.o * 4 + w.r1]\n        w.r.u: w.r[w.r0, w.r1] = w[w.r0, j.o * 4 + w.r1]\n",
        )],
    ),
];
