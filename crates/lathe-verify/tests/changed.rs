//! Whatever is certified is right: each number in the programs after the steps of the file tests is changed, one at a time,
//! and where a certificate is found nevertheless, both programs must compute the same bits.

use lathe_ir::tensor::{Access, Kernel, Memory, check, interpret, parse};
use lathe_ir::write_bits;
use lathe_schedule::{Schedule, witness};
use lathe_verify::{PROVED, Prover};
use std::path::Path;

/// The text with each of its numbers one more, and one less.
fn changed(text: &str) -> Vec<String> {
    let start = text.find("  for ").unwrap_or(0);
    let mut out = vec![];
    let mut at = start;
    while let Some(i) = text[at..].find(|c: char| c.is_ascii_digit()).map(|i| at + i) {
        let end = text[i..].find(|c: char| !c.is_ascii_digit()).map_or(text.len(), |n| i + n);
        let named = text[..i].ends_with(|c: char| c.is_alphanumeric() || c == '.' || c == '_');
        if let (false, Ok(n)) = (named, text[i..end].parse::<i64>()) {
            for n in [n.saturating_add(1), n.saturating_sub(1)] {
                out.push(format!("{}{n}{}", &text[..i], &text[end..]));
            }
        }
        at = end;
    }
    out
}

/// What the parameters hold after a run; nothing when it fails.
fn run(k: &Kernel, n: i64) -> Option<Vec<Vec<u8>>> {
    let dims: Vec<(&str, i64)> = k.dims.iter().enumerate().map(|(i, d)| (&**d, n + i as i64)).collect();
    let get = |d: &str| dims.iter().find(|(m, _)| *m == d).map(|(_, v)| *v);
    let mut m = Memory::new(&dims);
    let mut seed = n as u64;
    for p in &k.params {
        let bits = p.bits.eval(&get)?;
        let mut bytes = vec![0; bits as usize / 8];
        let width = p.views[0].dtype.bits();
        for at in 0..bits / width {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let v = match p.views[0].dtype.is_int() {
                true => (seed >> 33) % 4,
                false => ((seed >> 33) as f32 / (1u64 << 30) as f32 - 1.0).to_bits().into(),
            };
            write_bits(&mut bytes, at * width, width, v)?;
        }
        m.set(&p.name, &bytes);
    }
    interpret(k, &mut m).ok()?;
    Some(k.params.iter().filter(|p| p.access != Access::In).map(|p| m.params[&p.name].clone()).collect())
}

#[test]
fn what_is_certified_computes_the_same() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lathe-rewrite/tests/files/schedule");
    let mut prover = Prover::default();
    let (mut tried, mut certified) = (0, 0);
    for file in std::fs::read_dir(folder).expect("the folder can be read") {
        let text = std::fs::read_to_string(file.expect("an entry").path()).expect("the file can be read");
        for case in text.split("# test: schedule\n").skip(1) {
            let parts: Vec<&str> = case.split("\n----\n").collect();
            let Ok(s) = Schedule::replay(parse(parts[0]).expect("a kernel"), parts[1]) else { continue };
            for step in s.steps() {
                if !step.step.split_whitespace().next().is_some_and(|name| PROVED.contains(&name)) {
                    continue;
                }
                for text in changed(&step.after.to_string()) {
                    let Some(after) = parse(&text).ok().filter(|k| check(k).is_ok()) else { continue };
                    tried += 1;
                    if prover.search(&step.before, &after, witness(&step.before, &step.step)).is_err() {
                        continue;
                    }
                    certified += 1;
                    for n in [1, 2, 3, 7, 17] {
                        if let Some(right) = run(&step.before, n) {
                            assert_eq!(Some(right), run(&after, n), "{}\n{after}", step.before);
                        }
                    }
                }
            }
        }
    }
    println!("{tried} changed programs, {certified} certified");
    assert!(tried > 200, "{tried}");
}
