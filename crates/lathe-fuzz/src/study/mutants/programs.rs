//! The programs that wrong steps are of, and steps that several rows begin with.

pub(super) const SQUARE: &str = "kernel f(n) {
  in x: f32[n]
  out y: f32[n]
  for i in n spatial serial {
    S: y[i] = x[i] * x[i]
  }
}";

/// A temporary that changes before it is used.
pub(super) const DOUBLED: &str = "kernel f(n) {
  in x: f32[n]
  out y: f32[n]
  for i in n spatial serial {
    alloc m: f32[] on register
    A: m[] = x[i]
    M: m[] sum = x[i]
    B: y[i] = m[] + 1f32
  }
}";

/// Iterations of the inner loop meet, and a core runs all of a row.
pub(super) const ROW_OF_A_CORE: &str = "kernel f() {
  in x: f32[4, 8]
  out y: f32[4, 8]
  for i in 4 spatial core {
    for j in 8 spatial serial {
      S: y[i, j / 4 * 4] = x[i, j]
    }
  }
}";

pub(super) const SHIFT: &str = "kernel f() {
  in x: f32[64]
  out y: f32[64]
  for i in 64 spatial serial {
    S: y[i] = x[i] + 1f32
  }
}";

pub(super) const SUM: &str = "kernel f(n) {
  in x: f32[n, 20]
  out y: f32[n]
  for i in n spatial serial {
    Z: y[i] = 0f32
    for k in 20 reduce serial {
      S: y[i] sum = x[i, k]
    }
  }
}";

/// A sum in a temporary of its own, beside another one.
pub(super) const OWN: &str = "kernel f() {
  in x: f32[7, 3]
  out y: f32[7]
  for i in 7 spatial serial {
    alloc t: f32[] on register
    alloc u: f32[] on register
    Z: t[] = 0f32
    B: u[] = 1f32
    for k in 3 reduce serial {
      S: t[] sum = x[i, k]
    }
    W: y[i] = t[] - u[]
  }
}";

pub(super) const RECURRENCE: &str = "kernel f() {
  in x: f32[64]
  inout y: f32[65]
  for i in 64 scan serial {
    S: y[i + 1] = y[i] * 0.5f32 + x[i]
  }
}";

pub(super) const PLANE: &str = "kernel f(n) {
  in x: f32[n, 8]
  out y: f32[n, 8]
  for i in n spatial serial {
    for j in 8 spatial serial {
      S: y[i, j] = x[i, j] + 1f32
    }
  }
}";

pub(super) const MATRIX: &str = "kernel f(n, m) {
  in x: f32[n, m]
  out y: f32[n, m]
  for i in n spatial serial {
    for j in m spatial serial {
      S: y[i, j] = x[i, j] + 1f32
    }
  }
}";

pub(super) const SLANTED: &str = "kernel f() {
  inout y: f32[9, 9]
  for i in 8 sequential serial {
    for j in 8 sequential serial {
      S: y[i + 1, j] = y[i, j + 1] * 0.5f32 + 1f32
    }
  }
}";

/// The same with a mark that is not true, which the primitive believes.
pub(super) const SLANTED_SPATIAL: &str = "kernel f() {
  inout y: f32[9, 9]
  for i in 8 spatial serial {
    for j in 8 spatial serial {
      S: y[i + 1, j] = y[i, j + 1] * 0.5f32 + 1f32
    }
  }
}";

pub(super) const LAST_WINS: &str = "kernel f() {
  in x: f32[4, 4]
  out y: f32[7]
  for i in 4 sequential serial {
    for j in 4 sequential serial {
      S: y[i + j] = x[i, j]
    }
  }
}";

pub(super) const CARRIED: &str = "kernel f() {
  in x: f32[16]
  inout y: f32[17]
  for i in 16 spatial serial {
    S: y[i + 1] = y[i] * 0.5f32 + x[i]
  }
}";

