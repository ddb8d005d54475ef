"""Writes tests/data/tiny/: tiny random models as GGUF files, and what `transformers` computes with them in f32.

    NAME.gguf          the model; quantized weights are what is written, and the expectations are for their exact values
    NAME.logits.bin    f32, little-endian: the logits at each position of the prompt, positions by vocabulary
    expected.json      a list of {name, prompt, vocab, greedy, gaps}: greedy continues the prompt, gaps are the
                       differences of the two best logits on the way; of a mixture also routes, by layer and token of the
                       prompt the experts that its router chooses
    NAME.q8.logits.bin, NAME.q4.logits.bin
                       of a model with heads of 32: the same with rotated keys and values rounded to codes of 8 and 4 bits
    encoders.json      a list of {name, texts, tokens, vectors}: of encoders, texts with their tokens and embeddings

Weights are larger than a usual initialisation, so that attention, routing and rotation each matter to the logits.
With `--only NAME`, that model alone is made, and its entry of `expected.json`. With `--llama-cpp`, llama.cpp's logits are compared too, which checks the file's conventions.
Run with the packages of bench/peers/requirements.txt.
"""

import argparse
import json
import zlib
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from gguf import GGUFWriter
from gguf.quants import dequantize, quantize
from tiny_families import PLUS_ONE, SAME, build, settings, slots

OUT = Path(__file__).parent.parent / "data/tiny"
PROMPT = [1, 17, 42, 5, 60, 33, 33, 8, 51, 20, 3, 44]
# Longer than a page, so that windows skip one.
LONG = PROMPT + [9, 27, 61, 2, 14, 55, 38, 6, 21, 47, 12, 30, 58, 4, 40, 19]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MERGES = """t h|th e|i n|a n|e r|o n|r e|a t|e n|o r|an d|in g|i s|i t|e s|o u|a l|a r|s t|Ġ the|Ġ a|Ġ s|Ġ w|Ġ b|Ġ c
Ġ and|Ġ o|Ġ t|e d"""

def shape(family="llama", **more):
    sizes = dict(hidden=32, ffn=32, vocab=64, heads=4, kv_heads=2, layers=2, context=256, eps=1e-5)
    return dict(sizes, family=family, tied=True, theta=10000.0, prompt=LONG, count=20, seed=None) | more


