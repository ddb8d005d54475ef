//! Damaged programs and arguments that do not fit are refused in one line; nothing panics.

use lathe_ir::graph::Graph;
use lathe_ir::{Name, Tensor};
use lathe_onnx::suite::value;
use lathe_onnx::{Fault, Interpreted, Model, Runner, Value};
use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

fn none(_: &str, _: u64, _: Option<u64>) -> Result<Vec<u8>, String> {
    Err("there is no other file".into())
}

/// The interpreter, for small regions and few of them.
#[derive(Default)]
struct Small(usize, Interpreted);

impl Runner for Small {
    fn prepare(&mut self, graph: &Graph, constants: &HashMap<Name, Arc<Tensor>>) -> Result<usize, Fault> {
        self.0 += 1;
        let bits = |v: &lathe_ir::graph::Value| v.ty.bits().as_const().unwrap_or(i64::MAX);
        if self.0 > 20 || graph.nodes.len() > 200 || graph.values.iter().any(|v| bits(v) > 1 << 18) {
            return Err(Fault::Unsupported("a region that is too large for a test".into()));
        }
        self.1.prepare(graph, constants)
    }

    fn call(
        &mut self,
        region: usize,
        inputs: &[(Name, Arc<Tensor>)],
        spent: Vec<Tensor>,
    ) -> Result<Vec<Tensor>, Fault> {
        self.1.call(region, inputs, spent)
    }
}

/// The committed cases, or those of a folder that is named.
fn cases() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let folder = std::env::var("LATHE_ONNX_CASES").map_or(own, PathBuf::from);
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

/// splitmix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An array in another shape: an axis less, one more, axes in reverse, an axis of nothing, or a single element.
fn reshaped(v: &mut Value, how: u64) {
    let Value::Array(a) = v else { return };
    let size = a.tensor.dtype.bits() as usize / 8;
    let tensor = Arc::make_mut(&mut a.tensor);
    match how % 5 {
        0 if !tensor.shape.is_empty() => {
            tensor.shape.remove(0);
        }
        1 => tensor.shape.insert(0, 1),
        2 => tensor.shape.reverse(),
        3 if !tensor.shape.is_empty() => tensor.shape[0] = 0,
        _ => tensor.shape = vec![],
    }
    tensor.bytes.resize(tensor.shape.iter().product::<usize>() * size, 0);
}

fn inputs(model: &Model, case: &Path) -> Vec<(String, Value)> {
    let mut all = vec![];
    for (i, (name, ty)) in model.inputs().into_iter().enumerate() {
        let Ok(bytes) = std::fs::read(case.join(format!("test_data_set_0/input_{i}.pb"))) else { continue };
        all.extend(value(&bytes, ty).ok().map(|v| (name.to_string(), v)));
    }
    all
}

/// Places where something panicked.
static PANICS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// What a run says, and a note where it panics.
fn run(bytes: &[u8], case: &Path, change: &mut dyn FnMut(usize, &mut Value)) -> Result<(), String> {
    let caught = std::panic::catch_unwind(AssertUnwindSafe(|| run_once(bytes, case, change)));
    caught.unwrap_or_else(|_| Err("a panic".into()))
}

fn note_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        PANICS.lock().unwrap().insert(format!("{place} {}", info.payload_as_str().unwrap_or_default()));
    }));
}

fn nothing_panicked() {
    let _ = std::panic::take_hook();
    let all: Vec<String> = PANICS.lock().unwrap().iter().cloned().collect();
    assert!(all.is_empty(), "{}", all.join("\n"));
}

fn run_once(bytes: &[u8], case: &Path, change: &mut dyn FnMut(usize, &mut Value)) -> Result<(), String> {
    let model = Model::parse(bytes, &none).map_err(|e| e.to_string())?;
    let mut all = inputs(&model, case);
    all.iter_mut().enumerate().for_each(|(i, (_, v))| change(i, v));
    model.run(&all, &mut Small::default()).map(|_| ()).map_err(|e| e.to_string())
}

fn one_line(case: &Path, result: Result<(), String>) {
    if let Err(e) = result {
        assert!(!e.is_empty() && !e.contains('\n'), "{}: {e:?}", case.display());
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    note_panics();
    damaged_files();
    other_shapes();
    nothing_panicked();
}

fn damaged_files() {
    let mut state = std::env::var("LATHE_ONNX_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7);
    for case in cases() {
        let bytes = std::fs::read(case.join("model.onnx")).unwrap();
        for round in 0..60 {
            let mut damaged = bytes.clone();
            match round % 3 {
                0 => damaged.truncate(next(&mut state) as usize % bytes.len()),
                _ => {
                    for _ in 0..1 + round % 4 {
                        let at = next(&mut state) as usize % bytes.len();
                        damaged[at] = next(&mut state) as u8;
                    }
                }
            }
            one_line(&case, run(&damaged, &case, &mut |_, _| ()));
        }
    }
}

/// The shapes of inputs are taken out of the model first: a dimension's field becomes one that is not read.
fn other_shapes() {
    use prost::Message;
    for case in cases() {
        let bytes = std::fs::read(case.join("model.onnx")).unwrap();
        let mut message = lathe_onnx::proto::Model::decode(&*bytes).unwrap();
        for i in message.graph.iter_mut().flat_map(|g| &mut g.input) {
            if let Some(t) = i.r#type.as_mut().and_then(|t| t.tensor_type.as_mut()) {
                t.shape = None;
            }
        }
        let bytes = message.encode_to_vec();
        for which in 0..4 {
            for how in 0..5 {
                let change = &mut |i: usize, v: &mut Value| {
                    if i == which {
                        reshaped(v, how);
                    }
                };
                one_line(&case, run(&bytes, &case, change));
            }
        }
    }
}
