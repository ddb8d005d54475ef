//! Online reductions: attention's softmax derived from three naive loops to one pass over the keys; the place of the largest
//! value; mean and variance; and each of them split over the reduction. Every program is made by schedule steps from the
//! naive one, interpreted, and compiled.

use crate::{Random, cache};
use lathe_compile::Function;
use lathe_ir::tensor::{Iter, Kernel, Memory, Stmt, for_each, interpret, parse};
use lathe_runtime::detect_target;
use lathe_schedule::Schedule;

const ATTENTION: &str = "kernel f() {
  in x: f32[64]
  in v: f32[64, 16]
  out y: f32[16]
  alloc m: f32[] on register
  Z: m[] = -1e30f32
  for j in 64 reduce serial { M: m[] max = x[j] }
  alloc p: f32[64] on workspace
  for a in 64 spatial serial { P: p[a] = exp(x[a] - m[]) }
  alloc s: f32[] on register
  Y: s[] = 0f32
  for b in 64 reduce serial { S: s[] sum = p[b] }
  alloc o: f32[16] on workspace
  for z in 16 spatial serial { O: o[z] = 0f32 }
  for d in 64 reduce serial { for c in 16 spatial serial { W: o[c] sum = p[d] * v[d, c] } }
  for i in 16 spatial serial { R: y[i] = o[i] / s[] }
}";

const ARGMAX: &str = "kernel f() {
  in x: f32[64]
  out v: f32[1]
  out at: i32[1]
  Z: v[0], at[0] = -inf(f32), 2147483647i32
  for k in 64 reduce serial { S: v[0], at[0] argmax = x[k], i32(k) }
}";

const WELFORD: &str = "kernel f() {
  in x: f32[64]
  out n: f32[1]
  out mean: f32[1]
  out m2: f32[1]
  Z: n[0], mean[0], m2[0] = 0f32, 0f32, 0f32
  for k in 64 reduce serial { S: n[0], mean[0], m2[0] welford = 1f32, x[k], 0f32 }
}";

/// Results of a program by the interpreter, and compiled for this machine; they must agree.
fn run(k: &Kernel, inputs: &[&[f32]]) -> Vec<Vec<f32>> {
    let size = |p: &lathe_ir::tensor::Param| p.bits.as_const().unwrap() as usize / 8;
    let bytes = |d: &[f32]| d.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let given: Vec<(&str, Vec<u8>)> =
        k.params.iter().zip(inputs).map(|(p, d)| (&*p.name, bytes(d))).collect();
    let mut memory = Memory::new(&[]);
    k.params.iter().for_each(|p| memory.set(&p.name, &vec![0; size(p)]));
    given.iter().for_each(|(n, d)| memory.set(n, d));
    interpret(k, &mut memory).unwrap();
    let given: Vec<(&str, &[u8])> = given.iter().map(|(n, d)| (*n, d.as_slice())).collect();
    let compiled = Function::new(k, &detect_target().unwrap(), cache(), 1).unwrap().run(&[], &given).unwrap();
    let read = |b: &[u8]| b.chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect::<Vec<_>>();
    let mut results = vec![];
    for p in k.params.iter().skip(inputs.len()) {
        let (compiled, meant) = (read(&compiled[&p.name]), read(&memory.params[&p.name]));
        for (a, b) in compiled.iter().zip(&meant) {
            let same_bits = a.to_bits() == b.to_bits();
            assert!(same_bits || (a - b).abs() <= 1e-5 * b.abs().max(1e-3), "compiled {a}, meant {b}");
        }
        results.push(meant);
    }
    results
}

/// The naive program and what the steps make of it.
fn derived(naive: &str, steps: &[&str]) -> Kernel {
    let mut s = Schedule::new(parse(naive).unwrap());
    steps.iter().for_each(|step| s.step(step).unwrap());
    s.kernel().clone()
}

fn close(a: f32, b: f64) {
    assert!((f64::from(a) - b).abs() <= 2e-6 * b.abs().max(1.0), "{a} is not {b}");
}

/// Loops that read an input, outermost ones only: how often the program goes over it.
fn passes(k: &Kernel, input: &str) -> usize {
    let reads = |s: &Stmt| {
        let mut found = false;
        for_each(std::slice::from_ref(s), &mut |s| {
            if let Stmt::Store(b) = s {
                found |= b.values.iter().any(|v| v.loads(input));
            }
        });
        found
    };
    k.body.iter().filter(|s| reads(s)).count()
}

#[test]
fn softmax_attention_in_one_pass_and_in_parts() {
    let mut r = Random(3);
    let x: Vec<f32> = r.floats(64).iter().map(|v| v * 20.0).collect();
    let v = r.floats(64 * 16);
    let e: Vec<f64> = x.iter().map(|x| f64::from(*x).exp()).collect();
    let sum: f64 = e.iter().sum();
    let want: Vec<f64> = (0..16)
        .map(|c| e.iter().enumerate().map(|(j, e)| e / sum * f64::from(v[j * 16 + c])).sum())
        .collect();
    let one_pass = ["online j a b d", "contract p"];
    let parts = [&one_pass[..], &["split j 16", "partials j.o"]].concat();
    for (steps, over_keys) in [(&[][..], 2), (&one_pass, 1), (&parts, 1)] {
        let k = derived(ATTENTION, steps);
        assert_eq!(passes(&k, "x"), over_keys, "{k}");
        run(&k, &[&x, &v])[0].iter().zip(&want).for_each(|(a, b)| close(*a, *b));
    }
    let mut kinds = vec![];
    for_each(&derived(ATTENTION, &parts).body, &mut |s| {
        if let Stmt::For(l) = s
            && &*l.var == "j.o"
        {
            kinds.push(l.iter);
        }
    });
    assert_eq!(kinds, [Iter::Spatial], "the parts are independent of each other");
}

#[test]
fn argmax_and_its_parts() {
    let mut x = Random(4).floats(64);
    x[41] = 2.0;
    x[17] = 2.0;
    for steps in [&[][..], &["split k 8", "rfactor k.i"]] {
        let y = run(&derived(ARGMAX, steps), &[&x]);
        assert_eq!((y[0][0], y[1][0].to_bits()), (2.0, 17), "the first of the largest");
    }
}

#[test]
fn mean_and_variance_and_their_parts() {
    // A mean far from zero: the difference of sums of squares would lose all digits.
    let x: Vec<f32> = Random(5).floats(64).iter().map(|v| 256.0 + v).collect();
    let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / 64.0;
    let m2 = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>();
    for steps in [&[][..], &["split k 16", "rfactor k.i"]] {
        let y = run(&derived(WELFORD, steps), &[&x]);
        assert_eq!(y[0][0], 64.0);
        close(y[1][0], mean);
        assert!((f64::from(y[2][0]) - m2).abs() < 1e-3 * m2, "{} is not {m2}", y[2][0]);
    }
}
