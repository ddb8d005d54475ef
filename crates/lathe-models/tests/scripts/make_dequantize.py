"""Writes tests/data/dequantize.bin: blocks of every supported type and the f32 values the `gguf` package decodes.

Layout, little-endian, repeated per type: u32 type id, u32 byte count, the bytes, u32 value count, f32 values.
Run with the packages of bench/peers/requirements.txt.
"""

import struct
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize, quantize

rng = np.random.default_rng(7)
SIMPLE = (T.F32, T.F16, T.BF16)
BLOCKS = (T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL, T.IQ4_XS)
# Where the 16-bit floats of a block are, in bytes.
HALVES = {T.Q4_0: (0,), T.Q4_1: (0, 2), T.Q5_0: (0,), T.Q5_1: (0, 2), T.Q8_0: (0,), T.Q2_K: (80, 82), T.Q3_K: (108,),
          T.Q4_K: (0, 2), T.Q5_K: (0, 2), T.Q6_K: (208,), T.IQ4_NL: (0,), T.IQ4_XS: (0,)}
out = bytearray()
for ty in SIMPLE + BLOCKS:
    if ty in SIMPLE:
        values = (rng.standard_normal((2, 64)) * np.array([[1.0], [1e-3]])).astype(np.float32)
        values[0, :3] = (0.0, -0.0, 100.0)
        data = values if ty == T.F32 else values.astype(np.float16) if ty == T.F16 else quantize(values, ty)
        raw = np.ascontiguousarray(data).tobytes()
        decoded = dequantize(np.frombuffer(raw, np.uint8), ty) if ty == T.BF16 else data.astype(np.float32)
    else:  # any bits, under a usual, a subnormal and a large scale
        size = GGML_QUANT_SIZES[ty][1]
        blocks = rng.integers(0, 256, (3, size), dtype=np.uint8)
        for block, scale in zip(blocks, (0.0123, 3e-7, -900.0)):
            for at, factor in zip(HALVES[ty], (1.0, -0.37)):
                block[at : at + 2] = np.frombuffer(np.float16(scale * factor).tobytes(), np.uint8)
        raw = blocks.tobytes()
        decoded = dequantize(blocks.reshape(-1), ty)
    decoded = np.ascontiguousarray(decoded, np.float32)
    out += struct.pack("<II", int(ty), len(raw)) + raw + struct.pack("<I", decoded.size) + decoded.tobytes()
Path(__file__).parent.parent.joinpath("data/dequantize.bin").write_bytes(out)
