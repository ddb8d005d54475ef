"""Ways to search for schedules, compared: best time found after so many trials, on shapes that no rule was measured on.

    python strategies.py --lathe ../../target/release/lathe --trials 36 --seeds 5 --threads 2 --json out.json

`learned` begins with the cost model that is shipped, which no kernel of these shapes taught; `fresh` begins with none. Each search begins without trials, in a cache folder of its own, and what counts is the
program's kernel that takes longest. The yardstick of a case is the best time that any search found,
and a search's regret after n trials is how much longer its best one takes. Run it while nothing else does.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path



def product(m, k, n):
    return f"""graph product() {{
  a: f32[{m}, {k}] = input
  b: f32[{k}, {n}] = input
  c: f32[{m}, {n}] = dot(a, b) {{sum_x = [1], sum_y = [0]}}
  return c
}}"""


def convolution(channels, filters, size, window, stride=1):
    out = (size - window) // stride + 1
    return f"""graph windows() {{
  x: f32[1, {channels}, {size}, {size}] = input
  w: f32[{filters}, {channels}, {window}, {window}] = input
  y: f32[1, {filters}, {out}, {out}] = conv(x, w) {{groups = 1, strides = [{stride}, {stride}]}}
  return y
}}"""


def heads(h, q, d, n):
    return f"""graph heads() {{
  q: f32[{h}, {q}, {d}] = input
  k: f32[{h}, {d}, {n}] = input
  s: f32[{h}, {q}, {n}] = dot(q, k) {{batch_x = [0], batch_y = [0], sum_x = [2], sum_y = [1]}}
  return s
}}"""


CASES = {
    "product 200x700x330": product(200, 700, 330),
    "product 384x96x1000": product(384, 96, 1000),
    "product 96x1500x256": product(96, 1500, 256),
    "product 640x640x640": product(640, 640, 640),
    "convolution 40 to 72 of 26x26": convolution(40, 72, 28, 3),
    "convolution 80 to 200 of 19x19, 1x1": convolution(80, 200, 19, 1),
    "convolution 48 to 64 of 31x31, each second one": convolution(48, 64, 63, 3, 2),
    "products of 12 heads, 150x64x170": heads(12, 150, 64, 170),
}
STRATEGIES = ["learned", "fresh", "analytical", "evolution", "random"]


def search(lathe, graph, strategy, seed, trials, threads):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.txt"
        path.write_text(graph)
        command = [lathe, "tune", path, "--strategy", strategy, "--seed", seed, "--trials", trials, "--threads", threads]
        out = subprocess.run(
            [str(c) for c in command] + ["--kernels-only", "--json"],
            env=dict(os.environ, LATHE_CACHE=folder),
            check=True,
            capture_output=True,
            text=True,
        )
    kernel = max(json.loads(out.stdout)["kernels"], key=lambda k: k["rule_s"])
    return {"rule_s": kernel["rule_s"], "best_s": kernel["best_s"], "history": kernel["history"]}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lathe", required=True)
    p.add_argument("--trials", type=int, default=36)
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--cases", type=int, default=len(CASES), help="only the first so many")
    p.add_argument("--json", help="write every search to this file")
    a = p.parse_args()
    cases, runs = list(CASES)[: a.cases], {}
    # Strategies take turns, so that all see the same weather.
    for case in cases:
        for seed in range(a.seeds):
            for s in STRATEGIES:
                runs[case, s, seed] = search(a.lathe, CASES[case], s, seed, a.trials, a.threads)
        print(f"{case}: done", file=sys.stderr, flush=True)
    points = [n for n in (12, 24, 36, 48, 96) if n <= a.trials]
    print("median regret after trials    " + "".join(f"{n:>8}" for n in points) + "   gain over the rule")
    for s in STRATEGIES:
        regret, gain = {n: [] for n in points}, []
        for case in cases:
            best = min(min(r["history"]) for (c, _, _), r in runs.items() if c == case)
            for seed in range(a.seeds):
                history = runs[case, s, seed]["history"]
                gain.append(1 / history[-1])
                for n in points:
                    regret[n].append(history[min(n, len(history)) - 1] / best - 1)
        print(f"{s:30}" + "".join(f"{100 * statistics.median(regret[n]):7.1f}%" for n in points) + f"   {statistics.geometric_mean(gain):.3f}x")
    if a.json:
        rows = [{"case": c, "strategy": s, "seed": seed, **r} for (c, s, seed), r in runs.items()]
        Path(a.json).write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
