"""QLinearMatMul: ONNX's own quantized matrix product, which has no bias.

    y = saturate(rint(float32((a - a_zero_point) @ (b - b_zero_point)) * scale) + y_zero_point)
    scale = (a_scale * b_scale) / y_scale, rounded after each of the two operations

Source: ONNX operator specification, QLinearMatMul-21; order of operations: ONNX Runtime.
"""

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.operators.arithmetic import (
    exact_matmul,
    requantization_scale,
    require_8_bit,
    require_columns,
    require_length,
    round_and_shift,
    saturate,
)


def qlinear_matmul(
    a: np.ndarray,
    a_scale: np.ndarray,
    a_zero_point: np.ndarray,
    b: np.ndarray,
    b_scale: np.ndarray,
    b_zero_point: np.ndarray,
    y_scale: np.ndarray,
    y_zero_point: np.ndarray,
) -> np.ndarray:
    """ONNX's QLinearMatMul.

    Args:
        a: int8 or uint8 (..., M, K); a_scale, a_zero_point: scalars.
        b: int8 or uint8 (..., K, N); b_scale, b_zero_point: scalars, or one per column,
            (N,) or (..., 1, N).
        y_scale, y_zero_point: scalars.

    Returns:
        (..., M, N) of y_zero_point's type.

    Raises:
        UnusableInput: a type or shape is illegal; the message names the input.
    """
    require_8_bit("a", a, a_scale, a_zero_point)
    require_8_bit("b", b, b_scale, b_zero_point)
    require_8_bit("y", None, y_scale, y_zero_point)
    if a.ndim < 1 or b.ndim < 1 or a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        raise UnusableInput(f"a has shape {a.shape} and b {b.shape}: the inner axes differ")
    for name, value in (
        ("a_scale", a_scale),
        ("a_zero_point", a_zero_point),
        ("y_scale", y_scale),
        ("y_zero_point", y_zero_point),
    ):
        require_length(name, value, (1,))
    require_columns("b_scale", b_scale, b)
    require_columns("b_zero_point", b_zero_point, b)
    a_zero, b_zero = (np.asarray(z).astype(np.int32) for z in (a_zero_point, b_zero_point))
    acc = exact_matmul(a.astype(np.int32) - a_zero.reshape(()), b.astype(np.int32) - b_zero)
    # a vector of scales belongs to the columns, the last axis
    scale = requantization_scale(a_scale, b_scale, y_scale)
    with np.errstate(over="ignore", invalid="ignore"):  # as in rescale
        scaled = acc.astype(np.float32) * (scale if scale.size > 1 else scale.reshape(()))
    return saturate(round_and_shift(scaled, y_zero_point), np.asarray(y_zero_point).dtype)
