//! `lathe machine`: what this machine is and how fast it is.

use clap::Args;
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_models::cache_dir;

use crate::failure::Failure;
use crate::output;

const EXAMPLES: &str = "\
The first time it measures for some seconds; later it prints what it knows.

Examples:
  lathe machine
  lathe machine --refresh
  lathe machine --toml > machine.toml";

/// Measure and describe this machine
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Machine {
    /// Measure again.
    #[arg(long)]
    refresh: bool,
    /// Print it as a machine file.
    #[arg(long, conflicts_with = "json")]
    toml: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Machine {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let cache = cache_dir()?;
        if self.refresh {
            let file = lathe_runtime::machine_file(&cache, &lathe_runtime::detect_cpu());
            // Where there is none, there is nothing to forget.
            let _ = std::fs::remove_file(file);
        }
        let mut tell = |what: &str| output::message(&format!("measuring {what}"));
        let machine = lathe_runtime::this_machine(&cache, false, usize::MAX, &mut tell)?;
        if self.toml {
            return output::text(&machine.to_toml());
        }
        if self.json {
            let value = serde_json::to_value(&machine)
                .map_err(|error| Diagnostic::new("machine-json", Fault::Bug, error.to_string()))?;
            return output::json(&value);
        }
        output::text(&machine.to_string())
    }
}
