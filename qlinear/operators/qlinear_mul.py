"""QLinearMul (com.microsoft): the product of two quantized tensors.

    C = saturate(rint(float32(P) * ratio + C_zero_point)), one float32 rounding an operation
    P = (A - A_zero_point) * (B - B_zero_point), an integer
    ratio = (A_scale * B_scale) / C_scale

So the zero point is added *before* the rounding here. What is 2**31 or more saturates at the wrong
end (:func:`qlinear.operators.arithmetic.saturate_int32`).

Source: ONNX Runtime contrib operators; order of operations: core/mlas/lib/qlmul.cpp for x86, and
all 65,536 pairs of inputs for hundreds of scale sets (tests/test_operators.py).
"""

import numpy as np

from qlinear.operators.arithmetic import (
    centred,
    one_element,
    require_per_tensor,
    saturate_int32,
)


def qlinear_mul(
    A: np.ndarray,
    A_scale: np.ndarray,
    A_zero_point: np.ndarray,
    B: np.ndarray,
    B_scale: np.ndarray,
    B_zero_point: np.ndarray,
    C_scale: np.ndarray,
    C_zero_point: np.ndarray,
) -> np.ndarray:
    """com.microsoft's QLinearMul, equal to ONNX Runtime on x86-64.

    Args:
        A, B: int8 or uint8, the same type, shapes that broadcast.
        A_scale, B_scale, C_scale: float32 scalars.
        A_zero_point, B_zero_point, C_zero_point: scalars of the type of A and B.

    Returns:
        that type, of the broadcast shape.

    Raises:
        UnusableInput: a type or shape is illegal; the message names the input.
    """
    parameters = {
        "A": (A, A_scale, A_zero_point),
        "B": (B, B_scale, B_zero_point),
        "C": (A, C_scale, C_zero_point),
    }
    for name, (q, scale, zero) in parameters.items():
        require_per_tensor(name, q, scale, zero)
    a_scale, b_scale, c_scale = (one_element(s) for s in (A_scale, B_scale, C_scale))
    zero_a, zero_b, zero_c = (one_element(z) for z in (A_zero_point, B_zero_point, C_zero_point))
    product = centred(A, zero_a) * centred(B, zero_b)
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = (a_scale * b_scale) / c_scale
        shifted = product.astype(np.float32) * ratio + zero_c.astype(np.float32)
    return saturate_int32(np.rint(shifted), A.dtype)
