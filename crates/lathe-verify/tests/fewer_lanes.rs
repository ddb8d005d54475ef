//! An instruction in the place of fewer lanes than its own overwrites what lies behind the last one: that nobody reads it is asked for,
//! whoever wrote the program.

use lathe_ir::tensor::{Kernel, parse};
use lathe_schedule::{Schedule, ends_alike, witness};
use lathe_verify::Prover;

/// A product of two bytes a lane, of `n` lanes, and what reads it.
fn program(reads: &str) -> Kernel {
    let text = format!(
        "kernel f(n) {{
  in x: bf16[2]
  in w: bf16[n, 2] padded(0, 16)
  out y: f32[64]
  alloc t: f32[16] on register
  for i in 16 spatial lane {{
    Z: t[i] = 1f32
  }}
  for l in min(n, 16) spatial lane {{
    for b in 2 reduce serial {{
      S: t[l] sum = f32(x[b]) * f32(w[l, b])
    }}
  }}
  {reads}
}}"
    );
    parse(&text).expect("a program")
}

#[test]
fn nobody_reads_what_an_instruction_overwrites_behind_its_lanes() {
    let fit = program("for j in min(n, 16) spatial lane { Y: y[j] = t[j] }");
    assert!(ends_alike(&fit, "t", 16));
    let mut s = Schedule::new(fit.clone());
    s.step("tensorize l dpbf16ps").expect("it is one");
    let prove = |before: &Kernel, after: &Kernel| Prover::default().search(before, after, None);
    prove(&fit, s.kernel()).expect("it is right");
    let wrapped = s.kernel().to_string();
    for reads in [
        // All elements; those of another number; one; in other places; and by what accumulates.
        "for j in 16 spatial lane { Y: y[j] = t[j] }",
        "for j in min(n + 1, 16) spatial lane { Y: y[j] = t[j] }",
        "Y: y[0] = t[7]",
        "for j in min(n, 16) spatial lane { Y: y[j] = t[15 - j] }",
        "for j in min(n, 16) spatial lane { Y: y[j] = t[j] }
  for k in 16 spatial serial { X: y[k] sum = t[k] }",
        "for j in min(n, 16) spatial serial { Y: y[j] = t[j] }",
    ] {
        let before = program(reads);
        assert!(!ends_alike(&before, "t", 16), "{reads}");
        assert!(Schedule::new(before.clone()).step("tensorize l dpbf16ps").is_err(), "{reads}");
        let (head, _) = wrapped.split_once("  for j in").expect("it reads at the end");
        let after = parse(&format!("{head}  {reads}\n}}")).expect("a program");
        prove(&before, &after).expect_err(reads);
    }
}

#[test]
fn lanes_of_a_page_end_where_its_other_lanes_do() {
    let program = |extent: &str, at: &str| {
        let text = format!(
            "kernel f(n) {{
  in x: f32[n]
  out y: f32[64]
  for o in (n + 63) / 64 spatial serial {{
    alloc t: f32[64]
    for p in 4 spatial serial {{
      for l in min(16, max(0, n - o * 64 - p * 16)) spatial lane {{
        A: t[p * 16 + l] = x[o * 64 + p * 16 + l]
      }}
    }}
    for q in 4 spatial serial {{
      for m in {extent} spatial lane {{
        B: y[q * 16 + m] = t[{at}]
      }}
    }}
  }}
}}"
        );
        ends_alike(&parse(&text).expect("a program"), "t", 16)
    };
    assert!(program("min(16, max(0, n - o * 64 - q * 16))", "q * 16 + m"));
    // Those of another page, more, or of vectors that begin inside of others.
    assert!(!program("min(16, max(0, n - o * 64 - (3 - q) * 16))", "q * 16 + m"));
    assert!(!program("min(16, max(0, n + 1 - o * 64 - q * 16))", "q * 16 + m"));
    assert!(!program("min(16, max(0, n - o * 64 - q * 16))", "q * 8 + m"));
    assert!(!program("16", "q * 16 + m"));
}

#[test]
fn a_loop_inside_of_an_instruction_stays_what_it_is() {
    let program = |inner: &str| {
        parse(&format!(
            "kernel f(n) {{
  in w: u8[n, 16, 4]
  in x: i8[n, 4]
  inout y: i32[n, 16]
  for i in n spatial serial {{
    intrinsic dpbusd {{
      for l in 16 spatial serial {{
        {inner}
      }}
    }}
  }}
}}"
        ))
        .expect("a program")
    };
    let before = program("for b in 4 reduce serial { S: y[i, l] sum = i32(w[i, l, b]) * i32(x[i, b]) }");
    let after = program(
        "for b.o in 2 reduce serial { for b.i in 2 reduce serial {
          S: y[i, l] sum = i32(w[i, l, b.o * 2 + b.i]) * i32(x[i, b.o * 2 + b.i]) } }",
    );
    // Without the instruction it is right.
    let plain = |k: &Kernel| {
        let text = k.to_string().replace("intrinsic dpbusd {", "if 0 < 1 {");
        parse(&text).expect("a program")
    };
    let prove = |b: &Kernel, a: &Kernel| Prover::default().search(b, a, witness(b, "split b 2")).map(drop);
    prove(&plain(&before), &plain(&after)).expect("it is right");
    prove(&before, &after).expect_err("an instruction has four steps");
    assert!(Schedule::new(before).step("split b 2").is_err());
}
