//! Two ranks: a matrix product sharded over two processes and summed by an all-reduce, and two stages of a network that
//! pass microbatches one forward, one backward. Both compute what one process computes, to the bit; a rank that is killed
//! ends the other.

use crate::{Random, cache};
use lathe_codegen::{Dialect, emit, prelude};
use lathe_comm::{Ranks, all_reduce};
use lathe_exec::{Costs, ExecError, Executable, Image, Loops, Places, Setting, virtual_run};
use lathe_ir::Name;
use lathe_ir::step::{Program, interpret_ranks, parse};
use lathe_ir::tensor::{self, Kernel};
use lathe_machine::{Link, Machine};
use lathe_runtime::{Arena, Buffer, BuildRequest, CTX_DECLARATION, KernelCache, Pool, View, detect_target};
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Rows of a microbatch and the width of layers; bytes of a microbatch and of weights.
const B: usize = 8;
const D: usize = 32;
const ROWS: usize = B * D * 4;
const WEIGHTS: usize = D * D * 4;
const MICROBATCHES: usize = 6;
const PATIENCE: Duration = Duration::from_secs(20);

/// What says to this program that it is rank 1, of which test, and where rank 0 is.
const WORKER: &str = "LATHE_TEST_WORKER";

const KERNELS: &[&str] = &[
    "kernel forward() {
       in x: f32[8, 32]
       in w: f32[32, 32]
       out y: f32[8, 32]
       for b in 8 spatial core { for n in 32 spatial serial {
         Z: y[b, n] = 0f32
         for k in 32 reduce serial { S: y[b, n] sum = x[b, k] * w[n, k] }
       } }
     }",
    "kernel difference() {
       in y: f32[8, 32]
       in t: f32[8, 32]
       out g: f32[8, 32]
       for b in 8 spatial core { for n in 32 spatial serial { S: g[b, n] = y[b, n] - t[b, n] } }
     }",
    "kernel input_gradient() {
       in g: f32[8, 32]
       in w: f32[32, 32]
       out d: f32[8, 32]
       for b in 8 spatial core { for k in 32 spatial serial {
         Z: d[b, k] = 0f32
         for n in 32 reduce serial { S: d[b, k] sum = g[b, n] * w[n, k] }
       } }
     }",
    "kernel weight_gradient() {
       in g: f32[8, 32]
       in x: f32[8, 32]
       inout d: f32[32, 32]
       for n in 32 spatial core { for k in 32 spatial serial {
         for b in 8 reduce serial { S: d[n, k] sum = g[b, n] * x[b, k] }
       } }
     }",
    "kernel add() {
       in x: f32[128]
       inout y: f32[128]
       for i in 128 spatial core { S: y[i] = y[i] + x[i] }
     }",
];

fn kernels() -> HashMap<Name, Kernel> {
    let read = |text: &&str| {
        let k = tensor::parse(text).unwrap();
        tensor::check(&k).unwrap();
        (k.name.clone(), k)
    };
    KERNELS.iter().map(read).collect()
}

fn images() -> HashMap<Name, Image> {
    let target = detect_target().unwrap();
    let dialect = Dialect::named(&target.dialect).unwrap();
    let kernels = kernels();
    let mut names: Vec<&Name> = kernels.keys().collect();
    names.sort();
    let made: Vec<_> = names.iter().map(|n| emit(&kernels[*n], n, dialect).unwrap()).collect();
    let source = made.iter().fold(prelude(dialect, CTX_DECLARATION), |s, m| s + &m.source);
    let request = BuildRequest::new(vec![source], &target);
    let library = KernelCache::new(cache()).load(&request, 1, &mut |_, _| ()).unwrap();
    let image = |(name, made): (&&Name, lathe_codegen::Emitted)| {
        let (grid, workspace_bytes) = (made.grid, made.workspace_bytes);
        let function = library.kernel(name).unwrap();
        let (kernel, loops) = (kernels[*name].clone(), Loops::of(&kernels[*name]));
        ((*name).clone(), Image { function, kernel, grid, workspace_bytes, loops })
    };
    names.iter().zip(made).map(image).collect()
}

/// A program with its memory.
struct Bound {
    run: Executable,
    given: HashMap<Name, View>,
}

