//! Wrong steps: programs, a step of theirs, and what is wrong in the program after it.

/// How it is known that a wrong step is wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Seen {
    /// The interpreter computes something else, or finds an index outside.
    Run,
    /// It does when the lanes' iterations run in another order, or side by side.
    Lanes,
    /// It does when the instruction's meaning runs in place of what it wraps.
    Instruction,
}

/// A wrong step.
pub struct Mutant {
    /// What is wrong.
    pub what: &'static str,
    pub before: &'static str,
    /// The step it pretends to be; hints of how iterations move are taken from it and from `others`.
    pub step: &'static str,
    /// Changes of the text of the program after the step (of the one before where the step itself is refused).
    pub changes: &'static [(&'static str, &'static str)],
    /// Further hints: what the loops before are after (a variable and an index each), and the other way round.
    pub hint: Option<(&'static [(&'static str, &'static str)], &'static [(&'static str, &'static str)])>,
    pub seen: Seen,
}

const SQUARE: &str = "kernel f(n) {
  in x: f32[n]
  out y: f32[n]
  for i in n spatial serial {
    S: y[i] = x[i] * x[i]
  }
}";

const SHIFT: &str = "kernel f() {
  in x: f32[64]
  out y: f32[64]
  for i in 64 spatial serial {
    S: y[i] = x[i] + 1f32
  }
}";

const SUM: &str = "kernel f(n) {
  in x: f32[n, 20]
  out y: f32[n]
  for i in n spatial serial {
    Z: y[i] = 0f32
    for k in 20 reduce serial {
      S: y[i] sum = x[i, k]
    }
  }
}";

const RECURRENCE: &str = "kernel f() {
  in x: f32[64]
  inout y: f32[65]
  for i in 64 scan serial {
    S: y[i + 1] = y[i] * 0.5f32 + x[i]
  }
}";

const PLANE: &str = "kernel f(n) {
  in x: f32[n, 8]
  out y: f32[n, 8]
  for i in n spatial serial {
    for j in 8 spatial serial {
      S: y[i, j] = x[i, j] + 1f32
    }
  }
}";

const MATRIX: &str = "kernel f(n, m) {
  in x: f32[n, m]
  out y: f32[n, m]
  for i in n spatial serial {
    for j in m spatial serial {
      S: y[i, j] = x[i, j] + 1f32
    }
  }
}";

const SLANTED: &str = "kernel f() {
  inout y: f32[9, 9]
  for i in 8 sequential serial {
    for j in 8 sequential serial {
      S: y[i + 1, j] = y[i, j + 1] * 0.5f32 + 1f32
    }
  }
}";

/// The same with a mark that is not true, which the primitive believes.
const SLANTED_SPATIAL: &str = "kernel f() {
  inout y: f32[9, 9]
  for i in 8 spatial serial {
    for j in 8 spatial serial {
      S: y[i + 1, j] = y[i, j + 1] * 0.5f32 + 1f32
    }
  }
}";

const LAST_WINS: &str = "kernel f() {
  in x: f32[4, 4]
  out y: f32[7]
  for i in 4 sequential serial {
    for j in 4 sequential serial {
      S: y[i + j] = x[i, j]
    }
  }
}";

const CARRIED: &str = "kernel f() {
  in x: f32[16]
  inout y: f32[17]
  for i in 16 spatial serial {
    S: y[i + 1] = y[i] * 0.5f32 + x[i]
  }
}";

const STENCIL: &str = "kernel f() {
  inout y: f32[17]
  for i in 16 spatial serial {
    S: y[i] = y[i] + y[i + 1]
  }
}";

/// What `split; reverse_compute_at; vectorize` left in a mature compiler: each step alone is right, but the tile of a block
/// is shared by all blocks.
const SHARED_TILE: &str = "kernel f() {
  in x: f32[64]
  out y: f32[64]
  alloc t: f32[4] on workspace
  for o in 16 spatial serial {
    for a in 4 spatial serial {
      T: t[(o * 4 + a) % 4] = x[o * 4 + a]
    }
    for b in 4 spatial serial {
      S: y[o * 4 + b] = t[(o * 4 + b) % 4] + 1f32
    }
  }
}";

