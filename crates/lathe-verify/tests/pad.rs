//! Loops that run a whole block where the program before stops earlier: each of these steps computes something else, or fails,
//! for some size and some content of the room behind the parameters' last rows, and so has no certificate.

use lathe_ir::tensor::{Access, Kernel, Memory, interpret, parse};
use lathe_ir::{Bounds, write_bits};
use lathe_verify::{Prover, check};

struct Wrong {
    what: &'static str,
    before: &'static str,
    /// What changes in the text.
    changes: &'static [(&'static str, &'static str)],
}

const WRONG: &[Wrong] = &[
    Wrong {
        what: "what lies behind the last index is no index",
        before: "kernel f(n) {
  in x: f32[n] padded(0, 4)
  in p: i32[n] range(0, 8) padded(0, 4)
  out y: f32[n] padded(0, 4)
  for o in (n + 3) / 4 spatial serial {
    alloc t: f32[4, 8] on register
    for i in min(n - o * 4, 4) spatial serial {
      T: t[i, index(p[o * 4 + i])] = x[o * 4 + i]
    }
    for j in min(n - o * 4, 4) spatial serial {
      Y: y[o * 4 + j] = t[j, index(p[o * 4 + j])]
    }
  }
}",
        changes: &[("for i in min(n - o * 4, 4)", "for i in 4")],
    },
    Wrong {
        what: "only iterations that are more read what is not there",
        before: "kernel f(n) {
  in x: f32[n]
  out y: f32[n] padded(0, 4)
  for o in (n + 3) / 4 spatial serial {
    for i in min(n - o * 4, 4) spatial serial {
      Y: y[o * 4 + i] = select(o * 4 + i < n, 1f32, x[n])
    }
  }
}",
        changes: &[("for i in min(n - o * 4, 4)", "for i in 4")],
    },
    Wrong {
        what: "the index is written by an iteration that is more",
        before: "kernel f(n) {
  in x: f32[n] padded(0, 4)
  in p: i32[n] range(0, 8) padded(0, 4)
  out y: f32[n] padded(0, 4)
  for o in (n + 3) / 4 spatial serial {
    for i in min(n - o * 4, 4) spatial serial {
      alloc k: i32[] on register
      alloc t: f32[8] on register
      K: k[] = p[o * 4 + i]
      T: t[index(k[])] = x[o * 4 + i]
      Y: y[o * 4 + i] = t[index(k[])]
    }
  }
}",
        changes: &[("for i in min(n - o * 4, 4)", "for i in 4")],
    },
    Wrong {
        what: "the extent is written by an iteration that is more",
        before: "kernel f(n) {
  in x: f32[8]
  in p: i32[n] range(0, 8) padded(0, 4)
  out y: f32[n] padded(0, 4)
  for o in (n + 3) / 4 spatial serial {
    for i in min(n - o * 4, 4) spatial serial {
      alloc k: i32[] on register
      alloc t: f32[] on register
      K: k[] = p[o * 4 + i]
      Z: t[] = 0f32
      for j in index(k[]) reduce serial {
        T: t[] sum = x[j]
      }
      Y: y[o * 4 + i] = t[]
    }
  }
}",
        changes: &[("for i in min(n - o * 4, 4)", "for i in 4")],
    },
    Wrong {
        what: "a loop that did not run reads what is not there",
        before: "kernel f(n) {
  in x: f32[n]
  out y: f32[n]
  alloc t: f32[8] on workspace
  for a in n spatial serial {
    Z: y[a] = 0f32
  }
  for i in min(n - 1, 8) spatial serial {
    T: t[i] = x[n - 2]
  }
  for j in min(n - 1, 8) spatial serial {
    Y: y[j] = t[j]
  }
}",
        changes: &[("for i in min(n - 1, 8)", "for i in 8")],
    },
    Wrong {
        what: "the room promised is less than a block",
        before: "kernel f(n) {
  in x: f32[n] padded(0, 4)
  out y: f32[n] padded(0, 2)
  for o in (n + 3) / 4 spatial serial {
    for i in min(n - o * 4, 4) spatial serial {
      S: y[o * 4 + i] = x[o * 4 + i]
    }
  }
}",
        changes: &[("for i in min(n - o * 4, 4)", "for i in 4")],
    },
    Wrong {
        what: "more is read than there is room for",
        before: "kernel f(n) {
  in x: f32[n] padded(0, 2)
  out y: f32[n] padded(0, 4)
  for o in (n + 3) / 4 spatial serial {
    for i in min(n - o * 4, 4) spatial serial {
      S: y[o * 4 + i] = x[o * 4 + i]
    }
  }
}",
        changes: &[("for i in min(n - o * 4, 4)", "for i in 4")],
    },
    Wrong {
        what: "a division by what lies behind the end",
        before: "kernel f(n) {
  in p: i32[n] range(1, 8) padded(0, 4)
  out y: i32[n] padded(0, 4)
  for o in (n + 3) / 4 spatial serial {
    for i in min(n - o * 4, 4) spatial serial {
      S: y[o * 4 + i] = 64i32 / p[o * 4 + i]
    }
  }
}",
        changes: &[("for i in min(n - o * 4, 4)", "for i in 4")],
    },
    Wrong {
        what: "a place of a table that lies behind the end",
        before: "kernel f(n) {
  in p: i32[n] range(0, 2) padded(0, 4)
  out y: i32[n] padded(0, 4)
  for o in (n + 3) / 4 spatial serial {
    for i in min(n - o * 4, 4) spatial serial {
      S: y[o * 4 + i] = table(i32, p[o * 4 + i], 5, 7)
    }
  }
}",
        changes: &[("for i in min(n - o * 4, 4)", "for i in 4")],
    },
    Wrong {
        what: "behind the end of a column lies the next one",
        before: "kernel f(n) {
  in x: f32[n] padded(0, 4)
  out y bits n * 64 { c: f32[n, 2] @ 0 : (0, 1, 0, 32) : (1, 1, 0, n * 32) padded(0, 4) }
  for j in 2 spatial serial {
    for o in (n + 3) / 4 spatial serial {
      for i in min(n - o * 4, 4) spatial serial {
        S: c[o * 4 + i, 1 - j] = x[o * 4 + i]
      }
    }
  }
}",
        changes: &[("for i in min(n - o * 4, 4)", "for i in 4")],
    },
    Wrong {
        what: "behind the end of a view lies another one",
        before: "kernel f(n) {
  in x: f32[n] padded(0, 4)
  out y bits n * 64 { a: f32[n] @ 0 : (0, 1, 0, 32) padded(0, 4); b: f32[n] @ n * 32 : (0, 1, 0, 32) }
  for k in n spatial serial {
    T: b[k] = x[k] * 2f32
  }
  for o in (n + 3) / 4 spatial serial {
    for i in min(n - o * 4, 4) spatial serial {
      S: a[o * 4 + i] = x[o * 4 + i]
    }
  }
}",
        changes: &[("for i in min(n - o * 4, 4)", "for i in 4")],
    },
    Wrong {
        what: "an iteration's own temporary ends earlier",
        before: "kernel f() {
  in x: f32[6] padded(0, 4)
  out y: f32[6] padded(0, 4)
  for o in 2 spatial serial {
    for i in min(6 - o * 4, 4) spatial serial {
      alloc t: f32[6] on register
      T: t[5 - (o * 4 + i)] = x[o * 4 + i]
      Y: y[o * 4 + i] = t[5 - (o * 4 + i)]
    }
  }
}",
        changes: &[("for i in min(6 - o * 4, 4)", "for i in 4")],
    },
];

