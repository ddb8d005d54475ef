//! Where the iterations of one loop find the elements of a buffer: the distance in bits from one to the next.

use lathe_ir::tensor::{Buffer, Expr, Opaque};
use lathe_ir::{Bounds, Int};

/// An access seen along a loop: `address = base + stride * iteration`, in bits.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Bits from one iteration's element to the next one's.
    pub stride: i64,
    /// Address of iteration 0, as an index expression.
    pub base: Expr,
    /// The same, symbolic (loads inside are opaque names).
    pub symbolic: Int,
}

/// The access `buffer[index]` along the loop `var`; `None` when it is not affine with a constant stride.
pub fn lane(buffer: &Buffer, index: &[Expr], var: &str, b: &Bounds) -> Option<Lane> {
    let mut o = Opaque::default();
    let ints = index.iter().map(|i| o.int(i, b)).collect::<Option<Vec<_>>>()?;
    if o.hides(var) {
        return None;
    }
    let address = buffer.layout.address(&ints, b);
    let (stride, base) = address.affine_in(var)?;
    let stride = stride.simplify(b).as_const()?;
    Some(Lane { stride, base: o.restore(&base), symbolic: base })
}

/// How a loop's variable picks an element along one dimension: the index is `coefficient * var + rest` with
/// `0 <= rest < coefficient`, so different iterations never meet.
pub(crate) fn pick(index: &Expr, var: &str, b: &Bounds) -> Option<(i64, Expr)> {
    let mut o = Opaque::default();
    let i = o.int(index, b)?;
    if o.hides(var) {
        return None;
    }
    let (c, rest) = i.affine_in(var)?;
    let (c, r) = (c.as_const().filter(|c| *c > 0)?, b.range(&rest));
    (r.lo >= Some(0) && r.hi.is_some_and(|h| h < c)).then(|| (c, o.restore(&rest)))
}
