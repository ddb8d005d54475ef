//! A step of a mixture as SVG: host, link and device in time.

use super::ExpertSpan;
use crate::picture::{LEFT, ROW, SCALE, WIDTH};
use lathe_draw::{Anchor, COLOURS, Picture};

const KINDS: [(&str, &str); 7] = [
    ("attention and router", "#777777"),
    ("experts here", COLOURS[0]),
    ("experts moved", COLOURS[1]),
    ("head", "#bbbbbb"),
    ("moved", COLOURS[2]),
    ("fetched ahead", COLOURS[3]),
    ("experts", COLOURS[4]),
];

/// The picture of some spans under this title, all to one scale of time.
pub fn expert_picture(title: &str, spans: &[ExpertSpan]) -> String {
    let lanes = ["host", "link", "device"];
    let end = spans.iter().map(|s| s.start + s.seconds).fold(f64::MIN_POSITIVE, f64::max);
    let height = 120.0 + ROW * lanes.len() as f64;
    let mut out = Picture::new(WIDTH, height);
    out.text((10.0, 24.0), Anchor::Start, 14, title);
    for (i, (kind, colour)) in KINDS.iter().enumerate() {
        let x = 10.0 + 118.0 * i as f64;
        out.rect((x, 44.0), (10.0, 10.0), colour, kind);
        out.text((x + 14.0, 53.0), Anchor::Start, 10, kind);
    }
    let mut y = 66.0;
    for lane in lanes {
        out.text((LEFT - 8.0, y + 16.0), Anchor::End, 12, lane);
        for s in spans.iter().filter(|s| s.lane == lane) {
            let colour = KINDS.iter().find(|(kind, _)| *kind == s.what).map_or("#000", |(_, colour)| colour);
            let what = format!("layer {}: {}, {:.3} ms", s.layer, s.what, 1e3 * s.seconds);
            let (x, width) = (LEFT + SCALE * s.start.max(0.0) / end, SCALE * s.seconds / end);
            out.rect((x, y + 3.0), (width.max(0.1), ROW - 8.0), colour, &what);
        }
        y += ROW;
    }
    out.line(&[(LEFT, y), (LEFT + SCALE, y)], "#000", 1.0);
    for i in 0..=4 {
        let at = f64::from(i) / 4.0;
        out.text((LEFT + SCALE * at, y + 16.0), Anchor::Middle, 11, &format!("{:.3} ms", 1e3 * end * at));
    }
    out.svg()
}
