"""Writes tests/data/tiny/: tiny random models as GGUF files, and what `transformers` computes with them in f32.

    NAME.gguf          the model; quantized weights are what is written, and the expectations are for their exact values
    NAME.logits.bin    f32, little-endian: the logits at each position of the prompt, positions by vocabulary
    expected.json      a list of {name, prompt, vocab, greedy, gaps}: greedy continues the prompt, gaps are the
                       differences of the two best logits on the way

Weights are larger than a usual initialisation, so that attention, routing and rotation each matter to the logits.
With `--only NAME`, that model alone is made, and its entry of `expected.json`. With `--llama-cpp`, llama.cpp's logits are compared too, which checks the file's conventions.
Run with the packages of bench/peers/requirements.txt.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from gguf import GGUFWriter
from gguf.quants import dequantize, quantize
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers import Qwen2Config, Qwen2ForCausalLM

OUT = Path(__file__).parent.parent / "data/tiny"
PROMPT = [1, 17, 42, 5, 60, 33, 33, 8, 51, 20, 3, 44]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MERGES = """t h|th e|i n|a n|e r|o n|r e|a t|e n|o r|an d|in g|i s|i t|e s|o u|a l|a r|s t|Ġ the|Ġ a|Ġ s|Ġ w|Ġ b|Ġ c
Ġ and|Ġ o|Ġ t|e d"""

# (name, type of the matrices, type of the embedding, shape)
SMALL = dict(hidden=32, ffn=96, vocab=128, tied=False, theta=10000.0)
WIDE = dict(hidden=64, ffn=96, vocab=128, tied=True, theta=100000.0)
MODELS = [
    ("llama-f32", T.F32, T.F32, SMALL),
    ("llama-f16", T.F16, T.F16, WIDE),
    ("llama-bf16", T.BF16, T.BF16, WIDE),
    ("llama-q4_0", T.Q4_0, T.Q4_0, WIDE),
    ("llama-q4_1", T.Q4_1, T.Q8_0, WIDE),
    ("llama-q8_0", T.Q8_0, T.Q8_0, WIDE),
    ("qwen2-f32", T.F32, T.F32, dict(hidden=32, ffn=96, vocab=128, tied=True, theta=1000000.0, family="qwen2")),
    ("mixtral-f32", T.F32, T.F32, dict(hidden=32, ffn=32, vocab=64, tied=False, theta=1000000.0, experts=4, used=2)),
]
HEADS, KV_HEADS, LAYERS, CONTEXT, EPSILON = 4, 2, 2, 256, 1e-5


def vocabulary(size):
    """Special tokens, single characters, and merged tokens where there is room."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    chars = ["Ġ", "Ċ", *letters, *"0123456789", *".,;:!?'\"()-_/<>|"]
    chars += [chr(c) for c in range(33, 127) if chr(c) not in chars]
    merges = MERGES.replace("\n", "|").split("|")
    tokens = (SPECIAL + chars)[: size - 7]
    merges = merges[: size - len(tokens)]
    tokens += [m.replace(" ", "") for m in merges]
    assert len(tokens) == len(set(tokens)) == size, (len(tokens), size)
    return tokens, merges


def permute(w, heads):
    """From the half-split rotary order of `transformers` to the interleaved order of GGUF."""
    rows, cols = w.shape
    return w.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def unpermute(w, heads):
    rows, cols = w.shape
    return w.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def build(shape):
    """The `transformers` model."""
    common = dict(
        vocab_size=shape["vocab"],
        hidden_size=shape["hidden"],
        intermediate_size=shape["ffn"],
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=shape["hidden"] // HEADS,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=EPSILON,
        tie_word_embeddings=shape["tied"],
        rope_parameters={"rope_type": "default", "rope_theta": shape["theta"]},
        attn_implementation="eager",
    )
    if shape.get("family") == "qwen2":
        del common["head_dim"]
        return Qwen2ForCausalLM(Qwen2Config(**common)).eval()
    if "experts" in shape:
        config = MixtralConfig(
            num_local_experts=shape["experts"], num_experts_per_tok=shape["used"], sliding_window=None, **common
        )
        return MixtralForCausalLM(config).eval()
    return LlamaForCausalLM(LlamaConfig(**common)).eval()


def slots(layer, shape):
    """(GGUF name, HF name, heads to permute by, rows of the HF tensor) of one layer."""
    hf, gg = f"model.layers.{layer}.", f"blk.{layer}."
    yield gg + "attn_norm.weight", hf + "input_layernorm.weight", None, None
    # Qwen2's files keep the half-split order, and have biases.
    qwen2 = shape.get("family") == "qwen2"
    yield gg + "attn_q.weight", hf + "self_attn.q_proj.weight", None if qwen2 else HEADS, None
    yield gg + "attn_k.weight", hf + "self_attn.k_proj.weight", None if qwen2 else KV_HEADS, None
    for part in "qkv" if qwen2 else "":
        yield gg + f"attn_{part}.bias", hf + f"self_attn.{part}_proj.bias", None, None
    yield gg + "attn_v.weight", hf + "self_attn.v_proj.weight", None, None
    yield gg + "attn_output.weight", hf + "self_attn.o_proj.weight", None, None
    yield gg + "ffn_norm.weight", hf + "post_attention_layernorm.weight", None, None
    if "experts" in shape:
        f = shape["ffn"]
        yield gg + "ffn_gate_inp.weight", hf + "mlp.gate.weight", None, None
        yield gg + "ffn_gate_exps.weight", hf + "mlp.experts.gate_up_proj", None, slice(0, f)
        yield gg + "ffn_up_exps.weight", hf + "mlp.experts.gate_up_proj", None, slice(f, 2 * f)
        yield gg + "ffn_down_exps.weight", hf + "mlp.experts.down_proj", None, None
    else:
        for part in ("gate", "up", "down"):
            yield gg + f"ffn_{part}.weight", hf + f"mlp.{part}_proj.weight", None, None


