//! The whole way: classes, rules, the cheapest terms, their proofs, and the graph that they are.

use crate::SelectError;
use crate::cost::products;
use crate::extract::Extraction;
use crate::replay::{Checker, Proof};
use crate::rule::{Applied, Kind, Tag};
use crate::search::{DEFINITION, Limits, Search};
use crate::target::Target;
use crate::term::{Facts, ON, Term, Tree, VALUE, known};
use egg::Id;
use lathe_ir::graph::{Graph, OpTable, Source, ValueId, check, str_attr};
use lathe_ir::{Name, Tensor};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;

/// An operator of multiply-adds, and where it went.
#[derive(Clone, Debug)]
pub struct Operator {
    /// The value that it makes.
    pub value: Name,
    /// Its name.
    pub op: Name,
    /// Its multiply-adds.
    pub products: f64,
    /// The instruction that computes it; `None` is the host.
    pub on: Option<Name>,
    /// Rules on the way from the operator to the instruction.
    pub rules: Vec<String>,
}

/// What was chosen for a graph.
pub struct Selection {
    /// The graph, where nodes with an attribute [`ON`] are computed by that instruction.
    pub graph: Graph,
    /// For each value that was kept, a proof that it is what was chosen; all are checked.
    pub proofs: Vec<Proof>,
    /// The loosest tag of the rules in them.
    pub tag: Tag,
    /// The operators of multiply-adds, in the order of the graph.
    pub operators: Vec<Operator>,
    /// Classes and terms of the search.
    pub size: (usize, usize),
    /// Rounds of the search.
    pub rounds: usize,
    /// Whether nothing more was to be found.
    pub saturated: bool,
}

impl Selection {
    /// Multiply-adds that instructions compute, and all of them.
    pub fn products(&self) -> (f64, f64) {
        let sum = |all: &mut dyn Iterator<Item = &Operator>| all.fold(0.0, |s, o| s + o.products);
        (sum(&mut self.operators.iter().filter(|o| o.on.is_some())), sum(&mut self.operators.iter()))
    }

    /// The part of the multiply-adds that instructions compute.
    pub fn share(&self) -> f64 {
        let (on, all) = self.products();
        if all > 0.0 { on / all } else { 0.0 }
    }
}

/// Chooses where a target's instructions compute parts of a graph, by rules of these kinds. The graph's sizes are constants
/// and it has no state; `constants` are needed for single numbers only.
pub fn select(
    g: &Graph,
    table: &OpTable,
    constants: &HashMap<Name, Tensor>,
    target: &Target,
    kinds: &[Kind],
    limits: Limits,
) -> Result<Selection, SelectError> {
    if let Some(v) = g.values.iter().find(|v| v.source == Source::State) {
        return Err(SelectError::Unsupported(format!(
            "'{}' is state: graphs without state are selected for",
            v.name
        )));
    }
    check(g, table)?;
    let rules = Applied::all(target, kinds);
    let mut search = Search::new(g, table, constants);
    search.saturate(&rules, limits);
    let (size, rounds, saturated) = (search.size(), search.rounds, search.saturated);
    let terms = Extraction::best_of(&search, target, g).terms;
    let mut kept: Vec<(usize, Id)> =
        terms.keys().filter_map(|c| Some((search.egraph[*c].data.value?.0, *c))).collect();
    kept.sort_unstable();
    let mut proofs = vec![];
    for (order, class) in &kept {
        if *order > 0 {
            proofs.push(prove(&mut search, *class, &terms[class]));
        }
    }
    let checker = Checker::new(g, table, constants, &rules);
    let mut tag = Tag::Bitwise;
    for (p, (_, class)) in proofs.iter().zip(kept.iter().filter(|k| k.0 > 0)) {
        tag = tag.max(checker.check(p)?);
        if p.last() != Some(&terms[class]) {
            let what = "it ends with another term".to_string();
            return Err(SelectError::Unproved { value: p.value.to_string(), what });
        }
    }
    let graph = built(g, table, &search, &kept, &terms)?;
    check(&graph, table)?;
    let operators = operators(g, &known(g, constants), &search, &terms, &proofs);
    Ok(Selection { graph, proofs, tag, operators, size, rounds, saturated })
}

/// The proof that a class's value is a term.
fn prove(search: &mut Search, class: Id, tree: &Tree) -> Proof {
    fn add(search: &mut Search, t: &Tree) -> Id {
        let args = t.args.iter().map(|a| add(search, a)).collect();
        search.egraph.add_uncanonical(Term { head: t.head.clone(), args })
    }
    let to = add(search, tree);
    let from = search.standing(class);
    let name = search.egraph.id_to_node(from).head.named().unwrap_or_default().to_string();
    let mut explanation = search.egraph.explain_id_equivalence(from, to);
    Proof::of(&name, explanation.make_flat_explanation())
}

