"""The squared error of `lathe quantize` beside that of llama.cpp and of the `gguf` package, type by type, on the same weights.

    python quantize.py LATHE MODEL-f32.gguf [--rows 256] [--types Q4_0,Q4_K]
    python quantize.py LATHE MODEL-f32.gguf --replace MODEL-q4_k.gguf OUT.gguf

The weights are standard normal rows of 2048, and the matrices of the model (`lathe quantize M f32.gguf --scheme f32` writes one), each
reshaped to rows of 256 where its own are no multiple of that. llama.cpp's quantizer is the function `ggml_quantize_chunk` of
its library, without an importance matrix: that of the package `xllamacpp`, or of `llama-cpp-python`. Errors are relative to the sum of
squares; below 1 the ratio says that Lathe loses less.

With --replace, OUT is a file of `lathe quantize` with each quantized tensor in the same type, but by llama.cpp: `lathe score` then
compares what both predict.
"""

import argparse
import ctypes
import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUFReader, GGUFWriter
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize, quantize

TYPES = "Q8_0,Q6_K,Q5_0,Q5_1,Q5_K,Q4_0,Q4_1,Q4_K,IQ4_NL,IQ4_XS,Q3_K,Q2_K"


def library():
    """llama.cpp's quantizer, or None where no package has it."""
    for name, pattern in (("xllamacpp", "*.so"), ("llama_cpp", "lib/libggml-base*")):
        spec = importlib.util.find_spec(name)
        for folder in spec.submodule_search_locations if spec else []:
            for path in sorted(Path(folder).glob(pattern)):
                lib = ctypes.CDLL(str(path))
                if hasattr(lib, "ggml_quantize_chunk"):
                    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
                    return lib
    return None


def llama_bytes(lib, ty, rows):
    block, size = GGML_QUANT_SIZES[ty]
    out = np.zeros((len(rows), rows.shape[1] // block * size), np.uint8)
    pointer = lambda a: a.ctypes.data_as(ctypes.c_void_p)
    counts = [ctypes.c_int64(n) for n in (0, len(rows), rows.shape[1])]
    lib.ggml_quantize_chunk(ctypes.c_int(int(ty)), pointer(rows), pointer(out), *counts, None)
    return out


def by_llama(lib, ty, rows):
    return dequantize(llama_bytes(lib, ty, rows), ty)


def replace(lib, wide, ours, out):
    shutil.copyfile(ours, out)
    rows = {t.name: t.data for t in GGUFReader(wide).tensors}
    with open(out, "r+b") as file:
        for t in GGUFReader(ours).tensors:
            if GGML_QUANT_SIZES[t.tensor_type][0] > 1:
                file.seek(t.data_offset)
                file.write(llama_bytes(lib, t.tensor_type, np.array(rows[t.name], np.float32)).tobytes())


def by_lathe(lathe, ty, matrices):
    """Every matrix, through a file."""
    with tempfile.TemporaryDirectory() as folder:
        wide, out = Path(folder) / "wide.gguf", Path(folder) / "out.gguf"
        writer = GGUFWriter(str(wide), "llama")
        for name, rows in matrices.items():
            writer.add_tensor(name, rows)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        command = [lathe, "quantize", wide, out, "--scheme", ty.name.lower(), "--json"]
        subprocess.run(command, check=True, capture_output=True)
        return {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(str(out)).tensors}


def by_package(ty, rows):
    try:
        return dequantize(quantize(rows, ty), ty)
    except NotImplementedError:
        return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("lathe")
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=256, help="rows of a matrix that are looked at, at most")
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--replace", nargs=2, metavar=("OURS", "OUT"))
    args = parser.parse_args()
    if args.replace:
        return replace(library(), args.model, *args.replace)
    normal = np.random.default_rng(1).standard_normal((args.rows, 2048), np.float32)
    sets = {"normal": {"normal.weight": normal}, "model": {}}
    for t in GGUFReader(args.model).tensors:
        if len(t.shape) == 2 and t.tensor_type == T.F32:
            data = np.array(t.data, np.float32)
            width = data.shape[1] if data.shape[1] % 256 == 0 else 256
            sets["model"][t.name] = np.ascontiguousarray(data.reshape(-1, width)[: args.rows])
    lib = library()
    for ty in (T[name] for name in args.types.split(",")):
        for kind, matrices in sets.items():
            ours = by_lathe(args.lathe, ty, matrices)
            found = {"lathe": [], "llama.cpp": [], "gguf": []}
            for name, rows in matrices.items():
                loss = lambda values: float(((values - rows).astype(np.float64) ** 2).sum() / (rows.astype(np.float64) ** 2).sum())
                found["lathe"].append(loss(ours[name].reshape(rows.shape)))
                if lib:
                    found["llama.cpp"].append(loss(by_llama(lib, ty, rows)))
                values = by_package(ty, rows)
                if values is not None:
                    found["gguf"].append(loss(values))
            line = f"{ty.name:7} {kind:7} {len(matrices):4} matrices  lathe {np.mean(found['lathe']):.3e}"
            for peer in ("llama.cpp", "gguf"):
                if found[peer]:
                    ratios = np.array(found["lathe"]) / np.maximum(found[peer], 1e-300)
                    ratios[np.array(found["lathe"]) == 0] = 0
                    line += f"  {peer} {np.mean(found[peer]):.3e} ratio {np.mean(found['lathe']) / max(np.mean(found[peer]), 1e-300):.3f} worst {ratios.max():.3f}"
            print(line, flush=True)


main()
