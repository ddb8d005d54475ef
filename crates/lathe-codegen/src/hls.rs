//! HLS C++: typed arrays, `ap_fixed` and `ap_int` elements, a function for each process, `hls::stream` for each channel.
//!
//! A process loop of several iterations becomes a template over its variables, so that which channels an instance uses
//! is known to the synthesizer. Calls stand in an order in which each finds its input complete, as simulation in C++ runs
//! them one after the other.

use crate::dialect::Form;
use crate::emit::{CodegenError, Emitter, ident};
use lathe_ir::tensor::{
    Access, Buffer, CHANNEL, Expr, For, Node, PROCESS, Process, Stmt, UNROLLED, Unary, for_each, network,
    processes,
};
use lathe_ir::{DType, Layout, Name};
use std::fmt::Write;

/// What the dialect writes in its own way.
pub(crate) struct Hls;

impl Form for Hls {
    fn prelude(&self) -> String {
        "#include <ap_fixed.h>\n#include <ap_int.h>\n#include <hls_stream.h>\n\
         typedef long long i64;\n\
         template <class To, class From> static To lathe_bits(From v) {\n  \
         To t;\n  t.range() = v.range();\n  return t;\n}\n"
            .into()
    }

    fn type_name(&self, t: DType) -> String {
        match t {
            DType::INDEX => "i64".into(),
            DType::Int { signed: true, bits } => format!("ap_int<{bits}>"),
            DType::Int { signed: false, bits } => format!("ap_uint<{bits}>"),
            DType::Fixed { integer, .. } => format!("ap_fixed<{}, {integer}>", t.bits()),
            DType::F64 => "double".into(),
            DType::Float { .. } => "float".into(),
        }
    }

    fn function(&self, e: &mut Emitter, symbol: &str) -> Result<(), CodegenError> {
        for p in &e.kernel.params {
            let [v] = p.views.as_slice() else { return e.fail(format!("'{}' has several views", p.name)) };
            if v.layout != Layout::dense(v.dtype, &v.shape) {
                return e.fail(format!("'{}' is not stored row by row", p.name));
            }
        }
        if let Some(b) = e.buffers.values().find(|b| !has_type(b.dtype)) {
            return e.fail(format!("'{}' is of the type {}, which HLS has not", b.name, b.dtype));
        }
        let all = match processes(e.kernel) {
            Ok(all) => all,
            Err(error) => return e.fail(error.to_string()),
        };
        let names: Vec<Name> = e.kernel.views().map(|v| v.name.clone()).collect();
        let head = format!("void {symbol}({}) {{", self.arguments(e, &names)?);
        let (mut at, mut functions) = (0, String::new());
        let body = &e.kernel.body;
        if (0..body.len()).any(|i| network(&body[i..]) > 0) {
            e.out.push_str("#pragma HLS dataflow\n");
        }
        while let Some(s) = body.get(at) {
            let run = network(&body[at..]);
            if run == 0 {
                e.body(std::slice::from_ref(s))?;
                at += 1;
                continue;
            }
            let mut calls = vec![];
            for s in &body[at..at + run] {
                if let Stmt::For(l) = s {
                    let (text, arguments) = self.process(e, symbol, l)?;
                    functions.push_str(&text);
                    calls.push(arguments);
                }
            }
            for p in in_order(e, &all, &calls)? {
                let call = calls.iter().find(|c| c.is(p)).expect("only those were put in order");
                let values: Vec<String> = p
                    .vars
                    .iter()
                    .filter(|(n, _)| call.templates.contains(n))
                    .map(|(_, v)| v.to_string())
                    .collect();
                let values =
                    if values.is_empty() { String::new() } else { format!("<{}>", values.join(", ")) };
                e.line(&format!("{}{values}({});", call.function, call.buffers.join(", ")));
            }
            at += run;
        }
        e.out = format!("{functions}{head}\n{}}}\n", e.out);
        Ok(())
    }

    fn declare(&self, e: &mut Emitter, b: &Buffer) -> Result<(), CodegenError> {
        let (name, sizes) = (ident(&b.name), self.sizes(e, b)?);
        if &*b.memory != CHANNEL {
            e.line(&format!("{} {name}{sizes};", self.type_name(b.dtype)));
            return Ok(());
        }
        let depth = b.shape.last().and_then(|d| d.as_const()).unwrap_or(1);
        e.line(&format!("hls::stream<{} > {name}{sizes};", self.type_name(b.dtype)));
        e.out.push_str(&format!("#pragma HLS stream variable={name} depth={depth}\n"));
        Ok(())
    }

