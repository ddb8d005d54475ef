"""Times products of 8-bit codes beside PyTorch's in bf16, 256 x 4096 x 4096: `bench/int8/product.txt`, and `outliers.txt`, where 4.7% of
the columns stay floats (LLM.int8()). What makes codes of the activations is timed, too.

    cargo build --release -p lathe-compile --example time_graph
    python int8_product.py ../../target/release/examples/time_graph --threads 1 2

Peers take turns; best and median milliseconds of --rounds turns, and how much faster Lathe is by medians.
"""

import argparse
import statistics
import subprocess
import time
from pathlib import Path

import torch

ROWS, WIDTH = 256, 4096
GRAPHS = Path(__file__).parent.parent / "int8"


def bf16(threads):
    """Seconds of a product in bf16, with a matrix that PyTorch may lay out as it likes."""
    torch.set_num_threads(threads)
    x = torch.randn(ROWS, WIDTH, dtype=torch.bfloat16)
    layer = torch.nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.bfloat16)
    times = []
    with torch.inference_mode():
        layer(x)
        start = time.perf_counter()
        while len(times) < 5 or time.perf_counter() - start < 1.0:
            begin = time.perf_counter()
            layer(x)
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


def lathe(program, graph, threads):
    """Seconds of a run of a graph, as the example prints its median."""
    command = [program, str(GRAPHS / f"{graph}.txt"), str(threads), "pack", "quantize"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(out.split("median")[1].split()[0]) / 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the example time_graph of lathe-compile")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    operations = 2 * ROWS * WIDTH * WIDTH
    for threads in a.threads:
        samples = {"bf16": [], "product": [], "outliers": []}
        for _ in range(a.rounds):
            samples["bf16"].append(bf16(threads))
            for graph in ["product", "outliers"]:
                samples[graph].append(lathe(a.program, graph, threads))
        peer = statistics.median(samples["bf16"])
        for name, times in samples.items():
            middle = statistics.median(times)
            print(
                f"{threads} threads {name:9} best {min(times) * 1e3:6.2f} ms, median {middle * 1e3:6.2f} ms, "
                f"{operations / middle / 1e9:4.0f} G/s, {peer / middle:.2f}x"
            )


main()
