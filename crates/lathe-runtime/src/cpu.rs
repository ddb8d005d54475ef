//! What this processor is: its name, its instruction set extensions, its caches.

use crate::RuntimeError;
use lathe_machine::{Cache, Cpu, Target};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The processor that this process runs on. Asking takes microseconds.
pub fn detect_cpu() -> Cpu {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| cpuinfo_field(&text, name).unwrap_or("unknown");
    let mut model = field("model name").to_string();
    if let (Some(family), Some(number)) = (cpuinfo_field(&text, "cpu family"), cpuinfo_field(&text, "model"))
    {
        model = format!("{model} (family {family}, model {number})");
    }
    let features = features();
    let vector_bits = [("avx512f", 512), ("avx2", 256)].iter().find(|(name, _)| features.contains(*name));
    Cpu {
        vendor: field("vendor_id").into(),
        model,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        vector_bits: vector_bits.map_or(128, |(_, bits)| *bits),
        features,
    }
}

/// What to generate code for here: the best this processor runs, or the target that the environment variable `LATHE_CPU`
/// names, which this processor must run.
pub fn detect_target() -> Result<Target, RuntimeError> {
    chosen_target(&detect_cpu(), std::env::var("LATHE_CPU").ok().as_deref().filter(|name| !name.is_empty()))
}

fn chosen_target(cpu: &Cpu, named: Option<&str>) -> Result<Target, RuntimeError> {
    let Some(name) = named else { return Ok(Target::of_cpu(cpu)) };
    let unknown = || RuntimeError::UnknownTarget { name: name.into() };
    let target = Target::named(name).ok_or_else(unknown)?;
    match target.lacking(cpu) {
        lacking if lacking.is_empty() => Ok(target),
        lacking => Err(RuntimeError::ForeignTarget {
            lacking: lacking.join(", "),
            best: Target::of_cpu(cpu).dialect,
            name: name.into(),
        }),
    }
}

/// The data caches of the first processor, nearest first; empty where the system does not say.
pub fn detect_caches() -> Vec<Cache> {
    let folder = Path::new("/sys/devices/system/cpu/cpu0/cache");
    let mut caches: Vec<Cache> =
        (0..16).filter_map(|index| cache(&folder.join(format!("index{index}")))).collect();
    caches.sort_by_key(|cache| cache.level);
    caches
}

/// Memory that this process may use, bytes: the machine's, or less where a control group says so.
pub(crate) fn memory_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kibibytes: u64 = cpuinfo_field(&text, "MemTotal")?.strip_suffix("kB")?.trim().parse().ok()?;
    let limit =
        fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    Some((kibibytes << 10).min(limit.unwrap_or(u64::MAX)))
}

/// The first value of `name: value` lines.
fn cpuinfo_field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields
        .map(|(key, value)| (key.trim(), value.trim()))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

fn cache(folder: &Path) -> Option<Cache> {
    let read = |name| fs::read_to_string(folder.join(name)).ok().map(|text| text.trim().to_string());
    if read("type")? == "Instruction" {
        return None;
    }
    let shared_by = count_list(&read("shared_cpu_list").unwrap_or_default()).max(1);
    Some(Cache { level: read("level")?.parse().ok()?, bytes: size(&read("size")?)?, shared_by })
}

/// `48K`, `32M` or plain bytes.
fn size(text: &str) -> Option<u64> {
    let (number, unit) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text, ""),
    };
    let shift = match unit {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => 0,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// How many numbers a list such as `0-3,8` names.
fn count_list(text: &str) -> usize {
    let part = |part: &str| -> Option<usize> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        last.checked_sub(first).map(|more| more.saturating_add(1))
    };
    text.split(',').filter_map(part).fold(0, usize::saturating_add)
}

/// Expands to a check of each named extension.
#[cfg(target_arch = "x86_64")]
macro_rules! detected {
    ($($name:tt),* $(,)?) => {
        [$(($name, std::arch::is_x86_feature_detected!($name))),*]
    };
}

/// The extensions of this processor that gcc and Rust call by the same name.
#[cfg(target_arch = "x86_64")]
fn features() -> BTreeSet<String> {
    let all = detected![
        "sse3",
        "ssse3",
        "sse4.1",
        "sse4.2",
        "popcnt",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "bmi2",
        "gfni",
        "vaes",
        "vpclmulqdq",
        "avxvnni",
        "avxifma",
        "avx512f",
        "avx512cd",
        "avx512bw",
        "avx512dq",
        "avx512vl",
        "avx512vbmi",
        "avx512vbmi2",
        "avx512vnni",
        "avx512bf16",
        "avx512bitalg",
        "avx512vpopcntdq",
        "avx512ifma",
        "avx512fp16",
        "avx512vp2intersect"
    ];
    all.iter().filter(|(_, here)| *here).map(|(name, _)| name.to_string()).collect()
}

/// The extensions of this processor that gcc and Rust call by the same name.
#[cfg(target_arch = "aarch64")]
fn features() -> BTreeSet<String> {
    let all = [
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
    ];
    all.iter().filter(|(_, here)| *here).map(|(name, _)| name.to_string()).collect()
}

/// Other architectures run the portable target alone, which asks for none.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> BTreeSet<String> {
    BTreeSet::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_processor_has_a_name_and_cores() {
        let cpu = detect_cpu();
        assert!(cpu.cores >= 1 && !cpu.vendor.is_empty() && cpu.vector_bits >= 128, "{cpu:?}");
        assert_eq!(cpu.has(&["avx512f"]), cpu.vector_bits == 512);
        assert_eq!(detect_cpu(), cpu);
    }

    #[test]
    fn a_named_target_is_taken_or_refused_in_one_line() {
        use lathe_diagnostic::Diagnose;
        let features = ["avx2", "fma", "f16c", "bmi2"].map(String::from).into();
        let cpu = Cpu { vendor: "v".into(), model: "m".into(), cores: 1, vector_bits: 256, features };
        assert_eq!(chosen_target(&cpu, None).unwrap().dialect, "avx2");
        assert_eq!(chosen_target(&cpu, Some("portable")).unwrap(), Target::portable());
        let refused = |name| chosen_target(&cpu, Some(name)).unwrap_err().diagnostic().to_string();
        assert_eq!(
            refused("sse9"),
            "error[unknown-target]: no target is called 'sse9'; use one of avx512bf16, avx512vnni, avx512, avxvnni, avx2, neon, portable"
        );
        assert_eq!(
            refused("avxvnni"),
            "error[foreign-target]: this processor does not run 'avxvnni': it lacks avxvnni; use 'avx2', the best it runs"
        );
    }

    #[test]
    fn lists_and_sizes() {
        assert_eq!(["0", "0-1", "0-3,8", "", "x", "3-1"].map(count_list), [1, 2, 5, 0, 0, 0]);
        assert_eq!(
            ["48K", "32M", "512", "", "K", "xM"].map(size),
            [Some(48 << 10), Some(32 << 20), Some(512), None, None, None]
        );
    }
}
