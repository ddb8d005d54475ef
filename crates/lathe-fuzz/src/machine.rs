//! What a machine makes of a program that has instructions. The interpreter runs the loops that an instruction stands for; a machine does
//! what the instruction's row says, on elements that it finds as the row has them, in all lanes of a vector.

use lathe_ir::tensor::{
    Access, Binary, Buffer, Expr, For, Kernel, Node, Opaque, Stmt, Store, loop_bounds, map_exprs, map_stmts,
};
use lathe_ir::{Bounds, DType, Int, Layout, Name, Term};
use lathe_schedule::{INTRINSICS, IntrinsicRow, STEPS, WIDTHS};
use std::collections::{BTreeMap, HashMap};

/// Lanes of an instruction that is said to have fewer than a vector.
const VECTOR: i64 = 16;

/// The program with what the machine does in place of each instruction; nothing where it has none. An error where there is nothing that the
/// machine could do.
pub(crate) fn by_instructions(k: &Kernel) -> Result<Option<Kernel>, String> {
    let mut m = Machine { k, bounds: loop_bounds(k), rows: BTreeMap::new() };
    let mut error = None;
    let body = map_stmts(&k.body, &mut |s| match &s {
        Stmt::Intrinsic(n, inner) => match INTRINSICS.iter().find(|r| r.name == &**n) {
            Some(row) => m.instruction(row, inner).unwrap_or_else(|e| {
                error = Some(format!("'{n}': {e}"));
                vec![]
            }),
            None => vec![s],
        },
        _ => vec![s],
    });
    match error {
        Some(e) => Err(e),
        None if m.rows.is_empty() => Ok(None),
        None => Ok(Some(m.finish(body))),
    }
}

struct Machine<'k> {
    k: &'k Kernel,
    bounds: Bounds,
    /// The buffers that instructions find elements in, each as one row of its elements.
    rows: BTreeMap<Name, Buffer>,
}

/// The name of a buffer as one row.
fn in_a_row(n: &str) -> String {
    format!("{n}'")
}

/// Bits from one element to the next as the machine goes: fields of less than a byte stand in bytes of their own.
fn apart(b: &Buffer) -> i64 {
    b.dtype.bits().max(8)
}

