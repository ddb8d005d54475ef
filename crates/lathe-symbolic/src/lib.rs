//! Symbolic integers: expressions over named dimensions, their ranges and simplification.
//!
//! Tensor shapes, loop extents and addresses are integers that may mention a dimension known only at run time. An
//! [`Int`] is kept in a normal form (a sum of products of atoms), so equal expressions built in different ways mostly
//! compare equal, and division and remainder by constants disappear when ranges allow it.
//!
//! ```
//! use lathe_symbolic::{Bounds, Int};
//! let (o, i) = (Int::var("o"), Int::var("i"));
//! let n = o.clone() * 16 + i.clone();
//! let mut b = Bounds::new();
//! b.set("i", 0, Some(15));
//! assert_eq!(n.div(16, &b), o);
//! assert_eq!(n.rem(16, &b), i);
//! ```

mod bounds;
mod int;

pub use bounds::{Bounds, Range};
pub use int::{Atom, Int, Name};
