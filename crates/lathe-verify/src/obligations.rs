//! What must hold for two programs to mean the same, computed from the two programs alone. This is trusted: it is one walk
//! over both programs side by side, with one rule for each way in which they may differ.
//!
//! - **Nothing differs**: equal statements over equal iterations; an index that is written otherwise is an equation to
//!   prove.
//! - **Loops renamed** (`band`, here): nested loops before and after run the same body once for each other's iterations,
//!   by an index map and its inverse (a witness); and either in the same order, or those pairs that are exchanged do not
//!   meet.
//! - **Lanes and cores** (`meet.rs`): a loop goes to the lanes of a vector, or to the cores; no two iterations meet.
//! - **A loop distributed** (`distribute.rs`): its iterations do not meet, so each statement of its body runs for all of them
//!   before the next one does; temporaries get a dimension.
//! - **Loops joined** (`join.rs`): an iteration of the second one runs before later ones of the first, and does not meet them.
//! - **A temporary contracted** (`contract.rs`): it moves inside a loop with what an iteration touches of it.
//! - **Partial accumulators** (`partial.rs`): a sum becomes one for each iteration of an inner loop, and a sum of those.
//! - **Memory asked for** (`asked`, here): a read into nowhere, inside its buffer.
//! - **A loop peeled** (`peel.rs`): its last iterations are those of a copy behind it.
//! - **A loop padded** (`pad.rs`): more iterations, which write what nobody looks at.
//! - **Storage of temporaries** (`storage`, here): another memory, or rows that lie further apart.
//! - **An instruction** (`instruction.rs`): a nest is wrapped; it is what the instruction's row says, operand for
//!   operand, with the operands' elements as far apart as the row says.
//! - **One pass** (`online.rs`): a maximum and the sums of exponentials that use it, in one loop that rescales the sums.
//! - **A pass in parts** (`parts.rs`): each part with a maximum and sums of its own, joined at the end.
//! - **An element held** (`hold.rs`): what a block reads is read right before it, into a temporary.
//! - **A process cut** (`processes.rs`): what computes a temporary is a process of its own, with a channel to the rest.
//! - **A space-time map** (`travel.rs`): iterations are processes, and what they read travels from one to the next.
//! - **A copy filled** (`fill.rs`): what is read of a buffer is copied to a temporary first, and read there.
//! - **A cache** (`cache.rs`): what an iteration does to a buffer is done in a temporary: an image of the buffer
//!   without repetition, all of it written first, copied out at the end.
//!
//! Two accesses meet when one writes what the other touches; accumulations of one block by a commutative reducer may change
//! order, and then the tag says so. It is assumed that the program before runs: that its indices are inside its buffers
//! (the outermost one up to its padding), that it reads nothing it has not written, and that dimensions are positive.

use crate::cache::Cache;
use crate::distribute::Sunk;
use crate::fill::Fill;
use crate::meet::cores_write_parts;
use crate::parts::Parts;
use crate::processes::is_kind;
use crate::scope::{Env, Scope, Sides, World, exact, reads_memory};
use crate::travel::Flow;
use crate::{Order, Refusal};
use lathe_check::{Obligation, Term};
use lathe_ir::tensor::{
    Buffer, CHANNEL, CORE, Expr, Fact, For, Iter, Kernel, LANE, Node, SERIAL, SWEEP, Stmt, Store, UNROLLED,
    for_each, is_network,
};
use lathe_ir::{DType, Layout, Name};
use lathe_schedule::{INTRINSICS, PAST_CACHES, Tag, Witness, ends_alike, is_prefetch};
use std::collections::{HashMap, HashSet};

/// An obligation with what it is about.
#[derive(Clone, Debug)]
pub struct Named {
    /// What follows when its hypotheses contradict each other.
    pub about: String,
    /// The hypotheses.
    pub obligation: Obligation,
    /// Hints for the search.
    pub(crate) cuts: Vec<Term>,
    /// What people call some of its variables.
    pub(crate) labels: Vec<(u32, Name)>,
}

/// What must hold of two programs, and what it then means.
#[derive(Clone, Debug)]
pub struct Claim {
    /// All of these are to be proved.
    pub obligations: Vec<Named>,
    /// How results may differ.
    pub tag: Tag,
    /// What callers must promise in addition: storage that goes on behind its end, and what an instruction does not take.
    pub assumes: Vec<String>,
}

/// Computes from two programs what must hold for them to mean the same, when iterations move as the witness says and keep
/// this order; an error where nothing of the kind can be said. Neither hint is believed.
pub fn claim(
    before: &Kernel,
    after: &Kernel,
    witness: Option<&Witness>,
    order: Order,
) -> Result<Claim, Refusal> {
    Programs::default().check(before, after)?;
    claim_checked(before, after, witness, order, true)
}

