//! Control: recursion over tagged trees (a child-sum TreeLSTM, Tai et al. 2015) and a `while` loop that decodes greedily with a
//! cache, each as a module of graphs, interpreted and compiled, against plain loops in f64.

use crate::{Random, cache};
use lathe_compile::Program;
use lathe_ir::graph::{Item, check_module, interpret_module, parse_module};
use lathe_ir::{Bounds, Int, Name, Tensor, encodings::encoding};
use lathe_runtime::detect_target;
use std::collections::HashMap;
use std::sync::Arc;

/// Width of a word's vector, and of a state.
const D: usize = 8;
const H: usize = 16;

const TREE_LSTM: &str = "module treelstm() {
  data tree { node(f32[1, 8], forest) }
  data forest { none(); more(tree, forest) }

  function cell(t: tree) -> (f32[1, 16], f32[1, 16]) {
    match t {
      node(x, children) {
        graph gate() {
          x: f32[1, 8] = input
          w: f32[16, 8] = const \"wf\"
          b: f32[16] = const \"bf\"
          wx: f32[1, 16] = matmul(x, w)
          y: f32[1, 16] = add(wx, b)
          return y
        } -> fx
        call sum(children, fx) -> hs, cs
        graph state() {
          x: f32[1, 8] = input
          hs: f32[1, 16] = input
          cs: f32[1, 16] = input
          wi: f32[16, 8] = const \"wi\"
          ui: f32[16, 16] = const \"ui\"
          bi: f32[16] = const \"bi\"
          wo: f32[16, 8] = const \"wo\"
          uo: f32[16, 16] = const \"uo\"
          bo: f32[16] = const \"bo\"
          wu: f32[16, 8] = const \"wu\"
          uu: f32[16, 16] = const \"uu\"
          bu: f32[16] = const \"bu\"
          i0: f32[1, 16] = matmul(x, wi)
          i1: f32[1, 16] = matmul(hs, ui)
          i2: f32[1, 16] = add(i0, i1)
          i3: f32[1, 16] = add(i2, bi)
          i: f32[1, 16] = sigmoid(i3)
          o0: f32[1, 16] = matmul(x, wo)
          o1: f32[1, 16] = matmul(hs, uo)
          o2: f32[1, 16] = add(o0, o1)
          o3: f32[1, 16] = add(o2, bo)
          o: f32[1, 16] = sigmoid(o3)
          u0: f32[1, 16] = matmul(x, wu)
          u1: f32[1, 16] = matmul(hs, uu)
          u2: f32[1, 16] = add(u0, u1)
          u3: f32[1, 16] = add(u2, bu)
          u: f32[1, 16] = tanh(u3)
          iu: f32[1, 16] = mul(i, u)
          c: f32[1, 16] = add(iu, cs)
          t: f32[1, 16] = tanh(c)
          h: f32[1, 16] = mul(o, t)
          return h, c
        } -> h, c
        return h, c
      }
    } -> h, c
    return h, c
  }

  function sum(f: forest, fx: f32[1, 16]) -> (f32[1, 16], f32[1, 16]) {
    match f {
      none() {
        graph nothing() {
          fx: f32[1, 16] = input
          zero: f32[1, 16] = sub(fx, fx)
          return zero
        } -> zero
        return zero, zero
      }
      more(t, rest) {
        call cell(t) -> h, c
        call sum(rest, fx) -> hs, cs
        graph child() {
          h: f32[1, 16] = input
          c: f32[1, 16] = input
          hs: f32[1, 16] = input
          cs: f32[1, 16] = input
          fx: f32[1, 16] = input
          u: f32[16, 16] = const \"uf\"
          uh: f32[1, 16] = matmul(h, u)
          f0: f32[1, 16] = add(fx, uh)
          f: f32[1, 16] = sigmoid(f0)
          fc: f32[1, 16] = mul(f, c)
          ys: f32[1, 16] = add(hs, h)
          yc: f32[1, 16] = add(cs, fc)
          return ys, yc
        } -> ys, yc
        return ys, yc
      }
    } -> a, b
    return a, b
  }
}";

/// Dependency trees of three sentences: `word(dependents)`.
const SENTENCES: [&str; 3] = [
    "sat(cat(the) on(mat(the red)))",
    "gave(she book(a about(birds)) him yesterday)",
    "said(he that(is(hypothesis(the old) longer(no) tenable(entirely))) quietly(very))",
];

