"""The same network with 4 to 8 bits for weights and activations, from the stored calibration.

Narrow integers are kept in int8 arrays and saturate to their own range. With 8 bits this is ONNX
Runtime's own quantization, constant for constant.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from qlinear.onnx_model import Model
from qlinear.operators import OPERATORS
from study.quantize import float_name, layers, name_of


def read_ranges(path: Path) -> dict[str, tuple[np.float32, np.float32]]:
    """Each tensor's least and greatest calibrated value, widened to contain 0."""
    data = json.loads(path.read_text())["data"]
    ends = {
        name: [np.float32(entry[end]["data"][0]) for end in ("lowest", "highest")]
        for name, entry in data.items()
    }
    zero = np.float32(0)
    return {name: (min(low, zero), max(high, zero)) for name, (low, high) in ends.items()}


def activation(low: np.float32, high: np.float32, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale (float32) and zero point (int8) of a signed ``bits``-bit type for a range."""
    least = -(1 << (bits - 1))
    low, high = np.float64(low), np.float64(high)
    scale = np.float32((high - low) / ((1 << bits) - 1))
    return np.array(scale), np.array(np.int8(np.rint(least - low / scale)))


def quantized_weights(w: np.ndarray, bits: int, per_channel: bool) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric ``bits``-bit weights and their scale: int8, and float32 scalar or (M,)."""
    axes = tuple(range(1, w.ndim)) if per_channel else None
    top = (1 << (bits - 1)) - 1
    scale = (np.abs(w).max(axis=axes) / np.float32(top)).astype(np.float32)
    spread = scale.reshape(-1, *(1,) * (w.ndim - 1)) if per_channel else scale
    return np.clip(np.rint(w / spread), -top, top).astype(np.int8), scale


def at_widths(
    model: Model,
    float_model: Model,
    ranges: dict,
    w_bits: int,
    x_bits: int,
    per_channel: bool | set[str],
) -> Model:
    """``model`` with every constant made anew for other widths.

    Args:
        model: an int8 model in QOperator form, for its graph and the names of its constants.
        per_channel: for all layers, or the names of those that are.
    """
    constants = dict(model.constants)
    for node in model.nodes:
        for name in node.outputs:
            stem = name.removesuffix("_quantized")
            if f"{stem}_scale" in constants:
                low, high = ranges[float_name(float_model, name)]
                parts = activation(low, high, x_bits)
                constants[f"{stem}_scale"], constants[f"{stem}_zero_point"] = parts
    for node in layers(model):
        split = per_channel if isinstance(per_channel, bool) else node.name in per_channel
        w_name, scale_name, zero_name, bias_name, x_scale_name = (
            name_of(model, node, what)
            for what in ("w", "w_scale", "w_zero_point", "bias", "x_scale")
        )
        floats = float_model.constants
        w, w_scale = quantized_weights(floats[w_name.removesuffix("_quantized")], w_bits, split)
        constants[w_name], constants[scale_name] = w, w_scale
        constants[zero_name] = np.zeros(w_scale.shape, np.int8)
        step = np.float64(constants[x_scale_name]) * w_scale.astype(np.float64)
        bias = floats[bias_name.removesuffix("_quantized")]
        constants[bias_name] = np.rint(bias / step).astype(np.int32)
    return replace(model, constants=constants)


def operators_of(x_bits: int, operators: dict = OPERATORS) -> dict:
    """An operator table whose int8 results saturate to ``x_bits`` bits."""
    half = 1 << (x_bits - 1)

    def narrowed(function):
        def call(*inputs, **attributes):
            y = function(*inputs, **attributes)
            return np.clip(y, -half, half - 1) if y.dtype == np.int8 else y

        return call

    return {key: narrowed(function) for key, function in operators.items()}
