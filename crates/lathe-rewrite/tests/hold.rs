//! Experts that do not fit: a program that holds those its router chose computes the same, run after run, though the interpreter
//! forgets all others; and the checker finds no race and no deadlock in it. So does one that computes some of them where they
//! lie, which the interpreter chooses otherwise in each step.

use lathe_ir::graph::parse;
use lathe_ir::step::{check, interpret};
use lathe_ir::tensor::Kernel;
use lathe_ir::{Name, Tensor};
use lathe_rewrite::{Bounds, EXPERTS, EXPERTS_AWAY, EXPERTS_HELD, Extent, Hold, Split, plan};
use proptest::prelude::*;
use std::collections::HashMap;

const WIDTH: usize = 16;
const EXPERT: usize = 8;

/// Layers of experts, `used` of which a token is sent to, and a product of one that all tokens meet in.
fn mixture(layers: usize, experts: usize, used: usize) -> String {
    let mut lines = vec![format!("x0: f32[3, {WIDTH}] = input")];
    let slots = 3 * used;
    for i in 0..layers {
        lines.push(format!("r{i}: f32[{experts}, {WIDTH}] = const \"r{i}\""));
        lines.push(format!("s{i}: f32[3, {experts}] = matmul(x{i}, r{i})"));
        lines.push(format!("w{i}: f32[3, {used}], c{i}: i32[3, {used}] = route(s{i}) {{k = {used}}}"));
        lines.push(format!(
            "o{i}: i32[{}], b{i}: i32[{slots}] = bucket(c{i}) {{experts = {experts}}}",
            experts + 1
        ));
        lines.push(format!("u{i}: f32[{experts}, {EXPERT}, {WIDTH}] = const \"u{i}\""));
        lines.push(format!("d{i}: f32[{experts}, {WIDTH}, {EXPERT}] = const \"d{i}\""));
        lines.push(format!(
            "h{i}: f32[{slots}, {EXPERT}] = expert_matmul(x{i}, u{i}, o{i}, b{i}) {{k = {used}}}"
        ));
        lines.push(format!("a{i}: f32[{slots}, {EXPERT}] = silu(h{i})"));
        lines.push(format!("y{i}: f32[{slots}, {WIDTH}] = expert_matmul(a{i}, d{i}, o{i}, b{i}) {{k = 1}}"));
        lines.push(format!("x{}: f32[3, {WIDTH}] = combine(y{i}, w{i})", i + 1));
    }
    lines.push(format!("return x{layers}"));
    format!("graph f() {{\n{}\n}}", lines.join("\n"))
}

/// What else reads what is made between a layer's products would need it in one place.
#[test]
fn a_layer_whose_inside_is_read_elsewhere_is_not_split() {
    let table = lathe_ops::table();
    let split = |text: &str| {
        let g = parse(text).unwrap();
        lathe_ir::graph::check(&g, &table).unwrap();
        let p = plan(&g, &table, &Bounds::default());
        let len = |name: &str| p.run.buffers[p.run.buffer(name).unwrap() as usize].bytes.as_const().unwrap();
        let extent =
            |(reader, name): (usize, &str)| Extent { name: name.into(), offset: 0, len: len(name), reader };
        let extents: Vec<Extent> = ["u0", "d0"].into_iter().enumerate().map(extent).collect();
        let hold = Hold::new(&g, &p.run, "below", 1 << 16, &extents);
        assert_eq!(hold.weights.len(), 2);
        Split::new(&hold, &[&p.run]).is_some()
    };
    let text = mixture(1, 4, 2);
    assert!(split(&text));
    assert!(!split(&text.replace("return x1", "return x1, a0")));
    // A row of one side would need those of the other.
    let across = "m0: f32[8, 6] = permute(h0) {axes = [1, 0]}\nn0: f32[8, 6] = softmax(m0)\na0: f32[6, 8] = permute(n0) {axes = [1, 0]}";
    assert!(!split(&text.replace("a0: f32[6, 8] = silu(h0)", across)));
    let beside = "z: f32[6, 8] = silu(a0)\nt: f32[6, 8] = add(z, z)\n";
    assert!(!split(&text.replace("return x1", &format!("{beside}return x1, t"))));
}

