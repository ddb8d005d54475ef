//! The emulator: what each instruction does to the memories, with every access checked, and how long it takes.

use super::program::{Instr, Memory};
use crate::SelectError;
use crate::target::{Accelerator, Instruction, Product, Steps, Target};
use lathe_ir::Name;
use std::collections::HashMap;

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Instructions.
    pub instructions: u64,
    /// Products among them.
    pub products: u64,
    /// Bytes between the host's memory and the accelerator's.
    pub bytes: u64,
    /// Nanoseconds, one instruction behind the other.
    pub ns: f64,
}

/// The memories of an accelerator.
pub struct Emulator<'t> {
    target: &'t Target,
    accelerator: Accelerator,
    scratchpad: Vec<f32>,
    /// How far the scratchpad has been written, by element.
    written: Vec<bool>,
    accumulators: Vec<Option<Vec<f32>>>,
    /// Rows and columns of an accumulator.
    tile: [usize; 2],
    /// What was done so far.
    counts: Counts,
}

impl<'t> Emulator<'t> {
    /// An accelerator whose memories hold nothing yet; `None` where the target is none.
    pub fn new(target: &'t Target) -> Option<Emulator<'t>> {
        let accelerator = target.accelerator?;
        let size = |f: fn(&Product) -> i64| {
            target.instructions.iter().map(|i| f(&i.product)).max().unwrap_or(0) as usize
        };
        let elements = accelerator.scratchpad_bytes / 4;
        Some(Emulator {
            target,
            accelerator,
            scratchpad: vec![0.0; elements],
            written: vec![false; elements],
            accumulators: vec![None; accelerator.accumulators],
            tile: [size(|p| p.rows), size(Product::width)],
            counts: Counts::default(),
        })
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Does one instruction on the host's tensors by name.
    pub fn step(&mut self, i: &Instr, host: &mut HashMap<Name, Vec<f32>>) -> Result<(), SelectError> {
        let at = self.counts.instructions as usize;
        self.counts.instructions += 1;
        self.done(i, host).map_err(|what| SelectError::Program { at, what: format!("'{i}': {what}") })
    }

    fn done(&mut self, i: &Instr, host: &mut HashMap<Name, Vec<f32>>) -> Result<(), String> {
        match i {
            Instr::Load { to, from, tile } => {
                let [rows, columns] = *tile;
                let inside = from.size[0] <= rows && from.size[1] <= columns;
                inside.then_some(()).ok_or("the tile is smaller than what is loaded")?;
                let range = self.range(*to, rows, columns)?;
                let source = tensor(host, from)?;
                let [sr, sc] = from.strides;
                self.scratchpad[range.clone()].fill(0.0);
                self.written[range].fill(true);
                for r in 0..from.size[0] {
                    let row = &mut self.scratchpad[to + r * columns..][..from.size[1]];
                    let first = from.offset + r * sr;
                    if sc == 1 {
                        row.copy_from_slice(&source[first..first + row.len()]);
                    } else {
                        row.iter_mut().enumerate().for_each(|(c, v)| *v = source[first + c * sc]);
                    }
                }
                self.moved(from.size);
            }
            Instr::Clear { to } => *self.accumulator(*to)? = Some(vec![0.0; self.tile[0] * self.tile[1]]),
            Instr::Product { name, to, factors, steps } => {
                let row = self.target.instruction(name).ok_or("there is no such instruction")?;
                self.product(row, *to, *factors, *steps)?;
            }
            Instr::Store { to, from } => {
                let [rows, columns] = self.tile;
                let inside = to.size[0] <= rows && to.size[1] <= columns;
                inside.then_some(()).ok_or("an accumulator is smaller")?;
                let sums = self.accumulator(*from)?.take().ok_or("the accumulator holds nothing")?;
                tensor(host, to)?;
                let target = host.get_mut(&to.buffer).ok_or("there is no such tensor")?;
                for r in 0..to.size[0] {
                    for c in 0..to.size[1] {
                        target[to.offset + r * to.strides[0] + c * to.strides[1]] = sums[r * columns + c];
                    }
                }
                self.accumulators[*from] = Some(sums);
                self.moved(to.size);
            }
        }
        Ok(())
    }

    fn moved(&mut self, size: [usize; 2]) {
        let bytes = (4 * size[0] * size[1]) as u64;
        self.counts.bytes += bytes;
        self.counts.ns += bytes as f64 / self.accelerator.bytes_per_ns;
    }

    /// `c[i, j] += sum over k of a[i, k] * b[k, j]`, in the order of k, as the meaning's loops have it.
    fn product(
        &mut self,
        row: &Instruction,
        to: usize,
        factors: [usize; 2],
        steps: usize,
    ) -> Result<(), String> {
        let p = row.product;
        let allowed = match p.steps {
            Steps::Exactly(k) => steps as i64 == k,
            Steps::UpTo(k) => (1..=k).contains(&(steps as i64)),
        };
        allowed
            .then_some(())
            .ok_or_else(|| format!("a sum of {steps} steps is not one of this instruction"))?;
        let (rows, columns, width) = (p.rows as usize, p.width() as usize, self.tile[1]);
        let (a, b) = (self.range(factors[0], rows, steps)?, self.range(factors[1], steps, columns)?);
        let unwritten = self.written[a.clone()].iter().chain(&self.written[b.clone()]).any(|w| !w);
        if unwritten {
            return Err("a factor was not loaded".into());
        }
        let mut c = self.accumulator(to)?.take().ok_or("the accumulator holds nothing")?;
        let (a, b) = (&self.scratchpad[a], &self.scratchpad[b]);
        for i in 0..rows {
            let sums = &mut c[i * width..][..columns];
            for k in 0..steps {
                let x = a[i * steps + k];
                sums.iter_mut().zip(&b[k * columns..][..columns]).for_each(|(c, y)| *c += x * y);
            }
        }
        self.accumulators[to] = Some(c);
        self.counts.products += 1;
        self.counts.ns += row.ns + steps as f64 * row.ns_per_step;
        Ok(())
    }

    fn accumulator(&mut self, i: usize) -> Result<&mut Option<Vec<f32>>, String> {
        self.accumulators.get_mut(i).ok_or_else(|| format!("there is no accumulator {i}"))
    }

    /// Elements of the scratchpad.
    fn range(&self, from: usize, rows: usize, columns: usize) -> Result<std::ops::Range<usize>, String> {
        let end = rows.checked_mul(columns).and_then(|n| n.checked_add(from));
        match end.filter(|e| *e <= self.scratchpad.len()) {
            Some(end) => Ok(from..end),
            None => Err(format!("{rows} x {columns} elements at {from} leave the scratchpad")),
        }
    }
}

/// The tensor of a tile, which must lie in it.
fn tensor<'h>(host: &'h HashMap<Name, Vec<f32>>, m: &Memory) -> Result<&'h Vec<f32>, String> {
    let t = host.get(&m.buffer).ok_or("there is no such tensor")?;
    if m.size.contains(&0) {
        return Err("a tile without elements".into());
    }
    let reach = |d: usize| (m.size[d] - 1).checked_mul(m.strides[d]);
    let last = reach(0).and_then(|r| r.checked_add(reach(1)?)).and_then(|n| n.checked_add(m.offset));
    match last.filter(|l| *l < t.len()) {
        Some(_) => Ok(t),
        None => Err(format!("the tile leaves '{}', which has {} elements", m.buffer, t.len())),
    }
}
