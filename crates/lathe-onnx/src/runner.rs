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

/// Compiles regions and keeps them, by the text of their graph, in which constants are named by their content.
pub struct Compiled {
    target: Target,
    cache: PathBuf,
    threads: usize,
    sessions: HashMap<String, Session>,
}

impl Compiled {
    /// For a machine, with kernels cached in a folder.
    pub fn new(target: Target, cache: PathBuf, threads: usize) -> Compiled {
        Compiled { target, cache, threads, sessions: HashMap::new() }
    }

    /// Number of regions compiled so far.
    pub fn regions(&self) -> usize {
        self.sessions.len()
    }
}

impl Runner for Compiled {
    fn run(
        &mut self,
        graph: &Graph,
        constants: &HashMap<Name, Arc<Tensor>>,
        inputs: &[(Name, Arc<Tensor>)],
    ) -> Result<Vec<Tensor>, Fault> {
        let text = graph.to_string();
        if !self.sessions.contains_key(&text) {
            let owned: HashMap<Name, Tensor> =
                constants.iter().map(|(n, t)| (n.clone(), (**t).clone())).collect();
            let session = Session::new(graph, &[], &owned, &self.target, &self.cache, self.threads)?;
            self.sessions.insert(text.clone(), session);
        }
        let session = self.sessions.get_mut(&text).expect("it was put there");
        let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (&**n, &**t)).collect();
        Ok(session.run(&inputs)?)
    }
}

/// The interpreter of graphs.
#[derive(Default)]
pub struct Interpreted;

impl Runner for Interpreted {
    fn run(
        &mut self,
        graph: &Graph,
        constants: &HashMap<Name, Arc<Tensor>>,
        inputs: &[(Name, Arc<Tensor>)],
    ) -> Result<Vec<Tensor>, Fault> {
        let mut named: HashMap<Name, Tensor> =
            constants.iter().map(|(n, t)| (n.clone(), (**t).clone())).collect();
        named.extend(inputs.iter().map(|(n, t)| (n.clone(), (**t).clone())));
        Ok(interpret(graph, &lathe_ops::table(), &HashMap::new(), &named)?)
    }
}
