//! The dialect `neon` computes what the operators' references compute, on any host: its kernels are cross-compiled with a
//! program that calls them, which an emulator of the processor runs.
//!
//! ```sh
//! apt-get install -y gcc-aarch64-linux-gnu qemu-user   # what it needs (Debian, Ubuntu)
//! cargo test -p lathe-codegen --test neon -- --ignored
//! ```

mod cases;

use cases::{cases, units};
use lathe_machine::Target;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

const COMPILER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64";

/// Runs a command and demands that it succeeds.
fn run(folder: &Path, program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| {
        panic!("{program}: {error}; apt-get install -y gcc-aarch64-linux-gnu qemu-user")
    });
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "needs a cross compiler and an emulator: apt-get install -y gcc-aarch64-linux-gnu qemu-user"]
fn kernels_for_aarch64_compute_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let target = Target::named("neon").unwrap();
    let cases = cases(&target, true);

    // Arguments are one file, all buffers one after the other; the program writes a file like it.
    let (mut data, mut rows, mut declared) = (vec![], String::new(), String::new());
    for c in &cases {
        let buffers = c.buffers();
        let _ = writeln!(declared, "kernel {};", c.symbol);
        let sizes: Vec<String> = buffers.iter().map(|b| b.len().to_string()).collect();
        let (symbol, grid, workspace, sizes) = (&c.symbol, c.grid, c.workspace.max(64), sizes.join(", "));
        let _ = writeln!(rows, "    {{\"{symbol}\", {symbol}, {grid}, {workspace}, {{{sizes}}}}},");
        data.extend(buffers.concat());
    }
    std::fs::write(at.join("in"), &data).unwrap();
    let main = include_str!("neon.c").replace("/* declarations */", &declared).replace("/* rows */", &rows);
    std::fs::write(at.join("main.c"), main).unwrap();
    for (i, unit) in units(&cases, &target, [""; 2]).iter().enumerate() {
        std::fs::write(at.join(format!("unit{i}.c")), unit).unwrap();
    }
    let flags = lathe_runtime::kernel_flags(&target);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let files = ["main.c", "unit0.c", "unit1.c", "-static", "-o", "program", "-lm"];
    run(at, COMPILER, &[&flags[..], &files].concat());
    run(at, EMULATOR, &["-cpu", "max", "./program"]);

    let out = std::fs::read(at.join("out")).unwrap();
    assert_eq!(out.len(), data.len());
    let mut rest = &out[..];
    for c in &cases {
        let mut take = |n: usize| rest.split_off(..n).expect("as long as the arguments").to_vec();
        let buffers: Vec<Vec<u8>> = c.buffers().iter().map(|b| take(b.len())).collect();
        c.compare(&buffers, "neon");
    }
}
