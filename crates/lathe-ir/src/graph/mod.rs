//! The graph IR: a model as a function of tensor operators with symbolic shapes.
//!
//! Values are immutable, except *linear* ones (caches, optimizer state): an operator consumes such a value and returns
//! its successor, which the planner puts in the same place. Operators are rows ([`OpRow`]) of a table ([`OpTable`])
//! that lives in another room.

mod check;
mod gradient;
mod interpret;
mod module;
mod module_check;
mod module_text;
mod op;
mod text;

pub use check::check;
pub use gradient::{Adjoint, Gradient};
pub use interpret::{interpret, interpret_module, interpret_wide};
pub use module::{
    Arm, Block, Control, Data, Function, Item, Kind, MOST_DEPTH, Module, RunRegion, Tree, run_module,
};
pub use module_check::check_module;
pub use module_text::parse_module;
pub use op::{Edge, Form, FormOf, Lowering, OpRow, OpTable, Operand};
pub use text::parse;

use crate::encodings::encoding;
use crate::{DType, Encoding, Int, IrError, Name, Tensor};
use std::collections::{BTreeMap, HashMap, HashSet};

/// The type of a value: logical shape and element type, and how it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Type {
    /// Extents, outermost first.
    pub shape: Vec<Int>,
    /// Logical element type.
    pub dtype: DType,
    /// Name of the storage encoding; `None` is dense row-major.
    pub encoding: Option<Name>,
}

impl Type {
    /// A dense tensor.
    pub fn dense(dtype: DType, shape: &[Int]) -> Type {
        Type { shape: shape.to_vec(), dtype, encoding: None }
    }

    /// A tensor of f32 values stored in an encoding.
    pub fn encoded(name: &str, shape: &[Int]) -> Type {
        Type { shape: shape.to_vec(), dtype: DType::F32, encoding: Some(name.into()) }
    }

    /// The type of a tensor.
    pub fn of(t: &Tensor) -> Type {
        let shape = t.shape.iter().map(|d| Int::from(*d as i64)).collect();
        Type { shape, dtype: t.dtype, encoding: t.encoding.as_ref().map(|e| e.name.clone()) }
    }

    /// The storage, when encoded.
    pub fn storage(&self) -> Option<Encoding> {
        self.encoding.as_ref().and_then(|n| encoding(n, &self.shape))
    }

    /// Size of the storage in bits.
    pub fn bits(&self) -> Int {
        match self.storage() {
            Some(e) => e.bits,
            None => self.shape.iter().fold(Int::from(self.dtype.bits()), |p, d| p * d.clone()),
        }
    }
}

/// A value of a graph: an index into [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Passed by the caller.
    Input,
    /// Linear state passed by the caller, updated in place.
    State,
    /// A constant of the model file, by name.
    Const(Name),
    /// An operator's result.
    Node,
}

/// A value and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Unique name.
    pub name: Name,
    /// Its type.
    pub ty: Type,
    /// Its origin.
    pub source: Source,
}

/// An attribute of an operator.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// A number without fraction.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A word.
    Str(Name),
    /// Several numbers without fraction: axes, extents, steps.
    Ints(Vec<i64>),
}

/// Attributes by name.
pub type Attrs = BTreeMap<Name, Attr>;

/// An application of an operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The operator's name.
    pub op: Name,
    /// Arguments.
    pub inputs: Vec<ValueId>,
    /// Attributes.
    pub attrs: Attrs,
    /// Results.
    pub outputs: Vec<ValueId>,
}

impl Node {
    /// An integer attribute.
    pub fn int(&self, name: &str) -> Option<i64> {
        int_attr(&self.attrs, name)
    }
}

/// An integer attribute.
pub fn int_attr(attrs: &Attrs, name: &str) -> Option<i64> {
    match attrs.get(name) {
        Some(Attr::Int(v)) => Some(*v),
        _ => None,
    }
}

/// An attribute of several integers; empty where there is none.
pub fn ints_attr<'a>(attrs: &'a Attrs, name: &str) -> &'a [i64] {
    match attrs.get(name) {
        Some(Attr::Ints(v)) => v,
        _ => &[],
    }
}

/// An attribute that is a word.
pub fn str_attr<'a>(attrs: &'a Attrs, name: &str) -> Option<&'a str> {
    match attrs.get(name) {
        Some(Attr::Str(v)) => Some(v),
        _ => None,
    }
}

/// A number attribute.
pub fn float_attr(attrs: &Attrs, name: &str) -> Option<f64> {
    match attrs.get(name) {
        Some(Attr::Int(v)) => Some(*v as f64),
        Some(Attr::Float(v)) => Some(*v),
        _ => None,
    }
}

/// A function of tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Its name.
    pub name: String,
    /// Dimensions with their upper bounds, bound at the edge.
    pub dims: Vec<(Name, i64)>,
    /// All values.
    pub values: Vec<Value>,
    /// Applications, in an order that respects data flow.
    pub nodes: Vec<Node>,
    /// Results.
    pub outputs: Vec<ValueId>,
}

