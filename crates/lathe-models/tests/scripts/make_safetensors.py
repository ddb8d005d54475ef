"""Writes tests/data/safetensors/: model folders as `transformers` saves them, and what is to be read from them.

    NAME/              for models of tests/data/tiny: the same weights and tokenizer, saved by `save_pretrained`; the logits are
                       those of NAME.logits.bin there. `qwen2-f32` and `mixtral-f32` are in shards.
    others/            random models of each kind in BF16, with `logits.bin` (f32, positions by vocabulary) by `transformers`
    names.json         for each model type: {config, family, tensors: [[name, dtype, shape, GGUF name]]}, the names as `save_pretrained`
                       writes them, and what the `gguf` package's tensor map calls each
    quantized/*        one 4-bit matrix each, packed here by the formats' descriptions, and its values (`values.bin`, f32)

Run with the packages of bench/peers/requirements.txt.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFReader, dequantize, get_tensor_name_map
from safetensors import safe_open
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast

DATA = Path(__file__).parent.parent / "data"
TINY, OUT = DATA / "tiny", DATA / "safetensors"
PROMPT = [1, 17, 42, 5, 60, 33, 33, 8, 51, 20, 3, 44]


def unpermute(w, heads):
    """From the interleaved rotary order of GGUF's Llama to halves."""
    rows, cols = w.shape
    return w.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def tokenizer(reader):
    def strings(key):
        field = reader.fields[key]
        return [bytes(field.parts[i]).decode() for i in field.data]

    tokens = strings("tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ")) for m in strings("tokenizer.ggml.merges")]
    special = tokens[:3]
    plain = {t: i for i, t in enumerate(tokens) if i >= 3}
    t = Tokenizer(models.BPE(vocab={**{s: i for i, s in enumerate(special)}, **plain}, merges=merges))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    template = strings("tokenizer.chat_template")[0]
    return PreTrainedTokenizerFast(
        tokenizer_object=t, bos_token=special[1], eos_token=special[2], chat_template=template
    )


def tiny(name, dtype=torch.float32, shards="5GB"):
    """The model of a tiny GGUF file, saved as a folder."""
    reader = GGUFReader(TINY / f"{name}.gguf")
    arch = reader.get_field("general.architecture").contents()
    number = lambda key: reader.get_field(f"{arch}.{key}").contents()
    tensors = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
    shapes = {t.name: [int(d) for d in reversed(t.shape)] for t in reader.tensors}
    tensors = {n: a.reshape(shapes[n]) for n, a in tensors.items()}
    heads, kv_heads = number("attention.head_count"), number("attention.head_count_kv")
    common = dict(
        vocab_size=shapes["token_embd.weight"][0],
        hidden_size=number("embedding_length"),
        intermediate_size=number("feed_forward_length"),
        num_hidden_layers=number("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=number("context_length"),
        rms_norm_eps=float(number("attention.layer_norm_rms_epsilon")),
        tie_word_embeddings="output.weight" not in tensors,
        rope_parameters={"rope_type": "default", "rope_theta": float(number("rope.freq_base"))},
        bos_token_id=1,
        eos_token_id=2,
    )
    if arch == "qwen2":
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**common))
    elif "llama.expert_count" in reader.fields:
        config = transformers.MixtralConfig(
            num_local_experts=number("expert_count"), num_experts_per_tok=number("expert_used_count"),
            sliding_window=None, **common
        )
        model = transformers.MixtralForCausalLM(config)
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**common))
    parts = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
    }
    for hf, target in model.state_dict().items():
        words = hf.split(".")
        if hf == "model.embed_tokens.weight" or (hf == "lm_head.weight" and common["tie_word_embeddings"]):
            value = tensors["token_embd.weight"]
        elif hf == "lm_head.weight":
            value = tensors["output.weight"]
        elif hf == "model.norm.weight":
            value = tensors["output_norm.weight"]
        else:
            block = f"blk.{words[2]}."
            stem = ".".join(words[3:])
            if stem == "mlp.experts.gate_up_proj":
                value = np.concatenate(
                    [tensors[block + "ffn_gate_exps.weight"], tensors[block + "ffn_up_exps.weight"]], axis=1
                )
            elif stem == "mlp.experts.down_proj":
                value = tensors[block + "ffn_down_exps.weight"]
            else:
                stem, last = stem.rsplit(".", 1)
                value = tensors[f"{block}{parts[stem]}.{last}"]
                if arch == "llama" and stem in ("self_attn.q_proj", "self_attn.k_proj"):
                    value = unpermute(value, heads if stem.endswith("q_proj") else kv_heads)
        target.copy_(torch.from_numpy(np.ascontiguousarray(value)))
    want = np.frombuffer((TINY / f"{name}.logits.bin").read_bytes(), "<f4")
    logits = model.eval()(torch.tensor([PROMPT])).logits[0].numpy().ravel()
    assert np.abs(logits - want).max() < 1e-5 * np.abs(want).max(), name
    folder = OUT / name
    # Vectors are f32 in the GGUF file, too.
    for p in model.parameters():
        p.data = p.data.to(dtype if p.dim() > 1 else torch.float32)
    model.save_pretrained(folder, max_shard_size=shards)
    tokenizer(reader).save_pretrained(folder)
    print(name, sorted(p.name for p in folder.iterdir()))


