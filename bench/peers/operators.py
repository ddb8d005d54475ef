"""Single operators: Lathe beside NumPy, PyTorch, ONNX Runtime and OpenVINO, in turns, at the same number of threads.

    pip install -r requirements-onnx.txt; pip install torch ml_dtypes
    python operators.py FOLDER --lathe ../../target/release/lathe --threads 2 --rounds 5

It writes the programs (ONNX) and their arguments to FOLDER, and prints for each case medians in milliseconds, what they are in GFLOP/s or
GB/s, the share of this machine's peak (`lathe machine`, of the same type; of the copy bandwidth that NumPy reaches beside it), and
the best peer's time over Lathe's. Matrices of weights are constants of the program: a peer may pack them before. OpenVINO has no
program of bf16: it runs the f32 one with its hint of bf16, and converts its arguments.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx import TensorProto as T
from onnx import helper as h
from onnx_models import PEERS as RUNTIMES
from worker import sample

TYPES = {"f32": (np.float32, T.FLOAT, torch.float32), "bf16": (ml_dtypes.bfloat16, T.BFLOAT16, torch.bfloat16)}


class Case:
    """A program, its arguments and constants, and what torch and NumPy do of the same."""

    def __init__(self, name, dtype, work, nodes, inputs, constants, torch_run, numpy_run=None, unit="GFLOP/s"):
        self.name, self.dtype, self.work, self.unit = name, dtype, work, unit
        self.nodes, self.inputs, self.constants = nodes, inputs, constants
        self.torch_run, self.numpy_run = torch_run, numpy_run

    def write(self, folder, of=None):
        """The program's path, with arrays of the type `of` instead of its own."""
        cast = lambda a: a.astype(of) if of and a.dtype == ml_dtypes.bfloat16 else a
        kind = lambda a: h.np_dtype_to_tensor_dtype(a.dtype)
        inputs = {k: cast(v) for k, v in self.inputs.items()}
        constants = {k: cast(v) for k, v in self.constants.items()}
        out = T.INT32 if self.dtype == "int8" else T.FLOAT if of else TYPES[self.dtype][1]
        g = h.make_graph(
            self.nodes,
            "case",
            [h.make_tensor_value_info(k, kind(v), v.shape) for k, v in inputs.items()],
            [h.make_tensor_value_info("y", out, None)],
            [h.make_tensor(k, kind(v), v.shape, v.tobytes(), raw=True) for k, v in constants.items()],
        )
        path = folder / f"{self.name}{'-f32' if of else ''}.onnx"
        onnx.save(h.make_model(g, opset_imports=[h.make_opsetid("", 22)], ir_version=10), path)
        np.savez(path.with_suffix(".npz"), **inputs)
        return path, inputs


def tensor(a):
    return torch.from_numpy(a.astype(np.float32)).to(torch.bfloat16) if a.dtype == ml_dtypes.bfloat16 else torch.from_numpy(a)


