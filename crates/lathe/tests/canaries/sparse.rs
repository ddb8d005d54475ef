//! Sparse: compressed rows times a dense matrix, a sampled dense-dense product, and the elementwise product and sum of two
//! compressed matrices, from tensor-index notation with formats to loops, interpreted and compiled, against SciPy
//! (`bench/peers/sparse_expectations.py`).

use crate::cache;
use lathe_compile::Function;
use lathe_ir::notation::{Lowered, lower, parse};
use lathe_ir::tensor::{Access, Kernel, Memory, inside, interpret};
use lathe_runtime::detect_target;
use serde_json::Value;
use std::collections::HashMap;

const SPMM: &str = "notation spmm(n, m, d) {
  A: f32[n, m] csr
  X: f32[m, d]
  Y: f32[n, d]
  Y[i, j] = A[i, k] * X[k, j]
}";

const SDDMM: &str = "notation sddmm(n, m, d) {
  A: f32[n, m] csr
  Y: f32[n, d]
  Z: f32[d, m]
  S: f32[n, m] csr
  S[i, j] = A[i, j] * Y[i, k] * Z[k, j]
}";

const PRODUCT: &str = "notation product(n, m) {
  A: f32[n, m] csr
  B: f32[n, m] csr
  C: f32[n, m] csr
  C[i, j] = A[i, j] * B[i, j]
}";

const SUM: &str = "notation total(n, m) {
  A: f32[n, m] csr
  B: f32[n, m] csr
  C: f32[n, m] csr
  C[i, j] = A[i, j] + B[i, j]
}";

type Data = HashMap<String, Vec<u8>>;

fn floats(v: &Value) -> Vec<f32> {
    v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn ints(v: &Value) -> Vec<i32> {
    v.as_array().unwrap().iter().map(|v| v.as_i64().unwrap() as i32).collect()
}

fn bytes32(v: &[f32]) -> Vec<u8> {
    v.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn words(b: &[u8]) -> Vec<[u8; 4]> {
    b.chunks(4).map(|c| c.try_into().unwrap()).collect()
}

/// Runs a kernel by the interpreter and compiled, which must agree bit for bit: values are small integers.
fn run(k: &Kernel, dims: &HashMap<String, i64>, given: &Data) -> Data {
    inside(k).unwrap_or_else(|e| panic!("{e}\n{k}"));
    let dims: Vec<(&str, i64)> = k.dims.iter().map(|d| (&**d, dims[&**d])).collect();
    let get = |n: &str| dims.iter().find(|(d, _)| *d == n).map(|(_, v)| *v);
    let mut memory = Memory::new(&dims);
    for p in &k.params {
        let size = p.bits.eval(&get).unwrap() as usize / 8;
        memory.set(&p.name, given.get(&*p.name).unwrap_or(&vec![0; size]));
    }
    interpret(k, &mut memory).unwrap_or_else(|e| panic!("{e}\n{k}"));
    let reads = k.params.iter().filter(|p| p.access == Access::In);
    let params: Vec<(&str, &[u8])> = reads.map(|p| (&*p.name, given[&*p.name].as_slice())).collect();
    let compiled =
        Function::new(k, &detect_target().unwrap(), cache(), 1).unwrap().run(&dims, &params).unwrap();
    let mut out = Data::new();
    for (name, bytes) in compiled {
        assert_eq!(bytes, memory.params[&name], "'{name}' of {k}");
        out.insert(name.to_string(), bytes);
    }
    out
}

/// A case's matrices as parameters, and its dimensions.
fn case(c: &Value) -> (HashMap<String, i64>, Data) {
    let shape = ints(&c["a"]["shape"]);
    let mut dims: HashMap<String, i64> = HashMap::new();
    dims.insert("n".into(), shape[0].into());
    dims.insert("m".into(), shape[1].into());
    dims.insert("d".into(), c["width"].as_i64().unwrap());
    let mut data = Data::new();
    for (name, m) in [("A", &c["a"]), ("B", &c["b"])] {
        let bytes = |v: &Value| ints(v).iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        data.insert(format!("{name}_ptr1"), bytes(&m["ptr"]));
        data.insert(format!("{name}_idx1"), bytes(&m["idx"]));
        data.insert(name.into(), bytes32(&floats(&m["val"])));
        dims.insert(format!("{name}_nnz1"), ints(&m["idx"]).len() as i64);
    }
    for (name, v) in [("X", &c["x"]), ("Y", &c["y"]), ("Z", &c["z"])] {
        data.insert(name.into(), bytes32(&floats(v)));
    }
    (dims, data)
}

fn cases() -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("sparse.json")).unwrap();
    all["cases"].as_array().unwrap().clone()
}

fn lowered(text: &str) -> Lowered {
    let n = parse(text).unwrap();
    assert_eq!(parse(&n.to_string()).unwrap(), n);
    lower(&n).unwrap()
}

