//! Tiers: a network whose weights are larger than the device streams them from disk over the host and a slow link into two
//! slots, while the layer before is computed. The device is emulated: an arena of its capacity behind a link of its speed. The
//! same step program runs on the real clock and on the virtual one.

use crate::{Random, cache};
use lathe_compile::{Compiled, Options, Session, Sizes, compile};
use lathe_diagnostic::Diagnose;
use lathe_exec::{Costs, Executable, Places, Setting, Span, Trace, timeline, virtual_run};
use lathe_ir::graph::{self, Graph};
use lathe_ir::step::{Program, Step, check, parse};
use lathe_ir::{Name, Tensor};
use lathe_machine::Machine;
use lathe_runtime::{Arena, Buffer, DiskFile, Pool, detect_target};
use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

const LAYERS: usize = 20;
const ROWS: usize = 96;
const WIDTH: usize = 1024;
/// Bytes of a layer's weights, and of its input or result.
const LAYER: usize = WIDTH * WIDTH * 4;
const ROW: usize = ROWS * WIDTH * 4;

const MACHINE: &str = r#"
name = "a small device behind a slow link"
cpu = { vendor = "any", model = "any", cores = 1, features = [], vector_bits = 128 }
memory = [{ name = "host", capacity_bytes = 1073741824 }, { name = "device", capacity_bytes = 67108864 }]
links = [
  { from = "disk", to = "host", bandwidth = 4e8, latency_seconds = 1e-4 },
  { from = "host", to = "device", bandwidth = 7e7, latency_seconds = 1e-4 },
  { from = "device", to = "host", bandwidth = 7e7, latency_seconds = 1e-4 },
]
"#;

/// One layer, as a graph: what the step program calls is what the compiler makes of it.
fn layer() -> Graph {
    let text = format!(
        "graph layer() {{
           x: f32[{ROWS}, {WIDTH}] = input
           w: f32[{WIDTH}, {WIDTH}] = input
           h: f32[{ROWS}, {WIDTH}] = matmul(x, w)
           y: f32[{ROWS}, {WIDTH}] = silu(h)
           return y
         }}"
    );
    graph::parse(&text).unwrap()
}

/// The call of the compiled layer, on buffers of another program.
fn call(compiled: &Compiled, place: &dyn Fn(&str) -> &'static str) -> String {
    let run = &compiled.classes[0].plan.run;
    let [Step::Call { kernel, args, writes }] = &run.steps[..] else { panic!("one kernel:\n{run}") };
    let arg = |(a, w): (&lathe_ir::step::Part, &bool)| {
        format!("{}{}", if *w { "@" } else { "" }, place(&run.buffers[a.buffer as usize].name))
    };
    format!("call {kernel}({})", args.iter().zip(writes).map(arg).collect::<Vec<_>>().join(", "))
}

/// The network with room for so many layers on the device.
fn program(compiled: &Compiled, slots: usize) -> Program {
    let (all, room, acts) = (LAYERS * LAYER, slots * LAYER, 2 * ROW);
    let call = call(compiled, &|name| match name {
        "x" => "acts[i%2*ROW, ROW]",
        "y" => "acts[(i + 1)%2*ROW, ROW]",
        _ => "slots[i%SLOTS*LAYER, LAYER]",
    });
    let text = format!(
        "program stream() {{
           buffer weights: {all} bytes on disk = given
           buffer x: ROW bytes on host = given
           buffer y: ROW bytes on host = given
           buffer staged: {} bytes on host = planned 0
           buffer slots: {room} bytes on device = planned 0
           buffer acts: {acts} bytes on device = planned {room}
           event staged_free = 2
           event staged_full
           event slot_free = {slots}
           event slot_full
           queue disk {{
             loop i in {LAYERS} {{
               wait staged_free
               copy weights[i*LAYER, LAYER] to staged[i%2*LAYER, LAYER]
               signal staged_full
             }}
           }}
           queue link {{
             loop i in {LAYERS} {{
               wait staged_full
               wait slot_free
               copy staged[i%2*LAYER, LAYER] to slots[i%SLOTS*LAYER, LAYER]
               signal staged_free
               signal slot_full
             }}
           }}
           copy x to acts[0, ROW]
           loop i in {LAYERS} {{
             wait slot_full
             {call}
             signal slot_free
           }}
           copy acts[{}, ROW] to y
         }}",
        2 * LAYER,
        LAYERS % 2 * ROW,
    );
    let numbers = [("LAYER", LAYER), ("SLOTS", slots), ("ROW", ROW)];
    let text = numbers.iter().fold(text, |t, (name, n)| t.replace(name, &n.to_string()));
    let p = parse(&text).unwrap();
    check(&p).unwrap();
    p
}

fn end(spans: &[Span]) -> f64 {
    spans.iter().map(Span::finish).fold(0.0, f64::max)
}

/// How long spans of two kinds ran at the same time.
fn both(spans: &[Span], a: &str, b: &str) -> f64 {
    let of = |kind: &str| spans.iter().filter(|s| s.step.starts_with(kind)).collect::<Vec<_>>();
    let shared = |x: &Span, y: &Span| (x.finish().min(y.finish()) - x.start.max(y.start)).max(0.0);
    of(a).iter().flat_map(|x| of(b).into_iter().map(move |y| shared(x, y))).sum()
}

