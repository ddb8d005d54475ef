//! From a scheduled kernel to C: statements, loops, temporaries. Expressions are in `scalar` and `vector`.

use crate::dialect::{Compiler, Dialect, Row};
use crate::registers::{Kind, promotable};
use lathe_diagnostic::{Diagnose, Diagnostic, Fault};
use lathe_ir::tensor::{
    Binary, Buffer, CORE, Expr, For, Kernel, LANE, Node, Opaque, REGISTER, SWEEP, Stmt, Store, UNROLLED,
    expr_type, for_each, is_network, loop_bounds, rename_vars,
};
use lathe_ir::{Bounds, DType, Int, Name};
use lathe_schedule::{PAST_CACHES, is_prefetch};
use std::collections::{HashMap, HashSet};
use std::fmt::Write;

/// Why a kernel cannot be written in a dialect.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{kernel}: {message}")]
pub struct CodegenError {
    /// The kernel.
    pub kernel: String,
    /// What has no form in C.
    pub message: String,
}

impl Diagnose for CodegenError {
    fn diagnostic(&self) -> Diagnostic {
        Diagnostic::new("codegen", Fault::Bug, self.message.clone()).at(self.kernel.clone())
    }
}

/// A kernel in C.
#[derive(Clone, Debug)]
pub struct Emitted {
    /// The function's text.
    pub source: String,
    /// Iterations of its loop over cores, in the kernel's dimensions, 0 at least; 1 when there is none.
    pub grid: Int,
    /// Scratch bytes each thread must provide, in the kernel's dimensions.
    pub workspace_bytes: Int,
}

/// Elements of the widest vector type.
const WIDEST: i64 = 16;

/// Iterations of the widest lane loop: several vectors side by side.
const MOST_LANES: i64 = 128;

/// Largest temporary on the stack, bytes.
const STACK_LIMIT: i64 = 64 << 10;

/// What every translation unit begins with; `context` declares `struct lathe_ctx`.
pub fn prelude(dialect: &Dialect, context: &str) -> String {
    if let Some(form) = dialect.form {
        return form.prelude();
    }
    let mut out = format!("{context}\ntypedef long long i64;\n");
    let scalars = [
        ("f32", "float"),
        ("i32", "int"),
        ("u64", "unsigned long long"),
        ("u32", "unsigned"),
        ("i16", "short"),
        ("u16", "unsigned short"),
        ("i8", "signed char"),
        ("u8", "unsigned char"),
        ("f64", "double"),
    ];
    for (name, c) in scalars {
        let _ = writeln!(out, "typedef {c} {name};");
    }
    for (name, bytes) in [
        ("f32", 4),
        ("i32", 4),
        ("u32", 4),
        ("i16", 2),
        ("u16", 2),
        ("i8", 1),
        ("u8", 1),
        ("f64", 8),
        ("i64", 8),
        ("u64", 8),
    ] {
        let _ = writeln!(out, "typedef {name} m_{name} __attribute__((may_alias, aligned(1)));");
        let mut n = if dialect.lanes > 1 { WIDEST } else { 1 };
        while n > 1 {
            let size = n * bytes;
            let _ = writeln!(out, "typedef {name} {name}x{n} __attribute__((vector_size({size})));");
            let _ = writeln!(
                out,
                "typedef {name} m_{name}x{n} __attribute__((vector_size({size}), may_alias, aligned(1)));"
            );
            n /= 2;
        }
        if dialect.lanes > 1 {
            let (ty, all) =
                (format!("{name}x{}", dialect.lanes), vec!["x"; dialect.lanes as usize].join(", "));
            let _ = writeln!(out, "#define splat_{ty}(x) ({ty}){{{all}}}");
        }
    }
    out + dialect.prelude
}

/// Whether the iterations of the loop `var` have the same repeated words in their instructions.
fn shares_words(body: &[Stmt], var: &str) -> bool {
    body.iter().any(|s| match s {
        Stmt::Intrinsic(_, b) => {
            let [Stmt::For(l)] = b.as_slice() else { return false };
            let mut shared = false;
            for_each(b, &mut |s| {
                if let Stmt::Store(s) = s
                    && let Node::Binary(_, x, y) = &*s.values[0]
                {
                    shared |= [x, y].iter().any(|f| !f.mentions(&l.var) && !f.mentions(var));
                }
            });
            shared
        }
        Stmt::For(l) => shares_words(&l.body, var),
        Stmt::If(_, b) => shares_words(b, var),
        Stmt::Store(_) | Stmt::Alloc(_) => false,
    })
}

