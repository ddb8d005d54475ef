//! A machine as TOML: writing, reading, and refusing values that no machine has.

use crate::{ByThreads, Machine, MachineError, Rate};
use std::collections::BTreeSet;

impl Machine {
    /// The machine as TOML; [`Machine::from_toml`] reads it back unchanged.
    ///
    /// # Panics
    /// When a size or count is above 2^63 - 1, which TOML cannot write.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("sizes and counts below 2^63 have a TOML form")
    }

    /// Reads a machine from TOML and checks it.
    pub fn from_toml(text: &str) -> Result<Machine, MachineError> {
        let machine: Machine =
            toml::from_str(text).map_err(|error| MachineError::Syntax { message: error.to_string() })?;
        machine.check()?;
        Ok(machine)
    }

    /// Refuses values that no machine has: no cores, an empty memory, a rate that is not positive, a name used twice.
    pub fn check(&self) -> Result<(), MachineError> {
        require(self.cpu.cores > 0, "cpu.cores", "must be at least 1")?;
        let width = self.cpu.vector_bits;
        require(
            width >= 32 && width.is_power_of_two(),
            "cpu.vector_bits",
            "must be a power of two, at least 32",
        )?;
        unique("levels", self.levels.iter().map(|level| level.name.as_str()))?;
        for level in &self.levels {
            require(level.count > 0, &format!("levels.{}.count", level.name), "must be at least 1")?;
        }
        for cache in &self.caches {
            let field = format!("caches.{}", cache.level);
            require(cache.bytes > 0 && cache.shared_by > 0, &field, "size and sharing must be at least 1")?;
        }
        unique("memory", self.memory.iter().map(|memory| memory.name.as_str()))?;
        for memory in &self.memory {
            let field = format!("memory.{}", memory.name);
            require(memory.capacity_bytes > 0, &format!("{field}.capacity_bytes"), "must be at least 1")?;
            check_rates(&format!("{field}.read_bandwidth"), &memory.read_bandwidth)?;
        }
        let names: Vec<String> = self.links.iter().map(|link| format!("{}-{}", link.from, link.to)).collect();
        unique("links", names.iter().map(String::as_str))?;
        for (link, name) in self.links.iter().zip(&names) {
            let field = format!("links.{name}");
            require(link.from != link.to, &field, "must lead from one memory to another")?;
            let speed = link.bandwidth.is_finite() && link.bandwidth > 0.0;
            require(speed, &format!("{field}.bandwidth"), "must be a positive number")?;
            let wait = link.latency_seconds.is_finite() && link.latency_seconds >= 0.0;
            require(wait, &format!("{field}.latency_seconds"), "must be a number from 0 on")?;
        }
        for (dtype, rates) in &self.rates {
            check_rates(&format!("rates.{dtype}"), rates)?;
        }
        unique("devices", self.devices.iter().map(|device| device.name.as_str()))?;
        let held: Vec<&str> = self.devices.iter().map(|device| device.memory.as_str()).collect();
        for device in &self.devices {
            let field = format!("devices.{}", device.name);
            let (memory, place) = (&device.memory, format!("{field}.memory"));
            require(self.memory(memory).is_some(), &place, &format!("there is no memory '{memory}'"))?;
            let alone = held.iter().filter(|name| *name == memory).count() == 1;
            require(alone, &place, &format!("'{memory}' is another device's"))?;
            for (dtype, rate) in &device.rates {
                check_rate(&format!("{field}.rates.{dtype}"), *rate)?;
            }
        }
        let Some(disk) = self.disk else { return Ok(()) };
        check_rate("disk.read_bandwidth", disk.read_bandwidth)?;
        require(disk.capacity_bytes != Some(0), "disk.capacity_bytes", "must be at least 1")?;
        disk.write_bandwidth.map_or(Ok(()), |rate| check_rate("disk.write_bandwidth", rate))
    }
}

fn require(holds: bool, field: &str, reason: &str) -> Result<(), MachineError> {
    match holds {
        true => Ok(()),
        false => Err(MachineError::Invalid { field: field.into(), reason: reason.into() }),
    }
}

fn unique<'a>(field: &str, names: impl Iterator<Item = &'a str>) -> Result<(), MachineError> {
    let mut seen = BTreeSet::new();
    for name in names {
        require(!name.is_empty(), field, "a name is empty")?;
        require(seen.insert(name), field, &format!("'{name}' is there twice"))?;
    }
    Ok(())
}

fn check_rates(field: &str, rates: &ByThreads) -> Result<(), MachineError> {
    rates.iter().try_for_each(|(threads, rate)| check_rate(&format!("{field}.{threads}"), rate))
}