def random(name, config):
    """A model of random weights, in BF16, with its logits."""
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config)
    for key, w in model.named_parameters():
        shift = 0.0 if key.endswith("bias") or config.model_type.startswith("gemma") else 1.0
        w.copy_(torch.rand_like(w) - 0.5 + shift if w.dim() == 1 else torch.randn_like(w) * 1.5 / w.shape[-1] ** 0.5)
        w.copy_(w.to(torch.bfloat16).float())
    logits = model.eval()(torch.tensor([PROMPT])).logits[0].numpy()
    folder = OUT / name
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "logits.bin").write_bytes(logits.astype("<f4").tobytes())


SMALL = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, max_position_embeddings=64, pad_token_id=0,
)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
NO_HEAD = {k: v for k, v in SMALL.items() if k != "head_dim"}
# Model type, settings, the name of the architecture in the gguf package.
KINDS = [
    ("llama", SMALL, "llama"),
    ("mistral", SMALL, "llama"),
    ("mixtral", SMALL | dict(num_local_experts=4), "llama"),
    ("qwen2", NO_HEAD, "qwen2"),
    ("qwen2_moe", SMALL | EXPERTS | dict(shared_expert_intermediate_size=40), "qwen2moe"),
    ("qwen3", SMALL, "qwen3"),
    ("qwen3_moe", SMALL | EXPERTS, "qwen3moe"),
    ("gemma2", SMALL, "gemma2"),
    ("gemma3_text", SMALL, "gemma3"),
    ("phi3", NO_HEAD, "phi3"),
    ("olmo2", NO_HEAD, "olmo2"),
    ("gpt2", dict(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64), "gpt2"),
    ("bert", dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                  num_attention_heads=2, max_position_embeddings=64), "bert"),
]
TIED = SMALL | dict(tie_word_embeddings=True)
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
# Folder, model type, settings. Windows are smaller than the prompt.
RANDOM = [
    ("rope-linear", "llama", TIED | dict(rope_parameters=LINEAR)),
    ("rope-llama3", "llama", TIED | dict(rope_parameters=LLAMA3)),
    ("mistral", "mistral", SMALL | dict(sliding_window=4)),
    ("qwen2-moe", "qwen2_moe", SMALL | EXPERTS | dict(shared_expert_intermediate_size=40)),
    ("qwen3", "qwen3", TIED),
    ("qwen3-moe", "qwen3_moe", SMALL | EXPERTS | dict(norm_topk_prob=True)),
    ("gemma2", "gemma2", SMALL | dict(sliding_window=4, query_pre_attn_scalar=16)),
    ("gemma3", "gemma3_text", SMALL | dict(num_hidden_layers=6, sliding_window=4, query_pre_attn_scalar=16)),
    ("phi3", "phi3", NO_HEAD | dict(sliding_window=None)),
    ("olmo2", "olmo2", NO_HEAD),
    ("gpt2", "gpt2", dict(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64)),
    ("opt", "opt", dict(vocab_size=64, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=2,
                        max_position_embeddings=64, word_embed_proj_dim=32, pad_token_id=0)),
]
DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.uint8: "U8", torch.bool: "BOOL"}


def gguf_name(name_map, name):
    """What the gguf package calls a tensor; experts have the name of their stack."""
    stacked = re.sub(r"experts\.\d+\.", "experts.", name)
    mixtral = re.sub(r"^model\.(.*)block_sparse_moe", r"\1feed_forward", stacked)
    found = (name_map.get_name(n, (".weight", ".bias")) for n in (name, stacked, mixtral))
    return next((n for n in found if n), None)