impl Bound {
    /// Given buffers start with the data of their names, others as zeros.
    fn new(p: &Program, data: &HashMap<Name, Vec<u8>>, links: &[Link]) -> Bound {
        let host = Arena::new("host", usize::MAX);
        let mut given: HashMap<Name, View> = HashMap::new();
        for b in p.buffers.iter().filter(|b| b.storage == lathe_ir::step::Storage::Given) {
            let view = host.alloc(b.bytes.as_const().unwrap() as usize).map(Buffer::into_view).unwrap();
            if let Some(bytes) = data.get(&b.name) {
                view.write(0, bytes).unwrap();
            }
            given.insert(b.name.clone(), view);
        }
        let mut places = Places { given, links: links.to_vec(), ..Places::default() };
        let most = HashMap::new();
        places.plan(p, &most, &[&host]).unwrap();
        let run = Executable::bind(p, &images(), &places, &most, 1, &host).unwrap();
        Bound { run, given: places.given }
    }

    fn run(&mut self, peers: Option<&Ranks>) -> Result<(), ExecError> {
        let pool = Pool::new(1).unwrap();
        let peers = peers.map(|p| p as &dyn lathe_exec::Peers);
        self.run.run_in(&Setting { pool: &pool, peers, trace: None }, &[])
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let view = &self.given[name];
        let mut bytes = vec![0; view.len()];
        view.read(0, &mut bytes).unwrap();
        bytes
    }
}

fn data() -> HashMap<Name, Vec<u8>> {
    let mut r = Random(7);
    let mut some =
        |bytes: usize| r.floats(bytes / 4).iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let all = [
        ("x", MICROBATCHES * ROWS),
        ("t", MICROBATCHES * ROWS),
        ("w0", WEIGHTS),
        ("w1", WEIGHTS),
        ("x0", ROWS),
        ("x1", ROWS),
    ];
    all.map(|(name, bytes)| (Name::from(name), some(bytes))).into()
}

fn numbers(text: &str) -> Program {
    let named = [("WEIGHTS", WEIGHTS), ("ROWS", ROWS), ("HALF", ROWS / 2)];
    let text = named.iter().fold(text.to_string(), |t, (name, n)| t.replace(name, &n.to_string()));
    parse(&text).unwrap()
}

/// Each rank multiplies its half of the inner dimension; the halves are summed around the ring. Rank 1 shows rank 0 what
/// it got.
fn product(rank: u32) -> Program {
    let mut p = numbers(&format!(
        "program product() {{
           buffer x{rank}: ROWS bytes on host = given
           buffer w{rank}: WEIGHTS bytes on host = given
           buffer y: ROWS bytes on host = given
           buffer other: ROWS bytes on host = given
           buffer chunk: HALF bytes on host = planned 0
           call forward(x{rank}, w{rank}, @y)
           meet
         }}"
    ));
    let (y, chunk) = (p.buffer("y").unwrap(), p.buffer("chunk").unwrap());
    p.steps.extend(all_reduce(rank, 2, y, ROWS as i64, chunk, &"add".into(), 0).unwrap());
    let last = ["receive other from 1 tag 9", "send y to 0 tag 9"][rank as usize];
    let buffers: String =
        p.buffers.iter().map(|b| format!("buffer {}: {} bytes on host = given ", b.name, b.bytes)).collect();
    p.steps.extend(parse(&format!("program p() {{ {buffers} {last} }}")).unwrap().steps);
    p
}

