"""Whether Lathe's answers are those of the f32 reference (reference.py), by the rules of each precision.

    python accuracy.py run LATHE MODEL.gguf PROMPTS.json RESULTS.json --precision exact
        Answers each prompt with `lathe run`, greedily, and keeps what it prints.
    python accuracy.py greedy RESULTS.json REFERENCE.json --precision exact
        Where each answer first differs, and how far apart the reference's two best logits are there. `exact`: all of
        them nearer than 0.01. `fast`: 97 of 100 nearer than 0.25, where they differ at all.
    python accuracy.py score LATHE MODEL.gguf IDS.json REFERENCE.json --precision exact
        The perplexity in contexts of 2048. `exact`: within 0.05% of the reference's. `fast`: within 0.6%.
    python accuracy.py divergence REFERENCE.npy OTHER.npy...
        The mean Kullback-Leibler divergence from the reference's distributions to others (log-softmax, one row a token;
        of several files the rows follow each other).

The exit code is 1 where a rule does not hold.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

TOKENS = 128
# (a gap from which a first difference counts as wrong, the share of prompts that may be wrong)
GREEDY = {"exact": (0.01, 0.0), "fast": (0.25, 0.03)}
PERPLEXITY = {"exact": 0.0005, "fast": 0.006}


def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def lathe(*command):
    """What a run of Lathe prints, as JSON."""
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr.strip()}")
    return json.loads(done.stdout)


def run(args):
    options = ["--json", "--raw", "--ignore-eos", "--max-tokens", str(TOKENS), "--temperature", "0"]
    options += ["--precision", args.precision, "--model", args.model]
    results = []
    for prompt in read(args.prompts):
        results.append(lathe(args.lathe, "run", *options, "--", prompt))
        print(f"{len(results)} prompts", end="\r", file=sys.stderr, flush=True)
    Path(args.results).write_text(json.dumps(results), encoding="utf-8")
    return True


def first_difference(result, reference):
    """(step, the reference's gap there), or None where the ids are the same."""
    if result["prompt_tokens"] != len(reference["prompt"]):
        return 0, math.inf
    found, expected = result["tokens"], reference["ids"]
    for step, (wanted, gap) in enumerate(zip(expected, reference["gaps"])):
        if step >= len(found):
            return step, math.inf
        if found[step] != wanted:
            return step, gap
    return None


def greedy(args):
    results, references = read(args.results), read(args.reference)
    if len(results) != len(references):
        sys.exit(f"{len(results)} results, but {len(references)} references")
    limit, allowed = GREEDY[args.precision]
    same, wrong, broken = 0, 0, 0
    for number, pair in enumerate(zip(results, references)):
        difference = first_difference(*pair)
        if difference is None:
            same += 1
            continue
        step, gap = difference
        wrong += gap >= limit
        broken += math.isinf(gap)
        verdict = "WRONG" if gap >= limit else "near"
        note = "" if math.isfinite(gap) else " (another prompt, or too few tokens)"
        print(f"prompt {number:3}: first difference at token {step:3}, gap {gap:.5f} {verdict}{note}")
    good = wrong <= allowed * len(results) and not broken
    print(f"{args.precision}: {same} of {len(results)} the same, {wrong} differ where the gap is at least {limit}")
    return good


def score(args):
    ids, reference = read(args.ids), read(args.reference)
    total, count = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for at in range(0, len(ids), args.context):
            piece = ids[at : at + args.context]
            if len(piece) < 2:
                continue
            path = Path(folder, "ids.json")
            path.write_text(json.dumps(piece), encoding="utf-8")
            options = ["--json", "--precision", args.precision, "--model", args.model, "--ids", str(path)]
            total += lathe(args.lathe, "score", *options)["mean_log_likelihood"] * (len(piece) - 1)
            count += len(piece) - 1
    perplexity = math.exp(-total / count)
    if count != reference["tokens"]:
        sys.exit(f"{count} tokens scored, but {reference['tokens']} in the reference")
    off = perplexity / reference["perplexity"] - 1
    print(f"{args.precision}: perplexity {perplexity:.5f}, reference {reference['perplexity']:.5f}, {off:+.4%}")
    return abs(off) <= PERPLEXITY[args.precision]


def divergence(args):
    import numpy as np

    def log_softmax(rows):
        rows = rows.astype(np.float32)
        rows -= rows.max(-1, keepdims=True)
        return rows - np.log(np.exp(rows).sum(-1, keepdims=True))

    reference = np.load(args.reference, mmap_mode="r")
    others = [np.load(path, mmap_mode="r") for path in args.others]
    if sum(map(len, others)) != len(reference):
        sys.exit(f"{sum(map(len, others))} rows, but {len(reference)} in the reference")
    found, at = [], 0
    same = 0
    for other in others:
        for start in range(0, len(other), 256):
            q = log_softmax(other[start : start + 256])
            p = log_softmax(reference[at : at + len(q)])
            found.append((np.exp(p) * (p - q)).sum(-1, dtype=np.float64))
            same += int((p.argmax(-1) == q.argmax(-1)).sum())
            at += len(q)
    found = np.concatenate(found)
    low, mid, high = np.quantile(found, [0.01, 0.5, 0.99])
    print(f"mean {found.mean():.6f} nats, quantiles 1% {low:.6f}, 50% {mid:.6f}, 99% {high:.6f}")
    print(f"the most probable token is the same in {same / len(found):.2%}")
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(work, *names, many=None):
        sub = commands.add_parser(work.__name__)
        sub.set_defaults(work=work)
        for name in names:
            sub.add_argument(name)
        if many:
            sub.add_argument(many, nargs="+")
        return sub

    runs = command(run, "lathe", "model", "prompts", "results")
    judges = command(greedy, "results", "reference")
    scores = command(score, "lathe", "model", "ids", "reference")
    scores.add_argument("--context", type=int, default=2048)
    for sub in (runs, judges, scores):
        sub.add_argument("--precision", choices=["exact", "fast"], required=True)
    command(divergence, "reference", many="others")
    args = parser.parse_args()
    sys.exit(0 if args.work(args) else 1)


if __name__ == "__main__":
    main()
