//! File tests: IR text in, what is done with it named in a header, text out. `tests/files/README.md` says how to write one;
//! `UPDATE_EXPECT=1` writes the results into the files.

use lathe_ir::graph::OpTable;
use lathe_ir::tensor::{Access, Kernel, Memory, interpret};
use lathe_ir::{DType, IrError, graph, notation, step, tensor};
use lathe_machine::Target;
use lathe_rewrite::{Bounds, pass, plan};
use lathe_schedule::{Schedule, Tag};
use std::fmt::Write;
use std::path::{Path, PathBuf};

const HEADER: &str = "# test: ";
const RULE: &str = "\n----\n";

/// Every `.txt` below a folder, in order of their names.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder can be read");
    let mut all: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    all.sort();
    let mut out = vec![];
    for path in all {
        match path.is_dir() {
            true => out.extend(files(&path)),
            false if path.extension().is_some_and(|e| e == "txt") => out.push(path),
            false => {}
        }
    }
    out
}

/// What a test prints: its result, or the one line of its error.
fn shown<T: ToString>(result: Result<T, impl std::fmt::Display>) -> String {
    match result {
        Ok(v) => v.to_string(),
        Err(e) => format!("error: {e}"),
    }
}

/// The text form of what a text says, which must say the same.
fn parsed(ir: &str, text: &str) -> Result<String, IrError> {
    let print = |text: &str| {
        Ok(match ir {
            "graph" => graph::parse(text)?.to_string(),
            "module" => graph::parse_module(text)?.to_string(),
            "tensor" => tensor::parse(text)?.to_string(),
            "step" => step::parse(text)?.to_string(),
            _ => panic!("there is no IR '{ir}'"),
        })
    };
    let once = print(text)?;
    assert_eq!(print(&once).as_ref(), Ok(&once), "the text form is not read back as it is");
    Ok(once)
}

/// The kernels of a statement in index notation, whose accesses must be inside.
fn lowered(text: &str) -> Result<String, IrError> {
    let n = notation::parse(text)?;
    assert_eq!(notation::parse(&n.to_string()).as_ref(), Ok(&n), "the text form is not read back as it is");
    let l = notation::lower(&n)?;
    let kernels = l.count.iter().chain([&l.compute]);
    kernels.map(|k| tensor::inside(k).map(|()| k.to_string())).collect()
}

fn checked(ir: &str, text: &str, table: &OpTable) -> Result<&'static str, IrError> {
    match ir {
        "graph" => graph::check(&graph::parse(text)?, table)?,
        "module" => graph::check_module(&graph::parse_module(text)?, table)?,
        "tensor" => tensor::check(&tensor::parse(text)?)?,
        "inside" => tensor::inside(&tensor::parse(text)?)?,
        "step" => step::check(&step::parse(text)?)?,
        _ => panic!("there is no IR '{ir}'"),
    }
    Ok("sound")
}

/// Small random numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// Bytes of `bits` bits of elements; integers stay in the range the buffer promises, or small.
    fn fill(&mut self, bytes: &mut [u8], view: &tensor::Buffer, dims: &dyn Fn(&str) -> Option<i64>) {
        let range = view.facts.iter().find_map(|f| match f {
            tensor::Fact::Range(lo, hi) => lo.eval(dims).zip(hi.eval(dims)),
            _ => None,
        });
        let width = view.dtype.bits();
        for at in 0..bytes.len() as i64 * 8 / width {
            let bits = match view.dtype {
                DType::F32 | DType::BF16 => {
                    let v = self.next() as f32 / (1u64 << 30) as f32 - 1.0;
                    u64::from(v.to_bits() >> (32 - width))
                }
                DType::Int { .. } => {
                    let (lo, hi) = range.unwrap_or((0, 1 << (width - 1).min(6)));
                    (lo + (self.next() as i64).rem_euclid((hi - lo).max(1))) as u64
                }
                DType::Fixed { .. } => self.next() << 31 | self.next(),
                t => panic!("no random values of {t}"),
            };
            lathe_ir::write_bits(bytes, at * width, width, bits).expect("inside");
        }
    }
}

/// The kernel as its caller must see it: shapes go on to what it declares of padding.
fn padded(k: &Kernel, dims: &dyn Fn(&str) -> Option<i64>) -> Kernel {
    let mut k = k.clone();
    for v in k.params.iter_mut().flat_map(|p| &mut p.views) {
        for d in 0..v.shape.len() {
            let n = v.shape[d].eval(dims).expect("bound dimensions");
            v.shape[d] = ((n as usize).next_multiple_of(v.padding(d) as usize) as i64).into();
        }
    }
    k
}

