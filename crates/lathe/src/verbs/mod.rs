//! The verbs, one thin file each: what it takes, what it does, what it prints.

mod batch;
mod bench;
mod chat;
mod compile;
mod embed;
mod fuzz;
mod inspect;
mod machine;
mod models;
mod plan;
mod pull;
mod quantize;
mod run;
mod score;
mod select;
mod serve;
mod show;
mod tune;
mod verify;

use std::process::ExitCode;
use std::time::Instant;

use clap::Subcommand;

use crate::failure::Failure;

/// What to do.
#[derive(Subcommand)]
pub enum Verb {
    /// Continue or answer one prompt
    Run(run::Run),
    /// Talk with a model
    Chat(chat::Chat),
    /// Serve a model over HTTP, as OpenAI and Anthropic do
    Serve(serve::Serve),
    /// Answer a file of requests
    Batch(batch::Batch),
    /// Turn texts into vectors
    Embed(embed::Embed),
    /// Measure how well a model foresees a text
    Score(score::Score),
    /// Compile a model to one file that runs without a compiler
    Compile(compile::Compile),
    /// Write a model with its weights in other types
    Quantize(quantize::Quantize),
    /// Fetch a model into the cache
    Pull(pull::Pull),
    /// List the models that have names, and those in the cache
    Models(models::Models),
    /// Say what is in a model file
    Inspect(inspect::Inspect),
    /// Measure and describe this machine
    Machine(machine::Machine),
    /// Say where a model's bytes lie on a machine, and how fast that is
    Plan(plan::Plan),
    /// Measure how fast something is
    Bench(bench::Bench),
    /// Find the fastest schedules on this machine
    Tune(tune::Tune),
    /// Show what the compiler made of a model
    Show(show::Show),
    /// Find where the instructions of an accelerator or a processor fit into a program
    Select(select::Select),
    /// Prove that schedules keep the meaning of their programs
    Verify(verify::Verify),
    /// Look for programs and schedules that the compiler gets wrong
    Fuzz(fuzz::Fuzz),
}

impl Verb {
    /// Does it; `start` is when the process began.
    pub fn run(self, start: Instant) -> Result<ExitCode, Failure> {
        let done = match self {
            Verb::Run(verb) => return verb.run(start),
            Verb::Chat(verb) => verb.run(),
            Verb::Serve(verb) => verb.run(),
            Verb::Batch(verb) => verb.run(),
            Verb::Embed(verb) => verb.run(),
            Verb::Score(verb) => verb.run(),
            Verb::Compile(verb) => verb.run(),
            Verb::Quantize(verb) => verb.run(),
            Verb::Pull(verb) => verb.run(),
            Verb::Models(verb) => verb.run(),
            Verb::Inspect(verb) => verb.run(),
            Verb::Machine(verb) => verb.run(),
            Verb::Plan(verb) => verb.run(),
            Verb::Bench(verb) => verb.run(),
            Verb::Tune(verb) => verb.run(),
            Verb::Show(verb) => verb.run(),
            Verb::Select(verb) => verb.run(),
            Verb::Verify(verb) => verb.run(),
            Verb::Fuzz(verb) => verb.run(),
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}