/// A tree of words.
struct Word {
    vector: Vec<f32>,
    children: Vec<Word>,
}

/// Reads words up to a closing bracket or the end; a word's vector follows from its letters.
fn words(text: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Vec<Word> {
    let mut out = vec![];
    loop {
        while text.next_if(|c| *c == ' ').is_some() {}
        let mut letters = String::new();
        while let Some(c) = text.next_if(|c| c.is_alphabetic()) {
            letters.push(c);
        }
        if letters.is_empty() {
            text.next();
            return out;
        }
        let seed = letters.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
        let vector = Random(seed).floats(D);
        let children = if text.next_if(|c| *c == '(').is_some() { words(text) } else { vec![] };
        out.push(Word { vector, children });
    }
}

fn item(w: &Word) -> Item {
    let forest = w
        .children
        .iter()
        .rev()
        .fold(Item::tree("none", vec![]), |rest, c| Item::tree("more", vec![item(c), rest]));
    Item::tree("node", vec![Tensor::f32(&[1, D], &w.vector).into(), forest])
}

/// `w x` in f64.
fn product(w: &[f64], x: &[f64]) -> Vec<f64> {
    w.chunks(x.len()).map(|r| r.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
}

fn sum(vectors: &[Vec<f64>]) -> Vec<f64> {
    (0..vectors[0].len()).map(|i| vectors.iter().map(|v| v[i]).sum()).collect()
}

fn sigmoid(v: f64) -> f64 {
    1.0 / (1.0 + (-v).exp())
}

/// The paper's equations 2 to 8.
fn cell(w: &Word, p: &HashMap<&str, Vec<f64>>) -> (Vec<f64>, Vec<f64>) {
    let x: Vec<f64> = w.vector.iter().map(|v| f64::from(*v)).collect();
    let children: Vec<_> = w.children.iter().map(|c| cell(c, p)).collect();
    let mut hs = vec![vec![0.0; H]];
    hs.extend(children.iter().map(|(h, _)| h.clone()));
    let hs = sum(&hs);
    let gate = |g: &str, h: &[f64]| {
        sum(&[
            product(&p[&*format!("w{g}")], &x),
            product(&p[&*format!("u{g}")], h),
            p[&*format!("b{g}")].clone(),
        ])
    };
    let (i, o, u) = (gate("i", &hs), gate("o", &hs), gate("u", &hs));
    let mut c: Vec<f64> = (0..H).map(|j| sigmoid(i[j]) * u[j].tanh()).collect();
    for (h, ck) in &children {
        let f = gate("f", h);
        (0..H).for_each(|j| c[j] += sigmoid(f[j]) * ck[j]);
    }
    ((0..H).map(|j| sigmoid(o[j]) * c[j].tanh()).collect(), c)
}

fn close(got: &Item, want: &[f64]) {
    let got = got.tensor().unwrap().values();
    assert_eq!(got.len(), want.len());
    for (a, b) in got.iter().zip(want) {
        assert!((a - b).abs() < 1e-5, "{a} is not {b}");
    }
}

fn parameters() -> HashMap<&'static str, Vec<f64>> {
    let mut r = Random(11);
    let names = ["wi", "ui", "bi", "wf", "uf", "bf", "wo", "uo", "bo", "wu", "uu", "bu"];
    let size = |n: &str| {
        if n.starts_with('w') {
            H * D
        } else if n.starts_with('u') {
            H * H
        } else {
            H
        }
    };
    names.into_iter().map(|n| (n, r.floats(size(n)).iter().map(|v| f64::from(*v * 0.5)).collect())).collect()
}

fn constants(p: &HashMap<&'static str, Vec<f64>>) -> HashMap<Name, Tensor> {
    p.iter()
        .map(|(n, v)| {
            let data: Vec<f32> = v.iter().map(|v| *v as f32).collect();
            let shape = if v.len() == H { vec![H] } else { vec![H, v.len() / H] };
            ((*n).into(), Tensor::f32(&shape, &data))
        })
        .collect()
}

#[test]
fn a_tree_lstm_recurses_over_trees() {
    let (p, module) = (parameters(), parse_module(TREE_LSTM).unwrap());
    let constants = constants(&p);
    let table = lathe_ops::table();
    check_module(&module, &table).unwrap();
    assert_eq!(parse_module(&module.to_string()).unwrap(), module);
    let mut compiled =
        Program::new(&module, &["pack"], &constants, &detect_target().unwrap(), cache(), 1).unwrap();
    for sentence in SENTENCES {
        let tree = words(&mut sentence.chars().peekable()).remove(0);
        let (h, c) = cell(&tree, &p);
        let args = [item(&tree)];
        for got in [
            interpret_module(&module, &table, &constants, "cell", &args).unwrap(),
            compiled.run("cell", &args).unwrap(),
        ] {
            close(&got[0], &h);
            close(&got[1], &c);
        }
    }
    // As deep as a list of a thousand words, where every word hangs on the next.
    let mut chain = Word { vector: vec![0.1; D], children: vec![] };
    for i in 0..1000 {
        chain = Word { vector: vec![(i % 7) as f32 * 0.1; D], children: vec![chain] };
    }
    close(&compiled.run("cell", &[item(&chain)]).unwrap()[0], &cell(&chain, &p).0);
}

const DECODE: &str = "module decode() {
  function answer(first: i32[1], from: i32[1], empty: i32[48], k0: f32[48, 1, 16]{keys16}, v0: f32[48, 1, 16]{values16}) -> (i32[48], i32[1]) {
    while token = first, position = from, list = empty, k = k0, v = v0 {
      graph goes_on() {
        token: i32[1] = input
        position: i32[1] = input
        room: i32[1] = below(position) {limit = 40}
        open: i32[1] = differs(token) {from = 3}
        go: i32[1] = both(room, open)
        return go
      } -> go
      return go
    } do {
      graph step() {
        token: i32[1] = input
        position: i32[1] = input
        list: i32[48] = state
        k: f32[48, 1, 16]{keys16} = state
        v: f32[48, 1, 16]{values16} = state
        embed: f32[32, 16] = const \"embed\"
        head: f32[32, 16] = const \"head\"
        wq: f32[16, 16] = const \"wq\"
        wk: f32[16, 16] = const \"wk\"
        wv: f32[16, 16] = const \"wv\"
        pages: i32[1, 3] = const \"pages\"
        sequence: i32[1] = const \"sequence\"
        x: f32[1, 16] = take(embed, token)
        q: f32[1, 16] = matmul(x, wq)
        kx: f32[1, 16] = matmul(x, wk)
        vx: f32[1, 16] = matmul(x, wv)
        k1: f32[48, 1, 16]{keys16} = put(k, kx, position)
        v1: f32[48, 1, 16]{values16} = put(v, vx, position)
        y: f32[1, 16] = attention(q, k1, v1, pages, sequence, position) {heads = 1}
        z: f32[1, 16] = add(x, y)
        logits: f32[1, 32] = matmul(z, head)
        next: i32[1] = argmax(logits)
        after: i32[1] = offset(position) {by = 1}
        list1: i32[48] = place(list, next, after)
        return next, after, list1, k1, v1
      } -> next, after, list1, k1, v1
      return next, after, list1, k1, v1
    } -> last, end, list, k, v
    return list, end
  }
}";

