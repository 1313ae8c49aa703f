"""What each runtime computes in a node, as a formula that is held against it on every element.

:data:`FORMULAS` holds them by operator and name. Those of products are the conventions of chapter
13, by their names, and what no convention is: :func:`onednn`. One is not a formula but a bound,
``float32``: the runtime computes in float32, in an order of its own, and each of its integers is
the exact value rounded, or lies beside it where the exact value is as near to a tie as float32's
rounding errors can reach (Higham, 2002, section 3.1: the error of a sum of n products in any order
is at most g(n) times the sum of their magnitudes, g(n) = n u / (1 - n u), u = 2**-24).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import ml_dtypes
import numpy as np

from qlinear.conventions import CONVENTIONS
from qlinear.hardware import requantizers
from qlinear.onnx_model import Model, Node
from qlinear.operators import arithmetic as ar
from qlinear.operators import qlinear_conv as qc
from qlinear.operators import qlinear_conv_fast as fast
from qlinear.operators.qlinear_add import fma, qlinear_add
from qlinear.operators.qlinear_conv import Conv
from study import quantize

F = np.float32
UNIT = 2.0**-24  # float32's unit roundoff
Values = dict[str, np.ndarray]


# --- products: stage 1 once, stage 2 by name


@dataclass(frozen=True, eq=False)
class Products:
    """Stage 1 of a convolution or dense layer, which all of its formulas share."""

    conv: Conv
    sums: np.ndarray  # int32 (N, M, ...), before the bias
    padded: np.ndarray  # int8 (N, C, ...): x with its padding
    geo: qc.Geometry
    shape: tuple[int, ...]  # of y

    @property
    def taps(self) -> int:
        return int(self.conv.w[0].size)

    @property
    def acc(self) -> np.ndarray:
        return qc.add_bias(self.sums, self.conv.B)

    @cached_property
    def magnitudes(self) -> np.ndarray:
        """int32 (N, M, ...): sum of |x - x_zero| * |w|."""
        zero = int(self.conv.x_zero_point)
        x = np.abs(self.padded.astype(np.int16) - zero).astype(np.uint8)
        w = np.abs(self.conv.w.astype(np.int16)).astype(np.uint8)
        none = np.zeros((), np.uint8)
        return fast.accumulate(x, none, w, np.zeros(len(w), np.uint8), self.geo)


def products(model: Model, node: Node, values: Values) -> Products:
    conv = quantize.layer(model, node)
    x = values[node.inputs[0]]
    wide = x.reshape(*x.shape, 1, 1) if x.ndim == 2 else x
    geo = conv.geometry(wide.shape)
    padded = qc.pad(wide, conv.x_zero_point, geo)
    sums = fast.accumulate(padded, conv.x_zero_point, conv.w, conv.w_zero_point, geo)
    shape = sums.shape[:2] if x.ndim == 2 else sums.shape
    return Products(conv, sums, padded, geo, shape)


def by_convention(name: str, of: Products) -> np.ndarray:
    return CONVENTIONS[name].of_layer(of.conv)(of.acc).reshape(of.shape)


def onednn(of: Products) -> np.ndarray:
    """(float32(sums) * (x' * w_scale) + bias) * (1 / y_scale) + zero point, then ties to even.

    Each step is rounded to float32; x' is 1 / (1 / x_scale), and the bias a float32 of its own.
    """
    conv = of.conv
    x = F(1) / (F(1) / F(conv.x_scale))
    scale = ar.per_channel(np.broadcast_to(x * conv.w_scale, len(conv.w)), of.sums.ndim)
    real = of.sums.astype(F) * scale + ar.per_channel(float_bias(conv), of.sums.ndim)
    zero = F(int(conv.y_zero_point) + 128)  # of uint8
    y = np.rint(real * (F(1) / F(conv.y_scale)) + zero) - 128
    return np.clip(y, -128, 127).astype(np.int8).reshape(of.shape)


def fbgemm(of: Products) -> np.ndarray:
    """The convention fbgemm, of a float32 bias that is divided by the scales and added in float32.

    Source: FBGEMM, include/fbgemm/OutputProcessing-inl.h, ReQuantizeOutput of a float bias.
    """
    conv = of.conv
    scale = np.broadcast_to(F(conv.x_scale) * conv.w_scale, len(conv.w))
    bias, factor = (
        ar.per_channel(v, of.sums.ndim) for v in (float_bias(conv) / scale, scale / F(conv.y_scale))
    )
    y = np.rint((of.sums.astype(F) + bias) * factor) + int(conv.y_zero_point)
    return _int8(y).reshape(of.shape)


def unscaled_bias(of: Products) -> np.ndarray:
    """The bias added as if it were a real number already, where the scales are per channel."""
    conv = of.conv
    if np.size(conv.w_scale) == 1:
        return by_convention("onnxruntime", of)
    scale, bias = (ar.per_channel(v, of.sums.ndim) for v in (conv.x_scale * conv.w_scale, conv.B))
    real = of.sums * scale.astype(np.float64) + bias
    return _int8(np.rint(real / np.float64(conv.y_scale)) + int(conv.y_zero_point))


def float_bias(conv: Conv) -> np.ndarray:
    """The bias as PyTorch's layers and QDQ files hold it: float32 (M,)."""
    scale = conv.x_scale.astype(np.float64) * conv.w_scale.astype(np.float64)
    return np.broadcast_to(conv.B * scale, len(conv.w)).astype(F)


def within_float32(of: Products, y: np.ndarray) -> np.ndarray:
    """Whether each integer is one that float32 arithmetic, in any order, can round to."""
    conv = of.conv
    scale = conv.x_scale.astype(np.float64) * conv.w_scale / conv.y_scale
    scale = ar.per_channel(np.broadcast_to(scale, len(conv.w)), of.sums.ndim)
    exact = of.acc * scale
    bias = ar.per_channel(np.abs(conv.bias.astype(np.float64)), of.sums.ndim)
    size = (of.magnitudes + bias) * scale
    return within(exact, size, of.taps + 8, int(conv.y_zero_point), y.reshape(exact.shape))


def within_bfloat16(of: Products, y: np.ndarray) -> np.ndarray:
    """As :func:`within_float32`, with x, the weights and the bias rounded to bfloat16 before."""
    conv = of.conv

    def narrow(values: np.ndarray) -> np.ndarray:
        return values.astype(ml_dtypes.bfloat16).astype(np.float64)

    x = narrow((of.padded.astype(F) - F(int(conv.x_zero_point))) * F(conv.x_scale))
    scale = np.broadcast_to(conv.w_scale, len(conv.w)).reshape(-1, *[1] * (conv.w.ndim - 1))
    w = narrow(conv.w.astype(F) * scale)
    rows = w.reshape(of.geo.group, -1, of.taps)
    columns = qc.patches(x, of.geo)  # (N, group, taps, positions)
    exact, size = (
        (r @ c).reshape(of.sums.shape) / np.float64(conv.y_scale)
        for r, c in ((rows, columns), (np.abs(rows), np.abs(columns)))
    )
    bias = ar.per_channel(narrow(float_bias(conv)) / np.float64(conv.y_scale), of.sums.ndim)
    zero = int(conv.y_zero_point)
    return within(exact + bias, size + np.abs(bias), of.taps + 8, zero, y.reshape(exact.shape))


def fused_within_float32(of: Products, add: "Pair", y: np.ndarray) -> np.ndarray:
    """As :func:`within_float32`, of a layer and the add behind it without the rounding between.

    The layer's real number is still cut to the range of its integers.
    """
    conv, y_scale = of.conv, np.float64(add.scales[2])
    low, high = ((v - int(conv.y_zero_point)) * conv.y_scale / y_scale for v in (-128, 127))
    scale = conv.x_scale.astype(np.float64) * conv.w_scale / y_scale
    scale = ar.per_channel(np.broadcast_to(scale, len(conv.w)), of.sums.ndim)
    other = (add.b.astype(np.float64) - add.zeros[1]) * add.scales[1] / y_scale
    bias = ar.per_channel(np.abs(conv.bias.astype(np.float64)), of.sums.ndim)
    size = (of.magnitudes + bias) * scale + np.abs(other)
    exact = np.clip(of.acc * scale, low, high) + other
    return within(exact, size, of.taps + 12, add.zeros[2], y)


def within(
    exact: np.ndarray, size: np.ndarray, roundings: int, zero: int, y: np.ndarray
) -> np.ndarray:
    """Whether y is exact + zero rounded, give or take what so many float32 roundings can move.

    Args:
        exact: in steps of y's scale; size: the sum of the magnitudes that it is made of, likewise.
    """
    reach = roundings * UNIT / (1 - roundings * UNIT) * (size + np.abs(exact) + abs(zero) + 128)
    low, high = (np.clip(np.rint(exact + s * reach) + zero, -128, 127) for s in (-1, 1))
    return (y >= low) & (y <= high)


# --- the residual add


@dataclass(frozen=True)
class Pair:
    """What a residual add sees."""

    a: np.ndarray  # int8
    b: np.ndarray
    scales: tuple[np.float32, np.float32, np.float32]  # of a, b and y
    zeros: tuple[int, int, int]


def pair(model: Model, node: Node, values: Values) -> Pair:
    of = model.arguments(node)
    a, b = values[node.inputs[0]], values[node.inputs[3]]
    scales = tuple(F(of[f"{k}_scale"]) for k in "ABC")
    return Pair(a, b, scales, tuple(int(of[f"{k}_zero_point"]) for k in "ABC"))


def _int8(y: np.ndarray) -> np.ndarray:
    return np.clip(y, -128, 127).astype(np.int8)


def add_onnxruntime(of: Pair) -> np.ndarray:
    terms = [(v, s, np.int8(z)) for v, s, z in zip((of.a, of.b), of.scales, of.zeros, strict=False)]
    return qlinear_add(*terms[0], *terms[1], of.scales[2], np.int8(of.zeros[2]))


def q31(scale: float) -> tuple[int, int]:
    """A multiplier of 31 bits, and how far to shift left (right where negative)."""
    multiplier, right = requantizers.fixed_point(np.array([scale], np.float64), 31, half_up=True)
    return int(multiplier[0]), 31 - int(right[0])


def two_roundings(v: np.ndarray, multiplier: int, left: int, second: str = "half away"):
    """The upper half of v * multiplier, half up; shifted right and rounded again."""
    upper = requantizers.shift_right(
        (v.astype(np.int64) << max(left, 0)) * multiplier, np.int64(31), "half up"
    )
    return requantizers.shift_right(upper, np.int64(-left), second) if left < 0 else upper


def add_tflite(of: Pair) -> np.ndarray:
    """Both terms shifted left by 20, scaled to twice the larger scale, added, scaled to y's.

    Source: tensorflow/lite/kernels/add.cc, Prepare; kernels/internal/reference/add.h,
    AddElementwise.
    """
    a_scale, b_scale, y_scale = (float(s) for s in of.scales)
    twice = 2 * max(a_scale, b_scale)
    total = 0
    for v, scale, zero in ((of.a, a_scale, of.zeros[0]), (of.b, b_scale, of.zeros[1])):
        total = total + two_roundings((v.astype(np.int64) - zero) << 20, *q31(scale / twice))
    return _int8(two_roundings(total, *q31(twice / ((1 << 20) * y_scale))) + of.zeros[2])


def add_xnnpack(of: Pair) -> np.ndarray:
    """Both terms times multipliers, the greater of 21 bits, added, shifted right, half up.

    Source: XNNPACK, src/microparams-init.c, xnn_init_qs8_add_minmax_scalar_params.
    """
    ratios = [F(s / of.scales[2]) for s in of.scales[:2]]
    shift = 20 - (int(np.frexp(max(ratios))[1]) - 1)
    a, b = (int(np.rint(np.ldexp(np.float64(r), shift))) for r in ratios)
    total = (of.a.astype(np.int64) - of.zeros[0]) * a + (of.b.astype(np.int64) - of.zeros[1]) * b
    return _int8(requantizers.shift_right(total, np.int64(shift), "half up") + of.zeros[2])


def add_pytorch(of: Pair) -> np.ndarray:
    """Both terms to float32, added, times 1 / y_scale, ties to even."""
    terms = (
        (v.astype(F) - F(z)) * s for v, s, z in zip((of.a, of.b), of.scales, of.zeros, strict=False)
    )
    return _int8(np.rint(sum(terms) * (F(1) / of.scales[2])) + of.zeros[2])


def add_wrapping(of: Pair) -> np.ndarray:
    """In float32, the zero point added, cut toward zero, and the low 8 bits: not saturated."""
    a, b = (v.astype(F) - F(z) for v, z in zip((of.a, of.b), of.zeros, strict=False))
    total = fma(a, np.full_like(a, of.scales[0]), b * of.scales[1])
    inverse, zero = (np.full_like(a, v) for v in (F(1) / of.scales[2], of.zeros[2]))
    y = np.trunc(fma(total, inverse, zero))
    return y.astype(np.int64).astype(np.int8)


def add_within_float32(of: Pair, y: np.ndarray) -> np.ndarray:
    terms = [
        (v.astype(np.float64) - z) * np.float64(s) / np.float64(of.scales[2])
        for v, s, z in zip((of.a, of.b), of.scales, of.zeros, strict=False)
    ]
    return within(sum(terms), sum(map(np.abs, terms)), 8, of.zeros[2], y)


# --- the pool


@dataclass(frozen=True)
class Pool:
    """What a global average pool sees."""

    sums: np.ndarray  # int64 (N, C, 1, 1), of the stored integers
    pixels: int
    scales: tuple[np.float32, np.float32]  # of x and y
    zeros: tuple[int, int]


def pool(model: Model, node: Node, values: Values) -> Pool:
    of, x = model.arguments(node), values[node.inputs[0]]
    sums = x.sum((2, 3), dtype=np.int64, keepdims=True)
    zeros = int(of["x_zero_point"]), int(of["y_zero_point"])
    return Pool(sums, x.shape[2] * x.shape[3], (F(of["x_scale"]), F(of["y_scale"])), zeros)


def pool_onnxruntime(of: Pool) -> np.ndarray:
    acc = of.sums - of.pixels * of.zeros[0]
    factor = of.scales[0] / (of.scales[1] * F(of.pixels))
    return _int8(np.rint(acc.astype(F) * factor) + of.zeros[1])


def pool_tflite(of: Pool) -> np.ndarray:
    """The sum less its zero points times a multiplier of 31 bits, which the count has divided.

    Source: tensorflow/lite/kernels/internal/reference/integer_ops/mean.h and reduce.cc.
    """
    multiplier, left = q31(float(of.scales[0]) / float(of.scales[1]))
    shift = min(of.pixels.bit_length() - 1, 31 + left)
    multiplier, left = (multiplier << shift) // of.pixels, left - shift
    acc = of.sums - of.pixels * of.zeros[0]
    return _int8(two_roundings(acc, multiplier, left) + of.zeros[1])


def pool_tflite_optimized(of: Pool) -> np.ndarray:
    """The sum of the stored integers, scaled; the zero points are one number, cut to an integer.

    Source: tensorflow/lite/kernels/internal/optimized/integer_ops/mean.h.
    """
    x_scale, y_scale = of.scales
    bias = of.zeros[1] - int(F(of.zeros[0]) * x_scale / y_scale)
    constants = q31(float(x_scale / (F(of.pixels) * y_scale)))
    return _int8(two_roundings(of.sums, *constants, "half up") + bias)


def pool_within_float32(of: Pool, y: np.ndarray) -> np.ndarray:
    ratio = np.float64(of.scales[0]) / np.float64(of.scales[1]) / of.pixels
    acc = (of.sums - of.pixels * of.zeros[0]) * ratio
    size = of.pixels * (128 + abs(of.zeros[0])) * ratio
    return within(acc, size, of.pixels + 8, of.zeros[1], y)


# --- integers to real numbers


@dataclass(frozen=True)
class Stored:
    """What DequantizeLinear sees."""

    q: np.ndarray  # int8
    scale: np.float32
    zero: int


def stored(model: Model, node: Node, values: Values) -> Stored:
    of = model.arguments(node)
    return Stored(values[node.inputs[0]], F(of["x_scale"]), int(of["x_zero_point"]))


def real_onnxruntime(of: Stored) -> np.ndarray:
    return (of.q.astype(F) - F(of.zero)) * of.scale


def real_separately(of: Stored) -> np.ndarray:
    """q * scale - zero point * scale."""
    return of.q.astype(F) * of.scale + F(-of.zero) * of.scale


def real_within_float32(of: Stored, y: np.ndarray) -> np.ndarray:
    scale, q = np.float64(of.scale), of.q.astype(np.float64)
    size = (np.abs(q) + abs(of.zero)) * scale
    return np.abs(y - (q - of.zero) * scale) <= 4 * UNIT * size


# --- the list

FLOAT32, BFLOAT16 = "float32", "bfloat16"
PRODUCTS: dict[str, Callable[[Products], np.ndarray]] = {
    **{name: partial(by_convention, name) for name in CONVENTIONS},
    "onednn": onednn,
    "fbgemm, float bias": fbgemm,
    "unscaled-bias": unscaled_bias,
}
#: Of each operator: what its formulas share, the formulas by name, and the bound.
FORMULAS: dict[str, tuple[Callable, dict[str, Callable], Callable]] = {
    "QLinearConv": (products, PRODUCTS, within_float32),
    "QGemm": (products, PRODUCTS, within_float32),
    "QLinearAdd": (
        pair,
        {"onnxruntime": add_onnxruntime, "tflite": add_tflite, "xnnpack": add_xnnpack,
         "pytorch": add_pytorch, "wrapping": add_wrapping},
        add_within_float32,
    ),
    "QLinearGlobalAveragePool": (
        pool,
        {"onnxruntime": pool_onnxruntime, "tflite": pool_tflite,
         "tflite-optimized": pool_tflite_optimized},
        pool_within_float32,
    ),
    "DequantizeLinear": (
        stored, {"onnxruntime": real_onnxruntime, "separately": real_separately},
        real_within_float32,
    ),
}  # fmt: skip


def of_engine(conv: str, add: str, pool: str, real: str = "onnxruntime") -> dict[str, str]:
    return {"QLinearConv": conv, "QGemm": conv, "QLinearAdd": add,
            "QLinearGlobalAveragePool": pool, "DequantizeLinear": real}  # fmt: skip


_ORT = of_engine("onnxruntime", "onnxruntime", "onnxruntime")
_FLOAT = of_engine(FLOAT32, FLOAT32, FLOAT32, FLOAT32)
#: Which formula each runtime was found to compute, by operator; what is not here is float32.
FOUND = {
    **dict.fromkeys(
        ("onnxruntime", "onnxruntime-unoptimized", "onnxruntime-qdq-int8allowed",
         "onnxruntime-qdq-uint8", "onnxruntime-qdq-uint8-x64quantprecision"), _ORT),
    "litert": of_engine("xnnpack-fp32", "xnnpack", "onnxruntime"),
    "litert-optimized": of_engine("tflite-optimized", "tflite", "tflite-optimized", FLOAT32),
    # its dense layer rounds once (its factor is float64, which parts from 31 bits on none of these
    # tensors: qlinear.tflite.reference.fully_connected), its convolution twice
    "litert-reference": {**of_engine("tflite", "tflite", "tflite"), "QGemm": "tflite-single"},
    "pytorch-fbgemm": of_engine("fbgemm, float bias", "pytorch", FLOAT32),
    "pytorch-qnnpack": of_engine("pytorch-qnnpack", "pytorch", FLOAT32),
    "pytorch-x86": of_engine("onednn", "pytorch", FLOAT32),
    "pytorch-onednn": of_engine("onednn", "pytorch", FLOAT32),
    # where the processor has them, its default is bfloat16's products; here in these layers alone
    "openvino-uint8-default": {**_FLOAT, "alone, 1x1": BFLOAT16},
    "openvino-default": {**_FLOAT, "alone, 1x1": BFLOAT16},
    "openvino-qoperator": of_engine("onnxruntime", "wrapping", "onnxruntime", FLOAT32),
    "iree-qoperator": of_engine("unscaled-bias", FLOAT32, FLOAT32),
}  # fmt: skip
#: Whose graph of the whole network is another than with outputs: whether a residual add and the
#: convolution before it are one there, rounded once.
FUSED = {"openvino": False, "openvino-uint8": True, "openvino-uint8-default": True}


def names_of(engine: str) -> dict[str, str]:
    return FOUND.get(engine, _FLOAT)


def name_of(engine: str, model: Model, node: Node, *, alone: bool = False) -> str:
    """The formula of a runtime in a node, or in a network of that node alone; empty for none."""
    names = names_of(engine)
    small = alone and "alone, 1x1" in names and node.op_type == "QLinearConv"
    if small and model.conv(node).w.shape[2:] == (1, 1):
        return names["alone, 1x1"]
    return names.get(node.op_type, "")


def unlike(operator: str, name: str, shared: object, y: np.ndarray) -> np.ndarray:
    """Which elements of y are not what the formula gives, or lie beyond the bound: bool."""
    _, formulas, bound = FORMULAS[operator]
    if name in (FLOAT32, BFLOAT16):
        fits = bound if name == FLOAT32 else within_bfloat16
        return ~fits(shared, y).reshape(y.shape)
    return formulas[name](shared) != y