/// The iterations of a lane loop from `first` on.
fn part(l: &For, first: i64) -> Vec<Stmt> {
    if first == 0 {
        return l.body.clone();
    }
    rename_vars(&l.body, &HashMap::from([(&*l.var, Expr::var(&l.var) + first)]))
}

/// Where a buffer is.
#[derive(Clone)]
pub(crate) enum Place {
    /// Bytes behind a C pointer of this name.
    Pointer(String),
    /// Named variables.
    Registers(Kind),
}

/// The lane loop being written.
#[derive(Clone)]
pub(crate) struct LaneLoop {
    pub var: Name,
    /// C text of the number of lanes in use, when it is not all of them.
    pub partial: Option<String>,
}

pub(crate) struct Emitter<'k> {
    pub kernel: &'k Kernel,
    pub dialect: &'static Dialect,
    pub compiler: Compiler,
    pub out: String,
    pub depth: usize,
    pub temps: usize,
    pub bounds: Bounds,
    pub buffers: HashMap<Name, Buffer>,
    pub places: HashMap<Name, Place>,
    pub lane: Option<LaneLoop>,
    /// C text of expressions already computed in this scope; `true` marks those no store can change.
    pub memo: HashMap<(Expr, bool), (String, bool)>,
    pub constant_buffers: Vec<Name>,
    /// Vectors from memory that were used once so far, and where in the text the line of their definition ends.
    pub loads: HashMap<String, usize>,
    /// Vectors of temporaries in registers that the loop being written touches: others may wait in memory meanwhile.
    pub vectors: i64,
    /// Whether instructions of the loops being written out share their repeated words.
    pub words_shared: bool,
    /// How what is being written goes past the caches: the instruction, and what keeps the rest of a line meanwhile.
    pub past: Option<(&'static Row, String)>,
    /// What keeps rests of lines: they are written at the kernel's end.
    pub pasts: Vec<String>,
    registers: HashMap<Name, Kind>,
    workspace: Int,
}

/// A C identifier.
pub(crate) fn ident(n: &str) -> String {
    let c = n.replace('.', "_");
    // Parameters, the ends of loops and elements in registers have names of these beginnings.
    match ["b_", "n_", "r_"].iter().any(|begins| c.starts_with(begins)) {
        true => format!("v_{c}"),
        false => c,
    }
}

/// The C name of an element type as a value.
pub(crate) fn c_type(t: DType) -> &'static str {
    match t {
        DType::F32 => "f32",
        DType::F64 => "f64",
        DType::F16 | DType::BF16 => "u16",
        DType::Int { signed, bits } => match (signed, bits) {
            (true, 33..) => "i64",
            (false, 33..) => "u64",
            (true, 17..) | (_, 1) => "i32",
            (false, 17..) => "u32",
            (true, 9..) => "i16",
            (false, 9..) => "u16",
            (true, _) => "i8",
            (false, _) => "u8",
        },
        _ => "f32",
    }
}

