//! The tensor IR: one kernel as loops over scalar statements.
//!
//! A [`Kernel`] has symbolic dimensions, parameters (each one allocation, seen through one or more [`Buffer`] views), and
//! a body of [`Stmt`]. Loops and blocks have names; schedule steps refer to nothing else. Spatial loops have independent
//! iterations; reduce loops carry accumulators only. Loops at the level [`PROCESS`] are concurrent processes, and buffers in
//! the memory [`CHANNEL`] the bounded first-in-first-out channels between them.

mod apart;
mod check;
mod expr;
mod inside;
mod interpret;
mod network;
mod parse;
mod print;
mod reducer;
mod rewrite;
mod watch;

pub use apart::apart;
pub use check::{check, expr_type};
pub use expr::{Binary, Expr, Node, Opaque, Unary};
pub use inside::inside;
pub use interpret::{Memory, interpret, interpret_watched};
pub use network::{CHANNEL, End, PROCESS, Process, is_network, network, popped, processes};
pub use parse::parse;
pub(crate) use parse::parse_expr;
pub use reducer::{Law, REDUCERS, Reducer};
pub use rewrite::{
    find_block, find_loop, for_each, loop_bounds, map_exprs, map_stmts, rename_vars, replace_loop,
};
pub use watch::Seen;

use crate::{DType, Int, Layout, Name};
use std::sync::Arc;

/// How the iterations of a loop relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Iter {
    /// Independent of each other.
    Spatial,
    /// Related only through accumulators of a [`Reducer`].
    Reduce,
    /// Each iteration may read what the previous one wrote, in order.
    Scan,
    /// Ordered, with no promise.
    Sequential,
}

impl Iter {
    /// All, with names.
    pub const ALL: [(Iter, &'static str); 4] = [
        (Iter::Spatial, "spatial"),
        (Iter::Reduce, "reduce"),
        (Iter::Scan, "scan"),
        (Iter::Sequential, "sequential"),
    ];
}

/// The level of a loop that runs one iteration after the other.
pub const SERIAL: &str = "serial";
/// The level of a loop that is written out.
pub const UNROLLED: &str = "unrolled";
/// The level of a loop whose iterations go to the machine's cores.
pub const CORE: &str = "core";
/// The level of a loop that is the whole body of one whose iterations go to the cores: it runs one iteration after the other, each of
/// them for all that a core has of the loop around. Where it stands elsewhere it is as [`SERIAL`].
pub const SWEEP: &str = "sweep";
/// The level of a loop whose iterations go to the lanes of a vector.
pub const LANE: &str = "lane";

/// The memory of a buffer kept in named registers: every index must be constant after unrolling.
pub const REGISTER: &str = "register";
/// The memory of scratch space private to a call.
pub const WORKSPACE: &str = "workspace";
/// The memory of parameters.
pub const HOST: &str = "host";

/// What a producer promises of a buffer's content; checked at the kernel's door.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Fact {
    /// Every element is in `[lo, hi)`.
    Range(Int, Int),
    /// Elements never decrease.
    Monotone,
    /// No two elements are equal.
    Injective,
    /// Elements ascend strictly inside each segment whose boundaries this buffer of offsets holds.
    Ascending(Name),
    /// Storage along a dimension goes on to a multiple of this, and what is there is never looked at by a user.
    Padded(usize, i64),
}

/// A view of an allocation as an array of one element type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Buffer {
    /// Unique name in the kernel.
    pub name: Name,
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first; below 0 there is no element, as at 0.
    pub shape: Vec<Int>,
    /// Where elements lie.
    pub layout: Layout,
    /// The memory it is in, a name of the machine's description.
    pub memory: Name,
    /// Promises about the content.
    pub facts: Vec<Fact>,
}

impl Buffer {
    /// A dense row-major buffer.
    pub fn dense(name: &str, dtype: DType, shape: &[Int], memory: &str) -> Buffer {
        Buffer {
            name: name.into(),
            dtype,
            shape: shape.to_vec(),
            layout: Layout::dense(dtype, shape),
            memory: memory.into(),
            facts: vec![],
        }
    }

    /// With a promise.
    pub fn with(mut self, fact: Fact) -> Buffer {
        self.facts.push(fact);
        self
    }

    /// Number of elements a dimension is padded to a multiple of (1 when not padded).
    pub fn padding(&self, dim: usize) -> i64 {
        self.facts
            .iter()
            .filter_map(|f| match f {
                Fact::Padded(d, m) if *d == dim => Some(*m),
                _ => None,
            })
            .max()
            .unwrap_or(1)
    }

    /// Whether a dimension is padded to a multiple that neither divides this one nor is divided by it: storage goes on to one of them.
    pub fn pads_otherwise(&self, dim: usize, multiple: i64) -> bool {
        let other =
            |f: &Fact| matches!(f, Fact::Padded(d, m) if *d == dim && m % multiple != 0 && multiple % m != 0);
        self.facts.iter().any(other)
    }
}

/// How a kernel uses a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Only read.
    In,
    /// Only written.
    Out,
    /// Read and written in place (linear state).
    InOut,
}

