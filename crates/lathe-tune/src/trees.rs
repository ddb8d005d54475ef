//! A sum of small regression trees, each fitted to what the ones before left over (gradient boosting, Friedman 2001). It
//! learns from a few hundred rows in milliseconds and needs no scaling of its inputs. One that was learned elsewhere is read from a
//! text, and what is learned here is fitted to what that one leaves over.
//!
//! The text is `cost FEATURES MEAN` and a line a tree, in prefix form: `? FEATURE AT` before what is below and what is above, `= VALUE`
//! at a leaf.

use std::fmt::Write;
use std::str::SplitWhitespace;

/// Depth of a tree.
const DEPTH: usize = 4;
/// Trees.
const TREES: usize = 60;
/// Share of a tree's answer that counts.
const RATE: f64 = 0.15;
/// Fewest rows of a leaf.
const LEAF: usize = 3;

#[derive(Clone, Debug, PartialEq)]
enum Tree {
    Leaf(f64),
    Split { feature: usize, at: f64, below: Box<Tree>, above: Box<Tree> },
}

/// The model.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Trees {
    mean: f64,
    trees: Vec<Tree>,
}

impl Tree {
    fn predict(&self, row: &[f64]) -> f64 {
        match self {
            Tree::Leaf(v) => *v,
            Tree::Split { feature, at, below, above } => {
                if row[*feature] <= *at {
                    below.predict(row)
                } else {
                    above.predict(row)
                }
            }
        }
    }

    fn text(&self, out: &mut String) {
        let _ = match self {
            Tree::Leaf(v) => write!(out, " = {v:.6}"),
            Tree::Split { feature, at, below, above } => {
                let _ = write!(out, " ? {feature} {at:.6}");
                below.text(out);
                above.text(out);
                Ok(())
            }
        };
    }

    /// A tree over so many features, at most so deep.
    fn parse(words: &mut SplitWhitespace<'_>, features: usize, depth: usize) -> Option<Tree> {
        match words.next()? {
            "=" => Some(Tree::Leaf(words.next()?.parse().ok().filter(|n: &f64| n.is_finite())?)),
            "?" if depth > 0 => {
                let feature = words.next()?.parse().ok().filter(|f| *f < features)?;
                let at = words.next()?.parse().ok()?;
                let mut side = || Tree::parse(words, features, depth - 1).map(Box::new);
                Some(Tree::Split { feature, at, below: side()?, above: side()? })
            }
            _ => None,
        }
    }

    fn fit(rows: &[Vec<f64>], left: &[f64], ids: &mut [usize], depth: usize) -> Tree {
        let n = ids.len() as f64;
        let total: f64 = ids.iter().map(|i| left[*i]).sum();
        let leaf = Tree::Leaf(total / n.max(1.0));
        if depth == 0 || ids.len() < 2 * LEAF {
            return leaf;
        }
        // The split that explains most of the squares.
        let mut best: Option<(f64, usize, f64)> = None;
        for feature in 0..rows[ids[0]].len() {
            ids.sort_by(|a, b| rows[*a][feature].total_cmp(&rows[*b][feature]));
            let mut sum = 0.0;
            for k in 1..ids.len() {
                sum += left[ids[k - 1]];
                let (x, y) = (rows[ids[k - 1]][feature], rows[ids[k]][feature]);
                if x == y || k < LEAF || ids.len() - k < LEAF {
                    continue;
                }
                let (a, b) = (k as f64, n - k as f64);
                let gain = sum * sum / a + (total - sum) * (total - sum) / b - total * total / n;
                if gain > 1e-12 && best.is_none_or(|(g, ..)| gain > g) {
                    best = Some((gain, feature, (x + y) / 2.0));
                }
            }
        }
        let Some((_, feature, at)) = best else { return leaf };
        let (mut low, mut high): (Vec<usize>, Vec<usize>) =
            ids.iter().partition(|i| rows[**i][feature] <= at);
        let side = |ids: &mut Vec<usize>| Box::new(Tree::fit(rows, left, ids, depth - 1));
        Tree::Split { feature, at, below: side(&mut low), above: side(&mut high) }
    }
}