/// A stage of the pipeline: rank 0 keeps one microbatch ahead of rank 1 and takes its gradient before the next but one.
fn stage(rank: u32, microbatches: usize) -> Program {
    let last = microbatches - 1;
    let text = match rank {
        0 => format!(
            "program stage0() {{
               buffer x: {} bytes on host = given
               buffer w0: WEIGHTS bytes on host = given
               buffer d0: WEIGHTS bytes on host = given
               buffer d1: WEIGHTS bytes on host = given
               buffer y: {} bytes on host = given
               buffer h: ROWS bytes on host = planned 0
               buffer g: ROWS bytes on host = planned ROWS
               call forward(x[0, ROWS], w0, @h)
               send h to 1 tag 0
               loop i in {last} {{
                 call forward(x[(i + 1)%{MICROBATCHES}*ROWS, ROWS], w0, @h)
                 send h to 1 tag 2*i + 2
                 receive g from 1 tag 2*i + 1
                 call weight_gradient(g, x[i%{MICROBATCHES}*ROWS, ROWS], @d0)
               }}
               receive g from 1 tag {}
               call weight_gradient(g, x[{}, ROWS], @d0)
               receive d1 from 1 tag 1000000
               receive y from 1 tag 1000001
             }}",
            MICROBATCHES * ROWS,
            MICROBATCHES * ROWS,
            2 * last + 1,
            last % MICROBATCHES * ROWS,
        ),
        _ => format!(
            "program stage1() {{
               buffer t: {} bytes on host = given
               buffer w1: WEIGHTS bytes on host = given
               buffer d1: WEIGHTS bytes on host = given
               buffer y: {} bytes on host = given
               buffer h: ROWS bytes on host = planned 0
               buffer e: ROWS bytes on host = planned ROWS
               buffer g: ROWS bytes on host = planned {}
               loop i in {microbatches} {{
                 receive h from 0 tag 2*i
                 call forward(h, w1, @y[i%{MICROBATCHES}*ROWS, ROWS])
                 meet
                 call difference(y[i%{MICROBATCHES}*ROWS, ROWS], t[i%{MICROBATCHES}*ROWS, ROWS], @e)
                 meet
                 call input_gradient(e, w1, @g)
                 call weight_gradient(e, h, @d1)
                 send g to 0 tag 2*i + 1
               }}
               send d1 to 0 tag 1000000
               send y to 0 tag 1000001
             }}",
            MICROBATCHES * ROWS,
            MICROBATCHES * ROWS,
            2 * ROWS,
        ),
    };
    numbers(&text)
}

/// The pipeline in one process.
fn whole() -> Program {
    numbers(&format!(
        "program whole() {{
           buffer x: {all} bytes on host = given
           buffer t: {all} bytes on host = given
           buffer w0: WEIGHTS bytes on host = given
           buffer w1: WEIGHTS bytes on host = given
           buffer d0: WEIGHTS bytes on host = given
           buffer d1: WEIGHTS bytes on host = given
           buffer y: {all} bytes on host = given
           buffer h: ROWS bytes on host = planned 0
           buffer e: ROWS bytes on host = planned ROWS
           buffer g: ROWS bytes on host = planned {}
           loop i in {MICROBATCHES} {{
             call forward(x[i*ROWS, ROWS], w0, @h)
             meet
             call forward(h, w1, @y[i*ROWS, ROWS])
             meet
             call difference(y[i*ROWS, ROWS], t[i*ROWS, ROWS], @e)
             meet
             call input_gradient(e, w1, @g)
             call weight_gradient(e, h, @d1)
             meet
             call weight_gradient(g, x[i*ROWS, ROWS], @d0)
           }}
         }}",
        2 * ROWS,
        all = MICROBATCHES * ROWS,
    ))
}

/// A slow network: a run of many microbatches takes long enough to be disturbed.
fn slow() -> Vec<Link> {
    vec![Link { from: "host".into(), to: "network".into(), bandwidth: 1e9, latency_seconds: 0.02 }]
}

fn part(job: &str, rank: u32) -> Bound {
    match job {
        "product" => Bound::new(&product(rank), &data(), &[]),
        "pipeline" => Bound::new(&stage(rank, MICROBATCHES), &data(), &[]),
        _ => Bound::new(&stage(rank, 1000), &data(), &slow()),
    }
}

/// Rank 1, when this program runs as it; nothing otherwise.
#[test]
fn worker() {
    let Ok(text) = std::env::var(WORKER) else { return };
    let (job, address) = text.split_once(' ').unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let ranks = Ranks::join(1, 2, &[address], None, PATIENCE).unwrap();
    part(job, 1).run(Some(&ranks)).unwrap();
    ranks.finish().unwrap();
}

/// Starts rank 1 as a process of its own, and joins it as rank 0.
fn start(job: &str) -> (Ranks, Child) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ranks::worker"])
        .env(WORKER, format!("{job} {address}"))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    (Ranks::join(0, 2, &[address], Some(listener), PATIENCE).unwrap(), child)
}

