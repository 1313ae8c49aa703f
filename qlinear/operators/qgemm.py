"""QGemm (com.microsoft): a dense layer with an int32 bias.

    acc = (A - a_zero_point) @ (B - b_zero_point) + C                     int32
    Y   = saturate(rint(float32(acc) * scale) + y_zero_point)
    scale = (alpha * a_scale * b_scale) / y_scale, rounded after each operation

Without y_scale and y_zero_point the result is float32(acc) * (alpha * a_scale * b_scale).

Source: ONNX Runtime contrib operators; order of operations settled on ties
(tests/test_operators.py).
"""

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.operators.arithmetic import (
    centred,
    exact_matmul,
    requantize,
    require_8_bit,
    require_length,
    rescale,
)
from qlinear.operators.qlinear_conv import Conv


def qgemm(
    A: np.ndarray,
    a_scale: np.ndarray,
    a_zero_point: np.ndarray,
    B: np.ndarray,
    b_scale: np.ndarray,
    b_zero_point: np.ndarray,
    C: np.ndarray | None = None,
    y_scale: np.ndarray | None = None,
    y_zero_point: np.ndarray | None = None,
    *,
    transA: int = 0,
    transB: int = 0,
    alpha: float = 1.0,
) -> np.ndarray:
    """com.microsoft's QGemm.

    Args:
        A: int8 or uint8 (M, K), or (K, M) with ``transA``.
        a_scale, a_zero_point: scalars.
        B: int8 or uint8 (K, N), or (N, K) with ``transB``.
        b_scale, b_zero_point: scalars, or (N,).
        C: optional int32 that broadcasts to (M, N), in units of alpha * a_scale * b_scale.
        y_scale, y_zero_point: scalars, or None for a float32 result.

    Returns:
        (M, N) of y_zero_point's type, or float32.

    Raises:
        UnusableInput: a type or shape is illegal; the message names the input.
    """
    require_8_bit("a", A, a_scale, a_zero_point)
    require_8_bit("b", B, b_scale, b_zero_point)
    if A.ndim != 2 or B.ndim != 2:
        raise UnusableInput(f"A has shape {A.shape} and B {B.shape}: two axes each needed")
    A, columns = (A.T if transA else A), (B if transB else B.T)  # columns: (N, K)
    if A.shape[1] != columns.shape[1]:
        raise UnusableInput(f"A has {A.shape[1]} columns but B {columns.shape[1]} rows")
    for name, value, lengths in (
        ("a_scale", a_scale, (1,)),
        ("a_zero_point", a_zero_point, (1,)),
        ("b_scale", b_scale, (1, len(columns))),
        ("b_zero_point", b_zero_point, (1, len(columns))),
    ):
        require_length(name, value, lengths)
    acc = exact_matmul(
        centred(A, np.asarray(a_zero_point).reshape(())), centred(columns, b_zero_point).T
    )
    if C is not None:
        if C.dtype != np.int32:
            raise UnusableInput(f"C has type {C.dtype}: int32 needed")
        acc = acc + C
    with np.errstate(over="ignore", invalid="ignore"):  # as in rescale
        factor = np.float32(alpha) * np.asarray(a_scale, np.float32).reshape(()) * b_scale
    if y_scale is None:
        return rescale(acc, factor)
    require_8_bit("y", None, y_scale, y_zero_point)
    with np.errstate(over="ignore"):
        factor = factor / np.asarray(y_scale).reshape(())
    return requantize(acc, factor, y_zero_point)


def as_conv(
    a_scale: np.ndarray,
    a_zero_point: np.ndarray,
    B: np.ndarray,
    b_scale: np.ndarray,
    b_zero_point: np.ndarray,
    C: np.ndarray | None = None,
    y_scale: np.ndarray | None = None,
    y_zero_point: np.ndarray | None = None,
    *,
    transB: int = 0,
) -> Conv:
    """A quantized dense layer as the 1x1 convolution that it is, of an input (M, K, 1, 1)."""
    w = (B if transB else B.T)[:, :, None, None]
    return Conv(a_scale, a_zero_point, w, b_scale, b_zero_point, y_scale, y_zero_point, C)
