//! Programs of graphs: functions with calls, branches, loops and recursion over tagged trees. Tensors are computed in
//! [`Control::Region`]s, pure graphs; control is what stands between them.
//!
//! ```
//! let text = "module count() {
//!   function up(n: i32[1]) -> (i32[1]) {
//!     while i = n {
//!       graph less() {
//!         i: i32[1] = input
//!         more: i32[1] = below(i) {limit = 10}
//!         return more
//!       } -> more
//!       return more
//!     } do {
//!       graph next() {
//!         i: i32[1] = input
//!         j: i32[1] = offset(i) {by = 1}
//!         return j
//!       } -> j
//!       return j
//!     } -> last
//!     return last
//!   }
//! }
//! ";
//! let m = lathe_ir::graph::parse_module(text).unwrap();
//! assert_eq!(m.to_string(), text);
//! ```

use super::{Graph, Type};
use crate::{IrError, Name, Tensor};
use std::collections::HashMap;
use std::sync::Arc;

/// What a name of a function stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tensor.
    Tensor(Type),
    /// A tagged tree of a [`Data`] type.
    Data(Name),
}

/// A type of tagged trees: one of several variants, each with fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// Its name.
    pub name: Name,
    /// The variants, by tag; tags are unique in a module.
    pub variants: Vec<(Name, Vec<Kind>)>,
}

/// A list of steps with results.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    /// In order; names are defined before they are used.
    pub steps: Vec<Control>,
    /// The names whose values the block gives.
    pub results: Vec<Name>,
}

/// An arm of a match.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// The variant it is for.
    pub tag: Name,
    /// Names of the variant's fields.
    pub fields: Vec<Name>,
    /// What it computes.
    pub body: Block,
}

/// One step of a function.
#[derive(Clone, Debug, PartialEq)]
pub enum Control {
    /// Tensors from tensors: inputs and linear state of the graph are names in scope.
    Region {
        /// The graph.
        graph: Graph,
        /// Names of its results.
        results: Vec<Name>,
    },
    /// A function applied, perhaps this one.
    Call {
        /// The function.
        function: Name,
        /// Its arguments.
        args: Vec<Name>,
        /// Names of its results.
        results: Vec<Name>,
    },
    /// One of two blocks, by an `i32[1]`: the first unless it is 0.
    If {
        /// The condition.
        condition: Name,
        /// Taken unless the condition is 0.
        then: Block,
        /// Taken otherwise.
        otherwise: Block,
        /// Names of the results.
        results: Vec<Name>,
    },
    /// The body again and again, its results as the next iteration's state, until the condition gives 0.
    While {
        /// State: its name inside, and the initial value's name outside.
        state: Vec<(Name, Name)>,
        /// Gives one `i32[1]`.
        condition: Block,
        /// Gives the next state.
        body: Block,
        /// Names of the last state.
        results: Vec<Name>,
    },
    /// The arm of a tree's variant.
    Match {
        /// The tree.
        value: Name,
        /// One arm a variant.
        arms: Vec<Arm>,
        /// Names of the results.
        results: Vec<Name>,
    },
    /// A tree from its fields.
    Make {
        /// The variant.
        tag: Name,
        /// The fields.
        args: Vec<Name>,
        /// The tree's name.
        result: Name,
    },
}

/// A function.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Its name.
    pub name: Name,
    /// Parameters.
    pub params: Vec<(Name, Kind)>,
    /// Kinds of the results.
    pub results: Vec<Kind>,
    /// What it does.
    pub body: Block,
}

/// A program of functions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Module {
    /// Its name.
    pub name: Name,
    /// Types of trees.
    pub data: Vec<Data>,
    /// Functions.
    pub functions: Vec<Function>,
}

impl Module {
    /// The function of a name.
    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|f| &*f.name == name)
    }

    /// The type and the fields of a variant.
    pub fn variant(&self, tag: &str) -> Option<(&Data, &[Kind])> {
        self.data.iter().find_map(|d| {
            let (_, fields) = d.variants.iter().find(|(t, _)| &**t == tag)?;
            Some((d, fields.as_slice()))
        })
    }

    /// All regions, in the order of the text.
    pub fn regions(&self) -> Vec<&Graph> {
        fn walk<'m>(b: &'m Block, out: &mut Vec<&'m Graph>) {
            for c in &b.steps {
                match c {
                    Control::Region { graph, .. } => out.push(graph),
                    Control::If { then, otherwise, .. } => {
                        [then, otherwise].iter().for_each(|b| walk(b, out))
                    }
                    Control::While { condition, body, .. } => {
                        [condition, body].iter().for_each(|b| walk(b, out))
                    }
                    Control::Match { arms, .. } => arms.iter().for_each(|a| walk(&a.body, out)),
                    Control::Call { .. } | Control::Make { .. } => {}
                }
            }
        }
        let mut out = vec![];
        self.functions.iter().for_each(|f| walk(&f.body, &mut out));
        out
    }
}

/// A tagged tree; clones share.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    /// The variant.
    pub tag: Name,
    /// Its fields.
    pub fields: Vec<Item>,
}

/// The value of a name.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A tensor.
    Tensor(Arc<Tensor>),
    /// A tree.
    Tree(Arc<Tree>),
}

impl Item {
    /// A tree of a variant.
    pub fn tree(tag: &str, fields: Vec<Item>) -> Item {
        Item::Tree(Arc::new(Tree { tag: tag.into(), fields }))
    }

    /// The tensor, when it is one.
    pub fn tensor(&self) -> Option<&Tensor> {
        match self {
            Item::Tensor(t) => Some(t),
            Item::Tree(_) => None,
        }
    }
}

