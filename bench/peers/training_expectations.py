"""What PyTorch says of the two networks of Lathe's training canary: loss, gradients, parameters after one step of Adam.

    python training_expectations.py OUT.json

Both sides draw parameters and inputs from the same generator (splitmix64), in the same order, as f32; PyTorch computes in
f64. The mask of the dropout is made here again, from the paper (Philox 4x32-10, Salmon et al. 2011).
"""

import argparse
import json
import math

import numpy as np
import torch
import torch.nn.functional as F

MASK = (1 << 64) - 1
ADAM = dict(lr=0.01, betas=(0.9, 0.999), eps=1e-8)
KEY = (0xC0FFEE, 0xDECADE)
DROPOUT = 0.25


class Random:
    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = (self.state ^ (self.state >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
        return z ^ (z >> 31)

    def floats(self, *shape):
        n = math.prod(shape)
        return np.array([(self.next() >> 40) / (1 << 23) - 1 for _ in range(n)], np.float32).reshape(shape)

    def ints(self, n, below):
        return torch.tensor([self.next() % below for _ in range(n)])


def parameters(random, shapes):
    """Norms' weights (named n...) are near 1, all else is in [-1/2, 1/2)."""
    out = {}
    for name, shape in shapes.items():
        v = random.floats(*shape)
        v = np.float32(1) + v / np.float32(4) if name.startswith("n") else v / np.float32(2)
        out[name] = torch.tensor(v, dtype=torch.float64, requires_grad=True)
    return out


def uniform(n, key, stream):
    def draw(i):
        c, k = [i & 0xFFFFFFFF, i >> 32, stream, 0], list(key)
        for _ in range(10):
            a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
            c = [b >> 32 ^ c[1] ^ k[0], b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ k[1], a & 0xFFFFFFFF]
            k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
        return (c[0] >> 8) / (1 << 24)

    return torch.tensor([draw(i) for i in range(n)], dtype=torch.float64)


def dropout(x, stream):
    keep = uniform(x.numel(), KEY, stream).reshape(x.shape) >= DROPOUT
    return x * keep / (1 - DROPOUT)


def layers():
    random = Random(41)
    p = parameters(random, {"w1": (32, 16), "b1": (32,), "w2": (10, 32), "b2": (10,)})
    x = torch.tensor(random.floats(12, 16), dtype=torch.float64)
    targets = random.ints(12, 10)
    h = torch.tanh(x @ p["w1"].T + p["b1"])
    return p, F.cross_entropy(h @ p["w2"].T + p["b2"], targets, reduction="sum")


def block():
    random = Random(42)
    square = (16, 16)
    shapes = {"embed": (11, 16), "n1": (16,), "wq": square, "wk": square, "wv": square, "wo": square, "n2": (16,)}
    shapes |= {"wg": (32, 16), "wu": (32, 16), "wd": (16, 32), "n3": (16,), "head": (11, 16)}
    p = parameters(random, shapes)
    tokens, targets = random.ints(6, 11), random.ints(6, 11)

    def heads(v):
        return v.reshape(6, 2, 8).transpose(0, 1)

    x = p["embed"][tokens]
    a = F.rms_norm(x, (16,), p["n1"], 1e-5)
    q, k, v = (heads(a @ p[w].T) for w in ("wq", "wk", "wv"))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + y.transpose(0, 1).reshape(6, 16) @ p["wo"].T
    a = F.rms_norm(x, (16,), p["n2"], 1e-5)
    x = x + dropout((F.silu(a @ p["wg"].T) * (a @ p["wu"].T)) @ p["wd"].T, 1)
    a = F.rms_norm(x, (16,), p["n3"], 1e-5)
    return p, F.cross_entropy(a @ p["head"].T, targets)


def numbers(t):
    return [float(f"{v:.7g}") for v in t.detach().flatten().tolist()]


def expect(p, loss):
    optimizer = torch.optim.Adam(p.values(), **ADAM)
    loss.backward()
    gradients = {n: numbers(v.grad) for n, v in p.items()}
    optimizer.step()
    return {"loss": float(f"{loss.item():.7g}"), "gradients": gradients, "stepped": {n: numbers(v) for n, v in p.items()}}


if __name__ == "__main__":
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("out")
    out = {"layers": expect(*layers()), "block": expect(*block())}
    with open(args.parse_args().out, "w") as f:
        rows = ",\n".join(f"{json.dumps(n)}: {json.dumps(v, separators=(',', ':'))}" for n, v in out.items())
        f.write("{" + rows + "}\n")
