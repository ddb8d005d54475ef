//! Compiled code computes what the operators' references compute: every operator, every sample, in this machine's best
//! dialect and the portable one; and fewer samples of every other dialect of x86, with its instructions emulated
//! (`emulation.c`) where this machine has them not.

mod cases;

use cases::{Case, cases, units};
use lathe_codegen::{Dialect, emit, prelude};
use lathe_ir::tensor::Access;
use lathe_machine::Target;
use lathe_runtime::{
    Arena, BuildRequest, CTX_DECLARATION, Ctx, Kernel, KernelCache, Param, Signature, Workspace,
};

/// Targets of x86 that this processor does not run.
fn foreign() -> Vec<Target> {
    let here = Target::all_of_cpu(&lathe_runtime::detect_cpu());
    let all = Target::names().filter(|name| *name != "neon").filter_map(Target::named);
    all.filter(|target| !here.contains(target)).collect()
}

#[test]
fn compiled_kernels_compute_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let best = Target::of_cpu(&lathe_runtime::detect_cpu());
    for target in Target::all_of_cpu(&lathe_runtime::detect_cpu()) {
        let cases = cases(&target, target != best && target != Target::portable());
        let units = units(&cases, &target, [""; 2]);
        if let Ok(path) = std::env::var("LATHE_DUMP_C") {
            std::fs::write(format!("{path}.{}.c", target.dialect), units.concat()).unwrap();
        }
        let request = BuildRequest::new(units, &target);
        let library = KernelCache::new(folder.path()).load(&request, 2, &mut |_, _| {}).unwrap();
        for c in &cases {
            run(c, &library, &target);
        }
    }
}

/// What preludes write in assembly, in the builtins that `emulation.c` stands in for.
const REPEATED: &str = "
#define dpbusd_repeated(a, x, y) __builtin_ia32_vpdpbusd_v16si(a, x, splat_i32x16(*(const m_i32 *)(y)))
#define dpbf16ps_repeated(a, x, y) __builtin_ia32_dpbf16ps_v16sf(a, x, splat_i32x16(*(const m_i32 *)(y)))
";

/// Dialects whose instructions are not here: their text runs with the instructions emulated, and it is compiled, not run, as
/// it is where the compiler knows the target.
#[test]
fn emulated_kernels_compute_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let cache = KernelCache::new(folder.path());
    let here = Target::of_cpu(&lathe_runtime::detect_cpu());
    for target in foreign() {
        let cases = cases(&target, true);
        let text = units(&cases, &target, [include_str!("emulation.c"), REPEATED]);
        let library = cache.load(&quickly(BuildRequest::new(text, &here)), 2, &mut |_, _| {}).unwrap();
        for c in &cases {
            run(c, &library, &target);
        }
        if cache.compilable(target.clone(), None).unwrap().0 == target {
            let request = BuildRequest::new(units(&cases, &target, [""; 2]), &target);
            cache.load(&request, 2, &mut |_, _| {}).unwrap();
        }
    }
}

/// The same without optimization: it means the same, and compiling emulated instructions takes far longer than running them.
fn quickly(mut request: BuildRequest) -> BuildRequest {
    let level = request.flags.iter_mut().find(|f| f.starts_with("-O")).unwrap();
    *level = "-O0".into();
    request
}

fn run(c: &Case, library: &lathe_runtime::Library, target: &Target) {
    let arena = Arena::new("test", 1 << 30);
    let mut buffers = c.buffers();
    let mut views = vec![];
    let mut params = vec![];
    for (p, content) in c.group.kernel.params.iter().zip(&buffers) {
        let view = arena.alloc(content.len()).unwrap().into_view();
        view.write(0, content).unwrap();
        views.push(view);
        let access = match p.access {
            Access::In => lathe_runtime::Access::Read,
            Access::Out => lathe_runtime::Access::Write,
            Access::InOut => lathe_runtime::Access::ReadWrite,
        };
        params.push(Param { name: p.name.to_string(), access, align: 64 });
    }
    let signature = Signature { name: c.symbol.clone(), dims: vec![], params, workspace_bytes: c.workspace };
    let kernel = Kernel::new(library.kernel(&c.symbol).unwrap(), signature);
    let workspace = arena.alloc(c.workspace.max(64)).unwrap().into_view();
    let p = kernel.prepare(views.clone(), &c.required(), &[], Some(Workspace::new(workspace, 1))).unwrap();
    p.run(&mut Ctx { thread: 0, threads: 1 }, 0, c.grid).unwrap();
    for (view, content) in views.iter().zip(&mut buffers) {
        view.read(0, content).unwrap();
    }
    c.compare(&buffers, &target.dialect);
}

