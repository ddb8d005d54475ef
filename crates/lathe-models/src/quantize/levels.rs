//! What the codes of an encoding stand for: a run of integers, or a codebook.

/// The levels of codes in rising order: code `i` stands for level `i`. All are integers, of at most 8 bits and a sign.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Levels {
    /// All integers from the first to the last.
    Run { first: f32, last: f32 },
    Book {
        levels: Vec<f32>,
        /// Between each two.
        middles: Vec<f32>,
    },
}

/// Adding it and taking it away rounds an f32 of at most 22 bits to an integer.
const ROUND: f32 = 12_582_912.0;

impl Levels {
    pub fn run(first: i64, last: i64) -> Levels {
        Levels::Run { first: first as f32, last: last as f32 }
    }

    pub fn book(levels: &[i64]) -> Levels {
        let levels: Vec<f32> = levels.iter().map(|l| *l as f32).collect();
        let middles = levels.windows(2).map(|w| (w[0] + w[1]) / 2.0).collect();
        Levels::Book { levels, middles }
    }

    pub fn first(&self) -> f32 {
        match self {
            Levels::Run { first, .. } => *first,
            Levels::Book { levels, .. } => levels[0],
        }
    }

    pub fn last(&self) -> f32 {
        match self {
            Levels::Run { last, .. } => *last,
            Levels::Book { levels, .. } => levels[levels.len() - 1],
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<f32> {
        match self {
            Levels::Run { first, last } => (*first as i32..=*last as i32).map(|l| l as f32).collect(),
            Levels::Book { levels, .. } => levels.clone(),
        }
    }

    /// The code of a level.
    pub fn code(&self, level: f32) -> i32 {
        match self {
            Levels::Run { first, .. } => (level - first) as i32,
            Levels::Book { middles, .. } => middles.partition_point(|m| *m < level) as i32,
        }
    }

    /// The level of a code.
    pub fn level(&self, code: i32) -> f32 {
        match self {
            Levels::Run { first, .. } => first + code as f32,
            Levels::Book { levels, .. } => levels[code as usize],
        }
    }

    /// The distance of the outermost levels from the next, at the lower and the upper end.
    pub fn steps(&self) -> [f32; 2] {
        match self {
            Levels::Run { .. } => [1.0; 2],
            Levels::Book { levels, .. } => {
                let n = levels.len();
                [levels[1] - levels[0], levels[n - 1] - levels[n - 2]]
            }
        }
    }

    /// The level nearest to `scale * l + offset = x`, for each `x`; a scale of 0 takes the one nearest to 0.
    pub fn nearest(&self, x: &[f32], scale: f32, offset: f32, out: &mut [f32]) {
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        // The inverse of a scale that is barely a number is none.
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        match self {
            Levels::Run { first, last } => {
                for (x, out) in x.iter().zip(out) {
                    let t = ((x - offset) * inverse).max(*first).min(*last);
                    *out = (t + ROUND) - ROUND;
                }
            }
            Levels::Book { levels, middles } => {
                for (x, out) in x.iter().zip(out) {
                    let t = (x - offset) * inverse;
                    let mut level = levels[0];
                    for (m, l) in middles.iter().zip(levels.windows(2)) {
                        level += if t > *m { l[1] - l[0] } else { 0.0 };
                    }
                    *out = level;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_level_is_taken() {
        for levels in [Levels::run(-8, 7), Levels::run(0, 63), Levels::book(&[-127, -10, 1, 13, 113])] {
            let x: Vec<f32> = (-300..300).map(|i| i as f32 * 0.77).collect();
            let mut out = vec![0.0; x.len()];
            levels.nearest(&x, -1.5, 3.0, &mut out);
            for (x, l) in x.iter().zip(&out) {
                let far = |l: f32| (l * -1.5 + 3.0 - x).abs();
                assert!(levels.all().iter().all(|other| far(*l) <= far(*other) + 1e-3), "{x}: {l}");
                assert_eq!(levels.level(levels.code(*l)), *l);
            }
        }
    }
}
