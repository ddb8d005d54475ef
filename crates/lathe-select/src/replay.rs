//! Proofs that a value is what was chosen for it: terms, each from the one before by one rule at one place. A step is checked
//! without the search: by the rule's row on the one term, and by nothing else.

use crate::SelectError;
use crate::rule::{Applied, Pattern};
use crate::search::DEFINITION;
use crate::term::{Facts, Head, Ops, Term, Tree, known};
use egg::FlatTerm;
use lathe_ir::graph::{Graph, OpTable};
use lathe_ir::{Name, Tensor};
use lathe_schedule::Tag;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// One step of a proof.
#[derive(Clone, Debug)]
pub struct Step {
    /// The rule, with its instruction's name behind a colon, or [`DEFINITION`].
    pub rule: String,
    /// Whether the term after the step is the rule's right side; else the one before is.
    pub forward: bool,
    /// Where the rule is applied: the arguments on the way from the root.
    pub place: Vec<usize>,
    /// The term after the step.
    pub after: Rc<Tree>,
}

/// A proof that a value of the graph is equal to a term.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The value.
    pub value: Name,
    /// From the value itself to what was chosen.
    pub steps: Vec<Step>,
}

impl Proof {
    /// From the flat form of an explanation.
    pub(crate) fn of(value: &str, terms: &[FlatTerm<Term>]) -> Proof {
        let step = |t: &FlatTerm<Term>| {
            let (place, rule, forward) = annotation(t)?;
            Some(Step { rule, forward, place, after: tree(t) })
        };
        Proof { value: value.into(), steps: terms.iter().skip(1).filter_map(step).collect() }
    }

    /// The term that it ends with.
    pub fn last(&self) -> Option<&Rc<Tree>> {
        self.steps.last().map(|s| &s.after)
    }
}

/// The one place of a term at which a rule was applied.
fn annotation(t: &FlatTerm<Term>) -> Option<(Vec<usize>, String, bool)> {
    if let Some(rule) = t.forward_rule {
        return Some((vec![], rule.to_string(), true));
    }
    if let Some(rule) = t.backward_rule {
        return Some((vec![], rule.to_string(), false));
    }
    t.children.iter().enumerate().find_map(|(i, c)| {
        let (mut place, rule, forward) = annotation(c)?;
        place.insert(0, i);
        Some((place, rule, forward))
    })
}

fn tree(t: &FlatTerm<Term>) -> Rc<Tree> {
    Rc::new(Tree { head: t.node.head.clone(), args: t.children.iter().map(tree).collect() })
}

/// Checks proofs over a graph.
pub struct Checker<'g> {
    graph: &'g Graph,
    ops: Ops,
    values: HashMap<Name, (Facts, usize)>,
    rules: HashMap<String, (Applied<'g>, Vec<Pattern>)>,
}

impl<'g> Checker<'g> {
    /// For a graph, by these rules alone.
    pub fn new(
        graph: &'g Graph,
        table: &OpTable,
        constants: &HashMap<Name, Tensor>,
        rules: &[Applied<'g>],
    ) -> Checker<'g> {
        let forms = |r: &Applied<'g>| r.rule.left.iter().map(|l| Pattern::parse(l)).collect();
        let rules = rules.iter().map(|r| (r.name(), (*r, forms(r)))).collect();
        Checker { graph, ops: Ops::new(table), values: known(graph, constants), rules }
    }

