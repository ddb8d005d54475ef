//! A graph as it grows: operators, and the file's tensors as they are first used.

use std::collections::HashMap;

use lathe_ir::graph::{Attr, Graph, Node, OpTable, Source, Type, ValueId};
use lathe_ir::{DType, Int, IrError, Name, Tensor};

use super::AdapterRoom;
use super::error::FamilyErrorKind;
use super::rope::FACTORS;
use super::tensors::{find, type_of};
use crate::file::ModelFile;
use crate::gguf::GgmlType;

/// A result, or why the file does not fit.
pub(super) type Made<T = ValueId> = Result<T, FamilyErrorKind>;

pub(super) struct Builder<'a> {
    pub graph: Graph,
    table: OpTable,
    file: &'a ModelFile,
    used: HashMap<String, ValueId>,
    made: HashMap<Name, Tensor>,
    /// Rows without some columns, and these columns, by the rows and the columns.
    apart: HashMap<(ValueId, Vec<i32>), (ValueId, ValueId)>,
    /// What adapters add to products, where there is room for them.
    adapted: Option<Adapted>,
}

/// The columns of rows that stay floats, and their weights.
struct Outliers {
    /// The rows, 0 in these columns.
    inside: ValueId,
    /// These columns.
    picked: ValueId,
    weight: ValueId,
}

/// The tokens by adapter: an adapter is to its products what an expert is to its own.
struct Adapted {
    room: AdapterRoom,
    offsets: ValueId,
    index: ValueId,
}

impl<'a> Builder<'a> {
    pub(super) fn new(graph: Graph, file: &'a ModelFile) -> Self {
        let (used, made, apart) = (HashMap::new(), HashMap::new(), HashMap::new());
        Builder { graph, table: lathe_ops::table(), file, used, made, apart, adapted: None }
    }

    /// Lets the products of layers have adapters; an input says which one each token uses.
    pub(super) fn adapt(&mut self, room: &AdapterRoom) -> Made<()> {
        let chosen = self.graph.input("adapters", Type::dense(DType::I32, &[Int::var("T"), 1.into()]));
        let experts = [("experts", Attr::Int(room.count as i64 + 1))];
        let [offsets, index] = self.results("bucket", &[chosen], &experts)?;
        self.adapted = Some(Adapted { room: room.clone(), offsets, index });
        Ok(())
    }

    /// What the adapters add to the products of these names and rows; `None` where there is no room for any. All their first
    /// products come before the second ones, so that threads meet between the two once.
    fn adapters<const N: usize>(&mut self, x: ValueId, of: [(&str, i64); N]) -> Made<[Option<ValueId>; N]> {
        let Some(Adapted { room, offsets, index }) = &self.adapted else { return Ok([None; N]) };
        let (count, rank, offsets, index) = (room.count as i64 + 1, room.rank as i64, *offsets, *index);
        let has = of.map(|(name, _)| room.has(name));
        let mut product = |x, name: &str, part: &str, rows: i64| {
            let shape = [count, rows, self.width(x)].map(Int::from);
            // Rows side by side, as `pack` puts those of constants.
            let ty = match rows % 16 {
                0 => Type::encoded("f32.tile16", &shape),
                _ => Type::dense(DType::F32, &shape),
            };
            let w = self.graph.input(&format!("{name}.{part}"), ty);
            self.op_with("expert_matmul", &[x, w, offsets, index], &[("k", Attr::Int(1))])
        };
        let mut added = [None; N];
        for i in (0..N).filter(|i| has[*i]) {
            added[i] = Some(product(x, of[i].0, "lora_a", rank)?);
        }
        for ((name, rows), y) in of.into_iter().zip(&mut added) {
            *y = y.map(|y| product(y, name, "lora_b", rows)).transpose()?;
        }
        Ok(added)
    }