pub(super) const STENCIL: &str = "kernel f() {
  inout y: f32[17]
  for i in 16 spatial serial {
    S: y[i] = y[i] + y[i + 1]
  }
}";

/// What `split; reverse_compute_at; vectorize` left in a mature compiler: each step alone is right, but the tile of a block
/// is shared by all blocks.
pub const SHARED_TILE: &str = "kernel f() {
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

pub(super) const SCATTER: &str = "kernel f(n) {
  in x: f32[n]
  in at: i32[n]
  out y: f32[n]
  for i in n spatial serial {
    S: y[index(at[i])] = x[i]
  }
}";

pub(super) const PREFIX: &str = "kernel f() {
  in x: f32[16]
  inout y: f32[1]
  out z: f32[16]
  for i in 16 reduce serial {
    S: y[0] sum = x[i]
    T: z[i] = y[0]
  }
}";

pub(super) const BYTES: &str = "kernel f() {
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

pub(super) const TILE: &str = "kernel f(n) {
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

pub(super) const KEPT: &str = "kernel f() {
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

pub(super) const LATER: &str = "kernel f() {
  in x: f32[8]
  out y: f32[8]
  alloc t: f32[9] on workspace
  S: t[0] = 0f32
  for i in 8 sequential serial {
    T: t[i + 1] = t[i] + x[i]
    U: y[i] = t[i + 1]
  }
}";

pub(super) const CHAINS: &str = "kernel f() {
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

pub(super) const ASKED: &str = "kernel f() {
  in x: f32[8, 16]
  out y: f32[8, 16]
  for i in 8 spatial serial {
    for j in 16 spatial lane {
      S: y[i, j] = x[i, j]
    }
  }
}";

pub(super) const BLOCKS: &str = "kernel f(n) {
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

pub(super) const BOTH: &str = "kernel f() {
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

pub(super) const CHAIN: &str = "kernel f() {
  in x: f32[64]
  inout y: f32[65]
  for i in 64 spatial serial {
    S: y[i + 1] = y[i] * 0.5f32 + x[i]
  }
}";

pub(super) const CHAINED_ROWS: &str = "kernel f() {
  in x: f32[64, 4]
  inout y: f32[65, 4]
  for i in 64 spatial serial {
    for j in 4 spatial serial {
      S: y[i + 1, j] = y[i, j] * 0.5f32 + x[i, j]
    }
  }
}";

pub(super) const ROWS: &str = "kernel f() {
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

pub(super) const AROUND: &str = "kernel f() {
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

pub(super) const THROUGH: &str = "kernel f() {
  in x: f32[16]
  inout a: f32[16]
  out y: f32[16]
  for i in 16 spatial serial {
    S: a[i] = x[i]
    T: y[i] = a[15 - i]
  }
}";

pub(super) const PLACES: &str = "kernel f(n) {
  in x: f32[n]
  in place: i32[n] range(0, 16)
  inout y bits 1024 { y_q: f32[16, 2] @ 0 : (0, 4, 0, 256) : (0, 1, 4, 32) : (1, 1, 0, 128) }
  for i in n spatial serial {
    S: y_q[index(place[i]), 1] = x[i]
  }
}";

pub(super) const SUMS: &str = "kernel f() {
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
pub(super) const PRODUCT: &str = "kernel f() {
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
pub(super) const PASSED: &str = "kernel f() {
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
pub(super) const WINDOW: &str = "kernel f() {
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
pub(super) const COLUMNS: &str = "kernel f() {
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

pub(super) const TAIL: &str = "kernel f() {
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

pub(super) const GUARDED: &str = "kernel f() {
  in x: f32[5]
  out y: f32[8]
  for i in 8 spatial serial {
    S: y[i] = select(i < 5, x[i], 0f32)
  }
}";

pub(super) const SOFTMAX: &str = "kernel f(n) {
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

