//! Groups of values as 4-bit codes with a scale and a zero point: the value of a code is `(code - zero) * scale`.

use half::f16;

use super::calibrate::Grid;

/// The last code.
const LAST: f32 = 15.0;
/// The zero point where groups have none of their own.
pub(crate) const MIDDLE: u8 = 8;

/// By how much less than the whole range of a group its codes may span: large values that are cut off cost less than coarse steps.
const SPANS: [f32; 8] = [1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.79];

/// A group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Group {
    pub scale: f16,
    pub zero: u8,
}

impl Group {
    /// The code nearest to a value.
    pub(crate) fn code(&self, x: f32) -> u8 {
        let scale = self.scale.to_f32();
        let at = if scale == 0.0 { 0.0 } else { x / scale };
        (at.round_ties_even() + f32::from(self.zero)).clamp(0.0, LAST) as u8
    }

    /// What a code stands for.
    pub(crate) fn value(&self, code: u8) -> f32 {
        f32::from(i16::from(code) - i16::from(self.zero)) * self.scale.to_f32()
    }

    /// The group that loses about the least of these values, in squares with these weights; `zeros` gives it a zero point of its
    /// own.
    pub(crate) fn of(x: &[f32], w: &[f32], zeros: bool) -> Group {
        let (least, most) = x.iter().fold((0f32, 0f32), |(l, m), x| (l.min(*x), m.max(*x)));
        let mut best = (f32::INFINITY, Group { scale: f16::ZERO, zero: MIDDLE });
        let mut consider = |scale: f32, zero: u8| {
            // Twice: as it is, and fitted to the codes that it gives.
            let mut g = Group { scale: f16::from_f32(scale), zero };
            for _ in 0..2 {
                let (mut error, mut along, mut square) = (0.0, 0.0, 0.0);
                for (x, w) in x.iter().zip(w) {
                    let code = g.code(*x);
                    let level = f32::from(i16::from(code) - i16::from(zero));
                    error += w * (g.value(code) - x).powi(2);
                    along += w * level * x;
                    square += w * level * level;
                }
                if error < best.0 {
                    best = (error, g);
                }
                g.scale = f16::from_f32(if square > 0.0 { along / square } else { 0.0 });
            }
        };
        for span in SPANS {
            if zeros {
                let scale = (most - least) * span / LAST;
                let zero = if scale > 0.0 { (-least * span / scale).round().clamp(0.0, LAST) } else { 0.0 };
                consider(scale, zero as u8);
            } else {
                let peak = if -least > most { least } else { most };
                consider(peak * span / -f32::from(MIDDLE), MIDDLE);
                consider(peak * span / (LAST - f32::from(MIDDLE)), MIDDLE);
            }
        }
        best.1
    }
}

/// Groups of so many columns.
pub(crate) struct Groups {
    pub columns: usize,
    /// Whether they have zero points of their own.
    pub zeros: bool,
}

impl Grid for Groups {
    type Block = (Group, Vec<u8>);

    fn block(&self) -> usize {
        self.columns
    }

    fn fit(&self, values: &[f32], weights: &[f32]) -> (Group, Vec<u8>) {
        (Group::of(values, weights, self.zeros), vec![0; self.columns])
    }

    fn round(&self, (group, codes): &mut (Group, Vec<u8>), i: usize, value: f32) -> f32 {
        codes[i] = group.code(value);
        group.value(codes[i])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_represents_comes_back_and_others_are_near() {
        for zeros in [false, true] {
            let given = Group { scale: f16::from_f32(0.037), zero: if zeros { 3 } else { MIDDLE } };
            let codes: Vec<u8> = (0..64).map(|i| (i * 7 % 16) as u8).collect();
            let x: Vec<f32> = codes.iter().map(|c| given.value(*c)).collect();
            let found = Group::of(&x, &[1.0; 64], zeros);
            assert!(x.iter().all(|x| found.value(found.code(*x)) == *x), "{found:?}");
            let x: Vec<f32> =
                (0..64).map(|i| (i as f32 * 1.3).sin() + if zeros { 0.8 } else { 0.0 }).collect();
            let found = Group::of(&x, &[1.0; 64], zeros);
            let step = 2.0 / LAST;
            assert!(x.iter().all(|x| (found.value(found.code(*x)) - x).abs() < 1.5 * step), "{found:?}");
        }
    }
}