const SCATTER: &str = "kernel f(n) {
  in x: f32[n]
  in at: i32[n]
  out y: f32[n]
  for i in n spatial serial {
    S: y[index(at[i])] = x[i]
  }
}";

const PREFIX: &str = "kernel f() {
  in x: f32[16]
  inout y: f32[1]
  out z: f32[16]
  for i in 16 reduce serial {
    S: y[0] sum = x[i]
    T: z[i] = y[0]
  }
}";

const BYTES: &str = "kernel f() {
  in w: u8[2, 16, 4]
  in x: i8[2, 4]
  out y: i32[2, 16]
  for i in 2 spatial serial {
    for l in 16 spatial serial {
      for b in 4 reduce serial {
        S: y[i, l] sum = i32(w[i, l, b]) * i32(x[i, b])
      }
    }
  }
}";

const TILE: &str = "kernel f(n) {
  in x: f32[n, 64]
  out y: f32[n, 64]
  for i in n spatial serial {
    for o in 4 spatial serial {
      for j in 16 spatial serial {
        A: y[i, o * 16 + j] = x[i, o * 16 + j] * 2f32
      }
      for k in 16 spatial serial {
        B: y[i, o * 16 + k] = y[i, o * 16 + k] + 1f32
      }
    }
  }
}";

const KEPT: &str = "kernel f() {
  in x: f32[8, 16]
  out y: f32[8, 16]
  alloc t: f32[8, 16] on workspace
  for i in 8 spatial serial {
    for j in 16 spatial serial {
      S: t[i, j] = x[i, j] * 2f32
    }
    for k in 16 spatial serial {
      T: y[i, k] = t[i, 15 - k]
    }
  }
}";

const LATER: &str = "kernel f() {
  in x: f32[8]
  out y: f32[8]
  alloc t: f32[9] on workspace
  S: t[0] = 0f32
  for i in 8 sequential serial {
    T: t[i + 1] = t[i] + x[i]
    U: y[i] = t[i + 1]
  }
}";

const CHAINS: &str = "kernel f() {
  in x: f32[4, 8, 2]
  inout y: f32[4]
  for i in 4 spatial serial {
    for k in 8 reduce serial {
      for l in 2 reduce serial {
        S: y[i] sum = x[i, k, l]
      }
    }
  }
}";

const ASKED: &str = "kernel f() {
  in x: f32[8, 16]
  out y: f32[8, 16]
  for i in 8 spatial serial {
    for j in 16 spatial lane {
      S: y[i, j] = x[i, j]
    }
  }
}";

const BLOCKS: &str = "kernel f(n) {
  in x: f32[n, 3]
  out y: f32[n, 3]
  for o in (n + 3) / 4 spatial serial {
    alloc t: f32[4] on register
    for i in min(n - o * 4, 4) spatial serial {
      Z: t[i] = 0f32
    }
    for k in 3 reduce serial {
      for i.c1 in min(n - o * 4, 4) spatial serial {
        S: t[i.c1] sum = x[o * 4 + i.c1, k]
      }
    }
    for i.c2 in min(n - o * 4, 4) spatial serial {
      Y: y[o * 4 + i.c2, 0] = t[i.c2]
    }
  }
}";

const fn plain(
    what: &'static str,
    before: &'static str,
    step: &'static str,
    changes: &'static [(&'static str, &'static str)],
) -> Mutant {
    Mutant { what, before, step, changes, hint: None, seen: Seen::Run }
}

const fn lanes(
    what: &'static str,
    before: &'static str,
    step: &'static str,
    changes: &'static [(&'static str, &'static str)],
) -> Mutant {
    Mutant { what, before, step, changes, hint: None, seen: Seen::Lanes }
}

const fn instruction(what: &'static str, changes: &'static [(&'static str, &'static str)]) -> Mutant {
    Mutant { what, before: BYTES, step: "tensorize l dpbusd", changes, hint: None, seen: Seen::Instruction }
}