/// Remembers that a program keeps the rules of programs: of a chain of steps each is looked at once.
#[derive(Default)]
pub(crate) struct Programs {
    last: Option<Kernel>,
}

impl Programs {
    /// Whether two programs keep the rules of programs.
    pub fn check(&mut self, before: &Kernel, after: &Kernel) -> Result<(), Refusal> {
        if self.last.as_ref() != Some(before) {
            sound(before)?;
        }
        self.last = None;
        sound(after)?;
        self.last = Some(after.clone());
        Ok(())
    }
}

fn sound(k: &Kernel) -> Result<(), Refusal> {
    lathe_ir::tensor::check(k).map_err(|e| Refusal::Differs(e.to_string()))
}

/// The same of programs that keep the rules of programs; with hints where proofs are to be searched.
pub(crate) fn claim_checked(
    before: &Kernel,
    after: &Kernel,
    witness: Option<&Witness>,
    order: Order,
    searched: bool,
) -> Result<Claim, Refusal> {
    let mut assumes = header(before, after)?;
    let world = World::new(before, after)?;
    let mut w = Walk::new(before, after, &world, witness, order, searched);
    let start = Sides { scope: Scope::new(&world), before: Env::default(), after: Env::default() };
    w.list(&start, &before.body, &after.body)?;
    w.overwritten_unseen()?;
    let mut vectors = false;
    for_each(&after.body, &mut |s| vectors |= matches!(s, Stmt::For(l) if &*l.level == LANE));
    if !assumes.is_empty() && !vectors && !w.pads {
        return differs("a promise on storage that no vector needs");
    }
    assumes.append(&mut w.assumes);
    let mut obligations = w.out;
    if cores_write_parts(after) {
        // Whatever became of loops and buffers: of the program after alone.
        let world = World::new(after, after)?;
        let mut w = Walk::new(after, after, &world, None, order, searched);
        w.whole_bytes(&Scope::new(&world), &Env::default(), &after.body)?;
        obligations.append(&mut w.out);
    }
    Ok(Claim { obligations, tag: w.tag, assumes })
}

/// Whether a loop's iterations follow each other, written out or not.
pub(crate) fn in_order(l: &For) -> bool {
    [SERIAL, UNROLLED, SWEEP].contains(&&*l.level)
}

pub(crate) fn differs<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Differs(message.into()))
}

/// Compares all but the bodies; returns the promises on padding that are new.
fn header(before: &Kernel, after: &Kernel) -> Result<Vec<String>, Refusal> {
    if before.name != after.name || before.dims != after.dims || before.axes != after.axes {
        return differs("the kernels' names, dimensions or axes differ");
    }
    if before.params.len() != after.params.len() {
        return differs("the kernels' parameters differ in number");
    }
    let mut new = vec![];
    for (b, a) in before.params.iter().zip(&after.params) {
        if (&b.name, b.access, &b.bits, b.views.len()) != (&a.name, a.access, &a.bits, a.views.len()) {
            return differs(format!("the parameters '{}' and '{}' differ", b.name, a.name));
        }
        for (b, a) in b.views.iter().zip(&a.views) {
            let same = Buffer { facts: a.facts.clone(), ..b.clone() } == *a;
            let more = a.facts.strip_prefix(b.facts.as_slice());
            let Some(more) = more.filter(|_| same) else {
                return differs(format!("the buffers '{}' and '{}' differ", b.name, a.name));
            };
            for f in more {
                match f {
                    Fact::Padded(d, m) if a.pads_otherwise(*d, *m) => {
                        return differs(format!("'{}' has room for other blocks already", a.name));
                    }
                    Fact::Padded(d, m) => new.push(format!("dimension {d} of '{}' is padded to {m}", a.name)),
                    _ => return differs(format!("'{}' promises something new", a.name)),
                }
            }
        }
    }
    Ok(new)
}

/// The walk over both programs.
pub(crate) struct Walk<'k> {
    pub(crate) before: &'k Kernel,
    pub(crate) after: &'k Kernel,
    pub(crate) world: &'k World<'k>,
    pub(crate) witness: Option<&'k Witness>,
    pub(crate) order: Order,
    pub(crate) cache: Option<Cache<'k>>,
    pub(crate) fill: Option<Fill<'k>>,
    pub(crate) parts: Option<Parts>,
    pub(crate) sunk: Option<Sunk<'k>>,
    /// The temporary that goes through a channel, the channel, and what its values are popped to.
    pub(crate) sent: Option<(Name, Name, Option<Name>)>,
    /// What travels from process to process.
    pub(crate) flows: Vec<Flow<'k>>,
    /// Whether the program before has processes: then nothing that is done changes its place.
    pub(crate) network: bool,
    /// Whether iterations are looked at that go to cores: what two of them write is in different bytes then.
    pub(crate) cores: bool,
    pub(crate) contracting: Option<Name>,
    /// Whether a loop runs on into what callers promise behind the end.
    pub(crate) pads: bool,
    /// In a copy, whose loops, blocks and temporaries have names of their own.
    pub(crate) renamed: bool,
    /// The names of the copy's temporaries.
    pub(crate) temporaries: HashMap<Name, Name>,
    pub(crate) tag: Tag,
    /// Whether proofs are searched, and not only checked.
    searched: bool,
    /// What must hold of arguments besides.
    pub(crate) assumes: Vec<String>,
    out: Vec<Named>,
    seen: HashSet<Obligation>,
}

