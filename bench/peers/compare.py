"""Lathe and its peers on the same model in one run: prefill and decode, interleaved, medians.

    python compare.py MODEL.gguf --lathe ../../target/release/lathe [--json OUT.json]

A sample is one peer at one number of threads: a prompt of 512 tokens, then 128 tokens generated after it, and 128 at
depth 0. Peers take turns, so that slow changes of the machine meet all of them; a sample is taken again when others used
more than 5% of one CPU meanwhile. Run it with the Python of the peers' environment (README.md).
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from load import ForeignLoad
from worker import Worker

HERE = Path(__file__).parent
WORKERS = {"llama.cpp": "llama_worker.py", "transformers": "transformers_prefill.py"}
MEASURES = ["prefill", "decode", "decode_at_prompt"]


class Lathe:
    """One process a sample; loading is not in the numbers it prints."""

    pid = None
    FIELDS = {
        "prefill": "prefill_tokens_per_s",
        "decode_at_prompt": "decode_tokens_per_s",
        "prefill_floor_fraction": "prefill_floor_fraction",
        "decode_floor_fraction": "decode_floor_fraction",
    }

    def __init__(self, binary, model, kv_type):
        self.command = [binary, "bench", "model", "--json", "--batch", "1", "--model", model, "--kv-type", kv_type]
        self.version = subprocess.run([binary, "--version"], text=True, capture_output=True, check=True).stdout.strip()

    def measure(self, **request):
        row = self.bench(**request)
        found = {name: row[field] for name, field in self.FIELDS.items() if row.get(field) is not None}
        shallow = self.bench(**{**request, "prompt": 1})
        found["decode"] = shallow["decode_tokens_per_s"]
        found["decode_floor_fraction_at_0"] = shallow["decode_floor_fraction"]
        return found

    def bench(self, **request):
        options = [text for name, value in request.items() for text in (f"--{name}", str(value))]
        done = subprocess.run(self.command + options, text=True, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"lathe: {done.stderr.strip()}")
        (row,) = json.loads(done.stdout)["rows"]
        return row

    def close(self):
        pass


def sample(peer, request, limit, attempts):
    """A measurement that others (idle peers too) did not disturb, and how many were rejected before it."""
    for rejected in range(attempts):
        load = ForeignLoad(peer.pid)
        found = peer.measure(**request)
        if load.fraction() <= limit:
            return found, rejected
    return None, attempts


def compare(peers, args):
    rows = []
    for threads in args.threads:
        request = dict(threads=threads, prompt=args.prompt, generate=args.generate)
        taken, rejected = {name: [] for name in peers}, dict.fromkeys(peers, 0)
        for peer in peers.values():
            peer.measure(**request)
        for _ in range(args.repetitions):
            for name, peer in peers.items():
                found, lost = sample(peer, request, args.foreign, args.attempts)
                rejected[name] += lost
                if found:
                    taken[name].append(found)
            counts = {name: len(t) for name, t in taken.items()}
            print(f"{threads} threads: samples {counts}, rejected {rejected}", file=sys.stderr, flush=True)
        rows += [row(name, threads, samples, rejected[name]) for name, samples in taken.items()]
    return rows


def row(peer, threads, samples, rejected):
    names = samples[0] if samples else []
    medians = {name: statistics.median(s[name] for s in samples) for name in names}
    return dict(peer=peer, threads=threads, **medians, samples=samples, rejected=rejected)


def table(rows):
    """Tokens per second, and how many times as fast the first peer is as each other one."""
    lines = [f"{'threads':>7} {'peer':14}" + "".join(f"{m:>26}" for m in MEASURES)]
    for r in rows:
        first = next(f for f in rows if f["threads"] == r["threads"])
        cells = ""
        for m in MEASURES:
            text = f"{r[m]:.1f}" if m in r else "-"
            if r is not first and m in r and m in first:
                text += f" ({first[m] / r[m]:.2f}x)"
            cells += f"{text:>26}"
        lines.append(f"{r['threads']:>7} {r['peer']:14}{cells}")
    return "\n".join(lines)


def cpu():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        names = [line.partition(":")[2].strip() for line in f if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--lathe", help="the binary; without it only the peers run")
    parser.add_argument("--peers", nargs="*", default=list(WORKERS), choices=list(WORKERS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--foreign", type=float, default=0.05, help="largest share of one CPU that others may use")
    parser.add_argument("--attempts", type=int, default=10, help="tries before a sample is given up")
    parser.add_argument("--kv-type", default="f32", help="how Lathe stores keys and values; llama.cpp has f16")
    parser.add_argument("--json", help="where to write all samples")
    args = parser.parse_args()
    peers = {"lathe": Lathe(args.lathe, args.model, args.kv_type)} if args.lathe else {}
    peers |= {name: Worker([sys.executable, str(HERE / WORKERS[name]), args.model]) for name in args.peers}
    try:
        rows = compare(peers, args)
    finally:
        for peer in peers.values():
            peer.close()
    print(table(rows))
    if args.json:
        versions = {name: peer.version for name, peer in peers.items()}
        report = dict(model=Path(args.model).name, cpu=cpu(), prompt=args.prompt, versions=versions, rows=rows)
        Path(args.json).write_text(json.dumps(report, indent=1), encoding="utf-8")
    short = [r for r in rows if len(r["samples"]) < args.repetitions]
    if short:
        names = ", ".join(f"{r['peer']} at {r['threads']} threads" for r in short)
        sys.exit(f"too much foreign load: not enough samples of {names}")


if __name__ == "__main__":
    main()