#[test]
fn builtins_come_from_the_tables() {
    let here = Target::all_of_cpu(&lathe_runtime::detect_cpu());
    for target in here.into_iter().chain(foreign()).chain(Target::named("neon")) {
        let dialect = Dialect::named(&target.dialect).unwrap();
        let known = dialect.all_rows().map(|r| r.gcc).collect::<String>() + dialect.prelude;
        let cases = cases(&target, true);
        for c in &cases {
            for word in c.source.split(|ch: char| !(ch.is_ascii_alphanumeric() || ch == '_')) {
                assert!(!word.starts_with("__builtin") || known.contains(word), "{}: {word}", c.symbol);
            }
        }
        // Without a use, a row would be tested by nothing.
        for row in dialect.rows {
            let function = row.gcc.split_inclusive('(').next().unwrap();
            assert!(cases.iter().any(|c| c.source.contains(function)), "{}: {}", target.dialect, row.name);
        }
    }
}

/// Integer division and remainder of all signs, one by one and in lanes, as the interpreter has them.
#[test]
fn division_rounds_as_the_interpreter_does() {
    let text = "kernel f() {
  in x: i32[256]
  in y: i32[256]
  out q: i32[256]
  out r: i32[256]
  out k: index[256]
  for i in 256 spatial serial { Q: q[i] = x[i] / y[i] }
  for j in 64 spatial serial { for i4 in 4 spatial lane { R: r[j * 4 + i4] = x[j * 4 + i4] % y[j * 4 + i4] } }
  for l in 256 spatial serial { K: k[l] = (index(x[l]) - 3) / 7 * 100 + (index(x[l]) - 3) % 7 }
}";
    let (mut x, mut y) = (vec![], vec![]);
    for i in 0..256i32 {
        x.push(i % 16 * 5 - 37);
        y.push(if i / 16 < 8 { i / 16 - 8 } else { i / 16 - 7 });
    }
    gives_what_the_interpreter_gives(text, &[&x, &y]);
}

/// Lanes without an iteration touch nothing: not the next row of a temporary, which may have its values already, and not
/// what lies behind the last one.
#[test]
fn rows_shorter_than_a_vector_leave_the_others_alone() {
    let text = "kernel f() {
  in x: i32[24]
  out y: i32[24]
  alloc t: i32[3, 8] on register
  for i in 3 spatial serial { for j in 8 spatial lane { T: t[2 - i, j] = x[j * 3 + i] } }
  for k in 3 spatial serial { for l in 8 spatial lane { Y: y[k * 8 + l] = t[k, l] + t[k, l] } }
}";
    gives_what_the_interpreter_gives(text, &[&(1..=24).collect::<Vec<i32>>()]);
}

/// Nor do they touch what stands around a part of a row.
#[test]
fn a_part_of_a_row_leaves_what_is_around_it_alone() {
    let text = "kernel f() {
  in x: i32[26]
  out y: i32[32]
  alloc t: i32[2, 16] on register
  for a in 2 spatial serial { for b in 16 spatial lane { Z: t[a, b] = 7i32 } }
  for i in 2 spatial serial { for j in 13 spatial lane { T: t[1 - i, j + 2] = x[i * 13 + j] } }
  for k in 2 spatial serial { for l in 16 spatial lane { Y: y[k * 16 + l] = t[k, l] } }
}";
    gives_what_the_interpreter_gives(text, &[&(1..=26).collect::<Vec<i32>>()]);
}

