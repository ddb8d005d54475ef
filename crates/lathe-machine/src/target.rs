//! What a code generator needs to know of a machine: which dialect to write, how wide, and which instructions exist.

use crate::Cpu;
use std::collections::BTreeSet;

/// The kind of code to generate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Name of the dialect table: `avx512vnni`, `avx2` or `portable`.
    pub dialect: String,
    /// Width of the vectors to write, bits.
    pub vector_bits: u32,
    /// Instruction set extensions that the compiler may use; empty for the portable target.
    pub features: BTreeSet<String>,
}

/// The dialects with their vector width and the features each needs, best first.
const DIALECTS: &[(&str, u32, &[&str])] = &[
    ("avx512vnni", 512, &["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "fma", "f16c"]),
    ("avx2", 256, &["avx2", "fma", "f16c"]),
];

impl Target {
    /// Plain C that every processor runs: the truth that other dialects are tested against. Its vectors are 128 bits wide,
    /// which every compiler can lower.
    pub fn portable() -> Target {
        Target { dialect: "portable".into(), vector_bits: 128, features: BTreeSet::new() }
    }

    /// The best target that `cpu` runs.
    pub fn of_cpu(cpu: &Cpu) -> Target {
        match DIALECTS.iter().find(|(_, _, needs)| cpu.has(needs)) {
            Some((dialect, bits, _)) => {
                Target { dialect: (*dialect).into(), vector_bits: *bits, features: cpu.features.clone() }
            }
            None => Target::portable(),
        }
    }

    /// All targets that `cpu` runs, best first; those behind the first use what their dialect needs and no more, as lesser
    /// processors have it.
    pub fn all_of_cpu(cpu: &Cpu) -> Vec<Target> {
        let best = Target::of_cpu(cpu);
        let runs = DIALECTS.iter().filter(|(name, _, needs)| cpu.has(needs) && *name != best.dialect);
        let lesser = runs.map(|(name, bits, needs)| Target {
            dialect: (*name).into(),
            vector_bits: *bits,
            features: needs.iter().map(ToString::to_string).collect(),
        });
        let portable = (best != Target::portable()).then(Target::portable);
        std::iter::once(best.clone()).chain(lesser.collect::<Vec<_>>()).chain(portable).collect()
    }

    /// Whether the code may use what only this machine has (and so is compiled for this machine alone).
    pub fn is_native(&self) -> bool {
        !self.features.is_empty()
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

    #[test]
    fn a_dialect_needs_all_its_features() {
        let full = cpu(DIALECTS[0].2);
        assert_eq!(Target::of_cpu(&full).dialect, "avx512vnni");
        for missing in DIALECTS[0].2 {
            let mut less = full.clone();
            less.features.remove(*missing);
            let avx2 = less.has(DIALECTS[1].2);
            assert_eq!(Target::of_cpu(&less).dialect, if avx2 { "avx2" } else { "portable" });
        }
        let all: Vec<String> = Target::all_of_cpu(&full).into_iter().map(|t| t.dialect).collect();
        assert_eq!(all, ["avx512vnni", "portable"], "this one has no avx2");
        assert_eq!(Target::all_of_cpu(&cpu(&["avx2", "fma", "f16c"])).len(), 2);
    }

    #[test]
    fn fingerprints_differ_by_feature_and_stay() {
        let one = Target::of_cpu(&cpu(DIALECTS[0].2));
        let mut two = one.clone();
        two.features.insert("avx512bf16".into());
        assert_ne!(one.fingerprint(), two.fingerprint());
        assert_eq!(Target::portable().fingerprint(), Target::portable().fingerprint());
        assert!(!Target::portable().is_native() && one.is_native());
    }
}
