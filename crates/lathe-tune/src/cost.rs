//! The cost model: how long a candidate takes, over what the rules' own schedule takes, foreseen from counts of both. One is shipped for
//! a kind of processor, learned from trials of many kernels; what is measured here is learned beside it.

use crate::features::{CYCLES, FEATURES};
use crate::search::BATCH;
use crate::trees::Trees;
use crate::{Options, Strategy};
use lathe_compile::{Shipped, shipped};
use std::fmt;

/// One trial, as a cost model sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Lesson {
    /// What counts say of the candidate, less what they say of the rules' schedule, and then the latter.
    pub row: Vec<f64>,
    /// The logarithm of the candidate's time over that of the rules' schedule.
    pub value: f64,
}

/// Numbers of a row.
const ROW: usize = 2 * FEATURES;

impl Lesson {
    /// The lesson of a line, as it is displayed.
    pub fn parse(line: &str) -> Option<Lesson> {
        let numbers: Vec<f64> = line.split_whitespace().map(|w| w.parse().ok()).collect::<Option<_>>()?;
        let (value, row) = numbers.split_first()?;
        (row.len() == ROW).then(|| Lesson { row: row.to_vec(), value: *value })
    }
}

impl fmt::Display for Lesson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4}", self.value)?;
        self.row.iter().try_for_each(|n| write!(f, " {n:.4}"))
    }
}

/// What foresees the logarithm of a candidate's time over that of the rules' schedule.
#[derive(Clone, Debug)]
pub struct CostModel(Trees);

/// Those that are shipped.
const SHIPPED: Shipped =
    &[("AuthenticAMD-26", "avx512bf16", include_str!("shipped/AuthenticAMD-26.avx512bf16.txt"))];

impl CostModel {
    /// Learns from trials.
    pub fn fit(lessons: &[Lesson]) -> CostModel {
        let rows: Vec<Vec<f64>> = lessons.iter().map(|l| l.row.clone()).collect();
        let values: Vec<f64> = lessons.iter().map(|l| l.value).collect();
        CostModel(Trees::fit(&rows, &values))
    }

    /// The one that is shipped for this processor and a dialect.
    pub fn shipped(dialect: &str) -> Option<CostModel> {
        CostModel::parse(shipped(SHIPPED, dialect)?)
    }

    /// The model of a text; nothing where it is none, or one of other features.
    pub fn parse(text: &str) -> Option<CostModel> {
        Trees::parse(text, ROW).map(CostModel)
    }

    /// Its text.
    pub fn text(&self) -> String {
        self.0.text(ROW)
    }

    /// What it foresees of a row.
    pub fn foresee(&self, row: &[f64]) -> f64 {
        self.0.predict(row)
    }

    /// What counts alone say of a row.
    pub fn analytical(row: &[f64]) -> f64 {
        row[CYCLES] * std::f64::consts::LN_2
    }
}

/// What a search has learned so far, of all its kernels.
pub(crate) struct Lessons {
    strategy: Strategy,
    shipped: Option<CostModel>,
    all: Vec<Lesson>,
}

/// What foresees times in a round of a search.
pub(crate) enum Guide<'l> {
    Counts,
    Learned(Option<&'l CostModel>, CostModel),
}

impl Lessons {
    pub fn new(options: &Options<'_>) -> Lessons {
        let shipped = match options.strategy {
            Strategy::Learned => CostModel::shipped(&options.target.dialect),
            _ => None,
        };
        Lessons { strategy: options.strategy, shipped, all: vec![] }
    }

    pub fn push(&mut self, lesson: Lesson) {
        self.all.push(lesson);
    }

    /// The guide of the next round; none where candidates are measured as they come.
    pub fn guide(&self) -> Option<Guide<'_>> {
        let learned = match self.strategy {
            Strategy::Evolution | Strategy::Random => false,
            Strategy::Analytical => return Some(Guide::Counts),
            Strategy::Learned | Strategy::Fresh => self.shipped.is_some() || self.all.len() >= BATCH,
        };
        learned.then(|| {
            // What is learned here is what the shipped one leaves over.
            let shipped = self.shipped.as_ref();
            let before = |row: &[f64]| shipped.map_or(0.0, |m| m.foresee(row));
            let left = |l: &Lesson| Lesson { value: l.value - before(&l.row), row: l.row.clone() };
            let left: Vec<Lesson> = self.all.iter().map(left).collect();
            Guide::Learned(shipped, CostModel::fit(&left))
        })
    }
}

impl Guide<'_> {
    pub fn foresee(&self, row: &[f64]) -> f64 {
        match self {
            Guide::Counts => CostModel::analytical(row),
            Guide::Learned(shipped, own) => shipped.map_or(0.0, |m| m.foresee(row)) + own.foresee(row),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shipped_fits_the_features() {
        for (class, dialect, text) in SHIPPED {
            let model = CostModel::parse(text).unwrap_or_else(|| panic!("{class} {dialect}: other features"));
            assert_eq!(model.text(), *text);
        }
        assert!(CostModel::shipped("portable").is_none());
    }

    #[test]
    fn lessons_are_read_back() {
        let lesson = Lesson { row: vec![0.5; ROW], value: -0.25 };
        assert_eq!(Lesson::parse(&lesson.to_string()), Some(lesson));
        assert_eq!(Lesson::parse("0.5 1"), None);
    }
}
