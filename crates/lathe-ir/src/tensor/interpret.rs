//! The interpreter: the meaning of a tensor program, one scalar at a time, loops in order, storage by layout.

use super::{Binary, Buffer, Expr, Kernel, Node, Stmt, Store, Unary};
use crate::encoding::Resolved;
use crate::value::{decode_bits, encode_bits, read_bits, write_bits};
use crate::{DType, IrError, Name};
use std::collections::HashMap;

/// The arguments of a run: dimensions and the bytes of each parameter.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Values of the dimensions.
    pub dims: HashMap<Name, i64>,
    /// Storage of each parameter.
    pub params: HashMap<Name, Vec<u8>>,
}

impl Memory {
    /// Memory with these dimensions and no storage yet.
    pub fn new(dims: &[(&str, i64)]) -> Memory {
        Memory { dims: dims.iter().map(|(n, v)| ((*n).into(), *v)).collect(), params: HashMap::new() }
    }

    /// Sets a parameter's storage.
    pub fn set(&mut self, name: &str, bytes: &[u8]) {
        self.params.insert(name.into(), bytes.to_vec());
    }

    /// Sets a parameter's storage to f32 values.
    pub fn set_f32(&mut self, name: &str, v: &[f32]) {
        self.set(name, &v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
    }

    /// A parameter's storage as f32 values.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        let b = self.params.get(name).map_or(&[][..], Vec::as_slice);
        b.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
    }
}

#[derive(Clone, Copy, Debug)]
enum Value {
    Int(i64),
    Float(f64),
}

impl Value {
    fn float(self) -> f64 {
        match self {
            Value::Int(v) => v as f64,
            Value::Float(v) => v,
        }
    }

    fn int(self) -> i64 {
        match self {
            Value::Int(v) => v,
            Value::Float(v) => v as i64,
        }
    }
}

struct Slot {
    param: Option<Name>,
    bytes: Vec<u8>,
    dtype: DType,
    shape: Vec<i64>,
    layout: Resolved,
}

struct Run<'m> {
    memory: &'m mut Memory,
    name: Name,
    slots: HashMap<Name, Slot>,
    vars: HashMap<Name, i64>,
}

/// Runs a kernel over the whole range of its loops.
pub fn interpret(k: &Kernel, memory: &mut Memory) -> Result<(), IrError> {
    let vars = memory.dims.clone();
    let mut r = Run { memory, name: k.name.clone(), slots: HashMap::new(), vars };
    for p in &k.params {
        if !r.memory.params.contains_key(&p.name) {
            return r.fail(&p.name, "no storage was passed");
        }
        for v in &p.views {
            let slot = r.slot(v, Some(p.name.clone()))?;
            r.slots.insert(v.name.clone(), slot);
        }
    }
    r.body(&k.body)
}

