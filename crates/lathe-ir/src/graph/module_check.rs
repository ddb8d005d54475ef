//! The checker of modules: names, kinds of everything that is passed, one arm for each variant, and linear state that is
//! consumed once.

use super::module::{Block, Control, Kind, Module};
use super::{OpTable, Source, Type, check};
use crate::{DType, IrError, Name};
use std::collections::{HashMap, HashSet};

struct Checker<'m> {
    module: &'m Module,
    table: &'m OpTable,
}

/// Names in scope, and those whose linear value was updated in place.
#[derive(Clone, Default)]
struct Scope {
    kinds: HashMap<Name, Kind>,
    consumed: HashSet<Name>,
}

/// Checks every function.
pub fn check_module(module: &Module, table: &OpTable) -> Result<(), IrError> {
    let c = Checker { module, table };
    let mut known = HashSet::new();
    for (tag, fields) in module.data.iter().flat_map(|d| &d.variants) {
        if !known.insert(tag) {
            return c.fail(tag, "two variants of this tag");
        }
        fields.iter().try_for_each(|k| c.exists(tag, k))?;
    }
    let mut known = HashSet::new();
    for f in &module.functions {
        if !known.insert(&f.name) {
            return c.fail(&f.name, "two functions of this name");
        }
        let kinds = f.params.iter().map(|(_, k)| k).chain(&f.results);
        kinds.into_iter().try_for_each(|k| c.exists(&f.name, k))?;
        let mut scope = Scope { kinds: f.params.iter().cloned().collect(), ..Scope::default() };
        if scope.kinds.len() != f.params.len() {
            return c.fail(&f.name, "two parameters of one name");
        }
        let got = c.block(&f.name, &f.body, &mut scope)?;
        c.same(&f.name, "the results", &got, &f.results)?;
    }
    Ok(())
}