    /// A tensor of the file, if it is there.
    pub(super) fn optional(&mut self, name: &str, shape: &[i64]) -> Made<Option<ValueId>> {
        if let Some(v) = self.used.get(name) {
            return Ok(Some(*v));
        }
        let Some(info) = find(self.file, name, shape)? else { return Ok(None) };
        let v = self.graph.constant(name, type_of(info.ty(), shape));
        self.used.insert(name.to_owned(), v);
        Ok(Some(v))
    }

    /// A tensor of the file.
    pub(super) fn weight(&mut self, name: &str, shape: &[i64]) -> Made {
        let missing = || FamilyErrorKind::Missing { name: name.to_owned(), expected: Some(shape.to_vec()) };
        self.optional(name, shape)?.ok_or_else(missing)
    }

    /// A constant that is not in the file.
    pub(super) fn numbers(&mut self, name: &str, values: &[f32]) -> ValueId {
        self.made.insert(name.into(), Tensor::f32(&[values.len()], values));
        self.graph.constant(name, Type::dense(DType::F32, &[Int::from(values.len() as i64)]))
    }

    /// A square matrix that is not in the file; the same each time it is asked for.
    pub(super) fn matrix(&mut self, name: &str, n: i64, values: &[f32]) -> ValueId {
        if let Some(v) = self.used.get(name) {
            return *v;
        }
        self.made.insert(name.into(), Tensor::f32(&[n as usize; 2], values));
        let v = self.graph.constant(name, Type::dense(DType::F32, &[n.into(), n.into()]));
        self.used.insert(name.to_owned(), v);
        v
    }

    /// The product with the matrix `name.weight` of so many rows, plus what adapters add, plus `name.bias` where the file has it.
    /// A matrix of bytes is times `name.scale`, one for each row or one for all; of the columns `name.columns` it has nothing, which
    /// `name.outliers` has (Dettmers et al. 2022).
    pub(super) fn linear(&mut self, x: ValueId, name: &str, rows: i64) -> Made {
        let [y] = self.linears(x, [(name, rows)])?;
        Ok(y)
    }

    /// Several such products of the same rows.
    pub(super) fn linears<const N: usize>(&mut self, x: ValueId, of: [(&str, i64); N]) -> Made<[ValueId; N]> {
        let added = self.adapters(x, of)?;
        let mut all = [x; N];
        for (y, ((name, rows), added)) in all.iter_mut().zip(of.into_iter().zip(added)) {
            *y = self.product(x, name, rows, added)?;
        }
        Ok(all)
    }

    /// One of them.
    fn product(&mut self, x: ValueId, name: &str, rows: i64, added: Option<ValueId>) -> Made {
        let width = self.width(x);
        let weight = self.weight(&format!("{name}.weight"), &[rows, width])?;
        let outliers = self.outliers(x, name, rows)?;
        let inside = outliers.as_ref().map_or(x, |o| o.inside);
        let mut y = self.op("matmul", &[inside, weight])?;
        if self.graph.ty(weight).encoding.as_deref() == Some("i8") {
            let scale = format!("{name}.scale");
            let one = self.dims(&scale).is_some_and(|dims| dims == [1]);
            let scale = self.weight(&scale, &[if one { 1 } else { rows }])?;
            y = self.op("mul", &[y, scale])?;
        }
        if let Some(o) = outliers {
            let more = self.op("matmul", &[o.picked, o.weight])?;
            y = self.op("add", &[more, y])?;
        }
        if let Some(added) = added {
            y = self.op("add", &[y, added])?;
        }
        match self.optional(&format!("{name}.bias"), &[rows])? {
            Some(bias) => self.op("add", &[y, bias]),
            None => Ok(y),
        }
    }