impl Machine<'_> {
    /// Bits from a place of a buffer's row to the next: fields of parameters may begin at any bit.
    fn place(&self, name: &Name) -> Option<i64> {
        let read =
            self.k.params.iter().any(|p| p.access == Access::In && p.views.iter().any(|v| v.name == *name));
        Some(if read { 1 } else { self.k.buffer(name)?.dtype.bits() })
    }

    /// Where an element is in the row.
    fn at(&self, name: &Name, index: &[Expr]) -> Option<Expr> {
        let (b, mut o) = (self.k.buffer(name)?, Opaque::default());
        let index = index.iter().map(|i| o.int(i, &self.bounds)).collect::<Option<Vec<_>>>()?;
        let bits = b.layout.address(&index, &self.bounds) - b.layout.offset.clone();
        Some(o.restore(&bits.div(self.place(name)?, &self.bounds)))
    }

    /// Has a buffer as one row, too: all of it, and what is promised to lie behind.
    fn row(&mut self, name: &Name) -> Option<Buffer> {
        let (b, place) = (self.k.buffer(name)?, self.place(name)?);
        let param = self.k.params.iter().find(|p| p.views.iter().any(|v| v.name == *name));
        let places = match param {
            Some(p) => {
                let inner = |d: usize| b.shape[d + 1..].iter().fold(Int::from(1), |n, s| n * s.clone());
                let behind = |d: usize| inner(d) * (apart(&b) * (b.padding(d) - 1));
                let bits = (0..b.shape.len()).fold(p.bits.clone(), |n, d| n + behind(d));
                bits.div(place, &self.bounds)
            }
            None if b.layout == Layout::dense(b.dtype, &b.shape) => {
                b.shape.iter().fold(Int::from(1), |n, s| n * s.clone())
            }
            None => return None,
        };
        let term = Term { dim: 0, div: 1, modulo: None, stride: place.into() };
        let layout = Layout { offset: b.layout.offset.clone(), terms: vec![term] };
        let row =
            Buffer { name: in_a_row(name).into(), shape: vec![places], layout, facts: vec![], ..b.clone() };
        self.rows.insert(name.clone(), row);
        Some(b)
    }

    /// An element of a buffer, so many elements from where the first one is.
    fn element(&mut self, n: &Name, index: &[Expr], first: &[&str], far: &Expr) -> Option<(Name, Vec<Expr>)> {
        let b = self.row(n)?;
        let zero = |e: Expr, v: &&str| e.substitute(v, &0.into());
        let at = first.iter().fold(self.at(n, index)?, zero);
        // Sums lie side by side.
        let far = far.clone() * (apart(&b) / self.place(n)?);
        Some((in_a_row(n).into(), vec![at + far]))
    }

    /// A factor with its loads as the machine does them; not inside of indices.
    fn factor(&mut self, e: &Expr, first: &[&str], far: &Expr) -> Option<Expr> {
        if let Node::Load(n, i) = &**e {
            let (n, i) = self.element(n, i, first, far)?;
            return Some(Expr::load(&n, &i));
        }
        let mut all = true;
        let e = e.map_children(&mut |c| {
            self.factor(c, first, far).unwrap_or_else(|| {
                all = false;
                c.clone()
            })
        });
        all.then_some(e)
    }

    fn instruction(&mut self, row: &IntrinsicRow, inner: &[Stmt]) -> Result<Vec<Stmt>, String> {
        let [Stmt::For(lanes)] = inner else { return Err("no loop".into()) };
        let width = lanes.extent.as_int().unwrap_or(VECTOR);
        if !WIDTHS.contains(&width) {
            return Err(format!("{width} lanes"));
        }
        let row = row.kernel(width);
        // The loops of both, by their places.
        let (mut got, mut want, mut vars, mut loops) = (inner, &row.body[..], vec![], vec![]);
        while let ([Stmt::For(l)], [Stmt::For(w)]) = (got, want) {
            vars.push((l.var.clone(), w.var.clone()));
            loops.push(w.clone());
            (got, want) = (&l.body, &w.body);
        }
        let ([Stmt::Store(got)], [Stmt::Store(want)]) = (got, want) else { return Err("other loops".into()) };
        let Node::Binary(Binary::Mul, x, y) = &*got.values[0] else { return Err("no product".into()) };
        let swapped = !x.mentions(&lanes.var) && y.mentions(&lanes.var);
        let factors = if swapped { [y, x] } else { [x, y] };
        let none = Bounds::new();
        // How far from its first element the row has an operand's, by the row's loops as they are called here.
        let far = |m: &Name, index: &[Expr], steps: bool| -> Option<Expr> {
            let b = row.buffer(m)?;
            let mut o = Opaque::default();
            let index = index.iter().map(|i| o.int(i, &none)).collect::<Option<Vec<_>>>()?;
            let e = o.restore(&b.layout.address(&index, &none).div(b.dtype.bits(), &none));
            let e = if steps { e } else { e.substitute(STEPS, &0.into()) };
            Some(vars.iter().fold(e, |e, (l, w)| e.substitute(w, &Expr::var(l))))
        };
        let all: Vec<&str> = vars.iter().map(|(l, _)| &**l).collect();
        // What the steps read may lie anywhere.
        let but_steps: Vec<&str> = vars.iter().filter(|(_, w)| &**w != STEPS).map(|(l, _)| &**l).collect();
        let nowhere = || "an operand that is nowhere".to_string();
        let ((n, i), (m, j)) = (&got.targets[0], &want.targets[0]);
        let there = far(m, j, true).ok_or_else(nowhere)?;
        let target = self.element(n, i, &all, &there).ok_or_else(nowhere)?;
        if self.k.buffer(n).map(|b| b.dtype) != row.buffer(m).map(|b| b.dtype) {
            return Err(format!("no sums in '{n}'"));
        }
        let Node::Binary(Binary::Mul, x, y) = &*want.values[0] else { return Err(nowhere()) };
        let mut product = vec![];
        for (got, want) in factors.into_iter().zip([x, y]) {
            let Node::Cast(sum, operand) = &**want else { return Err(nowhere()) };
            let Node::Load(m, j) = &**operand else { return Err(nowhere()) };
            let there = far(m, j, false).ok_or_else(nowhere)?;
            let value = self.factor(got, &but_steps, &there).ok_or_else(nowhere)?;
            let of = row.buffer(m).ok_or_else(nowhere)?.dtype;
            product.push(as_operand(self.k, &value, got, of, *sum)?);
        }
        let store = Store {
            name: got.name.clone(),
            targets: vec![target],
            reducer: want.reducer,
            values: vec![product[0].bin(Binary::Mul, &product[1])],
        };
        let nest = loops.iter().zip(&vars).rev().fold(Stmt::Store(store.into()), |s, (w, (l, _))| {
            Stmt::For(For { var: l.clone(), body: vec![s], ..(**w).clone() }.into())
        });
        Ok(vec![nest])
    }

    /// The kernel with the rows beside the parameters' views and in place of temporaries.
    fn finish(self, body: Vec<Stmt>) -> Kernel {
        let mut k = Kernel { body, ..self.k.clone() };
        let mut temporaries: HashMap<Name, Buffer> = HashMap::new();
        for (n, row) in &self.rows {
            match k.params.iter_mut().find(|p| p.views.iter().any(|v| v.name == *n)) {
                Some(p) => p.views.push(row.clone()),
                None => {
                    temporaries.insert(n.clone(), row.clone());
                }
            }
        }
        let at = |n: &Name, i: &[Expr]| {
            temporaries.contains_key(n).then(|| Some((in_a_row(n), vec![self.at(n, i)?])))?
        };
        k.body = map_exprs(&k.body, &|e| {
            e.rewrite(&|e| match &**e {
                Node::Load(n, i) => at(n, i).map(|(n, i)| Expr::load(&n, &i)),
                _ => None,
            })
        });
        k.body = map_stmts(&k.body, &mut |s| match &s {
            Stmt::Alloc(b) => {
                vec![temporaries.get(&b.name).map_or(s.clone(), |row| Stmt::Alloc(row.clone().into()))]
            }
            Stmt::Store(b) => {
                let targets = b.targets.iter();
                let targets =
                    targets.map(|(n, i)| at(n, i).map_or((n.clone(), i.clone()), |(n, i)| (n.into(), i)));
                vec![Stmt::Store(Store { targets: targets.collect(), ..(**b).clone() }.into())]
            }
            _ => vec![s],
        });
        k
    }
}

/// What an operand of this type holds where a factor's bits are written.
fn as_operand(k: &Kernel, value: &Expr, got: &Expr, of: DType, sum: DType) -> Result<Expr, String> {
    match of {
        DType::Int { signed, bits } => {
            let low = value.bin(Binary::And, &Expr::int((1 << bits) - 1, sum));
            let sign = Expr::int(1 << (bits - 1), sum);
            Ok(if signed { low.bin(Binary::Xor, &sign).bin(Binary::Sub, &sign) } else { low })
        }
        _ => {
            let mut same = true;
            got.visit(&mut |e| {
                if let Node::Load(n, _) = &**e {
                    same &= k.buffer(n).is_some_and(|b| b.dtype == of);
                }
            });
            if same { Ok(value.clone()) } else { Err(format!("a factor that is no {of}")) }
        }
    }
}
