"""DequantizeLinear: integers to float32.

    y = float32(x - x_zero_point) * x_scale

The difference is an integer, exact in float32 for types up to 16 bits. An int32 input (a bias) may
pass 2**24 and is then rounded by the conversion, before the multiplication.

Source: ONNX operator specification, DequantizeLinear-23; order of operations: ONNX Runtime.
"""

import numpy as np

from qlinear.errors import Unsupported, UnusableInput
from qlinear.operators.arithmetic import require_scale
from qlinear.operators.quantize_linear import RANGES, along


def dequantize_linear(
    x: np.ndarray,
    x_scale: np.ndarray,
    x_zero_point: np.ndarray | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> np.ndarray:
    """ONNX's DequantizeLinear for integer inputs.

    Args:
        x: int2 to uint16, or int32.
        x_scale: float32, not 0; scalar, (x.shape[axis],), or one value for each block along
            ``axis``.
        x_zero_point: type of ``x``, shape of ``x_scale``; None stands for 0.
        axis, block_size, output_dtype: as in ONNX.

    Returns:
        float32 of x's shape.

    Raises:
        UnusableInput: a type or shape is not supported; the message names the input.
    """
    x = np.asarray(x)
    if x.dtype.name not in {**RANGES, "int32": None}:
        raise Unsupported(f"x has type {x.dtype}: an integer of 2 to 16 bits, or int32, needed")
    if output_dtype not in (0, 1):
        raise Unsupported(f"output_dtype is {output_dtype}: only float32 (1) is supported")
    require_scale("x_scale", x_scale, signed=True)
    difference = x.astype(np.int32)
    if x_zero_point is not None:
        if np.asarray(x_zero_point).dtype != x.dtype:
            raise UnusableInput(
                f"x_zero_point has type {np.asarray(x_zero_point).dtype}, x {x.dtype}"
            )
        zero = along(x_zero_point, x.shape, axis, block_size, "x_zero_point").astype(np.int32)
        difference = difference - zero
    scale = along(x_scale, x.shape, axis, block_size, "x_scale")
    with np.errstate(over="ignore"):  # an overflow is an infinity
        return difference.astype(np.float32) * scale
