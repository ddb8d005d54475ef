//! What is selected for: a host, and instructions that are described by their meaning as tensor programs.

use crate::SelectError;
use lathe_ir::DType;
use lathe_ir::tensor::{Expr, Kernel, Node, Stmt, check, parse};
use lathe_schedule::INTRINSICS;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A machine with instructions to select.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// What computes where no instruction does.
    pub host: Host,
    /// The memories of an accelerator; none where the instructions are the host's own.
    pub accelerator: Option<Accelerator>,
    /// The instructions, first what is preferred.
    pub instructions: Vec<Instruction>,
}

/// How fast the host computes what is not offloaded.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Multiply-adds in a nanosecond.
    pub products_per_ns: f64,
    /// Bytes read and written in a nanosecond by everything else.
    pub bytes_per_ns: f64,
}

/// The memories of an accelerator.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accelerator {
    /// Bytes of the scratchpad, where factors are loaded to.
    pub scratchpad_bytes: usize,
    /// Tiles of sums that it holds.
    pub accumulators: usize,
    /// Bytes in a nanosecond between the host's memory and its own.
    pub bytes_per_ns: f64,
}

/// An instruction: what it means, and how long it takes.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// Its name.
    pub name: String,
    /// Its meaning.
    pub meaning: Kernel,
    /// What its meaning was recognised as.
    pub product: Product,
    /// Whether an accelerator loads its tiles: with strides, and with zeros behind their elements, which its stores leave out.
    /// Tiles of the host's own instructions lie in memory as the meaning has them.
    pub loads: bool,
    /// Nanoseconds of one.
    pub ns: f64,
    /// Nanoseconds more for each step of its sum.
    pub ns_per_step: f64,
}

/// `c[rows, columns] += sum over steps of a[rows, steps] * b[steps, columns]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Rows of `a` and of the sums.
    pub rows: i64,
    /// Columns of `b` and of the sums; `None` where neither has this axis, which is as one column.
    pub columns: Option<i64>,
    /// Steps of the sum: so many, or up to so many.
    pub steps: Steps,
    /// Element types of `a` and `b`; they are converted to that of `c` first.
    pub factors: [DType; 2],
    /// Element type of the sums.
    pub sums: DType,
}

/// The length of an instruction's sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    /// Always as many.
    Exactly(i64),
    /// Any number up to this one.
    UpTo(i64),
}

impl Product {
    /// Columns, where an axis that is not there counts as one.
    pub fn width(&self) -> i64 {
        self.columns.unwrap_or(1)
    }

    /// In how many steps at a time a sum of `n` is computed.
    pub fn step(&self, n: i64) -> i64 {
        match self.steps {
            Steps::Exactly(k) => k,
            Steps::UpTo(most) => {
                let parts = (n + most - 1) / most;
                (n + parts - 1) / parts
            }
        }
    }

    /// The products of a kernel that is nothing but loops around one sum of products of two elements.
    fn of(k: &Kernel, limits: &BTreeMap<String, i64>) -> Result<Product, String> {
        let (mut loops, mut body) = (vec![], k.body.as_slice());
        let block = loop {
            match body {
                [Stmt::For(l)] => {
                    loops.push((l.var.clone(), l.extent.clone()));
                    body = &l.body;
                }
                [Stmt::Store(s)] => break s,
                _ => return Err("is more than loops around one sum".into()),
            }
        };
        let sum = block.reducer.is_some_and(|r| r.name == "sum") && block.targets.len() == 1;
        let Node::Binary(lathe_ir::tensor::Binary::Mul, x, y) = &*block.values[0] else {
            return Err("does not sum products".into());
        };
        if !sum {
            return Err("does not sum products".into());
        }
        let (c, c_index) = &block.targets[0];
        let ((a, a_index, a_to), (b, b_index, b_to)) = (load(x)?, load(y)?);
        let dtype = |n: &str| k.buffer(n).map(|b| b.dtype).ok_or("reads a buffer that is not there");
        let sums = dtype(c)?;
        if [a_to.unwrap_or(dtype(a)?), b_to.unwrap_or(dtype(b)?)] != [sums, sums] {
            return Err("does not convert its factors to the type of its sums".into());
        }
        let (c_index, a_index, b_index) = (variables(c_index)?, variables(a_index)?, variables(b_index)?);
        let of = |list: &[&str], v: &&str| list.contains(v);
        let rows: Vec<&str> = a_index.iter().filter(|v| of(&c_index, v)).copied().collect();
        let columns: Vec<&str> = b_index.iter().filter(|v| of(&c_index, v)).copied().collect();
        let steps: Vec<&str> = a_index.iter().filter(|v| !of(&c_index, v)).copied().collect();
        let ordered = rows.len() == 1
            && steps.len() == 1
            && columns.len() <= 1
            && a_index == [rows[0], steps[0]]
            && b_index == [&steps[..], &columns].concat()
            && c_index == [&rows[..], &columns].concat()
            && loops.len() == a_index.len() + columns.len();
        if !ordered {
            return Err(
                "is not c[row, column] += a[row, step] * b[step, column], with or without columns".into()
            );
        }
        let extent = |v: &str| loops.iter().find(|(n, _)| &**n == v).map(|(_, e)| e);
        let fixed = |v: &str| extent(v).and_then(|e| e.as_int()).filter(|n| *n > 0);
        let none = "has a tile whose rows or columns are no constants";
        let steps = match (fixed(steps[0]), extent(steps[0]).map(|e| &**e)) {
            (Some(n), _) => Steps::Exactly(n),
            (None, Some(Node::Var(n))) => match limits.get(&**n) {
                Some(most) if *most > 0 => Steps::UpTo(*most),
                _ => return Err(format!("has no limit for '{n}'")),
            },
            _ => return Err("has a sum whose length is neither a constant nor a dimension".into()),
        };
        Ok(Product {
            rows: fixed(rows[0]).ok_or(none)?,
            columns: columns.first().map(|v| fixed(v).ok_or(none)).transpose()?,
            steps,
            factors: [dtype(a)?, dtype(b)?],
            sums,
        })
    }
}