/// One allocation passed by the caller, with its views.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Param {
    /// Unique name in the kernel.
    pub name: Name,
    /// Read, written or both.
    pub access: Access,
    /// Its views; one with the parameter's own name when it is a plain array. Those of what is written share no bit.
    pub views: Vec<Buffer>,
    /// Size in bits that the caller guarantees, before padding.
    pub bits: Int,
}

/// An indirect axis: ragged batches, page tables, expert buckets and sparse rows all are one. Under each position of its
/// parents it has `length` positions, each of which stands for coordinate `at` of something else (a row of storage, a
/// column of a matrix). Both are expressions over the parents, the axis's own name as the position, and index buffers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Axis {
    /// Its name, and that of a position on it in `at`.
    pub name: Name,
    /// Names of the positions that select the segment.
    pub parents: Vec<Name>,
    /// What `length` never exceeds.
    pub extent: Int,
    /// Positions of the segment.
    pub length: Expr,
    /// The coordinate that a position stands for.
    pub at: Expr,
}

impl Axis {
    fn bind(&self, e: &Expr, parents: &[Expr], position: Option<&Expr>) -> Expr {
        assert_eq!(parents.len(), self.parents.len(), "one position for each parent of '{}'", self.name);
        e.rewrite(&|e| match &**e {
            Node::Var(n) if *n == self.name => position.cloned(),
            Node::Var(n) => self.parents.iter().position(|p| p == n).map(|i| parents[i].clone()),
            _ => None,
        })
    }

    /// The coordinate of a position.
    pub fn coordinate(&self, parents: &[Expr], position: &Expr) -> Expr {
        self.bind(&self.at, parents, Some(position))
    }

    /// A loop over the segment.
    pub fn over(&self, var: &str, parents: &[Expr], iter: Iter, body: Vec<Stmt>) -> Stmt {
        Stmt::for_(var, self.bind(&self.length, parents, None), iter, body)
    }
}

/// A loop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct For {
    /// Variable, unique in the kernel; the loop's handle.
    pub var: Name,
    /// Number of iterations; below 0 there are none, as at 0.
    pub extent: Expr,
    /// Relation of the iterations.
    pub iter: Iter,
    /// Who runs them: [`SERIAL`], [`UNROLLED`], or a parallel level of the machine.
    pub level: Name,
    /// What each does.
    pub body: Vec<Stmt>,
}

/// A block: writes one tuple of elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    /// Unique name; the block's handle.
    pub name: Name,
    /// Elements written.
    pub targets: Vec<(Name, Vec<Expr>)>,
    /// Values, one a target.
    pub values: Vec<Expr>,
    /// How values combine with what is there; `None` overwrites.
    pub reducer: Option<&'static Reducer>,
}

/// A statement; clones share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stmt {
    /// A loop.
    For(Arc<For>),
    /// A block.
    Store(Arc<Store>),
    /// A buffer that lives until the end of the enclosing body.
    Alloc(Arc<Buffer>),
    /// Runs the body when the condition holds.
    If(Expr, Arc<Vec<Stmt>>),
    /// The body is what one machine instruction does; the name is its row.
    Intrinsic(Name, Arc<Vec<Stmt>>),
}

/// A tensor program.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Its name.
    pub name: Name,
    /// Dimensions, bound by the caller.
    pub dims: Vec<Name>,
    /// Indirect axes its loops run over.
    pub axes: Vec<Axis>,
    /// Allocations passed by the caller.
    pub params: Vec<Param>,
    /// What it does.
    pub body: Vec<Stmt>,
}

impl Kernel {
    /// All views of parameters.
    pub fn views(&self) -> impl Iterator<Item = &Buffer> {
        self.params.iter().flat_map(|p| &p.views)
    }

    /// A buffer by name: a view of a parameter or one allocated inside.
    pub fn buffer(&self, name: &str) -> Option<Buffer> {
        if let Some(b) = self.views().find(|b| &*b.name == name) {
            return Some(b.clone());
        }
        let mut found = None;
        for_each(&self.body, &mut |s| {
            if let Stmt::Alloc(b) = s
                && &*b.name == name
            {
                found = Some((**b).clone());
            }
        });
        found
    }
}

impl Stmt {
    /// A loop.
    pub fn for_(var: &str, extent: Expr, iter: Iter, body: Vec<Stmt>) -> Stmt {
        Stmt::For(Arc::new(For { var: var.into(), extent, iter, level: SERIAL.into(), body }))
    }

    /// A block that overwrites one element.
    pub fn store(name: &str, buffer: &str, index: &[Expr], value: Expr) -> Stmt {
        Stmt::Store(Arc::new(Store {
            name: name.into(),
            targets: vec![(buffer.into(), index.to_vec())],
            values: vec![value],
            reducer: None,
        }))
    }

    /// A block that combines into one element.
    pub fn reduce(name: &str, buffer: &str, index: &[Expr], reducer: &str, value: Expr) -> Stmt {
        Stmt::Store(Arc::new(Store {
            name: name.into(),
            targets: vec![(buffer.into(), index.to_vec())],
            values: vec![value],
            reducer: Some(Reducer::named(reducer).expect("a reducer of the table")),
        }))
    }
}
