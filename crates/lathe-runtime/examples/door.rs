//! Prints what the checked door costs: `cargo run --release -p lathe-runtime --example door`.

use lathe_machine::Target;
use lathe_runtime::*;
use std::time::Instant;

const CALLS: usize = 1_000_000;

fn main() -> Result<(), RuntimeError> {
    let folder = std::env::temp_dir().join("lathe-door");
    let source =
        "int nothing(void *c, void *b, void *d, void *w, long long begin, long long end) { return 0; }";
    let request = BuildRequest::new(vec![source.into()], &Target::portable());
    let start = Instant::now();
    let library = KernelCache::new(folder).load(&request, 1, &mut |_, _| ())?;
    let how = if library.is_from_cache() { "loaded" } else { "built" };
    println!("{how} in {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let arena = Arena::new("dram", 1 << 20);
    for count in [2, 6, 12] {
        let access = |index| if index + 2 < count { Access::Read } else { Access::Write };
        let params =
            (0..count).map(|i| Param { name: format!("p{i}"), access: access(i), align: 64 }).collect();
        let signature =
            Signature { name: "nothing".into(), dims: vec!["n".into()], params, workspace_bytes: 0 };
        let kernel = Kernel::new(library.kernel("nothing")?, signature);
        let views: Vec<View> =
            (0..count).map(|_| Ok(arena.alloc(256)?.into_view())).collect::<Result<_, RuntimeError>>()?;
        let required = vec![256; count];
        let args: Vec<BufferArg<'_>> = views.iter().map(View::arg).collect();
        let start = Instant::now();
        for _ in 0..CALLS {
            kernel.call(&mut Ctx::default(), &args, &required, &[1], &mut [], 0, 1)?;
        }
        let call = start.elapsed().as_secs_f64() * 1e9 / CALLS as f64;
        let prepared = kernel.prepare(views.clone(), &required, &[1], None)?;
        let start = Instant::now();
        for _ in 0..CALLS {
            prepared.run(&mut Ctx::default(), 0, 1)?;
        }
        let run = start.elapsed().as_secs_f64() * 1e9 / CALLS as f64;
        println!("{count:>3} buffers: checked call {call:.0} ns, prepared call {run:.0} ns");
    }
    Ok(())
}
