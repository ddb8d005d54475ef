//! Constants that come through a window: a program computes the same, run after run, whatever the window's size and whatever
//! stays in memory, and the checker finds no race and no deadlock in it.

use lathe_ir::graph::parse;
use lathe_ir::step::{Program, Step, check, interpret};
use lathe_ir::tensor::Kernel;
use lathe_ir::{Name, Tensor};
use lathe_rewrite::{Bounds, Extent, RELAY, RELAY_STORE, STORE, Stream, WINDOW, plan, read_once};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

const WIDTH: usize = 16;

/// Layers of different sizes: x becomes x + relu(x A + d) B + c; one call reads A and d, all layers read c.
fn network(inner: &[usize]) -> (Program, HashMap<Name, Kernel>) {
    let mut lines = vec![format!("x0: f32[1, {WIDTH}] = input"), format!("c: f32[{WIDTH}] = const \"c\"")];
    for (i, n) in inner.iter().enumerate() {
        lines.push(format!("a{i}: f32[{n}, {WIDTH}] = const \"a{i}\""));
        lines.push(format!("b{i}: f32[{WIDTH}, {n}] = const \"b{i}\""));
        lines.push(format!("h{i}: f32[1, {n}] = matmul(x{i}, a{i})"));
        lines.push(format!("d{i}: f32[{n}] = const \"d{i}\""));
        lines.push(format!("g{i}: f32[1, {n}] = add(h{i}, d{i})"));
        lines.push(format!("r{i}: f32[1, {n}] = relu(g{i})"));
        lines.push(format!("m{i}: f32[1, {WIDTH}] = matmul(r{i}, b{i})"));
        lines.push(format!("s{i}: f32[1, {WIDTH}] = add(m{i}, x{i})"));
        lines.push(format!("x{}: f32[1, {WIDTH}] = add(s{i}, c)", i + 1));
    }
    lines.push(format!("return x{}", inner.len()));
    let (g, table) = (parse(&format!("graph f() {{\n{}\n}}", lines.join("\n"))).unwrap(), lathe_ops::table());
    lathe_ir::graph::check(&g, &table).unwrap();
    let p = plan(&g, &table, &Bounds::default());
    let kernels = p.kernels.iter().map(|k| (k.name.clone(), k.kernel.clone())).collect();
    (p.run, kernels)
}

fn floats(n: usize, seed: usize) -> Vec<u8> {
    let value = |i: usize| ((i * 7 + seed * 13) % 11) as f32 / 16.0 - 0.3;
    Tensor::f32(&[n], &(0..n).map(value).collect::<Vec<_>>()).bytes
}

