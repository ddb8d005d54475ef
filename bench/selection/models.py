"""Programs to select instructions in: ResNet-50, MobileNet-v2 and an encoder of a transformer, and their forms in 8 bits.

    pip install onnx==1.23.2 onnxruntime==1.32.0 numpy
    python models.py FOLDER                     # FOLDER/NAME.onnx and FOLDER/NAME.npz, its inputs
    for m in resnet50 mobilenet_v2 encoder; do
        lathe select FOLDER/$m.onnx --input FOLDER/$m.npz --target gemm16 --run
        lathe select FOLDER/${m}_int8.onnx --input FOLDER/$m.npz --target vnni
        lathe select FOLDER/$m.onnx --input FOLDER/$m.npz --target bf16 --approximate
    done

ResNet-50 is that of the package `onnx`; the others are built here in the published sizes. Weights are random, of a fixed seed. The
8-bit forms are those of ONNX Runtime's static quantization (QDQ, per channel).
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "peers"))
from onnx_models import package, weights  # noqa: E402


class Program:
    """An ONNX graph on its way."""

    def __init__(self, seed):
        self.r = np.random.default_rng(seed)
        self.nodes, self.tensors = [], []

    def op(self, kind, *args, **attrs):
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(args), [name], **attrs))
        return name

    def tensor(self, value):
        name = f"w{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, *shape, fan):
        return self.tensor((self.r.standard_normal(shape) / math.sqrt(fan)).astype(np.float32))

    def model(self, name, shape, result):
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        y = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
        g = helper.make_graph(self.nodes, name, [x], [y], self.tensors)
        return helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def mobilenet_v2():
    """Sandler et al. 2018, width 1, batch norms folded."""
    p = Program(1)

    def conv(x, c, m, k, stride, groups=1, relu=True):
        w, b = p.weight(m, c // groups, k, k, fan=c // groups * k * k / 2), p.weight(m, fan=100)
        pad = [k // 2] * 4
        y = p.op("Conv", x, w, b, kernel_shape=[k, k], strides=[stride] * 2, pads=pad, group=groups)
        return p.op("Clip", y, zero, six) if relu else y

    zero, six = p.tensor(np.float32(0)), p.tensor(np.float32(6))
    x, c = conv("x", 3, 32, 3, 2), 32
    for t, m, n, s in [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]:
        for i in range(n):
            stride, hidden = s if i == 0 else 1, c * t
            y = conv(x, c, hidden, 1, 1) if t > 1 else x
            y = conv(y, hidden, hidden, 3, stride, groups=hidden)
            y = conv(y, hidden, m, 1, 1, relu=False)
            x = p.op("Add", x, y) if stride == 1 and c == m else y
            c = m
    x = conv(x, 320, 1280, 1, 1)
    x = p.op("GlobalAveragePool", x)
    x = p.op("Flatten", x, axis=1)
    x = p.op("Gemm", x, p.weight(1000, 1280, fan=1280), p.weight(1000, fan=100), transB=1)
    return p.model("mobilenet_v2", [1, 3, 224, 224], x)


def encoder(positions=128, layers=6, width=384, heads=12, inner=1536):
    """The layers of a sentence encoder of MiniLM's size (Wang et al. 2020), on vectors of its positions."""
    p = Program(2)
    one, half, root = (p.tensor(np.float32(v)) for v in (1, 0.5, math.sqrt(2)))
    scale = p.tensor(np.float32(1 / math.sqrt(width // heads)))
    split = p.tensor(np.array([1, positions, heads, width // heads], np.int64))
    whole = p.tensor(np.array([1, positions, width], np.int64))

    def dense(x, n, m):
        return p.op("Add", p.op("MatMul", x, p.weight(n, m, fan=n)), p.weight(m, fan=100))

    def norm(x):
        g, b = p.tensor(np.ones(width, np.float32)), p.tensor(np.zeros(width, np.float32))
        return p.op("LayerNormalization", x, g, b, axis=-1, epsilon=1e-12)

    x = norm("x")
    for _ in range(layers):
        q, k, v = (p.op("Reshape", dense(x, width, width), split) for _ in range(3))
        q, v = (p.op("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
        k = p.op("Transpose", k, perm=[0, 2, 3, 1])
        s = p.op("Softmax", p.op("Mul", p.op("MatMul", q, k), scale), axis=-1)
        a = p.op("Transpose", p.op("MatMul", s, v), perm=[0, 2, 1, 3])
        x = norm(p.op("Add", x, dense(p.op("Reshape", a, whole), width, width)))
        h = dense(x, width, inner)
        erf = p.op("Add", p.op("Erf", p.op("Div", h, root)), one)
        h = p.op("Mul", p.op("Mul", h, erf), half)
        x = norm(p.op("Add", x, dense(h, inner, width)))
    return p.model("encoder", [1, positions, width], x)


def resnet50():
    return weights(onnx.load(package("onnx") / "backend/test/data/light/light_resnet50.onnx"), 0)


def quantized(path, to, inputs):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Once(CalibrationDataReader):
        def __init__(self):
            self.left = [inputs]

        def get_next(self):
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as tmp:
        # The quantizer wants a recent set of operators.
        model = onnx.load(path)
        if model.opset_import[0].version < 13:
            model = onnx.version_converter.convert_version(model, 13)
        onnx.save(model, Path(tmp) / "m.onnx")
        quantize_static(
            Path(tmp) / "m.onnx", to, Once(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("folder", type=Path)
    folder = a.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    r = np.random.default_rng(7)
    for name, model in [("resnet50", resnet50()), ("mobilenet_v2", mobilenet_v2()), ("encoder", encoder()), ("encoder_50", encoder(50))]:
        onnx.save(model, folder / f"{name}.onnx")
        dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
        inputs = {model.graph.input[0].name: r.standard_normal(dims).astype(np.float32)}
        np.savez(folder / f"{name}.npz", **inputs)
        quantized(folder / f"{name}.onnx", folder / f"{name}_int8.onnx", inputs)
        print(name, flush=True)


if __name__ == "__main__":
    main()
