//! The parts of a machine. Names of memories, levels and data types are data, never enums, so a file may describe a
//! machine that Lathe has never seen.

use crate::{ByThreads, Rate, Target};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One machine: what computes, what holds data, and how fast.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// What people call it.
    pub name: String,
    /// The processor.
    pub cpu: Cpu,
    /// Disk, when one was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
    /// Parallel levels, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub levels: Vec<Level>,
    /// Data caches, nearest to the core first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<Cache>,
    /// Memories that a buffer can live in, fastest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub memory: Vec<Memory>,
    /// Ways between memories, the disk (`disk`) and other machines (`network`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
    /// What computes besides the processor, each on a memory of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Peak arithmetic operations per second by data type (`f32`, `bf16`, `int8`); a multiply and an add are two.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rates: BTreeMap<String, ByThreads>,
}

/// A processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    /// Who makes it, as the processor says (`AuthenticAMD`).
    pub vendor: String,
    /// Which one it is.
    pub model: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Widest vector register, bits.
    pub vector_bits: u32,
    /// Instruction set extensions, spelt as for gcc's `-m` flags: `avx512f`, `avx512vnni`, `fma`.
    pub features: BTreeSet<String>,
}

impl Cpu {
    /// Whether every one of `features` is there.
    pub fn has(&self, features: &[&str]) -> bool {
        features.iter().all(|feature| self.features.contains(*feature))
    }

    /// Its maker and family (`AuthenticAMD-26`): those of one class have the same units, and are fast in the same ways. None where the
    /// system does not say.
    pub fn class(&self) -> Option<String> {
        let (_, behind) = self.model.rsplit_once("(family ")?;
        let family = behind.split(',').next()?;
        family.bytes().all(|b| b.is_ascii_digit()).then(|| format!("{}-{family}", self.vendor))
    }
}

/// One level of data cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// 1 is nearest to the core.
    pub level: u32,
    /// Size of one such cache, bytes.
    pub bytes: u64,
    /// How many cores share it.
    pub shared_by: usize,
}

/// A memory that buffers live in: main memory, a device's memory, a scratchpad.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Its name in placements and buffers (`dram`).
    pub name: String,
    /// How much fits, bytes.
    pub capacity_bytes: u64,
    /// Bytes read per second, streaming.
    #[serde(default)]
    pub read_bandwidth: ByThreads,
}

/// Something besides the processor that computes, on what lies in its memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Its name (`gpu`).
    pub name: String,
    /// The memory that it computes on, one of the machine's and no other device's.
    pub memory: String,
    /// Arithmetic operations per second by data type, of the whole device; a multiply and an add are two.
    #[serde(default)]
    pub rates: BTreeMap<String, Rate>,
}

/// A way from one memory to another: one copy at a time, at so many bytes a second, after so long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The memory it reads.
    pub from: String,
    /// The memory it writes.
    pub to: String,
    /// Bytes carried per second.
    pub bandwidth: f64,
    /// Seconds that each copy takes besides.
    #[serde(default)]
    pub latency_seconds: f64,
}

impl Link {
    /// How long it takes to carry `bytes`.
    pub fn seconds(&self, bytes: u64) -> f64 {
        self.latency_seconds + bytes as f64 / self.bandwidth
    }
}

/// A disk.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Bytes read per second by one thread, from the medium and not from the page cache, as well as can be known.
    pub read_bandwidth: Rate,
    /// Bytes written per second, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_bandwidth: Option<Rate>,
    /// How much may be kept on it, bytes, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_bytes: Option<u64>,
}

/// A parallel level: how many of something work at once inside the level above it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// Its name in schedules (`core`, `lane`).
    pub name: String,
    /// How many there are inside one of the level above.
    pub count: usize,
}

impl Machine {
    /// The memory called `name`.
    pub fn memory(&self, name: &str) -> Option<&Memory> {
        self.memory.iter().find(|memory| memory.name == name)
    }

    /// The memory that the processor computes on: the first that is no device's.
    pub fn main_memory(&self) -> Option<&Memory> {
        self.memory.iter().find(|memory| self.devices.iter().all(|device| device.memory != memory.name))
    }

    /// The link from one memory to another.
    pub fn link(&self, from: &str, to: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.from == from && link.to == to)
    }

    /// The parallel level called `name`.
    pub fn level(&self, name: &str) -> Option<&Level> {
        self.levels.iter().find(|level| level.name == name)
    }

    /// The data cache at `level` (1 is nearest to the core).
    pub fn cache(&self, level: u32) -> Option<&Cache> {
        self.caches.iter().find(|cache| cache.level == level)
    }

    /// Peak operations per second of `threads` threads on data of type `dtype` (`f32`, `bf16`, `int8`).
    pub fn peak(&self, dtype: &str, threads: usize) -> Option<Rate> {
        self.rates.get(dtype)?.at(threads)
    }

    /// What a code generator should make for this machine.
    pub fn target(&self) -> Target {
        Target::of_cpu(&self.cpu)
    }
}
