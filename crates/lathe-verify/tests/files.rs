//! Every step of the proved primitives in the file tests of schedules has a certificate, whose text says all its proofs.

use lathe_check::Proof;
use lathe_ir::tensor::parse;
use lathe_schedule::{Schedule, Tag};
use lathe_verify::{Order, PROVED, Prover, Refusal, check, claim, report};
use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn steps_of_the_file_tests_are_certified() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-rewrite/tests/files/schedule");
    let (mut prover, mut counts) = (Prover::default(), BTreeMap::new());
    for file in std::fs::read_dir(folder).expect("the folder can be read") {
        let text = std::fs::read_to_string(file.expect("an entry").path()).expect("the file can be read");
        for case in text.split("# test: schedule\n").skip(1) {
            let parts: Vec<&str> = case.split("\n----\n").collect();
            let Ok(s) = Schedule::replay(parse(parts[0]).expect("a kernel"), parts[1]) else { continue };
            for ((step, result), applied) in report(&s, &mut prover).into_iter().zip(s.steps()) {
                let name = step.split_whitespace().next().expect("a name").to_string();
                match result {
                    Ok(c) => {
                        for p in &c.proofs {
                            assert_eq!(p.to_string().parse::<Proof>().as_ref(), Ok(p), "{step}");
                        }
                        *counts.entry(name).or_insert(0) += 1;
                    }
                    Err(Refusal::Unproved(_)) => assert!(!PROVED.contains(&&*name)),
                    Err(e) => panic!("{step}: {e}\n{}\n{}", applied.before, applied.after),
                }
            }
        }
    }
    println!("{counts:?}");
    for name in PROVED {
        assert!(counts.get(name).is_some_and(|n| *n >= 2), "{name}: {counts:?}");
    }
}

/// What `bench/peers/halide_compare.py` runs, which takes no step without a proof.
#[test]
fn schedules_beside_halide_are_certified() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/halide");
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).expect("the file can be read");
    let mut prover = Prover::default();
    for (program, steps) in
        [("rows", "stage"), ("columns", "stage"), ("tiles", "tiles"), ("product", "product")]
    {
        let kernel = parse(&text(&format!("{program}.txt"))).expect("a kernel");
        let s = Schedule::replay(kernel, &text(&format!("{steps}.steps"))).expect("it applies");
        for (step, result) in report(&s, &mut prover) {
            result.unwrap_or_else(|e| panic!("{program}: {step}: {e}"));
        }
    }
}

#[test]
fn tags_and_promises_are_found() {
    let k = parse(
        "kernel f(n) {
  in x: f32[n, 40]
  out y: f32[n]
  for i in n spatial serial {
    Z: y[i] = 0f32
    for k in 40 reduce serial {
      S: y[i] sum = x[i, k]
    }
  }
}",
    )
    .expect("a kernel");
    let s = Schedule::replay(k, "split k 16\nvectorize k.i").expect("it applies");
    let mut prover = Prover::default();
    let tags: Vec<(Tag, Vec<String>)> = s
        .steps()
        .iter()
        .map(|s| {
            let c = prover.certify(&s.before, &s.after, &s.step).expect("a certificate");
            let claimed = claim(&s.before, &s.after, c.witness.as_ref(), c.order).expect("a rule");
            (check(&s.before, &s.after, &c).expect("sound"), claimed.assumes)
        })
        .collect();
    let padded = vec!["dimension 1 of 'x' is padded to 16".to_string()];
    assert_eq!(tags, [(Tag::Bitwise, vec![]), (Tag::Reassociates, padded)]);
}

/// An instruction that is wrong for a number of its types has a certificate under the promise that there is none.
#[test]
fn what_an_instruction_does_not_take_is_promised() {
    let k = parse(
        "kernel f() {
  in w: i8[16, 4]
  in x: i8[4]
  inout y: i32[16]
  for l in 16 spatial serial {
    for b in 4 reduce serial {
      S: y[l] sum = i32(w[l, b]) * i32(x[b])
    }
  }
}",
    )
    .expect("a kernel");
    let assumed = |instruction: &str| {
        let s = Schedule::replay(k.clone(), &format!("tensorize l {instruction}")).expect("it applies");
        let step = &s.steps()[0];
        claim(&step.before, &step.after, None, Order::Kept).expect("a rule").assumes
    };
    let promise = "'maddbs' reads 'w' as its 'x' and 'x' as its 'y', of which 'y' has no -128";
    assert_eq!(assumed("maddbs"), [promise]);
    assert!(assumed("sdot").is_empty());
}

/// A loop whose extent was written before it is proved like others; one that writes it is not.
#[test]
fn an_extent_stays_while_nothing_in_the_loop_writes_it() {
    let program = |body: &str| {
        let text = format!(
            "kernel f(n) {{
  in x: i32[n] range(1, 4)
  inout y: i32[n]
  out z: f32[n]
  for i in n spatial serial {{
    S: y[i] = x[i]
  }}
  for k in index(y[0]) % 8 sequential serial {{
    for j in index(y[0]) sequential serial {{
      {body}
    }}
  }}
  W: y[0] = 7i32
}}"
        );
        parse(&text).expect("a kernel")
    };
    let mut prover = Prover::default();
    for step in ["split k 4", "split j 4", "peel k 4"] {
        let s = Schedule::replay(program("T: z[0] = 1f32"), step).expect("it applies");
        let after = s.kernel().to_string();
        prover.certify(s.original(), s.kernel(), step).unwrap_or_else(|e| panic!("{step}: {e}"));
        // What the scheduler refuses itself.
        let other = |text: &str| parse(&text.replace("z[0] = 1f32", "y[0] = 2i32")).expect("a kernel");
        let (before, after) = (other(&s.original().to_string()), other(&after));
        let refused =
            prover.certify(&before, &after, step).expect_err("the loop may end elsewhere").to_string();
        assert!(refused.contains("may change"), "{step}: {refused}");
    }
}
