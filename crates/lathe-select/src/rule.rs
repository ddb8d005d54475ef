//! Rewrite rules: what stands on the left, and how the right is made of it.
//!
//! A rule is the same function in two places: the search applies it to classes of equal terms, and the replay of a proof
//! to one term. Neither knows anything of a rule but its row.

use crate::sample::Sample;
use crate::target::{Instruction, Target};
use crate::term::{Facts, Head, Ops, Tree};
use lathe_ir::DType;
use lathe_ir::graph::{Attr, Attrs};
pub use lathe_schedule::Tag;
use std::rc::Rc;
use std::sync::Arc;

/// What rules of a kind change; a search may leave kinds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Names and loops: the same product under the name and the tiles that an instruction has.
    Exact,
    /// The order and the number of axes.
    Layout,
    /// Convolutions as products over windows (im2col).
    Windows,
    /// Zeros behind the elements, up to a multiple of a tile.
    Padding,
    /// Arithmetic: factors and offsets out of sums, conversions.
    Algebra,
    /// Elements in types of fewer bits.
    Rounding,
}

/// All kinds, with their names.
pub const KINDS: [(Kind, &str); 6] = [
    (Kind::Exact, "exact"),
    (Kind::Layout, "layout"),
    (Kind::Windows, "windows"),
    (Kind::Padding, "padding"),
    (Kind::Algebra, "algebra"),
    (Kind::Rounding, "rounding"),
];

/// A row of the table of rules.
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// The forms of its left side: operators with any attributes over variables.
    pub left: &'static [&'static str],
    /// What the right side is, and when.
    pub doc: &'static str,
    /// How the result may differ: `reassociates` is equal over the real numbers, and exactly equal over integers.
    pub tag: Tag,
    /// What it changes.
    pub kind: Kind,
    /// Whether it is a rule of each instruction of the target, and depends on its product.
    pub of_instruction: bool,
    /// The right side; `None` where the rule does not apply.
    pub right: fn(&mut Right<'_>) -> Option<Place>,
    /// A graph whose result is a left side, from a seed, for the test of the row.
    pub sample: fn(u64) -> Sample,
}

/// A rule, of an instruction where it depends on one.
#[derive(Clone, Copy)]
pub struct Applied<'t> {
    /// The row.
    pub rule: &'static Rule,
    /// The instruction.
    pub instruction: Option<&'t Instruction>,
}

impl<'t> Applied<'t> {
    /// All rules of a target, of these kinds.
    pub fn all(target: &'t Target, kinds: &[Kind]) -> Vec<Applied<'t>> {
        let mut out = vec![];
        for rule in crate::rules::rules().filter(|r| kinds.contains(&r.kind)) {
            if rule.of_instruction {
                let of = |i| Applied { rule, instruction: Some(i) };
                out.extend(target.instructions.iter().map(of));
            } else {
                out.push(Applied { rule, instruction: None });
            }
        }
        out
    }

    /// Its name, with that of the instruction.
    pub fn name(&self) -> String {
        self.instruction.map_or(self.rule.name.to_string(), |i| format!("{}:{}", self.rule.name, i.name))
    }

    /// The right side for what its left side was found to be: the heads of its operators, outer first, and its variables.
    pub fn right<'r>(
        &self,
        ops: &'r Ops,
        heads: &'r [Arc<Head>],
        vars: Vec<Facts>,
    ) -> Option<(Right<'r>, Place)>
    where
        't: 'r,
    {
        let count = vars.len();
        let made = (0..count).map(Made::Variable).collect();
        let mut right = Right { ops, heads, instruction: self.instruction, made, facts: vars };
        let root = (self.rule.right)(&mut right)?;
        Some((right, root))
    }
}

/// A left side as it is searched.
#[derive(Clone, Debug, PartialEq)]
pub enum Pattern {
    /// Any term; the same one where the number is the same.
    Variable(usize),
    /// An operator.
    Op(&'static str, Vec<Pattern>),
}

impl Pattern {
    /// Reads `op(x, op(y, z))`; variables are numbered in their order.
    pub fn parse(text: &'static str) -> Pattern {
        let mut names = vec![];
        let (p, rest) = Pattern::read(text, &mut names);
        debug_assert!(rest.is_empty(), "a left side of the table");
        p
    }

