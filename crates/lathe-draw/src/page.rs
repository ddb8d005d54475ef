//! A page of pictures: each is zoomed by the wheel, moved by dragging, and whole again after a double click.

use crate::{Picture, escaped};
use std::fmt::Write;

const STYLE: &str = "body{font-family:sans-serif;margin:1em}h2{font-size:1em;margin:1em 0 .3em}\
svg{width:100%;max-height:90vh;border:1px solid #ccc;cursor:grab}";

/// The one script: it changes the part of a picture that is seen, `viewBox`.
const SCRIPT: &str = "\
for (const svg of document.querySelectorAll('svg')) {
  const box = svg.viewBox.baseVal, whole = [box.x, box.y, box.width, box.height];
  const set = ([x, y, w, h]) => Object.assign(box, {x, y, width: w, height: h});
  const at = e => new DOMPoint(e.clientX, e.clientY).matrixTransform(svg.getScreenCTM().inverse());
  let held = null;
  svg.addEventListener('wheel', e => {
    e.preventDefault();
    const p = at(e), k = Math.exp(e.deltaY / 500);
    set([p.x + (box.x - p.x) * k, p.y + (box.y - p.y) * k, box.width * k, box.height * k]);
  }, {passive: false});
  svg.addEventListener('pointerdown', e => { held = at(e); svg.setPointerCapture(e.pointerId); });
  svg.addEventListener('pointermove', e => {
    if (!held) return;
    const p = at(e);
    set([box.x + held.x - p.x, box.y + held.y - p.y, box.width, box.height]);
  });
  svg.addEventListener('pointerup', () => { held = null; });
  svg.addEventListener('dblclick', () => set(whole));
}
";

/// A page with a title, and pictures under headings. It needs nothing but itself.
pub fn page(title: &str, pictures: &[(String, Picture)]) -> String {
    let title = escaped(title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <style>{STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n\
         <p>The wheel zooms, dragging moves, a double click shows the whole; resting on something tells more.</p>\n"
    );
    for (heading, picture) in pictures {
        let _ = write!(out, "<h2>{}</h2>\n{}", escaped(heading), picture.svg());
    }
    let _ = write!(out, "<script>\n{SCRIPT}</script>\n</body>\n</html>\n");
    out
}