# (name, type of the matrices, type of the embedding, shape)
FIRST = dict(ffn=96, vocab=128, prompt=PROMPT, count=24)
WIDE = dict(FIRST, hidden=64, theta=100000.0)
PHI_LONG = [1.0, 1.5, 2.5, 4.0]
FEW = dict(kv_heads=4, context=64)
MODELS = [
    ("llama-f32", T.F32, T.F32, shape(tied=False, seed=100, **FIRST)),
    ("llama-f16", T.F16, T.F16, shape(seed=101, **WIDE)),
    ("llama-bf16", T.BF16, T.BF16, shape(seed=102, **WIDE)),
    ("llama-q4_0", T.Q4_0, T.Q4_0, shape(seed=103, **WIDE)),
    ("llama-q4_1", T.Q4_1, T.Q8_0, shape(seed=104, **WIDE)),
    ("llama-q8_0", T.Q8_0, T.Q8_0, shape(seed=105, **WIDE)),
    ("qwen2-f32", T.F32, T.F32, shape("qwen2", theta=1000000.0, seed=107, **FIRST)),
    (
        "mixtral-f32",
        T.F32,
        T.F32,
        shape(tied=False, theta=1000000.0, experts=4, used=2, seed=106, prompt=PROMPT, count=24),
    ),
    ("linear-f16", T.F16, T.F16, shape(scaling={"rope_type": "linear", "factor": 4.0})),
    (
        "yarn-f16",
        T.F16,
        T.F16,
        shape(scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
    ),
    ("mistral-f16", T.F16, T.F16, shape(tied=False, window=7)),
    ("qwen3-f16", T.F16, T.F16, shape("qwen3", head_dim=16, theta=1000000.0, eps=1e-6)),
    ("qwen2moe-f16", T.F16, T.F16, shape("qwen2moe", tied=False, ffn=16, experts=4, used=2, shared=16)),
    ("qwen3moe-f16", T.F16, T.F16, shape("qwen3moe", ffn=16, experts=4, used=2, head_dim=16)),
    ("gemma2-f16", T.F16, T.F16, shape("gemma2", head_dim=16, window=7, score_cap=3.0, logit_cap=4.0, eps=1e-6)),
    (
        "gemma3-q8_0",
        T.Q8_0,
        T.Q8_0,
        shape(
            "gemma3", kv_heads=1, layers=6, window=7, theta=1000000.0, local_theta=10000.0, factor=8.0, eps=1e-6
        ),
    ),
    ("phi3-f16", T.F16, T.F16, shape("phi3", tied=False, window=7)),
    (
        "phi3long-f16",
        T.F16,
        T.F16,
        shape(
            "phi3",
            tied=False,
            trained=16,
            scaling={"rope_type": "longrope", "long_factor": PHI_LONG, "short_factor": [1.0] * 4},
        ),
    ),
    ("olmo2-f16", T.F16, T.F16, shape("olmo2", tied=False)),
    ("gpt2-f16", T.F16, T.F16, shape("gpt2", **FEW)),
    ("opt-f16", T.F16, T.F16, shape("opt", **FEW)),
    # Heads that codes of the cache fit.
    ("heads32-f16", T.F16, T.F16, shape(hidden=64, heads=2, kv_heads=1, layers=1)),
]
ENCODERS = [
    ("bert-f16", T.F16, T.F16, shape("bert", eps=1e-12, **FEW)),
    ("bertfirst-f16", T.F16, T.F16, shape("bert", pooling="first", eps=1e-12, **FEW)),
]


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


def store(values, ty):
    """The array to write, and the exact values it stands for."""
    if ty == T.F32:
        return values, values
    if ty == T.F16:
        return values.astype(np.float16), values.astype(np.float16).astype(np.float32)
    data = quantize(values, ty)
    return data, dequantize(data, ty).astype(np.float32)


# Special tokens, letters that begin a word, letters inside one, and longer pieces.
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + LETTERS + ["##" + c for c in LETTERS]
PIECES += ["the", "band", "##ing", ".", "!", "##er", "an"]
TEXTS = ["The band.", "An éclair!", "a sinking ship in the other harbour, unbanded"]


def phantom(piece):
    """As files have it: a mark in front of what begins a word, none inside."""
    special = piece.startswith("[") and piece.endswith("]")
    return piece if special else piece[2:] if piece.startswith("##") else "\u2581" + piece


def tokenizer(w, s):
    """Writes the tokenizer's part of the metadata."""
    if s["family"] == "bert":
        w.add_tokenizer_model("bert")
        w.add_tokenizer_pre("default")
        w.add_token_list([phantom(p) for p in PIECES])
        w.add_token_types([3] * 5 + [1] * (len(PIECES) - 5))
        w.add_unk_token_id(1)
        w.add_bos_token_id(2)
        w.add_sep_token_id(3)
        return
    tokens, merges = vocabulary(s["vocab"])
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    w.add_token_merges(merges)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_add_bos_token(False)
    w.add_chat_template(CHAT)


def values_of(rng, name, shape):
    """Random weights; larger than a usual initialisation."""
    if len(shape) == 1:
        return rng.uniform(0.5, 1.5, shape) - (1.0 if name.endswith(".bias") else 0.0)
    return rng.standard_normal(shape) * (1.5 / np.sqrt(shape[-1]))


def write(name, ty, embedding_ty, s):
    """Writes the model's file; the `transformers` model with the exact values of it."""
    rng = np.random.default_rng(s["seed"] or zlib.crc32(name.encode()))
    model = build(s).eval()
    state = model.state_dict()
    path = OUT / f"{name}.gguf"
    w = GGUFWriter(path, s["family"])
    # llama.cpp expects certain tokens of what is called Phi-3.
    w.add_name(name.replace("phi3", "phi"))
    settings(w, s)
    tokenizer(w, s)
    for gguf_name, hf_name, form in slots(s):
        rows = form if isinstance(form, slice) else None
        forward, back = SAME if rows else form
        target = state[hf_name] if rows is None else state[hf_name][:, rows]
        values = values_of(rng, gguf_name, target.shape) - (1.0 if form is PLUS_ONE else 0.0)
        array = forward(values.astype(np.float32))
        whole = array.ndim == 1 or gguf_name in ("position_embd.weight", "token_types.weight")
        kind = T.F32 if whole else embedding_ty if gguf_name == "token_embd.weight" else ty
        data, exact = store(np.ascontiguousarray(array), kind)
        w.add_tensor(gguf_name, data, raw_dtype=kind)
        target.copy_(torch.from_numpy(np.ascontiguousarray(back(exact.reshape(array.shape)))))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return model, path


def coded(model, prompt, bits):
    """The logits where 32 components of a key or a value share a scale of 16 bits and are codes around zero.

    Of 8 bits as far from 0 on both sides. Of 4 bits from -8 to 7, where the component that is farthest from 0 is -8; and keys,
    with their queries, are multiplied by the Hadamard matrix of 32 before they are rounded.
    """
    import transformers.models.llama.modeling_llama as llama

    def rounded(x):
        groups = x.reshape(*x.shape[:-1], -1, 32)
        if bits == 4:
            least, most = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
            end, most = -8, torch.where(most <= -least, least, most)
        else:
            end, most = 127, groups.abs().amax(-1, keepdim=True)
        codes = torch.round(groups * (end / most)).clamp(max=2 ** (bits - 1) - 1)
        return (codes * (most / end).half().float()).reshape(x.shape)

    hadamard = torch.ones(1, 1)
    while len(hadamard) < 32:
        hadamard = torch.kron(hadamard, torch.tensor([[1.0, 1.0], [1.0, -1.0]])) / 2**0.5

    def rotate(q, k, *rest, **more):
        q, k = plain(q, k, *rest, **more)
        if bits == 4:
            q, k = q @ hadamard, k @ hadamard
        return q, rounded(k)

    plain, llama.apply_rotary_pos_emb = llama.apply_rotary_pos_emb, rotate
    values = [layer.self_attn.v_proj.register_forward_hook(lambda _, __, v: rounded(v)) for layer in model.model.layers]
    logits = model(torch.tensor([prompt])).logits[0].numpy()
    llama.apply_rotary_pos_emb = plain
    [hook.remove() for hook in values]
    return logits


def make(name, ty, embedding_ty, s):
    model, path = write(name, ty, embedding_ty, s)
    prompt = s["prompt"]
    logits = model(torch.tensor([prompt])).logits[0].numpy()
    (OUT / f"{name}.logits.bin").write_bytes(logits.astype("<f4").tobytes())
    if name.startswith("heads32"):
        for bits in [8, 4]:
            (OUT / f"{name}.q{bits}.logits.bin").write_bytes(coded(model, prompt, bits).astype("<f4").tobytes())
    ids, greedy, gaps = list(prompt), [], []
    for _ in range(s["count"]):
        best = model(torch.tensor([ids])).logits[0, -1].topk(2)
        greedy.append(int(best.indices[0]))
        gaps.append(round(float(best.values[0] - best.values[1]), 5))
        ids.append(greedy[-1])
    print(f"{name}: {path.stat().st_size} bytes, logits {logits.min():.2f} to {logits.max():.2f}, gap {min(gaps)}")
    entry = {"name": name, "prompt": prompt, "vocab": s["vocab"], "greedy": greedy, "gaps": gaps}
    if s.get("experts"):
        scores = model(torch.tensor([prompt]), output_router_logits=True).router_logits
        entry["routes"] = [layer.topk(s["used"]).indices.sort().values.tolist() for layer in scores]
    return entry, logits


def make_encoder(name, ty, embedding_ty, s):
    from tokenizers import BertWordPieceTokenizer

    model, path = write(name, ty, embedding_ty, s)
    pieces = BertWordPieceTokenizer({p: i for i, p in enumerate(PIECES)}, lowercase=True)
    tokens = [pieces.encode(text).ids for text in TEXTS]
    states = [model(torch.tensor([t])).last_hidden_state[0] for t in tokens]
    pooled = [h[0] if s.get("pooling") == "first" else h.mean(0) for h in states]
    vectors = [[round(float(x), 7) for x in v / v.norm()] for v in pooled]
    print(f"{name}: {path.stat().st_size} bytes, tokens {[len(t) for t in tokens]}")
    return {"name": name, "texts": TEXTS, "tokens": tokens, "vectors": vectors}


def llama_cpp_logits(name, prompt):
    import llama_cpp

    try:
        path = str(OUT / f"{name}.gguf")
        model = llama_cpp.Llama(path, n_ctx=64, logits_all=True, type_k=0, type_v=0, verbose=False)
    except ValueError as refused:
        return str(refused)
    model.eval(prompt)
    return np.array(model.scores[: len(prompt)])


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
    for name, ty, embedding_ty, s in MODELS:
        if args.only and name != args.only:
            expected.extend(e for e in kept if e["name"] == name)
            continue
        entry, logits = make(name, ty, embedding_ty, s)
        expected.append(entry)
        if args.llama_cpp:
            other = llama_cpp_logits(name, s["prompt"])
            if isinstance(other, str):
                print(f"    llama.cpp: {other}")
                continue
            print(f"    llama.cpp differs by {np.abs(other - logits).max() / np.abs(logits).max():.2e} of the largest")
    if not args.only:
        encoders = [make_encoder(*e) for e in ENCODERS]
        (OUT / "encoders.json").write_text(json.dumps(encoders, indent=1) + "\n")
    (OUT / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


main()
