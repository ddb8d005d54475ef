//! A step program bound to memory and compiled kernels.

use crate::ExecError;
use crate::facts::{Promise, check, promises};
use lathe_ir::step::{Program, Step, Storage};
use lathe_ir::tensor::{Access, Kernel};
use lathe_ir::{Int, Name};
use lathe_runtime::{Arena, Ctx, KernelFn, Pool, Prepared, RuntimeError, Signature, View};
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};

/// A compiled kernel as the executor needs it.
#[derive(Clone, Debug)]
pub struct Image {
    /// The code.
    pub function: KernelFn,
    /// The program it was made from; its parameters and dimensions are the call's.
    pub kernel: Kernel,
    /// Iterations of its loop over cores.
    pub grid: Int,
    /// Scratch bytes of each thread.
    pub workspace_bytes: Int,
}

enum Action {
    Call {
        call: Box<Prepared>,
        grid: i64,
        /// The first iteration that no thread has taken yet, in loops that are shared out piece by piece.
        next: AtomicI64,
        /// What the sizes above follow from.
        extent: Int,
        required: Vec<Int>,
        dims: Vec<usize>,
        image: Name,
    },
    Copy {
        from: View,
        to: View,
    },
    Meet,
    /// A promise about what an earlier step made, which that step does not give.
    Check(Promise),
}

/// A program that can run.
pub struct Executable {
    name: String,
    dims: Vec<Name>,
    /// Values of the dimensions that all sizes follow; none before the first run.
    values: Option<Vec<i64>>,
    actions: Vec<Action>,
    promises: Vec<Promise>,
    scratch: Vec<i32>,
}

impl Executable {
    /// Binds a program: `given` holds the storage of its given buffers by name, `arena` its planned ones, `most` the
    /// largest value of each dimension (those the kernels were specialised to included).
    pub fn new(
        program: &Program,
        images: &HashMap<Name, Image>,
        given: &HashMap<Name, View>,
        planned: &View,
        most: &HashMap<Name, i64>,
        threads: usize,
        arena: &Arena,
    ) -> Result<Executable, ExecError> {
        let bad = |buffer: &Name, message: &str| ExecError::Buffer {
            program: program.name.clone(),
            buffer: buffer.to_string(),
            message: message.into(),
        };
        let get = |n: &str| most.get(n).copied();
        let mut views = vec![];
        for b in &program.buffers {
            let bytes = b.bytes.eval(&get).ok_or_else(|| bad(&b.name, "has no bound on its size"))? as usize;
            views.push(match b.storage {
                Storage::Given => {
                    given.get(&b.name).cloned().ok_or_else(|| bad(&b.name, "was not passed"))?
                }
                Storage::Planned(at) => planned.part(at as usize, bytes)?,
            });
        }
        // One scratch area, as large as the hungriest kernel needs, serves all steps: they run one after the other.
        let scratch = |i: &Image| i.workspace_bytes.eval(&get).unwrap_or(0).max(0) as usize;
        let most_scratch = images.values().map(scratch).max().unwrap_or(0).next_multiple_of(64);
        let workspace = arena.alloc((most_scratch * threads).max(64))?.into_view();
        let all = promises(program, &|n| images.get(n).map(|i| &i.kernel), &views)?;
        let (promises, mut checks): (Vec<Promise>, Vec<Promise>) =
            all.into_iter().partition(|p| p.step.is_none());
        let mut actions = vec![];
        for (i, s) in program.steps.iter().enumerate() {
            while checks.first().is_some_and(|c| c.step == Some(i)) {
                actions.push(Action::Check(checks.remove(0)));
            }
            actions.push(match s {
                Step::Meet => Action::Meet,
                Step::Copy { from, to } => {
                    Action::Copy { from: views[*from as usize].clone(), to: views[*to as usize].clone() }
                }
                Step::Call { kernel, args, .. } => {
                    let image = images.get(kernel).ok_or_else(|| ExecError::Kernel {
                        program: program.name.clone(),
                        kernel: kernel.to_string(),
                    })?;
                    let k = &image.kernel;
                    let param = |p: &lathe_ir::tensor::Param| lathe_runtime::Param {
                        name: p.name.to_string(),
                        access: match p.access {
                            Access::In => lathe_runtime::Access::Read,
                            Access::Out => lathe_runtime::Access::Write,
                            Access::InOut => lathe_runtime::Access::ReadWrite,
                        },
                        align: 1,
                    };
                    let signature = Signature {
                        name: k.name.to_string(),
                        dims: k.dims.iter().map(ToString::to_string).collect(),
                        params: k.params.iter().map(param).collect(),
                        workspace_bytes: scratch(image),
                    };
                    let args: Vec<View> = args.iter().map(|a| views[*a as usize].clone()).collect();
                    let required: Vec<Int> = k.params.iter().map(|p| p.bits.clone()).collect();
                    let bound: Vec<i64> = k.dims.iter().map(|d| get(d).unwrap_or(1)).collect();
                    let call = lathe_runtime::Kernel::new(image.function.clone(), signature).prepare(
                        args,
                        &bytes_of(&required, &get),
                        &bound,
                        Some(workspace.clone()),
                    )?;
                    let dims =
                        k.dims.iter().filter_map(|d| program.dims.iter().position(|p| p == d)).collect();
                    Action::Call {
                        call: Box::new(call),
                        grid: 0,
                        next: AtomicI64::new(0),
                        extent: image.grid.clone(),
                        required,
                        dims,
                        image: kernel.clone(),
                    }
                }
            });
        }
        let (name, dims) = (program.name.clone(), program.dims.clone());
        Ok(Executable { name, dims, values: None, actions, promises, scratch: vec![] })
    }