/// Runs both kernels on the same random arguments and demands equal results: the same bits, or (where a step changes
/// the order of a sum) nearly the same.
fn same_meaning(before: &Kernel, after: &Kernel, tag: Tag) {
    for (seed, sizes) in [[1, 1, 1], [4, 8, 16], [5, 3, 7], [16, 4, 1], [33, 17, 9]].into_iter().enumerate() {
        let dims: Vec<(&str, i64)> =
            before.dims.iter().map(|d| &**d).zip(sizes.into_iter().cycle()).collect();
        let get = |n: &str| dims.iter().find(|(d, _)| *d == n).map(|(_, v)| *v);
        let mut random = Random(seed as u64);
        let mut memory = Memory::new(&dims);
        for p in &before.params {
            let bits = p.bits.eval(&get).expect("bound dimensions");
            // Behind each argument lies what padding may touch.
            let mut bytes = vec![0; (bits as usize).div_ceil(8).next_multiple_of(8) + 4096];
            random.fill(&mut bytes, &p.views[0], &get);
            memory.set(&p.name, &bytes);
        }
        let run = |k: &Kernel| {
            let mut m = memory.clone();
            interpret(&padded(k, &get), &mut m).unwrap_or_else(|e| panic!("with {dims:?}: {e}\n{k}"));
            m
        };
        let (a, b) = (run(before), run(after));
        for p in before.params.iter().filter(|p| p.access != Access::In) {
            let n = p.bits.eval(&get).expect("bound dimensions") as usize / 8;
            let (x, y) = (&a.params[&p.name][..n], &b.params[&p.name][..n]);
            if tag == Tag::Bitwise || p.views[0].dtype != DType::F32 {
                assert!(x == y, "'{}' differs with {dims:?}:\n{before}\n{after}", p.name);
                continue;
            }
            let floats = |b: &[u8]| -> Vec<f32> {
                b.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
            };
            let (x, y) = (floats(x), floats(y));
            let scale = x.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
            let near = x.iter().zip(&y).all(|(x, y)| (x - y).abs() <= 1e-5 * scale);
            assert!(near, "'{}' differs with {dims:?}: {x:?} {y:?}\n{before}\n{after}", p.name);
        }
    }
}

fn scheduled(text: &str, steps: &str) -> String {
    let k = tensor::parse(text).expect("the kernel parses");
    tensor::check(&k).expect("the kernel is sound");
    match Schedule::replay(k.clone(), steps) {
        Err(e) => format!("refused: {e}"),
        Ok(s) => {
            for step in s.steps() {
                same_meaning(&step.before, &step.after, step.tag);
            }
            same_meaning(&k, s.kernel(), s.tag());
            s.kernel().to_string()
        }
    }
}

/// What a kernel without dimensions writes when the elements of each argument are 0, 1, 2, ...
fn ran(text: &str) -> Result<String, IrError> {
    let k = tensor::parse(text)?;
    tensor::check(&k)?;
    let mut memory = Memory::default();
    for p in &k.params {
        let (bits, width) = (p.bits.as_const().expect("no dimensions"), p.views[0].dtype.bits());
        let mut bytes = vec![0; bits as usize / 8 + 8];
        for i in 0..bits / width {
            lathe_ir::write_bits(&mut bytes, i * width, width, i as u64).expect("inside");
        }
        memory.set(&p.name, &bytes);
    }
    interpret(&k, &mut memory)?;
    let mut out = String::new();
    for p in k.params.iter().filter(|p| p.access != Access::In) {
        let v = &p.views[0];
        let shape = v.shape.iter().map(|s| s.as_const().expect("no dimensions") as usize).collect();
        let bytes = memory.params[&p.name].clone();
        let t = lathe_ir::Tensor { shape, dtype: v.dtype, encoding: None, bytes };
        writeln!(out, "{}: {:?}", p.name, t.values()).expect("a string takes all");
    }
    Ok(out)
}

fn passed(header: &str, text: &str, table: &OpTable) -> Result<String, IrError> {
    let (name, target) = header.split_once(' ').unwrap_or((header, "portable"));
    let target = Target::named(target).expect("a target");
    let g = graph::parse(text)?;
    graph::check(&g, table)?;
    let pass = pass(name).unwrap_or_else(|| panic!("there is no pass '{name}'"));
    let out = pass.run(&g, table, &target)?;
    graph::check(&out, table)?;
    Ok(out.to_string())
}

fn planned(fixed: &str, text: &str, table: &OpTable) -> Result<String, IrError> {
    let g = graph::parse(text)?;
    graph::check(&g, table)?;
    let mut bounds = Bounds { most: g.dims.iter().cloned().collect(), ..Bounds::default() };
    for word in fixed.split_whitespace() {
        let (name, value) = word.split_once('=').expect("NAME=NUMBER");
        bounds.fixed.insert(name.into(), value.parse().expect("a number"));
    }
    let p = plan(&g, table, &bounds);
    step::check(&p.load)?;
    step::check(&p.run)?;
    let mut out = format!("{}{}arena {} bytes\n", p.load, p.run, p.arena_bytes);
    for k in &p.kernels {
        tensor::check(&k.kernel)?;
        writeln!(out, "{}: {}", k.name, k.operators.join(", ")).expect("a string takes all");
    }
    Ok(out)
}

