"""DynamicQuantizeLinear: float32 to uint8, with a scale and a zero point made from the values.

    y_scale = (max - min) / 255               max, min: of the values and 0; 1 if they are equal
    y_zero_point = rint(clip(0 - min / y_scale, 0, 255))
    y = QuantizeLinear(x, y_scale, y_zero_point)

Every operation is one in float32.

Source: ONNX operator specification, DynamicQuantizeLinear-11; order of operations: ONNX Runtime,
GetQuantizationParameter in core/util/qmath.h.
"""

import numpy as np

from qlinear.errors import Unsupported
from qlinear.operators.quantize_linear import quantize_linear


def dynamic_quantize_linear(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ONNX's DynamicQuantizeLinear.

    Args:
        x: float32, any shape, finite.

    Returns:
        y, uint8 of x's shape; y_scale, a float32 scalar; y_zero_point, a uint8 scalar.

    Raises:
        Unsupported: x is of another type, empty or not finite.
    """
    x = np.asarray(x)
    if x.dtype != np.float32:
        raise Unsupported(f"x has type {x.dtype}: float32 needed")
    if not x.size or not np.isfinite(x).all():
        raise Unsupported("x is empty or not finite: no range to quantize")
    low, high = np.minimum(x.min(), np.float32(0)), np.maximum(x.max(), np.float32(0))
    with np.errstate(over="ignore"):
        y_scale = np.float32(1) if low == high else (high - low) / np.float32(255)
        if not np.isfinite(y_scale) or y_scale < np.finfo(np.float32).tiny:
            raise Unsupported(f"y_scale is {y_scale}: finite and normal needed")
        zero = np.rint(np.clip(np.float32(0) - low / y_scale, np.float32(0), np.float32(255)))
    y_zero_point = np.asarray(zero.astype(np.uint8))
    return quantize_linear(x, y_scale, y_zero_point), np.asarray(y_scale), y_zero_point
