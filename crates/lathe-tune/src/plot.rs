//! A picture of a search: the best time of each kernel after each trial, over the time of the rules' schedule.

use crate::Outcome;
use lathe_draw::{Anchor, COLOURS, Picture};

/// Size of the plot's area, and what is around it.
const SIZE: (f64, f64) = (560.0, 320.0);
const LEFT: f64 = 56.0;
const TOP: f64 = 40.0;
const RIGHT: f64 = 300.0;
const BOTTOM: f64 = 48.0;

/// The picture, as SVG: the kernels that take most time, in order.
pub fn plot(outcomes: &[Outcome]) -> String {
    let shown = &outcomes[..outcomes.len().min(COLOURS.len())];
    let trials = shown.iter().map(|o| o.history.len()).max().unwrap_or(0).max(1);
    let least = shown.iter().flat_map(|o| &o.history).copied().fold(1.0, f64::min);
    // The lowest tenth that all lines are above.
    let low = ((least * 10.0).floor() / 10.0).clamp(0.0, 0.9);
    let x = |t: f64| LEFT + SIZE.0 * t / trials as f64;
    let y = |r: f64| TOP + SIZE.1 * (1.0 - r) / (1.0 - low);
    let (width, height) = (LEFT + SIZE.0 + RIGHT, TOP + SIZE.1 + BOTTOM);
    let mut out = Picture::new(width, height);
    out.text((LEFT, 22.0), Anchor::Start, 14, "Best time of a call, over the time of the schedule by rule");
    let steps = ((1.0 - low) * 10.0).round() as i32;
    for i in 0..=steps {
        let r = 1.0 - f64::from(i) / 10.0;
        out.line(&[(LEFT, y(r)), (LEFT + SIZE.0, y(r))], "#ddd", 1.0);
        out.text((LEFT - 8.0, y(r) + 4.0), Anchor::End, 12, &format!("{r:.1}"));
    }
    for i in 0..=4 {
        let t = trials as f64 * f64::from(i) / 4.0;
        out.text((x(t), TOP + SIZE.1 + 18.0), Anchor::Middle, 12, &format!("{t:.0}"));
    }
    out.text((LEFT + SIZE.0 / 2.0, TOP + SIZE.1 + 38.0), Anchor::Middle, 12, "trials");
    for (i, (o, colour)) in shown.iter().zip(COLOURS).enumerate() {
        let (mut points, mut last) = (vec![(x(0.0), y(1.0))], 1.0);
        for (t, r) in o.history.iter().enumerate() {
            points.extend([(x(t as f64 + 1.0), y(last)), (x(t as f64 + 1.0), y(*r))]);
            last = *r;
        }
        let (at, beside) = (TOP + 10.0 + 18.0 * i as f64, LEFT + SIZE.0 + 14.0);
        out.line(&points, colour, 1.5);
        out.rect((beside, at - 5.0), (12.0, 3.0), colour, &o.name);
        out.text((beside + 18.0, at), Anchor::Start, 12, &format!("{last:.2} {}", o.name));
    }
    out.svg()
}
