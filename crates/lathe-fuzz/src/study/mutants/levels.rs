//! Loops that go to lanes, to cores, to an instruction.

use super::programs::{
    BYTES, CARRIED, CHAIN, CHAINED_ROWS, FEWER_IN_TURN, PLACES, PLANE, PREFIX, RECURRENCE, ROW_OF_A_CORE,
    SCATTER, SHARED_TILE, SQUARE, STENCIL,
};
use super::{Mutant, Seen, instruction, lanes, plain, whole};

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
    plain("parallel: a sweep less", PLANE, "parallel i j", &[("in 8 spatial sweep", "in 7 spatial sweep")]),
    plain("parallel: a sweep's results are another's", PLANE, "parallel i j", &[("y[i, j]", "y[i, 7 - j]")]),
    lanes("parallel: a sweep for rows that need the one before", CHAINED_ROWS, "parallel i j", &[]),
    plain("tensorize: the sum begins anew", BYTES, "tensorize l dpbusd", &[("sum = i32", "= i32")]),
    plain("tensorize: a code is left out", BYTES, "tensorize l dpbusd", &[("b in 4", "b in 3")]),
    plain("tensorize: the other row's codes", BYTES, "tensorize l dpbusd", &[("x[i, b]", "x[1 - i, b]")]),
    plain("tensorize: half of the lanes", BYTES, "tensorize l dpbusd", &[("l in 16", "l in 8")]),
    whole(
        "tensorize: fewer lanes, and all elements are read",
        &[("for j in min(n, 16) spatial lane", "for j in 16 spatial lane")],
    ),
    whole(
        "tensorize: fewer lanes, and one element more is read",
        &[("for j in min(n, 16) spatial lane", "for j in min(n + 1, 16) spatial lane")],
    ),
    whole(
        "tensorize: fewer lanes, and elements of others are read",
        &[("Y: y[j] = t[j]", "Y: y[j] = t[15 - j]")],
    ),
    whole("tensorize: fewer lanes, and one element is read by all", &[("Y: y[j] = t[j]", "Y: y[j] = t[9]")]),
    whole(
        "tensorize: fewer lanes, and what accumulates reads all elements",
        &[(
            "Y: y[j] = t[j]\n  }",
            "Y: y[j] = t[j]\n  }\n  for k in 16 reduce serial {\n    X: y[63] max = t[k]\n  }",
        )],
    ),
    whole("tensorize: fewer lanes, and nothing is stored behind them", &[(" padded(0, 16)", "")]),
    whole(
        "tensorize: fewer lanes of what begins inside of a vector",
        &[
            ("t: f32[16]", "t: f32[2, 16]"),
            ("Z: t[i] =", "Z: t[0, i] ="),
            (
                "for l in min(n, 16)",
                "for i.b in 16 spatial lane {\n    Z.b: t[1, i.b] = 1f32\n  }\n  for l in min(n, 8)",
            ),
            ("S: t[l]", "S: t[0, 8 + l]"),
            ("for j in min(n, 16)", "for j in 16"),
            ("= t[j]", "= t[1, j]"),
        ],
    ),
    Mutant {
        seen: Seen::Instruction,
        ..plain(
            "tensorize: fewer lanes, which were no lanes before",
            FEWER_IN_TURN,
            "",
            &[
                (
                    "  for l in min(n, 16) spatial serial",
                    "  intrinsic dpbf16ps {\n  for l in min(n, 16) spatial lane",
                ),
                ("f32(w[l, b])\n    }\n  }", "f32(w[l, b])\n    }\n  }\n  }"),
            ],
        )
    },
];
