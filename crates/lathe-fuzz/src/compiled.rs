//! Programs as C, compiled many at a time, run in each dialect of this machine and compared with the interpreter.

use crate::arguments::{ROOM, bytes, compare};
use crate::case::Case;
use crate::oracle::{Code, Finding, Kind, OF_CODE};
use lathe_codegen::{Dialect, Emitted, emit, prelude};
use lathe_ir::tensor::{Access, Memory};
use lathe_machine::Target;
use lathe_runtime::{
    Arena, BuildRequest, CTX_DECLARATION, Ctx, Kernel, KernelCache, Library, Param, RuntimeError, Signature,
    Workspace,
};
use std::path::Path;

/// Most bytes of scratch memory that a kernel may ask for.
const WORKSPACE: i64 = 1 << 22;

/// A program in a dialect.
struct Unit<'c> {
    code: &'c Code,
    symbol: String,
    emitted: Emitted,
}

impl Code {
    /// The case it comes from.
    pub fn case(&self) -> &Case {
        &self.case
    }
}

/// Compiles programs for each target of this machine that their cases name and compares what they compute with what the
/// interpreter did, with what the compiler makes kept in a folder. Returns what differs, with its case. An error is one of the
/// machine: no compiler, a full disk.
pub fn compile(codes: &[Code], folder: &Path) -> Result<Vec<(Case, Finding)>, RuntimeError> {
    let mut out = vec![];
    for target in Target::all_of_cpu(&lathe_runtime::detect_cpu()) {
        let Some(dialect) = Dialect::named(&target.dialect) else { continue };
        let wanted = codes.iter().filter(|c| c.case.targets.contains(&target.dialect));
        let units: Vec<Unit> = wanted
            .enumerate()
            .filter_map(|(i, code)| {
                let symbol = format!("k{i}");
                let emitted = emit(&code.kernel, &symbol, dialect).ok()?;
                Some(Unit { code, symbol, emitted })
            })
            .collect();
        run_all(&units, &target, dialect, folder, &mut out)?;
    }
    Ok(out)
}

/// Builds and runs some units; where the compiler refuses them, halves, to find the one.
fn run_all(
    units: &[Unit],
    target: &Target,
    dialect: &'static Dialect,
    folder: &Path,
    out: &mut Vec<(Case, Finding)>,
) -> Result<(), RuntimeError> {
    if units.is_empty() {
        return Ok(());
    }
    let text: String = units.iter().map(|u| u.emitted.source.as_str()).collect();
    let request = BuildRequest::new(vec![prelude(dialect, CTX_DECLARATION) + &text], target);
    match KernelCache::new(folder).load(&request, 1, &mut |_, _| {}) {
        Ok(library) => {
            for u in units {
                if let Err(message) = run(u, &library) {
                    out.push((u.code.case.clone(), found(Kind::Code, target, message)));
                }
            }
            Ok(())
        }
        Err(RuntimeError::CompileFailed { message, .. }) if units.len() == 1 => {
            out.push((units[0].code.case.clone(), found(Kind::Refused, target, message)));
            Ok(())
        }
        Err(RuntimeError::CompileFailed { .. }) => {
            let (a, b) = units.split_at(units.len() / 2);
            run_all(a, target, dialect, folder, out)?;
            run_all(b, target, dialect, folder, out)
        }
        Err(e) => Err(e),
    }
}

fn found(kind: Kind, target: &Target, message: String) -> Finding {
    Finding { kind, place: target.dialect.clone(), message }
}

/// Runs a kernel on its arguments; says what differs.
fn run(u: &Unit, library: &Library) -> Result<(), String> {
    let (k, sizes) = (&u.code.kernel, &u.code.sizes);
    let get = |n: &str| sizes.iter().find(|(d, _)| &**d == n).map(|(_, v)| *v);
    let (Some(grid), Some(workspace)) = (u.emitted.grid.eval(&get), u.emitted.workspace_bytes.eval(&get))
    else {
        return Err("its grid or its scratch memory has no value".into());
    };
    if !(0..=WORKSPACE).contains(&workspace) {
        return Ok(());
    }
    let failed = |e: RuntimeError| e.to_string();
    let arena = Arena::new("fuzz", usize::MAX);
    let (mut views, mut required, mut params) = (vec![], vec![], vec![]);
    for p in &k.params {
        let content = &u.code.before.params[&p.name];
        // Vectors may read, and padding may write, what lies behind; what lies in front is nobody's.
        let view = arena.alloc(content.len()).map_err(failed)?.into_view();
        view.write(0, content.as_slice()).map_err(failed)?;
        views.push(view);
        required.push(bytes(p, sizes).unwrap_or(0).min(content.len() - ROOM / 2));
        let access = match p.access {
            Access::In => lathe_runtime::Access::Read,
            Access::Out => lathe_runtime::Access::Write,
            Access::InOut => lathe_runtime::Access::ReadWrite,
        };
        params.push(Param { name: p.name.to_string(), access, align: 64 });
    }
    let bytes = workspace as usize;
    let dims: Vec<i64> = k.dims.iter().filter_map(|d| get(d)).collect();
    let names = k.dims.iter().map(ToString::to_string).collect();
    let signature = Signature { name: u.symbol.clone(), dims: names, params, workspace_bytes: bytes };
    let kernel = Kernel::new(library.kernel(&u.symbol).map_err(failed)?, signature);
    let scratch = arena.alloc(bytes.max(64)).map_err(failed)?.into_view();
    let kernel =
        kernel.prepare(views.clone(), &required, &dims, Some(Workspace::new(scratch, 1))).map_err(failed)?;
    kernel.run(&mut Ctx { thread: 0, threads: 1 }, 0, grid).map_err(failed)?;
    let mut left = Memory::default();
    for (p, view) in k.params.iter().zip(&views) {
        let mut content = vec![0u8; u.code.before.params[&p.name].len()];
        view.read(0, content.as_mut_slice()).map_err(failed)?;
        left.set(&p.name, &content);
    }
    compare(k, sizes, &u.code.after, &left, OF_CODE)
}