/// The program with the room that its parameters promise as rows.
fn with_room(k: &Kernel) -> Kernel {
    let mut k = k.clone();
    for v in k.params.iter_mut().flat_map(|p| &mut p.views).filter(|v| v.padding(0) > 1) {
        let m = v.padding(0);
        v.shape[0] = (v.shape[0].clone() + (m - 1)).div(m, &Bounds::default()) * m;
    }
    k
}

/// What the parameters hold after a run, without the room, which is full of one number at the start; nothing when the run fails.
fn run(k: &Kernel, n: i64, room: u64) -> Option<Vec<Vec<u8>>> {
    let dims: Vec<(&str, i64)> = k.dims.iter().map(|d| (&**d, n)).collect();
    let get = |d: &str| dims.iter().find(|(m, _)| *m == d).map(|(_, v)| *v);
    let mut m = Memory::new(&dims);
    for p in &k.params {
        let bits = p.bits.eval(&get)?;
        // Nothing of a shape's room is behind this: it is that of the least multiple.
        let rows: i64 = p.views.iter().filter_map(|v| v.shape.first()?.eval(&get)).max().unwrap_or(1);
        let width = p.views[0].dtype.bits();
        let whole = p.views.iter().map(|v| (rows + v.padding(0) - 1) / v.padding(0) * v.padding(0)).max()?;
        let size = bits + (whole - rows) * bits / rows;
        let mut bytes = vec![0; size as usize / 8];
        for at in 0..size / width {
            let v = match p.views[0].dtype.is_int() {
                _ if at * width >= bits => room,
                true => 1,
                false => (1.0 + at as f32).to_bits().into(),
            };
            write_bits(&mut bytes, at * width, width, v)?;
        }
        m.set(&p.name, &bytes);
    }
    interpret(&with_room(k), &mut m).ok()?;
    let held =
        |p: &lathe_ir::tensor::Param| Some(m.params[&p.name][..p.bits.eval(&get)? as usize / 8].to_vec());
    k.params.iter().filter(|p| p.access != Access::In).map(held).collect()
}