impl<'k> Walk<'k> {
    fn push(&mut self, about: &str, obligation: Obligation, cuts: Vec<Term>, labels: &[(u32, Name)]) {
        if self.seen.insert(obligation.clone()) {
            let labels = if self.searched { labels } else { &[] };
            self.out.push(Named { about: about.to_string(), obligation, cuts, labels: labels.to_vec() });
        }
    }

    /// Whether each name of the program after means what it means before.
    pub(crate) fn is_plain(&self) -> bool {
        let same = self.same_names() && self.sunk.is_none() && self.sent.is_none() && self.flows.is_empty();
        same && self.contracting.is_none() && !self.renamed
    }

    /// Whether no buffer has another name after.
    fn same_names(&self) -> bool {
        self.cache.is_none() && self.fill.is_none() && self.parts.is_none()
    }

    /// Whether an expression reads a temporary that has another name or other dimensions after.
    fn moved(&self, e: &Expr) -> bool {
        let moves = |n: &Name| {
            let widened = self.sunk.as_ref().is_some_and(|t| t.widened(n));
            let sent = self.sent.as_ref().is_some_and(|(t, ..)| t == n);
            widened || sent || self.temporaries.contains_key(n) || self.contracting.as_ref() == Some(n)
        };
        let mut found = false;
        e.visit(&mut |e| found |= matches!(&**e, Node::Load(n, _) if moves(n)));
        found
    }

    /// How many obligations there are, to come back to.
    pub(crate) fn mark(&self) -> usize {
        self.out.len()
    }

    /// Forgets the obligations since a mark.
    pub(crate) fn forget(&mut self, mark: usize) {
        for o in self.out.drain(mark..) {
            self.seen.remove(&o.obligation);
        }
    }

    /// What the scope says is impossible.
    pub(crate) fn never(&mut self, mut s: Scope, about: &str) {
        let (facts, choices) = (std::mem::take(&mut s.facts), std::mem::take(&mut s.choices));
        self.impossible(&s, Obligation { facts, choices }, about);
    }

    /// What the scope says is impossible with these hypotheses for its own.
    fn impossible(&mut self, s: &Scope, obligation: Obligation, about: &str) {
        for side in &s.sides {
            self.push("a divisor is positive", side.clone(), vec![], &s.labels);
        }
        let cuts = if self.searched { s.cuts() } else { vec![] };
        self.push(about, obligation, cuts, &s.labels);
    }

    /// `t <= 0` follows.
    pub(crate) fn holds(&mut self, s: &Scope, t: &Term, about: &str) -> Result<(), Refusal> {
        let mut facts = s.facts.clone();
        facts.push(exact(t.neg().and_then(|t| t.plus(1)))?);
        self.impossible(s, Obligation { facts, choices: s.choices.clone() }, about);
        Ok(())
    }

    /// `a = b` follows.
    pub(crate) fn equal(&mut self, s: &Scope, a: &Term, b: &Term, about: &str) -> Result<(), Refusal> {
        if a != b {
            let d = exact(a.sub(b))?;
            let mut choices = s.choices.clone();
            choices.push(vec![vec![exact(d.plus(1))?], vec![exact(d.neg().and_then(|d| d.plus(1)))?]]);
            self.impossible(s, Obligation { facts: s.facts.clone(), choices }, about);
            return Ok(());
        }
        // What is equal whatever a quotient is, as a remainder by 1, needs the quotient all the same, unless both divide by the same.
        let divisor = |o: &Obligation| o.facts.last().cloned();
        let alone =
            |o: &&Obligation| s.sides.iter().filter(|other| divisor(other) == divisor(o)).count() == 1;
        for side in s.sides.iter().filter(alone) {
            self.push("a divisor is positive", side.clone(), vec![], &s.labels);
        }
        Ok(())
    }

    /// `0 <= t < n` follows.
    pub(crate) fn inside(&mut self, s: &Scope, t: &Term, n: &Term, about: &str) -> Result<(), Refusal> {
        self.holds(s, &exact(t.neg())?, about)?;
        self.holds(s, &exact(t.sub(n).and_then(|t| t.plus(1)))?, about)
    }