/// The same decoding with growing lists; the smallest lead of a chosen token says that rounding decided nothing.
fn decode(p: &HashMap<&str, Vec<f64>>, mut token: usize) -> (Vec<i64>, f64) {
    let (mut keys, mut values, mut out, mut lead) = (vec![], vec![], vec![token as i64], f64::INFINITY);
    while out.len() <= 40 && token != 3 {
        let x = p["embed"][token * 16..][..16].to_vec();
        keys.push(product(&p["wk"], &x));
        values.push(product(&p["wv"], &x));
        let q = product(&p["wq"], &x);
        let e: Vec<f64> = keys.iter().map(|k| (product(k, &q)[0] / 4.0).exp()).collect();
        let s: f64 = e.iter().sum();
        let z: Vec<f64> = (0..16)
            .map(|c| x[c] + e.iter().zip(&values).map(|(e, v): (_, &Vec<f64>)| e / s * v[c]).sum::<f64>())
            .collect();
        let logits = product(&p["head"], &z);
        let mut order: Vec<usize> = (0..32).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        lead = lead.min(logits[order[0]] - logits[order[1]]);
        token = order[0];
        out.push(token as i64);
    }
    (out, lead)
}

/// A zeroed cache.
fn empty(name: &str) -> Item {
    let dims: Vec<Int> = [48, 1, 16].map(Int::from).to_vec();
    let e = encoding(name, &dims).unwrap();
    let bytes = e.bits.simplify(&Bounds::new()).as_const().unwrap() as usize / 8;
    let t = Tensor {
        shape: vec![48, 1, 16],
        dtype: lathe_ir::DType::F32,
        encoding: Some(Arc::new(e)),
        bytes: vec![0; bytes],
    };
    t.into()
}

