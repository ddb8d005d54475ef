//! Graphs as terms: an operator with its attributes over arguments, and what is known of each.

use egg::{DidMerge, EGraph, Id, Language};
use lathe_ir::graph::{Attr, Attrs, Graph, OpRow, OpTable, Source, Type, str_attr};
use lathe_ir::{DType, Name, Tensor};
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

/// What stands at a node: an operator with its attributes, or a value of the graph by name.
#[derive(Clone, Debug)]
pub struct Head {
    /// The operator; [`VALUE`] for a value of the graph.
    pub op: Name,
    /// Its attributes.
    pub attrs: Attrs,
    /// Which of its results.
    pub result: usize,
    /// All of it as text: heads are equal when their texts are.
    text: String,
}

/// The head of a value of the graph, which its attribute `name` names.
pub const VALUE: &str = "value";

/// The attribute that says which instruction computes a node; operators themselves take no notice of it.
pub const ON: &str = "on";

/// The attribute of a product whose axes are in the tiles of an instruction.
pub const TILES: &str = "tiles";

impl Head {
    /// One result of an operator.
    pub fn new(op: &str, attrs: Attrs, result: usize) -> Arc<Head> {
        let list: Vec<String> = attrs.iter().map(|(n, a)| format!("{n} = {a}")).collect();
        let at = if result > 0 { format!("#{result}") } else { String::new() };
        let braces = if list.is_empty() { String::new() } else { format!(" {{{}}}", list.join(", ")) };
        Arc::new(Head { op: op.into(), attrs, result, text: format!("{op}{at}{braces}") })
    }

    /// A value of the graph.
    pub fn value(name: &str) -> Arc<Head> {
        Head::new(VALUE, [("name".into(), Attr::Str(name.into()))].into(), 0)
    }

    /// The name, where it is a value of the graph.
    pub fn named(&self) -> Option<&str> {
        (&*self.op == VALUE).then(|| str_attr(&self.attrs, "name")).flatten()
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.named().unwrap_or(&self.text))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Head) -> bool {
        self.text == other.text
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Head) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Head) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for Head {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// A node of the e-graph.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term {
    /// What it is.
    pub head: Arc<Head>,
    /// The classes of its arguments.
    pub args: Vec<Id>,
}

impl Language for Term {
    type Discriminant = Arc<Head>;

    fn discriminant(&self) -> Arc<Head> {
        self.head.clone()
    }

    fn matches(&self, other: &Term) -> bool {
        self.head == other.head && self.args.len() == other.args.len()
    }

    fn children(&self) -> &[Id] {
        &self.args
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.args
    }
}

/// A term on its own; clones share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// What it is.
    pub head: Arc<Head>,
    /// Its arguments.
    pub args: Vec<Rc<Tree>>,
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.args.is_empty() {
            return write!(f, "{}", self.head);
        }
        let args: Vec<String> = self.args.iter().map(ToString::to_string).collect();
        write!(f, "{}({})", self.head, args.join(", "))
    }
}

/// What is known of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Its type.
    pub ty: Type,
    /// What each of its elements is, where it is a small constant and they are all alike.
    pub number: Option<f64>,
    /// Whether it is made of constants alone.
    pub constant: bool,
}

impl Facts {
    /// Its extents, where they are constants and it is dense.
    pub fn dims(&self) -> Option<Vec<i64>> {
        self.ty.encoding.is_none().then_some(())?;
        self.ty.shape.iter().map(lathe_ir::Int::as_const).collect()
    }

    /// Its element type.
    pub fn dtype(&self) -> DType {
        self.ty.dtype
    }

    /// How many elements it has; 0 where the extents are not known.
    pub fn elements(&self) -> f64 {
        self.dims().map_or(0.0, |d| d.iter().product::<i64>() as f64)
    }

    /// Bytes of its elements; 0 where the extents are not known.
    pub fn bytes(&self) -> f64 {
        self.ty.bits().as_const().map_or(0.0, |b| b as f64 / 8.0)
    }
}

/// The rows of the operators, by name.
pub struct Ops(HashMap<&'static str, &'static OpRow>);

impl Ops {
    /// All rows of a table.
    pub fn new(table: &OpTable) -> Ops {
        Ops(table.rows().iter().map(|r| (r.name, *r)).collect())
    }

    /// What is known of an operator's result from what is known of its arguments; `None` where they do not fit.
    pub fn facts(&self, head: &Head, args: &[&Facts]) -> Option<Facts> {
        let row = self.0.get(&*head.op)?;
        let types: Vec<Type> = args.iter().map(|f| f.ty.clone()).collect();
        let ty = (row.infer)(&types, &head.attrs).ok()?.into_iter().nth(head.result)?;
        let constant = args.iter().all(|f| f.constant) && !args.is_empty();
        Some(Facts { ty, number: None, constant })
    }
}

/// Constants of more elements are not looked into.
const SMALL: usize = 1 << 12;

/// The number that all of these are.
pub fn alike(all: &[f64]) -> Option<f64> {
    all.first().copied().filter(|v| all.iter().all(|x| x == v))
}

/// What is known of a graph's values, by name, with the order in which they are made (arguments and constants have 0).
pub fn known(g: &Graph, constants: &HashMap<Name, Tensor>) -> HashMap<Name, (Facts, usize)> {
    let made = g.producers();
    let one = |(i, v): (usize, &lathe_ir::graph::Value)| {
        let tensor = match &v.source {
            Source::Const(n) => constants.get(n),
            _ => None,
        };
        let number = tensor.filter(|t| t.len() <= SMALL).and_then(|t| alike(&t.values()));
        let constant = matches!(v.source, Source::Const(_));
        let facts = Facts { ty: v.ty.clone(), number, constant };
        (v.name.clone(), (facts, made[i].map_or(0, |n| n + 1)))
    };
    g.values.iter().enumerate().map(one).collect()
}

/// What the e-graph knows: the operators, and the values of the graph.
pub struct Analysis {
    pub(crate) ops: Ops,
    pub(crate) values: HashMap<Name, (Facts, usize)>,
}

/// What is known of a class of equal terms.
#[derive(Debug)]
pub struct Class {
    /// Of each of them; `None` where a rule made what no operator takes.
    pub facts: Option<Facts>,
    /// The value of the graph among them that is made first: when it is made, and its term.
    pub value: Option<(usize, Id)>,
}

impl egg::Analysis<Term> for Analysis {
    type Data = Class;

    fn make(egraph: &mut EGraph<Term, Self>, term: &Term, id: Id) -> Class {
        if let Some(name) = term.head.named() {
            let (facts, order) = egraph.analysis.values[name].clone();
            return Class { facts: Some(facts), value: Some((order, id)) };
        }
        let args: Option<Vec<&Facts>> = term.args.iter().map(|a| egraph[*a].data.facts.as_ref()).collect();
        let facts = args.and_then(|args| egraph.analysis.ops.facts(&term.head, &args));
        Class { facts, value: None }
    }

    fn merge(&mut self, a: &mut Class, b: Class) -> DidMerge {
        let mut changed = DidMerge(false, false);
        let constant = |c: &Class| c.facts.as_ref().is_some_and(|f| f.constant);
        match (constant(a), constant(&b)) {
            (false, true) => changed.0 = true,
            (true, false) => changed.1 = true,
            _ => {}
        }
        if let (Some(x), Some(y)) = (&mut a.facts, &b.facts) {
            debug_assert_eq!(x.ty, y.ty, "equal terms have one type");
            x.constant |= y.constant;
        }
        a.value = [a.value, b.value].into_iter().flatten().min();
        changed
    }
}
