//! Scheduled kernels that run on tensors by name: built, bound to memory of the sizes of a call, and called through the same
//! door as the kernels of a plan, with their facts checked.

use crate::CompileError;
use crate::compile::{jobs, units};
use lathe_codegen::{Dialect, emit};
use lathe_exec::{Executable, Image, Loops};
use lathe_ir::step::{Part, Program, Step, StepBuffer, Storage};
use lathe_ir::tensor::{Access, HOST, Kernel};
use lathe_ir::{Int, Name};
use lathe_machine::Target;
use lathe_runtime::{Arena, Buffer, BuildRequest, KernelCache, Pool, View};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// A compiled kernel.
pub struct Function {
    image: Image,
    pool: Arc<Pool>,
}

/// A compiled kernel with its memory.
pub struct Bound {
    run: Executable,
    values: Vec<i64>,
    pool: Arc<Pool>,
}

impl Bound {
    /// Runs it.
    pub fn run(&mut self) -> Result<(), CompileError> {
        Ok(self.run.run(&self.pool, &self.values)?)
    }
}

impl Function {
    /// Builds a kernel for a machine.
    pub fn new(
        kernel: &Kernel,
        target: &Target,
        cache: &Path,
        threads: usize,
    ) -> Result<Function, CompileError> {
        let mut all = Function::all(&[kernel], target, cache, &Arc::new(Pool::new(threads)?))?;
        all.pop().ok_or_else(|| CompileError::bug("a kernel makes a function"))
    }

    /// Builds several kernels as one library, which run on the same threads.
    pub fn all(
        kernels: &[&Kernel],
        target: &Target,
        cache: &Path,
        pool: &Arc<Pool>,
    ) -> Result<Vec<Function>, CompileError> {
        let dialect = Dialect::named(&target.dialect)
            .ok_or_else(|| CompileError::bug(format!("no dialect '{}'", target.dialect)))?;
        // A short name may be that of a type.
        let symbol = |i: usize| format!("kernel{i}");
        let made = kernels.iter().enumerate().map(|(i, k)| emit(k, &symbol(i), dialect));
        let made = made.collect::<Result<Vec<_>, _>>()?;
        let sources: Vec<&str> = made.iter().map(|m| m.source.as_str()).collect();
        let request = BuildRequest::new(units(&sources, dialect), target);
        let library = KernelCache::new(cache).load(&request, jobs(), &mut |_, _| ())?;
        let function = |(i, (kernel, made)): (usize, (&&Kernel, lathe_codegen::Emitted))| {
            let image = Image {
                function: library.kernel(&symbol(i))?,
                kernel: (*kernel).clone(),
                grid: made.grid,
                workspace_bytes: made.workspace_bytes,
                loops: Loops::of(kernel),
            };
            Ok(Function { image, pool: pool.clone() })
        };
        kernels.iter().zip(made).enumerate().map(function).collect()
    }

    /// Binds its dimensions, and its parameters by name to memory, which may be longer than it asks for.
    pub fn bind(&self, dims: &[(&str, i64)], params: &HashMap<Name, View>) -> Result<Bound, CompileError> {
        let k = &self.image.kernel;
        let most: HashMap<Name, i64> = dims.iter().map(|(n, v)| ((*n).into(), *v)).collect();
        let values: Option<Vec<i64>> = k.dims.iter().map(|d| most.get(d).copied()).collect();
        let values =
            values.ok_or_else(|| CompileError::user(format!("'{}' has dimensions {:?}", k.name, k.dims)))?;
        let arena = Arena::new("host", usize::MAX);
        let buffer = |p: &lathe_ir::tensor::Param| StepBuffer {
            name: p.name.clone(),
            bytes: Int::from(params.get(&p.name).map_or(0, View::len) as i64),
            tier: HOST.into(),
            storage: Storage::Given,
        };
        let call = Step::Call {
            kernel: k.name.clone(),
            args: (0..k.params.len() as u32).map(Part::from).collect(),
            writes: k.params.iter().map(|p| p.access != Access::In).collect(),
        };
        let program = Program {
            name: k.name.to_string(),
            dims: k.dims.clone(),
            buffers: k.params.iter().map(buffer).collect(),
            steps: vec![call],
            ..Program::default()
        };
        let images = [(k.name.clone(), self.image.clone())].into();
        let nothing = arena.alloc(64)?.into_view();
        let run = Executable::new(&program, &images, params, &nothing, &most, self.pool.threads(), &arena)?;
        Ok(Bound { run, values, pool: self.pool.clone() })
    }

    /// Runs it with its dimensions bound, on the bytes of its parameters by name; the bytes of those that it writes.
    pub fn run(
        &self,
        dims: &[(&str, i64)],
        params: &[(&str, &[u8])],
    ) -> Result<HashMap<Name, Vec<u8>>, CompileError> {
        let k = &self.image.kernel;
        let get = |n: &str| dims.iter().find(|(d, _)| *d == n).map(|(_, v)| *v);
        let arena = Arena::new("host", usize::MAX);
        let mut views = HashMap::new();
        for p in &k.params {
            let bytes = p.bits.eval(&get).unwrap_or(0).max(0) as usize / 8;
            let view = arena.alloc(bytes.max(64)).map(Buffer::into_view)?;
            match params.iter().find(|(n, _)| **n == *p.name) {
                Some((_, given)) if given.len() == bytes => view.write(0, given)?,
                Some((_, given)) => {
                    let what = format!("'{}' is {bytes} bytes long, given {}", p.name, given.len());
                    return Err(CompileError::user(what));
                }
                None if p.access == Access::Out => {}
                None => return Err(CompileError::user(format!("'{}' was not passed", p.name))),
            }
            views.insert(p.name.clone(), view.part(0, bytes)?);
        }
        self.bind(dims, &views)?.run()?;
        let mut out = HashMap::new();
        for p in k.params.iter().filter(|p| p.access != Access::In) {
            let view = &views[&p.name];
            let mut bytes = vec![0u8; view.len()];
            view.read(0, &mut bytes)?;
            out.insert(p.name.clone(), bytes);
        }
        Ok(out)
    }
}
