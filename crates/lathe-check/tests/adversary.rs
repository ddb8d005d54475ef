//! The checker against whoever wants a false statement accepted: hand-made attacks, and random proofs of hypotheses
//! that hold for numbers at hand.

use lathe_check::{Obligation, Proof, Term};

fn t(constant: i128, parts: &[(u32, i128)]) -> Term {
    parts.iter().fold(Term::constant(constant), |sum, (v, c)| {
        sum.add(&Term::product(vec![*v], *c)).expect("small numbers")
    })
}

fn refused(o: &Obligation, text: &str) -> bool {
    o.check(&text.parse().expect("a proof")).is_err()
}

#[test]
fn sums_must_be_positive_constants() {
    // 0 <= i <= 5: no contradiction.
    let o = Obligation { facts: vec![t(0, &[(0, -1)]), t(-5, &[(0, 1)])], choices: vec![] };
    for text in ["(sum)", "(sum 0*0)", "(sum 1*0 1*1)", "(sum 1*0)", "(sum 3*1)", "(sum 1*2)"] {
        assert!(refused(&o, text), "{text}");
    }
}

#[test]
fn zero_is_not_positive() {
    let o = Obligation { facts: vec![t(0, &[(0, -1)]), t(0, &[(0, 1)])], choices: vec![] };
    assert!(refused(&o, "(sum 1*0 1*1)"));
}

#[test]
fn every_branch_must_be_closed() {
    // i = 3, or i = 7, and i <= 5: the second alternative alone is impossible.
    let is = |v: i128| vec![t(-v, &[(0, 1)]), t(v, &[(0, -1)])];
    let o = Obligation { facts: vec![t(-5, &[(0, 1)])], choices: vec![vec![is(3), is(7)]] };
    assert!(o.check(&Proof::Sum(vec![])).is_err());
    let second: Proof = "(sum 1*0 1*2)".parse().unwrap();
    assert!(o.check(&Proof::Cases(0, vec![second.clone(), second.clone()])).is_err());
    assert!(o.check(&Proof::Cases(0, vec![second.clone()])).is_err());
    assert!(o.check(&Proof::Cases(1, vec![second.clone(), second.clone()])).is_err());
    let sevens = Obligation { choices: vec![vec![is(7), is(8)]], ..o };
    assert!(sevens.check(&Proof::Cases(0, vec![second.clone(), second])).is_ok());
}

#[test]
fn facts_of_a_branch_do_not_leak() {
    // The low branch's fact must be gone in the high one, and the other way round.
    let o = Obligation::default();
    assert!(refused(&o, "(cut [1*v0] (sum 1*0) (sum 1*0 1*1))"));
    assert!(refused(&o, "(cut [1] (sum 1*0) (sum 1*0))"));
    // An alternative of a choice is no fact outside of its case.
    let o = Obligation { facts: vec![], choices: vec![vec![vec![t(1, &[])], vec![]]] };
    assert!(refused(&o, "(cases 0 (sum 1*0) (sum 1*0))"));
}

#[test]
fn products_have_the_sign_of_products() {
    // a <= -1 and b <= -1: a*b >= 1, so a*b <= 0 is impossible; a*b >= 2 is not.
    let product = |by: i128, c: i128| Term::product(vec![0, 1], by).plus(c).unwrap();
    let facts = vec![t(1, &[(0, 1)]), t(1, &[(1, 1)])];
    let o = Obligation { facts: [facts.clone(), vec![product(1, 0)]].concat(), choices: vec![] };
    // (a+1)(b+1) >= 0 reads ab + a + b + 1 >= 0, and with a, b <= -1: ab >= 1.
    assert!(o.check(&"(product 0 1 (sum 1*0 1*1 1*2 1*3))".parse().unwrap()).is_ok());
    let o = Obligation { facts: [facts, vec![product(-1, 2)]].concat(), choices: vec![] };
    assert!(refused(&o, "(product 0 1 (sum 1*0 1*1 1*2 1*3))"));
    assert!(refused(&o, "(product 0 7 (sum))"));
}

