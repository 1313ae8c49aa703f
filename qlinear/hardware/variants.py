"""The same network with other arithmetic: narrow accumulators, integer requantizers, analog arrays.

:func:`operators_with` makes an operator table for :func:`qlinear.engine.run` in which every layer
with weights uses another accumulator or another requantizer, or both; :func:`operators_on_arrays`
one in which each layer has an analog array of its own, or none.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from qlinear.engine import arguments
from qlinear.errors import UnusableInput
from qlinear.hardware import analog
from qlinear.hardware.analog import Array
from qlinear.hardware.draws import Noise
from qlinear.onnx_model import Model, Node
from qlinear.operators import OPERATORS
from qlinear.operators import qlinear_conv as qc
from qlinear.operators import qlinear_conv_fast as fast
from qlinear.operators.arithmetic import centred, requantize
from qlinear.operators.qgemm import as_conv
from qlinear.operators.qlinear_conv import Conv


def operators_with(
    accumulator: Callable[[np.ndarray], np.ndarray] | None = None,
    requantizer: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = requantize,
    summation: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None,
    stage_2: Callable[[np.ndarray, Conv], np.ndarray] | None = None,
) -> dict:
    """An operator table whose convolutions and dense layers use other arithmetic.

    Args:
        accumulator: maps the exact int32 accumulators (with bias) to those of the hardware.
        requantizer: replaces :func:`qlinear.operators.arithmetic.requantize`; takes acc, scale and
            y_zero_point.
        summation: computes int32 accumulators (N, M, positions) itself, from int32 columns
            (N, taps, positions), rows (M, taps) and bias (M,), group by group.
        stage_2: replaces the requantizer where it needs more of a layer than its factor; takes acc
            and the layer.

    With no arguments the table computes what the reference computes.
    """

    def layer(x: np.ndarray, conv: Conv) -> np.ndarray:
        if summation is None:
            geo = conv.geometry(x.shape)
            padded = qc.pad(x, conv.x_zero_point, geo)
            zeros = conv.x_zero_point, conv.w, conv.w_zero_point
            acc = qc.add_bias(fast.accumulate(padded, *zeros, geo), conv.B)
        else:
            acc = summed(x, conv, summation)
        if accumulator is not None:
            acc = accumulator(acc)
        if stage_2 is not None:
            return stage_2(acc, conv)
        return requantizer(acc, conv.factor, conv.y_zero_point)

    def conv(x: np.ndarray, *constants: np.ndarray, **attributes) -> np.ndarray:
        return layer(x, Conv(*constants, attributes=attributes))

    def gemm(A: np.ndarray, *constants: np.ndarray, transB: int = 0) -> np.ndarray:
        return layer(A[:, :, None, None], as_conv(*constants, transB=transB))[:, :, 0, 0]

    return OPERATORS | {("", "QLinearConv"): conv, ("com.microsoft", "QGemm"): gemm}


def summed(x: np.ndarray, conv: Conv, summation: Callable[..., np.ndarray]) -> np.ndarray:
    """Accumulators by ``summation``, which takes columns, rows and bias of one group."""
    geo = conv.geometry(x.shape)
    columns = qc.patches(centred(qc.pad(x, conv.x_zero_point, geo), conv.x_zero_point), geo)
    rows = centred(conv.w, conv.w_zero_point).reshape(len(conv.w), -1)
    parts = zip(np.split(rows, geo.group), np.split(conv.bias, geo.group), strict=True)
    sums = [summation(columns[:, g], *part) for g, part in enumerate(parts)]
    return np.concatenate(sums, axis=1).reshape(len(x), len(rows), *geo.out)


def record_of(node_type: str, constants: tuple, attributes: dict) -> Conv:
    """A layer's record from what follows its first input; a dense one as a 1x1 convolution."""
    if node_type == "QGemm":
        return as_conv(*constants, **attributes)
    return Conv(*constants, attributes=attributes)


