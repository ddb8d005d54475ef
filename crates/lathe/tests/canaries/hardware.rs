//! Hardware: a matrix product of 8-bit fixed point as two processes and a channel, in HLS C++ against the vendor's headers;
//! and as a 4x4 systolic array by a space-time map, run as a Kahn network. Both come from the naive product by steps.
//!
//! Results are compared bit for bit with the interpreter on the naive product, and that with integer arithmetic here.

use super::Random;
use lathe_hardware::{Project, Simulation, headers};
use lathe_ir::tensor::{Kernel, Memory, Process, check, interpret, parse, processes};
use lathe_ir::{read_bits, write_bits};
use lathe_schedule::Schedule;
use std::path::{Path, PathBuf};

/// `y = a b` with factors of 8 bits, 3 of them before the point, and sums of 20 bits, 8 of them before the point.
fn product(m: usize, n: usize, k: usize) -> Kernel {
    let text = format!(
        "kernel product() {{
           in a: fx3p5[{m}, {k}]
           in b: fx3p5[{k}, {n}]
           out y: fx8p12[{m}, {n}]
           for i in {m} spatial serial {{
             for j in {n} spatial serial {{
               alloc s: fx8p12[] on register
               Z: s[] = 0fx8p12
               for k in {k} reduce serial {{
                 S: s[] sum = fx8p12(a[i, k]) * fx8p12(b[k, j])
               }}
               W: y[i, j] = s[]
             }}
           }}
         }}"
    );
    parse(&text).expect("the naive product parses")
}

fn scheduled(k: &Kernel, steps: &str) -> Kernel {
    let s = Schedule::replay(k.clone(), steps).unwrap_or_else(|e| panic!("{e}"));
    check(s.kernel()).unwrap_or_else(|e| panic!("{e}\n{}", s.kernel()));
    s.kernel().clone()
}

/// Arguments with every bit random, results too.
fn arguments(k: &Kernel, seed: u64) -> Memory {
    let (mut memory, mut random) = (Memory::default(), Random(seed));
    for p in &k.params {
        let bytes = p.bits.as_const().expect("constant shapes") as usize / 8 + 8;
        memory.set(&p.name, &(0..bytes).map(|_| random.next() as u8).collect::<Vec<_>>());
    }
    memory
}

fn elements(memory: &Memory, name: &str, width: i64, n: usize) -> Vec<i64> {
    let bits = |i: usize| read_bits(&memory.params[name], i as i64 * width, width).expect("inside") as i64;
    (0..n).map(|i| bits(i) << (64 - width) >> (64 - width)).collect()
}

/// The product in integers: factors count 2^-5, so products count 2^-10 and are 4 times as many 2^-12; sums wrap at 20 bits.
fn expected(memory: &Memory, m: usize, n: usize, k: usize) -> Vec<i64> {
    let (a, b) = (elements(memory, "a", 8, m * k), elements(memory, "b", 8, k * n));
    let sum = |i: usize, j: usize| (0..k).map(|x| a[i * k + x] * b[x * n + j] * 4).sum::<i64>();
    (0..m * n).map(|e| sum(e / n, e % n) << 44 >> 44).collect()
}

/// A folder of this test's own below the target's, and the headers, which stay there between runs.
fn places(name: &str) -> (PathBuf, PathBuf) {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hardware");
    let found = headers(&root).unwrap_or_else(|e| {
        panic!("{e}\nThis test needs python3 with pip (python3-pip in most systems) and a network or mirror that pip reaches.")
    });
    (root.join(name), found)
}

fn simulation(k: &Kernel, name: &str) -> Simulation {
    let (folder, headers) = places(name);
    let project = Project::new(k).unwrap_or_else(|e| panic!("{e}\n{k}"));
    Simulation::build(&project, &folder, &headers).unwrap_or_else(|e| {
        panic!("{e}\nThis test needs g++, or a C++ compiler that CXX names.\n{}", project.kernel())
    })
}

