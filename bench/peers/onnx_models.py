"""Whole models of ONNX: Lathe beside ONNX Runtime and OpenVINO, in turns, at the same number of threads.

    pip install -r requirements-onnx.txt       # --no-deps where the models' own packages want torch or opencv
    python onnx_models.py models FOLDER        # the models, with one input each, out of those packages
    python onnx_models.py check FOLDER --lathe ../../target/release/lathe
    python onnx_models.py bench FOLDER --lathe ../../target/release/lathe --threads 2

The `light_*` models of the package `onnx` have constants for weights: they get random ones of a fixed seed. torch has no reader
of ONNX and is no peer here.
"""

import argparse
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from worker import sample

LIGHT = ["resnet50", "densenet121", "inception_v2", "shufflenet", "squeezenet"]


def package(name):
    """The folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        sys.exit(f"the package {name} is not installed: pip install -r requirements-onnx.txt")
    return Path(spec.submodule_search_locations[0])


def weights(model, seed):
    """The model with what `ConstantOfShape` made as random initializers."""
    import onnx

    r, g = np.random.default_rng(seed), model.graph
    shapes = {t.name: onnx.numpy_helper.to_array(t) for t in g.initializer}
    made = {n.output[0]: shapes[n.input[0]] for n in g.node if n.op_type == "ConstantOfShape" and n.input[0] in shapes}
    # Sums of branches grow on their own.
    gain = 1 if any(n.op_type == "Sum" for n in g.node) else 2
    positive = {v for n in g.node if n.op_type == "BatchNormalization" for v in (n.input[1], n.input[4])}
    for name, shape in made.items():
        shape = [int(d) for d in shape]
        if name in positive or (len(shape) == 1 and name.endswith("w_0")):
            w = r.uniform(0.5, 1.5, shape)
        elif len(shape) == 1:
            w = 0.1 * r.standard_normal(shape)
        else:
            w = r.standard_normal(shape) * math.sqrt(gain / max(1, np.prod(shape[1:])))
        g.initializer.append(onnx.numpy_helper.from_array(w.astype(np.float32), name))
    kept = [n for n in g.node if n.output[0] not in made]
    del g.node[:]
    g.node.extend(kept)
    # Initializers need not be inputs since version 4 of the format.
    model.ir_version = max(model.ir_version, 4)
    names = {t.name for t in g.initializer}
    inputs = [i for i in g.input if i.name not in names]
    del g.input[:]
    g.input.extend(inputs)
    return model


def models(folder):
    """Writes FOLDER/NAME.onnx and FOLDER/NAME.npz, its inputs."""
    import onnx

    folder.mkdir(parents=True, exist_ok=True)
    r = np.random.default_rng(7)
    image = lambda *shape: r.standard_normal(shape).astype(np.float32)
    ocr, silero, magika = package("rapidocr_onnxruntime"), package("silero_vad"), package("magika")
    cases = [
        ("ocr_det", ocr / "models/ch_PP-OCRv4_det_infer.onnx", {"x": image(1, 3, 640, 640)}),
        ("ocr_rec", ocr / "models/ch_PP-OCRv4_rec_infer.onnx", {"x": image(1, 3, 48, 320)}),
        ("ocr_cls", ocr / "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": image(1, 3, 48, 192)}),
        (
            "silero_vad",
            silero / "data/silero_vad.onnx",
            {"input": 0.1 * image(1, 576), "state": image(2, 1, 128), "sr": np.array(16000, np.int64)},
        ),
        (
            "magika",
            next(magika.glob("models/standard_*/model.onnx")),
            {"bytes": r.integers(0, 257, (1, 2048)).astype(np.int32)},
        ),
    ]
    for name, path, inputs in cases:
        (folder / f"{name}.onnx").write_bytes(path.read_bytes())
        np.savez(folder / f"{name}.npz", **inputs)
    for seed, name in enumerate(LIGHT):
        model = weights(onnx.load(package("onnx") / f"backend/test/data/light/light_{name}.onnx"), seed)
        onnx.save(model, folder / f"{name}.onnx")
        np.savez(folder / f"{name}.npz", **{model.graph.input[0].name: image(1, 3, 224, 224)})


def names(folder, only):
    found = sorted(p.stem for p in folder.glob("*.onnx") if not only or p.stem in only)
    return found or sys.exit(f"there are no models in {folder}: run `onnx_models.py models {folder}` first")


def onnxruntime(path, inputs, threads):
    """A function that runs the model once and gives its results."""
    import onnxruntime as ort

    o = ort.SessionOptions()
    o.intra_op_num_threads = threads
    o.log_severity_level = 3
    s = ort.InferenceSession(str(path), o, providers=["CPUExecutionProvider"])
    return lambda: s.run(None, inputs)


def openvino(path, inputs, threads):
    import openvino as ov

    core = ov.Core()
    model = core.read_model(path)
    model.reshape({name: list(x.shape) for name, x in inputs.items()})
    config = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", config).create_infer_request()

    def run():
        out = request.infer(inputs, share_inputs=True)
        return [out[i] for i in range(len(out))]

    return run


PEERS = {"onnxruntime": onnxruntime, "openvino": openvino}


def load(folder, name):
    with np.load(folder / f"{name}.npz") as z:
        return {k: z[k] for k in z.files}


def check(folder, lathe, only):
    """The largest difference from ONNX Runtime, as a part of the largest element of each result."""
    bad = 0
    for name in names(folder, only):
        inputs = load(folder, name)
        expected = onnxruntime(folder / f"{name}.onnx", inputs, 2)()
        with tempfile.TemporaryDirectory() as tmp:
            out = Path(tmp) / "out.npz"
            p = subprocess.run(
                [lathe, "run", folder / f"{name}.onnx", "--input", folder / f"{name}.npz", "--output", out],
                capture_output=True,
                text=True,
            )
            if p.returncode != 0:
                print(f"{name:12} fails: {p.stderr.strip()}")
                bad += 1
                continue
            with np.load(out) as z:
                got = [z[k] for k in z.files]
        worst = max(
            float(np.max(np.abs(g.astype(np.float64) - e)) / max(1e-30, np.max(np.abs(e))))
            if g.shape == e.shape
            else math.inf
            for g, e in zip(got, expected, strict=True)
        )
        bad += not worst < 1e-3
        print(f"{name:12} largest difference {worst:.1e}{'' if worst < 1e-3 else '  WRONG'}", flush=True)
    return bad


def bench(folder, lathe, threads, rounds, seconds, only, to, of=statistics.median):
    rows, ratios = {}, []
    print(f"{'ms of a run':12} {'lathe':>9}" + "".join(f"{p:>13}" for p in PEERS) + "   best peer / lathe")
    for name in names(folder, only):
        path, inputs = folder / f"{name}.onnx", load(folder, name)
        runs = {}
        for peer, make in PEERS.items():
            try:
                runs[peer] = make(path, inputs, threads)
                runs[peer]()
            except Exception as e:
                print(f"# {peer} cannot run {name}: {str(e).splitlines()[0]}")
                runs.pop(peer, None)
        taken = {p: [] for p in ["lathe", *runs]}
        command = [lathe, "bench", path, "--input", folder / f"{name}.npz", "--threads", str(threads), "--json", "--repetitions", "1"]
        for _ in range(rounds):
            for peer, run in runs.items():
                taken[peer].append(sample(run, seconds))
            # Idle peers let go of the cores first.
            time.sleep(0.2)
            out = subprocess.run(
                [*command, "--seconds", str(seconds)], capture_output=True, text=True, check=False
            )
            if out.returncode != 0:
                sys.exit(f"lathe: {out.stderr}")
            taken["lathe"].append(json.loads(out.stdout)["median_s"])
        median = {p: of(t) for p, t in taken.items()}
        ratio = min(median[p] for p in runs) / median["lathe"]
        ratios.append(ratio)
        rows[name] = {"seconds": median, "samples_s": taken, "ratio": ratio}
        cells = "".join(f"{1e3 * median[p]:13.3f}" if p in median else f"{'-':>13}" for p in PEERS)
        print(f"{name:12} {1e3 * median['lathe']:9.3f}{cells}   {ratio:.2f}x", flush=True)
    mean = math.exp(statistics.mean(map(math.log, ratios)))
    print(f"geometric mean of best peer / lathe: {mean:.2f}x, least {min(ratios):.2f}x")
    if to:
        to.write_text(json.dumps({"threads": threads, "geometric_mean": mean, "models": rows}, indent=1))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["models", "check", "bench"])
    p.add_argument("folder", type=Path)
    p.add_argument("--lathe", default="lathe", help="the program")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5, help="samples of each, taken in turns")
    p.add_argument("--seconds", type=float, default=0.3, help="length of a sample")
    p.add_argument("--only", nargs="*", help="names of models")
    p.add_argument("--least", action="store_true", help="take the least of the samples: for a machine that others use too")
    p.add_argument("--json", type=Path, help="where to write all samples")
    a = p.parse_args()
    if a.what == "models":
        models(a.folder)
    elif a.what == "check":
        sys.exit(1 if check(a.folder, a.lathe, a.only) else 0)
    else:
        bench(a.folder, a.lathe, a.threads, a.rounds, a.seconds, a.only, a.json, min if a.least else statistics.median)


if __name__ == "__main__":
    main()
