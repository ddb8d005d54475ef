//! A model: read from bytes, and run on arrays by walking its nodes with the values of one run.

use crate::elem::{Array, Elem};
use crate::error::{Fault, OnnxError};
use crate::node::{Item, Node};
use crate::ops;
use crate::prepared::Prepared;
use crate::proto;
use crate::runner::Written;
use crate::trace::{Names, Read, Runner, Trace, Val};
use lathe_ir::graph::Graph;
use lathe_ir::{Name, Tensor};
use prost::Message;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// A value that a caller passes or gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A tensor.
    Array(Array),
    /// A sequence.
    Sequence(Vec<Value>),
    /// What may be there or not.
    Optional(Option<Box<Value>>),
}

/// Reads a part of a file beside the model: its name, the first byte and the number of bytes.
pub type External<'a> = &'a dyn Fn(&str, u64, Option<u64>) -> Result<Vec<u8>, String>;

/// A model of ONNX.
pub struct Model {
    message: proto::Model,
    /// Constants of the main graph.
    initializers: HashMap<String, Item>,
    names: Names,
}

/// A model as one region that is not compiled.
pub struct Region {
    /// The region.
    pub graph: Graph,
    /// Its constants by name.
    pub constants: HashMap<Name, Tensor>,
    /// How arguments and results of the model are those of the region.
    pub prepared: Prepared,
}

/// Functions inside functions, and graphs inside graphs, up to this depth.
const DEPTH: usize = 64;

/// The values of a graph on the way, and those around it.
pub struct Scope<'a> {
    values: RefCell<HashMap<String, Item>>,
    parent: Option<&'a Scope<'a>>,
    /// Attributes of the function that the nodes are in.
    attrs: Rc<HashMap<String, proto::Attribute>>,
    opsets: Rc<HashMap<String, i64>>,
    depth: usize,
}

impl<'a> Scope<'a> {
    fn get(&self, name: &str) -> Option<Item> {
        if let Some(v) = self.values.borrow().get(name) {
            return Some(v.clone());
        }
        self.parent.and_then(|p| p.get(name))
    }

    fn inside(&'a self) -> Scope<'a> {
        Scope {
            values: RefCell::default(),
            parent: Some(self),
            attrs: self.attrs.clone(),
            opsets: self.opsets.clone(),
            depth: self.depth + 1,
        }
    }
}

fn opsets(list: &[proto::OperatorSet]) -> Rc<HashMap<String, i64>> {
    Rc::new(list.iter().map(|o| (domain(&o.domain).to_string(), o.version)).collect())
}

/// The name of an operator set, where the empty one has two.
fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// Why a file cannot be read.
fn file(what: impl Into<String>) -> OnnxError {
    Fault::invalid(what).at("")
}

impl Model {
    /// Reads a model from the bytes of its file.
    pub fn parse(bytes: &[u8], external: External<'_>) -> Result<Model, OnnxError> {
        let message =
            proto::Model::decode(bytes).map_err(|e| file(format!("this is no model of ONNX: {e}")))?;
        let Some(graph) = &message.graph else {
            return Err(file("this is no model of ONNX: there is no graph"));
        };
        let mut initializers = HashMap::new();
        for t in &graph.initializer {
            let item = Item::of_array(Array::of_message(t, external).map_err(|e| e.at(""))?);
            initializers.insert(t.name.clone(), item);
        }
        for s in &graph.sparse_initializer {
            let name = s.values.as_ref().map_or("", |v| &v.name);
            initializers.insert(name.into(), Item::of_array(Array::of_sparse(s).map_err(|e| e.at(""))?));
        }
        Ok(Model { message, initializers, names: Names::default() })
    }

    fn graph(&self) -> &proto::Graph {
        self.message.graph.as_ref().expect("checked when it was read")
    }

