"""The usual networks with random weights, small, as ONNX Runtime's quantizer writes them."""

import itertools
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx

import qlinear  # noqa: F401  # before onnxruntime: it switches telemetry off
from study.random_networks import Graph, as_model

from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

# --- networks: from the name of the input to the name of the output; the input's shape beside it


def mobilenet_v1(g: Graph, x: str) -> str:
    x = g.relu6(g.conv(x, 3, 8, strides=[2, 2]))
    for inputs, outputs, stride in ((8, 16, 1), (16, 24, 2)):
        x = g.relu6(g.conv(x, inputs, inputs, group=inputs, strides=[stride] * 2))
        x = g.relu6(g.conv(x, inputs, outputs, 1))
    x = g.add("GlobalAveragePool", x)
    return g.add("Softmax", g.dense(g.add("Flatten", x), 24, 10), axis=1)


def mobilenet_v2(g: Graph, x: str) -> str:
    x = g.relu6(g.conv(x, 3, 8, strides=[2, 2]))
    for stride in (1, 2, 1):
        wide = g.relu6(g.conv(x, 8, 24, 1))
        wide = g.relu6(g.conv(wide, 24, 24, group=24, strides=[stride] * 2))
        narrow = g.conv(wide, 24, 8, 1)
        x = g.add("Add", x, narrow) if stride == 1 else narrow
    x = g.add("ReduceMean", x, axes=[2, 3], keepdims=0)
    return g.dense(x, 8, 10)


def ds_cnn(g: Graph, x: str) -> str:
    x = g.relu(g.conv(x, 1, 8, 4, strides=[2, 2], pads=[1, 1, 2, 2]))
    for _ in range(2):
        x = g.relu(g.conv(x, 8, 8, group=8))
        x = g.relu(g.conv(x, 8, 8, 1))
    x = g.add("AveragePool", x, kernel_shape=[5, 5], strides=[5, 5])
    return g.add("Softmax", g.dense(g.add("Reshape", x, g.shape(0, -1)), 16, 12), axis=-1)


def autoencoder(g: Graph, x: str) -> str:
    sizes = (40, 16, 8, 16, 40)
    for inputs, outputs in itertools.pairwise(sizes):
        x = g.dense(x, inputs, outputs)
        x = g.relu(x) if outputs != 40 else x
    return x


def u_net(g: Graph, x: str) -> str:
    first = g.relu(g.conv(x, 3, 8))
    down = g.add("MaxPool", first, kernel_shape=[2, 2], strides=[2, 2])
    low = g.relu(g.conv(down, 8, 16))
    w = g.constant(g.rng.normal(0, 0.1, (16, 8, 2, 2)).astype(np.float32), "w")
    up = g.add("ConvTranspose", low, w, kernel_shape=[2, 2], strides=[2, 2])
    both = g.add("Concat", first, up, axis=1)
    return g.add("Sigmoid", g.conv(g.relu(g.conv(both, 16, 8)), 8, 1, 1))


def lenet(g: Graph, x: str) -> str:
    for inputs, outputs in ((1, 4), (4, 8)):
        x = g.add("Tanh", g.conv(x, inputs, outputs, 5, pads=[0] * 4))
        x = g.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = g.add("Tanh", g.dense(g.add("Flatten", x), 8 * 16, 20))
    return g.add("LogSoftmax", g.dense(x, 20, 10), axis=1)


def vgg(g: Graph, x: str) -> str:
    for inputs, outputs in ((3, 8), (8, 16)):
        x = g.relu(g.conv(x, inputs, outputs))
        x = g.relu(g.conv(x, outputs, outputs))
        x = g.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = g.relu(g.dense(g.add("Flatten", x), 16 * 16, 16))
    return g.dense(x, 16, 10)


