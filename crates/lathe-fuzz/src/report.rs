//! A run as a page: coverage over time, findings, and what became of steps.

use crate::driver::Outcome;
use std::fmt::Write;

/// Size of the plot's area.
const SIZE: (f64, f64) = (640.0, 280.0);
const LEFT: f64 = 64.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 40.0;

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Edges over seconds, as SVG.
fn plot(o: &Outcome) -> String {
    let seconds = o.seconds.max(1.0);
    let most = o.coverage.iter().map(|p| p.edges).max().unwrap_or(0).max(1) as f64;
    let x = |s: f64| LEFT + SIZE.0 * s / seconds;
    let y = |e: f64| TOP + SIZE.1 * (1.0 - e / most);
    let (width, height) = (LEFT + SIZE.0 + 24.0, TOP + SIZE.1 + BOTTOM);
    let mut out = format!("<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" font-size=\"12\">\n");
    for i in 0..=4 {
        let (e, s) = (most * f64::from(i) / 4.0, seconds * f64::from(i) / 4.0);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{1:.1}\" y2=\"{1:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{2}\" y=\"{1:.1}\" text-anchor=\"end\">{e:.0}</text>\
             <text x=\"{3:.1}\" y=\"{4}\" text-anchor=\"middle\">{s:.0} s</text>",
            LEFT + SIZE.0,
            y(e),
            LEFT - 8.0,
            x(s),
            TOP + SIZE.1 + 20.0,
        );
    }
    let points: Vec<String> =
        o.coverage.iter().map(|p| format!("{:.1},{:.1}", x(p.seconds), y(p.edges as f64))).collect();
    let _ = writeln!(
        out,
        "<polyline fill=\"none\" stroke=\"#0072b2\" stroke-width=\"2\" points=\"{}\"/>",
        points.join(" ")
    );
    for f in &o.findings {
        let _ = writeln!(
            out,
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{TOP}\" y2=\"{1}\" stroke=\"#d55e00\"><title>{2}</title></line>",
            x(f.seconds),
            TOP + SIZE.1,
            escaped(&f.what)
        );
    }
    out + "</svg>\n"
}

/// The page. Findings are shown with the text of their files, where these can be read: `text` reads one.
pub fn report(o: &Outcome, title: &str, text: &dyn Fn(&std::path::Path) -> Option<String>) -> String {
    let title = escaped(title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title>\n<style>\
         body{{font-family:sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}\
         td,th{{padding:.15em .8em;text-align:right}}td:first-child,th:first-child{{text-align:left}}\
         pre{{background:#f4f4f4;padding:.8em;overflow-x:auto}}</style></head>\n<body>\n<h1>{title}</h1>\n"
    );
    let edges = o.coverage.last().map_or(0, |p| p.edges);
    let _ = writeln!(
        out,
        "<p>{:.0} seconds, {} cases, of which {} are judged and {} programs compiled; {edges} edges; {} findings.</p>\n\
         <h2>Coverage</h2>\n<p>Edges of the program that were reached; findings are upright lines.</p>\n{}",
        o.seconds,
        o.counts.cases,
        o.counts.defined,
        o.counts.compiled,
        o.findings.len(),
        plot(o)
    );
    out += "<h2>Findings</h2>\n";
    if o.findings.is_empty() {
        out += "<p>None.</p>\n";
    }
    for f in &o.findings {
        let _ =
            writeln!(out, "<h3>{}</h3>\n<p>{}</p>", escaped(&f.file.display().to_string()), escaped(&f.what));
        let _ = writeln!(out, "<pre>{}</pre>", escaped(&text(&f.file).unwrap_or_default()));
    }
    out += "<h2>Steps</h2>\n<p>False alarms are steps that are right and have no certificate; caught are wrong ones that were \
            pretended and have none.</p>\n<table><tr><th>primitive</th><th>applied</th><th>refused</th><th>certified</th>\
            <th>false alarms</th><th>caught</th></tr>\n";
    for (name, s) in &o.counts.steps {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escaped(name),
            s.applied,
            s.refused,
            s.certified,
            s.alarms,
            s.caught
        );
    }
    out + "</table>\n</body>\n</html>\n"
}
