//! The classes of step sizes that get kernels of their own.

use lathe_compile::Sizes;

/// The classes, in order of preference, for so many cores; steps of one row of logits need the first two only.
pub(crate) fn classes(rows: usize, cores: Option<usize>) -> Vec<Sizes> {
    let class = |name, fixed: &[(&'static str, i64)], few| Sizes { name, fixed: fixed.to_vec(), few, cores };
    let mut all = vec![class("decode", &[("T", 1), ("R", 1)], None), class("prefill", &[("R", 1)], None)];
    if rows > 1 {
        all.extend([
            class("batch4", &[], Some(4)),
            class("batch16", &[], Some(16)),
            class("batch", &[], None),
        ]);
    }
    all
}

/// The cores of this machine, whatever threads compute: results are the same with any number of these.
pub(crate) fn cores() -> Option<usize> {
    std::thread::available_parallelism().ok().map(usize::from)
}

/// The class of a step of this many tokens that wants the logits of this many rows.
pub(crate) fn class_of(tokens: usize, rows: usize) -> usize {
    match (tokens, rows) {
        (1, 0 | 1) => 0,
        (_, 0 | 1) => 1,
        (0..=4, _) => 2,
        (0..=16, _) => 3,
        _ => 4,
    }
}
