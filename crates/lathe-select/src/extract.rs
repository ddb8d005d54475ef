//! The cheapest term for each value of the graph, made of values before it.
//!
//! Values are decided in the order in which the graph makes them, and a term refers to earlier ones only, so no choice goes
//! round in circles. At first a value that several read costs each of them its part. Then all is decided again, where values
//! that the last graph computes cost nothing more, as long as the whole becomes cheaper.

use crate::cost::cost;
use crate::search::Search;
use crate::target::Target;
use crate::term::{Facts, Term, Tree};
use egg::Id;
use lathe_ir::graph::{Graph, ValueId};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// The term of each value's class, and what it costs with all that it is made of.
pub(crate) struct Extraction<'s> {
    search: &'s Search,
    target: &'s Target,
    /// Of classes without a value: the cost and the place of the node.
    inner: HashMap<Id, (f64, usize)>,
    /// Of classes with a value that are decided: what each reader is charged, the term, and what its operators alone cost.
    decided: HashMap<Id, (f64, Rc<Tree>, f64)>,
    /// The terms of the values that the results need, by class.
    pub(crate) terms: HashMap<Id, Rc<Tree>>,
    /// What all of these cost.
    pub(crate) total: f64,
}

/// How often all is decided anew at most.
const PASSES: usize = 4;

impl<'s> Extraction<'s> {
    /// The cheapest that was found.
    pub(crate) fn best_of(search: &'s Search, target: &'s Target, g: &Graph) -> Extraction<'s> {
        let mut best = Extraction::new(search, target, g, None);
        for _ in 0..PASSES {
            let kept: HashSet<Id> = best.terms.keys().copied().collect();
            let next = Extraction::new(search, target, g, Some(&kept));
            if next.total >= best.total {
                break;
            }
            best = next;
        }
        best
    }

    /// Decides all values; those in `kept` cost nothing more.
    fn new(search: &'s Search, target: &'s Target, g: &Graph, kept: Option<&HashSet<Id>>) -> Extraction<'s> {
        let (inner, decided, terms) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut e = Extraction { search, target, inner, decided, terms, total: 0.0 };
        let mut uses: HashMap<Id, usize> = HashMap::new();
        for (i, n) in g.uses().into_iter().enumerate() {
            *uses.entry(search.of(g, ValueId(i as u32))).or_default() += n;
        }
        let mut order: Vec<(usize, Id)> = vec![];
        for class in search.egraph.classes() {
            if let Some((at, _)) = class.data.value {
                order.push((at, class.id));
            }
        }
        order.sort_unstable();
        for (at, class) in order {
            let part = match kept {
                None => 1.0 / uses.get(&class).copied().unwrap_or(1).max(1) as f64,
                Some(kept) => f64::from(u8::from(!kept.contains(&class))),
            };
            e.decide(class, at, part);
            e.spread(class);
        }
        let mut work: Vec<Id> = g.outputs.iter().map(|v| search.of(g, *v)).collect();
        while let Some(class) = work.pop() {
            let (_, tree, own) = e.decided[&class].clone();
            if e.terms.insert(class, tree.clone()).is_none() && tree.head.named().is_none() {
                e.total += own;
                leaves(&tree, &mut |t| {
                    work.extend(t.head.named().map(|n| search.egraph.find(search.leaves[n])));
                });
            }
        }
        e
    }

    fn facts(&self, class: Id) -> Option<&'s Facts> {
        self.search.egraph[class].data.facts.as_ref()
    }

    /// What a class costs who reads it; none where it is not known yet.
    fn price(&self, class: Id) -> Option<f64> {
        match self.search.egraph[class].data.value {
            Some(_) => self.decided.get(&class).map(|d| d.0),
            None => self.inner.get(&class).map(|i| i.0),
        }
    }

    /// What an operator costs, its arguments there already.
    fn own(&self, class: Id, node: &Term) -> Option<f64> {
        let facts = |a: &Id| self.facts(self.search.egraph.find(*a));
        let args: Vec<&Facts> = node.args.iter().map(facts).collect::<Option<_>>()?;
        Some(cost(self.target, &node.head, &args, self.facts(class)?))
    }

    fn node(&self, class: Id, node: &Term) -> Option<f64> {
        let prices: Option<f64> = node.args.iter().map(|a| self.price(self.search.egraph.find(*a))).sum();
        Some(prices? + self.own(class, node)?)
    }

    /// The cheapest node of a class, but for those that name a value.
    fn best(&self, class: Id) -> Option<(f64, usize)> {
        let nodes = self.search.egraph[class].nodes.iter().enumerate();
        let made = nodes.filter(|(_, n)| n.head.named().is_none());
        let priced = made.filter_map(|(i, n)| Some((self.node(class, n)?, i)));
        priced.min_by(|a, b| a.0.total_cmp(&b.0))
    }

    fn decide(&mut self, class: Id, at: usize, part: f64) {
        let decided = match self.best(class).filter(|_| at > 0) {
            Some((price, node)) => {
                let mut own = 0.0;
                let tree = self.tree(class, node, &mut own);
                (price * part, tree, own)
            }
            // What the caller passes is there already.
            None => (0.0, self.leaf(class), 0.0),
        };
        self.decided.insert(class, decided);
    }

    fn leaf(&self, class: Id) -> Rc<Tree> {
        let standing = self.search.standing(class);
        Rc::new(Tree { head: self.search.egraph.id_to_node(standing).head.clone(), args: vec![] })
    }

    fn tree(&self, class: Id, node: usize, own: &mut f64) -> Rc<Tree> {
        let node = &self.search.egraph[class].nodes[node];
        *own += self.own(class, node).unwrap_or(0.0);
        let mut args = vec![];
        for a in &node.args {
            let a = self.search.egraph.find(*a);
            args.push(match self.search.egraph[a].data.value {
                Some(_) => self.leaf(a),
                None => self.tree(a, self.inner[&a].1, own),
            });
        }
        Rc::new(Tree { head: node.head.clone(), args })
    }

    /// Prices of the classes without a value that one becoming cheaper makes cheaper.
    fn spread(&mut self, from: Id) {
        let mut work = vec![from];
        while let Some(class) = work.pop() {
            let parents = self.search.egraph[class].parents();
            let parents: Vec<Id> = parents.map(|p| self.search.egraph.find(p)).collect();
            for p in parents {
                if self.search.egraph[p].data.value.is_some() {
                    continue;
                }
                let Some(best) = self.best(p) else { continue };
                if self.inner.get(&p).is_none_or(|old| best.0 < old.0 - 1e-9) {
                    self.inner.insert(p, best);
                    work.push(p);
                }
            }
        }
    }
}

/// The values in a term.
pub(crate) fn leaves(t: &Tree, f: &mut dyn FnMut(&Tree)) {
    if t.head.named().is_some() {
        f(t);
    }
    t.args.iter().for_each(|a| leaves(a, f));
}