#[test]
fn two_processes_and_a_channel() {
    for (m, n, k) in [(4, 4, 6), (3, 5, 7), (8, 16, 1)] {
        let naive = product(m, n, k);
        let streamed = scheduled(&naive, "stage a S\nstream a.S load multiply 2");
        let found: Vec<String> = processes(&streamed).unwrap().iter().map(|p| p.label.clone()).collect();
        assert_eq!(found, ["product", "load", "multiply"]);
        let simulation = simulation(&streamed, &format!("streamed_{m}_{n}_{k}"));
        for seed in 0..4 {
            let start = arguments(&naive, seed);
            let (mut x, mut y, mut z) = (start.clone(), start.clone(), start);
            interpret(&naive, &mut x).unwrap();
            interpret(&streamed, &mut y).unwrap();
            simulation.run(&mut z).unwrap_or_else(|e| panic!("{e}\n{streamed}"));
            let want = expected(&x, m, n, k);
            for (memory, who) in [(&x, "the naive kernel"), (&y, "the network"), (&z, "HLS C++")] {
                assert_eq!(elements(memory, "y", 20, m * n), want, "{who}, {m} x {n} x {k}, seed {seed}");
            }
        }
    }
}

/// The step at which a process has its first values, when each hands one on in the step after it came.
fn begin(all: &[Process], p: &Process) -> i64 {
    let feeds = |q: &&Process| q.pushes.iter().any(|c| p.pops.contains(c));
    all.iter().filter(feeds).map(|q| begin(all, q) + 1).max().unwrap_or(0)
}

#[test]
fn a_systolic_array() {
    let naive = product(4, 4, 9);
    // Channels of depth 1: each processing element has one register an operand.
    let array = scheduled(&naive, "space_time i j a+j b+i 1");
    let all = processes(&array).unwrap();
    assert_eq!(all.iter().filter(|p| p.vars.len() == 2).count(), 16, "processing elements");
    // Only the edge reads memory: 4 rows of a and 4 columns of b enter, and each value visits all it meets.
    assert_eq!(all.iter().filter(|p| p.pops.is_empty() && !p.pushes.is_empty()).count(), 8, "feeders");
    let handed: usize = all.iter().map(|p| p.pushes.len()).sum();
    assert_eq!(handed, 2 * 16, "channels: one an operand into each processing element");
    // Time: an element begins one step behind those that feed it, so the step k of the element i, j is at i + j + k.
    for p in all.iter().filter(|p| p.vars.len() == 2) {
        assert_eq!(begin(&all, p), 1 + p.vars.iter().map(|(_, v)| v).sum::<i64>(), "{}", p.label);
    }
    let simulation = simulation(&array, "systolic");
    for seed in 0..4 {
        let start = arguments(&naive, seed);
        let (mut y, mut z) = (start.clone(), start);
        interpret(&array, &mut y).unwrap();
        simulation.run(&mut z).unwrap_or_else(|e| panic!("{e}\n{array}"));
        let want = expected(&y, 4, 4, 9);
        assert_eq!(elements(&y, "y", 20, 16), want, "the network, seed {seed}");
        assert_eq!(elements(&z, "y", 20, 16), want, "HLS C++, seed {seed}");
    }
    // Operands that enter on the other side, and an array smaller than the product, once for each tile.
    for steps in ["space_time i j a-j b-i 1", "split j 2\ninterchange i\nspace_time i j.i a+j.i b+i 1"] {
        let array = scheduled(&naive, steps);
        let mut y = arguments(&naive, 7);
        interpret(&array, &mut y).unwrap();
        assert_eq!(elements(&y, "y", 20, 16), expected(&y, 4, 4, 9), "{steps}");
    }
}

