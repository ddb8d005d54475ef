//! Names of tensors: from those of `transformers` to those of GGUF, one table for each way of naming.
//!
//! A row has the name without its last word (`weight`, `bias`), numbers as `{}`: first the layer, then the expert.

/// How the values of a stored tensor become those of GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As they are.
    Plain,
    /// The last two dimensions change places.
    Transposed,
    /// A matrix of one row as a vector.
    Row,
    /// Half the rows of each expert: the first or the second.
    Half(usize),
    /// Not used: computed anew, or of the training only.
    Left,
}

/// A row: the name in the folder, the name in GGUF, the form.
pub(super) type Entry = (&'static str, &'static str, Form);

/// A table, and what names may begin with before its rows; the empty one leaves every name as it is.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub prefixes: &'static [&'static str],
    pub rows: Vec<Entry>,
}

use Form::{Half, Left, Plain, Row, Transposed};

/// The names of decoders after Llama's; norms before each block.
pub(super) const DECODER: &[Entry] = &[
    ("embed_tokens", "token_embd", Plain),
    ("norm", "output_norm", Plain),
    ("lm_head", "output", Plain),
    ("layers.{}.input_layernorm", "blk.{}.attn_norm", Plain),
    ("layers.{}.post_attention_layernorm", "blk.{}.ffn_norm", Plain),
    ("layers.{}.self_attn.q_proj", "blk.{}.attn_q", Plain),
    ("layers.{}.self_attn.k_proj", "blk.{}.attn_k", Plain),
    ("layers.{}.self_attn.v_proj", "blk.{}.attn_v", Plain),
    ("layers.{}.self_attn.qkv_proj", "blk.{}.attn_qkv", Plain),
    ("layers.{}.self_attn.o_proj", "blk.{}.attn_output", Plain),
    ("layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm", Plain),
    ("layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm", Plain),
    ("layers.{}.self_attn.rotary_emb.inv_freq", "", Left),
    ("layers.{}.mlp.gate_proj", "blk.{}.ffn_gate", Plain),
    ("layers.{}.mlp.up_proj", "blk.{}.ffn_up", Plain),
    ("layers.{}.mlp.down_proj", "blk.{}.ffn_down", Plain),
    ("layers.{}.mlp.gate_up_proj", "blk.{}.ffn_up", Plain),
    // Experts of Qwen.
    ("layers.{}.mlp.gate", "blk.{}.ffn_gate_inp", Plain),
    ("layers.{}.mlp.experts.{}.gate_proj", "blk.{}.ffn_gate_exps", Plain),
    ("layers.{}.mlp.experts.{}.up_proj", "blk.{}.ffn_up_exps", Plain),
    ("layers.{}.mlp.experts.{}.down_proj", "blk.{}.ffn_down_exps", Plain),
    ("layers.{}.mlp.experts.gate_up_proj", "blk.{}.ffn_gate_exps.weight", Half(0)),
    ("layers.{}.mlp.experts.gate_up_proj", "blk.{}.ffn_up_exps.weight", Half(1)),
    ("layers.{}.mlp.experts.down_proj", "blk.{}.ffn_down_exps.weight", Plain),
    ("layers.{}.mlp.shared_expert_gate", "blk.{}.ffn_gate_inp_shexp", Row),
    ("layers.{}.mlp.shared_expert.gate_proj", "blk.{}.ffn_gate_shexp", Plain),
    ("layers.{}.mlp.shared_expert.up_proj", "blk.{}.ffn_up_shexp", Plain),
    ("layers.{}.mlp.shared_expert.down_proj", "blk.{}.ffn_down_shexp", Plain),
    // Experts of Mixtral.
    ("layers.{}.block_sparse_moe.gate", "blk.{}.ffn_gate_inp", Plain),
    ("layers.{}.block_sparse_moe.experts.{}.w1", "blk.{}.ffn_gate_exps", Plain),
    ("layers.{}.block_sparse_moe.experts.{}.w3", "blk.{}.ffn_up_exps", Plain),
    ("layers.{}.block_sparse_moe.experts.{}.w2", "blk.{}.ffn_down_exps", Plain),
];

/// Where a decoder has norms behind its blocks, too; they come before the rows of [`DECODER`].
pub(super) const NORMS_BEHIND: &[Entry] = &[
    ("layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm", Plain),
    ("layers.{}.pre_feedforward_layernorm", "blk.{}.ffn_norm", Plain),
    ("layers.{}.post_feedforward_layernorm", "blk.{}.post_ffw_norm", Plain),
];

