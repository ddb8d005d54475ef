//! A scheduled kernel as a tree: loops around loops, and blocks in them; beside it the steps that made it.

use lathe_draw::{Anchor, COLOURS, Picture};
use lathe_ir::tensor::{Iter, Kernel, SERIAL, Stmt, UNROLLED};

const ROW: f64 = 18.0;
const INDENT: f64 = 14.0;
const TREE: f64 = 620.0;
const STEPS: f64 = 320.0;
const TOP: f64 = 40.0;
const EDGE: f64 = 10.0;
/// Letters of a line; the whole is told where a pointer rests.
const MOST: usize = 92;

const KINDS: [(&str, &str); 5] = [
    ("of cores, lanes or units", COLOURS[2]),
    ("unrolled", COLOURS[3]),
    ("serial, independent", COLOURS[1]),
    ("serial, adds up", COLOURS[0]),
    ("instruction", COLOURS[5]),
];

/// The picture of a kernel and its trace.
pub fn picture(kernel: &Kernel, trace: &str) -> Picture {
    let steps: Vec<&str> = trace.lines().collect();
    let rows = rows(&kernel.body).max(steps.len() + 1);
    let mut out = Picture::new(2.0 * EDGE + TREE + STEPS, TOP + ROW * rows as f64 + EDGE);
    for (i, (name, colour)) in KINDS.iter().enumerate() {
        let x = EDGE + 170.0 * i as f64;
        out.rect((x, 10.0), (10.0, 10.0), colour, name);
        out.text((x + 14.0, 19.0), Anchor::Start, 11, name);
    }
    let mut row = 0;
    body(&mut out, &kernel.body, 0, &mut row);
    out.text((EDGE + TREE + 20.0, TOP + 12.0), Anchor::Start, 12, "made by");
    for (i, step) in steps.iter().enumerate() {
        let y = TOP + ROW * (i + 1) as f64 + 12.0;
        out.text((EDGE + TREE + 20.0, y), Anchor::Start, 11, step);
    }
    out
}

fn inner(s: &Stmt) -> &[Stmt] {
    match s {
        Stmt::For(l) => &l.body,
        Stmt::If(_, b) | Stmt::Intrinsic(_, b) => b,
        Stmt::Store(_) | Stmt::Alloc(_) => &[],
    }
}

fn rows(all: &[Stmt]) -> usize {
    all.iter().map(|s| 1 + rows(inner(s))).sum()
}

fn body(out: &mut Picture, all: &[Stmt], depth: usize, row: &mut usize) {
    for s in all {
        let text = s.to_string();
        let head = text.lines().next().unwrap_or_default().trim_end_matches(" {");
        let at = (EDGE + INDENT * depth as f64, TOP + ROW * *row as f64);
        let colour = match s {
            Stmt::For(l) => match &*l.level {
                UNROLLED => KINDS[1].1,
                SERIAL if l.iter == Iter::Spatial => KINDS[2].1,
                SERIAL => KINDS[3].1,
                _ => KINDS[0].1,
            },
            Stmt::Intrinsic(..) => KINDS[4].1,
            _ => "#777",
        };
        let size = (EDGE + TREE - at.0, ROW * (1 + rows(inner(s))) as f64 - 2.0);
        if inner(s).is_empty() {
            out.frame(at, size, ("#fff", "#ddd"), head);
        } else {
            out.frame(at, size, ("#fff", colour), head);
            out.rect(at, (4.0, size.1), colour, head);
        }
        let room = MOST.saturating_sub(2 * depth);
        let line: String = head.chars().take(room).collect();
        let more = if head.chars().nth(room).is_some() { "…" } else { "" };
        out.text((at.0 + 8.0, at.1 + 12.0), Anchor::Start, 11, &format!("{line}{more}"));
        *row += 1;
        body(out, inner(s), depth + 1, row);
    }
}
