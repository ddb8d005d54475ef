//! The text of derivations: what is printed is read back as it was, and of what is damaged it is said where.

use lathe_check::{Proof, Term};
use lathe_ir::tensor::{Binary, Expr, parse};
use lathe_schedule::{Schedule, Witness};
use lathe_verify::{Certificate, Derivation, Order, Prover, derivations};
use std::path::Path;

/// Small random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }

    fn expr(&mut self, deep: usize) -> Expr {
        if deep == 0 {
            return match self.below(3) {
                0 => Expr::from(self.below(100) as i64),
                1 => Expr::from(-(self.below(100) as i64)),
                _ => Expr::var(self.pick(&["i", "i.o", "js.i.c2", "n"])),
            };
        }
        if self.below(6) == 0 {
            let index = [self.expr(deep - 1), self.expr(deep - 1)];
            return Expr::load("at.r", &index);
        }
        use Binary::{Add, Div, Max, Min, Mul, Rem, Sub};
        let op = self.pick(&[Add, Sub, Mul, Div, Rem, Min, Max]);
        let (a, b) = (self.expr(deep - 1), self.expr(deep - 1));
        a.bin(op, &b)
    }

    fn proof(&mut self, deep: usize) -> Proof {
        match if deep == 0 { 0 } else { self.below(4) } {
            0 => Proof::Sum((0..self.below(4)).map(|_| (self.below(30), self.below(90) as u64)).collect()),
            1 => {
                let vars = (0..self.below(3)).map(|_| self.below(9) as u32).collect();
                let t = Term::product(vars, self.below(9) as i128 - 4);
                Proof::Cut(t, self.proof(deep - 1).into(), self.proof(deep - 1).into())
            }
            2 => {
                let n = self.below(4);
                Proof::Cases(self.below(9), (0..n).map(|_| self.proof(deep - 1)).collect())
            }
            _ => Proof::Product(self.below(9), self.below(9), self.proof(deep - 1).into()),
        }
    }

    fn certificate(&mut self) -> Certificate {
        let names = |r: &mut Random| -> Vec<lathe_ir::Name> {
            (0..r.below(3)).map(|_| r.pick(&["i", "i.o", "js.i.c2"]).into()).collect()
        };
        let (before, after) = (names(self), names(self));
        let (to_before, to_after) =
            (before.iter().map(|_| self.expr(2)).collect(), after.iter().map(|_| self.expr(3)).collect());
        let moves = !before.is_empty() || !after.is_empty();
        Certificate {
            witness: moves.then_some(Witness { before, after, to_before, to_after }),
            order: self.pick(&[Order::Kept, Order::Apart, Order::Accumulated]),
            proofs: (0..self.below(5)).map(|_| self.proof(3)).collect(),
        }
    }
}

/// Of all schedules of the file tests that are proved.
fn found() -> Vec<Derivation> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-rewrite/tests/files/schedule");
    let (mut prover, mut out) = (Prover::default(), vec![]);
    for file in std::fs::read_dir(folder).expect("the folder can be read") {
        let text = std::fs::read_to_string(file.expect("an entry").path()).expect("the file can be read");
        for case in text.split("# test: schedule\n").skip(1) {
            let parts: Vec<&str> = case.split("\n----\n").collect();
            let Ok(s) = Schedule::replay(parse(parts[0]).expect("a kernel"), parts[1]) else { continue };
            out.extend(Derivation::find(&s, &mut prover));
        }
    }
    out
}

#[test]
fn certificates_are_read_back() {
    let mut r = Random(3);
    for _ in 0..2000 {
        let c = r.certificate();
        assert_eq!(c.to_string().parse().as_ref(), Ok(&c), "{c}");
    }
}

#[test]
fn derivations_are_read_back_and_checked() {
    let all = found();
    assert!(all.len() > 30, "{}", all.len());
    let text = Derivation::file(&all);
    let again = derivations(&text).expect("a file");
    assert_eq!(again, all);
    for d in &again {
        d.check().unwrap_or_else(|e| panic!("{e}\n{d}"));
    }
    assert_eq!(Derivation::file(&[]).lines().count(), 1);
}

/// A damaged text is an error with its line, or is what it says: neither to read it nor to check it ends in any other way.
#[test]
fn damaged_files_are_refused() {
    let all = found();
    let (mut r, mut read, mut certified) = (Random(7), 0, 0);
    for _ in 0..3000 {
        let text = Derivation::file(std::slice::from_ref(&all[r.below(all.len())]));
        let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
        for _ in 0..=r.below(2) {
            let at = r.below(lines.len());
            match r.below(5) {
                0 => drop(lines.remove(at)),
                1 => lines.insert(at, lines[r.below(lines.len())].clone()),
                2 => {
                    let other = r.below(lines.len());
                    lines.swap(at, other);
                }
                3 => {
                    let mut bytes = lines[at].clone().into_bytes();
                    if !bytes.is_empty() {
                        let place = r.below(bytes.len());
                        bytes[place] = r.pick(b"0123456789 ()[]*+-=/%vijn.\xff");
                    }
                    lines[at] = String::from_utf8_lossy(&bytes).into_owned();
                }
                _ => {
                    let end = r.below(lines[at].chars().count() + 1);
                    lines[at] = lines[at].chars().take(end).collect();
                }
            }
            if lines.is_empty() {
                break;
            }
        }
        let count = lines.len();
        let text: String = lines.iter().map(|l| format!("{l}\n")).collect();
        match derivations(&text) {
            Err(e) => assert!((1..=count + 1).contains(&e.line) && !e.message.is_empty(), "{e}\n{text}"),
            Ok(read_back) => {
                read += 1;
                let printed = Derivation::file(&read_back);
                assert_eq!(derivations(&printed).as_ref(), Ok(&read_back));
                for d in read_back.iter().filter(|d| d.check().is_ok()) {
                    certified += d.steps.len();
                }
            }
        }
    }
    println!("{read} of 3000 damaged files were read, {certified} steps in them certified");
    assert!(read > 100, "{read}");
}

#[test]
fn errors_say_where() {
    let cases = [
        ("", 1, "'lathe derivations 1' expected"),
        ("lathe derivations 1\nnonsense\n", 2, "'program' expected"),
        ("lathe derivations 1\ncertificate\n", 2, "a certificate of no step"),
        ("lathe derivations 1\nstep split i 4\n", 2, "a step of no program"),
        ("lathe derivations 1\nprogram\nkernel f(n) {\n  out y: f32[n\n}\n", 5, "expected"),
        ("lathe derivations 1\nprogram\nkernel f() {\n}\nstep x\nkernel f() {\n}\n", 5, "has no certificate"),
        (
            "lathe derivations 1\nprogram\nkernel f() {\n}\nstep x\nkernel f() {\n}\ncertificate\n",
            9,
            "without an order",
        ),
        (
            "lathe derivations 1\nprogram\nkernel f() {\n}\nstep x\nkernel f() {\n}\ncertificate\norder kept\n(sum 1*)\n",
            10,
            "a number expected",
        ),
    ];
    for (text, line, message) in cases {
        let e = derivations(text).expect_err("no file");
        assert!(e.line == line && e.message.contains(message), "{e}\n{text}");
    }
}
