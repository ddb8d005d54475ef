//! From the settings of `config.json` to metadata under GGUF's keys.

use super::config::Config;
use super::error::SafetensorsError;
use crate::gguf::GgufWriter;

/// Tensors that follow from the settings: name and values.
pub(super) type Made = Vec<(&'static str, Vec<f32>)>;

/// Writes the metadata of a model of the GGUF family `family`; returns the factors of its rotations.
///
/// A setting that is not there is left out: a family asks for what it needs by its key.
pub(super) fn write(c: &Config, family: &str, w: &mut GgufWriter) -> Result<Made, SafetensorsError> {
    w.str("general.architecture", family);
    let key = |name: &str| format!("{family}.{name}");
    // Names of the newer models, then those of GPT-2 and OPT.
    let integers: &[(&str, &[&str])] = &[
        ("block_count", &["num_hidden_layers", "n_layer"]),
        ("context_length", &["max_position_embeddings", "n_positions"]),
        ("embedding_length", &["hidden_size", "n_embd"]),
        ("feed_forward_length", &["intermediate_size", "ffn_dim", "n_inner"]),
        ("attention.head_count", &["num_attention_heads", "n_head"]),
        ("attention.head_count_kv", &["num_key_value_heads"]),
        ("attention.key_length", &["head_dim"]),
        ("attention.value_length", &["head_dim"]),
        ("vocab_size", &["vocab_size"]),
        ("expert_count", &["num_local_experts", "num_experts"]),
        ("expert_used_count", &["num_experts_per_tok"]),
        ("expert_feed_forward_length", &["moe_intermediate_size"]),
        ("expert_shared_feed_forward_length", &["shared_expert_intermediate_size"]),
    ];
    for (name, settings) in integers {
        if let Some(n) = c.u32_of(settings)? {
            w.u32(&key(name), n);
        }
    }
    // GPT-2's inner width is four times the outer where it is not said.
    if let (None, Some(width)) = (c.u32_of(&["intermediate_size", "ffn_dim", "n_inner"])?, c.u32("n_embd")?) {
        w.u32(&key("feed_forward_length"), width.saturating_mul(4));
    }
    let numbers: &[(&str, &str)] = &[
        ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        ("attention.layer_norm_epsilon", "layer_norm_epsilon"),
        ("attention.layer_norm_epsilon", "layer_norm_eps"),
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
    ];
    for (name, setting) in numbers {
        if let Some(x) = c.f32(setting)? {
            w.f32(&key(name), x);
        }
    }
    if family == "opt" {
        w.f32(&key("attention.layer_norm_epsilon"), 1e-5);
    }
    if family == "bert" {
        w.bool(&key("attention.causal"), false);
    }
    if let Some(scalar) = c.f32("query_pre_attn_scalar")? {
        w.f32(&key("attention.scale"), 1.0 / scalar.sqrt());
    }
    if let Some(norm) = c.bool("norm_topk_prob")? {
        w.bool(&key("expert_weights_norm"), norm);
    }
    if let Some(window) = c.u32("sliding_window")?
        && c.bool("use_sliding_window")?.unwrap_or(true)
    {
        w.u32(&key("attention.sliding_window"), window);
    }
    let made = rotation(c, family, w)?;
    Ok(made)
}

/// How positions turn: the base, and how longer contexts than those of the training are reached.
fn rotation(c: &Config, family: &str, w: &mut GgufWriter) -> Result<Made, SafetensorsError> {
    let key = |name: &str| format!("{family}.{name}");
    let all = c.object("rope_parameters")?.or(c.object("rope_scaling")?);
    // Gemma 3 has a base for the layers with a window, and one for the others.
    let of_kind = |kind: &str| all.as_ref().map_or(Ok(None), |r| r.object(kind));
    let rope = of_kind("full_attention")?.or(all.clone());
    let in_window = of_kind("sliding_attention")?.map_or(Ok(None), |r| r.f32("rope_theta"))?;
    if let Some(base) = in_window.or(c.f32("rope_local_base_freq")?) {
        w.f32(&key("rope.freq_base_swa"), base);
    }
    let base = match rope.as_ref().map_or(Ok(None), |r| r.f32("rope_theta"))? {
        Some(base) => Some(base),
        None => c.f32("rope_theta")?,
    };
    if let Some(base) = base {
        w.f32(&key("rope.freq_base"), base);
    }
    let heads = c.u32("num_attention_heads")?.unwrap_or(0);
    let width = c.u32("hidden_size")?.unwrap_or(0).checked_div(heads);
    let dim = c.u32("head_dim")?.or(width).unwrap_or(0);
    let part = c.f32("partial_rotary_factor")?.unwrap_or(1.0);
    if dim > 0 && base.is_some() {
        w.u32(&key("rope.dimension_count"), (dim as f32 * part) as u32);
    }
    let Some(rope) = rope else { return Ok(vec![]) };
    let kind = match rope.str("rope_type")? {
        Some(kind) => kind,
        None => rope.str("type")?.unwrap_or("default"),
    };
    let needed = |name: &str| {
        let found = rope.f32(name)?.filter(|x| *x > 0.0);
        found.ok_or_else(|| rope.error(name, "missing or not positive", "a positive number"))
    };
    let half = dim as usize / 2;
    match kind {
        "default" | "mrope" => Ok(vec![]),
        "linear" => {
            w.str(&key("rope.scaling.type"), "linear").f32(&key("rope.scaling.factor"), needed("factor")?);
            Ok(vec![])
        }
        "llama3" => {
            let factor = needed("factor")?;
            let (low, high) = (needed("low_freq_factor")?, needed("high_freq_factor")?);
            let context = needed("original_max_position_embeddings")?;
            let base = f64::from(base.unwrap_or(10000.0));
            let one = |i: usize| {
                let wave = 2.0 * std::f64::consts::PI * base.powf(2.0 * i as f64 / f64::from(dim));
                llama3_factor(wave, factor.into(), low.into(), high.into(), context.into()) as f32
            };
            Ok(vec![("rope_freqs.weight", (0..half.min(1 << 16)).map(one).collect())])
        }
        "longrope" | "su" => {
            let list = |name: &str| {
                let found = rope.f32s(name)?.filter(|f| f.len() == half && f.iter().all(|x| *x > 0.0));
                let wanted = format!("an array of {half} positive numbers");
                found.ok_or_else(|| rope.error(name, "something else", &wanted))
            };
            let made = vec![
                ("rope_factors_long.weight", list("long_factor")?),
                ("rope_factors_short.weight", list("short_factor")?),
            ];
            let most = c.u32("max_position_embeddings")?.unwrap_or(0);
            let original = c.u32("original_max_position_embeddings")?;
            let original = original.or(rope.u32("original_max_position_embeddings")?).unwrap_or(most);
            let scale = f64::from(most) / f64::from(original.max(1));
            let attention = match rope.f32("attention_factor")? {
                Some(factor) => factor,
                None if scale <= 1.0 => 1.0,
                None => (1.0 + scale.ln() / f64::from(original).ln()).sqrt() as f32,
            };
            w.u32(&key("rope.scaling.original_context_length"), original);
            w.f32(&key("rope.scaling.attn_factor"), attention);
            Ok(made)
        }
        other => {
            // The family says whether it knows this one.
            w.str(&key("rope.scaling.type"), other);
            if let Some(factor) = rope.f32("factor")? {
                w.f32(&key("rope.scaling.factor"), factor);
            }
            if let Some(context) = rope.u32("original_max_position_embeddings")? {
                w.u32(&key("rope.scaling.original_context_length"), context);
            }
            Ok(vec![])
        }
    }
}

/// What Llama 3 divides a frequency by, for its wave length in positions: 1 for short waves, `factor` for those longer
/// than the original context, and between them so that the quotient goes over linearly in the number of waves.
fn llama3_factor(wave: f64, factor: f64, low: f64, high: f64, context: f64) -> f64 {
    if wave < context / high {
        return 1.0;
    }
    if wave > context / low {
        return factor;
    }
    let smooth = (context / wave - low) / (high - low);
    1.0 / ((1.0 - smooth) / factor + smooth)
}
