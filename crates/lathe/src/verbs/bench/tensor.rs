//! `lathe bench PROGRAM --schedule S`: how long tensor programs take under schedules whose steps are proved.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use lathe_compile::{Bound, Function};
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_ir::tensor::{Access, Kernel, Param};
use lathe_ir::{Layout, Name, Tensor};
use lathe_onnx::{Array, Elem, Value};
use lathe_runtime::{Arena, Buffer, Pool, View};
use serde_json::json;

use super::program::BenchProgram;
use crate::failure::Failure;
use crate::foreign::Clocks;
use crate::onnx;
use crate::proofs::Proofs;
use crate::source::{program, replayed};

/// The element types that arrays of numpy have.
const ELEMS: [Elem; 11] = [
    Elem::F32,
    Elem::F64,
    Elem::F16,
    Elem::I8,
    Elem::I16,
    Elem::I32,
    Elem::I64,
    Elem::U8,
    Elem::U16,
    Elem::U32,
    Elem::U64,
];

/// A parameter as an array.
struct Parameter {
    name: Name,
    elem: Elem,
    shape: Vec<usize>,
    view: View,
    /// Whether some program writes it.
    written: bool,
    /// Whether the first program that names it reads it.
    given: bool,
}

/// Programs that run one after the other; parameters of one name are one array.
struct Programs {
    kernels: Vec<Kernel>,
    sizes: Vec<(String, i64)>,
    parameters: Vec<Parameter>,
    arena: Arena,
}

fn wrong(what: impl Into<String>) -> Failure {
    Diagnostic::new("bench-program", Fault::User, what.into()).into()
}

/// Sizes as `N=V` says them.
fn sizes(given: &[String]) -> Result<Vec<(String, i64)>, Failure> {
    let one = |text: &String| {
        let (name, value) = text.split_once('=')?;
        Some((name.to_string(), value.parse().ok().filter(|v| *v > 0)?))
    };
    let all: Option<Vec<_>> = given.iter().map(one).collect();
    all.ok_or_else(|| Failure::usage("a size is NAME=NUMBER, and the number is above 0"))
}

impl Programs {
    /// Makes the array of a parameter, or finds the one that there is.
    fn add(&mut self, p: &Param) -> Result<(), Failure> {
        let get = |n: &str| self.sizes.iter().find(|(d, _)| d == n).map(|(_, v)| *v);
        let [v] = p.views.as_slice() else {
            return Err(wrong(format!("'{}' is no plain array, and only such have values of numpy", p.name)));
        };
        let shape: Option<Vec<i64>> = v.shape.iter().map(|d| d.eval(&get)).collect();
        let (Some(shape), Some(bits)) = (shape, p.bits.eval(&get)) else {
            return Err(wrong(format!("'{}' has a shape of sizes that are not given: --size N=V", p.name)));
        };
        let shape: Vec<usize> = shape.into_iter().map(|d| d.max(0) as usize).collect();
        let elem = ELEMS.into_iter().find(|e| e.dtype() == v.dtype);
        let Some(elem) = elem.filter(|_| v.layout == Layout::dense(v.dtype, &v.shape)) else {
            return Err(wrong(format!("'{}' is no dense array of a type that numpy has", p.name)));
        };
        let bytes = (bits.max(0) as usize).div_ceil(8);
        let written = p.access != Access::In;
        match self.parameters.iter_mut().find(|q| q.name == p.name) {
            Some(q) if (&q.shape, q.elem, q.view.len()) == (&shape, elem, bytes) => q.written |= written,
            Some(_) => return Err(wrong(format!("two programs say '{}' in different ways", p.name))),
            None => {
                let view = self.arena.alloc(bytes.max(64)).map(Buffer::into_view)?.part(0, bytes)?;
                let (name, given) = (p.name.clone(), p.access != Access::Out);
                self.parameters.push(Parameter { name, elem, shape, view, written, given });
            }
        }
        Ok(())
    }

