//! The operators of ONNX, one file a family, one row an operator (or a range of its versions): a function that builds it from
//! primitives. To add one, write its row in the file of its family.

mod attention;
mod control;
mod convert;
mod elementwise;
mod image;
mod index;
mod linear;
mod loss;
mod norm;
mod quantize;
mod recurrent;
mod reduce;
mod shape;
mod signal;
mod training;
mod window;

use crate::error::Fault;
use crate::model::Reader;
use crate::node::{Item, Node};
use crate::trace::{Read, Val};

/// A function that builds a node.
pub type Build = fn(&mut Reader<'_>, &Node<'_>) -> Read<Vec<Item>>;

/// An operator in a range of versions of its set.
pub struct Row {
    /// The operator set; the main one is empty.
    pub domain: &'static str,
    /// The operator's name.
    pub name: &'static str,
    /// The first version of the set that it is for.
    pub since: i64,
    /// The last version.
    pub until: i64,
    /// How it is built.
    pub build: Build,
}

/// A row of the main set, from a version on.
const fn row(name: &'static str, since: i64, build: Build) -> Row {
    Row { domain: "", name, since, until: i64::MAX, build }
}

/// All rows.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    let families: [&[Row]; 16] = [
        elementwise::ROWS,
        convert::ROWS,
        shape::ROWS,
        reduce::ROWS,
        linear::ROWS,
        window::ROWS,
        norm::ROWS,
        index::ROWS,
        loss::ROWS,
        quantize::ROWS,
        recurrent::ROWS,
        attention::ROWS,
        image::ROWS,
        signal::ROWS,
        control::ROWS,
        training::ROWS,
    ];
    families.into_iter().flatten()
}

/// The row of an operator in a version of its set.
pub fn find(domain: &str, name: &str, opset: i64) -> Read<&'static Row> {
    let mut known = false;
    for r in rows().filter(|r| r.domain == domain && r.name == name) {
        if (r.since..=r.until).contains(&opset) {
            return Ok(r);
        }
        known = true;
    }
    Err(Fault::unsupported(if known {
        "this version of the operator is not supported"
    } else {
        "this operator is not supported"
    }))
}

/// A single result.
fn one(v: Val) -> Read<Vec<Item>> {
    Ok(vec![v.into()])
}

/// Several results.
fn all(v: impl IntoIterator<Item = Val>) -> Read<Vec<Item>> {
    Ok(v.into_iter().map(Item::from).collect())
}