/// Writes a kernel as the function `symbol` of a dialect.
pub fn emit(kernel: &Kernel, symbol: &str, dialect: &'static Dialect) -> Result<Emitted, CodegenError> {
    let mut buffers: HashMap<Name, Buffer> = kernel.views().map(|b| (b.name.clone(), b.clone())).collect();
    let mut grid = Some(Int::from(1));
    let bounds = loop_bounds(kernel);
    for_each(&kernel.body, &mut |s| match s {
        Stmt::Alloc(b) => {
            buffers.insert(b.name.clone(), (**b).clone());
        }
        Stmt::For(l) if &*l.level == CORE => {
            grid = Opaque::default().int(&l.extent, &bounds).map(|n| n.max_with(&0.into(), &bounds));
        }
        _ => {}
    });
    let registers =
        if dialect.lanes > 1 { promotable(kernel, REGISTER, dialect.lanes) } else { HashMap::new() };
    let mut e = Emitter {
        kernel,
        dialect,
        compiler: Compiler::Gcc,
        out: String::new(),
        depth: 1,
        temps: 0,
        bounds,
        buffers,
        places: HashMap::new(),
        lane: None,
        memo: HashMap::new(),
        constant_buffers: vec![],
        loads: HashMap::new(),
        vectors: 0,
        words_shared: false,
        past: None,
        pasts: vec![],
        registers,
        workspace: 0.into(),
    };
    if let Some(form) = dialect.form {
        form.function(&mut e, symbol)?;
        return Ok(Emitted { source: e.out, grid: 1.into(), workspace_bytes: 0.into() });
    }
    if is_network(kernel) {
        return e.fail(format!("the dialect '{}' has no processes and channels", dialect.name));
    }
    if let Some(b) = e.buffers.values().find(|b| matches!(b.dtype, DType::Fixed { .. })) {
        return e
            .fail(format!("the dialect '{}' has no fixed point, the type of '{}'", dialect.name, b.name));
    }
    e.written()?;
    let Some(grid) = grid.filter(|n| e.is_known(n)) else {
        return e.fail("how many iterations cores share is not known before the kernel runs");
    };
    let _ = writeln!(
        e.out,
        "int {symbol}(const struct lathe_ctx *ctx, unsigned char *const *buffers, const i64 *dims, \
         unsigned char *workspace, i64 begin, i64 end) {{"
    );
    for (i, d) in kernel.dims.iter().enumerate() {
        e.line(&format!("const i64 {} = dims[{i}];", ident(d)));
    }
    for (i, p) in kernel.params.iter().enumerate() {
        let name = format!("b_{}", ident(&p.name));
        let constant = if p.access == lathe_ir::tensor::Access::In { "const " } else { "" };
        e.line(&format!("{constant}unsigned char *const restrict {name} = buffers[{i}];"));
        for v in &p.views {
            e.places.insert(v.name.clone(), Place::Pointer(name.clone()));
            if !constant.is_empty() {
                e.constant_buffers.push(v.name.clone());
            }
        }
    }
    let head = e.out.len();
    if grid.as_const() == Some(1) {
        e.line("if (begin > 0 || end < 1) return 0;");
    }
    e.body(&kernel.body)?;
    if let Some(row) = dialect.row("fence") {
        for past in std::mem::take(&mut e.pasts) {
            e.out.insert_str(head, &format!("  struct past {past} = {{0}};\n"));
            e.line(&format!("{};", row.spell(e.compiler, &[&past])));
        }
    }
    e.line("return 0;");
    e.out.push_str("}\n");
    Ok(Emitted { source: e.out, grid, workspace_bytes: e.workspace })
}

/// Whether statements declare temporaries where they are written, in no block of C of their own.
fn declares(body: &[Stmt]) -> bool {
    body.iter().any(|s| match s {
        Stmt::Alloc(_) => true,
        Stmt::For(l) => matches!(&*l.level, LANE | UNROLLED) && declares(&l.body),
        Stmt::Intrinsic(_, b) => declares(b),
        _ => false,
    })
}

/// Whether C has this type in memory.
fn is_stored(t: DType) -> bool {
    match t {
        DType::Int { bits, .. } => bits < 8 || [8, 16, 32, 64].contains(&bits),
        t => [DType::F16, DType::BF16, DType::F32, DType::F64].contains(&t),
    }
}

/// Whether a name is one that the emitter makes, or C's own.
fn is_reserved(c: &str) -> bool {
    let temporary =
        c.strip_prefix('t').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let own = [
        "begin",
        "buffers",
        "ctx",
        "dims",
        "end",
        "workspace",
        "i64",
        "f32",
        "i32",
        "u64",
        "u32",
        "i16",
        "u16",
        "i8",
        "u8",
        "f64",
    ];
    let words = [
        "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum",
        "extern", "float", "for", "goto", "if", "inline", "int", "long", "register", "restrict", "return",
        "short", "signed", "sizeof", "static", "struct", "switch", "typedef", "union", "unsigned", "void",
        "volatile", "while",
    ];
    temporary || own.contains(&c) || words.contains(&c)
}

