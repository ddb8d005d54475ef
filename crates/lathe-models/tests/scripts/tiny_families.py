"""The families that make_tiny.py makes models of: for each, its `transformers` model, the settings of its file, and where in
the file each tensor goes.

A slot is (name in the file, name in `transformers`, form); a form is a pair of functions, to the file's order and back.
"""

import numpy as np
import transformers as hf


def permute(w, heads):
    """From the half-split rotary order of `transformers` to the interleaved order of GGUF."""
    rows, cols = w.shape
    return w.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def unpermute(w, heads):
    rows, cols = w.shape
    return w.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def same(w):
    return w


SAME = (same, same)
TRANSPOSED = (np.transpose, np.transpose)
FLAT = (lambda w: w.reshape(-1), lambda w: w.reshape(1, -1))
# Gemma's norms multiply by 1 + weight, and files hold the sum.
PLUS_ONE = (lambda w: w + np.float32(1.0), lambda w: w - np.float32(1.0))


def interleaved(heads):
    return (lambda w: permute(w, heads), lambda w: unpermute(w, heads))


def config(s, **more):
    """What most configurations of `transformers` share."""
    common = dict(
        vocab_size=s["vocab"],
        hidden_size=s["hidden"],
        intermediate_size=s["ffn"],
        num_hidden_layers=s["layers"],
        num_attention_heads=s["heads"],
        num_key_value_heads=s["kv_heads"],
        max_position_embeddings=s["context"],
        rms_norm_eps=s["eps"],
        tie_word_embeddings=s["tied"],
        rope_parameters={"rope_type": "default", "rope_theta": s["theta"]},
        attn_implementation="eager",
    )
    return {**common, **more}


def head_dim(s):
    return s.get("head_dim", s["hidden"] // s["heads"])


def build(s):
    """The `transformers` model."""
    family, heads = s["family"], dict(head_dim=head_dim(s))
    scaling = {"rope_parameters": {"rope_theta": s["theta"], **s["scaling"]}} if "scaling" in s else {}
    if family == "llama" and "experts" in s:
        experts = dict(num_local_experts=s["experts"], num_experts_per_tok=s["used"], sliding_window=None)
        return hf.MixtralForCausalLM(hf.MixtralConfig(**config(s, **heads, **experts)))
    if family == "llama" and "window" in s:
        return hf.MistralForCausalLM(hf.MistralConfig(**config(s, **heads, sliding_window=s["window"])))
    if family == "llama":
        return hf.LlamaForCausalLM(hf.LlamaConfig(**config(s, **heads, **scaling)))
    if family == "qwen2":
        return hf.Qwen2ForCausalLM(hf.Qwen2Config(**config(s)))
    experts = dict(num_experts=s.get("experts"), num_experts_per_tok=s.get("used"), moe_intermediate_size=s["ffn"])
    if family == "qwen2moe":
        shared = dict(shared_expert_intermediate_size=s["shared"], norm_topk_prob=False)
        return hf.Qwen2MoeForCausalLM(hf.Qwen2MoeConfig(**config(s, **experts, **shared)))
    if family == "qwen3":
        return hf.Qwen3ForCausalLM(hf.Qwen3Config(**config(s, **heads)))
    if family == "qwen3moe":
        return hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(**config(s, **heads, **experts, norm_topk_prob=True)))
    # Gemma scales scores by this number in place of the head's width; at its own sizes they are equal.
    gemma = dict(sliding_window=s.get("window"), query_pre_attn_scalar=head_dim(s), **heads)
    if family == "gemma2":
        caps = dict(attn_logit_softcapping=s["score_cap"], final_logit_softcapping=s["logit_cap"])
        return hf.Gemma2ForCausalLM(hf.Gemma2Config(**config(s, **gemma, **caps)))
    if family == "gemma3":
        base = {"rope_type": "default", "rope_theta": s["local_theta"]}
        stretched = {"rope_type": "linear", "rope_theta": s["theta"], "factor": s["factor"]}
        rope = {"rope_parameters": {"full_attention": stretched, "sliding_attention": base}}
        return hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**config(s, **gemma, **rope)))
    if family == "phi3":
        more = dict(sliding_window=s.get("window"), pad_token_id=0, bos_token_id=1, eos_token_id=2)
        if "scaling" in s:
            more["original_max_position_embeddings"] = s["trained"]
        return hf.Phi3ForCausalLM(hf.Phi3Config(**config(s, **more, **scaling)))
    if family == "olmo2":
        return hf.Olmo2ForCausalLM(hf.Olmo2Config(**config(s)))
    if family == "gpt2":
        sizes = dict(n_embd=s["hidden"], n_head=s["heads"], n_layer=s["layers"], n_inner=s["ffn"])
        c = hf.GPT2Config(vocab_size=s["vocab"], n_positions=s["context"], layer_norm_epsilon=s["eps"], **sizes)
        return hf.GPT2LMHeadModel(c)
    if family == "opt":
        sizes = dict(hidden_size=s["hidden"], word_embed_proj_dim=s["hidden"], ffn_dim=s["ffn"])
        sizes |= dict(num_attention_heads=s["heads"], num_hidden_layers=s["layers"])
        return hf.OPTForCausalLM(hf.OPTConfig(vocab_size=s["vocab"], max_position_embeddings=s["context"], **sizes))
    if family == "bert":
        sizes = dict(hidden_size=s["hidden"], intermediate_size=s["ffn"], max_position_embeddings=s["context"])
        sizes |= dict(num_attention_heads=s["heads"], num_hidden_layers=s["layers"], layer_norm_eps=s["eps"])
        return hf.BertModel(hf.BertConfig(vocab_size=s["vocab"], **sizes), add_pooling_layer=False)
    raise ValueError(family)