pub(super) const GPT2: &[Entry] = &[
    ("wte", "token_embd", Plain),
    ("wpe", "position_embd", Plain),
    ("ln_f", "output_norm", Plain),
    ("lm_head", "output", Plain),
    ("h.{}.ln_1", "blk.{}.attn_norm", Plain),
    ("h.{}.attn.c_attn", "blk.{}.attn_qkv", Transposed),
    ("h.{}.attn.c_proj", "blk.{}.attn_output", Transposed),
    // The masks of causal attention.
    ("h.{}.attn", "", Left),
    ("h.{}.ln_2", "blk.{}.ffn_norm", Plain),
    ("h.{}.mlp.c_fc", "blk.{}.ffn_up", Transposed),
    ("h.{}.mlp.c_proj", "blk.{}.ffn_down", Transposed),
];

pub(super) const OPT: &[Entry] = &[
    ("embed_tokens", "token_embd", Plain),
    ("embed_positions", "position_embd", Plain),
    ("final_layer_norm", "output_norm", Plain),
    ("lm_head", "output", Plain),
    ("layers.{}.self_attn_layer_norm", "blk.{}.attn_norm", Plain),
    ("layers.{}.self_attn.q_proj", "blk.{}.attn_q", Plain),
    ("layers.{}.self_attn.k_proj", "blk.{}.attn_k", Plain),
    ("layers.{}.self_attn.v_proj", "blk.{}.attn_v", Plain),
    ("layers.{}.self_attn.out_proj", "blk.{}.attn_output", Plain),
    ("layers.{}.final_layer_norm", "blk.{}.ffn_norm", Plain),
    ("layers.{}.fc1", "blk.{}.ffn_up", Plain),
    ("layers.{}.fc2", "blk.{}.ffn_down", Plain),
];

pub(super) const BERT: &[Entry] = &[
    ("embeddings.word_embeddings", "token_embd", Plain),
    ("embeddings.position_embeddings", "position_embd", Plain),
    ("embeddings.token_type_embeddings", "token_types", Plain),
    ("embeddings.LayerNorm", "token_embd_norm", Plain),
    ("embeddings.position_ids", "", Left),
    ("encoder.layer.{}.attention.self.query", "blk.{}.attn_q", Plain),
    ("encoder.layer.{}.attention.self.key", "blk.{}.attn_k", Plain),
    ("encoder.layer.{}.attention.self.value", "blk.{}.attn_v", Plain),
    ("encoder.layer.{}.attention.output.dense", "blk.{}.attn_output", Plain),
    ("encoder.layer.{}.attention.output.LayerNorm", "blk.{}.attn_output_norm", Plain),
    ("encoder.layer.{}.intermediate.dense", "blk.{}.ffn_up", Plain),
    ("encoder.layer.{}.output.dense", "blk.{}.ffn_down", Plain),
    ("encoder.layer.{}.output.LayerNorm", "blk.{}.layer_output_norm", Plain),
    // Heads of tasks that an embedding is not.
    ("pooler.dense", "", Left),
];

/// What a stored tensor is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The name in GGUF, whole.
    pub name: String,
    /// Which expert of a stack it is.
    pub expert: Option<usize>,
    pub form: Form,
}

/// A name taken apart: `layers.3.fc1` is `layers.{}.fc1` with 3.
fn pattern(name: &str) -> (String, Vec<usize>) {
    let mut numbers = vec![];
    let words = name.split('.').map(|word| match word.parse::<usize>() {
        // "07" and "+7" are no numbers here: two names of one tensor.
        Ok(n) if n.to_string() == word => {
            numbers.push(n);
            "{}"
        }
        _ => word,
    });
    let text = words.collect::<Vec<_>>().join(".");
    (text, numbers)
}

impl Names {
    /// What the tensor `name` is for: usually one target; nothing where it is left out, and itself where no row has it.
    pub(super) fn targets(&self, name: &str) -> Vec<Target> {
        let prefix = self.prefixes.iter().find(|p| name.starts_with(**p)).copied().unwrap_or("");
        let (text, numbers) = pattern(&name[prefix.len()..]);
        let (stem, last) = text.rsplit_once('.').unwrap_or(("", &text));
        // A row names a module, whose tensors keep their last word; or, with that word in its GGUF name, a tensor.
        let whole = |row: &&Entry| row.0 == text;
        let module = |row: &&Entry| row.0 == stem && !row.1.ends_with(".weight");
        let (rows, end): (Vec<&Entry>, &str) = match self.rows.iter().any(|row| whole(&row)) {
            true => (self.rows.iter().filter(whole).collect(), ""),
            false => (self.rows.iter().find(module).into_iter().collect(), last),
        };
        if rows.is_empty() {
            return vec![Target { name: name.to_owned(), expert: None, form: Plain }];
        }
        let mut targets = vec![];
        let layer = numbers.first().map(ToString::to_string).unwrap_or_default();
        for (_, gguf, form) in rows.into_iter().filter(|row| row.2 != Left) {
            let mut name = gguf.replacen("{}", &layer, 1);
            if !end.is_empty() {
                name = format!("{name}.{end}");
            }
            targets.push(Target { name, expert: numbers.get(1).copied(), form: *form });
        }
        targets
    }
}
