//! Loops that go to lanes, to cores, to an instruction.

use super::programs::{
    BYTES, CARRIED, CHAIN, PLACES, PLANE, PREFIX, RECURRENCE, ROW_OF_A_CORE, SCATTER, SHARED_TILE, SQUARE,
    STENCIL,
};
use super::{Mutant, instruction, lanes, plain};

pub(super) const MUTANTS: &[Mutant] = &[
    lanes("vectorize: a carried dependence", CARRIED, "vectorize i", &[]),
    lanes("vectorize: what the next iteration overwrites", STENCIL, "vectorize i", &[]),
    lanes("vectorize: a tile that blocks share", SHARED_TILE, "vectorize o", &[]),
    lanes("vectorize: writes to the same place", SCATTER, "vectorize i", &[]),
    lanes("vectorize: a sum that is read on the way", PREFIX, "vectorize i", &[]),
    lanes("vectorize: iterations that follow each other", RECURRENCE, "", &[("scan serial", "scan lane")]),
    lanes("parallel: each iteration reads what the one before wrote", CHAIN, "parallel i", &[]),
    lanes("parallel: the same element may be written twice", PLACES, "parallel i", &[]),
    lanes("fuse: a row of a core goes to many", ROW_OF_A_CORE, "fuse i j", &[]),
    plain(
        "tensorize: the next row's weights",
        BYTES,
        "tensorize l dpbusd",
        &[("w[i, l, b]", "w[i, (l + 1) % 16, b]")],
    ),
    plain("tensorize: the codes in reverse", BYTES, "tensorize l dpbusd", &[("x[i, b]", "x[i, 3 - b]")]),
    instruction(
        "tensorize: an operand transposed",
        &[("u8[2, 16, 4]", "u8[2, 4, 16]"), ("w[i, l, b]", "w[i, b, l]")],
    ),
    instruction("tensorize: weights that are signed", &[("w: u8", "w: i8")]),
    instruction(
        "tensorize: one operand for all lanes is one for each",
        &[("x: i8[2, 4]", "x: i8[2, 16, 4]"), ("x[i, b]", "x[i, l, b]")],
    ),
    lanes(
        "vectorize: all lanes in one element",
        SCATTER,
        "vectorize i",
        &[("y[index(at[i])]", "y[index(at[i / 4 * 4])]")],
    ),
    plain(
        "vectorize: the next lane's element",
        PLANE,
        "vectorize j",
        &[("= x[i, j]", "= x[i, (j + 1) % 8]")],
    ),
    plain("vectorize: a lane less", PLANE, "vectorize j", &[("j in 8", "j in 7")]),
    plain(
        "vectorize: no room behind the end",
        SQUARE,
        "vectorize i",
        &[
            ("spatial lane", "spatial lane"),
            ("for i in n ", "for i in (n + 15) / 16 * 16 "),
            (" padded(0, 16)", ""),
        ],
    ),
    lanes("parallel: all cores add to one element", PREFIX, "", &[("reduce serial", "spatial core")]),
    lanes(
        "parallel: a temporary that all share",
        SHARED_TILE,
        "",
        &[("for o in 16 spatial serial", "for o in 16 spatial core")],
    ),
    plain("parallel: a core's rows are another's", PLANE, "parallel i", &[("y[i, j]", "y[n - 1 - i, j]")]),
    plain(
        "parallel: the last row is nobody's",
        PLANE,
        "parallel i",
        &[("in n spatial core", "in n - 1 spatial core")],
    ),
    plain("tensorize: the sum begins anew", BYTES, "tensorize l dpbusd", &[("sum = i32", "= i32")]),
    plain("tensorize: a code is left out", BYTES, "tensorize l dpbusd", &[("b in 4", "b in 3")]),
    plain("tensorize: the other row's codes", BYTES, "tensorize l dpbusd", &[("x[i, b]", "x[1 - i, b]")]),
    plain("tensorize: half of the lanes", BYTES, "tensorize l dpbusd", &[("l in 16", "l in 8")]),
];
