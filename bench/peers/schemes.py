"""What schemes of quantization do to the default model's perplexity, emulated in PyTorch: what `lathe quantize` and `--kv-type` are
held against.

    python schemes.py MODEL.gguf IDS.json [--schemes f32,int8,...] [--tokens 2048] [--context 256]
        IDS is text.py's. Prints the perplexity of each scheme, and how far it is from f32's.
    python schemes.py MODEL.gguf --folder OUT
        Writes the model as a folder of safetensors in f32, which `lathe quantize` reads for the schemes of folders.

Products of layers are quantized; the embedding, which is also the head, is not. `int8-tensor` has one scale for a matrix of weights
and one for the activations of a step; `int8` one for each row of both; in `int8-outliers-T` the columns of activations over T
anywhere in the step stay in 16 bits, and so do their weights. The 4-bit schemes round weights alone: `nf4` and `int4` by the
largest absolute value of 64, `int4z` between the least and the largest. `kv-q8` and `kv-q4` round keys and values, the scale of
32 components being the largest absolute value's; in `kv-q4-rotated` keys are rotated before, and codes reach to -8.
"""

import argparse
import json
import math

import torch
import torch.nn.functional as F
from transformers import DynamicCache

import gguf_tokenizer
from reference import load

NF4 = torch.tensor(
    [-1.0, -0.69619280, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0]
    + [0.07958030, 0.16093020, 0.24611230, 0.33791524, 0.44070983, 0.56261700, 0.72295684, 1.0]
)
SCHEMES = "f32,int8-tensor,int8,int8-outliers-6,int8-outliers-4,int8-outliers-3,nf4,int4,int4z,kv-q8,kv-q4,kv-q4-rotated"


def halves(x):
    return x.half().float()


def int8(x, each_row):
    largest = x.abs().amax(-1, keepdim=True) if each_row else x.abs().max()
    step = (largest / 127).clamp(min=1e-30)
    return (x / step).round() * step


def nf4(w):
    x = w.reshape(-1, 64)
    largest = x.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    code = torch.bucketize(x / largest, (NF4[1:] + NF4[:-1]) / 2)
    return (NF4[code] * largest).reshape(w.shape)


def int4(w, zeros):
    x = w.reshape(-1, 64)
    if not zeros:
        step = halves(x.abs().amax(-1, keepdim=True) / 7).clamp(min=1e-7)
        return ((x / step).round().clamp(-8, 7) * step).reshape(w.shape)
    least, most = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    step = halves((most - least) / 15).clamp(min=1e-7)
    zero = (-least / step).round().clamp(0, 15)
    return (((x / step).round() + zero).clamp(0, 15).sub(zero) * step).reshape(w.shape)


def codes(x, bits, whole=False):
    """Groups of 32; `whole` gives the largest value the code that only one sign has."""
    y = x.reshape(*x.shape[:-1], -1, 32)
    last = 2 ** (bits - 1) - 1
    largest = y.gather(-1, y.abs().argmax(-1, keepdim=True))
    end = -last - 1 if whole else last
    largest = largest if whole else largest.abs()
    step, inverse = halves(largest / end), torch.where(largest == 0, 0 * largest, end / largest)
    return ((y * inverse).round().clamp(-last - 1, last) * step).reshape(x.shape)


def hadamard(n):
    h = torch.ones(1, 1)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h / math.sqrt(n)


class Rounded(DynamicCache):
    def __init__(self, keys, values):
        super().__init__()
        self.round = keys, values

    def update(self, k, v, *more, **named):
        return super().update(self.round[0](k), self.round[1](v), *more, **named)


def cache(scheme):
    if scheme == "kv-q8":
        return Rounded(*[lambda x: codes(x, 8)] * 2)
    if scheme == "kv-q4":
        return Rounded(*[lambda x: codes(x, 4)] * 2)
    if scheme == "kv-q4-rotated":

        def keys(x):
            h = hadamard(x.shape[-1])
            return codes(x @ h, 4, True) @ h.T

        return Rounded(keys, lambda x: codes(x, 4, True))
    return None


def product(scheme, w):
    """The product with a matrix under a scheme."""
    if scheme in ("int8", "int8-tensor"):
        rows = scheme == "int8"
        coded = int8(w, rows)
        return lambda x: F.linear(int8(x, rows), coded)
    if scheme.startswith("int8-outliers-"):
        threshold = float(scheme.rsplit("-", 1)[1])

        def mixed(x):
            apart = x.reshape(-1, x.shape[-1]).abs().amax(0) > threshold
            inside, weights = x.clone(), w.clone()
            inside[..., apart], weights[:, apart] = 0, 0
            y = F.linear(int8(inside, True), int8(weights, True))
            return y + F.linear(halves(x[..., apart]), halves(w[:, apart]))

        return mixed
    rounds = {"nf4": nf4, "int4": lambda w: int4(w, False), "int4z": lambda w: int4(w, True)}
    coded = rounds[scheme](w)
    return lambda x: F.linear(x, coded)


@torch.inference_mode()
def perplexity(model, scheme, windows):
    products = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n]
    if scheme != "f32" and not scheme.startswith("kv-"):
        for m in products:
            m.forward = product(scheme, m.weight.data)
    total, count = 0.0, 0
    for part in windows.split(4):
        kept = cache(scheme)
        logits = model(part, past_key_values=kept, use_cache=kept is not None).logits[:, :-1]
        found = logits.float().log_softmax(-1).gather(2, part[:, 1:, None])
        total, count = total - found.double().sum().item(), count + found.numel()
    for m in products:
        m.__dict__.pop("forward", None)
    return math.exp(total / count)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("ids", nargs="?")
    parser.add_argument("--folder")
    parser.add_argument("--schemes", default=SCHEMES)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--context", type=int, default=256)
    args = parser.parse_args()
    model = load(args.model)
    if args.folder:
        model.save_pretrained(args.folder)
        gguf_tokenizer.from_gguf(args.model).save(f"{args.folder}/tokenizer.json")
        return
    with open(args.ids, encoding="utf-8") as f:
        windows = torch.tensor(json.load(f)[: args.tokens]).reshape(-1, args.context)
    base = None
    for scheme in args.schemes.split(","):
        found = perplexity(model, scheme, windows)
        base = base or found
        print(f"{scheme:16} {found:8.3f} {found / base - 1:+.2%}", flush=True)


if __name__ == "__main__":
    main()