    pub(crate) fn list(&mut self, now: &Sides, b: &'k [Stmt], a: &'k [Stmt]) -> Result<(), Refusal> {
        let one = self.cache.is_none() && self.sunk.is_none() && self.parts.is_none() && self.sent.is_none();
        let one = one && self.flows.is_empty();
        if one && self.temporaries.is_empty() && b == a && now.before == now.after {
            return Ok(());
        }
        if self.is_plain()
            && let Some(p) = self.holds_element(b, a)
        {
            return self.element_held(now, (b, a), p);
        }
        if self.is_plain()
            && let Some(at) = self.cuts_process(b, a)
        {
            return self.process_cut(now, (b, a), at);
        }
        if let Some(p) = self.pops(b, a) {
            return self.value_popped(now, (b, a), p);
        }
        if self.travels(a) {
            return self.traveled(now, b, a);
        }
        if self.network {
            return self.pairs(now, b, a);
        }
        if self.is_plain()
            && let Some(p) = self.maps_space(b, a)
        {
            return self.space_mapped(now, (b, a), p);
        }
        if self.is_plain()
            && let Some(p) = self.fills(b, a)
        {
            return self.filled(now, (b, a), p);
        }
        if self.is_plain()
            && let Some(at) = self.passes_once(b, a)
        {
            return self.one_pass(now, (b, a), at);
        }
        if self.is_plain()
            && let Some(at) = self.splits_pass(b, a)
        {
            return self.in_parts(now, (b, a), at);
        }
        if one && self.fill.is_none() {
            if let Some(p) = self.distributes(b) {
                return self.distributed(now, b, a, p);
            }
            if a.len() > b.len() + 2
                && let Some(at) = self.splits_sum(b, a)
            {
                return self.sum_split(now, (b, a), at);
            }
            if a.len() == b.len() + 2 {
                return self.cached(now, b, a);
            }
            if let Some(p) = self.peels(b, a) {
                return self.peeled(now, (b, a), p);
            }
            if !self.renamed
                && let Some(p) = self.contracts(b, a)
            {
                return self.contracted(now, (b, a), p);
            }
            if a.len() + 1 == b.len() {
                return self.joined(now, b, a);
            }
        }
        self.pairs(now, b, a)
    }

    /// Statement by statement.
    pub(crate) fn pairs(&mut self, now: &Sides, b: &'k [Stmt], a: &'k [Stmt]) -> Result<(), Refusal> {
        let ask = |list: &[Stmt]| list.iter().filter(|s| asks(s)).count();
        if a.len() == b.len() + 1 && ask(a) > ask(b) {
            let new = (0..a.len()).find(|i| b.get(*i) != Some(&a[*i]) && asks(&a[*i]));
            let Some(new) = new else { return differs("a statement is new") };
            self.asked(&now.scope, &now.after, &a[new])?;
            self.pairs(now, &b[..new], &a[..new])?;
            return self.pairs(now, &b[new..], &a[new + 1..]);
        }
        if a.len() != b.len() {
            return differs(format!("{} statements become {}", b.len(), a.len()));
        }
        b.iter().zip(a).try_for_each(|(b, a)| self.statement(now, b, a))
    }

    /// A read into nowhere, or a loop of them: it is inside its buffer, and so are those of its index.
    fn asked(&mut self, s: &Scope, ea: &Env, a: &'k Stmt) -> Result<(), Refusal> {
        if let Stmt::For(l) = a {
            let (mut s, mut ea) = (s.clone(), ea.clone());
            s.iteration(&l.var, &l.extent, &mut ea)?;
            return l.body.iter().try_for_each(|inner| self.asked(&s, &ea, inner));
        }
        let Stmt::Intrinsic(_, body) = a else { return differs("it asks for nothing") };
        let [Stmt::Alloc(t), Stmt::Store(read)] = body.as_slice() else {
            return differs("it does more than to ask for memory");
        };
        let nowhere = read.targets == [(t.name.clone(), vec![])]
            && read.reducer.is_none()
            && t.shape.is_empty()
            && self.before.buffer(&t.name).is_none();
        let [value] = read.values.as_slice() else { return differs("it asks for nothing") };
        let Node::Load(_, index) = &**value else { return differs("it asks for nothing") };
        if !nowhere || index.iter().any(|e| self.world.volatile(e)) {
            return differs(format!("'{}' is no read into nowhere", read.name));
        }
        self.there_to_read(s, ea, value, &read.name)
    }

