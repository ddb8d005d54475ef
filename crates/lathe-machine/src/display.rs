//! A machine as people read it: one clean screen, what `lathe machine` prints.

use crate::{ByThreads, Machine};
use std::fmt::{self, Display, Formatter};

impl Display for Machine {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let cpu = &self.cpu;
        writeln!(f, "{}", self.name)?;
        let cores = plural(cpu.cores, "core");
        row(
            f,
            "processor",
            &format!("{}, {}, {cores}, {}-bit vectors", cpu.vendor, cpu.model, cpu.vector_bits),
        )?;
        let features: Vec<&str> = cpu.features.iter().map(String::as_str).collect();
        for (index, line) in wrap(&features, 84).iter().enumerate() {
            row(f, if index == 0 { "features" } else { "" }, line)?;
        }
        let levels: Vec<String> =
            self.levels.iter().map(|level| format!("{} {}", level.name, level.count)).collect();
        row(f, "levels", &levels.join(", "))?;
        let caches: Vec<String> = self.caches.iter().map(cache).collect();
        row(f, "caches", &caches.join(", "))?;
        for memory in &self.memory {
            row(f, &memory.name, &binary(memory.capacity_bytes))?;
        }
        for device in &self.devices {
            let rates: Vec<String> = device
                .rates
                .iter()
                .map(|(dtype, rate)| format!("{dtype} {:.0} GOP/s", rate.best / 1e9))
                .collect();
            row(f, &device.name, &format!("computes on {}, {}", device.memory, rates.join(", ")))?;
        }
        for link in &self.links {
            let text = format!(
                "{} to {}, {} after {:.0} us",
                link.from,
                link.to,
                bytes_per_second(link.bandwidth),
                link.latency_seconds * 1e6
            );
            row(f, "link", &text)?;
        }
        if let Some(disk) = &self.disk {
            row(
                f,
                "disk read",
                &format!(
                    "{} (median {})",
                    bytes_per_second(disk.read_bandwidth.best),
                    bytes_per_second(disk.read_bandwidth.median)
                ),
            )?;
        }
        self.table(f)
    }
}

impl Machine {
    /// Speeds: one line a quantity, one column a number of threads.
    fn table(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let bandwidths = self.memory.iter().map(|m| (format!("{} read", m.name), &m.read_bandwidth, true));
        let peaks = self.rates.iter().map(|(dtype, rates)| (format!("{dtype} peak"), rates, false));
        let lines: Vec<(String, &ByThreads, bool)> =
            bandwidths.chain(peaks).filter(|(_, rates, _)| !rates.is_empty()).collect();
        let mut columns: Vec<usize> =
            lines.iter().flat_map(|(_, rates, _)| rates.iter().map(|(n, _)| n)).collect();
        columns.sort_unstable();
        columns.dedup();
        if columns.is_empty() {
            return Ok(());
        }
        write!(f, "\n  {:<12}", "best")?;
        for threads in &columns {
            write!(f, "{:>14}", plural(*threads, "thread"))?;
        }
        writeln!(f)?;
        for (name, rates, bytes) in lines {
            write!(f, "  {name:<12}")?;
            for threads in &columns {
                let measured = rates.iter().find(|(n, _)| n == threads);
                let text = match measured {
                    Some((_, rate)) if bytes => bytes_per_second(rate.best),
                    Some((_, rate)) => format!("{:.0} GOP/s", rate.best / 1e9),
                    None => "-".into(),
                };
                write!(f, "{text:>14}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// One labelled line; nothing when there is nothing to say.
fn row(f: &mut Formatter<'_>, label: &str, text: &str) -> fmt::Result {
    match text.is_empty() {
        true => Ok(()),
        false => writeln!(f, "  {label:<12}{text}"),
    }
}

fn cache(cache: &crate::Cache) -> String {
    let shared = match cache.shared_by {
        1 => String::new(),
        n => format!(" (shared by {n})"),
    };
    format!("L{} {}{shared}", cache.level, binary(cache.bytes))
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn bytes_per_second(rate: f64) -> String {
    format!("{:.1} GB/s", rate / 1e9)
}

/// A number of bytes in the largest binary unit that leaves at least one of it.
fn binary(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].iter();
    let mut unit = units.next().expect("there are units");
    while value >= 1024.0 {
        match units.next() {
            Some(next) => (value, unit) = (value / 1024.0, next),
            None => break,
        }
    }
    match value.fract() < 0.05 {
        true => format!("{value:.0} {unit}"),
        false => format!("{value:.1} {unit}"),
    }
}

/// Words joined by spaces into lines of at most `width` characters (a longer word stands alone).
fn wrap(words: &[&str], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => *line = format!("{line} {word}"),
            _ => lines.push(word.to_string()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_clean_screen() {
        let expected = "\
example
  processor   Vendor, Model 1, 2 cores, 512-bit vectors
  features    avx2 avx512f avx512vnni f16c fma
  levels      core 2, lane 16
  caches      L1 48 KiB, L2 1 MiB, L3 32 MiB (shared by 2)
  dram        24 GiB
  link        dram to device, 12.0 GB/s after 10 us
  disk read   1.5 GB/s (median 1.2 GB/s)

  best              1 thread     2 threads
  dram read        33.0 GB/s     62.7 GB/s
  bf16 peak        480 GOP/s     912 GOP/s
  f32 peak         240 GOP/s     456 GOP/s
  int8 peak        960 GOP/s    1824 GOP/s
";
        assert_eq!(crate::text::tests::example().to_string(), expected);
    }

    #[test]
    fn sizes_in_binary_units() {
        assert_eq!([0, 1, 1536, 1 << 20, 5 << 40].map(binary), ["0 B", "1 B", "1.5 KiB", "1 MiB", "5 TiB"]);
    }
}
