//! How long an expert takes on this machine: what a model of latencies is fitted to.

use crate::error::below;
use crate::{EngineError, Precision};
use lathe_compile::Session;
use lathe_ir::graph::Source;
use lathe_ir::{Int, Tensor};
use lathe_plan::experts::Mixture;
use lathe_runtime::detect_target;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Seconds of one expert of the mixture on this machine, with random weights stored as its bytes say, for each of these numbers of
/// tokens: what a model of latencies is fitted to. Medians of some runs with kernels as the engine has them.
pub fn measure_expert(
    mixture: &Mixture,
    tokens: &[u64],
    threads: usize,
    cache: &Path,
) -> Result<Vec<(u64, f64)>, EngineError> {
    let (hidden, inner) = (mixture.hidden_bytes as usize / 4, mixture.inner as usize);
    let weights = 3 * hidden * inner;
    let bits = mixture.expert_bytes as f64 * 8.0 / weights as f64;
    let stored = match bits {
        32.0 => "",
        16.0 => "{f16}",
        8.5 => "{q8_0}",
        // Rows have a scale of 32 bits.
        8.0..8.5 => "{i8}",
        _ => return Err(EngineError::Unmeasured { bits: format!("{bits:.2}") }),
    };
    let (target, most) = (detect_target().map_err(below)?, tokens.iter().copied().max().unwrap_or(1));
    let passes = Precision::Fast.passes(&target);
    let mut measured = vec![];
    // One token has kernels of its own.
    for (dims, rows) in [(String::new(), "1"), (format!("T <= {most}"), "T")] {
        let here: Vec<u64> =
            tokens.iter().copied().filter(|n| *n > 0 && (*n == 1) == (rows == "1")).collect();
        if here.is_empty() {
            continue;
        }
        let product = |y: &str, x: &str, w: &str, width: usize| match stored {
            "{i8}" => format!(
                "{y}.: f32[{rows}, {width}] = matmul({x}, {w})
                 {w}.s: f32[{width}] = const \"{w}.s\"
                 {y}: f32[{rows}, {width}] = mul({y}., {w}.s)"
            ),
            _ => format!("{y}: f32[{rows}, {width}] = matmul({x}, {w})"),
        };
        let text = format!(
            "graph expert({dims}) {{
               x: f32[{rows}, {hidden}] = input
               g: f32[{inner}, {hidden}]{stored} = const \"g\"
               u: f32[{inner}, {hidden}]{stored} = const \"u\"
               d: f32[{hidden}, {inner}]{stored} = const \"d\"
               {}
               {}
               c: f32[{rows}, {inner}] = swiglu(a, b)
               {}
               return y
             }}",
            product("a", "x", "g", inner),
            product("b", "x", "u", inner),
            product("y", "c", "d", hidden),
        );
        let graph = lathe_ir::graph::parse(&text).map_err(below)?;
        let mut constants = HashMap::new();
        for v in &graph.values {
            let Source::Const(name) = &v.source else { continue };
            let shape = v.ty.shape.iter().map(|n| n.as_const().unwrap_or(0) as usize).collect();
            let encoding = v.ty.storage().map(Arc::new);
            let stored = if encoding.is_some() { stored } else { "" };
            let bytes =
                random_weights(stored, v.ty.shape.iter().filter_map(Int::as_const).product::<i64>() as usize);
            constants.insert(name.clone(), Tensor { shape, dtype: v.ty.dtype, encoding, bytes });
        }
        let session = Session::new(&graph, passes, &constants, &target, cache, threads);
        let mut session = session.map_err(below)?;
        drop(constants);
        for n in here {
            let x = Tensor::f32(&[n as usize, hidden], &vec![0.5; n as usize * hidden]);
            let mut all = vec![];
            for _ in 0..if n > 32 { 3 } else { 9 } {
                let start = Instant::now();
                session.run(&[("x", &x)]).map_err(below)?;
                all.push(start.elapsed().as_secs_f64());
            }
            all.sort_by(f64::total_cmp);
            measured.push((n, all[all.len() / 2]));
        }
    }
    Ok(measured)
}

/// Bytes of weights between -1 and 1 that are stored so.
fn random_weights(stored: &str, count: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u32
    };
    match stored {
        "" => (0..count).flat_map(|_| ((next() % 2048) as f32 / 1024.0 - 1.0).to_le_bytes()).collect(),
        "{i8}" => (0..count).map(|_| (next() % 255) as u8).collect(),
        // A sign, and 10 bits of a number between 0.125 and 0.25.
        "{f16}" => (0..count).flat_map(|_| (0x3000u16 | (next() as u16 & 0x83ff)).to_le_bytes()).collect(),
        // Blocks of a scale of 1/256 and 32 codes.
        _ => {
            let block = |_| {
                let mut block = 0x1c00u16.to_le_bytes().to_vec();
                block.extend((0..32).map(|_| (next() % 255) as u8));
                block
            };
            (0..count / 32).flat_map(block).collect()
        }
    }
}
