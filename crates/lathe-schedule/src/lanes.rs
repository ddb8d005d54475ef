//! Where the iterations of one loop find the elements of a buffer: the distance in bits from one to the next.

use lathe_ir::tensor::{Buffer, Expr, Node, Opaque};
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
    // A variable inside a load's index cannot be seen through.
    for i in index {
        let mut hidden = false;
        i.visit(&mut |e| hidden |= matches!(&**e, Node::Load(_, j) if j.iter().any(|e| e.mentions(var))));
        if hidden {
            // It may still cancel: the load's index does not really change along the loop.
            let s = i.simplify_index(b);
            let mut still = false;
            s.visit(&mut |e| still |= matches!(&**e, Node::Load(_, j) if j.iter().any(|e| e.mentions(var))));
            if still {
                return None;
            }
        }
    }
    let mut o = Opaque::default();
    let ints = index.iter().map(|i| o.int(i, b)).collect::<Option<Vec<_>>>()?;
    let address = buffer.layout.address(&ints, b);
    let (stride, base) = address.affine_in(var)?;
    let stride = stride.simplify(b).as_const()?;
    Some(Lane { stride, base: o.restore(&base), symbolic: base })
}
