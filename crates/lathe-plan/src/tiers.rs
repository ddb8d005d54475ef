//! A machine as a planner sees it: up to three tiers that hold bytes, and what moves and computes between them.

use crate::PlanError;
use lathe_machine::Machine;
use std::collections::BTreeMap;

/// The device's memory, the host's, and the disk.
pub(crate) const DEVICE: usize = 0;
pub(crate) const HOST: usize = 1;
pub(crate) const DISK: usize = 2;

/// One place for bytes.
#[derive(Clone, Debug)]
pub(crate) struct Tier {
    /// The memory's name, or `disk`.
    pub name: String,
    /// Bytes that may be kept there.
    pub capacity: f64,
    /// Bytes read a second.
    pub read: f64,
    /// Bytes written a second.
    pub write: f64,
}

/// What computes.
#[derive(Clone, Debug)]
pub(crate) struct Processor {
    /// Its name.
    pub name: String,
    /// Operations a second by data type.
    pub rates: BTreeMap<String, f64>,
}

impl Processor {
    /// Seconds of so many operations by data type; a type that it has no rate for is computed as `f32`.
    pub fn seconds<'a>(
        &self,
        operations: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<f64, PlanError> {
        let mut all = 0.0;
        for (dtype, n) in operations {
            let rate = self.rates.get(dtype).or_else(|| self.rates.get("f32"));
            let what = || format!("no rate of {} for '{dtype}', nor for 'f32'", self.name);
            let missing = || PlanError::Machine { machine: self.name.clone(), what: what() };
            all += n / *rate.ok_or_else(missing)?;
        }
        Ok(all)
    }
}

/// The tiers, what computes, and the ways between device and host.
#[derive(Clone, Debug)]
pub(crate) struct Tiers {
    /// By [`DEVICE`], [`HOST`] and [`DISK`]: those that there are.
    pub tiers: [Option<Tier>; 3],
    /// The first device, where there is one.
    pub device: Option<Processor>,
    /// The processor; none where it has no rates and a device computes.
    pub cpu: Option<Processor>,
    /// Bytes a second from host to device and back.
    pub links: [f64; 2],
}

impl Tiers {
    /// The tiers of a machine, of whose memories only so much may be used as `budgets` says.
    pub fn new(machine: &Machine, budgets: &BTreeMap<String, u64>) -> Result<Tiers, PlanError> {
        let lacks = |what: String| PlanError::Machine { machine: machine.name.clone(), what };
        let known = |name: &str| name == "disk" || machine.memory(name).is_some();
        if let Some(name) = budgets.keys().find(|name| !known(name)) {
            return Err(lacks(format!("no memory '{name}'")));
        }
        let within = |name: &str, bytes: f64| budgets.get(name).map_or(bytes, |b| bytes.min(*b as f64));
        let tier = |memory: &lathe_machine::Memory, threads: usize| {
            let rate = memory.read_bandwidth.at(threads);
            let rate = rate.ok_or_else(|| lacks(format!("no read bandwidth of '{}'", memory.name)))?.median;
            let capacity = within(&memory.name, memory.capacity_bytes as f64);
            Ok(Tier { name: memory.name.clone(), capacity, read: rate, write: rate })
        };
        let host =
            machine.main_memory().ok_or_else(|| lacks("no memory that the processor computes on".into()))?;
        let cores = machine.cpu.cores;
        let disk = machine.disk.map(|disk| Tier {
            name: "disk".into(),
            capacity: within("disk", disk.capacity_bytes.map_or(f64::INFINITY, |b| b as f64)),
            read: disk.read_bandwidth.median,
            write: disk.write_bandwidth.unwrap_or(disk.read_bandwidth).median,
        });
        let cpu_rates: BTreeMap<String, f64> = machine
            .rates
            .keys()
            .filter_map(|dtype| Some((dtype.clone(), machine.peak(dtype, cores)?.median)))
            .collect();
        let mut out = Tiers {
            tiers: [None, Some(tier(host, cores)?), disk],
            device: None,
            cpu: (!cpu_rates.is_empty()).then(|| Processor { name: "cpu".into(), rates: cpu_rates }),
            links: [f64::INFINITY; 2],
        };
        if let Some(device) = machine.devices.first() {
            let memory = machine.memory(&device.memory);
            let memory = memory.ok_or_else(|| lacks(format!("no memory '{}'", device.memory)))?;
            out.tiers[DEVICE] = Some(tier(memory, usize::MAX)?);
            let rates = device.rates.iter().map(|(dtype, rate)| (dtype.clone(), rate.median)).collect();
            out.device = Some(Processor { name: device.name.clone(), rates });
            for (way, (from, to)) in
                [(&host.name, &memory.name), (&memory.name, &host.name)].into_iter().enumerate()
            {
                let link = machine.link(from, to);
                out.links[way] =
                    link.ok_or_else(|| lacks(format!("no link from '{from}' to '{to}'")))?.bandwidth;
            }
        } else if out.cpu.is_none() {
            return Err(lacks("no rates of its processor".into()));
        }
        Ok(out)
    }

    /// The tier that products are computed on.
    pub fn main(&self) -> usize {
        if self.device.is_some() { DEVICE } else { HOST }
    }

    /// The processor that computes them.
    pub fn computes(&self) -> &Processor {
        self.device
            .as_ref()
            .or(self.cpu.as_ref())
            .expect("a machine without a device has a processor with rates")
    }

    /// A tier that is there.
    pub fn tier(&self, tier: usize) -> &Tier {
        self.tiers[tier].as_ref().expect("only tiers that are there are asked for")
    }

    /// The places in `tiers` that are there, fastest first.
    pub fn present(&self) -> impl Iterator<Item = usize> {
        (0..3).filter(|tier| self.tiers[*tier].is_some())
    }
}
