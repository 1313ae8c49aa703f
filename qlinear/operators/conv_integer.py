"""ConvInteger: stage 1 alone, with the int32 sums as the result.

Source: ONNX operator specification, ConvInteger-10.
"""

import numpy as np

from qlinear.operators import qlinear_conv as qc
from qlinear.operators.arithmetic import require_8_bit, require_length, zero_point_or_0


def conv_integer(
    x: np.ndarray,
    w: np.ndarray,
    x_zero_point: np.ndarray | None = None,
    w_zero_point: np.ndarray | None = None,
    **attributes,
) -> np.ndarray:
    """ONNX's ConvInteger: int32 (N, M, out...).

    Args:
        x: int8 or uint8 (N, C, spatial...); w: int8 or uint8 (M, C / group, kernel...).
        x_zero_point: scalar; w_zero_point: scalar or (M,). None stands for 0.
        **attributes: as for :func:`qlinear.operators.qlinear_conv.qlinear_conv`.

    Raises:
        UnusableInput: an input is illegal; the message names it.
    """
    x_zero_point, w_zero_point = zero_point_or_0(x_zero_point, x), zero_point_or_0(w_zero_point, w)
    require_8_bit("x", x, None, x_zero_point)
    require_8_bit("w", w, None, w_zero_point)
    require_length("x_zero_point", x_zero_point, (1,))
    require_length("w_zero_point", w_zero_point, (1, len(w)))
    geo = qc.geometry(x.shape, w.shape, **attributes)
    x_zero_point = x_zero_point.reshape(())
    return qc.accumulate(qc.pad(x, x_zero_point, geo), x_zero_point, w, w_zero_point, geo)
