//! `space_time I [J] B+L... [depth]`: a space-time map, after uniform recurrence equations and SuSy. The iterations of the
//! space loops `I` (rows) and `J` (columns) become processing elements, each a process; the loops inside them are time.
//! An operand `B+L` travels: the element that all iterations of `L` read enters at `L = 0` and each processing element hands
//! it to the next one, so that nobody but the edge reads memory (`B-L` enters at the other end). Results stay where they are
//! computed. What an operand's index says of `L` must be nothing, or neighbours would need different elements.

use crate::stage::{element, is_block, read_instead};
use crate::stream::{loops, ordered, process};
use crate::util::{accesses, arg, edit_list, need_free, need_loop, number, touched};
use crate::{Primitive, Tag};
use lathe_ir::Int;
use lathe_ir::tensor::{
    Binary, Buffer, CHANNEL, Expr, For, Iter, Kernel, Node, PROCESS, REGISTER, SERIAL, Stmt, Store, for_each,
    rename_vars, replace_loop,
};
use std::collections::HashMap;
use std::sync::Arc;

pub(crate) static SPACE_TIME: Primitive = Primitive {
    name: "space_time",
    doc: "space_time I [J] B+L... [depth]: the loops I and J are processing elements, and B travels along L (B-L: against it)",
    tag: Tag::Bitwise,
    apply,
    witness: None,
};

/// An operand that travels.
struct Flow<'a> {
    buffer: &'a str,
    along: &'a str,
    forward: bool,
}

fn flow(word: &str) -> Option<Flow<'_>> {
    let at = word.find(['+', '-'])?;
    Some(Flow { buffer: &word[..at], along: &word[at + 1..], forward: word.as_bytes()[at] == b'+' })
}

fn apply(k: &Kernel, args: &[&str]) -> Result<Kernel, String> {
    let (mut space, mut flows, mut depth) = (vec![], vec![], 1);
    arg(args, 0)?;
    for word in args {
        match flow(word) {
            Some(f) => flows.push(f),
            None if word.starts_with(|c: char| c.is_ascii_digit()) => depth = number(word)?,
            None => space.push(need_loop(k, word)?),
        }
    }
    for (i, l) in space.iter().enumerate() {
        if l.iter != Iter::Spatial || &*l.level != SERIAL {
            return Err(format!("'{}' is not a serial spatial loop: its iterations are no places", l.var));
        }
        if l.extent.as_int().is_none() {
            return Err(format!("the number of processing elements along '{}' is not constant", l.var));
        }
        if let Some(inner) = space.get(i + 1)
            && !matches!(l.body.as_slice(), [Stmt::For(b)] if b.var == inner.var)
        {
            return Err(format!("'{}' is not the whole body of '{}'", inner.var, l.var));
        }
    }
    let Some(last) = space.last() else { return Err("no loop is named".into()) };
    let array = Array { kernel: k, space: &space, depth };
    let (mut made, mut feeders) = (vec![], vec![]);
    let mut body = last.body.clone();
    for f in &flows {
        let (channel, feeder, inside) = array.travel(f, &body)?;
        made.push(Stmt::Alloc(Arc::new(channel)));
        feeders.push(feeder);
        body = inside;
    }
    for l in space.iter().rev() {
        body = vec![Stmt::For(Arc::new(For { level: PROCESS.into(), body, ..(**l).clone() }))];
    }
    made.extend(feeders);
    made.extend(body);
    let body = replace_loop(&k.body, &space[0].var, &mut |_| made.clone());
    let k = Kernel { body: body.expect("found above"), ..k.clone() };
    // Whether processes see nothing of each other but through channels is known to the checker.
    lathe_ir::tensor::check(&k).map_err(|e| e.to_string())?;
    Ok(k)
}

struct Array<'a> {
    kernel: &'a Kernel,
    space: &'a [Arc<For>],
    depth: i64,
}

