"""The same network with other arithmetic: narrow accumulators, integer requantizers, analog arrays.

:func:`operators_with` makes an operator table for :func:`qlinear.engine.run` in which every layer
with weights uses another accumulator or another requantizer, or both.
"""

from collections.abc import Callable

import numpy as np

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
            (N, taps, positions), rows (M, taps) and bias (M,); for layers of one group.
        stage_2: replaces the requantizer where it needs more of a layer than its factor; takes acc
            and the layer.

    With no arguments the table computes what the reference computes.
    """

    def layer(x: np.ndarray, conv: Conv) -> np.ndarray:
        geo = conv.geometry(x.shape)
        padded = qc.pad(x, conv.x_zero_point, geo)
        if summation is None:
            zeros = conv.x_zero_point, conv.w, conv.w_zero_point
            acc = qc.add_bias(fast.accumulate(padded, *zeros, geo), conv.B)
        else:
            columns = qc.patches(centred(padded, conv.x_zero_point), geo)[:, 0]
            rows = centred(conv.w, conv.w_zero_point).reshape(len(conv.w), -1)
            acc = summation(columns, rows, conv.bias).reshape(len(x), len(rows), *geo.out)
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
