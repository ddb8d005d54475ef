#!/usr/bin/env python3
"""Writes products of bytes of each sign as cases like those of `generate.py`; NumPy says what they give.

    python bench/onnx/bytes.py crates/lathe-onnx/tests/cases

Zero points are missing, one number, or one for each row of the first factor and each column of the second.
"""

import pathlib
import sys

import numpy as np
import onnx
from generate import write
from onnx.backend.test.case.test_case import TestCase

SIGNS = {"i8": np.int8, "u8": np.uint8}


def case(name, signs, zeros):
    r = np.random.default_rng(7)
    of = lambda t, *shape: r.integers(np.iinfo(t).min, np.iinfo(t).max, shape, t, endpoint=True)
    m, n, k = 5, 32, 70
    a, b = of(SIGNS[signs[0]], m, k), of(SIGNS[signs[1]], k, n)
    p, q = {"none": ((), ()), "one": ((1,), (1,)), "each": ((m,), (n,))}[zeros]
    inputs = {"a": a, "b": b}
    if zeros != "none":
        inputs |= {"p": of(a.dtype.type, *p), "q": of(b.dtype.type, *q)}
    less = lambda x, z, shape: x.astype(np.int64) - (inputs[z].astype(np.int64).reshape(shape) if z in inputs else 0)
    y = (less(a, "p", (-1, 1)) @ less(b, "q", (1, -1))).astype(np.int32)
    info = lambda n, v: onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
    node = onnx.helper.make_node("MatMulInteger", list(inputs), ["y"])
    g = onnx.helper.make_graph([node], name, [info(n, v) for n, v in inputs.items()], [info("y", y)])
    model = onnx.helper.make_model(g, opset_imports=[onnx.helper.make_opsetid("", 22)], ir_version=10)
    return TestCase(name, name, None, None, model, [(list(inputs.values()), [y])], "node", 0, 0)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for signs, zeros in [(("i8", "i8"), "none"), (("i8", "u8"), "each"), (("u8", "u8"), "one"), (("u8", "i8"), "each")]:
        name = f"bytes_{'_'.join(signs)}_{zeros}"
        write(case(name, signs, zeros), pathlib.Path(sys.argv[1]) / name)


main()