impl Run<'_> {
    fn fail<T>(&self, place: &str, message: impl Into<String>) -> Result<T, IrError> {
        Err(IrError::run(format!("{}/{place}", self.name), message))
    }

    fn slot(&self, b: &Buffer, param: Option<Name>) -> Result<Slot, IrError> {
        let get = |n: &str| self.vars.get(n).copied();
        let shape = b.shape.iter().map(|s| s.eval(&get)).collect::<Option<Vec<_>>>();
        let (Some(shape), Some(layout)) = (shape, b.layout.resolve(&get)) else {
            return self.fail(&b.name, "its shape mentions an unbound dimension");
        };
        let bits = shape.iter().product::<i64>() * b.dtype.bits();
        let bytes = if param.is_some() { vec![] } else { vec![0xa5; bits.max(0) as usize / 8 + 8] };
        Ok(Slot { param, bytes, dtype: b.dtype, shape, layout })
    }

    fn body(&mut self, body: &[Stmt]) -> Result<(), IrError> {
        for s in body {
            match s {
                Stmt::Alloc(b) => {
                    let slot = self.slot(b, None)?;
                    self.slots.insert(b.name.clone(), slot);
                }
                Stmt::For(l) => {
                    let n = self.eval(&l.extent, &l.var)?.int();
                    for i in 0..n {
                        self.vars.insert(l.var.clone(), i);
                        self.body(&l.body)?;
                    }
                    self.vars.remove(&l.var);
                }
                Stmt::If(c, b) => {
                    if self.eval(c, "if")?.int() != 0 {
                        self.body(b)?;
                    }
                }
                Stmt::Intrinsic(_, b) => self.body(b)?,
                Stmt::Store(s) => self.store(s)?,
            }
        }
        Ok(())
    }

    fn store(&mut self, s: &Store) -> Result<(), IrError> {
        let mut values = vec![];
        match s.reducer {
            None => {
                for v in &s.values {
                    values.push(self.eval(v, &s.name)?);
                }
            }
            Some(r) => {
                let old: Vec<Expr> = s.targets.iter().map(|(n, i)| Expr::load(n, i)).collect();
                for v in r.combine(&old, &s.values) {
                    values.push(self.eval(&v, &s.name)?);
                }
            }
        }
        for ((n, index), v) in s.targets.iter().zip(values) {
            let index = self.index(index, &s.name)?;
            let address = self.address(n, &index, &s.name)?;
            let slot = self.slots.get_mut(n).expect("address found it");
            let bits = match (slot.dtype, v) {
                (t @ DType::Int { .. }, v) => t.wrap(v.int()) as u64,
                (t, v) => encode_bits(t, v.float()),
            };
            let width = slot.dtype.bits();
            let bytes = match &slot.param {
                Some(p) => self.memory.params.get_mut(p).expect("passed storage"),
                None => &mut slot.bytes,
            };
            if write_bits(bytes, address, width, bits).is_none() {
                return self.fail(&s.name, format!("{n}{index:?} is outside the storage"));
            }
        }
        Ok(())
    }

    fn index(&mut self, index: &[Expr], place: &str) -> Result<Vec<i64>, IrError> {
        index.iter().map(|i| Ok(self.eval(i, place)?.int())).collect()
    }

    fn address(&self, n: &Name, index: &[i64], place: &str) -> Result<i64, IrError> {
        let Some(slot) = self.slots.get(n) else {
            return self.fail(place, format!("buffer '{n}' is not in scope"));
        };
        if index.iter().zip(&slot.shape).any(|(i, s)| i < &0 || i >= s) {
            return self.fail(place, format!("{n}{index:?} is outside {:?}", slot.shape));
        }
        Ok(slot.layout.address(index))
    }

    fn eval(&mut self, e: &Expr, place: &str) -> Result<Value, IrError> {
        Ok(match &**e {
            Node::Int(v, _) => Value::Int(*v),
            Node::Float(b, _) => Value::Float(f64::from_bits(*b)),
            Node::Var(n) => match self.vars.get(n) {
                Some(v) => Value::Int(*v),
                None => return self.fail(place, format!("'{n}' has no value")),
            },
            Node::Load(n, i) => {
                let i = self.index(i, place)?;
                let a = self.address(n, &i, place)?;
                let slot = &self.slots[n];
                let bytes = match &slot.param {
                    Some(p) => &self.memory.params[p],
                    None => &slot.bytes,
                };
                let Some(bits) = read_bits(bytes, a, slot.dtype.bits()) else {
                    return self.fail(place, format!("{n}{i:?} is outside the storage"));
                };
                match slot.dtype {
                    t @ DType::Int { .. } => Value::Int(t.wrap(bits as i64)),
                    t => Value::Float(decode_bits(t, bits)),
                }
            }
            Node::Cast(t, a) => {
                let v = self.eval(a, place)?;
                match *t {
                    DType::Int { .. } => Value::Int(t.wrap(v.int())),
                    t => Value::Float(decode_bits(t, encode_bits(t, v.float()))),
                }
            }
            Node::Bitcast(t, a) => {
                let from = self.type_of(a);
                let bits = match self.eval(a, place)? {
                    Value::Int(v) => v as u64,
                    Value::Float(v) => encode_bits(from, v),
                };
                match t {
                    DType::Int { .. } => Value::Int(t.wrap(bits as i64)),
                    t => Value::Float(decode_bits(*t, bits)),
                }
            }
            Node::Select(c, a, b) => {
                let c = self.eval(c, place)?.int() != 0;
                self.eval(if c { a } else { b }, place)?
            }
            Node::Unary(op, a) => {
                let t = self.type_of(a);
                match (op, self.eval(a, place)?) {
                    (Unary::Neg, Value::Int(v)) => Value::Int(t.wrap(v.wrapping_neg())),
                    (Unary::Abs, Value::Int(v)) => Value::Int(t.wrap(v.wrapping_abs())),
                    (Unary::Not, Value::Int(v)) => Value::Int(t.wrap(!v)),
                    (op, v) => Value::Float(t.round(unary(*op, v.float()))),
                }
            }
            Node::Binary(op, a, b) => {
                let t = self.type_of(a);
                let (x, y) = (self.eval(a, place)?, self.eval(b, place)?);
                match (x, y) {
                    (Value::Int(x), Value::Int(y)) => match binary_int(*op, x, y) {
                        Some(v) if op.is_comparison() => Value::Int(v),
                        Some(v) => Value::Int(t.wrap(v)),
                        None => return self.fail(place, format!("division by zero in {e}")),
                    },
                    (x, y) => {
                        let (x, y) = (x.float(), y.float());
                        match op {
                            Binary::Lt => Value::Int((x < y).into()),
                            Binary::Le => Value::Int((x <= y).into()),
                            Binary::Eq => Value::Int((x == y).into()),
                            Binary::Ne => Value::Int((x != y).into()),
                            op => Value::Float(t.round(binary_float(*op, x, y))),
                        }
                    }
                }
            }
        })
    }

    fn type_of(&self, e: &Expr) -> DType {
        super::expr_type(e, &|n| self.slots.get(n).map(|s| s.dtype)).unwrap_or(DType::F64)
    }
}