#[test]
fn weights_stream_through_a_small_device() {
    let machine = Machine::from_toml(MACHINE).unwrap();
    let (target, threads) = (detect_target().unwrap(), 1);
    let classes = [Sizes { name: "all", ..Sizes::default() }];
    let options = Options { target: &target, cache: cache(), passes: &[], classes: &classes };
    let compiled = compile(&layer(), &options, &mut |_, _| ()).unwrap();

    // The weights as a file, and the same network in memory.
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut random = Random(6);
    let x: Vec<f32> = random.floats(ROWS * WIDTH);
    let mut want = Tensor::f32(&[ROWS, WIDTH], &x);
    let mut session = Session::new(&layer(), &[], &HashMap::new(), &target, cache(), threads).unwrap();
    for _ in 0..LAYERS {
        let w: Vec<f32> = random.floats(WIDTH * WIDTH).iter().map(|v| v * 0.1).collect();
        let w = Tensor::f32(&[WIDTH, WIDTH], &w);
        file.write_all(&w.bytes).unwrap();
        want = session.run(&[("x", &want), ("w", &w)]).unwrap().remove(0);
    }
    let disk = Arc::new(DiskFile::open(file.path()).unwrap());
    assert!(disk.len() > machine.memory("device").unwrap().capacity_bytes);

    let most = HashMap::new();
    let host = Arena::of_memory(machine.memory("host").unwrap());
    let view = |bytes: usize| host.alloc(bytes).map(Buffer::into_view).unwrap();
    let bind = |p: &Program| {
        let device = Arena::of_memory(machine.memory("device").unwrap());
        let given: HashMap<Name, _> = ["x", "y"].map(|n| (n.into(), view(ROW))).into();
        given["x"].write(0, &x).unwrap();
        let files = HashMap::from([("weights".into(), Arc::clone(&disk))]);
        let mut places = Places { given, files, links: machine.links.clone(), ..Places::default() };
        places.plan(p, &most, &[&host, &device])?;
        let e = Executable::bind(p, &compiled.classes[0].images, &places, &most, threads, &host)?;
        Ok::<_, lathe_exec::ExecError>((e, places.given.remove("y").unwrap()))
    };

    // All layers at once do not fit, and the program with room for them is refused.
    let refused = bind(&program(&compiled, LAYERS)).err().unwrap().diagnostic().to_string();
    assert!(refused.contains("memory 'device' is full"), "{refused}");

    let two = program(&compiled, 2);
    let (mut run, y) = bind(&two).unwrap();
    let pool = Pool::new(threads).unwrap();
    let mut tries = vec![];
    // A busy machine may disturb a run; the bound stays as it is.
    let real = loop {
        let measured = run.profile(&pool, &[]).unwrap();
        let kernels = measured.iter().map(|(name, calls, s)| (name.clone(), s / *calls as f64)).collect();
        let costs = Costs { machine: &machine, kernels: &kernels };
        let planned = virtual_run(&[&two], &most, &costs).unwrap();
        let alone = virtual_run(&[&program(&compiled, 1)], &most, &costs).unwrap();

        let trace = Trace::new(0);
        let setting = Setting { pool: &pool, peers: None, trace: Some(&trace) };
        run.run_in(&setting, &[]).unwrap();
        let real = trace.spans();
        let mut got = vec![0u8; ROW];
        y.read(0, &mut got).unwrap();
        assert!(got == want.bytes, "the streamed network computes what the one in memory does");

        let (virtual_time, real_time, one_slot) = (end(&planned), end(&real), end(&alone));
        println!("virtual {virtual_time:.3} s, real {real_time:.3} s, one slot {one_slot:.3} s; {kernels:?}");
        let compute: f64 = kernels.values().sum::<f64>() * LAYERS as f64;
        // Kernels take a fraction of a copy. With two slots all but the last hide behind copies; with one slot none does.
        assert!(one_slot - virtual_time > compute * 0.9 * (LAYERS - 1) as f64 / LAYERS as f64);
        assert!(both(&planned, "call", "copy staged") > compute * 0.9);
        assert_eq!(both(&alone, "call", "copy staged"), 0.0);
        assert_eq!(planned.len(), real.len());
        tries.push((virtual_time, real_time));
        if (real_time - virtual_time).abs() <= 0.1 * virtual_time {
            break real;
        }
        assert!(tries.len() < 3, "the clocks differ by more than a tenth: {tries:?}");
    };
    assert!(both(&real, "call", "copy staged") > 0.0, "copies and kernels overlap");

    // What people open in a trace viewer.
    let json: serde_json::Value = serde_json::from_str(&timeline(&real)).unwrap();
    let events = json["traceEvents"].as_array().unwrap();
    assert_eq!(events.iter().filter(|e| e["ph"] == "X").count(), real.len());
    assert_eq!(events.iter().filter(|e| e["ph"] == "M").count(), 3, "a line for each queue");
}

#[test]
fn a_step_that_fails_ends_all_queues() {
    let machine = Machine::from_toml(MACHINE).unwrap();
    let p = parse(
        "program p() {
           buffer w: 8000 bytes on disk = given
           buffer x: 4000 bytes on host = planned 0
           event loaded
           queue disk { loop i in 2 { copy w[i*4000, 4000] to x signal loaded } }
           loop i in 2 { wait loaded }
         }",
    )
    .unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[1; 8000]).unwrap();
    let disk = Arc::new(DiskFile::open(file.path()).unwrap());
    let host = Arena::new("host", 1 << 20);
    let files = HashMap::from([("w".into(), disk)]);
    let mut places = Places { files, links: machine.links.clone(), ..Places::default() };
    places.plan(&p, &HashMap::new(), &[&host]).unwrap();
    let mut run = Executable::bind(&p, &HashMap::new(), &places, &HashMap::new(), 1, &host).unwrap();
    let pool = Pool::new(1).unwrap();
    run.run(&pool, &[]).unwrap();
    // Somebody shortens the file while it is open.
    file.as_file().set_len(4000).unwrap();
    let error = run.run(&pool, &[]).unwrap_err().to_string();
    assert!(error.contains("read the file"), "{error}");
}
