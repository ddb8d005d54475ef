//! Runs a chosen graph: what was placed by programs of the accelerator on its emulator, all else by the operators' references.

use super::emulate::{Counts, Emulator};
use super::generate::{Call, generate};
use crate::SelectError;
use crate::rule::{Axes, at};
use crate::target::Target;
use crate::term::ON;
use lathe_ir::graph::{Graph, Node, OpTable, Source, ValueId, str_attr};
use lathe_ir::{Elements, IrError, Name, Tensor};
use std::collections::HashMap;

/// The results of a chosen graph on named values, and what the accelerator did. Zeros that a load puts around and rows and
/// columns that a store leaves out are no tensors.
pub fn run(
    g: &Graph,
    table: &OpTable,
    named: &HashMap<Name, Tensor>,
    target: &Target,
) -> Result<(Vec<Tensor>, Counts), SelectError> {
    let mut emulator = Emulator::new(target).ok_or_else(|| {
        SelectError::Unsupported(format!("'{}' is no accelerator with an emulator", target.name))
    })?;
    let mut r = Run { g, table, named, target, made: g.producers(), values: HashMap::new() };
    let mut out = vec![];
    for v in &g.outputs {
        out.push(r.value(*v, &mut emulator)?);
    }
    Ok((out, emulator.counts()))
}

struct Run<'r> {
    g: &'r Graph,
    table: &'r OpTable,
    named: &'r HashMap<Name, Tensor>,
    target: &'r Target,
    made: Vec<Option<usize>>,
    values: HashMap<ValueId, Tensor>,
}

impl<'r> Run<'r> {
    fn node(&self, v: ValueId) -> Option<&'r Node> {
        self.made[v.0 as usize].map(|i| &self.g.nodes[i])
    }

    fn shape(&self, v: ValueId) -> Vec<usize> {
        self.g.ty(v).shape.iter().map(|d| d.as_const().unwrap_or(0) as usize).collect()
    }

    /// A value, from those before it. The way to it is as long as the graph, so it is walked with a list of its own.
    fn value(&mut self, v: ValueId, emulator: &mut Emulator<'_>) -> Result<Tensor, SelectError> {
        let mut work = vec![v];
        while let Some(v) = work.pop() {
            if self.values.contains_key(&v) {
                continue;
            }
            let Some(n) = self.node(v) else {
                let value = self.g.value(v);
                let name = if let Source::Const(n) = &value.source { n } else { &value.name };
                let t = self.named.get(name).ok_or_else(|| IrError::run(&**name, "no value was passed"))?;
                self.values.insert(v, t.clone());
                continue;
            };
            let placed = self.placed(n);
            let needs: Vec<ValueId> = match &placed {
                Some((_, factors)) => factors.to_vec(),
                None => n.inputs.clone(),
            };
            let lacking: Vec<ValueId> =
                needs.iter().filter(|a| !self.values.contains_key(a)).copied().collect();
            if !lacking.is_empty() {
                work.push(v);
                work.extend(lacking);
                continue;
            }
            if let Some((call, factors)) = placed {
                let t = self.emulated(&call, factors, &self.shape(v), emulator)?;
                self.values.insert(v, t);
                continue;
            }
            let row =
                self.table.get(&n.op).ok_or_else(|| IrError::run(&*n.op, "there is no such operator"))?;
            let args: Vec<Tensor> = needs.iter().map(|a| self.values[a].clone()).collect();
            let types: Vec<_> = n.outputs.iter().map(|o| self.g.ty(*o).clone()).collect();
            for (o, t) in n.outputs.iter().zip((row.reference)(&args, &n.attrs, &types)) {
                self.values.insert(*o, t);
            }
        }
        Ok(self.values[&v].clone())
    }

    /// The tensor behind the tiles of a factor: what a pad of the accelerator's puts zeros around.
    fn factor(&self, v: ValueId) -> ValueId {
        let back = |v: ValueId, op: &str| self.node(v).filter(|n| *n.op == *op);
        let padded = back(v, "reshape").map_or(v, |n| n.inputs[0]);
        let pad = back(padded, "pad").filter(|n| n.attrs.contains_key(ON));
        pad.map_or(v, |n| n.inputs[0])
    }

    /// The call and the factors, where a node is a product that was placed, or what is left of one's result.
    fn placed(&self, n: &'r Node) -> Option<(Call, [ValueId; 2])> {
        let cut = &*n.op == "slice" && n.attrs.contains_key(ON);
        let product = if cut {
            let tiles = self.node(n.inputs[0]).filter(|n| &*n.op == "reshape")?;
            self.node(tiles.inputs[0])?
        } else {
            n
        };
        let name = (&*product.op == "dot").then(|| str_attr(&product.attrs, ON)).flatten()?;
        let own = [product.inputs[0], product.inputs[1]];
        let inner = own.map(|v| self.factor(v));
        self.call(product, name, n.outputs[0], inner).or_else(|| self.call(product, name, n.outputs[0], own))
    }

    /// The call of a product on factors that are its own, or its own without the zeros around.
    fn call(
        &self,
        n: &Node,
        name: &str,
        result: ValueId,
        factors: [ValueId; 2],
    ) -> Option<(Call, [ValueId; 2])> {
        let dims = |v: ValueId| self.shape(v).iter().map(|d| *d as i64).collect::<Vec<_>>();
        let (x, y) = (dims(n.inputs[0]), dims(n.inputs[1]));
        let a = Axes::of(&n.attrs, [x.len(), y.len()])?;
        let product = |d: &[i64], axes: &[usize]| at(d, axes).iter().product::<i64>() as usize;
        let batch = product(&x, &a.batch[0]);
        let steps = x[*a.sum[0].last()?] as usize;
        let mut size = [product(&x, &a.free[0]), product(&x, &a.sum[0]), product(&y, &a.free[1])];
        // Where zeros were to be put around, the last two axes say what there is.
        for (i, v) in factors.iter().enumerate().filter(|(i, v)| **v != n.inputs[*i]) {
            let d = self.shape(*v);
            [size[i], size[i + 1]] = [d[d.len() - 2], d[d.len() - 1]];
        }
        let elements = |v: ValueId| self.shape(v).iter().product::<usize>();
        // Zeros behind the steps of one factor meet none of the other: both are as long, or neither goes this way.
        let fits = elements(factors[0]) == batch * size[0] * size[1]
            && elements(factors[1]) == batch * size[1] * size[2]
            && elements(result) == batch * size[0] * size[2];
        let buffers = ["x".into(), "y".into(), "z".into()];
        fits.then(|| (Call { instruction: name.into(), batch, size, steps, buffers }, factors))
    }

    fn emulated(
        &self,
        call: &Call,
        factors: [ValueId; 2],
        shape: &[usize],
        emulator: &mut Emulator<'_>,
    ) -> Result<Tensor, SelectError> {
        let mut host: HashMap<Name, Vec<f32>> = HashMap::new();
        for (name, v) in call.buffers.iter().zip(factors) {
            host.insert(name.clone(), self.values[&v].to_f32());
        }
        let z = &call.buffers[2];
        host.insert(z.clone(), vec![f32::NAN; shape.iter().product()]);
        if !generate(call, self.target, &mut |i| emulator.step(&i, &mut host))? {
            return Err(SelectError::Unsupported(format!(
                "the target has no instruction '{}'",
                call.instruction
            )));
        }
        let sums = host.remove(z).unwrap_or_default();
        let floats = Elements::Floats(sums.into_iter().map(f64::from).collect());
        Ok(Tensor::of(lathe_ir::DType::F32, shape, &floats))
    }
}