#[test]
fn compressed_rows_times_dense() {
    let k = lowered(SPMM);
    assert!(k.count.is_none());
    for c in cases() {
        let (dims, data) = case(&c);
        assert_eq!(run(&k.compute, &dims, &data)["Y"], bytes32(&floats(&c["spmm"])));
    }
}

#[test]
fn sampled_dense_times_dense() {
    let k = lowered(SDDMM);
    assert!(k.count.is_none(), "the result has the places of A");
    for c in cases() {
        let (dims, data) = case(&c);
        let got: Vec<f32> =
            words(&run(&k.compute, &dims, &data)["S"]).into_iter().map(f32::from_le_bytes).collect();
        assert_eq!(got, floats(&c["sddmm"]));
    }
}

/// Two phases: count each row's places, then fill them.
fn assembled(text: &str, places: &str, values: &str) {
    let k = lowered(text);
    let count = k.count.expect("a merged result is assembled");
    for c in cases() {
        let (mut dims, mut data) = case(&c);
        let offsets = run(&count, &dims, &data).remove("C_ptr1").unwrap();
        assert_eq!(
            words(&offsets),
            ints(&c[places]["ptr"]).iter().map(|v| v.to_le_bytes()).collect::<Vec<_>>()
        );
        let nnz = words(&offsets).last().map_or(0, |b| i32::from_le_bytes(*b));
        dims.insert("C_nnz1".into(), nnz.into());
        data.insert("C_ptr1".into(), offsets.clone());
        let out = run(&k.compute, &dims, &data);
        assert_eq!(
            words(&out["C_idx1"]),
            ints(&c[places]["idx"]).iter().map(|v| v.to_le_bytes()).collect::<Vec<_>>()
        );
        // Values, seen as a dense matrix.
        let (n, m) = (dims["n"] as usize, dims["m"] as usize);
        let mut dense = vec![0.0f32; n * m];
        let at = |b: &[u8], i: usize| i32::from_le_bytes(words(b)[i]) as usize;
        for i in 0..n {
            for p in at(&offsets, i)..at(&offsets, i + 1) {
                dense[i * m + at(&out["C_idx1"], p)] = f32::from_le_bytes(words(&out["C"])[p]);
            }
        }
        assert_eq!(dense, floats(&c[values]));
    }
}

#[test]
fn elementwise_product_is_an_intersection() {
    assembled(PRODUCT, "product_places", "product");
}

#[test]
fn elementwise_sum_is_a_union() {
    assembled(SUM, "sum_places", "sum");
}

/// What cannot be lowered says why; what is wrong with a matrix is found at the door.
#[test]
fn refusals() {
    let refused = |text: &str, old: &str, new: &str, word: &str| {
        assert!(text.contains(old), "{old}");
        let error = lower(&parse(&text.replacen(old, new, 1)).unwrap()).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    refused(
        SUM,
        "B: f32[n, m] csr",
        "B: f32[n, m]",
        "a sum over 'j' of a compressed tensor and a dense tensor",
    );
    refused(SPMM, "Y: f32[n, d]", "Y: f32[n, d] csr", "which places a compressed result has");
    refused(SPMM, "X[k, j]", "X[j, k]", "spmm/X: 'j' is below d elsewhere, and below m here");
    refused(PRODUCT, "B[i, j]", "B[j, i]", "elsewhere");
    refused(SPMM, "= A[i, k]", "= Q[i, k]", "spmm/Q: is not declared");
    let k = lowered(SPMM).compute;
    let first = &cases()[0];
    let (dims, mut data) = case(first);
    let run = |data: &Data| {
        let dims: Vec<(&str, i64)> = k.dims.iter().map(|d| (&**d, dims[&**d])).collect();
        let reads = k.params.iter().filter(|p| p.access == Access::In);
        let params: Vec<(&str, &[u8])> = reads.map(|p| (&*p.name, data[&*p.name].as_slice())).collect();
        let f = Function::new(&k, &detect_target().unwrap(), cache(), 1).unwrap();
        f.run(&dims, &params).unwrap_err().to_string()
    };
    let mut with = |change: &dyn Fn(&mut [i32])| {
        let mut idx = ints(&first["a"]["idx"]);
        change(&mut idx);
        data.insert("A_idx1".into(), idx.iter().flat_map(|v| v.to_le_bytes()).collect());
        run(&data)
    };
    let outside = with(&|idx| idx[0] = dims["m"] as i32);
    assert!(outside.contains("'A_idx1' holds 9 at 0, outside 0..9"), "{outside}");
    let ptr = ints(&first["a"]["ptr"]);
    let at = ptr.windows(2).find(|w| w[1] - w[0] > 1).unwrap()[0] as usize;
    let unsorted = with(&|idx| idx.swap(at, at + 1));
    assert!(unsorted.contains("inside a segment"), "{unsorted}");
    let twice = with(&|idx| idx[at] = idx[at + 1]);
    assert!(twice.contains("inside a segment"), "{twice}");
}
