//! Prints what a barrier and an empty run cost, by threads: `cargo run --release -p lathe-runtime --example barrier`.

use lathe_runtime::Pool;
use std::time::Instant;

const MEETINGS: usize = 200_000;
const RUNS: usize = 50_000;

fn main() -> Result<(), lathe_runtime::RuntimeError> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{:>7}  {:>12}  {:>12}", "threads", "barrier ns", "run ns");
    for threads in 1..=processors {
        let pool = Pool::new(threads)?;
        let best = |work: &dyn Fn(), count: usize| {
            let time = |_| {
                let start = Instant::now();
                work();
                start.elapsed().as_secs_f64() * 1e9 / count as f64
            };
            (0..7).map(time).fold(f64::INFINITY, f64::min)
        };
        let barrier = best(&|| pool.run(&|_, barrier| (0..MEETINGS).for_each(|_| barrier.wait())), MEETINGS);
        let run = best(&|| (0..RUNS).for_each(|_| pool.run(&|_, _| ())), RUNS);
        println!("{threads:>7}  {barrier:>12.0}  {run:>12.0}");
    }
    Ok(())
}
