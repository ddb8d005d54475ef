//! The graph with its fusion groups: a box for each call of a kernel, with the operators that it is made of.

use super::calls;
use lathe_draw::{Anchor, COLOURS, Picture, Point};
use lathe_ir::graph::{Form, Graph, Source};
use lathe_rewrite::Plan;
use std::collections::HashMap;

const WIDTH: f64 = 210.0;
const GAP: (f64, f64) = (24.0, 34.0);
const HEAD: f64 = 18.0;
const LINE: f64 = 13.0;
const TOP: f64 = 44.0;
const EDGE: f64 = 12.0;

/// Kinds of kernels by their first operator that is no elementwise one.
const KINDS: [(&str, &str); 6] = [
    ("products of matrices", COLOURS[0]),
    ("attention", COLOURS[2]),
    ("rows", COLOURS[4]),
    ("elementwise", COLOURS[1]),
    ("layouts", COLOURS[3]),
    ("convolutions and other loops", COLOURS[5]),
];

fn kind(form: Form) -> usize {
    match form {
        Form::Contraction => 0,
        Form::Attention => 1,
        Form::Row => 2,
        Form::Elementwise => 3,
        Form::Copy => 4,
        Form::Nest => 5,
    }
}

/// A box: what it says, and where it will be.
struct Item {
    colour: &'static str,
    lines: Vec<String>,
    title: String,
    /// The boxes whose results it reads.
    after: Vec<usize>,
    level: usize,
    x: f64,
}

impl Item {
    fn height(&self) -> f64 {
        HEAD + LINE * (self.lines.len() - 1) as f64 + 6.0
    }
}

/// The picture of a plan's run.
pub fn picture(g: &Graph, plan: &Plan) -> Picture {
    let mut items = items(g, plan);
    // What is read lies higher up; beside each other, boxes lie near what they read.
    for i in 0..items.len() {
        items[i].level = items[i].after.iter().map(|a| items[*a].level + 1).max().unwrap_or(0);
    }
    let mut levels: Vec<Vec<usize>> = vec![];
    for (i, item) in items.iter().enumerate() {
        levels.resize_with(levels.len().max(item.level + 1), Vec::new);
        levels[item.level].push(i);
    }
    let widest = levels.iter().map(Vec::len).max().unwrap_or(1).max(4);
    let width = 2.0 * EDGE + (WIDTH + GAP.0) * widest as f64;
    let (mut y, mut tops) = (TOP, vec![]);
    for level in &mut levels {
        let mean = |i: &usize| {
            let after = &items[*i].after;
            after.iter().map(|a| items[*a].x).sum::<f64>() / after.len().max(1) as f64
        };
        level.sort_by(|a, b| mean(a).total_cmp(&mean(b)));
        let start = (width - (WIDTH + GAP.0) * level.len() as f64 + GAP.0) / 2.0;
        for (at, i) in level.iter().enumerate() {
            items[*i].x = start + (WIDTH + GAP.0) * at as f64;
        }
        tops.push(y);
        y += level.iter().map(|i| items[*i].height()).fold(0.0, f64::max) + GAP.1;
    }
    let mut out = Picture::new(width, y);
    for (i, (name, colour)) in KINDS.iter().enumerate() {
        let x = EDGE + 140.0 * i as f64;
        out.rect((x, 14.0), (10.0, 10.0), colour, name);
        out.text((x + 14.0, 23.0), Anchor::Start, 11, name);
    }
    for item in &items {
        let to: Point = (item.x + WIDTH / 2.0, tops[item.level]);
        for a in item.after.iter().map(|a| &items[*a]) {
            let from = (a.x + WIDTH / 2.0, tops[a.level] + a.height());
            out.line(&[from, to], "#999", 1.0);
        }
    }
    for item in &items {
        let at = (item.x, tops[item.level]);
        out.frame(at, (WIDTH, item.height()), ("#fff", item.colour), &item.title);
        out.rect(at, (5.0, item.height()), item.colour, &item.title);
        for (i, line) in item.lines.iter().enumerate() {
            let size = if i == 0 { 12 } else { 10 };
            let y = at.1 + HEAD - 5.0 + LINE * i as f64;
            out.text((at.0 + 10.0, y), Anchor::Start, size, &short(line));
        }
    }
    out
}

/// As much of a text as a box has room for.
fn short(text: &str) -> String {
    const MOST: usize = 34;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

/// The inputs, the calls in their order, and the results.
fn items(g: &Graph, plan: &Plan) -> Vec<Item> {
    let program = &plan.run;
    let value = |buffer: usize| g.values.iter().find(|v| v.name == program.buffers[buffer].name);
    let said = |buffer: &usize| match value(*buffer) {
        Some(v) => format!("{}: {}", v.name, v.ty),
        None => program.buffers[*buffer].name.to_string(),
    };
    let item = |colour, lines: Vec<String>, title: String, after: Vec<usize>| Item {
        colour,
        lines,
        title,
        after,
        level: 0,
        x: 0.0,
    };
    let mut out = vec![];
    // Who wrote each buffer last.
    let mut writer: HashMap<usize, usize> = HashMap::new();
    for b in 0..program.buffers.len() {
        if value(b).is_some_and(|v| v.source == Source::Input) {
            writer.insert(b, out.len());
            let what = said(&b);
            out.push(item("#777", vec![format!("input {what}")], what, vec![]));
        }
    }
    let kernels: HashMap<&str, _> = plan.kernels.iter().map(|k| (&*k.name, k)).collect();
    for (step, c) in calls(program).iter().enumerate() {
        let mut after: Vec<usize> =
            c.reads.iter().chain(&c.writes).filter_map(|b| writer.get(b).copied()).collect();
        after.sort_unstable();
        after.dedup();
        let forms = kernels.get(c.kernel).map_or(&[][..], |k| &k.parts);
        let lead = forms.iter().find(|(f, _)| !matches!(f, Form::Elementwise | Form::Copy)).or(forms.first());
        let colour = KINDS[lead.map_or(5, |(f, _)| kind(*f))].1;
        let mut lines = vec![format!("{} (step {step})", c.kernel)];
        lines.extend(kernels.get(c.kernel).into_iter().flat_map(|k| &k.operators).map(ToString::to_string));
        lines.extend(c.writes.iter().map(|b| format!("→ {}", said(b))));
        let list = |all: &[usize]| all.iter().map(said).collect::<Vec<_>>().join("\n");
        let title = format!("reads\n{}\nwrites\n{}", list(&c.reads), list(&c.writes));
        c.writes.iter().for_each(|b| {
            writer.insert(*b, out.len());
        });
        out.push(item(colour, lines, title, after));
    }
    for v in &g.outputs {
        let name = &g.value(*v).name;
        let made = program.buffers.iter().position(|b| b.name == *name).and_then(|b| writer.get(&b).copied());
        let what = format!("{name}: {}", g.ty(*v));
        out.push(item("#777", vec![format!("result {what}")], what, made.into_iter().collect()));
    }
    out
}