def squeeze_excite(g: Graph, x: str) -> str:
    x = g.conv(x, 3, 8)
    x = g.add("Mul", x, g.add("HardSigmoid", x, alpha=1 / 6, beta=0.5))
    gate = g.relu(g.conv(g.add("GlobalAveragePool", x), 8, 4, 1))
    gate = g.add("Sigmoid", g.conv(gate, 4, 8, 1))
    x = g.add("Mul", x, gate)
    swish = g.add("Mul", x, g.add("Sigmoid", x))
    return g.dense(g.add("Flatten", g.add("GlobalAveragePool", swish)), 8, 10)


def yolo(g: Graph, x: str) -> str:
    x = g.add("LeakyRelu", g.conv(x, 3, 8, strides=[2, 2]), alpha=0.1)
    deep = g.add("LeakyRelu", g.conv(x, 8, 16, strides=[2, 2]), alpha=0.1)
    scales = g.constant(np.array([1, 1, 2, 2], np.float32))
    attributes = dict(mode="nearest", coordinate_transformation_mode="asymmetric")
    up = g.add("Resize", deep, "", scales, nearest_mode="floor", **attributes)
    y = g.conv(g.add("Concat", x, up, axis=1), 24, 12, 1)
    y = g.add("Transpose", g.add("Reshape", y, g.shape(0, 2, 6, -1)), perm=[0, 1, 3, 2])
    boxes, rest = g.add("Split", y, g.shape(4, 2), outputs=2, axis=3)
    return g.add("Concat", g.add("Sigmoid", boxes), rest, axis=3)


def resnet(g: Graph, x: str) -> str:
    x = g.relu(g.conv(x, 3, 8, 7, strides=[2, 2]))
    x = g.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    y = g.conv(g.relu(g.conv(x, 8, 4, 1)), 4, 8)
    x = g.relu(g.add("Add", x, y))
    y = g.conv(g.relu(g.conv(x, 8, 16, strides=[2, 2])), 16, 16)
    x = g.relu(g.add("Add", g.conv(x, 8, 16, 1, strides=[2, 2]), y))
    return g.dense(g.add("Flatten", g.add("GlobalAveragePool", x)), 16, 10)


def transformer(g: Graph, x: str) -> str:
    """One block: x (batch, 6 tokens, 16)."""
    heads = []
    for perm in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)):
        part = g.add("Reshape", g.matmul(x, 16, 16), g.shape(0, 0, 2, 8))
        heads.append(g.add("Transpose", part, perm=list(perm)))
    scores = g.add("Div", g.add("MatMul", *heads[:2]), g.constant(np.float32(8**0.5)))
    mixed = g.add("MatMul", g.add("Softmax", scores, axis=-1), heads[2])
    mixed = g.add("Transpose", mixed, perm=[0, 2, 1, 3])
    mixed = g.add("Reshape", mixed, g.shape(0, 0, 16))
    x = normalized(g, g.add("Add", x, g.matmul(mixed, 16, 16)))
    wide = g.matmul(x, 16, 32)
    erf = g.add("Erf", g.add("Div", wide, g.constant(np.float32(2**0.5))))
    gelu = g.add("Mul", wide, g.add("Add", erf, g.constant(np.float32(1))))
    gelu = g.add("Mul", gelu, g.constant(np.float32(0.5)))
    return normalized(g, g.add("Add", x, g.matmul(gelu, 32, 16)))


def normalized(g: Graph, x: str) -> str:
    scale = g.constant(g.rng.uniform(0.5, 1.5, 16).astype(np.float32))
    return g.add("LayerNormalization", x, scale, g.constant(np.zeros(16, np.float32)), axis=-1)


def wavenet(g: Graph, x: str) -> str:
    """Dilated convolutions in one dimension, gated, with residuals: x (batch, 4, 32)."""
    x = g.conv(x, 4, 8, dims=1)
    for dilation in (1, 2, 4):
        options = dict(dims=1, dilations=[dilation])
        gate = g.add("Sigmoid", g.conv(x, 8, 8, **options))
        y = g.add("Mul", g.add("Tanh", g.conv(x, 8, 8, **options)), gate)
        x = g.add("Add", x, g.conv(y, 8, 8, 1, dims=1))
    x = g.add("PRelu", x, g.constant(g.rng.uniform(0, 0.3, (8, 1)).astype(np.float32)))
    padded = g.add("Pad", x, g.shape(0, 0, 1, 0, 0, 1))
    part = g.add("Slice", padded, g.shape(1), g.shape(31), g.shape(2))
    return g.add("ReduceMean", part, axes=[2], keepdims=0)


