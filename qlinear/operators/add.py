"""Add on integers: a bias added to the int32 sums of ConvInteger or MatMulInteger.

Sums that pass the type's range wrap.

Source: ONNX operator specification, Add-14; for the wrapping, which it leaves open, ONNX Runtime.
"""

import numpy as np

from qlinear.errors import Unsupported


def add(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """ONNX's Add of integers.

    Args:
        A, B: integers of the same type, shapes that broadcast.

    Returns:
        that type, of the broadcast shape.

    Raises:
        Unsupported: the type is another one.
    """
    A, B = np.asarray(A), np.asarray(B)
    if A.dtype.kind not in "iu" or A.dtype != B.dtype:
        raise Unsupported(f"A has type {A.dtype} and B {B.dtype}: the same integer type needed")
    return A + B
