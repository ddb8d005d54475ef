//! The command line of Lathe, one thin file a verb.
//!
//! Standard output carries results only; messages and progress go to standard error. An error is one line and exit code 2,
//! Ctrl-C gives 130, and a reader that closes the pipe ends the program quietly.

mod failure;
mod foreign;
mod interrupt;
mod model;
mod onnx;
mod options;
mod output;
mod planner;
mod progress;
mod proofs;
mod source;
mod verbs;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use clap::error::ErrorKind;

use failure::Failure;

/// A compiler-first machine-learning system: real models, compiled for this machine.
#[derive(Parser)]
#[command(name = "lathe", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: verbs::Verb,
}

const EXAMPLES: &str = "\
Examples:
  lathe run \"Why is the sky blue?\"
  lathe chat
  lathe machine

`lathe VERB --help` says more, with examples.";

fn main() -> ExitCode {
    let start = Instant::now();
    interrupt::install();
    let result = match Cli::try_parse() {
        Ok(cli) => cli.verb.run(start),
        Err(error) => usage(&error),
    };
    let failure = match result {
        Ok(code) => return code,
        Err(failure) => failure,
    };
    match failure {
        Failure::Interrupted => ExitCode::from(130),
        Failure::BrokenPipe => ExitCode::SUCCESS,
        Failure::Error(diagnostic) => {
            output::message(&diagnostic.to_string());
            ExitCode::from(2)
        }
    }
}

/// Prints help where it was asked for; anything else is an error in one line.
fn usage(error: &clap::Error) -> Result<ExitCode, Failure> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            output::text(&error.to_string())?;
            Ok(ExitCode::SUCCESS)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Err(Failure::usage("a verb is missing; see lathe --help"))
        }
        _ => {
            let text = error.to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let what: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
            Err(Failure::usage(&format!("{}; --help shows what can be given", what.join(" "))))
        }
    }
}