/// Lanes that do not count run with the others where nobody sees it, so that no loop decides in each iteration which there are; what is
/// written to memory is written by those that count.
#[test]
fn lanes_that_do_not_count_run_in_registers() {
    let text = "kernel f() {
  in n: i32[3] range(1, 17)
  in x: f32[48] padded(0, 16)
  out y: f32[48]
  for i in 3 spatial serial {
    alloc t: f32[16] on register
    for z in min(index(n[i]), 16) spatial lane { Z: t[z] = 0f32 }
    for k in 5 reduce serial { for l in min(index(n[i]), 16) spatial lane { T: t[l] sum = x[k] * x[i * 16 + l] } }
    for m in min(index(n[i]), 16) spatial lane { Y: y[i * 16 + m] = t[m] }
  }
}";
    let x: Vec<i32> = (0..48u8).map(|v| f32::from(v).to_bits().cast_signed()).collect();
    for n in [[1, 8, 16], [9, 7, 15]] {
        gives_what_the_interpreter_gives(text, &[&n, &x]);
    }
    let source =
        emit(&lathe_ir::tensor::parse(text).unwrap(), "f", Dialect::named("avx2").unwrap()).unwrap().source;
    assert_eq!(source.matches("> 8) {").count(), 1, "{source}");
}

/// An instruction whose sums are in memory would be written out in scalars, many times slower.
#[test]
fn instructions_add_to_registers() {
    let text = "kernel f() {
  in w: u8[16, 4]
  in x: i8[4]
  out y: i32[16]
  intrinsic dpbusd {
    for l in 16 spatial serial { for b in 4 reduce serial { S: y[l] sum = i32(w[l, b]) * i32(x[b]) } }
  }
}";
    let k = lathe_ir::tensor::parse(text).unwrap();
    let error = emit(&k, "f", Dialect::named("avx512vnni").unwrap()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("'dpbusd' adds to 'y', which is in no vectors"), "{error}");
    assert!(emit(&k, "f", Dialect::named("portable").unwrap()).is_ok());
}

/// A core goes through its part of a loop for each iteration of those that sweep through it.
#[test]
fn cores_sweep_through_their_parts() {
    let text = "kernel f() {
  in x: i32[3, 5, 23]
  out y: i32[3, 5, 23]
  for j in 23 spatial core {
    for i in 3 spatial sweep {
      for k in i + 3 spatial sweep {
        alloc t: i32[1] on register
        T: t[0] = x[i, k, j] * 2i32
        Y: y[i, k, j] = t[0] + i32(j)
      }
    }
  }
}";
    gives_what_the_interpreter_gives(text, &[&(1..=345).collect::<Vec<i32>>()]);
    let e = emit(&lathe_ir::tensor::parse(text).unwrap(), "f", Dialect::named("portable").unwrap()).unwrap();
    assert_eq!(e.grid.as_const(), Some(23));
    let at = |text: &str| e.source.find(text).unwrap();
    assert!(at("i64 i = 0") < at("i64 k = 0") && at("i64 k = 0") < at("i64 j = begin"), "{}", e.source);
}

/// A copy that exchanges two axes is written as squares that are transposed in registers: whole ones, and what there is of others.
#[test]
fn copies_between_axes_are_transposed() {
    for [outer, lanes] in [[16, 16], [8, 8], [32, 48], [13, 16], [16, 7], [5, 3], [20, 21], [2, 2]] {
        // Rows of what is read and written have something around them.
        let (read, written) = (outer + 3, lanes + 5);
        let text = format!(
            "kernel f() {{
  in x: i32[{lanes}, {read}]
  out y: i32[{outer}, {written}]
  for i in {outer} spatial serial {{ for j in {written} spatial serial {{ Z: y[i, j] = 7i32 }} }}
  for i in {outer} spatial unrolled {{ for j in {lanes} spatial lane {{ Y: y[i, j + 2] = x[j, i + 1] }} }}
}}"
        );
        gives_what_the_interpreter_gives(&text, &[&(1..=lanes * read).collect::<Vec<i32>>()]);
        let k = lathe_ir::tensor::parse(&text).unwrap();
        let e = emit(&k, "f", Dialect::named("avx512").unwrap()).unwrap();
        assert!(e.source.contains("shufflevector"), "{}", e.source);
    }
}

