"""What the published cost model of FlexGen says (Sheng et al., 2023, arXiv 2303.06865, section 4.3 and appendix A.3): the
best policy it finds for a model on the paper's 16 GB machine, or the throughput of a given one. The equations are the
paper's, the constants those that its authors fitted and published beside the code (FMInference/FlexiGen,
experimental/cost_model.py). `lathe plan` is compared with what this prints.

    python offload_cost.py opt-30b
    python offload_cost.py opt-175b --json
    python offload_cost.py opt-30b --batch 48 --batches 3 --shares 20 80 0 100 0 100 --slack 1.2
"""

import argparse
import json
import math

from scipy.optimize import linprog

GIB = 2**30
# Layers, width, width of the feed-forward layer, heads (Zhang et al., 2022, arXiv 2205.01068, table 1).
MODELS = {"opt-6.7b": (32, 4096, 16384, 32), "opt-30b": (48, 7168, 28672, 56), "opt-175b": (96, 12288, 49152, 96)}
# Capacities, bytes: device, host, disk.
CAPACITY = [15 * GIB, 200 * GIB, 1500 * GIB]
# Bytes a second: host to device; device to host, keys and values, hidden states; disk to host; host to disk, keys and values of
# the prompt, anything else.
TO_DEVICE, KV_OUT, HIDDEN_OUT = 12.89 * GIB, 0.97 * GIB, 4.82 * GIB
FROM_DISK, KV_TO_DISK, TO_DISK = 0.473 * GIB, 0.746 * GIB, 2.015 * GIB
# Operations a second: products and attention of the device in the prompt, then of one token; attention of the processor.
PRODUCTS, ATTENTION, PRODUCTS_1, ATTENTION_1, HOST = 21.24e12, 9.97e12, 4.3e12, 0.079e12, 0.0123e12

NAMES = ["wg", "wc", "wn", "cg", "cc", "cn", "hg", "hc", "hn", "prefill", "decode"]


class Linear(dict):
    """A sum of multiples of variables; the empty name is the constant."""

    def __add__(self, other):
        out = Linear(self)
        for name, by in (other if isinstance(other, dict) else {"": other}).items():
            out[name] = out.get(name, 0) + by
        return out

    __radd__ = __add__

    def __rsub__(self, other):
        return -self + other

    def __mul__(self, by):
        return Linear({name: x * by for name, x in self.items()})

    __rmul__ = __mul__

    def __neg__(self):
        return self * -1

    def __sub__(self, other):
        return self + (-other)


V = {name: Linear({name: 1.0}) for name in NAMES}


