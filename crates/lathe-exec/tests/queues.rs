//! Programs whose loops follow dimensions, whose queues would race, and that lack what they need, run without kernels.

use lathe_exec::{Chooser, ExecError, Executable, HeldRoom, Places, Segment};
use lathe_ir::Name;
use lathe_ir::step::{Program, interpret, parse};
use lathe_machine::Link;
use lathe_runtime::{Arena, Buffer, Pool, View};
use std::collections::HashMap;
use std::sync::Arc;

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

#[test]
fn segments_are_split_as_somebody_chooses() {
    #[derive(Debug)]
    struct Long;
    impl Chooser for Long {
        fn away(&self, segments: &[Segment]) -> Vec<bool> {
            segments.iter().map(|s| s.slots > 1).collect()
        }
    }
    // Two queues copy what is held, where kernels would compute with it.
    let p = parse(
        "program p() {
           buffer all: 12288 bytes on below = given
           buffer some: 12288 bytes on host = given
           buffer o: 16 bytes on host = given
           buffer i: 16 bytes on host = given
           buffer here: 32 bytes on host = given
           buffer come: 32 bytes on host = given
           buffer away: 32 bytes on below = given
           buffer list: 20 bytes on below = given
           buffer x: 64 bytes on host = given
           buffer z: 64 bytes on below = given
           event go
           event came
           queue bring {
             wait go
             hold all in some pages 4096 by come[0, 16] beside here[0, 16]
             signal came
           }
           split o, i of all in some pages 4096
             here here[0, 16], here[16, 16] come come[0, 16], come[16, 16] away away[0, 16], away[16, 16]
             rows list by 1
           signal go
           wait came
           copy x to z pages 16 of list
         }",
    )
    .unwrap();
    let mut places = places(&["o", "i", "here", "come", "away", "list", "x", "z"], 64);
    places.given.extend(self::places(&["all", "some"], 12288).given);
    let link = |from: &str, to: &str| Link {
        from: from.into(),
        to: to.into(),
        bandwidth: 1e12,
        latency_seconds: 0.0,
    };
    places.links = vec![link("below", "host"), link("host", "below")];
    places.held = Some(Arc::new(HeldRoom::new(12288, 1000).with_chooser(Arc::new(Long))));
    let write = |name: &str, words: &[u32]| places.given[name].write(0, words).unwrap();
    write("all", &(0..3072).map(|i| i / 1024).collect::<Vec<u32>>());
    write("x", &(0..16).collect::<Vec<u32>>());
    let words = |name: &str| {
        let bytes = bytes(&places.given[name]);
        bytes.chunks(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect::<Vec<u32>>()
    };
    let mut run = bind(&p, &places, &HashMap::new()).unwrap();
    let pool = Pool::new(1).unwrap();
    write("o", &[0, 1, 3, 4]);
    write("i", &[2, 0, 3, 1]);
    run.run(&pool, &[]).unwrap();
    // The second segment is away, the others come.
    assert_eq!(words("here")[..4], [0, 0, 0, 0]);
    assert_eq!(words("come")[..8], [0, 1, 1, 2, 2, 1, 0, 3]);
    assert_eq!(words("away")[..8], [0, 0, 2, 2, 0, 3, 2, 1]);
    assert_eq!(words("list")[..3], [2, 0, 3]);
    assert_eq!(words("z"), [0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 12, 13, 14, 15]);
    let held = words("some");
    assert_eq!((held[0], held[2 * 1024 + 7]), (0, 2));
    // They are there now.
    run.run(&pool, &[]).unwrap();
    assert_eq!((&words("here")[..4], &words("come")[..4]), (&[0, 1, 1, 2][..], &[0; 4][..]));
    let counts = places.held.as_ref().unwrap().counts();
    assert_eq!((counts.needed, counts.brought, counts.away), (6, 2, 2));
}