fn check_rate(field: &str, rate: Rate) -> Result<(), MachineError> {
    let positive = |x: f64| x.is_finite() && x > 0.0;
    require(positive(rate.best) && positive(rate.median), field, "must be a positive number")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{Cache, Cpu, Device, Disk, Level, Link, Memory};
    use lathe_diagnostic::Diagnose;

    pub(crate) fn example() -> Machine {
        let rates = |one: f64| -> ByThreads {
            let rate = |x: f64| Rate { best: x, median: x * 0.95 };
            [(1, rate(one)), (2, rate(1.9 * one))].into_iter().collect()
        };
        let features = ["avx2", "avx512f", "avx512vnni", "f16c", "fma"].map(String::from).into();
        Machine {
            name: "example".into(),
            cpu: Cpu {
                vendor: "Vendor".into(),
                model: "Model 1".into(),
                cores: 2,
                vector_bits: 512,
                features,
            },
            disk: Some(Disk {
                read_bandwidth: Rate { best: 1.5e9, median: 1.25e9 },
                write_bandwidth: None,
                capacity_bytes: None,
            }),
            levels: vec![Level { name: "core".into(), count: 2 }, Level { name: "lane".into(), count: 16 }],
            caches: vec![
                Cache { level: 1, bytes: 48 << 10, shared_by: 1 },
                Cache { level: 2, bytes: 1 << 20, shared_by: 1 },
                Cache { level: 3, bytes: 32 << 20, shared_by: 2 },
            ],
            memory: vec![Memory {
                name: "dram".into(),
                capacity_bytes: 24 << 30,
                read_bandwidth: rates(3.3e10),
            }],
            links: vec![Link {
                from: "dram".into(),
                to: "device".into(),
                bandwidth: 1.2e10,
                latency_seconds: 1e-5,
            }],
            devices: vec![],
            rates: [("f32", 2.4e11), ("bf16", 4.8e11), ("int8", 9.6e11)]
                .map(|(dtype, one)| (dtype.to_string(), rates(one)))
                .into(),
        }
    }

    #[test]
    fn toml_round_trips() {
        let machine = example();
        let text = machine.to_toml();
        assert_eq!(Machine::from_toml(&text).unwrap(), machine, "{text}");
        assert_eq!(Machine::from_toml(&text).unwrap().to_toml(), text);
    }

    /// The example with a device and a disk of known size.
    fn with_device() -> Machine {
        let mut machine = example();
        let read_bandwidth = [(1, Rate { best: 5e11, median: 4.8e11 })].into_iter().collect();
        machine.memory.push(Memory { name: "device".into(), capacity_bytes: 2 << 30, read_bandwidth });
        let rates = [("f16".to_string(), Rate { best: 2e12, median: 1.9e12 })].into();
        machine.devices.push(Device { name: "gpu".into(), memory: "device".into(), rates });
        let disk = machine.disk.as_mut().unwrap();
        (disk.write_bandwidth, disk.capacity_bytes) = (Some(disk.read_bandwidth), Some(1 << 40));
        machine
    }

    #[test]
    fn devices_compute_on_memories_of_their_own() {
        let machine = with_device();
        assert_eq!(Machine::from_toml(&machine.to_toml()).unwrap(), machine);
        assert_eq!(machine.main_memory().unwrap().name, "dram");
        let refused = |change: &dyn Fn(&mut Machine)| {
            let mut machine = with_device();
            change(&mut machine);
            Machine::from_toml(&machine.to_toml()).unwrap_err().to_string()
        };
        assert!(refused(&|m| m.devices[0].memory = "vram".into()).contains("there is no memory 'vram'"));
        let twice = |m: &mut Machine| {
            let second = Device { name: "other".into(), ..m.devices[0].clone() };
            m.devices.push(second);
        };
        assert!(refused(&twice).contains("'device' is another device's"));
        assert!(refused(&|m| m.disk.as_mut().unwrap().capacity_bytes = Some(0)).starts_with("disk.capacity"));
    }

    #[test]
    fn a_bare_machine_round_trips() {
        let mut machine = example();
        (machine.disk, machine.levels, machine.caches) = (None, vec![], vec![]);
        (machine.memory, machine.links, machine.rates) = (vec![], vec![], Default::default());
        assert_eq!(Machine::from_toml(&machine.to_toml()).unwrap(), machine);
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        let refused = |change: &dyn Fn(&mut Machine)| {
            let mut machine = example();
            change(&mut machine);
            Machine::from_toml(&machine.to_toml()).unwrap_err().to_string()
        };
        assert!(refused(&|m| m.cpu.cores = 0).starts_with("cpu.cores:"));
        assert!(refused(&|m| m.cpu.vector_bits = 100).starts_with("cpu.vector_bits:"));
        assert!(refused(&|m| m.memory[0].capacity_bytes = 0).starts_with("memory.dram.capacity_bytes:"));
        assert!(refused(&|m| m.levels[1].name = "core".into()).contains("'core' is there twice"));
        assert!(refused(&|m| m.links[0].bandwidth = 0.0).starts_with("links.dram-device.bandwidth:"));
        assert!(refused(&|m| m.links[0].to = "dram".into()).contains("from one memory to another"));
        let nan = Rate { best: f64::NAN, median: 1.0 };
        assert!(refused(&|m| m.rates.get_mut("int8").unwrap().set(2, nan)).starts_with("rates.int8.2:"));
    }

    #[test]
    fn bad_text_is_a_diagnostic() {
        for text in ["", "name = 3", "=", "name = \"x\"\nwhat = 1", "\u{0}"] {
            let error = Machine::from_toml(text).unwrap_err();
            assert_eq!(error.diagnostic().code, "machine-syntax", "{text:?}");
        }
        let threads = example().to_toml().replace("[rates.int8.1]", "[rates.int8.zero]");
        let error = Machine::from_toml(&threads).unwrap_err().to_string();
        assert!(error.contains("'zero' is not a number of threads"), "{error}");
    }
}
