//! Programs whose loops follow dimensions, whose queues would race, and that lack what they need, run without kernels.

use lathe_exec::{ExecError, Executable, Places};
use lathe_ir::Name;
use lathe_ir::step::{Program, interpret, parse};
use lathe_machine::Link;
use lathe_runtime::{Arena, Buffer, Pool, View};
use std::collections::HashMap;

fn bind(p: &Program, places: &Places, most: &HashMap<Name, i64>) -> Result<Executable, ExecError> {
    Executable::bind(p, &HashMap::new(), places, most, 1, &Arena::new("host", 1 << 20))
}

fn places(names: &[&str], bytes: usize) -> Places {
    let arena = Arena::new("host", 1 << 20);
    let view = |name: &&str| ((*name).into(), arena.alloc(bytes).map(Buffer::into_view).unwrap());
    Places { given: names.iter().map(view).collect(), ..Places::default() }
}

fn bytes(view: &View) -> Vec<u8> {
    let mut out = vec![0; view.len()];
    view.read(0, &mut out).unwrap();
    out
}

#[test]
fn loops_follow_the_dimensions_of_each_run() {
    // Two queues reverse the first T pieces by way of one slot.
    let p = parse(
        "program reverse(T) {
           buffer x: 64 bytes on host = given
           buffer y: 64 bytes on host = given
           buffer s: 8 bytes on host = given
           event free = 1
           event full
           queue load { loop i in T { wait free copy x[i*8, 8] to s[0, 8] signal full } }
           loop i in T { wait full copy s[0, 8] to y[8*T - 8*i - 8, 8] signal free }
         }",
    )
    .unwrap();
    let most = HashMap::from([("T".into(), 8)]);
    let places = places(&["x", "y", "s"], 64);
    let x: Vec<u8> = (1..=64).collect();
    places.given["x"].write(0, &x).unwrap();
    let mut run = bind(&p, &places, &most).unwrap();
    let pool = Pool::new(2).unwrap();
    for t in [3, 1, 8, 8, 2] {
        places.given["y"].zero().unwrap();
        run.run(&pool, &[t]).unwrap();
        let mut storage = HashMap::from([("x".into(), x.clone())]);
        interpret(&p, &HashMap::new(), &HashMap::from([("T".into(), t)]), &mut storage).unwrap();
        assert_eq!(bytes(&places.given["y"]), storage["y"], "T = {t}");
    }
    // What does not fit is refused, and the next run is right again.
    let error = run.run(&pool, &[9]).unwrap_err().to_string();
    assert!(error.contains("are not inside 'y'"), "{error}");
    run.run(&pool, &[1]).unwrap();
    assert_eq!(bytes(&places.given["y"])[..8], x[..8]);
}

#[test]
fn a_flat_copy_moves_what_the_dimensions_say() {
    let p = parse(
        "program p(T) {
           buffer x: T*8 bytes on host = given
           buffer y: T*8 bytes on host = given
           copy x to y
         }",
    )
    .unwrap();
    let places = places(&["x", "y"], 64);
    places.given["x"].write(0, &[7u8; 64]).unwrap();
    let mut run = bind(&p, &places, &HashMap::from([("T".into(), 8)])).unwrap();
    run.run(&Pool::new(2).unwrap(), &[3]).unwrap();
    assert_eq!(bytes(&places.given["y"]), [vec![7; 24], vec![0; 40]].concat());
}

#[test]
fn unsound_programs_are_not_bound() {
    let refused = |steps: &str, places: &Places| {
        let buffers = "buffer x: 64 bytes on host = given buffer y: 64 bytes on device = given
                       buffer z: 64 bytes on device = planned 0 event e";
        let p = parse(&format!("program p() {{ {buffers} {steps} }}")).unwrap();
        match bind(&p, places, &HashMap::new()) {
            Err(e) => e.to_string(),
            Ok(_) => panic!("bound: {p}"),
        }
    };
    let mut places = places(&["x", "y"], 64);
    assert!(refused("copy x to y", &places).contains("'z' is on a tier that has no arena"));
    let device = Arena::new("device", 64);
    places.planned.insert("device".into(), device.alloc(64).unwrap().into_view());
    assert!(
        refused("copy x to y", &places).contains("'x' is copied to device, where no link leads from host")
    );
    let link = Link { from: "host".into(), to: "device".into(), bandwidth: 1e9, latency_seconds: 0.0 };
    places.links.push(link);
    assert!(refused("queue q { copy x to y } copy x to y", &places).contains("races with"));
    assert!(
        refused("queue q { copy x to z signal e } wait e wait e", &places).contains("waits for event 'e'")
    );
    assert!(refused("call k(@x)", &places).contains("there is no kernel 'k'"));
    places.given.remove("x");
    assert!(refused("copy x to y", &places).contains("'x' was not passed"));
}

#[test]
fn a_program_alone_has_no_peers() {
    let p = parse(
        "program p() {
           buffer x: 64 bytes on host = given
           event e
           queue q { wait e }
           receive x from 1 tag 0
           signal e
         }",
    )
    .unwrap();
    let mut run = bind(&p, &places(&["x"], 64), &HashMap::new()).unwrap();
    // The queue that waits for the signal ends too.
    let error = run.run(&Pool::new(1).unwrap(), &[]).unwrap_err().to_string();
    assert!(error.contains("rank 1 cannot be reached"), "{error}");
}