def grouped_products(x: np.ndarray, conv: Conv) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A layer as arrays compute it: uint8 columns, int32 rows, and bias, each with its groups.

    Arrays take no negative inputs, so the columns hold x minus the least integer of its type, and
    what that adds, (x_zero_point - least) * sum(w), goes from the bias.

    Returns:
        (N, groups, taps, positions), (groups, M / groups, taps) and (groups, M / groups).
    """
    geo = conv.geometry(x.shape)
    least = np.iinfo(x.dtype).min
    padded = qc.pad(x, conv.x_zero_point, geo)
    columns = qc.patches((padded.astype(np.int32) - least).astype(np.uint8), geo)
    rows = centred(conv.w, conv.w_zero_point).reshape(geo.group, -1, columns.shape[2])
    shift = np.int32(int(conv.x_zero_point) - least)
    bias = conv.bias.reshape(rows.shape[:2]) - shift * rows.sum(axis=2, dtype=np.int32)
    return columns, rows, bias


def unsigned_products(x: np.ndarray, conv: Conv) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The products of a layer of one group: columns (N, taps, positions), rows (M, taps), bias.

    Raises:
        UnusableInput: it has more groups; :func:`grouped_products` takes them.
    """
    columns, rows, bias = grouped_products(x, conv)
    if len(rows) != 1:
        raise UnusableInput(f"{len(rows)} groups: one needed, or grouped_products")
    return columns[:, 0], rows[0], bias[0]


def on_array(x: np.ndarray, conv: Conv, array: Array, rng: Noise | None = None) -> np.ndarray:
    """A layer on analog arrays, each of its groups on its own: what it writes."""
    acc = analog.array_sum(*grouped_products(x, conv), array, rng)
    acc = acc.reshape(len(x), len(conv.w), *conv.geometry(x.shape).out)
    return requantize(acc, conv.factor, conv.y_zero_point)


def weighted(model: Model) -> dict[str, Node]:
    """The layers that can lie on arrays, by name."""
    return {node.name: node for node in model.nodes if node.op_type in ("QLinearConv", "QGemm")}


def operators_on_arrays(
    model: Model, arrays: Mapping[str, Array], rng: Noise | None = None
) -> dict:
    """An operator table in which the named layers lie on analog arrays, and the others are exact.

    Args:
        arrays: by the name of the node.
        rng: where the noise of conversions comes from, one stream for all layers.

    Raises:
        UnusableInput: a name is no layer with weights, or two layers share their weights but not
            their arrays.
    """
    layers = weighted(model)
    if unknown := sorted(set(arrays) - set(layers)):
        known = ", ".join(layers)
        raise UnusableInput(
            f"{model.path}: no layer {unknown[0]} with weights (there are: {known})"
        )
    by_weights: dict[int, Array | None] = {}
    for name, node in layers.items():
        # a node's function is told its inputs, not its name: its weights say which it is
        key = id(arguments(model, node, dict.fromkeys(node.inputs[:1], 0))[3])
        if by_weights.setdefault(key, arrays.get(name)) != arrays.get(name):
            raise UnusableInput(f"{model.path}: node {name} shares its weights, not its array")

    def operator(node_type: str) -> Callable[..., np.ndarray]:
        exact = OPERATORS[("com.microsoft" if node_type == "QGemm" else "", node_type)]

        def layer(x: np.ndarray, *constants: np.ndarray, **attributes) -> np.ndarray:
            array = by_weights.get(id(constants[2]))
            if array is None:
                return exact(x, *constants, **attributes)
            conv = record_of(node_type, constants, attributes)
            x4 = x[:, :, None, None] if node_type == "QGemm" else x
            y = on_array(x4, conv, array, rng)
            return y[:, :, 0, 0] if node_type == "QGemm" else y

        return layer

    conv, gemm = operator("QLinearConv"), operator("QGemm")
    return OPERATORS | {("", "QLinearConv"): conv, ("com.microsoft", "QGemm"): gemm}


def calibrated(
    model: Model,
    values: dict[str, np.ndarray],
    array: Array,
    share: float = 1.0,
    rng: Noise | None = None,
) -> dict[str, Array]:
    """The same array for every layer, with the range of its converter from the layer's own counts.

    A layer with groups has one range, that of all of them.

    Args:
        values: tensors of the exact network on the images that calibrate.
        share: of the counts that the range holds; 1 clips none of them.
    """
    found = {}
    for name, node in weighted(model).items():
        x, *constants = arguments(model, node, values)
        conv = record_of(node.op_type, tuple(constants), node.attributes)
        x4 = x[:, :, None, None] if node.op_type == "QGemm" else x
        columns, rows, _ = grouped_products(x4, conv)
        top = max(analog.observed(columns, rows, array, share, rng), 1.0)
        found[name] = replace(array, adc=replace(array.adc, top=top))
    return found
