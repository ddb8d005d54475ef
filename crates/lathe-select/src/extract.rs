//! The cheapest term for each value of the graph, made of values before it.
//!
//! Values are decided in the order in which the graph makes them, and a term refers to earlier ones only, so no choice goes
//! round in circles. A value that several read costs each of them its part: sums then are close to those of a graph that
//! computes it once.

use crate::cost::cost;
use crate::search::Search;
use crate::target::Target;
use crate::term::{Facts, Head, Term, Tree};
use egg::Id;
use lathe_ir::graph::{Graph, ValueId};
use std::collections::HashMap;
use std::rc::Rc;

/// The term of each value's class, and what it costs with all that it is made of.
pub(crate) struct Extraction<'s> {
    search: &'s Search,
    target: &'s Target,
    /// Of classes without a value: the cost and the place of the node.
    inner: HashMap<Id, (f64, usize)>,
    /// Of classes with a value that are decided: what each reader is charged, and the term.
    decided: HashMap<Id, (f64, Rc<Tree>)>,
}

impl<'s> Extraction<'s> {
    pub(crate) fn new(search: &'s Search, target: &'s Target, g: &Graph) -> Extraction<'s> {
        let (inner, decided) = (HashMap::new(), HashMap::new());
        let mut e = Extraction { search, target, inner, decided };
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
            e.decide(class, at, uses.get(&class).copied().unwrap_or(1).max(1));
            e.spread(class);
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

    fn node(&self, class: Id, node: &Term) -> Option<f64> {
        let prices: Option<f64> = node.args.iter().map(|a| self.price(self.search.egraph.find(*a))).sum();
        let args: Vec<&Facts> =
            node.args.iter().map(|a| self.facts(self.search.egraph.find(*a))).collect::<Option<_>>()?;
        Some(prices? + cost(self.target, &node.head, &args, self.facts(class)?))
    }

    /// The cheapest node of a class, but for those that name a value.
    fn best(&self, class: Id) -> Option<(f64, usize)> {
        let nodes = self.search.egraph[class].nodes.iter().enumerate();
        let made = nodes.filter(|(_, n)| n.head.named().is_none());
        let priced = made.filter_map(|(i, n)| Some((self.node(class, n)?, i)));
        priced.min_by(|a, b| a.0.total_cmp(&b.0))
    }

    fn decide(&mut self, class: Id, at: usize, uses: usize) {
        let (price, tree) = match self.best(class).filter(|_| at > 0) {
            Some((price, node)) => (price / uses as f64, self.tree(class, node)),
            // What the caller passes is there already.
            None => (0.0, self.leaf(class)),
        };
        self.decided.insert(class, (price, tree));
    }

    fn leaf(&self, class: Id) -> Rc<Tree> {
        let standing = self.search.standing(class);
        Rc::new(Tree { head: self.search.egraph.id_to_node(standing).head.clone(), args: vec![] })
    }

    fn tree(&self, class: Id, node: usize) -> Rc<Tree> {
        let node = &self.search.egraph[class].nodes[node];
        let arg = |a: &Id| {
            let a = self.search.egraph.find(*a);
            match self.search.egraph[a].data.value {
                Some(_) => self.leaf(a),
                None => self.tree(a, self.inner[&a].1),
            }
        };
        Rc::new(Tree { head: node.head.clone(), args: node.args.iter().map(arg).collect() })
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

    /// The term of a value's class.
    pub(crate) fn term(&self, class: Id) -> &Rc<Tree> {
        &self.decided[&class].1
    }

    /// The class of a leaf of a term.
    pub(crate) fn class(&self, head: &Head) -> Option<Id> {
        head.named().map(|n| self.search.egraph.find(self.search.leaves[n]))
    }
}
