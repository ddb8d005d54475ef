//! `lathe select`: where the instructions of an accelerator or a processor fit into a program.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use lathe_diagnostic::{Diagnostic, Fault as Whose};
use lathe_ir::graph::Graph;
use lathe_ir::{Name, Tensor};
use lathe_onnx::{Compiled, EXACT, Elem, Fault, Runner, Value as Passed};
use lathe_select::accelerator::{self, Counts};
use lathe_select::rule::{KINDS, Kind};
use lathe_select::{Limits, Operator, Selection, TARGETS, Target, select};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::{onnx, output};

const EXAMPLES: &str = "\
A target describes each instruction by its meaning, a tensor program. Products that stand as an instruction has them are found by
exact matching; behind other layouts, windows (im2col), zeros around, scales and offsets, by a search over rewrites whose result
is proved step by step. Targets with names: gemm16 (an accelerator, which is emulated), vnni, bf16 (needs --approximate).

Examples:
  lathe select resnet50.onnx --target gemm16
  lathe select resnet50.onnx --input x.npz --target gemm16 --run
  lathe select net.onnx --target ./accelerator.toml --json
  lathe select --show-target gemm16 > accelerator.toml";

/// Find where the instructions of an accelerator or a processor fit into a program
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Select {
    /// A program of ONNX.
    #[arg(value_name = "F.onnx", required_unless_present = "show_target")]
    file: Option<PathBuf>,
    /// Its inputs, as `lathe run` takes them [default: zeros of the shapes that it declares].
    #[arg(long, value_name = "[NAME=]F")]
    input: Vec<String>,
    /// A target's name, or the file of its description.
    #[arg(long, value_name = "T", default_value = "gemm16")]
    target: String,
    /// Kinds of rules that the search may use: exact, layout, windows, padding, algebra, rounding [default: all but rounding].
    #[arg(long, value_name = "K,..", value_delimiter = ',')]
    rules: Vec<String>,
    /// Allow rules that round to types of fewer bits.
    #[arg(long, conflicts_with = "rules")]
    approximate: bool,
    /// Run what was selected, the products of an accelerator on its emulator, and compare the results with the program's.
    #[arg(long)]
    run: bool,
    /// Print the chosen graph.
    #[arg(long, conflicts_with = "json")]
    graph: bool,
    /// Print the proofs, step by step.
    #[arg(long, conflicts_with = "json")]
    proofs: bool,
    /// Print the description of a target that has a name, and do nothing else.
    #[arg(long, value_name = "T", conflicts_with_all = ["file", "run", "json"])]
    show_target: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Keeps the one region of a program, and runs what was chosen for it.
#[derive(Default)]
struct Region {
    graph: Graph,
    constants: HashMap<Name, Tensor>,
    /// How it is run, once that is known.
    call: Option<Call>,
    counts: Option<Counts>,
}

struct Call {
    graph: Graph,
    target: Target,
    /// Where no emulator is: the compiler's own way.
    compiled: Option<(Compiled, usize)>,
}

impl Runner for Region {
    fn prepare(&mut self, graph: &Graph, constants: &HashMap<Name, Arc<Tensor>>) -> Result<usize, Fault> {
        self.graph = graph.clone();
        self.constants = constants.iter().map(|(n, t)| (n.clone(), (**t).clone())).collect();
        Ok(0)
    }

    fn call(
        &mut self,
        _: usize,
        inputs: &[(Name, Arc<Tensor>)],
        spent: Vec<Tensor>,
    ) -> Result<Vec<Tensor>, Fault> {
        let Some(call) = &mut self.call else {
            return Err(Fault::unsupported("a program that decides by what it computes"));
        };
        if let Some((compiled, region)) = &mut call.compiled {
            return compiled.call(*region, inputs, spent);
        }
        let mut named = self.constants.clone();
        named.extend(inputs.iter().map(|(n, t)| (n.clone(), (**t).clone())));
        let run = accelerator::run(&call.graph, &lathe_ops::table(), &named, &call.target);
        let (results, counts) = run.map_err(|e| Fault::unsupported(e.to_string()))?;
        self.counts = Some(counts);
        Ok(results)
    }
}

/// What running showed.
struct Ran {
    counts: Option<Counts>,
    seconds: f64,
    /// The largest difference from the program's results, as a part of the largest element of each.
    difference: f64,
}

impl Select {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        if let Some(name) = &self.show_target {
            let found = TARGETS.iter().find(|(n, _)| n == name);
            return output::text(found.ok_or_else(|| unknown(name))?.1);
        }
        let target = self.target()?;
        let kinds = self.kinds()?;
        let path = self.file.as_ref().expect("clap asks for it");
        if !onnx::is_program(&path.display().to_string()) {
            return Err(Failure::usage("give a program of ONNX, a file that ends in .onnx"));
        }
        let model = onnx::open(path)?;
        let inputs =
            if self.input.is_empty() { zeros(&model)? } else { onnx::arguments(&model, &self.input)? };
        let mut region = Region::default();
        let Some(prepared) = model.prepare(&inputs, &mut region)? else {
            let what = "the program decides by what it computes, so it is no one graph to select in";
            return Err(Diagnostic::new("select-regions", Whose::User, what)
                .fix("select in a part of it")
                .into());
        };
        let table = lathe_ops::table();
        let of = |kinds: &[Kind]| {
            let start = Instant::now();
            let s = select(&region.graph, &table, &region.constants, &target, kinds, Limits::default())?;
            Ok::<_, Failure>((s, start.elapsed().as_secs_f64()))
        };
        let (exact, found) = (of(&[Kind::Exact])?, of(&kinds)?);
        let ran = if self.run {
            let compiled = match target.accelerator {
                Some(_) => None,
                None => {
                    let mut c = compiler()?;
                    let constants =
                        region.constants.iter().map(|(n, t)| (n.clone(), Arc::new(t.clone()))).collect();
                    let number = c.prepare(&found.0.graph, &constants).map_err(|e| e.at(""))?;
                    Some((c, number))
                }
            };
            region.call = Some(Call { graph: found.0.graph.clone(), target: target.clone(), compiled });
            let start = Instant::now();
            let got = prepared.run(&inputs, vec![], &mut region)?;
            let seconds = start.elapsed().as_secs_f64();
            let expected = model.run(&inputs, &mut compiler()?)?;
            Some(Ran { counts: region.counts, seconds, difference: difference(&got, &expected) })
        } else {
            None
        };
        if self.json {
            return output::json(&as_json(&target, &exact, &found, ran.as_ref()));
        }
        if self.graph {
            output::text(&found.0.graph.to_string())?;
        }
        if self.proofs {
            for p in &found.0.proofs {
                output::line(&p.value)?;
                for s in &p.steps {
                    let turned = if s.forward { "" } else { " backwards" };
                    output::line(&format!("  {}{turned} at {:?}: {}", s.rule, s.place, s.after))?;
                }
            }
        }
        told(&target, &exact, &found, ran.as_ref())
    }

    fn target(&self) -> Result<Target, Failure> {
        if let Some(t) = Target::named(&self.target) {
            return Ok(t);
        }
        let path = PathBuf::from(&self.target);
        if !path.exists() {
            return Err(unknown(&self.target));
        }
        let text = std::fs::read_to_string(&path).map_err(|e| {
            let what = format!("cannot read the description: {e}");
            Diagnostic::new("file", Whose::User, what).at(self.target.clone())
        })?;
        Ok(Target::parse(&text)?)
    }

    fn kinds(&self) -> Result<Vec<Kind>, Failure> {
        if self.rules.is_empty() {
            let all = KINDS.iter().map(|k| k.0);
            return Ok(all.filter(|k| self.approximate || *k != Kind::Rounding).collect());
        }
        let one = |name: &String| {
            let names: Vec<&str> = KINDS.iter().map(|k| k.1).collect();
            let found = KINDS.iter().find(|k| k.1 == name).map(|k| k.0);
            found.ok_or_else(|| Failure::usage(&format!("there are no rules '{name}': {}", names.join(", "))))
        };
        self.rules.iter().map(one).collect()
    }
}