#[test]
fn wrong_maps_are_refused() {
    let naive = product(4, 4, 9);
    let refused = |steps: &str| Schedule::replay(naive.clone(), steps).expect_err(steps).to_string();
    let message = refused("space_time i j a+i b+j");
    assert!(message.contains("'a' cannot travel along 'i'"), "{message}");
    let message = refused("space_time i k a+k");
    assert!(message.contains("'k' is not the whole body of 'i'"), "{message}");

    // A feeder that stops early: who waits, and for what, is told.
    let text = scheduled(&naive, "space_time i j a+j b+i").to_string();
    let short = text.replace("for a.k in 9", "for a.k in 8");
    assert_ne!(short, text);
    let short = parse(&short).unwrap();
    check(&short).unwrap();
    let message = interpret(&short, &mut arguments(&naive, 1)).expect_err("it deadlocks").to_string();
    assert!(
        message.contains("deadlock: ") && message.contains("'i=0 j=0' waits to pop from a.c[0, 0]"),
        "{message}"
    );

    // An element that hands on to the wrong neighbour: two producers.
    let crossed = parse(&text.replace("a.push: a.c[i, j + 1]", "a.push: a.c[i, j]")).unwrap();
    let message = check(&crossed).expect_err("two producers").to_string();
    assert!(message.contains("a.c[0, 0] is pushed to by 'a.i=0' and by 'i=0 j=0'"), "{message}");
}

#[test]
fn fixed_point_is_that_of_the_vendor() {
    let n = 256;
    // Each operator on narrow and wide types, with as many bits behind the point as before it or fewer, and all conversions.
    let (mut params, mut blocks, mut count) = (String::new(), String::new(), 0);
    let mut result = |t: &str, e: &str| {
        params += &format!("out r{count}: {t}[{n}]\n");
        blocks += &format!("R{count}: r{count}[i] = {e}\n");
        count += 1;
    };
    for (t, x, y) in [("fx3p5", "x[i]", "y[i]"), ("fx12p0", "u[i]", "v[i]"), ("fx2p30", "p[i]", "q[i]")] {
        for e in [
            format!("{x} + {y}"),
            format!("{x} - {y}"),
            format!("{x} * {y}"),
            format!("min({x}, {y})"),
            format!("max({x}, {y})"),
            format!("neg({x})"),
            format!("select({x} < {y}, {x} * {x}, {y} - 1{t})"),
        ] {
            result(t, &e);
        }
        for c in ["<", "<=", "==", "!="] {
            result("bool", &format!("{x} {c} {y}"));
        }
        for to in ["fx1p3", "fx8p8", "fx4p20", "fx20p1", "i4", "i16", "u6", "f32", "f64"] {
            result(to, &format!("{to}({x})"));
        }
        result(t, &format!("{t}(f[i])"));
        result(t, &format!("{t}(g[i])"));
        let width: u32 = t[2..].split('p').map(|n| n.parse::<u32>().unwrap()).sum();
        result(&format!("i{width}"), &format!("bitcast(i{width}, {x})"));
    }
    let text = format!(
        "kernel operators() {{
           in x: fx3p5[{n}]
           in y: fx3p5[{n}]
           in u: fx12p0[{n}]
           in v: fx12p0[{n}]
           in p: fx2p30[{n}]
           in q: fx2p30[{n}]
           in f: f32[{n}]
           in g: i9[{n}]
           {params}
           for i in {n} spatial serial {{
             {blocks}
           }}
         }}"
    );
    let k = parse(&text).unwrap();
    check(&k).unwrap();
    let mut start = arguments(&k, 11);
    // Floats whose value is far outside of the types as well as between their steps.
    let mut floats = Random(3).floats(n);
    floats.iter_mut().enumerate().for_each(|(i, v)| *v *= 2f32.powi(i as i32 % 24 - 8));
    start.set_f32("f", &floats);
    // Equal pairs, or comparisons would hardly ever see them.
    for (a, b, w) in [("x", "y", 8), ("u", "v", 12), ("p", "q", 32)] {
        for i in (0..n as i64).step_by(5) {
            let bits = read_bits(&start.params[a], i * w, w).unwrap();
            write_bits(start.params.get_mut(b).unwrap(), i * w, w, bits).unwrap();
        }
    }
    let (mut x, mut z) = (start.clone(), start);
    interpret(&k, &mut x).unwrap();
    simulation(&k, "operators").run(&mut z).unwrap();
    for p in &k.params {
        let w = p.views[0].dtype.bits();
        let (x, z) = (elements(&x, &p.name, w, n), elements(&z, &p.name, w, n));
        let what =
            text.lines().find(|l| l.trim().starts_with(&format!("R{}:", &p.name[1..]))).unwrap_or_default();
        assert_eq!(x, z, "{what} of {}", p.views[0].dtype);
    }
}