    fn head_of_loop(&self, l: &For) -> Option<&'static str> {
        let innermost = !l.body.iter().any(holds_loop);
        match &*l.level {
            UNROLLED => Some("#pragma HLS unroll\n"),
            _ if innermost => Some("#pragma HLS pipeline II=1\n"),
            _ => None,
        }
    }

    fn node(&self, e: &mut Emitter, x: &Expr) -> Result<Option<String>, CodegenError> {
        Ok(match &**x {
            Node::Load(n, index) => {
                let element = self.element(e, n, index)?;
                Some(if is_channel(e, n) { format!("{element}.read()") } else { element })
            }
            Node::Cast(t, _) if !has_type(*t) => return e.fail(format!("HLS has no type {t}")),
            Node::Bitcast(t, v) => {
                if t.is_float() || e.dtype(v)?.is_float() {
                    return e.fail("the bits of floats have no form in this dialect");
                }
                let v = e.scalar(v)?;
                Some(format!("lathe_bits<{} >({v})", self.type_name(*t)))
            }
            Node::Unary(Unary::Abs, v) => {
                let (t, v) = (self.type_name(e.dtype(v)?), e.scalar(v)?);
                Some(format!("({v} < 0 ? ({t})-{v} : {v})"))
            }
            _ => None,
        })
    }

    fn assign(&self, e: &mut Emitter, n: &Name, index: &[Expr], value: &str) -> Result<(), CodegenError> {
        let element = self.element(e, n, index)?;
        e.line(&match is_channel(e, n) {
            true => format!("{element}.write({value});"),
            false => format!("{element} = {value};"),
        });
        Ok(())
    }
}

fn has_type(t: DType) -> bool {
    !t.is_float() || [DType::F32, DType::F64].contains(&t)
}

fn holds_loop(s: &Stmt) -> bool {
    match s {
        Stmt::For(_) => true,
        Stmt::If(_, b) | Stmt::Intrinsic(_, b) => b.iter().any(holds_loop),
        Stmt::Store(_) | Stmt::Alloc(_) => false,
    }
}

fn is_channel(e: &Emitter, n: &Name) -> bool {
    e.buffers.get(n).is_some_and(|b| &*b.memory == CHANNEL)
}

/// How the instances of a process loop are called.
struct Calls {
    loops: Vec<Name>,
    function: String,
    /// The loop variables that are template parameters.
    templates: Vec<Name>,
    buffers: Vec<String>,
}

impl Calls {
    fn is(&self, p: &Process) -> bool {
        p.vars.iter().map(|(n, _)| n).eq(&self.loops)
    }
}

/// The instances, each behind those whose channels it pops from.
fn in_order<'p>(e: &Emitter, all: &'p [Process], calls: &[Calls]) -> Result<Vec<&'p Process>, CodegenError> {
    let mut waiting: Vec<&Process> = all.iter().filter(|p| calls.iter().any(|c| c.is(p))).collect();
    let mut out = vec![];
    while !waiting.is_empty() {
        let fed =
            |p: &Process| !p.pops.iter().any(|c| waiting.iter().any(|w| *w != p && w.pushes.contains(c)));
        let Some(next) = waiting.iter().position(|p| fed(p)) else {
            let label = &waiting[0].label;
            return e.fail(format!("'{label}' is in a circle of processes, which cannot be run one by one"));
        };
        out.push(waiting.remove(next));
    }
    Ok(out)
}

impl Hls {
    /// `[4][8]` of a buffer or an array of channels.
    fn sizes(&self, e: &Emitter, b: &Buffer) -> Result<String, CodegenError> {
        let rank = b.shape.len() - usize::from(&*b.memory == CHANNEL);
        let mut out = String::new();
        for d in &b.shape[..rank] {
            match d.as_const() {
                Some(n) => write!(out, "[{n}]").expect("a string takes all"),
                None => return e.fail(format!("'{}' has the extent {d}, which is not constant", b.name)),
            }
        }
        Ok(out)
    }

