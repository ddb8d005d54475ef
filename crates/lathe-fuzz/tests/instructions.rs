//! Instructions do what their rows say, on elements as they lie: steps that leave them where that is something else are found.

use lathe_fuzz::{Case, Judge, Kind, seeds};
use lathe_ir::tensor::{Kernel, parse};
use lathe_schedule::{Applied, Tag};
use std::path::Path;

#[test]
fn what_the_primitive_leaves_is_what_the_machine_does() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut judge = Judge::default();
    for case in seeds::of_sources(&sources).iter().filter(|c| c.steps().any(|s| s.starts_with("tensorize"))) {
        if let Err(e) = judge.judge(case) {
            panic!("{e} of\n{case}");
        }
    }
    assert!(judge.counts.steps["tensorize"].certified > 10, "{:?}", judge.counts.steps["tensorize"]);
}

/// Programs with a nest and with the same nest as an instruction.
fn wrapped(declared: &str, lanes: &str, block: &str, instruction: &str) -> (Kernel, Kernel) {
    let nest = format!(
        "for l in {lanes} spatial serial {{
           for b in 4 reduce serial {{
             S: {block}
           }}
         }}"
    );
    let program = |inner: &str| {
        let text = format!("kernel f(n) {{\n{declared}\nfor i in n spatial serial {{\n{inner}\n}}\n}}");
        parse(&text).unwrap_or_else(|e| panic!("{e} in {text}"))
    };
    (program(&nest), program(&format!("intrinsic {instruction} {{\n{nest}\n}}")))
}

fn judged(declared: &str, lanes: &str, block: &str, instruction: &str) -> Option<Kind> {
    let (before, after) = wrapped(declared, lanes, block, instruction);
    let step = Applied { step: format!("tensorize l {instruction}"), tag: Tag::Bitwise, before, after };
    // Arguments of several styles.
    (0..16).find_map(|seed| {
        let case = Case { seed, ..Case::new(step.before.clone()) };
        Judge::default().judge_step(&case, &step).err().map(|f| f.kind)
    })
}

#[test]
fn what_it_should_not_leave_computes_something_else() {
    let plain = "in w: u8[n, 16, 4]\nin x: i8[n, 4]\ninout y: i32[n, 16]";
    let product = "y[i, l] sum = i32(w[i, l, b]) * i32(x[i, b])";
    assert_eq!(judged(plain, "16", product, "dpbusd"), None);
    // Factors may change places.
    assert_eq!(judged(plain, "16", "y[i, l] sum = i32(x[i, b]) * i32(w[i, l, b])", "dpbusd"), None);
    for (what, declared, lanes, block) in [
        ("both signed", "in w: i8[n, 16, 4]\nin x: i8[n, 4]\ninout y: i32[n, 16]", "16", product),
        ("neither signed", "in w: u8[n, 16, 4]\nin x: u8[n, 4]\ninout y: i32[n, 16]", "16", product),
        (
            "another order",
            "in w: u8[n, 4, 16]\nin x: i8[n, 4]\ninout y: i32[n, 16]",
            "16",
            "y[i, l] sum = i32(w[i, b, l]) * i32(x[i, b])",
        ),
        (
            "results apart",
            "in w: u8[n, 16, 4]\nin x: i8[n, 4]\ninout y: i32[n, 32]",
            "16",
            "y[i, 2*l] sum = i32(w[i, l, b]) * i32(x[i, b])",
        ),
        ("another sum", plain, "16", "y[i, l] max = i32(w[i, l, b]) * i32(x[i, b])"),
        ("no product", plain, "16", "y[i, l] sum = i32(w[i, l, b]) + i32(x[i, b])"),
        ("other lanes", "in w: u8[n, 5, 4]\nin x: i8[n, 4]\ninout y: i32[n, 5]", "5", product),
        (
            "fields side by side in a byte",
            "in w: u4[n, 16, 4]\nin x: i8[n, 4]\ninout y: i32[n, 16]",
            "16",
            product,
        ),
    ] {
        assert_eq!(judged(declared, lanes, block, "dpbusd"), Some(Kind::Meaning), "{what}");
    }
}
