//! From a placed product to instructions: tiles of rows by tiles of columns, the sums of as many of these as there are
//! accumulators at a time, so that a tile of rows is loaded once for all of them.

use super::program::{Instr, Memory};
use crate::target::{Instruction, Target};
use lathe_ir::Name;

/// A batch of products of matrices `z[m, n] = sum over k of x[m, k] * y[k, n]`, each dense in the host's memory.
#[derive(Clone, Debug)]
pub struct Call {
    /// The instruction that computes them.
    pub instruction: Name,
    /// How many.
    pub batch: usize,
    /// Rows, steps and columns, as they lie in memory; tiles go on behind them with zeros.
    pub size: [usize; 3],
    /// Steps of a tile.
    pub steps: usize,
    /// Names of the factors and of the result.
    pub buffers: [Name; 3],
}

/// Gives the instructions of a call one by one; `false` where the target has no such instruction or accelerator.
pub fn generate<E>(
    call: &Call,
    target: &Target,
    f: &mut dyn FnMut(Instr) -> Result<(), E>,
) -> Result<bool, E> {
    let (Some(i), Some(a)) = (target.instruction(&call.instruction), target.accelerator) else {
        return Ok(false);
    };
    let Instruction { product, name, .. } = i;
    let (rows, width) = (product.rows as usize, product.width() as usize);
    let ([m, k, n], [x, y, z]) = (call.size, &call.buffers);
    let tile = |buffer: &Name, first: usize, rows: [usize; 2], columns: [usize; 2], all: usize| Memory {
        buffer: buffer.clone(),
        offset: first + rows[0] * all + columns[0],
        size: [rows[1], columns[1]],
        strides: [all, 1],
    };
    // A part of an axis: its first position and how many there are.
    let part = |i: usize, by: usize, of: usize| [i * by, by.min(of - i * by)];
    let second = rows * call.steps;
    for b in 0..call.batch {
        for row in 0..m.div_ceil(rows) {
            let row = part(row, rows, m);
            let all: Vec<usize> = (0..n.div_ceil(width)).collect();
            for group in all.chunks(a.accumulators) {
                for to in 0..group.len() {
                    f(Instr::Clear { to })?;
                }
                for step in 0..k.div_ceil(call.steps) {
                    let step = part(step, call.steps, k);
                    let from = tile(x, b * m * k, row, step, k);
                    f(Instr::Load { to: 0, from, tile: [rows, call.steps] })?;
                    for (to, column) in group.iter().enumerate() {
                        let from = tile(y, b * k * n, step, part(*column, width, n), n);
                        f(Instr::Load { to: second, from, tile: [call.steps, width] })?;
                        let name = name.as_str().into();
                        f(Instr::Product { name, to, factors: [0, second], steps: call.steps })?;
                    }
                }
                for (from, column) in group.iter().enumerate() {
                    let to = tile(z, b * m * n, row, part(*column, width, n), n);
                    f(Instr::Store { to, from })?;
                }
            }
        }
    }
    Ok(true)
}
