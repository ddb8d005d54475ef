//! Models and machines that papers plan for, as examples: shapes from their papers.

use crate::{Head, Layers, Work};
use std::collections::BTreeMap;

/// A model of OPT's family: name, layers, width (Zhang et al. 2022, arXiv 2205.01068, table 1).
const OPT: &[(&str, u64, u64)] = &[("opt-6.7b", 32, 4096), ("opt-30b", 48, 7168), ("opt-175b", 96, 12288)];

/// Entries of OPT's vocabulary, as its tables have them.
const OPT_VOCABULARY: u64 = 50272;

/// Machines by name.
const MACHINES: &[(&str, &str)] = &[
    ("flexgen-t4", include_str!("../data/flexgen-t4.toml")),
    ("accelerator-500", include_str!("../data/accelerator-500.toml")),
];

/// The work of a model by its name (`opt-6.7b`, `opt-30b`, `opt-175b`), with weights of 16 bits.
pub fn published_work(name: &str) -> Option<Work> {
    OPT.iter().find(|row| row.0 == name).map(|(name, layers, width)| opt(name, *layers, *width))
}

/// The description of a machine by its name: `flexgen-t4` is the 16 GB device, 208 GB host and 1.5 TB disk of the FlexGen paper
/// (Sheng et al. 2023, arXiv 2303.06865); `accelerator-500` an emulated device of 500 GB/s and 2 TFLOP/s behind a link of 12 GB/s.
pub fn published_machine(name: &str) -> Option<&'static str> {
    MACHINES.iter().find(|row| row.0 == name).map(|(_, text)| *text)
}

/// Bytes of so many weights in groups of 64 4-bit codes with a scale and a minimum of 16 bits.
fn four_bit(weights: u64) -> u64 {
    weights / 2 + weights / 64 * 4
}

fn opt(name: &str, layers: u64, width: u64) -> Work {
    // Four projections of the width, and a feed-forward layer four times as wide; biases and norms are small.
    let weights = 4 * width * width + 2 * width * 4 * width;
    let operations = |weights: u64| BTreeMap::from([("f16".to_string(), 2 * weights)]);
    let table = OPT_VOCABULARY * width;
    Work {
        name: name.into(),
        hidden_bytes: 2 * width,
        embedding_bytes: 0,
        attention_type: "f16".into(),
        layers: vec![Layers {
            count: layers,
            weight_bytes: 2 * weights,
            four_bit_bytes: four_bit(weights),
            expert_bytes: 0,
            experts_used: 0.0,
            largest_bytes: 2 * 4 * width * width,
            operations: operations(weights),
            attention_operations: 4 * width,
            kv_bytes: [("f16", 4 * width), ("q4", four_bit(2 * width))].map(|(t, n)| (t.into(), n)).into(),
            // The stream and its norm, queries, keys and values, or the feed-forward layer's inside.
            workspace_bytes: 2 * (2 * width + 4 * width),
        }],
        head: Head {
            weight_bytes: 2 * table,
            four_bit_bytes: four_bit(table),
            operations: operations(table),
            logits_bytes: 2 * OPT_VOCABULARY,
        },
        measured: None,
    }
}
