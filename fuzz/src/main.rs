//! libFuzzer around a session of `lathe-fuzz`. It chooses what to change by coverage; what is changed, and what must hold, is the
//! library's. Arguments behind `-ignore_remaining_args=1` are the folder of the run and the mode.

#![no_main]

use std::cell::RefCell;
use std::path::Path;

use lathe_fuzz::{Mode, Session};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

thread_local! {
    static SESSION: RefCell<Session> = RefCell::new(session());
}

/// The folder and the mode: one of the library's, `bytes` for libFuzzer's own changes, or `replay` for one case that is compiled at
/// once.
fn arguments() -> (String, String) {
    let mut rest = std::env::args().skip_while(|a| a != "-ignore_remaining_args=1").skip(1);
    let mut next = || rest.next().unwrap_or_else(|| ".".into());
    (next(), next())
}

fn session() -> Session {
    let (folder, mode) = arguments();
    Session::new(Path::new(&folder), Mode::named(&mode).unwrap_or(Mode::Joint))
}

// Where the compiler's counters lie, one byte an edge: the linker puts these names around their section. They are asked for in
// assembly, as the pass that makes the counters declares the same names in each module, and gives way to a module's own.
std::arch::global_asm!(
    ".pushsection .data.rel.ro,\"aw\"",
    ".p2align 3",
    ".globl lathe_counters",
    "lathe_counters:",
    ".quad __start___sancov_cntrs",
    ".quad __stop___sancov_cntrs",
    ".popsection",
);

unsafe extern "C" {
    #[link_name = "lathe_counters"]
    static COUNTERS: [usize; 2];
}

/// The first counter, and how many there are.
fn edges() -> (*mut u8, usize) {
    // SAFETY: two addresses that are there from the start, and that nobody changes.
    let [first, end] = unsafe { COUNTERS };
    (std::ptr::with_exposed_provenance_mut(first), end - first)
}

/// How often each edge was reached since this run began (modulo 256).
fn counters() -> Vec<u8> {
    let (first, n) = edges();
    let mut out = vec![0; n];
    // SAFETY: there are so many counters, which stay where they are. They go on counting, so they are copied.
    unsafe { first.copy_to_nonoverlapping(out.as_mut_ptr(), n) };
    out
}

/// Sets them again to what they were.
fn set_counters(of: &[u8]) {
    let (first, n) = edges();
    // SAFETY: as above; nothing else writes them but the code that counts, of which there is one thread.
    unsafe { first.copy_from_nonoverlapping(of.as_ptr(), n.min(of.len())) };
}

fuzz_target!(
    init: {
        // Panics are findings, which are caught and written.
        std::panic::set_hook(Box::new(|_| {}));
    },
    |data: &[u8]| {
        let done = SESSION.with_borrow_mut(|s| {
            if arguments().1 == "replay" {
                return s.replay(data);
            }
            s.run(data);
            let reached = counters();
            s.learn(&reached);
            let done = s.finish();
            // What the case reached is what libFuzzer is to see.
            set_counters(&reached);
            done
        });
        if let Err(e) = done {
            eprintln!("lathe-fuzz failed {e}");
            std::process::exit(2);
        }
    }
);

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if Mode::named(&arguments().1).is_none() {
        return fuzzer_mutate(data, size, max_size);
    }
    let text = SESSION.with_borrow_mut(|s| s.mutate(&data[..size], seed.into()));
    if text.is_empty() || text.len() > max_size {
        return size;
    }
    data[..text.len()].copy_from_slice(text.as_bytes());
    text.len()
});
