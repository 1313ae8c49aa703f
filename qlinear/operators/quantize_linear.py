"""QuantizeLinear: float32 to integers.

    y = saturate(rint(x / y_scale) + y_zero_point)

The division is one float32 division (not a multiplication by the reciprocal), ties go to even, and
the zero point is added after rounding. NaN becomes the type's minimum, infinities saturate.

Source: ONNX operator specification, QuantizeLinear-23; for NaN, which the specification leaves
open, ONNX Runtime's CPU kernel.
"""

import numpy as np
from onnx import helper

from qlinear.errors import Unsupported, UnusableInput
from qlinear.operators.arithmetic import require_scale

# every integer type that QuantizeLinear may write, with its range
RANGES = {
    "int2": (-2, 1),
    "uint2": (0, 3),
    "int4": (-8, 7),
    "uint4": (0, 15),
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
}


def along(
    parameter: np.ndarray, shape: tuple[int, ...], axis: int, block_size: int, name: str
) -> np.ndarray:
    """Spread a per-tensor, per-axis or blocked parameter so that it broadcasts over ``shape``.

    Raises:
        UnusableInput: its shape fits none of the three.
    """
    parameter = np.asarray(parameter)
    if parameter.ndim == 0 or (parameter.size == 1 and not block_size):
        return parameter.reshape(())
    if not -len(shape) <= axis < len(shape):
        raise UnusableInput(f"axis is {axis} but x has shape {shape}")
    axis %= len(shape)
    if block_size:
        spread = np.repeat(parameter, block_size, axis) if parameter.ndim == len(shape) else None
        if spread is not None:
            spread = spread.take(range(min(shape[axis], spread.shape[axis])), axis)
        if spread is None or spread.shape != shape:
            raise UnusableInput(
                f"{name} has shape {parameter.shape}: not the {block_size}-blocks of "
                f"{shape} along axis {axis}"
            )
        return spread
    if parameter.shape != (shape[axis],):
        raise UnusableInput(
            f"{name} has shape {parameter.shape}: {shape[axis]} elements needed, axis {axis}"
        )
    return parameter.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def quantize_linear(
    x: np.ndarray,
    y_scale: np.ndarray,
    y_zero_point: np.ndarray | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> np.ndarray:
    """ONNX's QuantizeLinear for integer outputs.

    Args:
        x: float32, any shape.
        y_scale: float32, not 0; scalar, (x.shape[axis],), or one value for each block along
            ``axis``.
        y_zero_point: shape of ``y_scale``; its type is the output's. None stands for 0.
        axis, block_size, output_dtype, precision: as in ONNX; ``saturate`` is for float8 only.

    Returns:
        int2 to uint16 of x's shape; uint8 when neither zero point nor ``output_dtype`` is given.

    Raises:
        UnusableInput: a type or shape is not supported; the message names the input.
    """
    x = np.asarray(x)
    if x.dtype != np.float32:
        raise Unsupported(f"x has type {x.dtype}: float32 needed")
    if precision not in (0, 1):
        raise Unsupported(f"precision is {precision}: only float32 (1) is supported")
    require_scale("y_scale", y_scale, signed=True)
    if y_zero_point is not None:
        dtype = np.asarray(y_zero_point).dtype
    else:
        dtype = helper.tensor_dtype_to_np_dtype(output_dtype) if output_dtype else np.uint8
    dtype = np.dtype(dtype)
    if dtype.name not in RANGES:
        raise Unsupported(f"y_zero_point has type {dtype}: an integer of 2 to 16 bits needed")
    low, high = RANGES[dtype.name]
    with np.errstate(over="ignore"):  # an overflow is an infinity, and saturates
        scaled = x / along(y_scale, x.shape, axis, block_size, "y_scale")
    zero = np.float32(0)
    if y_zero_point is not None:
        zero = along(y_zero_point, x.shape, axis, block_size, "y_zero_point").astype(np.float32)
    shifted = np.clip(np.rint(scaled) + zero, low, high)
    return np.where(np.isnan(shifted), np.float32(low), shifted).astype(dtype)
