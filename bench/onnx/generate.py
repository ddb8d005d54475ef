#!/usr/bin/env python3
"""Writes the backend tests of the `onnx` package as folders that `node_suite` reads.

    pip install onnx==1.23.2
    python bench/onnx/generate.py FOLDER

One folder a case, `KIND/NAME`: `model.onnx`, `tolerance` (relative and absolute), and for each set of data a folder with
`input_N.pb` and `output_N.pb`, as the package's own command writes them for its stored cases.
"""

import pathlib
import shutil
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.model import collect_testcases as model_cases
from onnx.backend.test.case.node import collect_testcases as node_cases

PINNED = "1.23.2"


def message(value, info):
    """A value of a case as the message that its declared type asks for."""
    if hasattr(value, "SerializeToString"):
        return value
    kind = info.type.WhichOneof("value")
    if kind == "sequence_type":
        return numpy_helper.from_list(value, info.name)
    if kind == "optional_type":
        return numpy_helper.from_optional(value, info.name)
    if kind == "map_type":
        return numpy_helper.from_dict(value, info.name)
    return numpy_helper.from_array(np.asarray(value), info.name)


def write(case, folder):
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(case.model.SerializeToString())
    (folder / "tolerance").write_text(f"{case.rtol} {case.atol}\n")
    for i, (inputs, outputs) in enumerate(case.data_sets):
        data = folder / f"test_data_set_{i}"
        data.mkdir()
        for name, values, infos in (
            ("input", inputs, case.model.graph.input),
            ("output", outputs, case.model.graph.output),
        ):
            for j, (value, info) in enumerate(zip(values, infos)):
                (data / f"{name}_{j}.pb").write_bytes(message(value, info).SerializeToString())


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if onnx.__version__ != PINNED:
        sys.exit(f"onnx {onnx.__version__} is not {PINNED}, the version that the lists are of")
    out = pathlib.Path(sys.argv[1])
    counts = {}
    for case in node_cases(None) + [c for c in model_cases() if c.kind == "simple"]:
        write(case, out / case.kind / case.name)
        counts[case.kind] = counts.get(case.kind, 0) + 1
    stored = pathlib.Path(onnx.__file__).parent / "backend/test/data"
    for kind in ("pytorch-converted", "pytorch-operator"):
        shutil.copytree(stored / kind, out / kind)
        counts[kind] = len(list((out / kind).iterdir()))
    (out / "light").mkdir()
    for model in sorted((stored / "light").glob("*.onnx")):
        shutil.copy(model, out / "light")
    print(counts)


if __name__ == "__main__":
    main()
