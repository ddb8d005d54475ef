//! Paged and ragged: one attention kernel over a page table for sequences of different lengths, against plain attention over
//! each sequence's own list of keys; facts of the index buffers checked at the door; shared pages copied on write.

use crate::{Random, cache};
use lathe_compile::Session;
use lathe_engine::{PageTable, Pages};
use lathe_ir::{Tensor, graph::parse};
use lathe_runtime::detect_target;
use std::collections::HashMap;

const PAGE: usize = 16;
const HEADS: usize = 4;
const GROUPS: usize = 2;
const DIM: usize = 16;
const PAGES: usize = 12;
const WIDTH: usize = 4;

const GRAPH: &str = "graph paged(T <= 64, B <= 3) {
  k: f32[192, 2, 16]{keys16} = state
  v: f32[192, 2, 16]{values16} = state
  q: f32[T, 64] = input
  new_k: f32[T, 32] = input
  new_v: f32[T, 32] = input
  slots: i32[T] = input
  pages: i32[B, 4] = input
  sequences: i32[T] = input
  positions: i32[T] = input
  k1: f32[192, 2, 16]{keys16} = put(k, new_k, slots)
  v1: f32[192, 2, 16]{values16} = put(v, new_v, slots)
  y: f32[T, 64] = attention(q, k1, v1, pages, sequences, positions) { heads = 4 }
  return y, k1, v1
}";