    fn read(text: &'static str, names: &mut Vec<&'static str>) -> (Pattern, &'static str) {
        let text = text.trim_start();
        let end = text.find(['(', ')', ',']).unwrap_or(text.len());
        let (name, mut rest) = (text[..end].trim(), &text[end..]);
        let Some(inner) = rest.strip_prefix('(') else {
            let at = names.iter().position(|n| *n == name).unwrap_or(names.len());
            if at == names.len() {
                names.push(name);
            }
            return (Pattern::Variable(at), rest);
        };
        let mut args = vec![];
        rest = inner;
        loop {
            let (arg, after) = Pattern::read(rest, names);
            args.push(arg);
            rest = after.get(1..).unwrap_or("");
            if !after.starts_with(',') {
                return (Pattern::Op(name, args), rest);
            }
        }
    }
}

/// A node of a right side.
#[derive(Clone, Debug)]
pub enum Made {
    /// A variable of the left side.
    Variable(usize),
    /// An operator over nodes before it.
    Op(Arc<Head>, Vec<Place>),
}

/// A node of a right side, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub usize);

/// A right side on the way.
pub struct Right<'r> {
    ops: &'r Ops,
    heads: &'r [Arc<Head>],
    instruction: Option<&'r Instruction>,
    /// Its nodes; the first ones are the variables.
    pub made: Vec<Made>,
    facts: Vec<Facts>,
}

impl Right<'_> {
    /// The term of a node, for these terms of the variables.
    pub fn term(&self, p: Place, vars: &[Rc<Tree>]) -> Rc<Tree> {
        let mut trees: Vec<Rc<Tree>> = vec![];
        for made in &self.made[..=p.0] {
            trees.push(match made {
                Made::Variable(i) => vars[*i].clone(),
                Made::Op(head, args) => {
                    let args = args.iter().map(|p| trees[p.0].clone()).collect();
                    Rc::new(Tree { head: head.clone(), args })
                }
            });
        }
        trees[p.0].clone()
    }

    /// A variable of the left side.
    pub fn var(&self, i: usize) -> Place {
        Place(i)
    }

    /// The attributes of an operator of the left side, outer first.
    pub fn attrs(&self, i: usize) -> &Attrs {
        &self.heads[i].attrs
    }

    /// The name of an operator of the left side.
    pub fn name(&self, i: usize) -> &str {
        &self.heads[i].op
    }

    /// The instruction that the rule is of.
    pub fn instruction(&self) -> Option<&Instruction> {
        self.instruction
    }

    /// What is known of a node.
    pub fn facts(&self, p: Place) -> &Facts {
        &self.facts[p.0]
    }

    /// A node's extents, where they are constants.
    pub fn dims(&self, p: Place) -> Option<Vec<i64>> {
        self.facts(p).dims()
    }

    /// A node's element type.
    pub fn dtype(&self, p: Place) -> DType {
        self.facts(p).dtype()
    }

    /// An operator over nodes; `None` where they do not fit it.
    pub fn op(&mut self, op: &str, args: &[Place], attrs: Attrs) -> Option<Place> {
        let head = Head::new(op, attrs, 0);
        let of: Vec<&Facts> = args.iter().map(|p| &self.facts[p.0]).collect();
        let facts = self.ops.facts(&head, &of)?;
        self.made.push(Made::Op(head, args.to_vec()));
        self.facts.push(facts);
        Some(Place(self.made.len() - 1))
    }

    /// The same operator as one of the left side, over other arguments.
    pub fn same(&mut self, i: usize, args: &[Place]) -> Option<Place> {
        let (op, attrs) = (self.name(i).to_string(), self.attrs(i).clone());
        self.op(&op, args, attrs)
    }