    /// What `name.outliers` multiplies and what is left for `name.weight`, where the file has such. Products of the same rows with the
    /// same columns share both.
    fn outliers(&mut self, x: ValueId, name: &str, rows: i64) -> Made<Option<Outliers>> {
        let columns = format!("{name}.columns");
        let Some(&[count]) = self.dims(&columns).as_deref() else { return Ok(None) };
        let index = self.weight(&columns, &[count])?;
        let weight = self.weight(&format!("{name}.outliers"), &[rows, count])?;
        let info = self.file.tensor(&columns).filter(|t| t.ty() == GgmlType::I32);
        let data = info.map(|t| self.file.data(t)).unwrap_or_default();
        let width = self.width(x);
        let of = |b: &[u8]| i32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let chosen: Vec<i32> = data.chunks_exact(4).map(of).collect();
        if chosen.len() as i64 != count || chosen.iter().any(|c| !(0..width).contains(&i64::from(*c))) {
            return Err(FamilyErrorKind::Values { name: columns, what: "names a column that is not there" });
        }
        if let Some((inside, picked)) = self.apart.get(&(x, chosen.clone())) {
            return Ok(Some(Outliers { inside: *inside, picked: *picked, weight }));
        }
        let mut mask = vec![1.0; width as usize];
        chosen.iter().for_each(|c| mask[*c as usize] = 0.0);
        let mask = self.numbers(&format!("{name}.inside"), &mask);
        let inside = self.op("mul", &[x, mask])?;
        let picked = self.op_with("gather", &[x, index], &[("axis", Attr::Int(1))])?;
        self.apart.insert((x, chosen), (inside, picked));
        Ok(Some(Outliers { inside, picked, weight }))
    }

    /// The extents of a tensor of the file, outermost first.
    fn dims(&self, name: &str) -> Option<Vec<i64>> {
        self.file.tensor(name).map(|t| t.shape().iter().map(|d| *d as i64).collect())
    }

    /// Elements of a row.
    pub(super) fn width(&self, x: ValueId) -> i64 {
        self.graph.ty(x).shape.last().and_then(Int::as_const).unwrap_or(0)
    }

    pub(super) fn op(&mut self, name: &str, inputs: &[ValueId]) -> Made {
        self.op_with(name, inputs, &[])
    }

    pub(super) fn op_with(&mut self, name: &str, inputs: &[ValueId], attrs: &[(&str, Attr)]) -> Made {
        self.results(name, inputs, attrs).map(|[y]| y)
    }

    pub(super) fn results<const N: usize>(
        &mut self,
        name: &str,
        inputs: &[ValueId],
        attrs: &[(&str, Attr)],
    ) -> Made<[ValueId; N]> {
        let found = self.graph.apply(&self.table, name, inputs, attrs)?;
        let wrong = |f: Vec<ValueId>| IrError::check(name, format!("has {} results, not {N}", f.len()));
        Ok(found.try_into().map_err(wrong)?)
    }

    /// The graph and the constants that are not in the file. No tensor of the file may be left: a model that has more
    /// computes something else.
    pub(super) fn finish(self) -> Made<(Graph, HashMap<Name, Tensor>)> {
        let left = |n: &str| !self.used.contains_key(n) && !FACTORS.contains(&n);
        match self.file.tensors().iter().find(|t| left(t.name())) {
            Some(t) => Err(FamilyErrorKind::Unused(t.name().to_owned())),
            None => Ok((arguments_first(self.graph), self.made)),
        }
    }
}

/// The same graph with inputs, state and constants in front of what nodes make, as its text has them.
fn arguments_first(g: Graph) -> Graph {
    let rank = |s: &Source| match s {
        Source::Input => 0,
        Source::State => 1,
        Source::Const(_) => 2,
        Source::Node => 3,
    };
    let mut order: Vec<usize> = (0..g.values.len()).collect();
    order.sort_by_key(|i| rank(&g.values[*i].source));
    let mut place = vec![ValueId(0); order.len()];
    for (to, from) in order.iter().enumerate() {
        place[*from] = ValueId(to as u32);
    }
    let moved = |v: &[ValueId]| v.iter().map(|v| place[v.0 as usize]).collect::<Vec<_>>();
    let node = |n: &Node| Node { inputs: moved(&n.inputs), outputs: moved(&n.outputs), ..n.clone() };
    Graph {
        values: order.iter().map(|i| g.values[*i].clone()).collect(),
        nodes: g.nodes.iter().map(node).collect(),
        outputs: moved(&g.outputs),
        ..g
    }
}