impl Graph {
    /// An empty function.
    pub fn new(name: &str, dims: &[(&str, i64)]) -> Graph {
        Graph {
            name: name.into(),
            dims: dims.iter().map(|(n, m)| ((*n).into(), *m)).collect(),
            ..Graph::default()
        }
    }

    /// A value's record.
    pub fn value(&self, v: ValueId) -> &Value {
        &self.values[v.0 as usize]
    }

    /// A value's type.
    pub fn ty(&self, v: ValueId) -> &Type {
        &self.value(v).ty
    }

    /// Adds a value.
    pub fn add_value(&mut self, name: &str, ty: Type, source: Source) -> ValueId {
        let name = if name.is_empty() { self.fresh() } else { name.into() };
        self.values.push(Value { name, ty, source });
        ValueId(self.values.len() as u32 - 1)
    }

    /// A name that no value has.
    fn fresh(&self) -> Name {
        let mut n = self.values.len();
        loop {
            let name = format!("v{n}");
            if self.values.iter().all(|v| *v.name != *name) {
                return name.into();
            }
            n += 1;
        }
    }

    /// Without the nodes behind the first `keep` whose results nobody uses, and without constants that nobody uses.
    pub fn without_dead(&self, keep: usize) -> Graph {
        let mut used: HashSet<ValueId> = self.outputs.iter().copied().collect();
        let mut nodes: Vec<&Node> = vec![];
        for (i, n) in self.nodes.iter().enumerate().rev() {
            if i < keep || n.outputs.iter().any(|v| used.contains(v)) {
                used.extend(&n.inputs);
                nodes.push(n);
            }
        }
        let made: HashSet<ValueId> = nodes.iter().flat_map(|n| n.outputs.iter().copied()).collect();
        let mut out = Graph { values: vec![], nodes: vec![], outputs: vec![], ..self.clone() };
        let mut at: HashMap<ValueId, ValueId> = HashMap::new();
        for (i, v) in self.values.iter().enumerate() {
            let id = ValueId(i as u32);
            let kept = match v.source {
                Source::Node => made.contains(&id),
                Source::Const(_) => used.contains(&id),
                _ => true,
            };
            if kept {
                at.insert(id, ValueId(out.values.len() as u32));
                out.values.push(v.clone());
            }
        }
        let moved = |list: &[ValueId]| list.iter().map(|v| at[v]).collect::<Vec<_>>();
        out.nodes = (nodes.into_iter().rev())
            .map(|n| Node { inputs: moved(&n.inputs), outputs: moved(&n.outputs), ..n.clone() })
            .collect();
        out.outputs = moved(&self.outputs);
        out
    }

    /// Adds an argument.
    pub fn input(&mut self, name: &str, ty: Type) -> ValueId {
        self.add_value(name, ty, Source::Input)
    }

    /// Adds linear state.
    pub fn state(&mut self, name: &str, ty: Type) -> ValueId {
        self.add_value(name, ty, Source::State)
    }

    /// Adds a constant of the model file.
    pub fn constant(&mut self, name: &str, ty: Type) -> ValueId {
        self.add_value(name, ty, Source::Const(name.into()))
    }

    /// Applies an operator; types of the results follow from its row.
    pub fn apply(
        &mut self,
        table: &OpTable,
        op: &str,
        inputs: &[ValueId],
        attrs: &[(&str, Attr)],
    ) -> Result<Vec<ValueId>, IrError> {
        let attrs: Attrs = attrs.iter().map(|(n, a)| ((*n).into(), a.clone())).collect();
        let types: Vec<Type> = inputs.iter().map(|v| self.ty(*v).clone()).collect();
        let place = || format!("{}/{op}", self.name);
        let row = table.get(op).ok_or_else(|| IrError::check(place(), "there is no such operator"))?;
        let out = (row.infer)(&types, &attrs).map_err(|m| IrError::check(place(), m))?;
        let outputs: Vec<ValueId> = out.into_iter().map(|t| self.add_value("", t, Source::Node)).collect();
        self.nodes.push(Node { op: op.into(), inputs: inputs.to_vec(), attrs, outputs: outputs.clone() });
        Ok(outputs)
    }

    /// Names of its inputs and of its state.
    pub fn arguments(&self) -> impl Iterator<Item = &Name> {
        let taken = |v: &&Value| matches!(v.source, Source::Input | Source::State);
        self.values.iter().filter(taken).map(|v| &v.name)
    }

    /// Index of the node that makes each value, by value.
    pub fn producers(&self) -> Vec<Option<usize>> {
        let mut p = vec![None; self.values.len()];
        for (i, n) in self.nodes.iter().enumerate() {
            for o in &n.outputs {
                p[o.0 as usize] = Some(i);
            }
        }
        p
    }

    /// Number of uses of each value, results of the function included.
    pub fn uses(&self) -> Vec<usize> {
        let mut u = vec![0; self.values.len()];
        for v in self.nodes.iter().flat_map(|n| &n.inputs).chain(&self.outputs) {
            u[v.0 as usize] += 1;
        }
        u
    }
}