fn floats(n: usize, seed: usize) -> Vec<u8> {
    let value = |i: usize| ((i * 7 + seed * 13 + i * seed) % 23) as f32 / 8.0 - 1.3;
    Tensor::f32(&[n], &(0..n).map(value).collect::<Vec<_>>()).bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn held_experts_compute_the_same(layers in 1usize..4, experts in 2usize..6, used in 1usize..3, gap in 0usize..3) {
        let table = lathe_ops::table();
        let g = parse(&mixture(layers, experts, used)).unwrap();
        lathe_ir::graph::check(&g, &table).unwrap();
        let p = plan(&g, &table, &Bounds::default());
        let kernels: HashMap<Name, Kernel> =
            p.kernels.iter().map(|k| (k.name.clone(), k.kernel.clone())).collect();
        let bytes = |name: &Name| p.run.buffers[p.run.buffer(name).unwrap() as usize].bytes.as_const().unwrap();
        let mut given: HashMap<Name, Vec<u8>> = HashMap::new();
        let (mut store, mut extents) = (vec![], vec![]);
        for (i, v) in p.run.buffers.iter().filter(|b| b.name.starts_with(['r', 'u', 'd'])).enumerate() {
            let data = floats(bytes(&v.name) as usize / 4, i + 1);
            if !v.name.starts_with('r') {
                store.resize(store.len() + gap * 8, 0x77);
                let (offset, len) = (store.len() as i64, data.len() as i64);
                extents.push(Extent { name: v.name.clone(), offset, len, reader: 0 });
                store.extend(&data);
            }
            given.insert(v.name.clone(), data);
        }
        let hold = Hold::new(&g, &p.run, "disk", store.len() as i64, &extents);
        prop_assert_eq!(hold.weights.len(), 2 * layers);
        prop_assert_eq!(hold.layers().len(), layers);
        let held = hold.apply(&p.run);
        check(&held).unwrap();
        prop_assert_eq!(lathe_ir::step::parse(&held.to_string()).unwrap().to_string(), held.to_string());
        let (compact, from) = hold.compact();
        prop_assert!(hold.weights.iter().zip(&from).all(|(w, from)| w.from == *from));
        let mut apart = vec![0; compact.bytes as usize];
        for (w, from) in compact.weights.iter().zip(from) {
            let len = (w.page * w.pages) as usize;
            apart[w.from as usize..][..len].copy_from_slice(&store[from as usize..][..len]);
        }
        let last: Name = format!("x{layers}").as_str().into();
        let run = |program: &_, given: &mut HashMap<Name, Vec<u8>>, seed: usize| {
            given.insert("x0".into(), floats(3 * WIDTH, seed));
            interpret(program, &kernels, &HashMap::new(), given).unwrap();
            given[&last].clone()
        };
        // Weights that are held are given nowhere else.
        let mut beside: HashMap<Name, Vec<u8>> =
            given.iter().filter(|(name, _)| name.starts_with('r')).map(|(n, b)| (n.clone(), b.clone())).collect();
        beside.insert(EXPERTS_HELD.into(), vec![0x99; hold.window() as usize]);
        let mut compacted = beside.clone();
        beside.insert(EXPERTS.into(), store);
        compacted.insert(EXPERTS.into(), apart);
        let other = compact.apply(&p.run);
        let split = Split::new(&hold, &[&p.run]).unwrap();
        let shared = split.apply(&p.run);
        check(&shared).unwrap();
        prop_assert_eq!(lathe_ir::step::parse(&shared.to_string()).unwrap().to_string(), shared.to_string());
        let mut both = beside.clone();
        for seed in 0..3 {
            let want = run(&p.run, &mut given, seed);
            prop_assert!(want == run(&held, &mut beside, seed));
            prop_assert!(want == run(&other, &mut compacted, seed));
            prop_assert!(want == run(&shared, &mut both, seed));
        }
        // Layers alone, with all that their rows are sent to on the lower tier.
        let (alone, [offsets, _]) = split.alone(&p.run).unwrap();
        check(&alone).unwrap();
        let away = both.get_mut(EXPERTS_AWAY).unwrap();
        let ends: Vec<u8> = (0..=experts as u32).flat_map(|e| e.min(1).to_le_bytes()).collect();
        away[offsets as usize..][..ends.len()].copy_from_slice(&ends);
        interpret(&alone, &kernels, &HashMap::new(), &mut both).unwrap();
    }
}
