//! The checked door: right calls compute, wrong calls are refused with the buffer's name, and nothing is run.

use lathe_machine::Target;
use lathe_runtime::{
    Access, Arena, BufferArg, BuildRequest, CTX_DECLARATION, Ctx, Kernel, KernelCache, Param, Pool,
    RuntimeError, Signature, View, Workspace,
};
use std::sync::LazyLock;

/// `out[i] = a[i] + b[i] * d[0]`, with the thread's index left in its workspace; faults with 7 when `d[0]` is 99.
const SOURCE: &str = "
int add(struct lathe_ctx *ctx, char **buffers, const long long *dims, char *workspace, long long begin, long long end) {
  const float *a = (const float *)buffers[0], *b = (const float *)buffers[1];
  float *out = (float *)buffers[2];
  if (dims[0] == 99) return 7;
  workspace[0] = (char)ctx->thread;
  for (long long i = begin; i < end; i++) out[i] = a[i] + b[i] * (float)dims[0];
  return 0;
}";

static KERNEL: LazyLock<Kernel> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let request = BuildRequest::new(vec![format!("{CTX_DECLARATION}{SOURCE}")], &Target::portable());
    let library = KernelCache::new(dir.path()).load(&request, 1, &mut |_, _| ()).unwrap();
    let param = |name: &str, access| Param { name: name.into(), access, align: 4 };
    let params = vec![param("a", Access::Read), param("b", Access::Read), param("out", Access::Write)];
    let signature = Signature { name: "add".into(), dims: vec!["scale".into()], params, workspace_bytes: 8 };
    Kernel::new(library.kernel("add").unwrap(), signature)
});

#[repr(align(64))]
struct Scratch([u8; 64]);