def cases():
    r = np.random.default_rng(3)
    floats = lambda of, *shape: r.standard_normal(shape).astype(TYPES[of][0])

    def product(name, of, m, n, k):
        x, w = floats(of, m, k), floats(of, k, n)
        tx, tw = tensor(x), tensor(w)
        plain = (lambda: x @ w) if of == "f32" else None
        node = h.make_node("MatMul", ["x", "w"], ["y"])
        return Case(name, of, 2 * m * n * k, [node], {"x": x}, {"w": w}, lambda: tx @ tw, plain)

    def bytes_product(name, m, n, k):
        x, w = r.integers(0, 255, (m, k), np.uint8), r.integers(-127, 127, (k, n), np.int8)
        tx, tw = torch.from_numpy((x // 2).astype(np.int8)), torch.from_numpy(w)
        node = h.make_node("MatMulInteger", ["x", "w"], ["y"])
        return Case(name, "int8", 2 * m * n * k, [node], {"x": x}, {"w": w}, lambda: torch._int_mm(tx, tw))

    def convolution(name, size, channels, filters, width):
        x, w = floats("f32", 1, channels, size, size), floats("f32", filters, channels, width, width) * 0.05
        tx, tw = tensor(x), tensor(w)
        node = h.make_node("Conv", ["x", "w"], ["y"], pads=[width // 2] * 4)
        work = 2 * size * size * channels * filters * width * width
        return Case(name, "f32", work, [node], {"x": x}, {"w": w}, lambda: torch.conv2d(tx, tw, padding=width // 2))

    def attention(name, of, heads, length, width):
        q, k, v = (floats(of, 1, heads, length, width) for _ in range(3))
        tq, tk, tv = map(tensor, (q, k, v))
        scale = np.array(1 / math.sqrt(width), TYPES[of][0])
        nodes = [
            h.make_node("Mul", ["q", "scale"], ["s"]),
            h.make_node("Transpose", ["k"], ["t"], perm=[0, 1, 3, 2]),
            h.make_node("MatMul", ["s", "t"], ["p"]),
            h.make_node("Softmax", ["p"], ["m"], axis=-1),
            h.make_node("MatMul", ["m", "v"], ["y"]),
        ]
        run = lambda: torch.nn.functional.scaled_dot_product_attention(tq, tk, tv)
        work = 4 * heads * length * length * width
        return Case(name, of, work, nodes, {"q": q, "k": k, "v": v}, {"scale": scale}, run)

    def rows(name, node, constants, run):
        x = floats("f32", 4096, 4096)
        tx = tensor(x)
        return Case(name, "f32", 2 * x.nbytes, [node], {"x": x}, constants, lambda: run(tx), unit="GB/s")

    one, zero = np.ones(4096, np.float32), np.zeros(4096, np.float32)
    norm = h.make_node("LayerNormalization", ["x", "one", "zero"], ["y"], axis=-1, epsilon=1e-5)
    t1, t0 = tensor(one), tensor(zero)
    return [
        product("matmul-1024", "f32", 1024, 1024, 1024),
        product("matmul-2048", "f32", 2048, 2048, 2048),
        product("matmul-128x3072x768", "f32", 128, 3072, 768),
        product("matmul-bf16-1024", "bf16", 1024, 1024, 1024),
        bytes_product("matmul-int8-1024", 1024, 1024, 1024),
        product("matvec-4096", "f32", 1, 4096, 4096),
        convolution("conv-56x56x64-3x3", 56, 64, 64, 3),
        convolution("conv-56x56x256-64-1x1", 56, 256, 64, 1),
        convolution("conv-28x28x128-3x3", 28, 128, 128, 3),
        convolution("conv-7x7x512-3x3", 7, 512, 512, 3),
        attention("attention-f32", "f32", 12, 512, 64),
        attention("attention-bf16", "bf16", 12, 512, 64),
        rows("softmax-4096", h.make_node("Softmax", ["x"], ["y"], axis=-1), {}, lambda x: torch.softmax(x, -1)),
        rows("layernorm-4096", norm, {"one": one, "zero": zero}, lambda x: torch.layer_norm(x, (4096,), t1, t0)),
    ]


def bf16_openvino(path, inputs, threads):
    import openvino as ov

    config = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(ov.Core().read_model(path), "CPU", config).create_infer_request()
    return lambda: request.infer(inputs, share_inputs=True)


def copy_bandwidth(threads):
    """Bytes read and written in a second by torch's copy of 64 MiB."""
    a = torch.zeros(4096, 4096)
    b = torch.empty_like(a)
    return 2 * a.nbytes / sample(lambda: b.copy_(a), 0.3)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path)
    p.add_argument("--lathe", default="lathe", help="the program")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5, help="samples of each, taken in turns")
    p.add_argument("--seconds", type=float, default=0.2, help="length of a sample")
    p.add_argument("--least", action="store_true", help="take the least of the samples: for a machine that others use too")
    p.add_argument("--only", nargs="*", help="parts of cases' names")
    a = p.parse_args()
    a.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(a.threads)
    lathe = lambda *words: json.loads(subprocess.run([a.lathe, *map(str, words), "--json"], capture_output=True, text=True, check=True).stdout)
    peaks = {t: by[str(a.threads)]["best"] for t, by in lathe("machine")["rates"].items()}
    print(f"{'case':24}{'lathe ms':>10}{'rate':>14}{'of peak':>9}  best peer / lathe (ms of each peer)")
    for c in cases():
        if a.only and not any(o in c.name for o in a.only):
            continue
        path, inputs = c.write(a.folder)
        runs = {"torch": c.torch_run, **({"numpy": c.numpy_run} if c.numpy_run else {})}
        for peer, make in RUNTIMES.items():
            try:
                if c.dtype == "bf16":
                    if peer == "onnxruntime":
                        continue
                    runs[peer] = bf16_openvino(*c.write(a.folder, np.float32), a.threads)
                else:
                    runs[peer] = make(path, inputs, a.threads)
                runs[peer]()
            except Exception as e:
                runs.pop(peer, None)
                print(f"# {peer} cannot run {c.name}: {str(e).splitlines()[0]}", file=sys.stderr)
        taken = {k: [] for k in ["lathe", *runs]}
        copies = []
        for _ in range(a.rounds):
            with torch.inference_mode():
                for peer, run in runs.items():
                    taken[peer].append(sample(run, a.seconds))
                    # Threads that wait for work let go of the cores.
                    time.sleep(0.2)
                if c.unit == "GB/s":
                    copies.append(copy_bandwidth(a.threads))
                    time.sleep(0.2)
            told = lathe("bench", path, "--input", path.with_suffix(".npz"), "--threads", a.threads, "--repetitions", 1, "--seconds", a.seconds)
            taken["lathe"].append(told["median_s"])
        of = min if a.least else statistics.median
        median = {k: of(v) for k, v in taken.items()}
        own = median.pop("lathe")
        peak = max(copies) if copies else peaks[c.dtype]
        cells = ", ".join(f"{k} {1e3 * v:.3f}" for k, v in sorted(median.items(), key=lambda kv: kv[1]))
        rate = c.work / own
        print(f"{c.name:24}{1e3 * own:10.3f}{rate / 1e9:9.1f} {c.unit[:4]:4}{rate / peak:9.0%}  {min(median.values()) / own:.2f}x ({cells})", flush=True)


main()
