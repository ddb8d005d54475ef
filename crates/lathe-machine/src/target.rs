//! What a code generator needs to know of a machine: which dialect to write, how wide, and which instructions exist.

use crate::Cpu;
use std::collections::BTreeSet;

/// The kind of code to generate. A name has one meaning: what is compiled for `avx2` runs on every processor that has what
/// `avx2` needs, so code may be made on one machine for another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Name of the dialect table, one of [`Target::names`].
    pub dialect: String,
    /// Width of the vectors to write, bits.
    pub vector_bits: u32,
    /// Instruction set extensions that the compiler may use; empty for the portable target.
    pub features: BTreeSet<String>,
}

/// A dialect's name, vector width and the extensions it needs, spelt as for gcc.
type Row = (&'static str, u32, &'static [&'static str]);

/// The targets, best first.
const TARGETS: &[Row] = &[
    (
        "avx512bf16",
        512,
        &[
            "avx512f",
            "avx512bw",
            "avx512dq",
            "avx512vl",
            "avx512vnni",
            "avx512bf16",
            "avx2",
            "fma",
            "f16c",
            "bmi2",
        ],
    ),
    (
        "avx512vnni",
        512,
        &["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx2", "fma", "f16c", "bmi2"],
    ),
    ("avx512", 512, &["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c", "bmi2"]),
    ("avxvnni", 256, &["avxvnni", "avx2", "fma", "f16c", "bmi2"]),
    ("avx2", 256, &["avx2", "fma", "f16c", "bmi2"]),
    ("neon", 128, &["dotprod"]),
    ("portable", 128, &[]),
];

fn target((name, bits, needs): &Row) -> Target {
    let features = needs.iter().map(ToString::to_string).collect();
    Target { dialect: (*name).into(), vector_bits: *bits, features }
}

impl Target {
    /// Plain C that every processor runs: the truth that other dialects are tested against. Its vectors are 128 bits wide,
    /// which every compiler can lower.
    pub fn portable() -> Target {
        Target { dialect: "portable".into(), vector_bits: 128, features: BTreeSet::new() }
    }

    /// The names of all targets, best first.
    pub fn names() -> impl Iterator<Item = &'static str> {
        TARGETS.iter().map(|row| row.0)
    }

    /// The target of a name, whether or not any processor here runs it.
    pub fn named(name: &str) -> Option<Target> {
        TARGETS.iter().find(|row| row.0 == name).map(target)
    }

    /// The best target that `cpu` runs.
    pub fn of_cpu(cpu: &Cpu) -> Target {
        TARGETS.iter().find(|row| cpu.has(row.2)).map_or_else(Target::portable, target)
    }

    /// All targets that `cpu` runs, best first; the last is portable.
    pub fn all_of_cpu(cpu: &Cpu) -> Vec<Target> {
        TARGETS.iter().filter(|row| cpu.has(row.2)).map(target).collect()
    }

    /// The architecture it is for, as Rust and GNU name it; `None` for the portable one, which is for any.
    pub fn architecture(&self) -> Option<&'static str> {
        match self.dialect.as_str() {
            "portable" => None,
            "neon" => Some("aarch64"),
            _ => Some("x86_64"),
        }
    }

    /// The best other target that every processor of this one runs; `None` for the portable one.
    pub fn lesser(&self) -> Option<Target> {
        let after = TARGETS.iter().skip_while(|row| row.0 != self.dialect).skip(1);
        after.map(target).find(|t| t.features.is_subset(&self.features))
    }

    /// The extensions that it needs and `cpu` lacks.
    pub fn lacking<'a>(&'a self, cpu: &Cpu) -> Vec<&'a str> {
        self.features.iter().map(String::as_str).filter(|name| !cpu.has(&[name])).collect()
    }

    /// A short stable hash of dialect, width and features, the same in every process and version of Rust.
    pub fn fingerprint(&self) -> u64 {
        let bits = self.vector_bits.to_string();
        let words = [self.dialect.as_str(), bits.as_str()]
            .into_iter()
            .chain(self.features.iter().map(String::as_str));
        let mut hash = 0xcbf2_9ce4_8422_2325_u64; // FNV-1a
        for byte in words.flat_map(|word| word.bytes().chain([0])) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(features: &[&str]) -> Cpu {
        let features = features.iter().map(|f| f.to_string()).collect();
        Cpu { vendor: "v".into(), model: "m".into(), cores: 1, vector_bits: 512, features }
    }

    fn runs(cpu: &Cpu) -> Vec<String> {
        Target::all_of_cpu(cpu).into_iter().map(|t| t.dialect).collect()
    }

    #[test]
    fn a_dialect_needs_all_its_features() {
        for (name, _, needs) in TARGETS {
            let full = cpu(needs);
            assert_eq!(Target::of_cpu(&full).dialect, *name);
            assert_eq!(runs(&full).last().unwrap(), "portable");
            for missing in *needs {
                let mut less = full.clone();
                less.features.remove(*missing);
                assert!(!runs(&less).contains(&name.to_string()), "{name} without {missing}");
                assert_eq!(Target::named(name).unwrap().lacking(&less), [*missing]);
            }
        }
    }

    #[test]
    fn lesser_processors_fall_back() {
        assert_eq!(runs(&cpu(TARGETS[0].2)), ["avx512bf16", "avx512vnni", "avx512", "avx2", "portable"]);
        assert_eq!(
            runs(&cpu(&["avxvnni", "avx2", "fma", "f16c", "bmi2", "avx"])),
            ["avxvnni", "avx2", "portable"]
        );
        assert_eq!(runs(&cpu(&["avx512f", "avx2", "fma", "f16c", "bmi2"])), ["avx2", "portable"]);
        assert_eq!(runs(&cpu(&["dotprod"])), ["neon", "portable"]);
        assert_eq!(runs(&cpu(&["sse3"])), ["portable"]);
        assert_eq!(Target::named("sse9"), None);
        let lesser = |name| Target::named(name).unwrap().lesser().map(|t| t.dialect);
        let chain = ["avx512bf16", "avx512vnni", "avx512", "avxvnni", "avx2", "neon", "portable"].map(lesser);
        let names = chain.each_ref().map(|name| name.as_deref().unwrap_or("none"));
        assert_eq!(names, ["avx512vnni", "avx512", "avx2", "avx2", "portable", "portable", "none"]);
    }

    #[test]
    fn a_target_is_the_same_on_every_processor_and_fingerprints_differ() {
        let richer = cpu(&["avx2", "fma", "f16c", "bmi2", "gfni", "vaes"]);
        assert_eq!(Some(Target::of_cpu(&richer)), Target::named("avx2"));
        let prints: BTreeSet<u64> =
            Target::names().map(|name| Target::named(name).unwrap().fingerprint()).collect();
        assert_eq!(prints.len(), TARGETS.len());
    }
}
