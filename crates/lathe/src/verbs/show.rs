//! `lathe show`: what the compiler made of a model, readable.

use clap::{Args, ValueEnum};
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_models::Format;

use crate::failure::Failure;
use crate::model::Model;
use crate::options::{CacheOptions, ComputeOptions, ModelOption};
use crate::output;

const EXAMPLES: &str = "\
Examples:
  lathe show graph
  lathe show c --op matmul
  lathe show schedule --model ./model.gguf --precision exact";

/// Show what the compiler made of a model
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Show {
    /// What to show.
    what: What,
    #[command(flatten)]
    model: ModelOption,
    /// Only the operators with this in their name.
    #[arg(long, value_name = "NAME")]
    op: Option<String>,
    #[command(flatten)]
    compute: ComputeOptions,
    #[command(flatten)]
    cache: CacheOptions,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// The graph, after all rewrites.
    Graph,
    /// The tensor programs, as lowered.
    Tensor,
    /// The C that the system's compiler is given.
    C,
    /// How each kernel comes from its naive lowering.
    Schedule,
}

/// A context that costs little; the kernels are the same for any.
const CONTEXT: usize = 512;

impl Show {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let model = Model::open(self.model.name())?;
        if model.file.format() == Format::Compiled && !matches!(self.what, What::Graph) {
            let what = "a compiled model's file holds its graph and no more of what it was made from";
            let fix = "show graph, or give the file that it was compiled from";
            return Err(Diagnostic::new("show-compiled", Fault::User, what).fix(fix).into());
        }
        let context = model.context_for(CONTEXT, None)?;
        let engine = model.load(self.cache.with(&self.compute)?, context, 1, 1)?;
        let what = match self.what {
            What::Graph => lathe_engine::Show::Graph,
            What::Tensor => lathe_engine::Show::Tensor,
            What::C => lathe_engine::Show::C,
            What::Schedule => lathe_engine::Show::Schedule,
        };
        let text = engine.model().show(what, self.op.as_deref());
        match (text.is_empty(), self.op) {
            (true, Some(op)) => {
                let what = format!("the model has no operator '{op}'");
                Err(Diagnostic::new("show-op", Fault::User, what).fix("lathe show graph lists them").into())
            }
            _ => output::line(&text),
        }
    }
}
