//! The search: a graph as classes of equal terms, which rules make larger until they have nothing more to say.

use crate::rule::{Applied, Made, Pattern};
use crate::term::{Analysis, Facts, Head, Ops, Term, known};
use egg::{EGraph, Id};
use lathe_ir::graph::{Graph, OpTable, ValueId};
use lathe_ir::{Name, Tensor};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// When a search ends that has not come to its end.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rounds of all rules.
    pub rounds: usize,
    /// Terms in all classes.
    pub terms: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { rounds: 24, terms: 400_000 }
    }
}

/// The justification that a value of the graph is what its node says.
pub const DEFINITION: &str = "definition";

/// Classes of equal terms over a graph's values.
pub struct Search {
    pub(crate) egraph: EGraph<Term, Analysis>,
    /// The term of each value of the graph.
    pub(crate) leaves: HashMap<Name, Id>,
    /// Rounds until nothing was new, or a limit was met.
    pub rounds: usize,
    /// Whether nothing more was to be found.
    pub saturated: bool,
}

/// What the left side of a rule was found to be.
struct Match {
    rule: usize,
    heads: Vec<Arc<Head>>,
    vars: Vec<Id>,
    form: usize,
}

/// A left side matched in part.
#[derive(Clone)]
struct Bound {
    heads: Vec<Arc<Head>>,
    vars: Vec<Option<Id>>,
}

impl Search {
    /// The classes of a graph alone: each value is equal to what its node says.
    pub fn new(g: &Graph, table: &OpTable, constants: &HashMap<Name, Tensor>) -> Search {
        let analysis = Analysis { ops: Ops::new(table), values: known(g, constants) };
        let mut egraph =
            EGraph::new(analysis).with_explanations_enabled().without_explanation_length_optimization();
        let mut leaves = HashMap::new();
        for v in &g.values {
            let id = egraph.add_uncanonical(Term { head: Head::value(&v.name), args: vec![] });
            leaves.insert(v.name.clone(), id);
        }
        for n in &g.nodes {
            for (i, v) in n.outputs.iter().enumerate() {
                let args = n.inputs.iter().map(|a| leaves[&g.value(*a).name]).collect();
                let head = Head::new(&n.op, n.attrs.clone(), i);
                let id = egraph.add_uncanonical(Term { head, args });
                egraph.union_trusted(leaves[&g.value(*v).name], id, DEFINITION);
            }
        }
        egraph.rebuild();
        Search { egraph, leaves, rounds: 0, saturated: false }
    }

    /// The term that stands for a class in others: a value of the graph, where one is in it.
    pub(crate) fn standing(&self, class: Id) -> Id {
        self.egraph[class].data.value.map_or(class, |(_, id)| id)
    }