/// A sequence as a user thinks of it: its own keys and values, in order.
#[derive(Clone, Default)]
struct Plain {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl Plain {
    /// softmax(q k / sqrt(d)) v over all keys so far, head by head, in f64.
    fn attend(&self, q: &[f32]) -> Vec<f64> {
        let mut y = vec![];
        for h in 0..HEADS {
            let part = |row: &[f32]| -> Vec<f64> {
                row[h / (HEADS / GROUPS) * DIM..][..DIM].iter().map(|v| f64::from(*v)).collect()
            };
            let q: Vec<f64> = q[h * DIM..][..DIM].iter().map(|v| f64::from(*v)).collect();
            let dot = |k: &Vec<f32>| part(k).iter().zip(&q).map(|(a, b)| a * b).sum::<f64>();
            let e: Vec<f64> = self.keys.iter().map(|k| (dot(k) / (DIM as f64).sqrt()).exp()).collect();
            let sum: f64 = e.iter().sum();
            let weigh = |c: usize| e.iter().zip(&self.values).map(|(e, v)| e / sum * part(v)[c]).sum::<f64>();
            y.extend((0..DIM).map(weigh));
        }
        y
    }
}

struct Batch {
    session: Session,
    pages: Pages,
    sequences: Vec<(PageTable, Plain)>,
    random: Random,
    copies: usize,
}

impl Batch {
    /// Adds so many tokens to each sequence in one call and checks every row.
    fn step(&mut self, tokens: &[usize]) {
        let (mut q, mut k, mut v, mut want) = (vec![], vec![], vec![], vec![]);
        let (mut slots, mut seq, mut pos) = (vec![], vec![], vec![]);
        for (s, n) in tokens.iter().enumerate() {
            let (table, plain) = &mut self.sequences[s];
            let start = plain.keys.len();
            for copy in self.pages.reserve(table, start, start + n).unwrap() {
                let bytes = PAGE * GROUPS * DIM * 4;
                for state in ["k", "v"] {
                    self.session
                        .copy(state, copy.from as usize * bytes, copy.to as usize * bytes, bytes)
                        .unwrap();
                }
                self.copies += 1;
            }
            for p in start..start + n {
                let [a, b, c] = [HEADS, GROUPS, GROUPS].map(|h| self.random.floats(h * DIM));
                slots.push((table.pages()[p / PAGE] as usize * PAGE + p % PAGE) as i32);
                seq.push(s as i32);
                pos.push(p as i32);
                plain.keys.push(b.clone());
                plain.values.push(c.clone());
                want.extend(plain.attend(&a));
                q.extend(a);
                k.extend(b);
                v.extend(c);
            }
        }
        let t = slots.len();
        let mut pages = vec![0i32; self.sequences.len() * WIDTH];
        for (row, (table, _)) in pages.chunks_mut(WIDTH).zip(&self.sequences) {
            row.iter_mut().zip(table.pages()).for_each(|(r, p)| *r = *p as i32);
        }
        let results = self.session.run(&[
            ("q", &Tensor::f32(&[t, HEADS * DIM], &q)),
            ("new_k", &Tensor::f32(&[t, GROUPS * DIM], &k)),
            ("new_v", &Tensor::f32(&[t, GROUPS * DIM], &v)),
            ("slots", &Tensor::i32(&[t], &slots)),
            ("pages", &Tensor::i32(&[self.sequences.len(), WIDTH], &pages)),
            ("sequences", &Tensor::i32(&[t], &seq)),
            ("positions", &Tensor::i32(&[t], &pos)),
        ]);
        for (i, (got, want)) in results.unwrap()[0].values().iter().zip(&want).enumerate() {
            assert!((got - want).abs() < 1e-5, "element {i} is {got}, not {want}");
        }
    }
}

fn session() -> Session {
    Session::new(&parse(GRAPH).unwrap(), &[], &HashMap::new(), &detect_target().unwrap(), cache(), 2).unwrap()
}

#[test]
fn ragged_sequences_over_shared_pages() {
    let mut b = Batch {
        session: session(),
        pages: Pages::new(PAGES),
        sequences: vec![Default::default(), Default::default()],
        random: Random(7),
        copies: 0,
    };
    b.step(&[21, 3]);
    b.step(&[1, 30]);
    // A third sequence goes on from the first one's past: their pages are shared until one of them writes.
    let (table, plain) = &b.sequences[0];
    let twin = (b.pages.fork(table, plain.keys.len()), plain.clone());
    b.sequences.push(twin);
    let free = b.pages.free();
    b.step(&[0, 0, 1]);
    assert_eq!(
        (b.copies, free - b.pages.free()),
        (1, 1),
        "the shared page in use is copied, the full one is not"
    );
    b.step(&[2, 1, 1]);
    b.step(&[9, 5, 17]);
    assert_eq!(b.copies, 1, "a page of one's own is not copied");
}

/// One key more than a page table holds, a page that is not there, a sequence without a row, two tokens in one place.
#[test]
fn facts_are_checked_at_the_door() {
    let mut session = session();
    let mut run = |slots: [i32; 2], page: i32, sequence: i32, position: i32| {
        let rows = |n: usize| Tensor::f32(&[2, n], &vec![0.5; 2 * n]);
        session.run(&[
            ("q", &rows(HEADS * DIM)),
            ("new_k", &rows(GROUPS * DIM)),
            ("new_v", &rows(GROUPS * DIM)),
            ("slots", &Tensor::i32(&[2], &slots)),
            ("pages", &Tensor::i32(&[1, WIDTH], &[0, page, 0, 0])),
            ("sequences", &Tensor::i32(&[2], &[0, sequence])),
            ("positions", &Tensor::i32(&[2], &[0, position])),
        ])
    };
    run([0, 1], 1, 0, 1).unwrap();
    for (result, word) in [
        (run([0, 192], 1, 0, 1), "'slots' holds 192 at 1, outside 0..192"),
        (run([5, 5], 1, 0, 1), "'slots' holds 5 more than once"),
        (run([0, 1], PAGES as i32, 0, 1), "'pages' holds 12 at 1, outside 0..12"),
        (run([0, 1], 1, 1, 1), "'sequences' holds 1 at 1, outside 0..1"),
        (run([0, 1], 1, 0, 64), "'positions' holds 64 at 1, outside 0..64"),
        (run([0, 1], 1, 0, -1), "'positions' holds -1 at 1, outside 0..64"),
    ] {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    }
    run([0, 1], 1, 0, 63).unwrap();
}
