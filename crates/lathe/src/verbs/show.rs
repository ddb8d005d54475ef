//! `lathe show`: what the compiler made of a program or a model, readable.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use lathe_compile::Show as Stage;
use lathe_diagnostic::{Diagnostic, Fault};
use lathe_draw::{Picture, page};

use crate::failure::Failure;
use crate::options::{CacheOptions, ComputeOptions, ModelOption};
use crate::output;
use crate::source::Source;

const EXAMPLES: &str = "\
Stages:
  graph     the graph, after all rewrites (where none is named)
  tensor    the tensor programs, as lowered
  schedule  how each kernel comes from its naive lowering
  c         the C that the system's compiler is given
  step      the step programs, with the places of temporaries

Examples:
  lathe show graph
  lathe show c --op matmul
  lathe show net.onnx step --input x.npy
  lathe show net.onnx --input x.npy --picture net.html
  lathe show schedule --op attention --picture attention.svg
  lathe show schedule --model ./model.gguf --precision exact";

/// Show what the compiler made of a program or a model
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Show {
    /// A program, F.onnx or a graph's text, or a model, which then stands for --model; and which stage to show.
    #[arg(value_names = ["F", "STAGE"], num_args = 0..=2)]
    words: Vec<String>,
    /// An array for a program of ONNX: x.npy, NAME=x.npy, or x.npz with several.
    #[arg(long, value_name = "F")]
    input: Vec<String>,
    #[command(flatten)]
    model: ModelOption,
    /// Only the kernels with this operator.
    #[arg(long, value_name = "NAME")]
    op: Option<String>,
    /// Draw it, to F.svg or to F.html, a page that can be zoomed: the graph with its fusion groups, the schedules of kernels as trees,
    /// or (stage `step`) memory over time; all three where no stage is named.
    #[arg(long, value_name = "F")]
    picture: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeOptions,
    #[command(flatten)]
    cache: CacheOptions,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum What {
    Graph,
    Tensor,
    Schedule,
    C,
    Step,
}

impl What {
    fn stage(self) -> Stage {
        match self {
            What::Graph => Stage::Graph,
            What::Tensor => Stage::Tensor,
            What::Schedule => Stage::Schedule,
            What::C => Stage::C,
            What::Step => Stage::Step,
        }
    }
}

fn lacks(op: &str) -> Failure {
    let what = format!("no kernel has an operator '{op}'");
    Diagnostic::new("show-op", Fault::User, what).fix("lathe show graph lists them").into()
}

impl Show {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let (name, what) = self.what()?;
        if let Some(path) = &self.picture {
            return self.draw(name, what, path);
        }
        let what = what.unwrap_or(What::Graph);
        let source = Source::open(name, &self.input, &self.compute, &self.cache)?;
        let source = match what {
            What::Graph | What::Step => source,
            _ => source.whole(name)?,
        };
        let all: Vec<String> =
            source.overviews().iter().map(|o| o.text(what.stage(), self.op.as_deref())).collect();
        let text = all.join("");
        match &self.op {
            Some(op) if text.is_empty() => Err(lacks(op)),
            _ => output::line(&text),
        }
    }

    /// Draws a stage, or all that can be drawn.
    fn draw(&self, name: &str, what: Option<What>, path: &Path) -> Result<(), Failure> {
        let is = |kind: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(kind));
        if !is("svg") && !is("html") {
            return Err(Failure::usage("--picture takes a file that ends in .svg or .html"));
        }
        if matches!(what, Some(What::Tensor | What::C)) {
            return Err(Failure::usage("tensor programs and C are texts: draw graph, schedule or step"));
        }
        // A file that was compiled elsewhere holds no kernels' schedules and no operators of its steps.
        let source = Source::open(name, &self.input, &self.compute, &self.cache)?.whole(name)?;
        let drawn = |stage| what.is_none_or(|what| what == stage);
        let mut all = vec![];
        for o in source.overviews() {
            if drawn(What::Graph) {
                all.extend(o.graph_pictures());
            }
            if drawn(What::Step) {
                all.extend(o.memory_pictures());
            }
            if drawn(What::Schedule) {
                let trees = o.schedule_pictures(self.op.as_deref());
                match &self.op {
                    Some(op) if trees.is_empty() => return Err(lacks(op)),
                    _ => all.extend(trees),
                }
            }
        }
        let text = match is("html") {
            true => page(name, &all),
            false => Picture::stack(&all).svg(),
        };
        output::file(path, text.as_bytes())
    }

    /// What is looked at, and the stage where one is named.
    fn what(&self) -> Result<(&str, Option<What>), Failure> {
        let stage = |word: &str| What::from_str(word, false).ok();
        let (file, what) = match self.words.as_slice() {
            [] => (None, None),
            [one] => match stage(one) {
                Some(what) => (None, Some(what)),
                None => (Some(one), None),
            },
            [file, last, ..] => match stage(last) {
                Some(what) => (Some(file), Some(what)),
                None => {
                    let names: Vec<_> =
                        What::value_variants().iter().filter_map(|w| w.to_possible_value()).collect();
                    let names: Vec<_> = names.iter().map(|v| v.get_name()).collect();
                    let what = format!("there is no stage '{last}': there are {}", names.join(", "));
                    return Err(Failure::usage(&what));
                }
            },
        };
        match file {
            Some(_) if self.model.given() => {
                Err(Failure::usage("a program or a model, and --model too: name one"))
            }
            Some(file) => Ok((file, what)),
            None => Ok((self.model.name(), what)),
        }
    }
}