/// Runs rank 0's part of a job, rank 1 beside it.
fn together(job: &str) -> Bound {
    let mut zero = part(job, 0);
    let (ranks, mut child) = start(job);
    zero.run(Some(&ranks)).unwrap();
    ranks.finish().unwrap();
    assert!(child.wait().unwrap().success());
    zero
}

#[test]
fn a_sharded_product_is_summed_by_two_processes() {
    let zero = together("product");
    // One process: both halves, and their sum.
    let p = numbers(
        "program product() {
           buffer x0: ROWS bytes on host = given
           buffer x1: ROWS bytes on host = given
           buffer w0: WEIGHTS bytes on host = given
           buffer w1: WEIGHTS bytes on host = given
           buffer y: ROWS bytes on host = given
           buffer z: ROWS bytes on host = planned 0
           call forward(x0, w0, @y)
           call forward(x1, w1, @z)
           meet
           loop i in 2 { call add(z[i*HALF, HALF], @y[i*HALF, HALF]) }
         }",
    );
    let mut one = Bound::new(&p, &data(), &[]);
    one.run(None).unwrap();
    assert!(one.bytes("y").iter().any(|b| *b != 0));
    assert!(zero.bytes("y") == one.bytes("y") && zero.bytes("other") == one.bytes("y"));
}

#[test]
fn a_pipeline_of_two_processes_trains_as_one_does() {
    let zero = together("pipeline");
    let mut one = Bound::new(&whole(), &data(), &[]);
    one.run(None).unwrap();
    for name in ["y", "d0", "d1"] {
        assert!(one.bytes(name).iter().any(|b| *b != 0) && zero.bytes(name) == one.bytes(name), "{name}");
    }

    // The same two programs interpreted.
    let stages = [stage(0, MICROBATCHES), stage(1, MICROBATCHES)];
    let refs: Vec<&Program> = stages.iter().collect();
    let mut storage = [data(), data()];
    interpret_ranks(&refs, &kernels(), &HashMap::new(), &mut storage).unwrap();
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
    };
    for name in ["y", "d0", "d1"] {
        for (a, b) in floats(&storage[0][name]).iter().zip(floats(&one.bytes(name))) {
            assert!((a - b).abs() <= 1e-4 * b.abs().max(1.0), "{name}: {a} is not {b}");
        }
    }

    // And on the virtual clock, with kernels of a second: the stages work at the same time.
    let mut machine = Machine::from_toml(
        "name = \"m\"\n[cpu]\nvendor = \"v\"\nmodel = \"m\"\ncores = 1\nfeatures = []\nvector_bits = 128",
    )
    .unwrap();
    let seconds: HashMap<Name, f64> = kernels().into_keys().map(|k| (k, 1.0)).collect();
    let end = |programs: &[&Program], machine: &Machine| {
        let costs = Costs { machine, kernels: &seconds };
        let spans = virtual_run(programs, &HashMap::new(), &costs).unwrap();
        spans.iter().map(|s| s.finish()).fold(0.0, f64::max)
    };
    let n = MICROBATCHES as f64;
    // One forward of stage 0, all of stage 1, and the last weight gradient of stage 0.
    assert_eq!((end(&refs, &machine), end(&[&whole()], &machine)), (1.0 + 4.0 * n + 1.0, 6.0 * n));
    machine.links =
        vec![Link { from: "host".into(), to: "network".into(), bandwidth: 1e9, latency_seconds: 1.0 }];
    assert!(end(&refs, &machine) > 2.0 + 4.0 * n);
}

#[test]
fn a_killed_rank_ends_the_other() {
    let mut zero = part("slow", 0);
    let (ranks, mut child) = start("slow");
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        child.kill().unwrap();
        let killed = Instant::now();
        child.wait().unwrap();
        killed
    });
    let error = zero.run(Some(&ranks)).unwrap_err();
    let time = killer.join().unwrap().elapsed();
    let text = lathe_diagnostic::Diagnose::diagnostic(&error).to_string();
    assert!(text.contains("error[lost-rank]: rank 1 was lost"), "{text}");
    assert!(time < Duration::from_secs(5), "{time:?}");
}
