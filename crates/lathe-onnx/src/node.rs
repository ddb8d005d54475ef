//! A node as the function that builds it sees it: arguments that are there or not, attributes by name, its opset.

use crate::elem::{Array, Elem};
use crate::error::Fault;
use crate::model::Scope;
use crate::proto;
use crate::trace::{Read, Val};
use std::collections::HashMap;

/// A value of a program.
#[derive(Clone, Debug)]
pub enum Item {
    /// A tensor of numbers.
    Tensor(Val),
    /// A tensor of text.
    Text(std::rc::Rc<Array>),
    /// A sequence.
    Sequence(Vec<Item>),
    /// What may be there or not.
    Optional(Option<Box<Item>>),
}

impl From<Val> for Item {
    fn from(v: Val) -> Item {
        Item::Tensor(v)
    }
}

impl Item {
    /// The tensor of numbers that it is.
    pub fn tensor(&self) -> Read<&Val> {
        match self {
            Item::Tensor(v) => Ok(v),
            Item::Optional(Some(v)) => v.tensor(),
            Item::Text(_) => Err(Fault::unsupported("tensors of text")),
            _ => Err(Fault::invalid("a tensor was expected")),
        }
    }

    /// The item of a tensor with its elements.
    pub fn of_array(a: Array) -> Item {
        if a.elem == Elem::Str { Item::Text(std::rc::Rc::new(a)) } else { Item::Tensor(Val::constant(a)) }
    }
}

/// A node.
pub struct Node<'a> {
    /// The message.
    pub message: &'a proto::Node,
    /// The version of its operator set.
    pub opset: i64,
    /// Arguments; `None` where one is left out.
    pub inputs: Vec<Option<Item>>,
    /// Attributes, those of the function around put in.
    pub attrs: HashMap<&'a str, &'a proto::Attribute>,
    /// Names that its graphs see.
    pub scope: &'a Scope<'a>,
}

impl<'a> Node<'a> {
    /// Whether an argument is there.
    pub fn has(&self, i: usize) -> bool {
        self.inputs.get(i).is_some_and(Option::is_some)
    }

    /// An argument.
    pub fn item(&self, i: usize) -> Read<&Item> {
        let found = self.inputs.get(i).and_then(Option::as_ref);
        found.ok_or_else(|| Fault::invalid(format!("argument {i} is missing")))
    }

    /// An argument that is a tensor.
    pub fn tensor(&self, i: usize) -> Read<&Val> {
        self.item(i)?.tensor()
    }

    /// An argument that may be left out.
    pub fn optional(&self, i: usize) -> Read<Option<&Val>> {
        if self.has(i) { self.tensor(i).map(Some) } else { Ok(None) }
    }

    /// All arguments, which are tensors.
    pub fn tensors(&self) -> Read<Vec<Val>> {
        (0..self.inputs.len()).map(|i| self.tensor(i).cloned()).collect()
    }

    /// Whether a result is asked for.
    pub fn wants(&self, i: usize) -> bool {
        self.message.output.get(i).is_some_and(|n| !n.is_empty())
    }

    /// Number of results.
    pub fn results(&self) -> usize {
        self.message.output.len()
    }

    /// An attribute.
    pub fn attr(&self, name: &str) -> Option<&'a proto::Attribute> {
        self.attrs.get(name).copied()
    }

    /// An integer, or what it is where it is left out.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attr(name).map_or(default, |a| a.i)
    }

    /// A number, or what it is where it is left out.
    pub fn float(&self, name: &str, default: f64) -> f64 {
        self.attr(name).map_or(default, |a| f64::from(a.f))
    }

    /// A word, or what it is where it is left out.
    pub fn word(&self, name: &str, default: &'a str) -> &'a str {
        self.attr(name).and_then(|a| std::str::from_utf8(&a.s).ok()).unwrap_or(default)
    }

    /// Integers.
    pub fn ints(&self, name: &str) -> Option<&'a [i64]> {
        self.attr(name).map(|a| a.ints.as_slice())
    }

    /// Numbers.
    pub fn floats(&self, name: &str) -> Option<Vec<f64>> {
        self.attr(name).map(|a| a.floats.iter().map(|v| f64::from(*v)).collect())
    }

    /// A tensor.
    pub fn array(&self, name: &str) -> Read<Option<Array>> {
        let none = |_: &str, _: u64, _: Option<u64>| Err("an attribute in another file".to_string());
        self.attr(name).and_then(|a| a.t.as_ref()).map(|t| Array::of_message(t, &none)).transpose()
    }

    /// A graph.
    pub fn graph(&self, name: &str) -> Read<&'a proto::Graph> {
        let found = self.attr(name).and_then(|a| a.g.as_deref());
        found.ok_or_else(|| Fault::invalid(format!("the graph '{name}' is missing")))
    }
}