def both(gguf, name, form=SAME):
    """A weight and its bias."""
    yield gguf + ".weight", name + ".weight", form
    yield gguf + ".bias", name + ".bias", SAME


def gpt2_layer(layer):
    h, g = f"transformer.h.{layer}.", f"blk.{layer}."
    yield from both(g + "attn_norm", h + "ln_1")
    yield from both(g + "attn_qkv", h + "attn.c_attn", TRANSPOSED)
    yield from both(g + "attn_output", h + "attn.c_proj", TRANSPOSED)
    yield from both(g + "ffn_norm", h + "ln_2")
    yield from both(g + "ffn_up", h + "mlp.c_fc", TRANSPOSED)
    yield from both(g + "ffn_down", h + "mlp.c_proj", TRANSPOSED)


def opt_layer(layer):
    h, g = f"model.decoder.layers.{layer}.", f"blk.{layer}."
    yield from both(g + "attn_norm", h + "self_attn_layer_norm")
    for part in "qkv":
        yield from both(g + f"attn_{part}", h + f"self_attn.{part}_proj")
    yield from both(g + "attn_output", h + "self_attn.out_proj")
    yield from both(g + "ffn_norm", h + "final_layer_norm")
    yield from both(g + "ffn_up", h + "fc1")
    yield from both(g + "ffn_down", h + "fc2")


def bert_layer(layer):
    h, g = f"encoder.layer.{layer}.", f"blk.{layer}."
    for part in ("query", "key", "value"):
        yield from both(g + f"attn_{part[0]}", h + f"attention.self.{part}")
    yield from both(g + "attn_output", h + "attention.output.dense")
    yield from both(g + "attn_output_norm", h + "attention.output.LayerNorm")
    yield from both(g + "ffn_up", h + "intermediate.dense")
    yield from both(g + "ffn_down", h + "output.dense")
    yield from both(g + "layer_output_norm", h + "output.LayerNorm")


def rotary_layer(layer, s):
    """Of all families with rotary positions."""
    h, g, family = f"model.layers.{layer}.", f"blk.{layer}.", s["family"]
    gemma = family.startswith("gemma")
    norm = PLUS_ONE if gemma else SAME
    if family != "olmo2":
        yield g + "attn_norm.weight", h + "input_layernorm.weight", norm
    if family == "phi3":
        yield g + "attn_qkv.weight", h + "self_attn.qkv_proj.weight", SAME
    else:
        # Only Llama's files are in the interleaved order.
        order = interleaved if family == "llama" else lambda _: SAME
        yield g + "attn_q.weight", h + "self_attn.q_proj.weight", order(s["heads"])
        yield g + "attn_k.weight", h + "self_attn.k_proj.weight", order(s["kv_heads"])
        for part in "qkv" if family.startswith("qwen2") else "":
            yield g + f"attn_{part}.bias", h + f"self_attn.{part}_proj.bias", SAME
        yield g + "attn_v.weight", h + "self_attn.v_proj.weight", SAME
    yield g + "attn_output.weight", h + "self_attn.o_proj.weight", SAME
    if family in ("qwen3", "qwen3moe", "gemma3", "olmo2"):
        yield g + "attn_q_norm.weight", h + "self_attn.q_norm.weight", norm
        yield g + "attn_k_norm.weight", h + "self_attn.k_norm.weight", norm
    if gemma or family == "olmo2":
        yield g + "post_attention_norm.weight", h + "post_attention_layernorm.weight", norm
        if gemma:
            yield g + "ffn_norm.weight", h + "pre_feedforward_layernorm.weight", norm
        yield g + "post_ffw_norm.weight", h + "post_feedforward_layernorm.weight", norm
    else:
        yield g + "ffn_norm.weight", h + "post_attention_layernorm.weight", SAME
    if "experts" in s:
        f = s["ffn"]
        yield g + "ffn_gate_inp.weight", h + "mlp.gate.weight", SAME
        yield g + "ffn_gate_exps.weight", h + "mlp.experts.gate_up_proj", slice(0, f)
        yield g + "ffn_up_exps.weight", h + "mlp.experts.gate_up_proj", slice(f, 2 * f)
        yield g + "ffn_down_exps.weight", h + "mlp.experts.down_proj", SAME
        if "shared" in s:
            yield g + "ffn_gate_inp_shexp.weight", h + "mlp.shared_expert_gate.weight", FLAT
            for part in ("gate", "up", "down"):
                yield g + f"ffn_{part}_shexp.weight", h + f"mlp.shared_expert.{part}_proj.weight", SAME
    elif family == "phi3":
        yield g + "ffn_up.weight", h + "mlp.gate_up_proj.weight", SAME
        yield g + "ffn_down.weight", h + "mlp.down_proj.weight", SAME
    else:
        for part in ("gate", "up", "down"):
            yield g + f"ffn_{part}.weight", h + f"mlp.{part}_proj.weight", SAME


