//! A plan as SVG: each kind of tensor on its tier, and one token of every sequence in time.

use crate::{Phase, Plan, Work};
use lathe_draw::{Anchor, COLOURS, Picture};
use lathe_machine::Machine;

/// Width of what is drawn to scale, of the labels before it, and of the whole.
pub(crate) const SCALE: f64 = 640.0;
pub(crate) const LEFT: f64 = 170.0;
pub(crate) const WIDTH: f64 = LEFT + SCALE + 40.0;
pub(crate) const ROW: f64 = 26.0;
const KINDS: [&str; 6] = [
    "weights",
    "weights passing",
    "keys and values",
    "keys and values passing",
    "activations",
    "temporaries",
];

/// The picture. Bars of tiers are to the scale of each tier's content; lanes of the token are to one scale of time.
pub fn picture(work: &Work, machine: &Machine, plan: &Plan) -> String {
    let (held, decode) = (&plan.prediction.held, &plan.prediction.decode);
    let lanes = decode.lanes();
    let height = 160.0 + ROW * (held.len() + lanes.len()) as f64;
    let mut out = Picture::new(WIDTH, height);
    let title = format!(
        "{} on {}: {} sequences at once, {:.3} tokens/s",
        work.name,
        machine.name,
        plan.policy.sequences(),
        plan.prediction.tokens_per_second
    );
    out.text((10.0, 24.0), Anchor::Start, 14, &title);
    let mut y = 44.0;
    for (i, kind) in KINDS.iter().enumerate() {
        let x = 10.0 + 140.0 * i as f64;
        out.rect((x, y), (10.0, 10.0), COLOURS[i], kind);
        out.text((x + 14.0, y + 9.0), Anchor::Start, 10, kind);
    }
    y += 30.0;
    out.text((10.0, y), Anchor::Start, 13, "What lies where, at most");
    y += 10.0;
    for tier in held {
        let parts =
            [tier.weights, tier.weight_window, tier.kv, tier.kv_window, tier.activations, tier.workspace];
        let all = parts.iter().sum::<f64>().max(1.0);
        out.text(
            (LEFT - 8.0, y + 16.0),
            Anchor::End,
            12,
            &format!("{}, {:.2} GB", tier.tier, tier.peak / 1e9),
        );
        let mut x = LEFT;
        for (i, part) in parts.iter().enumerate().filter(|(_, part)| **part > 0.0) {
            let width = SCALE * part / all;
            out.rect((x, y + 2.0), (width, ROW - 6.0), COLOURS[i], &format!("{}: {part:.0} bytes", KINDS[i]));
            x += width;
        }
        y += ROW;
    }
    y += 24.0;
    let what = format!(
        "A token of every sequence, layers in {} groups: {:.4} s, bound by {}",
        groups(work),
        decode.seconds,
        decode.binds
    );
    out.text((10.0, y), Anchor::Start, 13, &what);
    y += 10.0;
    let scale = SCALE / decode.seconds.max(f64::MIN_POSITIVE);
    for lane in lanes {
        schedule(&mut out, y, scale, decode, lane, groups(work));
        y += ROW;
    }
    out.line(&[(LEFT, y), (LEFT + SCALE, y)], "#000", 1.0);
    for i in 0..=4 {
        let x = LEFT + SCALE * f64::from(i) / 4.0;
        out.text((x, y + 16.0), Anchor::Middle, 11, &format!("{:.3} s", decode.seconds * f64::from(i) / 4.0));
    }
    out.svg()
}

/// How many groups of layers are drawn: no more than can be seen.
fn groups(work: &Work) -> u64 {
    work.layer_count().clamp(1, 24)
}

/// A lane's work, group by group of layers: copies are a layer ahead of arithmetic, so a lane that is not the longest waits for it.
fn schedule(out: &mut Picture, y: f64, scale: f64, phase: &Phase, lane: &str, shown: u64) {
    out.text((LEFT - 8.0, y + 16.0), Anchor::End, 12, lane);
    let (step, parts) = (phase.seconds / shown as f64, phase.parts.iter().filter(|p| p.lane == lane));
    let parts: Vec<_> = parts.collect();
    for layer in 0..shown {
        let mut x = LEFT + scale * step * layer as f64;
        for part in &parts {
            let width = scale * part.seconds / shown as f64;
            let colour = match part.what.as_str() {
                what if what.starts_with("weights") => COLOURS[0],
                what if what.starts_with("keys") || what.starts_with("attention") => COLOURS[2],
                what if what.starts_with("activations") => COLOURS[4],
                _ => "#777777",
            };
            let what = format!("{}: {:.4} s of {:.4} s", part.what, part.seconds, phase.seconds);
            out.rect((x, y + 3.0), ((width - 0.5).max(0.1), ROW - 8.0), colour, &what);
            x += width;
        }
    }
}