impl Emitter<'_> {
    /// Refuses what the kernel ABI and C have no form for: a loop over cores that is not the outermost one, elements of unknown
    /// types, and names that are C's or one in C.
    fn written(&self) -> Result<(), CodegenError> {
        let mut names: HashMap<String, Name> = HashMap::new();
        let mut all: Vec<Name> = self.kernel.dims.clone();
        for_each(&self.kernel.body, &mut |s| {
            all.extend(match s {
                Stmt::For(l) => Some(l.var.clone()),
                Stmt::Alloc(b) => Some(b.name.clone()),
                _ => None,
            });
        });
        for n in all {
            let c = ident(&n);
            if is_reserved(&c) {
                return self.fail(format!("'{n}' needs another name, as C has one of its own in '{c}'"));
            }
            if let Some(other) = names.insert(c, n.clone()).filter(|o| *o != n) {
                return self
                    .fail(format!("'{other}' and '{n}' are one name in C: one of them needs another"));
            }
        }
        if let Some(b) = self.buffers.values().find(|b| !is_stored(b.dtype)) {
            return self.fail(format!("C has no {} in memory, the type of '{}'", b.dtype, b.name));
        }
        let (mut cores, mut first) = (0, false);
        for_each(&self.kernel.body, &mut |s| {
            cores += usize::from(matches!(s, Stmt::For(l) if &*l.level == CORE))
        });
        let outer: Vec<&Stmt> = self.kernel.body.iter().filter(|s| !matches!(s, Stmt::Alloc(_))).collect();
        if let [Stmt::For(l)] = outer.as_slice() {
            first = &*l.level == CORE;
        }
        match cores > usize::from(first) {
            true => self.fail("a loop over cores is not the one outermost loop"),
            false => Ok(()),
        }
    }

    pub fn fail<T>(&self, message: impl Into<String>) -> Result<T, CodegenError> {
        Err(CodegenError { kernel: self.kernel.name.to_string(), message: message.into() })
    }

    pub fn line(&mut self, text: &str) {
        let pad = "  ".repeat(self.depth);
        let _ = writeln!(self.out, "{pad}{text}");
    }

    /// Whether the block in these statements is the only one that writes its parameter, and nothing reads it: then nobody sees when
    /// during the kernel elements reach the memory.
    fn alone(&self, body: &[Stmt]) -> bool {
        let mut stores = vec![];
        for_each(body, &mut |s| {
            if let Stmt::Store(b) = s {
                stores.extend(b.targets.iter().map(|(n, _)| n.clone()));
            }
        });
        let [name] = stores.as_slice() else { return false };
        let (mut writers, mut read) = (0, false);
        let mut look = |e: &Expr| {
            e.visit(&mut |e| read |= matches!(&**e, Node::Load(n, _) if n == name));
        };
        for_each(&self.kernel.body, &mut |s| match s {
            Stmt::For(l) => look(&l.extent),
            Stmt::If(c, _) => look(c),
            Stmt::Store(b) => {
                b.values.iter().chain(b.targets.iter().flat_map(|(_, i)| i)).for_each(&mut look);
                let own = b.targets.iter().filter(|(n, _)| n == name).count();
                // What accumulates reads what it writes.
                writers += if b.reducer.is_some() { 2 * own } else { own };
            }
            Stmt::Alloc(_) | Stmt::Intrinsic(..) => {}
        });
        writers == 1 && !read
    }

    pub fn temp(&mut self) -> String {
        self.temps += 1;
        format!("t{}", self.temps)
    }

    pub fn dtype(&self, e: &Expr) -> Result<DType, CodegenError> {
        match expr_type(e, &|n| self.buffers.get(n).map(|b| b.dtype)) {
            Some(t) => Ok(t),
            None => self.fail(format!("ill-typed {e}")),
        }
    }

    fn scope(
        &mut self,
        f: &mut dyn FnMut(&mut Self) -> Result<(), CodegenError>,
    ) -> Result<(), CodegenError> {
        let memo = self.memo.clone();
        self.memo.retain(|_, (_, constant)| *constant);
        self.depth += 1;
        f(self)?;
        self.depth -= 1;
        self.memo = memo;
        // What was read before is read again: the scope may have written it.
        self.memo.retain(|_, (_, constant)| *constant);
        self.line("}");
        Ok(())
    }

    pub fn body(&mut self, body: &[Stmt]) -> Result<(), CodegenError> {
        let vectors = self.vectors;
        let mut left = body.iter().peekable();
        while let Some(s) = left.next() {
            match s {
                Stmt::Alloc(b) => self.alloc(b)?,
                Stmt::For(l) => self.for_(l)?,
                Stmt::If(c, b) => {
                    self.same_in_lanes(c)?;
                    let c = self.scalar(c)?;
                    self.line(&format!("if ({c}) {{"));
                    self.scope(&mut |e| e.body(b))?;
                }
                Stmt::Intrinsic(n, b) if is_prefetch(n) => self.prefetch(n, b)?,
                Stmt::Intrinsic(n, b) if &**n == PAST_CACHES => {
                    self.past = self.dialect.row(n).filter(|_| self.alone(b)).map(|row| (row, self.temp()));
                    self.body(b)?;
                    self.past = None;
                }
                Stmt::Intrinsic(n, b) => match self.dialect.row(n) {
                    Some(row) => self.intrinsic(row, b)?,
                    None => self.body(b)?,
                },
                Stmt::Store(b) => {
                    match (self.lane.is_some(), left.peek()) {
                        (true, Some(Stmt::Store(next))) if self.store_pairs(b, next)? => {
                            left.next();
                        }
                        (true, _) => self.vector_store(b)?,
                        (false, _) => self.scalar_store(b)?,
                    }
                    // What depends on memory that a block may have written must be read again.
                    self.memo.retain(|_, (_, constant)| *constant);
                }
            }
        }
        self.vectors = vectors;
        Ok(())
    }

    /// Refuses what decides what is run, where lanes would decide otherwise.
    fn same_in_lanes(&self, e: &Expr) -> Result<(), CodegenError> {
        match &self.lane {
            Some(l) if e.mentions(&l.var) => self.fail(format!("lanes of '{}' would run apart: {e}", l.var)),
            _ => Ok(()),
        }
    }

    fn for_(&mut self, l: &For) -> Result<(), CodegenError> {
        let var = ident(&l.var);
        self.same_in_lanes(&l.extent)?;
        let extent = l.extent.simplify_index(&self.bounds);
        match &*l.level {
            UNROLLED if self.dialect.lanes > 1 => {
                let range = Opaque::default().int(&extent, &self.bounds).map(|e| self.bounds.range(&e));
                let Some((least, most)) = range.and_then(|r| Some((r.lo.unwrap_or(0), r.hi?))) else {
                    return self.fail("an unrolled loop of unbounded extent");
                };
                if least == most && (self.word(l, most)? || self.squares(l, most)? || self.tile(l)?) {
                    return Ok(());
                }
                let used = if least < most { Some(self.scalar(&extent)?) } else { None };
                let allocates = declares(&l.body);
                let around = self.words_shared;
                self.words_shared |= most > 1 && shares_words(&l.body, &l.var);
                for i in 0..most {
                    let body = rename_vars(&l.body, &HashMap::from([(&*l.var, Expr::from(i))]));
                    let guard = used.as_ref().filter(|_| i >= least);
                    if allocates || guard.is_some() {
                        self.line(&guard.map_or("{".into(), |n| format!("if ({i} < {n}) {{")));
                        self.scope(&mut |e| e.body(&body))?;
                    } else {
                        self.body(&body)?;
                    }
                }
                self.words_shared = around;
                Ok(())
            }
            LANE if self.dialect.lanes > 1 => self.lanes(l, &extent),
            CORE => self.core(l, &l.body),
            _ => {
                let n = self.scalar(&extent)?;
                self.line(&format!("for (i64 {var} = 0, n_{var} = {n}; {var} < n_{var}; {var}++) {{"));
                if let Some(head) = self.dialect.form.and_then(|f| f.head_of_loop(l)) {
                    self.out.push_str(head);
                }
                let inside = self.vectors_of(&l.body);
                let vectors = std::mem::replace(&mut self.vectors, inside);
                let shared = std::mem::take(&mut self.words_shared);
                self.scope(&mut |e| e.body(&l.body))?;
                (self.vectors, self.words_shared) = (vectors, shared);
                Ok(())
            }
        }
    }

    /// A core's part of a loop around these statements, inside the loops that sweep through it: iterations do not meet, so that they may
    /// run side by side.
    fn core(&mut self, l: &For, body: &[Stmt]) -> Result<(), CodegenError> {
        match body {
            [Stmt::For(sweep)] if &*sweep.level == SWEEP && !sweep.extent.mentions(&l.var) => {
                let (var, extent) = (ident(&sweep.var), sweep.extent.simplify_index(&self.bounds));
                let n = self.scalar(&extent)?;
                self.line(&format!("for (i64 {var} = 0, n_{var} = {n}; {var} < n_{var}; {var}++) {{"));
                self.scope(&mut |e| e.core(l, &sweep.body))
            }
            _ => {
                let var = ident(&l.var);
                self.line(&format!("for (i64 {var} = begin; {var} < end; {var}++) {{"));
                self.scope(&mut |e| e.body(body))
            }
        }
    }

    /// Vectors of the temporaries in registers that statements touch.
    fn vectors_of(&self, body: &[Stmt]) -> i64 {
        let mut found: HashSet<Name> = HashSet::new();
        for_each(body, &mut |s| {
            if let Stmt::Store(b) = s {
                found.extend(b.targets.iter().map(|(n, _)| n.clone()));
                let mut note = |e: &Expr| {
                    if let Node::Load(n, _) = &**e {
                        found.insert(n.clone());
                    }
                };
                b.values.iter().for_each(|v| v.visit(&mut note));
            }
        });
        let in_vectors = |n: &&Name| matches!(self.places.get(*n), Some(Place::Registers(Kind::Vectors)));
        let count = |n: &Name| {
            let shape = self.buffers.get(n).map_or(&[][..], |b| &b.shape);
            shape.iter().map(|d| d.as_const().unwrap_or(1)).product::<i64>() / self.dialect.lanes
        };
        found.iter().filter(in_vectors).map(count).sum()
    }

    /// A loop over lanes: as many vectors side by side as its extent needs.
    fn lanes(&mut self, l: &For, extent: &Expr) -> Result<(), CodegenError> {
        if self.lane.is_some() {
            return self.fail(format!("'{}' is a lane loop inside another one", l.var));
        }
        let lanes = self.dialect.lanes;
        let whole = extent.as_int().filter(|n| n % lanes == 0);
        let most = Opaque::default().int(extent, &self.bounds).and_then(|e| self.bounds.range(&e).hi);
        let Some(most) = most.filter(|h| *h <= MOST_LANES) else {
            return self.fail(format!("the lane loop '{}' is wider than its vectors", l.var));
        };
        let least = Opaque::default().int(extent, &self.bounds).and_then(|e| self.bounds.range(&e).lo);
        // Fewer lanes than none are none.
        let used = match (whole, least.is_some_and(|n| n >= 0)) {
            (Some(_), _) => None,
            (None, true) => Some(self.scalar(extent)?),
            (None, false) => Some(self.scalar(&extent.bin(Binary::Max, &0.into()))?),
        };
        let allocates = most > lanes && declares(&l.body);
        let runs_on = used.is_some() && most > lanes && self.runs_on(l, most);
        // In each vector the variable counts its lanes alone.
        let all = self.bounds.of(&l.var);
        self.bounds.set(&l.var, 0, Some(lanes - 1));
        for first in (0..most).step_by(lanes as usize) {
            let body = part(l, first);
            let partial =
                used.as_ref().map(|n| format!("({n} - {first} < {lanes} ? {n} - {first} : {lanes})"));
            self.lane = Some(LaneLoop { var: l.var.clone(), partial });
            match &used {
                Some(n) if first > 0 && !runs_on => {
                    self.line(&format!("if ({n} > {first}) {{"));
                    self.scope(&mut |e| e.body(&body))?;
                }
                _ if allocates => {
                    self.line("{");
                    self.scope(&mut |e| e.body(&body))?;
                }
                _ => self.body(&body)?,
            }
            self.lane = None;
        }
        self.bounds.set(&l.var, all.lo.unwrap_or(0), all.hi);
        Ok(())
    }

    fn alloc(&mut self, b: &Buffer) -> Result<(), CodegenError> {
        if let Some(form) = self.dialect.form {
            return form.declare(self, b);
        }
        let name = ident(&b.name);
        let elements = b.shape.iter().fold(Int::from(1), |p, d| p * d.clone());
        if let Some(kind) = self.registers.get(&b.name).copied() {
            let n = elements.as_const().unwrap_or(1);
            let (count, ty) = match kind {
                Kind::Scalars => (n, c_type(b.dtype).to_string()),
                Kind::Vectors => {
                    (n / self.dialect.lanes, format!("{}x{}", c_type(b.dtype), self.dialect.lanes))
                }
            };
            let names: Vec<String> = (0..count).map(|i| format!("r_{name}_{i}")).collect();
            self.line(&format!("{ty} {};", names.join(", ")));
            self.vectors += if kind == Kind::Vectors { count } else { 0 };
            self.places.insert(b.name.clone(), Place::Registers(kind));
            return Ok(());
        }
        // Below 0 elements there are none, as in the interpreter.
        let bytes = (elements * b.dtype.bits().max(8)).ceil_div(8, &self.bounds);
        let bytes = bytes.max_with(&0.into(), &self.bounds);
        match bytes.as_const() {
            Some(n) if n <= STACK_LIMIT => {
                let size = (n + 63) / 64 * 64;
                self.line(&format!("unsigned char {name}[{size}] __attribute__((aligned(64)));"));
            }
            _ if !self.is_known(&bytes) => {
                return self.fail(format!("the size of '{}' is not known before the kernel runs", b.name));
            }
            _ => {
                let at = self.index_text(&self.workspace.clone())?;
                self.line(&format!("unsigned char *const {name} = workspace + {at};"));
                let bounds = self.bounds.clone();
                self.workspace = self.workspace.clone() + bytes.ceil_div(64, &bounds) * 64;
            }
        }
        self.places.insert(b.name.clone(), Place::Pointer(name));
        Ok(())
    }

    /// Whether a number is one of the kernel's dimensions alone.
    fn is_known(&self, n: &Int) -> bool {
        let mut known = true;
        n.visit_vars(&mut |v| known &= self.kernel.dims.iter().any(|d| &**d == v));
        known
    }

    /// C text of a symbolic integer in the kernel's dimensions.
    pub fn index_text(&mut self, i: &Int) -> Result<String, CodegenError> {
        self.scalar(&Expr::from(i))
    }

    /// The one block inside nested loops, with the loops' variables set to 0.
    pub fn origin(body: &[Stmt]) -> Option<(Store, Vec<Name>)> {
        match body {
            [Stmt::For(l)] => {
                let at0 = rename_vars(&l.body, &HashMap::from([(&*l.var, Expr::from(0))]));
                let (s, mut vars) = Self::origin(&at0)?;
                vars.insert(0, l.var.clone());
                Some((s, vars))
            }
            [Stmt::Store(s)] => Some(((**s).clone(), vec![])),
            _ => None,
        }
    }

    /// Asks for the memory that the body would read into nowhere, once a scope; in lanes, for that of the first one.
    fn prefetch(&mut self, name: &str, body: &[Stmt]) -> Result<(), CodegenError> {
        let read = body.iter().find_map(|s| match s {
            Stmt::Store(s) => Some(s.values[0].clone()),
            _ => None,
        });
        let (Some(read), Some(row)) = (read, self.dialect.row(name)) else { return Ok(()) };
        let read = self.lane.as_ref().map_or(read.clone(), |l| read.substitute(&l.var, &Expr::from(0)));
        let Node::Load(n, index) = &*read else { return self.fail("a prefetch of what is no element") };
        if !matches!(self.places.get(n), Some(Place::Pointer(_))) {
            return Ok(());
        }
        let (p, ..) = self.pointer(n, index)?;
        // Several elements lie in one place.
        let key = (Expr::load("prefetch", &[Expr::var(&p)]), false);
        if self.memo.insert(key, (String::new(), true)).is_none() {
            let call = row.spell(self.compiler, &[&p]);
            self.line(&format!("{call};"));
        }
        Ok(())
    }

    /// What an instruction adds to that is in memory, where others touch it one by one, and not in vectors' registers.
    pub fn in_memory(&self, body: &[Stmt]) -> Option<Name> {
        let mut found = None;
        for_each(body, &mut |s| {
            if let Stmt::Store(b) = s {
                let mut targets = b.targets.iter().map(|(n, _)| n);
                let other =
                    targets.find(|n| !matches!(self.places.get(*n), Some(Place::Registers(Kind::Vectors))));
                found = found.take().or(other.cloned());
            }
        });
        found
    }
}