fn unary(op: Unary, v: f64) -> f64 {
    match op {
        Unary::Neg => -v,
        Unary::Abs => v.abs(),
        Unary::Not => f64::NAN,
        Unary::Exp => v.exp(),
        Unary::Log => v.ln(),
        Unary::Sqrt => v.sqrt(),
        Unary::Sin => v.sin(),
        Unary::Cos => v.cos(),
        Unary::Tanh => v.tanh(),
        Unary::Floor => v.floor(),
        Unary::Round => v.round_ties_even(),
    }
}

fn binary_int(op: Binary, x: i64, y: i64) -> Option<i64> {
    Some(match op {
        Binary::Add => x.wrapping_add(y),
        Binary::Sub => x.wrapping_sub(y),
        Binary::Mul => x.wrapping_mul(y),
        Binary::Div => x.checked_div_euclid(y)?,
        Binary::Rem => x.checked_rem_euclid(y)?,
        Binary::Min => x.min(y),
        Binary::Max => x.max(y),
        Binary::And => x & y,
        Binary::Or => x | y,
        Binary::Xor => x ^ y,
        Binary::Shl => x.wrapping_shl(y as u32),
        Binary::Shr => x.wrapping_shr(y as u32),
        Binary::Lt => (x < y).into(),
        Binary::Le => (x <= y).into(),
        Binary::Eq => (x == y).into(),
        Binary::Ne => (x != y).into(),
    })
}

fn binary_float(op: Binary, x: f64, y: f64) -> f64 {
    match op {
        Binary::Add => x + y,
        Binary::Sub => x - y,
        Binary::Mul => x * y,
        Binary::Div => x / y,
        Binary::Rem => x.rem_euclid(y),
        Binary::Min => {
            if y < x {
                y
            } else {
                x
            }
        }
        Binary::Max => {
            if x < y {
                y
            } else {
                x
            }
        }
        _ => f64::NAN,
    }
}