/// What is compared may be narrower or wider than the lanes that a choice is made in.
#[test]
fn comparisons_of_any_width_choose_in_lanes() {
    let text = "kernel f() {
  in x: i32[32]
  out y: i32[32]
  out z: i32[32]
  alloc b: u8[32] on register
  for i in 32 spatial serial { B: b[i] = u8(x[i]) }
  for j in 2 spatial serial {
    for k in 16 spatial lane { Y: y[j * 16 + k] = select(b[j * 16 + k] == b[0], x[j * 16 + k], 0i32 - x[j * 16 + k]) }
  }
  for l in 2 spatial serial {
    for m in 16 spatial lane { Z: z[l * 16 + m] = select(i64(x[l * 16 + m]) < i64(x[7]), x[l * 16 + m], 7i32) }
  }
}";
    gives_what_the_interpreter_gives(text, &[&(0..32).map(|i| i % 5 * 9 - 11).collect::<Vec<i32>>()]);
}

/// Halves of bytes in lanes, the lower or the upper ones as a loop says when it runs, and bytes of words of 32 bits, with a sign or
/// without one: vectors are loaded, no codes one by one.
#[test]
fn codes_are_unpacked_in_vectors() {
    let words: Vec<i32> = (0..16i32).map(|i| i.wrapping_mul(0x0123_4567) ^ 0x7f80_ff01).collect();
    for (code, bits, word, level) in
        [("u4", 4, 8, "serial"), ("i4", 4, 8, "serial"), ("u8", 8, 32, "unrolled"), ("i8", 8, 32, "unrolled")]
    {
        let (all, each) = (16 * word, word / bits);
        let text = format!(
            "kernel f() {{
  in x bits {all} {{ c: {code}[16, {each}] @ 0 : (0, 1, 0, {word}) : (1, 1, 0, {bits}) }}
  out y: i32[{}]
  for h in {each} spatial {level} {{ for i in 16 spatial lane {{ Y: y[h * 16 + i] = i32(c[i, h]) }} }}
}}",
            16 * each
        );
        gives_what_the_interpreter_gives(&text, &[&words[..all / 32]]);
        let k = lathe_ir::tensor::parse(&text).unwrap();
        for name in ["avx512bf16", "avx512", "avx2"] {
            let source = emit(&k, "f", Dialect::named(name).unwrap()).unwrap().source;
            let alone = ["const m_u8 *", "const m_i8 *"].iter().any(|byte| source.contains(byte));
            assert!(!alone, "{code} by {name}: {source}");
        }
    }
}

/// Stores past the caches ask for addresses that are multiples, which those of rows are not: of 64, 16 and 4 bytes here.
#[test]
fn stores_past_the_caches_go_anywhere() {
    for columns in [16, 20, 21] {
        let text = format!(
            "kernel f() {{
  in x: i32[4, {columns}]
  out y: i32[4, {columns}]
  for i in 4 spatial serial {{
    intrinsic nontemporal {{ for j in {columns} spatial lane {{ Y: y[i, j] = x[i, j] + 1i32 }} }}
  }}
}}"
        );
        gives_what_the_interpreter_gives(&text, &[&(0..4 * columns).collect::<Vec<i32>>()]);
    }
    // Vectors behind each other that begin anywhere in a line, and the same elements again.
    for first in [0, 1, 4, 8, 15] {
        let text = format!(
            "kernel f() {{
  in x: i32[96]
  out y: i32[96]
  for t in 2 spatial serial {{
    for i in 5 spatial serial {{
      intrinsic nontemporal {{ for j in 16 spatial lane {{ Y: y[i * 16 + j + {first}] = x[i * 16 + j] + i32(t) }} }}
    }}
  }}
}}"
        );
        gives_what_the_interpreter_gives(&text, &[&(0..96).collect::<Vec<i32>>()]);
    }
    for dialect in Dialect::all().iter().filter(|d| d.row("nontemporal").is_some()) {
        let k = lathe_ir::tensor::parse(
            "kernel f() {
  out y: f32[16]
  intrinsic nontemporal { for j in 16 spatial lane { Y: y[j] = 1f32 } }
}",
        );
        let source = emit(&k.unwrap(), "f", dialect).unwrap().source;
        let (store, fence) = (source.rfind("nontemporal("), source.find("past_end("));
        assert!(store.is_some() && store < fence, "{}: {source}", dialect.name);
    }
}

