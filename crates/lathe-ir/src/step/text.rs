//! The text form of step programs, both ways.

use super::{Program, Step, StepBuffer, Storage};
use crate::IrError;
use crate::lexer::{Cursor, Token};
use std::fmt;

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "program {}({}) {{", self.name, self.dims.join(", "))?;
        for b in &self.buffers {
            write!(f, "  buffer {}: {} bytes on {} = ", b.name, b.bytes, b.tier)?;
            match b.storage {
                Storage::Given => writeln!(f, "given")?,
                Storage::Planned(at) => writeln!(f, "planned {at}")?,
            }
        }
        let name = |i: &u32| &*self.buffers[*i as usize].name;
        for s in &self.steps {
            match s {
                Step::Meet => writeln!(f, "  meet")?,
                Step::Copy { from, to } => writeln!(f, "  copy {} to {}", name(from), name(to))?,
                Step::Call { kernel, args, writes } => {
                    let mark = |w: &bool| if *w { "@" } else { "" };
                    let args: Vec<_> =
                        args.iter().zip(writes).map(|(a, w)| format!("{}{}", mark(w), name(a))).collect();
                    writeln!(f, "  call {kernel}({})", args.join(", "))?;
                }
            }
        }
        writeln!(f, "}}")
    }
}

fn buffer(c: &mut Cursor) -> Result<StepBuffer, IrError> {
    let name = c.ident()?.into();
    c.expect(":")?;
    let bytes = c.symbolic()?;
    c.expect_word("bytes")?;
    c.expect_word("on")?;
    let tier = c.ident()?.into();
    c.expect("=")?;
    let storage = if c.eat_word("given") {
        Storage::Given
    } else {
        c.expect_word("planned")?;
        Storage::Planned(c.integer()?)
    };
    Ok(StepBuffer { name, bytes, tier, storage })
}

/// Reads one program; `@` marks the arguments that a call writes.
pub fn parse(text: &str) -> Result<Program, IrError> {
    let mut c = Cursor::new(text)?;
    let c = &mut c;
    c.expect_word("program")?;
    let mut p = Program { name: c.ident()?, ..Program::default() };
    p.dims = c.list("(", ")", &mut |c| Ok(c.ident()?.into()))?;
    c.expect("{")?;
    while c.eat_word("buffer") {
        p.buffers.push(buffer(c)?);
    }
    let lookup = |c: &mut Cursor, p: &Program| {
        let word = c.ident()?;
        match p.buffer(&word) {
            Some(i) => Ok(i),
            None => c.error(&format!("a buffer before this; '{word}' is not one")),
        }
    };
    while !c.eat("}") {
        if c.eat_word("meet") {
            p.steps.push(Step::Meet);
        } else if c.eat_word("copy") {
            let from = lookup(c, &p)?;
            c.expect_word("to")?;
            let to = lookup(c, &p)?;
            p.steps.push(Step::Copy { from, to });
        } else {
            c.expect_word("call")?;
            let kernel = c.ident()?.into();
            let rows = c.list("(", ")", &mut |c| {
                let w = c.eat("@");
                Ok((lookup(c, &p)?, w))
            })?;
            let (args, writes) = rows.into_iter().unzip();
            p.steps.push(Step::Call { kernel, args, writes });
        }
    }
    if *c.peek() == Token::End { Ok(p) } else { c.error("the end") }
}
