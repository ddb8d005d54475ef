//! The checked door: the one way to call a compiled kernel.
//!
//! The generated code is trusted to touch only the bytes that its signature and the required lengths name, as the rest of
//! the compiler is trusted; everything a caller can get wrong (counts, lengths, alignment, aliasing, read-only memory) is
//! checked here before the call.

use crate::{BufferArg, KernelFn, RuntimeError, View};
use std::ops::Range;

/// Changes whenever the call convention below does; part of every kernel's cache key.
pub const ABI_VERSION: u32 = 1;

/// The C text that declares the first parameter of a kernel.
pub const CTX_DECLARATION: &str = "struct lathe_ctx { unsigned int thread, threads; };";

/// What a kernel may know of who runs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Ctx {
    /// This thread's index.
    pub thread: u32,
    /// How many threads share the run.
    pub threads: u32,
}

/// `int f(ctx*, buffers*, i64 dims*, workspace*, begin, end)`: 0, or a fault code.
pub(crate) type RawKernel =
    unsafe extern "C" fn(*mut Ctx, *const *mut u8, *const i64, *mut u8, i64, i64) -> i32;

/// What a kernel does with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only reads; may alias other read buffers.
    Read,
    /// Only writes; aliases nothing.
    Write,
    /// Reads and writes; aliases nothing.
    ReadWrite,
}

/// One buffer of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name, for messages.
    pub name: String,
    /// What the kernel does with it.
    pub access: Access,
    /// Alignment that the code relies on, bytes; a power of two.
    pub align: usize,
}

/// What a kernel takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The kernel's symbol.
    pub name: String,
    /// Names of the symbolic sizes, in order.
    pub dims: Vec<String>,
    /// The buffers, in order.
    pub params: Vec<Param>,
    /// Scratch memory that each thread needs, bytes, aligned to 64; 0 for none.
    pub workspace_bytes: usize,
}

/// A kernel that can be called.
#[derive(Clone, Debug)]
pub struct Kernel {
    function: KernelFn,
    signature: Signature,
}

/// Alignment of workspaces, bytes.
const WORKSPACE_ALIGN: usize = 64;

impl Kernel {
    /// The kernel `function` with the signature it was compiled for.
    pub fn new(function: KernelFn, signature: Signature) -> Kernel {
        Kernel { function, signature }
    }

    /// What it takes.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Checks everything, then runs the part `begin..end` of the kernel's outer loop on this thread.
    ///
    /// `required_bytes` says for each buffer how many bytes the kernel touches at these `dims`.
    pub fn call(
        &self,
        ctx: &mut Ctx,
        args: &[BufferArg<'_>],
        required_bytes: &[usize],
        dims: &[i64],
        workspace: &mut [u8],
        begin: i64,
        end: i64,
    ) -> Result<(), RuntimeError> {
        self.check(args.len(), |index| args[index].parts(), required_bytes, dims)?;
        let short = workspace.len() < self.signature.workspace_bytes;
        if short || (self.signature.workspace_bytes > 0 && !is_aligned(workspace.as_ptr(), WORKSPACE_ALIGN)) {
            return Err(self.bad_workspace(workspace.len()));
        }
        let mut few = [std::ptr::null_mut(); 16];
        let many: Vec<*mut u8>;
        let pointers = match few.get_mut(..args.len()) {
            Some(few) => {
                few.iter_mut().zip(args).for_each(|(pointer, arg)| *pointer = arg.parts().ptr);
                &*few
            }
            None => {
                many = args.iter().map(|arg| arg.parts().ptr).collect();
                &many
            }
        };
        self.enter(ctx, pointers, dims, workspace.as_mut_ptr(), begin, end)
    }

    /// Checks once for many calls with the same buffers. Each thread's part of `workspace` must hold
    /// [`Signature::workspace_bytes`].
    pub fn prepare(
        &self,
        args: Vec<View>,
        required_bytes: &[usize],
        dims: &[i64],
        workspace: Option<Workspace>,
    ) -> Result<Prepared, RuntimeError> {
        self.check(args.len(), |index| args[index].arg().parts(), required_bytes, dims)?;
        let needs = self.signature.workspace_bytes;
        let workspace = workspace.filter(|_| needs > 0);
        match &workspace {
            None if needs == 0 => {}
            Some(Workspace { view, each, .. })
                if view.is_writable() && is_aligned(view.ptr(), WORKSPACE_ALIGN) && *each >= needs => {}
            other => return Err(self.bad_workspace(other.as_ref().map_or(0, |w| w.each))),
        }
        self.check_workspace(workspace.as_ref(), |index| &args[index], required_bytes)?;
        let pointers = args.iter().map(View::ptr).collect();
        Ok(Prepared { kernel: self.clone(), args, pointers, own: vec![], dims: dims.to_vec(), workspace })
    }

    #[inline]
    fn check(
        &self,
        count: usize,
        part: impl Fn(usize) -> Parts,
        required: &[usize],
        dims: &[i64],
    ) -> Result<(), RuntimeError> {
        let params = &self.signature.params;
        if count != params.len() || required.len() != params.len() || dims.len() != self.signature.dims.len()
        {
            return Err(self.bad_counts(count, required.len(), dims.len()));
        }
        for (index, param) in params.iter().enumerate() {
            let arg = part(index);
            let writes = param.access != Access::Read;
            if arg.len < required[index] || !is_aligned(arg.ptr, param.align) || (writes && !arg.writable) {
                return Err(self.bad_buffer(param, arg, required[index]));
            }
            if !writes {
                continue;
            }
            let mine = arg.range(required[index]);
            for other in 0..params.len() {
                // Two written buffers are compared once, a written one and a read one once as well.
                let seen = other == index || (other < index && params[other].access != Access::Read);
                if !seen && overlap(mine.clone(), part(other).range(required[other])) {
                    return Err(
                        self.bad(format!("buffers '{}' and '{}' overlap", param.name, params[other].name))
                    );
                }
            }
        }
        Ok(())
    }

    /// Refuses a workspace that shares bytes with a buffer.
    fn check_workspace<'v>(
        &self,
        workspace: Option<&Workspace>,
        arg: impl Fn(usize) -> &'v View,
        required: &[usize],
    ) -> Result<(), RuntimeError> {
        let Some(Workspace { view, .. }) = workspace else { return Ok(()) };
        let scratch = view.arg().parts().range(view.len());
        let shares = |(index, bytes): (usize, &usize)| {
            overlap(scratch.clone(), arg(index).arg().parts().range(*bytes))
        };
        match required.iter().enumerate().position(shares) {
            None => Ok(()),
            Some(index) => {
                Err(self
                    .bad(format!("buffer '{}' overlaps the workspace", self.signature.params[index].name)))
            }
        }
    }

