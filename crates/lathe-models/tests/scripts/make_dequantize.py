"""Writes tests/data/dequantize.bin: blocks of every supported type and the f32 values the `gguf` package decodes.

Layout, little-endian, repeated per type: u32 type id, u32 byte count, the bytes, u32 value count, f32 values.
Run with the packages of bench/peers/requirements.txt.
"""

import struct
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize, quantize

rng = np.random.default_rng(7)
out = bytearray()
for ty in (T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q8_0):
    values = (rng.standard_normal((2, 64)) * np.array([[1.0], [1e-3]])).astype(np.float32)
    values[0, :3] = (0.0, -0.0, 100.0)
    data = values if ty == T.F32 else values.astype(np.float16) if ty == T.F16 else quantize(values, ty)
    raw = np.ascontiguousarray(data).tobytes()
    if ty in (T.Q4_0, T.Q4_1, T.Q8_0):  # codes that quantize() never writes, under a subnormal and a large scale
        block = len(raw) // 4
        tail = rng.integers(0, 256, 2 * block, dtype=np.uint8)
        for i, scale in enumerate((3e-7, -900.0)):
            tail[i * block : i * block + 2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
            if ty == T.Q4_1:
                tail[i * block + 2 : i * block + 4] = np.frombuffer(np.float16(-0.37).tobytes(), np.uint8)
        raw += tail.tobytes()
    decoded = dequantize(np.frombuffer(raw, np.uint8), ty) if ty not in (T.F32, T.F16) else data.astype(np.float32)
    decoded = np.ascontiguousarray(decoded, np.float32)
    out += struct.pack("<II", int(ty), len(raw)) + raw + struct.pack("<I", decoded.size) + decoded.tobytes()
Path(__file__).parent.parent.joinpath("data/dequantize.bin").write_bytes(out)
