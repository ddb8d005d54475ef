//! Simplification never changes the value: random expressions evaluated before and after.

use lathe_symbolic::{Bounds, Int};
use proptest::prelude::*;

fn plain(steps: &[(u8, i64)], x: i64, y: i64) -> i64 {
    steps.iter().fold(x, |v, (op, c)| match op % 6 {
        0 => v + c,
        1 => v * c,
        2 => v + y * c,
        3 => v.div_euclid(*c),
        4 => v.rem_euclid(*c),
        _ => v.min(y + c),
    })
}

fn symbolic(steps: &[(u8, i64)], b: &Bounds) -> Int {
    let y = Int::var("y");
    steps.iter().fold(Int::var("x"), |v, (op, c)| match op % 6 {
        0 => v + *c,
        1 => v * *c,
        2 => v + y.clone() * *c,
        3 => v.div(*c, b),
        4 => v.rem(*c, b),
        _ => v.min_with(&(y.clone() + *c), b),
    })
}

proptest! {
    #[test]
    fn value_is_kept(steps in prop::collection::vec((0u8..6, 1i64..20), 0..7), x in 0i64..100, y in 0i64..16) {
        let mut b = Bounds::new();
        b.set("x", 0, Some(99));
        b.set("y", 0, Some(15));
        let e = symbolic(&steps, &b);
        let v = e.eval(&|n| Some(if n == "x" { x } else { y }));
        prop_assert_eq!(v, Some(plain(&steps, x, y)));
        let r = b.range(&e);
        prop_assert!(r.lo.is_none_or(|l| l <= v.unwrap()) && r.hi.is_none_or(|h| h >= v.unwrap()));
    }
}

proptest! {
    #[test]
    fn digits_come_together(
        steps in prop::collection::vec((0u8..6, 1i64..20), 0..5),
        (n, m, k, c) in (1i64..9, 1i64..9, 1i64..9, 1i64..9),
        (x, y) in (0i64..100, 0i64..16),
    ) {
        let mut b = Bounds::new();
        b.set("x", 0, Some(99));
        b.set("y", 0, Some(15));
        let e = symbolic(&steps, &b);
        // The strides of a row-major layout, and one that leaves gaps.
        let digits = |gap: i64| {
            e.rem(n, &b) * c
                + e.div(n, &b).rem(m, &b) * (c * n)
                + e.div(n * m, &b) * (c * n * m) * gap
                + Int::var("y") * e.rem(k, &b)
                + Int::var("y") * e.div(k, &b) * k
        };
        let at = |i: &Int| i.eval(&|n| Some(if n == "x" { x } else { y }));
        for gap in [1, 2] {
            prop_assert_eq!(at(&digits(gap)), at(&digits(gap).joined()));
        }
    }
}

#[test]
fn digits_of_a_dense_index_are_the_index() {
    let (b, x) = (Bounds::new(), Int::var("x"));
    let dense = x.rem(3, &b) * 4 + x.div(3, &b).rem(3, &b) * 12 + x.div(9, &b) * 36;
    assert_eq!(dense.joined(), x.clone() * 4);
    let y = x.clone() + 7;
    let rows = y.rem(7, &b) * Int::var("s") + y.div(7, &b) * Int::var("s") * 7;
    assert_eq!(rows.joined(), y * Int::var("s"));
}

#[test]
fn split_indices_come_apart() {
    let mut b = Bounds::new();
    b.set("i", 0, Some(15));
    b.set("s", 0, Some(3));
    b.set("j", 0, Some(3));
    let k = Int::var("kb") * 32 + Int::var("s") * 4 + Int::var("j");
    assert_eq!(k.div(32, &b), Int::var("kb"));
    assert_eq!(k.rem(4, &b), Int::var("j"));
    assert_eq!(k.rem(16, &b).div(4, &b), Int::var("s"));
    assert_eq!(k.div(16, &b).rem(2, &b).to_string(), "0");
}
