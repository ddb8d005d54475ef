//! Small steps that each thread does for itself, into memory of its own.
//!
//! A kernel of a microsecond, as of a norm between two products, takes less time than threads need to hand its results over: to meet,
//! and to bring the lines that another core wrote. So where all that a step writes is read by the steps behind the next meeting alone, each
//! thread computes it, and the meeting falls away.
//!
//! A thread that comes late leaves them out, or may find their inputs overwritten, as the others have gone on. Then all is taken that it could
//! do with what it computes, for they met behind that; so it is only seen to that such a step goes nowhere by what it reads.

use lathe_ir::Name;
use lathe_ir::step::{ALONE, Bytes, Op, Program, Storage, Unit, overlap};
use lathe_ir::tensor::{Access, Expr, Kernel, Node, Stmt, for_each};
use std::collections::BTreeSet;
use std::ops::Range;

/// The same as [`ALONE`] of a step that threads would share.
const SHARED: i64 = 12 << 10;

/// What is done so in a queue, by the numbers of its units.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Own {
    /// The calls that each thread does.
    pub calls: BTreeSet<usize>,
    /// The meetings that fall away.
    pub meetings: BTreeSet<usize>,
    /// Bytes that each thread has its own of, and from which unit to which.
    pub bytes: Vec<(Bytes, Range<usize>)>,
}

/// What is known of a call.
pub(crate) struct Called<'k> {
    pub kernel: &'k Kernel,
    /// The buffers of [`leading`].
    pub leads: &'k [Name],
    /// Iterations of the loop over cores.
    pub grid: i64,
    /// What it touches at most.
    pub bytes: i64,
}

/// Finds them; `checked` is before which units the content of a buffer is looked at.
pub(crate) fn find<'k>(
    program: &Program,
    units: &[Unit<'_>],
    called: &dyn Fn(&Op<'_>) -> Option<Called<'k>>,
    checked: &[usize],
) -> Own {
    let meets: Vec<usize> =
        units.iter().enumerate().filter(|(_, u)| u.op == Op::Meet).map(|(i, _)| i).collect();
    let mut own = Own::default();
    let mut begin = 0;
    for (n, meet) in meets.iter().enumerate() {
        let group = begin..*meet;
        begin = meet + 1;
        let next = begin..meets.get(n + 1).copied().unwrap_or(units.len());
        // What a step before does for each thread is read here by all.
        let before = group.start.checked_sub(1).is_some_and(|m| own.meetings.contains(&m));
        let looked = checked.iter().any(|c| group.contains(c) || next.contains(c));
        if group.is_empty() || before || looked {
            continue;
        }
        let found = Group { program, units, group: group.clone(), next: next.clone() };
        if let Some(bytes) = found.own(called) {
            own.calls.extend(group.clone());
            own.meetings.insert(*meet);
            own.bytes.extend(bytes.into_iter().map(|b| (b, group.start..next.end)));
        }
    }
    own
}

/// Steps between two meetings, and those up to the one behind.
struct Group<'u, 'p> {
    program: &'u Program,
    units: &'u [Unit<'p>],
    group: Range<usize>,
    next: Range<usize>,
}

