"""QLinearWhere (com.microsoft): from one of two quantized tensors, each brought to z's scale.

    z = condition ? q(X) : q(Y)      q(x) = QuantizeLinear(DequantizeLinear(x))

in float32. ONNX Runtime computes the 256 values of each side once, for a table.

Source: ONNX Runtime contrib operators, contrib_ops/cpu/quantization/qlinear_where.cc and
qlinear_lookup_table.cc.
"""

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.operators.arithmetic import one_element, require_per_tensor
from qlinear.operators.dequantize_linear import dequantize_linear
from qlinear.operators.quantize_linear import quantize_linear


def qlinear_where(
    condition: np.ndarray,
    X: np.ndarray,
    x_scale: np.ndarray,
    x_zero_point: np.ndarray,
    Y: np.ndarray,
    y_scale: np.ndarray,
    y_zero_point: np.ndarray,
    z_scale: np.ndarray,
    z_zero_point: np.ndarray,
) -> np.ndarray:
    """com.microsoft's QLinearWhere.

    Args:
        condition: bool; X, Y: int8 or uint8, one type; the three broadcast.
        x_scale, y_scale, z_scale: float32 scalars; the zero points: scalars of X's type.

    Returns:
        X's type, of the shape that the three broadcast to.

    Raises:
        UnusableInput: a type or shape is illegal; the message names the input.
    """
    condition, X, Y = map(np.asarray, (condition, X, Y))
    if condition.dtype != bool:
        raise UnusableInput(f"condition has type {condition.dtype}: bool needed")
    require_per_tensor("X", X, x_scale, x_zero_point)
    require_per_tensor("Y", Y, y_scale, y_zero_point)
    require_per_tensor("z", None, z_scale, z_zero_point)
    z_scale, z_zero_point = one_element(z_scale), one_element(z_zero_point)
    if not X.dtype == Y.dtype == z_zero_point.dtype:
        types = f"{X.dtype}, {Y.dtype} and {z_zero_point.dtype}"
        raise UnusableInput(f"X, Y and z_zero_point have types {types}: one type needed")

    def brought(q: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
        real = dequantize_linear(q, one_element(scale), one_element(zero_point))
        return quantize_linear(real, z_scale, z_zero_point)

    try:
        return np.where(
            condition, brought(X, x_scale, x_zero_point), brought(Y, y_scale, y_zero_point)
        )
    except ValueError:
        shapes = f"{condition.shape}, {X.shape} and {Y.shape}"
        raise UnusableInput(
            f"condition, X and Y have shapes {shapes}: they do not broadcast"
        ) from None