impl Trees {
    /// Fits rows of features, all of one length, to values.
    pub fn fit(rows: &[Vec<f64>], values: &[f64]) -> Trees {
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        let mut left: Vec<f64> = values.iter().map(|v| v - mean).collect();
        let mut trees = vec![];
        if rows.len() >= 2 * LEAF {
            for _ in 0..TREES {
                let tree = Tree::fit(rows, &left, &mut (0..rows.len()).collect::<Vec<_>>(), DEPTH);
                for (l, row) in left.iter_mut().zip(rows) {
                    *l -= RATE * tree.predict(row);
                }
                trees.push(tree);
            }
        }
        Trees { mean, trees }
    }

    /// Its text, for rows of so many features.
    pub fn text(&self, features: usize) -> String {
        let mut out = format!("cost {features} {:.6}\n", self.mean);
        for tree in &self.trees {
            let mut line = String::new();
            tree.text(&mut line);
            out += line.trim_start();
            out.push('\n');
        }
        out
    }

    /// The model of a text, for rows of so many features; nothing where it is none, or one of other features.
    pub fn parse(text: &str, features: usize) -> Option<Trees> {
        let mut lines = text.lines();
        let [_, of, mean] = lines.next()?.split_whitespace().collect::<Vec<_>>().try_into().ok()?;
        (of.parse() == Ok(features)).then_some(())?;
        let tree = |line: &str| {
            let mut words = line.split_whitespace();
            Tree::parse(&mut words, features, DEPTH).filter(|_| words.next().is_none())
        };
        Some(Trees { mean: mean.parse().ok()?, trees: lines.map(tree).collect::<Option<_>>()? })
    }

    /// The value of a row.
    pub fn predict(&self, row: &[f64]) -> f64 {
        self.mean + self.trees.iter().map(|t| RATE * t.predict(row)).sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn a_function_with_interactions_is_learned() {
        let mut random = Random(1);
        let mut draw = |n: usize| -> (Vec<Vec<f64>>, Vec<f64>) {
            let mut row = || (0..4).map(|_| random.below(1000) as f64 / 1000.0).collect::<Vec<f64>>();
            let rows: Vec<Vec<f64>> = (0..n).map(|_| row()).collect();
            let value = |r: &Vec<f64>| if r[0] < 0.5 { r[1] * 2.0 } else { 1.0 - r[2] };
            let values = rows.iter().map(value).collect();
            (rows, values)
        };
        let ((rows, values), (other, truth)) = (draw(600), draw(200));
        let model = Trees::fit(&rows, &values);
        let mean = truth.iter().sum::<f64>() / truth.len() as f64;
        let squares = |f: &dyn Fn(&[f64]) -> f64| -> f64 {
            other.iter().zip(&truth).map(|(r, t)| (f(r) - t).powi(2)).sum()
        };
        let explained = 1.0 - squares(&|r| model.predict(r)) / squares(&|_| mean);
        assert!(explained > 0.9, "{explained}");
        assert_eq!(Trees::fit(&rows[..2], &[1.0, 3.0]).predict(&rows[0]), 2.0);
        let text = model.text(4);
        let read = Trees::parse(&text, 4).expect("a model is read back");
        assert_eq!(read.text(4), text);
        let far = rows.iter().map(|r| (read.predict(r) - model.predict(r)).abs()).fold(0.0, f64::max);
        assert!(far < 1e-3, "{far}");
        let feature = text.replacen("? 0 ", "? 4 ", 1);
        for bad in [
            "",
            "cost 4",
            "cost 4 0\n= ",
            "cost 4 0\n? 0 1 = 1",
            "cost 4 0\n= 1 1",
            &feature,
            &text.replacen('4', "5", 1),
        ] {
            assert!(Trees::parse(bad, 4).is_none(), "{bad}");
        }
    }
}