    fn element(&self, e: &mut Emitter, n: &Name, index: &[Expr]) -> Result<String, CodegenError> {
        let mut out = ident(n);
        for i in index {
            let i = e.scalar(&i.simplify_index(&e.bounds))?;
            write!(out, "[{i}]").expect("a string takes all");
        }
        Ok(out)
    }

    fn arguments(&self, e: &Emitter, names: &[Name]) -> Result<String, CodegenError> {
        let mut out = vec![];
        for n in names {
            let b = &e.buffers[n];
            let read_only = e.kernel.params.iter().any(|p| p.access == Access::In && p.name == *n);
            let (t, sizes, name) = (self.type_name(b.dtype), self.sizes(e, b)?, ident(n));
            let constant = if read_only { "const " } else { "" };
            out.push(match (&*b.memory == CHANNEL, sizes.is_empty()) {
                (true, true) => format!("hls::stream<{t} > &{name}"),
                (true, false) => format!("hls::stream<{t} > (&{name}){sizes}"),
                (false, true) => format!("{constant}{t} &{name}"),
                (false, false) => format!("{constant}{t} {name}{sizes}"),
            });
        }
        Ok(out.join(", "))
    }

    /// The function of a process loop, and how it is called.
    fn process(&self, e: &mut Emitter, symbol: &str, outer: &For) -> Result<(String, Calls), CodegenError> {
        let (mut leaf, mut loops, mut several) =
            (outer, vec![outer.var.clone()], vec![outer.extent.as_int() != Some(1)]);
        while let [Stmt::For(l)] = leaf.body.as_slice()
            && &*l.level == PROCESS
        {
            leaf = l;
            loops.push(l.var.clone());
            several.push(l.extent.as_int() != Some(1));
        }
        let (mut inner, mut own, mut used, mut vars) = (None, vec![], vec![], vec![]);
        for_each(&leaf.body, &mut |s| {
            let mut reads = |x: &Expr| {
                x.visit(&mut |x| match &**x {
                    Node::Load(n, _) => used.push(n.clone()),
                    Node::Var(n) => vars.push(n.clone()),
                    _ => {}
                });
            };
            match s {
                Stmt::For(l) => {
                    if &*l.level == PROCESS {
                        inner = Some(l.var.clone());
                    }
                    reads(&l.extent);
                }
                Stmt::If(c, _) => reads(c),
                Stmt::Alloc(b) => own.push(b.name.clone()),
                Stmt::Store(s) => {
                    s.values.iter().chain(s.targets.iter().flat_map(|(_, i)| i)).for_each(&mut reads);
                    s.targets.iter().for_each(|(n, _)| used.push(n.clone()));
                }
                Stmt::Intrinsic(..) => {}
            }
        });
        if let Some(l) = inner {
            return e.fail(format!("the process '{l}' is started inside of another one"));
        }
        let outside = |n: &&Name| !own.contains(n) && used.contains(n);
        let allocs = e.kernel.body.iter().filter_map(|s| match s {
            Stmt::Alloc(b) => Some(&b.name),
            _ => None,
        });
        let buffers: Vec<Name> =
            e.kernel.views().map(|v| &v.name).chain(allocs).filter(outside).cloned().collect();
        let templates: Vec<Name> = loops
            .iter()
            .zip(&several)
            .filter(|(l, s)| **s || vars.contains(l))
            .map(|(l, _)| l.clone())
            .collect();
        let function = format!("{symbol}_{}", ident(&leaf.var));

        let (out, memo) = (std::mem::take(&mut e.out), std::mem::take(&mut e.memo));
        e.body(&leaf.body)?;
        let body = std::mem::replace(&mut e.out, out);
        e.memo = memo;
        let mut text = String::new();
        if !templates.is_empty() {
            let list: Vec<String> = templates.iter().map(|t| format!("int {}", ident(t))).collect();
            text = format!("template <{}>\n", list.join(", "));
        }
        let arguments = self.arguments(e, &buffers)?;
        text.push_str(&format!("static void {function}({arguments}) {{\n{body}}}\n"));
        Ok((text, Calls { loops, function, templates, buffers: buffers.iter().map(|n| ident(n)).collect() }))
    }
}
