"""QLinearAveragePool (com.microsoft): the mean of each window.

    y = saturate(rint((sum of x_scale * (x - x_zero_point)) / n / y_scale + y_zero_point))

The sum runs over the window row by row in float32, one rounding an addition; the two divisions and
the addition of the zero point, which comes *before* the rounding here, are one each. n counts the
padding only with ``count_include_pad``. What is 2**31 or more saturates at the wrong end
(:func:`qlinear.operators.arithmetic.saturate_int32`). A window that is the whole image, without
padding, ONNX Runtime computes as QLinearGlobalAveragePool, which rounds otherwise on ties.

Source: ONNX Runtime contrib operators; order of operations: contrib_ops/cpu/quantization/
qlinear_pool.cc.
"""

import math

import numpy as np

from qlinear.operators import qlinear_conv as qc
from qlinear.operators.arithmetic import (
    one_element,
    require_per_tensor,
    saturate_int32,
)
from qlinear.operators.dequantize_linear import dequantize_linear
from qlinear.operators.max_pool import pool_geometry
from qlinear.operators.qlinear_global_average_pool import qlinear_global_average_pool


def qlinear_average_pool(
    X: np.ndarray,
    x_scale: np.ndarray,
    x_zero_point: np.ndarray | None,
    y_scale: np.ndarray,
    y_zero_point: np.ndarray | None = None,
    *,
    channels_last: int = 0,
    count_include_pad: int = 0,
    **attributes,
) -> np.ndarray:
    """com.microsoft's QLinearAveragePool.

    Args:
        X: int8 or uint8 (N, C, spatial...), or (N, spatial..., C) with ``channels_last``.
        x_scale, y_scale: float32 scalars; x_zero_point, y_zero_point: scalars of X's type, None
            for 0.
        **attributes: kernel_shape, auto_pad, ceil_mode, pads and strides, as in ONNX.

    Returns:
        X's type, (N, C, out...), or (N, out..., C).

    Raises:
        UnusableInput: shapes and attributes do not fit together; the message names the field.
    """
    none = np.zeros((), X.dtype)  # an omitted zero point
    x_zero_point = none if x_zero_point is None else x_zero_point
    y_zero_point = none if y_zero_point is None else y_zero_point
    for name, scale, zero in (("x", x_scale, x_zero_point), ("y", y_scale, y_zero_point)):
        require_per_tensor(name, X, scale, zero)
    images = np.moveaxis(X, -1, 1) if channels_last else X
    geo = pool_geometry(images.shape, **attributes)
    if is_global(geo, images.shape):
        whole = (one_element(v) for v in (x_scale, x_zero_point, y_scale, y_zero_point))
        return qlinear_global_average_pool(X, *whole, channels_last=channels_last)
    real = dequantize_linear(images, one_element(x_scale), one_element(x_zero_point))
    total, count = _sums(real, geo), _sums(np.ones((1, 1, *images.shape[2:]), np.float32), geo)
    if count_include_pad:
        count = np.float32(math.prod(geo.kernel))
    zero = one_element(y_zero_point).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (total / count) / one_element(y_scale) + zero
    y = saturate_int32(np.rint(scaled), X.dtype)
    return np.moveaxis(y, 1, -1) if channels_last else y


def is_global(geo: qc.Geometry, shape: tuple[int, ...]) -> bool:
    """Whether the only window is the whole image (N, C, spatial...), without padding."""
    return tuple(geo.kernel) == tuple(shape[2:]) and not any((*geo.begin, *geo.end))


def _sums(x: np.ndarray, geo: qc.Geometry) -> np.ndarray:
    """Of each window, added in the order of its elements."""
    taps = qc.windows(qc.pad(x, np.float32(0), geo), geo)
    total = np.zeros(taps.shape[: x.ndim], np.float32)
    for at in np.ndindex(geo.kernel):
        with np.errstate(over="ignore", invalid="ignore"):  # an infinity less another is NaN
            total += taps[(..., *at)]
    return total
