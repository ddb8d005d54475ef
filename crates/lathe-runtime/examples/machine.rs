//! Measures this machine and prints it as text and TOML: `cargo run --release -p lathe-runtime --example machine [quick]`.

use std::time::Instant;

fn main() -> Result<(), lathe_runtime::RuntimeError> {
    let quick = std::env::args().any(|argument| argument == "quick");
    let start = Instant::now();
    let mut tell = |step: &str| eprintln!("{step} ...");
    let machine = lathe_runtime::measure(quick, usize::MAX, &std::env::temp_dir(), &mut tell)?;
    println!("{machine}\n{}", machine.to_toml());
    eprintln!("measured in {:.2} s", start.elapsed().as_secs_f64());
    Ok(())
}