impl Group<'_, '_> {
    /// What the steps write, if each thread may do them for itself.
    fn own<'k>(&self, called: &dyn Fn(&Op<'_>) -> Option<Called<'k>>) -> Option<Vec<Bytes>> {
        let steps = &self.units[self.group.clone()];
        if !steps.iter().all(|u| called(&u.op).is_some_and(|k| self.is_small(&u.op, k))) {
            return None;
        }
        let touched: Vec<(Bytes, bool)> = steps.iter().flat_map(|u| u.op.touches()).collect();
        let written: Vec<Bytes> = touched.iter().filter(|(_, w)| *w).map(|(b, _)| *b).collect();
        // The next steps leave alone what a thread reads that is not as far.
        let mut after = self.units[self.next.clone()].iter().flat_map(|u| u.op.touches()).filter(|(_, w)| *w);
        if after.any(|(b, _)| touched.iter().any(|(t, _)| overlap(self.program, b, *t))) {
            return None;
        }
        let planned = |b: &Bytes| self.program.buffers[b.buffer as usize].storage != Storage::Given;
        written.iter().all(|b| planned(b) && self.ends(b, called)).then_some(written)
    }

    /// Whether a call does little and its place and length follow from nothing that steps of the queue write.
    fn is_small(&self, op: &Op<'_>, Called { kernel, leads, grid, bytes }: Called<'_>) -> bool {
        let Op::Call(_, args) = op else { return false };
        let made = |b: &Bytes| {
            self.units
                .iter()
                .flat_map(|u| u.op.touches())
                .any(|(w, written)| written && overlap(self.program, w, *b))
        };
        let is_made = |name: &Name| {
            let at = kernel.params.iter().position(|p| p.views.iter().any(|v| v.name == *name));
            at.is_none_or(|i| args.get(i).is_none_or(|(b, _)| made(b)))
        };
        bytes <= if grid == 1 { ALONE } else { SHARED }
            && kernel.params.iter().all(|p| p.access != Access::InOut)
            && !leads.iter().any(is_made)
    }

    /// Whether the next steps alone read what a step wrote, as it wrote it.
    fn ends<'k>(&self, b: &Bytes, called: &dyn Fn(&Op<'_>) -> Option<Called<'k>>) -> bool {
        let mut reads = false;
        for (i, u) in self.units.iter().enumerate().skip(self.next.start) {
            for (at, (t, written)) in
                u.op.touches().iter().enumerate().filter(|(_, (t, _))| overlap(self.program, *t, *b))
            {
                let kernel = called(&u.op);
                let read = kernel
                    .as_ref()
                    .is_none_or(|c| c.kernel.params.get(at).is_none_or(|p| p.access != Access::Out));
                match self.next.contains(&i) {
                    true if *written || t != b || kernel.is_none() => return false,
                    true => reads = true,
                    // Something else begins to live there.
                    false if *written && !read => return reads,
                    false => return false,
                }
            }
        }
        reads
    }
}