fn outputs(
    p: &Program,
    kernels: &HashMap<Name, Kernel>,
    given: &mut HashMap<Name, Vec<u8>>,
    inputs: &[Vec<u8>],
    last: &str,
) -> Vec<Vec<u8>> {
    let mut run = |x: &Vec<u8>| {
        given.insert("x0".into(), x.clone());
        interpret(p, kernels, &HashMap::new(), given).unwrap();
        given[last].clone()
    };
    inputs.iter().map(&mut run).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn streamed_programs_compute_the_same(
        inner in prop::collection::vec(1usize..9, 1..6),
        keep in prop::collection::vec(any::<bool>(), 12),
        room in 0i64..2000,
        enough in 1i64..1500,
        relayed in prop::collection::vec(any::<bool>(), 7),
    ) {
        let (run, kernels) = network(&inner);
        let last = format!("x{}", inner.len());
        let mut given: HashMap<Name, Vec<u8>> = HashMap::new();
        for b in run.buffers.iter().filter(|b| b.name.starts_with(['a', 'b', 'c', 'd'])) {
            given.insert(b.name.clone(), floats(b.bytes.as_const().unwrap() as usize / 4, b.name.len()));
        }
        let inputs: Vec<Vec<u8>> = (0..3).map(|i| floats(WIDTH, i)).collect();
        let want = outputs(&run, &kernels, &mut given.clone(), &inputs, &last);

        let all: HashSet<&Name> = given.keys().collect();
        let order = read_once(&run, &all);
        prop_assert!(!order.iter().any(|(n, _)| &**n == "c") || inner.len() == 1, "two layers read it");
        // On the other tier everything has room of its own behind it.
        let (mut store, mut extents) = (vec![], vec![]);
        for (i, (name, reader)) in order.iter().enumerate() {
            let (offset, len) = (store.len() as i64, given[name].len() as i64 + (i as i64 % 3) * 8);
            store.extend(&given[name]);
            store.resize((offset + len) as usize, 0xee);
            if !keep[i % keep.len()] {
                extents.push(Extent { name: name.clone(), offset, len, reader: *reader });
            }
        }
        // One call reads two of them.
        let least = extents.iter().map(|e| e.len).max().unwrap_or(0) * 4;
        let window = least + enough * 2 + room;
        let Some(stream) = Stream::new("disk", store.len() as i64, &extents, enough, window) else {
            prop_assert!(false, "it has room for the largest load twice");
            unreachable!()
        };
        if extents.is_empty() {
            return Ok(());
        }
        let streamed = stream.apply(&run);
        check(&streamed).unwrap();
        let copies = streamed.queues[0].steps.iter().filter(|s| matches!(s, Step::Copy { .. })).count();
        prop_assert_eq!(copies, stream.loads.len());
        prop_assert_eq!(stream.copied(), extents.iter().map(|e| e.len).sum::<i64>());

        // Before the first run somebody brings what is carried; after that each run does for the next one.
        let mut held = vec![0xee; stream.window as usize];
        for l in &stream.loads[..stream.carried] {
            let (to, from, n) = (l.place as usize, l.offset() as usize, l.len() as usize);
            held[to..to + n].copy_from_slice(&store[from..from + n]);
        }
        given.retain(|name, _| !extents.iter().any(|e| e.name == *name));
        given.insert(STORE.into(), store.clone());
        given.insert(WINDOW.into(), held.clone());
        let got = outputs(&streamed, &kernels, &mut given.clone(), &inputs, &last);
        prop_assert!(got == want);

        // The same where some loads lie on a third tier, and the others alone on the second.
        let mut below = stream.as_constants();
        below.retain(|e| relayed[e.offset as usize / 8 % relayed.len()]);
        let least = below.iter().map(|e| e.len).max().unwrap_or(0) * 2;
        let relay = Stream::new("disk", store.len() as i64, &below, enough, least + room);
        // Several loads as one may be too large.
        let relay = relay.or_else(|| Stream::new("disk", store.len() as i64, &below, 1, least + room)).unwrap();
        if below.is_empty() {
            return Ok(());
        }
        let (stream, from) = Stream { tier: "second".into(), ..stream.relayed_by(&relay) }.compact();
        let streamed = relay.apply_relay(&stream.apply(&run), "second");
        check(&streamed).unwrap();
        let mut second = vec![0xee; stream.bytes as usize];
        for (l, from) in stream.loads.iter().zip(from).filter(|(l, _)| !l.relayed) {
            second[l.offset() as usize..][..l.len() as usize].copy_from_slice(&store[from as usize..][..l.len() as usize]);
        }
        let mut held_there = vec![0xee; relay.window as usize];
        for l in &relay.loads[..relay.carried] {
            held_there[l.place as usize..][..l.len() as usize]
                .copy_from_slice(&store[l.offset() as usize..][..l.len() as usize]);
        }
        given.extend([(STORE.into(), second), (WINDOW.into(), held), (RELAY_STORE.into(), store), (RELAY.into(), held_there)]);
        let got = outputs(&streamed, &kernels, &mut given, &inputs, &last);
        prop_assert!(got == want);
    }
}

/// What `enough` could make a load of is bounded by the window, and one that is too small is told.
#[test]
fn a_window_that_is_too_small_is_refused() {
    let extent = |name: &str, offset, len| Extent { name: name.into(), offset, len, reader: offset as usize };
    let two = [extent("a", 0, 100), extent("b", 100, 60)];
    assert!(Stream::new("disk", 160, &two, 1, 199).is_none());
    let s = Stream::new("disk", 160, &two, 1, 200).unwrap();
    assert_eq!((s.loads.len(), s.carried, s.loads[1].place), (2, 2, 100));
    assert!(Stream::new("disk", 160, &two[..1], 1, 100).is_some());
}