def all_slots(shape):
    yield "token_embd.weight", "model.embed_tokens.weight", None, None
    for layer in range(LAYERS):
        yield from slots(layer, shape)
    yield "output_norm.weight", "model.norm.weight", None, None
    if not shape["tied"]:
        yield "output.weight", "lm_head.weight", None, None


def store(values, ty):
    """The array to write, and the exact values it stands for."""
    if ty == T.F32:
        return values, values
    if ty == T.F16:
        return values.astype(np.float16), values.astype(np.float16).astype(np.float32)
    data = quantize(values, ty)
    return data, dequantize(data, ty).astype(np.float32)


def make(name, ty, embedding_ty, shape, rng):
    tokens, merges = vocabulary(shape["vocab"])
    model = build(shape)
    state = model.state_dict()
    path = OUT / f"{name}.gguf"
    w = GGUFWriter(path, shape.get("family", "llama"))
    w.add_name(name)
    w.add_block_count(LAYERS)
    w.add_context_length(CONTEXT)
    w.add_embedding_length(shape["hidden"])
    w.add_feed_forward_length(shape["ffn"])
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV_HEADS)
    w.add_layer_norm_rms_eps(EPSILON)
    w.add_rope_freq_base(shape["theta"])
    w.add_rope_dimension_count(shape["hidden"] // HEADS)
    w.add_vocab_size(shape["vocab"])
    if "experts" in shape:
        w.add_expert_count(shape["experts"])
        w.add_expert_used_count(shape["used"])
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    w.add_token_merges(merges)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_add_bos_token(False)
    w.add_chat_template(CHAT)
    for gguf_name, hf_name, heads, rows in all_slots(shape):
        target = state[hf_name] if rows is None else state[hf_name][:, rows]
        if target.dim() == 1:
            values, kind = rng.uniform(0.5, 1.5, target.shape), T.F32
            if gguf_name.endswith(".bias"):
                values -= 1.0
        else:
            values = rng.standard_normal(target.shape) * (1.5 / np.sqrt(target.shape[-1]))
            kind = embedding_ty if gguf_name == "token_embd.weight" else ty
        values = values.astype(np.float32)
        data, exact = store(values if heads is None else permute(values, heads), kind)
        w.add_tensor(gguf_name, data, raw_dtype=kind)
        exact = exact.reshape(target.shape)
        target.copy_(torch.from_numpy(exact if heads is None else unpermute(exact, heads)))
    if shape["tied"]:
        assert model.lm_head.weight is model.model.embed_tokens.weight
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()

    logits = model(torch.tensor([PROMPT])).logits[0].numpy()
    (OUT / f"{name}.logits.bin").write_bytes(logits.astype("<f4").tobytes())
    ids, greedy, gaps = list(PROMPT), [], []
    for _ in range(24):
        best = model(torch.tensor([ids])).logits[0, -1].topk(2)
        greedy.append(int(best.indices[0]))
        gaps.append(round(float(best.values[0] - best.values[1]), 5))
        ids.append(greedy[-1])
    print(f"{name}: {path.stat().st_size} bytes, logits {logits.min():.2f} to {logits.max():.2f}, gap {min(gaps)}")
    return {"name": name, "prompt": PROMPT, "vocab": shape["vocab"], "greedy": greedy, "gaps": gaps}, logits


def seed(name, i):
    """Models made later do not change the ones before."""
    return {"mixtral-f32": 106, "qwen2-f32": 107}.get(name, 100 + i)


def llama_cpp_logits(name):
    import llama_cpp

    model = llama_cpp.Llama(str(OUT / f"{name}.gguf"), n_ctx=64, logits_all=True, type_k=0, type_v=0, verbose=False)
    model.eval(PROMPT)
    return np.array(model.scores[: len(PROMPT)])


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--llama-cpp", action="store_true")
    parser.add_argument("--only")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    kept = json.loads((OUT / "expected.json").read_text()) if args.only else []
    expected = []
    for i, (name, ty, embedding_ty, shape) in enumerate(MODELS):
        if args.only and name != args.only:
            expected.extend(e for e in kept if e["name"] == name)
            continue
        entry, logits = make(name, ty, embedding_ty, shape, np.random.default_rng(seed(name, i)))
        expected.append(entry)
        if args.llama_cpp:
            other = llama_cpp_logits(name)
            print(f"    llama.cpp differs by {np.abs(other - logits).max() / np.abs(logits).max():.2e} of the largest")
    (OUT / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


main()