impl From<Tensor> for Item {
    fn from(t: Tensor) -> Item {
        Item::Tensor(Arc::new(t))
    }
}

/// Calls inside calls that a run allows.
pub const MOST_DEPTH: usize = 100_000;

/// Computes a region: its graph and its inputs and state by name, to its results.
pub type RunRegion<'r, E> = dyn FnMut(&Graph, &[(&str, &Tensor)]) -> Result<Vec<Tensor>, E> + 'r;

struct Run<'m, 'r, E> {
    module: &'m Module,
    region: &'r mut RunRegion<'r, E>,
    depth: usize,
}

type Scope = HashMap<Name, Item>;

/// Runs a function of a checked module; `region` computes the graphs, by the interpreter or compiled.
pub fn run_module<'r, E: From<IrError>>(
    module: &Module,
    function: &str,
    args: &[Item],
    region: &'r mut RunRegion<'r, E>,
) -> Result<Vec<Item>, E> {
    Run { module, region, depth: 0 }.call(function, args)
}

impl<E: From<IrError>> Run<'_, '_, E> {
    fn fail<T>(&self, place: &str, message: impl Into<String>) -> Result<T, E> {
        Err(IrError::run(format!("{}/{place}", self.module.name), message).into())
    }

    fn call(&mut self, name: &str, args: &[Item]) -> Result<Vec<Item>, E> {
        let Some(f) = self.module.function(name) else {
            return self.fail(name, "there is no such function");
        };
        if f.params.len() != args.len() {
            return self.fail(name, format!("takes {} arguments, given {}", f.params.len(), args.len()));
        }
        if self.depth == MOST_DEPTH {
            return self.fail(name, format!("calls itself more than {MOST_DEPTH} deep"));
        }
        self.depth += 1;
        let mut scope: Scope = f.params.iter().map(|(n, _)| n.clone()).zip(args.iter().cloned()).collect();
        // Each call needs a few kilobytes of stack; trees may be deep.
        let out = stacker::maybe_grow(64 << 10, 1 << 20, || self.block(&f.body, &mut scope));
        self.depth -= 1;
        out
    }

    fn get(&self, scope: &Scope, name: &Name) -> Result<Item, E> {
        match scope.get(name) {
            Some(i) => Ok(i.clone()),
            None => self.fail(name, "is not in scope"),
        }
    }

    fn all(&self, scope: &Scope, names: &[Name]) -> Result<Vec<Item>, E> {
        names.iter().map(|n| self.get(scope, n)).collect()
    }

    /// A block in a scope of its own.
    fn inside(&mut self, block: &Block, scope: &Scope, more: Vec<(Name, Item)>) -> Result<Vec<Item>, E> {
        let mut scope = scope.clone();
        scope.extend(more);
        self.block(block, &mut scope)
    }

    fn truth(&self, name: &str, item: Option<&Item>) -> Result<bool, E> {
        match item.and_then(Item::tensor).map(Tensor::to_i64).as_deref() {
            Some([v]) => Ok(*v != 0),
            _ => self.fail(name, "the condition is not one number"),
        }
    }

    fn block(&mut self, block: &Block, scope: &mut Scope) -> Result<Vec<Item>, E> {
        for c in &block.steps {
            let (results, values) = match c {
                Control::Region { graph, results } => {
                    let mut inputs = vec![];
                    for v in graph.arguments() {
                        inputs.push((v, self.get(scope, v)?));
                    }
                    let mut tensors: Vec<(&str, &Tensor)> = vec![];
                    for (name, item) in &inputs {
                        match item.tensor() {
                            Some(t) => tensors.push((name, t)),
                            None => return self.fail(name, "a graph takes tensors, not trees"),
                        }
                    }
                    let out = (self.region)(graph, &tensors)?;
                    (results.as_slice(), out.into_iter().map(Item::from).collect())
                }
                Control::Call { function, args, results } => {
                    let args = self.all(scope, args)?;
                    (results.as_slice(), self.call(function, &args)?)
                }
                Control::If { condition, then, otherwise, results } => {
                    let taken = self.truth(condition, scope.get(condition))?;
                    (results.as_slice(), self.inside(if taken { then } else { otherwise }, scope, vec![])?)
                }
                Control::While { state, condition, body, results } => {
                    let names: Vec<Name> = state.iter().map(|(n, _)| n.clone()).collect();
                    let start: Vec<Name> = state.iter().map(|(_, n)| n.clone()).collect();
                    let mut now = self.all(scope, &start)?;
                    loop {
                        let bound = || names.iter().cloned().zip(now.iter().cloned()).collect();
                        let go = self.inside(condition, scope, bound())?;
                        if !self.truth("while", go.first())? {
                            break;
                        }
                        now = self.inside(body, scope, bound())?;
                    }
                    (results.as_slice(), now)
                }
                Control::Match { value, arms, results } => {
                    let Item::Tree(tree) = self.get(scope, value)? else {
                        return self.fail(value, "is no tree");
                    };
                    let Some(arm) = arms.iter().find(|a| a.tag == tree.tag) else {
                        return self.fail(value, format!("there is no arm for '{}'", tree.tag));
                    };
                    if arm.fields.len() != tree.fields.len() {
                        return self.fail(value, format!("'{}' has {} fields", tree.tag, tree.fields.len()));
                    }
                    let more = arm.fields.iter().cloned().zip(tree.fields.iter().cloned()).collect();
                    (results.as_slice(), self.inside(&arm.body, scope, more)?)
                }
                Control::Make { tag, args, result } => {
                    let tree = Item::tree(tag, self.all(scope, args)?);
                    (std::slice::from_ref(result), vec![tree])
                }
            };
            scope.extend(results.iter().cloned().zip(values));
        }
        self.all(scope, &block.results)
    }
}