    /// Applies rules until nothing is new.
    pub fn saturate(&mut self, rules: &[Applied<'_>], limits: Limits) {
        let forms: Vec<Vec<Pattern>> =
            rules.iter().map(|r| r.rule.left.iter().map(|l| Pattern::parse(l)).collect()).collect();
        let mut roots: HashMap<&str, Vec<(usize, usize)>> = HashMap::new();
        for (rule, all) in forms.iter().enumerate() {
            for (form, p) in all.iter().enumerate() {
                if let Pattern::Op(name, _) = p {
                    roots.entry(name).or_default().push((rule, form));
                }
            }
        }
        let mut done: HashSet<(usize, Vec<Arc<Head>>, Vec<Id>)> = HashSet::new();
        while self.rounds < limits.rounds && self.egraph.total_size() < limits.terms {
            self.rounds += 1;
            let mut found = vec![];
            let mut classes: Vec<Id> = self.egraph.classes().map(|c| c.id).collect();
            classes.sort_unstable();
            for class in classes {
                for node in &self.egraph[class].nodes {
                    for (rule, form) in roots.get(&*node.head.op).into_iter().flatten() {
                        let none = Bound { heads: vec![], vars: vec![] };
                        for b in self.node(&forms[*rule][*form], node, none) {
                            let vars: Option<Vec<Id>> = b.vars.into_iter().collect();
                            let vars = vars.expect("every variable of a left side is in it");
                            if done.insert((*rule, b.heads.clone(), vars.clone())) {
                                found.push(Match { rule: *rule, heads: b.heads, vars, form: *form });
                            }
                        }
                    }
                }
            }
            let mut changed = false;
            for m in found {
                changed |= self.apply(&rules[m.rule], &forms[m.rule][m.form], m);
            }
            self.egraph.rebuild();
            if !changed {
                self.saturated = true;
                return;
            }
        }
    }

    /// The ways in which a node is what a pattern says.
    fn node(&self, p: &Pattern, node: &Term, mut b: Bound) -> Vec<Bound> {
        let Pattern::Op(name, args) = p else { return vec![] };
        if *node.head.op != **name || node.args.len() != args.len() {
            return vec![];
        }
        b.heads.push(node.head.clone());
        let mut all = vec![b];
        for (p, class) in args.iter().zip(&node.args) {
            all = all.into_iter().flat_map(|b| self.class(p, *class, b)).collect();
        }
        all
    }

    /// The same of a class.
    fn class(&self, p: &Pattern, class: Id, mut b: Bound) -> Vec<Bound> {
        let class = self.egraph.find(class);
        let Pattern::Variable(v) = p else {
            return self.egraph[class].nodes.iter().flat_map(|n| self.node(p, n, b.clone())).collect();
        };
        if b.vars.len() <= *v {
            b.vars.resize(*v + 1, None);
        }
        match b.vars[*v] {
            Some(other) if other != class => vec![],
            _ => {
                b.vars[*v] = Some(class);
                vec![b]
            }
        }
    }

    /// Adds the right side; whether that made two classes one.
    fn apply(&mut self, rule: &Applied<'_>, form: &Pattern, m: Match) -> bool {
        let vars: Vec<Id> = m.vars.iter().map(|v| self.standing(self.egraph.find(*v))).collect();
        let facts: Option<Vec<Facts>> = vars.iter().map(|v| self.egraph[*v].data.facts.clone()).collect();
        let Some(facts) = facts else { return false };
        let Some((right, root)) = rule.right(&self.egraph.analysis.ops, &m.heads, facts) else {
            return false;
        };
        let made = right.made;
        let mut heads = m.heads.iter();
        let left = self.left(form, &mut heads, &vars);
        let mut ids: Vec<Id> = vec![];
        for made in made {
            let id = match made {
                Made::Variable(i) => vars[i],
                Made::Op(head, args) => {
                    let args = args.iter().map(|p| ids[p.0]).collect();
                    self.egraph.add_uncanonical(Term { head, args })
                }
            };
            ids.push(id);
        }
        if self.egraph.find(left) == self.egraph.find(ids[root.0]) {
            return false;
        }
        self.egraph.union_trusted(left, ids[root.0], rule.name())
    }

    /// The term of a left side.
    fn left<'h>(&mut self, p: &Pattern, heads: &mut impl Iterator<Item = &'h Arc<Head>>, vars: &[Id]) -> Id {
        match p {
            Pattern::Variable(v) => vars[*v],
            Pattern::Op(_, args) => {
                let head = heads.next().expect("a head for each operator").clone();
                let args = args.iter().map(|a| self.left(a, heads, vars)).collect();
                self.egraph.add_uncanonical(Term { head, args })
            }
        }
    }

    /// Classes and terms in them.
    pub fn size(&self) -> (usize, usize) {
        (self.egraph.number_of_classes(), self.egraph.total_size())
    }

    /// The class of a value of the graph.
    pub(crate) fn of(&self, g: &Graph, v: ValueId) -> Id {
        self.egraph.find(self.leaves[&g.value(v).name])
    }
}