def slots(s):
    """All tensors of a model."""
    family, layers = s["family"], range(s["layers"])
    if family == "gpt2":
        yield "token_embd.weight", "transformer.wte.weight", SAME
        yield "position_embd.weight", "transformer.wpe.weight", SAME
        for layer in layers:
            yield from gpt2_layer(layer)
        yield from both("output_norm", "transformer.ln_f")
    elif family == "opt":
        yield "token_embd.weight", "model.decoder.embed_tokens.weight", SAME
        yield "position_embd.weight", "model.decoder.embed_positions.weight", SAME
        for layer in layers:
            yield from opt_layer(layer)
        yield from both("output_norm", "model.decoder.final_layer_norm")
    elif family == "bert":
        yield "token_embd.weight", "embeddings.word_embeddings.weight", SAME
        yield "position_embd.weight", "embeddings.position_embeddings.weight", SAME
        yield "token_types.weight", "embeddings.token_type_embeddings.weight", SAME
        yield from both("token_embd_norm", "embeddings.LayerNorm")
        for layer in layers:
            yield from bert_layer(layer)
    else:
        yield "token_embd.weight", "model.embed_tokens.weight", SAME
        for layer in layers:
            yield from rotary_layer(layer, s)
        yield "output_norm.weight", "model.norm.weight", PLUS_ONE if family.startswith("gemma") else SAME
        if not s["tied"]:
            yield "output.weight", "lm_head.weight", SAME


def settings(w, s):
    """Writes the settings of a model."""
    family = s["family"]
    w.add_block_count(s["layers"])
    w.add_context_length(s["context"])
    w.add_embedding_length(s["hidden"])
    w.add_feed_forward_length(s["ffn"])
    w.add_head_count(s["heads"])
    w.add_head_count_kv(s["kv_heads"])
    if family in ("gpt2", "opt", "bert"):
        w.add_layer_norm_eps(s["eps"])
    else:
        w.add_layer_norm_rms_eps(s["eps"])
        w.add_rope_freq_base(s["theta"])
        w.add_rope_dimension_count(head_dim(s))
    w.add_vocab_size(s["vocab"])
    if "head_dim" in s:
        w.add_key_length(s["head_dim"])
        w.add_value_length(s["head_dim"])
    if "experts" in s:
        w.add_expert_count(s["experts"])
        w.add_expert_used_count(s["used"])
        if family.startswith("qwen"):
            w.add_expert_feed_forward_length(s["ffn"])
        if "shared" in s:
            w.add_expert_shared_feed_forward_length(s["shared"])
    if "window" in s:
        w.add_sliding_window(s["window"])
    if family == "gemma2":
        w.add_attn_logit_softcapping(s["score_cap"])
        w.add_final_logit_softcapping(s["logit_cap"])
    if family == "gemma3":
        from gguf import RopeScalingType

        w.add_rope_scaling_type(RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(s["factor"])
    scaling = s.get("scaling", {})
    if scaling.get("rope_type") in ("linear", "yarn"):
        from gguf import RopeScalingType

        w.add_rope_scaling_type(RopeScalingType(scaling["rope_type"]))
        w.add_rope_scaling_factor(scaling["factor"])
        if "original_max_position_embeddings" in scaling:
            w.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    if scaling.get("rope_type") == "longrope":
        w.add_rope_scaling_orig_ctx_len(s["trained"])
        grown = s["context"] / s["trained"]
        w.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(grown) / np.log(s["trained"]))))
        for kind in ("long", "short"):
            w.add_tensor(f"rope_factors_{kind}.weight", np.array(scaling[f"{kind}_factor"], dtype=np.float32))
    if family == "bert":
        w.add_token_type_count(2)
        w.add_causal_attention(False)
        from gguf import PoolingType

        w.add_pooling_type(PoolingType.CLS if s.get("pooling") == "first" else PoolingType.MEAN)