def solve(model, prompt, generate, batch, batches, slack, shares=None, compress=False):
    """The best shares for a block of batches: None where nothing fits."""
    layers, h, f, heads = MODELS[model]
    s, n, block = prompt, generate, batch * batches
    device, host, disk = (c * slack for c in CAPACITY)
    weights = (8 * h * h + 4 * h * f) / (4 if compress else 1)
    wg, wc, wn, cg, cc, cn, hg, hc, hn, prefill, decode = (V[name] for name in NAMES)
    hidden, kv = 2 * h * block, 4 * h * block  # of one position of all sequences, one layer
    equal = [wg + wc + wn - 1, cg + cc + cn - 1, hg + hc - 1, hn]
    for name, share in zip(["wg", "wc", "cg", "cc", "hg", "hc"], shares or []):
        equal.append(V[name] - share / 100)

    # One layer of the prompt: loads and stores each in a row, arithmetic beside them.
    load = (1 / TO_DEVICE) * (weights * (wc + wn) + s * hidden * (hc + hn)) + (1 / FROM_DISK) * (weights * wn + s * hidden * hn)
    store = (
        (1 / KV_OUT) * ((s + 1) * kv) * (cc + cn)
        + (s * hidden / HIDDEN_OUT) * (hc + hn)
        + ((s + 1) * kv / KV_TO_DISK) * cn
        + (s * hidden / TO_DISK) * hn
    )
    compute = block * s * (8 * h * h + 4 * h * f) / PRODUCTS + 4 * block * s * s * h / ATTENTION
    below = [load - prefill, store - prefill, compute - prefill]

    # One layer of a token: weights come to the device first, then the longest of the others.
    depth = s + n / 2
    to_device = (1 / TO_DEVICE) * (weights * (wc + wn) + hidden * (hc + hn))
    few, narrow = max(0, math.log2(64 / batch)), max(0, math.log2(4096 / h))
    host_rate = HOST * max(0.1, 1 + 0.0168 * few * narrow - 0.0328 * few - 0.0621 * narrow)
    others = [
        (hidden / HIDDEN_OUT) * (hc + hn),
        (1 / FROM_DISK) * (depth * kv * cn + hidden * hn) + (weights / (0.95 * FROM_DISK)) * wn,
        (1 / TO_DISK) * (kv * cn + hidden * hn),
        block * (8 * h * h + 4 * h * f) / PRODUCTS_1 + (depth * kv / ATTENTION_1) * cg + (depth * kv / host_rate) * (cc + cn),
    ]
    below += [to_device + other - decode for other in others]

    # The most that each memory holds.
    cache = (s + n) * kv * layers
    of_batch = 2 * h * batch
    inside = batch * (8 * s * h + 2 * s * h + 2 * heads * s * s + 2 * s * h + 4 * s * h + 2 * s * f + 2 * s * h)
    inside_1 = batch * (14 * h + 2 * f) + batch * (4 * h + 4 * (s + n) * h + 2 * heads * (s + n)) * cg
    window = 2 * weights * (1 - wg)
    below += [
        weights * layers * wg + s * hidden * hg + cache * cg + window + s * of_batch * (1 - hg) + inside - device,
        weights * layers * wg + hidden * hg + cache * cg + window + of_batch * (1 - hg) + (2 * of_batch * (s + n)) * cg + inside_1 - device,
        weights * layers * wc + s * hidden * hc + (s * kv * layers) * cc + weights * (1 - wg) + s * of_batch * (1 - hg) - host,
        weights * layers * wc + hidden * hc + cache * cc + weights * wn + 2 * of_batch * hn
        + (4 * of_batch * (s + n)) * cn + 2 * heads * (s + n) * batch + of_batch - host,
        weights * layers * wn + s * hidden * hn + cache * cn - disk,
    ]  # fmt: skip

    def rows(forms):
        scaled = [form * (1 / max(abs(x) for x in form.values())) for form in forms]
        return [[form.get(name, 0.0) for name in NAMES] for form in scaled], [-form.get("", 0.0) for form in scaled]

    a_ub, b_ub = rows(below)
    a_eq, b_eq = rows(equal)
    cost = [0.0] * 9 + [layers, layers * (n - 1)]
    found = linprog(cost, A_ub=a_ub, b_ub=b_ub, A_eq=a_eq, b_eq=b_eq, method="highs")
    if not found.success:
        return None
    x = dict(zip(NAMES, found.x))
    return {
        "model": model,
        "prompt": s,
        "generate": n,
        "batch": batch,
        "batches": batches,
        "weights": [x["wg"], x["wc"], x["wn"]],
        "kv": [x["cg"], x["cc"], x["cn"]],
        "activations": [x["hg"], x["hc"], x["hn"]],
        "prefill_s": layers * x["prefill"],
        "decode_s": layers * x["decode"],
        "tokens_per_second": block * n / found.fun,
    }


def search(model, prompt, generate, slack, compress):
    """The best of the batch sizes that the published search goes through, and of the batches in a block."""
    best, batch = None, 1
    while True:
        batches, last, first = 1, 0.0, None
        while True:
            found = solve(model, prompt, generate, batch, batches, slack, compress=compress)
            first = first or found
            if found is None or found["tokens_per_second"] < last:
                break
            last, batches = found["tokens_per_second"], batches + 1
            if best is None or last > best["tokens_per_second"]:
                best = found
        if first is None:
            return best
        batch = batch + 1 if batch < 4 else batch * 2


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("model", choices=MODELS)
    p.add_argument("--prompt", type=int, default=512)
    p.add_argument("--generate", type=int, default=32)
    p.add_argument("--batch", type=int, help="sequences that the device computes at once [default: the best]")
    p.add_argument("--batches", type=int, default=1)
    p.add_argument("--shares", type=float, nargs=6, help="percent: weights, cache, activations, each on device and host")
    p.add_argument("--slack", type=float, default=0.8, help="share of each memory that may be used")
    p.add_argument("--compress", action="store_true", help="weights in 4 bits")
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    if a.batch:
        found = solve(a.model, a.prompt, a.generate, a.batch, a.batches, a.slack, a.shares, a.compress)
    else:
        found = search(a.model, a.prompt, a.generate, a.slack, a.compress)
    if found is None:
        raise SystemExit("nothing fits")
    if a.json:
        print(json.dumps(found))
        return
    print(f"{found['model']}: {found['batch']} x {found['batches']} sequences")
    for what in ["weights", "kv", "activations"]:
        print(f"  {what:12}" + "".join(f"{100 * x:5.0f}% {tier}" for x, tier in zip(found[what], ["device", "host", "disk"])))
    print(f"  prefill {found['prefill_s']:.1f} s, token {found['decode_s']:.2f} s, {found['tokens_per_second']:.3f} tokens/s")


if __name__ == "__main__":
    main()