#[test]
fn iterations_that_count_are_not_added() {
    let (mut prover, mut holes) = (Prover::default(), String::new());
    for w in WRONG {
        let before = parse(w.before).expect("a kernel");
        let mut text = before.to_string();
        for (from, to) in w.changes {
            assert!(text.contains(from), "{}: no '{from}' in\n{text}", w.what);
            text = text.replace(from, to);
        }
        let after = parse(&text).expect("a kernel");
        let mut differs = false;
        for (n, room) in [1, 2, 3, 5, 8].into_iter().flat_map(|n| [(n, 0), (n, 100)]) {
            let right = run(&before, n, room);
            assert!(right.is_some(), "{}: the program before fails", w.what);
            differs |= run(&after, n, room) != right;
        }
        assert!(differs, "{}: nothing is wrong", w.what);
        if prover.search(&before, &after, None).is_ok() {
            holes += &format!("{}\n", w.what);
        }
    }
    assert!(holes.is_empty(), "certified:\n{holes}");
}

/// The way that blocks of rows are padded, and what an iteration may do there.
#[test]
fn iterations_that_nobody_looks_at_are_added() {
    let before = parse(
        "kernel f(n) {
  in x: f32[n, 3] padded(0, 4)
  in w: i32[3] range(1, 8)
  inout y bits n * 64 { q: i32[n] @ 0 : (0, 1, 0, 64) padded(0, 4); s: f32[n] @ 32 : (0, 1, 0, 64) padded(0, 4) }
  for o in (n + 3) / 4 spatial serial {
    alloc t: f32[4] on register
    for i in min(n - o * 4, 4) spatial serial {
      alloc a: f32[] on register
      Z: a[] = x[o * 4 + i, index(w[0]) / 8]
      T: t[i] = a[]
    }
    for j in min(n - o * 4, 4) spatial serial {
      Q: q[o * 4 + j] = i32(t[j]) / 2i32 + 8i32 / w[1]
      S: s[o * 4 + j] = t[j] / x[o * 4 + j, 2]
    }
  }
}",
    )
    .expect("a kernel");
    let mut prover = Prover::default();
    for loops in [&["i"][..], &["j"], &["i", "j"]] {
        let mut text = before.to_string();
        for l in loops {
            text = text.replace(&format!("for {l} in min(n - o * 4, 4)"), &format!("for {l} in 4"));
        }
        let after = parse(&text).expect("a kernel");
        let c = prover.search(&before, &after, None).unwrap_or_else(|e| panic!("{loops:?}: {e}"));
        assert!(check(&before, &after, &c).is_ok());
        for n in [1, 4, 7] {
            assert_eq!(run(&after, n, 100), run(&before, n, 100), "{loops:?}");
        }
    }
}
