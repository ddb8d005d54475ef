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
