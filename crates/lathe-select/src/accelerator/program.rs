//! Instructions of the accelerator and their text, one a line.
//!
//! Tiles of the factors lie in the scratchpad, at a place in elements; tiles of the sums in accumulators, by number. A tile of
//! the host's memory is elements a stride apart; `zeros` stand where a loaded tile goes on behind its elements.
//!
//! ```
//! let text = "load 0 = x + 32, 16 x 4 by 64 x 1, zeros to 16 x 8
//! clear 2
//! matmul 2 += 0 * 128, 8 steps
//! store z + 0, 16 x 16 by 48 x 1 = 2
//! ";
//! let program = lathe_select::accelerator::parse(text).unwrap();
//! let shown: String = program.iter().map(|i| format!("{i}\n")).collect();
//! assert_eq!(shown, text);
//! ```

use crate::SelectError;
use lathe_ir::Name;
use std::fmt;

/// A tile in the host's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The tensor.
    pub buffer: Name,
    /// Its first element.
    pub offset: usize,
    /// Rows and columns.
    pub size: [usize; 2],
    /// Elements from one row, and from one column, to the next.
    pub strides: [usize; 2],
}

/// An instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instr {
    /// Copies a tile to the scratchpad, row by row, with zeros behind its rows and columns.
    Load {
        /// Its place in the scratchpad, in elements.
        to: usize,
        /// What is copied.
        from: Memory,
        /// Rows and columns with the zeros.
        tile: [usize; 2],
    },
    /// Sets the sums of an accumulator to 0.
    Clear {
        /// The accumulator.
        to: usize,
    },
    /// Adds the product of two tiles of the scratchpad to an accumulator, by an instruction of the target.
    Product {
        /// The instruction.
        name: Name,
        /// The accumulator.
        to: usize,
        /// Places of the factors.
        factors: [usize; 2],
        /// The length of the sum.
        steps: usize,
    },
    /// Copies the first rows and columns of an accumulator to the host.
    Store {
        /// Where to.
        to: Memory,
        /// The accumulator.
        from: usize,
    },
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Memory { buffer, offset, size: [r, c], strides: [sr, sc] }, by) = (self, "by");
        write!(f, "{buffer} + {offset}, {r} x {c} {by} {sr} x {sc}")
    }
}

impl fmt::Display for Instr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Instr::Load { to, from, tile } => {
                write!(f, "load {to} = {from}, zeros to {} x {}", tile[0], tile[1])
            }
            Instr::Clear { to } => write!(f, "clear {to}"),
            Instr::Product { name, to, factors: [a, b], steps } => {
                write!(f, "{name} {to} += {a} * {b}, {steps} steps")
            }
            Instr::Store { to, from } => write!(f, "store {to} = {from}"),
        }
    }
}

/// Reads a program; empty lines and those that begin with `#` are left out.
pub fn parse(text: &str) -> Result<Vec<Instr>, SelectError> {
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    let one = |(at, line): (usize, &str)| {
        let words: Vec<&str> = line.split([' ', ',']).filter(|w| !w.is_empty()).collect();
        instr(&words).ok_or_else(|| SelectError::Program { at, what: format!("'{line}' is none") })
    };
    lines.enumerate().map(one).collect()
}

fn instr(words: &[&str]) -> Option<Instr> {
    let n = |w: &str| w.parse::<usize>().ok();
    Some(match words {
        ["load", to, "=", memory @ .., "zeros", "to", r, "x", c] => {
            Instr::Load { to: n(to)?, from: self::memory(memory)?, tile: [n(r)?, n(c)?] }
        }
        ["clear", to] => Instr::Clear { to: n(to)? },
        ["store", memory @ .., "=", from] => Instr::Store { to: self::memory(memory)?, from: n(from)? },
        [name, to, "+=", a, "*", b, steps, "steps"] => {
            Instr::Product { name: (*name).into(), to: n(to)?, factors: [n(a)?, n(b)?], steps: n(steps)? }
        }
        _ => return None,
    })
}

fn memory(words: &[&str]) -> Option<Memory> {
    let n = |w: &str| w.parse::<usize>().ok();
    let [buffer, "+", offset, r, "x", c, "by", sr, "x", sc] = words else { return None };
    let (size, strides) = ([n(r)?, n(c)?], [n(sr)?, n(sc)?]);
    Some(Memory { buffer: (*buffer).into(), offset: n(offset)?, size, strides })
}
