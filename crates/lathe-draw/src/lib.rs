//! Pictures: shapes as SVG, and pages of them that can be zoomed. Every text is escaped; nothing is fetched from elsewhere.
//!
//! ```
//! use lathe_draw::{Anchor, COLOURS, Picture};
//! let mut p = Picture::new(100.0, 40.0);
//! p.rect((10.0, 10.0), (80.0, 20.0), COLOURS[0], "a bar & what it is");
//! p.text((10.0, 36.0), Anchor::Start, 10, "a < b");
//! let svg = p.svg();
//! assert!(svg.contains("a bar &amp; what it is") && svg.contains("a &lt; b"));
//! ```

mod page;

pub use page::page;

use std::fmt::Write;

/// Okabe and Ito's colours, which can be told apart by most.
pub const COLOURS: [&str; 8] =
    ["#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#009e73", "#cc79a7", "#000000", "#f0e442"];

/// A place: from the left and from the top.
pub type Point = (f64, f64);

/// Which part of a text is at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// The first letter.
    Start,
    /// The middle.
    Middle,
    /// The last letter.
    End,
}

/// A picture on white ground. Sizes are in units of its width, which has no unit of its own.
#[derive(Clone, Debug)]
pub struct Picture {
    size: (f64, f64),
    body: String,
}

impl Picture {
    /// An empty one.
    pub fn new(width: f64, height: f64) -> Picture {
        Picture { size: (width, height), body: String::new() }
    }

    /// Width and height.
    pub fn size(&self) -> (f64, f64) {
        self.size
    }

    /// A bar, and what it is where a pointer rests on it.
    pub fn rect(&mut self, (x, y): Point, (width, height): (f64, f64), colour: &str, title: &str) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{height:.1}\" fill=\"{colour}\"><title>{}</title></rect>",
            escaped(title)
        );
    }

    /// A box with an edge.
    pub fn frame(
        &mut self,
        (x, y): Point,
        (width, height): (f64, f64),
        (fill, edge): (&str, &str),
        title: &str,
    ) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{height:.1}\" fill=\"{fill}\" stroke=\"{edge}\"><title>{}</title></rect>",
            escaped(title)
        );
    }

    /// A line of text; letters of this height.
    pub fn text(&mut self, (x, y): Point, anchor: Anchor, size: u32, what: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{}</text>",
            escaped(what)
        );
    }

    /// A line through points, of this width.
    pub fn line(&mut self, points: &[Point], colour: &str, width: f64) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            self.body,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
            points.join(" ")
        );
    }

    /// Another picture, with its corner here.
    pub fn put(&mut self, (x, y): Point, other: &Picture) {
        let _ = writeln!(self.body, "<g transform=\"translate({x:.1} {y:.1})\">\n{}</g>", other.body);
    }

    /// Several, one below the other, each under its heading.
    pub fn stack(all: &[(String, Picture)]) -> Picture {
        const HEAD: f64 = 30.0;
        let width = all.iter().map(|(_, p)| p.size.0).fold(0.0, f64::max);
        let mut out = Picture::new(width, all.iter().map(|(_, p)| HEAD + p.size.1).sum());
        let mut y = 0.0;
        for (heading, p) in all {
            out.text((10.0, y + 20.0), Anchor::Start, 15, heading);
            out.put((0.0, y + HEAD), p);
            y += HEAD + p.size.1;
        }
        out
    }

    /// The file's text.
    pub fn svg(&self) -> String {
        let ((width, height), body) = (self.size, &self.body);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n{body}</svg>\n"
        )
    }
}

/// Text as it stands in SVG and HTML. What XML has no place for is left out.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_no_markup() {
        let mut p = Picture::new(10.0, 10.0);
        p.text((0.0, 0.0), Anchor::End, 8, "</svg><script>\u{0}\"&");
        p.rect((0.0, 0.0), (1.0, 1.0), "#000", "<b>");
        let page = page("<i>", &[("<u>".into(), p)]);
        for tag in ["<i>", "<u>", "<b>", "</svg><script>", "\u{0}"] {
            assert!(!page.contains(tag), "{tag} in {page}");
        }
        assert!(page.contains("&lt;/svg&gt;&lt;script&gt;\u{fffd}&quot;&amp;"));
        assert!(
            !page.contains("http")
                || page.matches("http").count() == page.matches("http://www.w3.org/2000/svg").count()
        );
    }
}