/// The buffers whose content decides where a kernel reads and writes, and how often.
pub fn leading(k: &Kernel) -> Vec<Name> {
    fn loads(e: &Expr, found: &mut BTreeSet<Name>) {
        e.visit(&mut |e| {
            if let Node::Load(n, _) = &**e {
                found.insert(n.clone());
            }
        });
    }
    fn indices(e: &Expr, found: &mut BTreeSet<Name>) {
        e.visit(&mut |e| {
            if let Node::Load(_, i) = &**e {
                i.iter().for_each(|i| loads(i, found));
            }
        });
    }
    let mut found = BTreeSet::new();
    for_each(&k.body, &mut |s| match s {
        Stmt::For(l) => loads(&l.extent, &mut found),
        Stmt::If(c, _) => loads(c, &mut found),
        Stmt::Store(b) => {
            b.targets.iter().flat_map(|(_, i)| i).for_each(|i| loads(i, &mut found));
            b.values.iter().for_each(|v| indices(v, &mut found));
        }
        Stmt::Alloc(_) | Stmt::Intrinsic(..) => {}
    });
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lathe_ir::step::{parse, unroll};
    use lathe_ir::tensor;
    use std::collections::HashMap;

    /// The calls that each thread does for itself, in programs of these kernels: `small` makes 4 numbers of 4, `large` 64 of 4, `picks` 4 of 4
    /// places, `adds` changes 4 numbers.
    fn found(steps: &str) -> Vec<usize> {
        let kernels = [
            ("small", 1, "in x: f32[4] out y: f32[4] for i in 4 spatial serial { S: y[i] = x[i] }"),
            ("large", 64, "in x: f32[4] out y: f32[64] for i in 64 spatial core { S: y[i] = x[i % 4] }"),
            (
                "picks",
                1,
                "in x: i32[4] out y: f32[4] in z: f32[4] for i in 4 spatial serial { S: y[i] = z[index(x[i])] }",
            ),
            ("adds", 1, "in x: f32[4] inout y: f32[4] for i in 4 spatial serial { S: y[i] sum = x[i] }"),
        ];
        let read = |(n, grid, text)| {
            let k =
                tensor::parse(&format!("kernel {n}() {{ {text} }}")).unwrap_or_else(|e| panic!("{n}: {e}"));
            (n, (k.clone(), leading(&k), grid))
        };
        let kernels: HashMap<&str, (Kernel, Vec<Name>, i64)> = kernels.map(read).into();
        let buffers = "buffer x: 16 bytes on host = given buffer y: 256 bytes on host = given
                       buffer a: 16 bytes on host = planned 0 buffer b: 16 bytes on host = planned 64
                       buffer c: 256 bytes on host = planned 128 buffer d: 16 bytes on host = planned 0";
        let p = parse(&format!("program p() {{ {buffers} {steps} }}")).unwrap();
        let u = unroll(&p, &|_| None).unwrap();
        let called = |op: &Op<'_>| {
            let Op::Call(n, _) = op else { return None };
            let (kernel, leads, grid) = &kernels[&***n];
            let bytes = kernel.params.iter().filter_map(|p| p.bits.as_const()).sum::<i64>() / 8;
            Some(Called { kernel, leads, grid: *grid, bytes })
        };
        let own = find(&p, &u.queues[0], &called, &[]);
        assert_eq!(own.meetings.is_empty(), own.calls.is_empty());
        own.calls.into_iter().collect()
    }

    #[test]
    fn a_small_step_that_the_next_ones_alone_read_is_each_threads_own() {
        assert_eq!(found("call small(x, @a) meet call large(a, @y)"), [0]);
        assert_eq!(
            found("call small(x, @a) meet call large(a, @c) call small(a, @b) meet call large(b, @y)"),
            [0]
        );
        // Something else lives there later.
        let later = "meet call large(x, @c) meet call small(x, @a) meet call large(a, @c)";
        assert_eq!(found(&format!("call small(x, @a) meet call large(a, @c) {later}")), [0, 6]);
    }

    #[test]
    fn others_are_shared() {
        // The result is the caller's; or read later; or by a step of the other group's neighbour.
        assert!(found("call small(x, @y) meet call large(y, @c)").is_empty());
        assert!(found("call small(x, @a) meet call large(a, @c) meet call large(a, @y)").is_empty());
        assert!(found("call small(x, @a) meet call large(x, @c) meet call large(a, @y)").is_empty());
        // A step that is not as small is beside it, or changes what it writes.
        assert!(found("call small(x, @a) call large(x, @c) meet call large(a, @y)").is_empty());
        assert!(found("call adds(x, @a) meet call large(a, @y)").is_empty());
        // Its input is overwritten, or its result changed, before all are as far.
        assert!(
            found("call small(b, @a) meet call small(a, @b) meet call large(b, @y)").iter().all(|i| *i != 0)
        );
        assert!(
            found("call small(x, @a) meet call adds(x, @a) meet call large(a, @y)").iter().all(|i| *i != 0)
        );
        assert!(
            found("call large(x, @c) meet call small(a, @b) meet call small(b, @d) meet call large(d, @y)")
                .iter()
                .all(|i| *i != 2)
        );
        // It goes where a list says that steps make.
        assert_eq!(found("call picks(x, @a, b) meet call large(a, @y)"), [0]);
        assert!(
            found("call small(x, @b) meet call picks(b, @a, x) meet call large(a, @y)")
                .iter()
                .all(|i| *i != 2)
        );
        // One behind the other: the second one's input would be of each thread, too.
        assert_eq!(found("call small(x, @a) meet call small(a, @b) meet call large(b, @y)"), [0]);
    }
}
