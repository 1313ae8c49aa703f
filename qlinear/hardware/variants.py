"""The same network with other arithmetic: narrow accumulators, integer requantizers, analog arrays.

:func:`operators_with` makes an operator table for :func:`qlinear.engine.run` in which every layer
with weights uses another accumulator or another requantizer, or both.
"""

from collections.abc import Callable

import numpy as np

from qlinear.operators import OPERATORS
from qlinear.operators import qlinear_conv as qc
from qlinear.operators.arithmetic import centred, requantization_scale, requantize


def operators_with(
    accumulator: Callable[[np.ndarray], np.ndarray] | None = None,
    requantizer: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = requantize,
    summation: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> dict:
    """An operator table whose convolutions and dense layers use other arithmetic.

    Args:
        accumulator: maps the exact int32 accumulators (with bias) to those of the hardware.
        requantizer: replaces :func:`qlinear.operators.arithmetic.requantize`; takes acc, scale and
            y_zero_point.
        summation: computes int32 accumulators (N, M, positions) itself, from int32 columns
            (N, taps, positions), rows (M, taps) and bias (M,); for layers of one group.

    With no arguments the table computes what the reference computes.
    """

    def conv(
        x,
        x_scale,
        x_zero_point,
        w,
        w_scale,
        w_zero_point,
        y_scale,
        y_zero_point,
        B=None,
        **attributes,
    ):
        geo = qc.geometry(x.shape, w.shape, **attributes)
        padded = qc.pad(x, x_zero_point, geo)
        if summation is None:
            acc = qc.add_bias(qc.accumulate(padded, x_zero_point, w, w_zero_point, geo), B)
        else:
            columns = qc.patches(centred(padded, x_zero_point), geo)[:, 0]
            rows = centred(w, w_zero_point).reshape(len(w), -1)
            bias = np.zeros(len(w), np.int32) if B is None else B
            acc = summation(columns, rows, bias).reshape(len(x), len(w), *geo.out)
        if accumulator is not None:
            acc = accumulator(acc)
        scale = requantization_scale(x_scale, w_scale, y_scale).reshape(-1)
        return requantizer(acc, scale, y_zero_point)

    def gemm(A, a_scale, a_zero, B, b_scale, b_zero, C, y_scale, y_zero, *, transB=0):
        w = (B if transB else B.T)[:, :, None, None]
        inputs = (A[:, :, None, None], a_scale, a_zero, w, b_scale, b_zero, y_scale, y_zero, C)
        return conv(*inputs)[:, :, 0, 0]

    return OPERATORS | {("", "QLinearConv"): conv, ("com.microsoft", "QGemm"): gemm}
