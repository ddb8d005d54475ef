//! How long processors worked for a thread or a process: seconds that other work on the machine hardly changes.

use std::time::Duration;

/// Processor time of this thread so far; zero where the system does not say.
pub fn thread_processor_time() -> Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the system writes one `timespec`, which is there.
    match unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) } {
        0 => Duration::new(t.tv_sec as u64, t.tv_nsec as u32),
        _ => Duration::ZERO,
    }
}

/// Processor time of a process so far, in the system's ticks: its own, and that of children that ended and were waited for.
/// `None` where the system does not say.
pub fn processor_times(process: u32) -> Option<(Duration, Duration)> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // SAFETY: it only asks for a number.
    let ticks = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok().filter(|t| *t > 0)?;
    // The name is in parentheses and may hold anything; after it, user and system time are the 12th and 13th, then the children's.
    let fields: Vec<u64> =
        stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(4).map_while(|n| n.parse().ok()).collect();
    let [user, system, child_user, child_system] = fields[..] else { return None };
    let time = |n: u64| Duration::from_nanos(n * 1_000_000_000 / ticks);
    Some((time(user + system), time(child_user + child_system)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn who_works_takes_time_and_who_sleeps_takes_none() {
        let start = (thread_processor_time(), std::time::Instant::now());
        std::thread::sleep(Duration::from_millis(50));
        let slept = thread_processor_time() - start.0;
        assert!(slept < start.1.elapsed(), "{slept:?}");
        let (own, children) = processor_times(std::process::id()).unwrap();
        // A child that counts up to a number takes what its parent does not.
        let count = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done";
        assert!(std::process::Command::new("sh").args(["-c", count]).status().unwrap().success());
        let (own_after, children_after) = processor_times(std::process::id()).unwrap();
        assert!(children_after > children && own_after >= own);
        let mut n = 0u64;
        while thread_processor_time() - start.0 < Duration::from_millis(30) {
            n += 1;
        }
        assert!(n > 0 && processor_times(std::process::id()).unwrap().0 > own);
        assert_eq!(processor_times(u32::MAX), None);
    }
}
