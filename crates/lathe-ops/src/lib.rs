//! The operators, one file a family, one row an operator.
//!
//! A row says all that the other rooms need: types of the results, reference meaning, naive loops, and arguments for
//! tests. To add one, write its row in the file of its family (or a new one) and name the row in that file's `ROWS`.
//!
//! ```
//! let table = lathe_ops::table();
//! assert_eq!(table.get("silu").unwrap().doc, "x / (1 + exp(-x))");
//! ```

mod attention;
mod axes;
mod choose;
mod dense_attention;
mod elementwise;
mod encode;
mod gather;
mod group;
mod integer;
mod matmul;
mod moe;
mod norm;
mod optimizer;
mod pad;
mod pick;
mod products;
mod random;
mod reduce;
mod rope;
mod rotate;
mod sample;
mod typed;
mod winograd;

pub use group::{GroupKernel, GroupShape, group_shape, lower_group};

use lathe_ir::DType;
use lathe_ir::graph::{OpRow, OpTable, Type};

/// The table of all operators.
pub fn table() -> OpTable {
    let families: [&'static [OpRow]; 20] = [
        elementwise::ROWS,
        norm::ROWS,
        matmul::ROWS,
        rope::ROWS,
        rotate::ROWS,
        gather::ROWS,
        attention::ROWS,
        dense_attention::ROWS,
        encode::ROWS,
        moe::ROWS,
        integer::ROWS,
        axes::ROWS,
        pad::ROWS,
        pick::ROWS,
        random::ROWS,
        optimizer::ROWS,
        reduce::ROWS,
        products::ROWS,
        choose::ROWS,
        winograd::ROWS,
    ];
    OpTable::new(families.into_iter().flatten().collect())
}

/// `Err` when some arguments are not of f32, in whatever encoding.
pub(crate) fn require_f32(t: &[Type]) -> Result<(), String> {
    require(t.iter().all(|t| t.dtype == DType::F32), "expects f32")
}

/// `Err` with a message when a condition on the arguments does not hold.
pub(crate) fn require(ok: bool, message: &str) -> Result<(), String> {
    if ok { Ok(()) } else { Err(message.to_string()) }
}
