"""MatMulInteger: the int32 product of two matrices of 8-bit integers.

Source: ONNX operator specification, MatMulInteger-10.
"""

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.operators.arithmetic import exact_matmul, require_8_bit, zero_point_or_0


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
    a_zero_point, b_zero_point = zero_point_or_0(a_zero_point, A), zero_point_or_0(b_zero_point, B)
    require_8_bit("a", A, None, a_zero_point)
    require_8_bit("b", B, None, b_zero_point)
    if A.ndim < 1 or B.ndim < 1 or A.shape[-1] != B.shape[-2 if B.ndim > 1 else 0]:
        raise UnusableInput(f"A has shape {A.shape} and B {B.shape}: the inner axes differ")
    a_zero = a_zero_point.astype(np.int32)
    if a_zero.ndim == 1 and a_zero.size > 1:
        a_zero = a_zero[:, None]
    return exact_matmul(
        A.astype(np.int32) - a_zero, B.astype(np.int32) - b_zero_point.astype(np.int32)
    )