fn unknown(name: &str) -> Failure {
    let names: Vec<&str> = TARGETS.iter().map(|t| t.0).collect();
    let what = format!("there is no target '{name}', and no file");
    let fix = format!("one of {}, or the path of a description", names.join(", "));
    Diagnostic::new("select-target", Whose::User, what).fix(fix).into()
}

fn compiler() -> Result<Compiled, Failure> {
    let threads = lathe_runtime::detect_cpu().cores;
    Ok(Compiled::new(lathe_runtime::detect_target()?, EXACT, lathe_models::cache_dir()?, threads))
}

/// Zeros for each input of a program, in the shape that it declares.
fn zeros(model: &lathe_onnx::Model) -> Result<Vec<(String, Passed)>, Failure> {
    let lacks = |name: &str| {
        Failure::usage(&format!("the program does not declare the shape of '{name}': give it with --input"))
    };
    let mut out = vec![];
    for (name, ty) in model.inputs() {
        let ty = ty.and_then(|t| t.tensor_type.as_ref()).ok_or_else(|| lacks(name))?;
        let dims = ty.shape.as_ref().ok_or_else(|| lacks(name))?.dim.iter();
        let dims: Option<Vec<usize>> =
            dims.map(|d| d.dim_value.and_then(|n| usize::try_from(n).ok())).collect();
        let (dims, elem) = (dims.ok_or_else(|| lacks(name))?, elem(ty.elem_type)?);
        let bytes = vec![0; dims.iter().product::<usize>() * elem.dtype().bits() as usize / 8];
        let tensor = Tensor { shape: dims, dtype: elem.dtype(), encoding: None, bytes };
        out.push((name.to_string(), Passed::Array(lathe_onnx::Array::new(elem, tensor))));
    }
    Ok(out)
}

