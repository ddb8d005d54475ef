//! Copies that read along one axis and write along another: squares of both, transposed in registers, instead of element by element.

use crate::emit::{CodegenError, Emitter, Place};
use lathe_ir::DType;
use lathe_ir::Name;
use lathe_ir::tensor::{Expr, For, LANE, Node, Stmt, Store};
use lathe_schedule::lane;

/// Elements of a group within which shuffles of two vectors are cheapest.
const GROUP: i64 = 4;

/// A copy between two loops: what is read lies along the outer one, and what is written along the lanes of the inner one.
struct Square<'a> {
    outer: (&'a Name, i64),
    lanes: (&'a Name, i64),
    store: &'a Store,
    from: (&'a Name, &'a [Expr]),
}

impl Square<'_> {
    /// The index at a place of both loops.
    fn at(&self, index: &[Expr], outer: i64, lane: i64) -> Vec<Expr> {
        let place =
            |e: &Expr| e.substitute(self.outer.0, &outer.into()).substitute(self.lanes.0, &lane.into());
        index.iter().map(place).collect()
    }
}

impl Emitter<'_> {
    /// An unrolled loop around a lane loop that is such a copy: written as squares. `false` where it is none.
    pub fn squares(&mut self, l: &For, count: i64) -> Result<bool, CodegenError> {
        let Some(square) = self.square_of(l, count) else { return Ok(false) };
        let lanes = self.dialect.lanes;
        for outer in (0..count).step_by(lanes as usize) {
            for lane in (0..square.lanes.1).step_by(lanes as usize) {
                self.square(&square, outer, lane)?;
            }
        }
        // What depends on memory that may have been written must be read again.
        self.memo.retain(|_, (_, constant)| *constant);
        Ok(true)
    }

    fn square_of<'a>(&self, l: &'a For, count: i64) -> Option<Square<'a>> {
        let [Stmt::For(inner)] = l.body.as_slice() else { return None };
        let [Stmt::Store(store)] = inner.body.as_slice() else { return None };
        let ([(to, i)], None, [value]) = (store.targets.as_slice(), store.reducer, store.values.as_slice())
        else {
            return None;
        };
        let (Node::Load(from, j), Some(lanes)) = (&**value, inner.extent.as_int()) else { return None };
        let place = |n: &Name| match self.places.get(n) {
            Some(Place::Pointer(p)) => Some(p),
            _ => None,
        };
        let apart = place(to)? != place(from)?;
        let word = |n: &Name| matches!(self.buffers[n].dtype, DType::F32 | DType::I32);
        let of = |n: &Name, i: &[Expr], var: &str| Some(lane(&self.buffers[n], i, var, &self.bounds)?.stride);
        let crossed =
            of(from, j, &l.var)? == 32 && of(from, j, &inner.var)? != 32 && of(to, i, &inner.var)? == 32;
        // Any distance between the rows of each.
        of(to, i, &l.var)?;
        let fits = self.lane.is_none() && &*inner.level == LANE && count > 1 && lanes > 1;
        let shuffles = self.dialect.row("shuffle").is_some() && self.dialect.lanes >= GROUP;
        (apart
            && word(to)
            && self.buffers[to].dtype == self.buffers[from].dtype
            && crossed
            && fits
            && shuffles)
            .then_some(Square { outer: (&l.var, count), lanes: (&inner.var, lanes), store, from: (from, j) })
    }

    /// One square, or what there is of it: rows that are not there are zeros.
    fn square(&mut self, s: &Square<'_>, outer: i64, first: i64) -> Result<(), CodegenError> {
        let (n, (to, i), (from, j)) = (self.dialect.lanes, &s.store.targets[0], s.from);
        let (wide, rows) = (n.min(s.outer.1 - outer), n.min(s.lanes.1 - first));
        let t = self.buffers[from].dtype;
        let ty = self.vector_type(t);
        let mut vectors = vec![];
        for k in 0..rows {
            let (p, ..) = self.pointer(from, &s.at(j, outer, first + k))?;
            let whole = format!("*(const m_{ty} *){p}");
            let text = if wide == n { whole } else { self.load_part(t, &p, &wide.to_string(), &whole)? };
            vectors.push(self.named(t, &text));
        }
        if rows < n {
            let none = self.named(t, &format!("({ty}){{0}}"));
            vectors.resize(n as usize, none);
        }
        for (k, v) in self.transposed(t, vectors)?.iter().enumerate().take(wide as usize) {
            let (p, ..) = self.pointer(to, &s.at(i, outer + k as i64, first))?;
            let whole = format!("*(m_{ty} *){p} = {v}");
            match rows == n {
                true => self.line(&format!("{whole};")),
                false => self.store_part(t, &p, v, &rows.to_string(), &whole)?,
            }
        }
        Ok(())
    }

    /// The columns of as many vectors as they have lanes: first groups of each four vectors, then whole groups.
    fn transposed(&mut self, t: DType, mut v: Vec<String>) -> Result<Vec<String>, CodegenError> {
        let n = self.dialect.lanes;
        // From each group of two vectors, these elements of the first and of the second one by turns, or in pairs.
        let by_turns = |from: i64| move |g: i64| [g + from, n + g + from, g + from + 1, n + g + from + 1];
        let in_pairs = |from: i64| move |g: i64| [g + from, g + from + 1, n + g + from, n + g + from + 1];
        let groups = || (0..n).step_by(GROUP as usize);
        let (mut quads, mut out) = (vec![], vec![]);
        for q in v.chunks(GROUP as usize) {
            let mut half = vec![];
            for pair in q.chunks(2) {
                for from in [0, 2] {
                    let picks: Vec<i64> = groups().flat_map(by_turns(from)).collect();
                    half.push(self.both(t, &pair[0], &pair[1], &picks)?);
                }
            }
            let mut columns = vec![];
            for e in 0..2 {
                for from in [0, 2] {
                    let picks: Vec<i64> = groups().flat_map(in_pairs(from)).collect();
                    columns.push(self.both(t, &half[e], &half[2 + e], &picks)?);
                }
            }
            quads.push(columns);
        }
        // Groups at even places of two vectors, and those at odd ones, until each vector has one column.
        for e in 0..GROUP as usize {
            v = quads.iter().map(|q| q[e].clone()).collect();
            let mut whole = 1;
            while whole < quads.len() {
                let mut next = vec![];
                for odd in [0, 1] {
                    for pair in v.chunks(2) {
                        let picks: Vec<i64> = (0..n / GROUP)
                            .flat_map(|g| (0..GROUP).map(move |k| (2 * g + odd) * GROUP + k))
                            .collect();
                        next.push(self.both(t, &pair[0], &pair[1], &picks)?);
                    }
                }
                (v, whole) = (next, 2 * whole);
            }
            out.push(v);
        }
        Ok((0..quads.len()).flat_map(|g| out.iter().map(move |columns| columns[g].clone())).collect())
    }

    fn both(&mut self, t: DType, a: &str, b: &str, picks: &[i64]) -> Result<String, CodegenError> {
        let text = self.shuffled(a, b, picks)?;
        Ok(self.named(t, &text))
    }
}