#[test]
fn overflow_is_refused() {
    let o =
        Obligation { facts: vec![t(i128::MAX, &[(0, i128::MAX)]), t(0, &[(0, i128::MIN)])], choices: vec![] };
    assert!(refused(&o, "(sum 2*0)"));
    assert!(refused(&o, "(sum 1*0 1*1)"));
    assert!(refused(&o, "(product 0 0 (sum 1*2))"));
    assert!(refused(&o, "(product 1 1 (sum 1*2))"));
    let least = format!("(cut [{}] (sum 1*2) (sum 1*2))", i128::MIN);
    assert!(refused(&o, &least));
}

#[test]
fn the_reader_is_strict() {
    for text in [
        "",
        "(sum",
        "(sum 1)",
        "(sum 1*)",
        "(sum -1*0)",
        "(sum 01*0)",
        "(sum 1*0))",
        "(sum  1*0)",
        " (sum)",
        "(sum 99999999999999999999*0)",
        "(cut [] (sum) (sum))",
        "(cut [v0] (sum) (sum))",
        "(cut [1] (sum))",
        "(cases (sum))",
        "(product 0 (sum))",
        "(sumo)",
        "(true)",
        "(sum +1*0)",
    ] {
        assert!(text.parse::<Proof>().is_err(), "{text}");
    }
    let deep = format!("{}(sum){}", "(product 0 0 ".repeat(100_000), ")".repeat(100_000));
    assert!(deep.parse::<Proof>().is_err());
    let long = format!("{}(sum 1*0){}", "(product 0 0 ".repeat(100), ")".repeat(100));
    let proof: Proof = long.parse().expect("at the limit");
    assert_eq!(proof.to_string(), long);
    let facts = vec![Term::constant(1)];
    assert!(Obligation { facts: facts.clone(), choices: vec![] }.check(&proof).is_ok());
    let deeper = Proof::Product(0, 0, proof.into());
    assert!(Obligation { facts, choices: vec![] }.check(&deeper).is_err());
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n
    }

    fn proof(&mut self, depth: usize) -> Proof {
        match self.below(if depth == 0 { 1 } else { 6 }) {
            3 => {
                let cut = t(self.below(9) as i128 - 4, &[(self.below(3) as u32, self.below(5) as i128 - 2)]);
                Proof::Cut(cut, self.proof(depth - 1).into(), self.proof(depth - 1).into())
            }
            4 => Proof::Cases(0, vec![self.proof(depth - 1), self.proof(depth - 1)]),
            5 => Proof::Product(self.below(8), self.below(8), self.proof(depth - 1).into()),
            _ => Proof::Sum((0..self.below(5)).map(|_| (self.below(8), self.below(4) as u64)).collect()),
        }
    }
}

/// Hypotheses that are true of some integers can have no proof: two hundred thousand random ones are all refused, and each is read back as
/// it is printed.
#[test]
fn what_is_possible_is_never_refuted() {
    let mut r = Random(7);
    let mut refuted = 0;
    for round in 0..2000 {
        let point: Vec<i128> = (0..3).map(|_| r.below(7) as i128 - 3).collect();
        let satisfied = |r: &mut Random| {
            let mut sum = Term::default();
            for v in 0..3u32 {
                sum = sum.add(&Term::product(vec![v], r.below(5) as i128 - 2)).unwrap();
            }
            let (i, j) = (r.below(3), r.below(3));
            sum = sum.add(&Term::product(vec![i as u32, j as u32], r.below(3) as i128 - 1)).unwrap();
            let value: i128 = sum
                .parts()
                .map(|(vars, c)| c * vars.iter().map(|v| point[*v as usize]).product::<i128>())
                .sum();
            sum.plus(-value - r.below(2) as i128).unwrap()
        };
        let facts: Vec<Term> = (0..5).map(|_| satisfied(&mut r)).collect();
        let choices = vec![vec![vec![Term::constant(1)], vec![satisfied(&mut r)]]];
        let o = Obligation { facts, choices };
        for _ in 0..100 {
            let proof = r.proof(3);
            assert!(o.check(&proof).is_err(), "{proof}\n{o:?}");
            if round % 100 == 0 {
                assert_eq!(proof.to_string().parse(), Ok(proof));
            }
        }
        // The same with one impossible fact: then proofs are found, so the loop above does try.
        let mut bad = o;
        bad.facts[0] = Term::constant(1);
        refuted += (0..20).filter(|_| bad.check(&r.proof(2)).is_ok()).count();
    }
    assert!(refuted > 300, "{refuted}");
}