    /// Checks every step; the loosest tag of the rules.
    pub fn check(&self, proof: &Proof) -> Result<Tag, SelectError> {
        let mut term = Rc::new(Tree { head: Head::value(&proof.value), args: vec![] });
        let mut tag = Tag::Bitwise;
        for (i, s) in proof.steps.iter().enumerate() {
            let fail = |what: &str| SelectError::Unproved {
                value: proof.value.to_string(),
                what: format!("step {i} by '{}' {what}", s.rule),
            };
            let (from, to) = (beneath(&term, &s.place), beneath(&s.after, &s.place));
            let (Some(from), Some(to)) = (from, to) else { return Err(fail("is at no place of the term")) };
            if replaced(&term, &s.place, to).as_ref() != Some(&s.after) {
                return Err(fail("changes another place"));
            }
            let (left, right) = if s.forward { (from, to) } else { (to, from) };
            if s.rule == DEFINITION {
                if !self.is_definition(left, right) {
                    return Err(fail("is not what the graph says"));
                }
            } else {
                let (rule, forms) =
                    self.rules.get(&s.rule).ok_or_else(|| fail("is by no rule of the table"))?;
                if !forms.iter().any(|p| self.gives(rule, p, left).as_ref() == Some(right)) {
                    return Err(fail("is not what the rule says"));
                }
                tag = tag.max(rule.rule.tag);
            }
            term = s.after.clone();
        }
        Ok(tag)
    }

    /// Whether the left side is a value of the graph and the right side what its node says.
    fn is_definition(&self, left: &Tree, right: &Tree) -> bool {
        let Some(name) = left.head.named() else { return false };
        let node = self.graph.nodes.iter().find_map(|n| {
            let at = n.outputs.iter().position(|o| *self.graph.value(*o).name == *name)?;
            Some((n, at))
        });
        node.is_some_and(|(n, at)| {
            let args = n.inputs.iter().map(|a| self.graph.value(*a).name.clone());
            right.head == Head::new(&n.op, n.attrs.clone(), at)
                && right.args.len() == n.inputs.len()
                && args.zip(&right.args).all(|(a, t)| t.head.named() == Some(&*a))
        })
    }

    /// What a rule makes of a term.
    fn gives(&self, rule: &Applied<'_>, p: &Pattern, left: &Rc<Tree>) -> Option<Rc<Tree>> {
        let (mut heads, mut vars) = (vec![], vec![]);
        matches(p, left, &mut heads, &mut vars)?;
        let vars: Vec<Rc<Tree>> = vars.into_iter().collect::<Option<_>>()?;
        let facts: Vec<Facts> = vars.iter().map(|v| self.facts(v)).collect::<Option<_>>()?;
        let (right, root) = rule.right(&self.ops, &heads, facts)?;
        Some(right.term(root, &vars))
    }

    /// What is known of a term.
    pub fn facts(&self, t: &Tree) -> Option<Facts> {
        if let Some(name) = t.head.named() {
            return self.values.get(name).map(|(f, _)| f.clone());
        }
        let args: Vec<Facts> = t.args.iter().map(|a| self.facts(a)).collect::<Option<_>>()?;
        self.ops.facts(&t.head, &args.iter().collect::<Vec<_>>())
    }
}

/// Matches a term with a pattern: the heads of its operators, outer first, and the terms of its variables.
fn matches(
    p: &Pattern,
    t: &Rc<Tree>,
    heads: &mut Vec<Arc<Head>>,
    vars: &mut Vec<Option<Rc<Tree>>>,
) -> Option<()> {
    match p {
        Pattern::Variable(v) => {
            if vars.len() <= *v {
                vars.resize(*v + 1, None);
            }
            let same = vars[*v].get_or_insert_with(|| t.clone()) == t;
            same.then_some(())
        }
        Pattern::Op(name, args) => {
            (*t.head.op == **name && t.args.len() == args.len()).then_some(())?;
            heads.push(t.head.clone());
            args.iter().zip(&t.args).try_for_each(|(p, t)| matches(p, t, heads, vars))
        }
    }
}

fn beneath<'t>(t: &'t Rc<Tree>, place: &[usize]) -> Option<&'t Rc<Tree>> {
    place.iter().try_fold(t, |t, i| t.args.get(*i))
}

/// The term with another one at a place.
fn replaced(t: &Rc<Tree>, place: &[usize], with: &Rc<Tree>) -> Option<Rc<Tree>> {
    let Some((i, rest)) = place.split_first() else { return Some(with.clone()) };
    let mut args = t.args.clone();
    args[*i] = replaced(args.get(*i)?, rest, with)?;
    Some(Rc::new(Tree { head: t.head.clone(), args }))
}