const BOTH: &str = "kernel f() {
  in x: f32[64]
  out y: f32[64]
  out z: f32[64]
  alloc t: f32[64] on workspace
  for i in 64 spatial serial {
    S: t[i] = x[i] * 2f32
  }
  for j in 64 spatial serial {
    T: y[j] = t[j] + 1f32
  }
  for k in 64 spatial serial {
    U: z[k] = t[63 - k]
  }
}";

const CHAIN: &str = "kernel f() {
  in x: f32[64]
  inout y: f32[65]
  for i in 64 spatial serial {
    S: y[i + 1] = y[i] * 0.5f32 + x[i]
  }
}";

const ROWS: &str = "kernel f() {
  in x: f32[4, 16]
  out y: f32[16, 4]
  alloc t: f32[4, 16] on workspace
  for i in 4 spatial serial {
    for j in 16 spatial serial {
      S: t[i, j] = x[i, j]
    }
  }
  for k in 16 spatial serial {
    for l in 4 spatial serial {
      T: y[k, l] = t[l, k]
    }
  }
}";

const AROUND: &str = "kernel f() {
  in x: f32[8, 4, 16]
  out y: f32[8, 16]
  for i in 8 spatial serial {
    for j in 16 spatial serial {
      alloc a: f32[] on register
      Z: a[] = 0f32
      for k in 4 reduce serial {
        S: a[] sum = x[i, k, j]
      }
      Y: y[i, j] = a[]
    }
  }
}";

const THROUGH: &str = "kernel f() {
  in x: f32[16]
  inout a: f32[16]
  out y: f32[16]
  for i in 16 spatial serial {
    S: a[i] = x[i]
    T: y[i] = a[15 - i]
  }
}";

const PLACES: &str = "kernel f(n) {
  in x: f32[n]
  in place: i32[n] range(0, 16)
  inout y bits 1024 { y_q: f32[16, 2] @ 0 : (0, 4, 0, 256) : (0, 1, 4, 32) : (1, 1, 0, 128) }
  for i in n spatial serial {
    S: y_q[index(place[i]), 1] = x[i]
  }
}";

const SUMS: &str = "kernel f() {
  in x: f32[16, 8]
  out y: f32[8]
  for i in 8 spatial serial {
    Z: y[i] = 0f32
  }
  for k in 16 reduce serial {
    for j in 8 spatial serial {
      S: y[j] sum = x[k, j]
    }
  }
}";

/// A product whose second operand is read many times; the last block of columns is narrower.
const PRODUCT: &str = "kernel f() {
  in x: f32[6, 5]
  in w: f32[5, 7]
  out y: f32[6, 7]
  for j.o in 2 spatial serial {
    for i in 6 spatial serial {
      for j.i in min(7 - j.o * 4, 4) spatial serial {
        alloc a: f32[] on register
        Z: a[] = 0f32
        for k in 5 reduce serial {
          S: a[] sum = x[i, k] * w[k, j.o * 4 + j.i]
        }
        Y: y[i, j.o * 4 + j.i] = a[]
      }
    }
  }
}";

/// Elements that an iteration reads, and some of which a later one writes.
const PASSED: &str = "kernel f() {
  inout x: f32[8]
  out y: f32[8]
  for i in 2 sequential serial {
    for j in 4 spatial serial {
      S: y[i * 4 + j] = x[i * 4 + j] * 2f32
    }
    for l in 4 spatial serial {
      T: x[(i * 4 + l + 4) % 8] = y[i * 4 + l]
    }
  }
}";

/// The places of a window.
const WINDOW: &str = "kernel f() {
  in x: f32[20, 9]
  in w: f32[20, 3]
  out y: f32[7]
  for i in 7 spatial serial {
    Z: y[i] = 0f32
    for c in 20 reduce serial {
      for k in 3 reduce serial {
        S: y[i] sum = x[c, i + k] * w[c, k]
      }
    }
  }
}";

