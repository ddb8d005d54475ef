"""What it costs to prove each step of each candidate: the time of tuning with proofs and without, in turns, and the processors'
time, compilers' too.

    python proofs.py --lathe ../../target/release/lathe --trials 48 --turns 5 --threads 2 [net.onnx=inputs.npz ...]

Each run begins with nothing, in a cache folder of its own, and tries the same number of candidates. What counts is the median
over the turns. Run it while nothing else does.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

GRAPHS = {
    "matmul": """graph product() {
  a: f32[256, 512] = input
  b: f32[512, 384] = input
  c: f32[256, 384] = dot(a, b) {sum_x = [1], sum_y = [0]}
  return c
}""",
    "convolution": """graph windows() {
  x: f32[1, 32, 30, 30] = input
  w: f32[48, 32, 3, 3] = input
  y: f32[1, 48, 28, 28] = conv(x, w) {groups = 1, strides = [1, 1]}
  return y
}""",
}


def processors():
    """Seconds that finished children worked."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tuned(lathe, program, more):
    """Seconds of tuning on the clock and of processors, and how many candidates were tried and were not proved."""
    with tempfile.TemporaryDirectory() as folder:
        env = dict(os.environ, LATHE_CACHE=folder)
        start, worked = time.perf_counter(), processors()
        out = subprocess.run(
            [lathe, "tune", *program, "--json", *more], env=env, check=True, capture_output=True, text=True
        )
        seconds = time.perf_counter() - start, processors() - worked
    kernels = json.loads(out.stdout)["kernels"]
    return seconds, sum(k["trials"] for k in kernels), sum(k["unproved"] for k in kernels)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lathe", required=True)
    p.add_argument("--trials", type=int, default=48)
    p.add_argument("--turns", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("programs", nargs="*", metavar="F.onnx=X.npz", help="programs of ONNX with their inputs")
    a = p.parse_args()
    lathe = str(Path(a.lathe).resolve())
    more = ["--trials", str(a.trials), "--threads", str(a.threads)]
    print(f"{'program':14} {'without':>9} {'with':>9} {'more':>7} {'processors':>11} {'with':>9} {'more':>7} {'trials':>7} {'unproved':>9}")
    with tempfile.TemporaryDirectory() as folder:
        programs = {}
        for name, text in GRAPHS.items():
            path = Path(folder) / f"{name}.txt"
            path.write_text(text)
            programs[name] = [str(path)]
        for given in a.programs:
            path, inputs = given.split("=", 1)
            programs[Path(path).stem] = [path, "--input", inputs]
        for name, program in programs.items():
            times = {True: [], False: []}
            for turn in range(a.turns):
                for proofs in [turn % 2 == 0, turn % 2 == 1]:
                    args = more + ["--seed", str(turn)] + ([] if proofs else ["--unproved"])
                    seconds, trials, unproved = tuned(lathe, program, args)
                    times[proofs].append(seconds)
                    if proofs:
                        shown = trials, unproved
            cells = []
            for at in (0, 1):
                without, with_ = (statistics.median(t[at] for t in times[proofs]) for proofs in (False, True))
                cells.append(f"{without:8.2f}s {with_:8.2f}s {100 * (with_ / without - 1):6.1f}%")
            print(f"{name:14} {cells[0]}   {cells[1]} {shown[0]:7} {shown[1]:9}", flush=True)


if __name__ == "__main__":
    main()