/// The buffer and the index of a load, and the type that it is converted to.
fn load(e: &Expr) -> Result<(&str, &[Expr], Option<DType>), String> {
    match &**e {
        Node::Load(n, i) => Ok((n, i, None)),
        Node::Cast(t, x) => load(x).map(|(n, i, _)| (n, i, Some(*t))),
        _ => Err("multiplies other than elements".into()),
    }
}

/// An index that is variables and nothing else.
fn variables(index: &[Expr]) -> Result<Vec<&str>, String> {
    if !index.iter().all(|e| matches!(&**e, Node::Var(_))) {
        return Err("has an index that is no variable".into());
    }
    Ok(index.iter().filter_map(|e| if let Node::Var(n) = &**e { Some(&**n) } else { None }).collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    host: Host,
    accelerator: Option<Accelerator>,
    instruction: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    meaning: Option<String>,
    intrinsic: Option<String>,
    #[serde(default)]
    limits: BTreeMap<String, i64>,
    ns: f64,
    #[serde(default)]
    ns_per_step: f64,
}

/// Targets that have names, with their descriptions.
pub const TARGETS: &[(&str, &str)] = &[
    ("gemm16", include_str!("targets/gemm16.toml")),
    ("vnni", include_str!("targets/vnni.toml")),
    ("bf16", include_str!("targets/bf16.toml")),
];

/// Lanes of an intrinsic that is named in place of a meaning.
const LANES: i64 = 16;

impl Target {
    /// One of [`TARGETS`].
    pub fn named(name: &str) -> Option<Target> {
        let (_, text) = TARGETS.iter().find(|(n, _)| *n == name)?;
        Some(Target::parse(text).expect("a test reads all of them"))
    }

    /// Reads a description in TOML.
    pub fn parse(text: &str) -> Result<Target, SelectError> {
        let bad = |place: &str, what: String| SelectError::Description { place: place.into(), what };
        let file: File = toml::from_str(text).map_err(|e| bad("", e.to_string()))?;
        let positive = |v: f64| v.is_finite() && v > 0.0;
        if !positive(file.host.products_per_ns) || !positive(file.host.bytes_per_ns) {
            return Err(bad("host", "its rates must be positive numbers".into()));
        }
        let mut instructions: Vec<Instruction> = vec![];
        for e in file.instruction {
            let refuse = |what: &str| bad(&e.name, what.to_string());
            let meaning = match (&e.meaning, &e.intrinsic) {
                (Some(text), None) => parse(text).map_err(|m| refuse(&format!("its meaning, {m}")))?,
                (None, Some(name)) => {
                    let row = INTRINSICS.iter().find(|r| r.name == *name);
                    row.ok_or_else(|| refuse(&format!("there is no intrinsic '{name}'")))?.kernel(LANES)
                }
                _ => return Err(refuse("give either its meaning, a tensor program, or an intrinsic's name")),
            };
            check(&meaning).map_err(|m| refuse(&format!("its meaning: {m}")))?;
            let product =
                Product::of(&meaning, &e.limits).map_err(|m| refuse(&format!("its meaning {m}")))?;
            let fits = positive(e.ns) && e.ns_per_step >= 0.0 && e.ns_per_step.is_finite();
            if !fits {
                return Err(refuse("its times must be numbers, `ns` above 0"));
            }
            if instructions.iter().any(|i| i.name == e.name) || e.name.is_empty() {
                return Err(refuse("instructions have names of their own"));
            }
            let Entry { name, ns, ns_per_step, .. } = e;
            let loads = file.accelerator.is_some();
            instructions.push(Instruction { name, meaning, product, loads, ns, ns_per_step });
        }
        if instructions.is_empty() {
            return Err(bad("instruction", "there is none".into()));
        }
        let target = Target { name: file.name, host: file.host, accelerator: file.accelerator, instructions };
        target.check_memories()?;
        Ok(target)
    }

    /// Refuses memories that do not hold what an instruction takes.
    fn check_memories(&self) -> Result<(), SelectError> {
        let Some(a) = self.accelerator else { return Ok(()) };
        let bad = |what: String| SelectError::Description { place: "accelerator".into(), what };
        if a.accumulators == 0 || !(a.bytes_per_ns.is_finite() && a.bytes_per_ns > 0.0) {
            return Err(bad("its accumulators and rate must be above 0".into()));
        }
        for i in &self.instructions {
            let p = i.product;
            if p.factors != [DType::F32; 2] || p.sums != DType::F32 || p.columns.is_none() {
                return Err(bad(format!("'{}' is not a product of matrices of f32", i.name)));
            }
            let most = match p.steps {
                Steps::Exactly(k) | Steps::UpTo(k) => k,
            };
            let bytes = 4 * most * (p.rows + p.width());
            if bytes as usize > a.scratchpad_bytes {
                return Err(bad(format!(
                    "the factors of '{}' are {bytes} bytes, more than the scratchpad",
                    i.name
                )));
            }
        }
        Ok(())
    }

    /// The instruction of a name.
    pub fn instruction(&self, name: &str) -> Option<&Instruction> {
        self.instructions.iter().find(|i| i.name == name)
    }
}
