"""Schedules of Halide beside the same ones of Lathe, in turns, at the same number of threads.

    pip install -r requirements-halide.txt
    python halide_compare.py --lathe ../../target/release/lathe --threads 1
    python halide_compare.py --lathe ../../target/release/lathe --threads 2 --json halide.json

The programs and steps of Lathe are those of `bench/halide`; Lathe proves each step before anything is timed. Halide's are below, with
the same loops, vectors and temporaries. Results must agree, or it ends with 1.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from worker import sample

PROGRAMS = Path(__file__).resolve().parent.parent / "halide"
THIRD = 1 / 3


def stages(hl):
    """Two stages of a blur, and what they read."""
    x, y = hl.Var("x"), hl.Var("y")
    image, rows, columns = hl.ImageParam(hl.Float(32), 2, "x"), hl.Func("rows"), hl.Func("columns")
    rows[x, y] = (image[x, y] + image[x + 1, y] + image[x + 2, y]) * hl.f32(THIRD)
    columns[x, y] = (rows[x, y] + rows[x, y + 1] + rows[x, y + 2]) * hl.f32(THIRD)
    return x, y, image, rows, columns


def two_stages(hl):
    """One stage after the other, 32 columns at a time."""
    x, y, image, rows, columns = stages(hl)
    rows.compute_root().vectorize(x, 32).parallel(y)
    columns.vectorize(x, 32).parallel(y)
    return {"x": image}, columns


def tiles(hl):
    """Both stages in tiles of 32 rows and 256 columns."""
    x, y, image, rows, columns = stages(hl)
    xo, yo, xi, yi = hl.Var("xo"), hl.Var("yo"), hl.Var("xi"), hl.Var("yi")
    columns.tile(x, y, xo, yo, xi, yi, 256, 32).vectorize(xi, 32).parallel(yo)
    rows.compute_at(columns, xo).vectorize(x, 32)
    return {"x": image}, columns


def product(hl, n=1152):
    """Tiles of 6 rows and 16 columns in registers, over a copy of 16 columns of the second factor."""
    x, y, xo, yo, xi, yi = (hl.Var(v) for v in ("x", "y", "xo", "yo", "xi", "yi"))
    a, b = hl.ImageParam(hl.Float(32), 2, "a"), hl.ImageParam(hl.Float(32), 2, "b")
    k, total, out = hl.RDom([(0, n)], "k"), hl.Func("total"), hl.Func("out")
    total[x, y] = hl.f32(0)
    total[x, y] += a[k, y] * b[x, k]
    out[x, y] = total[x, y]
    out.bound(x, 0, n).bound(y, 0, n)
    out.tile(x, y, xo, yo, xi, yi, 16, 6).reorder(xi, yi, yo, xo).vectorize(xi).unroll(yi).parallel(xo)
    total.compute_at(out, yo).vectorize(x).unroll(y)
    total.update().reorder(x, y, k).vectorize(x).unroll(y)
    copy = b.in_(total)
    copy.compute_at(out, xo).vectorize(copy.args()[0])
    return {"a": a, "b": b}, out


# Name, Halide's form, the programs of Lathe with their steps, shapes of what is read, name and shape of what is written.
CASES = [
    ("blur in two stages", two_stages, [("rows", "stage"), ("columns", "stage")], {"x": (1026, 2050)}, ("y", (1024, 2048))),
    ("blur in tiles", tiles, [("tiles", "tiles")], {"x": (1026, 2050)}, ("y", (1024, 2048))),
    ("product", product, [("product", "product")], {"a": (1152, 1152), "b": (1152, 1152)}, ("c", (1152, 1152))),
]


def lathe(program, pairs, inputs, threads, seconds, output):
    """One sample of Lathe; its results go to a file."""
    command = [program, "bench", *(PROGRAMS / f"{p}.txt" for p, _ in pairs)]
    command += [w for _, s in pairs for w in ("--schedule", PROGRAMS / f"{s}.steps")]
    command += ["--input", inputs, "--output", output, "--threads", str(threads)]
    command += ["--repetitions", "1", "--seconds", str(seconds), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"lathe: {done.stderr.strip()}")
    return json.loads(done.stdout)


def compare(a, case, folder):
    import halide as hl

    name, form, pairs, shapes, (written, shape) = case
    random = np.random.default_rng(7)
    arrays = {n: random.random(s, dtype=np.float32) for n, s in shapes.items()}
    inputs, output = folder / "inputs.npz", folder / "output.npz"
    np.savez(inputs, **arrays)
    params, func = form(hl)
    for n, p in params.items():
        p.set(hl.Buffer(arrays[n]))
    target = hl.get_jit_target_from_environment()
    func.compile_jit(target)
    result = np.zeros(shape, np.float32)
    buffer = hl.Buffer(result)
    run = lambda: func.realize(buffer, target)
    run()
    taken = {"halide": [], "lathe": []}
    for _ in range(a.rounds):
        taken["halide"].append(sample(run, a.seconds))
        # Its threads let go of the cores first.
        time.sleep(0.2)
        told = lathe(a.lathe, pairs, inputs, a.threads, a.seconds, output)
        taken["lathe"].append(told["median_s"])
    with np.load(output) as z:
        differs = float(np.max(np.abs(z[written] - result)) / np.max(np.abs(result)))
    median = {p: statistics.median(t) for p, t in taken.items()}
    least = {p: min(t) for p, t in taken.items()}
    ratio = median["halide"] / median["lathe"]
    print(
        f"{name:20} {1e3 * median['lathe']:9.3f} {1e3 * median['halide']:9.3f}   {ratio:.2f}x   "
        f"{least['halide'] / least['lathe']:.2f}x   {told['steps_proved']:3} steps proved, results within {differs:.0e}",
        flush=True,
    )
    row = {"seconds": median, "least": least, "samples_s": taken, "ratio": ratio, "difference": differs}
    return row | {"steps_proved": told["steps_proved"], "agrees": bool(differs < 1e-5)}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lathe", default="lathe", help="the program")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--rounds", type=int, default=7, help="samples of each, taken in turns")
    p.add_argument("--seconds", type=float, default=0.5, help="length of a sample")
    p.add_argument("--json", type=Path, help="where to write all samples")
    a = p.parse_args()
    # Halide reads it when it first runs.
    os.environ["HL_NUM_THREADS"] = str(a.threads)
    print(f"{'ms of a run':20} {'lathe':>9} {'halide':>9}   halide / lathe, and of the least samples")
    with tempfile.TemporaryDirectory() as folder:
        rows = {case[0]: compare(a, case, Path(folder)) for case in CASES}
    mean = math.exp(statistics.mean(math.log(r["ratio"]) for r in rows.values()))
    print(f"geometric mean of halide / lathe: {mean:.2f}x")
    if a.json:
        a.json.write_text(json.dumps({"threads": a.threads, "geometric_mean": mean, "cases": rows}, indent=1))
    sys.exit(0 if all(r["agrees"] for r in rows.values()) else 1)


if __name__ == "__main__":
    main()
