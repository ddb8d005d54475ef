//! Measuring this machine: how fast it reads and computes, by threads; the floor that everything else is compared with.
//!
//! Each speed is measured in several short passes, of which the best and the median are kept. The result is cached as a TOML
//! file, one for each processor model, feature set and number of cores; what was measured in little memory has another one.

mod bandwidth;
mod disk;
mod peak;

use crate::cpu::{detect_caches, detect_cpu, memory_bytes};
use crate::{Pool, RuntimeError};
use lathe_machine::{ByThreads, Cpu, Level, Machine, Memory, Rate};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub use bandwidth::read_bandwidth;
pub use disk::direct_read_bandwidth;
pub use peak::{peak_bf16, peak_f32, peak_int8};

/// How long and on how much to measure.
struct Effort {
    /// Bytes read in one pass over memory.
    buffer: usize,
    /// Passes over memory.
    reads: usize,
    /// Passes of arithmetic.
    sums: usize,
    /// Bytes of the file that is read from disk.
    file: usize,
}

const QUICK: Effort = Effort { buffer: 384 << 20, reads: 9, sums: 9, file: 16 << 20 };
/// The least memory that reading is timed over, bytes.
const LEAST: usize = 4 << 20;
const FULL: Effort = Effort { buffer: 512 << 20, reads: 41, sums: 41, file: 128 << 20 };

/// Measures this machine: under 1.5 s when `quick`, under 8 s otherwise, reading at most `within` bytes of memory. `folder` is where
/// the disk is measured; `progress` is told what is measured next.
pub fn measure(
    quick: bool,
    within: usize,
    folder: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<Machine, RuntimeError> {
    let effort = if quick { &QUICK } else { &FULL };
    let buffer = effort.buffer.min(within);
    let cpu = detect_cpu();
    let mut read = ByThreads::default();
    let mut rates: BTreeMap<String, ByThreads> = BTreeMap::new();
    for threads in thread_counts(cpu.cores) {
        let pool = Pool::new(threads)?;
        progress(&format!("read bandwidth, {threads} of {} cores", cpu.cores));
        if let Some(rate) = bandwidth::measure(threads, buffer, effort.reads, &pool)? {
            read.set(threads, rate);
        }
        progress(&format!("arithmetic, {threads} of {} cores", cpu.cores));
        for (dtype, rate) in peak::all(&pool, effort.sums) {
            rates.entry(dtype.into()).or_default().set(threads, rate);
        }
    }
    progress("disk");
    let disk = disk::measure(folder, effort.file);
    let levels = [("core", cpu.cores), ("lane", cpu.vector_bits as usize / 32)];
    let capacity_bytes = memory_bytes().unwrap_or(1 << 30);
    Ok(Machine {
        name: format!("{} x {}", cpu.cores, cpu.model),
        disk,
        levels: levels.map(|(name, count)| Level { name: name.into(), count }).into(),
        caches: detect_caches(),
        memory: vec![Memory { name: "dram".into(), capacity_bytes, read_bandwidth: read }],
        links: vec![],
        devices: vec![],
        rates,
        cpu,
    })
}

/// This machine as measured before, or measured now and remembered under `cache` (as well as that can be written). Measuring takes at
/// most `within` bytes of memory, which the reading of memory needs in full: what was seen in less (of caches, where it is very
/// little) is remembered beside it, for those who have no more.
pub fn this_machine(
    cache: &Path,
    quick: bool,
    within: usize,
    progress: &mut dyn FnMut(&str),
) -> Result<Machine, RuntimeError> {
    let cpu = detect_cpu();
    let whole = machine_file(cache, &cpu);
    let known = |file: &Path| {
        let known = fs::read_to_string(file).ok().and_then(|text| Machine::from_toml(&text).ok());
        known.filter(|machine| machine.cpu == cpu)
    };
    if let Some(machine) = known(&whole) {
        return Ok(machine);
    }
    // By powers of two, so that what was measured serves others with about as much.
    let within = if within < FULL.buffer { 1 << within.max(LEAST).ilog2() } else { within };
    let file =
        if within < FULL.buffer { whole.with_extension(format!("{}.toml", within >> 20)) } else { whole };
    if let Some(machine) = known(&file) {
        return Ok(machine);
    }
    let machine = measure(quick, within, cache, progress)?;
    let _ = crate::files::write_whole(&file, machine.to_toml().as_bytes()); // else measured again next time
    Ok(machine)
}

/// Where the description of a machine with this processor is kept under `cache`.
pub fn machine_file(cache: &Path, cpu: &Cpu) -> PathBuf {
    let features: Vec<&str> = cpu.features.iter().map(String::as_str).collect();
    let text = format!("{}\n{}\n{}\n{}", cpu.vendor, cpu.model, cpu.cores, features.join(" "));
    cache.join("machine").join(format!("{}.toml", &blake3::hash(text.as_bytes()).to_hex()[..16]))
}

/// 1, 2, 4 and so on, and all of them.
fn thread_counts(cores: usize) -> Vec<usize> {
    let mut counts: Vec<usize> = (0..).map(|power| 1 << power).take_while(|count| *count < cores).collect();
    counts.push(cores);
    counts
}

/// Times `passes` passes of `work` on all threads of `pool`; each pass is one unit of `amount`, in units per second.
fn time_passes(pool: &Pool, passes: usize, amount: f64, work: &(dyn Fn(usize) + Sync)) -> Option<Rate> {
    let mut rates = Vec::with_capacity(passes);
    for pass in 0..=passes {
        let start = std::sync::Mutex::new(Instant::now());
        pool.run(&|thread, barrier| {
            barrier.wait(); // everyone is awake before the clock starts
            if let (0, Ok(mut start)) = (thread, start.lock()) {
                *start = Instant::now();
            }
            work(thread);
        });
        let seconds = start.into_inner().map_or(f64::INFINITY, |start| start.elapsed().as_secs_f64());
        if pass > 0 {
            rates.push(amount / seconds); // the first pass wakes clocks, pages and threads
        }
    }
    Rate::of_passes(&rates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_counts_end_with_all_cores() {
        assert_eq!([1, 2, 3, 8].map(thread_counts), [vec![1], vec![1, 2], vec![1, 2, 3], vec![1, 2, 4, 8]]);
    }

    #[test]
    fn a_machine_is_measured_once_and_again_when_its_file_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let mut steps = 0;
        let few = this_machine(dir.path(), true, 9 << 20, &mut |_| steps += 1).unwrap();
        assert!(steps > 0);
        let again = this_machine(dir.path(), true, 12 << 20, &mut |_| panic!("it was measured")).unwrap();
        assert_eq!(again, few);
        // What was measured in little memory is not what others take.
        let mut steps = 0;
        let first = this_machine(dir.path(), true, usize::MAX, &mut |_| steps += 1).unwrap();
        assert!(steps > 0);
        first.check().unwrap();
        assert!(
            first.peak("f32", 1).is_some() && first.memory("dram").unwrap().read_bandwidth.at(1).is_some()
        );
        let again = this_machine(dir.path(), true, 1 << 20, &mut |_| panic!("it was measured")).unwrap();
        assert_eq!(again, first);
        fs::write(machine_file(dir.path(), &first.cpu), "damaged").unwrap();
        let mut steps = 0;
        this_machine(dir.path(), true, usize::MAX, &mut |_| steps += 1).unwrap();
        assert!(steps > 0);
    }
}