    /// The program's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Binds the dimensions, and checks what the caller promised of its buffers.
    fn bind(&mut self, values: &[i64]) -> Result<(), ExecError> {
        let names = &self.dims;
        let get = |n: &str| names.iter().position(|d| &**d == n).and_then(|i| values.get(i).copied());
        check(&self.name, self.promises.iter(), &get, &mut self.scratch)?;
        if self.values.as_deref() == Some(values) {
            return Ok(());
        }
        for a in &mut self.actions {
            if let Action::Call { call, grid, extent, required, dims, .. } = a {
                let own: Vec<i64> = dims.iter().map(|i| values[*i]).collect();
                call.set_dims(&own, &bytes_of(required, &get))?;
                *grid = extent.eval(&get).unwrap_or(0);
            }
        }
        self.values = Some(values.to_vec());
        Ok(())
    }

    /// Runs the program with its dimensions bound, in the program's order of them.
    pub fn run(&mut self, pool: &Pool, values: &[i64]) -> Result<(), ExecError> {
        self.bind(values)?;
        let (actions, names, name) = (&self.actions, &self.dims, &self.name);
        let get = |n: &str| names.iter().position(|d| &**d == n).and_then(|i| values.get(i).copied());
        let threads = pool.threads() as i64;
        for a in actions {
            if let Action::Call { next, .. } = a {
                next.store(0, Ordering::Relaxed);
            }
        }
        pool.try_run(&|thread, barrier| {
            let mut ctx = Ctx { thread: thread as u32, threads: threads as u32 };
            for a in actions {
                match a {
                    Action::Meet => barrier.wait(),
                    // Every thread looks for itself, so that none goes on.
                    Action::Check(p) => check(name, std::iter::once(p), &get, &mut vec![])?,
                    Action::Copy { from, to } if thread == 0 => to.copy(0, from)?,
                    Action::Copy { .. } => {}
                    Action::Call { call, grid, next, .. } => share(call, *grid, next, &mut ctx)?,
                }
            }
            Ok(())
        })
    }

    /// Runs the program once and says how long each kernel took in all, longest first: (kernel, calls, seconds). The
    /// threads meet after every step, so the sum is a little more than a run's time.
    pub fn profile(&mut self, pool: &Pool, values: &[i64]) -> Result<Vec<(Name, usize, f64)>, ExecError> {
        self.bind(values)?;
        let threads = pool.threads() as i64;
        let mut total: HashMap<Name, (usize, f64)> = HashMap::new();
        for a in &self.actions {
            let Action::Call { call, grid, image, next, .. } = a else { continue };
            next.store(0, Ordering::Relaxed);
            let start = std::time::Instant::now();
            pool.try_run(&|thread, _| {
                let mut ctx = Ctx { thread: thread as u32, threads: threads as u32 };
                share(call, *grid, next, &mut ctx)
            })?;
            let t = total.entry(image.clone()).or_default();
            t.0 += 1;
            t.1 += start.elapsed().as_secs_f64();
        }
        let mut out: Vec<_> = total.into_iter().map(|(n, (c, s))| (n, c, s)).collect();
        out.sort_by(|a, b| b.2.total_cmp(&a.2));
        Ok(out)
    }
}

fn bytes_of(bits: &[Int], get: &dyn Fn(&str) -> Option<i64>) -> Vec<usize> {
    bits.iter().map(|b| (b.eval(get).unwrap_or(0).max(0) as usize).div_ceil(8)).collect()
}

/// Pieces a thread takes of a long loop, on average.
const PIECES: i64 = 16;

/// A thread's share of a loop over cores. Short loops are cut into equal parts; long ones are taken piece by piece, as
/// their iterations may cost unequally (causal attention) and a core may be busy elsewhere.
fn share(call: &Prepared, grid: i64, next: &AtomicI64, ctx: &mut Ctx) -> Result<(), RuntimeError> {
    let (thread, threads) = (i64::from(ctx.thread), i64::from(ctx.threads));
    let piece = grid / (threads * PIECES);
    if threads == 1 || piece < 4 {
        let (begin, end) = (grid * thread / threads, grid * (thread + 1) / threads);
        return if begin < end { call.run(ctx, begin, end) } else { Ok(()) };
    }
    loop {
        let begin = next.fetch_add(piece, Ordering::Relaxed);
        if begin >= grid {
            return Ok(());
        }
        call.run(ctx, begin, (begin + piece).min(grid))?;
    }
}
