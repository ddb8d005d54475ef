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
