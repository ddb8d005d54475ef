//! A picture of a search: the best time of each kernel after each trial, over the time of the rules' schedule.

use crate::Outcome;
use std::fmt::Write;

/// Size of the plot's area, and what is around it.
const SIZE: (f64, f64) = (560.0, 320.0);
const LEFT: f64 = 56.0;
const TOP: f64 = 40.0;
const RIGHT: f64 = 300.0;
const BOTTOM: f64 = 48.0;
/// Lines that can be told apart (Okabe and Ito's colours).
const COLOURS: &[&str] =
    &["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a6d00"];

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
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"14\">Best time of a call, over the time of the schedule by rule</text>\n"
    );
    let steps = ((1.0 - low) * 10.0).round() as i32;
    for i in 0..=steps {
        let r = 1.0 - f64::from(i) / 10.0;
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{1:.1}\" y2=\"{1:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{2}\" y=\"{3:.1}\" text-anchor=\"end\">{r:.1}</text>",
            LEFT + SIZE.0,
            y(r),
            LEFT - 8.0,
            y(r) + 4.0,
        );
    }
    for i in 0..=4 {
        let t = trials as f64 * f64::from(i) / 4.0;
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{t:.0}</text>",
            x(t),
            TOP + SIZE.1 + 18.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">trials</text>",
        LEFT + SIZE.0 / 2.0,
        TOP + SIZE.1 + 38.0
    );
    for (i, (o, colour)) in shown.iter().zip(COLOURS).enumerate() {
        let mut points = format!("{:.1},{:.1}", x(0.0), y(1.0));
        let mut last = 1.0;
        for (t, r) in o.history.iter().enumerate() {
            let _ = write!(points, " {0:.1},{1:.1} {0:.1},{2:.1}", x(t as f64 + 1.0), y(last), y(*r));
            last = *r;
        }
        let at = TOP + 10.0 + 18.0 * i as f64;
        let beside = LEFT + SIZE.0 + 14.0;
        let _ = writeln!(
            out,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\
             <rect x=\"{beside}\" y=\"{:.1}\" width=\"12\" height=\"3\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"{at:.1}\">{last:.2} {}</text>",
            at - 5.0,
            beside + 18.0,
            escaped(&o.name),
        );
    }
    out + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
