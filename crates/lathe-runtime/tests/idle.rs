//! An idle pool sleeps. Alone in its file, so that no other test of the process uses processor time meanwhile.

use lathe_runtime::Pool;
use std::time::Duration;

#[test]
fn an_idle_pool_burns_nothing() {
    let pool = Pool::new(2).unwrap();
    pool.run(&|_, barrier| barrier.wait());
    std::thread::sleep(Duration::from_millis(30));
    let before = processor_time();
    std::thread::sleep(Duration::from_millis(300));
    assert!(processor_time() - before <= Duration::from_millis(30));
}

/// Processor time of this process so far, to 10 ms; zero where the system does not say.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|x| x.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}
