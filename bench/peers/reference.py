"""The reference Lathe is compared with: `transformers` in f32 on the dequantized weights of a GGUF file (Llama family).

    python reference.py greedy MODEL.gguf PROMPTS.json OUT.json [--tokens 128]
        PROMPTS is a JSON list of texts or of lists of token ids. OUT is a list of {prompt, ids, gaps}: the greedy ids
        (end tokens do not stop it) and, at each step, how far apart the two best logits were.

    python reference.py score MODEL.gguf IDS.json OUT.json [--context 2048] [--save-log-softmax F.npy]
        IDS is a JSON list of token ids, cut into contexts that share nothing; every token but the first of each context
        is scored. OUT has mean_nll, perplexity, tokens, and the log-probability of each scored token. The saved array
        is float16, one row a scored token, one column a vocabulary entry.
"""

import argparse
import json
import math
from collections import defaultdict

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import LlamaConfig, LlamaForCausalLM

import gguf_tokenizer

NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hf_name(name):
    """The name `transformers` gives to a GGUF tensor."""
    if name.startswith("blk."):
        _, layer, part, kind = name.split(".")
        return f"model.layers.{layer}.{NAMES[part]}.{kind}"
    return {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }[name]


def unpermute(w, heads):
    """From the interleaved rotary order of GGUF back to the half-split order of `transformers`."""
    rows, cols = w.shape
    return w.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def load(path):
    """The model, in f32, on the CPU."""
    reader = GGUFReader(path)

    def get(key, default=None):
        field = reader.fields.get(f"llama.{key}")
        return default if field is None else field.contents()

    heads = get("attention.head_count")
    kv_heads = get("attention.head_count_kv", heads)
    weights = {}
    for t in reader.tensors:
        if t.name == "rope_freqs.weight":
            raise ValueError("rope_freqs is not handled by this script")
        w = dequantize(t.data, t.tensor_type).astype(np.float32).reshape([int(d) for d in reversed(t.shape)])
        if ".attn_q." in t.name:
            w = unpermute(w, heads)
        elif ".attn_k." in t.name:
            w = unpermute(w, kv_heads)
        weights[hf_name(t.name)] = torch.from_numpy(np.ascontiguousarray(w))
    tied = "lm_head.weight" not in weights
    embedding = weights["model.embed_tokens.weight"]
    if tied:
        weights["lm_head.weight"] = embedding
    config = LlamaConfig(
        vocab_size=embedding.shape[0],
        hidden_size=get("embedding_length"),
        intermediate_size=get("feed_forward_length"),
        num_hidden_layers=get("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        rope_theta=get("rope.freq_base", 10000.0),
        max_position_embeddings=get("context_length"),
        tie_word_embeddings=tied,
    )
    config.rope_parameters = {"rope_type": "default", "rope_theta": get("rope.freq_base", 10000.0)}
    torch.set_default_dtype(torch.float32)
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(weights, strict=True)
    return model


@torch.inference_mode()
def greedy(model, prompts, count, batch=16):
    """Prompts of equal length run together, so that no padding can change a result."""
    by_length = defaultdict(list)
    for i, ids in enumerate(prompts):
        by_length[len(ids)].append(i)
    results = [None] * len(prompts)
    for same in by_length.values():
        for at in range(0, len(same), batch):
            part = same[at : at + batch]
            tokens = torch.tensor([prompts[i] for i in part])
            ids, gaps, cache = [], [], None
            for _ in range(count):
                out = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache = out.past_key_values
                best = out.logits[:, -1].topk(2)
                tokens = best.indices[:, :1]
                ids.append(tokens[:, 0].tolist())
                gaps.append((best.values[:, 0] - best.values[:, 1]).tolist())
            for row, i in enumerate(part):
                results[i] = {
                    "prompt": prompts[i],
                    "ids": [step[row] for step in ids],
                    "gaps": [round(step[row], 5) for step in gaps],
                }
            print(f"{sum(r is not None for r in results)} of {len(prompts)} prompts", flush=True)
    return results


@torch.inference_mode()
def score(model, ids, context, save):
    """Log-probabilities of the tokens of `ids`."""
    pieces = [ids[i : i + context] for i in range(0, len(ids), context)]
    pieces = [p for p in pieces if len(p) > 1]
    total = sum(len(p) - 1 for p in pieces)
    table = None
    if save:
        table = np.lib.format.open_memmap(save, "w+", np.float16, (total, model.config.vocab_size))
    found = []
    for piece in pieces:
        logits = model(torch.tensor([piece])).logits[0, :-1].float()
        logs = logits.log_softmax(-1)
        if table is not None:
            table[len(found) : len(found) + len(logs)] = logs.numpy().astype(np.float16)
        found += logs.gather(1, torch.tensor(piece[1:])[:, None])[:, 0].tolist()
        print(f"{len(found)} of {total} tokens, perplexity {math.exp(-sum(found) / len(found)):.4f}", flush=True)
    nll = -sum(found) / len(found)
    return {"mean_nll": nll, "perplexity": math.exp(nll), "tokens": len(found), "log_probabilities": found}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["greedy", "score"])
    parser.add_argument("model")
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-log-softmax")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with open(args.input, encoding="utf-8") as f:
        data = json.load(f)
    model = load(args.model)
    if args.what == "greedy":
        tokenizer = gguf_tokenizer.from_gguf(args.model)
        prompts = [tokenizer.encode(p).ids if isinstance(p, str) else p for p in data]
        result = greedy(model, prompts, args.tokens)
    else:
        result = score(model, data, args.context, args.save_log_softmax)
    with open(args.output, "w", encoding="utf-8") as f:
        json.dump(result, f)


if __name__ == "__main__":
    main()