/// A tile of columns whose last one is narrower.
const COLUMNS: &str = "kernel f() {
  in x: f32[6, 5]
  in w: f32[5, 8]
  out y: f32[6, 7]
  for i in 6 spatial serial {
    for j.o in 2 spatial serial {
      alloc a: f32[4] on register
      for j in min(7 - j.o * 4, 4) spatial serial {
        Z: a[j] = 0f32
      }
      for k in 5 reduce serial {
        for j.c1 in min(7 - j.o * 4, 4) spatial serial {
          S: a[j.c1] sum = x[i, k] * w[k, j.o * 4 + j.c1]
        }
      }
      for j.c2 in min(7 - j.o * 4, 4) spatial serial {
        Y: y[i, j.o * 4 + j.c2] = a[j.c2]
      }
    }
  }
}";

const TAIL: &str = "kernel f() {
  in x: f32[6]
  out y: f32[6]
  alloc t: f32[3, 6] on workspace
  for h in 3 spatial serial {
    for i in 6 spatial serial {
      S: t[h, i] = x[i] + 1f32
    }
  }
  for j in 6 spatial serial {
    Y: y[j] = t[0, j] * t[2, 5 - j]
  }
}";

const GUARDED: &str = "kernel f() {
  in x: f32[5]
  out y: f32[8]
  for i in 8 spatial serial {
    S: y[i] = select(i < 5, x[i], 0f32)
  }
}";

const SOFTMAX: &str = "kernel f(n) {
  in x: f32[n]
  out y: f32[n]
  alloc m: f32[] on register
  Z: m[] = -1000f32
  for j in n reduce serial {
    M: m[] max = x[j]
  }
  alloc s: f32[] on register
  Y: s[] = 0f32
  for k in n reduce serial {
    S: s[] sum = exp(x[k] - m[])
  }
  for i in n spatial serial {
    R: y[i] = exp(x[i] - m[]) / s[]
  }
}";

/// A softmax's sum over a number of keys that is known, and the steps that split it.
const KEYS: &str = "kernel f() {
  in x: f32[64]
  out y: f32[2]
  alloc m: f32[] on register
  Z: m[] = -1000f32
  for j in 64 reduce serial {
    M: m[] max = x[j]
  }
  alloc s: f32[] on register
  Y: s[] = 0f32
  for k in 64 reduce serial {
    S: s[] sum = exp(x[k] - m[])
  }
  R: y[0] = s[]
  Q: y[1] = m[]
}";

const PARTS: &str = "online j k\nsplit j 16\npartials j.o";

