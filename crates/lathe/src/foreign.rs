//! How much of the machine other processes take while something is measured.

/// Processor time so far, in the system's ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Of all processors together, idle or not.
    total: u64,
    /// Of these, in which something ran.
    busy: u64,
    /// Of these, in which this process ran.
    own: u64,
}

impl Clocks {
    /// Now; `None` where the system does not say.
    pub fn now() -> Option<Clocks> {
        let read = |path| std::fs::read_to_string(path).ok();
        Clocks::parse(&read("/proc/stat")?, &read("/proc/self/stat")?)
    }

    fn parse(system: &str, process: &str) -> Option<Clocks> {
        let line = system.lines().next()?.strip_prefix("cpu ")?;
        // user, nice, system, idle, waiting, interrupts, soft interrupts, stolen; guests are in the first two.
        let ticks: Vec<u64> =
            line.split_whitespace().take(8).map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let idle = ticks.get(3)? + ticks.get(4)?;
        let total: u64 = ticks.iter().sum();
        // The name is in parentheses and may hold anything; after it, user and system time are the 12th and 13th.
        let fields: Vec<&str> = process.rsplit_once(')')?.1.split_whitespace().collect();
        let own = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(Clocks { total, busy: total - idle, own })
    }

    /// The part of the machine that others took since `start`.
    pub fn foreign_since(&self, start: &Clocks) -> Option<f64> {
        let total = self.total.checked_sub(start.total).filter(|&total| total > 0)?;
        let others =
            (self.busy.saturating_sub(start.busy)).saturating_sub(self.own.saturating_sub(start.own));
        Some(others as f64 / total as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_by_hand() {
        let process = |user: u64| format!("7 (a) b) R 1 2 3 4 5 6 7 8 9 10 {user} 5 0 0");
        let start = Clocks::parse("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1", &process(20));
        assert_eq!(start, Some(Clocks { total: 1000, busy: 150, own: 25 }));
        let end = Clocks::parse("cpu  180 0 60 900 60 0 0 0 0 0", &process(90));
        // 90 of 200 ticks were busy, 70 of them ours.
        assert_eq!(end.zip(start).and_then(|(end, start)| end.foreign_since(&start)), Some(0.1));
        for (system, process) in [("", ""), ("cpu x", "7 (a) R"), ("cpu  1 2", "7")] {
            assert_eq!(Clocks::parse(system, process), None);
        }
    }
}