NETWORKS: dict[str, tuple[Callable[[Graph, str], str], tuple[int, ...]]] = {
    "mobilenet_v1": (mobilenet_v1, (3, 16, 16)),
    "mobilenet_v2": (mobilenet_v2, (3, 16, 16)),
    "ds_cnn": (ds_cnn, (1, 20, 10)),
    "autoencoder": (autoencoder, (40,)),
    "u_net": (u_net, (3, 8, 8)),
    "lenet": (lenet, (1, 28, 28)),
    "vgg": (vgg, (3, 16, 16)),
    "squeeze_excite": (squeeze_excite, (3, 8, 8)),
    "yolo": (yolo, (3, 16, 16)),
    "resnet": (resnet, (3, 32, 32)),
    "transformer": (transformer, (6, 16)),
    "wavenet": (wavenet, (4, 32)),
}


def float_network(name: str, seed: int = 0) -> onnx.ModelProto:
    """A network in float32; its batch is symbolic."""
    build, shape = NETWORKS[name]
    g = Graph(seed)
    return as_model(g, name, build(g, "x"), shape)


# --- forms: what ONNX Runtime's quantizer writes of them

INT8, UINT8 = QuantType.QInt8, QuantType.QUInt8
STATIC = {
    f"{form.name}-{act.name[1:].lower()}-{w.name[1:].lower()}{extra}": dict(
        quant_format=form, activation_type=act, weight_type=w, **options
    )
    for form in (QuantFormat.QDQ, QuantFormat.QOperator)
    for act, w in ((INT8, INT8), (UINT8, INT8), (UINT8, UINT8))
    for extra, options in {
        "": {},
        "-channels": dict(per_channel=True),
        "-reduced": dict(reduce_range=True),
        "-symmetric": dict(extra_options={"ActivationSymmetric": True}),
    }.items()
} | {
    f"QDQ-{act.name[1:].lower()}-{w.name[1:].lower()}{extra}": dict(
        quant_format=QuantFormat.QDQ, activation_type=act, weight_type=w, **options
    )
    for act, w in (
        (QuantType.QInt16, INT8),
        (QuantType.QUInt16, INT8),
        (QuantType.QUInt16, UINT8),
        (INT8, QuantType.QInt4),
        (UINT8, QuantType.QUInt4),
        (QuantType.QUInt16, QuantType.QInt4),
    )
    for extra, options in {
        "": {},
        "-channels": dict(per_channel=True),
        "-contrib": dict(extra_options={"UseQDQContribOps": True}),
    }.items()
}
DYNAMIC = {
    "dynamic-int8": dict(weight_type=INT8),
    "dynamic-uint8": dict(weight_type=UINT8),
    "dynamic-int8-channels": dict(weight_type=INT8, per_channel=True),
    "dynamic-int8-reduced": dict(weight_type=INT8, reduce_range=True),
}
FORMS = [*STATIC, *DYNAMIC]


class Random(CalibrationDataReader):
    def __init__(self, shape: tuple[int, ...]):
        rng = np.random.default_rng(7)
        self.feeds: Iterator = iter(
            [{"x": rng.normal(0, 1, (4, *shape)).astype(np.float32)} for _ in range(4)]
        )

    def get_next(self) -> dict | None:
        return next(self.feeds, None)


def quantized(name: str, form: str, seed: int = 0) -> onnx.ModelProto:
    """The network in one of :data:`FORMS`."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"
        onnx.save(float_network(name, seed), before)
        if form in STATIC:
            quantize_static(before, after, Random(NETWORKS[name][1]), **STATIC[form])
        else:
            quantize_dynamic(before, after, **DYNAMIC[form])
        return onnx.load(after)
