//! Cores write whole bytes: iterations that go to cores have a certificate only where those of no two write elements of one byte.

use lathe_ir::tensor::parse;
use lathe_verify::Prover;

fn certified(elements: &str, columns: i64) -> bool {
    let text = |level: &str| {
        format!(
            "kernel f(n) {{
  in x: i32[n, {columns}]
  out y: {elements}[n, {columns}]
  for i in n spatial {level} {{
    for j in {columns} spatial serial {{
      S: y[i, j] = {elements}(x[i, j] & 1i32)
    }}
  }}
}}"
        )
    };
    let [before, after] = ["serial", "core"].map(|level| parse(&text(level)).unwrap());
    Prover::default().certify(&before, &after, "parallel i").is_ok()
}

#[test]
fn no_byte_is_written_by_two_cores() {
    for (elements, bits) in [("u2", 2), ("u4", 4), ("u8", 8), ("i32", 32)] {
        for columns in 1..12 {
            let whole = columns * bits % 8 == 0;
            assert_eq!(certified(elements, columns), whole, "{columns} of {elements}");
        }
    }
}

#[test]
fn nor_where_a_step_moves_the_loop() {
    // Each core had a temporary of its own, and shares one after the loop has moved inside.
    let proved = |elements: &str| {
        let program = |body: &str| {
            let text = format!("kernel f() {{ in x: {elements}[48] out y: i32[48] {body} }}");
            parse(&text.replace("ELEMENTS", elements)).unwrap_or_else(|e| panic!("{e} in {text}"))
        };
        let before = program(
            "for n in 3 spatial core { for i in 16 spatial serial {
               alloc t: ELEMENTS[] on workspace
               A: t[] = x[n * 16 + i]
               B: y[n * 16 + i] = i32(t[])
             } }",
        );
        let after = program(
            "for i in 16 spatial serial {
               alloc t: ELEMENTS[3] on workspace
               for n in 3 spatial core { A: t[n] = x[n * 16 + i] }
               for n.c1 in 3 spatial core { B: y[n.c1 * 16 + i] = i32(t[n.c1]) }
             }",
        );
        Prover::default().certify(&before, &after, "sink n").is_ok()
    };
    assert!(proved("i32") && proved("u8"));
    assert!(!proved("u4") && !proved("bool"));
}
