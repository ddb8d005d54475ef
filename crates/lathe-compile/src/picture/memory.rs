//! Memory over time: each temporary is a bar from the step that writes it first to the last one that reads it, where it lies in the
//! arena. Nothing can take less than what is alive at one step; that is the lower bound.

use super::calls;
use lathe_draw::{Anchor, COLOURS, Picture};
use lathe_ir::step::{Program, Storage};
use lathe_rewrite::Plan;

const SIZE: (f64, f64) = (1000.0, 420.0);
const LEFT: f64 = 90.0;
const TOP: f64 = 44.0;
const AROUND: (f64, f64) = (LEFT + 30.0, TOP + 50.0);

/// A temporary: its name, its place and bytes, and its first and last step.
pub struct Bar {
    name: String,
    at: i64,
    bytes: i64,
    steps: (usize, usize),
}

/// The temporaries of a program.
pub fn bars(program: &Program) -> Vec<Bar> {
    let mut out: Vec<Option<Bar>> = program.buffers.iter().map(|_| None).collect();
    for (step, c) in calls(program).iter().enumerate() {
        for b in c.reads.iter().chain(&c.writes) {
            let buffer = &program.buffers[*b];
            let (Storage::Planned(at), Some(bytes)) = (&buffer.storage, buffer.bytes.as_const()) else {
                continue;
            };
            let new = Bar { name: buffer.name.to_string(), at: *at, bytes, steps: (step, step) };
            out[*b].get_or_insert(new).steps.1 = step;
        }
    }
    out.into_iter().flatten().collect()
}

/// Bytes that are alive at each of so many steps.
pub fn alive(bars: &[Bar], steps: usize) -> Vec<i64> {
    let mut out = vec![0; steps];
    for b in bars {
        out[b.steps.0..=b.steps.1].iter_mut().for_each(|n| *n += b.bytes);
    }
    out
}

/// The picture of a plan's run.
pub fn picture(plan: &Plan) -> Picture {
    let steps = calls(&plan.run).len().max(1);
    let bars = bars(&plan.run);
    let alive = alive(&bars, steps);
    let bound = alive.iter().copied().max().unwrap_or(0);
    let arena = plan.arena_bytes.max(bound).max(1);
    let x = |step: usize| LEFT + SIZE.0 * step as f64 / steps as f64;
    let y = |bytes: i64| TOP + SIZE.1 * (1.0 - bytes as f64 / arena as f64);
    let mega = |bytes: i64| bytes as f64 / 1e6;
    let mut out = Picture::new(SIZE.0 + AROUND.0, SIZE.1 + AROUND.1);
    let title = format!(
        "{steps} steps, arena {:.3} MB; most alive at once (lower bound) {:.3} MB, the arena is {:.2} of it",
        mega(plan.arena_bytes),
        mega(bound),
        plan.arena_bytes as f64 / bound.max(1) as f64
    );
    out.text((LEFT, 22.0), Anchor::Start, 14, &title);
    for i in 0..=4 {
        let (bytes, step) = (arena * i / 4, steps * i as usize / 4);
        out.line(&[(LEFT, y(bytes)), (LEFT + SIZE.0, y(bytes))], "#ddd", 1.0);
        out.text((LEFT - 8.0, y(bytes) + 4.0), Anchor::End, 11, &format!("{:.3} MB", mega(bytes)));
        out.text((x(step), TOP + SIZE.1 + 18.0), Anchor::Middle, 11, &format!("step {step}"));
    }
    for (i, b) in bars.iter().enumerate() {
        let what = format!("{}: {} bytes at {}, steps {} to {}", b.name, b.bytes, b.at, b.steps.0, b.steps.1);
        let (from, to) = (x(b.steps.0), x(b.steps.1 + 1));
        let (top, bottom) = (y(b.at + b.bytes), y(b.at));
        let fill = (COLOURS[i % 6], "#fff");
        out.frame((from, top), (to - from, bottom - top), fill, &what);
    }
    let mut line = vec![];
    for (step, bytes) in alive.iter().enumerate() {
        line.extend([(x(step), y(*bytes)), (x(step + 1), y(*bytes))]);
    }
    out.line(&line, "#000", 2.0);
    out.line(&[(LEFT, y(bound)), (LEFT + SIZE.0, y(bound))], "#d00", 1.0);
    out.text((LEFT + SIZE.0, y(bound) + 13.0), Anchor::End, 11, "lower bound; black: alive at each step");
    out
}
