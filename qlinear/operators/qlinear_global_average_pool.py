"""QLinearGlobalAveragePool (com.microsoft): the mean over the spatial axes.

    y = saturate(rint(float32(S) * scale) + y_zero_point)
    S = sum over the image of (x - x_zero_point), an integer
    scale = x_scale / (y_scale * float32(H * W)), two float32 roundings

The division by the number of pixels is part of the factor, so there is one rounding.

Source: ONNX Runtime contrib operators; order of operations settled on ties
(tests/test_operators.py).
"""

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.operators.arithmetic import (
    centred,
    requantize,
    require_per_tensor,
)


def qlinear_global_average_pool(
    X: np.ndarray,
    x_scale: np.ndarray,
    x_zero_point: np.ndarray,
    y_scale: np.ndarray,
    y_zero_point: np.ndarray,
    *,
    channels_last: int = 0,
) -> np.ndarray:
    """com.microsoft's QLinearGlobalAveragePool.

    Args:
        X: int8 or uint8 (N, C, spatial...), or (N, spatial..., C) with ``channels_last``.
        x_scale, y_scale: float32 scalars; x_zero_point, y_zero_point: scalars of X's type.

    Returns:
        X's type, (N, C, 1, ...), or (N, 1, ..., C).

    Raises:
        UnusableInput: a type or shape is illegal; the message names the input.
    """
    for name, q, scale, zero in (("x", X, x_scale, x_zero_point), ("y", X, y_scale, y_zero_point)):
        require_per_tensor(name, q, scale, zero)
    if X.ndim < 3:
        raise UnusableInput(f"X has shape {X.shape}: at least one spatial axis needed")
    axes = tuple(range(1, X.ndim - 1)) if channels_last else tuple(range(2, X.ndim))
    sums = centred(X, np.asarray(x_zero_point).reshape(())).sum(axes, np.int32, keepdims=True)
    scale = pool_scale(x_scale, y_scale, int(np.prod([X.shape[a] for a in axes])))
    return requantize(sums, scale, y_zero_point)


def pool_scale(x_scale: np.ndarray, y_scale: np.ndarray, pixels: int) -> np.float32:
    """The factor of the pooling: x_scale / (y_scale * pixels), rounded after each operation."""
    x_scale, y_scale = (np.asarray(s, np.float32).reshape(()) for s in (x_scale, y_scale))
    return np.float32(x_scale / (y_scale * np.float32(pixels)))