    /// Puts arrays where the programs read them.
    fn fill(&self, given: &[String]) -> Result<(), Failure> {
        let read = || self.parameters.iter().filter(|p| p.given);
        let names: Vec<&str> = read().map(|p| &*p.name).collect();
        let arrays = onnx::named(&names, given)?;
        for p in read() {
            let found = arrays.iter().find(|(n, _)| **n == *p.name);
            let Some((_, Value::Array(a))) = found else {
                return Err(Failure::usage(&format!("'{}' is read: give --input {0}=x.npy", p.name)));
            };
            if a.elem != p.elem || a.tensor.shape != p.shape {
                let (elem, shape) = (p.elem.name(), &p.shape);
                let what = format!("'{}' is {elem}{shape:?}", p.name);
                return Err(wrong(format!("{what}, given {}{:?}", a.elem.name(), a.tensor.shape)));
            }
            p.view.write(0, &a.tensor.bytes)?;
        }
        Ok(())
    }

    /// What the programs wrote.
    fn results(&self) -> Result<Vec<(String, Value)>, Failure> {
        let one = |p: &Parameter| {
            let mut bytes = vec![0u8; p.shape.iter().product::<usize>() * p.elem.bits() / 8];
            p.view.read(0, &mut bytes)?;
            let tensor = Tensor { shape: p.shape.clone(), dtype: p.elem.dtype(), encoding: None, bytes };
            Ok((p.name.to_string(), Value::Array(Array::new(p.elem, tensor))))
        };
        self.parameters.iter().filter(|p| p.written).map(one).collect()
    }

    /// The programs as C, built, with their memory.
    fn bound(&self, threads: usize) -> Result<Vec<Bound>, Failure> {
        let (target, cache) = (lathe_runtime::detect_target()?, lathe_models::cache_dir()?);
        let kernels: Vec<&Kernel> = self.kernels.iter().collect();
        let functions = Function::all(&kernels, &target, &cache, &Arc::new(Pool::new(threads)?))?;
        let views: HashMap<Name, View> =
            self.parameters.iter().map(|p| (p.name.clone(), p.view.clone())).collect();
        let dims: Vec<(&str, i64)> = self.sizes.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        Ok(functions.iter().map(|f| f.bind(&dims, &views)).collect::<Result<_, _>>()?)
    }
}

impl BenchProgram {
    /// Times tensor programs.
    pub(super) fn run_tensor(&self, threads: usize) -> Result<(), Failure> {
        if self.schedule.len() != self.files.len() {
            return Err(Failure::usage("each tensor program needs its --schedule F, in the same order"));
        }
        let start = Instant::now();
        let mut proofs = Proofs::default();
        let (sizes, arena) = (sizes(&self.size)?, Arena::new("host", usize::MAX));
        let mut all = Programs { kernels: vec![], sizes, parameters: vec![], arena };
        for (file, steps) in self.files.iter().zip(&self.schedule) {
            let kernel =
                program(file)?.ok_or_else(|| wrong(format!("{} is no tensor program", file.display())))?;
            let schedule = replayed(kernel, steps)?;
            proofs.ask(&schedule.original().name, &schedule, self.unproved)?;
            for p in &schedule.kernel().params {
                all.add(p)?;
            }
            all.kernels.push(schedule.kernel().clone());
        }
        all.fill(&self.input)?;
        let mut bound = all.bound(threads)?;
        let mut once = || bound.iter_mut().try_for_each(Bound::run);
        once()?;
        if let Some(to) = &self.output {
            onnx::write(to, &all.results()?)?;
        }
        let ready = start.elapsed().as_secs_f64();
        let clocks = Clocks::now();
        let samples = self.samples(&mut || Ok(once()?))?;
        let foreign = Clocks::now().zip(clocks).and_then(|(now, start)| now.foreign_since(&start));
        let programs: Vec<&str> = all.kernels.iter().map(|k| &*k.name).collect();
        let told = json!({
            "programs": programs, "steps_proved": proofs.proved, "steps_unproved": proofs.unproved,
        });
        let steps = match proofs.unproved {
            0 => format!("{} steps proved", proofs.proved),
            n => format!("{} steps proved, {n} not", proofs.proved),
        };
        self.tell(&samples, threads, ready, foreign, told, &steps)
    }
}

/// Whether files are tensor programs.
pub(super) fn are_programs(files: &[impl AsRef<Path>]) -> bool {
    files.iter().all(|f| crate::source::begins(f.as_ref(), "kernel "))
}