/// The same, with a maximum that is of some elements only.
pub(super) const SOME_MAXIMUM: &str = "kernel f() {
  in x: f32[64]
  out y: f32[1]
  alloc m: f32[] on register
  Z: m[] = -1000f32
  for j in 64 reduce serial {
    M: m[] max = x[j] * f32(min(j, 1))
  }
  alloc s: f32[] on register
  Y: s[] = 0f32
  for k in 64 reduce serial {
    S: s[] sum = exp(x[k] - m[])
  }
  R: y[0] = s[]
}";

/// A loop that has no iteration.
pub(super) const NEVER_RUN: &str = "kernel f() {
  out y: f32[1]
  for a in 1 / 2 spatial serial {
    A: y[0] = 1f32
  }
}";

/// A sum of no terms into an element that is not there.
pub(super) const NO_TERMS: &str = "kernel f() {
  out y: f32[1]
  for k in 1 / 2 reduce serial {
    for l in 2 reduce serial {
      S: y[1] sum = 1f32
    }
  }
}";

/// A copy, and a list beside it.
pub(super) const PICKED: &str = "kernel f() {
  in p: i32[4] range(0, 4)
  in x: f32[8]
  out y: f32[8]
  for i in 8 spatial serial {
    S: y[i] = x[i]
  }
}";

/// A softmax's sum over a number of keys that is known, and the steps that split it.
pub(super) const KEYS: &str = "kernel f() {
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

pub(super) const PARTS: &str = "online j k\nsplit j 16\npartials j.o";

/// A product of constant size.
pub(super) const SYSTOLIC: &str = "kernel product() {
  in a: f32[4, 6]
  in b: f32[6, 4]
  out y: f32[4, 4]
  for i in 4 spatial serial {
    for j in 4 spatial serial {
      alloc s: f32[] on register
      Z: s[] = 0f32
      for k in 6 reduce serial {
        S: s[] sum = a[i, k] * b[k, j]
      }
      W: y[i, j] = s[]
    }
  }
}";

/// The same, where two places write one element, the later one last.
pub(super) const SHARED_PLACES: &str = "kernel product() {
  in a: f32[4, 6]
  in b: f32[6, 4]
  out y: f32[4, 4]
  for i in 4 spatial serial {
    for j in 4 spatial serial {
      alloc s: f32[] on register
      Z: s[] = 0f32
      for k in 6 reduce serial {
        S: s[] sum = a[i, k] * b[k, j]
      }
      W: y[i, j / 2] = s[]
    }
  }
}";

/// An array that is read in the order in which it is written.
pub(super) const ARRAY: &str = "kernel two(n) {
  in x: f32[n, 8]
  out y: f32[n]
  alloc p: f32[n, 8] on workspace
  for i in n spatial serial {
    for j in 8 spatial serial {
      P: p[i, j] = x[i, j] + 1f32
    }
  }
  for r in n spatial serial {
    Z: y[r] = 0f32
    for c in 8 reduce serial {
      S: y[r] sum = p[r, c] * x[r, c]
    }
  }
}";

/// An array that is read in another order.
pub(super) const ARRAY_BACKWARDS: &str = "kernel two(n) {
  in x: f32[n, 8]
  out y: f32[n]
  alloc p: f32[n, 8] on workspace
  for i in n spatial serial {
    for j in 8 spatial serial {
      P: p[i, j] = x[i, j] + 1f32
    }
  }
  for r in n spatial serial {
    Z: y[r] = 0f32
    for c in 8 reduce serial {
      S: y[r] sum = p[r, 7 - c] * x[r, c]
    }
  }
}";

/// A square that is read by columns.
pub(super) const ARRAY_TRANSPOSED: &str = "kernel two() {
  in x: f32[8, 8]
  out y: f32[8]
  alloc p: f32[8, 8] on workspace
  for i in 8 spatial serial {
    for j in 8 spatial serial {
      P: p[i, j] = x[i, j] + 1f32
    }
  }
  for r in 8 spatial serial {
    Z: y[r] = 0f32
    for c in 8 reduce serial {
      S: y[r] sum = p[c, r] * x[r, c]
    }
  }
}";