impl Array<'_> {
    /// The channels of an operand, the processes at the edge, and the body of a processing element.
    fn travel(&self, f: &Flow, body: &[Stmt]) -> Result<(Buffer, Stmt, Vec<Stmt>), String> {
        let (b, along) = (f.buffer, f.along);
        let buffer = self.kernel.buffer(b).ok_or_else(|| format!("there is no buffer '{b}'"))?;
        let Some(l) = self.space.iter().find(|l| &*l.var == along) else {
            return Err(format!("'{b}' travels along '{along}', which is no space loop"));
        };
        if touched(&self.kernel.body, true).iter().any(|n| &**n == b) {
            return Err(format!("'{b}' is written: only what is constant travels"));
        }
        let mut readers = vec![];
        for_each(body, &mut |s| match s {
            Stmt::Store(r) if !accesses(std::slice::from_ref(s), b).is_empty() => readers.push(r.clone()),
            _ => {}
        });
        let [reader] = readers.as_slice() else { return Err(format!("'{b}' is not read by one block")) };
        let index = element(reader, b)?;
        if index.iter().any(|i| i.mentions(along)) {
            return Err(format!(
                "'{b}' cannot travel along '{along}': its neighbours there read other elements"
            ));
        }
        let time = loops(body, &reader.name).ok_or_else(|| format!("'{}' has a condition", reader.name))?;
        if time.iter().any(|t| t.extent.mentions(along)) {
            return Err(format!("neighbours along '{along}' do not read '{b}' equally often"));
        }
        let mut steady = true;
        for e in index.iter().chain(time.iter().map(|t| &t.extent)) {
            e.visit(&mut |e| steady &= !matches!(&**e, Node::Load(..)));
        }
        if !steady {
            return Err(format!("which element of '{b}' is read depends on what is in a buffer"));
        }
        let [channel, edge, value, pop, push] = ["c", "edge", "v", "pop", "push"].map(|s| format!("{b}.{s}"));
        need_free(self.kernel, &[&channel, &edge, &value, &pop, &push])?;

        let size = |l: &For| l.extent.as_int().expect("checked above");
        let shape: Vec<Int> = self.space.iter().map(|l| size(l)).chain([self.depth]).map(Int::from).collect();
        let declared = Buffer::dense(&channel, buffer.dtype, &shape, CHANNEL);
        let places: Vec<Expr> = self.space.iter().map(|l| Expr::var(&l.var)).collect();
        let at = |x: Expr| -> Vec<Expr> {
            self.space
                .iter()
                .zip(&places)
                .map(|(l, p)| if &*l.var == along { x.clone() } else { p.clone() })
                .collect()
        };

        // The edge: as many processes as there are elements side by side, each in the order in which time goes.
        let first = if f.forward { 0 } else { size(l) - 1 };
        let mut feed = vec![Stmt::store(&edge, &channel, &at(first.into()), Expr::load(b, &index))];
        let others: Vec<&Arc<For>> = self.space.iter().filter(|o| &*o.var != along).collect();
        let mut names = HashMap::new();
        for t in time.iter().rev() {
            feed = self.copy(t, b, feed, &mut names)?;
        }
        for o in others.iter().rev() {
            let level = PROCESS.into();
            feed = self.copy(&For { level, ..(***o).clone() }, b, feed, &mut names)?;
        }
        let feed = rename_vars(&feed, &names.iter().map(|(o, n)| (o.as_str(), Expr::var(n))).collect());
        let feed = if others.is_empty() { vec![process(&format!("{b}.in"), feed)] } else { feed };
        let feeder = ordered(&feed, &channel)?.remove(0);

        // The processing element: takes the value, hands it on, and uses it.
        let v = Expr::var(along);
        let (more, next) = match f.forward {
            true => (v.bin(Binary::Lt, &(size(l) - 1).into()), v + 1),
            false => (Expr::from(0).bin(Binary::Lt, &v), v - 1),
        };
        let inside = edit_list(body, &|s| is_block(s, &reader.name), &mut |list, i| {
            let used: &Store = match &list[i] {
                Stmt::Store(s) => s,
                _ => return Err("no block".into()),
            };
            let handed = vec![Stmt::store(&push, &channel, &at(next.clone()), Expr::load(&value, &[]))];
            let taken = [
                Stmt::Alloc(Arc::new(Buffer::dense(&value, buffer.dtype, &[], REGISTER))),
                Stmt::store(&pop, &value, &[], Expr::load(&channel, &places)),
                Stmt::If(more.clone(), Arc::new(handed)),
                read_instead(used, b, &value),
            ];
            Ok([&list[..i], &taken, &list[i + 1..]].concat())
        })?;
        let inside = inside.ok_or_else(|| format!("'{}' is not in a plain list", reader.name))?;
        Ok((declared, feeder, ordered(&inside, &channel)?))
    }

    /// A loop of the edge, with a name of its own.
    fn copy(
        &self,
        l: &For,
        b: &str,
        body: Vec<Stmt>,
        names: &mut HashMap<String, String>,
    ) -> Result<Vec<Stmt>, String> {
        let var = format!("{b}.{}", l.var);
        need_free(self.kernel, &[&var])?;
        names.insert(l.var.to_string(), var.clone());
        Ok(vec![Stmt::For(Arc::new(For { var: var.as_str().into(), body, ..l.clone() }))])
    }
}