fn call(args: &[BufferArg<'_>], required: &[usize], dims: &[i64]) -> Result<(), RuntimeError> {
    let mut scratch = Scratch([0; 64]);
    KERNEL.call(&mut Ctx::default(), args, required, dims, &mut scratch.0, 0, 4)
}

fn refusal(result: Result<(), RuntimeError>) -> String {
    match result.unwrap_err() {
        RuntimeError::BadCall { kernel, reason } => format!("{kernel}: {reason}"),
        other => panic!("{other}"),
    }
}

#[test]
fn a_right_call_computes() {
    let (a, b, mut out) = ([1.0f32, 2.0, 3.0, 4.0], [10.0f32; 4], [0.0f32; 4]);
    call(&[BufferArg::read(&a), BufferArg::read(&b), BufferArg::write(&mut out)], &[16; 3], &[2]).unwrap();
    assert_eq!(out, [21.0, 22.0, 23.0, 24.0]);
    call(&[BufferArg::read(&a), BufferArg::read(&a), BufferArg::write(&mut out)], &[16; 3], &[1]).unwrap();
    assert_eq!(out, [2.0, 4.0, 6.0, 8.0], "read buffers may be the same");
}

#[test]
fn wrong_calls_are_refused() {
    let (a, b, mut out) = ([1.0f32; 4], [0u8; 17], [0.0f32; 4]);
    let (ra, rb) = (BufferArg::read(&a), BufferArg::read(&a));
    let w = BufferArg::write(&mut out);
    assert!(refusal(call(&[ra, rb], &[16; 3], &[1])).contains("takes 3 buffers and 1 dims, given 2 buffers"));
    assert!(refusal(call(&[ra, rb, w], &[16; 2], &[1])).contains("2 lengths"));
    assert!(refusal(call(&[ra, rb, w], &[16; 3], &[])).contains("0 dims"));
    assert_eq!(refusal(call(&[ra, rb, w], &[16, 20, 16], &[1])), "add: buffer 'b' has 16 bytes, needs 20");
    let odd = b[..].as_ptr().addr() % 4;
    let unaligned = BufferArg::read(&b[if odd == 0 { 1 } else { 0 }..]);
    assert!(refusal(call(&[ra, unaligned, w], &[16; 3], &[1])).contains("'b' is not aligned to 4"));
    assert!(
        refusal(call(&[ra, rb, rb], &[16; 3], &[1])).contains("'out' is written but its memory is read-only")
    );
    assert!(refusal(call(&[ra, w, w], &[16; 3], &[1])).contains("buffers 'out' and 'b' overlap"));
    let mut none: [u8; 0] = [];
    let result = KERNEL.call(&mut Ctx::default(), &[ra, rb, w], &[16; 3], &[1], &mut none, 0, 4);
    assert!(refusal(result).contains("needs 8 writable bytes of workspace"));
    let mut scratch = Scratch([0; 64]);
    let result = KERNEL.call(&mut Ctx::default(), &[ra, rb, w], &[16; 3], &[1], &mut scratch.0, 4, 3);
    assert!(refusal(result).contains("begins at 4, after its end 3"));
    let fault = RuntimeError::KernelFault { kernel: "add".into(), code: 7 };
    assert_eq!(call(&[ra, rb, w], &[16; 3], &[99]), Err(fault));
}

fn views(arena: &Arena, elements: usize) -> Vec<View> {
    let memory = arena.alloc(3 * elements * 4).unwrap().into_view();
    (0..3).map(|i| memory.part(i * elements * 4, elements * 4).unwrap()).collect()
}

#[test]
fn a_prepared_call_runs_on_many_threads() {
    let (arena, pool, n) = (Arena::new("dram", 1 << 20), Pool::new(3).unwrap(), 3000);
    let args = views(&arena, n);
    let numbers: Vec<f32> = (0..n).map(|i| i as f32).collect();
    args[0].write(0, &numbers).unwrap();
    args[1].write(0, &vec![1.0f32; n]).unwrap();
    // Another kernel needs more: a thread's part is the same for all, so that none meets another thread's.
    let workspace = arena.alloc(3 * 256).unwrap().into_view();
    let required = vec![n * 4; 3];
    let mut prepared =
        KERNEL.prepare(args.clone(), &required, &[5], Some(Workspace::new(workspace.clone(), 3))).unwrap();
    for scale in [5, 6] {
        prepared.set(&[], &[scale], &required).unwrap();
        let prepared = &prepared;
        pool.try_run(&|thread, barrier| {
            let mut ctx = Ctx { thread: thread as u32, threads: barrier.threads() as u32 };
            prepared.run(&mut ctx, (thread * 1000) as i64, (thread * 1000 + 1000) as i64)
        })
        .unwrap();
        let mut out = vec![0.0f32; n];
        args[2].read(0, &mut out).unwrap();
        assert!(out.iter().enumerate().all(|(i, x)| *x == i as f32 + scale as f32));
    }
    let mut bytes = [0u8; 768];
    workspace.read(0, &mut bytes).unwrap();
    assert_eq!([bytes[0], bytes[256], bytes[512]], [0, 1, 2], "each thread has a workspace of its own");
    let mut fourth = Ctx { thread: 3, threads: 4 };
    assert!(prepared.run(&mut fourth, 0, 1).is_err(), "no workspace for a fourth thread");
    assert!(prepared.set(&[], &[1], &[n * 4, n * 4, n * 4 + 1]).is_err());
    assert!(prepared.set(&[], &[1, 2], &required).is_err());
}

#[test]
fn preparing_checks_as_a_call_does() {
    let arena = Arena::new("dram", 1 << 20);
    let args = views(&arena, 16);
    let workspace = || Some(Workspace::new(arena.alloc(64).unwrap().into_view(), 1));
    let refused =
        |args: Vec<View>, workspace| refusal(KERNEL.prepare(args, &[64; 3], &[1], workspace).map(|_| ()));
    assert!(refused(args.clone(), None).contains("workspace"));
    let little = Workspace::new(arena.alloc(64).unwrap().into_view(), 2);
    assert!(refused(args.clone(), Some(little)).contains("given 0"));
    assert!(
        refused(args.clone(), Some(Workspace::new(args[2].clone(), 1)))
            .contains("'out' overlaps the workspace")
    );
    let [a, b, out] = &args[..] else { unreachable!() };
    assert!(refused(vec![a.clone(), out.clone(), out.clone()], workspace()).contains("overlap"));
    assert!(refused(vec![a.clone(), b.clone(), out.read_only()], workspace()).contains("read-only"));
    assert!(KERNEL.prepare(args, &[64; 3], &[1], workspace()).is_ok());
}

#[test]
fn views_outlive_their_source_and_keep_to_their_range() {
    let arena = Arena::new("dram", 1 << 20);
    let part = {
        let whole = arena.alloc(256).unwrap().into_view();
        assert!(whole.part(200, 57).is_err() && whole.part(usize::MAX, 2).is_err());
        whole.part(64, 64).unwrap()
    };
    assert_eq!(arena.used(), 256);
    part.write(60, &[7u32]).unwrap();
    assert!(part.write(61, &[7u32]).is_err() && part.read_only().write(0, &[1u8]).is_err());
    let mut word = [0u32];
    part.read(60, &mut word).unwrap();
    assert_eq!(word, [7]);
    let copy = arena.alloc(64).unwrap().into_view();
    copy.copy(0, &part).unwrap();
    part.zero().unwrap();
    copy.read(60, &mut word).unwrap();
    assert_eq!(word, [7]);
    assert!(copy.copy(1, &part).is_err());
    drop((part, copy));
    assert_eq!(arena.used(), 0);
}

#[test]
fn a_mapped_file_is_read_only() {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, &[1, 2, 3, 4]).unwrap();
    // SAFETY: the temporary file has no name, so nobody else changes it.
    #[allow(unsafe_code, reason = "mapping a file is unsafe in memmap2")]
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    let view = View::shared(std::sync::Arc::new(map));
    let mut bytes = [0u8; 4];
    view.read(0, &mut bytes).unwrap();
    assert_eq!((bytes, view.is_writable()), ([1, 2, 3, 4], false));
    assert!(view.zero().is_err());
}
