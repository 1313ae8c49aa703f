"""ConvInteger and MatMulInteger: stage 1 alone, with the int32 sums as the result.

Source: ONNX operator specification, ConvInteger-10 and MatMulInteger-10.
"""

import numpy as np

from qlinear import qlinear_conv as qc
from qlinear.arithmetic import check_8_bit, check_length, exact_matmul
from qlinear.errors import UnusableInput


def _zero(zero_point: np.ndarray | None, q: np.ndarray) -> np.ndarray:
    return np.zeros((), q.dtype) if zero_point is None else np.asarray(zero_point)


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
        **attributes: as for :func:`qlinear.qlinear_conv.qlinear_conv`.

    Raises:
        UnusableInput: an input is illegal; the message names it.
    """
    x_zero_point, w_zero_point = _zero(x_zero_point, x), _zero(w_zero_point, w)
    check_8_bit("x", x, None, x_zero_point)
    check_8_bit("w", w, None, w_zero_point)
    check_length("x_zero_point", x_zero_point, (1,))
    check_length("w_zero_point", w_zero_point, (1, len(w)))
    geo = qc.geometry(x.shape, w.shape, **attributes)
    x_zero_point = x_zero_point.reshape(())
    return qc.accumulate(qc.pad(x, x_zero_point, geo), x_zero_point, w, w_zero_point, geo)


def matmul_integer(
    A: np.ndarray,
    B: np.ndarray,
    a_zero_point: np.ndarray | None = None,
    b_zero_point: np.ndarray | None = None,
) -> np.ndarray:
    """ONNX's MatMulInteger: int32 (..., M, N).

    Args:
        A: int8 or uint8 (..., M, K); B: int8 or uint8 (..., K, N).
        a_zero_point: scalar or (M,), one per row; b_zero_point: scalar or (N,), one per column.

    Raises:
        UnusableInput: an input is illegal; the message names it.
    """
    a_zero_point, b_zero_point = _zero(a_zero_point, A), _zero(b_zero_point, B)
    check_8_bit("a", A, None, a_zero_point)
    check_8_bit("b", B, None, b_zero_point)
    if A.ndim < 1 or B.ndim < 1 or A.shape[-1] != B.shape[-2 if B.ndim > 1 else 0]:
        raise UnusableInput(f"A has shape {A.shape} and B {B.shape}: the inner axes differ")
    a_zero = a_zero_point.astype(np.int32)
    if a_zero.ndim == 1 and a_zero.size > 1:
        a_zero = a_zero[:, None]
    return exact_matmul(
        A.astype(np.int32) - a_zero, B.astype(np.int32) - b_zero_point.astype(np.int32)
    )