    /// Names of what a run takes, with the type of each.
    pub fn inputs(&self) -> Vec<(&str, Option<&proto::Type>)> {
        let given = self.graph().input.iter().filter(|i| !self.initializers.contains_key(&i.name));
        given.map(|i| (i.name.as_str(), i.r#type.as_ref())).collect()
    }

    /// Names of what a run gives, with the type of each.
    pub fn outputs(&self) -> Vec<(&str, Option<&proto::Type>)> {
        self.graph().output.iter().map(|o| (o.name.as_str(), o.r#type.as_ref())).collect()
    }

    /// Runs the model on values by name; the results in order.
    pub fn run(&self, inputs: &[(String, Value)], runner: &mut dyn Runner) -> Result<Vec<Value>, OnnxError> {
        self.read(inputs, runner, |reader, out, _| {
            let out: Result<Vec<Value>, Fault> = out.iter().map(|i| reader.value(i)).collect();
            out.map_err(|e| e.at(""))
        })
    }

    /// Reads the model for values like these once, as one region. `None` where there is no one region: where reading needs
    /// elements that only a run knows, or where arguments or results are no tensors of numbers.
    pub fn prepare(
        &self,
        inputs: &[(String, Value)],
        runner: &mut dyn Runner,
    ) -> Result<Option<Prepared>, OnnxError> {
        self.read(inputs, runner, |reader, out, passed| {
            let tensors: Result<Vec<Val>, Fault> = out.iter().map(|i| i.tensor().cloned()).collect();
            let Ok(out) = tensors else { return Ok(None) };
            let Some((region, taken, places)) = reader.trace.finish(&out).map_err(|e| e.at(""))? else {
                return Ok(None);
            };
            let names = self.outputs().into_iter().map(|(name, _)| name.to_string());
            let outputs = names.zip(&out).zip(places).map(|((name, v), place)| (name, v.elem(), place));
            Prepared::new(region, taken, outputs.collect(), inputs, passed)
        })
    }

    /// The model for values like these as one graph, which is not compiled. Where there is no one region it says so, by the node
    /// at which that shows where there is one.
    pub fn region(&self, inputs: &[(String, Value)]) -> Result<Region, OnnxError> {
        let mut written = Written::default();
        let prepared = self.prepare(inputs, &mut written)?;
        let (prepared, (graph, constants)) = prepared.zip(written.region).ok_or_else(|| {
            file("the program cannot be one region: it decides by elements of its inputs, or they or results are no tensors of numbers")
        })?;
        Ok(Region { graph, constants, prepared })
    }

    /// Reads the model, and does something with its results and its arguments, which have no elements yet and have them.
    fn read<T>(
        &self,
        inputs: &[(String, Value)],
        runner: &mut dyn Runner,
        then: impl FnOnce(&mut Reader<'_>, &[Item], &[Item]) -> Result<T, OnnxError>,
    ) -> Result<T, OnnxError> {
        let (mut values, mut passed) = (self.initializers.clone(), vec![]);
        for (name, v) in inputs {
            if !self.graph().input.iter().any(|i| i.name == *name) {
                let known: Vec<_> = self.inputs().iter().map(|i| i.0).collect();
                return Err(OnnxError::user(format!(
                    "there is no input '{name}': it has {}",
                    known.join(", ")
                )));
            }
            values.insert(name.clone(), given(v));
            passed.push(values[name].clone());
        }
        for (name, ty) in self.inputs() {
            if !values.contains_key(name) {
                return Err(OnnxError::user(format!(
                    "the input '{name}' was not passed: --input {name}=F.npy does"
                )));
            }
            fits(name, &values[name], ty)?;
        }
        let scope = Scope {
            values: RefCell::new(values),
            parent: None,
            attrs: Rc::default(),
            opsets: opsets(&self.message.opset_import),
            depth: 0,
        };
        let mut reader =
            Reader { trace: Trace::new(runner, &self.names), functions: &self.message.functions };
        let out = reader.graph(self.graph(), &scope).map_err(|e| e.at(""))?;
        then(&mut reader, &out, &passed)
    }
}

fn given(v: &Value) -> Item {
    match v {
        Value::Array(a) if a.elem == Elem::Str => Item::Text(Rc::new(a.clone())),
        Value::Array(a) => Item::Tensor(Val::given(a.clone())),
        Value::Sequence(v) => Item::Sequence(v.iter().map(given).collect()),
        Value::Optional(v) => Item::Optional(v.as_ref().map(|v| Box::new(given(v)))),
    }
}

/// Checks what is passed against the declared type.
fn fits(name: &str, item: &Item, ty: Option<&proto::Type>) -> Result<(), OnnxError> {
    let (Item::Tensor(v), Some(t)) = (item, ty.and_then(|t| t.tensor_type.as_ref())) else { return Ok(()) };
    let elem = Elem::of_code(t.elem_type.into()).map_err(|e| e.at(""))?;
    if v.elem() != elem {
        let what = format!("'{name}' has elements of {}, given {}", elem.name(), v.elem().name());
        return Err(OnnxError::user(what));
    }
    let Some(shape) = &t.shape else { return Ok(()) };
    let known = |d: &proto::Dimension| d.dim_value.filter(|n| *n >= 0);
    let same = shape.dim.len() == v.rank()
        && shape.dim.iter().zip(v.dims()).all(|(d, n)| known(d).is_none_or(|d| d == n));
    if same {
        return Ok(());
    }
    let dims: Vec<String> =
        shape.dim.iter().map(|d| known(d).map_or("?".into(), |n| n.to_string())).collect();
    Err(OnnxError::user(format!("'{name}' has shape [{}], given {:?}", dims.join(", "), v.shape())))
}

/// Reads graphs, with the region that is being written.
pub struct Reader<'r> {
    /// The values and the region.
    pub trace: Trace<'r>,
    functions: &'r [proto::Function],
}

impl Reader<'_> {
    /// The results of a graph whose arguments are in scope.
    pub fn graph(&mut self, g: &proto::Graph, scope: &Scope<'_>) -> Read<Vec<Item>> {
        let none =
            |_: &str, _: u64, _: Option<u64>| Err("an inner graph's tensor in another file".to_string());
        for t in &g.initializer {
            if scope.depth > 0 {
                let item = Item::of_array(Array::of_message(t, &none)?);
                scope.values.borrow_mut().insert(t.name.clone(), item);
            }
        }
        let outputs: Vec<&str> = g.output.iter().map(|o| o.name.as_str()).collect();
        self.nodes(&g.node, &outputs, scope)
    }

    /// An inner graph on arguments.
    pub fn inner(&mut self, g: &proto::Graph, around: &Scope<'_>, args: Vec<Item>) -> Read<Vec<Item>> {
        if around.depth > DEPTH {
            return Err(Fault::unsupported(format!("graphs more than {DEPTH} deep")));
        }
        if args.len() > g.input.len() {
            return Err(Fault::invalid(format!("the graph '{}' takes {} arguments", g.name, g.input.len())));
        }
        let scope = around.inside();
        let named = g.input.iter().map(|i| i.name.clone()).zip(args);
        scope.values.borrow_mut().extend(named);
        self.graph(g, &scope)
    }

    fn nodes(&mut self, nodes: &[proto::Node], outputs: &[&str], scope: &Scope<'_>) -> Read<Vec<Item>> {
        // The last node that reads each name: values that nobody reads any more are let go.
        let mut last: HashMap<&str, usize> = HashMap::new();
        for (i, n) in nodes.iter().enumerate() {
            reads(n, &mut |name| {
                last.insert(name, i);
            });
        }
        let kept: HashSet<&str> = outputs.iter().copied().collect();
        for (i, n) in nodes.iter().enumerate() {
            let place = |s: &Scope<'_>| {
                let opset = s.opsets.get(domain(&n.domain)).copied().unwrap_or(0);
                let name = if n.name.is_empty() { n.output.first() } else { Some(&n.name) };
                let operator = if n.domain.is_empty() {
                    n.op_type.clone()
                } else {
                    format!("{}.{}", n.domain, n.op_type)
                };
                format!("{operator} (opset {opset}) '{}'", name.map_or("", |n| n))
            };
            let results = self.node(n, scope).map_err(|e| Fault::from(e.at(&place(scope))))?;
            let named = n.output.iter().zip(results).filter(|(name, _)| !name.is_empty());
            scope.values.borrow_mut().extend(named.map(|(n, v)| (n.clone(), v)));
            let mut values = scope.values.borrow_mut();
            reads(n, &mut |name| {
                if last.get(name) == Some(&i) && !kept.contains(name) {
                    values.remove(name);
                }
            });
        }
        let get =
            |n: &&str| scope.get(n).ok_or_else(|| Fault::invalid(format!("the result '{n}' is never made")));
        outputs.iter().map(get).collect()
    }

    fn node(&mut self, n: &proto::Node, scope: &Scope<'_>) -> Read<Vec<Item>> {
        let mut inputs = vec![];
        for name in &n.input {
            let found = scope.get(name);
            if found.is_none() && !name.is_empty() {
                return Err(Fault::invalid(format!("'{name}' is used before it is made")));
            }
            inputs.push(found);
        }
        let attrs = scope.attrs.clone();
        let mut named = HashMap::new();
        for a in &n.attribute {
            let value = if a.ref_attr_name.is_empty() { Some(a) } else { attrs.get(&a.ref_attr_name) };
            named.extend(value.map(|v| (a.name.as_str(), v)));
        }
        let set = domain(&n.domain);
        let opset = scope.opsets.get(set).copied();
        let local = self
            .functions
            .iter()
            .find(|f| f.name == n.op_type && domain(&f.domain) == set && f.overload == n.overload);
        if let Some(f) = local {
            return self.call(f, inputs, &named, scope.depth);
        }
        let opset =
            opset.ok_or_else(|| Fault::invalid(format!("the operator set '{set}' is not imported")))?;
        let row = ops::find(set, &n.op_type, opset)?;
        let node = Node { message: n, opset, inputs, attrs: named, scope };
        (row.build)(self, &node)
    }

    /// A function of the model, its nodes put in place of the call.
    fn call(
        &mut self,
        f: &proto::Function,
        inputs: Vec<Option<Item>>,
        attrs: &HashMap<&str, &proto::Attribute>,
        depth: usize,
    ) -> Read<Vec<Item>> {
        if depth > DEPTH {
            return Err(Fault::unsupported(format!("functions more than {DEPTH} deep")));
        }
        let mut all: HashMap<String, proto::Attribute> =
            f.attribute_proto.iter().map(|a| (a.name.clone(), a.clone())).collect();
        all.extend(attrs.iter().map(|(n, a)| {
            let named = proto::Attribute { name: (*n).to_string(), ..(*a).clone() };
            ((*n).to_string(), named)
        }));
        let values = f.input.iter().cloned().zip(inputs).filter_map(|(n, v)| Some((n, v?)));
        let scope = Scope {
            values: RefCell::new(values.collect()),
            parent: None,
            attrs: Rc::new(all),
            opsets: opsets(&f.opset_import),
            depth: depth + 1,
        };
        let outputs: Vec<&str> = f.output.iter().map(String::as_str).collect();
        self.nodes(&f.node, &outputs, &scope)
    }

    /// A value with its elements.
    fn value(&mut self, i: &Item) -> Read<Value> {
        Ok(match i {
            Item::Tensor(v) => {
                let t = self.trace.tensor(v)?;
                Value::Array(Array::new(v.elem(), t))
            }
            Item::Text(a) => Value::Array((**a).clone()),
            Item::Sequence(v) => Value::Sequence(v.iter().map(|i| self.value(i)).collect::<Read<_>>()?),
            Item::Optional(v) => {
                Value::Optional(v.as_ref().map(|v| self.value(v).map(Box::new)).transpose()?)
            }
        })
    }
}

/// Names that a node reads, those of its inner graphs included.
fn reads<'n>(n: &'n proto::Node, f: &mut dyn FnMut(&'n str)) {
    n.input.iter().for_each(|name| f(name));
    for g in n.attribute.iter().filter_map(|a| a.g.as_deref()) {
        g.node.iter().for_each(|n| reads(n, f));
        g.output.iter().for_each(|o| f(&o.name));
    }
}