impl Checker<'_> {
    fn fail<T>(&self, place: &str, message: impl Into<String>) -> Result<T, IrError> {
        Err(IrError::check(format!("{}/{place}", self.module.name), message))
    }

    fn exists(&self, place: &str, k: &Kind) -> Result<(), IrError> {
        match k {
            Kind::Data(n) if !self.module.data.iter().any(|d| d.name == *n) => {
                self.fail(place, format!("there is no data type '{n}'"))
            }
            _ => Ok(()),
        }
    }

    fn same(&self, place: &str, what: &str, got: &[Kind], want: &[Kind]) -> Result<(), IrError> {
        if got == want {
            return Ok(());
        }
        let show = |k: &[Kind]| k.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        self.fail(place, format!("{what} are ({}), expected ({})", show(got), show(want)))
    }

    fn kind(&self, place: &str, scope: &Scope, name: &Name) -> Result<Kind, IrError> {
        if scope.consumed.contains(name) {
            return self.fail(place, format!("'{name}' was updated in place before this use"));
        }
        match scope.kinds.get(name) {
            Some(k) => Ok(k.clone()),
            None => self.fail(place, format!("'{name}' is not in scope")),
        }
    }

    fn kinds(&self, place: &str, scope: &Scope, names: &[Name]) -> Result<Vec<Kind>, IrError> {
        names.iter().map(|n| self.kind(place, scope, n)).collect()
    }

    fn condition(&self, place: &str, kind: &Kind) -> Result<(), IrError> {
        let flag = Kind::Tensor(Type::dense(DType::I32, &[1.into()]));
        if *kind == flag {
            Ok(())
        } else {
            self.fail(place, format!("the condition is a {kind}, not an i32[1]"))
        }
    }

    /// A block inside: what it consumes of the outside is consumed there too.
    fn inside(
        &self,
        place: &str,
        b: &Block,
        outer: &mut Scope,
        more: Vec<(Name, Kind)>,
    ) -> Result<Vec<Kind>, IrError> {
        let mut scope = outer.clone();
        for (n, k) in more {
            scope.consumed.remove(&n);
            scope.kinds.insert(n, k);
        }
        let out = self.block(place, b, &mut scope)?;
        outer.consumed.extend(scope.consumed.into_iter().filter(|n| outer.kinds.contains_key(n)));
        Ok(out)
    }

    fn block(&self, place: &str, b: &Block, scope: &mut Scope) -> Result<Vec<Kind>, IrError> {
        for c in &b.steps {
            let (results, kinds) = self.step(place, c, scope)?;
            if results.len() != kinds.len() {
                let (n, m) = (results.len(), kinds.len());
                return self.fail(place, format!("{n} names for {m} results"));
            }
            for (n, k) in results.iter().zip(kinds) {
                if scope.kinds.insert(n.clone(), k).is_some() {
                    return self.fail(place, format!("'{n}' is defined twice"));
                }
            }
        }
        self.kinds(place, scope, &b.results)
    }

    fn step<'c>(
        &self,
        place: &str,
        c: &'c Control,
        scope: &mut Scope,
    ) -> Result<(&'c [Name], Vec<Kind>), IrError> {
        Ok(match c {
            Control::Region { graph, results } => {
                check(graph, self.table)?;
                let mut linear = vec![];
                for v in &graph.values {
                    if !matches!(v.source, Source::Input | Source::State) {
                        continue;
                    }
                    let got = self.kind(&graph.name, scope, &v.name)?;
                    self.same(&graph.name, &format!("'{}'", v.name), &[got], &[Kind::Tensor(v.ty.clone())])?;
                    if v.source == Source::State {
                        linear.push(v.name.clone());
                    }
                }
                scope.consumed.extend(linear);
                (results, graph.outputs.iter().map(|v| Kind::Tensor(graph.ty(*v).clone())).collect())
            }
            Control::Call { function, args, results } => {
                let Some(f) = self.module.function(function) else {
                    return self.fail(place, format!("there is no function '{function}'"));
                };
                let got = self.kinds(place, scope, args)?;
                let want: Vec<Kind> = f.params.iter().map(|(_, k)| k.clone()).collect();
                self.same(place, &format!("the arguments of '{function}'"), &got, &want)?;
                (results, f.results.clone())
            }
            Control::If { condition, then, otherwise, results } => {
                self.condition(place, &self.kind(place, scope, condition)?)?;
                let before = scope.clone();
                let a = self.inside(place, then, scope, vec![])?;
                let mut other = before;
                let b = self.inside(place, otherwise, &mut other, vec![])?;
                scope.consumed.extend(other.consumed);
                self.same(place, "the results of the other branch", &b, &a)?;
                (results, a)
            }
            Control::While { state, condition, body, results } => {
                let mut inner = vec![];
                for (name, from) in state {
                    inner.push((name.clone(), self.kind(place, scope, from)?));
                }
                let kinds: Vec<Kind> = inner.iter().map(|(_, k)| k.clone()).collect();
                let before = scope.consumed.clone();
                match self.inside(place, condition, scope, inner.clone())?.as_slice() {
                    [k] => self.condition(place, k)?,
                    _ => return self.fail(place, "the loop's condition is not one value"),
                }
                let next = self.inside(place, body, scope, inner)?;
                let again = scope.consumed.iter().find(|n| !before.contains(*n));
                if let Some(n) = again {
                    return self
                        .fail(place, format!("'{n}' is updated in place by every iteration: make it state"));
                }
                self.same(place, "the next state", &next, &kinds)?;
                (results, kinds)
            }
            Control::Match { value, arms, results } => {
                let Kind::Data(name) = self.kind(place, scope, value)? else {
                    return self.fail(place, format!("'{value}' is no tree"));
                };
                let data = self.module.data.iter().find(|d| d.name == name);
                let variants = data.map_or(&[][..], |d| &d.variants);
                let tags: Vec<&Name> = arms.iter().map(|a| &a.tag).collect();
                if tags.len() != variants.len() || variants.iter().any(|(t, _)| !tags.contains(&t)) {
                    return self.fail(place, format!("expects one arm for each variant of '{name}'"));
                }
                let before = scope.clone();
                let mut kinds: Option<Vec<Kind>> = None;
                for a in arms {
                    let fields = self.module.variant(&a.tag).map_or(&[][..], |(_, f)| f);
                    if fields.len() != a.fields.len() {
                        return self.fail(place, format!("'{}' has {} fields", a.tag, fields.len()));
                    }
                    let more = a.fields.iter().cloned().zip(fields.iter().cloned()).collect();
                    let mut inner = before.clone();
                    let got = self.inside(place, &a.body, &mut inner, more)?;
                    scope.consumed.extend(inner.consumed);
                    match &kinds {
                        Some(first) => {
                            self.same(place, &format!("the results of '{}'", a.tag), &got, first)?
                        }
                        None => kinds = Some(got),
                    }
                }
                (results, kinds.unwrap_or_default())
            }
            Control::Make { tag, args, result } => {
                let Some((data, fields)) = self.module.variant(tag) else {
                    return self.fail(place, format!("there is no variant '{tag}'"));
                };
                let got = self.kinds(place, scope, args)?;
                self.same(place, &format!("the fields of '{tag}'"), &got, fields)?;
                (std::slice::from_ref(result), vec![Kind::Data(data.name.clone())])
            }
        })
    }
}