    /// A node in another shape; itself where it has this one.
    pub fn reshape(&mut self, x: Place, shape: &[i64]) -> Option<Place> {
        if self.dims(x)? == shape {
            return Some(x);
        }
        self.op("reshape", &[x], [("shape".into(), Attr::Ints(shape.to_vec()))].into())
    }

    /// A node with its axes in another order; itself where that is theirs, and another shape where none but axes of one
    /// position move: of those there would be as many orders as there are permutations.
    pub fn permute(&mut self, x: Place, axes: &[usize]) -> Option<Place> {
        let dims = self.dims(x)?;
        let moved: Vec<usize> = axes.iter().filter(|d| dims[**d] != 1).copied().collect();
        if moved.is_sorted() {
            return self.reshape(x, &at(&dims, axes));
        }
        self.op("permute", &[x], [("axes".into(), ints(axes))].into())
    }

    /// A node as another element type.
    pub fn cast(&mut self, x: Place, to: DType) -> Option<Place> {
        self.op("cast", &[x], [("to".into(), Attr::Str(to.to_string().into()))].into())
    }

    /// A product along pairs of axes.
    pub fn dot(&mut self, x: Place, y: Place, axes: &Axes) -> Option<Place> {
        self.op("dot", &[x, y], axes.attrs())
    }
}

/// Axes as an attribute.
pub fn ints(axes: &[usize]) -> Attr {
    Attr::Ints(axes.iter().map(|d| *d as i64).collect())
}

/// The axes of a product of two tensors, by argument: those that both have, those that are summed over, and all others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Axes {
    /// Kept in both.
    pub batch: [Vec<usize>; 2],
    /// Summed over.
    pub sum: [Vec<usize>; 2],
    /// In one alone.
    pub free: [Vec<usize>; 2],
}

impl Axes {
    /// Those of a `dot` of tensors with so many axes.
    pub fn of(attrs: &Attrs, ranks: [usize; 2]) -> Option<Axes> {
        let list = |name: &str, i: usize| -> Option<Vec<usize>> {
            let all = lathe_ir::graph::ints_attr(attrs, &format!("{name}_{}", ["x", "y"][i]));
            all.iter().map(|v| usize::try_from(*v).ok().filter(|d| *d < ranks[i])).collect()
        };
        let (mut axes, both) = (Axes::default(), [0, 1]);
        for i in both {
            (axes.batch[i], axes.sum[i]) = (list("batch", i)?, list("sum", i)?);
            let used = [&axes.batch[i][..], &axes.sum[i]].concat();
            axes.free[i] = (0..ranks[i]).filter(|d| !used.contains(d)).collect();
        }
        Some(axes)
    }

    /// As attributes of a `dot`.
    pub fn attrs(&self) -> Attrs {
        [
            ("batch_x".into(), ints(&self.batch[0])),
            ("batch_y".into(), ints(&self.batch[1])),
            ("sum_x".into(), ints(&self.sum[0])),
            ("sum_y".into(), ints(&self.sum[1])),
        ]
        .into()
    }

    /// Axes that lie in the order batch, rows, steps of the first argument and batch, steps, columns of the second: so many.
    pub fn ordered(batch: usize, rows: usize, steps: usize, columns: usize) -> Axes {
        let run = |from: usize, n: usize| (from..from + n).collect::<Vec<_>>();
        Axes {
            batch: [run(0, batch), run(0, batch)],
            sum: [run(batch + rows, steps), run(batch, steps)],
            free: [run(batch, rows), run(batch + steps, columns)],
        }
    }

    /// Whether they lie in that order.
    pub fn is_ordered(&self) -> bool {
        *self == Axes::ordered(self.batch[0].len(), self.free[0].len(), self.sum[0].len(), self.free[1].len())
    }
}

/// Extents at some axes.
pub fn at(dims: &[i64], axes: &[usize]) -> Vec<i64> {
    axes.iter().map(|d| dims[*d]).collect()
}