    #[inline]
    fn enter(
        &self,
        ctx: &mut Ctx,
        pointers: &[*mut u8],
        dims: &[i64],
        workspace: *mut u8,
        begin: i64,
        end: i64,
    ) -> Result<(), RuntimeError> {
        if begin > end {
            return Err(self.bad(format!("begins at {begin}, after its end {end}")));
        }
        // SAFETY: the library is kept loaded by `function`. The callers have checked that every pointer is valid, aligned and
        // long enough for what the kernel touches at these dims, that written buffers are writable and alias nothing, and
        // that the workspace is this thread's own. The generated code touches nothing else.
        let code =
            unsafe { (self.function.raw())(ctx, pointers.as_ptr(), dims.as_ptr(), workspace, begin, end) };
        match code {
            0 => Ok(()),
            code => Err(RuntimeError::KernelFault { kernel: self.signature.name.clone(), code }),
        }
    }

    #[cold]
    fn bad(&self, reason: String) -> RuntimeError {
        RuntimeError::BadCall { kernel: self.signature.name.clone(), reason }
    }

    #[cold]
    fn bad_counts(&self, args: usize, required: usize, dims: usize) -> RuntimeError {
        let (buffers, sizes) = (self.signature.params.len(), self.signature.dims.len());
        self.bad(format!(
            "takes {buffers} buffers and {sizes} dims, given {args} buffers, {required} lengths and {dims} dims"
        ))
    }

    #[cold]
    fn bad_buffer(&self, param: &Param, arg: Parts, required: usize) -> RuntimeError {
        let name = &param.name;
        self.bad(match () {
            () if arg.len < required => format!("buffer '{name}' has {} bytes, needs {required}", arg.len),
            () if !is_aligned(arg.ptr, param.align) => {
                format!("buffer '{name}' is not aligned to {} bytes", param.align)
            }
            () => format!("buffer '{name}' is written but its memory is read-only"),
        })
    }

    #[cold]
    fn bad_workspace(&self, given: usize) -> RuntimeError {
        let needs = self.signature.workspace_bytes;
        self.bad(format!("needs {needs} writable bytes of workspace a thread, aligned to 64, given {given}"))
    }
}

/// Scratch memory in which each thread has a part of its own. Kernels that may run at the same time, one thread being further
/// than another, have one workspace or ones that share no bytes.
#[derive(Clone, Debug)]
pub struct Workspace {
    view: View,
    /// Bytes of a thread's part.
    each: usize,
    threads: u32,
}