fn elem(code: i32) -> Result<Elem, Failure> {
    Elem::of_code(code.into()).map_err(|e| e.at("").into())
}

fn difference(got: &[Passed], expected: &[Passed]) -> f64 {
    let one = |(g, e): (&Passed, &Passed)| {
        let (Passed::Array(g), Passed::Array(e)) = (g, e) else { return f64::INFINITY };
        let (g, e) = (g.tensor.values(), e.tensor.values());
        let largest = e.iter().fold(1e-30f64, |m, v| m.max(v.abs()));
        g.iter().zip(&e).fold(0f64, |m, (a, b)| m.max((a - b).abs())) / largest
    };
    got.iter().zip(expected).map(one).fold(0.0, f64::max)
}

fn operator(o: &Operator, exact: &Operator) -> Value {
    json!({
        "value": &*o.value, "operator": &*o.op, "multiply_adds": o.products,
        "exact": exact.on.as_deref(), "on": o.on.as_deref(), "rules": o.rules,
    })
}

fn as_json(target: &Target, exact: &(Selection, f64), found: &(Selection, f64), ran: Option<&Ran>) -> Value {
    let rows: Vec<Value> =
        found.0.operators.iter().zip(&exact.0.operators).map(|(o, e)| operator(o, e)).collect();
    let side = |(s, seconds): &(Selection, f64)| {
        let count = s.operators.iter().filter(|o| o.on.is_some()).count();
        json!({
            "share": s.share(), "operators": count, "tag": s.tag.to_string(), "seconds": seconds, "rounds": s.rounds,
            "saturated": s.saturated, "classes": s.size.0, "terms": s.size.1,
            "proved_values": s.proofs.len(), "proof_steps": s.proofs.iter().map(|p| p.steps.len()).sum::<usize>(),
        })
    };
    let ran = ran.map(|r| {
        json!({
            "largest_difference": r.difference, "seconds": r.seconds,
            "emulated": r.counts.map(|c| json!({
                "instructions": c.instructions, "products": c.products, "bytes": c.bytes, "ns": c.ns,
            })),
        })
    });
    json!({
        "target": target.name, "multiply_adds": found.0.products().1, "exact": side(exact), "found": side(found),
        "operators": rows, "run": ran,
    })
}

fn told(
    target: &Target,
    exact: &(Selection, f64),
    found: &(Selection, f64),
    ran: Option<&Ran>,
) -> Result<(), Failure> {
    output::line(&format!(
        "{:24} {:8} {:>14}  {:10} {:10} by",
        "value", "operator", "multiply-adds", "exact", "found"
    ))?;
    for (o, e) in found.0.operators.iter().zip(&exact.0.operators) {
        let on = |o: &Operator| o.on.as_deref().unwrap_or("host").to_string();
        let by = if o.on.is_some() { o.rules.join(" ") } else { String::new() };
        let (value, op) = (&o.value, &o.op);
        output::line(&format!("{value:24} {op:8} {:14.0}  {:10} {:10} {by}", o.products, on(e), on(o)))?;
    }
    for (name, (s, seconds)) in [("exact matching", exact), ("found by rewriting", found)] {
        let count = s.operators.iter().filter(|o| o.on.is_some()).count();
        output::line(&format!(
            "{}: {name} offloads {:.2}% of {:.4} G multiply-adds, {count} of {} operators; {}, {} proofs of {} steps; {} terms, {} rounds{}, {seconds:.2} s",
            target.name,
            100.0 * s.share(),
            s.products().1 / 1e9,
            s.operators.len(),
            s.tag,
            s.proofs.len(),
            s.proofs.iter().map(|p| p.steps.len()).sum::<usize>(),
            s.size.1,
            s.rounds,
            if s.saturated { "" } else { " and no end" },
        ))?;
    }
    let Some(r) = ran else { return Ok(()) };
    if let Some(c) = r.counts {
        output::line(&format!(
            "emulated: {} instructions, {} of them products, {} moved, {:.3} ms of the accelerator",
            c.instructions,
            c.products,
            output::bytes(c.bytes as usize),
            c.ns / 1e6,
        ))?;
    }
    output::line(&format!(
        "largest difference from the program's results {:.1e}, {:.2} s to run what was selected",
        r.difference, r.seconds
    ))
}