/// Roundings of numbers halfway, small, large and none, one by one and in lanes, as the interpreter has them.
#[test]
fn numbers_are_rounded_as_the_interpreter_does() {
    let text = "kernel f() {
  in x: f32[N]
  out a: f16[N]
  out b: f16[N]
  out c: f32[N]
  out d: f32[N]
  in y: f32[N]
  out e: i32[N]
  out f: i32[N]
  for i in N spatial serial { A: a[i] = f16(x[i]) }
  for j in V spatial serial { for j4 in 16 spatial lane { B: b[j * 16 + j4] = f16(x[j * 16 + j4]) } }
  for k in N spatial serial { C: c[k] = round(y[k]) }
  for l in V spatial serial { for l4 in 16 spatial lane { D: d[l * 16 + l4] = round(y[l * 16 + l4]) } }
  for m in N spatial serial { E: e[m] = i32(round(y[m])) }
  for n in V spatial serial { for n4 in 16 spatial lane { F: f[n * 16 + n4] = i32(round(y[n * 16 + n4])) } }
}";
    // Around each half and each middle between two of them, subnormal ones and those that become infinite included.
    let mut x =
        vec![f32::NAN, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45, 65504.0, 65519.996, 65520.0];
    for half in (0..0x7c00u32).step_by(37) {
        let middle = if half < 1024 {
            (half as f32 + 0.5) * 2f32.powi(-24)
        } else {
            f32::from_bits(((half + (112 << 10)) << 13) + (1 << 12))
        };
        let bits = middle.to_bits();
        x.extend([bits - 1, bits, bits + 1].map(f32::from_bits));
    }
    let mut y: Vec<f32> = (-40..40).map(|i| i as f32 / 4.0).collect();
    y.extend([-0.0, 0.49999997, 4194303.5, 4194302.5, 8388609.0, 1e-40, 16777216.0]);
    y.extend((0..200).map(|i| (i * i) as f32 * 0.37 - 1000.0));
    let n = x.len().next_multiple_of(16);
    x.extend((x.len()..n).map(|i| -(i as f32)));
    x.iter_mut().skip(8).step_by(2).for_each(|v| *v = -*v);
    y.resize(n, -2.5);
    let text = text.replace('N', &n.to_string()).replace('V', &(n / 16).to_string());
    let bits = |v: &[f32]| v.iter().map(|v| v.to_bits() as i32).collect::<Vec<_>>();
    let (x, y, none) = (bits(&x), bits(&y), vec![0; n]);
    gives_what_the_interpreter_gives(&text, &[&x, &none[..n / 2], &none[..n / 2], &none, &none, &y]);
}

/// Exponentials of every 1021st float, one by one and in lanes: relative errors are below 4e-7, and where they become bf16 right away
/// below that of the rounding and 1.3e-4, in each dialect of this machine.
#[test]
fn exponentials_are_as_near_as_they_say() {
    let x: Vec<f32> = (0..=u32::MAX).step_by(1021).map(f32::from_bits).collect();
    let mut x: Vec<f32> = x.into_iter().filter(|x| (-87.3..88.3).contains(x)).collect();
    x.truncate(x.len() / 16 * 16);
    let n = x.len();
    let text = format!(
        "kernel f() {{
  in x: f32[{n}]
  out a: f32[{n}]
  out b: f32[{n}]
  out c: bf16[{n}]
  out d: bf16[{n}]
  for i in {n} spatial serial {{ A: a[i] = exp(x[i]) }}
  for j in {n} spatial serial {{ C: c[j] = bf16(exp(x[j])) }}
  for k in {v} spatial serial {{ for l in 16 spatial lane {{ B: b[k * 16 + l] = exp(x[k * 16 + l]) }} }}
  for p in {v} spatial serial {{ for q in 16 spatial lane {{ D: d[p * 16 + q] = bf16(exp(x[p * 16 + q])) }} }}
}}",
        v = n / 16
    );
    let bits: Vec<i32> = x.iter().map(|x| x.to_bits() as i32).collect();
    let exact: Vec<f64> = x.iter().map(|x| f64::from(*x).exp()).collect();
    in_each_dialect(&lathe_ir::tensor::parse(&text).unwrap(), &[&bits], |target, results| {
        let worst = |got: &mut dyn Iterator<Item = f32>| {
            let errors = got.zip(&exact).map(|(got, exact)| (f64::from(got) / exact - 1.0).abs());
            errors.fold(0.0, f64::max)
        };
        let words =
            |b: &[u8]| b.chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect::<Vec<_>>();
        let halves = |b: &[u8]| {
            let upper = |c: &[u8]| f32::from_le_bytes([0, 0, c[0], c[1]]);
            b.chunks(2).map(upper).collect::<Vec<_>>()
        };
        for whole in [&results[1], &results[2]] {
            let worst = worst(&mut words(whole).into_iter());
            assert!(worst < 4e-7, "{}: {worst}", target.dialect);
        }
        for half in [&results[3], &results[4]] {
            let worst = worst(&mut halves(half).into_iter());
            assert!(worst < 1.0 / 256.0 + 1.3e-4, "{}: {worst}", target.dialect);
        }
    });
}