/// The graph of the terms of the values that are kept, in their order.
fn built(
    g: &Graph,
    table: &OpTable,
    search: &Search,
    kept: &[(usize, Id)],
    terms: &HashMap<Id, Rc<Tree>>,
) -> Result<Graph, SelectError> {
    let mut out = Graph { name: g.name.clone(), dims: g.dims.clone(), ..Graph::default() };
    let mut places: HashMap<Id, ValueId> = HashMap::new();
    let used: HashSet<Id> = kept.iter().map(|k| k.1).collect();
    for (i, v) in g.values.iter().enumerate() {
        let class = search.of(g, ValueId(i as u32));
        // Arguments stay, constants that nobody reads go.
        if v.source == Source::Input || (matches!(v.source, Source::Const(_)) && used.contains(&class)) {
            let id = out.add_value(&v.name, v.ty.clone(), v.source.clone());
            places.entry(class).or_insert(id);
        }
    }
    let mut made: HashMap<(String, Vec<ValueId>), Vec<ValueId>> = HashMap::new();
    for (_, class) in kept.iter().filter(|k| k.0 > 0) {
        if !places.contains_key(class) {
            let id = node(&terms[class], table, search, &mut out, &places, &mut made)?;
            places.insert(*class, id);
        }
    }
    let place = |v: &ValueId| places[&search.of(g, *v)];
    out.outputs = g.outputs.iter().map(place).collect();
    Ok(out)
}

fn node(
    t: &Tree,
    table: &OpTable,
    search: &Search,
    out: &mut Graph,
    places: &HashMap<Id, ValueId>,
    made: &mut HashMap<(String, Vec<ValueId>), Vec<ValueId>>,
) -> Result<ValueId, SelectError> {
    if let Some(name) = t.head.named() {
        return Ok(places[&search.egraph.find(search.leaves[name])]);
    }
    let args = t.args.iter().map(|a| node(a, table, search, out, places, made));
    let args: Vec<ValueId> = args.collect::<Result<_, _>>()?;
    let whole = crate::term::Head::new(&t.head.op, t.head.attrs.clone(), 0);
    let key = (whole.to_string(), args.clone());
    if let Some(ids) = made.get(&key) {
        return Ok(ids[t.head.result]);
    }
    let attrs: Vec<(&str, _)> = t.head.attrs.iter().map(|(n, a)| (&**n, a.clone())).collect();
    let ids = out.apply(table, &t.head.op, &args, &attrs)?;
    let id = ids[t.head.result];
    made.insert(key, ids);
    Ok(id)
}

/// The instructions in a term, and whether the host multiplies in it too.
fn places(t: &Tree, on: &mut BTreeSet<Name>, host: &mut bool) {
    match str_attr(&t.head.attrs, ON) {
        Some(name) => drop(on.insert(name.into())),
        None => *host |= matches!(&*t.head.op, "conv" | "dot" | "matmul" | "batch_matmul"),
    }
    t.args.iter().for_each(|a| places(a, on, host));
}

fn operators(
    g: &Graph,
    values: &HashMap<Name, (Facts, usize)>,
    search: &Search,
    terms: &HashMap<Id, Rc<Tree>>,
    proofs: &[Proof],
) -> Vec<Operator> {
    let facts = |v: &ValueId| &values[&g.value(*v).name].0;
    let mut out = vec![];
    for n in &g.nodes {
        let head = crate::term::Head::new(&n.op, n.attrs.clone(), 0);
        let args: Vec<&Facts> = n.inputs.iter().map(facts).collect();
        let Some(products) = products(&head, &args, facts(&n.outputs[0])) else { continue };
        // Where its own value is not kept, it is a part of the next one that is.
        let mut at = n.outputs[0];
        while !terms.contains_key(&search.of(g, at)) {
            match g.nodes.iter().find(|m| m.inputs.contains(&at)) {
                Some(reader) => at = reader.outputs[0],
                None => break,
            }
        }
        let (mut on, mut host) = (BTreeSet::new(), false);
        let class = search.of(g, at);
        terms.get(&class).into_iter().for_each(|t| places(t, &mut on, &mut host));
        let standing = search.egraph.id_to_node(search.standing(class)).head.named().unwrap_or(VALUE);
        let proof = proofs.iter().find(|p| *p.value == *standing);
        let mut rules: Vec<String> = vec![];
        for s in proof.into_iter().flat_map(|p| &p.steps) {
            if s.rule != DEFINITION && !rules.contains(&s.rule) {
                rules.push(s.rule.clone());
            }
        }
        out.push(Operator {
            value: g.value(n.outputs[0]).name.clone(),
            op: n.op.clone(),
            products,
            on: on.into_iter().next().filter(|_| !host),
            rules,
        });
    }
    out
}