/// An array of which each element is written twice.
pub(super) const ARRAY_TWICE: &str = "kernel two(n) {
  in x: f32[n, 8]
  out y: f32[n]
  alloc p: f32[n, 8] on workspace
  for i in n spatial serial {
    for j in 8 spatial serial {
      P: p[i, j / 2 * 2] = x[i, j] + 1f32
    }
  }
  for r in n spatial serial {
    Z: y[r] = 0f32
    for c in 8 reduce serial {
      S: y[r] sum = p[r, c / 2 * 2] * x[r, c]
    }
  }
}";

/// Two elements of an array are read.
pub(super) const ARRAY_TWO: &str = "kernel two(n) {
  in x: f32[n, 8]
  out y: f32[n]
  alloc p: f32[n, 8] on workspace
  for i in n spatial serial {
    for j in 8 spatial serial {
      P: p[i, j] = x[i, j] + 1f32
    }
  }
  for r in n spatial serial {
    Z: y[r] = 0f32
    for c in 8 reduce serial {
      S: y[r] sum = (p[r, c] + p[r, 0]) * x[r, c]
    }
  }
}";

/// Two processes: one sends a square, row by row.
pub(super) const NETWORK: &str = "kernel f() {
  in x: f32[3, 3]
  out y: f32[3, 3]
  alloc c: f32[1] on channel
  for send in 1 spatial process {
    for u in 3 scan serial {
      for v in 3 scan serial {
        U: c[] = x[u, v]
      }
    }
  }
  for take in 1 spatial process {
    for i in 3 scan serial {
      for j in 3 scan serial {
        alloc t: f32[] on register
        P: t[] = c[]
        W: y[i, j] = t[]
      }
    }
  }
}";

/// A product of two halves a lane, of fewer lanes than a vector has: an instruction overwrites the elements behind them.
pub(super) const FEWER: &str = "kernel f(n) {
  in x: bf16[2]
  in w: bf16[n, 2] padded(0, 16)
  out y: f32[64]
  alloc t: f32[16] on register
  for i in 16 spatial lane {
    Z: t[i] = 1f32
  }
  for l in min(n, 16) spatial lane {
    for b in 2 reduce serial {
      S: t[l] sum = f32(x[b]) * f32(w[l, b])
    }
  }
  for j in min(n, 16) spatial lane {
    Y: y[j] = t[j]
  }
}";

/// The same one iteration after the other, and all elements are read.
pub(super) const FEWER_IN_TURN: &str = "kernel f(n) {
  in x: bf16[2]
  in w: bf16[n, 2] padded(0, 16)
  out y: f32[16]
  alloc t: f32[16] on register
  for i in 16 spatial lane {
    Z: t[i] = 1f32
  }
  for l in min(n, 16) spatial serial {
    for b in 2 reduce serial {
      S: t[l] sum = f32(x[b]) * f32(w[l, b])
    }
  }
  for j in 16 spatial serial {
    Y: y[j] = t[j]
  }
}";

/// Rows in pages, of which a table says the order.
pub(super) const PAGES: &str = "kernel f(n) {
  in table: i32[n] range(0, 8)
  in x: f32[8, 4, 16]
  out y: f32[n, 4, 16]
  for i in n spatial serial {
    for p in 4 spatial serial {
      for j in 16 spatial lane {
        S: y[i, p, j] = x[index(table[i]), p, j]
      }
    }
  }
}";

/// Two pairs of processes, each with a channel.
pub(super) const PAIRS: &str = "kernel f() {
  in x: f32[8]
  out y: f32[8]
  alloc c: f32[2, 4] on channel
  for p in 2 spatial process {
    for i in 4 scan serial {
      A: c[p] = x[p * 4 + i]
    }
  }
  for q in 2 spatial process {
    for j in 4 scan serial {
      B: y[q * 4 + j] = c[q]
    }
  }
}";