/// Runs a kernel whose first parameters are these, in each dialect of this machine, and compares all parameters with the interpreter's.
fn gives_what_the_interpreter_gives(text: &str, inputs: &[&[i32]]) {
    let k = lathe_ir::tensor::parse(text).unwrap();
    let mut memory = lathe_ir::tensor::Memory::new(&[]);
    for p in &k.params {
        memory.set(&p.name, &vec![0; p.bits.as_const().unwrap() as usize / 8]);
    }
    for (p, values) in k.params.iter().zip(inputs) {
        memory.set(&p.name, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
    }
    lathe_ir::tensor::interpret(&k, &mut memory).unwrap();
    in_each_dialect(&k, inputs, |target, results| {
        for (p, got) in k.params.iter().zip(results) {
            assert!(*got == memory.params[&p.name], "'{}' by {}", p.name, target.dialect);
        }
    });
}

/// Runs a kernel whose first parameters are these in each dialect of this machine, and tells what its parameters hold then.
fn in_each_dialect(
    k: &lathe_ir::tensor::Kernel,
    inputs: &[&[i32]],
    mut then: impl FnMut(&Target, &[Vec<u8>]),
) {
    let folder = tempfile::tempdir().unwrap();
    for target in Target::all_of_cpu(&lathe_runtime::detect_cpu()) {
        let dialect = Dialect::named(&target.dialect).unwrap();
        let e = emit(k, "f", dialect).unwrap();
        let source = prelude(dialect, CTX_DECLARATION) + &e.source;
        let request = BuildRequest::new(vec![source], &target);
        let library = KernelCache::new(folder.path()).load(&request, 1, &mut |_, _| ()).unwrap();
        let arena = Arena::new("host", usize::MAX);
        let sizes: Vec<usize> = k.params.iter().map(|p| p.bits.as_const().unwrap() as usize / 8).collect();
        let views: Vec<_> = sizes.iter().map(|n| arena.alloc(*n).unwrap().into_view()).collect();
        for (view, values) in views.iter().zip(inputs) {
            view.write(0, values).unwrap();
        }
        let param = |p: &lathe_ir::tensor::Param| Param {
            name: p.name.to_string(),
            access: if p.access == Access::In {
                lathe_runtime::Access::Read
            } else {
                lathe_runtime::Access::Write
            },
            align: 1,
        };
        let params = k.params.iter().map(param).collect();
        let signature = Signature { name: "f".into(), dims: vec![], params, workspace_bytes: 0 };
        let run =
            Kernel::new(library.kernel("f").unwrap(), signature).prepare(views.clone(), &sizes, &[], None);
        let (run, grid) = (run.unwrap(), e.grid.as_const().unwrap());
        for part in [grid / 2..grid, 0..grid / 2] {
            run.run(&mut Ctx::default(), part.start, part.end).unwrap();
        }
        let held = |(v, n): (&lathe_runtime::View, &usize)| {
            let mut got = vec![0u8; *n];
            v.read(0, &mut got).unwrap();
            got
        };
        then(&target, &views.iter().zip(&sizes).map(held).collect::<Vec<_>>());
    }
}
