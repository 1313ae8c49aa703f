"""QLinearSoftmax (com.microsoft): softmax along one axis, from a table of 256 exponentials.

    t[i] = float32(exp((i - 255 + shift) * x_scale)), i = 0 to 255, in float64 before the conversion
    shift = max(0, float32(log(3.4e38 / n)) - 5) / x_scale, n elements along the axis
    y = saturate(rint(t * floor(1 / y_scale) / sum(t)) + y_zero_point)

An element's i is 255 less its distance from the greatest along the axis. The sum runs in order in
float32, one rounding an addition; the product and the quotient are in float64. Where 1 / y_scale is
no integer the factor, rounded down, is not quite what the scale says; so it is in ONNX Runtime.

Source: ONNX Runtime contrib operators, contrib_ops/cpu/quantization/qlinear_softmax.cc; which of
its operations are in float64 was settled beside ties (tests/test_operators.py). exp is the C
library's: another library may round an entry of the table otherwise, which is rare.
"""

import math

import numpy as np

from qlinear.errors import Unsupported
from qlinear.operators.arithmetic import one_element, require_8_bit, require_length, saturate


def qlinear_softmax(
    X: np.ndarray,
    X_scale: np.ndarray,
    x_zero_point: np.ndarray | None,
    y_scale: np.ndarray,
    y_zero_point: np.ndarray,
    *,
    opset: int,
    axis: int = -1,
) -> np.ndarray:
    """com.microsoft's QLinearSoftmax.

    Args:
        X: int8 or uint8, any shape with an axis.
        X_scale, y_scale: float32 scalars; y_scale at most 1. y_zero_point: scalar of X's type.
        x_zero_point: of no effect; softmax depends on differences only.
        opset: of the Softmax that this stands for: below 13 all axes from ``axis`` on are one.
        axis: -1 by default, below opset 13 too.

    Raises:
        UnusableInput: a type or shape is illegal or not supported; the message names the input.
    """
    require_8_bit("x", X, X_scale, np.zeros((), X.dtype) if x_zero_point is None else x_zero_point)
    require_8_bit("y", X, y_scale, y_zero_point)
    for name, value in (("x_scale", X_scale), ("y_scale", y_scale), ("y_zero_point", y_zero_point)):
        require_length(name, value, (1,))
    x_scale, y_scale, zero = map(one_element, (X_scale, y_scale, y_zero_point))
    if not X.size or not -X.ndim <= axis < X.ndim or y_scale > 1:
        raise Unsupported(f"X has shape {X.shape}, axis is {axis}, y_scale {y_scale}")
    if opset < 13:
        rows = X.reshape(math.prod(X.shape[: axis % X.ndim]), -1)
    else:
        rows = np.moveaxis(X, axis, -1)
    table = exponentials(float(x_scale), rows.shape[-1])
    below = rows.max(-1, keepdims=True).astype(np.intp) - rows
    terms = table[255 - below]
    total = np.add.accumulate(terms, axis=-1)[..., -1:]  # in order, unlike np.sum
    factor = np.floor(np.float32(1) / y_scale)
    shares = np.multiply(terms, factor, dtype=np.float64) / total
    found = saturate(np.rint(shares) + zero.astype(np.float64), X.dtype)
    return found.reshape(X.shape) if opset < 13 else np.moveaxis(found, -1, axis)


def exponentials(x_scale: float, count: int) -> np.ndarray:
    """The table for ``count`` elements: float32 (256,), the greatest last."""
    room = np.float32(math.log(np.finfo(np.float32).max / np.float32(count)))
    shift = max(0.0, float(room) - 5) / x_scale
    return np.array([math.exp((i - 255 + shift) * x_scale) for i in range(256)], np.float32)