    /// Every element that an expression reads is inside its buffer.
    pub(crate) fn there_to_read(
        &mut self,
        s: &Scope,
        env: &Env,
        e: &Expr,
        place: &str,
    ) -> Result<(), Refusal> {
        let mut loads = vec![];
        e.visit(&mut |e| {
            if let Node::Load(n, i) = &**e {
                loads.push((n.clone(), i.clone()));
            }
        });
        for (n, index) in loads {
            let Some(b) = self.world.buffers.get(&n).filter(|b| b.shape.len() == index.len()) else {
                return differs(format!("there is no buffer '{n}'"));
            };
            let mut s = s.clone();
            for (i, extent) in index.iter().zip(&b.shape) {
                let (i, extent) = (s.term(i, env)?, s.int(extent)?);
                self.inside(&s, &i, &extent, &format!("what '{place}' reads of '{n}' is there"))?;
            }
        }
        Ok(())
    }

    /// The polynomial of an index expression after; what it reads that was not read for what is known already is there: as much as
    /// nothing may come of it.
    pub(crate) fn term_there(
        &mut self,
        s: &mut Scope,
        env: &Env,
        e: &Expr,
        place: &str,
    ) -> Result<Term, Refusal> {
        let (known, outside) = (s.reads, reads_memory(e).then(|| s.clone()));
        let t = s.term(e, env)?;
        match outside.filter(|_| s.reads > known) {
            Some(outside) => self.there_to_read(&outside, env, e, place).map(|()| t),
            None => Ok(t),
        }
    }

    pub(crate) fn statement(&mut self, now: &Sides, b: &'k Stmt, a: &'k Stmt) -> Result<(), Refusal> {
        match (b, a) {
            (Stmt::Alloc(b), Stmt::Alloc(a)) => self.storage(&now.scope, b, a),
            (Stmt::Store(b), Stmt::Store(a)) => self.store(now, b, a),
            (Stmt::If(c, b), Stmt::If(d, a)) => {
                self.same(now, c, d, "if")?;
                self.list(now, b, a)
            }
            (Stmt::Intrinsic(n, b), Stmt::Intrinsic(m, a)) if n == m => {
                if b != a && !self.network && INTRINSICS.iter().any(|r| r.name == &**n) {
                    self.still_instruction(now, n, a)?;
                }
                self.list(now, b, a)
            }
            (b, Stmt::Intrinsic(n, inner)) if !self.network => {
                let [inner] = inner.as_slice() else { return differs("an instruction is one statement") };
                // A store past the caches is whatever store it wraps.
                if &**n != PAST_CACHES {
                    self.instruction(&now.scope, &now.after, n, inner)?;
                }
                self.statement(now, b, inner)
            }
            (Stmt::For(b), Stmt::For(a)) => self.loops(now, b, a),
            _ => differs("a statement became one of another kind"),
        }
    }

