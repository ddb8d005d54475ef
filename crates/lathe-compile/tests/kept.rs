//! What was compiled once is read the next time, and made again where it is damaged or was made by something else.

use lathe_compile::{Finding, Findings, Session};
use lathe_ir::{Name, Tensor, graph};
use lathe_machine::Target;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The same sums each time, with the product's constant packed at load.
fn run(cache: &Path, passes: &[&str]) -> Vec<f32> {
    let g = graph::parse(
        "graph f(T <= 8) {
           x: f32[T, 16] = input
           w: f32[24, 16] = const \"w\"
           b: f32[24] = const \"b\"
           y: f32[T, 24] = matmul(x, w)
           z: f32[T, 24] = add(y, b)
           return z
         }",
    )
    .unwrap();
    let w: Vec<f32> = (0..24 * 16).map(|i| (i % 7) as f32 - 3.0).collect();
    let constants: HashMap<Name, Tensor> =
        [("w".into(), Tensor::f32(&[24, 16], &w)), ("b".into(), Tensor::f32(&[24], &[0.5; 24]))].into();
    let mut s = Session::new(&g, passes, &constants, &Target::portable(), cache, 1).unwrap();
    let x: Vec<f32> = (0..5 * 16).map(|i| (i % 5) as f32).collect();
    let y = s.run(&[("x", &Tensor::f32(&[5, 16], &x))]).unwrap()[0].to_f32();
    for (row, x) in y.chunks(24).zip(x.chunks(16)) {
        for (y, w) in row.iter().zip(w.chunks(16)) {
            assert_eq!(*y, x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>() + 0.5);
        }
    }
    y
}

fn plans(cache: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(cache.join("plans")).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn a_plan_is_kept_and_made_again_where_it_does_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path();
    let first = run(cache, &["pack"]);
    let [path] = <[PathBuf; 1]>::try_from(plans(cache)).unwrap();
    let kept = std::fs::read_to_string(&path).unwrap();
    let date = || std::fs::metadata(&path).unwrap().modified().unwrap();
    let before = date();
    assert_eq!(run(cache, &["pack"]), first);
    assert_eq!(date(), before, "nothing was made again");

    // Damage in any place, a plan of another program, a library that is gone: each is made again as it was.
    let line = kept.find('\n').unwrap();
    let damaged = [
        kept.replacen("class", "glass", 1),
        kept[..kept.len() / 2].to_string(),
        String::new(),
        format!("{}{}", "0".repeat(32), &kept[32..]),
        format!("{} {} {}{}", &kept[..32], "0".repeat(32), &kept[66..line], &kept[line..]),
    ];
    for text in damaged {
        std::fs::write(&path, &text).unwrap();
        assert_eq!(run(cache, &["pack"]), first);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), kept);
    }

    // Other passes have a file of their own; what tuning found makes the same one anew.
    assert_eq!(run(cache, &[]), first);
    assert_eq!(plans(cache).len(), 2);
    let found = Finding {
        key: "0".repeat(32),
        threads: 1,
        seconds: 1.0,
        rule: Some(1.0),
        decisions: Default::default(),
    };
    let findings = Findings::path(cache, &Target::portable());
    std::fs::create_dir_all(findings.parent().unwrap()).unwrap();
    std::fs::write(findings, found.line() + "\n").unwrap();
    assert_eq!(run(cache, &["pack"]), first);
    let now = std::fs::read_to_string(&path).unwrap();
    assert!(now[32..] == kept[32..] && now[..32] != kept[..32], "the stamp alone is another");
}

/// Kernels are kept without their bodies, and with what these say of where they read: a step that goes by what another one wrote is no step
/// that every thread may do for itself.
#[test]
fn what_leads_a_kernel_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let g = graph::parse(
        "graph f() {
           x: f32[8, 16] = input
           rows: i32[3] = input
           y: f32[3, 16] = take(x, rows)
           z: f32[8] = sum(x) {axes = [1]}
           return y, z
         }",
    )
    .unwrap();
    Session::new(&g, &[], &HashMap::new(), &Target::portable(), folder.path(), 1).unwrap();
    let kept = std::fs::read_to_string(&plans(folder.path())[0]).unwrap();
    let leads = |kernel: &str| {
        let block = kept.split("----\n").find(|b| b.lines().nth(1).is_some_and(|l| l.starts_with(kernel)));
        block.unwrap().lines().nth(5).unwrap().to_string()
    };
    assert_eq!([leads("take"), leads("sum")], ["p1", ""]);
}