#[test]
fn a_while_loop_decodes() {
    let mut r = Random(23);
    let sizes = [("embed", 32 * 16), ("head", 32 * 16), ("wq", 256), ("wk", 256), ("wv", 256)];
    let p: HashMap<&str, Vec<f64>> =
        sizes.map(|(n, s)| (n, r.floats(s).iter().map(|v| f64::from(*v)).collect())).into();
    let mut constants: HashMap<Name, Tensor> = HashMap::new();
    for (n, v) in &p {
        let data: Vec<f32> = v.iter().map(|v| *v as f32).collect();
        constants.insert((*n).into(), Tensor::f32(&[v.len() / 16, 16], &data));
    }
    constants.insert("sequence".into(), Tensor::i32(&[1], &[0]));
    // Keys and values go where the position says, so the pages are in order.
    constants.insert("pages".into(), Tensor::i32(&[1, 3], &[0, 1, 2]));
    let (module, table) = (parse_module(DECODE).unwrap(), lathe_ops::table());
    check_module(&module, &table).unwrap();
    let mut compiled = Program::new(&module, &[], &constants, &detect_target().unwrap(), cache(), 1).unwrap();
    let mut lengths = vec![];
    for first in 4..12 {
        let (want, lead) = decode(&p, first as usize);
        assert!(lead > 1e-4, "the test's choices are clear");
        let mut list = [0; 48];
        list[0] = first;
        let args: Vec<Item> = vec![
            Tensor::i32(&[1], &[first]).into(),
            Tensor::i32(&[1], &[0]).into(),
            Tensor::i32(&[48], &list).into(),
            empty("keys16"),
            empty("values16"),
        ];
        for got in [
            interpret_module(&module, &table, &constants, "answer", &args).unwrap(),
            compiled.run("answer", &args).unwrap(),
        ] {
            let end = got[1].tensor().unwrap().to_i64()[0] as usize;
            assert_eq!(got[0].tensor().unwrap().to_i64()[..=end], want, "from token {first}");
        }
        lengths.push(want.len());
    }
    lengths.sort_unstable();
    assert!(lengths[0] < lengths[7], "the loops end at different times: {lengths:?}");
}

/// What the checker of modules refuses.
#[test]
fn unsound_modules_are_refused() {
    let refused = |text: &str, old: &str, new: &str, word: &str| {
        assert!(text.contains(old), "{old}");
        let module = parse_module(&text.replacen(old, new, 1)).unwrap();
        let error = check_module(&module, &lathe_ops::table()).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    refused(
        TREE_LSTM,
        "call cell(t)",
        "call cell(rest)",
        "the arguments of 'cell' are (forest), expected (tree)",
    );
    refused(TREE_LSTM, "call sum(rest, fx)", "call total(rest, fx)", "there is no function 'total'");
    refused(TREE_LSTM, "none() {", "node(a, b) {", "one arm for each variant of 'forest'");
    refused(
        TREE_LSTM,
        "return zero, zero",
        "return zero",
        "the results of 'more' are (f32[1, 16], f32[1, 16])",
    );
    refused(TREE_LSTM, "return h, c\n      }", "return h, d\n      }", "'d' is not in scope");
    refused(DECODE, "token = first", "token = empty", "'token' are (i32[48]), expected (i32[1])");
    refused(
        DECODE,
        "return next, after, list1, k1, v1\n    }",
        "return next, after, list, k1, v1\n    }",
        "'list' was updated in place",
    );
    refused(DECODE, "list = empty, ", "", "'list' is not in scope");
}
