//! The text form of step programs, both ways.

use super::{Division, Event, Held, Part, Program, Queue, Segments, Step, StepBuffer, Storage};
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
        for e in &self.events {
            match e.count {
                0 => writeln!(f, "  event {}", e.name)?,
                n => writeln!(f, "  event {} = {n}", e.name)?,
            }
        }
        for q in &self.queues {
            writeln!(f, "  queue {} {{", q.name)?;
            self.lines(f, &q.steps, 2)?;
            writeln!(f, "  }}")?;
        }
        self.lines(f, &self.steps, 1)?;
        writeln!(f, "}}")
    }
}

impl Program {
    fn part(&self, p: &Part) -> String {
        let name = &self.buffers[p.buffer as usize].name;
        match &p.range {
            None => name.to_string(),
            Some((offset, bytes)) => format!("{name}[{offset}, {bytes}]"),
        }
    }

    fn held(&self, held: &[Held]) -> String {
        let one = |h: &Held| format!("{} in {} pages {}", self.part(&h.from), self.part(&h.to), h.page);
        held.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// What a step does, in one line; of a loop its head.
    pub fn line(&self, s: &Step) -> String {
        let event = |e: &u32| &self.events[*e as usize].name;
        match s {
            Step::Meet => "meet".into(),
            Step::Copy { from, to } => format!("copy {} to {}", self.part(from), self.part(to)),
            Step::Pages { from, to, page, list } => {
                let (from, to, list) = (self.part(from), self.part(to), self.part(list));
                format!("copy {from} to {to} pages {page} of {list}")
            }
            Step::Hold { held, offsets, beside } => {
                let after = |word: &str, p: &Option<Part>| {
                    p.as_ref().map_or(String::new(), |p| format!(" {word} {}", self.part(p)))
                };
                format!("hold {}{}{}", self.held(held), after("by", offsets), after("beside", beside))
            }
            Step::Split { held, segments: s } => {
                let both = |s: &Segments<Part>| format!("{}, {}", self.part(&s.offsets), self.part(&s.index));
                let list = |(list, by): &(Part, i64)| format!("{} by {by}", self.part(list));
                let rows: Vec<_> = s.rows.iter().map(list).collect();
                let rows = if rows.is_empty() { String::new() } else { format!(" rows {}", rows.join(", ")) };
                format!(
                    "split {} of {} here {} come {} away {}{rows}",
                    both(&s.of),
                    self.held(held),
                    both(&s.here),
                    both(&s.come),
                    both(&s.away)
                )
            }
            Step::Call { kernel, args, writes } => {
                let arg = |(a, w): (&Part, &bool)| format!("{}{}", if *w { "@" } else { "" }, self.part(a));
                let args: Vec<_> = args.iter().zip(writes).map(arg).collect();
                format!("call {kernel}({})", args.join(", "))
            }
            Step::Signal(e) => format!("signal {}", event(e)),
            Step::Wait(e) => format!("wait {}", event(e)),
            Step::Send { from, rank, tag } => format!("send {} to {rank} tag {tag}", self.part(from)),
            Step::Receive { to, rank, tag } => format!("receive {} from {rank} tag {tag}", self.part(to)),
            Step::Loop { var, count, .. } => format!("loop {var} in {count}"),
        }
    }

    fn lines(&self, f: &mut fmt::Formatter<'_>, steps: &[Step], depth: usize) -> fmt::Result {
        let margin = "  ".repeat(depth);
        for s in steps {
            let line = self.line(s);
            let Step::Loop { body, .. } = s else {
                writeln!(f, "{margin}{line}")?;
                continue;
            };
            writeln!(f, "{margin}{line} {{")?;
            self.lines(f, body, depth + 1)?;
            writeln!(f, "{margin}}}")?;
        }
        Ok(())
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

fn part(c: &mut Cursor, p: &Program) -> Result<Part, IrError> {
    let word = c.ident()?;
    let Some(buffer) = p.buffer(&word) else {
        return c.error(&format!("a buffer before this; '{word}' is not one"));
    };
    let mut range = None;
    if c.eat("[") {
        let offset = c.symbolic()?;
        c.expect(",")?;
        range = Some((offset, c.symbolic()?));
        c.expect("]")?;
    }
    Ok(Part { buffer, range })
}

fn event(c: &mut Cursor, p: &Program) -> Result<u32, IrError> {
    let word = c.ident()?;
    p.event(&word).map_or_else(|| c.error(&format!("an event before this; '{word}' is not one")), Ok)
}

fn held(c: &mut Cursor, p: &Program) -> Result<Vec<Held>, IrError> {
    let mut held = vec![];
    loop {
        let from = part(c, p)?;
        c.expect_word("in")?;
        let to = part(c, p)?;
        c.expect_word("pages")?;
        held.push(Held { from, to, page: c.integer()? });
        if !c.eat(",") {
            return Ok(held);
        }
    }
}

fn segments(c: &mut Cursor, p: &Program) -> Result<Segments<Part>, IrError> {
    let offsets = part(c, p)?;
    c.expect(",")?;
    Ok(Segments { offsets, index: part(c, p)? })
}

fn step(c: &mut Cursor, p: &Program) -> Result<Step, IrError> {
    if c.eat_word("meet") {
        return Ok(Step::Meet);
    }
    if c.eat_word("copy") {
        let from = part(c, p)?;
        c.expect_word("to")?;
        let to = part(c, p)?;
        if !c.eat_word("pages") {
            return Ok(Step::Copy { from, to });
        }
        let page = c.integer()?;
        c.expect_word("of")?;
        return Ok(Step::Pages { from, to, page, list: part(c, p)? });
    }
    if c.eat_word("hold") {
        let held = held(c, p)?;
        let offsets = if c.eat_word("by") { Some(part(c, p)?) } else { None };
        let beside = if offsets.is_some() && c.eat_word("beside") { Some(part(c, p)?) } else { None };
        return Ok(Step::Hold { held, offsets, beside });
    }
    if c.eat_word("split") {
        let of = segments(c, p)?;
        c.expect_word("of")?;
        let held = held(c, p)?;
        c.expect_word("here")?;
        let here = segments(c, p)?;
        c.expect_word("come")?;
        let come = segments(c, p)?;
        c.expect_word("away")?;
        let away = segments(c, p)?;
        let mut rows = vec![];
        let mut more = c.eat_word("rows");
        while more {
            let list = part(c, p)?;
            c.expect_word("by")?;
            rows.push((list, c.integer()?));
            more = c.eat(",");
        }
        return Ok(Step::Split { held, segments: Box::new(Division { of, here, come, away, rows }) });
    }
    if c.eat_word("signal") {
        return event(c, p).map(Step::Signal);
    }
    if c.eat_word("wait") {
        return event(c, p).map(Step::Wait);
    }
    if c.eat_word("send") {
        let from = part(c, p)?;
        c.expect_word("to")?;
        let rank = c.symbolic()?;
        c.expect_word("tag")?;
        return Ok(Step::Send { from, rank, tag: c.symbolic()? });
    }
    if c.eat_word("receive") {
        let to = part(c, p)?;
        c.expect_word("from")?;
        let rank = c.symbolic()?;
        c.expect_word("tag")?;
        return Ok(Step::Receive { to, rank, tag: c.symbolic()? });
    }
    if c.eat_word("loop") {
        let var = c.ident()?.into();
        c.expect_word("in")?;
        let count = c.symbolic()?;
        return Ok(Step::Loop { var, count, body: body(c, p)? });
    }
    c.expect_word("call")?;
    let kernel = c.ident()?.into();
    let rows = c.list("(", ")", &mut |c| {
        let w = c.eat("@");
        Ok((part(c, p)?, w))
    })?;
    let (args, writes) = rows.into_iter().unzip();
    Ok(Step::Call { kernel, args, writes })
}

/// Steps in braces.
fn body(c: &mut Cursor, p: &Program) -> Result<Vec<Step>, IrError> {
    c.enter()?;
    c.expect("{")?;
    let mut steps = vec![];
    while !c.eat("}") {
        steps.push(step(c, p)?);
    }
    c.leave();
    Ok(steps)
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
    while c.eat_word("event") {
        let name = c.ident()?.into();
        let count = if c.eat("=") { c.integer()? } else { 0 };
        p.events.push(Event { name, count });
    }
    while c.eat_word("queue") {
        let name = c.ident()?.into();
        let steps = body(c, &p)?;
        p.queues.push(Queue { name, steps });
    }
    while !c.eat("}") {
        let s = step(c, &p)?;
        p.steps.push(s);
    }
    if *c.peek() == Token::End { Ok(p) } else { c.error("the end") }
}