/// The table.
pub const MUTANTS: &[Mutant] = &[
    plain("peel: the rest is one shorter", SUM, "peel k 16", &[("k.p in 4", "k.p in 3")]),
    plain("peel: the rest begins one earlier", SUM, "peel k 16", &[("16 + k.p", "15 + k.p")]),
    plain("peel: a block ends one earlier", SUM, "peel k 16", &[("k in 16", "k in 15")]),
    plain("peel: the rest is not accumulated", SUM, "peel k 16", &[("S.c1: y[i] sum", "S.c1: y[i] max")]),
    plain("peel: the rest is the first block", SQUARE, "peel i 4", &[("n / 4 * 4 + i.p", "i.p")]),
    plain("peel: the rest is written elsewhere", SQUARE, "peel i 4", &[("y[n / 4 * 4 + i.p]", "y[i.p]")]),
    plain("peel: what is left is that of another factor", SQUARE, "peel i 4", &[("in n % 4", "in n % 3")]),
    plain("peel: one block too many", SQUARE, "peel i 4", &[("in n / 4 * 4", "in n / 4 * 4 + 4")]),
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
    Mutant {
        what: "interchange: iterations that depend on each other",
        hint: Some((&[("i", "i"), ("j", "j")], &[("j", "j"), ("i", "i")])),
        ..plain(
            "",
            SLANTED,
            "",
            &[("for i in", "for q in"), ("for j in", "for i in"), ("for q in", "for j in")],
        )
    },
    plain("interchange: loops marked spatial that are not", SLANTED_SPATIAL, "interchange i", &[]),
    Mutant {
        what: "interchange: the last of several writes",
        hint: Some((&[("i", "i"), ("j", "j")], &[("j", "j"), ("i", "i")])),
        ..plain(
            "",
            LAST_WINS,
            "",
            &[("for i in", "for q in"), ("for j in", "for i in"), ("for q in", "for j in")],
        )
    },
    plain("interchange: the wrong extents", PLANE, "interchange i", &[("in n spatial", "in 8 spatial")]),
    lanes("vectorize: a carried dependence", CARRIED, "vectorize i", &[]),
    lanes("vectorize: what the next iteration overwrites", STENCIL, "vectorize i", &[]),
    lanes("vectorize: a tile that blocks share", SHARED_TILE, "vectorize o", &[]),
    lanes("vectorize: writes to the same place", SCATTER, "vectorize i", &[]),
    lanes("vectorize: a sum that is read on the way", PREFIX, "vectorize i", &[]),
    lanes("vectorize: iterations that follow each other", RECURRENCE, "", &[("scan serial", "scan lane")]),
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
        "unroll: one iteration less",
        SHIFT,
        "unroll i",
        &[("in 64 spatial unrolled", "in 63 spatial unrolled")],
    ),
    lanes("parallel: each iteration reads what the one before wrote", CHAIN, "parallel i", &[]),
    lanes("parallel: the same element may be written twice", PLACES, "parallel i", &[]),
    plain("skew: rows get shorter", ROWS, "skew t 1 1", &[("f32[4, 17]", "f32[4, 15]")]),
    plain("set_memory: and a row less", ROWS, "set_memory t register", &[("f32[4, 16]", "f32[3, 16]")]),
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
    plain("sink: an iteration reads what another one writes", THROUGH, "sink i", &[]),
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
    plain("rfactor: an accumulator begins with 1", CHAINS, "rfactor l", &[("= 0f32", "= 1f32")]),
    plain("rfactor: a part is left out", CHAINS, "rfactor l", &[("l.c2 in 2", "l.c2 in 1")]),
    plain("rfactor: a part counts twice", CHAINS, "rfactor l", &[("= y.v[l.c2]", "= y.v[0]")]),
    plain("rfactor: the old sum is lost", CHAINS, "rfactor l", &[("S.r: y[i] sum =", "S.r: y[i] =")]),
    plain("rfactor: a term of another row", CHAINS, "rfactor l", &[("= x[i, k, l]", "= x[3 - i, k, l]")]),
    plain("rfactor: one accumulator for all", CHAINS, "rfactor l", &[("y.v[l] sum", "y.v[0] sum")]),
    plain("prefetch: beyond the end", ASKED, "prefetch i x S", &[("min(i + 1, 7)", "i + 1")]),
    plain(
        "prefetch: to where something is",
        ASKED,
        "prefetch i x S",
        &[("S.next.s: S.next[] =", "S.next.s: y[0, 0] =")],
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
        "stage: an element that is not there is read",
        GUARDED,
        "",
        &[
            ("S: y[i] =", "alloc x.S: f32[] on register\n    x.S.read: x.S[] = x[i]\n    S: y[i] ="),
            ("x[i],", "x.S[],"),
        ],
    ),
    plain("stage: another element", SQUARE, "stage x S", &[("= x[i]", "= x[n - 1 - i]")]),
    plain("stage: in place of another buffer", PLANE, "stage x S", &[("+ 1f32", "+ x.S[]")]),
    plain("align: rows get shorter", TAIL, "align t 4", &[("f32[3, 8]", "f32[3, 5]")]),
    plain("align: and a row less", TAIL, "align t 4", &[("f32[3, 8]", "f32[2, 8]")]),
    plain("align: the place of another element", TAIL, "align t 4", &[("t[2, 5 - j]", "t[2, 7 - j]")]),
    plain("reorder: an iteration less", WINDOW, "reorder c", &[("c in 20", "c in 19")]),
    plain("reorder: the sum begins anew", WINDOW, "reorder c", &[("S: y[i] sum =", "S: y[i] =")]),
    plain("reorder: a term of another place", WINDOW, "reorder c", &[("* w[c, k]", "* w[c, 2 - k]")]),
    Mutant {
        what: "reorder: the last of several writes",
        hint: Some((&[("i", "i"), ("j", "j")], &[("j", "j"), ("i", "i")])),
        ..plain(
            "",
            LAST_WINS,
            "",
            &[("for i in", "for q in"), ("for j in", "for i in"), ("for q in", "for j in")],
        )
    },
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
    plain(
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
];
