//! The description of machines: devices, rates, memories and links, as values and TOML.
//!
//! A [`Machine`] is a plain value. `lathe-runtime` measures the one it runs on; a person may write one by hand for a
//! machine that is not there. Planners and code generators read it and never look at the hardware themselves, so the same
//! machine file gives the same plan everywhere.
//!
//! Public surface: [`Machine`] and its parts [`Cpu`], [`Cache`], [`Memory`], [`Link`], [`Disk`], [`Device`],
//! [`Level`]; [`Rate`] and
//! [`ByThreads`] for measured speeds; [`Target`] for code generators; [`MachineError`].
//!
//! ```
//! use lathe_machine::{Machine, Target};
//! let text = r#"
//!     name = "small"
//!     [cpu]
//!     vendor = "GenuineExample"
//!     model = "Example 1"
//!     cores = 2
//!     features = ["fma"]
//!     vector_bits = 256
//!     [[memory]]
//!     name = "dram"
//!     capacity_bytes = 2147483648
//!     [memory.read_bandwidth]
//!     1 = { best = 1.2e10, median = 1.1e10 }
//! "#;
//! let machine = Machine::from_toml(text).unwrap();
//! assert_eq!(Machine::from_toml(&machine.to_toml()).unwrap(), machine);
//! assert_eq!(machine.target(), Target::portable());
//! assert_eq!(machine.memory("dram").unwrap().read_bandwidth.at(1).unwrap().best, 1.2e10);
//! ```

mod display;
mod error;
mod machine;
mod rate;
mod target;
mod text;

pub use error::MachineError;
pub use machine::{Cache, Cpu, Device, Disk, Level, Link, Machine, Memory};
pub use rate::{ByThreads, Rate};
pub use target::Target;
