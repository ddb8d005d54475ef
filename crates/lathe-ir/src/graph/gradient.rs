//! What an operator's gradient is given: its node in the graph, the gradients of its results, and a way to add nodes.

use super::{Attr, Attrs, Graph, Node, OpTable, Type, ValueId};
use crate::{IrError, Name};

/// The vector-Jacobian product of an operator: adds nodes that compute the gradients of its arguments, one each. `None` is
/// an argument it has no gradient by.
pub type Gradient = fn(&mut Adjoint<'_>) -> Result<Vec<Option<ValueId>>, IrError>;

/// One application of an operator, seen from behind.
pub struct Adjoint<'a> {
    graph: &'a mut Graph,
    table: &'a OpTable,
    node: Node,
    results: Vec<ValueId>,
}

impl<'a> Adjoint<'a> {
    /// A node of the graph, and the gradient of each of its results.
    pub fn new(graph: &'a mut Graph, table: &'a OpTable, node: Node, results: Vec<ValueId>) -> Adjoint<'a> {
        Adjoint { graph, table, node, results }
    }

    /// An argument.
    pub fn arg(&self, i: usize) -> ValueId {
        self.node.inputs[i]
    }

    /// Number of arguments.
    #[allow(clippy::len_without_is_empty, reason = "an operator with a gradient has arguments")]
    pub fn len(&self) -> usize {
        self.node.inputs.len()
    }

    /// The first result.
    pub fn result(&self) -> ValueId {
        self.node.outputs[0]
    }

    /// The gradient of the first result.
    pub fn dy(&self) -> ValueId {
        self.results[0]
    }

    /// The node's attributes.
    pub fn attrs(&self) -> &Attrs {
        &self.node.attrs
    }

    /// The node's operator.
    pub fn operator(&self) -> Name {
        self.node.op.clone()
    }

    /// A value's type.
    pub fn ty(&self, v: ValueId) -> &Type {
        self.graph.ty(v)
    }

    /// The first result of an operator.
    pub fn op(&mut self, op: &str, inputs: &[ValueId]) -> Result<ValueId, IrError> {
        self.op_with(op, inputs, &[])
    }

    /// The first result of an operator with attributes.
    pub fn op_with(
        &mut self,
        op: &str,
        inputs: &[ValueId],
        attrs: &[(&str, Attr)],
    ) -> Result<ValueId, IrError> {
        Ok(self.graph.apply(self.table, op, inputs, attrs)?[0])
    }

    /// `x * by + plus`.
    pub fn affine(&mut self, x: ValueId, by: f64, plus: f64) -> Result<ValueId, IrError> {
        self.op_with("affine", &[x], &[("by", Attr::Float(by)), ("plus", Attr::Float(plus))])
    }

    /// Zeros like a value.
    pub fn zero(&mut self, like: ValueId) -> Result<ValueId, IrError> {
        self.op_with("fill", &[like], &[("value", Attr::Float(0.0))])
    }

    /// The node's operator applied to other arguments, with its attributes.
    pub fn same(&mut self, inputs: &[ValueId]) -> Result<ValueId, IrError> {
        let Node { op, attrs, .. } = self.node.clone();
        let attrs: Vec<(&str, Attr)> = attrs.iter().map(|(n, a)| (&**n, a.clone())).collect();
        self.op_with(&op, inputs, &attrs)
    }

    /// Why there is no gradient here.
    pub fn refuse<T>(&self, why: &str) -> Result<T, IrError> {
        Err(IrError::check(format!("{}/{}", self.graph.name, self.node.op), why))
    }
}