/// The steps of each kernel of a graph, by rule.
fn ruled(target: &str, text: &str, table: &OpTable) -> Result<String, IrError> {
    let target = Target::named(target).expect("a target");
    let mut out = String::new();
    for k in plan(&graph::parse(text)?, table, &Bounds::default()).kernels {
        let s = lathe_schedule::schedule(
            k.kernel.clone(),
            &k.parts,
            &target,
            None,
            &lathe_schedule::Decisions::new(),
        );
        let s = s.unwrap_or_else(|e| panic!("{e}"));
        writeln!(out, "# {}\n{}", k.describe(), s.trace()).unwrap();
    }
    Ok(out)
}

/// Runs one case (all after its header) and returns it with the result it has now.
fn run(header: &str, body: &str, table: &OpTable) -> String {
    let (kind, rest) = header.split_once(' ').unwrap_or((header, ""));
    let parts: Vec<&str> = body.trim_end().split(RULE).collect();
    let given = if kind == "schedule" { 2 } else { 1 };
    assert!(matches!(parts.len() - given, 0 | 1), "{given} parts and a result are expected:\n{body}");
    let result = match kind {
        "parse" => shown(parsed(rest, parts[0])),
        "check" => shown(checked(rest, parts[0], table)),
        "run" => shown(ran(parts[0])),
        "schedule" => scheduled(parts[0], parts[1]),
        "pass" => shown(passed(rest, parts[0], table)),
        "lower" => shown(lowered(parts[0])),
        "plan" => shown(planned(rest, parts[0], table)),
        "rules" => shown(ruled(rest, parts[0], table)),
        _ => panic!("there is no test '{kind}'"),
    };
    format!("{}{RULE}{}\n", parts[..given].join(RULE), result.trim_end())
}

#[test]
fn files_say_what_happens() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files");
    let (table, update) = (lathe_ops::table(), std::env::var_os("UPDATE_EXPECT").is_some());
    let mut failed = String::new();
    let mut cases = 0;
    for path in files(&folder) {
        let text = std::fs::read_to_string(&path).expect("the file can be read");
        assert!(text.starts_with(HEADER), "{} starts with no '{HEADER}'", path.display());
        let mut now = vec![];
        for case in format!("\n{text}").split(&format!("\n{HEADER}")).skip(1) {
            let (header, body) = case.split_once('\n').expect("something follows the header");
            let result = std::panic::catch_unwind(|| run(header.trim(), body, &table));
            cases += 1;
            match result {
                Ok(result) => now.push(format!("{HEADER}{header}\n{result}")),
                Err(_) => {
                    writeln!(failed, "{}: the case '{header}' above panics\n{body}", path.display()).unwrap();
                    now.push(format!("{HEADER}{header}\n{body}"));
                }
            }
        }
        let now = now.join("\n");
        if now == text {
            continue;
        }
        if update {
            std::fs::write(&path, now).expect("the file can be written");
        } else {
            let at = now.lines().zip(text.lines()).position(|(a, b)| a != b).unwrap_or(0);
            let (got, want) = (now.lines().nth(at), text.lines().nth(at));
            let name = path.display();
            writeln!(failed, "{name}:{}: got {got:?}, the file says {want:?}", at + 1).unwrap();
        }
    }
    assert!(failed.is_empty(), "{failed}UPDATE_EXPECT=1 writes what happens now into the files");
    assert!(cases >= 60, "only {cases} cases were found");
}

#[test]
fn every_primitive_and_pass_has_cases() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files");
    let text: String =
        files(&folder).iter().map(|p| std::fs::read_to_string(p).expect("it can be read")).collect();
    let mut counts: std::collections::HashMap<String, (usize, usize)> = std::collections::HashMap::new();
    for case in format!("\n{text}").split(&format!("\n{HEADER}")).filter(|c| c.starts_with("schedule")) {
        let parts: Vec<&str> = case.split(RULE).collect();
        let words: std::collections::HashSet<&str> =
            parts[1].lines().filter_map(|step| step.split_whitespace().next()).collect();
        let refused = parts[2].strip_prefix("refused: ").and_then(|r| r.split_whitespace().next());
        for word in words {
            let (good, bad) = counts.entry(word.to_string()).or_default();
            *good += usize::from(refused.is_none());
            *bad += usize::from(refused == Some(word));
        }
    }
    for p in lathe_schedule::PRIMITIVES {
        let (good, bad) = counts.get(p.name).copied().unwrap_or_default();
        assert!(good >= 2 && bad >= 1, "'{}' is applied in {good} cases and refused in {bad}", p.name);
    }
    for p in lathe_rewrite::PASSES {
        let cases = text.lines().filter_map(|l| l.strip_prefix("# test: pass "));
        let own = cases.filter(|c| c.split(' ').next() == Some(p.name));
        assert!(own.count() >= 4, "'{}' has few cases", p.name);
    }
}