def names():
    """The tensors of each kind as they are saved, and their names by the gguf package."""
    out = []
    for kind, settings, arch in KINDS:
        config = AutoConfig.for_model(kind, **settings)
        auto = transformers.AutoModel if kind == "bert" else transformers.AutoModelForCausalLM
        folder = OUT / "scratch"
        auto.from_config(config).save_pretrained(folder)
        name_map = get_tensor_name_map(next(a for a, n in MODEL_ARCH_NAMES.items() if n == arch), 2)
        tensors = []
        with safe_open(folder / "model.safetensors", "pt") as f:
            for name in sorted(f.keys()):
                t = f.get_tensor(name)
                tensors.append([name, DTYPES[t.dtype], list(t.shape), gguf_name(name_map, name)])
        out.append({"config": json.loads((folder / "config.json").read_text()), "family": arch, "tensors": tensors})
        shutil.rmtree(folder)
        missing = [t[0] for t in tensors if t[3] is None]
        print(kind, len(tensors), "without a name:", missing[:6])
    lines = [json.dumps(o) for o in out]
    (OUT / "names.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


def words(codes):
    """Eight 4-bit codes of the last axis in each 32-bit word, lowest first."""
    codes = codes.reshape(*codes.shape[:-1], -1, 8).astype(np.uint32)
    return (codes << (4 * np.arange(8, dtype=np.uint32))).sum(-1, dtype=np.uint32).view(np.int32)


def quantized(name, method, inputs, outputs, group, rng, order=None, symmetric=False, settings={}, scale=np.float16):
    """One matrix: codes by input and output, a scale and a zero point by group and output."""
    codes = rng.integers(0, 16, (inputs, outputs))
    groups = inputs // group
    low = 1 if method == "gptq" and settings.get("checkpoint_format") != "gptq_v2" else 0
    zeros = np.full((groups, outputs), 8) if symmetric else rng.integers(low, 16, (groups, outputs))
    scales = rng.uniform(0.001, 0.1, (groups, outputs)).astype(scale)
    group_of = np.arange(inputs) // group if order is None else order
    values = (codes - zeros[group_of]).astype(np.float32) * scales[group_of].astype(np.float32)
    stem = "model.layers.0.mlp.down_proj."
    if method == "gptq":
        tensors = {"qweight": np.ascontiguousarray(words(codes.T).T), "qzeros": words(zeros - low),
                   "g_idx": group_of.astype(np.int32)}
    else:
        awq = [0, 2, 4, 6, 1, 3, 5, 7]
        mixed = lambda c: words(c.reshape(len(c), -1, 8)[:, :, awq].reshape(c.shape))
        tensors = {"qweight": mixed(codes), "qzeros": mixed(zeros)}
    tensors["scales"] = scales
    folder = OUT / "quantized" / name
    folder.mkdir(parents=True)
    save_file({stem + k: v for k, v in tensors.items()}, folder / "model.safetensors")
    (folder / "values.bin").write_bytes(np.ascontiguousarray(values.T).astype("<f4").tobytes())
    config = {"model_type": "llama", "quantization_config": {"quant_method": method, "bits": 4, "group_size": group, **settings}}
    (folder / "config.json").write_text(json.dumps(config) + "\n")


@torch.inference_mode()
def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    tiny("llama-f32")
    tiny("llama-bf16", torch.bfloat16)
    tiny("qwen2-f32", shards="40KB")
    tiny("mixtral-f32", shards="60KB")
    for name, kind, settings in RANDOM:
        random(name, AutoConfig.for_model(kind, **settings))
    names()
    rng = np.random.default_rng(1)
    quantized("gptq-32", "gptq", 64, 16, 32, rng)
    quantized("gptq-64-symmetric", "gptq", 128, 16, 64, rng, symmetric=True)
    quantized("gptq-128-order", "gptq", 256, 16, 128, rng, order=rng.permutation(np.arange(256) // 128))
    quantized("gptq-v2", "gptq", 64, 16, 32, rng, settings={"checkpoint_format": "gptq_v2"})
    quantized("awq-64", "awq", 128, 24, 64, rng)
    quantized("awq-128-f32", "awq", 128, 16, 128, rng, scale=np.float32)


main()