    fn new(
        before: &'k Kernel,
        after: &'k Kernel,
        world: &'k World<'k>,
        witness: Option<&'k Witness>,
        order: Order,
        searched: bool,
    ) -> Walk<'k> {
        Walk {
            before,
            after,
            world,
            witness,
            order,
            cache: None,
            fill: None,
            parts: None,
            sunk: None,
            sent: None,
            flows: vec![],
            network: is_network(before),
            cores: false,
            contracting: None,
            pads: false,
            renamed: false,
            temporaries: HashMap::new(),
            tag: Tag::Bitwise,
            searched,
            assumes: vec![],
            out: vec![],
            seen: HashSet::new(),
        }
    }

    /// What an instruction wraps is another statement now, and still what its row says.
    fn still_instruction(&mut self, now: &Sides, name: &str, a: &'k [Stmt]) -> Result<(), Refusal> {
        let [inner] = a else { return differs("an instruction is one statement") };
        // It rounds as it did, and what it assumes was said.
        let (tag, assumes) = (self.tag, self.assumes.len());
        self.instruction(&now.scope, &now.after, name, inner)?;
        self.tag = tag;
        self.assumes.truncate(assumes);
        Ok(())
    }

    /// Nobody reads what instructions of fewer lanes than a vector's overwrite behind them, whoever reads now.
    fn overwritten_unseen(&self) -> Result<(), Refusal> {
        let mut seen = None;
        for_each(&self.after.body, &mut |s| {
            if let Stmt::Intrinsic(n, body) = s
                && INTRINSICS.iter().any(|r| r.name == &**n)
                && let [Stmt::For(lanes)] = body.as_slice()
                && lanes.extent.as_int().is_none()
            {
                for_each(body, &mut |s| {
                    if let Stmt::Store(b) = s {
                        let (t, _) = &b.targets[0];
                        let vector = self.world.buffers.get(t).and_then(|b| b.shape.last()?.as_const());
                        if vector.is_none_or(|n| !ends_alike(self.after, t, n)) {
                            seen = Some(t.clone());
                        }
                    }
                });
            }
        });
        seen.map_or(Ok(()), |t| {
            differs(format!("what lies behind the lanes of an instruction in '{t}' is read"))
        })
    }

    /// A temporary lies in another memory, or has positions more in some dimensions: elements stay apart.
    fn storage(&mut self, s: &Scope, b: &Buffer, a: &Buffer) -> Result<(), Refusal> {
        let own = Buffer { name: b.name.clone(), ..a.clone() };
        let a = if self.renamed && a.name != b.name {
            // A name that means nothing before: where it is declared after, it is this temporary's.
            if self.before.buffer(&a.name).is_some() || self.temporaries.values().any(|n| *n == a.name) {
                return differs(format!("'{}' is another temporary", a.name));
            }
            self.temporaries.insert(b.name.clone(), a.name.clone());
            &own
        } else {
            a
        };
        let moved = Buffer { memory: a.memory.clone(), ..b.clone() };
        let channel = [&a.memory, &b.memory].iter().any(|m| &***m == CHANNEL);
        if a == b || (moved == *a && !channel) {
            return Ok(());
        }
        let dense = |b: &Buffer| b.layout == Layout::dense(b.dtype, &b.shape);
        let wider = Buffer { shape: a.shape.clone(), layout: a.layout.clone(), ..b.clone() };
        if wider != *a || !dense(a) || !dense(b) || a.shape.len() != b.shape.len() {
            return differs(format!("the temporary '{}' differs", b.name));
        }
        for (n, m) in b.shape.iter().zip(&a.shape) {
            let mut s = s.clone();
            let less = exact(s.int(n)?.sub(&s.int(m)?))?;
            self.holds(&s, &less, &format!("all of '{}' has a place", b.name))?;
        }
        Ok(())
    }

    pub(crate) fn store(&mut self, now: &Sides, b: &Store, a: &Store) -> Result<(), Refusal> {
        // A name is a handle and no more: in a copy, blocks have their own.
        let alike = (self.renamed || b.name == a.name) && b.reducer == a.reducer;
        if !alike || b.targets.len() != a.targets.len() || b.values.len() != a.values.len() {
            return differs(format!("the blocks '{}' and '{}' differ", b.name, a.name));
        }
        for ((n, i), (m, j)) in b.targets.iter().zip(&a.targets) {
            self.element(now, (n, i), (m, j), &b.name)?;
        }
        b.values.iter().zip(&a.values).try_for_each(|(x, y)| self.same(now, x, y, &b.name))
    }

    /// Both elements hold the same.
    fn element(
        &mut self,
        now: &Sides,
        b: (&Name, &[Expr]),
        a: (&Name, &[Expr]),
        place: &str,
    ) -> Result<(), Refusal> {
        if self.is_pushed(b.0, a) {
            return Ok(());
        }
        if self.contracting.as_ref() == Some(b.0) {
            return if a.0 == b.0 {
                Ok(())
            } else {
                differs(format!("'{place}' uses '{}' in place of '{}'", a.0, b.0))
            };
        }
        if self.is_state(b.0) {
            return self.part_element(now, b, a, place);
        }
        if self.sunk.as_ref().is_some_and(|t| t.widened(b.0)) {
            return self.sunk_element(now, b, a, place);
        }
        if self.cache.as_ref().is_none_or(|c| *b.0 != c.buffer) {
            if self.temporaries.get(b.0).unwrap_or(b.0) != a.0 || b.1.len() != a.1.len() {
                return differs(format!("'{place}' uses '{}' in place of '{}'", a.0, b.0));
            }
            return b.1.iter().zip(a.1).try_for_each(|(x, y)| self.same(now, x, y, place));
        }
        self.cached_element(now, b.1, a, place)
    }

    /// Both expressions have the same value.
    pub(crate) fn same(&mut self, now: &Sides, b: &Expr, a: &Expr, place: &str) -> Result<(), Refusal> {
        let (tb, ta) = (self.world.dtype(b), self.world.dtype(a));
        let index = |e: &Expr| !matches!(&**e, Node::Load(..) | Node::Cast(..) | Node::Select(..));
        if tb == Some(DType::INDEX) && ta == tb && index(b) && index(a) && self.same_names() && !self.moved(b)
        {
            let mut s = now.scope.clone();
            let x = s.term(b, &now.before)?;
            let y = self.term_there(&mut s, &now.after, a, place)?;
            return self.equal(&s, &x, &y, &format!("an index of '{place}' is the same"));
        }
        let alike = match (&**b, &**a) {
            (Node::Load(n, i), Node::Load(m, j)) if self.is_filled(n, m) => {
                return self.filled_element(now, i, j, place);
            }
            (Node::Load(n, _), Node::Load(m, j)) if self.is_popped(n, (m, j)) => return Ok(()),
            (Node::Load(n, i), Node::Load(m, j)) => return self.element(now, (n, i), (m, j), place),
            (Node::Var(_), Node::Var(_)) => {
                let mut s = now.scope.clone();
                let (x, y) = (s.term(b, &now.before)?, s.term(a, &now.after)?);
                return self.equal(&s, &x, &y, &format!("an index of '{place}' is the same"));
            }
            (Node::Int(..) | Node::Float(..), _) => b == a,
            (Node::Unary(f, _), Node::Unary(g, _)) => f == g,
            (Node::Binary(f, ..), Node::Binary(g, ..)) => f == g,
            (Node::Select(..), Node::Select(..)) => true,
            (Node::Cast(t, _), Node::Cast(u, _)) | (Node::Bitcast(t, _), Node::Bitcast(u, _)) => t == u,
            (Node::Table(t, v, _), Node::Table(u, w, _)) => t == u && v == w,
            _ => false,
        };
        if !alike {
            return differs(format!("'{place}' computes {a} in place of {b}"));
        }
        b.children().into_iter().zip(a.children()).try_for_each(|(x, y)| self.same(now, x, y, place))
    }

    fn loops(&mut self, now: &Sides, b: &'k For, a: &'k For) -> Result<(), Refusal> {
        if let Some(w) = self.witness
            && w.before.first() == Some(&b.var)
            && w.after.first() == Some(&a.var)
            && b != a
        {
            return self.band(now, b, a, w);
        }
        // The order of iterations that follow each other may be said to be fixed.
        let kind = b.iter == a.iter || (in_order(b) && in_order(a) && is_kind(b.iter, a.iter));
        if (b.var != a.var && !self.renamed) || !kind {
            return differs(format!("the loops '{}' and '{}' differ", b.var, a.var));
        }
        if b.extent != a.extent
            && !self.network
            && b.level == a.level
            && b.iter == Iter::Spatial
            && a.extent.as_int().is_some()
        {
            return self.padded(now, b, a);
        }
        self.same(now, &b.extent, &a.extent, &b.var)?;
        if b.level != a.level {
            match &*a.level {
                LANE | CORE if self.network => return differs("processes: another order"),
                LANE => self.lanes(&now.scope, &now.after, a)?,
                CORE => self.cores(&now.scope, &now.after, a)?,
                // Whoever ran them, iterations follow each other now.
                _ if in_order(a) && [LANE, CORE, UNROLLED, SERIAL, SWEEP].contains(&&*b.level) => {}
                after => return differs(format!("the loop '{}' goes from {} to {after}", b.var, b.level)),
            }
            // Lanes add up in an order of their own.
            if &*b.level == LANE && b.iter == Iter::Reduce {
                self.tag = self.tag.max(Tag::Reassociates);
            }
        }
        let now = now.iteration(b, a)?;
        self.list(&now, &b.body, &a.body)
    }

    /// The loops of the witness, each the whole body of the one before it.
    fn nest(&self, first: &'k For, names: &[Name]) -> Result<Vec<&'k For>, Refusal> {
        let mut out = vec![first];
        while out.len() < names.len() {
            match out[out.len() - 1].body.as_slice() {
                [Stmt::For(l)] => out.push(l),
                _ => return differs(format!("'{}' is not around one loop", out[out.len() - 1].var)),
            }
        }
        if out.iter().zip(names).any(|(l, n)| l.var != *n) {
            return differs("the witness is about other loops");
        }
        Ok(out)
    }

    /// Both programs while loops run: an extent that reads what is written, but not by them, stays what it is.
    pub(crate) fn within<'l>(
        &self,
        now: &Sides<'k>,
        loops: &[&For],
        extents: impl Iterator<Item = &'l For> + Clone,
    ) -> Result<Sides<'k>, Refusal> {
        let mut now = now.clone();
        if self.is_plain() && extents.clone().any(|l| now.scope.volatile(&l.extent)) {
            now.scope.within(loops);
        }
        match { extents }.find(|l| now.scope.volatile(&l.extent)) {
            Some(l) => differs(format!("the extent of '{}' may change", l.var)),
            None => Ok(now),
        }
    }

    /// The iterations of one nest, mapped to another's by `map`: inside it. Returns where they land.
    fn land(
        &mut self,
        s: &mut Scope,
        from: &Env,
        mut to: Env,
        nest: &[&For],
        map: &[Expr],
        about: &str,
    ) -> Result<(Vec<Term>, Env), Refusal> {
        let mut places = vec![];
        for (l, e) in nest.iter().zip(map) {
            if s.volatile(e) {
                return differs("the witness depends on what is written");
            }
            let (t, n) = (s.term(e, from)?, s.term(&l.extent, &to)?);
            self.inside(s, &t, &n, about)?;
            to.vars.insert(l.var.clone(), t.clone());
            places.push(t);
        }
        Ok((places, to))
    }

    /// Loops become such as others run: whoever ran the iterations, they follow each other now, and then go to lanes or cores.
    fn run_anew(&mut self, now: &Sides, b: &[&'k For], a: &[&'k For]) -> Result<(), Refusal> {
        let known = |l: &&For| in_order(l) || [LANE, CORE].contains(&&*l.level);
        if let Some(l) = b.iter().chain(a).find(|l| l.iter != Iter::Spatial || !known(l)) {
            return differs(format!("the loop '{}' is of another kind", l.var));
        }
        let (mut s, mut env) = (now.scope.clone(), now.after.clone());
        for l in a {
            match &*l.level {
                LANE => self.lanes(&s, &env, l)?,
                CORE => self.cores(&s, &env, l)?,
                _ => {}
            }
            s.iteration(&l.var, &l.extent, &mut env)?;
        }
        Ok(())
    }

    fn band(&mut self, now: &Sides, b: &'k For, a: &'k For, w: &'k Witness) -> Result<(), Refusal> {
        if w.to_before.len() != w.before.len() || w.to_after.len() != w.after.len() {
            return differs("the witness does not fit its loops");
        }
        let (b, a) = (self.nest(b, &w.before)?, self.nest(a, &w.after)?);
        if self.network && (self.order != Order::Kept || !b.iter().chain(&a).all(|l| in_order(l))) {
            return differs("processes: their iterations might change their order");
        }
        let now = &self.within(now, &[b[0], a[0]], b.iter().chain(&a).copied())?;
        let kind = |l: &For| (l.iter, if in_order(l) { SERIAL.into() } else { l.level.clone() });
        for l in &a {
            let own = b.iter().find(|o| o.var == l.var).map_or(kind(b[0]), |o| kind(o));
            let uniform = b.iter().all(|o| kind(o) == kind(b[0])) || b.iter().any(|o| o.var == l.var);
            if !uniform || kind(l) != own {
                self.run_anew(now, &b, &a)?;
                break;
            }
        }
        // Every iteration after is one before, and back.
        let (mut sa, mut env_a, mut here) = (now.scope.clone(), now.after.clone(), vec![]);
        if a.iter().any(|l| reads_memory(&l.extent)) {
            sa.term(&b[0].extent, &now.before)?;
        }
        for l in &a {
            self.term_there(&mut sa, &env_a, &l.extent, &l.var)?;
            here.push(sa.iteration(&l.var, &l.extent, &mut env_a)?);
        }
        let about = "an iteration after is one before";
        let (_, env_b) = self.land(&mut sa, &env_a, now.before.clone(), &b, &w.to_before, about)?;
        for (e, t) in w.to_after.iter().zip(&here) {
            let back = sa.term(e, &env_b)?;
            self.equal(&sa, &back, t, "the way back leads to the same iteration after")?;
        }
        let (mut sb, mut there) = (now.scope.clone(), now.before.clone());
        let from =
            b.iter().map(|l| sb.iteration(&l.var, &l.extent, &mut there)).collect::<Result<Vec<_>, _>>()?;
        let about = "an iteration before is one after";
        let (_, again) = self.land(&mut sb, &there, now.after.clone(), &a, &w.to_after, about)?;
        for (e, t) in w.to_before.iter().zip(&from) {
            let back = sb.term(e, &again)?;
            self.equal(&sb, &back, t, "the way back leads to the same iteration before")?;
        }
        // Two iterations after whose order before was the other one.
        let mut so = now.scope.clone();
        let pair = |so: &mut Scope| -> Result<(Env, Vec<Term>, Vec<Term>), Refusal> {
            let mut env = Env { apart: true, ..now.after.clone() };
            let at =
                a.iter().map(|l| so.iteration(&l.var, &l.extent, &mut env)).collect::<Result<Vec<_>, _>>()?;
            let old = w.to_before.iter().map(|e| so.term(e, &env)).collect::<Result<Vec<_>, _>>()?;
            Ok((env, at, old))
        };
        let (first, second) = (pair(&mut so)?, pair(&mut so)?);
        so.precedes(&first.1, &second.1)?;
        so.precedes(&second.2, &first.2)?;
        let body = &a[a.len() - 1].body;
        match self.order {
            Order::Kept => self.never(so, "the order is kept"),
            order => self.apart(&so, &first.0, &second.0, body, order == Order::Accumulated)?,
        }
        self.list(&Sides { scope: sa, before: env_b, after: env_a }, &b[b.len() - 1].body, body)
    }
}

/// Whether a statement only asks for memory: a read into nowhere, or so many of them.
fn asks(s: &Stmt) -> bool {
    match s {
        Stmt::Intrinsic(n, _) => is_prefetch(n),
        Stmt::For(l) => l.extent.as_int().is_some() && matches!(l.body.as_slice(), [inner] if asks(inner)),
        _ => false,
    }
}
