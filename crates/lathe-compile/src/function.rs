//! One scheduled kernel that runs on tensors by name: built, bound to memory of the sizes of a call, and called through the
//! same door as the kernels of a plan, with its facts checked.

use crate::CompileError;
use lathe_codegen::{Dialect, emit, prelude};
use lathe_exec::{Executable, Image};
use lathe_ir::step::{Part, Program, Step, StepBuffer, Storage};
use lathe_ir::tensor::{Access, HOST, Kernel};
use lathe_ir::{Int, Name};
use lathe_machine::Target;
use lathe_runtime::{Arena, Buffer, BuildRequest, CTX_DECLARATION, KernelCache, Pool};
use std::collections::HashMap;
use std::path::Path;

/// A compiled kernel.
pub struct Function {
    image: Image,
    pool: Pool,
}

impl Function {
    /// Builds a kernel for a machine.
    pub fn new(
        kernel: &Kernel,
        target: &Target,
        cache: &Path,
        threads: usize,
    ) -> Result<Function, CompileError> {
        let dialect = Dialect::named(&target.dialect)
            .ok_or_else(|| CompileError::bug(format!("no dialect '{}'", target.dialect)))?;
        let made = emit(kernel, "f", dialect)?;
        let source = prelude(dialect, CTX_DECLARATION) + &made.source;
        let request = BuildRequest::new(vec![source], target);
        let library = KernelCache::new(cache).load(&request, 1, &mut |_, _| ())?;
        let image = Image {
            function: library.kernel("f")?,
            kernel: kernel.clone(),
            grid: made.grid,
            workspace_bytes: made.workspace_bytes,
        };
        Ok(Function { image, pool: Pool::new(threads)? })
    }

    /// Runs it with its dimensions bound, on the bytes of its parameters by name; the bytes of those that it writes.
    pub fn run(
        &self,
        dims: &[(&str, i64)],
        params: &[(&str, &[u8])],
    ) -> Result<HashMap<Name, Vec<u8>>, CompileError> {
        let k = &self.image.kernel;
        let most: HashMap<Name, i64> = dims.iter().map(|(n, v)| ((*n).into(), *v)).collect();
        let values: Option<Vec<i64>> = k.dims.iter().map(|d| most.get(d).copied()).collect();
        let values =
            values.ok_or_else(|| CompileError::user(format!("'{}' has dimensions {:?}", k.name, k.dims)))?;
        let get = |n: &str| most.get(n).copied();
        let arena = Arena::new("host", usize::MAX);
        let (mut buffers, mut views) = (vec![], HashMap::new());
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
            buffers.push(StepBuffer {
                name: p.name.clone(),
                bytes: Int::from(bytes as i64),
                tier: HOST.into(),
                storage: Storage::Given,
            });
        }
        let call = Step::Call {
            kernel: k.name.clone(),
            args: (0..buffers.len() as u32).map(Part::from).collect(),
            writes: k.params.iter().map(|p| p.access != Access::In).collect(),
        };
        let program = Program {
            name: k.name.to_string(),
            dims: k.dims.clone(),
            buffers,
            steps: vec![call],
            ..Program::default()
        };
        let images = [(k.name.clone(), self.image.clone())].into();
        let nothing = arena.alloc(64)?.into_view();
        Executable::new(&program, &images, &views, &nothing, &most, self.pool.threads(), &arena)?
            .run(&self.pool, &values)?;
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
