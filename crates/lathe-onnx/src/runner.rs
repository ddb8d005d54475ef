//! Who runs regions: compiled code, or the interpreter of graphs as its meaning.

use crate::error::Fault;
use crate::trace::Runner;
use lathe_compile::Session;
use lathe_ir::graph::{Graph, interpret};
use lathe_ir::{Name, Tensor};
use lathe_machine::Target;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Passes that programs are compiled with where results may differ by the order of sums alone, in order.
pub const EXACT: &[&str] = &["pack", "filters"];

/// The same with passes that approximate, each within a bound that it states.
pub const FAST: &[&str] = &["winograd", "attention", "pack", "filters"];

/// Compiles regions and keeps them, by the text of their graph, in which constants are named by their content.
pub struct Compiled {
    target: Target,
    passes: &'static [&'static str],
    cache: PathBuf,
    threads: usize,
    sessions: Vec<Session>,
    graphs: Vec<Graph>,
    known: HashMap<String, usize>,
}

impl Compiled {
    /// For a machine, by passes ([`EXACT`] or [`FAST`]), with kernels cached in a folder.
    pub fn new(target: Target, passes: &'static [&'static str], cache: PathBuf, threads: usize) -> Compiled {
        Compiled { target, passes, cache, threads, sessions: vec![], graphs: vec![], known: HashMap::new() }
    }

    /// Runs every region once more on what its inputs hold: what each kernel is, how often it was called, and its seconds.
    pub fn profile(&mut self) -> Result<Vec<(String, usize, f64)>, Fault> {
        let mut all = vec![];
        for s in &mut self.sessions {
            all.extend(s.profile()?);
        }
        all.sort_by(|a, b| b.2.total_cmp(&a.2));
        Ok(all)
    }

    /// The graphs of the regions compiled so far, before any rewrite.
    pub fn graphs(&self) -> &[Graph] {
        &self.graphs
    }

    /// Number of regions compiled so far.
    pub fn regions(&self) -> usize {
        self.sessions.len()
    }
}

impl Runner for Compiled {
    fn prepare(&mut self, graph: &Graph, constants: &HashMap<Name, Arc<Tensor>>) -> Result<usize, Fault> {
        let text = graph.to_string();
        if let Some(number) = self.known.get(&text) {
            return Ok(*number);
        }
        let owned: HashMap<Name, Tensor> =
            constants.iter().map(|(n, t)| (n.clone(), (**t).clone())).collect();
        let session = Session::new(graph, self.passes, &owned, &self.target, &self.cache, self.threads)?;
        self.sessions.push(session);
        self.graphs.push(graph.clone());
        self.known.insert(text, self.sessions.len() - 1);
        Ok(self.sessions.len() - 1)
    }

    fn call(
        &mut self,
        region: usize,
        inputs: &[(Name, Arc<Tensor>)],
        spent: Vec<Tensor>,
    ) -> Result<Vec<Tensor>, Fault> {
        call(&mut self.sessions[region], inputs, spent)
    }
}

/// Takes the one region of a program, and runs nothing.
#[derive(Default)]
pub(crate) struct Written {
    pub region: Option<(Graph, HashMap<Name, Tensor>)>,
}

impl Runner for Written {
    fn prepare(&mut self, graph: &Graph, constants: &HashMap<Name, Arc<Tensor>>) -> Result<usize, Fault> {
        let constants = constants.iter().map(|(n, t)| (n.clone(), (**t).clone())).collect();
        self.region = Some((graph.clone(), constants));
        Ok(0)
    }

    fn call(&mut self, _: usize, _: &[(Name, Arc<Tensor>)], _: Vec<Tensor>) -> Result<Vec<Tensor>, Fault> {
        Err(Fault::unsupported(
            "the program is no single region: reading it on takes what it computes up to here",
        ))
    }
}

/// A region that was compiled elsewhere: the only one.
pub struct Stored(pub Session);

impl Runner for Stored {
    fn prepare(&mut self, _: &Graph, _: &HashMap<Name, Arc<Tensor>>) -> Result<usize, Fault> {
        Err(Fault::unsupported("a compiled program has no other regions"))
    }

    fn call(
        &mut self,
        _: usize,
        inputs: &[(Name, Arc<Tensor>)],
        spent: Vec<Tensor>,
    ) -> Result<Vec<Tensor>, Fault> {
        call(&mut self.0, inputs, spent)
    }
}

fn call(
    session: &mut Session,
    inputs: &[(Name, Arc<Tensor>)],
    spent: Vec<Tensor>,
) -> Result<Vec<Tensor>, Fault> {
    let inputs: Vec<(&str, &Arc<Tensor>)> = inputs.iter().map(|(n, t)| (&**n, t)).collect();
    Ok(session.run_shared(&inputs, spent)?)
}

/// The interpreter of graphs.
#[derive(Default)]
pub struct Interpreted {
    regions: Vec<(Graph, HashMap<Name, Tensor>)>,
}

impl Runner for Interpreted {
    fn prepare(&mut self, graph: &Graph, constants: &HashMap<Name, Arc<Tensor>>) -> Result<usize, Fault> {
        let named = constants.iter().map(|(n, t)| (n.clone(), (**t).clone())).collect();
        self.regions.push((graph.clone(), named));
        Ok(self.regions.len() - 1)
    }

    fn call(
        &mut self,
        region: usize,
        inputs: &[(Name, Arc<Tensor>)],
        _: Vec<Tensor>,
    ) -> Result<Vec<Tensor>, Fault> {
        let (graph, constants) = &self.regions[region];
        let mut named = constants.clone();
        named.extend(inputs.iter().map(|(n, t)| (n.clone(), (**t).clone())));
        Ok(interpret(graph, &lathe_ops::table(), &HashMap::new(), &named)?)
    }
}
