"""MatMulIntegerToFloat and DynamicQuantizeMatMul (com.microsoft): an integer product as float32.

    y = float32(S) * (a_scale * b_scale) + bias, one float32 rounding an operation
    S = sum over k of (A - a_zero_point) * (B - b_zero_point), an int32

ONNX Runtime makes them of MatMulInteger, Cast, Mul and Add: the first where A is quantized already,
the second where DynamicQuantizeLinear quantizes it.

Source: ONNX Runtime contrib operators; order of operations: x86-64's kernel, settled by
tests/test_operators.py. On ARM64 the product with the scale and the bias share one rounding
(study/portability.py).
"""

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.operators.arithmetic import require_columns, require_length, require_scale
from qlinear.operators.dynamic_quantize_linear import dynamic_quantize_linear
from qlinear.operators.matmul_integer import matmul_integer


def matmul_integer_to_float(
    A: np.ndarray,
    B: np.ndarray,
    a_scale: np.ndarray,
    b_scale: np.ndarray,
    a_zero_point: np.ndarray | None = None,
    b_zero_point: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """com.microsoft's MatMulIntegerToFloat: float32 (..., M, N).

    Args:
        A: int8 or uint8 (..., M, K); B: int8 or uint8 (..., K, N).
        a_scale, a_zero_point: scalars; b_scale, b_zero_point: scalars, or one per column, (N,)
            or (..., 1, N). A zero point that is None stands for 0.
        bias: float32, N elements in any shape, or None.

    Raises:
        UnusableInput: an input is illegal; the message names it.
    """
    require_scale("a_scale", a_scale)
    require_scale("b_scale", b_scale)
    require_length("a_scale", a_scale, (1,))
    require_columns("b_scale", b_scale, B)
    y = matmul_integer(A, B, a_zero_point, b_zero_point).astype(np.float32)
    y *= np.asarray(a_scale).reshape(()) * np.asarray(b_scale)
    if bias is None:
        return y
    if np.size(bias) != B.shape[-1]:
        raise UnusableInput(f"bias has shape {np.shape(bias)}: {B.shape[-1]} elements needed")
    return y + np.ravel(bias)


def dynamic_quantize_matmul(
    A: np.ndarray,
    B: np.ndarray,
    b_scale: np.ndarray,
    b_zero_point: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """com.microsoft's DynamicQuantizeMatMul: float32 (..., M, N).

    Args:
        A: float32 (..., M, K), finite; the others as for :func:`matmul_integer_to_float`.

    Raises:
        UnusableInput: an input is illegal; the message names it.
    """
    quantized, a_scale, a_zero_point = dynamic_quantize_linear(A)
    return matmul_integer_to_float(quantized, B, a_scale, b_scale, a_zero_point, b_zero_point, bias)