impl Workspace {
    /// Memory divided among so many threads, at least one.
    pub fn new(view: View, threads: usize) -> Workspace {
        let threads = threads.max(1);
        let each = view.len() / threads / WORKSPACE_ALIGN * WORKSPACE_ALIGN;
        Workspace { view, each, threads: u32::try_from(threads).unwrap_or(u32::MAX) }
    }
}

/// A kernel with its buffers, checked once, to be run many times and from many threads.
#[derive(Clone, Debug)]
pub struct Prepared {
    kernel: Kernel,
    args: Vec<View>,
    pointers: Vec<*mut u8>,
    /// Buffers that each thread has its own of: their places, and the memory by thread, with all pointers of that thread.
    own: Vec<(Vec<(usize, View)>, Vec<*mut u8>)>,
    dims: Vec<i64>,
    workspace: Option<Workspace>,
}

// SAFETY: `pointers` are those of `args` and `own`, which are `Send` and `Sync` and keep the memory alive.
unsafe impl Send for Prepared {}
// SAFETY: as above; a run changes nothing in this value.
unsafe impl Sync for Prepared {}

impl Prepared {
    /// Runs the part `begin..end` on this thread. Threads that run at once must run different parts and have different
    /// `ctx.thread`.
    #[inline]
    pub fn run(&self, ctx: &mut Ctx, begin: i64, end: i64) -> Result<(), RuntimeError> {
        let workspace = match &self.workspace {
            Some(w) if ctx.thread < w.threads => w.view.ptr().wrapping_add(ctx.thread as usize * w.each),
            Some(_) => return Err(self.kernel.bad_workspace(0)),
            None => std::ptr::null_mut(),
        };
        let pointers = match self.own.get(ctx.thread as usize) {
            Some((_, pointers)) => pointers,
            None if self.own.is_empty() => &self.pointers,
            None => return Err(self.kernel.bad("has buffers for fewer threads".into())),
        };
        self.kernel.enter(ctx, pointers, &self.dims, workspace, begin, end)
    }

    /// Gives each thread its own of some buffers, by their places: the threads then see what they wrote there themselves, and may run
    /// the same part at once where those are all that is written. These buffers cannot be changed any more.
    pub fn set_own(
        &mut self,
        threads: Vec<Vec<(usize, View)>>,
        required_bytes: &[usize],
    ) -> Result<(), RuntimeError> {
        let mut own = vec![];
        for views in threads {
            let at =
                |index: usize| views.iter().find(|(i, _)| *i == index).map_or(&self.args[index], |v| &v.1);
            self.kernel.check(
                self.args.len(),
                |index| at(index).arg().parts(),
                required_bytes,
                &self.dims,
            )?;
            let pointers = (0..self.args.len()).map(|index| at(index).ptr()).collect();
            own.push((views, pointers));
        }
        self.own = own;
        Ok(())
    }

    /// Changes the dims (a longer sequence in the same buffers) and some buffers, by their places, checking all; where that
    /// fails, nothing is changed.
    pub fn set(
        &mut self,
        changed: &[(usize, View)],
        dims: &[i64],
        required_bytes: &[usize],
    ) -> Result<(), RuntimeError> {
        let at = |index: usize| changed.iter().find(|(i, _)| *i == index).map_or(&self.args[index], |c| &c.1);
        self.kernel.check(self.args.len(), |index| at(index).arg().parts(), required_bytes, dims)?;
        self.kernel.check_workspace(self.workspace.as_ref(), at, required_bytes)?;
        self.dims.copy_from_slice(dims);
        for (index, view) in changed {
            self.pointers[*index] = view.ptr();
            self.args[*index] = view.clone();
            for (own, pointers) in &mut self.own {
                if own.iter().all(|(i, _)| i != index) {
                    pointers[*index] = view.ptr();
                }
            }
        }
        Ok(())
    }

    /// The kernel's signature.
    pub fn signature(&self) -> &Signature {
        &self.kernel.signature
    }
}

/// What the door looks at in an argument.
#[derive(Clone, Copy)]
pub(crate) struct Parts {
    pub ptr: *mut u8,
    pub len: usize,
    pub writable: bool,
}

impl Parts {
    fn range(self, len: usize) -> Range<usize> {
        let start = self.ptr.addr();
        start..start.saturating_add(len)
    }
}

fn overlap(a: Range<usize>, b: Range<usize>) -> bool {
    !a.is_empty() && !b.is_empty() && a.start < b.end && b.start < a.end
}

/// Whether the address is a multiple of `align`, a power of two (0 counts as 1).
fn is_aligned(ptr: *const u8, align: usize) -> bool {
    ptr.addr() & align.saturating_sub(1) == 0
}
