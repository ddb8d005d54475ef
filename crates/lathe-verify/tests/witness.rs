//! A witness is believed by nobody: with a hostile one, a wrong program is refused, and a right one too.

use lathe_ir::tensor::{Expr, Kernel, Stmt, parse};
use lathe_schedule::Witness;
use lathe_verify::{Prover, check};

/// A kernel of two dimensions with one loop over `extent`, that handles element `at`.
fn kernel(var: &str, extent: &str, at: &str) -> Kernel {
    let text = format!(
        "kernel f(n, m) {{
  in x: f32[n]
  in place: i32[n]
  inout y: f32[n]
  inout z: i32[n]
  for {var} in {extent} spatial serial {{
    S: y[{at}] = x[{at}] * 2f32
    T: z[{at}] = place[{at}]
  }}
}}"
    );
    parse(&text).expect("a kernel")
}

fn index(text: &str) -> Expr {
    let k = kernel("i", "n", text);
    let Stmt::For(l) = &k.body[0] else { panic!("a loop") };
    let Stmt::Store(s) = &l.body[0] else { panic!("a block") };
    s.targets[0].1[0].clone()
}

fn witness(to_before: &[&str], to_after: &[&str]) -> Witness {
    let list = |texts: &[&str]| texts.iter().map(|t| index(t)).collect();
    Witness {
        before: vec!["i".into()],
        after: vec!["q".into()],
        to_before: list(to_before),
        to_after: list(to_after),
    }
}

/// Hints that lie: constants, divisions by what may be nothing, what the loop itself writes, other loops, other numbers.
fn hostile() -> Vec<Witness> {
    let maps = [
        "0",
        "q / (n - m)",
        "q % (n - m)",
        "q / (m - m)",
        "index(z[q])",
        "index(z[0])",
        "q + 1",
        "q * m / m + n",
    ];
    let back = [
        "0",
        "i / (n - m)",
        "i % (n - m)",
        "i / (m - m)",
        "index(z[i])",
        "index(place[i])",
        "i - 1",
        "n - i",
    ];
    let mut out = vec![witness(&[], &[]), witness(&["q", "q"], &["i", "i"]), witness(&["p"], &["p"])];
    out.extend(maps.iter().flat_map(|m| back.iter().map(|b| witness(&[m], &[b]))));
    out
}

#[test]
fn hostile_witnesses_prove_nothing() {
    let before = kernel("i", "n", "i");
    let mut prover = Prover::default();
    let wrong = [
        kernel("q", "n - 1", "q"),
        kernel("q", "m", "q"),
        kernel("q", "n", "0 * q"),
        kernel("q", "n", "q / 2"),
        kernel("q", "n", "q + 1"),
        kernel("q", "n", "index(place[q])"),
    ];
    for after in &wrong {
        for w in
            hostile().into_iter().chain([witness(&["q"], &["i"]), witness(&["n - 1 - q"], &["n - 1 - i"])])
        {
            let found = prover.search(&before, after, Some(w));
            assert!(found.is_err(), "{after}\n{}", found.expect("a certificate"));
        }
    }
    let right = kernel("q", "n", "q");
    for w in hostile() {
        let found = prover.search(&before, &right, Some(w));
        assert!(found.is_err(), "{}", found.expect("a certificate"));
    }
    // With true ones, a renamed loop and one that runs backwards are certified.
    for (after, w) in [
        (right, witness(&["q"], &["i"])),
        (kernel("q", "n", "n - 1 - q"), witness(&["n - 1 - q"], &["n - 1 - i"])),
    ] {
        let c = prover.search(&before, &after, Some(w)).expect("a certificate");
        assert!(check(&before, &after, &c).is_ok());
    }
}
