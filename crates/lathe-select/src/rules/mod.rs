//! The closed table of rules, one file a family. What is not a row is no step of a proof.

mod convolution;
mod integer;
mod layout;
mod product;

use crate::rule::Rule;

/// All rules.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    let families: [&'static [Rule]; 4] = [product::RULES, layout::RULES, convolution::RULES, integer::RULES];
    families.into_iter().flatten()
}

/// The rule of a name.
pub fn rule(name: &str) -> Option<&'static Rule> {
    rules().find(|r| r.name == name)
}
