//! What a primitive that renames iterations says of its step: an untrusted hint for whoever proves it.

use lathe_ir::Name;
use lathe_ir::tensor::Expr;

/// How the iterations of some nested loops before a step are those of nested loops after it; one loop before and none after:
/// it is distributed over its body.
#[derive(Clone, Debug, PartialEq)]
pub struct Witness {
    /// The loops before, outermost first.
    pub before: Vec<Name>,
    /// The loops after, outermost first.
    pub after: Vec<Name>,
    /// For each loop before, its iteration in terms of the loops after.
    pub to_before: Vec<Expr>,
    /// For each loop after, its iteration in terms of the loops before.
    pub to_after: Vec<Expr>,
}

impl Witness {
    pub(crate) fn new(before: &[(&str, Expr)], after: &[(&str, Expr)]) -> Witness {
        let names = |list: &[(&str, Expr)]| list.iter().map(|(n, _)| (*n).into()).collect();
        let exprs = |list: &[(&str, Expr)]| list.iter().map(|(_, e)| e.clone()).collect();
        Witness {
            before: names(before),
            after: names(after),
            to_before: exprs(before),
            to_after: exprs(after),
        }
    }
}
