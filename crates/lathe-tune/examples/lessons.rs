//! What a cost model learns from trials, and how well it foresees kernels that it was not taught: `lathe tune F --lessons LESSONS`
//! writes trials, and this reads them.
//!
//!     cargo run --release -p lathe-tune --example lessons -- LESSONS.. [--fit MODEL]
//!
//! Each kernel in turn, and then each kind of operator, is held out: a model learns from all others, and ranks the held-out kernel's
//! trials. Printed are the rank correlation (Spearman's) of what it foresees with what was measured, and the regret of measuring only the
//! first 1, 5 or 10 of its ranking: how much longer the best of these takes than the best of all. Beside it what counts alone say, and
//! what chance would: the mean regret of a random pick, and of random fives and tens. Figures are medians over kernels with 10 trials
//! or more. `--fit` learns from all lessons and writes the model that is shipped.

use lathe_tune::{CostModel, Lesson};
use std::collections::BTreeMap;

/// Trials of a kernel that say something about a ranking.
const ENOUGH: usize = 10;
/// How many of a ranking are measured.
const FIRST: [usize; 3] = [1, 5, 10];

struct Kernel {
    operator: String,
    lessons: Vec<Lesson>,
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut out = vec![0.0; values.len()];
    let mut at = 0;
    while at < order.len() {
        let same = order[at..].iter().take_while(|i| values[**i] == values[order[at]]).count();
        order[at..at + same].iter().for_each(|i| out[*i] = at as f64 + (same - 1) as f64 / 2.0);
        at += same;
    }
    out
}

/// Spearman's correlation; 0 where one side says nothing.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(p, q)| (p - mean) * (q - mean)).sum::<f64>();
    let scale = (product(&a, &a) * product(&b, &b)).sqrt();
    if scale > 0.0 { product(&a, &b) / scale } else { 0.0 }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n == 0 { f64::NAN } else { (values[(n - 1) / 2] + values[n / 2]) / 2.0 }
}

/// Regret of the best of some trials.
fn regret(measured: &[f64], some: impl Iterator<Item = usize>) -> f64 {
    let best = measured.iter().copied().fold(f64::INFINITY, f64::min);
    (some.map(|i| measured[i]).fold(f64::INFINITY, f64::min) - best).exp() - 1.0
}

#[derive(Default)]
struct Report {
    correlations: Vec<f64>,
    regrets: [Vec<f64>; 3],
}

impl Report {
    fn add(&mut self, foreseen: &[f64], measured: &[f64]) {
        self.correlations.push(correlation(foreseen, measured));
        let mut order: Vec<usize> = (0..foreseen.len()).collect();
        order.sort_by(|a, b| foreseen[*a].total_cmp(&foreseen[*b]));
        for (k, all) in FIRST.iter().zip(&mut self.regrets) {
            all.push(regret(measured, order.iter().take(*k).copied()));
        }
    }

    fn tell(self, name: &str) {
        let kernels = self.correlations.len();
        let regrets = self.regrets.map(|r| format!("{:7.1}%", 100.0 * median(r)));
        println!("{name:36} {:6.2} {}   {kernels} kernels", median(self.correlations), regrets.join(" "));
    }
}

/// Adds what a model says of kernels that it was not taught: one group of kernels after the other is held out.
fn held_out(kernels: &[Kernel], group: impl Fn(usize) -> String) -> Report {
    let mut report = Report::default();
    let mut groups: Vec<String> = (0..kernels.len()).map(&group).collect();
    groups.sort();
    groups.dedup();
    for g in groups {
        let taught = kernels.iter().enumerate().filter(|(i, _)| group(*i) != g);
        let taught: Vec<Lesson> = taught.flat_map(|(_, k)| k.lessons.clone()).collect();
        let model = CostModel::fit(&taught);
        for (_, k) in kernels.iter().enumerate().filter(|(i, k)| group(*i) == g && k.lessons.len() >= ENOUGH)
        {
            let foreseen: Vec<f64> = k.lessons.iter().map(|l| model.foresee(&l.row)).collect();
            report.add(&foreseen, &k.lessons.iter().map(|l| l.value).collect::<Vec<_>>());
        }
    }
    report
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut files, mut fit, mut args) = (vec![], None, std::env::args().skip(1));
    while let Some(a) = args.next() {
        match a.as_str() {
            "--fit" => fit = Some(args.next().ok_or("--fit takes a file")?),
            _ => files.push(a),
        }
    }
    let mut all: BTreeMap<String, Kernel> = BTreeMap::new();
    for f in &files {
        for (at, line) in std::fs::read_to_string(f)?.lines().enumerate() {
            let read = || {
                let (key, rest) = line.split_once(' ')?;
                let (operator, rest) = rest.split_once(' ')?;
                Some((key, operator, Lesson::parse(rest)?))
            };
            let (key, operator, lesson) =
                read().ok_or(format!("{f}:{}: no lesson of these features", at + 1))?;
            let kernel = Kernel { operator: operator.into(), lessons: vec![] };
            let kernel = all.entry(key.into()).or_insert(kernel);
            // A kernel that several programs have is told by each.
            if !kernel.lessons.contains(&lesson) {
                kernel.lessons.push(lesson);
            }
        }
    }
    let kernels: Vec<Kernel> = all.into_values().collect();
    let lessons: Vec<Lesson> = kernels.iter().flat_map(|k| k.lessons.clone()).collect();
    if lessons.is_empty() {
        return Err("no lessons: lathe tune F --lessons LESSONS writes some".into());
    }
    println!(
        "{} lessons of {} kernels; medians over kernels with {ENOUGH} and more",
        lessons.len(),
        kernels.len()
    );
    println!("{:36} {:>6} {:>8} {:>8} {:>8}", "", "rank", "first", "of 5", "of 10");
    held_out(&kernels, |i| i.to_string()).tell("learned, this kernel held out");
    held_out(&kernels, |i| kernels[i].operator.clone()).tell("learned, this operator held out");
    let (mut counts, mut chance) = (Report::default(), Report::default());
    for k in kernels.iter().filter(|k| k.lessons.len() >= ENOUGH) {
        let measured: Vec<f64> = k.lessons.iter().map(|l| l.value).collect();
        let foreseen: Vec<f64> = k.lessons.iter().map(|l| CostModel::analytical(&l.row)).collect();
        counts.add(&foreseen, &measured);
        chance.correlations.push(0.0);
        let mut sorted = measured.clone();
        sorted.sort_by(f64::total_cmp);
        for (first, all) in FIRST.iter().zip(&mut chance.regrets) {
            all.push(expected(&sorted, *first));
        }
    }
    counts.tell("counts alone");
    chance.tell("chance");
    if let Some(path) = fit {
        std::fs::write(&path, CostModel::fit(&lessons).text())?;
    }
    Ok(())
}

/// The expected regret of the best of so many drawn at random from sorted trials.
fn expected(sorted: &[f64], draws: usize) -> f64 {
    let (n, mut left, mut out) = (sorted.len(), 1.0, 0.0);
    for (i, v) in sorted.iter().enumerate() {
        // The best one drawn is this one: it is among the draws, and none before it is.
        let rest = (n - i) as f64;
        let here = (draws as f64 / rest).min(1.0);
        out += left * here * ((v - sorted[0]).exp() - 1.0);
        left *= 1.0 - here;
    }
    out
}
